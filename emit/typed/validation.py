"""
The conversion of results and messages to their declared types, by msgspec or pydantic: what
``validate=True`` of ``router.node`` does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from emit.errors import GraphError, NodeError, ResultError
from emit.message import Message
from emit.node import Handler, look_like
from emit.typed import python
from emit.typed.python import is_model, taken_by, types_of

msgspec: Any = python.installed

#: Types whose values need no other look if they are of exactly this type.
_PLAIN = (str, int, float, bool, bytes)

#: Fields to converted fields.
Convert = Callable[[dict[str, Any]], dict[str, Any]]


def converted(fit: Callable[[Any], dict[str, Any]], convert: Convert) -> Convert:
    """Return a function that fits a value to fields, and converts the fields."""

    def fit_and_convert(result: Any) -> dict[str, Any]:
        return convert(fit(result))

    return fit_and_convert


def converter(node: str, names: tuple[str, ...], declared: Any) -> Convert:
    """
    Return the function that converts the fields of a node's result to their types.

    A value that has its type stays the same. Text becomes an instant, a UUID or a Decimal, a list
    becomes a tuple or a set, and a map becomes an object, if the type says so. Other fields of the
    result are not looked at.

    Args:
        node: The node's name, for the error.
        names: Its fields.
        declared: Its declaration, with types.

    Returns:
        The function. It raises :class:`emit.errors.ResultError` for a value that does not fit, and
        names the field and the types, but not the value.

    Raises:
        GraphError: msgspec can't convert to one of the types.

    Example:
        >>> converter("count", ("n",), {"n": int})({"n": 2})
        {'n': 2}
    """
    if is_model(declared):
        return _by_pydantic(node, names, declared)
    types = types_of(declared)
    plain = [(name, types[name]) for name in names if types[name] in _PLAIN]
    # A Struct takes a fifth of the time that a TypedDict takes. Its names are made up, since the
    # name of a field need not be one of Python's.
    made_up = [f"field_{at}" for at in range(len(names))]
    try:
        kind = msgspec.defstruct(
            "Result",
            [(name, types[field]) for name, field in zip(made_up, names, strict=True)],
            rename=dict(zip(made_up, names, strict=True)),
        )
        convert, values, count = msgspec.convert, msgspec.structs.astuple, len(names)
        _try_out(kind)
    except (TypeError, RuntimeError) as error:
        raise GraphError(f'"{node}": its types can\'t be validated: {error}') from error

    def check(fields: dict[str, Any]) -> dict[str, Any]:
        for name, exact in plain:  # a quarter of the time of msgspec, if all fields are plain
            if type(fields[name]) is not exact:
                break
        else:
            if len(plain) == count:
                return fields
        try:
            found = dict(zip(names, values(convert(fields, kind)), strict=True))
        except msgspec.ValidationError as error:
            text = f'"{node}" emitted a value that does not fit its types: {_safe(str(error))}'
            raise ResultError(text, node=node, fields=names) from None
        return found if len(fields) == count else {**fields, **found}

    return check


def _try_out(kind: Any) -> None:
    """Have msgspec look at the types of a class, which it does for the first value."""
    with suppress(msgspec.ValidationError):
        msgspec.convert(None, kind)


def _safe(text: str) -> str:
    """Leave the value out of a text of msgspec: it quotes only those of enums and of tags."""
    if text.startswith(("Invalid enum value", "Invalid value")):
        _, _, place = text.rpartition(" - at ")
        return f"an unknown value - at {place}"
    return text


def _by_pydantic(node: str, names: tuple[str, ...], model: Any) -> Convert:
    invalid = importlib.import_module("pydantic").ValidationError

    def check(fields: dict[str, Any]) -> dict[str, Any]:
        try:
            made = model.model_validate({name: fields[name] for name in names})
        except invalid as error:
            text = f'"{node}" emitted a value that does not fit its types: {_told(error)}'
            raise ResultError(text, node=node, fields=names) from None
        return {**fields, **{name: getattr(made, name) for name in names}}

    return check


def _told(error: Any) -> str:
    """Return the first fault that pydantic has found, without the value."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    return f"{first['type']} - at `$.{'.'.join(map(str, first['loc']))}`"


def taking(node: str, handler: Any) -> Any:
    """
    Return a handler whose message is an object of the class that its parameter is annotated with.

    Returns *handler* itself if it is a program, or is not annotated with a class that has fields.
    Such a handler raises :class:`emit.errors.NodeError` for a message that does not fit.
    """
    kind = None if issubclass(type(handler), Handler) else taken_by(handler)
    if kind is None:
        return handler
    convert, invalid = msgspec.convert, (msgspec.ValidationError,)
    if is_model(kind):
        invalid = (importlib.import_module("pydantic").ValidationError,)

    def taken(*arguments: Any) -> Any:
        *first, message = arguments
        fields = vars(message) if isinstance(message, Message) else message
        try:
            made = kind.model_validate(fields) if is_model(kind) else convert(fields, kind)
        except invalid as error:
            reason = _told(error) if is_model(kind) else _safe(str(error))
            text = f'"{node}" was given a message that does not fit {kind.__qualname__}: {reason}'
            raise NodeError(text) from None
        return handler(*first, made)

    look_like(taken, handler, node)
    return taken
