"""Names, subscriptions and ignores -> routes. No I/O here, and nothing of messages or handlers.

1. A string equal to a registered name means that node only; any other string is a regular
   expression, searched in every name. The routes decide which of the two it is when they are
   made, so the order of declaration never matters.
2. The entry point is a name like any other: ``.+`` hears it.
3. A node does not hear itself through a regular expression; by its exact name it may.
4. Routes are made when they are first needed after a change, not at each registration.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from emit.errors import GraphError

#: The origin of a message from a call of the router itself.
ENTRY = "__entry_point"


class Subscription(NamedTuple):
    """One wish to hear (or to ignore) origins: an exact name, or a pattern to search in names."""

    pattern: re.Pattern[str]
    name: str | None = None  # the text as written; None if only the pattern counts
    exact: bool = False  # given as a node: never read as a regular expression

    def is_name(self, names: Mapping[str, Any]) -> bool:
        return self.exact or self.name in names


def subscriptions(wish: Any, name_of: Callable[[Any], str], *, node: str) -> list[Subscription]:
    """
    Read the value of ``subscribe_to`` or ``ignore``.

    Args:
        wish: None, a string, a compiled pattern, a node, or an iterable of these.
        name_of: Returns a node's name.
        node: The subscriber's name, for the errors.

    Raises:
        GraphError: Not one of these, or not a valid regular expression.
    """
    if wish is None:
        return []
    if isinstance(wish, str):  # an empty string would be found in every name
        return [Subscription(_compile(wish, node), wish)] if wish else []
    if isinstance(wish, re.Pattern) and isinstance(wish.pattern, str):
        return [Subscription(wish)]
    if isinstance(wish, Subscription):
        return [wish]
    if callable(wish):
        return [exactly(name_of(wish))]
    if isinstance(wish, Iterable) and not isinstance(wish, (bytes, bytearray)):
        return [one for part in wish for one in subscriptions(part, name_of, node=node)]
    raise GraphError(
        f'"{node}" can\'t subscribe to {wish!r}: give a name or regular expression, a compiled '
        f"pattern, a node, or a list of these"
    )


def exactly(name: str) -> Subscription:
    """Return the wish to hear the node of this name, even if the name is also a pattern."""
    return Subscription(re.compile(f"^{re.escape(name)}$"), name, exact=True)


def _compile(text: str, node: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise GraphError(f'"{node}": {text!r} is no valid regular expression: {error}') from error


class Edge(NamedTuple):
    """
    A subscriber and the node it hears; *pattern* is the regular expression that matched, if any.
    """

    origin: str
    destination: str
    pattern: str | None


class Graph:
    """
    The nodes' names and their subscriptions.

    Attributes:
        names: Every registered name, in order of registration (a dict used as an ordered set).
        hears: Subscriber -> its subscriptions.
        ignores: Subscriber -> its ignores.
        entries: The entry points, in order.
        routes: Made by :meth:`resolve`; None after a change.
    """

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        self.hears: dict[str, list[Subscription]] = {}
        self.ignores: dict[str, list[Subscription]] = {}
        self.entries: dict[str, None] = {}
        self.routes: dict[str, tuple[str, ...]] | None = None

    def add(self, name: str) -> None:
        self.names[name] = None
        self.routes = None

    def subscribe(self, name: str, wishes: list[Subscription]) -> list[Subscription]:
        """Add subscriptions to *name*. Return all its subscriptions."""
        self.add(name)
        self.hears[name] = [*self.hears.get(name, ()), *wishes]
        return self.hears[name]

    def ignore(self, name: str, wishes: list[Subscription]) -> list[Subscription]:
        """Add ignores to *name*. Return all its ignores."""
        self.routes = None
        self.ignores[name] = [*self.ignores.get(name, ()), *wishes]
        return self.ignores[name]

    def enter(self, name: str) -> None:
        self.entries[name] = None
        self.routes = None

    def clear(self, name: str) -> None:
        """
        Forget a node's subscriptions, before it is declared anew. It keeps its place in the order.
        """
        if name in self.hears:
            self.hears[name] = []
        self.ignores.pop(name, None)
        self.entries.pop(name, None)
        self.routes = None

    def resolve(self) -> dict[str, tuple[str, ...]]:
        """Make the routes: origin -> its destinations, each once, in order of registration."""
        self.routes = self._resolve()
        return self.routes

    def _resolve(self) -> dict[str, tuple[str, ...]]:
        # This does not use edges(): a wide graph has a million, and making them takes most of the
        # time.
        heard: dict[str, list[str]] = defaultdict(list)
        for destination, origins in self._heard():
            for origin in origins:
                heard[origin].append(destination)
        return {origin: tuple(destinations) for origin, destinations in heard.items()}

    def edges(self) -> Iterator[Edge]:
        """Yield each pair of subscriber and origin, with the matching wish, as of now."""
        names = {ENTRY: None, **self.names}
        for destination, origins in self._heard():
            for origin, wish in origins.items():
                pattern = None if wish is None or wish.is_name(names) else wish.pattern.pattern
                yield Edge(origin, destination, pattern)

    def _heard(self) -> Iterator[tuple[str, dict[str, Subscription | None]]]:
        """Yield each subscriber with its origins and the wish for each; None for an entry point."""
        # Patterns recur ('.+' above all), so each pattern is searched in all names only once.
        names = {ENTRY: None, **self.names}
        matches: dict[re.Pattern[str], list[str]] = {}
        for destination in dict.fromkeys([*self.hears, *self.entries]):
            yield destination, self._origins(destination, names, matches)

    def _origins(
        self,
        destination: str,
        names: Mapping[str, Any],
        matches: dict[re.Pattern[str], list[str]],
    ) -> dict[str, Subscription | None]:
        origins: dict[str, Subscription | None] = {}
        for wish in self.hears.get(destination, ()):
            if wish.is_name(names):
                origins[str(wish.name)] = wish
            else:
                found: dict[str, Subscription | None]
                found = dict.fromkeys(_search(wish, names, matches), wish)
                found.pop(destination, None)
                origins = found | origins
        for wish in self.ignores.get(destination, ()):
            by_name = wish.is_name(names)
            for name in [str(wish.name)] if by_name else _search(wish, names, matches):
                origins.pop(name, None)
        if destination in self.entries:
            origins[ENTRY] = None
        return origins


def _search(
    wish: Subscription, names: Iterable[str], matches: dict[re.Pattern[str], list[str]]
) -> list[str]:
    if wish.pattern not in matches:
        search = wish.pattern.search
        matches[wish.pattern] = [name for name in names if search(name)]
    return matches[wish.pattern]
