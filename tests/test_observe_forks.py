"""Facts of workers that fork: a child tells what happens in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.queues.notes import graph
from tests.queues.told_facts import facts, send
from tests.queues.worker import eventually, rq_worker

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
