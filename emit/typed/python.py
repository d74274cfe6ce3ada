"""The types of Python as JSON Schema, by msgspec or pydantic."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from types import FunctionType, MethodType
from typing import Any

from emit.errors import GraphError
from emit.message import has_types
from emit.typed.schema import Schema, subset

try:
    import msgspec
except ImportError as error:
    raise GraphError("types of fields need msgspec: pip install 'emit-graph[typed]'") from error


#: msgspec, for the modules beside this one.
installed = msgspec


def types_of(declared: Any) -> dict[str, Any]:
    """
    Return the type of each field of a declaration.

    Raises:
        GraphError: An annotation names a type that does not exist.

    Example:
        >>> types_of({"word": str, "count": int})
        {'word': <class 'str'>, 'count': <class 'int'>}
    """
    if isinstance(declared, Mapping):
        return dict(declared)
    try:
        hints = typing.get_type_hints(declared, include_extras=True)
    except (NameError, TypeError) as error:
        raise GraphError(f"the types of {declared.__qualname__} can't be read: {error}") from error
    if is_model(declared):
        return {name: hints[name] for name in declared.model_fields}
    # A ClassVar is no field.
    return {name: kind for name, kind in hints.items() if typing.get_origin(kind) is not _CLASSVAR}


_CLASSVAR = typing.get_origin(typing.ClassVar[int])


def is_model(declared: Any) -> bool:
    """Return True for a model of pydantic."""
    return isinstance(declared, type) and hasattr(declared, "model_json_schema")


def schemas_of(declared: Any, *, gives: bool) -> dict[str, Schema]:
    """
    Return the schema of each field of a declaration. A type that has no schema is ``{}``: anything.

    Args:
        declared: A dictionary of types, or a class that :func:`emit.message.has_types` takes.
        gives: The fields are a node's results; False: they are the message of a handler.

    Example:
        >>> schemas_of({"word": str, "score": float}, gives=True)
        {'word': {'type': 'string'}, 'score': {'type': 'number', 'format': 'double'}}
    """
    if is_model(declared):
        whole = declared.model_json_schema(mode="serialization" if gives else "validation")
        made = subset(whole, whole.get("$defs", {}), floats=gives)
        found: dict[str, Schema] = made["properties"]
        return found
    return {name: schema_of(kind, gives=gives) for name, kind in types_of(declared).items()}


def schema_of(kind: Any, *, gives: bool) -> Schema:
    """Return the schema of one type; ``{}`` if it has none."""
    if is_model(kind):
        whole = kind.model_json_schema()
        return _cut(whole, whole.get("$defs", {}), gives)
    try:
        (schema,), defs = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    except (TypeError, RuntimeError, AttributeError):
        return {}
    return _cut(schema, defs, gives)


def _cut(schema: Any, defs: Mapping[str, Any], gives: bool) -> Schema:
    made: Schema = subset(schema, defs, floats=gives)
    return made


def required_of(declared: Any) -> tuple[str, ...]:
    """Return the fields of a class that have no default: a message must have them."""
    if is_model(declared):
        return tuple(name for name, field in declared.model_fields.items() if field.is_required())
    if hasattr(declared, "__total__"):
        return tuple(name for name in types_of(declared) if name in declared.__required_keys__)
    info: Any = msgspec.inspect.type_info(declared)
    return tuple(field.name for field in info.fields if field.required)


def taken_by(handler: Any) -> Any:
    """
    Return the class that a handler's last positional parameter is annotated with, if it is one with
    fields; None for anything else.
    """
    function = _function(handler)
    if function is None:
        return None
    code = function.__code__
    if not code.co_argcount:
        return None
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):
        return None
    kind = hints.get(code.co_varnames[code.co_argcount - 1])
    return kind if isinstance(kind, type) and has_types(kind) else None


def _function(handler: Any) -> FunctionType | None:
    called: Callable[..., Any] = handler
    if not isinstance(handler, (FunctionType, MethodType)):
        called = type(handler).__call__
    while hasattr(called, "__wrapped__"):
        called = called.__wrapped__
    called = getattr(called, "__func__", called)
    return called if isinstance(called, FunctionType) else None
