"""
The messages of one node, and the outcome of each: results, the author's error, or the last failure
after ``max_attempts``, with a dead letter.

1. `Calls.weigh` alone decides what follows an attempt, for single, streamed and batched messages.
2. Many messages are a `Batch`. They are pipelined to each process and spread over several. Up to
   ``window`` messages are written ahead to a process, and refilled in slices: the process reads
   and answers while the host decodes. A host that takes and refills a whole window runs in
   lockstep with the process, at half the speed.
3. A message suspected of a failure runs again alone, with no other message in its process.
4. Outcomes come in the order of the messages. A slow message must not pile up the results of those
   behind it. So the number of messages taken from the source ahead of it is limited. If the waiting
   results reach ``max_result_bytes``, only the process that has the first message is read. If that
   process works on several messages at a time, it gets only as many as have room, by the largest
   result so far. Results beyond that are dropped, and their messages run again: all results of a
   process share one pipe, so the first message's can't be read without the others.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from copy import copy
from itertools import islice
from typing import Any

from emit import context
from emit.errors import (
    CallTimeout,
    HostError,
    HostLost,
    PoolClosed,
    PoolTimeout,
    RemoteError,
    StartError,
    StartTimeout,
    Unavailable,
)
from emit.host.accounting import CallAccount
from emit.host.conversation import MEMORY_TICK, Conversation
from emit.host.fate import AHEAD, FAILURES, Job, split, too_much
from emit.host.lines import logger_of
from emit.host.pool import Lease, Pool
from emit.host.transport import Poll, pause, remaining
from emit.letter import DeadLetter, backoff
from emit.observe.facts import Dead, Retried
from emit.observe.observers import Observers, tell

__all__ = ["IDLE", "Calls"]

#: The time by which a handler's deadline is earlier than the host's: a share of it, and its maximum
#: in seconds. The answer of a handler that stops at its deadline then comes before its process is
#: killed.
_MARGIN, _MARGIN_MOST = 0.05, 0.25

#: Seconds that a message may wait for a process before its deadline is shortened by the wait.
_AT_ONCE = 0.01

#: A window is refilled when a quarter of it is free.
_SLICES = 4

#: Windows of messages taken from the source ahead of the oldest without an outcome, for each
#: process of the pool.
_AHEAD = 4

#: Bytes written ahead of a process's reading, at most; a single larger message is still written.
_PENDING = 1024 * 1024

#: Seconds without data from a process after which a batch counts as idle; see `Calls.idle`.
IDLE = 0.001

#: Errors that end a whole batch, and not one of its messages, if a shared host reports them.
_OF_THE_POOL = (PoolClosed, PoolTimeout, StartError, StartTimeout, Unavailable)


class Calls:
    """
    The calls of one node.

    Args:
        node: The node's name.
        pool: Its processes, which other nodes of the same program may share.
        program_node: The node's name in its program, if the program has several nodes.
        dead_letter: Called with each dead letter; its message then has no results. None: the
            failure is raised, with the letter as an attribute.
        tell: In a client of a shared host, makes the data that the host gets about a call. That
            host enforces time limits and makes further attempts. None: the processes are our own.
        observers: Those of its router.

    Attributes:
        account: The outcomes of its messages.
        caller: A socket, if the messages come from another process. If its other end is closed,
            the message in progress ends with `Abandoned`, and is cancelled.
        idle: Called if no outcome of `call_many` has come for `IDLE` while some are due.
        project: The project of a client; see `emit.host.place.project`. Empty: that of the host.
    """

    caller: int | None = None
    idle: Callable[[], None] | None = None
    project = ""

    def __init__(
        self,
        node: str,
        pool: Pool[Any],
        program_node: str | None = None,
        dead_letter: Callable[[DeadLetter], Any] | None = None,
        tell: Callable[[Job], Mapping[str, Any]] | None = None,
        observers: Sequence[Observers] = (),
    ) -> None:
        self.node = node
        self.pool = pool
        self.settings = pool.settings
        self.account = CallAccount()
        #: Seconds that an attempt may take.
        self.limit = self.settings.timeout if tell is None else float("inf")
        self._program_node = program_node
        self._dead_letter = dead_letter
        self._tell = tell
        self._observers = observers
        self._meta: dict[str, Any] = {"deadline_ms": _milliseconds(self.settings.timeout)}

    def asked_by(self, caller: int, idle: Callable[[], None] | None = None) -> Calls:
        """Return the same node, pool and account for messages that come by the socket *caller*."""
        calls = copy(self)
        calls.caller, calls.idle = caller, idle
        return calls

    def prepare(self) -> None:
        """Prepare the program, as :meth:`Pool.prepare`, before the time of a message begins."""
        try:
            self.pool.prepare()
        except HostError as error:
            error.about(self.node)
            raise

    def acquire(self, deadline: float, losses: int = 0) -> Lease[Any]:
        """
        Acquire a process from the pool. Errors name this node, even if several share the pool.

        Args:
            losses: Number of times that a shared host was lost with the message.
        """
        try:
            return self.pool.acquire(deadline)
        except HostError as error:
            error.about(self.node)
            error.may_have_run = error.may_have_run or losses > 0
            raise

    def call(self, fields: Mapping[str, Any]) -> list[Any]:
        """
        Give one message to a process.

        Returns:
            The results that its handler emitted; empty if it emitted nothing.

        Raises:
            NodeError: The handler failed. The process stays usable.
            HostError: The process, its pipe or its pool failed ``max_attempts`` times, or the
                message can't be sent at all.
        """
        job = self.job(fields)
        self.run(job)
        return job.outcome if type(job.outcome) is list else self._results(job)

    def run(self, job: Job) -> None:
        """Try one message until it has an outcome."""
        for _ in self.parts(job):
            pass  # only a streamed message has parts

    def stream(self, fields: Mapping[str, Any]) -> Generator[Any, None, None]:
        """
        Yield the results of :meth:`call` as they are emitted, and keep none.

        After the first result the message is not tried again: that result may already have gone on.

        Raises:
            NodeError, HostError: As in :meth:`call`, the dead letter included.
        """
        job = self.job(fields)
        job.streamed = True
        for results in self.parts(job):
            yield from results
        yield from self._results(job)

    def parts(self, job: Job) -> Generator[list[Any], None, None]:
        """
        Try one message until it has an outcome.

        Yields:
            Lists of results of a streamed message, as they come. The job's outcome has the rest.
        """
        caller = self.caller
        while job.outcome is None:
            has_gone_on = False
            began, waited = time.monotonic(), 0.0
            lease = self.pool.try_acquire()
            if lease is None:
                self.prepare()
                began = time.monotonic()
                lease = self.acquire(began + self.limit, job.losses)
                waited = time.monotonic() - began
                if job.run is not None:
                    job.run.waited = (job.run.waited or 0.0) + waited
            deadline = began + self.limit
            assert lease.process is not None
            talk: Conversation = lease.process.talk
            try:
                if caller is not None:
                    pause(0, caller)  # the caller may have hung up during the wait for a process
                    talk.attend(caller)
                talk.submit(job, self.meta(job, waited))
                talk.flush()
                while job.outcome is None:
                    talk.wait(deadline)
                    talk.receive()
                    if job.streamed and job.results:
                        results, job.results = job.results, None
                        has_gone_on = True
                        yield results
                        # Set after the yield: while the caller works, the process may be blocked.
                        deadline = time.monotonic() + self.limit
            except FAILURES as error:
                delay = self.weigh(job, error, last=has_gone_on)
            else:
                seconds = time.monotonic() - began
                delay = self.weigh(job, None, seconds, waited, last=has_gone_on)
            finally:
                if caller is not None:
                    talk.leave(caller)
                self.pool.release(lease)
            if delay:
                self.pool.rest(delay, caller)

    def call_many(self, messages: Iterable[Mapping[str, Any] | None]) -> Generator[Any, None, None]:
        """
        Give many messages to the node's processes, pipelined.

        Args:
            messages: The messages. None stands for no message at present: more are taken after the
                next outcome, and the generator ends if there is none left to come.

        Yields:
            The outcome of each message, in order: a list of results, or the exception that stands
            for them. Closing the generator early cancels what is open: see
            :meth:`emit.host.pool.Pool.release`.
        """
        return Batch(self, messages).outcomes()

    def job(self, fields: Mapping[str, Any], index: int = 0) -> Job:
        """Make the job of a message, with the queue's data about it in a queue's worker."""
        told, run = context.current.get(), context.run.get()
        if run is not None and run.waited is None:
            run.waited = 0.0
        return Job(fields, index, self.node, self._program_node, told, run)

    def settle(self, job: Job) -> list[Any] | Exception:
        """
        Return a finished job's results, or its exception. Hand a dead letter to ``dead_letter``.

        The job loses its outcome. An exception's traceback holds frames that hold the job; with
        this circle the message would stay in memory until the collector's next round.
        """
        outcome, job.outcome = job.outcome, None
        if not isinstance(outcome, Exception):
            return outcome or []
        letter = getattr(outcome, "letter", None)
        if letter is not None and self._dead_letter is not None:
            self._dead_letter(letter)
            id, run = _whose(job)
            attempts, kind = len(letter.causes), type(outcome).__name__
            tell(self._observers, Dead(self.node, id, attempts, "host", run, kind))
            return []
        return outcome

    def _results(self, job: Job) -> list[Any]:
        outcome = self.settle(job)
        if isinstance(outcome, list):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # breaks the circle that `settle` describes

    def meta(self, job: Job, waited: float = 0.0) -> Mapping[str, Any]:
        """
        Return the data that the process gets with a call.

        Args:
            job: The call.
            waited: Seconds of its time that passed before the process gets it.
        """
        if self._tell is not None:
            return self._tell(job)
        told, base = job.context, self._meta
        if waited > _AT_ONCE:
            base = {"deadline_ms": _milliseconds(self.settings.timeout - waited)}
        if told is None:
            if job.run is not None and job.run.trace is not None:
                base = {**base, **job.run.trace.headers}
            return {**base, "attempt": job.attempt} if job.causes else base
        attempt = told.attempt + len(job.causes)
        meta: dict[str, Any] = {**base, "origin": told.origin, "attempt": attempt}
        if told.traceparent is not None:  # of the run, if an observer has given it one
            meta["traceparent"] = told.traceparent
            if told.tracestate is not None:
                meta["tracestate"] = told.tracestate
        return meta

    def weigh(
        self,
        job: Job,
        failure: Exception | None,
        seconds: float | None = None,
        waited: float = 0.0,
        *,
        last: bool = False,
    ) -> float:
        """
        Decide what follows an attempt. If the job then has no outcome, try its message again.

        Args:
            job: The message. If it was answered, the answer is its outcome.
            failure: The failure of its process; None: the process answered.
            seconds: Duration of the attempt.
            waited: Part of *seconds* until there was a process.
            last: Do not try again: results of the message have gone on.

        Returns:
            Seconds to wait before the next attempt.

        Raises:
            HostLost, PoolClosed: The shared host was lost once too often; or the pool is closed.
        """
        outcome = job.outcome
        if failure is None and (type(outcome) is list or not self._counts(job)):
            self.account.answered((outcome,), seconds, waited)
            return 0.0
        job.outcome = None
        error: Any = failure or outcome
        if isinstance(error, HostLost):
            job.losses += 1
            self.lost(error, job.losses, last)
            job.release()
            return 0.0
        self._charge(job, error, last)
        delay = 0.0
        if failure is None and job.outcome is None and isinstance(error, RemoteError):
            delay = self._retry_delay(job, error)
            if (rest := context.rest.get()) is not None:
                rest(delay)
        if job.outcome is None and job.run is not None:
            id, run = _whose(job)
            earlier = 0 if job.context is None else job.context.attempt - 1
            attempt, kind = earlier + len(job.causes), type(error).__name__
            tell(self._observers, Retried(self.node, id, attempt, "host", run, kind, delay))
        return delay if context.rest.get() is None else 0.0

    def lost(self, error: HostLost, times: int, last: bool = False) -> None:
        """
        Record the loss of a shared host.

        Raises:
            HostLost, PoolClosed: It was lost once too often; or this pool is closed.
        """
        if self.pool.is_closed:
            raise PoolClosed(node=self.node, may_have_run=True) from error
        text = '"%s": the shared host at %s is lost: %s'
        logger_of(self.node).warning(text, self.node, error.path, error.reason)
        if last or times >= self.settings.max_attempts:
            raise error

    def _counts(self, job: Job) -> bool:
        """
        Return whether an answer counts as a failed attempt: the handler stopped itself at its
        deadline, or it asks for another attempt. If the message came from a queue, the queue makes
        that other attempt, since its worker can work on other messages meanwhile.
        """
        if self._tell is not None:
            return False
        if isinstance(job.outcome, CallTimeout):
            return True
        return job.context is None and getattr(job.outcome, "retry", None) is True

    def _charge(self, job: Job, error: HostError | RemoteError, last: bool) -> None:
        """Charge a job with a failed attempt. After the last attempt the job has its outcome."""
        self.account.charged(error)
        if job.overflow and job.overflow != AHEAD:  # another process would emit the same again
            limit = getattr(self.settings, job.overflow)
            job.outcome = too_much(job.node, job.overflow, limit)
            self.account.answered((job.outcome,), None)
            return
        attempts, retries = self.settings.max_attempts, self.settings.max_retries
        if last:
            attempts, retries = 1, None
        if not job.charge(error, attempts, time.time(), retries):
            self.account.answered((error,), None)

    def _retry_delay(self, job: Job, error: RemoteError) -> float:
        """
        Return the seconds to wait before another attempt: as long as the author asks for, but at
        most ``backoff_max``, since the caller waits meanwhile.
        """
        settings, share = self.settings, random.random()
        if error.after is not None and error.after > settings.backoff_max:
            logger_of(self.node).warning(
                "another attempt is asked for in %.3g s; it is made in backoff_max = %g s",
                error.after,
                settings.backoff_max,
                extra=job.marks,
            )
        if error.after is not None:
            return min(error.after, settings.backoff_max)
        return backoff(settings.backoff, settings.backoff_max, len(job.causes), share)

    def snapshot(self) -> dict[str, Any]:
        """Return the node's part of :meth:`emit.host.host.Host.snapshot`."""
        return {**self.account.snapshot(), **self.pool.snapshot()}

    def __repr__(self) -> str:
        return f"<Calls {self.node} [{self.account.calls} done | {self.pool!r}]>"


