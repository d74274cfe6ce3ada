"""
Find the reason why the wire can't carry a value, and the value's path in the message. No I/O here.

Runs only after an encoder has refused a message, so it need not be fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from emit.text import path_to

__all__ = ["MAX_DEPTH", "MAX_FRAME", "MAX_ITEMS", "Unfit", "explain"]

#: Levels of lists and maps in a message or a result, itself included. orjson allows 253.
MAX_DEPTH = 128

#: Members of lists and maps in a frame, all levels together.
MAX_ITEMS = 10**6

#: Bytes of the largest frame, and the limit of max_frame. Below 2**24, so that the length of a
#: msgpack frame starts with a zero byte, and no line of text does.
MAX_FRAME = 2**24 - 1

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


def explain(value: object, *, binary: bool, otherwise: str) -> Unfit:
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
