"tasks of the simple rq app"

from collections.abc import Iterator

from app import redis, router

from emit import Message


@router.node(("word",), entry_point=True)
def emit_words(msg: Message) -> Iterator[str]:
    yield from msg.document.strip().split(" ")


@router.node(("word", "count"), subscribe_to="tasks.emit_words", queue="words")
def tally_word(msg: Message) -> tuple[str, float | None]:
    return msg.word, redis.zincrby("rq_emit_example", 1, msg.word)
