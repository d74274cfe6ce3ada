"""
A process and all that it started, as psutil tells: what they use; and, where there is no /proc,
their end.

psutil takes a fifth of the time that importing the host takes, so it is not imported before a
program is started: neither for ``emit --help`` nor for a graph that is only looked at.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

import psutil

from emit.host.system import sentinel

__all__ = ["descendants", "family", "sweep", "used"]


def used(pid: int) -> tuple[float, int]:
    """Seconds of processor time and bytes of memory of a process and its descendants."""
    cpu, rss = 0.0, 0
    for member in family(pid):
        try:
            with member.oneshot():
                times = member.cpu_times()
                cpu += times.user + times.system
                rss += member.memory_info().rss
        except psutil.Error:  # it has ended since
            continue
    return cpu, rss


def family(pid: int) -> list[psutil.Process]:
    """
    A process and its descendants. On Linux each is asked for its children, which costs a
    file per process; psutil reads the whole process table each time (2.4 ms).
    """
    try:
        process = psutil.Process(pid)
        if sys.platform != "linux":
            return [process, *process.children(recursive=True)]
        return [process, *(member for child in _children(pid) for member in family(child))]
    except psutil.Error:
        return []


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended, or the kernel has no such file
        return []


def descendants(pid: int) -> set[tuple[int, float]]:
    """The descendants of *pid* with their starts; see :mod:`emit.host.system.tree`."""
    with contextlib.suppress(psutil.Error):
        return {(p.pid, p.create_time()) for p in psutil.Process(pid).children(recursive=True)}
    return set()


def sweep(cookie: str, family: set[tuple[int, float]], *, seconds: float) -> bool:
    """Kill what belongs to the cookie or the family, as :func:`~.tree.kill_tree` does."""
    end = time.monotonic() + seconds
    quiet = 0
    while time.monotonic() < end:
        quiet = 0 if _kill_round(cookie, family) else quiet + 1
        if quiet == 2:
            return True
        time.sleep(sentinel.PAUSE)
    return False


def _kill_round(cookie: str, family: set[tuple[int, float]]) -> int:
    killed = 0
    for process in psutil.process_iter():
        # psutil compares the start before it signals.
        with contextlib.suppress(psutil.Error, OSError):
            if _is_ours(process, cookie, family):
                process.kill()
                killed += 1
    return killed


def _is_ours(process: psutil.Process, cookie: str, family: set[tuple[int, float]]) -> bool:
    if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
        return False
    known = (process.pid, process.create_time()) in family
    return known or cookie in process.environ().get(sentinel.COOKIE, "").split("/")
