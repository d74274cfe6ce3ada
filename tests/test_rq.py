"""RQRouter with real workers on a real Redis."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus

from emit import RQRouter, ShellNode
from emit.errors import DispatchError, EncodeError, GraphError, InProgress
from emit.letter import DeadLetter
from emit.router.delivery import message_id
from tests.conftest import serving_redis
from tests.queues.notes import dead, forget, graph, seen, wait_for
from tests.queues.worker import Worker, are_gone, eventually, rq_worker

pytestmark = pytest.mark.requires("redis-server")


@pytest.fixture(scope="module")
def jobs(redis_server: str) -> Iterator[Any]:
    with graph("jobs", redis_server) as module:
        yield module


@pytest.fixture(scope="module")
def worker(jobs: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker that keeps programs warm, for all tests that need nothing special."""
    jobs.redis.flushall()
    with rq_worker(tmp_path_factory.mktemp("rq") / "log", "emit.rq.EmitWorker") as worker:
        yield worker


@pytest.fixture
def sent(jobs: Any, worker: Worker) -> Any:
    """The graph, with a worker and nothing noted yet."""
    forget(jobs)
    return jobs


def test_a_message_goes_through(sent: Any) -> None:
    """The router's call goes through three jobs in two queues, with fields and origins."""
    sent.router(count=3)
    records = wait_for(sent, "jobs.last", 3)
    assert sorted(record["fields"]["n"] for record in records) == [0, 1, 2]
    assert {record["origin"] for record in records} == {"jobs.single"}


def test_ids_come_from_the_parent(sent: Any) -> None:
    """A job's id is its message's, made of the parent's id, the node and the number."""
    job = sent.count.delay(count=2)
    parents = [message_id(job.id, "jobs.single", n) for n in range(2)]
    records = wait_for(sent, "jobs.last", 2)
    assert sorted(r["id"] for r in records) == sorted(
        message_id(parent, "jobs.last", 0) for parent in parents
    )


def test_the_documented_options(sent: Any) -> None:
    """queue, timeout and result_ttl are the job's, and 500 is the default of the last."""
    job = sent.single.delay(n=1)
    other = sent.returning.enqueue(values=[])
    assert (job.origin, job.timeout, job.result_ttl) == ("words", 180, 500)
    assert (other.origin, other.result_ttl) == ("default", 60)
    assert sent.moody.delay(how="none").timeout == 20
    assert job.func_name == "jobs.single"


def test_a_connection_of_its_own(jobs: Any) -> None:
    """A node's jobs may go to another Redis."""
    server = jobs.URL.rpartition("/")[0]
    one, other = (Redis.from_url(f"{server}/{db}") for db in (1, 2))
    router = RQRouter(redis_connection=one)
    with importable("two", router.node((), entry_point=True, connection=other)(two)):
        router(n=1)
    with one, other:
        assert len(Queue(connection=other)) == 1
        assert len(Queue(connection=one)) == 0


def test_a_job_returns_a_count(sent: Any) -> None:
    """Neither logs nor Redis get a message."""
    job = sent.count.delay(count=4)
    eventually(lambda: job.get_status(refresh=True) == "finished")
    assert job.return_value() == 4


def test_a_job_may_return_its_results(sent: Any) -> None:
    """A job may return the same results as a call in the process."""
    job = sent.returning.delay(values=[1, None])
    eventually(lambda: job.get_status(refresh=True) == "finished")
    assert job.return_value() == ({"value": 1}, {"value": None})


def test_the_author_asks_for_another_attempt(sent: Any) -> None:
    """RQ's scheduler runs the job again after the author's delay; attempts are counted."""
    sent.moody.delay(how="once", _origin="test")
    wait_for(sent, "jobs.after_moody", 1)
    assert [record["attempt"] for record in seen(sent, "jobs.moody")] == [1, 2]


def test_after_max_attempts_it_is_a_dead_letter(sent: Any) -> None:
    """The dead letter has the cause of each attempt; the job has failed, and does not run again."""
    job = sent.moody.delay(how="retry", _origin="test")
    (letter,) = dead(sent, 1)
    assert (letter.id, letter.node, letter.origin) == (job.id, "jobs.moody", "test")
    assert letter.message == {"how": "retry"}
    assert [cause.type for cause in letter.causes] == ["Retry"] * 3
    eventually(lambda: job.get_status(refresh=True) == "failed")
    assert len(seen(sent, "jobs.moody")) == 3


