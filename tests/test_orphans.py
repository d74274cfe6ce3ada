from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from emit.host.system.program import environment
from emit.host.system.spawn import Limits, Program, start
from tests.hosts import count, lives, open_host, run_host, sleepers, until

CHAOS = os.environ.get("EMIT_CHAOS") == "1"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
    pytest.mark.usefixtures("leak_free"),
]

WAYS = pytest.mark.parametrize("limits", ["None", "Limits()"], ids=["direct", "trampoline"])


def start_and_wait(argv: list[str], limits: str) -> str:
    return f"""
        child = start(Program("n", {tuple(argv)!r}, environment({{}}), limits={limits}))
        print(child.pid, flush=True)
        sys.stdin.read()
    """


def kill_a_host(code: str, tag: str, expected: int, sleeping: int) -> None:
    """
    Run a host until *expected* of its processes live, of which *sleeping* are ``sleep`` by then,
    SIGKILL it, and see them all go.
    """
    with open_host(code) as host:
        assert host.stdout is not None
        assert host.stdout.readline()
        until(lambda: sleepers(tag) == sleeping)
        # The host has the tag in its own command.
        assert count(tag, expected + 1) == expected + 1
        host.kill()
        host.wait()
    assert count(tag, 0) == 0


SHAPES = {
    "deaf": (1, ["sleep", "{}"]),
    "grandchild": (2, ["sh", "-c", "sleep {}; true"]),
    "own session": (3, ["sh", "-c", "setsid sleep {} & sleep {}; true"]),
    "leader gone": (1, ["sh", "-c", "setsid sleep {} & exit 0"]),
    "no environment": (1, ["env", "-i", "sleep", "{}"]),
    "no environment, leader gone": (1, ["sh", "-c", "env -i sleep {} & exit 0"]),
}


@WAYS
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_outlives_a_killed_host(tag: str, shape: str, limits: str) -> None:
    """Programs that never read their input, and what they started, die with the host."""
    expected, argv = SHAPES[shape]
    sleeping = sum(word.count("{}") for word in argv)
    code = start_and_wait([word.replace("{}", tag) for word in argv], limits)
    kill_a_host(code, tag, expected, sleeping)


@WAYS
def test_a_busy_program_dies_with_its_host(tag: str, limits: str) -> None:
    """One that computes for ever, and would see no end of input."""
    argv = [sys.executable, "-ISc", "while True: pass", tag]
    kill_a_host(start_and_wait(argv, limits), tag, 1, sleeping=0)


@WAYS
def test_a_host_killed_at_any_moment_of_a_start(tag: str, limits: str) -> None:
    """No process survives a kill, from the first instruction to long after the exec."""
    code = f"""
        start(Program("n", ("true",), environment({{}}))).close()
        print(flush=True)
        sys.stdin.readline()
        start(Program("n", ("sleep", {tag!r}), environment({{}}), limits={limits}))
        sys.stdin.read()
    """
    chance = random.Random(1)
    for _ in range(100 if CHAOS else 8):
        with open_host(code) as host:
            assert host.stdout is not None
            assert host.stdin is not None
            host.stdout.readline()
            host.stdin.write("\n")
            host.stdin.flush()
            time.sleep(chance.random() * 0.03)  # into the start, or past it
            host.kill()
    # A child forked as its host died shows itself only after its exec.
    time.sleep(0.3)
    assert count(tag, 0) == 0


