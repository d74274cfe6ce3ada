"""A node's fields, and how one value that it emits fills them. No I/O here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from emit.errors import GraphError, ResultError
from emit.message import Message
from emit.text import names_of

#: What Emit adds to each message of a node: the name of the node that it comes from.
ORIGIN = "_origin"

#: Types whose values can only be a single value: the common case, told without an isinstance.
_SINGLE = frozenset({str, int, float, bool, bytes, type(None)})


def check_fields(name: str, fields: Any) -> tuple[str, ...]:
    """
    The declared fields as a tuple.

    Raises:
        GraphError: Not an ordered iterable of different strings, or a reserved name.
    """
    if isinstance(fields, (str, set, frozenset, Mapping)) or not hasattr(fields, "__iter__"):
        raise GraphError(
            f"\"{name}\": fields must be a tuple or list of names, as in ('word',), not {fields!r}"
        )
    checked: tuple[str, ...] = tuple(fields)
    for field in checked:
        if not isinstance(field, str):
            raise GraphError(f'"{name}": a field\'s name must be a string, not {field!r}')
        if field in (ORIGIN, "keys"):  # one is Emit's own, one is what ** asks a message for
            raise GraphError(f'"{name}": a field can\'t be called "{field}"')
    if len(set(checked)) < len(checked):
        raise GraphError(f'"{name}": a field is named twice in {checked!r}')
    return checked


def make_fit(
    node: str, fields: tuple[str, ...], *, foreign: bool = False
) -> Callable[[Any], dict[str, Any]]:
    """
    Return the function that makes one emitted value a dictionary of the node's fields.

    A tuple fills the fields by position (so does a foreign node's list, if there are several
    fields); a mapping or message with exactly the fields fills them by name; any other value
    fills a single field; and None fills no fields. Nothing is cut off or filled up. Only the
    ``_origin`` of a mapping is dropped, so that ``{**msg, "count": 2}`` emits the same in a graph
    as alone.

    Args:
        node: The node's name, for the error.
        fields: Its fields.
        foreign: It speaks to another program, where a tuple arrives as a list.

    Returns:
        The function. It raises :class:`emit.errors.ResultError` for anything else, and says
        what came and what was declared.

    Example:
        >>> make_fit("count", ("word", "count"))(("rain", 2))
        {'word': 'rain', 'count': 2}
    """
    count = len(fields)
    only = fields[0] if count == 1 else None
    one, two = fields if count == 2 else ("", "")
    names = set(fields)
    rows = (tuple, list) if foreign and count > 1 else tuple

    def fit(result: Any) -> dict[str, Any]:
        if only is not None and type(result) in _SINGLE:
            return {only: result}
        if isinstance(result, rows):
            if len(result) == count:
                if count == 2:  # a third of what zip takes, and the commonest tuple
                    return {one: result[0], two: result[1]}
                return dict(zip(fields, result))  # noqa: B905  # checked; strict= costs 5 % of a hop
        elif isinstance(result, Mapping):
            if result.keys() == names:
                return {field: result[field] for field in fields}
            if ORIGIN in result:
                return fit(without_origin(result))
            if only is not None:
                return {only: result}
        elif isinstance(result, Message) and (own := without_origin(result)).keys() == names:
            return {field: own[field] for field in fields}
        elif only is not None:
            return {only: result}
        elif not fields and result is None:
            return {}
        raise _misfit(node, fields, result)

    return fit


def make_fit_over(
    message: Mapping[str, Any] | Message,
    fit: Callable[[Any], dict[str, Any]],
    fields: tuple[str, ...],
) -> Callable[[Any], dict[str, Any]]:
    """
    Return a *fit* for a node with ``pass_through``: each result also has those fields of *message*
    that it does not name itself.

    A mapping may leave out declared fields that the message has, and may name other fields of the
    message. A mapping that does not name the node's only field is the value of that field.

    Example:
        >>> fit = make_fit_over({"word": "rain"}, make_fit("n", ("count",)), ("count",))
        >>> fit(2), fit({"count": 2, "word": "RAIN"})
        ({'word': 'rain', 'count': 2}, {'word': 'RAIN', 'count': 2})
    """
    passed = without_origin(message)
    declared = set(fields)

    def fit_over(result: Any) -> dict[str, Any]:
        if isinstance(result, (Mapping, Message)):
            own = without_origin(result)
            needed = declared if len(fields) == 1 else declared - passed.keys()
            if needed <= own.keys() <= declared | passed.keys():
                return {**passed, **own}
        return {**passed, **fit(result)}

    return fit_over


def without_origin(fields: Mapping[str, Any] | Message) -> dict[str, Any]:
    """The fields of a message or of a result, without what Emit has added."""
    own: dict[str, Any] = dict(vars(fields) if isinstance(fields, Message) else fields)
    own.pop(ORIGIN, None)
    return own


def _misfit(node: str, fields: tuple[str, ...], result: Any) -> ResultError:
    return ResultError(
        f'"{node}" emitted {_describe(result)}, but its fields are ({", ".join(fields)})',
        node=node,
        fields=fields,
    )


def _describe(result: Any) -> str:
    """What came, by shape and never by content: the text may end in a log."""
    if isinstance(result, (Mapping, Message)):
        return f"a {type(result).__name__} with the keys ({names_of(result)})"
    if isinstance(result, (tuple, list)):
        return f"a {type(result).__name__} of {len(result)} values"
    return f"a single {type(result).__name__}"
