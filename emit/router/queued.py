"""
What the routers of queues share: declaring, and sending. What arrives in a worker goes to the
receiver (receiver.py); what only one queue knows is left to a subclass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from emit.errors import DispatchError, GraphError
from emit.letter import DeadLetter
from emit.node import Node
from emit.router.core import Router
from emit.router.delivery import Plan, read_plan
from emit.router.envelope import Packed, Past, pack
from emit.router.ledger import Ledger
from emit.router.options import (
    CELERY,
    OPTIONS,
    QUEUED,
    RQ,
    call_as_task,
    take_many,
    unknown_options,
)
from emit.router.receiver import RAW, Delivery, Receiver
from emit.router.sender import Outbox, Sender


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
        # By way of an attribute that is looked up each time: a subclass's, or a test's.
        self._carrier = self._sender = Sender(lambda *message: self.send(*message), self._plans)
        self._receiver = Receiver(self, self._plans)

    # -- for the subclass ------------------------------------------------------------------

    def send(
        self,
        origin: str,
        destination: str,
        packed: Packed,
        *,
        delay: float = 0.0,
        past: Past = Past(),  # noqa: B008  # it can't be changed
    ) -> Any:
        """
        Give the queue one or several messages, as one of its own.

        Args:
            origin: The node that they come from.
            destination: The node that they go to.
            packed: The messages.
            delay: Seconds until they are to be delivered.
            past: What has happened to them before.

        Raises:
            GraphError: There is no node *destination*.
            DispatchError: The queue refused.
        """
        raise NotImplementedError

    def send_raw(self, letter: DeadLetter) -> None:
        """Give the queue again what no message could be read from, as it came."""
        raise NotImplementedError

    def put_back(
        self, delivery: Delivery, error: Exception, *, delay: float, past: Past, repeat: str
    ) -> NoReturn:
        """
        Have what was delivered delivered again.

        Args:
            delivery: What was delivered.
            error: Why.
            delay: In so many seconds.
            past: What has happened to it, this delivery included.
            repeat: The name of this delivery if its end is not known; the next one takes it over.

        Raises:
            Exception: One of :attr:`signals`, by which the queue is told; or the queue refused.
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

    def ledgers(self) -> Iterable[Ledger]:
        """What is kept in Redis for the nodes; nothing is asked of it yet."""
        raise NotImplementedError

    def wants_retry(self, delivery: Delivery, error: Exception) -> bool:
        """Whether the task's own options ask for another attempt after *error*."""
        return False

    @contextmanager
    def as_single(self, delivery: Delivery, number: int) -> Iterator[None]:
        """Let a handler that takes the queue's own task see one message in it, as its fields."""
        yield

    def tell_failed(self, delivery: Delivery, number: int, error: Exception) -> None:
        """Tell who watches the queue that a message of a batch was given up."""

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

    def resend(self, letter: DeadLetter) -> None:
        """
        Send the message of a dead letter again, as its first attempt and with its old id. What
        could not be read goes back as it came.

        Raises:
            DispatchError: The queue refused, or what could not be read was not kept whole.

        Example:
            >>> letters = DeadLetters(client)
            >>> letters.replay(letters.list()[0].id, router.resend)
        """
        if RAW in letter.route:
            if not letter.route[RAW]:
                raise DispatchError(
                    f'"{letter.node}": {letter.id} can\'t be sent again: what came could not be '
                    f"read, nor kept as it came"
                )
            self.send_raw(letter)
        else:
            text = pack(letter.node, letter.message)
            self.send(letter.origin, letter.node, Packed([letter.id], [text]))

    @contextmanager
    def sending(self) -> Iterator[Outbox]:
        """Number what is sent inside the block. All is sent at its end, unless that fails."""
        with self._sender.sending() as outbox:
            yield outbox


def _others(own: Iterable[str]) -> list[str]:
    return [option for option in (*CELERY, *RQ) if option not in own]
