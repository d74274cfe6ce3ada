"""
What one call of a router has still to deliver. No I/O here.

The newest deliveries come first, so a message's consequences are worked off before the next
message: the list stays as long as the graph is deep and one fan-out wide, however many
messages pass. Within one fan-out the order is the order of emission.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

#: (origin, destination, message); for a stream (origin, None, generator of its results).
Delivery = tuple[str, "str | None", Any]


class WorkList:
    """
    Attributes:
        inbox: Deliveries added since the last was taken, in order.
        delivering: The node whose wrapped function is being called by the work list.
        takes_all: The router's dispatch puts every message here.
        logged: Receipts are to be logged.
    """

    __slots__ = ("_stack", "delivering", "inbox", "logged", "takes_all")

    def __init__(self, takes_all: bool, logged: bool) -> None:
        self.takes_all = takes_all
        self.logged = logged
        self.inbox: list[Delivery] = []
        self.delivering: Any = None
        self._stack: list[Delivery] = []

    def push(self, origin: str, results: Generator[Any, None, None]) -> None:
        """Add a stream: its results are taken one at a time, each worked off before the next."""
        self.inbox.append((origin, None, results))

    def take(self) -> Delivery | None:
        """The next delivery, or one result of a stream as (origin, None, result), or None."""
        stack, inbox = self._stack, self.inbox
        if inbox:
            if len(inbox) == 1 and inbox[0][1] is not None:  # a chain's every hop, so made quick
                return inbox.pop()
            stack += inbox[::-1]
            inbox.clear()
        while stack:
            delivery = stack.pop()
            if delivery[1] is not None:
                return delivery
            for result in delivery[2]:
                stack.append(delivery)
                return (delivery[0], None, result)
        return None

    def take_same(self, destination: str) -> list[tuple[str, Any]]:
        """Origin and message of what *destination* gets next, up to the first for another."""
        stack = self._stack
        same = []
        while stack and stack[-1][1] == destination:
            origin, _, message = stack.pop()
            same.append((origin, message))
        return same

    def close(self) -> None:
        """Drop what is left after a failure; generators that have begun are closed."""
        for _, destination, results in (*self._stack, *self.inbox):
            if destination is None:
                results.close()
        self._stack.clear()
        self.inbox.clear()
