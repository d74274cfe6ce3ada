"""The types along the edges of a graph, and the edges that can't fit. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emit.checks import Finding
from emit.drawing.outline import Outline
from emit.typed.schema import Misfit, Schema, alternatives, any_of, check_fit


@dataclass(frozen=True)
class Known:
    """
    The types that are known of one node.

    Attributes:
        declared: The types that the router's declaration gives its fields.
        told: The types of its fields by what its program tells of a result.
        takes: The types of its message's fields, as far as its handler states them.
        required: The fields that its message must have; None if they are not known.
        optional: The other fields that its handler names.
        declared_at: The place of its declaration.
        handled_at: The place of its handler.
        is_converted: Its results become the declared types, by ``validate=True``.
    """

    declared: Mapping[str, Schema] = field(default_factory=dict)
    told: Mapping[str, Schema] = field(default_factory=dict)
    takes: Mapping[str, Schema] = field(default_factory=dict)
    required: Sequence[str] | None = None
    optional: Sequence[str] = ()
    declared_at: str = ""
    handled_at: str = ""
    is_converted: bool = False

    @property
    def gives(self) -> dict[str, Schema]:
        """The types of its own fields."""
        return {**self.told, **self.declared}

    def given_at(self, name: str) -> str:
        return self.declared_at if name in self.declared else self.handled_at


def fields_of_result(result: Schema, fields: Sequence[str]) -> dict[str, Schema]:
    """
    Return the type of each field, if a result of this type fills *fields* as a node's result does.

    Example:
        >>> pair = {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]}
        >>> fields_of_result(pair, ("word", "count"))
        {'word': {'type': 'string'}, 'count': {'type': 'integer'}}
    """
    each = [_filled(part, fields) for part in alternatives(result)]
    return {
        name: any_of(part.get(name, {}) for part in each)
        for name in fields
        if all(name in part for part in each)
    }


def _filled(part: Schema, fields: Sequence[str]) -> dict[str, Schema]:
    properties = part.get("properties", {})
    if part.get("type") == "object" and properties and set(fields) <= properties.keys():
        return {name: properties[name] for name in fields}
    if len(fields) == 1:
        return {fields[0]: part}
    if part.get("type") == "array":
        items = part.get("prefixItems", [part.get("items", {})] * len(fields))
        if len(items) == len(fields):
            return dict(zip(fields, items, strict=True))
    return {}


def carried(seen: Outline, known: Mapping[str, Known], origin: str) -> dict[str, Schema]:
    """Return the types of the fields that *origin* sends, also of those that it passes on."""
    return {
        name: schema
        for name in _names(seen, origin)
        if (schema := _type(seen, known, origin, name, ()))
    }


def _names(seen: Outline, origin: str) -> Sequence[str]:
    edges = [edge for edge in seen.edges if edge.origin == origin]
    fields = seen.fields_of(edges[0]) if edges else None
    if fields is None:
        return seen.nodes[origin].fields if origin in seen.nodes else ()
    return fields


def _type(
    seen: Outline, known: Mapping[str, Known], origin: str, name: str, above: tuple[str, ...]
) -> Schema:
    node = seen.nodes.get(origin)
    if node is None or origin in above:
        return {}
    if name in node.fields or not node.pass_through:
        return known.get(origin, Known()).gives.get(name, {})
    origins = [edge.origin for edge in seen.edges if edge.destination == origin]
    # A node that passes fields on in a circle adds nothing to what comes into the circle.
    return any_of(
        _type(seen, known, before, name, (*above, origin))
        for before in origins
        if before not in (*above, origin)
    )


def find_misfits(seen: Outline, known: Mapping[str, Known]) -> Iterator[Finding]:
    """Yield the types that can't fit along an edge, and the programs that break a declaration."""
    for name, node in known.items():
        yield from _broken_declarations(name, node)
    for edge in seen.edges:
        reader = known.get(edge.destination)
        if reader is not None and edge.origin in seen.nodes:
            giver = known.get(edge.origin, Known())
            is_foreign = seen.nodes[edge.destination].foreign
            given = carried(seen, known, edge.origin)
            for field_name, text in misfits(given, reader.takes, fold=is_foreign):
                place = giver.given_at(field_name)
                places = f"{edge.origin} is at {place}, {edge.destination} at {reader.handled_at}"
                where = f"{edge.origin} -> {edge.destination}"
                yield Finding("types", edge.destination, f"{where}: {text} ({places})")


def misfits(
    given: Mapping[str, Schema], takes: Mapping[str, Schema], *, fold: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield the fields that don't fit, with the reason. A field that is missing is passed over."""
    folded = {name.casefold(): name for name in given} if fold else {}
    for name, wanted in takes.items():
        found = name if name in given else folded.get(name.casefold())
        if found is not None:
            try:
                check_fit(given[found], wanted, found, fold=fold)
            except Misfit as error:
                yield found, str(error)


def _broken_declarations(name: str, node: Known) -> Iterator[Finding]:
    if node.is_converted:
        return
    for field_name, text in misfits(node.told, node.declared):
        places = f"the handler is at {node.handled_at}, its declaration at {node.declared_at}"
        yield Finding("types", name, f"{name} gives {field_name}: {text} ({places})")


def relaxed(schema: Any) -> Any:
    """Return a schema that also takes what msgspec converts: text for an instant or bytes."""
    if isinstance(schema, dict):
        return {k: relaxed(part) for k, part in schema.items() if k not in ("format", "enum")}
    return [relaxed(part) for part in schema] if isinstance(schema, list) else schema
