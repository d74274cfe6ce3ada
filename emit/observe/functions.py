"""
Counts of the nodes that are Python functions, over all processes of a worker, for the fleet.

The host of a program keeps its figures, and answers for them. A function has no host. So each
process that handles messages counts them in memory that it shares with the worker's own process:

1. The memory is a file without a name, made before the pool forks. Nobody else can open it, and
   the kernel frees it with the last process.
2. Each process holds one slot of it, by a lock that the kernel frees when the process ends,
   however it does. The next process that starts takes the slot over, and counts on. So a sum never
   falls, and a message that was counted stays so if its process is killed right after.
3. Nobody waits: each process writes its own slot only, and the worker reads without a lock.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from emit import workers
from emit.host.accounting import INSTANT, Recent, Times, bucket_of
from emit.observe.facts import Dead, Failed, Finished, Retried

__all__ = ["Functions"]

#: Bytes of a node's name, and of all that a slot has about a node: the name and numbers.
_NAME, _ROW = 448, 1792

#: Nodes that a process can count, and bytes of a slot. Pages of memory have up to 64 KB.
_ROWS = 512
_SLOT = _ROWS * _ROW

#: The places of a row's numbers. From the last one on they are the buckets of the durations.
_CALLS, _FAILURES, _RETRIES, _RUNS, _SECONDS, _LONGEST, _INSTANT, _BUCKETS = range(8)

#: The number of the first bucket: of 4 microseconds. The last one is of 24 days.
_FIRST = -72
_LAST = _FIRST + (_ROW - _NAME) // 8 - _BUCKETS - 1


class Functions:
    """
    Counts what the Python functions of a worker's routers do, in this process and in those that it
    will fork. It goes on until it is closed.

    Args:
        project: The name of the project.
    """

    def __init__(self, project: str) -> None:
        self.pid = os.getpid()
        self.project = project
        self._began = time.time()
        self._file = _nameless()
        self._recent: dict[str, Recent] = {}
        self._lock = threading.RLock()  # guards the two fields below; reentrant for signal handlers
        self._slot: _Slot | None = None
        self._holder = 0
        self._watches: WeakKeyDictionary[Any, _Watch] = WeakKeyDictionary()
        self._leave = workers.each_router(self._watch)

    def _watch(self, router: Any) -> None:
        self._watches[router] = router.observe(_Watch(self, router))

    def close(self) -> None:
        """Count no more in this process."""
        self._leave()
        for router, watch in self._watches.items():
            router.unobserve(watch)
        if self._slot is not None:
            self._slot.close()
        os.close(self._file)

    def row(self, name: str) -> Any:
        """Return the numbers of a node in this process's slot, or None: there is no room."""
        with self._lock:
            if self._slot is None or self._holder != os.getpid():
                if self._slot is not None:  # the parent's
                    self._slot.close()
                self._slot = _Slot(self._file)
                self._holder = os.getpid()
            return self._slot.row(name)

    def add(self, name: str, place: int) -> None:
        """Add one to a number of a node."""
        with self._lock:
            numbers = self.row(name)
            if numbers is not None:
                numbers[place] += 1.0

    def time(self, name: str, seconds: float) -> None:
        """Record the duration of a run."""
        with self._lock:
            numbers = self.row(name)
            if numbers is None:
                return
            numbers[_RUNS] += 1.0
            numbers[_SECONDS] += seconds
            numbers[_LONGEST] = max(numbers[_LONGEST], seconds)
            place = _INSTANT
            if seconds >= INSTANT:
                place = _BUCKETS + min(max(bucket_of(seconds), _FIRST), _LAST) - _FIRST
            numbers[place] += 1.0

    def snapshot(self) -> dict[str, Any]:
        """
        Return all figures in the form of :meth:`emit.host.host.Host.snapshot`. What a function
        can't have is 0 or empty: its ``size`` is 0, and a program's never. ``calls`` are messages
        that were handled or given up, ``failures`` those that were given up, ``retries`` attempts
        after which the message is tried again.
        """
        now = time.monotonic()
        sums: dict[str, list[float]] = {}
        for name, numbers in _rows(self._file):
            had = sums.setdefault(name, [0.0] * len(numbers))
            longest = max(had[_LONGEST], numbers[_LONGEST])
            had[:] = [a + b for a, b in zip(had, numbers, strict=True)]
            had[_LONGEST] = longest
        nodes = {name: self._node(name, numbers, now) for name, numbers in sorted(sums.items())}
        head = {"pid": self.pid, "project": self.project, "began": self._began}
        return {**head, "max_processes": None, "max_rss": None, "nodes": nodes}

    def _node(self, name: str, numbers: list[float], now: float) -> dict[str, Any]:
        calls, failures, retries = (int(n) for n in numbers[:3])
        buckets = {_FIRST + at: int(n) for at, n in enumerate(numbers[_BUCKETS:]) if n}
        runs, instant = int(numbers[_RUNS]), int(numbers[_INSTANT])
        times = Times.of(runs, numbers[_SECONDS], numbers[_LONGEST], instant, buckets)
        recent = self._recent.setdefault(name, Recent())
        return {
            "node": name,
            "project": self.project,
            "calls": calls,
            "failures": {"failed": failures} if failures else {},
            "retries": {"retried": retries} if retries else {},
            "wait_seconds": Times().summary(),
            "call_seconds": times.summary(),
            "recent": recent.look(now, calls, failures, times),
            **_OF_A_PROGRAM,
            "start_seconds": Times().summary(),
        }


