"""
The right to start a process: the limits over all nodes of a host, and the order of waiting.

1. At ``max_processes`` or ``max_rss`` the caller that has waited longest for a start, of any node,
   gets the room of the next process that becomes idle. That process is stopped.
2. If callers of its own node wait for a process, it gives way only to a caller that has waited
   longer, and only after it has served for as long as it took to start. Otherwise a host with more
   busy nodes than processes would do little but start them.
3. In addition, at most `CONCURRENT_STARTS` processes may be starting at a time.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

__all__ = ["CONCURRENT_STARTS", "Admission", "Rival", "Sized", "Turn"]

#: Processes that may be starting at the same time: 16 are back in 1.2 s, and 500 callers do not
#: start 500 interpreters at once.
CONCURRENT_STARTS = 2

#: Seconds without asking again after which a caller counts as interrupted, and is passed over.
_GONE = 2.0


class Sized(Protocol):
    """A process, as a user of memory."""

    def rss(self) -> int:
        """Return its bytes of memory."""


class Rival(Protocol):
    """One of the pools that share the limits of a host."""

    @property
    def processes(self) -> Sequence[Sized]:
        """All processes of the pool, idle and leased."""

    @property
    def longest_idle(self) -> float:
        """Time since which its longest idle process has idled; infinity if none is idle."""

    def evict(self) -> Callable[[], None] | None:
        """Take the process that has idled longest out of the pool. Return what stops it."""


class Turn:
    """
    A caller's place among the callers that wait for a process, or for the right to start one.

    Attributes:
        pool: The pool in which it waits.
        since: Time when it began to wait, by the monotonic clock.
        asked: Time when it last asked for a start.
        box: Receives a lease of a process, or None: something has changed, ask again.
    """

    __slots__ = ("__weakref__", "asked", "box", "pool", "since")

    def __init__(self, pool: Rival) -> None:
        self.pool = pool
        self.since = self.asked = time.monotonic()
        self.box: queue.SimpleQueue[Any] = queue.SimpleQueue()


class Admission:
    """
    The limits of a host, and the callers that wait for a start.

    Args:
        max_processes: Processes of all nodes together; None: only the pools' own sizes limit them.
        max_rss: Bytes of memory of all processes together; None: no limit.
        pools: Returns all pools of the host.
        most_starts: Number of processes that may be starting at a time.

    The sets are weak: if an exception interrupts a caller, its `Turn` leaves them by itself.
    """

    def __init__(
        self,
        max_processes: int | None,
        max_rss: int | None,
        pools: Callable[[], Sequence[Rival]],
        most_starts: float = CONCURRENT_STARTS,
    ) -> None:
        self.max_processes = max_processes
        self.max_rss = max_rss
        #: True if a caller waits for room. Checked with each process that is given back.
        self.is_contended = False
        self._pools = pools
        self._most_starts = most_starts
        # Guards the fields below. Reentrant, as the collector may give a process back at any time.
        # Never held while waiting for a pool's lock, since a pool asks with its own lock held.
        self._lock = threading.RLock()
        self._waiting: weakref.WeakSet[Turn] = weakref.WeakSet()
        self._admitted: weakref.WeakSet[Turn] = weakref.WeakSet()  # there is room for its process
        self._starting: weakref.WeakSet[Turn] = weakref.WeakSet()
        self._all = (self._waiting, self._admitted, self._starting)

    @property
    def limit(self) -> str:
        """The limits of the host, for an error."""
        limits = {"max_processes": self.max_processes, "max_rss": self.max_rss}
        return " and ".join(f"{name} = {value}" for name, value in limits.items() if value)

    def may_start(self, turn: Turn, *, evict: bool = True) -> bool:
        """
        Return whether *turn* may start a process now. Until `leave` its start counts as a process.

        Args:
            turn: The caller's turn. If it may not start a process, it waits from now on.
            evict: Stop an idle process of another node if there is no room.
        """
        with self._lock:
            turn.asked = time.monotonic()
            self._waiting.add(turn)
        if turn not in self._admitted and not self._admit(turn, evict):
            return False
        with self._lock:
            if len(self._starting) >= self._most_starts:
                return False
            self._starting.add(turn)
            self._waiting.discard(turn)
            return True

    def leave(self, turn: Turn) -> None:
        """Note that *turn* has started its process, or no longer wants to."""
        with self._lock:
            held = [turns for turns in self._all if turn in turns]
            for turns in held:
                turns.discard(turn)
        if held:
            self.wake()

    def first(self) -> Turn | None:
        """Return the caller that has waited longest for room, or None."""
        with self._lock:
            recent = time.monotonic() - _GONE
            without = [turn for turn in self._waiting if turn not in self._admitted]
            turns = [turn for turn in without if turn.asked >= recent]
            self.is_contended = bool(turns) and self.is_contended
            return min(turns, key=lambda turn: turn.since, default=None)

    def is_waiting(self, turn: Turn) -> bool:
        """Return whether *turn* waits for room."""
        return self.is_contended and turn in self._waiting and turn not in self._admitted

    def wake(self) -> None:
        """Have the first in line look again: a process has become idle, or has ended."""
        with self._lock:
            turn = min(self._waiting, key=lambda turn: turn.since, default=None)
        if turn is not None:
            turn.box.put(None)

    def _admit(self, turn: Turn, evict: bool) -> bool:
        if self.max_processes is None and self.max_rss is None:
            return True
        # Only the first in line goes on, so no other caller takes its room meanwhile.
        if self.first() is not turn:
            return False
        stop: Callable[[], None] | None = None
        if self.is_full:
            self.is_contended = True
            stop = self._evict() if evict else None
            if stop is None:
                return False
        with self._lock:
            self._admitted.add(turn)
        if stop is not None:
            stop()
        return True

    @property
    def is_full(self) -> bool:
        """True if there is no room for another process, counting the admitted starts."""
        if self.max_processes is None and self.max_rss is None:
            return False
        with self._lock:
            count = len(self._admitted)
        processes = [process for pool in self._pools() for process in pool.processes]
        if self.max_processes is not None and count + len(processes) >= self.max_processes:
            return True
        return self.max_rss is not None and sum(p.rss() for p in processes) >= self.max_rss

    def _evict(self) -> Callable[[], None] | None:
        """Take the process that has idled longest out of its pool. Return what stops it."""
        for pool in sorted(self._pools(), key=lambda pool: pool.longest_idle):
            stop = pool.evict()
            if stop is not None:
                return stop
        return None