@pytest.mark.parametrize(
    ("how", "error"),
    [("error", "KeyError: 'canary-in-an-error'"), ("unserializable", "emit.errors.EncodeError: ")],
)
def test_no_second_attempt(sent: Any, how: str, error: str) -> None:
    """An ordinary exception; a result that the serializer has no form for."""
    job = sent.moody.delay(how=how, _origin="test")
    (letter,) = dead(sent, 1)
    assert len(letter.causes) == len(seen(sent, "jobs.moody")) == 1
    eventually(lambda: job.get_status(refresh=True) == "failed")
    lines = job.latest_result().exc_string.rstrip().splitlines()
    assert lines[-1].startswith(error)  # what dashboards show of it
    assert how != "error" or not any("receiver.py" in line for line in lines)


def test_a_dead_letter_is_sent_again(sent: Any) -> None:
    """The resent message keeps its old id."""
    first = sent.moody.delay(how="error", _origin="test")
    dead(sent, 1)
    eventually(lambda: first.get_status(refresh=True) == "failed")
    sent.router.dead_letters.replay(first.id, sent.router.resend)
    assert [record["id"] for record in wait_for(sent, "jobs.moody", 2)] == [first.id] * 2


@pytest.mark.parametrize("decode", [False, True])
def test_a_dead_letter_whose_job_has_not_ended(jobs: Any, decode: bool) -> None:
    """RQ would write the old job's end over the new one, which was then given up unseen."""
    job = Job.create("jobs.moody", id="7", status=JobStatus.STARTED, connection=jobs.connection)
    job.save()
    with Redis.from_url(jobs.URL, decode_responses=decode) as connection:
        router = RQRouter(redis_connection=connection)
        with importable("two", router.node(("n",), name="two", queue="nobody's")(two)):
            letter = DeadLetter("two", {"n": 1}, (), origin="test", id=job.id)
            with pytest.raises(InProgress, match='"7": another process is at it'):
                router.resend(letter)
            job.set_status(JobStatus.FAILED)
            queue = Queue("nobody's", connection=jobs.connection)
            queue.failed_job_registry.add(job)
            router.resend(letter)
        assert queue.job_ids == [job.id]
        assert len(queue.failed_job_registry) == 0  # no `rq requeue` sends it once more
        queue.empty()


def test_batches(sent: Any) -> None:
    """Results travel together; a handler may take them as a list."""
    job = sent.spread.delay(count=120)
    eventually(lambda: sum(len(r["ns"]) for r in seen(sent, "collected")) == 120)
    groups = [record["ns"] for record in seen(sent, "collected")]
    assert sorted(n for ns in groups for n in ns) == list(range(120))
    assert sorted(map(len, groups)) == [20, 50, 50]
    assert job.return_value() == 120


def test_fields_that_pass_through(sent: Any) -> None:
    """Each message of a batch keeps its own."""
    sent.tagged.delay(count=3)
    records = wait_for(sent, "jobs.arrived", 3)
    assert sorted((r["fields"] for r in records), key=lambda fields: fields["n"]) == [
        {"n": n, "tag": f"tag {n}", "double": 2 * n} for n in range(3)
    ]


def test_a_failure_in_a_batch(sent: Any) -> None:
    """One of a batch fails: it is a dead letter, and all others have gone on."""
    sent.redis.set("bad", "fail")
    sent.spread.delay(count=50)
    (letter,) = dead(sent, 1)
    assert letter.message == {"n": 3}
    eventually(lambda: sum(len(r["ns"]) for r in seen(sent, "collected")) == 49)


def test_a_program_stays(sent: Any, worker: Worker) -> None:
    """Jobs are handled by one process of the node's program."""
    for n in range(20):
        sent.router.dispatch("test", "jobs.Answer", {"n": n})
    answers = [record["fields"]["answer"] for record in wait_for(sent, "jobs.answered", 20)]
    assert sorted(n for _, n in answers) == list(range(20))
    assert len({pid for pid, _ in answers}) == 1, worker.text


