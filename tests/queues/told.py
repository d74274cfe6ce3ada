"""A graph whose observer records all facts, for the tests of facts, with Celery or RQ."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from celery import Celery
from redis import Redis

from emit import CeleryRouter, RQRouter, ShellNode
from emit.celery import configure
from emit.context import current
from emit.errors import RemoteError
from emit.observe import Sent, Started

URL = os.environ["EMIT_TEST_REDIS"]
redis = Redis.from_url(URL, decode_responses=True)
router: Any
if os.environ["EMIT_TEST_CARRIER"] == "rq":
    connection = Redis.from_url(URL)
    router = RQRouter(redis_connection=connection)
else:
    app = Celery("told", broker=URL)
    configure(app, time_limit=60)
    router = CeleryRouter(celery_task=lambda function: app.task(function, shared=False))


@router.observe
def record(fact: Any) -> Any:
    """Record a fact, and give each message and each run a context that tells whose it is."""
    told = {"fact": type(fact).__name__, "pid": os.getpid(), **fact._asdict()}
    redis.rpush("facts", json.dumps({**told, "error": None}))
    if isinstance(fact, Sent):
        return {"traceparent": f"of-{fact.id}", "tracestate": "k=v"}
    if isinstance(fact, Started):
        return {"traceparent": f"run-{fact.id}-{fact.attempt}"}
    return None


@router.node(("how", "then"), entry_point=True)
def split(msg: Any) -> Any:
    """Emit a message for each pair: what work is to do with it, and then the program."""
    yield from map(tuple, msg.pairs)


@router.node(("how", "trace"), "told.split", batch=10)
def work(msg: Any) -> Any:
    told = current.get()
    assert told is not None
    if msg.how == "fail":
        raise ValueError("no")
    if msg.how == "retry" and told.attempt == 1:
        raise RemoteError(node="told.work", type="Busy", message="later", retry=True, after=0.0)
    return msg.then, told.traceparent


@router.node(("answer",), "told.work", name="told.program", batch=10, backoff=0.01)
class Program(ShellNode):
    command = (sys.executable, str(Path(__file__).with_name("program.py")))
    program_node = "answer"
    pass_env = (*ShellNode.pass_env, "PYTHONPATH")
    mode = "persistent"
    size = 1


@router.node((), "told.program")
def last(msg: Any) -> None:
    redis.rpush("last", json.dumps(msg.answer))


@router.node(("x",), name="told.missing")
class Missing(ShellNode):
    command = "/nowhere/to/be/found"
    mode = "persistent"


if os.environ["EMIT_TEST_CARRIER"] == "celery":

    @router.node((), name="told.bound", celery_task=partial(app.task, bind=True, shared=False))
    def bound(task: Any, msg: Any) -> None:
        """Use Celery's own retry, once."""
        if not task.request.retries:
            raise task.retry(countdown=0)


@router.node(("how",), name="told.lists")
def lists(msg: Any) -> Any:
    """Emit a message for each word, to the node that takes them as a list."""
    yield from msg.hows


@router.node((), "told.lists", batch=10, many=True)
def together(msgs: Any) -> None:
    if any(msg.how == "fail" for msg in msgs):
        raise ValueError("no")
