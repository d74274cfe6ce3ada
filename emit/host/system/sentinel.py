"""
One small process beside each host: when the host dies, kill what it leaves behind.

Run as ``python -IS sentinel.py COOKIE HOST_PID`` by the host; imports nothing of Emit. Its
stdin is the lifeline, whose other end only the host holds and which closes with it, whatever
killed it. On it come lines ``+sid from to`` as programs start, with the clock ticks since boot
between which the session began, and ``-sid`` as they are gone.

A process is the host's when its environment carries the host's cookie, or when it is in one of
the told sessions. What clears its environment *and* takes a new session is not found.
Without /proc, as on macOS, only the told sessions' process groups are killed.

`sweep` and what it needs serve the host itself too, see `tree`. Nothing in /proc but the processes
themselves is indispensable: a service may see no more of it (systemd: ProcSubset=pid).
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

#: The variable that marks every process of a host, and by inheritance all that these start.
#: Its value is a path, as hosts nest: ``<host>.<number>/<inner host>.<number>``.
COOKIE = "EMIT_HOST_COOKIE"

#: Seconds between two reads of the lifeline, so that a storm of starts costs the sentinel
#: little. The host's death is seen at once all the same.
REST = 0.05

#: Seconds: a child forked as the host died shows its cookie only after its exec.
LINGER = 0.25

#: Seconds after which the sentinel gives up, as on a process that hangs in the kernel.
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

#: A process for as long as it is in the table: its number, which has another owner one day, and
#: the inode of its folder in /proc, which the kernel does not give again.
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
    """The lifeline, and the host itself: a child it forked from C may hold the lifeline too."""
    poller = select.poll()
    poller.register(0, events)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # it is dead, or the kernel has no pidfd
            poller.register(os.pidfd_open(host), select.POLLIN)
    return poller


def read() -> bytes | None:
    """What is on the lifeline; empty at its end, None if there is nothing now."""
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
    """The test for all of a host's processes."""
    prefix = f"{cookie}.".encode()

    def test(process: Process) -> bool:
        return in_session(process, sessions) or any(
            token.startswith(prefix) for token in lineage(process.pid)
        )

    return test


def in_session(process: Process, sessions: Sessions) -> bool:
    """
    Whether it is in a told session, and that is still the same session.

    The kernel gives no new process the number of a session that has members. So a leader of
    another age is a foreigner's, and so are its members.
    """
    if process.session not in sessions:
        return False
    first, last = sessions[process.session]
    leader = look(process.session)
    same = leader is None or first <= leader.started <= last
    return same and process.started >= first


def sweep(kill_round: Callable[[], int], *, seconds: float, at_least: float = 0.0) -> bool:
    """
    Kill, round by round, until two rounds find nothing.

    A program that forks and exits without end can pass by a round: its old process is listed
    and gone, its new one not listed yet. So a round in which anything on the machine forked
    proves less: it takes eight of those.

    Args:
        kill_round: Looks at all processes once, and returns how many it has killed.
        seconds: After which it is given up.
        at_least: Seconds for which it goes on though nothing is found.

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
    """Rounds that kill what passes *test*, and what that started meanwhile."""
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
            # Rounds that kill look at new processes only, to outrun a program that forks and exits
            # without end; the rounds that confirm look at all.
            strangers.clear()
        return killed

    return kill_round


def kill(process: Process) -> bool:
    """SIGKILL, through a pidfd where there is one: the number may have a new owner by now."""
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
    """All processes; none where there is no /proc."""
    try:
        with os.scandir("/proc") as entries:
            return [(int(each.name), each.inode()) for each in entries if each.name.isdigit()]
    except OSError:
        return []


def newest() -> bytes | None:
    """The number that was given to a process last; None where /proc does not tell."""
    try:
        with open("/proc/loadavg", "rb", buffering=0) as file:
            return file.read().split()[-1]
    except (OSError, IndexError):
        return None


def look(pid: int) -> Process | None:
    """The process, a zombie too; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            stat = file.read()
    except OSError:
        return None
    # The name, in brackets, may hold spaces and brackets.
    words = stat[stat.rindex(b")") + 2 :].split()
    return Process(pid, words[0].decode(), int(words[1]), int(words[3]), int(words[19]))


def lineage(pid: int) -> list[bytes]:
    """The cookies of a process, one for each host above it; empty where it may not be read."""
    try:
        return cookies(environment(pid))
    except OSError:
        return []


def environment(pid: int) -> bytes:
    """
    What a process was started with; empty in the middle of an exec.

    Raises:
        OSError: It is gone, or another user's.
    """
    with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
        return file.read()


def cookies(environ: bytes) -> list[bytes]:
    """The cookies in an environment."""
    prefix = f"{COOKIE}=".encode()
    found = (v[len(prefix) :].split(b"/") for v in environ.split(b"\0") if v.startswith(prefix))
    return next(found, [])


if __name__ == "__main__":
    main(*sys.argv[1:])
