"""A graph with a program whose file the tests edit while a Celery worker runs it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from celery import Celery
from redis import Redis

from emit import CeleryRouter, ShellNode
from emit.celery import configure

URL = os.environ["EMIT_TEST_REDIS"]
redis = Redis.from_url(URL, decode_responses=True)
app = Celery("edited", broker=URL)
configure(app, time_limit=60)
router = CeleryRouter(celery_task=lambda function: app.task(function, shared=False))


@router.node(("n", "pid", "v"), name="edited.node", entry_point=True, size=1)
class Node(ShellNode):
    file = str(Path(os.environ["EMIT_TEST_FOLDER"], "node.py"))


@router.node((), "edited.node", name="edited.last")
def last(msg: Any) -> None:
    told = {"node": "edited.last", "n": msg.n, "v": msg.v, "pid": msg.pid}
    redis.rpush("seen", json.dumps(told))
