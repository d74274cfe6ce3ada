"""The records of queue routers in Redis: counts of deliveries without an end, and dead letters."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Container, Iterable
from copy import copy
from typing import Any

from emit.dead import DeadLetters
from emit.errors import LedgerError, LetterNotFound, UnreadableLetter
from emit.letter import DeadLetter
from emit.once import asking

#: Seconds that a count is kept: longer than any queue takes to deliver a message again.
_KEPT = 72 * 3600


class Ledger:
    """
    Args:
        redis: A client of redis-py.
        prefix: The beginning of the names of all keys, before ``emit:``.
        app: The application of these letters and counts; empty for none.
        nodes: The names of its nodes.
        counts: True if it also counts deliveries.

    Attributes:
        redis: The client.
        prefix: The beginning of the names of all keys, before ``emit:``.
        letters: Its dead letters.

    Every method raises LedgerError if Redis can't be reached or refuses.

    Example:
        >>> ledger = Ledger(client)
        >>> ledger.count("7", "first"), ledger.count("7", "second"), ledger.count("7", "second")
        (2, 3, 3)
    """

    def __init__(
        self,
        redis: Any,
        *,
        prefix: str = "",
        app: str = "",
        nodes: Container[str] | None = None,
        counts: bool = True,
    ) -> None:
        self.redis = redis
        self.prefix = prefix
        self._counts = counts
        self._prefix = f"{prefix}emit:"
        self._repeats = f"{self._prefix}repeats:@{app}" if app else f"{self._prefix}repeats"
        self.letters = DeadLetters(redis, prefix=f"{self._prefix}dead", app=app, nodes=nodes)

    def at(self, redis: Any) -> Ledger:
        """Return the same ledger with another client."""
        other = copy(self)
        other.redis, other.letters = redis, self.letters.at(redis)
        return other

    def count(self, id: str, delivery: str) -> int:
        """
        Count a delivery of a message that was delivered before.

        The first delivery is not counted. The queue itself marks repeats, so a message that meets
        no fault costs nothing here.

        Args:
            id: The message's id.
            delivery: A name of this delivery. The same name counts once, so a count whose answer
                was lost can be asked for again.

        Returns:
            The number of deliveries so far, from 2.
        """
        key = self._key(id)
        with asking(self.redis, "count a repeated delivery"):
            pipeline = self.redis.pipeline(transaction=True)
            pipeline.sadd(key, delivery)
            pipeline.expire(key, _KEPT)
            pipeline.scard(key)
            return int(pipeline.execute()[-1]) + 1

    def forget(self, id: str) -> None:
        """Drop the count of a message whose end is known."""
        with asking(self.redis, "forget the count of a message's deliveries"):
            self.redis.delete(self._key(id))

    def find(self, id: str) -> DeadLetter | None:
        """Return the dead letter of a message, or None if there is none that can be read."""
        with asking(self.redis, "look for a dead letter"):
            try:
                return self.letters.show(id)
            except (LetterNotFound, UnreadableLetter):
                return None

    def bury(self, letter: DeadLetter) -> None:
        """
        Keep a dead letter.

        Raises:
            EncodeError: It has a value that no text represents exactly.
        """
        with asking(self.redis, "keep a dead letter"):
            self.letters.add(letter)

    def try_out(self) -> None:
        """
        Do everything that a worker and an operator do, with the same keys and without an effect.

        Raises:
            LedgerError: Some of it can't be done. See :func:`said`.
        """
        if self._counts:
            id = f"try-{uuid.uuid4().hex}"
            self.count(id, "try")
            self.forget(id)
        with asking(self.redis, "keep dead letters"):
            self.letters.try_out()

    def remedy(self, error: LedgerError) -> str:
        """Return what to do about an error, as far as the error shows it; may be empty."""
        text = _words(error)
        if "permission" in text:
            return (
                f"give its user these keys and commands: ACL SETUSER ... ~{self._prefix}* +@read "
                f"+@write +@scripting +@transaction +time"
            )
        return next((hint for sign, hint in _REMEDIES if sign in text), "")

    def _key(self, id: str) -> str:
        return f"{self._repeats}:{id}"


#: The effect on messages if a ledger can't be used.
_WAITING = "messages that fail or come again wait in their queue until it can"

#: Words in the text or the name of an error of redis-py's, and the remedy for each.
_REMEDIES = (
    ("hash to the same slot", "it is a Redis Cluster: take one without"),
    ("MovedError", "it is a Redis Cluster: take one without"),
    ("ClusterDownError", "it is a Redis Cluster: take one without"),
    ("ReadOnlyError", "it is a replica: name its master, or its sentinels"),
    ("OutOfMemoryError", "give it more memory"),
    ("Authentication required", "set its password"),
    ("invalid username-password", "set its password, and its user if it has some"),
    ("CERTIFICATE_VERIFY_FAILED", "set ssl_ca_certs to the certificate of who signed its own"),
    ("No master found", "set master_name to a name that its sentinels know"),
)


def try_out(ledgers: Iterable[Ledger], log: logging.Logger) -> None:
    """Try out each of a worker's ledgers before it begins, and log what can't be done."""
    for ledger in ledgers:
        try:
            ledger.try_out()
        except LedgerError as error:
            log.warning("%s; %s", said(ledger, error), _WAITING)


def said(ledger: Ledger, error: LedgerError) -> str:
    """Return an error's text and its remedy."""
    remedy = ledger.remedy(error)
    return f"{error}: {remedy}" if remedy else str(error)


def is_away(error: LedgerError) -> bool:
    """True if Redis could not be reached just now, so that it may work later without a change."""
    kinds = {kind.__name__ for kind in type(error.__cause__).__mro__}
    return not kinds.isdisjoint({"ConnectionError", "TimeoutError"}) and not any(
        sign in _words(error) for sign, _ in _REMEDIES
    )


def _words(error: LedgerError) -> str:
    return f"{type(error.__cause__).__name__}: {error.__cause__}"
