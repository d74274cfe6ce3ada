"""
Runs a whole graph in a test's process: :class:`Drive`.

The router and its nodes are the real ones, and so are envelopes, attempts, waits and dead letters.
Only the queue is not there: a *line* takes the messages at the place where Celery or RQ would write
to the broker, and gives them back to the same code that a worker calls. Time is virtual.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from contextvars import ContextVar
from copy import copy, deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from typing import Any, Literal, NamedTuple, NoReturn, Protocol

from emit import context, once
from emit.errors import GraphError, Unreadable
from emit.graph import ENTRY
from emit.letter import DeadLetter
from emit.message import Message
from emit.node import Node, make_handler
from emit.observe.facts import Fact, Started
from emit.observe.logs import GIVEN_UP
from emit.router.core import Router
from emit.router.envelope import Past
from emit.router.options import take_many
from emit.router.queued import QueueRouter
from emit.router.receiver import Delivery
from emit.testing.clock import Clock, Marks
from emit.text import nearest

__all__ = ["Died", "Drive", "Sent", "Stuck", "Wait", "die"]

#: How often in a row a message may be put back without a charge. A real queue would go on.
_PATIENCE = 20

#: Where a worker may be killed, for :meth:`Drive.kill`.
Where = Literal["start", "results", "end"]


class Sent(NamedTuple):
    """One message on its way: its origin, its destination, and the message itself."""

    origin: str
    destination: str
    message: Message


class Wait(NamedTuple):
    """A wait before another attempt at a message: of which node, and how many seconds."""

    node: str
    seconds: float


class Died(BaseException):
    """The worker is killed here, in a test. What it has not sent is lost, as with SIGKILL."""


def die() -> NoReturn:
    """Kill the worker that handles the current message: for a handler or a stub in a test."""
    drive = _driving.get()
    if drive is not None:
        drive._is_alive = False
    raise Died


#: The drive that this thread is in.
_driving: ContextVar[Drive | None] = ContextVar("emit_drive", default=None)


class Results(list[Any]):
    """A list of results. pytest tells the fields in which it differs from another list."""


class Stuck(AssertionError):
    """A driven graph doesn't come to an end."""


@dataclass(order=True)
class Parcel:
    """
    A message of the queue's own, waiting for its delivery.

    Attributes:
        due: Seconds of the virtual clock.
        number: Its place among those that are due at the same time.
        node: The node it is for; for a task that is not a node its name.
        origin, ids, messages: What is in it.
        past: The earlier attempts.
        native: What the line needs to deliver it.
        is_repeat: It was delivered before, and its end is not known.
    """

    due: float
    number: int
    node: str = field(compare=False)
    origin: str = field(compare=False)
    ids: Sequence[str] = field(compare=False)
    messages: Sequence[Any] = field(compare=False)
    past: Past = field(compare=False)
    native: Any = field(compare=False)
    is_repeat: bool = field(compare=False, default=False)


class Line(Protocol):
    """Stands where a queue's broker and its workers stand, one for Celery and one for RQ."""

    def open(self, stack: ExitStack) -> None:
        """Take the router's messages from now on, until *stack* is closed."""

    def deliver(self, parcel: Parcel) -> list[Any]:
        """
        Have the router's own code for workers handle a message. Return a list of the value for the
        queue's result store; an empty one if the message has not ended well.

        Raises:
            Died: The worker died of it.
        """

    def lost(self, parcel: Parcel) -> None:
        """Deliver a message once more whose worker has died."""


@dataclass
class _Kill:
    node: str
    at: Where
    times: int
    when: Callable[[Message], Any] | None