#: The figures that only a program has.
_OF_A_PROGRAM: dict[str, Any] = {
    **dict.fromkeys(("starts", "start_failures", "sent_bytes", "received_bytes", "strays"), 0),
    **dict.fromkeys(("cpu_seconds", "rss_bytes", "peak_rss_bytes"), 0),
    **dict.fromkeys(("size", "busy", "idle", "queued"), 0),
    "start_error": None,
    "pool": None,
    "breaker": "closed",
    "language": "python",
    "ends": {},
    "processes": [],
    "command": [],
    "version": "",
}


class _Watch:
    """
    An observer that counts the messages which a queue has brought to a router's functions.

    The fate of a failed message follows its run: until then it isn't counted.
    """

    def __init__(self, counts: Functions, router: Any) -> None:
        self._counts = counts
        self._nodes = router._nodes
        self._carrier = router.carrier

    def __call__(self, fact: Any) -> None:
        kind = type(fact)
        if kind is Finished or kind is Failed:
            if self._is_mine(fact):
                self._counts.time(fact.node, fact.seconds)
                if kind is Finished:
                    self._counts.add(fact.node, _CALLS)
        elif kind is Dead and self._is_mine(fact):
            self._counts.add(fact.node, _CALLS)
            self._counts.add(fact.node, _FAILURES)
        elif kind is Retried and self._is_mine(fact):
            self._counts.add(fact.node, _RETRIES)

    def _is_mine(self, fact: Any) -> bool:
        node = self._nodes.get(fact.node)
        return fact.carrier == self._carrier and node is not None and not node.foreign


class _Slot:
    """The part of the file that this process holds."""

    def __init__(self, file: int) -> None:
        number = next(n for n in count() if _is_free(file, n))
        start = number * _SLOT
        if os.fstat(file).st_size < start + _SLOT:
            os.pwrite(file, b"\0", start + _SLOT - 1)  # unlike ftruncate this never shrinks it
        self._map = mmap.mmap(file, _SLOT, offset=start)
        self._numbers: dict[str, Any] = {}
        for place, (name, _) in enumerate(_rows_of(self._map)):
            self._numbers[name] = self._at(place)

    def close(self) -> None:
        """Close this process's copy. Its lock is free then, or still its parent's."""
        for numbers in self._numbers.values():
            numbers.release()
        self._map.close()

    def row(self, name: str) -> Any:
        """Return the numbers of a node, or None: there is no room, or its name is too long."""
        found = self._numbers.get(name)
        if found is None:
            told, place = name.encode(), len(self._numbers)
            if len(told) > _NAME or place == _ROWS:
                return None
            start = place * _ROW
            self._map[start : start + len(told)] = told
            found = self._numbers[name] = self._at(place)
        return found

    def _at(self, place: int) -> Any:
        start = place * _ROW
        return memoryview(self._map)[start + _NAME : start + _ROW].cast("d")


def _nameless() -> int:
    """Return the descriptor of a file without a name, which no program of a node inherits."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("emit-functions")
    with tempfile.TemporaryFile(prefix="emit-") as file:
        return os.dup(file.fileno())


def _is_free(file: int, number: int) -> bool:
    """Take the lock of a slot. Return False if another process has it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except OSError:
        return False
    return True


def _rows(file: int) -> Iterator[tuple[str, list[float]]]:
    """Yield each row of all slots: a name and its numbers."""
    for start in range(0, os.fstat(file).st_size, _SLOT):
        for place in range(_ROWS):
            found = next(_rows_of(os.pread(file, _ROW, start + place * _ROW)), None)
            if found is None:
                break
            yield found


def _rows_of(data: Any) -> Iterator[tuple[str, list[float]]]:
    """Yield the rows in these bytes, up to the first empty one."""
    for start in range(0, len(data), _ROW):
        name = bytes(data[start : start + _NAME]).rstrip(b"\0")
        if not name:
            return
        numbers = memoryview(bytes(data[start + _NAME : start + _ROW])).cast("d")
        yield name.decode(), list(numbers)
