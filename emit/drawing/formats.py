"""
An outline as a picture in a language of pictures, or as text: DOT for graphviz, coloured, with
fields on the edges; Mermaid; a tree for a terminal.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

from emit.digraph import quote
from emit.drawing.outline import Drawn, Outline, roots
from emit.graph import ENTRY, Edge

#: Fill and ink of a node whose language has no colours. Those that have some say so themselves.
_OTHER = ("#f3f4f6", "#374151")

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


def dot(outline: Outline, colours: Mapping[str, tuple[str, str]]) -> str:
    """
    Return the graph as DOT. Dashed edges are subscriptions by a regular expression, which is their
    tooltip. Dashed boxes are nodes that no call of the router leads to.

    Args:
        outline: The graph.
        colours: Fill and ink of each language. Other nodes are grey.
    """
    entry = [_ENTRY] if outline.heard(ENTRY) else []
    nodes = (_node(node, *colours.get(node.language, _OTHER)) for node in outline.nodes.values())
    edges = (_edge(outline, edge) for edge in outline.edges)
    return "\n".join(["digraph emit {", *(f"  {x}" for x in (*_HEAD, *entry, *nodes, *edges)), "}"])


def _node(node: Drawn, fill: str, ink: str) -> str:
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


# -- Mermaid, which Markdown pages on GitHub and GitLab show as a picture --------------------------


def mermaid(outline: Outline, colours: Mapping[str, tuple[str, str]]) -> str:
    """Return the graph as Mermaid, with the colours and dashes of `dot`."""
    ids = {name: f"n{number}" for number, name in enumerate(outline.nodes)}
    ids[ENTRY] = "entry"
    lines = ["entry((( )))"] if outline.heard(ENTRY) else []
    classes = {language: re.sub(r"\W", "_", language) for language in colours}
    lines += [
        _mermaid_node(node, ids[node.name], classes.get(node.language, "other"))
        for node in outline.nodes.values()
    ]
    lines += [_mermaid_edge(outline, edge, ids) for edge in outline.edges]
    lines += [
        f"classDef {name} fill:{fill},stroke:{ink},color:{ink}"
        for name, (fill, ink) in [
            *zip(classes.values(), colours.values(), strict=True),
            ("other", _OTHER),
        ]
    ]
    lines.append("classDef lost stroke-dasharray:4")
    lines += [f"class {ids[n.name]} lost" for n in outline.nodes.values() if not n.reached]
    return "\n".join(["flowchart LR", *(f"  {line}" for line in lines)])


def _mermaid_node(node: Drawn, id: str, kind: str) -> str:
    small = f"<br/><small>{_escape(tag(node))}</small>" if node.foreign else ""
    return f'{id}["{_escape(node.name)}{small}"]:::{kind}'


def _mermaid_edge(outline: Outline, edge: Edge, ids: dict[str, str]) -> str:
    arrow = "-->" if edge.pattern is None else "-.->"
    fields = outline.fields_of(edge)
    label = f'|"{_escape(", ".join(fields))}"|' if fields else ""
    return f"{ids[edge.origin]} {arrow}{label} {ids[edge.destination]}"


def _escape(text: str) -> str:
    """Mermaid's own entities, which are those of HTML with # for &."""
    marks = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;"}
    return "".join(marks.get(char, char) for char in text)


# -- A tree of text, for a terminal ----------------------------------------------------------------


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
