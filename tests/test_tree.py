from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emit.host.system import family, sentinel, tree
from emit.host.system.child import kill_trees
from emit.host.system.program import environment
from emit.host.system.spawn import Child, Limits, Program, start
from tests.hosts import PREAMBLE, ROOT, count, open_host, run_host, sleepers, tagged, until

pytestmark = pytest.mark.usefixtures("leak_free")

CHAOS = os.environ.get("EMIT_CHAOS") == "1"

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def run(*argv: str, limits: Limits | None = None) -> Child:
    return start(Program("n", argv, environment({}), limits=limits))


DAEMON = """
import os, sys, time
if os.fork():
    time.sleep(1000)  # until it is killed
os.setsid()
if os.fork():
    os._exit(0)
os.execvp("sleep", ["sleep", sys.argv[1]])
"""

# A moving target: a new process in a new session each millisecond, its parent gone. It ends by
# itself in half a minute: one that a failing test left behind would take a core for ever.
RUNNER = """
import os, sys, time
end = time.monotonic() + 30
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(0.001)
"""

SHAPES = {
    "alone": (1, ["sleep", "{}"]),
    "child of sh": (2, ["sh", "-c", "sleep {}; true"]),
    "grandchild": (3, ["sh", "-c", "sh -c 'sleep {}; true'; true"]),
    "background": (3, ["sh", "-c", "sleep {} & sleep {}; true"]),
    "own session": (3, ["sh", "-c", "setsid sleep {} & sleep {}; true"]),
    "own session, no environment": (3, ["sh", "-c", "env -i setsid sleep {} & sleep {}; true"]),
    "no environment, leader gone": (1, ["sh", "-c", "env -i sleep {} & exit 0"]),
    "leader gone": (1, ["sh", "-c", "sleep {} & exit 0"]),
    "own session, leader gone": (1, ["sh", "-c", "setsid sleep {} & exit 0"]),
    "daemon": (2, [sys.executable, "-c", DAEMON, "{}"]),
}


def grown(tag: str, shape: str) -> Child:
    """A program that has started all that it will start."""
    expected, argv = SHAPES[shape]
    child = run(*(word.replace("{}", tag) for word in argv))
    until(lambda: sleepers(tag) == sum(word.count("{}") for word in argv))
    assert expected == count(tag, expected)
    return child


@linux_only
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_left_of_a_tree(tag: str, shape: str) -> None:
    """Groups, sessions and daemons: all gone when kill_tree returns."""
    child = grown(tag, shape)
    assert child.kill_tree()
    assert tagged(tag) == []
    child.close()


@pytest.mark.requires("ruby")
def test_a_wrapped_ruby(tag: str) -> None:
    """A shell that runs ruby that runs a program: what ``bundle exec`` in a shell looks like."""
    child = run("sh", "-c", f"ruby -e 'system(\"sleep {tag}; true\")'; true", limits=Limits())
    until(lambda: sleepers(tag) == 1)
    assert count(tag, 4) == 4
    assert child.kill_tree()
    assert tagged(tag) == []
    child.close()


@linux_only
@pytest.mark.parametrize("_", range(100 if CHAOS else 3))
def test_a_runner_is_caught(tag: str, _: int) -> None:
    """A program that forks and exits each millisecond is outrun."""
    child = run(sys.executable, "-ISc", RUNNER, tag)
    assert child.wait(60.0)
    assert child.kill_tree()
    assert count(tag, 0, within=0.1) == 0
    child.close()


@linux_only
def test_what_is_not_found(tag: str) -> None:
    """Documented: cleared environment, new session and lost parents, all three, survive."""
    child = run("sh", "-c", f"env -i setsid sleep {tag} & exit 0")
    assert child.wait(60.0)
    until(lambda: sleepers(tag) == 1)
    assert child.kill_tree()
    assert count(tag, 1) == 1
    child.close()


def test_a_stopped_process_is_killed(tag: str) -> None:
    """SIGSTOP protects nothing."""
    child = run("sh", "-c", f"kill -STOP $$; sleep {tag}")
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert child.kill_tree()
    assert child.status == -signal.SIGKILL
    child.close()


