"""What the routers of queues keep in Redis: deliveries without an end, and dead letters."""

from __future__ import annotations

from typing import Any

from emit.dead import DeadLetters
from emit.letter import DeadLetter

#: Seconds that a count is kept: longer than any queue takes to deliver a message again.
_KEPT = 72 * 3600


class Ledger:
    """
    Args:
        redis: A client of redis-py.

    Example:
        >>> ledger = Ledger(client)
        >>> ledger.count("7"), ledger.count("7")
        (2, 3)
    """

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self.letters = DeadLetters(redis)

    def count(self, id: str) -> int:
        """
        Count a delivery of what was delivered before.

        The first delivery is not counted: that costs nothing where nothing goes wrong, and the
        queue itself says which are repeats.

        Returns:
            The number of this delivery, from 2.
        """
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.incr(_key(id))
        pipeline.expire(_key(id), _KEPT)
        return int(pipeline.execute()[0]) + 1

    def forget(self, id: str) -> None:
        """The end of a message is known."""
        self._redis.delete(_key(id))

    def bury(self, letter: DeadLetter) -> None:
        self.letters.add(letter)


def _key(id: str) -> str:
    return f"emit:deliveries:{id}"
