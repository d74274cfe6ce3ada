"""Documents of a graph: AsyncAPI, JSON Schema and Markdown. No I/O here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from emit.typed.schema import Schema, describe
from emit.typed.shapes import message_of, names_of, result_of, shapes_of


def asyncapi(contract: Mapping[str, Any], title: str) -> str:
    """Return a document of AsyncAPI 3: a channel for each node's results."""
    nodes = contract["nodes"]
    names = names_of(nodes)
    channels = {
        name: {
            "address": name,
            "messages": {f"{names[name]}Result": {"payload": result_of(node)}},
        }
        for name, node in nodes.items()
    }
    operations: dict[str, Any] = {}
    for name, node in nodes.items():
        operations[f"{names[name]}Sends"] = {"action": "send", "channel": _channel(name)}
        for origin in node["hears"]:
            operations[f"{names[name]}Receives{names[origin]}"] = {
                "action": "receive",
                "channel": _channel(origin),
            }
    info = {"title": title, "version": "1"}
    return _json(
        {"asyncapi": "3.0.0", "info": info, "channels": channels, "operations": operations}
    )


def _channel(name: str) -> dict[str, str]:
    return {"$ref": "#/channels/" + name.replace("~", "~0").replace("/", "~1")}


def jsonschema(contract: Mapping[str, Any], title: str) -> str:
    """Return a JSON Schema with a definition for each message and result."""
    defs = {name: {"description": about, **it} for name, about, it in shapes_of(contract)}
    schema = "https://json-schema.org/draft/2020-12/schema"
    return _json({"$schema": schema, "title": title, "$defs": defs})


def markdown(contract: Mapping[str, Any], title: str) -> str:
    """Return a page with a section for each node."""
    return "\n".join([f"# {title}", *_sections(contract)])


def _sections(contract: Mapping[str, Any]) -> Iterator[str]:
    for name, node in contract["nodes"].items():
        heard = [f"`{origin}`" for origin in node["hears"]]
        if node["entry_point"]:
            heard.insert(0, "calls of the router")
        hears = ", ".join(heard) or "nothing"
        yield f"\n## {name}\n\nA node in {node['language']}. It hears {hears}."
        yield from _table("takes", message_of(contract, name))
        yield from _table("gives", result_of(node))


def _table(verb: str, schema: Schema) -> Iterator[str]:
    if schema["properties"]:
        yield f"\n| {verb} | type | presence |\n|---|---|---|"
    for field, part in schema["properties"].items():
        presence = "always" if field in schema["required"] else "optional"
        yield f"| `{field}` | {describe(part)} | {presence} |"


def _json(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2)


FORMATS: dict[str, Callable[[Mapping[str, Any], str], str]] = {
    "asyncapi": asyncapi,
    "jsonschema": jsonschema,
    "markdown": markdown,
}
