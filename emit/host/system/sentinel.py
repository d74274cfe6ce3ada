"""
One small process beside each host. When the host dies, it kills the processes that are left.

The host runs it as ``python -IS sentinel.py COOKIE HOST_PID``; it imports nothing of Emit. Its
stdin is the lifeline. Only the host holds the other end, which closes with the host, whatever
killed it. The host writes a line ``+sid from to`` when a program starts, with the clock ticks since
boot between which its session began, and ``-sid`` when the program is gone.

A process is the host's if its environment has the host's cookie, or if it is in one of the reported
sessions. A process that clears its environment *and* takes a new session is not found. Without
/proc, as on macOS, only the process groups of the reported sessions are killed.

The host itself uses `sweep` and its parts as well, see `tree`. It needs nothing in /proc but the
processes themselves, since a service may see no more (systemd: ProcSubset=pid).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

#: The variable that marks every process of a host, and by inheritance their descendants. Its value
#: is a path, as hosts nest: ``<host>.<number>/<inner host>.<number>``.
COOKIE = "EMIT_HOST_COOKIE"

#: Seconds between two reads of the lifeline, so that many starts at once cost the sentinel little.
#: It still sees the host's death at once.
REST = 0.05

#: Seconds to go on looking: a child forked as the host died shows its cookie only after its exec.
LINGER = 0.25

#: Seconds after which the sentinel gives up, as for a process that hangs in the kernel.
GIVE_UP = 10.0

#: Seconds between two rounds of a sweep.
PAUSE = 0.002


class Process(NamedTuple):
    """A line of the process table; ``started`` in clock ticks since boot."""

    pid: int
    state: str
    parent: int
    session: int
    started: int


Sessions = dict[int, tuple[int, int]]
Test = Callable[[Process], bool]

#: A process as long as it is in the table: its number, which may be reused, and the inode of its
#: folder in /proc, which the kernel does not reuse.
Key = tuple[int, int]


def main(cookie: str, host: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sessions = listen(int(host))
    if sys.platform == "linux" and table():
        sweep(hunt(belongs(cookie, sessions)), seconds=GIVE_UP, at_least=LINGER)
    else:
        kill_groups(sessions)


def listen(host: int) -> Sessions:
    """Follow the lifeline until the host is dead; return the sessions it left."""
    os.set_blocking(0, False)
    ready, hangup = watch(host, select.POLLIN), watch(host, 0)
    sessions: Sessions = {}
    rest = b""
    while True:
        if os.getppid() == host:
            ready.poll()
        data = read()
        if data == b"" or (data is None and os.getppid() != host):
            return sessions
        *lines, rest = (rest + (data or b"")).split(b"\n")
        for line in lines:
            note(sessions, line)
        hangup.poll(REST * 1000)


def watch(host: int, events: int) -> select.poll:
    """Poll the lifeline and the host itself: a child forked from C may hold the lifeline, too."""
    poller = select.poll()
    poller.register(0, events)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # it is dead, or the kernel has no pidfd
            poller.register(os.pidfd_open(host), select.POLLIN)
    return poller


def read() -> bytes | None:
    """Read the lifeline. Return empty bytes at its end, None if there is nothing now."""
    try:
        return os.read(0, 65536)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def note(sessions: Sessions, line: bytes) -> None:
    sid, *ticks = (int(word) for word in line[1:].split())
    if line[:1] == b"+":
        sessions[sid] = (ticks[0], ticks[1])
    else:
        sessions.pop(sid, None)


def belongs(cookie: str, sessions: Sessions) -> Test:
    """Return the test for all processes of a host."""
    prefix = f"{cookie}.".encode()

    def test(process: Process) -> bool:
        return in_session(process, sessions) or any(
            token.startswith(prefix) for token in lineage(process.pid)
        )

    return test


def in_session(process: Process, sessions: Sessions) -> bool:
    """
    Return whether a process is in a reported session that is still the same session.

    The kernel does not reuse the number of a session that has members. So if the leader has another
    age, it and its members are not the host's.
    """
    if process.session not in sessions:
        return False
    first, last = sessions[process.session]
    leader = look(process.session)
    same = leader is None or first <= leader.started <= last
    return same and process.started >= first


def sweep(kill_round: Callable[[], int], *, seconds: float, at_least: float = 0.0) -> bool:
    """
    Kill processes, round by round, until enough rounds in a row find nothing.

    A program that forks and exits without end can escape a round: its old process is listed and
    gone, its new one is not listed yet. So a round in which anything on the machine forked proves
    less. It takes eight of those rounds, or two others.

    Args:
        kill_round: Checks all processes once. Returns the number that it has killed.
        seconds: Time after which the sweep gives up.
        at_least: Seconds to go on even if nothing is found.

    Returns:
        False if there was still something after *seconds*.
    """
    start = time.monotonic()
    quiet = 0
    while (age := time.monotonic() - start) < seconds:
        before = newest()
        if kill_round():
            quiet = 0
        else:
            quiet += 4 if before is not None and newest() == before else 1
        if quiet >= 8 and age >= at_least:
            return True
        time.sleep(PAUSE if quiet else 0)
    return False


def hunt(test: Test) -> Callable[[], int]:
    """Return a round that kills processes that pass *test*, and those they started meanwhile."""
    strangers: set[Key] = set()

    def kill_round() -> int:
        killed = 0
        for key in table():
            if key in strangers or (process := look(key[0])) is None or process.state in "ZX":
                continue
            if process.pid != os.getpid() and test(process):
                killed += kill(process)
            else:
                strangers.add(key)
        if not killed:
            # Rounds that kill check only new processes, to outrun a program that forks and exits
            # without end. The rounds that confirm check all processes.
            strangers.clear()
        return killed

    return kill_round


def kill(process: Process) -> bool:
    """Send SIGKILL, by a pidfd if there is one: the number may have a new owner by now."""
    pidfd = -1
    try:
        with contextlib.suppress(OSError):  # gone, which `look` sees; or a kernel before 5.3
            pidfd = os.pidfd_open(process.pid)
        now = look(process.pid)
        if now is None or now.started != process.started:
            return False
        if pidfd >= 0:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        else:
            os.kill(process.pid, signal.SIGKILL)
    except OSError:  # gone, or not ours to signal
        return False
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    return True


def kill_groups(sessions: Sessions) -> None:
    for sid in sessions:
        with contextlib.suppress(OSError):
            os.killpg(sid, signal.SIGKILL)


def table() -> list[Key]:
    """Return all processes; none if there is no /proc."""
    try:
        with os.scandir("/proc") as entries:
            return [(int(each.name), each.inode()) for each in entries if each.name.isdigit()]
    except OSError:
        return []


def newest() -> bytes | None:
    """Return the number of the newest process; None if /proc does not tell."""
    try:
        with open("/proc/loadavg", "rb", buffering=0) as file:
            return file.read().split()[-1]
    except (OSError, IndexError):
        return None


def look(pid: int) -> Process | None:
    """Return a process, which may be a zombie; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            stat = file.read()
    except OSError:
        return None
    # The name, in brackets, may contain spaces and brackets.
    words = stat[stat.rindex(b")") + 2 :].split()
    return Process(pid, words[0].decode(), int(words[1]), int(words[3]), int(words[19]))


def lineage(pid: int) -> list[bytes]:
    """Return the cookies of a process, one for each host above it; empty if it is unreadable."""
    try:
        return cookies(environment(pid))
    except OSError:
        return []


def environment(pid: int) -> bytes:
    """
    Return the environment a process was started with; empty in the middle of an exec.

    Raises:
        OSError: The process is gone, or another user's.
    """
    with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
        return file.read()


def cookies(environ: bytes) -> list[bytes]:
    """Return the cookies in an environment."""
    prefix = f"{COOKIE}=".encode()
    found = (v[len(prefix) :].split(b"/") for v in environ.split(b"\0") if v.startswith(prefix))
    return next(found, [])


if __name__ == "__main__":
    main(*sys.argv[1:])
