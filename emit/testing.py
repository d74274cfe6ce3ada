"""Record the messages that a graph sends in a test, without running the subscribers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from emit.message import Message
from emit.router import Router


class Sent(NamedTuple):
    """One message on its way: its origin, its destination, and the message itself."""

    origin: str
    destination: str
    message: Message


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
