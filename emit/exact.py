"""
Values as text and back, exactly or not at all: as JSON if JSON carries them, and otherwise as
msgpack in base64. No I/O here.

JSON changes some values silently: tuples, bytes, datetimes, NaN, keys that are not text. Those
values become msgpack, whose extension types stand for the types that msgpack lacks.
"""

from __future__ import annotations

import base64
import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack  # type: ignore[import-untyped]
import orjson

from emit.text import path_to

__all__ = ["Inexact", "from_text", "to_json", "to_text"]

#: The beginning of a text that is not JSON.
_MARK = "msgpack:"

_REFUSALS = (TypeError, ValueError, OverflowError, RecursionError)

_EXACT = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)

#: A NaN or infinity in msgpack: a float64 whose exponent bits are all ones. Another value can
#: contain the same bytes; it then takes the slower way.
_NON_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")


class Inexact(ValueError):
    """
    A value that no text here represents exactly.

    Attributes:
        path: Its place, such as ``"items[3].price"``; empty for the whole value.
        reason: What is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


class _Packer(threading.local):
    """A packer for each thread: reusing a Packer is fast, but two threads can't share one."""

    def __init__(self) -> None:
        self.pack: Callable[[object], bytes] = msgpack.Packer(strict_types=True).pack


_packer = _Packer()


def to_json(value: object) -> bytes | None:
    """
    Return *value* as JSON in UTF-8 that orjson reads as the same value; None if JSON would change
    it.

    Two encoders check it, since each misses something: orjson writes tuples, enums, UUIDs and NaN,
    and the strict packer refuses all of them but NaN. The packer takes bytes and any key, and
    orjson refuses those. Together they take 0.5 to 0.9 us for 100 bytes; a walk in Python takes
    4 us.

    Example:
        >>> to_json({"n": 1}), to_json({"n": (1, 2)})
        (b'{"n":1}', None)
    """
    try:
        text = orjson.dumps(value, None, _EXACT)
        packed = _packer.pack(value)
    except _REFUSALS:
        return None
    if b"\xcb" in packed and _NON_FINITE.search(packed):
        return None
    return text


def to_text(value: object) -> str:
    """
    Return one line of ASCII that represents *value*.

    Carried exactly: None, bool, int of any size, float, str, bytes, list, tuple, dict, datetime
    (its time zone as an offset), date, time, Decimal, UUID. Subclasses of these are refused.

    Raises:
        Inexact: Any other type, a time whose zone is not an offset, a value that contains itself,
            or more levels than can be read again (about 500).

    Example:
        >>> to_text({"n": [1, 2]}), to_text((1, 2))
        ('{"n":[1,2]}', 'msgpack:xwMBkgEC')
    """
    try:
        if _is_json(value):
            return json.dumps(value, separators=(",", ":"))
        return _MARK + base64.b64encode(_pack(value)).decode()
    except _REFUSALS as error:
        raise _explain(value) or Inexact("", _said(error)) from error


def from_text(text: str) -> Any:
    """
    Return the value from which :func:`to_text` made *text*.

    Raises:
        ValueError: :func:`to_text` never makes this text.
    """
    try:
        if not text.startswith(_MARK):
            return json.loads(text)
        return _unpack(base64.b64decode(text.removeprefix(_MARK), validate=True))
    except ValueError:
        raise
    except (KeyError, *_REFUSALS, msgpack.UnpackException, ArithmeticError) as error:
        raise ValueError(_said(error)) from error


def _is_json(value: object) -> bool:
    kind = type(value)
    if kind is dict:
        return all(type(key) is str and _is_json(item) for key, item in value.items())  # type: ignore[attr-defined]
    if kind is list:
        return all(map(_is_json, value))  # type: ignore[call-overload]
    if kind is float:
        return math.isfinite(value)  # type: ignore[arg-type]
    return kind in (str, int, bool, type(None))


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(
        value, strict_types=True, default=_extend, unicode_errors="surrogatepass"
    )
    return packed


def _unpack(data: bytes) -> Any:
    return msgpack.unpackb(
        data, ext_hook=_restore, strict_map_key=False, unicode_errors="surrogatepass"
    )


#: Follows a time without a zone that is the second of its name on the day the clocks go back.
_FOLD = "#"


def _iso(value: date | time) -> bytes:
    text = value.isoformat()
    if isinstance(value, (time, datetime)) and value.utcoffset() is None:
        if value.tzinfo is not None:
            raise ValueError(f"a {type(value).__name__} with a time zone but no offset from UTC")
        text += _FOLD * value.fold
    return text.encode()


def _from_iso(kind: Any) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        text = data.decode()
        if text.endswith(_FOLD):
            return kind.fromisoformat(text.removesuffix(_FOLD)).replace(fold=1)
        return kind.fromisoformat(text)

    return read


#: The types that msgpack lacks: the code of each, and the functions to bytes and back.
_EXTENSIONS: dict[type, tuple[int, Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    int: (2, lambda value: str(value).encode(), int),
    tuple: (3, lambda value: _pack(list(value)), lambda data: tuple(_unpack(data))),
    datetime: (4, _iso, _from_iso(datetime)),
    date: (5, _iso, _from_iso(date)),
    time: (6, _iso, _from_iso(time)),
    Decimal: (7, lambda value: str(value).encode(), lambda data: Decimal(data.decode())),
    UUID: (8, lambda value: value.bytes, lambda data: UUID(bytes=data)),
}
_BY_CODE = {code: restore for code, _, restore in _EXTENSIONS.values()}


def _extend(value: object) -> Any:
    kind = type(value)
    if kind not in _EXTENSIONS:
        raise TypeError(f"{kind.__module__}.{kind.__qualname__} has no exact form as text")
    code, pack, _ = _EXTENSIONS[kind]
    return msgpack.ExtType(code, pack(value))


def _restore(code: int, data: bytes) -> Any:
    try:
        return _BY_CODE[code](data)
    except (KeyError, ValueError, ArithmeticError):
        # Python's own text would quote the unreadable data.
        raise ValueError(f"{len(data)} bytes of the extension {code} are no value of it") from None


# Find the reason for a refusal and its place. This runs only after a refusal, so it may be slow.

#: More levels than this can never be read; a value that contains itself has endless levels.
_DEEP = 500


def _explain(value: object) -> Inexact | None:
    """Return the first culprit in *value*, depth first."""
    left: list[tuple[object, str, int]] = [(value, "", 1)]
    while left:
        part, path, level = left.pop()
        if type(part) not in (dict, list, tuple):
            if (reason := _refusal(part)) is not None:
                return Inexact(path, reason)
        elif level > _DEEP:
            return Inexact("", f"nests deeper than {_DEEP} levels, or contains itself")
        else:
            left += [(*member, level + 1) for member in _members(part, path)][::-1]
    return None


def _members(value: Any, path: str) -> Iterator[tuple[object, str]]:
    """Yield the members of a container, each with its path."""
    if type(value) is not dict:
        yield from ((item, f"{path}[{index}]") for index, item in enumerate(value))
        return
    for number, (key, item) in enumerate(value.items(), 1):
        yield key, f"key {number} of {path or 'the whole'}"
        yield item, path_to(path, key, number)


def _refusal(value: object) -> str | None:
    try:
        _pack(value)
    except _REFUSALS as error:
        return _said(error)
    return None


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
