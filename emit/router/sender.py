"""
The carrier of a queue: :class:`Sender`; and :class:`Outbox`, which numbers one delivery's results
and keeps those that wait for a batch.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from emit.graph import ENTRY
from emit.router.delivery import Plan, message_id
from emit.router.envelope import Packed, pack
from emit.router.watch import Watch


class Sender:
    """
    The carrier of a queue: packs messages, numbers them, and sends them together.

    Args:
        send: :meth:`QueueRouter.send`.
        plans: The queue options of each node.
        watch: Tells observers.
    """

    def __init__(
        self, send: Callable[[str, str, Packed], Any], plans: Mapping[str, Plan], watch: Watch
    ) -> None:
        self._send = send
        self._plans = plans
        self._watch = watch
        # Its ``outbox`` belongs to the current delivery; in a subclass's dispatch, so does ``own``.
        self._here = threading.local()

    def dispatch(self, origin: str, destination: str, fields: dict[str, Any]) -> Any:
        """Send one message. Return the receipt of the queue's own library."""
        return self.send_text(origin, destination, pack(_blamed(origin, destination), fields))

    def carry(self, origin: str, destination: str, results: Sequence[dict[str, Any]]) -> None:
        """Send messages. Messages that travel together may wait for the end of :meth:`sending`."""
        # All are packed before one is sent: results that fail send nothing on.
        blamed = _blamed(origin, destination)
        texts = [pack(blamed, result) for result in results]
        plan: Plan | None = self._plans.get(destination)
        outbox: Outbox | None = getattr(self._here, "outbox", None)
        if plan is None or plan.batch == 1:
            for text in texts:
                self.send_text(origin, destination, text)
        elif outbox is None:
            packed = Outbox().add(origin, destination, texts, self._watch)
            self._send_batches(origin, destination, packed)
        elif len(outbox.add(origin, destination, texts, self._watch).ids) >= plan.batch:
            self._send_batches(origin, destination, outbox.take(origin, destination))

    @contextmanager
    def sending(self) -> Iterator[Outbox]:
        """
        Number the messages that are sent inside the block. All are sent at its end, unless it
        fails.
        """
        outer, outbox = getattr(self._here, "outbox", None), Outbox()
        self._here.outbox = outbox
        try:
            yield outbox
            for origin, destination, packed in outbox.take_all():
                self._send_batches(origin, destination, packed)
        finally:
            self._here.outbox = outer

    def send_text(self, origin: str, destination: str, text: bytes) -> Any:
        """Send one message that is packed already."""
        packed = Packed([self._next_id(destination)], [text])
        if self._watch.observers.each:
            packed = packed._replace(traces=[self._watch.sent(origin, destination, packed.id)])
        return self._send(origin, destination, packed)

    @contextmanager
    def numbering(self) -> Iterator[None]:
        """Let :meth:`own_id` number what the dispatch of a subclass sends inside the block."""
        outer, self._here.own = getattr(self._here, "own", False), True
        try:
            yield
        finally:
            self._here.own = outer

    def own_id(self, destination: str) -> str | None:
        """Return the id of a message that is sent by hand, or None: the queue makes it."""
        return self._next_id(destination) if getattr(self._here, "own", False) else None

    def _next_id(self, destination: str) -> str:
        outbox: Outbox = getattr(self._here, "outbox", None) or Outbox()
        return outbox.next_id(destination)

    def _send_batches(self, origin: str, destination: str, packed: Packed) -> None:
        plan = self._plans[destination]
        for part in packed.cut(plan.batch, plan.batch_bytes):
            self._send(origin, destination, part)


class Outbox:
    """
    Numbers the results of one message after the other, and keeps those that travel in batches
    until there are enough of them, or the delivery ends.

    Attributes:
        parent: The id of the message whose results come next, or None.
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

    def add(self, origin: str, destination: str, texts: Iterable[bytes], watch: Watch) -> Packed:
        """
        Keep packed messages, which count as sent from now on. Return all that wait with them.
        """
        packed = self._waiting.setdefault((origin, destination), Packed([], [], []))
        for text in texts:
            id = self.next_id(destination)
            packed.ids.append(id)
            packed.texts.append(text)
            if watch.observers.each:
                packed.traces.append(watch.sent(origin, destination, id, alone=False))
            else:
                packed.traces.append(None)
        return packed

    def take(self, origin: str, destination: str) -> Packed:
        return self._waiting.pop((origin, destination))

    def take_all(self) -> Iterator[tuple[str, str, Packed]]:
        """Yield (origin, destination, messages) of all that still wait."""
        while self._waiting:
            (origin, destination), packed = self._waiting.popitem()
            yield origin, destination, packed


def _blamed(origin: str, destination: str) -> str:
    """
    Return the node to name if a value can't travel. A call of the router has no origin to blame.
    """
    return destination if origin in ("", ENTRY) else origin
