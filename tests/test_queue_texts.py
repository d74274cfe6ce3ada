"""Texts in queues, with real workers of Celery and RQ: values, letters, other versions."""

from __future__ import annotations

import base64
import datetime
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery import chain, group
from rq import Queue
from rq.job import Job

from emit.dead import DeadLetters
from emit.errors import DispatchError, EncodeError, GraphError
from emit.router.delivery import batch_id, message_id
from tests.queues.notes import dead, forget, graph, seen, wait_for
from tests.queues.worker import Worker, celery_worker, eventually, rq_worker

pytestmark = pytest.mark.requires("redis-server")

HERE = Path(__file__).parent / "queues"

#: Envelopes as earlier versions have left them in Redis: read for as long as such may wait.
RECORDED = json.loads((HERE / "recorded.json").read_text("utf-8"))

NEWER = '{"v":2,"origin":"words","of":[["an id",{"n":1}]]}'

#: Most of them come as something else through Celery's JSON.
VALUES = [
    *({1: "one"}, {None: "none", "a": [{True: 2}]}, (1, (2,)), b"\0\xff", 2**70, 1.5, "\ud800 ☃"),
    *({"__type__": "note", "__value__": 1}, {"__type__": "datetime", "__value__": "x"}),
    *(datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), datetime.date(2026, 1, 2)),
    *(Decimal("1.10"), UUID(int=7)),
]


@pytest.fixture(scope="module")
def flow(redis_server: str) -> Iterator[Any]:
    with graph("flow", redis_server) as module:
        yield module


