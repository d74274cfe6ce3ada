"""
Test graphs: run one whole with its real programs and no queue (:func:`drive`), or record the
messages that it sends without running the subscribers (:func:`capture`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from emit.router import Router
from emit.testing.driver import Died, Drive, Sent, Stuck, Wait, die

__all__ = ["Died", "Drive", "Sent", "Stuck", "Wait", "capture", "die", "drive"]


def drive(router: Router, *, limit: int = 10_000) -> Drive:
    """
    Run a whole graph in this process, for a ``with`` block: a router of any kind, with its real
    programs, and without a broker, a Redis or a worker.

    A ``CeleryRouter`` and an ``RQRouter`` send, pack, judge, put back and bury messages with the
    code that their workers run. The waits between attempts are virtual, and take no time.

    Args:
        router: The router. It is as before when the block ends.
        limit: Deliveries by a queue after which the graph counts as stuck.

    Returns:
        A :class:`emit.testing.driver.Drive`: call it with the fields of a message.

    Example:
        >>> router = Router()
        >>> @router.node(("word",), entry_point=True, name="words")
        ... def words(msg):
        ...     yield from msg.text.split()
        >>> @router.node(("n",), "words", name="length")
        ... def length(msg):
        ...     return len(msg.word)
        >>> with drive(router) as graph:
        ...     graph(text="the rain")
        >>> graph.passed("words", "length"), graph.results("length")
        ([{'word': 'the'}, {'word': 'rain'}], [{'n': 3}, {'n': 4}])
    """
    return Drive(router, limit=limit)


@contextmanager
def capture(router: Router) -> Iterator[list[Sent]]:
    """
    Record the messages that *router* dispatches inside a ``with`` block, and deliver none of them.

    It works for every kind of router: nothing reaches a queue either. Calls from other
    threads are recorded, too.

    Returns:
        A list of (origin, destination, message), filled as messages are sent.

    Example:
        >>> router = Router()
        >>> @router.node(("word",), name="words")
        ... def words(msg):
        ...     yield from msg.text.split()
        >>> @router.node(("n",), "words", name="length")
        ... def length(msg):
        ...     return len(msg.word)
        >>> with capture(router) as sent:
        ...     result = words(text="the rain")
        >>> sent[1]
        Sent(origin='words', destination='length', message=Message(word='rain'))
    """
    sent: list[Sent] = []

    def record(origin: str, destination: str, message: Any) -> None:
        sent.append(Sent(origin, destination, message))

    with router.dispatching(record):
        yield sent
