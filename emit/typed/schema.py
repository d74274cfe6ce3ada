"""
The subset of JSON Schema in which programs and routers tell types, and how one schema fits another.
No I/O here.

PROTOCOL.md lists the keywords. A schema without any of them, ``{}``, takes every value. Emit's own
formats of values that are not plain JSON: ``date-time`` is an instant, ``binary`` is bytes, and a
number of the format ``double`` is a float of 64 bits, even if it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Schema = dict[str, Any]

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

#: Formats that are types of their own on the wire. Others, such as uuid, are texts.
_FORMATS = ("date-time", "binary", "double")

#: The largest whole number up to which a double has every whole number.
SAFE = 2**53 - 1


def subset(
    schema: Any, defs: Mapping[str, Any], *, floats: bool, above: tuple[str, ...] = ()
) -> Any:
    """
    Return a schema in the subset, with its references replaced by what they refer to.

    A reference to a schema around itself becomes ``{}``. An unknown keyword is left out.

    Args:
        schema: Any JSON Schema of msgspec, pydantic or a program.
        defs: Its definitions by name.
        floats: A number is a float, also if it is whole: true of what Python and Go give.
        above: The names of the definitions around this one.
    """
    if not isinstance(schema, Mapping):
        return {}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = reference.rpartition("/")[2]
        if name in above or name not in defs:
            return {}
        return subset(defs[name], defs, floats=floats, above=(*above, name))

    def inner(part: Any) -> Any:
        return subset(part, defs, floats=floats, above=above)

    if isinstance(schema.get("allOf"), list) and len(schema["allOf"]) == 1:
        return inner(schema["allOf"][0])
    alternatives = schema.get("anyOf", schema.get("oneOf"))
    if isinstance(alternatives, list) and alternatives:
        return {"anyOf": [inner(part) for part in alternatives]}
    return _one(schema, inner, floats)


def _one(schema: Mapping[str, Any], inner: Callable[[Any], Any], floats: bool) -> Schema:
    made: Schema = {}
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    kind = schema.get("type")
    if isinstance(values, list):
        made["enum"] = values
        kind = kind if kind is not None else list(dict.fromkeys(map(type_of, values)))
        kind = kind[0] if isinstance(kind, list) and len(kind) == 1 else kind
    if isinstance(kind, list) or kind in TYPES:
        made["type"] = kind
    form = schema.get("format")
    if "contentEncoding" in schema and kind == "string":
        form = "binary"
    if floats and kind == "number" and values is None:
        form = "double"
    if form in _FORMATS:
        made["format"] = form
    for bound in ("minimum", "maximum"):
        if isinstance(schema.get(bound), (int, float)):
            made[bound] = schema[bound]
    if isinstance(schema.get("prefixItems"), list):
        made["prefixItems"] = [inner(part) for part in schema["prefixItems"]]
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), Mapping):
            made[name] = inner(schema[name])
    if isinstance(schema.get("properties"), Mapping):
        made["properties"] = {str(k): inner(part) for k, part in schema["properties"].items()}
        required = schema.get("required")
        made["required"] = [str(k) for k in required] if isinstance(required, list) else []
    return made


def type_of(value: Any) -> str:
    """Return the name of a JSON value's type."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    names = ((int, "integer"), (float, "number"), (str, "string"), (Mapping, "object"))
    return next((name for kind, name in names if isinstance(value, kind)), "array")


def alternatives(schema: Schema) -> Iterator[Schema]:
    """Yield the schemas of single types that a schema allows; ``{}`` for anything."""
    if "anyOf" in schema:
        for part in schema["anyOf"]:
            yield from alternatives(part)
    elif isinstance(schema.get("type"), list):
        for kind in schema["type"]:
            yield {**schema, "type": kind}
    else:
        yield schema if "type" in schema else {}


def any_of(schemas: Iterable[Schema]) -> Schema:
    """Return the schema of a value that fits one of *schemas*."""
    each: list[Schema] = []
    for schema in schemas:
        each += [part for part in alternatives(schema) if part not in each]
    return (
        {"anyOf": each}
        if len(each) > 1 and {} not in each
        else (each or [{}])[0]
        if {} not in each
        else {}
    )


def describe(schema: Schema) -> str:
    """
    Return what a schema allows, for people.

    Example:
        >>> describe({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]})
        'array of string or null'
    """
    return " or ".join(dict.fromkeys(map(_described, alternatives(schema))))


def _described(schema: Schema) -> str:
    kind = str(schema.get("type", "anything"))
    named = {"date-time": "instant", "binary": "bytes", "double": "float"}
    text = named.get(schema.get("format", ""), kind)
    if kind == "array" and schema.get("items"):
        text += f" of {describe(schema['items'])}"
    if kind == "object" and schema.get("additionalProperties"):
        text += f" of {describe(schema['additionalProperties'])}"
    if kind == "integer" and "maximum" in schema:
        text += f" up to {schema['maximum']}"
    return text


class Misfit(Exception):
    """A value of one schema may not fit another. The text says which part, and why."""


