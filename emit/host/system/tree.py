"""
Killing a process and all that it started.

A signal to the process alone leaves its children; one to its group leaves what took a new
session; following parents leaves daemons, whose parents are gone. So it is all three and then
a sweep by cookie, the variable that each process inherits in its environment.

macOS has no /proc: see `emit.host.system.family`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from emit.host.system import sentinel

if sys.platform != "linux":
    from emit.host.system import family as portable

__all__ = ["kill_tree", "signal_group"]

#: Seconds until killing is given up, as on a process that hangs in the kernel.
BOUND = 2.0


def kill_tree(pid: int, cookie: str, *, pinned: bool, bound: float = BOUND) -> bool:
    """
    Leave nothing of what *pid* started.

    Args:
        pid: The leader of its session, dead or alive.
        cookie: What its environment carries and no other process's.
        pinned: Whether *pid* is sure not to belong to another process by now, as it is while
            we have not reaped it. If not, only the cookie counts.
        bound: Seconds, after which it returns anyway.

    Returns:
        Whether nothing is left. Not found is what clears its environment, takes a new
        session and has lost its parents, all three.
    """
    family = _family(pid) if pinned else set()
    if pinned:
        signal_group(pid, signal.SIGKILL)
    if sys.platform != "linux":
        return portable.sweep(cookie, family, seconds=bound)
    return sentinel.sweep(_belongs(pid, cookie, family, pinned), seconds=bound)


def signal_group(pgid: int, number: int) -> bool:
    """
    Signal a process group.

    Returns:
        False where that was refused: the group is gone, or its members have another user's
        id. Nothing follows from it about who is alive, so the caller goes on regardless.
    """
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _family(pid: int) -> set[tuple[int, float]]:
    """The descendants of *pid* with their starts. Taken before a kill: orphans lose parents."""
    if sys.platform != "linux":
        return portable.descendants(pid)
    return _descendants(pid)


def _descendants(pid: int) -> set[tuple[int, float]]:
    table = [p for p in map(sentinel.look, sentinel.pids()) if p is not None]
    children: dict[int, list[sentinel.Process]] = {}
    for process in table:
        children.setdefault(process.parent, []).append(process)
    found: set[tuple[int, float]] = set()
    todo = children.get(pid, [])
    while todo:
        process = todo.pop()
        found.add((process.pid, process.started))
        todo.extend(children.get(process.pid, []))
    return found


def _belongs(
    pid: int, cookie: str, family: set[tuple[int, float]], pinned: bool
) -> Callable[[sentinel.Process], bool]:
    token = cookie.encode()

    def test(process: sentinel.Process) -> bool:
        return (
            (pinned and process.session == pid)
            or (process.pid, process.started) in family
            or token in sentinel.lineage(process.pid)
        )

    return test
