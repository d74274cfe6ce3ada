"""What the routers of queues keep in Redis: deliveries without an end, and dead letters."""

from __future__ import annotations

from typing import Any

from emit.dead import DeadLetters
from emit.errors import LetterNotFound
from emit.letter import DeadLetter
from emit.once import asking

#: Seconds that a count is kept: longer than any queue takes to deliver a message again.
_KEPT = 72 * 3600


class Ledger:
    """
    Args:
        redis: A client of redis-py.

    Every method raises LedgerError if Redis can't be reached or refuses.

    Example:
        >>> ledger = Ledger(client)
        >>> ledger.count("7", "first"), ledger.count("7", "second"), ledger.count("7", "second")
        (2, 3, 3)
    """

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self.letters = DeadLetters(redis)

    def count(self, id: str, delivery: str) -> int:
        """
        Count a delivery of a message that was delivered before.

        The first delivery is not counted: that costs nothing if nothing goes wrong, and the
        queue itself says which are repeats.

        Args:
            id: The message's.
            delivery: A name of this delivery. The same name counts once, so that a count whose
                answer was lost on its way can be asked for again.

        Returns:
            The number of deliveries so far, from 2.
        """
        key = _key(id)
        with asking(self._redis, "count a repeated delivery"):
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.sadd(key, delivery)
            pipeline.expire(key, _KEPT)
            pipeline.scard(key)
            return int(pipeline.execute()[-1]) + 1

    def forget(self, id: str) -> None:
        """Drop the count of a message whose end is known."""
        with asking(self._redis, "forget the count of a message's deliveries"):
            self._redis.delete(_key(id))

    def find(self, id: str) -> DeadLetter | None:
        """Return the dead letter of a message, if there is one."""
        with asking(self._redis, "look for a dead letter"):
            try:
                return self.letters.show(id)
            except LetterNotFound:
                return None

    def bury(self, letter: DeadLetter) -> None:
        """
        Keep a dead letter.

        Raises:
            EncodeError: It has a value that no text stands for exactly.
        """
        with asking(self._redis, "keep a dead letter"):
            self.letters.add(letter)


def _key(id: str) -> str:
    return f"emit:repeats:{id}"
