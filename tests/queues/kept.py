"""A graph for Celery or RQ, for workers in which one of Emit's Redis commands fails."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from celery import Celery, current_task
from redis import Redis

from emit import CeleryRouter, NoResult, RQRouter, idempotent
from emit.celery import configure
from emit.errors import RemoteError
from emit.router.queued import QueueRouter
from tests.queues.faulty import install

URL = os.environ["EMIT_TEST_REDIS"]
redis = Redis.from_url(URL, decode_responses=True)
keeper = os.environ.get("EMIT_TEST_KEEPER")  # Emit's address for counts and dead letters
connection = Redis.from_url(keeper or URL)

if "EMIT_TEST_FAULTS" in os.environ:
    install(Path(os.environ["EMIT_TEST_FAULTS"]))

app = Celery("kept", broker=URL)
configure(app, time_limit=float(os.environ.get("EMIT_TEST_LIMIT", "60")))
app.conf.emit_redis = keeper
app.conf.update(task_track_started=True, result_backend=os.environ.get("EMIT_TEST_BACKEND"))
router: QueueRouter
if os.environ["EMIT_TEST_QUEUE"] == "celery":
    router = CeleryRouter(app.task)
else:
    router = RQRouter(connection)


def done(what: str, n: int) -> None:
    """Record that a message has reached its end."""
    redis.sadd(f"done:{what}", n)


def die_once(what: str, n: int) -> None:
    """End this process by a signal if the message comes for the first time."""
    if redis.sadd(f"died:{what}", n):
        os.kill(os.getpid(), 9)


@router.node(("n",))
def well(msg: Any) -> Any:
    return msg.n


@router.node((), "kept.well")
def last(msg: Any) -> Any:
    done("well", msg.n)
    return NoResult


@router.node(())
def ill(msg: Any) -> Any:
    raise ValueError("ill")


@router.node(())
def well_after_a_death(msg: Any) -> Any:
    die_once("well", msg.n)
    done("well_after_a_death", msg.n)
    return NoResult


@router.node(())
def ill_after_a_death(msg: Any) -> Any:
    die_once("ill", msg.n)
    raise ValueError("ill")


@router.node((), max_deliveries=2)
def deadly(msg: Any) -> Any:
    redis.sadd(f"deadly:{msg.n}", delivery())
    os.kill(os.getpid(), 9)


def delivery() -> str:
    """
    Return a name for the current delivery.

    Celery may run a delivery twice. If a process dies before the worker has heard that the task has
    begun, the task goes to another process without the queue's knowledge.
    """
    request = current_task.request if current_task else None
    if request is None:
        return uuid.uuid4().hex
    return f"{request.properties['delivery_tag']} {request.delivery_info['redelivered']}"


@router.node(())
def once(msg: Any) -> Any:
    """
    Fail in the middle at the first time, which takes the claim back. A finished message asks for
    the claim once more.
    """
    with idempotent(connection, f"once:{msg.n}", lease=1) as first:
        if first and redis.sadd("begun", msg.n):
            raise RemoteError(node="once", type="Retry", message="no", retry=True, after=1)
        redis.incr(f"effect:{msg.n}")
    with idempotent(connection, f"once:{msg.n}", lease=1):
        done("once", msg.n)
    return NoResult


@router.node(())
def held(msg: Any) -> None:
    """Begin, and fail once the test says to go on."""
    redis.sadd("held", msg.n)
    while not Path(os.environ["EMIT_TEST_GO"]).exists():
        time.sleep(0.01)  # between two looks
    raise ValueError("ill")


@router.node(("n",), batch=5)
def five(msg: Any) -> Any:
    yield from range(msg.n, msg.n + 5)


@router.node((), "kept.five", batch=5)
def one_of_five(msg: Any) -> Any:
    if msg.n % 5 == 3:
        raise ValueError("ill")
    done("one_of_five", msg.n)
    return NoResult


# Short waits, for a test.
for name, plan in router._plans.items():
    router._plans[name] = replace(plan, policy=replace(plan.policy, backoff=0.1, backoff_max=1.0))

send: Callable[..., Any] = router.dispatch
