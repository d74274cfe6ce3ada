"""The frames, their fields, and everything else a reader can find on the pipe. No I/O here.

A frame is a NamedTuple and not a frozen dataclass. Both are immutable, but a NamedTuple is made in
a third of the time (0.16 against 0.45 us), and there is one for every message.

`FIELDS` is the only list of the fields of each frame. The checks, the writing side and the tables
of ``runtimes/PROTOCOL.md`` all come from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from emit.errors import ProtocolError

__all__ = [
    "FIELDS",
    "FROM_HOST",
    "MAX_FRAME",
    "OPS",
    "VERSION",
    "BadFrame",
    "Broken",
    "Bye",
    "Call",
    "Calls",
    "Cancel",
    "End",
    "Ends",
    "Err",
    "Failure",
    "Field",
    "Frame",
    "Hello",
    "Log",
    "Out",
    "Ping",
    "Pong",
    "Read",
    "Ready",
    "Stray",
    "TooLarge",
    "Unmatched",
    "Violation",
    "from_wire",
    "op_of",
    "to_wire",
]

#: The version of the protocol that this host speaks.
VERSION = 1

#: Bytes of the largest frame, and the limit of max_frame. Below 2**24, so that the length of a
#: msgpack frame starts with a zero byte, and no line of text does.
MAX_FRAME = 2**24 - 1

#: The last step of a NamedTuple's own constructor, in two thirds of its time.
_new = tuple.__new__

_NOTHING: Mapping[str, Any] = {}


class Hello(NamedTuple):
    """Host: the first frame, once."""

    v: Sequence[int]
    codecs: Sequence[str]
    node: str
    max_frame: int
    config: Mapping[str, Any] | None = None


class Ready(NamedTuple):
    """Process: the answer to hello, once the author's code has loaded."""

    v: int
    codec: str = "json"
    sdk: str = ""
    concurrency: int = 1
    nodes: Sequence[str] = ()
    inputs: Mapping[str, Any] = _NOTHING
    caps: Sequence[str] = ()
    outputs: Mapping[str, Any] = _NOTHING


class Call(NamedTuple):
    """Host: one message for a handler."""

    id: int
    msg: Mapping[str, Any]
    node: str | None = None
    meta: Mapping[str, Any] | None = None


class Calls(NamedTuple):
    """
    Host: a group of calls. Their ids are *id* and the next ones, one for each of *msgs*. *metas*
    has what the meta of each call has beyond the common one.
    """

    id: int
    msgs: Sequence[Mapping[str, Any]]
    node: str | None = None
    meta: Mapping[str, Any] | None = None
    metas: Sequence[Mapping[str, Any] | None] | None = None


class Out(NamedTuple):
    """Process: results so far of a call that goes on."""

    id: int
    msgs: Sequence[Any]


class End(NamedTuple):
    """Process: a call's success, with its last results."""

    id: int
    msgs: Sequence[Any] = ()


class Ends(NamedTuple):
    """
    Process: the success of a group of calls. Their ids are *id* and the next ones, one for each of
    *msgs*, which are the last results of each.
    """

    id: int
    msgs: Sequence[Sequence[Any]]


class Err(NamedTuple):
    """Process: a call's failure."""

    id: int
    type: str
    message: str
    stack: Sequence[str] = ()
    retry: bool | None = None
    after: float | None = None
    cause: Mapping[str, Any] | None = None
    timeout: bool | None = None


class Failure(NamedTuple):
    """Process: an err whose id is null. It cannot go on (its code did not load) and exits."""

    type: str
    message: str
    stack: Sequence[str] = ()
    retry: bool | None = None
    after: float | None = None
    cause: Mapping[str, Any] | None = None


class Log(NamedTuple):
    """Process: a line for Python's logging."""

    level: str
    text: str
    id: int | None = None
    fields: Mapping[str, Any] | None = None


class Cancel(NamedTuple):
    """Host: the answer to a call is no longer wanted."""

    id: int


class Ping(NamedTuple):
    """Host: are you there?"""

    n: int


class Pong(NamedTuple):
    """Process: the answer to the ping with the same n."""

    n: int


class Bye(NamedTuple):
    """Host: finish what is open, then exit 0."""


class Stray(NamedTuple):
    """A line that is not a frame: the author's print. At most its first 8 KiB."""

    data: bytes


class TooLarge(NamedTuple):
    """A frame over the limit, skipped. Size is None if it was not known in advance. Id and op are
    None if the start of the frame did not tell them. Last is False for an out: others follow it."""

    size: int | None
    limit: int
    id: int | None = None
    last: bool = True
    op: str | None = None


class Violation(NamedTuple):
    """Bytes that break the protocol. Nothing after them can be trusted, so reading stops."""

    reason: str
    sample: bytes


class Unmatched(NamedTuple):
    """An answer to no open call. Discard the process once its open calls are done."""

    frame: Out | End | Ends | Err


class Broken(NamedTuple):
    """The last event: the process broke the protocol. ``Session.open`` has the waiting calls."""

    error: ProtocolError


Frame = (
    Hello
    | Ready
    | Call
    | Calls
    | Out
    | End
    | Ends
    | Err
    | Failure
    | Log
    | Cancel
    | Ping
    | Pong
    | Bye
)
Read = Frame | Stray | TooLarge | Violation


class Field(NamedTuple):
    """One field of a frame: the name of its type, and whether it is required."""

    kind: str
    required: bool = False


