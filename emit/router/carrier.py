"""
A carrier brings the messages of a router to their nodes. :class:`Runner` is the carrier of this
process; the carrier of a queue is in sender.py.

The runner works off a list in the calling thread, and hands a node's results back to the router.
There is no recursion: a chain of any length, or a cycle that ends, needs no more stack than one
hop.

The newest deliveries come first, so a message's consequences are worked off before the next
message. The list is never longer than the graph's depth and one fan-out's width require, however
many messages pass. Within one fan-out the order is the order of emission.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from copy import copy
from types import GeneratorType
from typing import Any, Protocol

from emit import context
from emit.context import Trace
from emit.errors import IN_NODE, GraphError
from emit.graph import Graph
from emit.message import Message, NoResult
from emit.node import PLAIN, Node
from emit.observe.logs import marks
from emit.router.watch import Flow, Watch, Watched
from emit.text import one_line

#: (origin, destination, fields); for a stream (origin, None, generator of its results).
Listed = tuple[str, Any, Any]


class Traced(tuple[str, Any, Any]):
    """A delivery whose message has a trace context."""

    trace: Trace


def _trace_of(delivery: Listed) -> Trace | None:
    return delivery.trace if type(delivery) is Traced else None


class Carrier(Protocol):
    """Takes messages from a router, and brings them to their nodes."""

    def carry(self, origin: str, destination: str, results: Sequence[dict[str, Any]]) -> None:
        """
        Take results of one node. Each becomes a message for *destination*.

        Raises:
            GraphError: There is no node *destination*.
            EncodeError: A queue can't carry a value unchanged. None of *results* was sent.
            DispatchError: A queue refused.
        """

    def dispatch(self, origin: str, destination: str, fields: dict[str, Any]) -> Any:
        """
        Take one message, and don't let it wait for others.

        Returns:
            The queue's receipt, in the form of its library.

        Raises:
            Exception: As :meth:`carry`.
        """


class Routing(Protocol):
    """The part of a router that the runner needs."""

    functions: dict[str, Callable[..., Any]]
    logger: logging.Logger
    message_class: type[Message]
    routing_enabled: bool

    def send_on(self, origin: str, results: Sequence[dict[str, Any]]) -> None:
        """Give the results of *origin* to the carrier, for each node that hears it."""

    def sends_here(self) -> bool:
        """
        Return True if :meth:`send_on` only looks up the routes and gives the results to the runner.
        """


class Runner:
    """
    Runs nodes in the calling thread.

    Args:
        router: Gets the results.
        graph: Its routes.
        nodes: Its nodes by name, except those that ``wrap_node`` or ``register`` has replaced.
        watch: Tells observers.
    """

    def __init__(self, router: Routing, graph: Graph, nodes: dict[str, Node], watch: Watch) -> None:
        self._router = router
        self._watch = watch
        self._observers = watch.observers
        self._graph = graph
        self._nodes = nodes
        # Each thread has its own ``work``: the list that it is working off. The object is made
        # here, not as a class of ours, since gevent may patch threading.local after this module was
        # imported.
        self._here = threading.local()

    def carry(self, origin: str, destination: str, results: Sequence[dict[str, Any]]) -> None:
        """Put messages on this thread's list, and work them off unless the thread already does."""
        work: WorkList | None = getattr(self._here, "work", None)
        if work is None:
            self.work_off(self.carry, origin, destination, results)
        elif self._observers.each:
            for result in results:
                work.inbox.append(self._listed(origin, destination, result))
        else:
            for result in results:
                work.inbox.append((origin, destination, result))

    def _listed(self, origin: str, destination: str, result: dict[str, Any]) -> Listed:
        """Tell that a message is sent. Return it with its trace context, if it has one."""
        trace = self._watch.sent(origin, destination)
        if trace is None:
            return origin, destination, result
        traced = Traced((origin, destination, result))
        traced.trace = trace
        return traced

    def dispatch(self, origin: str, destination: str, fields: dict[str, Any]) -> None:
        """Do as :meth:`carry` for one message."""
        self.carry(origin, destination, (fields,))

    def do(self, first: Callable[..., Any], *args: Any) -> Any:
        """
        Call *first*. Inside a handler, the deliveries that it adds wait for the handler's end.
        Otherwise they are worked off here, with all their consequences.
        """
        is_working = getattr(self._here, "work", None) is not None
        return first(*args) if is_working else self.work_off(first, *args)

    def work_off(self, first: Callable[..., Any], *args: Any) -> Any:
        """
        Call *first*, then make all deliveries that follow from it. Return the value of *first*.
        """
        outer = getattr(self._here, "work", None)
        work = self._here.work = WorkList(self._router.logger.isEnabledFor(logging.INFO))
        try:
            outcome = first(*args)
            self._drain(work)
            return outcome
        finally:
            self._here.work = outer
            work.close()

    def call(self, node: Node, message: Message) -> Any:
        """Run a node for a user's call of its function, or (through a wrapper) for a delivery."""
        work: WorkList | None = getattr(self._here, "work", None)
        if work is not None and work.delivering is node:
            work.delivering = None
            # A copy, so that the wrapper can't change the results that are routed.
            return copy(self._run(node, message, work, work.trace))
        inside: Node | None = getattr(self._here, "inside", None)
        if inside is not None and inside.function is node.function:
            node = inside
        return self.work_off(self._collect, node, message)

    def call_inside(self, function: Callable[..., Any], node: Node, message: Message) -> Any:
        """
        Call the *function* that ``wrap_node`` has put around a node. In it, the node's own function
        runs *node*, which may be a copy that is bound to a task.
        """
        outer, self._here.inside = getattr(self._here, "inside", None), node
        try:
            return function(**vars(message))
        finally:
            self._here.inside = outer

    def _drain(self, work: WorkList) -> None:
        """Deliver until nothing is left: plain nodes here, everything else by :meth:`_deliver`."""
        # The hot loop. The number of calls made here is most of a hop's cost, so the code of
        # Node.run and Router.send_on for results is repeated here.
        router, graph, inbox, stack = self._router, self._graph, work.inbox, work.stack
        nodes, functions, message_class = self._nodes, router.functions, router.message_class
        quick, new, copy_of = self._is_quick(work), object.__new__, dict.copy
        while inbox or stack:
            if len(inbox) == 1:  # every hop of a chain
                delivery = inbox.pop()
            else:
                stack += inbox[::-1]
                inbox.clear()
                delivery = stack.pop()
            origin, destination, fields = delivery
            node = nodes.get(destination) if quick else None
            if (
                node is None
                or node.pass_through
                or node.function is not functions[node.name]
                or (node.takes_many and stack and stack[-1][1] == destination)
            ):
                self._deliver(delivery, work)
                continue
            # Each subscriber gets its own message, so that no other sees its changes.
            message, own = new(message_class), copy_of(fields)
            own["_origin"] = origin
            message.__dict__ = own
            try:
                outcome = node.handler(message)
                fit = node.fit
                outcome = fit(outcome) if type(outcome) in PLAIN else node.settle(outcome, fit)
            except Exception as error:
                _add_note(error, node.name, message)
                raise
            routes, kind = graph.routes if router.routing_enabled else None, type(outcome)
            if kind is dict and routes is not None:
                for subscriber in routes.get(destination, ()):
                    inbox.append((destination, subscriber, outcome))
            elif kind is tuple and routes is not None:
                for subscriber in routes.get(destination, ()):
                    for result in outcome:
                        inbox.append((destination, subscriber, result))
            else:
                self._send_on(node, outcome, message, work)

    def _is_quick(self, work: WorkList) -> bool:
        """
        Return True if a delivery needs nothing but the hop: no logging, no observer, no caller that
        may leave, no subclass to ask.
        """
        is_plain = self._router.message_class.__init__ is Message.__init__
        is_told = work.logged or self._observers.each or work.caller is not None
        return is_plain and not is_told and self._router.sends_here()

    def _deliver(self, delivery: Listed, work: WorkList) -> None:
        """Do one delivery of any kind."""
        origin, destination, fields = delivery
        if work.caller is not None:
            work.caller.check()
        if destination is None:
            for result in fields:  # one result; the rest waits for its consequences
                work.stack.append(delivery)
                if isinstance(fields, Flow):
                    return fields.sending(self._router.send_on, origin, (result,))
                return self._router.send_on(origin, (result,))
            return None
        node = self._nodes.get(destination)
        if node is None or node.function is not self._router.functions[destination]:
            self._call_wrapped(delivery, work)
        elif node.takes_many and (more := work.take_same(destination)):
            results = self._run_many(node, [delivery, *more], work)
            work.push(node.name, Flow(results) if self._observers.each else results)
        else:
            make = _message_maker(self._router.message_class)
            self._run(node, make({**fields, "_origin": origin}), work, _trace_of(delivery))
        return None

    def _call_wrapped(self, delivery: Listed, work: WorkList) -> None:
        """Call the function that ``wrap_node`` or ``register`` has put in the node's place."""
        origin, destination, fields = delivery
        function = self._router.functions.get(destination)
        if function is None:
            raise GraphError(f'"{destination}" is not the name of a node')
        work.delivering, work.trace = self._nodes.get(destination), _trace_of(delivery)
        function(**{**fields, "_origin": origin})
        work.delivering = None  # the wrapper may not have called the node, or in another thread

    def _run(self, node: Node, message: Message, work: WorkList, trace: Trace | None = None) -> Any:
        """
        Run one node and route its results. A stream's results are routed as the list is worked off.
        """
        if not self._observers.each:
            return self._send_on(node, self._outcome(node, message, work), message, work)
        outcome = self._run_watched(node, message, work, trace)
        if type(outcome) is Flow:
            work.push(node.name, outcome)
            return NoResult
        return outcome

    def _collect(self, node: Node, message: Message) -> Any:
        """Do as :meth:`_run`, but return a stream's results after all their consequences."""
        work: WorkList = self._here.work
        if self._observers.each:
            outcome = self._run_watched(node, message, work, None)
            if type(outcome) is not Flow:
                return outcome
            return self._taken(node.name, outcome, work)
        outcome = self._outcome(node, message, work)
        if type(outcome) is not GeneratorType:
            return self._send_on(node, outcome, message, work)
        return self._taken(node.name, _noted(outcome, node.name, message), work)

    def _taken(
        self, origin: str, results: Generator[Any, None, None] | Flow, work: WorkList
    ) -> tuple[Any, ...]:
        """Return a stream's results, unless a caller takes them one by one."""
        passed = self._passed_on(origin, results, work)
        with closing(passed):
            return tuple(passed) if work.caller is None else work.caller.take(origin, passed)

    def _run_watched(
        self, node: Node, message: Message, work: WorkList, trace: Trace | None
    ) -> Any:
        """
        Run one node, tell observers, and route its results. A stream's results are returned as a
        Flow, and are not routed yet.
        """
        watched = self._begin(node, message, trace)
        token = context.run.set(watched if watched else context.run.get())
        try:
            outcome = self._outcome(node, message, work)
            if type(outcome) is GeneratorType:
                return Flow(_noted(outcome, node.name, message), watched)
            outcome = self._send_on(node, outcome, message, work)
        except BaseException as error:
            if watched is not None:
                self._failed(watched, error)
            raise
        finally:
            context.run.reset(token)
        if watched is not None:
            watched.finished(number_of(outcome))
        return outcome

    def _begin(self, node: Node, message: Message, trace: Trace | None) -> Watched | None:
        """Tell that a run begins. Return None for a queue's delivery, which was told before."""
        run = context.run.get()
        if run is not None and run.awaits == node.name:
            run.awaits = ""
            return None
        fields = vars(message)
        return self._watch.begin(node.name, fields.get("_origin") or "", fields, trace)

    def _failed(self, watched: Watched, error: BaseException) -> None:
        watched.failed(error)
        letter = getattr(error, "letter", None)
        if letter is not None:
            self._watch.dead(letter, watched.number, error)

    def _outcome(self, node: Node, message: Message, work: WorkList) -> Any:
        if work.logged:
            self._log_receipt(node, message)
        try:
            return node.run(message)
        except Exception as error:
            _add_note(error, node.name, message)
            raise

    def _send_on(self, node: Node, outcome: Any, message: Message, work: WorkList) -> Any:
        """Route the outcome of :meth:`Node.run`; a stream's results as they come."""
        kind = type(outcome)
        if kind is dict:
            self._router.send_on(node.name, (outcome,))
        elif kind is tuple:
            self._router.send_on(node.name, outcome)
        elif outcome is not NoResult:
            work.push(node.name, _noted(outcome, node.name, message))
            return NoResult
        return outcome

    def _run_many(
        self, node: Node, deliveries: Iterable[Listed], work: WorkList
    ) -> Generator[dict[str, Any], None, None]:
        """Yield the results of messages that a program gets together, in order, as they come."""
        sent: deque[tuple[Message, Watched | None]] = deque()
        before = 0.0
        try:
            messages = self._noting(deliveries, node, sent, work)
            with closing(node.seam.call_many(messages)) as outcomes:
                for outcome in outcomes:
                    message, watched = sent[0]
                    if watched is not None:
                        before = watched.stop(before)
                        context.run.set(watched)
                    results = _fitted(node, outcome, message)
                    yield from results
                    sent.popleft()
                    if watched is not None:
                        watched.finished(len(results))
        except BaseException as error:
            for _, watched in sent:
                if watched is not None:
                    self._failed(watched, error)
            raise

    def _noting(
        self,
        deliveries: Iterable[Listed],
        node: Node,
        sent: deque[tuple[Message, Watched | None]],
        work: WorkList,
    ) -> Iterator[Message]:
        """Yield the messages, as the program takes them."""
        make, watched = _message_maker(self._router.message_class), None
        for delivery in deliveries:
            origin, _, fields = delivery
            message = make({**fields, "_origin": origin})
            if work.logged:
                self._log_receipt(node, message)
            if self._observers.each:
                watched = self._watch.begin(node.name, origin, fields, _trace_of(delivery))
                context.run.set(watched)
            sent.append((message, watched))
            yield message

    def _passed_on(
        self, origin: str, results: Generator[Any, None, None] | Flow, work: WorkList
    ) -> Generator[Any, None, None]:
        send_on = self._router.send_on
        with closing(results):
            for result in results:
                if isinstance(results, Flow):
                    results.sending(send_on, origin, (result,))
                else:
                    send_on(origin, (result,))
                self._drain(work)
                yield result

    def _log_receipt(self, node: Node, message: Message) -> None:
        logger, fields = self._router.logger, vars(message)
        origin = fields.get("_origin")
        about = marks(context.current.get(), context.run.get(), node=node.name, origin=origin)
        text = '"%s" received a message from %s'
        logger.info(text, node.name, origin or "a call", extra=about)
        names = one_line(", ".join(map(str, fields)))
        logger.debug('calling "%s" with %s', node.name, names, extra=about)


