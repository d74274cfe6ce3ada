"""Facts about messages that travel through real workers of Celery and RQ."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.queues.notes import graph
from tests.queues.told_facts import facts, of_node, send
from tests.queues.worker import Worker, celery_worker, eventually, rq_worker

pytestmark = pytest.mark.requires("redis-server")


@pytest.fixture(scope="module", params=["celery", "rq"])
def carrier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def told(carrier: str, redis_server: str) -> Iterator[Any]:
    """The graph, in this process: it sends, and does not work."""
    os.environ["EMIT_TEST_CARRIER"] = carrier
    with graph("told", redis_server) as module:
        module.redis.flushall()
        yield module


@pytest.fixture(scope="module")
def worker(told: Any, carrier: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    log = tmp_path_factory.mktemp(carrier) / "log"
    env = {"EMIT_TEST_CARRIER": carrier}
    if carrier == "rq":
        with rq_worker(log, "emit.rq.EmitWorker", **env) as worker:
            yield worker
    else:
        with celery_worker(log, app="told", **env) as worker:
            yield worker


def test_a_message_is_told_from_end_to_end(told: Any, carrier: str, worker: Worker) -> None:
    """Each message is sent once and handled once, under one id, with the context it was given."""
    found = send(told, *[("ok", "context")] * 10, ends=10)
    counts = Counter((fact["node"], fact["fact"]) for fact in found)
    for node, times in {"told.split": 1, "told.work": 10, "told.program": 10}.items():
        assert [counts[node, name] for name in ("Sent", "Started", "Finished")] == [times] * 3
    sent, started, finished = (
        {fact["id"]: fact for fact in found if fact["fact"] == name}
        for name in ("Sent", "Started", "Finished")
    )
    assert sent.keys() == started.keys() == finished.keys()
    assert all(fact["carrier"] == carrier for fact in found if "carrier" in fact)
    for id, fact in started.items():
        assert (fact["traceparent"], fact["tracestate"]) == (f"of-{id}", "k=v")
        assert fact["attempt"] == 1
        assert fact["queue"] == ("default" if carrier == "rq" else "celery")
        assert 0 <= fact["queued"] < 60
        assert finished[id]["run"] == fact["run"]
    assert {fact["batch"] for fact in started.values() if fact["node"] == "told.work"} == {10}
    runs = {(fact["pid"], fact["run"]): fact["node"] for fact in started.values()}
    for fact in sent.values():
        by_whom = runs.get((fact["pid"], fact["run"]), "__entry_point")
        assert fact["origin"] == by_whom
    assert "context" not in json.dumps(found)  # the payload


def test_a_program_has_its_own_runs_context(told: Any, worker: Worker) -> None:
    """In a batch, each call of a program has the context that its own start was answered with."""
    found = send(told, *[("ok", "context")] * 10, ends=10)
    ids = [fact["id"] for fact in of_node(found, "told.program", "Started")]
    answers = [json.loads(text) for text in told.redis.lrange("last", 0, -1)]
    assert sorted(answers) == sorted(["told.work", 1, f"run-{id}-1"] for id in ids)


def test_failures_in_a_batch(told: Any, carrier: str, worker: Worker) -> None:
    """Each message of a batch has its own end and fate, and a retry the context of its message."""
    pairs = [("ok", "context"), ("fail", ""), ("retry", "context"), ("ok", "context")]
    found = send(told, *pairs, ends=3)
    mine = of_node(found, "told.work", *("Started", "Finished", "Failed", "Retried", "Dead"))
    counts = Counter(fact["fact"] for fact in mine)
    assert counts == {"Started": 5, "Finished": 3, "Failed": 2, "Retried": 1, "Dead": 1}
    failed = {fact["kind"]: fact for fact in mine if fact["fact"] == "Failed"}
    (retried,) = (fact for fact in mine if fact["fact"] == "Retried")
    (dead,) = (fact for fact in mine if fact["fact"] == "Dead")
    assert failed.keys() == {"ValueError", "RemoteError"}
    assert [dead[key] for key in ("id", "run", "kind", "attempts")] == [
        *(failed["ValueError"][key] for key in ("id", "run", "kind")),
        1,
    ]
    assert [retried[key] for key in ("id", "run", "kind", "attempt")] == [
        failed["RemoteError"][key] for key in ("id", "run", "kind", "attempt")
    ]
    again = [fact for fact in mine if fact["fact"] == "Started" and fact["id"] == retried["id"]]
    assert [(fact["attempt"], fact["traceparent"]) for fact in again] == [
        (1, f"of-{retried['id']}"),
        (2, f"of-{retried['id']}"),
    ]


def test_a_program_that_dies_in_a_batch(told: Any, worker: Worker) -> None:
    """The message that kills its process is tried by the host, and dead; others are finished."""
    pairs = [("ok", "context"), ("ok", "die"), ("ok", "context")]
    found = send(told, *pairs, ends=2)
    mine = of_node(found, "told.program", *("Started", "Finished", "Failed", "Retried", "Dead"))
    eventually(lambda: of_node(facts(told), "told.program", "Dead"))
    counts = Counter(fact["fact"] for fact in mine)
    assert (counts["Started"], counts["Finished"], counts["Failed"]) == (3, 2, 1)
    (failed,) = (fact for fact in mine if fact["fact"] == "Failed")
    retried = [fact for fact in mine if fact["fact"] == "Retried"]
    assert {(fact["carrier"], fact["id"], fact["kind"]) for fact in retried} == {
        ("host", failed["id"], "ProcessDied")
    }
    (dead,) = of_node(facts(told), "told.program", "Dead")
    assert (dead["id"], dead["kind"]) == (failed["id"], "ProcessDied")
    causes = [fact["cause"] for fact in found if fact["fact"] == "ProcessEnded"]
    # While other messages were open, a death is nobody's fault.
    assert causes.count("failed") >= dead["attempts"] > 1


def test_a_message_that_waits(told: Any, worker: Worker) -> None:
    """The message of a program that can't be started has failed, and waits uncharged."""
    told.redis.delete("facts")
    sent = told.Missing.delay(n=1)
    eventually(lambda: len(of_node(facts(told), "told.missing", "Waiting")) > 1)
    found = [fact for fact in facts(told) if fact["node"] == "told.missing"]
    first = [fact for fact in found if fact["fact"] in ("Sent", "Started", "Failed", "Waiting")][:4]
    assert [fact["fact"] for fact in first] == ["Sent", "Started", "Failed", "Waiting"]
    assert {fact["id"] for fact in found} == {sent.id}
    assert {fact["kind"] for fact in first[2:]} == {"StartError"}
    assert {fact["attempt"] for fact in found if "attempt" in fact} == {1}
    assert first[0]["origin"] == ""
    assert first[1]["traceparent"] == f"of-{sent.id}"
    forget(told, sent.id)


