"""The contract of a router: what its nodes give and take; and the breaking changes. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from emit.checks import Finding
from emit.drawing.outline import Outline
from emit.graph import ENTRY
from emit.typed.edges import Known, carried, misfits

#: The version of the form of a contract.
VERSION = 1


def make_contract(seen: Outline, known: Mapping[str, Known]) -> dict[str, Any]:
    """
    Return the contract of a graph, as JSON would have it.

    Each node has its ``fields`` with their types, the names and types that it ``takes`` (null if
    they are not known), the nodes that it ``hears``, and its ``language``.
    """
    return {
        "emit_contract": VERSION,
        "nodes": {name: _node(seen, known, name) for name in seen.nodes},
    }


def _node(seen: Outline, known: Mapping[str, Known], name: str) -> dict[str, Any]:
    node, mine = seen.nodes[name], known.get(name, Known())
    types = carried(seen, known, name)
    edges = [edge for edge in seen.edges if edge.origin == name]
    fields = (seen.fields_of(edges[0]) if edges else None) or node.fields
    takes = None
    if mine.required is not None:
        takes = {
            "required": list(mine.required),
            "optional": list(mine.optional),
            "properties": dict(mine.takes),
        }
    return {
        "language": node.language,
        "entry_point": node.entry,
        "hears": [e.origin for e in seen.edges if e.destination == name and e.origin != ENTRY],
        "fields": {field: types.get(field, {}) for field in fields},
        "takes": takes,
    }


def find_breaks(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Finding]:
    """
    Yield the changes from one contract to another that break a subscriber or a caller.

    A new node or field breaks nothing, nor does a type that each subscriber still takes. A
    subscriber that does not say what it takes may break, and is named, too.
    """
    for name, was in old["nodes"].items():
        subscribers = {n: it for n, it in old["nodes"].items() if name in it["hears"]}
        now = new["nodes"].get(name)
        if now is None:
            affected = [*subscribers, *(["calls of the router"] if was["entry_point"] else ())]
            yield from _finding(name, f'the node "{name}" is gone', affected, ())
            continue
        for field, schema in was["fields"].items():
            yield from _changed_field(name, field, schema, now, subscribers)
        if was["entry_point"]:
            yield from _changed_calls(name, was, now)


def _changed_field(
    name: str, field: str, was: Any, now: Mapping[str, Any], subscribers: Mapping[str, Any]
) -> Iterator[Finding]:
    if field not in now["fields"]:
        broken = [n for n, it in subscribers.items() if it["takes"] and _needs(it, field)]
        unknown = [n for n, it in subscribers.items() if it["takes"] is None]
        yield from _finding(name, f"{name} no longer gives {field}", broken, unknown)
        return
    is_now = {field: now["fields"][field]}
    if is_now[field] == was:
        return
    change = next((text for _, text in misfits(is_now, {field: was})), "")
    broken, unknown = [], []
    for subscriber, it in subscribers.items():
        takes = it["takes"]["properties"] if it["takes"] else {}
        if any(misfits(is_now, {k: v for k, v in takes.items() if k == field})):
            broken.append(subscriber)
        elif change and field not in takes and (it["takes"] is None or _names(it, field)):
            unknown.append(subscriber)
    text = f"{name}: {change.replace('is needed', 'was given before')}"
    yield from _finding(name, text, broken, unknown)


def _changed_calls(name: str, was: Any, now: Any) -> Iterator[Finding]:
    callers = ["calls of the router"]
    if not now["entry_point"]:
        yield from _finding(name, f"{name} is no entry point any more", callers, ())
        return
    before, after = was["takes"], now["takes"]
    if before is None or after is None:
        return
    for field in after["required"]:
        if field not in before["required"]:
            yield from _finding(name, f"{name} now needs {field}", callers, ())
    for _, text in misfits(before["properties"], after["properties"]):
        yield from _finding(name, f"{name} takes another type: {text}", callers, ())


def _needs(node: Any, field: str) -> bool:
    return field in node["takes"]["required"]


def _names(node: Any, field: str) -> bool:
    return _needs(node, field) or field in node["takes"]["optional"]


def _finding(
    name: str, text: str, broken: Iterable[str], unknown: Iterable[str]
) -> Iterator[Finding]:
    parts = [f"breaks {', '.join(broken)}"] if broken else []
    if unknown:
        parts.append(f"may break {', '.join(unknown)}, which does not say what it takes")
    if parts:
        yield Finding("contract", name, f"{text}: {'; '.join(parts)}")
