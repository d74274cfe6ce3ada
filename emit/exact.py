"""
Values as text and back, exactly or not at all: as JSON where that carries them, and otherwise as
msgpack in base64. No I/O here.

What JSON changes without a word (a tuple, bytes, a datetime, NaN, keys that are no text) takes
the second way, where msgpack's extension types stand for what it lacks, too.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack  # type: ignore[import-untyped]

__all__ = ["Inexact", "from_text", "to_text"]

#: What a text that is no JSON begins with.
_MARK = "msgpack:"

_REFUSALS = (TypeError, ValueError, OverflowError, RecursionError)


class Inexact(ValueError):
    """A value that no text here stands for exactly."""


def to_text(value: object) -> str:
    """
    One line of ASCII that stands for *value*.

    Carried exactly: None, bool, int of any size, float, str, bytes, list, tuple, dict, datetime
    (its time zone as an offset), date, time, Decimal, UUID. Subclasses of these are refused.

    Raises:
        Inexact: Any other type, a circle, or more levels than can be read again (about 500).

    Example:
        >>> to_text({"n": [1, 2]}), to_text((1, 2))
        ('{"n":[1,2]}', 'msgpack:xwMBkgEC')
    """
    try:
        if _is_json(value):
            return json.dumps(value, separators=(",", ":"))
        return _MARK + base64.b64encode(_pack(value)).decode()
    except _REFUSALS as error:
        raise Inexact(str(error) or type(error).__name__) from error


def from_text(text: str) -> Any:
    """
    The value that :func:`to_text` made *text* of.

    Raises:
        ValueError: It made no such text.
    """
    if not text.startswith(_MARK):
        return json.loads(text)
    return _unpack(base64.b64decode(text.removeprefix(_MARK), validate=True))


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


#: The types that msgpack lacks: the code of each, and how it becomes bytes and back.
_EXTENSIONS: dict[type, tuple[int, Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    int: (2, lambda value: str(value).encode(), int),
    tuple: (3, lambda value: _pack(list(value)), lambda data: tuple(_unpack(data))),
    datetime: (4, lambda value: _iso(value), lambda data: datetime.fromisoformat(data.decode())),
    date: (5, lambda value: _iso(value), lambda data: date.fromisoformat(data.decode())),
    time: (6, lambda value: _iso(value), lambda data: time.fromisoformat(data.decode())),
    Decimal: (7, lambda value: str(value).encode(), lambda data: Decimal(data.decode())),
    UUID: (8, lambda value: value.bytes, lambda data: UUID(bytes=data)),
}
_BY_CODE = {code: restore for code, _, restore in _EXTENSIONS.values()}


def _iso(value: date | time) -> bytes:
    return value.isoformat().encode()


def _extend(value: object) -> Any:
    kind = type(value)
    if kind not in _EXTENSIONS:
        raise TypeError(f"{kind.__module__}.{kind.__qualname__} has no exact form as text")
    code, pack, _ = _EXTENSIONS[kind]
    return msgpack.ExtType(code, pack(value))


def _restore(code: int, data: bytes) -> Any:
    return _BY_CODE[code](data)
