"""
Processes and all that they started: who they are, what they use, and their end.

A signal to a process alone leaves its children; one to its group leaves what took a new
session; following parents leaves daemons, whose parents are gone. So it is all three and then
a sweep by cookie, the variable that each process inherits in its environment.

The end of a program costs what it has started, not what runs on the machine: its descendants are
asked for by their parents, programs that end together are swept for together, and of the other
processes of the machine each is read once in the life of the host.

macOS has no /proc: see `emit.host.system.family`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from emit.host.system import sentinel
from emit.host.system.lifeline import boot_clock

__all__ = [
    "Table",
    "Tree",
    "descendants",
    "describe_stall",
    "is_ending",
    "kill_trees",
    "signal_group",
    "used",
]

if sys.platform != "linux":
    from emit.host.system import family as portable


#: Seconds until killing is given up, as on a process that hangs in the kernel.
BOUND = 2.0

#: Seconds for which a child of the host itself may still show the host's environment.
_YOUNG = 10.0

#: Sessions of closed programs, and processes that were killed, that are remembered to be reaped.
_PAST = 1000

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Tree(NamedTuple):
    """
    A program and what it started.

    Attributes:
        pid: The leader of its session, dead or alive.
        cookie: What its environment carries and no other process's.
        pinned: Whether *pid* is sure not to belong to another process by now, as it is while
            we have not reaped it. If not, only the cookie counts.
    """

    pid: int
    cookie: str
    pinned: bool


def kill_trees(trees: Sequence[Tree], table: Table, *, bound: float = BOUND) -> bool:
    """
    Leave nothing of what programs started.

    Args:
        trees: The programs.
        table: The host's, which has started them.
        bound: Seconds, after which it returns anyway.

    Returns:
        Whether nothing is left. Not found is what clears its environment, takes a new
        session and has lost its parents, all three; and without /proc what left the group.
    """
    # Before a kill: orphans lose their parents.
    family = {member for tree in trees if tree.pinned for member in descendants(tree.pid)}
    for tree in trees:
        if tree.pinned:
            signal_group(tree.pid, signal.SIGKILL)
    if sys.platform != "linux":
        return portable.sweep({tree.cookie for tree in trees}, family, seconds=bound)
    sessions = {tree.pid for tree in trees if tree.pinned}
    cookies = {tree.cookie.encode() for tree in trees}
    return sentinel.sweep(lambda: table.kill(sessions, cookies, family), seconds=bound)


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


def used(pid: int) -> tuple[float, int]:
    """Seconds of processor time and bytes of memory of a process and its descendants."""
    if sys.platform != "linux":
        return portable.used(pid)
    each = [_used(number) for number in (pid, *(number for number, _ in descendants(pid)))]
    return sum(cpu for cpu, _ in each), sum(rss for _, rss in each)


def descendants(pid: int) -> set[tuple[int, float]]:
    """The descendants of a process, each by its number and its start."""
    if sys.platform != "linux":
        return portable.descendants(pid)
    all_children = None if _tells_children() else _all_children()
    found: set[tuple[int, float]] = set()
    todo = [pid]
    while todo:
        parent = todo.pop()
        for child in _children(parent) if all_children is None else all_children.get(parent, ()):
            process = sentinel.look(child)
            if process is not None and (child, process.started) not in found:
                found.add((child, process.started))
                todo.append(child)
    return found


class Table:
    """
    The process table as one host looks at it: of a process that it knows nothing is read again.

    A process does not become one of the host's: it inherits the cookie and the session that it is
    known by. So it is read when it is first seen, and remembered by a key that no other gets.

    Args:
        tokens: What the cookies of the host's programs begin with.
    """

    def __init__(self, *tokens: str) -> None:
        self._tokens = tuple(token.encode() for token in tokens)
        self._host = os.getpid()
        self._since = int(boot_clock() * _TICKS) - 1
        # Guards what follows: two threads may sweep at a time. Reentrant: the collector may close
        # an abandoned generator, and so kill its process, in the middle of a sweep.
        self._lock = threading.RLock()
        self._sessions: set[int] = set()  # of programs that were started and not closed
        self._past: deque[int] = deque(maxlen=_PAST)  # of those that were closed
        self._killed: deque[tuple[int, float]] = deque(maxlen=_PAST)  # by number and start
        self._known: dict[sentinel.Key, _Member | None] = {}  # None: no process of the host's

    def began(self, session: int) -> None:
        """A program was started, in a session of its own."""
        with self._lock:
            self._sessions.add(session)

    def ended(self, session: int) -> None:
        """A program was closed."""
        with self._lock:
            self._sessions.discard(session)
            self._past.append(session)

    def kill(
        self, sessions: Collection[int], cookies: Collection[bytes], family: set[tuple[int, float]]
    ) -> int:
        """
        One round: kill what is in *sessions*, has one of *cookies*, or is of the *family*.

        Returns:
            How many were killed.
        """
        doomed = family | {
            (member.pid, member.started)
            for member in self._members()
            if member.session in sessions or any(c in cookies for c in member.cookies)
        }
        killed = 0
        for pid, started in doomed:
            process = sentinel.look(pid)
            if process is None or process.started != started or process.state in "ZX":
                family.discard((pid, started))
            elif sentinel.kill(process):
                killed += 1
                with self._lock:
                    self._killed.append((pid, started))
        return killed

    def reap(self) -> None:
        """
        Reap the dead that programs have left to this process, if it is process 1, as in a container
        without an init: no other process would, and they would take all numbers in the end.

        Children that other code in this process has started are left to it. A process that this one
        has started has its session, or leads one; what is in the session of another has lost its
        parent, and nobody waits for it.
        """
        if self._host != 1:
            return
        with self._lock:
            sessions, killed = {*self._sessions, *self._past}, {*self._killed}
        for pid in _children(1):
            process = sentinel.look(pid)
            if process is None or process.state != "Z" or pid in self._sessions:
                continue
            is_led = process.session in sessions and process.session != pid
            if is_led or (pid, process.started) in killed:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _members(self) -> list[_Member]:
        """The processes of the host that there are. Only those are read that are new."""
        found: list[_Member] = []
        with self._lock:
            known: dict[sentinel.Key, _Member | None] = {}
            for key in sentinel.table():
                member = self._known.get(key)
                if member is None and key not in self._known:
                    member, is_certain = self._read(key[0])
                else:
                    is_certain = True
                if is_certain:
                    known[key] = member
                if member is not None:
                    found.append(member)
            self._known = known
        return found

    def _read(self, pid: int) -> tuple[_Member | None, bool]:
        """A process, if it is one of the host's, and whether that is certain."""
        process = sentinel.look(pid)
        if process is None or process.state in "ZX" or process.started < self._since:
            return None, True
        try:
            environment = sentinel.environment(pid)
        except OSError:  # another user's
            environment = b"?"
        cookies = [c for c in sentinel.cookies(environment) if c.startswith(self._tokens)]
        if cookies or process.session in self._sessions:
            return _Member(pid, process.session, process.started, tuple(cookies)), True
        # Empty in the midst of an exec; that of the host, between a fork of its own and the exec.
        age = boot_clock() - process.started / _TICKS
        return None, bool(environment) and (process.parent != self._host or age > _YOUNG)


