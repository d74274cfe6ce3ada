"""
The processes of one node: who may use which, when one is started, replaced, given up.

Decisions are made under the lock, starting and stopping happens outside it.

A slot is a :class:`Lease` object and nothing else. The set of leases is weak: idle ones are held
by the pool, leased ones by their caller alone. So a caller that is thrown out anywhere, between
any two instructions, gives its slot back when the lease is collected, and its process is killed
then. (Counters in try/finally leaked one of four slots in 350 interrupts.)
"""

from __future__ import annotations

import queue
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from emit.errors import HostError, PoolClosed, PoolTimeout, RemoteError, Unavailable
from emit.host.accounting import Account
from emit.host.batch import Batch
from emit.host.fate import FAILURES, DeadLetter, Job
from emit.host.process import Process, is_permanent
from emit.host.program import Program
from emit.host.settings import Settings
from emit.host.supervisor import Starts
from emit.host.transport import remaining

if TYPE_CHECKING:
    from emit.host.host import Host

#: Seconds after which a waiting caller looks again, should its wake-up have gone to another
#: that was thrown out in that moment.
_RECHECK = 0.1


class Lease:
    """
    A slot in a pool, with or (while it is being started) without its process.

    Attributes:
        process: The process; None before its start and after its end.
        since: When the slot was first taken, by the monotonic clock.
    """

    __slots__ = ("__weakref__", "process", "since")

    def __init__(self) -> None:
        self.process: Process | None = None
        self.since = time.monotonic()


