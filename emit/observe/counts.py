"""
The counts of this process, in files that outlive it.

1. The files are in one folder for all processes of a user on a machine. They are mapped into
   memory, so a count that was made is in the file, even if the process is killed right after.
2. Each process holds one slot: the lock on ``<number>.lock``, and the files
   ``counter_<number>.db`` and ``histogram_<number>.db``. When the process ends, however it does,
   the kernel frees the lock. The next process that starts takes the slot and counts on from the
   values in its files.
3. So a sum over all files never falls, and there are never more files than processes at a time. In
   prometheus_client's own multiprocess mode each process has files of its own: a pool that replaces
   its processes leaves thousands, and all are read at each scrape.
4. Space is reserved before it is used. A write to a mapped file for which a full disk has no room
   is not an error but a signal that kills the process.
5. The lock is a POSIX lock, which a forked child does not inherit. The child takes another slot.

The files have the format of prometheus_client, whose ``MultiProcessCollector.merge`` reads them.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from bisect import bisect_left
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import IO

from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.utils import INF, floatToGoString

from emit.host import status
from emit.host.system.private import private
from emit.observe.series import BUCKETS, Series, Tally

__all__ = ["VARIABLE", "Counts", "files", "folder_of"]

#: The environment variable with the folder, if it is not the usual one.
VARIABLE = "EMIT_METRICS_DIR"

#: Bytes of a new file. A number takes about 200, and a histogram has 18 for each node.
_SIZE = 1 << 18

#: Bytes that must be free before a number is added.
_SPARE = 4096

_BOUNDS = tuple(floatToGoString(bound) for bound in (*BUCKETS, INF))


def folder_of(folder: str | os.PathLike[str] | None = None) -> Path:
    """
    Return the folder of the counts: *folder*, ``$EMIT_METRICS_DIR``, or ``metrics`` beside the
    sockets of this user's hosts.
    """
    chosen = folder or os.environ.get(VARIABLE)
    return Path(chosen) if chosen else status.folder() / "metrics"


def files(folder: Path) -> list[str]:
    """Return the files with counts, of processes that live and that have ended."""
    found = (path for path in folder.glob("*_*.db"))
    return sorted(str(path) for path in found if path.stat().st_size)


class Counts:
    """
    Keeps series in this process's slot. Any thread may call it. A forked child has another slot.

    Args:
        folder: See :func:`folder_of`.

    Attributes:
        tally: The observer that fills them, if there is one.

    Raises:
        PermissionError: Another user could write to the folder. Raised by the first count.
    """

    _all: dict[Path, Counts] = {}  # noqa: RUF012  # a process must not hold one slot twice

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tally: Tally | None = None
        self._pid = 0
        self._lock = threading.RLock()  # guards the fields below; reentrant for signal handlers
        self._slot: _Slot | None = None

    @classmethod
    def at(cls, folder: Path) -> Counts:
        """Return this process's counts in *folder*."""
        return cls._all.setdefault(folder.absolute(), cls(folder.absolute()))

    def add(self, series: Series, labels: tuple[str, ...], amount: float = 1.0) -> None:
        """Add to a counter."""
        with self._lock:
            self._mine().cell(series, labels).add(amount)

    def record(self, series: Series, labels: tuple[str, ...], seconds: float) -> None:
        """Record a duration in a histogram."""
        with self._lock:
            slot = self._mine()
            slot.cell(series, labels, bisect_left(BUCKETS, seconds)).add(1.0)
            slot.cell(series, labels, -1).add(seconds)

    def _mine(self) -> _Slot:
        if self._pid != os.getpid() or self._slot is None:
            parents, self._slot = self._slot, None
            if parents is not None:
                parents.close()
            self._slot = _Slot(self.folder)
            self._pid = os.getpid()
        return self._slot


class _Cell:
    """One number in a file. Nobody else writes it, so its value is kept here as well."""

    __slots__ = ("_file", "_key", "_value")

    def __init__(self, file: MmapedDict, key: str) -> None:
        self._file = file
        self._key = key
        self._value: float = file.read_value(key)[0]

    def add(self, amount: float) -> None:
        self._value += amount
        self._file.write_value(self._key, self._value, 0.0)


class _Slot:
    """The files that this process holds."""

    def __init__(self, folder: Path) -> None:
        private(folder)
        number, self._lock = next(_free(folder))
        self._paths = {kind: folder / f"{kind}_{number}.db" for kind in ("counter", "histogram")}
        try:
            for path in self._paths.values():
                _reserve(path)
        except BaseException:
            self._lock.close()
            raise
        self._files = {kind: MmapedDict(str(path)) for kind, path in self._paths.items()}
        self._cells: dict[tuple[str, tuple[str, ...], int], _Cell] = {}

    def close(self) -> None:
        """Close the files, as in a forked child. A lock of the parent stays."""
        for file in self._files.values():
            file.close()
        self._lock.close()

    def cell(self, series: Series, labels: tuple[str, ...], bucket: int = -1) -> _Cell:
        """Return a counter's number, or a histogram's: of a bucket, or (-1) of the sum."""
        key = (series.name, labels, bucket)
        found = self._cells.get(key)
        if found is None:
            found = self._cells[key] = self._make(series, labels, bucket)
        return found

    def _make(self, series: Series, labels: tuple[str, ...], bucket: int) -> _Cell:
        names, values = list(series.labels), list(labels)
        kind, suffix = "counter", "_total"
        if series.is_histogram:
            kind, suffix = "histogram", "_sum"
            if bucket >= 0:
                self._make_buckets(series, names, values)
                names, values, suffix = [*names, "le"], [*values, _BOUNDS[bucket]], "_bucket"
        _reserve(self._paths[kind])
        key = mmap_key(series.name, series.name + suffix, names, values, series.help)
        return _Cell(self._files[kind], key)

    def _make_buckets(self, series: Series, names: list[str], values: list[str]) -> None:
        """Make all buckets of a histogram, since a reader expects the empty ones as well."""
        for bound in _BOUNDS:
            _reserve(self._paths["histogram"])
            bucket = f"{series.name}_bucket"
            key = mmap_key(series.name, bucket, [*names, "le"], [*values, bound], series.help)
            self._files["histogram"].read_value(key)


def _reserve(path: Path) -> None:
    """
    Have a file end with free space.

    Raises:
        OSError: The disk is full. Nothing has changed.
    """
    with path.open("a+b") as file:
        size = os.fstat(file.fileno()).st_size
        used = int.from_bytes(os.pread(file.fileno(), 4, 0), sys.byteorder)
        if size < used + _SPARE:
            _allocate(file.fileno(), max(2 * size, _SIZE))


def _allocate(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS
        os.truncate(file, size)


def _free(folder: Path) -> Iterator[tuple[int, IO[bytes]]]:
    """Yield the number of a slot that no living process holds, with its lock."""
    for number in count():
        lock = (folder / f"{number}.lock").open("ab")
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
        else:
            yield number, lock
