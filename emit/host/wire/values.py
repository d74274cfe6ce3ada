"""Values and bytes, in JSON and msgpack: exactly, or not at all. No I/O here.

1. A value comes out as it went in, or it is refused with the path to it. Nothing is rounded,
   replaced or turned into text on the way. A tuple becomes a list, a datetime becomes UTC.
2. Every value that can be received can be sent on: the depth limits are the same both ways.
3. Bytes from a process are limited before they are decoded, if possible: one megabyte of them can
   decode to 64.

Each encoder misses faults that the other one finds. orjson has no option to refuse an Enum or a
UUID, and turns a NaN into null; msgpack's strict packer refuses the first two and keeps the third.
msgpack takes keys of any type and types that only resemble text or bytes (bytearray, ExtType);
orjson refuses those. So each value goes through both: 0.1 to 0.2 us for 100 bytes. A walk in Python
costs 0.5 us.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NoReturn

import msgpack  # type: ignore[import-untyped]
import orjson

from emit.text import path_to

__all__ = ["MAX_DEPTH", "MAX_ITEMS", "Encoder", "Malformed", "TooDeep", "Unfit"]
__all__ += ["from_json", "from_msgpack", "has_long_numbers", "layers", "why_no_msgpack"]

#: Levels of lists and maps in a message or a result, itself included. orjson allows 253.
MAX_DEPTH = 128

#: Members of lists and maps in a frame, all levels together.
MAX_ITEMS = 10**6

_PASS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_EXACT = _PASS | orjson.OPT_PASSTHROUGH_SUBCLASS
_FAILURES = (TypeError, ValueError, OverflowError, RecursionError)

#: A NaN or infinity in msgpack: a float64 whose exponent bits are all ones.
_NON_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")


class Malformed(ValueError):
    """Bytes that are not a value of the wire, or are over a limit."""


class TooDeep(Malformed):
    """Lists and maps in more levels than allowed."""


class Encoder:
    """
    Turns values into bytes. One per conversation: a Packer is fast if it is reused, but not by two
    threads.

    Each method raises `Unfit`, with the path to the culprit, for a value that it can't carry.

    Example:
        >>> Encoder().json({"n": 1})
        b'{"n":1}'
    """

    def __init__(self) -> None:
        packer = msgpack.Packer(strict_types=True, datetime=True, default=_as_list)
        self._pack = packer.pack

    def json(self, value: object) -> bytes:
        """Encode a value as one JSON text in UTF-8, without a newline."""
        try:
            text = orjson.dumps(value, option=_EXACT)
            packed = self._pack(value)
        except _FAILURES as error:
            raise _explain(value, binary=False, otherwise=str(error)) from None
        if 0xCB in packed and _NON_FINITE.search(packed):
            _refuse_non_finite(value)
        if len(text) > 2 * MAX_DEPTH:
            _check_limits(value, text)
        return text

    def msgpack(self, value: object) -> bytes:
        """Encode a value as one msgpack object."""
        try:
            packed: bytes = self._pack(value)
            text = orjson.dumps(value, _stand_in, _EXACT)
        except _FAILURES as error:
            raise _explain(value, binary=True, otherwise=str(error)) from None
        if len(text) > 2 * MAX_DEPTH:
            _check_limits(value, text)
        return packed

    def repack(self, value: object) -> bytes:
        """Encode a value as `msgpack` does that was decoded here, and needs no check for this."""
        packed: bytes = self._pack(value)
        return packed


def from_json(data: bytes, depth: int = MAX_DEPTH, long_numbers: bool = True) -> Any:
    """
    Return the value of one JSON text.

    Args:
        data: The text. Spaces around it are fine.
        depth: Levels of lists and maps allowed.
        long_numbers: False if `has_long_numbers` was False for this text, or for a longer text
            that contains it.

    Raises:
        Malformed: The text is not JSON, is over a limit, or has an integer beyond 64 bits.
    """
    size = len(data)
    if size >= MAX_ITEMS:
        _check_json_items(data)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"is no JSON: {error.msg}, at character {error.pos + 1}") from None
    if size > 2 * MAX_DEPTH and data.count(b"{") + data.count(b"[") > depth:
        _check_depth(value, depth)
    if size >= MAX_ITEMS and count_items(value) > MAX_ITEMS:
        raise Malformed(f"holds more than {MAX_ITEMS} items")
    if long_numbers and has_long_numbers(data):
        _check_integers(data)
    return value


def has_long_numbers(text: bytes) -> bool:
    """
    Return whether a number in *text* may be an integer beyond 64 bits, which has 19 digits or more.

    orjson turns these integers into floats silently. This takes 0.2 us for a line of 100 bytes, and
    0.06 us per line for a hundred lines at once.
    """
    return _DIGITS in text.translate(_TO_ZEROS)


def from_msgpack(data: bytes, depth: int = MAX_DEPTH) -> Any:
    """
    Return the value of one msgpack object; timestamps become aware datetimes in UTC.

    Args:
        data: The object, and nothing after it.
        depth: Levels of lists and maps allowed.

    Raises:
        Malformed: The data are not msgpack, are over a limit, or have a key that is not text or an
            extension type other than the timestamp.
    """
    try:
        if len(data) < MAX_ITEMS:  # a call of its own: no keywords in a map saves 0.2 us
            value = msgpack.unpackb(data, timestamp=3, ext_hook=refuse_extension)
        else:
            hooks = Hooks().options()
            value = msgpack.unpackb(data, timestamp=3, ext_hook=refuse_extension, **hooks)
    except Malformed:
        raise
    except (ValueError, OverflowError, MemoryError, msgpack.UnpackException) as error:
        raise Malformed(f"is no msgpack: {why_no_msgpack(error)}") from None
    if len(data) > depth and len(data.translate(None, _NO_CONTAINERS)) > depth:
        _check_depth(value, depth)
    # strict_map_key lets bytes through. Most frames have no byte that could start some.
    if 0xC4 in data or 0xC5 in data or 0xC6 in data:
        check_keys(value)
    return value


def why_no_msgpack(error: Exception) -> str:
    """
    Return why msgpack refuses some bytes, without quoting them. Several of msgpack's errors have no
    text, and its error for invalid UTF-8 quotes the bytes.
    """
    if isinstance(error, UnicodeDecodeError):
        return f"a text in it is no UTF-8, from its byte {error.start} on"
    return str(error) or _MEANT.get(type(error).__name__, type(error).__name__)


def layers(value: object) -> Iterator[list[Any]]:
    """Yield the lists and maps in a value, level by level from the outermost."""
    layer: list[Any] = [value] if type(value) in _CONTAINERS else []
    while layer:
        yield layer
        layer = [
            item
            for container in layer
            for item in (container.values() if type(container) is dict else container)
            if type(item) in _CONTAINERS
        ]


def count_items(value: object) -> int:
    """Return the number of members of all lists and maps in a value."""
    return sum(len(container) for layer in layers(value) for container in layer)


class Hooks:
    """Counts the members of lists and maps while they are decoded, for objects too large to be
    counted afterwards."""

    def __init__(self) -> None:
        self.items = 0

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for msgpack."""
        limits = {"max_array_len": MAX_ITEMS, "max_map_len": MAX_ITEMS}
        return {"list_hook": self._count, "object_hook": self._count, **limits}

    def _count(self, container: Any) -> Any:
        self.items += len(container)
        if self.items > MAX_ITEMS:
            raise Malformed(f"holds more than {MAX_ITEMS} items")
        return container


