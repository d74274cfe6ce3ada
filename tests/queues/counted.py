"""A graph whose messages are counted twice: by Emit's metrics, and by their handler in Redis."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from celery import Celery
from redis import Redis

from emit import CeleryRouter, RQRouter, ShellNode
from emit.celery import configure
from emit.observe import metrics

URL = os.environ["EMIT_TEST_REDIS"]
redis = Redis.from_url(URL, decode_responses=True)
router: Any
if os.environ["EMIT_TEST_CARRIER"] == "rq":
    connection = Redis.from_url(URL)
    router = RQRouter(redis_connection=connection)
else:
    app = Celery("counted", broker=URL)
    configure(app, time_limit=60)
    router = CeleryRouter(celery_task=lambda function: app.task(function, shared=False))
metrics.instrument(router)


@router.node(("n",), entry_point=True)
def split(msg: Any) -> Any:
    yield from range(msg.count)


@router.node(("n",), "counted.split")
def work(msg: Any) -> Any:
    redis.incr("handled")
    redis.sadd("done", msg.n)
    if msg.n == 13:
        raise ValueError("no")


@router.node(("answer",), name="counted.program")
class Program(ShellNode):
    command = (sys.executable, str(Path(__file__).with_name("program.py")))
    program_node = "answer"
    pass_env = (*ShellNode.pass_env, "PYTHONPATH")
    mode = "persistent"


@router.node(("x",), name="counted.missing")
class Missing(ShellNode):
    command = "/nowhere/to/be/found"
    mode = "persistent"
