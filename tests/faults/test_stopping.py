"""The end of a node, of a router and of the whole program, in all the ways there are."""

from __future__ import annotations

import os
import signal
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from emit import Router
from emit.errors import CallTimeout, PoolClosed
from emit.host.calls import Calls
from emit.multilang import ShellNode
from tests.faults.nodes import PATH, host_of, pool, raw, started
from tests.hosts import count, open_host, run_host

pytestmark = pytest.mark.usefixtures("leak_free")

#: Answers each message with its process id.
PIDS = """
for id, msg in calls():
    end(id, os.getpid())
"""

#: Hangs in each message, and says so.
HANG = """
for id, msg in calls():
    frame(op="log", level="info", text="busy")
    hang()
"""

#: In a host: a router with one node, of which one process runs, with TAG in its command.
ROUTER = f"""
from emit import Router
from emit.multilang import ShellNode
from tests.faults.nodes import host_of, pool, raw

router = Router()

@router.node(("pid",), name="pid")
class Pid(ShellNode):
    command = raw({PIDS!r}, "TAG")
    env = {{"PYTHONPATH": {PATH!r}}}
    mode = "persistent"

os.kill(Pid(n=1)[0]["pid"], 0)
"""


# The end of the program


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("pass", 0),
        ("sys.exit(7)", 7),
        ("raise RuntimeError('the end of this host, as expected')", 1),
        ("os._exit(5)", 5),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("with router: sys.exit(7)", 7),
        ("with router: os.abort()", -signal.SIGABRT),
    ],
)
def test_the_end_of_the_program(end: str, status: int, tag: str) -> None:
    """However it ends, its processes end, and its exit code is what it was to be."""
    run_host(ROUTER.replace("TAG", tag) + end, status=status)
    assert count(tag, 0) == 0


@pytest.mark.parametrize("end", ["sys.exit(3)", "os._exit(3)"])
def test_the_end_of_the_program_in_the_middle_of_calls(end: str, tag: str) -> None:
    """Eight threads are in a call: it ends at once, and so do their processes."""
    code = f"""
        import logging
        from tests.faults.nodes import host_of, pool, raw

        class Busy(logging.Handler):
            def emit(self, record):
                busy.release()

        busy = threading.Semaphore(0)
        logging.getLogger("emit.node.n").addHandler(Busy())
        logging.getLogger("emit.node.n").setLevel(logging.INFO)
        held = pool(raw({HANG!r}, {tag!r}), size=8, timeout=600.0)
        node = held.__enter__()
        for _ in range(8):
            threading.Thread(target=node.call, args=[{{}}], daemon=True).start()
        for _ in range(8):
            busy.acquire()
        {end}
    """
    before = time.monotonic()
    run_host(textwrap.dedent(code), status=3)
    assert count(tag, 0) == 0
    assert time.monotonic() - before < 50.0


def test_a_killed_host_in_the_middle_of_a_call(tag: str) -> None:
    """Its process is busy, does not look at its input, and ends all the same."""
    code = f"""
        from tests.faults.nodes import host_of, pool, raw
        with pool(raw({HANG!r}, {tag!r})) as node:
            node.call({{}})
    """
    with open_host(textwrap.dedent(code)) as host:
        assert count(tag, 2) == 2  # the host has the tag in its own command
        host.kill()
    assert count(tag, 0) == 0


# The end of a process


def test_a_process_that_ignores_all_requests() -> None:
    """The end of its input, then SIGTERM, then SIGKILL: gone when its time is up."""
    program = raw("""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ready()
        end(read()["id"], os.getpid())
        hang()
    """)
    with pool(program, stop_grace=0.1, term_grace=0.1) as node:
        (pid,) = node.call({})
    assert not psutil.pid_exists(pid)


def test_processes_are_stopped_together(tmp_path: Path) -> None:
    """Each of three is asked before any is killed."""
    # One by one the first would be killed before the last is asked, and see nobody else.
    program = raw(
        """
        def meet(*_):
            open(os.path.join(sys.argv[1], f"{os.getpid()}"), "w").close()
            while len(os.listdir(sys.argv[1])) < 3:
                time.sleep(0.005)
            os.rename(sys.argv[1] + f"/{os.getpid()}", sys.argv[1] + f"/met {os.getpid()}")
            os._exit(0)

        signal.signal(signal.SIGTERM, meet)
        ready()
        hang()
        """,
        str(tmp_path),
    )
    with pool(program, size=3, stop_grace=0.1, term_grace=30.0) as node:
        for lease in [node.pool.acquire(time.monotonic() + 60.0) for _ in range(3)]:
            node.pool.release(lease)
    assert [path.name[:3] for path in tmp_path.iterdir()] == ["met"] * 3


def test_a_process_stopped_in_the_middle_of_a_call() -> None:
    """SIGSTOP: the error of the deadline says so, the process is killed, the slot is free."""
    program = raw("""
        for id, msg in calls():
            if msg["stop"]:
                os.kill(os.getpid(), signal.SIGSTOP)
            end(id, os.getpid())
    """)
    with pool(program, timeout=3.0, max_attempts=1) as node:
        started(node)
        (first,) = node.call({"stop": False})
        with pytest.raises(CallTimeout, match="stopped, as by SIGSTOP"):
            node.call({"stop": True})
        assert not psutil.pid_exists(first)
        started(node)
        assert node.call({"stop": False}) != [first]


