"""Pools and the host: who gets a process, when one is started, replaced, given up."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import Router
from emit.errors import PoolClosed, PoolTimeout, ProcessDied, RemoteError, ResultError
from emit.host.admission import CONCURRENT_STARTS, Turn
from emit.host.calls import Calls
from emit.host.host import Host, current
from emit.host.settings import Settings
from emit.host.system.program import Program, environment
from emit.letter import DeadLetter
from emit.multilang import ShellNode
from tests.faults.nodes import PATH, host_of, pool, raw, sdk, started
from tests.hosts import until

pytestmark = pytest.mark.usefixtures("leak_free")

ECHO = raw("for id, msg in calls(): end(id, msg['n'])")

#: Answers with the pid of the process, when a file is there.
HELD = """
for id, msg in calls():
    while not os.path.exists(msg["until"]):
        time.sleep(0.002)
    end(id, os.getpid())
"""


@contextlib.contextmanager
def hosting(**limits: Any) -> Iterator[tuple[Host, Callable[..., Calls]]]:
    """A host, and a function that makes nodes in it."""
    host = Host(**limits)

    def node(name: str, argv: list[str], **settings: Any) -> Calls:
        program = Program(name, tuple(argv), environment({"PYTHONPATH": PATH}))
        return host.calls(
            name, lambda: program, Settings(**{"mode": "persistent", "size": 2, **settings})
        )

    try:
        yield host, node
    finally:
        host.close()


def together(count: int, work: Callable[[], Any]) -> list[Any]:
    """Return the results of *work* in so many threads at a time."""
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


# Leases and size


def test_processes_are_started_when_needed() -> None:
    """None before the first call, and no second one for calls that follow each other."""
    with pool(ECHO, size=4) as node:
        assert node.snapshot()["starts"] == 0
        assert [node.call({"n": n}) for n in range(5)] == [[0], [1], [2], [3], [4]]
        assert node.snapshot()["starts"] == 1


def test_size_bounds_the_processes(tmp_path: Any) -> None:
    """Calls at the same time get a process each, up to the size; the others wait."""
    flag = tmp_path / "go"
    with pool(raw(HELD), size=3) as node:

        def release() -> None:
            until(lambda: node.snapshot()["queued"] == 3)
            flag.touch()

        timer = threading.Thread(target=release)
        timer.start()
        pids = together(6, lambda: node.call({"until": str(flag)}))
        timer.join()
        assert len({pid for (pid,) in pids}) == 3
        assert node.snapshot()["starts"] == 3


def test_no_process_becomes_free(tmp_path: Any) -> None:
    """The message was not sent; the error names the setting."""
    with pool(ECHO, size=1, acquire_timeout=0.1) as node, node.pool.lease(time.monotonic() + 30):
        with pytest.raises(PoolTimeout, match=r"acquire_timeout = 0\.1") as caught:
            node.call({"n": 1})
        assert not caught.value.may_have_run


def test_some_are_kept_ready() -> None:
    """The host starts min_idle processes before anybody calls."""
    with pool(raw("for id, msg in calls(): end(id, os.getpid())"), size=3, min_idle=2) as node:
        until(lambda: node.snapshot()["idle"] == 2)
        figures = node.snapshot()
        assert figures["starts"] == 2
        (answered,) = node.call({})
        assert answered in [process["pid"] for process in figures["processes"]]


def test_the_idle_are_stopped() -> None:
    """Idle processes are stopped after idle_timeout, but not below min_idle."""
    with pool(ECHO, size=3, min_idle=1, idle_timeout=0.05) as node:
        end = time.monotonic() + 30
        leases = [node.pool.acquire(end) for _ in range(3)]
        for lease in leases:
            node.pool.release(lease)
        until(lambda: node.snapshot()["ends"] == {"idle": 2})
        assert node.snapshot()["idle"] == 1


def test_the_replacement_is_started_first(tmp_path: Path) -> None:
    """A worn process serves until the new one is ready, so no call waits for a start."""
    gate = tmp_path / "gate"
    gate.touch()
    slow = f"while not os.path.exists({str(gate)!r}): time.sleep(0.002)\n"
    pid = raw(slow + "for id, msg in calls(): end(id, os.getpid())")
    with pool(pid, max_calls=2, jitter=0) as node:
        first = node.call({})
        gate.unlink()
        assert [node.call({}) for _ in range(10)] == [first] * 10
        assert node.snapshot()["ends"] == {}
        gate.touch()
        until(lambda: node.call({}) != first)
        until(lambda: node.snapshot()["ends"])
        figures = node.snapshot()
        assert figures["starts"] >= 2
        assert figures["retries"] == figures["failures"] == {}


def test_a_process_that_is_replaced_as_it_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its replacement, ready before that is done, is the only one left."""
    with pool(ECHO, max_calls=1, jitter=0) as node:
        monkeypatch.setattr(node.pool, "_later", lambda job: job())
        assert node.call({"n": 1}) == [1]
        (process,) = node.pool.processes
        assert (process.talk.count, process.talk.condemned) == (0, None)


