"""The contents of a graph's picture: nodes, their languages and fields, and subscriptions."""

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
        fields: The fields that it declares.
        pass_through: True if it also emits the other fields of its message.
        language: ``python``, or the language of its program (``ruby``), or the program's name
            (``jq``).
        foreign: True if it runs a program of its own.
        size: The most processes, if the node's author has set it; else None.
        entry: True if it hears calls of the router.
        reached: True if a call of the router can lead to it.
    """

    name: str
    fields: tuple[str, ...]
    pass_through: bool
    language: str
    foreign: bool
    size: int | None
    entry: bool
    reached: bool

    @property
    def shown(self) -> tuple[str, ...]:
        """Its fields for people. If the node passes others on, a mark for them comes first."""
        return ("…", *self.fields) if self.pass_through else self.fields


@dataclass(frozen=True)
class Outline:
    """
    A graph as it stands now.

    Attributes:
        nodes: By name, in order of registration.
        edges: The subscriptions; the origin of a call of the router is ``__entry_point``.
    """

    nodes: Mapping[str, Drawn]
    edges: tuple[Edge, ...]

    def heard(self, origin: str) -> list[Edge]:
        """Return the edges that begin at *origin*."""
        return self._heard.get(origin, [])

    @cached_property
    def _heard(self) -> dict[str, list[Edge]]:
        heard: dict[str, list[Edge]] = {}
        for edge in self.edges:
            heard.setdefault(edge.origin, []).append(edge)
        return heard

    def as_dict(self) -> dict[str, Any]:
        """
        Return plain data: ``{"nodes": [...], "edges": [...]}``.

        A node has the attributes of :class:`Drawn`. An edge has ``origin``, ``destination``,
        ``fields`` (null for a call of the router) and ``pattern`` (null if the subscription was a
        name).
        """
        return {
            "nodes": [asdict(node) for node in self.nodes.values()],
            "edges": [{**edge._asdict(), "fields": self.fields_of(edge)} for edge in self.edges],
        }

    def fields_of(self, edge: Edge) -> tuple[str, ...] | None:
        """
        Return the fields that each message on an edge certainly has; None if only the caller of the
        router knows.
        """
        return self._carried.get(edge.origin)

    @cached_property
    def _carried(self) -> dict[str, tuple[str, ...]]:
        """
        Map each node to the fields that all its results have. A node that passes fields on also has
        the fields that all of its origins give. The caller of the router may give any.
        """
        carried = {n.name: n.fields for n in self.nodes.values() if not n.pass_through}
        passing = {n.name: n.fields for n in self.nodes.values() if n.pass_through}
        origins: dict[str, list[str]] = {name: [] for name in passing}
        for edge in self.edges:
            if edge.destination in passing:
                origins[edge.destination].append(edge.origin)
        # Nodes that pass fields on may hear each other in a cycle: repeat until nothing is removed.
        changed = True
        while changed:
            changed = False
            for name, own in passing.items():
                known = [carried[origin] for origin in origins[name] if origin in carried]
                now = _joined(known, own) if known else ()
                if known and (name not in carried or set(now) != set(carried[name])):
                    carried[name], changed = now, True
        return carried


def outline(router: Router, called: Iterable[str] = ()) -> Outline:
    """
    Return the outline of a router.

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
        node = router._nodes.get(name)
        nodes[name] = Drawn(
            name,
            tuple(router.fields[name]),
            pass_through=node is not None and node.pass_through,
            **facts,
            entry=entry,
            reached=name in reached,
        )
    return Outline(nodes, edges)


def _joined(given: list[tuple[str, ...]], own: tuple[str, ...]) -> tuple[str, ...]:
    """Return the fields that all of *given* have, and *own*."""
    common = [field for field in given[0] if all(field in fields for fields in given[1:])]
    return tuple(dict.fromkeys([*common, *own]))


def reach(edges: Iterable[Edge], starts: Iterable[str]) -> set[str]:
    """Return all names that *starts* lead to, including *starts*."""
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
    """
    Return a few of *names* that lead to all others: those that hear no node, and one of each cycle.
    """
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
    return {"language": node.seam.language, "foreign": True, "size": node.seam.declared_size}