def test_a_program_asks_for_another_attempt(sent: Any) -> None:
    """Retry(after=...) in any language is RQ's retry, and context().attempt counts it."""
    sent.Answer.delay(how="retry", n=7, _origin="test")
    assert wait_for(sent, "jobs.answered", 1)[0]["fields"]["answer"][1] == 7


@pytest.mark.parametrize(("how", "kind"), [("reject", "RemoteError"), ("die", "ProcessDied")])
def test_a_program_gives_up(sent: Any, how: str, kind: str) -> None:
    """A no is final; a process that dies three times is, too."""
    sent.Answer.delay(how=how, _origin="test")
    (letter,) = dead(sent, 1)
    assert {cause.type for cause in letter.causes} == {kind}
    assert len(letter.causes) == (3 if how == "die" else 1)


def test_a_time_limit(sent: Any) -> None:
    """A job that takes too long is charged and tried again, then a dead letter."""
    sent.slow.delay(seconds=30, _origin="test")
    (letter,) = dead(sent, 1)
    assert [cause.type for cause in letter.causes] == ["JobTimeoutException"] * 2


def test_a_time_limit_in_a_call_of_a_program(sent: Any, tmp_path: Path) -> None:
    """The process that was busy is gone, and the next job gets its own answer."""
    queue = Queue("default", connection=sent.connection)
    file = tmp_path / "pids"
    for seconds in (0, 600):  # the first starts the program, however long that takes
        kwargs = {"file": str(file), "seconds": seconds, "_origin": "test"}
        queue.enqueue_call("jobs.Busy", kwargs=kwargs, timeout=2 if seconds else 60)
    sent.Answer.delay(n=5, _origin="test")
    assert wait_for(sent, "jobs.answered", 1)[0]["fields"]["answer"][1] == 5
    first, second = file.read_text().split()[:2]
    assert first == second
    eventually(lambda: are_gone([int(first)]))


def test_a_time_limit_cancels_the_call_of_a_program(sent: Any, tmp_path: Path) -> None:
    """The program hears that nobody waits any more, and its process serves the next attempt."""
    queue = Queue("default", connection=sent.connection)
    cancelled, ready = tmp_path / "cancelled", tmp_path / "ready"
    ready.touch()
    for file in (ready, cancelled):  # the first starts the program, however long that takes
        kwargs = {"file": str(file), "_origin": "test"}
        queue.enqueue_call("jobs.Endure", kwargs=kwargs, timeout=60 if file is ready else 2)
    records = wait_for(sent, "jobs.endured", 2)
    assert cancelled.read_text() == "cancelled"
    assert len({record["fields"]["pid"] for record in records}) == 1


def test_no_payload_in_logs(sent: Any, worker: Worker) -> None:
    """A canary in a message is not in the worker's log."""
    canary = "canary-in-a-message"
    sent.router.dispatch("test", "jobs.moody", {"how": "once", "canary": canary})
    sent.router.dispatch("test", "jobs.moody", {"how": "error", "canary": canary})
    wait_for(sent, "jobs.after_moody", 1)
    dead(sent, 1)
    assert "jobs.moody(<a message from test>)" in worker.text
    assert canary not in worker.text


def two(msg: Any) -> Any:
    """A node of the tests below, which RQ can import."""
    return msg.n * 2


@contextmanager
def importable(name: str, node: Any) -> Iterator[None]:
    """Let *node* be what this module has under *name*, as if it had been decorated there."""
    before, globals()[name] = globals()[name], node
    try:
        yield
    finally:
        globals()[name] = before


def test_without_a_worker(jobs: Any) -> None:
    """A queue with is_async=False runs the job where it is sent, and RQ keeps the outcome."""
    router = RQRouter(redis_connection=jobs.connection)
    queue = Queue("now", connection=jobs.connection, is_async=False)
    double = router.node(("n",), queue=queue, return_results=True)(two)
    with importable("two", double):
        job = double.delay(n=2)
        failed = double.delay(n=None)
    assert job.return_value() == {"n": 4}
    assert failed.is_failed


class Told(ShellNode):
    """A node of the next test, which RQ can import."""

    command = ("sh", "-c", 'echo "$EMIT_CONFIG"')
    mode = "oneshot"
    config = {"a": [1]}  # noqa: RUF012


