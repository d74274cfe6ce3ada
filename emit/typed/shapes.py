"""The messages and results of a contract's nodes, with names for types. No I/O here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from emit.typed.schema import Schema, any_of


def shapes_of(contract: Mapping[str, Any]) -> Iterator[tuple[str, str, Schema]]:
    """
    Yield each type that an author needs: its name, a sentence about it, and its schema, an object.

    Example:
        >>> node = {"fields": {"n": {}}, "hears": [], "takes": None, "entry_point": True}
        >>> [name for name, _, _ in shapes_of({"nodes": {"app.count": node}})]
        ['CountResult']
    """
    named = names_of(contract["nodes"])
    for name, node in contract["nodes"].items():
        message = message_of(contract, name)
        if message["properties"]:
            yield f"{named[name]}Message", f'The message of the node "{name}".', message
        if node["fields"]:
            yield f"{named[name]}Result", f'A result of the node "{name}".', result_of(node)


def names_of(nodes: Mapping[str, Any]) -> dict[str, str]:
    """Return a name for each node's types: its last part, or all of it if two would be equal."""
    short = {name: pascal(name.rpartition(".")[2]) for name in nodes}
    used = list(short.values())
    return {name: it if used.count(it) == 1 else pascal(name) for name, it in short.items()}


def pascal(name: str) -> str:
    """
    Return a name in the form that types have.

    Example:
        >>> pascal("clean_words"), pascal("3d-shape")
        ('CleanWords', 'N3dShape')
    """
    words = re.findall(r"[A-Za-z0-9]+", name)
    text = "".join(word[0].upper() + word[1:] for word in words) or "Node"
    return text if text[0].isalpha() else f"N{text}"


def result_of(node: Mapping[str, Any]) -> Schema:
    fields = node["fields"]
    return {"type": "object", "properties": dict(fields), "required": list(fields)}


def message_of(contract: Mapping[str, Any], name: str) -> Schema:
    """
    Return the schema of a node's message: the fields that the nodes before it give, and those that
    its handler states. A field that not all of them give is optional.
    """
    nodes = contract["nodes"]
    node = nodes[name]
    takes = node["takes"] or {"required": [], "optional": [], "properties": {}}
    givers = [nodes[origin]["fields"] for origin in node["hears"]]
    stated = [*takes["required"], *takes["optional"]]
    names = list(dict.fromkeys([*(field for giver in givers for field in giver), *stated]))
    properties: dict[str, Schema] = {}
    for field in names:
        given = [giver[field] for giver in givers if field in giver]
        schema = any_of(given) if given else {}
        properties[field] = schema or takes["properties"].get(field, {})
    always = [
        field
        for field in names
        if field in takes["required"]
        or (givers and not node["entry_point"] and all(field in giver for giver in givers))
    ]
    return {"type": "object", "properties": properties, "required": always}
