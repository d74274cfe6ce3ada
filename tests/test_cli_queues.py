"""The Redis and the workers that ``emit doctor`` asks, and its report of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from emit import CeleryRouter, Router, RQRouter
from emit.cli.checkup import Checked
from emit.cli.queues import check_redis, check_workers
from tests.queues.worker import rq_worker

NOWHERE = "redis://127.0.0.1:1/2"


@pytest.fixture(autouse=True)
def _nothing_of_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an address in the environment, nor how long this machine takes to answer."""
    monkeypatch.setattr("emit.cli.queues._PATIENCE", 60)
    for name in ("EMIT_REDIS", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def secret(redis: str) -> Iterator[str]:
    """The address of a Redis with a password."""
    url = redis.replace("//", "//:secret@")
    with Redis.from_url(redis) as client:
        client.config_set("requirepass", "secret")
    yield url
    with Redis.from_url(url) as client:
        client.config_set("requirepass", "")


def asked(url: str | None = None, router: Router | None = None) -> Checked:
    [found] = check_redis(url, router, None if router is None else "app.router")
    return found


def where(url: str) -> str:
    return url.rpartition("@")[2].removeprefix("redis://")


def rq_router(url: str) -> RQRouter:
    router = RQRouter(redis_connection=Redis.from_url(url))
    router.node((), name="a", queue="words")(lambda msg: None)
    router.node((), name="b", queue="words")(lambda msg: None)
    return router


def celery_router(url: str) -> CeleryRouter:
    # Not shared: each test has such a node, and a shared task is every app's.
    router = CeleryRouter(celery_task=Celery("app", broker=url).task(shared=False))
    router.node((), name="a")(lambda msg: None)
    return router


@pytest.mark.requires("redis-server")
@pytest.mark.parametrize("make", [rq_router, celery_router])
def test_the_redis_of_a_router(secret: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked, whatever the environment says; its password is not shown."""
    monkeypatch.setenv("EMIT_REDIS", NOWHERE)
    found = asked(router=make(secret))
    assert found.state == "ok"
    assert found.text.endswith(f" at {where(secret)}, of app.router")
    assert asked(NOWHERE, make(secret)).text.startswith("127.0.0.1:1/2, of --redis: ")


@pytest.mark.parametrize(
    "router", [None, Router(), CeleryRouter(partial(Celery("none").task, shared=False))]
)
def test_the_redis_of_the_environment(
    router: Router | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emit's own variable counts before the common one if no router has a Redis."""
    monkeypatch.setenv("REDIS_URL", NOWHERE)
    found = asked(router=router)
    assert (found.state, found.text.partition(": ")[0]) == (
        "broken",
        "127.0.0.1:1/2, of $REDIS_URL",
    )
    monkeypatch.setenv("EMIT_REDIS", "redis://127.0.0.1:1/3")
    assert asked().text.startswith("127.0.0.1:1/3, of $EMIT_REDIS: ")
    monkeypatch.setenv("EMIT_REDIS", "")  # as good as none
    assert "$REDIS_URL" in asked().text


def test_the_usual_redis() -> None:
    """Nobody has asked for it, so it is not broken where it is not there."""
    found = asked()
    assert found.state in ("ok", "absent")
    assert "localhost:6379/0" in found.text
    assert ", of " not in found.text


@pytest.mark.parametrize("url", ["nonsense", "redis://127.0.0.1:port/0"])
def test_no_address(url: str) -> None:
    """A wrong address is reported as wrong."""
    found = asked(url)
    assert (found.state, found.hint) == ("broken", "such as redis://localhost:6379/0")


@pytest.mark.requires("redis-server")
def test_workers_of_rq(redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each queue once: those that listen to it, or how to start one."""
    router = rq_router(redis)
    [found] = check_workers(router, "app.router")
    assert found == Checked(
        "queue",
        "rq",
        "broken",
        f'there is no worker of the queue "words" at {where(redis)}',
        "rq worker --worker-class emit.rq.EmitWorker words",
    )
    monkeypatch.setenv("EMIT_TEST_REDIS", redis)
    with rq_worker(tmp_path / "log", "emit.rq.EmitWorker"):
        [found] = check_workers(router, "app.router")
    assert found.state == "ok"
    assert found.text == f'workers of the queue "words" at {where(redis)}: 1'


def test_workers_that_nobody_can_ask() -> None:
    """Redis is not there; or the router has no queue."""
    [found] = check_workers(rq_router(NOWHERE), "app.router")
    assert found.state == "broken"
    assert found.text.startswith('workers of the queue "words" at 127.0.0.1:1/2: ')
    [found] = check_workers(Router(), "app.router")
    assert (found.state, found.text) == ("broken", '"app.router" has no node of a queue')
