"""
What the routers of queues share: declaring, and sending. What arrives in a worker goes to the
receiver (receiver.py); what only one queue knows is left to a subclass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from emit.errors import GraphError
from emit.letter import Cause, DeadLetter
from emit.node import Node
from emit.router.core import Router
from emit.router.delivery import Parcel, cut
from emit.router.options import (
    CELERY,
    OPTIONS,
    QUEUED,
    RQ,
    call_as_task,
    take_many,
    unknown_options,
)
from emit.router.outbox import Outbox
from emit.router.plan import Plan, read_plan
from emit.router.receiver import Delivery, Receiver


class QueueRouter(Router):
    """
    The part of ``CeleryRouter`` and ``RQRouter`` that is the same.

    A subclass has :meth:`wrap_node`, and what is below "for the subclass".
    """

    #: By these a worker cuts a task off in mid-run, as for a time limit.
    interrupts: tuple[type[Exception], ...] = ()

    #: These a handler raises to speak to the queue itself, as ``task.retry()`` does.
    signals: tuple[type[Exception], ...] = ()

    #: What the subclass adds to the options of :meth:`node`.
    queue_options: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plans: dict[str, Plan] = {}
        self._left_out: set[str] = set()
        self._here = threading.local()
        self._receiver = Receiver(self, self._plans)

    # -- for the subclass ------------------------------------------------------------------

    def send(
        self,
        origin: str,
        destination: str,
        parcel: Parcel,
        *,
        delay: float = 0.0,
        causes: Sequence[Cause] = (),
        waits: int = 0,
    ) -> Any:
        """
        Give the queue one or several messages, as one of its own.

        Args:
            origin: The node that they come from.
            destination: The node that they go to.
            parcel: The messages.
            delay: Seconds until they are to be delivered.
            causes: Why their attempts failed.
            waits: How often they were put back since, without a charge.

        Raises:
            GraphError: There is no node *destination*.
            DispatchError: The queue refused.
        """
        raise NotImplementedError

    def put_back(
        self,
        delivery: Delivery,
        error: Exception,
        *,
        delay: float,
        causes: Sequence[Cause],
        waits: int,
        repeat: str,
    ) -> Any:
        """
        Have what was delivered delivered again.

        Args:
            delivery: What was delivered.
            error: Why.
            delay: In so many seconds.
            causes: Why its attempts failed, this one included if it is charged.
            waits: How often it was put back since the last of them, this time included.
            repeat: The name of this delivery if its end is not known; the next one takes it over.
        """
        raise NotImplementedError

    def bury(self, delivery: Delivery, letter: DeadLetter) -> None:
        """
        Keep a dead letter.

        Raises:
            LedgerError: It could not be kept.
        """
        raise NotImplementedError

    def count(self, delivery: Delivery) -> int:
        """
        Count a repeated delivery. Returns its number, 2 for the first that is counted.

        Raises:
            LedgerError: It could not be counted.
        """
        raise NotImplementedError

    def forget(self, delivery: Delivery) -> None:
        """
        Its end is known: count from the start, should it ever come again.

        Raises:
            LedgerError: The count stays.
        """
        raise NotImplementedError

    def wants_retry(self, delivery: Delivery, error: Exception) -> bool:
        """Whether the task's own options ask for another attempt after *error*."""
        return False

    @contextmanager
    def as_single(self, delivery: Delivery, number: int) -> Iterator[None]:
        """Let one message of a batch look to its handler as if it had come alone."""
        yield

    # -- declaring -------------------------------------------------------------------------

    def plan_node(self, node: Callable[..., Any], options: dict[str, Any]) -> None:
        """
        Take from *options* what is about the queue.

        Raises:
            GraphError: One that nobody knows, or a value that can't work.
        """
        wrapped: Node = node.node  # type: ignore[attr-defined]
        plan = read_plan(wrapped.name, wrapped.handler, options)
        if plan.many:
            take_many(wrapped)
        self._leave_out(wrapped, options)
        if options:
            known = (*OPTIONS, *QUEUED, *self.queue_options, *wrapped.options)
            raise GraphError(unknown_options(wrapped.name, type(self).__name__, options, known))
        self._plans[wrapped.name] = plan

    def _leave_out(self, node: Node, options: dict[str, Any]) -> None:
        """Take the options of another queue's router, and warn once of each."""
        given = {key: options.pop(key) for key in _others(self.queue_options) if key in options}
        if given.get("celery_task") is not None:
            call_as_task(node, given["celery_task"])
        for option in given.keys() - self._left_out:
            self._left_out.add(option)
            self.logger.warning(
                '"%s": %s leaves out the option %s', node.name, type(self).__name__, option
            )

    def problems(self) -> list[str]:
        """What the queue's settings do to messages, one line each, for ``emit check``."""
        raise NotImplementedError

    def _timeouts(self) -> dict[str, float]:
        """Of each node that is a program its ``timeout``: the queue must leave it that."""
        return {node.name: node.handler.timeout for node in self._nodes.values() if node.foreign}

    def get_name(self, func: Any) -> str:
        """The name to refer to a node or a function by; see :meth:`Router.get_name`."""
        # By identity, since a look at an attribute of a lazy Celery task finishes it.
        for name, function in self.functions.items():
            if function is func:
                return name
        return super().get_name(func)

    def _node_of(self, func: Any) -> Any:
        return None  # as above; Router.node knows the node anyway

    # -- sending ---------------------------------------------------------------------------

    def dispatch(self, origin: str, destination: str, message: Any) -> Any:
        """
        Give a message for one node to the queue.

        Args:
            origin: Name of the node that it comes from.
            destination: Name of the node that it goes to.
            message: The message.

        Raises:
            GraphError: There is no node *destination*.
            DispatchError: The queue refused the message.
        """
        fields = message if isinstance(message, dict) else dict(vars(message))
        return self.send(origin, destination, Parcel([self._next_id(destination)], [fields]))

    def resend(self, letter: DeadLetter) -> None:
        """
        Send the message of a dead letter again, as its first attempt and with its old id.

        Raises:
            DispatchError: The queue refused.

        Example:
            >>> letters = DeadLetters(client)
            >>> letters.replay(letters.list()[0].id, router.resend)
        """
        self.send(letter.origin, letter.node, Parcel([letter.id], [letter.message]))

    def _dispatch_all(self, origin: str, destination: str, results: Any) -> None:
        if not self._sends_batches(destination):
            super()._dispatch_all(origin, destination, results)
        elif (outbox := self._outbox) is None:
            self._send_batches(origin, destination, Outbox().add(origin, destination, results))
        elif len(outbox.add(origin, destination, results).ids) >= self._plans[destination].batch:
            self._send_batches(origin, destination, outbox.take(origin, destination))

    def _sends_batches(self, destination: str) -> bool:
        """Not where dispatch is somebody else's: every message then has to pass through it."""
        plan = self._plans.get(destination)
        own = type(self).dispatch is QueueRouter.dispatch and "dispatch" not in vars(self)
        return own and plan is not None and plan.batch > 1

    def _send_batches(self, origin: str, destination: str, parcel: Parcel) -> None:
        plan = self._plans[destination]
        for part in cut(parcel, plan.batch, plan.batch_bytes):
            self.send(origin, destination, part)

    @property
    def _outbox(self) -> Outbox | None:
        return getattr(self._here, "outbox", None)

    def _next_id(self, destination: str) -> str:
        return (self._outbox or Outbox()).next_id(destination)

    @contextmanager
    def sending(self) -> Iterator[Outbox]:
        """What is sent inside the block is numbered, and gone at its end, unless that fails."""
        outer, outbox = self._outbox, Outbox()
        self._here.outbox = outbox
        try:
            yield outbox
            for origin, destination, parcel in outbox.take_all():
                self._send_batches(origin, destination, parcel)
        finally:
            self._here.outbox = outer


def _others(own: Iterable[str]) -> list[str]:
    return [option for option in (*CELERY, *RQ) if option not in own]