def refuse_extension(code: int, _: bytes) -> NoReturn:
    """Refuse an extension type; the ext_hook for msgpack."""
    raise Malformed(f"holds extension type {code}; only timestamps (-1) are values")


def check_keys(value: object) -> None:
    """Refuse a map with a key that is not text."""
    for layer in layers(value):
        for container in layer:
            if type(container) is dict and not all(type(key) is str for key in container):
                raise Malformed("holds a key that is no text")


#: Texts for the errors of msgpack that have none.
_MEANT = {
    "FormatError": "a byte in it begins no value",
    "StackError": "it nests too deep",
    "OutOfData": "it ends in the middle of a value",
    "BufferFull": "it is too long",
}
_CONTAINERS = frozenset({dict, list, tuple})
_DIGITS = b"0" * 19
_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_STRING = re.compile(rb'"[^"]*"?')
#: All bytes but those that can start a msgpack list or map: 0x80-0x9f, 0xdc-0xdf.
_NO_CONTAINERS = bytes([*range(0x80), *range(0xA0, 0xDC), *range(0xE0, 0x100)])


def _as_list(value: object) -> list[Any]:
    """Turn a tuple into a list and refuse all else; the strict packer's default."""
    if type(value) is tuple:
        return list(value)
    raise TypeError(f"no value of the wire: {type(value).__name__}")


def _stand_in(value: object) -> None:
    """Accept a value that msgpack carries and JSON does not; orjson's default for its check."""
    if type(value) is not bytes and type(value) is not datetime:
        raise TypeError(f"no value of the wire: {type(value).__name__}")


def _refuse_non_finite(value: object) -> None:
    """Raise if a value has a NaN or infinity. Its bytes alone can also be part of an integer."""
    culprit = _explain(value, binary=False, otherwise="")
    if culprit.reason:
        raise culprit


def _check_limits(value: object, text: bytes) -> None:
    """Check depth and size, if the text has enough brackets or bytes to exceed a limit."""
    if len(text) < MAX_ITEMS and text.count(b"{") + text.count(b"[") <= MAX_DEPTH:
        return
    if not _is_within(value, MAX_DEPTH):
        raise _explain(value, binary=True, otherwise=f"nests deeper than {MAX_DEPTH} levels")
    if len(text) >= MAX_ITEMS and count_items(value) > MAX_ITEMS:
        raise Unfit("", f"holds more than {MAX_ITEMS} items")


def _check_depth(value: object, depth: int) -> None:
    if not _is_within(value, depth):
        raise TooDeep(f"nests deeper than {MAX_DEPTH} levels")


