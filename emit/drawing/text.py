"""A graph as a tree of text, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from emit.drawing.outline import Drawn, Outline, roots
from emit.graph import ENTRY, Edge


def text(outline: Outline) -> str:
    """
    The graph as a tree: first what calls of the router lead to, then what they never reach.

    What a node leads to is shown where the node is met first; after that it is ``↩ above``. A
    subscription by a regular expression is shown with it, as in ``~.+``.
    """
    seen = set[str]()
    lines = ["● entry", *_tree(outline, outline.heard(ENTRY), seen)]
    lost = [name for name, node in outline.nodes.items() if not node.reached]
    begins = [Edge("", name, None) for name in roots(outline, lost)]
    return "\n".join(
        [*lines, *(["", "○ never reached", *_tree(outline, begins, seen)] if lost else [])]
    )


def _tree(outline: Outline, edges: Sequence[Edge], seen: set[str]) -> list[str]:
    lines = []
    rest = [("", edge, edge is edges[-1]) for edge in reversed(edges)]
    while rest:
        indent, edge, last = rest.pop()
        name, heard = edge.destination, outline.heard(edge.destination)
        again = "  ↩ above" if name in seen and heard else ""
        how = f"  ~{edge.pattern}" if edge.pattern else ""
        what = _describe(outline.nodes[name])
        lines.append(f"{indent}{'└─' if last else '├─'} {name}{again or what}{how}")
        if not again:
            deeper = indent + ("   " if last else "│  ")
            rest += [(deeper, edge, edge is heard[-1]) for edge in reversed(heard)]
        seen.add(name)
    return lines


def _describe(node: Drawn) -> str:
    fields = f"  ({', '.join(node.shown)})" if node.shown else ""
    return f"{fields}  [{tag(node)}]" if node.foreign else fields


def tag(node: Drawn) -> str:
    """The language of a node's program, and how many run at most where that was said."""
    return f"{node.language} ×{node.size}" if node.size is not None else node.language
