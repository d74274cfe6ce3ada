"""Word count through RQ, for rq_workers.py: plain jobs, and a graph with and without batches."""

from __future__ import annotations

import os
from typing import Any

from redis import Redis
from rq import Queue

from emit import RQRouter

redis = Redis.from_url(os.environ["BENCH_REDIS"])
queue = Queue(connection=redis)
router = RQRouter(redis_connection=redis)


def plain_words(document: str) -> None:
    for word in document.split():
        queue.enqueue(plain_count, word)


def plain_count(word: str) -> int:
    return int(redis.hincrby("counts", f"plain {word}"))


@router.node(("word",))
def single_words(msg: Any) -> Any:
    yield from msg.document.split()


@router.node(("count",), "rq_words.single_words")
def single_count(msg: Any) -> Any:
    return redis.hincrby("counts", f"single {msg.word}")


@router.node(("word",))
def batch_words(msg: Any) -> Any:
    yield from msg.document.split()


@router.node((), "rq_words.batch_words", batch=100, many=True)
def batch_count(messages: Any) -> Any:
    pipeline = redis.pipeline()
    for message in messages:
        pipeline.hincrby("counts", f"batch {message.word}")
    pipeline.execute()