def check_fit(given: Schema, wanted: Schema, path: str = "", *, fold: bool = False) -> None:
    """
    Raise if values of one schema certainly include values that another one does not take.

    A range counts only if it is stated: an integer without one may be of any size, and that says
    nothing. In the same way an unknown part, a text for one of several values, and a map of any
    keys for an object of certain ones pass.

    Args:
        given: The schema of what is given.
        wanted: The schema of what is taken.
        path: The place of the value, for the text.
        fold: Names that differ only in case are the same, as they are to Go.

    Raises:
        Misfit: They don't fit.

    Example:
        >>> check_fit({"type": "string"}, {"type": "integer"}, "count")
        Traceback (most recent call last):
        ...
        emit.typed.schema.Misfit: count is string, and integer is needed
    """
    takes = list(alternatives(wanted))
    if {} in takes:
        return
    for part in alternatives(given):
        if part == {}:
            continue
        failures = list(_failures(part, takes, path, fold))
        if len(failures) == len(takes):
            deeper = [text for text in failures if text is not None]
            if deeper:
                raise Misfit(deeper[0])
            raise Misfit(f"{path} is {describe(given)}, and {describe(wanted)} is needed")


def _failures(part: Schema, takes: list[Schema], path: str, fold: bool) -> Iterator[str | None]:
    for wanted in takes:
        try:
            if not _same_type(part, wanted):
                yield None
                continue
            _check_range(part, wanted, path)
            _check_values(part, wanted, path)
            _check_array(part, wanted, path, fold)
            _check_object(part, wanted, path, fold)
        except Misfit as error:
            yield str(error)


def _same_type(given: Schema, wanted: Schema) -> bool:
    kinds = given["type"], wanted["type"]
    if kinds == ("integer", "number"):
        return True
    if kinds == ("number", "integer"):
        return given.get("format") != "double"  # a whole number of JavaScript is an integer
    if kinds == ("string", "string"):
        texts = [
            it.get("format") if it.get("format") in _FORMATS else None for it in (given, wanted)
        ]
        return texts[0] == texts[1]
    return bool(kinds[0] == kinds[1])


def _check_range(given: Schema, wanted: Schema, path: str) -> None:
    low, high = given.get("minimum"), given.get("maximum")
    if wanted.get("format") == "double" and given["type"] == "integer":
        if max(-(low or 0), high or 0) > SAFE:
            raise Misfit(
                f"{path} is {describe(given)}, and a double has whole numbers up to {SAFE}"
            )
        return
    if high is not None and high > wanted.get("maximum", high):
        raise Misfit(f"{path} goes up to {high}, and at most {wanted['maximum']} is taken")
    if low is not None and low < wanted.get("minimum", low):
        raise Misfit(f"{path} goes down to {low}, and at least {wanted['minimum']} is taken")


def _check_values(given: Schema, wanted: Schema, path: str) -> None:
    if "enum" in given and "enum" in wanted:
        other = [value for value in given["enum"] if value not in wanted["enum"]]
        if other:
            raise Misfit(f"{path} may be {other[0]!r}, which is none of {wanted['enum']}")


def _check_array(given: Schema, wanted: Schema, path: str, fold: bool) -> None:
    if given["type"] != "array":
        return
    ours, theirs = given.get("prefixItems"), wanted.get("prefixItems")
    if ours is not None and theirs is not None and len(ours) != len(theirs):
        raise Misfit(f"{path} has {len(ours)} items, and {len(theirs)} are needed")
    if ours is None and "items" in given:
        ours = [given["items"]] * len(theirs or [{}])
    for at, part in enumerate(ours or ()):
        target = theirs[at] if theirs is not None else wanted.get("items", {})
        check_fit(part, target, f"{path}[{at if given.get('prefixItems') else ''}]", fold=fold)


def _check_object(given: Schema, wanted: Schema, path: str, fold: bool) -> None:
    if given["type"] != "object":
        return
    check_fields(given, wanted, path, fold=fold)
    if "additionalProperties" in given and "additionalProperties" in wanted:
        inner = given["additionalProperties"], wanted["additionalProperties"]
        check_fit(*inner, f"{path}.*", fold=fold)


def check_fields(given: Schema, wanted: Schema, path: str = "", *, fold: bool = False) -> None:
    """
    Raise if an object of one schema lacks a field that another needs, or has one that doesn't fit.

    Raises:
        Misfit: They don't fit.
    """
    if "properties" not in given:
        return
    form = str.casefold if fold else str
    names = {form(name): name for name in given["properties"]}
    for name, target in wanted.get("properties", {}).items():
        where = f"{path}.{name}" if path else name
        found = name if name in given["properties"] else names.get(form(name))
        needed = name in wanted.get("required", ())
        if found is not None:
            if needed and found not in given.get("required", ()):
                raise Misfit(f"{where} may be missing, and it is needed")
            check_fit(given["properties"][found], target, where, fold=fold)
        elif needed and "additionalProperties" not in given:
            raise Misfit(f"{where} is missing, and it is needed")
    if "additionalProperties" in wanted:
        for name, part in given["properties"].items():
            if name not in wanted.get("properties", {}):
                where = f"{path}.{name}" if path else name
                check_fit(part, wanted["additionalProperties"], where, fold=fold)
