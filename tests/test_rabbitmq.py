"""CeleryRouter with real workers on a real RabbitMQ, by classic and by quorum queues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from emit.letter import Cause
from emit.router.envelope import Parcel, Past
from tests.queues.notes import dead, forget, graph, seen, wait_for
from tests.queues.rabbit import Rabbit
from tests.queues.worker import Worker, celery_worker, eventually

pytestmark = pytest.mark.requires("redis-server", "rabbitmq-server")


@pytest.fixture(scope="module", params=["classic", "quorum"])
def flow(request: pytest.FixtureRequest, redis_server: str, rabbitmq: Rabbit) -> Iterator[Any]:
    """The graph; its broker is RabbitMQ, and it notes in Redis what has happened."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMIT_TEST_BROKER", rabbitmq.url())
        patch.setenv("EMIT_TEST_QUEUE", request.param)
        with graph("flow", redis_server) as module:
            module.redis.flushall()
            yield module


@pytest.fixture(scope="module")
def worker(flow: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with celery_worker(tmp_path_factory.mktemp("celery") / "log") as worker:
        yield worker


@pytest.fixture
def sent(flow: Any, worker: Worker) -> Any:
    """The graph, with nothing noted yet."""
    forget(flow)
    return flow


def test_a_message_goes_through(sent: Any, worker: Worker) -> None:
    """The router's call goes through three tasks; the worker does not complain about settings."""
    sent.router(count=3)
    records = wait_for(sent, "flow.last", 3)
    assert sorted(record["fields"]["n"] for record in records) == [0, 1, 2]
    assert "WARNING" not in worker.text.partition(" ready.")[0]


def test_another_attempt(sent: Any) -> None:
    """The author's delay of 50 ms, which Celery's native delayed delivery refuses."""
    sent.moody.delay(how="once", _origin="test")
    assert wait_for(sent, "flow.after_moody", 1)[0]["fields"] == {"n": 1, "attempt": 2}
    assert [record["attempt"] for record in seen(sent, "flow.moody")] == [1, 2]


def test_after_max_attempts_it_is_a_dead_letter(sent: Any) -> None:
    """The dead letter has the cause of each attempt, also when it was delayed twice."""
    result = sent.moody.delay(how="retry", _origin="test")
    (letter,) = dead(sent, 1)
    assert (letter.id, letter.message) == (result.id, {"how": "retry"})
    assert [cause.type for cause in letter.causes] == ["Retry"] * 3


def test_a_message_of_many_attempts(sent: Any) -> None:
    """Their causes would outgrow a frame: the last few travel, and the number of all."""
    past = Past()
    for number in range(300):
        past = past.failed(Cause(f"E{number}", "é" * 5000, "", None, None, 1.0), asked=False)
    packed = Parcel(["7"], [{"n": 1}]).packed("test")
    sent.router.send("test", "flow.patient", packed, past=past)
    (letter,) = dead(sent, 1)
    assert (letter.id, letter.attempts) == ("7", 308)
    assert [record["attempt"] for record in seen(sent, "flow.patient")] == list(range(301, 309))


def test_a_message_that_kills(sent: Any) -> None:
    """RabbitMQ says that it delivers again: exactly max_deliveries times, then a dead letter."""
    sent.moody.delay(how="kill", _origin="test")
    (letter,) = dead(sent, 1)
    assert (letter.causes[-1].type, letter.attempts) == ("Undelivered", 3)
    assert len(seen(sent, "flow.moody")) == 3


def test_a_message_that_kills_in_a_batch(sent: Any) -> None:
    """It alone is charged, and all others go on."""
    sent.redis.set("bad", "kill")
    sent.spread.delay(count=50)
    (letter,) = dead(sent, 1)
    assert letter.message == {"n": 13}
    eventually(lambda: sum(len(r["ns"]) for r in seen(sent, "collected")) >= 49)
    counted = Counter(n for r in seen(sent, "collected") for n in r["ns"])
    assert sorted(counted) == [n for n in range(50) if n != 13]


def test_a_program(sent: Any) -> None:
    for n in range(20):
        sent.router.dispatch("test", "flow.program", {"n": n})
    records = wait_for(sent, "flow.answered", 20)
    assert sorted(record["fields"]["answer"][1] for record in records) == list(range(20))
