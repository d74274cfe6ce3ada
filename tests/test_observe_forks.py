"""Facts of workers that fork: a child tells what happens in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.queues.notes import graph
from tests.queues.told_facts import facts, of_node, send
from tests.queues.worker import celery_worker, eventually, rq_worker

pytestmark = pytest.mark.requires("redis-server")


def test_a_worker_that_forks_for_each_job(
    redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ's own worker tells the facts of each job from its child, processes included."""
    monkeypatch.setenv("EMIT_TEST_CARRIER", "rq")
    with graph("told", redis) as told:
        with rq_worker(tmp_path / "log", "rq.Worker"):
            found = send(told, ("ok", "context"), ends=1)
            eventually(lambda: facts(told, "ProcessEnded"))
    assert len({fact["pid"] for fact in found if fact["fact"] == "Started"}) == 4
    (ended,) = facts(told, "ProcessEnded")
    assert ended["cause"] == "stopped"


def test_a_handler_that_tells_the_queue(
    redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery's own retry ends the run in its exception; the next attempt is a run of its own."""
    monkeypatch.setenv("EMIT_TEST_CARRIER", "celery")
    with graph("told", redis) as told:
        sent = told.bound.delay(n=1)
        with celery_worker(tmp_path / "log", "--max-tasks-per-child=1", app="told"):
            eventually(lambda: of_node(facts(told), "told.bound", "Finished"))
    found = of_node(facts(told), "told.bound", "Sent", "Started", "Failed", "Finished")
    assert [fact["fact"] for fact in found] == ["Sent", "Started", "Failed", "Started", "Finished"]
    assert found[2]["kind"] == "Retry"
    assert found[1]["pid"] != found[3]["pid"]
    assert {fact["id"] for fact in found} == {sent.id}
    assert {fact["traceparent"] for fact in found if "traceparent" in fact} == {f"of-{sent.id}"}
