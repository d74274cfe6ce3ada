"""CeleryRouter with real workers on a real Redis."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emit.router.delivery import message_id
from tests.hosts import lives
from tests.queues.notes import dead, forget, graph, seen, wait_for
from tests.queues.worker import Worker, celery_worker, eventually

pytestmark = pytest.mark.requires("redis-server")

HERE = Path(__file__).parent / "queues"


@pytest.fixture(scope="module")
def flow(redis_server: str) -> Iterator[Any]:
    with graph("flow", redis_server) as module:
        yield module


@pytest.fixture(scope="module")
def worker(flow: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One prefork worker with two processes, for all tests that need nothing special."""
    flow.redis.flushall()
    with celery_worker(tmp_path_factory.mktemp("celery") / "log") as worker:
        yield worker


@pytest.fixture
def sent(flow: Any, worker: Worker) -> Any:
    """The graph, with nothing noted yet."""
    forget(flow)
    return flow


def test_a_message_goes_through(sent: Any) -> None:
    """The router's call goes through three tasks, with the documented fields and origins."""
    sent.router(count=3)
    records = wait_for(sent, "flow.last", 3)
    assert sorted(record["fields"]["n"] for record in records) == [0, 1, 2]
    assert {record["origin"] for record in records} == {"flow.single"}


def test_ids_come_from_the_parent(sent: Any) -> None:
    """A task's id is its message's, made of the parent's id, the node and the number."""
    result = sent.count.delay(count=2)
    records = wait_for(sent, "flow.last", 2)
    parents = [message_id(result.id, "flow.single", n) for n in range(2)]
    assert sorted(r["id"] for r in records) == sorted(
        message_id(parent, "flow.last", 0) for parent in parents
    )


def test_a_task_returns_a_count(sent: Any) -> None:
    """Neither logs nor the result store get a message."""
    assert sent.count.delay(count=4).get(timeout=60) == 4
    assert sent.last.delay(n=1, _origin="test").get(timeout=60) == 0


def test_a_task_may_return_its_results(sent: Any) -> None:
    """A task may return the same results as a call in the process."""
    result = sent.returning.delay(values=[1, None, "x"]).get(timeout=60)
    assert result == [{"value": 1}, {"value": None}, {"value": "x"}]


def test_the_family_of_a_task_is_celerys_own(sent: Any) -> None:
    """Root and parent ids, as for any task that a task sends; a retry keeps them and headers."""
    first = sent.returning.delay(values=["child"])
    fields = {"value": "own", "_origin": "test"}
    sent.family.apply_async(kwargs=fields, headers={"x-own": "mine"})

    def records() -> dict[str, Any]:  # another test's may come late
        return {record["fields"]["value"]: record for record in seen(sent, "flow.family")}

    eventually(lambda: {"child", "own"} <= records().keys())
    child = records()["child"]
    assert (child["root"], child["parent"]) == (first.id, first.id)
    assert records()["own"]["own"] == "mine"


def test_task_names_are_the_nodes(sent: Any) -> None:
    """tasks.emit_words is tasks.emit_words."""
    assert sent.count.name == "flow.count"
    assert "flow.moody" in sent.app.tasks


def test_the_author_asks_for_another_attempt(sent: Any) -> None:
    """Celery's retry, with the author's delay and a count of Emit's own."""
    sent.moody.delay(how="once", _origin="test")
    assert wait_for(sent, "flow.after_moody", 1)[0]["fields"] == {"n": 1, "attempt": 2}
    assert [record["attempt"] for record in seen(sent, "flow.moody")] == [1, 2]


def test_after_max_attempts_it_is_a_dead_letter(sent: Any) -> None:
    """The dead letter has the cause of each attempt; the task has failed."""
    result = sent.moody.delay(how="retry", _origin="test")
    (letter,) = dead(sent, 1)
    assert (letter.id, letter.node, letter.origin) == (result.id, "flow.moody", "test")
    assert letter.message == {"how": "retry"}
    assert [cause.type for cause in letter.causes] == ["Retry"] * 3
    assert len({record["id"] for record in seen(sent, "flow.moody")}) == 1
    eventually(lambda: result.state == "FAILURE")


@pytest.mark.parametrize("how", ["reject", "error", "unserializable"])
def test_no_second_attempt(sent: Any, how: str) -> None:
    """The author's no, an ordinary exception, a result that JSON has no form for."""
    sent.moody.delay(how=how, _origin="test")
    (letter,) = dead(sent, 1)
    assert len(letter.causes) == len(seen(sent, "flow.moody")) == 1


def test_a_dead_letter_is_sent_again(sent: Any) -> None:
    """The resent message keeps its old id."""
    first = sent.moody.delay(how="reject", _origin="test")
    dead(sent, 1)
    letters = sent.router.dead_letters
    letters.replay(first.id, sent.router.resend)
    assert [record["id"] for record in wait_for(sent, "flow.moody", 2)] == [first.id] * 2
    eventually(lambda: len(letters) == 1)


def test_a_dead_letter_is_sent_again_by_the_command(sent: Any) -> None:
    """It finds the app's Redis by itself, and the worker has the message."""
    first = sent.moody.delay(how="reject", _origin="test")
    dead(sent, 1)
    command = [sys.executable, "-m", "emit.cli", "dead", "replay", "--app", "flow.router"]
    done = subprocess.run(
        [*command, first.id], cwd=HERE, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"{first.id}\n"), done.stderr
    assert [record["id"] for record in wait_for(sent, "flow.moody", 2)] == [first.id] * 2
    dead(sent, 1)  # the second time, too: else it would be in the next test's way


