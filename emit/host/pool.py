"""
The processes of one node: which caller gets which, and when each is started, replaced or stopped.

The pool decides under its lock, and starts and stops processes outside of it.

A slot is a :class:`Lease` object and nothing else. The pool holds the idle leases; each other
lease is held only by its caller, since the set of leases is weak. If an exception interrupts the
caller, between any two instructions, the collector frees the lease: the slot is free again, and
its process is killed. (Counters in try/finally leaked one of four slots in 350 interrupts.)
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence, Sized
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from emit.errors import HostError, PoolClosed, PoolTimeout, StartError, Unavailable
from emit.host.accounting import ProcessAccount, Usage
from emit.host.admission import Admission, Turn
from emit.host.keeper import Keeper
from emit.host.lines import logger_of
from emit.host.settings import Settings
from emit.host.starts import Lifespan, Starts
from emit.host.transport import pause, remaining
from emit.observe.observers import Observers

__all__ = ["Lease", "Member", "Pool", "Source"]

#: Seconds until a waiting caller looks again. Its wake-up may have gone to a caller that was
#: interrupted at that moment.
_RECHECK = 0.1

#: Seconds between two checks of a message that waits for its next attempt.
_SLICE = 0.25


class Talk(Protocol):
    """
    The conversation with a member, as a pool sees it: :class:`emit.host.conversation.Conversation`.

    Attributes:
        node: The node that the member serves by default.
        jobs: The open calls.
        condemned: Why the member may not be used again; None: it may.
    """

    node: str
    condemned: str | None

    @property
    def jobs(self) -> Sized: ...
    def look(self) -> object: ...
    def settle(self) -> bool: ...


class Member(Protocol):
    """
    The process as a pool sees it. A shared host is a member as well: its clients pool connections.

    Attributes:
        talk: The conversation with the process.
        born: Time of its start, by the monotonic clock.
        used: Time when it was last given back.
        start_seconds: Seconds from its start until it was ready.
        lifespan: The limits after which it is replaced.
        retiring: True while a replacement is being started.
        replaced: Why it was replaced, once the replacement is ready; None: it was not.
    """

    born: float
    used: float
    start_seconds: float
    lifespan: Lifespan
    retiring: bool
    replaced: str | None

    @property
    def talk(self) -> Talk: ...
    def serve(self, node: str) -> None: ...
    def worn(self) -> str | None: ...
    def replace(self, reason: str) -> None: ...
    def failure(self, *, may_have_run: bool | None = None) -> HostError: ...
    def rss(self) -> int: ...
    def usage(self) -> Usage: ...
    def describe(self, usage: Usage) -> dict[str, Any]: ...
    def warn(self) -> None: ...
    def stop(self) -> None: ...
    def discard(self) -> None: ...
    @property
    def is_finished(self) -> bool: ...
    @property
    def gave_up(self) -> bool: ...


P = TypeVar("P", bound=Member)
P_co = TypeVar("P_co", bound=Member, covariant=True)


class Source(Protocol[P_co]):
    """The maker of a pool's processes."""

    @property
    def is_ready(self) -> bool:
        """True if `prepare` has nothing to do."""

    def prepare(self) -> object:
        """Make the program that is to be started. Raises StartError."""

    def start(self) -> P_co:
        """Start a process. Raises HostError."""

    def is_permanent(self, error: HostError) -> bool:
        """Return whether a failed start should not count for the backoff and the breaker."""

    def describe(self) -> dict[str, Any]:
        """Return the program's part of a node in :meth:`emit.host.host.Host.snapshot`."""


class Lease(Generic[P]):
    """
    A slot in a pool. It has no process while its process is being started.

    Attributes:
        process: The process; None before its start and after its end.
    """

    __slots__ = ("__weakref__", "process")

    def __init__(self) -> None:
        self.process: P | None = None


