from __future__ import annotations

import contextlib
import gc
import itertools
import os
import re
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from emit.errors import StartError, StartTimeout
from emit.host.system import child as child_module
from emit.host.system import spawn, trampoline
from emit.host.system.program import environment
from emit.host.system.spawn import Child, Limits, Program, is_transient, start
from tests.hosts import count, run_host, sleepers

pytestmark = pytest.mark.usefixtures("leak_free")

CHAOS = os.environ.get("EMIT_CHAOS") == "1"

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def program(*argv: str, limits: Limits | None = None) -> Program:
    return Program("n", argv, environment({}), limits=limits)


def run(*argv: str, limits: Limits | None = None) -> Child:
    return start(program(*argv, limits=limits))


def output(child: Child, fd: int | None = None) -> str:
    """All that it writes until the end of its stdout; it is closed then."""
    fd = child.stdout if fd is None else fd
    os.set_blocking(fd, True)
    data = b"".join(iter(lambda: os.read(fd, 65536), b""))
    assert child.wait(60.0)
    child.close()
    return data.decode()


# What a child is


@pytest.mark.parametrize("limits", [None, Limits()], ids=["direct", "trampoline"])
def test_pipes_carry_bytes(limits: Limits | None) -> None:
    """Bytes that go in come out, and the end of stdin is seen."""
    child = run("cat", limits=limits)
    os.write(child.stdin, b"hello")
    child.close_stdin()
    assert output(child) == "hello"
    assert child.status == 0


def test_the_pipes_do_not_block() -> None:
    """A read of nothing and a write to a full pipe return at once."""
    child = run("sleep", "60")
    for fd in (child.stdout, child.stderr):
        with pytest.raises(BlockingIOError):
            os.read(fd, 1)
    assert os.write(child.stdin, bytes(1 << 22)) < 1 << 22
    with pytest.raises(BlockingIOError):
        os.write(child.stdin, b"x")
    child.close()


@pytest.mark.parametrize("limits", [None, Limits()], ids=["direct", "trampoline"])
def test_it_leads_its_own_session(limits: Limits | None) -> None:
    """Ctrl-C at a terminal does not reach it, and its group can be killed."""
    child = run("sleep", "60", limits=limits)
    assert (child.pid, child.pid) == (os.getsid(child.pid), os.getpgid(child.pid))
    child.close()