def test_a_pool_that_is_closed_during_a_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replacement is ended as well: nobody else would."""
    with pool(ECHO, max_calls=1, jitter=0) as node:
        jobs: list[Callable[[], None]] = []
        monkeypatch.setattr(node.pool, "_later", jobs.append)
        assert node.call({"n": 1}) == [1]
        start, fresh = node.pool.source.start, []

        def start_and_close() -> Any:
            fresh.append(start())
            host_of(node).close(node)
            return fresh[0]

        monkeypatch.setattr(node.pool.source, "start", start_and_close)
        jobs.pop()()
        assert (node.pool.busy, node.pool.processes) == (0, [])
        assert fresh[0].child.poll()


def test_a_process_that_is_replaced_while_a_batch_is_not_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next message goes to its replacement; the worn one cleans up, and has not failed."""
    cleaned = tmp_path / "cleaned"
    at_exit = f"import atexit; atexit.register(open, {str(cleaned)!r}, 'w')"
    tidy = raw(f"{at_exit}\nfor id, msg in calls(): end(id, msg['n'])")
    with pool(tidy, max_calls=1, window=1, jitter=0) as node:
        outcomes = node.call_many({"n": n} for n in range(2))
        assert next(outcomes) == [0]
        until(lambda: node.snapshot()["idle"] == 1)
        assert list(outcomes) == [[1]]
        until(lambda: node.snapshot()["ends"].get("max_calls", 0) >= 1)
        until(cleaned.exists)
        assert set(node.snapshot()["ends"]) == {"max_calls"}
    assert not caplog.records


def test_old_processes_are_replaced() -> None:
    """Processes over max_age are replaced, even when nobody calls."""
    with pool(ECHO, max_age=0.2, jitter=0) as node:
        node.call({"n": 1})
        until(lambda: node.snapshot()["ends"].get("max_age", 0) >= 1)
        assert node.snapshot()["idle"] == 1


# Over all nodes


def test_the_longest_idle_makes_room() -> None:
    """The longest idle process is stopped at max_processes, whichever node it belongs to."""
    with hosting(max_processes=2) as (host, node):
        first, second, third = (node(name, ECHO) for name in "abc")
        for calls in (first, second, third):
            assert calls.call({"n": 1}) == [1]
        assert [len(calls.pool.processes) for calls in (first, second, third)] == [0, 1, 1]
        assert first.snapshot()["ends"] == {"evicted": 1}
        assert repr(host) == "<Host [3 nodes | Processes: 0 busy, 2 idle of 2]>"


def test_nobody_idles_at_the_limit() -> None:
    """The start waits, and fails its caller in the end."""
    with hosting(max_processes=1) as (_, node):
        first, second = node("a", ECHO), node("b", ECHO, acquire_timeout=0.1)
        with first.pool.lease(time.monotonic() + 30), pytest.raises(PoolTimeout):
            second.call({"n": 1})
        assert second.call({"n": 2}) == [2]


def test_the_host_has_no_room(tmp_path: Path) -> None:
    """The error names the limit of the host, which is to be changed, and not the node's size."""
    with hosting(max_processes=1) as (_, node):
        first, second = node("a", ECHO), node("b", ECHO, size=4, acquire_timeout=0.1)
        with first.pool.lease(time.monotonic() + 30):
            with pytest.raises(PoolTimeout, match=r"the host may have \(max_processes = 1\)"):
                second.call({"n": 1})


def waits(host: Host) -> bool:
    return host.admission.is_contended and host.admission.first() is not None