def _is_within(value: object, depth: int) -> bool:
    """
    Return whether a value has at most *depth* levels.

    If orjson takes it inside so many lists that a deeper one would be refused, the answer is yes.
    For a group of 200 messages that takes a fifth of the time of counting the levels.
    """
    room = _MOST_LEVELS - depth
    if room > 0:
        wrapped = value
        for _ in range(room):
            wrapped = [wrapped]
        with contextlib.suppress(TypeError):  # also raised for a value that it can't carry
            orjson.dumps(wrapped, _stand_in, _EXACT)
            return True
    return all(level <= depth for level, _ in enumerate(layers(value), 1))


def _most_levels() -> int:
    """Return the levels of lists that orjson takes."""
    value, levels = list[Any](), 1
    while levels < _ENOUGH:
        try:
            orjson.dumps(value)
        except TypeError:
            return levels - 1
        value, levels = [value], levels + 1
    return 0  # it has no limit, so it can't count


_ENOUGH = 1024
_MOST_LEVELS = _most_levels()


def _check_json_items(data: bytes) -> None:
    """Check before decoding: each comma stands for a member, and so does each container but one."""
    if data.count(b",") < MAX_ITEMS and data.count(b"[") + data.count(b"{") <= MAX_ITEMS:
        return
    # Without escapes, text ends at the next quote. So this is linear for any bytes.
    bare = _STRING.sub(b"0", data.replace(rb"\\", b"").replace(rb"\"", b""))
    if bare.count(b",") >= MAX_ITEMS or bare.count(b"[") + bare.count(b"{") > MAX_ITEMS + 1:
        raise Malformed(f"holds more than {MAX_ITEMS} items")


def _check_integers(data: bytes) -> None:
    try:
        json.loads(data, parse_int=_bounded)
    except RecursionError:  # pragma: no cover (orjson's limit and ours come first)
        raise Malformed(f"nests deeper than {MAX_DEPTH} levels") from None


def _bounded(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise Malformed("holds an integer beyond 64 bits")
    return 0


# -- The fault of a refused value ------------------------------------------------------------------

# This runs only after an encoder has refused a message, so it need not be fast.

_VALUES = "str, int, float, bool, None, list or dict"


class Unfit(ValueError):
    """
    A value that can't be carried.

    Attributes:
        path: Its path, such as ``"items[3].price"``; empty for the whole. A key that does not look
            like a name is given by its number, as in ``"prices[key 2]"``.
        reason: The fault of the value, and what would carry it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


def _explain(value: object, *, binary: bool, otherwise: str) -> Unfit:
    """
    Return the error of the first unfit value, depth first.

    Args:
        value: The value that an encoder has refused.
        binary: True for msgpack, which carries more types.
        otherwise: The reason to give if no culprit is found.
    """
    return next(_culprits(value, "", 1, binary), Unfit("", otherwise))


def _culprits(value: object, path: str, level: int, binary: bool) -> Iterator[Unfit]:
    reason = _refusal(value, level, binary)
    if reason:
        yield Unfit(path, reason)
    elif type(value) is dict:
        for number, (key, item) in enumerate(value.items(), 1):
            yield from _culprits(item, path_to(path, key, number), level + 1, binary)
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):  # type: ignore[arg-type]
            yield from _culprits(item, f"{path}[{index}]", level + 1, binary)


def _refusal(value: Any, level: int, binary: bool) -> str:
    """Return why a value, apart from its members, can't be carried; empty if it can."""
    kind = type(value)
    if kind in (dict, list, tuple) and level > MAX_DEPTH:
        return f"nests deeper than {MAX_DEPTH} levels"
    if kind is dict:
        return _key_refusal(value)
    if kind in (bool, type(None), list, tuple):
        return ""
    check = _SCALARS.get(kind)
    if check is None:
        return f"{kind.__module__}.{kind.__qualname__} is no value of the wire; give {_VALUES}"
    return check(value, binary)


def _key_refusal(value: dict[Any, Any]) -> str:
    for key in value:
        if type(key) is not str:
            return f"has a key of type {type(key).__name__}; keys must be str"
        if _text_refusal(key, True):
            return "has a key with a lone surrogate, which is no UTF-8"
    return ""


def _text_refusal(value: str, binary: bool) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        return "a lone surrogate in text is no UTF-8"
    return ""


def _int_refusal(value: int, binary: bool) -> str:
    return "" if -(2**63) <= value < 2**64 else "an integer beyond 64 bits; give it as text"


def _float_refusal(value: float, binary: bool) -> str:
    return "" if binary or math.isfinite(value) else _not_in_json(str(value))


def _bytes_refusal(value: bytes, binary: bool) -> str:
    return "" if binary else _not_in_json("a bytes object")


def _datetime_refusal(value: datetime, binary: bool) -> str:
    if value.utcoffset() is None:
        return "a datetime without a time zone names no instant; give it a tzinfo"
    return "" if binary else _not_in_json("a datetime")


def _not_in_json(what: str) -> str:
    return f'{what} has no form in JSON; codec = "msgpack" on the node carries it'


_SCALARS: dict[type, Callable[[Any, bool], str]] = {
    str: _text_refusal,
    int: _int_refusal,
    float: _float_refusal,
    bytes: _bytes_refusal,
    datetime: _datetime_refusal,
}
