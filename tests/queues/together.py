"""A graph for the tests of workers with a shared host."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery
from redis import Redis

from emit import CeleryRouter, ShellNode
from emit.celery import configure

URL = os.environ["EMIT_TEST_REDIS"]
app = Celery("together", broker=URL)
configure(app, time_limit=120)
app.conf.emit_host = os.environ["EMIT_TEST_HOST"]
router = CeleryRouter(celery_task=app.task)
redis = Redis.from_url(URL, decode_responses=True)


@router.node(("pid", "n"), entry_point=True, name="together.where", timeout=60)
class Where(ShellNode):
    command = (sys.executable, str(Path(__file__).with_name("program.py")))
    program_node = "answer"
    mode = "persistent"
    pass_env = (*ShellNode.pass_env, "PYTHONPATH")
    size = 1


@router.node((), "together.where")
def note(msg: Any) -> None:
    redis.rpush("noted", f"{msg.pid} {msg.n} {os.getpid()}")
    while msg.n == 0 and redis.llen("noted") < int(redis.get("wanted") or 0):
        time.sleep(0.01)  # this child is busy, so another child takes the other messages
