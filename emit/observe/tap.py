"""
A tap: watch the messages and the results of some nodes as they pass, in this process.

A graph without a tap pays nothing for it. With one, the router's runs are told to observers, at
about a microsecond a fact, and the tap copies what it shows. It never waits, and never changes a
message.

Fields that the router's ``redact`` names are hidden always, and more of them if the caller asks.

Example:
    >>> from emit import Router
    >>> router = Router(redact=["password"])
    >>> @router.node(("word",), entry_point=True, name="words")
    ... def words(msg):
    ...     yield from msg.text.split()
    >>> @router.node((), "words", name="show")
    ... def show(msg):
    ...     return None
    >>> def hear(passed):
    ...     print(passed.way, passed.node, passed.fields)
    >>> with watch(router, hear, "words", "words -> show"):
    ...     router(text="the rain", password="secret")
    message words {'text': 'the rain', 'password': '[hidden]'}
    result words {'word': 'the'}
    result words {'word': 'rain'}
    end words None
    message show {'word': 'the'}
    message show {'word': 'rain'}
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from emit.errors import GraphError
from emit.graph import ENTRY
from emit.observe.facts import Failed, Finished, Started
from emit.observe.observers import Tap
from emit.text import nearest

if TYPE_CHECKING:
    from emit.router import Router

__all__ = ["HIDDEN", "Passed", "Point", "Valve", "hide", "point", "watch"]

#: Stands for the value of a field that is hidden.
HIDDEN = "[hidden]"

#: Values inside of values that are looked through for fields to hide; what is deeper is hidden.
_DEPTH = 20

#: Runs that a valve follows at a time. One whose worker was killed has no end, and is forgotten.
_RUNS = 10_000


class Passed(NamedTuple):
    """
    What a tap has seen.

    Attributes:
        way: ``message``: the node is about to get it. ``result``: it is about to be sent on.
            ``end``: the run has ended, and has no more results.
        node: The node.
        origin: The node that the message comes from; ``__entry_point`` for a call of the router,
            empty for one of the node.
        id: The message's id in its queue; empty in a process.
        attempt: The number of the attempt.
        run: The number of the run, unique in its process. What belongs together has the same.
        at: The time, in seconds since the epoch.
        fields: The message, or the result, without what is hidden. None for an end. The mapping
            is the tap's own, but values inside it are the node's: don't change them.
        error: The class of the exception in which the run has ended; empty: it has ended well.
    """

    way: str
    node: str
    origin: str
    id: str
    attempt: int
    run: int
    at: float
    fields: dict[str, Any] | None
    error: str = ""


class Point(NamedTuple):
    """
    A node, or an edge.

    Attributes:
        node: The node that gets the messages.
        origin: The node that they come from. None: any, and the node's results are seen, too.
    """

    node: str
    origin: str | None = None

    def __str__(self) -> str:
        return self.node if self.origin is None else f"{self.origin} -> {self.node}"


def point(told: str, router: Router | None = None) -> Point:
    """
    Read a node's name, or an edge as ``measure -> count``. ``-> words`` is the edge from calls of
    the router.

    Raises:
        GraphError: The router has no such node, or no such edge.
    """
    origin, arrow, node = (part.strip() for part in told.rpartition("->"))
    found = Point(node, (origin or ENTRY) if arrow else None)
    if router is None:
        return found
    for name in (found.origin, found.node):
        if name not in (None, ENTRY) and name not in router.names:
            raise GraphError(f'there is no node "{name}"{nearest(str(name), router.names)}')
    if found.origin is not None and node not in router.routes.get(found.origin, ()):
        hears = sorted(name for name, heard in router.routes.items() if node in heard)
        said = ", ".join(hears) or "nobody"
        raise GraphError(f'"{node}" does not hear "{found.origin}"; it hears {said}')
    return found


def hide(value: Any, names: frozenset[str], depth: int = 0) -> Any:
    """
    Return a value with :data:`HIDDEN` in place of the fields of these names, in maps and lists at
    any depth. Only what changes is copied.

    Args:
        value: The value.
        names: The names, in lower case.
        depth: The depth of the value.

    Example:
        >>> hide({"user": {"Password": "secret"}}, frozenset({"password"}))
        {'user': {'Password': '[hidden]'}}
    """
    if depth > _DEPTH:
        return HIDDEN
    if isinstance(value, Mapping):
        new = {
            name: HIDDEN if str(name).lower() in names else hide(each, names, depth + 1)
            for name, each in value.items()
        }
        return new if any(new[name] is not value[name] for name in new) else value
    if isinstance(value, (list, tuple)):
        each = [hide(item, names, depth + 1) for item in value]
        is_same = all(new is old for new, old in zip(each, value, strict=True))
        return value if is_same else each
    return value


class Valve(Tap):
    """
    A tap that lets some of what passes through.

    Args:
        points: What to watch; empty: all nodes.
        hear: Called with each :class:`Passed`, in the thread of the message. It must not wait.
        names: Names of the fields to hide, in lower case.
        rate: The most messages a second. A message that is let through comes with its results, and
            others are passed over without any trace. None: all.

    Attributes:
        passed_over: Number of messages that were too many.
    """

    def __init__(
        self,
        points: Iterable[Point],
        hear: Callable[[Passed], object],
        names: Iterable[str] = (),
        rate: float | None = None,
    ) -> None:
        self._nodes: dict[str, frozenset[str | None]] = {}
        for each in points:
            self._nodes[each.node] = self._nodes.get(each.node, frozenset()) | {each.origin}
        self._hear = hear
        self._names = frozenset(name.lower() for name in names)
        self._rate = rate
        self._tokens = 1.0 if rate is None else max(1.0, rate)
        self._filled = time.monotonic()
        self._lock = threading.Lock()
        self._runs: dict[int, Started] = {}
        self.passed_over = 0

    def message(self, fact: Started, fields: Mapping[str, Any]) -> None:
        origins = self._nodes.get(fact.node) if self._nodes else _ANY
        if origins is None or not (None in origins or fact.origin in origins):
            return
        if not self._may_pass():
            return
        if None in origins:
            if len(self._runs) >= _RUNS:
                self._runs.pop(next(iter(self._runs)), None)
            self._runs[fact.run] = fact
        shown = {name: value for name, value in fields.items() if name != "_origin"}
        self._tell("message", fact, fact.at, shown)

    def results(self, run: int, node: str, results: Sequence[Mapping[str, Any]]) -> None:
        fact = self._runs.get(run)
        if fact is not None and fact.node == node:
            now = time.time()
            for result in results:
                self._tell("result", fact, now, dict(result))

    def __call__(self, fact: Any) -> None:
        kind = type(fact)
        if kind is Finished or kind is Failed:
            started = self._runs.pop(fact.run, None)
            if started is not None:
                error = fact.kind if kind is Failed else ""
                self._tell("end", started, fact.at, None, error)

    def _tell(
        self, way: str, fact: Started, at: float, fields: dict[str, Any] | None, error: str = ""
    ) -> None:
        fields = hide(fields, self._names) if self._names and fields else fields
        head = (way, fact.node, fact.origin, fact.id, fact.attempt, fact.run)
        self._hear(Passed(*head, at, fields, error))

    def _may_pass(self) -> bool:
        """Take a token of a bucket that fills at the rate, and holds those of one second."""
        if self._rate is None:
            return True
        with self._lock:
            now = time.monotonic()
            most = max(1.0, self._rate)
            self._tokens = min(most, self._tokens + (now - self._filled) * self._rate)
            self._filled = now
            if self._tokens < 1.0:
                self.passed_over += 1
                return False
            self._tokens -= 1.0
            return True


_ANY: frozenset[str | None] = frozenset({None})


@contextmanager
def watch(
    router: Router,
    hear: Callable[[Passed], object],
    *points: str,
    redact: Iterable[str] = (),
    rate: float | None = None,
) -> Iterator[Valve]:
    """
    Watch messages of a router in this process, inside a ``with`` block.

    Args:
        router: The router.
        hear: Called with each :class:`Passed`, at once and in the thread of the message. If it
            raises an exception, the exception is logged, and the tap is off.
        *points: Nodes and edges, as ``"measure"`` and ``"measure -> count"``; none: all nodes. A
            node is seen with its messages, its results and its ends, an edge with the messages that
            pass it.
        redact: Names of fields to hide, beside the router's own.
        rate: The most messages a second; None: all.

    Raises:
        GraphError: The router has no such node, or no such edge.
    """
    found = [point(told, router) for told in points]
    valve = Valve(found, hear, {*router.redact, *redact}, rate)
    router.observe(valve)
    try:
        yield valve
    finally:
        router.unobserve(valve)