@pytest.mark.parametrize(
    ("code", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", -15), ("kill -9 $$", -9)]
)
def test_the_status_is_that_of_popen(code: str, status: int) -> None:
    """An exit code, or the negative number of a signal."""
    child = run("sh", "-c", code)
    assert child.wait(60.0)
    assert status == child.status
    child.close()
    assert status == child.status


def test_the_end_is_seen_without_a_wait() -> None:
    """poll tells a running process from an ended one, and the pidfd wakes a poll loop."""
    child = run("cat")
    assert not child.poll()
    assert not child.wait(0.01)
    child.close_stdin()
    if child.pidfd is not None:
        assert select.select([child.pidfd], [], [], 60.0)[0]
        assert child.poll()
    assert child.wait(60.0)
    child.close()


def test_the_end_is_seen_without_a_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end is seen on macOS and old kernels, too."""
    monkeypatch.setattr(Child, "watch", lambda self: None)
    child = run("sh", "-c", "exit 3")
    assert child.pidfd is None
    assert child.wait(60.0)
    assert child.status == 3
    child.close()


@pytest.fixture(params=[True, False], ids=["the kernel tells", "it does not"])
def status(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Return the status of an exit with code 3 that somebody else has waited for."""
    told = request.param and child_module._KERNEL_TELLS
    monkeypatch.setattr(child_module, "_KERNEL_TELLS", told)
    return 3 if told else None


def test_a_status_taken_by_somebody_else(status: int | None) -> None:
    """A foreign waitpid(-1) has it: Linux says it again from 6.15 on, else it is None, never 0."""
    child = run("sh", "-c", "exit 3")
    os.waitpid(child.pid, 0)
    assert child.poll()
    assert child.status == status
    assert child.kill_tree()
    child.close()


@linux_only
def test_a_status_dropped_by_the_host(status: int | None) -> None:
    """A host that ignores SIGCHLD still sees the death, and claims no exit code it has not seen."""
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = run("sh", "-c", "read line; exit 3")
        child.close_stdin()
        assert child.wait(60.0)
        assert child.status == status
        child.close()
    finally:
        signal.signal(signal.SIGCHLD, old)


@linux_only
def test_a_death_before_the_first_look_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status is unknown if the program is gone before its pidfd is opened."""
    watch = Child.watch

    def look_late(child: Child) -> None:
        while os.path.exists(f"/proc/{child.pid}"):
            time.sleep(0.001)
        watch(child)

    monkeypatch.setattr(Child, "watch", look_late)
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = run("sh", "-c", "exit 3")
        assert child.poll()
        assert child.status is None
        assert child.kill_tree()
        child.close()
    finally:
        signal.signal(signal.SIGCHLD, old)


def test_its_repr_says_how_it_is() -> None:
    """Diagnostics cannot rot where a test reads them."""
    child = run("cat")
    assert re.fullmatch(rf"<Child n pid {child.pid} \[running for \d+\.\d s\]>", repr(child))
    child.close_stdin()
    child.wait(60.0)
    assert f"<Child n pid {child.pid} [ended with exit code 0]>" == repr(child)
    child.close()
    assert f"<Child n pid {child.pid} [ended with exit code 0, closed]>" == repr(child)


def test_close_may_be_called_by_all_at_once() -> None:
    """Each descriptor is closed once by two calls, and by eight threads."""
    child = run("sleep", "60")
    threads = [threading.Thread(target=child.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    child.close()
    child.close_stdin()
    child.terminate()
    assert child.kill_tree()
    assert (child.stdin, child.stdout, child.stderr, child.pidfd) == (-1, -1, -1, None)


# Descriptors


@linux_only
def test_a_child_has_its_three_pipes_only() -> None:
    """Started by many threads at once, none has a pipe of another."""
    held: list[list[str]] = []

    def many() -> None:
        for _ in range(100 if CHAOS else 5):
            listing = output(run("ls", "-l", "/proc/self/fd"))
            held.append([line for line in listing.splitlines() if "->" in line])

    threads = [threading.Thread(target=many) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # ls itself opens the directory.
    assert {4} == {len(lines) for lines in held}
    assert 16 * (100 if CHAOS else 5) == len(held)


def test_one_of_many_sees_the_end_of_its_input() -> None:
    """No sibling holds its stdin open."""
    children = [run("cat", limits=Limits() if n % 2 else None) for n in range(16)]
    for child in children:
        child.close_stdin()
        assert child.wait(60.0)
    for child in children:
        child.close()


def test_no_descriptors_left() -> None:
    """A typed error that may pass, nothing leaked, and starts work again with the limit raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/dev/fd")}
    free = (number for number in itertools.count() if number not in taken)
    limit = next(itertools.islice(free, 4, None))  # so four are left, and a start takes six
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        for _ in range(5):
            with pytest.raises(StartError) as caught:
                run("true")
            assert is_transient(caught.value)
            assert "ulimit -n" in caught.value.hint
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert output(run("echo", "ok")) == "ok\n"


def test_a_daemon_without_standard_descriptors() -> None:
    """Descriptors 0 to 2 closed: the child's pipes are its own, and the host's are above 2."""
    said = run_host("""
        keep = os.dup(1)
        for fd in (0, 1, 2):
            os.close(fd)
        for limits in (None, Limits()):
            child = start(Program("n", ("sh", "-c", "cat; echo err >&2"), environment({}),
                                  limits=limits))
            assert min(child.stdin, child.stdout, child.stderr) > 2
            os.write(child.stdin, b"in ")
            child.close_stdin()
            child.wait(60.0)
            os.write(keep, os.read(child.stdout, 10) + os.read(child.stderr, 10))
            child.close()
    """)
    assert said == "in err\nin err\n"


# Interrupts and owners


class Interrupt(Exception):
    pass


@contextlib.contextmanager
def interrupts(after: float) -> Iterator[None]:
    """Raise Interrupt from a signal handler, *after* seconds from now."""

    def strike(number: int, frame: object) -> None:
        raise Interrupt

    old = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@contextlib.contextmanager
def struck(number: int) -> Iterator[list[int]]:
    """
    Raise `Interrupt` at call *number* of those that this thread makes in the modules of starts and
    of children, as it begins or as it has returned: the only moments at which the interpreter looks
    for signals. What is yielded counts those that were passed.
    """
    passed = [0]
    files = (spawn.__file__, child_module.__file__)

    def profile(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if code.co_filename not in files or code.co_name == "__del__":  # there it would be ignored
            return
        if event in ("call", "c_return"):
            passed[0] += 1
            if passed[0] == number:
                raise Interrupt

    sys.setprofile(profile)
    try:
        yield passed
    finally:
        sys.setprofile(None)


def closers_are_done() -> None:
    """Wait for what the threads of the host have to start and to close by now."""
    spawner, done = spawn._current, threading.Event()
    assert spawner is not None
    spawner.starts.put(lambda: spawner.ends.put(done.set))
    assert done.wait(60.0)


def test_an_interrupt_anywhere_closes_no_descriptor_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A later descriptor with a closed one's number stays open when the child is closed."""
    for number in itertools.count(1):
        child: Child | None = None
        strangers: list[int] = []
        with struck(number) as passed:
            try:
                child = run("cat", limits=Limits())
                child.close_stdin()
                assert child.wait(60.0)
                child.close()
            except Interrupt:
                sys.setprofile(None)
                strangers = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
        if child is not None:
            child.close()
        closers_are_done()
        for fd in strangers:
            os.close(fd)  # fails if it is closed
        if passed[0] < number:
            break
    assert number > 50
    assert not [each for each in caplog.records if each.name.startswith("emit.host.system")]


def test_an_interrupted_start_leaves_nothing(tag: str) -> None:
    """An exception of a signal handler at any moment of a start leaks no process, no pipe."""
    struck = 0
    # As long as it takes: a quick machine is through with most starts before the alarm.
    for n in itertools.count():
        if n >= (2000 if CHAOS else 150) and struck > 20:
            break
        limits = Limits() if n % 2 else None
        wanted = program("sleep", tag, limits=limits)
        child = None
        try:
            with interrupts((n % 75 + 1) * (0.0003 if limits else 0.00002)):
                child = start(wanted)
        except Interrupt:
            struck += 1
        if child is not None:
            child.close()
    del child
    assert count(tag, 0) == 0


def test_a_dropped_child_is_killed(tag: str) -> None:
    """Nobody can talk to a process whose pipes are unreachable."""
    child = run("sleep", tag, limits=Limits())
    assert count(tag, 1) == 1
    del child
    gc.collect()
    assert count(tag, 0) == 0


def test_a_start_that_takes_too_long(tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exec that hangs is an error in time; what comes of it later is killed."""
    release = threading.Event()
    popen = spawn._popen

    def hang(*args: object) -> int:
        release.wait(60.0)
        return popen(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(spawn, "_popen", hang)
    with pytest.raises(StartTimeout, match=r"0\.05 s"):
        start(program("sleep", tag), timeout=0.05)
    release.set()
    monkeypatch.undo()
    assert output(run("echo", "ok")) == "ok\n"
    assert count(tag, 0) == 0


def test_the_end_of_a_thread_ends_no_child() -> None:
    """PR_SET_PDEATHSIG is tied to the spawner's thread, not to the one that asked."""
    found: list[Child] = []
    thread = threading.Thread(target=lambda: found.append(run("cat", limits=Limits())))
    thread.start()
    thread.join()
    os.write(found[0].stdin, b"still here")
    assert not found[0].wait(0.2)
    found[0].close_stdin()
    assert output(found.pop()) == "still here"


# Limits


@linux_only
def test_the_default_limits_are_set() -> None:
    """No core, 1024 descriptors, first to die for memory, no privileges gained."""
    code = "ulimit -c; ulimit -n; cat /proc/self/oom_score_adj; grep NoNew /proc/self/status"
    assert output(run("sh", "-c", code, limits=Limits())).split() == [
        "0",
        "1024",
        "500",
        "NoNewPrivs:",
        "1",
    ]


@linux_only
def test_limits_can_be_left_alone() -> None:
    """None and False change nothing."""
    code = "ulimit -c; ulimit -n; cat /proc/self/oom_score_adj; grep NoNew /proc/self/status"
    none = Limits(core=None, nofile=None, oom_score_adj=None, no_new_privs=False)
    assert output(run("sh", "-c", code)) == output(run("sh", "-c", code, limits=none))


def test_a_limit_over_the_hosts_becomes_the_hosts() -> None:
    """A lower hard limit of the host is no reason not to start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("the host has no hard limit")
    said = output(run("sh", "-c", "ulimit -n", limits=Limits(nofile=hard + 1)))
    assert f"{hard}\n" == said


def test_processor_time_is_bounded() -> None:
    """SIGXCPU when it is used up."""
    child = run("sh", "-c", "while :; do :; done", limits=Limits(cpu=1))
    assert child.wait(100.0)
    assert child.status == -signal.SIGXCPU
    child.close()


def test_a_limit_refused_by_the_system_is_named() -> None:
    """An impossible limit is an error of the start, not of the program."""
    with pytest.raises(StartError, match="nofile could not be set") as caught:
        run("true", limits=Limits(nofile=-2))
    assert "nofile" in caught.value.hint


def test_too_little_address_space_ends_with_a_status() -> None:
    """The program's end is seen if the limit is too small for it."""
    child = run(sys.executable, "-c", "bytearray(1 << 30)", limits=Limits(address_space=1 << 28))
    assert child.wait(100.0)
    assert child.status not in (0, None)
    child.close()


@linux_only
@pytest.mark.parametrize("env", [{}, {"LC_CTYPE": "C"}, {"A": "b"}])
def test_the_trampoline_leaves_the_environment_as_it_is(env: dict[str, str]) -> None:
    """Python's own additions for the C locale do not reach the program."""
    seen = output(start(Program("n", ("/usr/bin/env",), env, limits=Limits()))).splitlines()
    expected = [f"{name}={value}" for name, value in env.items()]
    assert sorted(expected) == sorted(line for line in seen if not line.startswith("EMIT_HOST_"))


@linux_only
def test_the_trampoline_resets_signals() -> None:
    """Signals that Python or the host ignores or blocks are as usual in the program."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        child = run("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status", limits=Limits())
    finally:
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    # 32 and 33 are the C library's own; nobody else can set them.
    masks = [int(line.split()[1], 16) & ~(0b11 << 31) for line in output(child).splitlines()]
    assert masks == [0, 0]


# Forks of the host


def in_fork(body: object) -> int:
    """Run *body* in a forked child; return its exit code, 0 if all was well."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(60)
            body()  # type: ignore[operator]
            status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_fork_cannot_touch_the_parents_child() -> None:
    """Each method of an inherited child does nothing."""
    child = run("cat", limits=Limits())

    def meddle() -> None:
        assert not child.poll()
        assert not child.wait(5.0)
        child.terminate()
        assert child.kill_tree()
        child.close_stdin()
        child.close()
        assert "of another process" in repr(child)
        assert child.stdin == -1

    assert in_fork(meddle) == 0
    os.write(child.stdin, b"alive")
    child.close_stdin()
    assert output(child) == "alive"


def test_a_fork_holds_no_pipe_of_the_parent() -> None:
    """A program sees the end of its input though a forked child lives on."""
    child = run("cat")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    child.close_stdin()
    assert child.wait(60.0)
    os.close(writing)
    os.close(reading)
    os.waitpid(pid, 0)
    child.close()


def test_a_fork_starts_programs_of_its_own() -> None:
    """A forked child has a thread, a sentinel and a cookie that are not the parent's."""
    ours = run("cat", limits=Limits())

    def begin() -> None:
        theirs = run("cat", limits=Limits())
        assert theirs.cookie.split(".")[0] != ours.cookie.split(".")[0]
        os.write(theirs.stdin, b"fork")
        theirs.close_stdin()
        assert output(theirs) == "fork"

    assert in_fork(begin) == 0
    ours.close()


def test_a_fork_in_the_midst_of_starts() -> None:
    """Forks while other threads start programs: no deadlock, no inherited pipe."""
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            run("true").close()

    def look() -> None:
        # Fewer are right: an earlier test's end may close its own meanwhile.
        assert Counter(_pipes()) <= before
        assert output(run("echo", "ok")) == "ok\n"

    before = Counter(_pipes())
    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    codes = [in_fork(look) for _ in range(50 if CHAOS else 8)]
    stop.set()
    for thread in threads:
        thread.join()
    assert {0} == set(codes)


def _pipes() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            link = os.readlink(f"/proc/self/fd/{fd}")
            if link.startswith(("pipe:", "anon_inode:[pidfd]")):
                yield link


# Often


def test_many_starts_leave_nothing() -> None:
    """Descriptors and memory stay flat."""
    import psutil

    process = psutil.Process()
    for _ in range(50):
        run("true").close()
    before = process.memory_info().rss
    for _ in range(10_000 if CHAOS else 200):
        run("true").close()
    assert process.memory_info().rss - before < 5 << 20


#: In the trampoline's place: it goes on when as many have begun as there are to be.
GATHERING = """
import os, sys, time
here = os.path.dirname(__file__)
open(os.path.join(here, f"{os.getpid()}.begun"), "w").close()
while sum(name.endswith(".begun") for name in os.listdir(here)) < 8:
    time.sleep(0.005)
os.execv(sys.executable, [sys.executable, "-IS", TRAMPOLINE, *sys.argv[1:]])
"""


def test_a_start_needs_no_sleeping_thread(
    tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many programs with limits begin side by side: the trampoline's time is the callers'."""
    gathering = tmp_path / "gathering.py"
    gathering.write_text(GATHERING.replace("TRAMPOLINE", repr(trampoline.__file__)))
    monkeypatch.setattr(trampoline, "__file__", str(gathering))
    children: list[Child] = []
    threads = [
        threading.Thread(target=lambda: children.append(run("sleep", tag, limits=Limits())))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(children) == sleepers(tag) == 8
    for child in children:
        child.close()
