"""
Runs nodes in the calling thread: takes deliveries from the work list, and hands what a node
emits back to the router. There is no recursion: a chain of any length, or a cycle that ends,
needs no more stack than one hop.

The newest deliveries come first, so a message's consequences are worked off before the next
message: the list stays as long as the graph is deep and one fan-out wide, however many
messages pass. Within one fan-out the order is the order of emission.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from copy import copy
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from emit.errors import IN_NODE, GraphError
from emit.message import Message, NoResult
from emit.node import PLAIN, Node
from emit.text import one_line

if TYPE_CHECKING:
    from emit.router.core import Router

#: (origin, destination, message); for a stream (origin, None, generator of its results).
Delivery = tuple[str, "str | None", Any]

#: Routes the results of one node: (its name, the results, the work list).
RouteAll = Callable[[str, Iterable[dict[str, Any]], "WorkList"], None]


class Runner:
    """
    Args:
        router: Whose nodes these are.
        route_all: Called with what a node has emitted.
    """

    def __init__(self, router: Router, route_all: RouteAll) -> None:
        self._router = router
        self._route_all = route_all
        self._local = threading.local()

    @property
    def work(self) -> WorkList | None:
        """The work list that this thread is working off, if any."""
        return getattr(self._local, "work", None)

    def do(self, add: Callable[[WorkList], None]) -> None:
        """
        Add deliveries: inside a handler they wait for its end; otherwise they are worked off
        here, with all that follows from them.
        """
        work = self.work
        if work is None:
            self._work_off(add)
        else:
            add(work)

    def call(self, node: Node, message: Message) -> Any:
        """A call of a node's function, by a user or (through a wrapper) by the work list."""
        work = self.work
        if work is not None and work.delivering is node:
            work.delivering = None
            # A copy: what the wrapper does to it must not change what is routed.
            return copy(self._run(node, message, work))
        return self._work_off(lambda own: self._run(node, message, own, collect=True))

    def _work_off(self, first: Callable[[WorkList], Any]) -> Any:
        """Do *first*, then all deliveries that follow from it."""
        outer = self.work
        work = self._local.work = self._new_work()
        try:
            outcome = first(work)
            self._drain(work)
            return outcome
        finally:
            self._local.work = outer
            work.close()

    def _new_work(self) -> WorkList:
        return WorkList(
            takes_all=self._router._dispatches_here(),
            logged=self._router.logger.isEnabledFor(logging.INFO),
        )

    def _drain(self, work: WorkList) -> None:
        """Deliver until nothing is left: nodes as they are here, all else by :meth:`_deliver`."""
        # The hot loop. What a hop costs is mostly the number of calls made from here, so what
        # Node.run and Router._route_all do with one plain result is written out once more.
        router, graph, inbox = self._router, self._router._graph, work.inbox
        nodes, functions, message_class = router._nodes, router.functions, router.message_class
        take: Callable[[], Any] = work.take
        quick, new, copy_of = self._is_quick(work), object.__new__, dict.copy
        while (delivery := take()) is not None:
            origin, destination, fields = delivery
            node = nodes.get(destination) if quick else None
            if node is None or not node.is_plain or node.function is not functions[destination]:
                self._deliver(origin, destination, fields, work)
                continue
            # A message of its own for each: what one subscriber changes, no other sees.
            message, own = new(message_class), copy_of(fields)
            own["_origin"] = origin
            message.__dict__ = own
            try:
                outcome = node.handler(message)
                fit = node.fit
                outcome = fit(outcome) if type(outcome) in PLAIN else node.settle(outcome, fit)
            except Exception as error:
                _add_note(error, destination, message)
                raise
            routes = graph.routes
            if type(outcome) is dict and routes is not None and router.routing_enabled:
                for subscriber in routes.get(destination, ()):
                    inbox.append((destination, subscriber, outcome))
            else:
                self._send_on(node, outcome, message, work)

    def _is_quick(self, work: WorkList) -> bool:
        """Whether a hop is all there is to do: no log, no dispatch or message class of a user's."""
        router = self._router
        resolved = bool(router.resolved_node_modules or not router.node_modules)
        plain = router.message_class.__init__ is Message.__init__
        return plain and resolved and work.takes_all and not work.logged

    def _deliver(self, origin: str, destination: str | None, fields: Any, work: WorkList) -> None:
        """One delivery of any kind."""
        if destination is None:  # one result of a stream
            self._route_all(origin, (fields,), work)
            return
        make = _message_maker(self._router.message_class)
        node = self._router._nodes.get(destination)
        if node is None or node.function is not self._router.functions[destination]:
            self._call_wrapped(origin, destination, fields, work)
        elif node.takes_many and (more := work.take_same(destination)):
            messages = (make({**own, "_origin": of}) for of, own in [(origin, fields), *more])
            work.push(node.name, self._run_many(node, messages, work))
        else:
            self._run(node, make({**fields, "_origin": origin}), work)

    def _call_wrapped(self, origin: str, destination: str, fields: Any, work: WorkList) -> None:
        """Call what ``wrap_node`` or ``register`` has put in the node's place."""
        function = self._router.functions.get(destination)
        if function is None:
            raise GraphError(f'"{destination}" is not the name of a node')
        work.delivering = self._router._nodes.get(destination)
        function(**{**fields, "_origin": origin})
        work.delivering = None  # the wrapper may not have called it, or elsewhere

    def _run(self, node: Node, message: Message, work: WorkList, collect: bool = False) -> Any:
        """Run one node and route its results; *collect* those of a stream, to return them."""
        if work.logged:
            self._log_receipt(node, message)
        try:
            outcome = node.run(message)
        except Exception as error:
            _add_note(error, node.name, message)
            raise
        if collect and type(outcome) is GeneratorType:
            results = _noted(outcome, node.name, message)
            return tuple(self._passed_on(node.name, results, work))
        return self._send_on(node, outcome, message, work)

    def _send_on(self, node: Node, outcome: Any, message: Message, work: WorkList) -> Any:
        """Route what :meth:`Node.run` gave; the results of a stream as they come."""
        kind = type(outcome)
        if kind is dict:
            self._route_all(node.name, (outcome,), work)
        elif kind is tuple:
            self._route_all(node.name, outcome, work)
        elif outcome is not NoResult:
            work.push(node.name, _noted(outcome, node.name, message))
            return NoResult
        return outcome

    def _run_many(
        self, node: Node, messages: Iterable[Message], work: WorkList
    ) -> Generator[dict[str, Any], None, None]:
        """The results of messages that a foreign node gets together, as they come in order."""
        sent: deque[Message] = deque()
        with closing(node.handler.call_many(self._noting(messages, node, sent, work))) as outcomes:
            for outcome in outcomes:
                yield from _fitted(node, outcome, sent.popleft())

    def _noting(
        self, messages: Iterable[Message], node: Node, sent: deque[Message], work: WorkList
    ) -> Iterator[Message]:
        for message in messages:
            if work.logged:
                self._log_receipt(node, message)
            sent.append(message)
            yield message

    def _passed_on(
        self, origin: str, results: Generator[Any, None, None], work: WorkList
    ) -> Iterator[Any]:
        with closing(results):
            for result in results:
                self._route_all(origin, (result,), work)
                self._drain(work)
                yield result

    def _log_receipt(self, node: Node, message: Message) -> None:
        logger, fields = self._router.logger, vars(message)
        logger.info('"%s" received a message from %s', node.name, fields.get("_origin") or "a call")
        logger.debug('calling "%s" with %s', node.name, one_line(", ".join(map(str, fields))))


