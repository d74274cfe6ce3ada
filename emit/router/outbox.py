"""What the handling of one delivery has to send: its ids, and what waits for company."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator

from emit.router.delivery import message_id
from emit.router.envelope import Packed


class Outbox:
    """
    Numbers the results of one message after the other, and keeps those that travel in batches
    until there are enough of them, or the delivery ends.

    Attributes:
        parent: Id of the message whose results come next; None: of none.
    """

    def __init__(self) -> None:
        self.parent: str | None = None
        self._counts: dict[str, int] = {}
        self._waiting: dict[tuple[str, str], Packed] = {}

    def begin(self, parent: str) -> None:
        self.parent = parent
        self._counts = {}

    def next_id(self, destination: str) -> str:
        if self.parent is None:
            return str(uuid.uuid4())
        index = self._counts.get(destination, 0)
        self._counts[destination] = index + 1
        return message_id(self.parent, destination, index)

    def add(self, origin: str, destination: str, texts: Iterable[bytes]) -> Packed:
        """Keep packed messages. Returns all that wait with them."""
        packed = self._waiting.setdefault((origin, destination), Packed([], []))
        for text in texts:
            packed.ids.append(self.next_id(destination))
            packed.texts.append(text)
        return packed

    def take(self, origin: str, destination: str) -> Packed:
        return self._waiting.pop((origin, destination))

    def take_all(self) -> Iterator[tuple[str, str, Packed]]:
        """(origin, destination, messages) of all that still wait."""
        while self._waiting:
            (origin, destination), packed = self._waiting.popitem()
            yield origin, destination, packed
