"""Hosts that fork, in every way Python has, with processes running."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.faults.nodes import CHAOS, PATH
from tests.hosts import ROOT, count, open_host, run_host, tagged

pytestmark = pytest.mark.usefixtures("leak_free")

CALLS = 20_000 if CHAOS else 300

numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def tag(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A word that only the node's processes have in their command; killed whatever fails."""
    name = f"forked-{os.getpid()}-{next(numbers)}"
    monkeypatch.setenv("TAG", name)
    yield name
    for pid in tagged(name):
        with contextlib.suppress(ProcessLookupError):  # it was on its way out
            os.kill(pid, signal.SIGKILL)


PREAMBLE = f"""
sys.path[:0] = {[str(ROOT), *PATH.split(":")]!r}
import graph
COUNT = {CALLS}
def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def host(code: str) -> str:
    return run_host(PREAMBLE + code).strip()


def test_a_forked_child_has_its_own_processes() -> None:
    """Parent and child call at the same time, and each gets its own answers."""
    code = """
assert graph.check(10) == 0
pid = os.fork()
wrong = graph.check(COUNT)
if not pid:
    os._exit(min(wrong, 255))
print(wrong, wait(pid))
"""
    assert host(code) == "0 0"


def test_a_fork_while_other_threads_call() -> None:
    """The child can call, even if a lock was held or an answer was under way at the fork."""
    code = """
done = threading.Event()
def work():
    while not done.is_set():
        assert graph.check(20) == 0
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
statuses = []
for _ in range(10):
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        os._exit(min(graph.check(5), 255))
    statuses.append(wait(pid))
done.set()
for thread in threads:
    thread.join()
print(statuses, graph.check(10))
"""
    assert host(code) == f"{[0] * 10} 0"


def test_a_fork_in_the_middle_of_a_stream() -> None:
    """The child forgets the call; the parent's answer is whole."""
    code = """
import gc
from tests.faults.nodes import *
with pool(sdk("def many(msg): yield from range(50_000)\\nserve(many)")) as node:
    stream = node.stream({})
    assert next(stream) == 0
    pid = os.fork()
    if not pid:
        sys.unraisablehook = lambda problem: os._exit(1)
        del stream
        gc.collect()
        os._exit(min(graph.check(5), 255))
    print(wait(pid), list(stream) == list(range(1, 50_000)))
"""
    assert host(code) == "0 True"


@pytest.mark.parametrize("kind", ["multiprocessing", "billiard"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_process_pools(kind: str, method: str) -> None:
    """Pools of the standard library and of Celery can call nodes."""
    pytest.importorskip(kind)
    code = f"""
import {kind}
if __name__ == "__main__":
    assert graph.check(10) == 0
    with {kind}.get_context({method!r}).Pool(2) as processes:
        pending = processes.map_async(graph.check, [COUNT] * 4)
        wrong = graph.check(COUNT)
        print(wrong, sum(pending.get(60)))
        processes.close()
        processes.join()
"""
    assert host(code) == "0 0"


def test_a_forked_child_that_ends_properly() -> None:
    """Its atexit handlers stop its own processes and none of its parent's."""
    code = """
graph.check(10)
pid = os.fork()
if not pid:
    sys.exit(graph.check(10))
print(wait(pid), graph.check(10), graph.figures()["starts"])
"""
    assert host(code) == "0 0 1"


def test_a_storm_of_forks() -> None:
    """Fifty children during calls: no wrong answer, and the nodes still see their input end."""
    code = f"""
wrong = 0
children = []
for _ in range({50 if CHAOS else 15}):
    pid = os.fork()
    if not pid:
        sys.stdin.read()
        os._exit(0)
    children.append(pid)
    wrong += graph.check(20)
graph.router.close()
print(wrong, flush=True)
sys.stdin.read()
"""
    with open_host(PREAMBLE + code) as running:
        assert running.stdout is not None
        assert running.stdin is not None
        assert running.stdout.readline() == "0\n"
        running.stdin.close()
        assert running.wait() == 0


def test_nothing_is_left_of_forked_children(tag: str) -> None:
    """A child's processes die with it, even if it is killed."""
    code = """
graph.check(5)
pid = os.fork()
if not pid:
    graph.check(5)
    os.kill(os.getpid(), signal.SIGKILL)
print(wait(pid))
"""
    assert host(code) == "-9"
    assert count(tag, 0) == 0


@pytest.mark.parametrize("closed", [(0,), (0, 1), (0, 1, 2)], ids=str)
def test_a_host_without_standard_descriptors(closed: tuple[int, ...]) -> None:
    """A daemon closes them, so that pipes may get their numbers; calls work all the same."""
    code = f"""
say = os.dup(1)
for fd in {closed!r}:
    os.close(fd)
wrong = graph.check(50)
os.write(say, str(wrong).encode())
graph.router.close()
os._exit(0)
"""
    assert host(code) == "0"


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_the_thread_that_made_the_first_call_ends() -> None:
    """A process outlives the caller's thread: the next thread gets the same one."""
    code = """
pids = []
def work():
    assert graph.check(5) == 0
    pids.append(graph.pids())
for _ in range(3):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(len(pids[0]), pids[0] == pids[1] == pids[2])
"""
    assert host(code) == "1 True"


def test_the_sentinel_is_killed() -> None:
    """Calls go on, and the next start brings another sentinel."""
    code = """
graph.check(5)
first = sentinel_pid()
os.kill(first, signal.SIGKILL)
os.waitpid(first, 0)
wrong = graph.check(50)
graph.router.close()
wrong += graph.check(5)
print(wrong, sentinel_pid() != first)
"""
    assert host(code) == "0 True"
