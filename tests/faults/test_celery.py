"""Faults of a Celery worker, and the fate of its messages and its nodes' processes."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from emit.dead import DeadLetters
from tests.faults.nodes import CHAOS
from tests.queues.notes import dead, forget, graph, seen, wait_for
from tests.queues.worker import Worker, are_gone, celery_worker, eventually

pytestmark = pytest.mark.requires("redis-server")

HERE = Path(__file__).parent.parent / "queues"

#: What takes long, and seldom breaks: left to ``make chaos``.
seldom = pytest.mark.skipif(not CHAOS, reason="left out without EMIT_CHAOS=1")

#: Seconds in which what was orphaned is gone, on a loaded machine; on an idle one it is 1. After
#: 50 a busy node would be stopped by its timeout.
GONE = 40.0


@pytest.fixture
def flow(redis: str) -> Iterator[Any]:
    with graph("flow", redis) as module:
        yield module


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def busy(flow: Any, tmp_path: Path, seconds: float, **options: Any) -> tuple[Any, psutil.Process]:
    """A node that works for so long without reading its input; and its process."""
    file = tmp_path / "busy"
    arguments = {"seconds": seconds, "file": str(file), "_origin": "test"}
    result = flow.Busy.apply_async(kwargs=arguments, **options)
    return result, psutil.Process(pids(file, 1)[0])


def pids(file: Path, count: int) -> list[int]:
    """Return the ids of the processes that have begun to work."""

    def look() -> list[int]:
        found = [int(line) for line in file.read_text().split()] if file.exists() else []
        return found if len(found) >= count else []

    return list(eventually(look))


def child_of(worker: Worker, node: psutil.Process) -> psutil.Process:
    """The process of the pool that a node's process belongs to."""
    parents = [node, *node.parents()]
    return next(p for p in parents if p.pid in worker.children())


def gone(*processes: psutil.Process) -> None:
    eventually(lambda: are_gone(list(processes)), GONE, f"still there: {processes}")


def test_each_process_has_nodes_of_its_own(flow: Any, log: Path) -> None:
    """A node that was used in the master is nobody's after the fork: every answer is right."""
    with celery_worker(log, EMIT_TEST_TOUCH="1"):
        masters = wait_for(flow, "flow.answered", 1)[0]["fields"]["answer"][0]
        for start in range(0, 200, 50):
            messages = [{"n": n} for n in range(start, start + 50)]
            flow.router._carrier.carry("test", "flow.program", messages)
        answers = [r["fields"]["answer"] for r in wait_for(flow, "flow.answered", 201)[1:]]
    assert sorted(n for _, n in answers) == list(range(200))
    assert masters not in {pid for pid, _ in answers}


def test_a_process_of_the_pool_is_killed(flow: Any, log: Path, tmp_path: Path) -> None:
    """Its busy node is gone with it, and the message runs again in another."""
    with celery_worker(log) as worker:
        _, node = busy(flow, tmp_path, 600)
        child = child_of(worker, node)
        child.kill()
        gone(child, node)
        second = psutil.Process(pids(tmp_path / "busy", 2)[1])
        assert second.pid != node.pid
        worker.kill()


@pytest.fixture
def only_hard(monkeypatch: pytest.MonkeyPatch) -> None:
    """No soft limit, neither here nor there: limits travel with the message."""
    monkeypatch.setenv("EMIT_TEST_ONLY_HARD", "1")


def test_a_hard_time_limit(only_hard: None, flow: Any, log: Path, tmp_path: Path) -> None:
    """No busy node is left behind, and after max_deliveries the message is a dead letter."""
    file = tmp_path / "busy"
    arguments = {"seconds": 600, "file": str(file), "_origin": "test"}
    with celery_worker(log, EMIT_TEST_ONLY_HARD="1"):
        for limit in (1, 4, 16):  # a slow machine does not start a program within the first
            forget(flow)
            result = flow.Busy.apply_async(kwargs=arguments, time_limit=limit)
            (letter,) = dead(flow, 1)
            if file.exists():
                break
        assert (letter.id, letter.causes[-1].type) == (result.id, "Undelivered")
        wait_for_text(log, f"Hard time limit ({limit}s) exceeded for flow.busy[{result.id}]")
        nodes = pids(file, 1)
        assert len(nodes) <= 2
        eventually(lambda: are_gone(nodes), GONE)


def test_the_master_is_killed(flow: Any, log: Path, tmp_path: Path) -> None:
    """Its processes and their busy nodes are gone."""
    with celery_worker(log) as worker:
        _, node = busy(flow, tmp_path, 600)
        everything = worker.everything()
        assert node.pid in {p.pid for p in everything}
        os.kill(worker.pid, signal.SIGKILL)
        gone(node, *everything)


@seldom
def test_a_warm_shutdown(flow: Any, log: Path) -> None:
    """Nothing is left of it; and what it had not finished the next worker does."""
    with celery_worker(log) as worker:
        flow.router._carrier.carry("test", "flow.program", [{"n": n} for n in range(50)])
        wait_for(flow, "flow.answered", 1)
        everything = worker.everything()
        worker.stop(signal.SIGTERM)
        gone(*everything)
    with celery_worker(log):
        eventually(lambda: answered(flow) == set(range(50)), what="a message was lost")


