"""What a picture of a graph shows: its nodes, their languages and fields, and who hears whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from emit.graph import ENTRY, Edge

if TYPE_CHECKING:
    from emit.router import Router


@dataclass(frozen=True)
class Drawn:
    """
    One node.

    Attributes:
        name: Its name.
        fields: What it emits.
        language: ``python``, or that of its program (``ruby``), or the program's name (``jq``).
        foreign: Whether a program of its own runs it.
        size: Processes at most, where the node's author has said so; else None.
        entry: Whether it hears calls of the router.
        reached: Whether a call of the router can lead to it.
    """

    name: str
    fields: tuple[str, ...]
    language: str
    foreign: bool
    size: int | None
    entry: bool
    reached: bool


@dataclass(frozen=True)
class Outline:
    """
    A graph as it stands now.

    Attributes:
        nodes: By name, in order of registration.
        edges: Who hears whom; the origin of a call of the router is ``__entry_point``.
    """

    nodes: Mapping[str, Drawn]
    edges: tuple[Edge, ...]

    def heard(self, origin: str) -> list[Edge]:
        """The edges that begin at *origin*."""
        return self._heard.get(origin, [])

    @cached_property
    def _heard(self) -> dict[str, list[Edge]]:
        heard: dict[str, list[Edge]] = {}
        for edge in self.edges:
            heard.setdefault(edge.origin, []).append(edge)
        return heard

    def as_dict(self) -> dict[str, Any]:
        """
        As plain data: ``{"nodes": [...], "edges": [...]}``. A node has the attributes of
        :class:`Drawn`; an edge has ``origin``, ``destination``, ``fields`` (null for a call of
        the router) and ``pattern`` (null where the subscription was a name).
        """
        return {
            "nodes": [asdict(node) for node in self.nodes.values()],
            "edges": [{**edge._asdict(), "fields": self.fields_of(edge)} for edge in self.edges],
        }

    def fields_of(self, edge: Edge) -> tuple[str, ...] | None:
        """What travels along an edge; None where it depends on the caller of the router."""
        return self.nodes[edge.origin].fields if edge.origin in self.nodes else None


def outline(router: Router, called: Iterable[str] = ()) -> Outline:
    """
    Look at a router.

    Args:
        router: Its node modules have been imported.
        called: Names of nodes that are called directly, so that they count as reached.

    Example:
        >>> from emit import Router
        >>> router = Router()
        >>> @router.node(("n",), entry_point=True, name="first")
        ... def first(msg):
        ...     return 1
        >>> outline(router).edges
        (Edge(origin='__entry_point', destination='first', pattern=None),)
    """
    graph = router._graph
    edges = tuple(edge for edge in graph.edges() if edge.destination in graph.names)
    reached = reach(edges, [ENTRY, *called])
    nodes = {}
    for name in graph.names:
        facts = _facts(router, name)
        entry = name in graph.entries
        nodes[name] = Drawn(
            name, router.fields[name], **facts, entry=entry, reached=name in reached
        )
    return Outline(nodes, edges)


def reach(edges: Iterable[Edge], starts: Iterable[str]) -> set[str]:
    """All names that *starts* lead to, themselves included."""
    heard: dict[str, list[str]] = {}
    for edge in edges:
        heard.setdefault(edge.origin, []).append(edge.destination)
    reached, rest = set[str](), list(starts)
    while rest:
        name = rest.pop()
        if name not in reached:
            reached.add(name)
            rest += heard.get(name, ())
    return reached


def roots(outline: Outline, names: Iterable[str]) -> list[str]:
    """Few of *names* that lead to all others: those that hear nobody, and one of each circle."""
    hearing = {edge.destination for edge in outline.edges}
    begins: list[str] = []
    covered = set[str]()
    for name in sorted(names, key=hearing.__contains__):
        if name not in covered:
            begins.append(name)
            covered |= reach(outline.edges, [name])
    return begins


def _facts(router: Router, name: str) -> dict[str, Any]:
    node = router._nodes.get(name)
    if node is None or not node.foreign:
        return {"language": "python", "foreign": False, "size": None}
    language = getattr(node.handler, "language", "python")
    return {
        "language": language,
        "foreign": True,
        "size": getattr(node.handler, "declared_size", None),
    }