def test_a_stopped_process_hears_terminate(tag: str) -> None:
    """SIGTERM alone would wait for a SIGCONT that never comes."""
    child = run("sleep", tag)
    os.kill(child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    child.terminate()
    assert child.wait(60.0)
    assert child.status == -signal.SIGTERM
    child.close()


def test_terminate_reaches_the_group(tag: str) -> None:
    """A shell's child gets the signal too."""
    child = grown(tag, "child of sh")
    child.terminate()
    assert count(tag, 0) == 0
    child.close()


def test_a_group_left_behind_dies_at_close(tag: str) -> None:
    """Processes that a program left in its group end at close, also without kill_tree."""
    child = run("sh", "-c", f"sleep {tag} & exit 3")
    assert child.wait(60.0)
    child.close()
    assert count(tag, 0) == 0
    assert child.status == 3


@linux_only
@pytest.mark.parametrize("refusal", [PermissionError, ProcessLookupError])
def test_a_refused_signal_stops_nothing(
    tag: str, monkeypatch: pytest.MonkeyPatch, refusal: type[OSError]
) -> None:
    """The sweep kills all the same if killpg is refused."""

    def refuse(pgid: int, number: int) -> None:
        raise refusal

    monkeypatch.setattr(os, "killpg", refuse)
    child = grown(tag, "child of sh")
    child.terminate()
    assert not child.poll()
    assert child.kill_tree()
    assert tagged(tag) == []
    child.close()


@linux_only
def test_the_next_owner_of_a_pid_is_never_signalled(tag: str) -> None:
    """A child that somebody else reaped leaves a number that may be anybody's."""
    old, new = pair_with_one_pid(tag)
    old.terminate()
    assert old.kill_tree()
    old.close()
    assert not new.poll()
    assert old.status in (0, None)  # 0 if the kernel tells of reaped processes (Linux 6.15)
    new.close()


def pair_with_one_pid(tag: str) -> tuple[Child, Child]:
    """A dead child, reaped behind its back, and a living one that got its number."""
    for _ in range(50):
        old = run("true")
        os.waitpid(old.pid, 0)
        try:
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(old.pid - 1))
        except OSError:
            old.close()
            pytest.skip("only root can choose pids")
        new = run("sleep", tag)
        if new.pid == old.pid:
            return old, new
        old.close()
        new.close()
    pytest.skip("another process was faster each time")


@linux_only
def test_a_kill_checks_the_start(tag: str) -> None:
    """A pid whose process is of another age than the one seen gets no signal."""
    child = run("sleep", tag)
    seen = sentinel.look(child.pid)
    assert seen is not None
    assert not sentinel.kill(seen._replace(started=seen.started - 1))
    assert not child.poll()
    assert sentinel.kill(seen)
    assert child.wait(60.0)
    child.close()


@linux_only
def test_a_told_session_of_another_age_is_not_ours(tag: str) -> None:
    """The sentinel leaves a session alone whose leader began outside the told time."""
    child = run("sleep", tag)
    seen = sentinel.look(child.pid)
    assert seen is not None
    assert sentinel.in_session(seen, {seen.session: (seen.started, seen.started)})
    assert not sentinel.in_session(seen, {seen.session: (seen.started - 9, seen.started - 2)})
    assert not sentinel.in_session(seen, {seen.session + 1: (0, seen.started)})
    child.close()


@pytest.mark.parametrize("shape", ["grandchild", "own session", "daemon"])
def test_the_portable_sweep(tag: str, shape: str) -> None:
    """The sweep of macOS, psutil alone, finds the same processes on any system."""
    child = grown(tag, shape)
    members = family.descendants(child.pid)
    tree.signal_group(child.pid, signal.SIGKILL)
    assert family.sweep({child.cookie}, members, seconds=60.0)
    assert tagged(tag) == []
    child.close()


@linux_only
@pytest.mark.parametrize("shape", SHAPES)
def test_several_at_once(tag: str, shape: str) -> None:
    """Programs that end together lose what each has started, and no other program ends."""
    other = run("cat")
    doomed = [grown(tag, shape), run("sleep", tag), run("true")]
    assert kill_trees(doomed)
    assert tagged(tag) == []
    assert not other.poll()
    for child in (*doomed, other):
        child.close()