def test_a_cold_shutdown(flow: Any, log: Path, tmp_path: Path) -> None:
    """
    Nothing is left of it; and what it had not finished the next worker does.

    Both processes of the pool are at work, so the worker is not handing a task over. Celery stops
    in the handler of the signal: if that strikes in the midst of a handover, the process waits for
    the rest of the task, and the worker for the process, for ever.
    """
    gate, began = tmp_path / "gate", tmp_path / "gate.began"
    held = {"how": "wait", "file": str(gate)}
    messages = [{"n": n, **(held if n < 2 else {})} for n in range(50)]
    with celery_worker(log) as worker:
        flow.router._carrier.carry("test", "flow.program", messages)
        eventually(lambda: began.exists() and began.read_text() == "xx", what="nothing is at work")
        everything = worker.everything()
        worker.stop(signal.SIGQUIT)
        gone(*everything)
    gate.touch()
    with celery_worker(log):
        eventually(lambda: answered(flow) == set(range(50)), what="a message was lost")


def answered(flow: Any) -> set[int]:
    return {record["fields"]["answer"][1] for record in seen(flow, "flow.answered")}


def test_max_tasks_per_child(flow: Any, log: Path) -> None:
    """A process that is replaced takes its nodes with it, and loses nothing."""
    with celery_worker(log, "--max-tasks-per-child", "5") as worker:
        for n in range(20):
            flow.router.dispatch("test", "flow.program", {"n": n})
        answers = [r["fields"]["answer"] for r in wait_for(flow, "flow.answered", 20)]
        assert sorted(n for _, n in answers) == list(range(20))
        nodes = {pid for pid, _ in answers}
        assert len(nodes) > 2
        eventually(lambda: len(nodes & {p.pid for p in worker.everything()}) <= 2)


@seldom
def test_autoscale(flow: Any, log: Path) -> None:
    """Processes that are no longer needed take their nodes with them."""
    with celery_worker(log, "--autoscale", "3,1", AUTOSCALE_KEEPALIVE="1") as worker:
        for n in range(300):
            flow.router.dispatch("test", "flow.program", {"n": n})
        wait_for(flow, "flow.answered", 300)
        nodes = {r["fields"]["answer"][0] for r in seen(flow, "flow.answered")}
        eventually(lambda: len(worker.children()) == 1)
        eventually(lambda: len(nodes & {p.pid for p in worker.everything()}) <= 1)


def test_the_whole_worker_is_killed(flow: Any, log: Path) -> None:
    """Another gets its messages after the visibility timeout, and 10 s later at most."""
    short = {"EMIT_TEST_LIMIT": "4", "EMIT_TEST_VISIBILITY": "5"}
    with celery_worker(log, **short) as worker:
        flow.moody.delay(how="power", _origin="test")
        eventually(lambda: not worker.is_alive)
    with celery_worker(log, **short):
        first, again, *_ = wait_for(flow, "flow.moody", 2)  # with kombu's own throttle 100 s more
    assert first["id"] == again["id"]


def test_an_attempt_later_than_the_visibility_timeout(flow: Any, log: Path) -> None:
    """
    The author's delay of 9 s, where Redis gives away what waits for 6: one second attempt. Two
    would come at the same time, and before what the first of them has sent on.
    """
    short = {"EMIT_TEST_LIMIT": "5", "EMIT_TEST_VISIBILITY": "6"}
    with celery_worker(log, "-c", "1", **short):
        began = time.monotonic()
        flow.moody.delay(how="once", after=9, _origin="test")
        wait_for(flow, "flow.after_moody", 1)
        assert time.monotonic() - began > 8.5
    assert [record["attempt"] for record in seen(flow, "flow.moody")] == [1, 2]


def test_a_task_longer_than_the_visibility_timeout_is_refused(flow: Any, log: Path) -> None:
    """Two workers would run it at the same time, so the worker does not start."""
    with pytest.raises(AssertionError), celery_worker(log, EMIT_TEST_VISIBILITY="5"):
        pass
    assert "Redis gives it to another worker as well" in log.read_text()


def test_redis_takes_nothing_more(flow: Any, log: Path) -> None:
    """A result can't be sent: the message stays, and all results come with the same ids."""
    with celery_worker(log):
        flow.choke.delay(_origin="test")
        choked = wait_for(flow, "flow.choked", 5)
        first, *again = [record["id"] for record in wait_for(flow, "flow.choke", 2)]
        wait_for_text(log, "reject requeue=True")
    assert "stays in the queue" in log.read_text()
    assert {record["fields"]["n"] for record in choked} == set(range(5))
    assert len({record["id"] for record in choked}) == 5
    assert set(again) == {first}
    # What a pool's process answers has to fit into a pipe that its master may not be reading.
    rejected = log.read_text().split("reject requeue=True", 1)[1].split("\n[2", 1)[0]
    assert len(rejected) < select.PIPE_BUF


def wait_for_text(log: Path, text: str) -> None:
    eventually(lambda: text in log.read_text(), what=text)


@seldom
def test_redis_pauses_and_drops_connections(flow: Any, log: Path) -> None:
    """
    Late, but all there. A handler's own connection is dropped, too, which is an error of its own:
    that message is a dead letter, and comes when it is sent again. The one that the worker was
    just taking can be lost: kombu notes only then who has it, which docs/celery.md tells.
    """
    letters = DeadLetters(flow.redis)

    def all_there() -> bool:
        letters.replay_all(flow.router.resend)
        come = {record["fields"]["n"] for record in seen(flow, "flow.last")}
        return len(come) >= 299 and not flow.redis.llen("celery") and not letters.list()

    with celery_worker(log):
        flow.router.dispatch("test", "flow.count", {"count": 300})
        wait_for(flow, "flow.last", 20)
        flow.redis.execute_command("CLIENT", "PAUSE", 1500, "ALL")
        wait_for(flow, "flow.last", 60)
        flow.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        eventually(all_there)