class Drive:
    """
    Drives a graph in a test: :func:`emit.testing.drive` makes one, for a ``with`` block.

    Args:
        router: A router of any kind. It is as before when the block ends.
        limit: Deliveries by a queue after which the graph counts as stuck.

    Call it with a message's fields, as the router is called. It returns when the message and all
    that follows from it have been handled; waits take no time.

    Attributes:
        router: The router.
        sent: Each message that was sent from node to node, in order. A message of a queue that is
            sent again with its old id is in it once.
        facts: The facts that observers of the router are told: see :mod:`emit.observe`.
        waits: The waits before another attempt, in order.
        elsewhere: The names of Celery tasks that were sent and that this process does not know.
    """

    def __init__(self, router: Router, *, limit: int = 10_000) -> None:
        if not isinstance(router, Router):
            raise TypeError(f"drive takes a router, not {type(router).__name__}")
        self.router = router
        self.sent: list[Sent] = []
        self.facts: list[Fact] = []
        self.waits: list[Wait] = []
        self.elsewhere: list[str] = []
        self.clock = Clock()
        self._limit = limit
        self._deliveries = 0
        self._numbers = count()
        self._line: Line | None = None
        self._parcels: list[Parcel] = []
        self._current: Parcel | None = None
        self._is_alive = True
        self._kills: list[_Kill] = []
        self._dead: list[DeadLetter] = []
        self._unseen: list[DeadLetter] = []
        self._known: set[str] = set()
        self._counts: dict[str, set[str]] = {}
        self._results: list[tuple[str, dict[str, Any]]] = []
        self._returned: list[tuple[str, Any]] = []
        self._stack = ExitStack()

    # -- beginning and end -----------------------------------------------------------------

    def __enter__(self) -> Drive:
        mine = vars(self.router)
        if isinstance(mine.get("send_on"), _Bound):
            raise GraphError("this router is driven already: end the other block first")
        self.router.resolve_node_modules()
        with ExitStack() as stack:
            self._put(stack, "send_on", _Bound(self._send_on))
            self._put(stack, "sends_here", lambda: False)
            _set(stack, _driving, self)
            _set(stack, context.rest, self._rest)
            _set(stack, once.stand_in, Marks(self.clock, lambda: self._is_alive))
            observers = self.router._observers
            stack.callback(setattr, observers, "each", observers.each)
            observers.each = (*observers.each, self._hear)
            if isinstance(self.router, QueueRouter):
                for name in ("bury", "clock"):
                    self._put(stack, name, getattr(self, f"_{name}", self.clock))
                kind = import_module(f"emit.testing.{self.router.carrier}").Line
                self._line = kind(self.router, self)
                self._line.open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def check(self) -> None:
        """
        Raises:
            AssertionError: There are dead letters, and nobody has looked at :attr:`dead` since.
        """
        if self._unseen:
            letters = "\n".join(f"  {letter!r}" for letter in self._unseen)
            raise AssertionError(
                f"dead letters that the test has not looked at (.dead):\n{letters}"
            )

    def _put(self, stack: ExitStack, name: str, value: Any) -> None:
        """Give the router an attribute of its own until the end."""
        mine = vars(self.router)
        if name in mine:
            stack.callback(mine.__setitem__, name, mine[name])
        else:
            stack.callback(mine.pop, name, None)
        mine[name] = value

    # -- sending ---------------------------------------------------------------------------

    def __call__(self, /, **fields: Any) -> None:
        """
        Give a message to the entry points, and run until nothing is left to do.

        Raises:
            Exception: As calling the router. A queue's router fails only if a message can't be
                sent; what its nodes raise ends in :attr:`dead`.
        """
        self.send(**fields)
        self.run()

    def send(self, /, **fields: Any) -> None:
        """Do as calling does, but leave a queue's messages where they are, for :meth:`run`."""
        self.router(**fields)

    def give(self, node: str, /, **fields: Any) -> None:
        """Give a message to one node, wherever it stands in the graph, and run."""
        function = self.router.functions[self._checked(node)]
        origin = fields.pop("_origin", "")
        if self._line is None:
            function({**fields, "_origin": origin} if origin else fields)
        else:
            self.router.dispatch(origin, node, fields)
            self.run()

    def resend(self, letter: DeadLetter) -> None:
        """Send the message of a dead letter again, as ``emit dead replay`` does, and run."""
        if not isinstance(self.router, QueueRouter):
            raise GraphError("a router without a queue keeps no dead letters to send again")
        self._dead = [other for other in self._dead if other.id != letter.id]
        self._known.discard(letter.id)
        QueueRouter.resend(self.router, letter)
        self.run()

    def run(self, seconds: float | None = None) -> None:
        """
        Deliver what waits in the queue, with all that follows.

        Args:
            seconds: Stop when so much virtual time has passed. None: when nothing is left.

        Raises:
            Stuck: There is no end: a circle of messages, or a node that can't work.
        """
        end = None if seconds is None else self.clock.now + seconds
        while self._parcels and (end is None or self._parcels[0].due <= end):
            parcel = heapq.heappop(self._parcels)
            self.clock.go_to(parcel.due)
            self._deliver(parcel)
        if end is not None:
            self.clock.go_to(end)

    @property
    def now(self) -> float:
        """Seconds that have passed by the virtual clock since the beginning."""
        return self.clock.now

    @property
    def waiting(self) -> list[str]:
        """The names of the nodes for which messages wait in the queue, one for each message."""
        return [parcel.node for parcel in sorted(self._parcels) for _ in parcel.ids]

    # -- changing the graph ----------------------------------------------------------------

    def stub(self, node: str, function: Callable[[Any], Any]) -> None:
        """
        Put a function in the place of a node's handler until the block ends.

        The function takes what the handler takes, and returns or yields what the handler may: its
        results are fitted to the node's fields, and sent on. A task's own argument (``bind=True``)
        is left out.
        """
        own = self.router._nodes.get(self._checked(node))
        if own is None:
            raise GraphError(f'"{node}" was registered as a bare function, which has no handler')
        before = {name: getattr(own, name) for name in Node.__slots__}
        self._stack.callback(_restore, own, before)
        bare = Node(node, _last(make_handler(function)), own.fit)
        plan = self.router._plans.get(node) if isinstance(self.router, QueueRouter) else None
        if plan is not None and plan.many:
            take_many(bare)
        for name in ("handler", "seam", "foreign", "takes_many"):
            setattr(own, name, getattr(bare, name))
        self.router._adopt(own)

    def kill(
        self,
        node: str,
        at: Where = "start",
        *,
        times: int = 1,
        when: Callable[[Message], Any] | None = None,
    ) -> None:
        """
        Kill the worker while it handles a message for *node*. The queue delivers the message again.

        Args:
            node: The node.
            at: ``"start"``: before the handler is called. ``"results"``: after the handler, before
                the results are sent. ``"end"``: the results are sent, and the queue has not yet
                heard of it.
            times: Kill that many workers.
            when: Takes a message and returns True if it is to be this one.

        Raises:
            GraphError: The router has no queue, so nothing would deliver the message again.
        """
        if self._line is None:
            raise GraphError("a router without a queue has no workers, and loses what it works on")
        if at not in ("start", "results", "end"):
            raise ValueError(f'at is "start", "results" or "end", not {at!r}')
        self._kills.append(_Kill(self._checked(node), at, times, when))

    # -- looking ---------------------------------------------------------------------------

    @property
    def dead(self) -> list[DeadLetter]:
        """The dead letters so far, the oldest one first."""
        self._unseen = []
        return list(self._dead)

    def passed(
        self, origin: str | None = None, destination: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the fields of the messages that passed an edge, or all edges of one node."""
        self._check_edge(origin, destination)
        return Results(
            {name: value for name, value in vars(message).items() if name != "_origin"}
            for sender, receiver, message in self.sent
            if origin in (None, sender) and destination in (None, receiver)
        )

    def results(self, node: str) -> list[dict[str, Any]]:
        """Return the results of a node, with those of runs that were repeated."""
        self._checked(node)
        return Results(result for name, result in self._results if name == node)

    def returned(self, node: str) -> list[Any]:
        """Return what a node's tasks or jobs returned to the queue; see ``return_results``."""
        self._checked(node)
        return Results(value for name, value in self._returned if name == node)

    def _check_edge(self, *nodes: str | None) -> None:
        for node in nodes:
            if node is not None and node not in ("", ENTRY):
                self._checked(node)

    def _checked(self, node: str) -> str:
        """
        Raises:
            GraphError: There is no such node.
        """
        if node not in self.router.functions:
            near = nearest(node, self.router.functions)
            raise GraphError(f'"{node}" is not the name of a node{near}')
        return node

    # -- for the line ----------------------------------------------------------------------

    def take(
        self,
        delivery: Delivery,
        node: str,
        native: Any,
        *,
        delay: float = 0.0,
        is_repeat: bool = False,
    ) -> None:
        """
        Keep a message of the queue's own until its delivery.

        Args:
            delivery: What a worker will get.
            node: The node it is for; empty for a task that is not a node.
            native: What the line needs to deliver it.
            delay: Seconds until then.
            is_repeat: It was delivered before, and its end is not known.
        """
        if not self._is_alive:
            raise Died
        if delay > 0:
            self.waits.append(Wait(node, round(delay, 3)))
        if node:
            with suppress(Unreadable):  # the node's own code says so
                delivery.read(node)
        origin, (ids, messages, _) = delivery.origin, delivery.parcel
        for id, fields in zip(ids, messages, strict=True):
            if id not in self._known:
                self._known.add(id)
                self._note(origin, node, fields)
        heapq.heappush(
            self._parcels,
            Parcel(
                self.clock.now + max(0.0, delay),
                next(self._numbers),
                node,
                origin,
                ids,
                messages,
                delivery.past,
                native,
                is_repeat,
            ),
        )

    def count(self, delivery: Delivery) -> int:
        """Count a repeated delivery, as the ledger in Redis does. Return its number."""
        counted = self._counts.setdefault(delivery.id, set())
        counted.add(delivery.repeat)
        return len(counted) + 1

    def forget(self, delivery: Delivery) -> None:
        """Drop the count of a message whose end is known."""
        if self._is_alive:
            self._counts.pop(delivery.id, None)

    def _bury(self, delivery: Delivery, letter: DeadLetter, *, level: int = logging.ERROR) -> None:
        if not self._is_alive:
            raise Died
        self._dead = [other for other in self._dead if other.id != letter.id]
        self._dead.append(letter)
        self._unseen.append(letter)
        self.router.logger.log(level, GIVEN_UP, letter.id, letter)

    # -- a delivery ------------------------------------------------------------------------

    def _deliver(self, parcel: Parcel) -> None:
        self._deliveries += 1
        if self._deliveries > self._limit:
            raise Stuck(
                f"{self._limit} deliveries, and {len(self._parcels) + 1} messages still wait, the "
                f'next one for "{parcel.node}": is there a circle? (drive(router, limit=...) '
                f"allows more)"
            )
        if parcel.past.waits > _PATIENCE:
            causes = [fact for fact in self.facts if getattr(fact, "node", "") == parcel.node]
            raise Stuck(
                f'"{parcel.node}": a message was put back {parcel.past.waits} times without a '
                f"charge; a queue would go on. The last fact: {causes[-1] if causes else 'none'}"
            )
        assert self._line is not None
        self._current = parcel
        try:
            returned = self._line.deliver(parcel)
            if self._is_killed("end") or self._is_killed("results"):
                raise Died
            self._returned += [(parcel.node, value) for value in returned]
        except Died:
            self._is_alive = False
            self.router.close()  # the programs of a worker end with it
            self._is_alive = True
            self._line.lost(parcel)
        finally:
            self._current = None

    def _hear(self, fact: Fact) -> None:
        self.facts.append(fact)
        if isinstance(fact, Started) and self._is_killed("start", fact.id):
            die()

    def _is_killed(self, at: Where, id: str = "") -> bool:
        """Return True if the worker is to be killed at this point, and take note of it."""
        parcel = self._current
        if parcel is None or not self._kills:
            return False
        messages = [
            self.router.message_class(fields)
            for known, fields in zip(parcel.ids, parcel.messages, strict=True)
            if id in ("", known)
        ]
        for kill in self._kills:
            is_here = (kill.node, kill.at) == (parcel.node, at) and kill.times > 0
            if is_here and (kill.when is None or any(map(kill.when, messages))):
                kill.times -= 1
                return True
        return False

    def _send_on(self, origin: str, results: Sequence[dict[str, Any]]) -> None:
        if not self._is_alive:
            raise Died
        if self._is_killed("results"):
            die()
        self._results += [(origin, _kept(result)) for result in results if origin != ENTRY]
        if self._line is None and self.router.routing_enabled:
            for destination in sorted(self.router.routes.get(origin, ())):
                for result in results:
                    self._note(origin, destination, result)
        type(self.router).send_on(self.router, origin, results)

    def _note(self, origin: str, destination: str, fields: Any) -> None:
        message = self.router.message_class(_kept(fields))
        self.sent.append(Sent("" if origin == ENTRY else origin, destination, message))

    def _rest(self, seconds: float) -> None:
        if seconds > 0:
            told = context.current.get()
            self.waits.append(Wait("" if told is None else told.node, round(seconds, 3)))
            self.clock.sleep(seconds)


class _Bound:
    """Marks the function that a drive puts in the place of a router's method."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


def _set(stack: ExitStack, variable: Any, value: Any) -> None:
    before = variable.get()
    variable.set(value)
    stack.callback(variable.set, before)


def _kept(fields: Any) -> dict[str, Any]:
    """Return a copy that no handler can change, as far as its values can be copied."""
    with suppress(Exception):
        return dict(deepcopy(fields))
    return dict(copy(fields))


def _last(handler: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda *args: handler(args[-1])


def _restore(node: Node, before: dict[str, Any]) -> None:
    for name, value in before.items():
        setattr(node, name, value)
