"""What the handling of one delivery has to send: its ids, and what waits for company."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from emit.router.delivery import Parcel, message_id


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
        self._waiting: dict[tuple[str, str], Parcel] = {}

    def begin(self, parent: str) -> None:
        self.parent = parent
        self._counts = {}

    def next_id(self, destination: str) -> str:
        if self.parent is None:
            return str(uuid.uuid4())
        index = self._counts.get(destination, 0)
        self._counts[destination] = index + 1
        return message_id(self.parent, destination, index)

    def add(self, origin: str, destination: str, messages: Iterable[Mapping[str, Any]]) -> Parcel:
        """Keep messages. Returns all that wait with them."""
        parcel = self._waiting.setdefault((origin, destination), Parcel([], []))
        for message in messages:
            parcel.ids.append(self.next_id(destination))
            parcel.messages.append(message)
        return parcel

    def take(self, origin: str, destination: str) -> Parcel:
        return self._waiting.pop((origin, destination))

    def take_all(self) -> Iterator[tuple[str, str, Parcel]]:
        """(origin, destination, parcel) of all that still waits."""
        while self._waiting:
            (origin, destination), parcel = self._waiting.popitem()
            yield origin, destination, parcel