class Pool(Generic[P]):
    """
    The processes of one node, or of several nodes of one program.

    Args:
        node: The node's name; or the command, if several nodes share the processes.
        source: Makes the processes.
        settings: The node's options.
        admission: Decides, over all pools, who may start a process.
        keeper: Starts and stops processes beside the messages; None: nothing does.
        observers: Are told about the processes.

    Attributes:
        account: Costs of the processes so far.
        source: Makes the processes.
        needs_keeping: True if the settings need work while no message comes.
        is_closed: True if the pool takes no more messages.
    """

    def __init__(
        self,
        node: str,
        source: Source[P],
        settings: Settings,
        admission: Admission,
        keeper: Keeper | None,
        observers: list[Observers] | None = None,
    ) -> None:
        self.node = node
        self.settings = settings
        self.account = ProcessAccount(node, observers)
        self.source = source
        limits = (settings.idle_timeout, settings.max_age, settings.max_rss)
        self.needs_keeping = settings.min_idle > 0 or any(limit is not None for limit in limits)
        self._admission = admission
        self._later = keeper.do if keeper is not None else _never
        self._pid = os.getpid()
        # Guards all fields below. Reentrant: the collector may close an abandoned generator, which
        # releases its lease, while this thread holds the lock.
        self._lock = threading.RLock()
        self._idle: list[Lease[P]] = []  # last used, next used: so that the others can time out
        self._leaving: list[Lease[P]] = []  # idle ones that make room for a start of another node
        self._leases: weakref.WeakSet[Lease[P]] = weakref.WeakSet()
        self._waiters: deque[Turn] = deque()
        self._starts = Starts(settings)
        self._growing = False
        self.is_closed = False
        self._closing = threading.Event()

    # -- leases ----------------------------------------------------------------------------

    @contextmanager
    def lease(self, deadline: float) -> Generator[P, None, None]:
        """
        Borrow a process for a ``with`` block. The process is kept if it has answered everything by
        the end of the block, or ends the rest within ``cancel_grace``. Otherwise it is killed: it
        would still be at work for nobody.

        Raises:
            PoolTimeout: No process became free in time.
            Unavailable: The program failed to start several times; no start is tried now.
            StartError, StartTimeout: The program failed to start just now. A start that was killed
                has been tried up to ``max_attempts`` times by then.
            PoolClosed: The pool was closed.
        """
        lease = self.acquire(deadline)
        try:
            assert lease.process is not None
            yield lease.process
        finally:
            self.release(lease)

    def acquire(self, deadline: float) -> Lease[P]:
        """Do as :meth:`lease`; the caller must give the lease to :meth:`release`."""
        lease = self.try_acquire()
        return lease if lease is not None else self._wait_for_lease(deadline)

    def try_acquire(self) -> Lease[P] | None:
        """Return a lease of an idle process, or None."""
        if self._leaving and self._admission.first() is None:
            with self._lock:  # no caller waits for their room any more
                self._idle += self._leaving
                self._leaving.clear()
        while self._idle:
            with self._lock:
                if not self._idle:
                    break
                lease = self._idle.pop()
            if lease.process is not None and lease.process.talk.look() is None:
                return lease
            self._drop(lease)
        return None

    def release(self, lease: Lease[P]) -> None:
        """
        Take a process back, or kill it if it is not fit for the next caller. Wait at most
        ``cancel_grace`` for a process with open calls.
        """
        if self._pid != os.getpid():
            return  # an abandoned call in a forked child: the process is the parent's
        process = lease.process
        if (
            process is None
            or process.talk.condemned
            or (process.talk.jobs and not process.talk.settle())
        ):
            self._drop(lease)
            return
        if lease not in self._leases:
            # The collector frees it and its process, and closes the generator that had them.
            self._drop(lease)
            return
        if process.talk.node != self.node:  # several nodes share it
            process.serve(self.node)
        if not process.lifespan.is_endless:
            self.retire_if_worn(process)
        if not self._offer(lease):
            self._drop(lease)

    def retire_if_worn(self, process: P) -> None:
        """Have a worn process replaced soon. It serves until then."""
        if process.retiring or process.lifespan.is_endless:
            return
        reason = process.worn()
        if reason is not None:
            process.retiring = True
            self._later(lambda: self.replace(process, reason))

    def _offer(self, lease: Lease[P]) -> bool:
        """
        Hand a process to the next caller. Return False if the pool is closed or the process has
        just been replaced.

        The caller that has waited longest gets it. If any caller could take it, one that calls
        again and again would be the quickest each time (2 of 32 threads made 3,970 of 4,000
        calls). The same order holds between nodes if the host has no room for another process:
        see `emit.host.admission`.
        """
        assert lease.process is not None
        other = self._admission.first() if self._admission.is_contended else None
        with self._lock:
            lease.process.used = time.monotonic()
            if self.is_closed or lease.process.talk.condemned:
                return False
            if other is not None and self._gives_way(lease.process, other):
                self._leaving.append(lease)
            elif self._waiters:
                self._waiters.popleft().box.put(lease)
            else:
                self._idle.append(lease)
        if other is not None:
            other.box.put(None)
        return True

    def _gives_way(self, process: P, other: Turn) -> bool:
        """Return whether a process should make room for one of another node."""
        mine = self._waiters[0].since if self._waiters else float("inf")
        served = time.monotonic() - process.born - process.start_seconds
        return other.pool is not self and other.since < mine and served >= process.start_seconds

    def _wait_for_lease(self, deadline: float) -> Lease[P]:
        turn = Turn(self)
        end = min(deadline, turn.since + self._patience())
        killed: list[StartError] = []
        try:
            while True:
                lease = self._begin(turn) or self._await(turn, end, killed)
                if lease is not None and lease.process is None:
                    self._start_for(turn, lease, killed)
                if lease is None:
                    lease = self.try_acquire()
                if lease is not None and lease.process is not None:
                    return lease
        finally:
            self._leave(turn)

    @property
    def is_wanted(self) -> bool:
        """True if a caller waits for a process, or for room in a host that is full."""
        return self._admission.is_contended and self._admission.first() is not None

    def _begin(self, turn: Turn) -> Lease[P] | None:
        """Return a new lease if a process may be started for this caller now, else None."""
        with self._lock:
            may = turn.box.empty() and self._may_start()
        if may and not self._admission.may_start(turn):
            return None
        with self._lock:
            if may and self._may_start():
                if turn in self._waiters:  # leave the processes that come back to other callers
                    self._waiters.remove(turn)
                return self._begin_start(time.monotonic())
        self._admission.leave(turn)
        return None

    def _may_start(self) -> bool:
        """
        Return whether a process may be started now.

        Raises:
            PoolClosed: The pool is closed.
            Unavailable: The breaker is open.
        """
        if self.is_closed:
            raise PoolClosed(node=self.node)
        if self._idle or not self._has_room():
            return False
        now = time.monotonic()
        if self._starts.is_open(now):
            raise self._unavailable(max(0.0, (self._starts.open_until or now) - now))
        return self._starts.delay(now) == 0

    def _unavailable(self, retry_in: float) -> Unavailable:
        return Unavailable(node=self.node, retry_in=retry_in, last=self._starts.last)

    def _start_for(self, turn: Turn, lease: Lease[P], killed: list[StartError]) -> None:
        """
        Start a process for a waiting caller. If a signal kills the start, as the kernel does when
        memory runs out, that says nothing about the program: the caller tries again.
        """
        try:
            self._start_into(lease, turn)
        except StartError as error:
            killed.append(error)
            if error.signal is None or len(killed) >= self.settings.max_attempts:
                raise
            logger_of(self.node).warning("a start is tried again: %s", error)

    def _await(self, turn: Turn, end: float, killed: Sequence[StartError]) -> Lease[P] | None:
        """Wait for a process that another caller gives back. None: look again."""
        with self._lock:
            if self._idle:
                return None
            if turn not in self._waiters:
                self._waiters.append(turn)
            delay = self._starts.delay(time.monotonic()) if self._has_room() else 0.0
        if remaining(end) <= 0:
            raise self._out_of_time(turn, delay, killed)
        with suppress(queue.Empty):
            lease: Lease[P] | None = turn.box.get(
                timeout=min(remaining(end), delay or _RECHECK, _RECHECK)
            )
            return lease
        return None

    def _out_of_time(self, turn: Turn, delay: float, killed: Sequence[StartError]) -> HostError:
        """Make the error of a caller that has waited for too long."""
        if killed:
            return killed[-1]
        if delay > 0:
            return self._unavailable(delay)
        limit = self._admission.limit if self._admission.is_waiting(turn) else ""
        size = self.settings.size
        return PoolTimeout(node=self.node, timeout=self._patience(), size=size, limit=limit)

    def _leave(self, turn: Turn) -> None:
        """Stop waiting, and pass on a process that came at the last moment."""
        self._admission.leave(turn)
        with self._lock:
            if turn in self._waiters:
                self._waiters.remove(turn)
        while not turn.box.empty():
            late = turn.box.get_nowait()
            if late is not None:
                self.release(late)

    def _begin_start(self, now: float) -> Lease[P]:
        self._starts.began(now)
        lease = Lease[P]()
        self._leases.add(lease)
        return lease

    def _has_room(self) -> bool:
        return len(self._leases) < self.settings.size

    def _patience(self) -> float:
        limit = self.settings.acquire_timeout
        return self.settings.timeout if limit is None else limit

    def _wake(self) -> None:
        if self._waiters:
            self._waiters.popleft().box.put(None)

    def _drop(self, lease: Lease[P]) -> None:
        """Free a slot and kill its process. A process that has done its work is stopped instead."""
        process, lease.process = lease.process, None
        try:
            if process is not None and process.is_finished and not self.is_closed:
                self._later(lambda: self.stop(process, process.replaced or ""))
            elif process is not None:
                process.warn()
                if process.gave_up:
                    self._relapse(process)
                self.account.ended(process, "failed")
                process.discard()
        finally:
            with self._lock:
                self._leases.discard(lease)
                self._wake()
            if self._admission.is_contended:
                self._admission.wake()

    def _relapse(self, process: P) -> None:
        """Count a process that gave up before its first answer as a failed start."""
        error = process.failure()
        self.account.failed_to_start(error)
        with self._lock:
            self._starts.relapsed(time.monotonic(), error, random.random())

    # -- starts and replacements -----------------------------------------------------------

    def _start_into(self, lease: Lease[P], turn: Turn) -> None:
        try:
            lease.process = self._start()
        except BaseException:
            with self._lock:
                self._starts.interrupted()
            self._drop(lease)
            raise
        finally:
            self._admission.leave(turn)

    def _start(self) -> P:
        try:
            process = self.source.start()
        except HostError as error:
            if not self.source.is_permanent(error):
                with self._lock:
                    self._starts.failed(time.monotonic(), error, random.random())
            self.account.failed_to_start(error)
            raise
        with self._lock:
            self._starts.worked()
        self.account.started(process.start_seconds)
        return process

    def prepare(self) -> None:
        """
        Prepare the program before its first start. A build may take longer than a message may
        wait for a process.

        Raises:
            StartError: The program can't be made.
        """
        if self._idle or self._leases or self.source.is_ready:
            return
        try:
            self.source.prepare()
        except HostError as error:
            self.account.failed_to_start(error)
            raise

    def grow_soon(self) -> None:
        """Have the keeper start one more process, if there is room for it."""
        with self._lock:
            if self._growing or not self._has_room():
                return
            self._growing = True
        self._later(self._grow)

    def _grow(self, *, evict: bool = True) -> None:
        """
        Start one more idle process, if there is room. For the keeper's thread.

        Args:
            evict: An idle process of another node may be stopped to make room.
        """
        with self._lock:
            self._growing = False
        lease, turn = self._begin_beside(evict=evict)
        if lease is not None:
            self._start_into(lease, turn)
            self.release(lease)

    def _begin_beside(self, *, evict: bool) -> tuple[Lease[P] | None, Turn]:
        """Return a lease for one more process, or None if none may be started now."""
        turn = Turn(self)
        lease = None
        try:
            if self._may_grow() and self._admission.may_start(turn, evict=evict):
                with self._lock:
                    lease = self._begin_start(time.monotonic()) if self._may_grow() else None
        finally:
            if lease is None:
                self._admission.leave(turn)
        return lease, turn

    def _may_grow(self) -> bool:
        with self._lock:
            delay = self._starts.delay(time.monotonic())
            return not self.is_closed and self._has_room() and delay == 0

    def replace(self, old: P, reason: str) -> None:
        """
        Start another process, and only then stop *old*. For the keeper's thread.

        If the host has no room for both, *old* is stopped first, and the next message starts its
        successor.
        """
        fresh: Lease[P] | None = None
        turn = Turn(self)
        try:
            with self._lock:
                if old.replaced is not None:  # a reload was quicker
                    return
                old.retiring = not self.is_closed and self._starts.delay(time.monotonic()) == 0
            if old.retiring and self._admission.may_start(turn, evict=False):
                with self._lock:
                    fresh = self._begin_start(time.monotonic())
                self._start_into(fresh, turn)
                if fresh.process is not None and fresh.process.talk.condemned:
                    self._drop(fresh)
                    old.retiring = False
                    return
            elif not (old.retiring and self._admission.is_full):
                old.retiring = False  # too early; the next release of *old* asks again
                return
        except BaseException:
            old.retiring = False
            raise
        finally:
            self._admission.leave(turn)
        if self._succeed(old, fresh, reason):
            self.stop(old, reason)

    def exchange(self, old: P | None, fresh: P, reason: str) -> bool:
        """
        Have *fresh*, a process that was started beside the pool, take the place of *old*. New
        messages go to *fresh*, and *old* is stopped when it has answered those that it has.

        Args:
            old: A process of the pool. None: there is none to replace.

        Returns:
            False if the pool has no place for *fresh*: *old* is gone, or the pool is closed.
        """
        lease = Lease[P]()
        lease.process = fresh
        with self._lock:
            if old not in self.processes:
                old = None
            if self.is_closed or (old is None and not self._has_room()):
                return False
            self._starts.worked()
            self._leases.add(lease)
        self.account.started(fresh.start_seconds)
        if self._succeed(old, lease, reason) and old is not None:
            ended = old
            self._later(lambda: self.stop(ended, reason))
        return True

    def _succeed(self, old: P | None, fresh: Lease[P] | None, reason: str) -> bool:
        """End the service of *old*, and begin that of *fresh*. Return whether *old* is idle."""
        idle = None
        with self._lock:
            if old is not None:
                leases = (*self._idle, *self._leaving)
                idle = next((lease for lease in leases if lease.process is old), None)
                if idle is not None:
                    self._give_up(idle)
                # If *old* is in use, its caller's release ends it.
                old.replace(reason)
            if fresh is None:
                self._wake()
        if old is not None:
            self.account.replaced(old, reason)
        if fresh is not None and not self._offer(fresh):
            self._drop(fresh)  # the pool was closed meanwhile
        return idle is not None

    def stop(self, process: P, cause: str) -> None:
        """Stop a process politely, and record *cause*."""
        self.account.ended(process, cause)
        process.stop()

    def rest(self, seconds: float, caller: int | None) -> None:
        """
        Hold a message back for *seconds* before its next attempt.

        Raises:
            Abandoned: The other end of the socket *caller* was closed.
            PoolClosed: The pool was closed.
        """
        end = time.monotonic() + seconds
        while (left := remaining(end)) > 0 and not self.is_closed:
            # In slices: an exception that is thrown into this thread arrives between two of them.
            if caller is None:
                self._closing.wait(min(left, _SLICE))
            else:
                pause(min(left, _SLICE), caller)
        if self.is_closed:
            raise PoolClosed(node=self.node, may_have_run=True)

    # -- housekeeping ----------------------------------------------------------------------

    def keep(self) -> None:
        """Stop processes that idled too long, replace worn ones, and fill up to ``min_idle``."""
        for process in self._take_expired():
            self.stop(process, "idle")
        for process, reason in self._find_worn():
            self.replace(process, reason)
        for _ in range(self.settings.min_idle - len(self._idle)):
            self._grow(evict=False)  # else two nodes would evict each other's idle processes

    def _take_expired(self) -> list[P]:
        now = time.monotonic()
        with self._lock:
            spare = max(0, len(self._idle) - self.settings.min_idle)
            expired = [lease for lease in self._idle if _is_expired(lease, now)][:spare]
            return [self._give_up(lease) for lease in expired]

    def _find_worn(self) -> list[tuple[P, str]]:
        with self._lock:
            idle = [lease.process for lease in self._idle if lease.process is not None]
        worn = [(process, process.worn()) for process in idle if not process.retiring]
        return [(process, reason) for process, reason in worn if reason is not None]

    def evict(self) -> Callable[[], None] | None:
        """Give up the process that has idled longest. Return what stops it, or None."""
        with self._lock:
            lease = min(self._leaving or self._idle, key=_last_use, default=None)
            process = None if lease is None else self._give_up(lease)
        return None if process is None else partial(self.stop, process, "evicted")

    def _give_up(self, lease: Lease[P]) -> P:
        (self._leaving if lease in self._leaving else self._idle).remove(lease)
        self._leases.discard(lease)
        assert lease.process is not None
        return lease.process

    @property
    def longest_idle(self) -> float:
        """
        Return the time for `emit.host.admission.Rival`; minus infinity if a process makes room
        already.
        """
        with self._lock:
            if self._leaving:
                return float("-inf")
            return min(map(_last_use, self._idle), default=float("inf"))

    @property
    def busy(self) -> int:
        """Number of processes that are in use or being started."""
        with self._lock:
            return len(self._leases) - len(self._idle) - len(self._leaving)

    def snapshot(self) -> dict[str, Any]:
        """Return the pool's part of a node in :meth:`emit.host.host.Host.snapshot`."""
        figures = self.account.snapshot(self.processes)
        figures |= self.source.describe()  # it may read files, and so is not asked under the lock
        with self._lock:
            now = time.monotonic()
            if figures["start_error"] is not None:
                figures["start_error"] |= {"retry_in": self._starts.delay(now)}
            figures |= {
                "pool": self.node,
                "size": self.settings.size,
                "busy": self.busy,
                "idle": len(self._idle) + len(self._leaving),
                "queued": len(self._waiters),
                "breaker": "open" if self._starts.is_open(now) else "closed",
            }
        return figures

    @property
    def starting(self) -> list[Lease[P]]:
        """The leases whose processes are being started."""
        with self._lock:
            return [lease for lease in self._leases if lease.process is None]

    @property
    def processes(self) -> list[P]:
        """All processes of the pool, idle and leased."""
        with self._lock:
            return [lease.process for lease in self._leases if lease.process is not None]

    def close(self) -> list[P]:
        """Take no more messages. Return the idle processes; the host stops them together."""
        with self._lock:
            self.is_closed = True
            self._closing.set()
            while self._waiters:
                self._wake()
            return [self._give_up(lease) for lease in [*self._idle, *self._leaving]]

    def __repr__(self) -> str:
        with self._lock:
            queued, busy = len(self._waiters), self.busy
            idle = len(self._leases) - busy
        state = "closed" if self.is_closed else self._breaker()
        return (
            f"<Pool {self.node} [Calls: {busy} active, {queued} queued | "
            f"Processes: {busy} busy, {idle} idle of {self.settings.size}{state}]>"
        )

    def _breaker(self) -> str:
        return " | Breaker: open" if self._starts.is_open(time.monotonic()) else ""


def _never(job: Callable[[], None]) -> None:
    """Stand in for the keeper if there is none."""


def _last_use(lease: Lease[Any]) -> float:
    return lease.process.used if lease.process is not None else float("inf")


def _is_expired(lease: Lease[Any], now: float) -> bool:
    process = lease.process
    return process is not None and process.lifespan.is_idle_too_long(now - process.used)
