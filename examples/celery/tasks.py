"tasks of the simple celery app"

import os
from collections.abc import Iterator

from app import app, router
from redis import Redis

from emit import Message

redis = Redis.from_url(os.environ.get("REDIS_URL", "redis://"))


@router.node(("word",), entry_point=True)
def emit_words(msg: Message) -> Iterator[str]:
    for word in msg.document.strip().split(" "):
        yield word


@router.node(
    ("word", "count"), subscribe_to="tasks.emit_words", celery_task=app.task(rate_limit="5/s")
)
def tally_word(msg: Message) -> tuple[str, float | None]:
    return msg.word, redis.zincrby("celery_emit_example", 1, msg.word)