def test_a_handler_that_takes_the_task(sent: Any) -> None:
    """It retries by Celery's own means, and its message is the same each time."""
    assert sent.bound.delay(retries=2, _origin="test").get(timeout=60) == 1
    records = wait_for(sent, "flow.bound", 3)
    assert [record["retries"] for record in records] == [0, 1, 2]
    assert {record["task"] for record in records} == {"flow.bound"}


def test_batches(sent: Any) -> None:
    """Results travel together; each has the id it would have had alone."""
    result = sent.spread.delay(count=120)
    eventually(lambda: sum(len(r["ns"]) for r in seen(sent, "collected")) == 120)
    groups = [record["ns"] for record in seen(sent, "collected")]
    assert sorted(n for ns in groups for n in ns) == list(range(120))
    assert sorted(map(len, groups)) == [20, 50, 50]
    assert result.get(timeout=60) == 120


def test_a_failure_in_a_batch(sent: Any) -> None:
    """One of a batch fails: it is a dead letter, and all others have gone on."""
    sent.redis.set("bad", "fail")
    sent.spread.delay(count=50)
    (letter,) = dead(sent, 1)
    assert letter.message == {"n": 13}
    eventually(lambda: sum(len(r["ns"]) for r in seen(sent, "collected")) == 49)
    assert len(dead(sent, 1)) == 1


def test_a_message_that_kills_in_a_batch(sent: Any) -> None:
    """Its batch is cut up; it alone is delivered max_deliveries times, and all others once."""
    sent.redis.set("bad", "kill")
    sent.spread.delay(count=50)
    (letter,) = dead(sent, 1)
    assert letter.message == {"n": 13}
    assert letter.causes[-1].type == "Undelivered"
    eventually(lambda: sum(len(r["ns"]) for r in seen(sent, "collected")) >= 49)
    counted = Counter(n for r in seen(sent, "collected") for n in r["ns"])
    assert sorted(counted) == [n for n in range(50) if n != 13]
    assert len(seen(sent, "flow.batched")) == 1 + 2


def test_a_message_that_kills(sent: Any) -> None:
    """Exactly max_deliveries times, then it is a dead letter."""
    sent.moody.delay(how="kill", _origin="test")
    (letter,) = dead(sent, 1)
    assert (letter.causes[-1].type, letter.attempts) == ("Undelivered", 3)
    assert len(seen(sent, "flow.moody")) == 3


def test_a_program(sent: Any) -> None:
    """A node in another process, in the worker's children."""
    for n in range(20):
        sent.router.dispatch("test", "flow.program", {"n": n})
    records = wait_for(sent, "flow.answered", 20)
    assert sorted(record["fields"]["answer"][1] for record in records) == list(range(20))


def test_what_a_program_is_told(sent: Any) -> None:
    """Origin, attempt and trace context pass into the call."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent.Answer.apply_async(
        kwargs={"how": "context", "_origin": "test"}, headers={"traceparent": trace}
    )
    assert wait_for(sent, "flow.answered", 1)[0]["fields"]["answer"] == ["test", 1, trace]


def test_a_program_asks_for_another_attempt(sent: Any) -> None:
    """Retry(after=...) in any language is the queue's retry, and context().attempt counts it."""
    sent.Answer.delay(how="retry", n=7, _origin="test")
    assert wait_for(sent, "flow.answered", 1)[0]["fields"]["answer"][1] == 7


@pytest.mark.parametrize(("how", "kind"), [("reject", "RemoteError"), ("die", "ProcessDied")])
def test_a_program_gives_up(sent: Any, how: str, kind: str) -> None:
    """A no is final; a process that dies three times is, too, with each exit code."""
    sent.Answer.delay(how=how, _origin="test")
    (letter,) = dead(sent, 1)
    assert {cause.type for cause in letter.causes} == {kind}
    assert len(letter.causes) == (3 if how == "die" else 1)


def test_a_soft_time_limit(sent: Any) -> None:
    """An attempt that takes too long is charged and tried again, then a dead letter."""
    sent.slow.delay(seconds=20, _origin="test")
    (letter,) = dead(sent, 1)
    assert [cause.type for cause in letter.causes] == ["SoftTimeLimitExceeded"] * 2


def test_a_soft_time_limit_cancels_the_call_of_a_program(sent: Any, tmp_path: Path) -> None:
    """The program hears that nobody waits any more; the next attempt has its answer."""
    cancelled = tmp_path / "cancelled"
    sent.Endure.delay(file=str(cancelled), _origin="test")
    (record,) = wait_for(sent, "flow.endured", 1)
    assert cancelled.read_text() == "cancelled"
    assert lives(record["fields"]["pid"])


def test_no_payload_in_logs_or_store(sent: Any, worker: Worker) -> None:
    """A canary in a message is neither in the log at INFO nor in the result store."""
    canary = "canary-in-a-message"
    sent.router.dispatch("test", "flow.moody", {"how": "once", "canary": canary})
    sent.router.dispatch("test", "flow.moody", {"how": "reject", "canary": canary})
    wait_for(sent, "flow.after_moody", 1)
    dead(sent, 1)
    assert canary not in worker.text
    for key in sent.redis.keys("celery-task-meta-*"):
        assert canary not in sent.redis.get(key)