class WorkList:
    """
    The deliveries that one call of a router still has to make.

    Attributes:
        inbox: Deliveries added since the last was taken, in order.
        stack: Those added before, the next one last.
        delivering: The node whose wrapped function is being called by the work list.
        trace: The trace context of the message that it gets.
        logged: Receipts are to be logged.
        caller: The coroutine that awaits the call, or None.
    """

    __slots__ = ("caller", "delivering", "inbox", "logged", "stack", "trace")

    def __init__(self, logged: bool) -> None:
        self.logged = logged
        self.inbox: list[Listed] = []
        self.stack: list[Listed] = []
        self.delivering: Node | None = None
        self.trace: Trace | None = None
        self.caller = context.caller.get()

    def push(self, origin: str, results: Generator[Any, None, None] | Flow) -> None:
        """Add a stream. Its results are taken one at a time, each worked off before the next."""
        self.inbox.append((origin, None, results))

    def take_same(self, destination: str) -> list[Listed]:
        """Take the next deliveries for *destination*, up to the first for another."""
        stack = self.stack
        same = []
        while stack and stack[-1][1] == destination:
            same.append(stack.pop())
        return same

    def close(self) -> None:
        """
        Drop the remaining deliveries after a failure, and close the generators that have begun.
        """
        for _, destination, results in (*self.stack, *self.inbox):
            if destination is None:
                results.close()
        self.stack.clear()
        self.inbox.clear()


def _message_maker(message_class: type[Message]) -> Callable[[dict[str, Any]], Message]:
    """
    Return a function that makes a message of a dictionary with no other owner; it seldom copies.
    """
    return message_class.of if message_class.__init__ is Message.__init__ else message_class


def number_of(outcome: Any) -> int:
    """Return the number of results in the return value of a node's call."""
    return len(outcome) if type(outcome) is tuple else int(outcome is not NoResult)


def _fitted(node: Node, outcome: Any, message: Message) -> list[dict[str, Any]]:
    """Fit the outcome of one of many messages."""
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
    """Yield the results of a stream, which runs as it is read, long after Node.run."""
    try:
        yield from results
    except Exception as error:
        _add_note(error, name, message)
        raise


def _add_note(error: Exception, name: str, message: Message) -> None:
    """Name the node below the traceback. The error's type and text stay as they are."""
    note = f'{IN_NODE}"{name}", with a message from "{vars(message).get("_origin") or "a call"}"'
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:  # Python 3.10
        vars(error)["__notes__"] = [*vars(error).get("__notes__", ()), note]
