"""Faults of a graph that show before a message runs: in its subscriptions, ways and fields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from emit.drawing.outline import Outline, reach, roots
from emit.graph import ENTRY, Graph, Subscription
from emit.message import ORIGIN
from emit.nearest import nearest

if TYPE_CHECKING:
    from emit.router import Router


@dataclass(frozen=True)
class Finding:
    """
    One fault.

    Attributes:
        kind: ``subscription``, ``unreached``, ``cycle``, ``fields``, or what the caller adds.
        node: The node that it is about.
        text: What is wrong, with the names and what to change.
    """

    kind: str
    node: str
    text: str


def find_unmatched(router: Router) -> Iterator[Finding]:
    """Subscriptions and ignores that match no node, with the nearest names."""
    graph = router._graph
    for verb, wishes in (("hears", graph.hears), ("ignores", graph.ignores)):
        for node, wished in wishes.items():
            for wish in wished:
                if not _matches(graph, wish, node):
                    text = wish.name if wish.name is not None else wish.pattern.pattern
                    what = f'"{node}" {verb} "{text}", which matches no node'
                    yield Finding(
                        "subscription",
                        node,
                        what + nearest(text, (name for name in graph.names if name != node)),
                    )


def _matches(graph: Graph, wish: Subscription, node: str) -> bool:
    names = {ENTRY: None, **graph.names}
    if wish.is_name(names):
        return wish.name in names
    return any(name != node and wish.pattern.search(name) for name in names)


def find_unreached(outline: Outline) -> Iterator[Finding]:
    """Nodes that no call of the router leads to, each with what would have followed from it."""
    lost = [name for name, node in outline.nodes.items() if not node.reached]
    if lost and not outline.heard(ENTRY) and len(lost) == len(outline.nodes):
        yield Finding("unreached", lost[0], "no node is an entry point: calls of the router end")
        return
    for name in roots(outline, lost):
        behind = sorted(reach(outline.edges, [name]).intersection(lost) - {name})
        after = f", nor {', '.join(behind)} behind it" if behind else ""
        yield Finding("unreached", name, f'"{name}" is never reached{after}')


def find_cycles(outline: Outline) -> Iterator[Finding]:
    """Circles of nodes, at least one of those that each edge closes."""
    origins: dict[str, set[str]] = {name: set() for name in outline.nodes}
    for edge in outline.edges:
        origins[edge.destination].add(edge.origin)
    while (circle := _circle(origins)) is not None:
        origins[circle[1]].discard(circle[0])
        way = " -> ".join(circle)
        text = f"{way} is a circle: it ends only where one of them emits nothing"
        yield Finding("cycle", circle[0], text)


def _circle(origins: Mapping[str, set[str]]) -> list[str] | None:
    try:
        TopologicalSorter(origins).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return None


def find_lacking(outline: Outline, needs: Mapping[str, Iterable[str]]) -> Iterator[Finding]:
    """
    Edges that do not carry what their reader needs.

    Args:
        outline: The graph.
        needs: For each node of which it is known, the fields that it can't do without.
    """
    for edge in outline.edges:
        fields = outline.fields_of(edge)
        wanted = needs.get(edge.destination, ())
        if fields is None:
            continue
        missing = _missing(wanted, fields, foreign=outline.nodes[edge.destination].foreign)
        if missing:
            gives = f"gives only {', '.join(fields)}" if fields else "gives no fields"
            text = (
                f"{edge.origin} -> {edge.destination}: needs {', '.join(missing)}; "
                f"{edge.origin} {gives}"
            )
            yield Finding("fields", edge.destination, text)


def _missing(wanted: Iterable[str], fields: Iterable[str], *, foreign: bool) -> list[str]:
    """Ignore differences in case for programs: Go matches field names case-insensitively."""
    form = str.casefold if foreign else str
    wanted = (name for name in wanted if name != ORIGIN)  # which every message has
    given = set(map(form, fields))
    return [name for name in wanted if form(name) not in given]