@pytest.mark.parametrize("limits", [{"max_processes": 1}, {"max_rss": 2**20}], ids=str)
@pytest.mark.parametrize("kind", ["call", "call_many", "stream"])
def test_a_process_that_becomes_idle_makes_room(
    tmp_path: Path, limits: dict[str, int], kind: str
) -> None:
    """A call of another node that waits for room gets it, and has the process stopped."""
    flag = tmp_path / "go"
    with hosting(**limits) as (host, node):
        first, second = node("a", raw(HELD)), node("b", ECHO, timeout=60)

        def release() -> None:
            until(lambda: waits(host))
            flag.touch()

        busy = threading.Thread(target=lambda: first.call({"until": str(flag)}))
        busy.start()
        until(lambda: first.snapshot()["busy"] == 1 and first.snapshot()["processes"])
        releasing = threading.Thread(target=release)
        releasing.start()
        if kind == "call":
            assert second.call({"n": 7}) == [7]
        elif kind == "stream":
            assert list(second.stream({"n": 7})) == [7]
        else:
            assert list(second.call_many([{"n": 7}])) == [[7]]
        for thread in (busy, releasing):
            thread.join()
        assert first.snapshot()["ends"] == {"evicted": 1}


@pytest.mark.parametrize("kind", ["call", "call_many"])
def test_nobody_starves_at_the_limit(kind: str) -> None:
    """A node that is called without end leaves room for one that is called now and then."""
    done = threading.Event()

    def messages() -> Iterator[dict[str, int]]:
        while not done.is_set():
            yield {"n": 1}

    def be_busy(calls: Calls) -> None:
        if kind == "call_many":
            assert set(map(str, calls.call_many(messages()))) == {"[1]"}
        while not done.is_set():
            assert calls.call({"n": 1}) == [1]

    with hosting(max_processes=1) as (_, node):
        busy, rare = node("a", ECHO, timeout=60, window=8), node("b", ECHO, timeout=60)
        threads = [threading.Thread(target=be_busy, args=(busy,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: busy.snapshot()["calls"])
        try:
            assert [rare.call({"n": n}) for n in range(3)] == [[0], [1], [2]]
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert rare.snapshot()["failures"] == busy.snapshot()["failures"] == {}


def test_busy_nodes_take_turns() -> None:
    """Several are called without end, and there is room for one process: all get on."""
    with hosting(max_processes=1) as (_, node):
        nodes = [node(name, ECHO, timeout=60) for name in "abc"]
        counts = dict.fromkeys("abc", 0)

        def work(calls: Calls) -> None:
            while min(counts.values()) < 5:
                assert calls.call({"n": 1}) == [1]
                counts[calls.node] += 1

        threads = [threading.Thread(target=work, args=(calls,)) for calls in nodes * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # A process serves for as long as it took to start, at the least: not a start for each call.
        assert sum(counts.values()) > sum(calls.snapshot()["starts"] for calls in nodes)


def test_a_node_waits_for_a_process_of_its_own_as_well() -> None:
    """A node at the host's limit gets a process that it has already, and none is stopped for it."""
    pid = raw("for id, msg in calls(): end(id, os.getpid())")
    with hosting(max_processes=1) as (host, node):
        calls = node("a", pid, size=4, timeout=60)
        with calls.pool.lease(time.monotonic() + 30) as process:
            waiting = threading.Thread(target=lambda: found.append(calls.call({})))
            found: list[Any] = []
            waiting.start()
            until(lambda: waits(host))
        waiting.join()
        assert found == [[process.child.pid]]
        assert calls.snapshot()["ends"] == {}


def test_who_is_thrown_out_while_it_waits_for_room() -> None:
    """It is passed over, whether it is gone or its place is left behind."""
    with hosting(max_processes=1) as (host, node):
        first, second = node("a", ECHO), node("b", ECHO, timeout=60)
        with first.pool.lease(time.monotonic() + 30):
            lost, left = Turn(second.pool), Turn(second.pool)
            assert not host.admission.may_start(lost)
            assert not host.admission.may_start(left)
            assert host.admission.first() is lost
            del lost
            assert host.admission.first() is left
            left.asked -= 60
            assert host.admission.first() is None
        assert second.call({"n": 2}) == [2]


def test_processes_that_are_kept_ready_take_no_room() -> None:
    """Neither of two nodes stops the other's process if there is room for one only."""
    with hosting(max_processes=1) as (host, node):
        first, second = node("a", ECHO, min_idle=1), node("b", ECHO, min_idle=1)
        until(lambda: first.snapshot()["idle"] + second.snapshot()["idle"] == 1)
        for _ in range(3):
            host._keep()
        assert first.snapshot()["starts"] + second.snapshot()["starts"] == 1
        assert first.call({"n": 1}) == second.call({"n": 1}) == [1]


def test_a_worn_process_where_there_is_no_room_for_two() -> None:
    """It is stopped first, and the next message starts another."""
    with hosting(max_processes=1) as (_, node):
        calls = node(
            "a", raw("for id, msg in calls(): end(id, os.getpid())"), max_calls=2, jitter=0
        )
        pids = set()
        end = time.monotonic() + 60
        while len(pids) < 3 and time.monotonic() < end:
            pids |= set(calls.call({}))
        assert len(pids) == 3
        until(lambda: calls.snapshot()["ends"].get("max_calls", 0) >= 2)


def test_memory_over_all_nodes() -> None:
    """Above max_rss a process that idles makes room."""
    with hosting(max_rss=2**20) as (_, node):
        first, second = node("a", ECHO), node("b", ECHO)
        assert first.call({"n": 1}) == [1]
        assert second.call({"n": 1}) == [1]
        assert first.snapshot()["ends"] == {"evicted": 1}


def test_a_few_start_at_a_time(tmp_path: Any) -> None:
    """The limit on starts counts all nodes of the host."""
    here = str(tmp_path)
    # Long enough for others to begin meanwhile, if they may.
    code = f"""
        mine = os.path.join({here!r}, str(os.getpid()))
        open(mine, "w").close()
        time.sleep(0.05)
        found = len(os.listdir({here!r}))
        os.unlink(mine)
        for id, msg in calls():
            time.sleep(0.1)
            end(id, found)
    """
    with hosting() as (_, node):
        nodes = iter([node(name, raw(code), size=1) for name in "abcdef"])
        found = together(6, lambda: next(nodes).call({}))
        assert max(count for (count,) in found) <= CONCURRENT_STARTS


# Looking


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__


TIMES = {"p50": "float", "p90": "float", "p99": "float", "max": "float", "mean": "float"}

SHAPE = {
    **dict.fromkeys(("node", "project"), "str"),
    "recent": {
        **dict.fromkeys(("seconds", "p50", "p99"), "float"),
        **dict.fromkeys(("calls", "failures"), "int"),
    },
    "calls": "int",
    "failures": {"RemoteError": "int"},
    "retries": {},
    "wait_seconds": TIMES,
    "call_seconds": TIMES,
    "starts": "int",
    "start_failures": "int",
    "start_error": "NoneType",
    "ends": {"failed": "int"},
    "start_seconds": TIMES,
    **dict.fromkeys(("sent_bytes", "received_bytes", "strays"), "int"),
    "cpu_seconds": "float",
    "rss_bytes": "int",
    "peak_rss_bytes": "int",
    "processes": [
        {
            "pid": "int",
            "version": "str",
            "state": "str",
            "calls": "int",
            "age_seconds": "float",
            "idle_seconds": "float",
            "cpu_seconds": "float",
            "rss_bytes": "int",
        }
    ],
    "pool": "str",
    **dict.fromkeys(("size", "busy", "idle", "queued"), "int"),
    "breaker": "str",
    "language": "str",
    "command": ["str"],
    "version": "str",
}


def test_the_snapshot_has_the_documented_shape() -> None:
    """Plain data for JSON, each key of which the documentation names."""
    program = sdk("def work(msg):\n    print('stray')\n    return [1][msg.n]\nserve(work)")
    with hosting() as (host, node):
        calls = node("work", program)
        assert calls.call({"n": 0}) == [1]
        calls.pool.processes[0].child.kill_group()
        assert calls.pool.processes[0].child.wait(30.0)
        assert calls.call({"n": 0}) == [1]
        with pytest.raises(RemoteError):
            calls.call({"n": 1})
        snapshot = host.snapshot()
    assert json.loads(json.dumps(snapshot)) == snapshot
    assert list(snapshot) == ["pid", "project", "began", "max_processes", "max_rss", "nodes"]
    figures = snapshot["nodes"]["work"]
    assert shape(figures) == SHAPE
    assert snapshot["pid"] == os.getpid()
    assert figures["calls"] == 3
    assert figures["processes"][0]["state"] == "idle"
    assert figures["rss_bytes"] > 2**20
    documented = set(re.findall(r"``\W*(\w+)|\"(\w+)\"", Host.snapshot.__doc__ or ""))
    assert set(figures) <= {word for pair in documented for word in pair}


def test_a_repr_shows_the_state() -> None:
    """The host, the node, its pool and its processes show their state."""
    with hosting() as (host, node):
        calls = node("echo", ECHO)
        assert repr(host) == "<Host [1 nodes | Processes: 0 busy, 0 idle]>"
        assert "Calls: 0 active, 0 queued | Processes: 0 busy, 0 idle of 2]" in repr(calls.pool)
        with calls.pool.lease(time.monotonic() + 30) as process:
            assert repr(host) == "<Host [1 nodes | Processes: 1 busy, 0 idle]>"
            assert repr(process) == f"<Process echo pid {process.child.pid} [idle, 0 calls]>"
        calls.call({"n": 1})
        assert repr(process).endswith("[idle, 1 calls]>")
        assert "0 busy, 1 idle of 2" in repr(calls)
    assert repr(host) == "<Host [0 nodes | Processes: 0 busy, 0 idle | closed]>"


# Messages


def test_a_batch_is_spread_over_processes() -> None:
    """Outcomes come in the order of the messages, whichever process was quicker."""
    # It takes a moment, so that one process is not done before the other has begun.
    code = "for id, msg in calls():\n    time.sleep(0.002)\n    end(id, [msg['n'], os.getpid()])"
    numbers, pids, end = [], set(), time.monotonic() + 60
    with pool(raw(code), size=2, window=8) as node:

        def messages() -> Iterator[dict[str, int]]:
            """Some, and then as many as come until the second process has had its first."""
            for n in itertools.count():
                if n >= 500 and (len(pids) == 2 or time.monotonic() > end):
                    return
                yield {"n": n}

        for ((n, pid),) in node.call_many(messages()):
            numbers.append(n)
            pids.add(pid)
    assert numbers == list(range(len(numbers)))
    assert len(pids) == 2


def test_a_batch_that_the_collector_closes() -> None:
    """Its processes are freed along with it, so that no other caller gets one of them."""
    with pool(ECHO) as node:
        outcomes = node.call_many({"n": n} for n in range(3))
        assert [next(outcomes) for _ in range(3)] == [[0], [1], [2]]
        circle: list[Any] = [outcomes]
        circle.append(circle)
        del outcomes, circle
        gc.collect()
        assert (node.pool.busy, node.pool.processes) == (0, [])
        assert node.call({"n": 3}) == [3]
        assert node.snapshot()["starts"] == 2


def test_a_batch_of_an_endless_source() -> None:
    """Only so many are taken ahead of the oldest without an outcome."""
    taken = 0

    def source() -> Iterator[dict[str, int]]:
        nonlocal taken
        while True:
            taken += 1
            yield {"n": taken}

    with pool(ECHO, window=16) as node:
        outcomes = node.call_many(source())
        assert [next(outcomes) for _ in range(100)] == [[n] for n in range(1, 101)]
        outcomes.close()
    assert taken < 100 + 16 * 4 * 2


def test_a_batch_has_failures_in_their_places() -> None:
    """Failures are exceptions in the list and are not raised; other messages have their results."""
    code = "def work(msg):\n    return 100 // msg.n\nserve(work)"
    with pool(sdk(code)) as node:
        one, error, two = node.call_many([{"n": 1}, {"n": 0}, {"n": 2}])
    assert (one, two) == ([100], [50])
    assert isinstance(error, RemoteError)
    assert error.type == "ZeroDivisionError"


def test_a_long_stream_needs_little_memory() -> None:
    """Results come as they are emitted, and none is kept."""
    code = "serve(lambda msg: ('x' * 100 + str(n) for n in range(msg.count)))"
    with pool(sdk(code)) as node:
        node.call({"count": 1000})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert sum(1 for _ in node.stream({"count": 100_000})) == 100_000
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 20 * 2**20


def test_a_stream_gives_each_result_once() -> None:
    """Results that come together with the stream's end are given once, too."""
    with pool(sdk("serve(lambda msg: iter(range(50_000)))")) as node:
        for _ in range(10):
            assert list(node.stream({})) == list(range(50_000))


def test_a_stream_has_no_limit_of_results() -> None:
    """max_results is for what is collected."""
    code = "serve(lambda msg: iter(range(5_000)))"
    with pool(sdk(code), max_results=100) as node:
        assert list(node.stream({})) == list(range(5_000))


@pytest.mark.slow
def test_an_endless_list_of_results_is_told_as_one() -> None:
    """
    The timeout names the broken limit, since other attempts would end in the same way. The process
    ends its generator when it is asked to, and is kept.
    """
    code = "import itertools\nserve(lambda msg: itertools.count())"
    with pool(sdk(code), max_results=100, timeout=3.0, cancel_grace=60.0) as node:
        started(node)
        with pytest.raises(ResultError, match="more than max_results = 100"):
            node.call({})
        (outcome,) = node.call_many([{}])
        assert isinstance(outcome, ResultError)
        figures = node.snapshot()
        assert (figures["starts"], figures["failures"]) == (1, {"ResultError": 2})


@pytest.mark.parametrize("failure", ["os._exit(3)", "raise Retry('later', after=0)"])
def test_a_stream_is_tried_again_before_its_first_result(tmp_path: Path, failure: str) -> None:
    """A stream is repeated like any message: on a fresh process, or when its author asks for it."""
    code = f"""
        def once(msg):
            if not os.path.exists(msg.mark):
                open(msg.mark, "w").close()
                {failure}
            yield from range(3)
        serve(once)
    """
    with pool(sdk(code)) as node:
        assert list(node.stream({"mark": str(tmp_path / "mark")})) == [0, 1, 2]
        assert (node.snapshot()["calls"], node.snapshot()["failures"]) == (1, {})


def test_a_stream_that_fails_after_a_result() -> None:
    """Nothing is sent twice: it is a dead letter at once."""
    code = "for id, msg in calls(): frame(op='out', id=id, msgs=[1]); sys.exit(7)"
    letters: list[DeadLetter] = []
    with pool(raw(code), dead_letter=letters.append) as node:
        assert list(node.stream({"n": 1})) == [1]
        assert node.snapshot()["starts"] == 1
    (letter,) = letters
    assert (letter.message, [cause.exit_code for cause in letter.causes]) == ({"n": 1}, [7])


DYING = raw("for id, msg in calls(): sys.exit(7)")


def test_a_dead_letter_is_raised_by_default() -> None:
    """It is an attribute of the last failure."""
    with pool(DYING, name="dying", max_attempts=2) as node:
        with pytest.raises(ProcessDied) as caught:
            node.call({"n": 1})
        assert caught.value.letter.node == "dying"
        assert caught.value.letter.message == {"n": 1}
        assert [cause.exit_code for cause in caught.value.letter.causes] == [7, 7]
        assert node.snapshot()["failures"] == {"ProcessDied": 1}
        assert node.snapshot()["retries"] == {"ProcessDied": 2}


def test_a_handler_of_dead_letters() -> None:
    """It is given each; the message then has no results, alone or in a batch."""
    letters: list[DeadLetter] = []
    with pool(DYING, max_attempts=1, dead_letter=letters.append) as node:
        assert node.call({"n": 1}) == []
        assert list(node.call_many([{"n": 2}, {"n": 3}])) == [[], []]
    assert [letter.message["n"] for letter in letters] == [1, 2, 3]


def test_a_handler_of_dead_letters_that_fails() -> None:
    """Its exception is raised: the letter is not lost without a word."""

    def fail(letter: DeadLetter) -> None:
        raise OSError("disk full")

    with pool(DYING, max_attempts=1, dead_letter=fail) as node:
        with pytest.raises(OSError, match="disk full"):
            node.call({"n": 1})
        with pytest.raises(OSError, match="disk full"):
            list(node.call_many([{"n": 2}]))


RETRYING = """
def work(msg):
    if context().attempt < 3:
        raise Retry("not yet", after=0.01)
    return context().attempt
serve(work)
"""


@pytest.mark.parametrize("many", [False, True], ids=["call", "call_many"])
def test_the_author_asks_for_another_attempt(many: bool) -> None:
    """The same process gets the message again, after the time he gave."""
    with pool(sdk(RETRYING)) as node:
        assert (next(node.call_many([{}])) if many else node.call({})) == [3]
        assert node.snapshot()["starts"] == 1
        assert node.snapshot()["retries"] == {"RemoteError": 2}


@pytest.mark.parametrize("many", [False, True], ids=["call", "call_many"])
def test_the_author_asks_once_too_often(many: bool) -> None:
    """The message is a dead letter after max_attempts."""
    with pool(sdk(RETRYING), max_attempts=2) as node:
        if many:
            (error,) = node.call_many([{}])
        else:
            with pytest.raises(RemoteError) as caught:
                node.call({})
            error = caught.value
        assert error.letter is not None
        assert len(error.letter.causes) == 2


MOODY = """
def work(msg):
    attempt = context().attempt
    if attempt in (1, 2, 4):
        raise Retry("the shop is busy", after=0)
    if attempt == 3:
        os._exit(7)
    return attempt
serve(work)
"""


@pytest.mark.parametrize("many", [False, True], ids=["call", "call_many"])
@pytest.mark.parametrize(
    ("attempts", "retries", "end"),
    [(2, 3, 5), (2, 2, "RemoteError"), (1, 3, "ProcessDied"), (2, 0, "RemoteError"), (5, None, 5)],
)
def test_a_busy_service_and_a_process_that_dies_are_counted_apart(
    many: bool, attempts: int, retries: int | None, end: Any
) -> None:
    """max_retries is for what the handler asks for, and max_attempts then for the rest."""
    settings = {"max_attempts": attempts, "max_retries": retries}
    with pool(sdk(MOODY), **settings) as node:
        try:
            outcome = next(node.call_many([{}])) if many else node.call({})
        except (RemoteError, ProcessDied) as error:
            outcome = error
    assert outcome == [end] or type(outcome).__name__ == end


BUSY = """
def work(msg):
    if context().attempt < msg.get("until", 9):
        raise Retry("busy", after=msg.after)
    return context().attempt
serve(work)
"""


@pytest.mark.parametrize("after", [1e3, 1e9, 1e18])
@pytest.mark.parametrize("kind", ["call", "call_many", "stream"])
def test_the_author_asks_for_an_attempt_in_years(
    kind: str, after: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller waits for as long as the node's own backoff does, and the log says so."""
    with pool(sdk(BUSY), backoff=0.01, backoff_max=0.02) as node:
        message = {"after": after, "until": 3}
        if kind == "call":
            assert node.call(message) == [3]
        elif kind == "stream":
            assert list(node.stream(message)) == [3]
        else:
            assert list(node.call_many([message] * 2)) == [[3], [3]]
    said = [record.message for record in caplog.records if "asked for" in record.message]
    assert len(said) == (4 if kind == "call_many" else 2)
    assert all("made in backoff_max = 0.02 s" in line for line in said)


@pytest.mark.parametrize("kind", ["call", "call_many", "stream"])
def test_closing_while_a_message_waits_for_its_next_attempt(kind: str) -> None:
    """It does not wait any longer."""
    found: list[Any] = []
    with pool(sdk(BUSY), backoff_max=3600.0) as node:
        message = {"after": 1e9}
        calls = {
            "call": lambda: node.call(message),
            "stream": lambda: list(node.stream(message)),
            "call_many": lambda: list(node.call_many([message])),
        }

        def work() -> None:
            try:
                calls[kind]()
            except PoolClosed as closed:
                found.append(closed)

        waiting = threading.Thread(target=work)
        waiting.start()
        until(lambda: node.snapshot()["retries"])
    waiting.join()
    assert found[0].may_have_run


def test_the_author_wants_no_other_attempt() -> None:
    """A rejected message is the author's failure, at once."""
    with pool(sdk("def work(msg):\n    raise Reject('spam')\nserve(work)")) as node:
        with pytest.raises(RemoteError, match="spam") as caught:
            node.call({})
        assert caught.value.retry is False
        assert node.snapshot()["retries"] == {}


# Through the graph


def test_several_nodes_of_one_program() -> None:
    """They share its processes, and each message goes to its own node."""
    code = sdk("def a(msg): return 'a'\ndef b(msg): return 'b'\nserve(a, b)")
    router = Router()
    options: dict[str, Any] = {"command": code, "env": {"PYTHONPATH": PATH}, "mode": "persistent"}
    with router:
        first, second = (
            router.node(("x",), name=f"node {name}", program_node=name, **options)(ShellNode)
            for name in "ab"
        )
        assert (first(n=1), second(n=1)) == (({"x": "a"},), ({"x": "b"},))
        nodes = current().snapshot()["nodes"]
        pids = [[p["pid"] for p in nodes[f"node {name}"]["processes"]] for name in "ab"]
        assert pids[0] == pids[1]
        assert len(pids[0]) == 1