class Lane:
    """
    A process that a batch uses: its lease, and its number of calls before the batch.

    Attributes:
        cancelled: True while a message that took too long is being cancelled.
    """

    cancelled = False

    def __init__(self, lease: Lease[Any], limit: float) -> None:
        assert lease.process is not None
        self.lease = lease
        self.process = lease.process
        self.talk: Conversation = lease.process.talk
        self.window = min(getattr(self.talk.session, "window", 1 << 16), 1 << 16)
        self.calls = self.talk.count
        self.progress = time.monotonic()
        self.deadline = self.progress + limit

    @property
    def load(self) -> int:
        return len(self.talk.jobs)

    @property
    def oldest(self) -> Job | None:
        """The open message that it has had for longest."""
        return next(iter(self.talk.jobs.values()), None)

    @property
    def is_alone(self) -> bool:
        """True if the process works on a message that must run alone."""
        jobs = self.talk.open_jobs if self.load == 1 else []
        return bool(jobs) and jobs[0].alone

    @property
    def end(self) -> float:
        """Time at which the process is overdue, by the monotonic clock."""
        return min(self.deadline, self.talk.transport.until)


class Batch:
    """
    Many messages of one node, pipelined to its processes.

    Args:
        calls: The calls of the node.
        messages: The messages. They are taken as they are needed, so the source may be endless.
    """

    def __init__(self, calls: Calls, messages: Iterable[Mapping[str, Any] | None]) -> None:
        self._calls = calls
        self._pool = calls.pool
        self._settings = calls.settings
        self._source = enumerate(messages)
        self._exhausted = False
        self._ready: deque[Job] = deque()  # taken or given back, not yet with a process
        self._later: list[tuple[float, Job]] = []  # jobs that run again at a given time
        self._unsettled: deque[Job] = deque()  # all messages whose outcome was not yielded
        self._lanes: list[Lane] = []
        self._poll: Poll | None = None
        self._heard: list[Lane] = []  # lanes that are read: all, unless too many results wait
        self._waiting = 0  # bytes of results that are complete and not yielded
        self._largest = 0  # bytes of the largest recent results of one message
        self._dropped = 0  # messages whose results had no room
        self._losses = 0  # losses of a shared host since the last outcome

    def outcomes(self) -> Generator[Any, None, None]:
        """Yield an outcome for each message, in order; see :meth:`Calls.call_many`."""
        try:
            self._refill()
            while self._unsettled:
                while self._unsettled and self._unsettled[0].outcome is not None:
                    yield from self._yield_settled()
                if self._unsettled:
                    self._work()
        finally:
            for lane in self._lanes:
                lane.talk.cancel()  # all at the same time, if the caller has left early
            for lane in self._lanes:
                self._pool.release(lane.lease)

    def _yield_settled(self) -> Generator[Any, None, None]:
        """Yield finished outcomes. The processes are not charged for the time the caller takes."""
        began, unsettled = time.monotonic(), self._unsettled
        self._losses = 0
        while unsettled and unsettled[0].outcome is not None:
            job = unsettled.popleft()
            self._waiting -= job.size
            outcome = job.outcome
            if type(outcome) is not list:
                outcome = self._calls.settle(job)
                if isinstance(outcome, _OF_THE_POOL):
                    raise outcome
            yield outcome
        self._give(self._lanes, time.monotonic() - began)
        self._refill()

    def _give(self, lanes: Iterable[Lane], seconds: float) -> None:
        """Extend the deadlines of processes by a time in which they were not read."""
        for lane in lanes:
            lane.deadline += seconds
            lane.progress += seconds

    def _refill(self) -> None:
        """Take messages from the source, as far ahead as the processes can use them."""
        ahead = _AHEAD * self._settings.window * max(1, len(self._lanes))
        room, taken, make = max(0, ahead - len(self._unsettled)), 0, self._calls.job
        for index, fields in islice(self._source, room):
            if fields is None:
                return
            job = make(fields, index)
            self._ready.append(job)
            self._unsettled.append(job)
            taken += 1
        self._exhausted = taken < room

    def _work(self) -> None:
        """Do one round: send, wait, and take the answers."""
        self._wake_later()
        self._find_lanes()
        for lane in list(self._lanes):
            self._feed(lane)
        if not any(lane.load for lane in self._lanes):
            return self._rest()
        self._step()
        for lane in list(self._lanes):
            if lane.load and lane in self._heard:
                self._take(lane)

    def _rest(self) -> None:
        """Wait if nothing runs: each message is due later, or waits for one that is."""
        is_full = bool(self._lanes) and not self._fitting(self._lanes[0])
        if self._later and self._unsettled[0].outcome is None and (is_full or not self._ready):
            self._pool.rest(remaining(min(at for at, _ in self._later)), self._calls.caller)

    def _wake_later(self) -> None:
        now = time.monotonic()
        self._return([job for at, job in self._later if at <= now])
        self._later = [(at, job) for at, job in self._later if at > now]

    def _return(self, jobs: list[Job]) -> None:
        """Queue jobs to be sent again, in the order of the messages."""
        if jobs:
            self._ready = deque(sorted([*self._ready, *jobs], key=lambda job: job.index))

    def _find_lanes(self) -> None:
        """Wait for the first process; take more while messages wait for one."""
        if not self._ready:
            return
        if not self._lanes:
            self._calls.prepare()
            began, run = time.monotonic(), self._ready[0].run
            self._add(self._calls.acquire(began + self._calls.limit, self._losses))
            if run is not None:
                run.waited = (run.waited or 0.0) + time.monotonic() - began
        elif len(self._ready) > self._settings.window or self._ready[0].alone:
            lease = self._pool.try_acquire()
            if lease is not None:
                self._add(lease)
            else:
                self._pool.grow_soon()

    def _add(self, lease: Lease[Any]) -> None:
        self._lanes.append(Lane(lease, self._calls.limit))

    def _feed(self, lane: Lane) -> None:
        # Release a process that was replaced while the caller worked, or that served long enough.
        has_served = lane.talk.count - lane.calls >= self._settings.window
        if lane.talk.condemned or (has_served and self._pool.is_wanted):
            return None if lane.load else self._part(lane)
        if not self._ready or lane.is_alone or lane.cancelled:
            return
        window = min(self._settings.window, lane.window, self._fitting(lane))
        full = lane.load > window - max(1, window // _SLICES)
        if full and self._ready[0] is not self._first:
            return
        if lane.load == 0:
            if lane.talk.look() is not None:
                return self._part(lane)
            lane.progress = time.monotonic()
            lane.deadline = lane.progress + self._calls.limit
        self._fill(lane.talk, window)
        lane.talk.flush()

    def _fill(self, talk: Conversation, window: int) -> None:
        """Encode messages up to the window. A message that must run alone needs an empty window."""
        ready, open_jobs, meta = self._ready, talk.jobs, self._calls.meta
        if ready[0] is self._first:  # all other results wait for this one, so it always has room
            window = max(window, len(open_jobs) + 1)
        while ready and len(open_jobs) < window and not (ready[0].alone and open_jobs):
            if open_jobs and talk.unsent > _PENDING:
                return
            if ready[0].alone:
                group = [ready.popleft()]
                window = 0  # nothing else beside it
            else:
                # Half of a window: the process works on one half while the host works on the other.
                most = min(talk.group_size, max(1, self._settings.window // 2))
                group = self._take_ready(min(most, window - len(open_jobs)))
            talk.submit_all(group, [meta(job) for job in group])

    def _take_ready(self, most: int) -> list[Job]:
        """Take messages that need not run alone."""
        ready, taken = self._ready, list[Job]()
        for _ in range(min(most, len(ready))):
            if ready[0].alone:
                break
            taken.append(ready.popleft())
        return taken

    @property
    def _is_crowded(self) -> bool:
        """True if too many results wait for those of an earlier message."""
        limit = self._settings.max_result_bytes
        return self._kept_bytes > limit and self._behind > limit

    @property
    def _kept_bytes(self) -> int:
        return self._waiting + sum([lane.talk.kept for lane in self._lanes])

    @property
    def _behind(self) -> int:
        """Bytes of results that wait for those of an earlier message."""
        kept = self._kept_bytes
        for job in self._unsettled:
            kept -= job.size  # these don't wait: everything up to the first without an outcome
            if job.outcome is None:
                break
        return kept

    @property
    def _first(self) -> Job | None:
        """The first message without an outcome."""
        return next((job for job in self._unsettled if job.outcome is None), None)

    def _fitting(self, lane: Lane) -> int:
        """Return how many messages a process may have, so that their results find room."""
        # Its messages are answered in order, so those behind the first one wait for nobody.
        is_ahead = len(self._lanes) == 1 or lane.oldest is self._first
        if lane.talk.concurrency == 1 and not self._later and is_ahead:
            return lane.window
        if not self._largest:
            return lane.talk.concurrency
        room = max(0, self._settings.max_result_bytes - self._behind) // self._largest
        others = [other for other in self._lanes if other is not lane]
        return max(0, room - sum(len(o.talk.jobs) for o in others if o.oldest is not self._first))

    def _choose(self) -> list[Lane]:
        """Return the lanes to read. If too many results wait: only those that end the waiting."""
        if not self._is_crowded:
            return list(self._lanes)
        first = self._first
        if first is None or first in self._ready:
            return list(self._lanes)
        return [lane for lane in self._lanes if first in lane.talk.open_jobs]

    def _step(self) -> None:
        heard = self._choose()
        if heard != self._heard:
            self._heard, self._poll = heard, None
        if self._poll is None:
            self._poll = Poll([lane.talk.transport for lane in heard])
            if self._calls.caller is not None:
                self._poll.attend(self._calls.caller)
        began = time.monotonic()
        self._wait(self._poll, [lane for lane in heard if lane.load])
        if len(heard) < len(self._lanes):
            others = [lane for lane in self._lanes if lane not in heard]
            self._give(others, time.monotonic() - began)

    def _wait(self, poll: Poll, working: list[Lane]) -> None:
        if any(lane.talk.is_over for lane in working):
            return
        until = min([*(lane.end for lane in working), *(at for at, _ in self._later)])
        tick = MEMORY_TICK if self._settings.max_rss is not None else self._settings.timeout
        if self._calls.idle is not None:
            poll.step(min(IDLE, remaining(until)))
            if any(lane.talk.transport.received or lane.talk.is_over for lane in working):
                return
            self._calls.idle()
        poll.step(min(tick, remaining(until)))

    def _take(self, lane: Lane) -> None:
        talk = lane.talk
        try:
            done = talk.receive()
            if not done:
                talk.check_memory()
            now = time.monotonic()
            if lane.cancelled and not talk.is_cancelling:  # it is kept
                lane.cancelled, lane.progress, lane.deadline = False, now, now + self._calls.limit
            if not done and now >= lane.end:
                talk.wait(now)  # raises the error of an overdue process
        except FAILURES as error:
            return self._failed(lane, error)
        if done:
            self._settle(done, (now - lane.progress) / len(done))
            lane.progress = now
            lane.deadline = lane.deadline if lane.cancelled else now + self._calls.limit
            self._pool.retire_if_worn(lane.process)
            if talk.condemned and not lane.load:
                self._leave(lane)
        if lane in self._lanes and self._is_crowded:
            self._drop_partial(talk)

    def _settle(self, done: list[Job], seconds: float) -> None:
        """Weigh answered jobs, as far as there is room for their results."""
        sizes = [job.size for job in done]
        self._waiting += sum(sizes)
        self._largest = max(self._largest // 2, 1, *sizes)
        kept = [job for job in done if type(job.outcome) is list]
        if self._is_crowded or len(kept) < len(done):
            self._make_room(done)
            kept = [job for job in done if type(job.outcome) is list]
        if kept:
            self._calls.account.answered(kept, seconds)
        for job in done:
            if isinstance(job.outcome, Exception):
                self._weigh(job, None, seconds)

    def _weigh(self, job: Job, failure: HostError | None, seconds: float | None = None) -> None:
        """Weigh an attempt, and queue the message again if it has no outcome."""
        delay = self._calls.weigh(job, failure, seconds)
        if delay:
            self._later.append((time.monotonic() + delay, job))
        elif job.outcome is None:
            self._return([job])

    def _make_room(self, done: list[Job]) -> None:
        """Drop results that wait for an earlier message; their messages run again."""
        again = [job for job in done if job.overflow == AHEAD]
        for job in reversed(done):
            if not self._is_crowded:
                break
            first = self._first
            if job.size and first is not None and job.index > first.index:
                self._waiting -= job.size
                job.outcome = None
                again.append(job)
        for job in again:
            job.release()
        self._return(again)
        if again and not self._dropped:
            _warn(self._calls.node, len(again), self._settings.max_result_bytes)
        self._dropped += len(again)

    def _drop_partial(self, talk: Conversation) -> None:
        """Drop partial results of all messages but the first; these run again after their end."""
        for job in talk.open_jobs:
            if job.size and job is not self._first:
                talk.drop(job)

    def _failed(self, lane: Lane, error: HostError) -> None:
        """Charge the message at fault, if it is known, and give the others back."""
        talk = lane.talk
        announced = talk.failed is not None
        suspect, others = None, talk.open_jobs
        if not lane.cancelled:  # else the cancelled message is at fault, and was charged for it
            suspect, others = split(others, talk.concurrency, error, announced=announced)
        if not (isinstance(error, CallTimeout) and self._cancel(lane, suspect)):
            self._leave(lane)
        elif suspect is not None:
            others = []  # they stay with the process
        if isinstance(error, HostLost):
            self._losses += 1
            self._calls.lost(error, self._losses)
        for job in others:
            job.release()
        self._return(others)
        if suspect is not None:
            self._weigh(suspect, error)

    def _cancel(self, lane: Lane, suspect: Job | None) -> bool:
        """
        Have a process end the message at fault, or all if that is not known. Return False if it
        can't be asked.
        """
        until = lane.talk.cancel(None if suspect is None else [suspect])
        if until:
            lane.cancelled, lane.deadline = True, until
        return until > 0

    def _part(self, lane: Lane) -> None:
        """
        Leave a process that has no open message. Its end charges no message, except if it gave up
        before its first answer. The next message is charged then: else it could go on for ever, as
        each process may do the same.
        """
        process = lane.process
        self._leave(lane)
        if process.gave_up and self._ready:
            self._weigh(self._ready.popleft(), process.failure(may_have_run=False))

    def _leave(self, lane: Lane) -> None:
        self._lanes.remove(lane)
        self._pool.release(lane.lease)


def _warn(node: str, count: int, limit: int) -> None:
    logger_of(node).warning(
        "%d messages had their results before an earlier one, and the results that wait for it are "
        "over max_result_bytes = %d: theirs are dropped, and they run again",
        count,
        limit,
    )


def _whose(job: Job) -> tuple[str, int]:
    """Return the id of a job's message, and the number of its run, for observers."""
    id = "" if job.context is None else job.context.id
    return id, 0 if job.run is None else job.run.number


def _milliseconds(left: float) -> int:
    """Return the deadline that a process gets for a call with *left* seconds, in milliseconds."""
    return max(1, int(1000 * (left - min(left * _MARGIN, _MARGIN_MOST))))
