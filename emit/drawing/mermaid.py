"""A graph in the Mermaid language, which Markdown pages on GitHub and GitLab show as a picture."""

from __future__ import annotations

from emit.drawing.dot import COLOURS
from emit.drawing.outline import Drawn, Outline
from emit.drawing.text import tag
from emit.graph import ENTRY, Edge


def mermaid(outline: Outline) -> str:
    """The graph as Mermaid, with the same colours and dashes as in the other pictures."""
    ids = {name: f"n{number}" for number, name in enumerate(outline.nodes)}
    ids[ENTRY] = "entry"
    lines = ["entry((( )))"] if outline.heard(ENTRY) else []
    lines += [_node(node, ids[node.name]) for node in outline.nodes.values()]
    lines += [_edge(outline, edge, ids) for edge in outline.edges]
    lines += [
        f"classDef {language or 'other'} fill:{fill},stroke:{ink},color:{ink}"
        for language, (fill, ink) in COLOURS.items()
    ]
    lines.append("classDef lost stroke-dasharray:4")
    lines += [f"class {ids[n.name]} lost" for n in outline.nodes.values() if not n.reached]
    return "\n".join(["flowchart LR", *(f"  {line}" for line in lines)])


def _node(node: Drawn, id: str) -> str:
    small = f"<br/><small>{_escape(tag(node))}</small>" if node.foreign else ""
    language = node.language if node.language in COLOURS else "other"
    return f'{id}["{_escape(node.name)}{small}"]:::{language}'


def _edge(outline: Outline, edge: Edge, ids: dict[str, str]) -> str:
    arrow = "-->" if edge.pattern is None else "-.->"
    fields = outline.fields_of(edge)
    label = f'|"{_escape(", ".join(fields))}"|' if fields else ""
    return f"{ids[edge.origin]} {arrow}{label} {ids[edge.destination]}"


def _escape(text: str) -> str:
    """Mermaid's own entities, which are those of HTML with # for &."""
    marks = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;"}
    return "".join(marks.get(char, char) for char in text)
