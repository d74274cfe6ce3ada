"""
Where the nodes and edges of a graph are drawn, from left to right. Units are pixels.

Graphviz finds the places if it is installed, else grandalf does, which is slower and draws
straighter edges.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Drawing", "Place", "draw"]

#: Size of a node. Its width grows with its name.
_HEIGHT, _NARROWEST, _WIDEST, _CHARACTER = 64.0, 148.0, 320.0, 8.0

#: Space between two columns, between two nodes of a column, and around the whole.
_APART, _BESIDE, _MARGIN = 90.0, 26.0, 24.0

#: Seconds for graphviz. It takes 0.1 s for 200 nodes.
_PATIENCE = 10.0

#: Points of a path: x and y.
Point = tuple[float, float]


class Place(NamedTuple):
    """The middle of a node, and its size."""

    x: float
    y: float
    width: float
    height: float


class Drawing(NamedTuple):
    """
    A graph with places.

    Attributes:
        width: Its size.
        height: Its size.
        nodes: The place of each node by its name.
        paths: The path of each edge, in the order of the edges, for the attribute ``d`` of an SVG
            path.
    """

    width: float
    height: float
    nodes: Mapping[str, Place]
    paths: Sequence[str]


def draw(names: Iterable[str], edges: Iterable[tuple[str, str]]) -> Drawing:
    """
    Find places for a graph.

    Args:
        names: The nodes.
        edges: Pairs of names: from, to.
    """
    sizes = {name: (_width(name), _HEIGHT) for name in names}
    pairs = list(edges)
    found = _by_graphviz(sizes, pairs) if shutil.which("dot") else None
    return found or _by_grandalf(sizes, pairs)


def _width(name: str) -> float:
    return min(_WIDEST, max(_NARROWEST, 40 + _CHARACTER * len(name)))


# -- Graphviz --------------------------------------------------------------------------------------


def _by_graphviz(
    sizes: Mapping[str, tuple[float, float]], edges: Sequence[tuple[str, str]]
) -> Drawing | None:
    """Return None if graphviz fails."""
    ids = {name: f"n{number}" for number, name in enumerate(sizes)}
    inch = 72.0
    lines = [
        "digraph {",
        f"rankdir=LR; ranksep={_APART / inch}; nodesep={_BESIDE / inch};",
        'node [shape=box, fixedsize=true, label=""];',
        *(
            f"{ids[name]} [width={width / inch}, height={height / inch}];"
            for name, (width, height) in sizes.items()
        ),
        *(f'{ids[a]} -> {ids[b]} [id="{number}"];' for number, (a, b) in enumerate(edges)),
        "}",
    ]
    try:
        done = subprocess.run(
            ["dot", "-Tjson0"],
            input="\n".join(lines),
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return _read(json.loads(done.stdout), list(sizes), sizes, len(edges))


def _read(
    told: Mapping[str, Any],
    names: Sequence[str],
    sizes: Mapping[str, tuple[float, float]],
    count: int,
) -> Drawing:
    _, _, width, height = map(float, told["bb"].split(","))

    def moved(text: str) -> Point:
        x, y = map(float, text.split(","))
        return x + _MARGIN, height - y + _MARGIN  # graphviz counts upwards

    nodes = {}
    for each in told.get("objects", ()):
        name = names[int(each["name"][1:])]
        nodes[name] = Place(*moved(each["pos"]), *sizes[name])
    paths = [""] * count
    for edge in told.get("edges", ()):
        paths[int(edge["id"])] = _spline(edge["pos"], moved)
    return Drawing(width + 2 * _MARGIN, height + 2 * _MARGIN, nodes, paths)


def _spline(told: str, moved: Any) -> str:
    """Return the path of a spline of graphviz: ``e,`` and the tip of its arrow come first."""
    words = told.split()
    tip = moved(words.pop(0)[2:]) if words[0].startswith("e,") else None
    first, *rest = map(moved, words)
    curves = "".join(f" {_at(point)}" for point in rest)
    return f"M {_at(first)} C{curves}" + (f" L {_at(tip)}" if tip else "")


def _at(point: Point) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"


# -- grandalf --------------------------------------------------------------------------------------


class _View:
    """The size that grandalf asks of a node, with columns as rows, and the place that it adds."""

    def __init__(self, width: float, height: float) -> None:
        self.w, self.h = height, width
        self.xy = (0.0, 0.0)


def _by_grandalf(
    sizes: Mapping[str, tuple[float, float]], edges: Sequence[tuple[str, str]]
) -> Drawing:
    from grandalf.graphs import Edge, Graph, Vertex
    from grandalf.layouts import SugiyamaLayout

    vertices = {name: Vertex(name) for name in sizes}
    for name, vertex in vertices.items():
        vertex.view = _View(*sizes[name])
    apart = {pair for pair in edges if pair[0] != pair[1]}
    graph = Graph([*vertices.values()], [Edge(vertices[a], vertices[b]) for a, b in apart])
    nodes: dict[str, Place] = {}
    beside = _MARGIN
    for part in graph.C:
        layout = SugiyamaLayout(part)
        layout.xspace, layout.yspace = _BESIDE, _APART
        layout.init_all()
        layout.draw()
        # Columns go from left to right here, and from top to bottom there.
        at = {vertex.data: (vertex.view.xy[1], vertex.view.xy[0]) for vertex in part.sV}
        least_x = min(x - sizes[name][0] / 2 for name, (x, _) in at.items())
        least_y = min(y - sizes[name][1] / 2 for name, (_, y) in at.items())
        for name, (x, y) in at.items():
            nodes[name] = Place(x - least_x + _MARGIN, y - least_y + beside, *sizes[name])
        beside = max(nodes[name].y + sizes[name][1] / 2 for name in at) + 2 * _BESIDE
    paths = [_curve(nodes[a], nodes[b]) for a, b in edges]
    width = max((place.x + place.width / 2 for place in nodes.values()), default=0.0)
    height = max((place.y + place.height / 2 for place in nodes.values()), default=0.0)
    return Drawing(width + _MARGIN, height + _MARGIN, nodes, paths)


def _curve(a: Place, b: Place) -> str:
    """Return a path from the right side of a node to the left side of another one."""
    return "".join(_parts((a.x + a.width / 2, a.y), (b.x - b.width / 2, b.y)))


def _parts(start: Point, end: Point) -> Iterator[str]:
    bend = max(40.0, abs(end[0] - start[0]) / 2)
    yield f"M {_at(start)} C {_at((start[0] + bend, start[1]))}"
    yield f" {_at((end[0] - bend, end[1]))} {_at(end)}"
