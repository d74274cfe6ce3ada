"tasks of the simple rq app"

from app import redis, router


@router.node(("word",), entry_point=True)
def emit_words(msg):
    yield from msg.document.strip().split(" ")


@router.node(("word", "count"), subscribe_to="tasks.emit_words", queue="words")
def tally_word(msg):
    return msg.word, redis.zincrby("rq_emit_example", 1, msg.word)
