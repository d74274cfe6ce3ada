"""The graph as text in the DOT language of graphviz."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emit.router import Router


#: Words of the DOT language that need quotes as a name.
_KEYWORDS = frozenset({"digraph", "edge", "graph", "node", "strict", "subgraph"})


def make_digraph(router: Router, name: str = "router") -> str:
    """
    Return the graph as DOT: a sorted line for each subscription, then the nodes that have none.

    Example:
        >>> from emit import Router
        >>> router = Router()
        >>> @router.node(("n",), entry_point=True, name="first")
        ... def first(msg):
        ...     return 1
        >>> print(make_digraph(router))
        digraph router {
        "__entry_point" -> "first";
        }
    """
    edges = sorted((origin, to) for origin, heard in router.routes.items() for to in heard)
    connected = {node for edge in edges for node in edge}
    lines = [f"{quote(origin)} -> {quote(to)};" for origin, to in edges]
    lines += [f"{quote(node)};" for node in sorted(router.names - connected)]
    title = name if name.isidentifier() and name.lower() not in _KEYWORDS else quote(name)
    return "\n".join([f"digraph {title} {{", *lines, "}"])


def quote(name: str) -> str:
    """Return a name in the quotes of the DOT language."""
    return json.dumps(name, ensure_ascii=False)