_FAILED = {
    "type": Field("str", True),
    "message": Field("str", True),
    "stack": Field("list of str"),
    "retry": Field("bool"),
    "after": Field("seconds"),
    "cause": Field("map"),
}

FIELDS: dict[type[Frame], dict[str, Field]] = {
    Hello: {
        "v": Field("list of int", True),
        "codecs": Field("list of str", True),
        "node": Field("str", True),
        "max_frame": Field("int", True),
        "config": Field("map"),
    },
    Ready: {
        "v": Field("int", True),
        "codec": Field("str"),
        "sdk": Field("str"),
        "concurrency": Field("count"),
        "nodes": Field("list of str"),
        "inputs": Field("map"),
        "outputs": Field("map"),
        "caps": Field("list of str"),
    },
    Call: {
        "id": Field("int", True),
        "msg": Field("map", True),
        "node": Field("str"),
        "meta": Field("map"),
    },
    Calls: {
        "id": Field("int", True),
        "msgs": Field("list of map", True),
        "node": Field("str"),
        "meta": Field("map"),
        "metas": Field("list"),
    },
    Out: {"id": Field("int", True), "msgs": Field("list", True)},
    End: {"id": Field("int", True), "msgs": Field("list")},
    Ends: {"id": Field("int", True), "msgs": Field("list of list", True)},
    Err: {"id": Field("int", True), **_FAILED, "timeout": Field("bool")},
    Failure: _FAILED,
    Log: {
        "level": Field("str", True),
        "text": Field("str", True),
        "id": Field("int"),
        "fields": Field("map"),
    },
    Cancel: {"id": Field("int", True)},
    Ping: {"n": Field("int", True)},
    Pong: {"n": Field("int", True)},
    Bye: {},
}


#: The frames that a host sends. A process sends the others.
FROM_HOST = (Hello, Call, Calls, Cancel, Ping, Bye)


def op_of(kind: type[Frame]) -> str:
    """Return the ``op`` of a frame's type."""
    return "err" if kind is Failure else kind.__name__.lower()


#: The frame of each ``op``. An err with id null is a Failure.
OPS = {op_of(kind): kind for kind in FIELDS if kind is not Failure}


class BadFrame(ValueError):
    """A map with a known op and a field that is missing or of the wrong type."""


def from_wire(fields: Mapping[str, Any]) -> Frame | None:
    """
    Return the frame in a decoded map; None if its op is unknown, as later versions may add some.

    Raises:
        BadFrame: A field is missing or of the wrong type.

    Example:
        >>> from_wire({"op": "end", "id": 7, "msgs": [1]})
        End(id=7, msgs=[1])
    """
    op = fields.get("op")
    if op == "end":  # one per message; the table below costs 2 us
        id, msgs = fields.get("id"), fields.get("msgs")
        if type(id) is int and type(msgs) is list:
            return _new(End, (id, msgs))
    if op == "call" and len(fields) == 4:  # a shared host gets one per message
        id, msg, meta = fields.get("id"), fields.get("msg"), fields.get("meta")
        if type(id) is int and type(msg) is dict and type(meta) is dict:
            return _new(Call, (id, msg, None, meta))
    kind = OPS.get(op) if type(op) is str else None
    if kind is None:
        return None
    if kind is Err and fields.get("id", 0) is None:
        kind = Failure
    return kind(**{name: fields[name] for name in _present(kind, fields)})


def to_wire(frame: Frame) -> dict[str, Any]:
    """Return the map that stands for a frame; fields at their default are left out."""
    kind = type(frame)
    fields: dict[str, Any] = {"op": op_of(kind)}
    if kind is Failure:
        fields["id"] = None
    defaults = kind._field_defaults
    for name, value in frame._asdict().items():
        if name not in defaults or value != defaults[name]:
            fields[name] = value
    return fields


def _present(kind: type[Frame], fields: Mapping[str, Any]) -> list[str]:
    """Return the fields to take. If a field is optional, a null counts as absent."""
    present = []
    for name, field in FIELDS[kind].items():
        value = fields.get(name)
        if value is None and not field.required:
            continue
        if not _CHECKS[field.kind](value):
            raise BadFrame(_complaint(kind, name, field, name in fields, value))
        present.append(name)
    return present


def _complaint(kind: type[Frame], name: str, field: Field, given: bool, value: object) -> str:
    what = f"{type(value).__name__}, not {field.kind}" if given else "missing"
    if given and field.kind.startswith("list of") and value == []:
        what = f"empty, not a {field.kind}"
    if given and field.kind == "count" and _is_int(value):
        what = f"{value}, not 1 or more"
    return f"the {name} of {op_of(kind)!r} is {what}"


def _is_int(value: object) -> bool:
    return type(value) is int


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and type(value) is not bool and 0 <= value < math.inf


def _list_of(kind: type) -> Callable[[object], bool]:
    return lambda value: (
        isinstance(value, (list, tuple)) and all(type(item) is kind for item in value)
    )


def _some_of(kind: type) -> Callable[[object], bool]:
    """Return the check of a group: as `_list_of`, and not empty."""
    check = _list_of(kind)
    return lambda value: bool(value) and check(value)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "int": _is_int,
    "count": lambda value: _is_int(value) and value >= 1,
    "str": lambda value: type(value) is str,
    "bool": lambda value: type(value) is bool,
    "seconds": _is_seconds,
    "map": lambda value: isinstance(value, Mapping),
    "list": lambda value: isinstance(value, (list, tuple)),
    "list of int": _list_of(int),
    "list of str": _list_of(str),
    "list of map": _some_of(dict),
    "list of list": _some_of(list),
}