def test_a_process_stopped_while_idle() -> None:
    """The message that finds it so is tried again with another."""
    with pool(raw(PIDS), timeout=4.0) as node:
        (first,) = node.call({})
        os.kill(first, signal.SIGSTOP)
        (second,) = node.call({})
        assert second != first
        assert not psutil.pid_exists(first)
        assert node.snapshot()["retries"] == {"CallTimeout": 1}


def test_a_stopped_process_is_closed() -> None:
    """It hears SIGTERM since it is made to go on."""
    with pool(raw(PIDS), stop_grace=0.1, term_grace=60.0) as node:
        (pid,) = node.call({})
        os.kill(pid, signal.SIGSTOP)
        before = time.monotonic()
    assert time.monotonic() - before < 30.0
    assert not psutil.pid_exists(pid)


# Closing


def test_close_twice() -> None:
    """The second time does nothing; no message is taken any more."""
    with pool(raw(PIDS)) as node:
        node.call({})
        host = host_of(node)
        host.close()
        host.close()
        with pytest.raises(PoolClosed):
            node.call({})


def test_close_during_a_call(tmp_path: Path) -> None:
    """A call that is under way gets its answer; one that waits for a process, PoolClosed."""
    go = tmp_path / "go"
    os.mkfifo(go)
    program = raw(
        """
        for id, msg in calls():
            frame(op="log", level="info", text="busy")
            open(sys.argv[1]).read()
            end(id, os.getpid())
        """,
        str(go),
    )
    outcomes: list[object] = []

    def call(n: int) -> None:
        try:
            outcomes.append(node.call({"n": n}))
        except PoolClosed as error:
            outcomes.append(error)

    with pool(program) as node:
        threads = [threading.Thread(target=call, args=[n]) for n in range(2)]
        for thread in threads:
            thread.start()
        _until(lambda: (node.pool.snapshot()["queued"], node.pool.busy) == (1, 1))
        with open(go, "w"):  # opens when the program reads: it is in the call
            closing = threading.Thread(target=host_of(node).close)
            closing.start()
            closing.join()
            _until(lambda: len(outcomes) == 1)
        for thread in threads:
            thread.join()
    waited, answered = outcomes
    assert isinstance(waited, PoolClosed)
    assert waited.may_have_run is False
    assert isinstance(answered, list)
    assert not psutil.pid_exists(answered[0])


def test_close_by_many_threads_during_calls() -> None:
    """Each call ends with its answer or with PoolClosed, whoever closes when."""
    for _ in range(5):
        outcomes: list[object] = []

        def call(node: Calls, outcomes: list[object] = outcomes) -> None:
            try:
                while True:
                    outcomes.append(len(node.call({})))
            except PoolClosed as error:
                outcomes.append(error.may_have_run)

        with pool(raw(PIDS), size=2) as node:
            callers = [threading.Thread(target=call, args=[node]) for _ in range(8)]
            for thread in callers:
                thread.start()
            _until(lambda outcomes=outcomes: len(outcomes) > 20)
            closers = [threading.Thread(target=host_of(node).close) for _ in range(4)]
            for thread in closers:
                thread.start()
            for thread in [*closers, *callers]:
                thread.join()
        assert outcomes.count(1) + 8 == len(outcomes)
        assert [outcome for outcome in outcomes if outcome is False] == [False] * 8


def test_a_router_stops_its_processes() -> None:
    """
    The end of the router's block stops them; a later message starts others until the next close.
    """
    router = Router()

    class Pid(ShellNode):
        command = raw(PIDS)
        env = {"PYTHONPATH": PATH}  # noqa: RUF012
        mode = "persistent"

    pid = router.node(("pid",), name="pid")(Pid)
    with router:
        first = pid(n=1)[0]["pid"]
        assert pid(n=1)[0]["pid"] == first
    assert not psutil.pid_exists(first)
    second = pid(n=1)[0]["pid"]
    assert second != first
    router.close()
    router.close()
    assert not psutil.pid_exists(second)


def test_an_exception_ends_a_router_too() -> None:
    """The block's exception comes through, and nothing runs on."""
    router = Router()
    node = router.node(
        ("pid",), name="pid", command=raw(PIDS), env={"PYTHONPATH": PATH}, mode="persistent"
    )(ShellNode)
    pids = []

    def fail() -> None:
        pids.append(node(n=1)[0]["pid"])
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"), router:
        fail()
    assert not psutil.pid_exists(pids[0])


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.002)


def test_a_signal_handler_closes_the_host() -> None:
    """A handler may close the host at any point of the main thread's work, as SIGTERM does."""
    said = run_host("""
        from emit.host.host import Host
        from emit.host.settings import Settings
        from emit.host.system.program import Program

        class Nodes(list):
            def __iter__(self):
                signal.raise_signal(signal.SIGTERM)
                return super().__iter__()

        signal.alarm(60)  # a main thread that waits for itself hears nothing else
        host = Host()
        cat = Program("n", ("cat",), environment({}))
        node = host.calls("n", lambda: cat, Settings(mode="lines"))
        node.call({"n": 1})
        closed = []
        signal.signal(signal.SIGTERM, lambda *_: closed or (closed.append(1), host.close()))
        host._nodes = Nodes(host._nodes)
        print(len(host.pools), closed)
    """)
    assert said == "1 [1]\n"
