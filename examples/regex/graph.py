"count the keys and values of query strings, and publish every message on its way"

import os
from collections.abc import Iterator

from redis import Redis

from emit import Message, NoResult, Router

router = Router()
redis = Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost"))


def prefix(name: str) -> str:
    return f"{__name__}.{name}"


@router.node(("key", "value"), entry_point=True)
def parse_querystring(msg: Message) -> Iterator[tuple[str, str]]:
    "parse a querystring into keys and values"
    for part in msg.querystring.strip().lstrip("?").split("&"):
        key, value = part.split("=")
        yield key, value


@router.node(("key", "value", "count"), prefix("parse_querystring"))
def count_keyval(msg: Message) -> tuple[str, str, float | None]:
    count = redis.zincrby(f"querystring_count.{msg.key}", 1, msg.value)
    return msg.key, msg.value, count


@router.node((), ".+")
def notify_on_emit(msg: Message) -> type[NoResult]:
    redis.publish(f"notify_on_emit.{msg._origin}", msg.as_json())
    return NoResult
