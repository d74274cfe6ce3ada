"""
The messages of one node, and what becomes of each: results, the author's error, or the last
failure after so many attempts, with a dead letter.

1. `Calls.weigh` alone decides what comes of an attempt, be it of a single message, a streamed one
   or one of many.
2. Many messages are a `Batch`. They are pipelined to each process and spread over several. Up to
   ``window`` messages are written ahead to a process, and refilled in slices: a process then reads
   and answers while the host decodes, and a host that takes and refills a whole window runs in
   lockstep with it (half the speed).
3. A message suspected of a failure runs again alone: nothing else is in its process.
4. Outcomes come in the order of the messages. So that a slow first one does not pile up the
   others' results, only so many messages are taken from the source ahead of it; and when those
   results have ``max_result_bytes``, only the process that has the first one is read. If that
   works on several messages at a time, it has no more of them than have room, by the largest
   result so far. What comes in spite of that is dropped, and its message runs again: results of
   one process come by one pipe, so the first one's can't be had without them.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from copy import copy
from typing import Any

from emit import context
from emit.errors import (
    CallTimeout,
    EncodeError,
    FrameTooLarge,
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
from emit.host.starts import backoff
from emit.host.transport import Poll, pause, remaining
from emit.letter import DeadLetter

__all__ = ["Calls"]

#: The share of its time that a handler is not told of, and the most of it, in seconds. One that
#: gives up at its deadline is then heard before its process is killed.
_MARGIN, _MARGIN_MOST = 0.05, 0.25

#: Seconds that a message may wait for a process without being told that it has less time.
_AT_ONCE = 0.01

#: A window is refilled when a fourth of it is free.
_SLICES = 4

#: Windows of messages taken from the source ahead of the oldest without an outcome, for each
#: process of the pool.
_AHEAD = 4

#: Bytes that are written ahead of a process's reading, at the most, unless one message has more.
_PENDING = 1024 * 1024

#: What ends all messages of a batch, and not one of them, when a shared host says so.
_OF_THE_POOL = (PoolClosed, PoolTimeout, StartError, StartTimeout, Unavailable)


class Calls:
    """
    Args:
        node: The node's name.
        pool: Its processes, which other nodes of the same program may share.
        program_node: Which of the program's nodes it is, if it has several.
        dead_letter: Called with each dead letter; its message then has no results. None: the
            failure is raised, with the letter as an attribute.
        tell: In a client of a shared host, what that host is told of a call. The host sees to time
            limits and to further attempts. None: the processes are this host's own.

    Attributes:
        account: What has become of its messages.
        caller: A socket, when the messages come from another process: a message that is under
            way when its other end is closed ends with `Abandoned`, and its process with it.
    """

    caller: int | None = None

    def __init__(
        self,
        node: str,
        pool: Pool[Any],
        program_node: str | None = None,
        dead_letter: Callable[[DeadLetter], Any] | None = None,
        tell: Callable[[Job], Mapping[str, Any]] | None = None,
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
        self._meta = {"deadline_ms": _milliseconds(self.settings.timeout)}

    def asked_by(self, caller: int) -> Calls:
        """The same node, its processes and its account, for messages that come by a socket."""
        calls = copy(self)
        calls.caller = caller
        return calls

    def prepare(self) -> None:
        """
        Make what is started, before the time of a message begins.

        Raises:
            StartError: It can't be made.
        """
        try:
            self.pool.prepare()
        except HostError as error:
            error.about(self.node)
            raise

    def acquire(self, deadline: float, losses: int = 0) -> Lease[Any]:
        """
        As :meth:`Pool.acquire`; what it raises names this node, if several share the pool.

        Args:
            losses: How often a shared host was lost with the message.
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
            What its handler emitted; empty if it emitted nothing.

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
            pass  # only a streamed one has parts

    def stream(self, fields: Mapping[str, Any]) -> Generator[Any, None, None]:
        """
        As :meth:`call`, but each result comes as it is emitted, and none is kept.

        After the first result nothing is tried again: it may already have gone on.

        Raises:
            NodeError, HostError: As :meth:`call`, the dead letter included.
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
            What a streamed one emits, as it comes; what is left is the job's outcome.
        """
        caller = self.caller
        while job.outcome is None:
            has_gone_on = False
            self.prepare()
            began = time.monotonic()
            deadline = began + self.limit
            lease = self.acquire(deadline, job.losses)
            waited = time.monotonic() - began
            assert lease.process is not None
            talk: Conversation = lease.process.talk
            try:
                if caller is not None:
                    pause(0, caller)  # it may have hung up while it waited for the process
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
                        # Not before: while the caller takes them, the process may be blocked.
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

    def call_many(self, messages: Iterable[Mapping[str, Any]]) -> Generator[Any, None, None]:
        """
        Give many messages to the node's processes, pipelined.

        Yields:
            An outcome for each, in their order: a list of results, or the exception that
            stands for them. Closing the generator early kills the processes it uses.
        """
        return Batch(self, messages).outcomes()

    def job(self, fields: Mapping[str, Any], index: int = 0) -> Job:
        """A message; in a worker of a queue with what the queue knows of it."""
        told = context.current.get()
        return Job(fields, index, self.node, self._program_node, told)

    def settle(self, job: Job) -> list[Any] | Exception:
        """
        A finished job's results, or what stands for them; a dead letter goes where asked.

        The job loses its outcome: an exception's traceback holds frames that hold the job, and
        in a circle the message would stay in memory until the collector's next round.
        """
        outcome, job.outcome = job.outcome, None
        if not isinstance(outcome, Exception):
            return outcome or []
        letter = getattr(outcome, "letter", None)
        if letter is not None and self._dead_letter is not None:
            self._dead_letter(letter)
            return []
        return outcome

    def _results(self, job: Job) -> list[Any]:
        outcome = self.settle(job)
        if isinstance(outcome, list):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # as above

    def meta(self, job: Job, waited: float = 0.0) -> Mapping[str, Any]:
        """
        Return what the process is told about a call.

        Args:
            job: The call.
            waited: Seconds of its time that have passed before it gets to the process.
        """
        if self._tell is not None:
            return self._tell(job)
        told, base = job.context, self._meta
        if waited > _AT_ONCE:
            base = {"deadline_ms": _milliseconds(self.settings.timeout - waited)}
        if told is None:
            return {**base, "attempt": job.attempt} if job.causes else base
        attempt = told.attempt + len(job.causes)
        meta: dict[str, Any] = {**base, "origin": told.origin, "attempt": attempt}
        if told.traceparent is not None:
            meta["traceparent"] = told.traceparent
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
        Decide what comes of an attempt. The message is to be tried again if it has no outcome then.

        Args:
            job: The message; if it was answered, with the answer as its outcome.
            failure: How its process failed; None: it has answered.
            seconds: What the attempt took.
            waited: Seconds of those until there was a process.
            last: Nothing is tried again: results of it have gone on.

        Returns:
            Seconds to wait before the next attempt.

        Raises:
            HostLost, PoolClosed: The shared host was lost once too often, or the pool is closed.
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
        if failure is None and job.outcome is None and isinstance(error, RemoteError):
            return self._retry_delay(job, error)
        return 0.0

    def lost(self, error: HostLost, times: int, last: bool = False) -> None:
        """
        Note that a shared host was lost in the middle of something.

        Raises:
            HostLost, PoolClosed: That was once too often, or it was our own end.
        """
        if self.pool.is_closed:
            raise PoolClosed(node=self.node, may_have_run=True) from error
        text = '"%s": the shared host at %s is lost: %s'
        logger_of(self.node).warning(text, self.node, error.path, error.reason)
        if last or times >= self.settings.max_attempts:
            raise error

    def _counts(self, job: Job) -> bool:
        """
        Whether an answer is a failed attempt: the handler has ended at its deadline by itself, or
        asks for another attempt. For a message from a queue the queue sees to the latter: its
        worker has others to work on meanwhile.
        """
        if self._tell is not None:
            return False
        if isinstance(job.outcome, CallTimeout):
            return True
        return job.context is None and getattr(job.outcome, "retry", None) is True

    def _charge(self, job: Job, error: HostError | RemoteError, last: bool) -> None:
        """Charge a job with a failed attempt. It has an outcome then if that was the last."""
        self.account.charged(error)
        if job.overflow and job.overflow != AHEAD:  # any other process would emit the same again
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
        Seconds to wait before another attempt: what the author asks for, but no longer than
        ``backoff_max``, since the caller waits meanwhile.
        """
        settings, share = self.settings, random.random()
        if error.after is not None and error.after > settings.backoff_max:
            logger_of(self.node).warning(
                "another attempt is asked for in %.3g s; it is made in backoff_max = %g s",
                error.after,
                settings.backoff_max,
            )
        if error.after is not None:
            return min(error.after, settings.backoff_max)
        return backoff(settings.backoff, settings.backoff_max, len(job.causes), share)

    def snapshot(self) -> dict[str, Any]:
        """The node in :meth:`emit.host.host.Host.snapshot`."""
        return {**self.account.snapshot(), **self.pool.snapshot()}

    def __repr__(self) -> str:
        return f"<Calls {self.node} [{self.account.calls} done | {self.pool!r}]>"


class Lane:
    """One process in use by a batch: its lease, and what it had done before."""

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
    def is_alone(self) -> bool:
        """Whether it works on a message that must have no company."""
        jobs = self.talk.open_jobs if self.load == 1 else []
        return bool(jobs) and jobs[0].alone

    @property
    def end(self) -> float:
        """When it is overdue."""
        return min(self.deadline, self.talk.transport.until)


class Batch:
    """
    Args:
        calls: Whose messages they are, and so whose processes to use.
        messages: The messages; taken as they are needed, so an endless source is fine.
    """

    def __init__(self, calls: Calls, messages: Iterable[Mapping[str, Any]]) -> None:
        self._calls = calls
        self._pool = calls.pool
        self._settings = calls.settings
        self._source = enumerate(messages)
        self._exhausted = False
        self._ready: deque[Job] = deque()  # taken or given back, not yet with a process
        self._later: list[tuple[float, Job]] = []  # asked for another attempt at a time
        self._unsettled: deque[Job] = deque()  # all without an outcome that was yielded
        self._lanes: list[Lane] = []
        self._poll: Poll | None = None
        self._heard: list[Lane] = []  # those that are read: all, unless too many results wait
        self._waiting = 0  # bytes of the results that are complete and not yielded
        self._largest = 0  # bytes of the largest results of one message of late
        self._dropped = 0  # messages whose results had no room
        self._losses = 0  # how often a shared host was lost since the last outcome

    def outcomes(self) -> Generator[Any, None, None]:
        """An outcome for each message, in order; see :meth:`Calls.call_many`."""
        try:
            self._refill()
            while self._unsettled:
                while self._unsettled and self._unsettled[0].outcome is not None:
                    yield from self._yield_settled()
                if self._unsettled:
                    self._work()
        finally:
            for lane in self._lanes:
                self._pool.release(lane.lease)

    def _yield_settled(self) -> Generator[Any, None, None]:
        """Hand out what is finished. The time that the caller takes is not the processes'."""
        began = time.monotonic()
        while self._unsettled and self._unsettled[0].outcome is not None:
            job = self._unsettled.popleft()
            self._waiting -= job.size
            self._losses = 0
            outcome = self._calls.settle(job)
            if isinstance(outcome, _OF_THE_POOL):
                raise outcome
            yield outcome
        self._give(self._lanes, time.monotonic() - began)
        self._refill()

    def _give(self, lanes: Iterable[Lane], seconds: float) -> None:
        """Time in which the processes were not read does not count for them."""
        for lane in lanes:
            lane.deadline += seconds
            lane.progress += seconds

    def _refill(self) -> None:
        """Take messages from the source, as far ahead as the processes can use them."""
        ahead = _AHEAD * self._settings.window * max(1, len(self._lanes))
        while not self._exhausted and len(self._unsettled) < ahead:
            index, fields = next(self._source, (None, None))
            if index is None or fields is None:
                self._exhausted = True
                return
            job = self._calls.job(fields, index)
            self._ready.append(job)
            self._unsettled.append(job)

    def _work(self) -> None:
        """One round: send what can be sent, wait, take what has come."""
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
        """Nothing runs: what is left asked to be tried again later, or waits for such a message."""
        is_full = bool(self._lanes) and not self._fitting(self._lanes[0])
        if self._later and self._unsettled[0].outcome is None and (is_full or not self._ready):
            self._pool.rest(remaining(min(at for at, _ in self._later)), self._calls.caller)

    def _wake_later(self) -> None:
        now = time.monotonic()
        self._return([job for at, job in self._later if at <= now])
        self._later = [(at, job) for at, job in self._later if at > now]

    def _return(self, jobs: list[Job]) -> None:
        """Have jobs sent again, in the order of the messages."""
        if jobs:
            self._ready = deque(sorted([*self._ready, *jobs], key=lambda job: job.index))

    def _find_lanes(self) -> None:
        """The first process is waited for; more are taken while messages wait for one."""
        if not self._ready:
            return
        if not self._lanes:
            self._calls.prepare()
            self._add(self._calls.acquire(time.monotonic() + self._calls.limit, self._losses))
        elif len(self._ready) > self._settings.window or self._ready[0].alone:
            lease = self._pool.try_acquire()
            if lease is not None:
                self._add(lease)
            else:
                self._pool.grow_soon()

    def _add(self, lease: Lease[Any]) -> None:
        self._lanes.append(Lane(lease, self._calls.limit))

    def _feed(self, lane: Lane) -> None:
        # It is replaced, perhaps while the caller took his time; or has been here for long enough.
        has_served = lane.talk.count - lane.calls >= self._settings.window
        if lane.talk.condemned or (has_served and self._pool.is_wanted):
            return None if lane.load else self._part(lane)
        if not self._ready or lane.is_alone:
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
        """Encode what the window has room for; one that must have no company only alone."""
        ready, open_jobs, meta = self._ready, talk.jobs, self._calls.meta
        if ready[0] is self._first:  # what all others wait for has room anyway
            window = max(window, len(open_jobs) + 1)
        while ready and len(open_jobs) < window and not (ready[0].alone and open_jobs):
            if open_jobs and talk.unsent > _PENDING:
                return
            job = ready.popleft()
            try:
                talk.submit(job, meta(job))
            except (EncodeError, FrameTooLarge) as error:
                job.outcome = error
            if job.alone:
                return

    @property
    def _is_crowded(self) -> bool:
        """True if the results that wait for those of an earlier message are too many."""
        limit = self._settings.max_result_bytes
        return self._kept_bytes > limit and self._behind > limit

    @property
    def _kept_bytes(self) -> int:
        return self._waiting + sum([lane.talk.kept for lane in self._lanes])

    @property
    def _behind(self) -> int:
        """The bytes of results that wait for those of an earlier message."""
        kept = self._kept_bytes
        for job in self._unsettled:
            kept -= job.size  # before the first without an outcome none waits, nor do its own
            if job.outcome is None:
                break
        return kept

    @property
    def _first(self) -> Job | None:
        """The first message without an outcome."""
        return next((job for job in self._unsettled if job.outcome is None), None)

    def _fitting(self, lane: Lane) -> int:
        """Messages that a process may have, so that there is room for what they come to."""
        concurrency = lane.talk.concurrency
        if concurrency == 1 and not self._later:  # the first of its messages is answered first
            return lane.window
        if not self._largest:
            return concurrency
        return max(0, self._settings.max_result_bytes - self._behind) // self._largest

    def _choose(self) -> list[Lane]:
        """The lanes to read: where too many results wait, only those that end the waiting."""
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
        poll.step(min(tick, remaining(until)))

    def _take(self, lane: Lane) -> None:
        talk = lane.talk
        try:
            done = talk.receive()
            if not done:
                talk.check_memory()
            now = time.monotonic()
            if not done and now >= lane.end:
                talk.wait(now)  # it raises what that is
        except FAILURES as error:
            return self._failed(lane, error)
        if done:
            self._settle(done, (now - lane.progress) / len(done))
            lane.progress, lane.deadline = now, now + self._calls.limit
            self._pool.retire_if_worn(lane.process)
            if talk.condemned and not lane.load:
                self._leave(lane)
        if lane in self._lanes and self._is_crowded:
            self._drop_partial(talk)

    def _settle(self, done: list[Job], seconds: float) -> None:
        """Weigh jobs that are open no more, as far as there is room for their results."""
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
        """Have it decided what comes of an attempt; a message without an outcome runs again."""
        delay = self._calls.weigh(job, failure, seconds)
        if delay:
            self._later.append((time.monotonic() + delay, job))
        elif job.outcome is None:
            self._return([job])

    def _make_room(self, done: list[Job]) -> None:
        """Drop results that an earlier message keeps waiting; their messages run again."""
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
        """Drop what has come of other messages than the first; they run again at their end."""
        for job in talk.open_jobs:
            if job.size and job is not self._first:
                talk.drop(job)

    def _failed(self, lane: Lane, error: HostError) -> None:
        """Sort out whose fault it was, and give the others back."""
        talk = lane.talk
        announced = talk.failed is not None
        suspect, others = split(talk.open_jobs, talk.concurrency, error, announced=announced)
        self._leave(lane)
        if isinstance(error, HostLost):
            self._losses += 1
            self._calls.lost(error, self._losses)
        for job in others:
            job.release()
        self._return(others)
        if suspect is not None:
            self._weigh(suspect, error)

    def _part(self, lane: Lane) -> None:
        """
        Leave a process that has no message. None is charged with what has become of it; but each
        process may say that it can't go on before it has one, and then the next message is.
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


def _milliseconds(left: float) -> int:
    """What a process is told of the seconds that a call has left."""
    return max(1, int(1000 * (left - min(left * _MARGIN, _MARGIN_MOST))))
