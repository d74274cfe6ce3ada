"""A graph of Python functions only, for a pool in which no program can run."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from celery import Celery
from redis import Redis

from emit import CeleryRouter
from emit.celery import configure

URL = os.environ["EMIT_TEST_REDIS"]
app = Celery("functions", broker=URL)
configure(app)
router = CeleryRouter(celery_task=app.task(shared=False))
redis = Redis.from_url(URL, decode_responses=True)


@router.node(("n",))
async def later(msg: Any) -> Any:
    await asyncio.sleep(0.05)  # the node's work
    return msg.n


@router.node((), "functions.later")
def last(msg: Any) -> None:
    redis.rpush("noted", msg.n)