class Pool:
    """
    Args:
        node: The node's name.
        program: Makes what is started; called at the first start.
        settings: Its knobs.
        host: Whose pool it is: it bounds processes and starts over all nodes.
        dead_letter: Called with each dead letter; its message then has no results. None: the
            failure is raised, with the letter as an attribute.
    """

    def __init__(
        self,
        node: str,
        program: Callable[[], Program],
        settings: Settings,
        host: Host,
        dead_letter: Callable[[DeadLetter], Any] | None = None,
    ) -> None:
        self.node = node
        self.settings = settings
        self.account = Account(node)
        self._make_program = program
        self._program: Program | None = None
        self._host = host
        self._dead_letter = dead_letter
        self._lock = threading.Lock()  # guards all below
        self._idle: list[Lease] = []  # the one used last is used next: others can time out
        self._leases: weakref.WeakSet[Lease] = weakref.WeakSet()
        self._waiters: deque[queue.SimpleQueue[None]] = deque()
        self._starts = Starts(settings)
        self._growing = False
        self._closed = False
        self._meta = {"deadline_ms": int(settings.timeout * 1000)}

    # -- messages --------------------------------------------------------------------------

    def call(self, fields: Mapping[str, Any]) -> list[Any]:
        """
        Give one message to a process.

        Returns:
            What its handler emitted; empty where it emitted nothing.

        Raises:
            NodeError: The handler failed. The process stays usable.
            HostError: The process, its pipe or its pool failed ``max_attempts`` times, or the
                message can't be sent at all.
        """
        job = Job(fields)
        while job.outcome is None:
            self._attempt(job)
        return self.settle(job)

    def stream(self, fields: Mapping[str, Any]) -> Generator[Any, None, None]:
        """
        As :meth:`call`, but each result comes as it is emitted, and none is kept.

        After the first result nothing is tried again: it may already have gone on.
        """
        job = Job(fields)
        deadline = time.monotonic() + self.settings.timeout
        with self.lease(deadline) as process:
            process.submit(job, self.meta(job))
            process.flush()
            while job.outcome is None:
                process.wait(deadline)
                process.receive()
                results, job.results = job.results, None
                if results:
                    deadline = time.monotonic() + self.settings.timeout
                    yield from results
        yield from self.settle(job)

    def call_many(self, messages: Iterable[Mapping[str, Any]]) -> Generator[Any, None, None]:
        """
        Give many messages to the pool's processes, pipelined.

        Returns:
            An outcome for each, in their order: a list of results, or the exception that
            stands for them. Closing the generator early kills the processes it uses.
        """
        return Batch(self, messages).outcomes()

    def settle(self, job: Job) -> list[Any]:
        """A finished job's results; raises what stands for them, or buries it where asked."""
        outcome = job.outcome
        if not isinstance(outcome, Exception):
            return outcome or []
        letter = getattr(outcome, "letter", None)
        if letter is not None and self._dead_letter is not None:
            self._dead_letter(letter)
            return []
        raise outcome

    def meta(self, job: Job) -> dict[str, Any]:
        """What the process is told about a call."""
        return {**self._meta, "attempt": job.attempt} if job.causes else self._meta

    def judge(self, job: Job, error: HostError | RemoteError) -> None:
        """Charge a job with a failure of its process, or with an answer that asks for more."""
        self.account.retried(error)
        job.charge(error, self.settings.max_attempts, time.time())

    def _attempt(self, job: Job) -> None:
        began = time.monotonic()
        deadline = began + self.settings.timeout
        lease = self.acquire(deadline)
        try:
            assert lease.process is not None
            lease.process.call(job, self.meta(job), deadline)
        except FAILURES as error:
            self.judge(job, error)
            return
        finally:
            self.release(lease)
        self.account.answered((job.outcome,), time.monotonic() - began)
        if isinstance(job.outcome, RemoteError) and job.outcome.retry:
            self._again(job, job.outcome)

    def _again(self, job: Job, error: RemoteError) -> None:
        """The author asks for another attempt: after the delay that he gave, or the backoff."""
        job.outcome = None
        self.judge(job, error)
        if job.outcome is None:
            time.sleep(self.retry_delay(job, error))

    def retry_delay(self, job: Job, error: RemoteError) -> float:
        if error.after is not None:
            return error.after
        wait = self.settings.backoff * 2.0 ** (len(job.causes) - 1)
        return min(self.settings.backoff_max, wait) * (0.5 + random.random() / 2)

    # -- leases ----------------------------------------------------------------------------

    @contextmanager
    def lease(self, deadline: float) -> Generator[Process, None, None]:
        """
        Borrow a process for a ``with`` block. It is kept if it has answered all that it was
        asked by then, and killed otherwise: what is half-read would answer the next caller.

        Raises:
            PoolTimeout: None became free in time.
            Unavailable: The program failed to start several times; no start is tried now.
            StartError, StartTimeout: It failed to start just now.
            PoolClosed: The pool was closed.
        """
        lease = self.acquire(deadline)
        try:
            assert lease.process is not None
            yield lease.process
        finally:
            self.release(lease)

    def acquire(self, deadline: float) -> Lease:
        """As :meth:`lease`; the caller has to give it back to :meth:`release`."""
        lease = self.try_acquire()
        return lease if lease is not None else self._wait_for_lease(deadline)

    def try_acquire(self) -> Lease | None:
        """A lease of an idle process, if there is one."""
        while self._idle:
            with self._lock:
                if not self._idle:
                    break
                lease = self._idle.pop()
            if lease.process is not None and self._is_fit(lease.process):
                return lease
            self._drop(lease)
        return None

    def release(self, lease: Lease) -> None:
        """Take a process back, or kill it where it is not fit for the next caller."""
        process = lease.process
        if process is None or process.open_count or process.condemned or self._closed:
            self._drop(lease)
            return
        process.used = time.monotonic()
        reason = process.worn()
        with self._lock:
            self._idle.append(lease)
            if self._waiters:
                self._wake()
        if reason is not None and not process.retiring:
            process.retiring = True
            self._host.keeper.do(lambda: self.replace(process, reason))

    def _wait_for_lease(self, deadline: float) -> Lease:
        began = time.monotonic()
        end = min(deadline, began + self._patience())
        while True:
            lease = self._take(end)
            if lease is not None:
                self._start_into(lease, end)
            else:
                lease = self.try_acquire()
            if lease is not None:
                self.account.waited(time.monotonic() - began)
                return lease

    def _take(self, end: float) -> Lease | None:
        """A slot with the right to start a process. None, after a while: try again."""
        with self._lock:
            lease = self._reserve()
            if lease is not None or self._idle:
                return lease
            waiter: queue.SimpleQueue[None] = queue.SimpleQueue()
            self._waiters.append(waiter)
            pause = self._starts.delay(time.monotonic()) if self._has_room() else _RECHECK
        if remaining(end) <= 0:
            raise PoolTimeout(node=self.node, timeout=self._patience(), size=self.settings.size)
        with suppress(queue.Empty):
            waiter.get(timeout=min(remaining(end), max(pause, 0.001), _RECHECK))
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return None

    def _reserve(self) -> Lease | None:
        if self._closed:
            raise PoolClosed(node=self.node)
        if self._idle or not self._has_room():
            return None
        now = time.monotonic()
        if self._starts.is_open(now):
            until = self._starts.open_until or now
            raise Unavailable(
                node=self.node, retry_in=max(0.0, until - now), last=self._starts.last
            )
        return self._begin_start(now) if self._starts.delay(now) == 0 else None

    def _begin_start(self, now: float) -> Lease:
        self._starts.began(now)
        lease = Lease()
        self._leases.add(lease)
        return lease

    def _has_room(self) -> bool:
        return len(self._leases) < self.settings.size

    def _patience(self) -> float:
        limit = self.settings.acquire_timeout
        return self.settings.timeout if limit is None else limit

    def _wake(self) -> None:
        if self._waiters:
            self._waiters.popleft().put(None)

    def _drop(self, lease: Lease) -> None:
        """Kill a lease's process, and free its slot."""
        process, lease.process = lease.process, None
        try:
            if process is not None:
                self.account.ended(process, "failed")
                process.discard()
        finally:
            with self._lock:
                self._leases.discard(lease)
                self._wake()

    def _is_fit(self, process: Process) -> bool:
        reason = process.look()
        if reason is not None:
            process.pipes.lines.logger.warning("%r is discarded: %s", process, reason)
        return reason is None

    # -- starts and replacements -----------------------------------------------------------

    def _start_into(self, lease: Lease, end: float) -> None:
        try:
            self._host.admit(lease, self.node, end)
            lease.process = self._start()
        except BaseException:
            with self._lock:
                self._starts.interrupted()
            self._drop(lease)
            raise
        finally:
            self._host.admitted(lease)

    def _start(self) -> Process:
        try:
            process = Process.start(self.program(), self.settings)
        except HostError as error:
            if not is_permanent(error):
                with self._lock:
                    self._starts.failed(time.monotonic(), error, random.random())
            self.account.failed_to_start(error)
            raise
        with self._lock:
            self._starts.worked()
        self.account.started(process)
        return process

    def program(self) -> Program:
        """What is started: made once, so that later changes of PATH change nothing."""
        if self._program is None:
            self._program = self._make_program()
        return self._program

    def grow_soon(self) -> None:
        """Have one more process started beside what goes on, if there is room for it."""
        with self._lock:
            if self._growing or not self._has_room():
                return
            self._growing = True
        self._host.keeper.do(self.grow)

    def grow(self) -> None:
        """Start one more process, if there is room, and let it idle. For the keeper's thread."""
        with self._lock:
            self._growing = False
            now = time.monotonic()
            may = not self._closed and self._has_room() and self._starts.delay(now) == 0
            lease = self._begin_start(now) if may else None
        if lease is not None:
            self._start_into(lease, time.monotonic() + self.settings.start_timeout)
            self.release(lease)

    def replace(self, old: Process, reason: str) -> None:
        """Start another process, and only then stop *old*. For the keeper's thread."""
        fresh = Lease()
        self._start_into(fresh, time.monotonic() + self.settings.start_timeout)
        with self._lock:
            worn = next((lease for lease in self._idle if lease.process is old), None)
            if worn is not None:
                self._idle.remove(worn)
                self._leases.discard(worn)
            old.condemned = reason  # where it is in use, its caller's release ends it
            self._leases.add(fresh)
            self._idle.insert(0, fresh)
            self._wake()
        if worn is not None:
            self.stop(old, reason)

    def stop(self, process: Process, cause: str) -> None:
        """Stop a process politely; *cause* is for the account."""
        self.account.ended(process, cause)
        began = time.monotonic()
        process.begin_stop()
        process.finish_stop(began)

    # -- housekeeping ----------------------------------------------------------------------

    @property
    def needs_keeping(self) -> bool:
        """Whether there is something to do while nobody calls."""
        settings = self.settings
        limits = (settings.idle_timeout, settings.max_age, settings.max_rss)
        return settings.min_idle > 0 or any(limit is not None for limit in limits)

    def keep(self) -> None:
        """Stop what has idled too long, replace what is too old, fill up to ``min_idle``."""
        for process in self._take_expired():
            self.stop(process, "idle")
        for process, reason in self._find_worn():
            self.replace(process, reason)
        for _ in range(self.settings.min_idle - len(self._idle)):
            self.grow()

    def _take_expired(self) -> list[Process]:
        now = time.monotonic()
        with self._lock:
            spare = max(0, len(self._idle) - self.settings.min_idle)
            expired = [lease for lease in self._idle if _is_expired(lease, now)][:spare]
            return [self._give_up(lease) for lease in expired]

    def _find_worn(self) -> list[tuple[Process, str]]:
        with self._lock:
            idle = [lease.process for lease in self._idle if lease.process is not None]
        worn = [(process, process.worn()) for process in idle if not process.retiring]
        return [(process, reason) for process, reason in worn if reason is not None]

    def take_longest_idle(self, before: float) -> Process | None:
        """Give up the process that has idled longest, if it has since before *before*."""
        with self._lock:
            lease = min(self._idle, key=_last_use, default=None)
            return None if lease is None or _last_use(lease) >= before else self._give_up(lease)

    def _give_up(self, lease: Lease) -> Process:
        self._idle.remove(lease)
        self._leases.discard(lease)
        assert lease.process is not None
        return lease.process

    @property
    def longest_idle(self) -> float:
        """Since when its longest idle process has idled; infinite where none does."""
        with self._lock:
            return min(map(_last_use, self._idle), default=float("inf"))

    @property
    def busy(self) -> int:
        """How many processes are in use, or being started."""
        with self._lock:
            return len(self._leases) - len(self._idle)

    def snapshot(self) -> dict[str, Any]:
        """Its part of :meth:`emit.host.host.Host.snapshot`."""
        figures = self.account.snapshot(self.processes)
        with self._lock:
            figures |= {
                "size": self.settings.size,
                "busy": len(self._leases) - len(self._idle),
                "idle": len(self._idle),
                "queued": len(self._waiters),
                "breaker": "open" if self._starts.is_open(time.monotonic()) else "closed",
            }
        return figures

    @property
    def processes(self) -> list[Process]:
        """All of its processes, idle and leased."""
        with self._lock:
            return [lease.process for lease in self._leases if lease.process is not None]

    def close(self) -> list[Process]:
        """Take no more messages. Returns the idle processes, for the host to stop together."""
        with self._lock:
            self._closed = True
            while self._waiters:
                self._wake()
            return [self._give_up(lease) for lease in list(self._idle)]

    def __repr__(self) -> str:
        with self._lock:
            idle, queued = len(self._idle), len(self._waiters)
            busy = len(self._leases) - idle
        state = "closed" if self._closed else self._breaker()
        return (
            f"<Pool {self.node} [Calls: {busy} active, {queued} queued | "
            f"Processes: {busy} busy, {idle} idle of {self.settings.size}{state}]>"
        )

    def _breaker(self) -> str:
        return " | Breaker: open" if self._starts.is_open(time.monotonic()) else ""


def _last_use(lease: Lease) -> float:
    return lease.process.used if lease.process is not None else float("inf")


def _is_expired(lease: Lease, now: float) -> bool:
    process = lease.process
    return process is not None and process.lifespan.is_idle_too_long(now - process.used)
