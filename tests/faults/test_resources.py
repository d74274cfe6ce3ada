"""Programs that use too much: memory, processor, disk, descriptors."""

from __future__ import annotations

import itertools
import resource
import signal
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from emit.errors import ProcessDied, StartError, StartTimeout
from emit.host.calls import Calls
from emit.host.host import Host
from emit.host.settings import Settings
from emit.host.system import child
from emit.host.system.program import Limits, Program, environment
from tests.faults.nodes import CHAOS, PATH, pool, raw, sdk

pytestmark = pytest.mark.usefixtures("leak_free")

MB = 1 << 20

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def test_memory_that_leaks_between_messages() -> None:
    """The process is replaced when it is over max_rss; no message is lost or tried twice."""
    leak = """
        kept = []
        for id, msg in calls():
            if len(kept) < 150:
                kept.append(b"x" * (1 << 20))
            end(id, msg["n"])
    """
    with pool(raw(leak), max_rss=64 * MB) as node:
        # It serves on while its replacement starts, for as long as that takes.
        for n in itertools.count():
            assert node.call({"n": n}) == [n]
            if n >= 150 and node.snapshot()["starts"] > 1:
                break
        figures = node.snapshot()
    assert figures["retries"] == {}
    assert figures["peak_rss_bytes"] > 64 * MB


GREEDY = """
kept = []
for id, msg in calls():
    while msg["greedy"]:
        if len(kept) < 500:  # the machine has no more, should nobody look for a while
            kept.append(b"x" * (1 << 20))
        time.sleep(0.001)
    end(id, 1)
"""


@pytest.mark.parametrize("many", [False, True], ids=["call", "call_many"])
def test_memory_that_grows_within_a_call(many: bool) -> None:
    """It is killed in the middle; the error names the limit, and the account the peak."""
    with pool(raw(GREEDY), max_rss=100 * MB, max_attempts=2) as node:
        assert node.call({"greedy": False}) == [1]
        if many:
            error, answer = node.call_many([{"greedy": True}, {"greedy": False}])
            assert answer == [1]
        else:
            with pytest.raises(ProcessDied) as caught:
                node.call({"greedy": True})
            error = caught.value
        assert "over max_rss = 104857600" in str(error)
        assert error.signal == "SIGKILL"
        assert len(error.letter.causes) == 2
        assert node.snapshot()["peak_rss_bytes"] > 100 * MB


def test_memory_of_children_counts() -> None:
    """A program that lets a child of its own do the work is no exception."""
    code = """
        import subprocess
        for id, msg in calls():
            # It sleeps until it is killed.
            hog = "import time; kept = b'x' * (200 << 20); time.sleep(600)"
            subprocess.run([sys.executable, "-c", hog], stdin=subprocess.DEVNULL)
    """
    with (
        pool(raw(code), max_rss=100 * MB, max_attempts=1) as node,
        pytest.raises(ProcessDied, match="max_rss"),
    ):
        node.call({})


def test_a_kill_from_outside() -> None:
    """The error says that the kernel may have killed the process, as it does without memory."""
    with pool(raw("for id, msg in calls(): os.kill(os.getpid(), 9)"), max_attempts=1) as node:
        with pytest.raises(ProcessDied, match="killed by SIGKILL: out of memory") as caught:
            node.call({})
        assert caught.value.signal == "SIGKILL"
        assert caught.value.exit_code is None


def limited(code: list[str], limits: Limits, host: Host, **settings: Any) -> Calls:
    program = Program("n", tuple(code), environment({"PYTHONPATH": PATH}), limits=limits)
    chosen = Settings(**{"mode": "persistent", "size": 1, "max_attempts": 1, **settings})
    return host.calls("n", lambda: program, chosen)


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


def test_processor_time(host: Host) -> None:
    """A program that spins ends with SIGXCPU when its seconds are used up."""
    spin = raw("for id, msg in calls():\n    while True: pass")
    node = limited(spin, Limits(cpu=1), host, timeout=100.0)
    with pytest.raises(ProcessDied) as caught:
        node.call({})
    assert caught.value.signal == "SIGXCPU"


def test_files_that_are_full(host: Host, tmp_path: object) -> None:
    """A program that can't write its own log answers all the same."""
    code = f"""
        for id, msg in calls():
            try:
                with open({str(tmp_path)!r} + "/log", "wb") as log:
                    log.write(bytes(1 << 20))
            except OSError as error:
                end(id, error.errno)
    """
    ignoring = raw("signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + textwrap.dedent(code))
    node = limited(ignoring, Limits(fsize=4096), host)
    assert node.call({}) == [27]  # EFBIG


@linux_only
def test_too_small_an_address_space(host: Host) -> None:
    """A program that can't start in it fails its caller by start_timeout, and not later."""
    node = limited(sdk("serve(lambda msg: 1)"), Limits(address_space=4 * MB), host, start_timeout=2)
    with pytest.raises((StartError, StartTimeout)):
        node.call({})


@linux_only
def test_the_host_runs_out_of_descriptors() -> None:
    """A typed error; nothing is leaked, and it works again when there are some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pool(sdk("serve(lambda msg: msg.n)"), size=2, backoff=0.01) as node:
        busy = node.pool.acquire(time.monotonic() + 60)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(StartError, match="open files"):
                node.call({"n": 2})
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert node.call({"n": 3}) == [3]
        node.pool.release(busy)


@linux_only
def test_starts_and_kills_leave_nothing() -> None:
    """Descriptors, memory and zombies stay as they are over many processes."""
    me = psutil.Process()
    rounds = 2_000 if CHAOS else 40
    with pool(raw("for id, msg in calls(): end(id, 1)"), backoff=0.0) as node:
        for turn in range(rounds):
            assert node.call({}) == [1]
            if turn == rounds // 4:
                before = me.num_fds(), me.memory_info().rss
            node.pool.processes[0].child.kill_group()
        after = me.num_fds(), me.memory_info().rss
    assert after[0] <= before[0] + 1
    assert after[1] < before[1] + 10 * MB
    assert not [c for c in me.children() if c.status() == psutil.STATUS_ZOMBIE]


def test_a_host_that_ignores_its_children() -> None:
    """The kernel reaps children if SIGCHLD is ignored; it tells their status from 6.15 on only."""
    known = "ended with exit code 3" if child._KERNEL_TELLS else "unknown status"
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pool(raw("for id, msg in calls(): sys.exit(3)"), max_attempts=1) as node:
            with pytest.raises(ProcessDied, match=known) as caught:
                node.call({})
            assert caught.value.exit_code == (3 if child._KERNEL_TELLS else None)
    finally:
        signal.signal(signal.SIGCHLD, before)
