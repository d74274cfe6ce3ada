"""Settings of RQ that lose, repeat or keep messages, found without Redis; and that it is so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.defaults import DEFAULT_WORKER_TTL
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from emit import RQRouter, ShellNode
from emit.errors import GraphError
from tests.queues.notes import graph, seen, wait_for
from tests.queues.worker import eventually, rq_worker


@pytest.fixture
def nowhere() -> Iterator[Any]:
    """A client that nothing is asked of."""
    with Redis(port=1) as client:
        yield client


@pytest.fixture
def router(nowhere: Any) -> RQRouter:
    return RQRouter(redis_connection=nowhere)


def declare(router: RQRouter, name: str = "a", **options: Any) -> None:
    router.node((), name=name, **options)(lambda msg: None)


def program(router: RQRouter, **options: Any) -> None:
    router.node((), name="p", command="cat", **options)(type("P", (ShellNode,), {}))


def test_the_defaults_are_fine(router: RQRouter) -> None:
    """Several nodes may share a queue, and a limit may leave a program just its time."""
    declare(router, "a", timeout="1h", result_ttl=0)
    declare(router, "b", queue="words", timeout=179)
    program(router, queue="words", timeout=179.9)
    assert router.problems() == []


def test_no_limit(router: RQRouter, nowhere: Any) -> None:
    """A missing limit is found, of the node or of its queue."""
    declare(router, timeout=-1)
    program(router, queue=Queue("long", connection=nowhere, default_timeout=-1))
    assert [text[:35] for text in router.problems()] == [
        '"a": its jobs have no time limit: o',
        '"p": its jobs have no time limit: o',
    ]


@pytest.mark.parametrize(("timeout", "limit"), [(180, None), (60, 60), (100, 60)])
def test_limits_in_a_wrong_order(
    router: RQRouter, nowhere: Any, timeout: float, limit: int | None
) -> None:
    """A program's own limit has to strike before that of its job."""
    program(router, timeout=timeout, queue=Queue(connection=nowhere, default_timeout=limit))
    [text] = router.problems()
    assert text.startswith(
        f'"p": timeout = {timeout} s is not below the time limit of its job, {limit or 180} s'
    )


def test_other_findings(router: RQRouter, nowhere: Any) -> None:
    """Jobs that run where they are sent, jobs that stay for ever, a queue in two languages."""
    declare(router, "here", queue=Queue("now", connection=nowhere, is_async=False))
    declare(router, "kept", result_ttl=-1)
    declare(router, "one", queue=Queue("mixed", connection=nowhere, serializer=JSONSerializer))
    declare(router, "two", queue="mixed")
    declare(router, "three", queue=Queue("mixed", connection=nowhere, serializer=JSONSerializer))
    assert [text.partition(":")[0] for text in router.problems()] == [
        '"here"',
        '"kept"',
        '"two" and "one"',
    ]


WRONG_TIMES: dict[str, tuple[Any, ...]] = {
    "timeout": (0, 0.5, 2.5, -2, float("inf"), "soon", "0s", ()),
    "result_ttl": (0.5, -5, "x", None),
}


@pytest.mark.parametrize(
    ("option", "value"), [(key, value) for key, values in WRONG_TIMES.items() for value in values]
)
def test_times_that_are_none(router: RQRouter, option: str, value: Any) -> None:
    """They are refused where they stand, and not by each message."""
    with pytest.raises(GraphError, match=f'^"a": {option} = '):
        declare(router, **{option: value})
    assert router.names == set()


@pytest.mark.requires("redis-server")
def test_that_the_findings_are_true(redis: str, tmp_path: Path) -> None:
    """A job of another serializer never gets to Emit; one without a limit soon counts as dead."""
    with graph("jobs", redis) as jobs, rq_worker(tmp_path / "log", "emit.rq.EmitWorker") as worker:
        mixed = Queue("words", connection=jobs.connection, serializer=JSONSerializer)
        lost = mixed.enqueue("jobs.single", kwargs={"n": 1, "_origin": "test"})
        failed = FailedJobRegistry("words", connection=jobs.connection)
        eventually(lambda: failed.get_job_ids() == [lost.id])
        assert seen(jobs, "jobs.single") == []
        assert len(jobs.router.dead_letters) == 0
        began = time.time()
        endless = {"seconds": 600, "_origin": "test"}
        Queue(connection=jobs.connection).enqueue("jobs.slow", kwargs=endless, job_timeout=-1)
        wait_for(jobs, "jobs.slow", 1)
        key = StartedJobRegistry("default", connection=jobs.connection).key
        [(_, until)] = jobs.connection.zrange(key, 0, -1, withscores=True)
        assert DEFAULT_WORKER_TTL - 2 < until - began < 600  # RQ counts whole seconds
        worker.kill()