@linux_only
def test_a_kernel_that_tells_no_children(tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole table is read for them then."""
    monkeypatch.setattr(tree, "_tells_children", lambda: False)
    child = grown(tag, "own session, no environment")
    assert len(tree.descendants(child.pid)) == 2
    assert child.kill_tree()
    assert tagged(tag) == []
    child.close()


#: Ends programs, ten at a time, and prints for each time how often the process table was listed,
#: and how many of the processes named in its input were read.
READER = """
from emit.host.system import child, sentinel

strangers = {*map(int, sys.stdin.readline().split())}
lists, read, sweeps, rounds = 0, set(), 0, 0
sweep = sentinel.sweep

def counted(kill_round, **options):
    global sweeps
    sweeps += 1

    def one():
        global rounds
        rounds += 1
        return kill_round()

    return sweep(one, **options)

sentinel.sweep = counted

def note(event, given):
    global lists
    path = os.fsdecode(given[0]) if given and isinstance(given[0], (str, bytes)) else ""
    if event in ("os.listdir", "os.scandir"):
        lists += path == "/proc"
    elif event == "open" and path.startswith("/proc/") and path.split("/")[2].isdigit():
        read.add(int(path.split("/")[2]))

sys.addaudithook(note)
for _ in range(3):
    doomed = [start(Program("n", ("cat",), environment({}))) for _ in range(10)]
    lists, read, sweeps, rounds = 0, set(), 0, 0
    assert child.kill_trees(doomed)
    print(sweeps, lists - rounds, len(strangers & read), flush=True)
"""


@linux_only
def test_an_end_reads_nothing_of_strangers(tag: str) -> None:
    """Programs that end together share one sweep, whose rounds look at the process table once each.
    Of what runs on the machine each process is read once, at the first end."""
    strangers = [subprocess.Popen(["sleep", tag]) for _ in range(20)]
    with open_host(READER) as host:
        assert host.stdin is not None
        host.stdin.write(" ".join(str(each.pid) for each in strangers) + "\n")
        said, _ = host.communicate()
    for each in strangers:
        each.kill()
        each.wait()
    told = [tuple(map(int, line.split())) for line in said.splitlines()]
    assert told == [(1, 0, 20), (1, 0, 0), (1, 0, 0)]


LITTLE = """
from emit.host.system import sentinel

def run(*argv):
    child = start(Program("n", argv, environment({})))
    os.set_blocking(child.stdout, True)
    os.read(child.stdout, 1)
    return child

assert sentinel.newest() is None
tag, shell = sys.argv[1:]
child = run("sh", "-c", shell, "-", tag)
print(child.kill_tree(), flush=True)
run("sh", "-c", shell, "-", tag)
os.kill(os.getpid(), signal.SIGKILL)
"""


@linux_only
@pytest.mark.parametrize(
    ("mount", "shell"),
    [
        ("mount -t proc -o subset=pid proc /proc", "setsid sleep $1 & echo; sleep $1"),
        ("mount -t tmpfs none /proc", "sleep $1 & echo; sleep $1"),
    ],
    ids=["processes only", "none"],
)
def test_little_of_proc(tag: str, mount: str, shell: str) -> None:
    """
    The program's processes end with it and with the host as everywhere, if a service sees processes
    only (systemd: ProcSubset=pid); without /proc those in its group do.
    """
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("only root can mount /proc")
    inside = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "-"]
    command = [*inside, sys.executable, "-c", PREAMBLE + LITTLE, tag, shell]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "True\n"), done.stderr
    assert count(tag, 0) == 0


CONTAINER = """
import subprocess
from emit.host.system import sentinel, tree

def zombies():
    found = [sentinel.look(pid) for pid, _ in sentinel.table()]
    return sum(process is not None and process.state == "Z" for process in found)

def run(*argv):
    return start(Program("n", argv, environment({})))

def end(child):
    child.kill_tree()
    child.close()

assert os.getpid() == 1
mine = [subprocess.Popen(["sh", "-c", "exit 7"], start_new_session=new) for new in (True, False)]
while zombies() < 2:
    time.sleep(0.005)  # between two looks
for _ in range(3):
    child = run("sh", "-c", "sleep 1000 & setsid sleep 1000 & sleep 1000")
    while len(tree.descendants(child.pid)) < 3:
        time.sleep(0.005)  # between two looks
    end(child)
    child = run("sh", "-c", "sleep 1000 & exit 0")
    child.wait(60)
    child.close()
while zombies() > 2:
    end(run("true"))
print(*(each.wait() for each in mine))
"""


@linux_only
def test_process_1_of_a_container() -> None:
    """
    Emit without an init inherits the processes that programs leave, and reaps them; but not those
    that other code in it has started and waits for.
    """
    inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("only root can have a namespace of processes")
    command = [*inside, sys.executable, "-c", PREAMBLE + CONTAINER]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=100)
    assert (done.returncode, done.stdout) == (0, "7 7\n"), done.stderr


def test_a_sweep_ends_in_time() -> None:
    """A process that cannot be killed does not hold the host for longer than the bound."""
    assert not sentinel.sweep(sentinel.hunt(lambda process: process.pid == 0), seconds=0.0)


def test_the_collector_kills_in_the_middle_of_a_sweep() -> None:
    """It closes an abandoned generator, whose process is swept for in the same thread."""
    said = run_host("""
        import gc
        from emit.host import oneshot
        from emit.host.system import sentinel

        def collect_once(pid):
            sentinel.look = look
            gc.collect()
            return look(pid)

        gc.disable()
        look = sentinel.look
        sleeper = start(Program("n", ("sleep", "600"), environment({})))
        program = Program("n", ("sh", "-c", "echo $$; exec sleep 600"), environment({}))
        run = oneshot.run(program, b"", timeout=100.0)
        abandoned = int(next(run))
        circle = [run]
        circle.append(circle)
        del run, circle
        sentinel.look = collect_once
        sweep = threading.Thread(target=sleeper.close, daemon=True)
        sweep.start()
        sweep.join(60.0)
        print(sweep.is_alive(), sentinel.look is look, look(abandoned), flush=True)
        os._exit(0)
    """)
    assert said == "False True None\n"
