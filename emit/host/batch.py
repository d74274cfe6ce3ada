"""
Many messages through one pool: pipelined to each process, spread over several, each message
with a fate of its own.

1. Up to ``window`` messages are written ahead to a process, and refilled in slices: a process
   then reads and answers while the host decodes, where a host that takes and refills a whole
   window runs in lockstep with it (half the speed).
2. A message suspected of a failure runs again alone: nothing else is in its process.
3. Outcomes come in the order of the messages. So that a slow first one does not pile up the
   others' results, only so many messages are taken from the source ahead of it; and when those
   results have ``max_result_bytes``, only the process that has the first one is read. If that
   works on several messages at a time, it has no more of them than have room, by the largest
   result so far. What comes in spite of that is dropped, and its message runs again: results of
   one process come by one pipe, so the first one's can't be had without them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from emit.errors import CallTimeout, EncodeError, FrameTooLarge, RemoteError
from emit.host.fate import AHEAD, FAILURES, Job, split
from emit.host.lines import logger_of
from emit.host.process import MEMORY_TICK
from emit.host.transport import Poll, remaining

if TYPE_CHECKING:
    from emit.errors import HostError
    from emit.host.calls import Calls
    from emit.host.pool import Lease
    from emit.host.process import Process

#: A window is refilled when a fourth of it is free.
_SLICES = 4

#: Windows of messages taken from the source ahead of the oldest without an outcome, for each
#: process of the pool.
_AHEAD = 4


#: Bytes that are written ahead of a process's reading, at the most, unless one message has more.
_PENDING = 1024 * 1024


class Lane:
    """One process in use by a batch: its lease, and what it had done before."""

    def __init__(self, lease: Lease, timeout: float) -> None:
        assert lease.process is not None
        self.lease = lease
        self.process: Process = lease.process
        self.window = min(getattr(self.process.session, "window", 1 << 16), 1 << 16)
        self.calls = self.process.calls
        self.deadline = time.monotonic() + timeout
        self.progress = time.monotonic()

    @property
    def load(self) -> int:
        return self.process.open_count

    @property
    def is_alone(self) -> bool:
        """Whether it works on a message that must have no company."""
        jobs = self.process.open_jobs if self.load == 1 else []
        return bool(jobs) and jobs[0].alone


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
            yield self._calls.settle(job)
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
            self._add(self._calls.acquire(time.monotonic() + self._settings.timeout))
        elif len(self._ready) > self._settings.window or self._ready[0].alone:
            lease = self._pool.try_acquire()
            if lease is not None:
                self._add(lease)
            else:
                self._pool.grow_soon()

    def _add(self, lease: Lease) -> None:
        self._lanes.append(Lane(lease, self._settings.timeout))

    def _feed(self, lane: Lane) -> None:
        # It is replaced, perhaps while the caller took his time; or has been here for long enough.
        has_served = lane.process.calls - lane.calls >= self._settings.window
        if lane.process.condemned or (has_served and self._pool.is_wanted):
            return None if lane.load else self._part(lane)
        if not self._ready or lane.is_alone:
            return
        window = min(self._settings.window, lane.window, self._fitting(lane))
        full = lane.load > window - max(1, window // _SLICES)
        if full and self._ready[0] is not self._first:
            return
        if lane.load == 0:
            if lane.process.look() is not None:
                return self._part(lane)
            lane.deadline = time.monotonic() + self._settings.timeout
            lane.progress = time.monotonic()
        self._fill(lane.process, window)
        lane.process.flush()

    def _fill(self, process: Process, window: int) -> None:
        """Encode what the window has room for; one that must have no company only alone."""
        ready, open_jobs, meta = self._ready, process.answers.jobs, self._calls.meta
        if ready[0] is self._first:  # what all others wait for has room anyway
            window = max(window, len(open_jobs) + 1)
        while ready and len(open_jobs) < window and not (ready[0].alone and open_jobs):
            if open_jobs and process.unsent > _PENDING:
                return
            job = ready.popleft()
            try:
                process.submit(job, meta(job))
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
        return self._waiting + sum([lane.process.answers.kept for lane in self._lanes])

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
        concurrency = lane.process.concurrency
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
        return [lane for lane in self._lanes if first in lane.process.open_jobs]

    def _step(self) -> None:
        heard = self._choose()
        if heard != self._heard:
            self._heard, self._poll = heard, None
        if self._poll is None:
            self._poll = Poll([lane.process.pipes for lane in heard])
            if self._calls.caller is not None:
                self._poll.attend(self._calls.caller)
        began = time.monotonic()
        self._wait(self._poll, [lane for lane in heard if lane.load])
        if len(heard) < len(self._lanes):
            others = [lane for lane in self._lanes if lane not in heard]
            self._give(others, time.monotonic() - began)

    def _wait(self, poll: Poll, working: list[Lane]) -> None:
        if any(lane.process.is_over for lane in working):
            return
        ends = (min(lane.deadline, lane.process.last_moment) for lane in working)
        until = min([*ends, *(at for at, _ in self._later)])
        tick = MEMORY_TICK if self._settings.max_rss is not None else self._settings.timeout
        poll.step(min(tick, remaining(until)))

    def _take(self, lane: Lane) -> None:
        process = lane.process
        try:
            done = process.receive()
            if not done:
                process.check_memory()
        except FAILURES as error:
            return self._failed(lane, error)
        now = time.monotonic()
        if done:
            settled = self._kept(done)
            if again := [job for job in done if self._runs_again(job)]:  # charged below
                settled = [one for one in settled if all(one is not job.outcome for job in again)]
            if settled:
                self._calls.account.answered(settled, (now - lane.progress) / len(done))
            lane.progress, lane.deadline = now, now + self._settings.timeout
            for job in again:
                if isinstance(job.outcome, CallTimeout):
                    self._gave_up(job, job.outcome)
                elif isinstance(job.outcome, RemoteError):
                    self._again(job, job.outcome)
            self._pool.retire_if_worn(process)
            if process.condemned and not lane.load:
                self._leave(lane)
        elif now >= min(lane.deadline, process.last_moment):
            self._failed(lane, process.timed_out())
        if lane in self._lanes and self._is_crowded:
            self._drop_partial(process)

    def _runs_again(self, job: Job) -> bool:
        """True if the answer to a message asks for another attempt, as far as it may have one."""
        if isinstance(job.outcome, RemoteError):
            return self._calls.tries_again(job)
        return isinstance(job.outcome, CallTimeout)

    def _kept(self, done: list[Job]) -> list[Any]:
        """The outcomes of jobs that are open no more, as far as there is room for them."""
        sizes = [job.size for job in done]
        outcomes = [job.outcome for job in done]
        self._waiting += sum(sizes)
        self._largest = max(self._largest // 2, 1, *sizes)
        if self._is_crowded or None in outcomes:
            self._make_room(done)
            outcomes = [job.outcome for job in done if job.outcome is not None]
        return outcomes

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

    def _drop_partial(self, process: Process) -> None:
        """Drop what has come of other messages than the first; they run again at their end."""
        for job in process.open_jobs:
            if job.size and job is not self._first:
                process.answers.drop(job)

    def _gave_up(self, job: Job, error: CallTimeout) -> None:
        self._calls.gave_up(job, error)
        if job.outcome is None:
            self._ready.append(job)

    def _again(self, job: Job, error: RemoteError) -> None:
        job.outcome = None
        self._calls.judge(job, error)
        if job.outcome is None:
            self._later.append((time.monotonic() + self._calls.retry_delay(job, error), job))

    def _failed(self, lane: Lane, error: HostError) -> None:
        """Sort out whose fault it was, and give the others back."""
        concurrency = lane.process.concurrency
        announced = lane.process.answers.failed is not None
        suspect, others = split(lane.process.open_jobs, concurrency, error, announced=announced)
        self._leave(lane)
        for job in others:
            job.release()
        self._return(others)
        if suspect is not None:
            self._charge(suspect, error)

    def _part(self, lane: Lane) -> None:
        """
        Leave a process that has no message. None is charged with what has become of it; but each
        process may say that it can't go on before it has one, and then the next message is.
        """
        process = lane.process
        self._leave(lane)
        if process.gave_up and self._ready:
            self._charge(self._ready.popleft(), process.failure(may_have_run=False))

    def _charge(self, job: Job, error: HostError) -> None:
        self._calls.judge(job, error)
        if job.outcome is None:
            self._return([job])

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