@pytest.fixture(scope="module")
def celery(flow: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    flow.redis.flushall()
    with celery_worker(tmp_path_factory.mktemp("celery") / "log", "-E") as worker:
        yield worker


@pytest.fixture
def sent(flow: Any, celery: Worker) -> Any:
    """The graph of Celery, with a worker and nothing noted yet."""
    forget(flow)
    flow.redis.delete("kept", "failed")
    return flow


@pytest.fixture(scope="module")
def jobs(redis_server: str) -> Iterator[Any]:
    with graph("jobs", redis_server) as module:
        yield module


@pytest.fixture(scope="module")
def rq(jobs: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with rq_worker(tmp_path_factory.mktemp("rq") / "log", "emit.rq.EmitWorker") as worker:
        yield worker


@pytest.fixture
def put(jobs: Any, rq: Worker) -> Any:
    """The graph of RQ, with a worker and nothing noted yet."""
    forget(jobs)
    jobs.redis.delete("kept")
    return jobs


def kept(graph: Any, count: int) -> list[dict[str, Any]]:
    """The fields of the messages that the node ``keep`` got, in the order they came."""
    eventually(lambda: graph.redis.llen("kept") >= count)
    return [eval(text) for text in graph.redis.lrange("kept", 0, -1)]


def without_origin(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "_origin"}


# Values


def test_values_through_celery(sent: Any) -> None:
    """Each value arrives with the same type, from a node and by hand."""
    for value in VALUES:
        sent.router.dispatch("test", "flow.keep", {"v": value})
        sent.keep.delay(v=value)
    got = kept(sent, 2 * len(VALUES))
    assert sorted(repr(fields["v"]) for fields in got) == sorted(map(repr, VALUES * 2))
    assert {fields["_origin"] for fields in got} == {"test", ""}


@pytest.mark.parametrize("way", ["pickle", "json"])
def test_values_through_rq(put: Any, way: str, tmp_path: Path) -> None:
    """A message is one text to RQ's own serializer, whichever it is."""
    node = put.keep if way == "pickle" else put.keep_json
    jobs = [node.delay(v=value, _origin="test") for value in VALUES]
    if way == "json":
        with rq_worker(tmp_path / "log", "emit.rq.EmitWorker", "--serializer", "json", "json"):
            got = kept(put, len(VALUES))
    else:
        got = kept(put, len(VALUES))
    assert [fields["v"] for fields in got] == VALUES
    assert [type(fields["v"]) for fields in got] == list(map(type, VALUES))
    eventually(lambda: all(job.get_status(refresh=True) == "finished" for job in jobs))


def test_a_field_may_have_any_name(sent: Any) -> None:
    """Names of Emit's and of Celery's own work, too: by the router, by hand, and in a batch."""
    batch = {"ids": ["chosen"], "messages": [{"user": "other"}]}
    fields = {"self": 1, "args": 2, "kwargs": 3, "task_id": "x", "_batch": batch, "v": 9}
    sent.router.dispatch("test", "flow.keep", fields)
    result = sent.keep.delay(**fields)
    sent.keep.delay(fields)
    got = kept(sent, 3)
    assert [without_origin(one) for one in got] == [fields] * 3
    assert result.id != "chosen"
    with pytest.raises(EncodeError, match=r'^"flow.keep": _origin: is the name of a node'):
        sent.keep.delay(_origin={"user": "other"})


def test_one_message_of_a_batch_that_no_queue_carries(sent: Any) -> None:
    """The message's result is refused; those beside it go on, and none runs twice."""
    sent.redis.set("bad", "set")
    sent.spread.delay(count=50)
    (letter,) = dead(sent, 1)
    assert (letter.message, letter.causes[-1].type) == ({"n": 13}, "EncodeError")
    eventually(lambda: sum(len(r["ns"]) for r in seen(sent, "collected")) == 49)


# What no message can be read from


def damaged(flow: Any, id: str, **changes: Any) -> None:
    """Put a task of Celery's into its queue whose message is not as Celery would write it."""
    message = json.loads(json.dumps(RECORDED["celery"]["single"]))
    headers = {"id": id, "task": "flow.keep", "root_id": id}
    message["headers"] |= headers
    message["properties"] |= {"correlation_id": id, "delivery_tag": id}
    message |= changes
    flow.redis.lpush("celery", json.dumps(message))


def body(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_celerys_worker_keeps_what_it_can_not_read(sent: Any, celery: Worker) -> None:
    """Each is a dead letter that shows it as it came; the worker goes on."""
    send, marked = sent.app.send_task, {"headers": {"emit": {"v": 1}}}
    send("flow.keep", task_id="no fields")
    send("flow.keep", args=["hello"], task_id="a text")
    send("flow.keep", args=[NEWER], task_id="newer", headers={"emit": {"v": 2}})
    send("flow.keep", args=['{"v":1,"origin"'], task_id="cut off", **marked)
    send("flow.keep", args=[NEWER, 2], task_id="two", **marked)
    send("flow.keep", kwargs={"self": 1}, task_id="self")
    send("flow.keep", kwargs={"f": {"__type__": "x", "__value__": 1}}, task_id="kombu")
    damaged(sent, "no JSON", body=body("canary, no JSON"))
    damaged(sent, "no task", body=body("[1, 2]"))
    damaged(sent, "no map", body=body("[[], [], {}]"))
    damaged(sent, "pickle", **{"content-type": "application/x-python-serialize"})
    letters = {letter.id: letter for letter in dead(sent, 11)}
    assert set(letters) == {
        *("no fields", "a text", "newer", "cut off", "two", "self", "kombu"),
        *("no JSON", "no task", "no map", "pickle"),
    }
    for letter in letters.values():
        (cause,) = letter.causes
        assert (letter.node, cause.type) == ("flow.keep", "Unreadable")
    assert "newer version of Emit wrote it, in form 2" in letters["newer"].causes[0].text
    assert json.loads(letters["newer"].message["raw"])["args"] == [NEWER]
    assert "canary, no JSON" in letters["no JSON"].message["raw"]
    assert "canary" not in letters["no JSON"].causes[0].text
    sent.keep.delay(n=1)
    assert kept(sent, 1) == [{"n": 1, "_origin": ""}]
    assert "canary" not in celery.text
    assert sent.keep.AsyncResult("newer").state == "FAILURE"
    eventually(lambda: sent.redis.hlen("unacked") == 0)


def test_a_node_that_the_worker_does_not_know(sent: Any, celery: Worker) -> None:
    """Newer code has sent it: Celery would throw it away, and write it into the log."""
    text = '{"v":1,"origin":"words","messages":[{"word":"canary"}]}'
    sent.app.send_task("flow.absent", args=[text], task_id="9", headers={"emit": {"v": 1}})
    (letter,) = dead(sent, 1)
    assert (letter.id, letter.node) == ("9", "flow.absent")
    assert "this worker knows no node of that name" in letter.causes[-1].text
    assert json.loads(letter.message["raw"])["args"] == [text]
    eventually(lambda: sent.redis.hlen("unacked") == 0)
    assert "canary" not in celery.text
    with pytest.raises(GraphError, match=r'"flow.absent" is not the name of a node'):
        sent.router.dead_letters.replay("9", sent.router.resend)


def test_such_a_letter_is_shown_sent_again_and_dropped(sent: Any) -> None:
    """The original text goes back to the queue; one that Celery could not decode stays."""
    sent.app.send_task("flow.keep", args=[NEWER], task_id="7", headers={"emit": {"v": 2}})
    (letter,) = dead(sent, 1)
    show = [sys.executable, "-m", "emit.cli", "dead", "show", "7"]
    done = subprocess.run([*show, "--redis", sent.URL], capture_output=True, text=True, timeout=60)
    assert "in form 2" in done.stdout
    assert NEWER.replace('"', '\\"') in done.stdout.replace("\\\\", "\\")
    letters = sent.router.dead_letters
    letters.replay("7", sent.router.resend)
    (again,) = eventually(lambda: [letters.show(e.id) for e in letters.list() if e.at > letter.at])
    assert (again.id, again.message) == ("7", letter.message)
    damaged(sent, "8", body=body("no JSON"))
    eventually(lambda: len(letters) == 2)
    with pytest.raises(DispatchError, match=r"8 can't be sent again: Celery could not decode"):
        letters.replay("8", sent.router.resend)
    letters.drop("8")
    assert [entry.id for entry in letters.list()] == ["7"]


def test_rqs_worker_keeps_what_it_can_not_read(put: Any) -> None:
    """The same, and what only pickle carries can be seen."""
    queue = Queue("default", connection=put.connection)
    for id, args, kwargs, meta in (
        ("no-fields", (), {}, {}),
        ("a-text", ("hello",), {}, {}),
        ("newer", (NEWER,), {}, {"emit": {"v": 2}}),
        ("cut-off", ('{"v":1,"or',), {}, {"emit": {"v": 1}}),
        ("pickled", (1, {2}), {}, {}),
    ):
        job = queue.create_job("jobs.keep", args=args, kwargs=kwargs, meta=meta, job_id=id)
        queue.enqueue_job(job)
    letters = {letter.id: letter for letter in dead(put, 5)}
    assert set(letters) == {"no-fields", "a-text", "newer", "cut-off", "pickled"}
    assert {letter.causes[-1].type for letter in letters.values()} == {"Unreadable"}
    assert json.loads(letters["newer"].message["raw"])["args"] == [NEWER]
    assert "{2}" in letters["pickled"].message["raw"]
    failed = [Job.fetch(id, put.connection) for id in letters]
    eventually(lambda: all(job.get_status(refresh=True) == "failed" for job in failed))
    store = put.router.dead_letters
    with pytest.raises(DispatchError, match="nor kept as it came"):
        store.replay("pickled", put.router.resend)
    store.replay("newer", put.router.resend)
    before = letters["newer"].at
    eventually(lambda: any(e.id == "newer" and e.at > before for e in store.list()))
    assert store.show("newer").message == letters["newer"].message


# Other versions


def test_what_an_earlier_version_left_for_celery(sent: Any) -> None:
    """Single messages, batches, and attempts are what they were, with their ids."""
    sent.redis.set("moody:once", 1)  # it was tried before
    for message in RECORDED["celery"].values():
        sent.redis.lpush("celery", json.dumps(message))
    single = wait_for(sent, "flow.last", 3)
    assert sorted(record["fields"]["n"] for record in single) == [7, 8, 9]
    eventually(lambda: [r["ns"] for r in seen(sent, "collected")] == [[0, 1, 2]])
    (moody,) = wait_for(sent, "flow.moody", 1)
    wait_for(sent, "flow.after_moody", 1)
    old = RECORDED["celery"]["tried before"]
    assert (moody["id"], moody["attempt"], moody["origin"]) == (old["headers"]["id"], 2, "test")
    assert DeadLetters(sent.redis).list() == []


def test_what_an_earlier_version_left_for_rq(put: Any) -> None:
    """The same."""
    put.redis.set("moody:once", 1)  # it was tried before
    for recorded in RECORDED["rq"].values():
        job = {key: base64.b64decode(value) for key, value in recorded["job"].items()}
        put.connection.hset(f"rq:job:{recorded['id']}", mapping=job)
        put.connection.rpush(f"rq:queue:{recorded['queue']}", recorded["id"])
    single = wait_for(put, "jobs.last", 3)
    assert sorted(record["fields"]["n"] for record in single) == [7, 8, 9]
    eventually(lambda: [r["ns"] for r in seen(put, "collected")] == [[0, 1, 2]])
    (moody,) = wait_for(put, "jobs.moody", 1)
    wait_for(put, "jobs.after_moody", 1)
    old = RECORDED["rq"]["tried before"]
    assert (moody["id"], moody["attempt"], moody["origin"]) == (old["id"], 2, "test")
    assert DeadLetters(put.redis).list() == []


def test_a_batch_of_an_earlier_version_that_fails(sent: Any) -> None:
    """Each message has its own fate; what goes back goes as it came, or in the new form."""
    ids = [f"{number}-{number}" for number in range(20)]
    messages = [{"n": number} for number in range(20)]
    sent.redis.set("bad", "fail")
    old = {"_origin": "flow.spread", "_batch": {"ids": ids, "messages": messages}}
    sent.app.send_task("flow.batched", kwargs=old, task_id=batch_id(ids))
    (letter,) = dead(sent, 1)
    assert (letter.id, letter.message, letter.origin) == ("13-13", {"n": 13}, "flow.spread")
    eventually(lambda: sum(len(r["ns"]) for r in seen(sent, "collected")) == 19)


def test_a_text_of_a_later_version_of_the_same_form(sent: Any) -> None:
    """Unknown keys of text, header and causes are left out, and nothing is lost."""
    text = '{"v":1,"origin":"test","by":"0.9","messages":[{"how":"none"}]}'
    cause = {"type": "KeyError", "text": "x", "of_a_later_version": 1}
    header = {"v": 1, "attempts": 1, "causes": [cause], "more": 1}
    sent.app.send_task("flow.moody", args=[text], task_id="7", headers={"emit": header})
    (record,) = wait_for(sent, "flow.moody", 1)
    assert (record["id"], record["attempt"], record["origin"]) == ("7", 2, "test")


# Attempts


@pytest.mark.parametrize("kind", ["celery", "rq"])
def test_a_busy_service_is_asked_max_retries_times(kind: str, request: Any) -> None:
    """max_attempts does not limit the requests; the letter has the last causes and their count."""
    of = request.getfixturevalue("sent" if kind == "celery" else "put")
    of.patient.delay(n=1, _origin="test")
    (letter,) = dead(of, 1)
    node = "flow.patient" if kind == "celery" else "jobs.patient"
    assert [record["attempt"] for record in seen(of, node)] == list(range(1, 9))
    assert letter.attempts == 8
    assert [cause.type for cause in letter.causes] == ["Retry"] * 6


@pytest.mark.parametrize("kind", ["celery", "rq"])
def test_a_whole_batch_waits(kind: str, request: Any) -> None:
    """The batch waits as the same job, which is not mistaken for a finished one and deleted."""
    of = request.getfixturevalue("sent" if kind == "celery" else "put")
    worker = request.getfixturevalue(kind)
    of.redis.set("bad", "away")
    sent = of.heap.delay(count=3)
    ids = [message_id(sent.id, of.held.name, n) for n in range(3)]
    worker.said(f"{batch_id(ids)} waits for ")
    of.redis.delete("bad")
    records = wait_for(of, of.held.name, 3)
    assert [(record["id"], record["fields"]) for record in records] == [
        (id, {"n": n}) for n, id in enumerate(ids)
    ]


# Celery's own means


def test_retry_of_one_message_of_a_batch(sent: Any) -> None:
    """The handler sees its message in the task's request, and sends that alone again."""
    with sent.router._sender.sending() as outbox:
        outbox.begin("parent")
        numbers = [{"n": n} for n in range(5)]
        sent.router._carrier.carry("test", "flow.insistent", numbers)
    (letter,) = dead(sent, 1)
    assert letter.message == {"n": 3}
    assert letter.causes[-1].type == "MaxRetriesExceededError"
    assert "max_retries = 1" in letter.causes[-1].text
    assert "'n'" not in letter.causes[-1].text
    records = wait_for(sent, "flow.insistent", 7)
    assert sorted((r["fields"]["n"], r["retries"]) for r in records) == sorted(
        [*((n, 0) for n in range(5)), (1, 1), (3, 1)]
    )
    for record in records:
        assert record["shown"] == {**record["fields"], "_origin": "test"}
        assert (record["args"], record["task"]) == (0, record["id"])


def test_a_chain_passes_on_a_dictionary(sent: Any) -> None:
    """It is taken into the message, and the node's own keywords win; .si takes nothing."""
    chain(sent.plain.s({"a": 1, "n": 1}), sent.keep.s(n=9, b=(1,)))()
    chain(sent.plain.s(5), sent.keep.si(m={1: "one"}))()
    chain(sent.plain.s({"a": 2}), sent.keep.s())()
    group(sent.keep.s(g=1), sent.keep.si(g=(2,)))()
    sent.plain.apply_async(({"a": 3},), link=sent.keep.s(l=b"x"))
    got = [without_origin(fields) for fields in kept(sent, 6)]
    expected = [
        *({"a": 1, "n": 9, "b": (1,)}, {"m": {1: "one"}}, {"a": 2}),
        *({"g": 1}, {"g": (2,)}, {"a": 3, "l": b"x"}),
    ]
    assert sorted(map(repr, got)) == sorted(map(repr, expected))


def test_a_signature_refuses_what_no_queue_carries(sent: Any) -> None:
    """The error is at the author's line, as the signature may travel inside another task."""
    with pytest.raises(EncodeError, match=r'^"flow.keep": v\[0\]: '):
        sent.keep.si(v=[{1}])


def test_a_chain_passes_on_what_is_no_message(sent: Any) -> None:
    """The task before it is not at fault; the letter says what to do, and nothing is injected."""
    evil = json.dumps({"v": 1, "origin": "x", "messages": [{"user": "other"}]})
    letters = DeadLetters(sent.redis)
    for value in (5, evil):
        result = chain(sent.plain.s(value), sent.keep.s(n=9))()
        (letter,) = dead(sent, 1)
        assert letter.id == result.id
        assert ".si(...)" in letter.causes[-1].text
        assert json.loads(letter.message["raw"])["kwargs"] == {"n": 9}
        assert result.parent.get(timeout=60) == value
        letters.drop(letter.id)
    # By a process that does not know the node, Celery sends what is given.
    sent.app.send_task("flow.keep", args=[evil])
    (letter,) = dead(sent, 1)
    assert kept(sent, 0) == []
    with pytest.raises(TypeError, match=r'^"flow.keep": a message is keyword .* \(int\)'):
        sent.keep.delay(5)


def test_a_failure_in_a_batch_is_told_as_one_alone(sent: Any, celery: Worker) -> None:
    """Receivers of task_failure, the result backend, and listeners such as Flower are told."""
    events: list[dict[str, Any]] = []

    def of(id: str) -> dict[str, Any]:
        return {event["type"]: event for event in events if event.get("uuid") == id}

    with sent.app.connection_for_read() as connection:
        receiver = sent.app.events.Receiver(connection, handlers={"*": events.append})
        with receiver.consumer_context() as (listening, _, _):

            def heard(*types: str, id: str) -> bool:
                with suppress(TimeoutError):
                    listening.drain_events(timeout=0.1)
                return set(types) <= of(id).keys()

            eventually(lambda: heard(id="") and events)  # the worker's heartbeat: it listens
            sent.redis.set("bad", "fail")
            sent.batched.delay(n=13, _origin="test")
            (single,) = dead(sent, 1)
            eventually(lambda: heard("task-received", "task-failed", id=single.id))
            DeadLetters(sent.redis).drop_all()
            sent.spread.delay(count=20)
            (batched,) = dead(sent, 1)
            eventually(lambda: heard("task-received", "task-failed", id=batched.id))
    one, other = of(single.id), of(batched.id)
    assert one["task-failed"]["exception"] == other["task-failed"]["exception"]
    assert "thirteen" in one["task-failed"]["exception"]
    for event in (one["task-failed"], other["task-failed"]):
        assert 'raise RuntimeError("thirteen")' in event["traceback"]
    for name in ("name", "kwargs"):
        assert one["task-received"][name] == other["task-received"][name]
    assert other["task-received"]["args"] == "<a message from flow.spread>"
    failed = {one["task_id"]: one for one in map(json.loads, sent.redis.lrange("failed", 0, -1))}
    for id in (single.id, batched.id):
        told = failed[id]
        assert (told["task_id"], told["request"], told["task"]) == (id, id, "flow.batched")
        assert (told["error"], told["traceback"]) == ("RuntimeError('thirteen')", True)
        assert [json.loads(text)["messages"] for text in told["args"]] == [[{"n": 13}]]
    for id in (single.id, batched.id):
        assert sent.batched.AsyncResult(id).state == "FAILURE"


def test_a_failure_of_a_program_in_a_batch_is_told(sent: Any, celery: Worker) -> None:
    """The failure is told although its error was never raised in the worker."""
    sent.ask.delay(count=4, bad=2)
    (letter,) = dead(sent, 1)
    eventually(lambda: sent.Answer.AsyncResult(letter.id).state == "FAILURE")
    eventually(lambda: sent.redis.llen("failed") == 1)
    told = json.loads(sent.redis.lindex("failed", 0))
    assert (told["task_id"], told["task"], told["traceback"]) == (letter.id, "flow.program", True)
    wait_for(sent, "flow.answered", 3)
    assert "could not be told" not in celery.text


def test_the_log_of_a_message_that_is_given_up(sent: Any, celery: Worker) -> None:
    """The error with the author's line, and not the sixty lines around it."""
    sent.moody.delay(how="error", _origin="test")
    (letter,) = dead(sent, 1)
    celery.said(f"Task flow.moody[{letter.id}] raised unexpected")
    said = celery.text.partition(f"Task flow.moody[{letter.id}] raised unexpected")[2]
    lines = said.partition("KeyError: 'canary-in-an-error'\n")[0].splitlines()
    assert len(lines) <= 20, said
    assert any('raise KeyError("canary-in-an-error")' in line for line in lines)


def test_the_last_line_of_a_failed_job(put: Any) -> None:
    """It is the error, which is what RQ's tools show; of a program's failure as well."""
    failed = put.moody.delay(how="error", _origin="test")
    died = put.Answer.delay(how="die", _origin="test")
    for job in (failed, died):
        eventually(lambda job=job: job.get_status(refresh=True) == "failed")
    assert failed.latest_result().exc_string.strip().splitlines()[-1] == (
        "KeyError: 'canary-in-an-error'"
    )
    lines = died.latest_result().exc_string.strip().splitlines()
    assert lines[-1].startswith("emit.errors.ProcessDied: ")
    assert len(lines) < 20


def test_no_monitor_sees_a_message(sent: Any) -> None:
    """Neither in events nor by inspect, however it was sent."""
    canary = "canary-in-a-message"
    result = sent.keep.apply_async(kwargs={"text": canary}, countdown=3600)
    inspect = sent.app.control.inspect(timeout=10)

    def scheduled() -> str:
        return str([one for ones in (inspect.scheduled() or {}).values() for one in ones])

    text = eventually(lambda: result.id in (found := scheduled()) and found)
    assert canary not in text
    assert "<a message from a call>" in text
    result.revoke()
