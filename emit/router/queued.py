"""
The shared part of the routers of queues: declaring and sending. The receiver (receiver.py) handles
arriving messages in a worker. A subclass knows its queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from emit import workers
from emit.context import as_trace
from emit.errors import DispatchError, GraphError
from emit.letter import DeadLetter
from emit.node import Handler, Node, get_name
from emit.router.core import Router
from emit.router.delivery import Plan, Policy
from emit.router.envelope import Packed, Past, pack
from emit.router.ledger import Ledger
from emit.router.options import (
    CELERY,
    OPTIONS,
    QUEUED,
    RQ,
    call_as_task,
    check_queued,
    take_many,
    unknown_options,
)
from emit.router.receiver import RAW, Queue, Receiver
from emit.router.sender import Sender
from emit.router.watch import Watch


class QueueRouter(Router, Queue):
    """
    The shared part of ``CeleryRouter`` and ``RQRouter``.

    A subclass has :meth:`wrap_node`, all methods of :class:`emit.router.receiver.Queue`, and the
    methods below "for the subclass".
    """

    #: The name of its queue in facts.
    carrier = ""

    #: The subclass's own options of :meth:`node`.
    queue_options: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plans: dict[str, Plan] = {}
        self._around: dict[str, Callable[..., Any]] = {}
        self._left_out: set[str] = set()
        self._observers.passing = self.interrupts
        self._watch = Watch(self._observers, self.carrier)
        self._carrier = self._sender = Sender(self.send, self._plans, self._watch)
        self._receiver = Receiver(
            self, self._runner, self._sender, self._plans, self._around, self._watch
        )
        workers.add(self)

    # -- for the subclass, beside the methods of Queue --------------------------------------

    def send_raw(self, letter: DeadLetter) -> None:
        """Give an unreadable message back to the queue as it came."""
        raise NotImplementedError

    def ledgers(self) -> Iterable[Ledger]:
        """Return the nodes' ledgers in Redis. None of them has been used yet."""
        raise NotImplementedError

    # -- declaring -------------------------------------------------------------------------

    def plan_node(self, node: Callable[..., Any], options: dict[str, Any]) -> None:
        """
        Take the queue's options from *options*.

        Args:
            node: The node's own function, or the one that a subclass has put around it. A worker
                then calls that one, with one message at a time.
            options: The options of :meth:`node` that are not taken yet.

        Raises:
            GraphError: An option is unknown, or its value can't work.
        """
        wrapped = self.node_in(node)
        plan = read_plan(wrapped.name, wrapped.seam, options)
        if plan.many:
            take_many(wrapped)
        self._leave_out(wrapped, options)
        if options:
            known = (*OPTIONS, *QUEUED, *self.queue_options, *wrapped.seam.options)
            raise GraphError(unknown_options(wrapped.name, type(self).__name__, options, known))
        self._plans[wrapped.name] = plan
        self._around.pop(wrapped.name, None)
        if node is not wrapped.function:
            self._around[wrapped.name] = node

    def node_in(self, function: Callable[..., Any]) -> Node:
        """
        Return the node in the function that :meth:`wrap_node` is given.

        Raises:
            GraphError: There is none: a subclass gave a function that does not carry it.
        """
        node = getattr(function, "node", None)
        if not isinstance(node, Node):
            raise GraphError(
                f"{type(self).__name__}: wrap_node got {get_name(function)}, which does not carry "
                f"the node; make a function around a node with functools.wraps"
            )
        return node

    def _leave_out(self, node: Node, options: dict[str, Any]) -> None:
        """Take the options of another queue's router, and warn once about each."""
        given = {key: options.pop(key) for key in _others(self.queue_options) if key in options}
        if given.get("celery_task") is not None:
            call_as_task(node, given["celery_task"])
        for option in given.keys() - self._left_out:
            self._left_out.add(option)
            self.logger.warning(
                '"%s": %s leaves out the option %s', node.name, type(self).__name__, option
            )

    def problems(self) -> list[str]:
        """Return how the queue's settings harm messages, one line each, for ``emit check``."""
        raise NotImplementedError

    def _timeouts(self) -> dict[str, float]:
        """Return the ``timeout`` of every program; the queue's own limits must be longer."""
        return {node.name: node.seam.timeout for node in self._nodes.values() if node.foreign}

    def get_name(self, func: Any) -> str:
        """Return the name of a node or a function; see :meth:`Router.get_name`."""
        # By identity, since reading an attribute of a lazy Celery task finishes it.
        for name, function in self.functions.items():
            if function is func:
                return name
        return super().get_name(func)

    def _node_of(self, func: Any) -> Any:
        return None  # as above; Router.node knows the node anyway

    # -- sending ---------------------------------------------------------------------------

    def resend(self, letter: DeadLetter) -> None:
        """
        Send the message of a dead letter again, as its first attempt and with its old id. An
        unreadable message goes back as it came.

        Raises:
            DispatchError: The queue refused, or an unreadable message was not kept whole.

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
            route, first = letter.route, letter.route.get("first")
            trace = as_trace(route.get("traceparent"), route.get("tracestate"))
            packed = Packed([letter.id], [text], [trace] if trace else [])
            past = Past(first=first) if isinstance(first, str) else Past()
            self.send(letter.origin, letter.node, packed, past=past)


def _others(own: Iterable[str]) -> list[str]:
    return [option for option in (*CELERY, *RQ) if option not in own]


def read_plan(name: str, seam: Handler, options: dict[str, Any]) -> Plan:
    """
    Take the queue's options from *options*.

    Raises:
        GraphError: A value can't work.
    """
    taken = {key: options.pop(key) for key in QUEUED if key in options}
    check_queued(name, taken, foreign=seam.foreign)
    limits = ("max_attempts", "max_retries", "max_deliveries")
    policy = {key: taken.pop(key) for key in limits if key in taken}
    # The host of a program also uses these.
    policy = {"max_attempts": seam.max_attempts, "max_retries": seam.max_retries} | policy
    return Plan(**taken, policy=Policy(**policy))
