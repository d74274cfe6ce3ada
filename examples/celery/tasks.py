"tasks of the simple celery app"

import os

from app import app, router
from redis import Redis

redis = Redis.from_url(os.environ.get("REDIS_URL", "redis://"))


@router.node(("word",), entry_point=True)
def emit_words(msg):
    for word in msg.document.strip().split(" "):
        yield word


@router.node(
    ("word", "count"), subscribe_to="tasks.emit_words", celery_task=app.task(rate_limit="5/s")
)
def tally_word(msg):
    return msg.word, redis.zincrby("celery_emit_example", 1, msg.word)