class _Member(NamedTuple):
    """A process of the host's, as it was when it was first seen."""

    pid: int
    session: int
    started: int
    cookies: tuple[bytes, ...]


def _children(pid: int) -> list[int]:
    """The children of a process, whichever of its threads has started them."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):  # the thread has
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


@functools.cache
def _tells_children() -> bool:
    """Whether the kernel tells the children of a process: some are built without that."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def _all_children() -> dict[int, list[int]]:
    """The children of all processes, from the whole table."""
    found: dict[int, list[int]] = {}
    for number, _ in sentinel.table():
        process = sentinel.look(number)
        if process is not None:
            found.setdefault(process.parent, []).append(number)
    return found


def _used(pid: int) -> tuple[float, int]:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:  # it has ended since, or there is no /proc
        return 0.0, 0
    words = stat[stat.rindex(b")") + 2 :].split()
    return (int(words[11]) + int(words[12])) / _TICKS, int(words[21]) * _PAGE


# -- Why a program says nothing, from what the kernel knows ----------------------------------------

#: read(2) by its number on the architectures of /proc/<pid>/syscall that we know.
_READ = {"x86_64": "0", "aarch64": "63"}

#: PF_EXITING among the flags of /proc/<pid>/stat.
_EXITING = 0x4


def describe_stall(pid: int) -> str:
    """
    A hint for a program that did not answer, or "".

    One that waits for its input although it was given a message has its answer in a buffer,
    or reads until the end of its input, as a one-shot program does.
    """
    if sys.platform != "linux":
        return ""
    try:
        call = Path(f"/proc/{pid}/syscall").read_text().split()
        state = _stat(pid)[0]
    except (OSError, IndexError):
        return ""
    if state == "T":
        return "it is stopped, as by SIGSTOP"
    if call[:2] == [_READ.get(os.uname().machine, ""), "0x0"]:
        return "it is waiting for input: a missing flush, or a program that reads to the end"
    return ""


def is_ending(pid: int) -> bool:
    """
    Whether a program is on its way out: the kernel has closed its descriptors, and tells its
    status when it has taken down the rest, which on a busy machine may be a while later.
    """
    try:
        return bool(int(_stat(pid)[6]) & _EXITING)
    except (OSError, IndexError):  # it is gone, or this is not Linux
        return False


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat behind the name, which may hold spaces: from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
