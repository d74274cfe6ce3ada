"""Messages on a command line: ``key=text key:=json key=@file``, ``'{...}'``, ``@file`` or ``-``."""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from emit.cli.errors import UsageError
from emit.cli.streams import read_all, standard_input

HELP = (
    "the message: key=text, key:=json, key=@file and key:=@file in any number; or '{...}', @file, -"
)

_WORD = re.compile(r"(?P<key>[^=]+?)(?P<json>:?)=(?P<file>@?)(?P<value>.*)", re.DOTALL)


def read_message(words: Sequence[str]) -> dict[str, Any]:
    """
    The message that the words of a command line stand for; of none an empty one.

    Raises:
        UsageError: They stand for none; it says which word is wrong.

    Example:
        >>> read_message(["text=the rain", "count:=2"])
        {'text': 'the rain', 'count': 2}
        >>> read_message(['{"count": 2}'])
        {'count': 2}
    """
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        return parse_message(words[0], "the message")
    if list(words) == ["-"]:
        return parse_message(read_all(standard_input(), "standard input"), "standard input")
    if len(words) == 1 and words[0].startswith("@"):
        return parse_message(_read(words[0][1:]), words[0][1:])
    message: dict[str, Any] = {}
    for word in words:
        key, value = _field(word)
        if key in message:
            raise UsageError(f'"{key}" is given twice')
        message[key] = value
    return message


def parse_message(text: str | bytes, source: str) -> dict[str, Any]:
    """A JSON object; raises UsageError for anything else, and names its source."""
    message = _parse(text, source)
    if not isinstance(message, dict):
        raise UsageError(f'{source} is no JSON object, such as {{"text": "the rain"}}')
    return message


def _field(word: str) -> tuple[str, Any]:
    match = _WORD.fullmatch(word)
    if match is None:
        raise UsageError(f'"{word}" is not of the form key=text, key:=json or key=@file')
    value = _read(match["value"]) if match["file"] else match["value"]
    return match["key"], _parse(value, f'"{match["key"]}"') if match["json"] else value


def _parse(text: str | bytes, source: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{source} is no JSON: {error}") from error


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise UsageError(f"{path} can't be read: {reason}") from error


def show(value: Any) -> str:
    """
    Return a value as JSON in one line.

    JSON has no bytes, no times, no NaN and no keys but text: each is shown as an object that says
    what it is, so that nothing is taken for a value that it is not. Bytes are in base64, times as
    in ISO 8601.

    Example:
        >>> show({"word": "Zoë", "raw": b"ab", "mean": float("nan")})
        '{"word": "Zoë", "raw": {"$bytes": "YWI="}, "mean": {"$float": "NaN"}}'
    """
    plain = _plain(value)
    text = _encode(plain)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a lone surrogate; or the terminal's alphabet is a small one
        return json.dumps(plain)
    return text


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is str or kind is int or value is None or kind is bool:
        return value
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _plain(item) for key, item in value.items()}
        return {"$map": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": _FLOATS[str(value)]}
    if isinstance(value, (str, int)):
        return value
    return _tagged(value)


def _tagged(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"$time": value.isoformat()}
    return {f"${type(value).__name__}": repr(value)}


#: How JavaScript and most readers of JSON spell them.
_FLOATS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

#: Made once: json.dumps makes an encoder of its own for each value.
_encode = json.JSONEncoder(ensure_ascii=False).encode
