"""Several threads with one router."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from emit import Message, Router

THREADS = 8
#: Seconds after which a test has hung.
HANG = 30


@pytest.fixture
def router() -> Router:
    return Router()


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """Run *work* in several threads that start together."""
    barrier = threading.Barrier(THREADS)

    def start(number: int) -> Any:
        barrier.wait(HANG)
        return work(number)

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(start, range(THREADS), timeout=HANG))


def test_calls_do_not_mix(router: Router) -> None:
    """Each thread's messages stay in its thread and in their order."""
    got: dict[int, list[Any]] = {}

    @router.node(("n",), entry_point=True, name="source")
    def source(msg: Message) -> Any:
        for n in range(300):
            yield ((msg.thread, n),)

    router.node(("n",), "source", name="middle")(lambda msg: (msg.n,))

    @router.node((), "middle", name="end")
    def end(msg: Message) -> None:
        thread, n = msg.n
        got.setdefault(threading.get_ident(), []).append((thread, n))

    at_once(lambda number: router(thread=number))
    seen = [pair for pairs in got.values() for pair in pairs]
    assert len(seen) == THREADS * 300
    for pairs in got.values():
        for thread in {thread for thread, _ in pairs}:
            assert [n for t, n in pairs if t == thread] == list(range(300))


def test_a_failure_stays_in_its_thread(router: Router) -> None:
    """One thread's exception drops only that thread's messages."""
    got: list[int] = []

    @router.node(("n",), entry_point=True, name="source")
    def source(msg: Message) -> Any:
        yield from range(50)
        if msg.thread % 2:
            raise KeyError(msg.thread)

    router.node((), "source", name="end")(lambda msg: got.append(msg.n))

    def call(number: int) -> bool:
        try:
            router(thread=number)
        except KeyError:
            return False
        return True

    assert at_once(call) == [True, False] * (THREADS // 2)
    assert sorted(got) == sorted(list(range(50)) * (THREADS // 2))


def test_declaring_while_others_call(router: Router) -> None:
    """Nodes declared by several threads while others call are all there in the end."""
    router.node(("n",), entry_point=True, name="source")(lambda msg: msg.n)

    def work(number: int) -> None:
        for n in range(50):
            if number % 2:
                router.node((), "source", name=f"end-{number}-{n}")(lambda msg: None)
            else:
                router(n=n)

    at_once(work)
    assert len(router.routes["source"]) == 50 * THREADS // 2


def test_one_name_declared_by_many(router: Router) -> None:
    """One of several threads that declare one name at once succeeds."""

    def declare(number: int) -> bool:
        try:
            router.node((), name="twin")(lambda msg: None)
        except ValueError:
            return False
        return True

    assert at_once(declare).count(True) == 1


MODULE = """
import threading
import state
state.importing.set()
state.go_on.wait(30)

@state.router.node(("n",), entry_point=True)
def node(msg):
    return msg.n
"""


def test_importing_in_one_thread_and_calling_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module being imported by one thread when another needs it is no deadlock."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "before.py").write_text("import state; state.calling.set()")
    (tmp_path / "slowly.py").write_text(MODULE)
    state: Any = type(sys)("state")
    state.router = Router(node_modules=["before", "slowly"])
    state.importing, state.calling, state.go_on = (threading.Event() for _ in range(3))
    monkeypatch.setitem(sys.modules, "state", state)
    with ThreadPoolExecutor(2) as threads:
        imported = threads.submit(importlib.import_module, "slowly")
        assert state.importing.wait(HANG)
        called = threads.submit(state.router, n=1)
        assert state.calling.wait(HANG)
        state.go_on.set()
        assert called.result(HANG) is None
        assert imported.result(HANG) is sys.modules.pop("slowly")
    del sys.modules["before"]
    assert state.router.names == {"slowly.node"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_asynchronous_nodes_after_a_fork(router: Router) -> None:
    """A forked child makes an event loop of its own, and the parent's goes on working."""

    @router.node(("n",), name="node")
    async def node(msg: Message) -> int:
        return int(msg.n)

    assert node(n=1) == {"n": 1}
    pid = os.fork()
    if pid == 0:
        os._exit(0 if node(n=2) == {"n": 2} else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert node(n=3) == {"n": 3}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_another_thread_runs_its_first_asynchronous_node() -> None:
    """The child would wait for ever for what that thread, which it has not, was just importing."""
    program = """if True:
        import os, signal, sys, threading
        from emit import Router

        router = Router()

        @router.node(("n",), name="node")
        async def node(msg):
            return msg.n

        importing, forked = threading.Event(), threading.Event()

        class Slow:
            def find_spec(name, *_):
                if name == "asyncio.events":
                    importing.set()
                    forked.wait(0.5)  # longer than a fork takes that does not wait for this

        sys.meta_path.insert(0, Slow)
        first = threading.Thread(target=node, kwargs={"n": 1})
        first.start()
        importing.wait()
        child = os.fork()
        forked.set()
        if child == 0:
            signal.alarm(20)
            os._exit(node(n=2) != {"n": 2})
        first.join()
        assert node(n=3) == {"n": 3}
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