def forget(told: Any, id: str) -> None:
    """Take a message that would wait for ever out of the worker's way."""
    told.redis.delete("celery", "unacked", f"rq:job:{id}")


def test_an_unreadable_message(told: Any, carrier: str, worker: Worker) -> None:
    """A message that can't be read never starts, and is told to be dead."""
    told.redis.delete("facts")
    header = {"v": 1}
    if carrier == "rq":
        told.router._jobs["told.last"].queue.enqueue(
            "told.last", "not a text", job_id="bad", meta={"emit": header}
        )
    else:
        told.last.apply_async.__wrapped__(
            told.last, ("not a text",), {}, task_id="bad", headers={"emit": header}
        )
    eventually(lambda: facts(told, "Dead"))
    (dead,) = facts(told, "Dead")
    assert [dead[key] for key in ("id", "run", "kind")] == ["bad", 0, "Unreadable"]
    assert facts(told, "Started") == []


def test_a_list_that_fails(told: Any, worker: Worker) -> None:
    """
    Messages that are handled as one list fail together, wait, and run again alone; only then the
    message at fault is dead.
    """
    told.redis.delete("facts")
    told.lists.delay(hows=["ok", "fail", "ok"])
    kinds = ("Started", "Finished", "Failed", "Waiting", "Dead")
    found = eventually(
        lambda: (mine := of_node(facts(told), "told.together", *kinds)) and len(mine) == 16 and mine
    )
    assert Counter(fact["fact"] for fact in found) == {
        "Started": 6,
        "Failed": 4,
        "Waiting": 3,
        "Finished": 2,
        "Dead": 1,
    }
    assert [fact["batch"] for fact in found if fact["fact"] == "Started"] == [3] * 3 + [1] * 3
    waiting = [fact for fact in found if fact["fact"] == "Waiting"]
    failed = [fact for fact in found if fact["fact"] == "Failed"]
    assert {fact["kind"] for fact in waiting} == {"ValueError"}
    assert {fact["run"] for fact in waiting} <= {fact["run"] for fact in failed}
    assert {fact["attempt"] for fact in found if "attempt" in fact} == {1}
