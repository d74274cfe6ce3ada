"""
Processes and their descendants: their ids, their use, and their end.

A signal to a process leaves its children. A signal to its group leaves those that took a new
session. Following the parents leaves daemons, whose parents are gone. So all three are done, and
then a sweep by cookie, the variable that each process inherits in its environment.

The cost of a program's end depends on what it has started, not on the machine's other processes.
Its descendants are found by their parents. Programs that end together share one sweep. Each other
process of the machine is read once in the life of the host.

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


#: Seconds until killing is given up, as for a process that hangs in the kernel.
BOUND = 2.0

#: Seconds in which a child of the host itself may still show the host's environment.
_YOUNG = 10.0

#: Number of closed programs' sessions, and of killed processes, that are remembered for reaping.
_PAST = 1000

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Tree(NamedTuple):
    """
    A program and everything it started.

    Attributes:
        pid: The leader of its session, dead or alive.
        cookie: A mark in its environment that no other program has.
        pinned: True if *pid* can't belong to another process by now, which holds until we reap
            it. If False, only the cookie counts.
    """

    pid: int
    cookie: str
    pinned: bool


def kill_trees(trees: Sequence[Tree], table: Table, *, bound: float = BOUND) -> bool:
    """
    Kill programs and everything they started.

    Args:
        trees: The programs.
        table: The table of the host that started them.
        bound: Most seconds until it returns.

    Returns:
        True if nothing is left. A process is not found if it clears its environment, takes a new
        session and has lost its parents, all three; or, without /proc, if it left the group.
    """
    # Before the kill, as orphans lose their parents.
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
        False if that was refused: the group is gone, or its members have another user's id. This
        does not tell which members live, so the caller goes on.
    """
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def used(pid: int) -> tuple[float, int]:
    """Return the processor seconds and bytes of memory of a process and its descendants."""
    if sys.platform != "linux":
        return portable.used(pid)
    each = [_used(number) for number in (pid, *(number for number, _ in descendants(pid)))]
    return sum(cpu for cpu, _ in each), sum(rss for _, rss in each)


def descendants(pid: int) -> set[tuple[int, float]]:
    """Return the descendants of a process, each by its number and its start."""
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
    The process table, as far as one host needs it.

    A process can't join a host later: it inherits the cookie and the session by which it is known.
    So each process is read when it is first seen, and remembered by a key that no other one gets.

    Args:
        tokens: The beginnings of the cookies of the host's programs.
    """

    def __init__(self, *tokens: str) -> None:
        self._tokens = tuple(token.encode() for token in tokens)
        self._host = os.getpid()
        self._since = int(boot_clock() * _TICKS) - 1
        # Guards the fields below: two threads may sweep at a time. Reentrant: the collector may
        # close an abandoned generator, and so kill its process, in the middle of a sweep.
        self._lock = threading.RLock()
        self._sessions: set[int] = set()  # of programs that were started and not closed
        self._past: deque[int] = deque(maxlen=_PAST)  # of programs that were closed
        self._killed: deque[tuple[int, float]] = deque(maxlen=_PAST)  # by number and start
        self._known: dict[sentinel.Key, _Member | None] = {}  # None: not a process of the host

    def began(self, session: int) -> None:
        """Note that a program was started, in a session of its own."""
        with self._lock:
            self._sessions.add(session)

    def ended(self, session: int) -> None:
        """Note that a program was closed."""
        with self._lock:
            self._sessions.discard(session)
            self._past.append(session)

    def kill(
        self, sessions: Collection[int], cookies: Collection[bytes], family: set[tuple[int, float]]
    ) -> int:
        """
        Do one round: kill each process that is in *sessions*, has one of *cookies*, or is in
        *family*.

        Returns:
            The number of killed processes.
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
        Reap dead processes that programs have left to this process, if it is process 1, as in a
        container without an init. No other process would reap them, and in the end they would take
        all process numbers.

        Children that other code in this process has started are not reaped. Each of them has this
        process's session or leads its own. A process in the session of another one has lost its
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
        """Return the living processes of the host. Only new processes are read."""
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
        """Return a process if it is one of the host's, and whether that is certain."""
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
        # Empty in the middle of an exec. Between the host's own fork and the exec it is the host's.
        age = boot_clock() - process.started / _TICKS
        return None, bool(environment) and (process.parent != self._host or age > _YOUNG)


class _Member(NamedTuple):
    """A process of the host, as it was when it was first seen."""

    pid: int
    session: int
    started: int
    cookies: tuple[bytes, ...]


def _children(pid: int) -> list[int]:
    """Return the children of a process, whichever of its threads has started them."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # the process has ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):  # the thread has ended
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


@functools.cache
def _tells_children() -> bool:
    """Return whether the kernel lists a process's children: some kernels are built without it."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def _all_children() -> dict[int, list[int]]:
    """Return the children of all processes, from the whole table."""
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

#: The number of read(2) in /proc/<pid>/syscall, on the architectures that we know.
_READ = {"x86_64": "0", "aarch64": "63"}

#: PF_EXITING among the flags of /proc/<pid>/stat.
_EXITING = 0x4


def describe_stall(pid: int) -> str:
    """
    Return a hint for a program that did not answer, or "".

    If the program waits for input although it has a message, its answer is in a buffer, or it
    reads until the end of its input, as a one-shot program does.
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
    Return whether a program is about to end. The kernel has closed its descriptors, and reports
    the status after it has removed the rest. On a busy machine that may be a while later.
    """
    try:
        return bool(int(_stat(pid)[6]) & _EXITING)
    except (OSError, IndexError):  # it is gone, or this is not Linux
        return False


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on. The name before may have spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