class WorkList:
    """
    What one call of a router has still to deliver.

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


def _message_maker(message_class: type[Message]) -> Callable[[dict[str, Any]], Message]:
    """Makes messages of dictionaries that nobody else holds: without a copy where it can."""
    return message_class.of if message_class.__init__ is Message.__init__ else message_class


def _fitted(node: Node, outcome: Any, message: Message) -> list[dict[str, Any]]:
    """What one of many messages has come to, as results."""
    try:
        if isinstance(outcome, Exception):
            raise outcome
        fit = node.fit_for(message)
        return [fit(value) for value in outcome]
    except Exception as error:
        _add_note(error, node.name, message)
        raise


def _noted(
    results: Generator[Any, None, None], name: str, message: Message
) -> Generator[Any, None, None]:
    """The results of a stream, which runs when they are asked for, long after Node.run."""
    try:
        yield from results
    except Exception as error:
        _add_note(error, name, message)
        raise


def _add_note(error: Exception, name: str, message: Message) -> None:
    """Say where it happened, below the traceback; the type and the text stay as they are."""
    note = f'{IN_NODE}"{name}", with a message from "{vars(message).get("_origin") or "a call"}"'
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:  # Python 3.10
        vars(error)["__notes__"] = [*vars(error).get("__notes__", ()), note]
