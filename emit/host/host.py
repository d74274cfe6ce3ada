"""
All pools of one operating-system process.

A host never crosses a fork: the child drops it and makes its own on first use. Two processes on
one pipe read each other's answers (in a test more than half of 500 were wrong).
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from emit.errors import PoolTimeout
from emit.host.fate import DeadLetter
from emit.host.keeper import Keeper
from emit.host.pool import Lease, Pool
from emit.host.process import Process
from emit.host.program import Program
from emit.host.settings import Settings
from emit.host.transport import remaining

#: Processes that may be starting at the same time: 16 are back in 1.2 s, and a herd of 500
#: does not start 500 interpreters at once.
CONCURRENT_STARTS = 2

#: Seconds between two looks of a start that waits for its turn.
_TURN = 0.02


class Host:
    """
    Args:
        max_processes: Of all nodes together; None: as many as their sizes allow.
        max_rss: Bytes of memory of all processes together; None: no limit. It is looked at
            before each start, so a process that grows later is not stopped by it.

    At either limit the process that has idled longest, of whatever node, makes room for a new
    one; where none idles the start waits.

    Example:
        >>> host = Host(max_processes=8)
        >>> host
        <Host [0 nodes | Processes: 0 busy, 0 idle of 8]>
        >>> host.close()
    """

    def __init__(self, max_processes: int | None = None, max_rss: int | None = None) -> None:
        self.max_processes = max_processes
        self.max_rss = max_rss
        self.pid = os.getpid()
        self.keeper = Keeper(self._keep)
        self._lock = threading.Lock()  # guards the two below
        self._pools: dict[int, Pool] = {}
        self._starting: weakref.WeakSet[Lease] = weakref.WeakSet()
        self._closed = False

    def pool(
        self,
        node: str,
        program: Callable[[], Program],
        settings: Settings,
        dead_letter: Callable[[DeadLetter], Any] | None = None,
    ) -> Pool:
        """Make the pool of a node. Nothing is started but its ``min_idle`` processes."""
        pool = Pool(node, program, settings, self, dead_letter)
        with self._lock:
            self._pools[id(pool)] = pool
        if pool.needs_keeping:
            self.keeper.wake()
        return pool

    @property
    def pools(self) -> list[Pool]:
        with self._lock:
            return list(self._pools.values())

    # -- admission -------------------------------------------------------------------------

    def admit(self, lease: Lease, node: str, end: float) -> None:
        """
        Wait until a process may be started, and count it as starting.

        Raises:
            PoolTimeout: It may not in time.
        """
        while not self._try_admit(lease):
            if remaining(end) <= 0:
                raise PoolTimeout(
                    node=node, timeout=time.monotonic() - lease.since, size=len(self._processes())
                )
            time.sleep(min(_TURN, remaining(end)))

    def admitted(self, lease: Lease) -> None:
        """The start that *lease* stood for is over, well or not."""
        with self._lock:
            self._starting.discard(lease)

    def _try_admit(self, lease: Lease) -> bool:
        if self._is_full() and not self._evict(lease.since):
            return False
        with self._lock:
            if len(self._starting) >= CONCURRENT_STARTS:
                return False
            self._starting.add(lease)
            return True

    def _is_full(self) -> bool:
        processes = self._processes() if self.max_processes or self.max_rss else []
        with self._lock:
            count = len(processes) + len(self._starting)
        if self.max_processes is not None and count >= self.max_processes:
            return True
        return self.max_rss is not None and sum(p.rss() for p in processes) >= self.max_rss

    def _evict(self, before: float) -> bool:
        """Stop the process that has idled longest. False: none idles."""
        for pool in sorted(self.pools, key=lambda pool: pool.longest_idle):
            process = pool.take_longest_idle(before)
            if process is not None:
                pool.stop(process, "evicted")
                return True
        return False

    def _processes(self) -> list[Process]:
        return [process for pool in self.pools for process in pool.processes]

    # -- looking ---------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """
        All figures, as plain data that JSON can carry. Cheap enough for every second.

        Returns:
            ``{"pid": 1, "max_processes": None, "max_rss": None, "nodes": {name: node}}``
            where *node* has, in this order:

            * ``calls``, and by the name of the exception ``failures`` (messages that ended in
              one) and ``retries`` (attempts that were charged);
            * ``starts``, ``start_failures``, and ``ends`` by cause: ``failed``, ``stopped``,
              ``idle``, ``evicted``, ``max_calls``, ``max_age``, ``max_rss``;
            * ``wait_seconds`` (for a process), ``call_seconds`` and ``start_seconds``, each as
              ``{"p50", "p90", "p99", "max", "mean"}``, to within 19 %;
            * ``sent_bytes``, ``received_bytes``, ``strays`` (lines on stdout that were no
              frames), ``cpu_seconds``, ``rss_bytes`` and ``peak_rss_bytes`` (of one process
              and its children, as far as it was looked at);
            * ``processes``: each with ``pid``, ``state`` ("busy" or "idle"), ``calls``,
              ``age_seconds``, ``idle_seconds``, ``cpu_seconds``, ``rss_bytes``;
            * ``size``, ``busy``, ``idle``, ``queued`` and ``breaker`` ("closed" or "open").
        """
        return {
            "pid": self.pid,
            "max_processes": self.max_processes,
            "max_rss": self.max_rss,
            "nodes": {pool.node: pool.snapshot() for pool in self.pools},
        }

    def __repr__(self) -> str:
        pools = self.pools
        busy = sum(pool.busy for pool in pools)
        idle = sum(len(pool.processes) for pool in pools) - busy
        of = f" of {self.max_processes}" if self.max_processes is not None else ""
        closed = " | closed" if self._closed else ""
        return f"<Host [{len(pools)} nodes | Processes: {busy} busy, {idle} idle{of}{closed}]>"

    # -- the end ---------------------------------------------------------------------------

    def _keep(self) -> bool:
        needy = [pool for pool in self.pools if pool.needs_keeping]
        for pool in needy:
            pool.keep()
        return bool(needy)

    def close(self, pools: list[Pool] | None = None) -> None:
        """
        Stop the processes of *pools* (default: all), politely and all together.

        Calls that are under way in other threads end with ``PoolClosed`` or with their answer.
        Does nothing in a forked child, whose processes these are not. Any number of times.
        """
        if self.pid != os.getpid():
            return
        chosen = self.pools if pools is None else pools
        if pools is None:
            self._closed = True
            self.keeper.stop(timeout=max([0.0, *(p.settings.stop_grace for p in chosen)]))
        stopping = [(pool, process) for pool in chosen for process in pool.close()]
        with self._lock:
            for pool in chosen:
                self._pools.pop(id(pool), None)
        _stop_together(stopping)


def _stop_together(stopping: list[tuple[Pool, Process]]) -> None:
    began = time.monotonic()
    for pool, process in stopping:
        pool.account.ended(process, "stopped")
        process.begin_stop()
    for _, process in stopping:
        process.finish_stop(began)


_current: Host | None = None
_making = threading.Lock()


def current() -> Host:
    """This operating-system process's host; made when first asked for."""
    global _current
    host = _current
    if host is None or host.pid != os.getpid():
        with _making:
            if _current is None or _current.pid != os.getpid():
                _current = Host()
            host = _current
    return host


def _close_current() -> None:
    if _current is not None:
        _current.close()


def _forget() -> None:
    """In a forked child: the host and its processes are the parent's, and so may the lock be."""
    global _current, _making
    _current = None
    _making = threading.Lock()


atexit.register(_close_current)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