def test_the_config_of_a_program(jobs: Any) -> None:
    """A node with a program has its config over a queue, too."""
    router = RQRouter(redis_connection=jobs.connection)
    queue = Queue("now", connection=jobs.connection, is_async=False)
    node: Any = router.node(("n",), queue=queue, return_results=True)(Told)
    with importable("Told", node):
        assert node.delay(x=1).return_value() == ({"n": {"a": [1]}},)


def test_a_node_that_rq_can_not_find(jobs: Any) -> None:
    """It is refused when it is sent to, with what to do."""
    router = RQRouter(redis_connection=jobs.connection)
    router.node((), entry_point=True, name="hidden")(lambda msg: None)
    with pytest.raises(GraphError, match=r'"hidden": RQ finds a node by its name, and .*<lambda>'):
        router(n=1)


def test_an_unknown_option(jobs: Any) -> None:
    """The error lists what there is."""
    with pytest.raises(GraphError, match=r"takes no option 'quue' .*queue, connection, timeout"):
        RQRouter(redis_connection=jobs.connection).node((), quue="words")(two)


def test_a_url_instead_of_a_client(jobs: Any) -> None:
    """A router or a node takes a URL; the client is made of it at once."""
    router = RQRouter(jobs.URL)
    with importable("two", router.node((), entry_point=True, connection=jobs.URL, queue="by")(two)):
        router(n=1)
    queue = Queue("by", connection=jobs.connection)
    assert len(queue) == 1
    queue.empty()
    router.redis_connection.close()
    router._jobs[f"{__name__}.two"].queue.connection.close()


@pytest.mark.parametrize("wrong", ["localhost:6379", "redis://:secret@host:port/0", None, 6379])
def test_what_is_no_client(jobs: Any, wrong: Any) -> None:
    """The error says what is needed, and quotes no password."""
    needed = "must be a client of redis-py, or a URL such as redis://localhost:6379/0"
    with pytest.raises(GraphError, match=f"RQRouter: redis_connection {needed}") as caught:
        RQRouter(wrong)
    assert "secret" not in str(caught.value)
    if wrong is not None:
        router = RQRouter(jobs.connection)
        with pytest.raises(GraphError, match=f'"x": connection {needed}'):
            router.node((), name="x", connection=wrong)(two)
        assert router.names == set()


def test_an_asynchronous_client() -> None:
    """RQ has no use for it."""
    client = redis.asyncio.Redis()
    with pytest.raises(GraphError, match=r"not of type redis\.asyncio\.client\.Redis"):
        RQRouter(client)


def test_options_of_celery(jobs: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nodes that were written for CeleryRouter work, with the task that they are called with."""
    app = pytest.importorskip("celery").Celery("rq", broker="memory://", set_as_current=False)
    router = RQRouter(redis_connection=jobs.connection)
    make_task = app.task(bind=True, shared=False, name="a task")
    node = router.node(("task", "n"), name="bound", celery_task=make_task)(
        lambda task, msg: (task.name, msg.n)
    )
    assert node(n=1) == {"task": "a task", "n": 1}
    assert [record.getMessage() for record in caplog.records] == [
        '"bound": RQRouter leaves out the option celery_task'
    ]
    app.close()


def test_a_value_without_a_form(jobs: Any) -> None:
    """It is refused before anything is sent, with its path, also if pickle had a form for it."""
    for value in (sys._getframe(), {1, 2}):
        with pytest.raises(EncodeError, match=r'^"test": n\[0\]: builtins\.\w+ has no exact form'):
            jobs.router.dispatch("test", "jobs.single", {"n": [value]})
        with pytest.raises(EncodeError, match=r'^"jobs.single": n\[0\]: '):
            jobs.single.delay(n=[value])


def test_redis_is_not_there(jobs: Any, tmp_path: Path) -> None:
    """The sender is told, and which node it was."""
    with serving_redis(tmp_path) as url, Redis.from_url(url) as gone:
        gone.ping()
    router = RQRouter(redis_connection=gone)
    with importable("two", router.node((), entry_point=True)(two)):
        with pytest.raises(DispatchError, match=r'two": RQ could not enqueue'):
            router(n=1)
