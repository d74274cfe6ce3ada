"""
The processes of one node: who may use which, when one is started, replaced, given up.

Decisions are made under the lock, starting and stopping happens outside it.

A slot is a :class:`Lease` object and nothing else. The set of leases is weak: idle ones are held
by the pool, leased ones by their caller alone. So a caller that is thrown out anywhere, between
any two instructions, gives its slot back when the lease is collected, and its process is killed
then. (Counters in try/finally leaked one of four slots in 350 interrupts.)
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from emit.errors import HostError, PoolClosed, PoolTimeout, Unavailable
from emit.host.accounting import ProcessAccount
from emit.host.prepared import Prepared
from emit.host.process import Process, is_permanent
from emit.host.settings import Settings
from emit.host.stopping import stop_all
from emit.host.supervisor import Starts
from emit.host.system.program import Program
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
        node: The node's name; or the command, where several nodes share its processes.
        program: Makes what is started; called at the first start.
        settings: Its knobs.
        host: Whose pool it is: it bounds processes and starts over all nodes.

    Attributes:
        account: What its processes have cost.
    """

    def __init__(
        self,
        node: str,
        program: Callable[[], Program],
        settings: Settings,
        host: Host,
    ) -> None:
        self.node = node
        self.settings = settings
        self.account = ProcessAccount()
        self._program = Prepared(program)
        self._host = host
        # Guards all below. Reentrant: the collector may close an abandoned generator, and so
        # release its lease, in the middle of what this thread does here.
        self._lock = threading.RLock()
        self._idle: list[Lease] = []  # the one used last is used next: others can time out
        self._leases: weakref.WeakSet[Lease] = weakref.WeakSet()
        self._waiters: deque[queue.SimpleQueue[Lease | None]] = deque()
        self._starts = Starts(settings)
        self._growing = False
        self._closed = False

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
            if lease.process is not None and lease.process.look() is None:
                return lease
            self._drop(lease)
        return None

    def release(self, lease: Lease) -> None:
        """Take a process back, or kill it where it is not fit for the next caller."""
        if self._host.pid != os.getpid():
            return  # an abandoned call in a forked child: the process is the parent's
        process = lease.process
        if process is None or process.answers.jobs or process.condemned:
            self._drop(lease)
            return
        if process.node != process.program.node:  # several nodes share it
            process.serve(process.program.node)
        self.retire_if_worn(process)
        if not self._offer(lease):
            self._drop(lease)

    def retire_if_worn(self, process: Process) -> None:
        """Have a leased process replaced soon, if it is worn; it serves until then."""
        if process.retiring or process.lifespan.is_endless:
            return
        reason = process.worn()
        if reason is not None:
            process.retiring = True
            self._host.keeper.do(lambda: self.replace(process, reason))

    def _offer(self, lease: Lease) -> bool:
        """
        Let the next caller have it. False: the pool is closed, or it was replaced just now.

        Who waits longest gets it: where any caller may take it, one that calls again and again
        is the quickest each time (2 of 32 threads made 3,970 of 4,000 calls).
        """
        assert lease.process is not None
        with self._lock:
            lease.process.used = time.monotonic()
            if self._closed or lease.process.condemned:
                return False
            if self._waiters:
                self._waiters.popleft().put(lease)
            else:
                self._idle.append(lease)
            return True

    def _wait_for_lease(self, deadline: float) -> Lease:
        end = min(deadline, time.monotonic() + self._patience())
        waiter: queue.SimpleQueue[Lease | None] = queue.SimpleQueue()
        lease: Lease | None = None
        try:
            while lease is None:
                lease = self._take(waiter, end)
                if lease is None:
                    lease = self.try_acquire()
                elif lease.process is None:
                    self._start_into(lease, end)
        finally:
            self._leave(waiter)
        return lease

    def _take(self, waiter: queue.SimpleQueue[Lease | None], end: float) -> Lease | None:
        """A slot with its process or the right to start one. None, after a while: try again."""
        with self._lock:
            lease = self._reserve()
            if lease is not None or self._idle:
                return lease
            if waiter not in self._waiters:
                self._waiters.append(waiter)
            pause = self._starts.delay(time.monotonic()) if self._has_room() else _RECHECK
        if remaining(end) <= 0:
            raise PoolTimeout(node=self.node, timeout=self._patience(), size=self.settings.size)
        with suppress(queue.Empty):
            return waiter.get(timeout=min(remaining(end), max(pause, 0.001), _RECHECK))
        return None

    def _leave(self, waiter: queue.SimpleQueue[Lease | None]) -> None:
        """Stop waiting, and pass on what has come at the last moment."""
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        while not waiter.empty():
            late = waiter.get_nowait()
            if late is not None:
                self.release(late)

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
        """Kill a lease's process, and free its slot. One that has done its work is stopped."""
        process, lease.process = lease.process, None
        try:
            if process is not None and process.is_finished and not self._closed:
                self._host.keeper.do(lambda: self.stop(process, process.replaced or ""))
            elif process is not None:
                process.warn()
                self.account.ended(process, "failed")
                process.discard()
        finally:
            with self._lock:
                self._leases.discard(lease)
                self._wake()

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
            process = Process.start(self._program.get(), self.settings)
        except HostError as error:
            if is_permanent(error):
                self._program.forget()
            else:
                with self._lock:
                    self._starts.failed(time.monotonic(), error, random.random())
            self.account.failed_to_start(error)
            raise
        with self._lock:
            self._starts.worked()
        self.account.started(process)
        return process

    def prepare(self) -> None:
        """
        Make what is started before the first start: a build may take longer than a message is
        given that waits for a process.

        Raises:
            StartError: It can't be made.
        """
        if self._program.is_made or self._leases:
            return
        try:
            self._program.get()
        except HostError as error:
            self.account.failed_to_start(error)
            raise

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
        with self._lock:
            now = time.monotonic()
            old.retiring = not self._closed and self._starts.delay(now) == 0
            fresh = self._begin_start(now) if old.retiring else None
        if fresh is None:  # after a failed start; the next release of *old* asks again
            return
        try:
            self._start_into(fresh, now + self.settings.start_timeout)
        except BaseException:
            old.retiring = False
            raise
        with self._lock:
            worn = next((lease for lease in self._idle if lease.process is old), None)
            if worn is not None:
                self._idle.remove(worn)
                self._leases.discard(worn)
            # Where it is in use, its caller's release ends it.
            old.replaced = reason
            self._idle.insert(0, fresh)
            self._wake()
        if worn is not None:
            self.stop(old, reason)

    def stop(self, process: Process, cause: str) -> None:
        """Stop a process politely; *cause* is for the account."""
        self.account.ended(process, cause)
        stop_all([process])

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
        """Its part of a node in :meth:`emit.host.host.Host.snapshot`."""
        figures = self.account.snapshot(self.processes)
        with self._lock:
            now = time.monotonic()
            if figures["start_error"] is not None:
                figures["start_error"] |= {"retry_in": self._starts.delay(now)}
            figures |= {
                "size": self.settings.size,
                "busy": len(self._leases) - len(self._idle),
                "idle": len(self._idle),
                "queued": len(self._waiters),
                "breaker": "open" if self._starts.is_open(now) else "closed",
                **self._program.describe(),
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
