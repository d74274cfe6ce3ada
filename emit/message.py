"""
Messages and results: :class:`Message`, :class:`NoResult` for nothing, and how a value that a node
emits fills the node's fields. No I/O here.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from emit.errors import GraphError, ResultError
from emit.text import names_of

__all__ = ["Message", "NoResult"]

#: The field that Emit adds to each message of a node: the name of the node it comes from.
ORIGIN = "_origin"

#: Types whose values are always a single value: the common case, decided without an isinstance.
_SINGLE = frozenset({str, int, float, bool, bytes, type(None)})

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


class Message:
    """
    A mapping of field names to values, which can also be read as attributes.

    Takes the arguments of ``dict()``. A node's message also has ``_origin``, the name of the node
    it came from (``__entry_point`` for a call of the router). A field wins over a method of
    the same name, so a field may be called ``items``.

    Raises:
        AttributeError: The field that is read is not there. The text lists the fields.

    Example:
        >>> msg = Message(word="rain", count=2)
        >>> msg.word, msg["count"]
        ('rain', 2)
        >>> msg.as_json()
        '{"word": "rain", "count": 2}'
    """

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        # The fields are the instance's own dictionary. Reading one is then a plain attribute
        # look-up (62 ns); a __getattr__ takes 440.
        self.__dict__ = dict(*args, **kwargs)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Message:
        """
        Return a message around this very dictionary. The constructor copies it, which is slower.
        """
        message = cls.__new__(cls)
        message.__dict__ = fields
        return message

    def __getattr__(self, name: str) -> Any:
        # Python calls this only if the look-up has failed.
        there = names_of(self.__dict__) or "nothing"
        raise AttributeError(f'"{name}" is not included in this message (it has: {there})')

    if TYPE_CHECKING:  # lets a type checker accept setting fields

        def __setattr__(self, name: str, value: Any) -> None: ...

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)

    def __contains__(self, name: object) -> bool:
        return name in self.__dict__

    def get(self, name: str, default: Any = None) -> Any:
        """
        Return the field, or *default* if the message has no field of this name.

        Example:
            >>> Message(word="rain").get("count", 1)
            1
        """
        return self.__dict__.get(name, default)

    def keys(self) -> Any:
        """Return the names of the fields, so that ``**message`` and ``dict(message)`` work."""
        return self.__dict__.keys()

    def as_dict(self) -> dict[str, Any]:
        """Return a copy of the fields as a dictionary. Changing it does not change the message."""
        return dict(self.__dict__)

    def as_json(self) -> str:
        """
        Return the fields as one JSON object.

        Raises:
            TypeError: JSON has no form for a value.
        """
        return json.dumps(self.__dict__)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Message):
            return bool(self.__dict__ == other.__dict__)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # its fields can change

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={_short.repr(value)}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"

    def __dir__(self) -> list[str]:
        return sorted(set(map(str, object.__dir__(self))))  # this includes the fields


class NoResult:
    """Return or yield this from a node to send nothing on."""


#: The attributes by which dataclasses, Structs of msgspec, models of pydantic and TypedDicts list
#: their fields, in the order to look: a Struct has annotations, too.
_LISTS = ("__dataclass_fields__", "__struct_fields__", "model_fields", "__total__")

#: Values that stand for no type, although msgspec might take some: a name in quotes, a default.
_NO_TYPES = (str, bytes, int, float, list, tuple, set, dict)


def has_types(fields: Any) -> bool:
    """
    Return True if a declaration of fields also has their types: a dictionary of types, or a
    dataclass, TypedDict, Struct of msgspec or model of pydantic.
    """
    if isinstance(fields, Mapping):
        return not any(isinstance(kind, _NO_TYPES) for kind in fields.values())
    return isinstance(fields, type) and any(hasattr(fields, name) for name in _LISTS)


def _names_in(fields: Any) -> Iterable[str]:
    if not isinstance(fields, type):
        return tuple(fields)
    listed = next(getattr(fields, name) for name in _LISTS if hasattr(fields, name))
    if not isinstance(listed, bool):
        return tuple(listed)
    names: frozenset[str] = fields.__required_keys__  # type: ignore[attr-defined]
    return tuple(name for name in _annotated(fields) if name in names)


def _annotated(fields: type) -> Iterable[str]:
    """Return the keys of a TypedDict, in order; its own come after those of its bases."""
    bases = getattr(fields, "__orig_bases__", ())
    inner = [name for base in bases if hasattr(base, "__total__") for name in _annotated(base)]
    return dict.fromkeys([*inner, *fields.__annotations__])


def check_fields(name: str, fields: Any) -> tuple[str, ...]:
    """
    Return the names of the declared fields as a tuple.

    Raises:
        GraphError: Neither an ordered iterable of different strings, nor names with types; or a
            reserved name.
    """
    is_typed = has_types(fields)
    if not is_typed and (
        isinstance(fields, (str, set, frozenset, Mapping)) or not hasattr(fields, "__iter__")
    ):
        raise GraphError(
            f"\"{name}\": fields must be a tuple or list of names, as in ('word',), or names with "
            f"types, as in {{'word': str}}, not {fields!r}"
        )
    if getattr(fields, "__optional_keys__", None):
        optional = ", ".join(sorted(fields.__optional_keys__))
        raise GraphError(
            f'"{name}": a result has all its fields, and {fields.__name__} may lack {optional}; '
            f"write a type with None, such as int | None"
        )
    checked: tuple[str, ...] = tuple(_names_in(fields) if is_typed else fields)
    for field in checked:
        if not isinstance(field, str):
            raise GraphError(f'"{name}": a field\'s name must be a string, not {field!r}')
        if field in (ORIGIN, "keys"):  # Emit's own, and the method that ** calls on a message
            raise GraphError(f'"{name}": a field can\'t be called "{field}"')
    if len(set(checked)) < len(checked):
        raise GraphError(f'"{name}": a field is named twice in {checked!r}')
    return checked


def make_fit(
    node: str, fields: tuple[str, ...], *, foreign: bool = False, of: Any = None
) -> Callable[[Any], dict[str, Any]]:
    """
    Return the function that makes one emitted value a dictionary of the node's fields.

    A tuple fills the fields by position (so does a foreign node's list, if there are several
    fields). A mapping or message with exactly the fields fills them by name. Any other value fills
    a single field. None fills no fields. Nothing is cut off or filled up. Only the ``_origin`` of a
    mapping is dropped, so that ``{**msg, "count": 2}`` emits the same in a graph as alone.

    Args:
        node: The node's name, for the error.
        fields: Its fields.
        foreign: The node runs another program, where a tuple arrives as a list.
        of: The declaration of the fields. If it is a class, such as a dataclass, an instance fills
            the fields by their names.

    Returns:
        The function. It raises :class:`emit.errors.ResultError` for anything else, and names the
        shape of the value and the declared fields.

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
                if count == 2:  # a third of zip's time, and the commonest tuple
                    return {one: result[0], two: result[1]}
                return dict(zip(fields, result))  # noqa: B905  # checked; strict= costs 5 % of a hop
        elif isinstance(result, Mapping):
            if result.keys() == names:
                if only is not None:
                    return {only: result[only]}
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

    if not isinstance(of, type) or issubclass(of, dict):  # a TypedDict's results are dictionaries
        return fit

    def fit_of(result: Any) -> dict[str, Any]:
        if isinstance(result, of):
            return {field: getattr(result, field) for field in fields}
        return fit(result)

    return fit_of


def make_fit_over(
    message: Mapping[str, Any] | Message,
    fit: Callable[[Any], dict[str, Any]],
    fields: tuple[str, ...],
) -> Callable[[Any], dict[str, Any]]:
    """
    Return a *fit* for a node with ``pass_through``. Each result also has the fields of *message*
    that the result does not name.

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
    """Return the fields of a message or of a result, without Emit's own ``_origin``."""
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
    """Describe a result by its shape, never by its content: the text may end in a log."""
    if isinstance(result, (Mapping, Message)):
        return f"a {type(result).__name__} with the keys ({names_of(result)})"
    if isinstance(result, (tuple, list)):
        return f"a {type(result).__name__} of {len(result)} values"
    return f"a single {type(result).__name__}"
