"""A graph in the DOT language of graphviz, for pictures: coloured, with fields on the edges."""

from __future__ import annotations

import html

from emit.digraph import quote
from emit.drawing.outline import Drawn, Outline
from emit.drawing.text import tag
from emit.graph import ENTRY, Edge

#: Fill and ink of each language. Each pair has a contrast of 8 to 1 or more.
COLOURS = {
    "python": ("#dbeafe", "#1e3a8a"),
    "ruby": ("#fee2e2", "#7f1d1d"),
    "node": ("#dcfce7", "#14532d"),
    "go": ("#cffafe", "#164e63"),
    "": ("#f3f4f6", "#374151"),
}

_HEAD = (
    'rankdir=LR; bgcolor="transparent"; tooltip=" ";',
    'node [fontname="Helvetica", fontsize=11, style="filled,rounded", shape=box, '
    'margin="0.16,0.08", penwidth=1];',
    'edge [fontname="Helvetica", fontsize=9, color="#6b7280", fontcolor="#6b7280", arrowsize=0.7];',
)

_ENTRY = (
    f"{quote(ENTRY)} "
    '[label="", tooltip="entry", shape=circle, width=0.18, fixedsize=true, style=filled, '
    'fillcolor="#6b7280", color="#6b7280"];'
)


def dot(outline: Outline) -> str:
    """
    The graph as DOT. Dashed edges are subscriptions by a regular expression, which is their
    tooltip; dashed boxes are nodes that no call of the router leads to.
    """
    entry = [_ENTRY] if outline.heard(ENTRY) else []
    nodes = map(_node, outline.nodes.values())
    edges = (_edge(outline, edge) for edge in outline.edges)
    return "\n".join(["digraph emit {", *(f"  {x}" for x in (*_HEAD, *entry, *nodes, *edges)), "}"])


def colours(node: Drawn) -> tuple[str, str]:
    """Fill and ink of a node."""
    return COLOURS.get(node.language, COLOURS[""])


def _node(node: Drawn) -> str:
    fill, ink = colours(node)
    small = f'<br/><font point-size="9">{html.escape(tag(node))}</font>' if node.foreign else ""
    label = f"<b>{html.escape(node.name)}</b>{small}"
    dashed = "" if node.reached else ', style="filled,rounded,dashed", tooltip="never reached"'
    return (
        f'{quote(node.name)} [label=<{label}>, fillcolor="{fill}", fontcolor="{ink}", '
        f'color="{ink}"{dashed}];'
    )


def _edge(outline: Outline, edge: Edge) -> str:
    fields = outline.fields_of(edge)
    options = [f"label={quote(', '.join(fields))}"] if fields else []
    if edge.pattern is not None:
        options += ["style=dashed", f"tooltip={quote(edge.pattern)}"]
    shown = f" [{', '.join(options)}]" if options else ""
    return f"{quote(edge.origin)} -> {quote(edge.destination)}{shown};"
