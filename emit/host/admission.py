"""
Who may start a process: the limits over all nodes of a host, and whose turn it is.

1. At ``max_processes`` or ``max_rss`` the one that has waited longest for a start, of whatever
   node, gets the next process that becomes idle: it is stopped to make room.
2. A process that others of its own node wait for gives way to those only that have waited longer,
   and when it has served for as long as it took to start: a host with more busy nodes than it may
   have processes would do little but start them otherwise.
3. Beyond that, `CONCURRENT_STARTS` processes may be starting at a time.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

__all__ = ["CONCURRENT_STARTS", "Admission", "Rival", "Sized", "Turn"]

#: Processes that may be starting at the same time: 16 are back in 1.2 s, and a herd of 500
#: does not start 500 interpreters at once.
CONCURRENT_STARTS = 2

#: Seconds after which one that has not asked again has been thrown out, and is passed over.
_GONE = 2.0


class Sized(Protocol):
    """What takes memory: a process."""

    def rss(self) -> int:
        """Bytes of memory."""


class Rival(Protocol):
    """One of the pools that share the limits."""

    @property
    def processes(self) -> Sequence[Sized]:
        """All of its processes, idle and leased."""

    @property
    def longest_idle(self) -> float:
        """Since when its longest idle process has idled; infinite if none idles."""

    def evict(self) -> Callable[[], None] | None:
        """Take the process that has idled longest out of the pool. Returns what stops it."""


class Turn:
    """
    A caller's place among those that wait for a process, or for the right to start one.

    Attributes:
        pool: Where it waits.
        since: Since when, by the monotonic clock.
        asked: When it last asked for a start.
        box: Gets a lease of a process, or None: something has changed.
    """

    __slots__ = ("__weakref__", "asked", "box", "pool", "since")

    def __init__(self, pool: Rival) -> None:
        self.pool = pool
        self.since = self.asked = time.monotonic()
        self.box: queue.SimpleQueue[Any] = queue.SimpleQueue()


class Admission:
    """
    Args:
        max_processes: Of all nodes together; None: as many as their sizes allow.
        max_rss: Bytes of memory of all processes together; None: no limit.
        pools: All pools there are.
        most_starts: How many may be starting at a time.

    The sets are weak: a caller that is thrown out anywhere leaves them with its `Turn`.
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
        #: Whether somebody waits for room. Looked at with each process that is given back.
        self.is_contended = False
        self._pools = pools
        self._most_starts = most_starts
        # Guards what follows. Reentrant, as the collector may give a process back at any moment;
        # and never held while a pool's lock is waited for, since a pool asks with its own held.
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
        Whether *turn* may start a process now: until `leave` that counts as one that is there.

        Args:
            turn: Whose; it waits from now on, if it may not.
            evict: Stop an idle process of another node for it, if there is no room.
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
        """*turn* has started its process, or wants to start none any more."""
        with self._lock:
            held = [turns for turns in self._all if turn in turns]
            for turns in held:
                turns.discard(turn)
        if held:
            self.wake()

    def first(self) -> Turn | None:
        """Who has waited longest for room."""
        with self._lock:
            recent = time.monotonic() - _GONE
            without = [turn for turn in self._waiting if turn not in self._admitted]
            turns = [turn for turn in without if turn.asked >= recent]
            self.is_contended = bool(turns) and self.is_contended
            return min(turns, key=lambda turn: turn.since, default=None)

    def is_waiting(self, turn: Turn) -> bool:
        """Whether *turn* waits for room."""
        return self.is_contended and turn in self._waiting and turn not in self._admitted

    def wake(self) -> None:
        """Have the one whose turn it is look again: a process has become idle, or has ended."""
        with self._lock:
            turn = min(self._waiting, key=lambda turn: turn.since, default=None)
        if turn is not None:
            turn.box.put(None)

    def _admit(self, turn: Turn, evict: bool) -> bool:
        if self.max_processes is None and self.max_rss is None:
            return True
        # Only the first that waits goes on, so nobody else takes its room meanwhile.
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
        """Whether there is no room for another process, the admitted ones included."""
        if self.max_processes is None and self.max_rss is None:
            return False
        with self._lock:
            count = len(self._admitted)
        processes = [process for pool in self._pools() for process in pool.processes]
        if self.max_processes is not None and count + len(processes) >= self.max_processes:
            return True
        return self.max_rss is not None and sum(p.rss() for p in processes) >= self.max_rss

    def _evict(self) -> Callable[[], None] | None:
        """Take the process that has idled longest from its pool. Returns what stops it."""
        for pool in sorted(self._pools(), key=lambda pool: pool.longest_idle):
            stop = pool.evict()
            if stop is not None:
                return stop
        return None