ENDINGS = {
    "return": ("pass", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "os._exit": ("os._exit(4)", 4),
    "exception": ("sys.stderr.close(); raise ValueError", 1),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
}


@WAYS
@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_outlives_a_host_that_ends(tag: str, ending: str, limits: str) -> None:
    """However it ends, with a program running and never closed; its exit code is its own."""
    code, status = ENDINGS[ending]
    said = run_host(
        f"""
        child = start(Program("n", ("sleep", {tag!r}), environment({{}}), limits={limits}))
        print("started", flush=True)
        {code}
        """,
        status=status,
    )
    assert said == "started\n"
    assert count(tag, 0) == 0


def test_a_host_that_ends_with_threads_in_mid_start(tag: str) -> None:
    """Eight threads that start programs hold up neither its end nor the killing."""
    run_host(f"""
        def busy():
            while True:
                start(Program("n", ("sleep", {tag!r}), environment({{}}), limits=Limits()))
        for _ in range(8):
            threading.Thread(target=busy, daemon=True).start()
        time.sleep(0.2)  # so that it ends in the midst of them
    """)
    assert count(tag, 0) == 0


def test_a_nested_host_dies_with_the_outer_one(tag: str) -> None:
    """A node that is a host itself: killing the outermost leaves nothing of the innermost."""
    inner = f"""
import sys, time
from emit.host.system.spawn import *
child = start(Program("in", ("sleep", {tag!r}), environment({{}})))
time.sleep(1000)  # until it is killed
"""
    argv = [sys.executable, "-c", inner]
    code = f"""
        env = environment({{"PYTHONPATH": os.environ["PYTHONPATH"]}})
        child = start(Program("n", {tuple(argv)!r}, env))
        print(child.pid, flush=True)
        sys.stdin.read()
    """
    kill_a_host(code, tag, 2, sleeping=1)


def test_a_forked_child_has_orphans_of_its_own(tag: str) -> None:
    """The death of one forked child, as in a prefork worker, kills its programs only."""
    code = f"""
        def begin():
            return start(Program("n", ("sleep", {tag!r}), environment({{}}), limits=Limits()))
        mine = begin()
        pid = os.fork()
        if pid == 0:
            child = begin()
            time.sleep(1000)  # until it is killed
        print(pid, flush=True)
        sys.stdin.read()
        assert not mine.poll()
    """
    with open_host(code) as host:
        assert host.stdout is not None
        forked = int(host.stdout.readline())
        until(lambda: sleepers(tag) == 2)
        # The host, its fork, a program of each.
        assert count(tag, 4) == 4
        os.kill(forked, signal.SIGKILL)
        # Its zombie does not count.
        assert count(tag, 2) == 2
        assert host.stdin is not None
        host.stdin.close()
        assert host.wait(60) == 0
    assert count(tag, 0) == 0


def test_an_unguarded_program_outlives_its_host(tag: str) -> None:
    """guard=False means that, with limits too."""
    run_host(f"""
        def begin(limits):
            argv = ("sleep", {tag!r})
            return start(Program("n", argv, environment({{}}), limits=limits, guard=False))
        children = [begin(None), begin(Limits())]
        os._exit(0)
    """)
    time.sleep(0.5)  # in which a sentinel would have killed them
    assert count(tag, 2) == 2


# The sentinel


def sentinels() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any(word.endswith("sentinel.py") for word in child.cmdline()):
                found.append(child)
    return found


def test_there_is_one_sentinel_and_it_holds_nothing() -> None:
    """One for all programs; its descriptors are the lifeline, its directory the root."""
    for _ in range(3):
        start(Program("n", ("true",), environment({}))).close()
    (one,) = sentinels()
    links = {os.readlink(f"/proc/{one.pid}/fd/{fd}") for fd in (0, 1, 2)}
    assert {link.split(":")[0] for link in links} == {"socket", "/dev/null"}
    assert one.cwd() == "/"
    assert not [c for c in one.net_connections() if c.laddr and c.raddr]
    assert os.getsid(one.pid) == one.pid


def test_the_lifeline_ends_without_a_warning() -> None:
    """Python with -X dev, which shows open resources, prints no warning."""
    code = """
        from emit.host.system.program import environment
        from emit.host.system.spawn import Program, start
        start(Program("n", ("true",), environment({}))).close()
    """
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_killed_sentinel_is_replaced(tag: str, caplog: pytest.LogCaptureFixture) -> None:
    """The next start brings a new one, with a warning in the log."""
    (old,) = sentinels()
    old.kill()
    old.wait()
    with caplog.at_level(logging.WARNING, logger="emit.host.system.lifeline"):
        start(Program("n", ("true",), environment({}))).close()
    (new,) = sentinels()
    assert new.pid != old.pid
    assert "sentinel.restarted" in caplog.text


def test_a_new_sentinel_knows_the_old_programs(tag: str) -> None:
    """The sentinel knows even programs that it can find by their session alone."""
    code = f"""
        argv = ("sh", "-c", "env -i sleep {tag} & exit 0")
        old = start(Program("n", argv, environment({{}})))
        os.kill(sentinel_pid(), signal.SIGKILL)
        os.waitpid(sentinel_pid(), 0)
        new = start(Program("n", ("sleep", {tag!r}), environment({{}})))
        print(new.pid, flush=True)
        sys.stdin.read()
    """
    kill_a_host(code, tag, 2, sleeping=2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_sentinel_ignores_polite_signals(tag: str, number: signal.Signals) -> None:
    """A signal that ends a service's whole group leaves the sentinel to its work."""
    (one,) = sentinels()
    # It ignores them once it has begun.
    while not int(open_status(one.pid, "SigIgn"), 16) & 1 << signal.SIGHUP - 1:
        time.sleep(0.005)
    one.send_signal(number)
    start(Program("n", ("true",), environment({}))).close()
    assert sentinels() == [one]


def open_status(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/status") as file:
        return next(line.split()[1] for line in file if line.startswith(name))


def test_the_sentinel_ends_with_its_host() -> None:
    """A host with nothing left leaves no sentinel."""
    said = run_host("""
        start(Program("n", ("true",), environment({}))).close()
        print(sentinel_pid())
    """)
    until(lambda: not lives(int(said)))


def test_a_host_without_sigpipe_survives_a_dead_sentinel() -> None:
    """SIGPIPE at its default, as in command-line programs, must not end the host."""
    said = run_host("""
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        for _ in range(3):
            start(Program("n", ("true",), environment({}))).close()
            os.kill(sentinel_pid(), signal.SIGKILL)
            os.waitpid(sentinel_pid(), 0)
        print("alive")
    """)
    assert said == "alive\n"


def test_a_foreign_program_is_left_alone(tag: str) -> None:
    """A host's sentinel kills nothing of another host."""
    mine = start(Program("n", ("sleep", tag), environment({}), limits=Limits()))
    run_host("""
        start(Program("n", ("sleep", "60"), environment({})))
    """)
    time.sleep(0.5)  # in which the other sentinel would have killed it
    assert not mine.poll()
    mine.close()
