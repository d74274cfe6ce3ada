"""
The messages of a command, and how values are printed. Messages come from words of the command line,
or from a file or standard input with a message on each line (NDJSON) or in each row (CSV).
"""

from __future__ import annotations

import base64
import csv
import json
import math
import os
import re
import stat
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import IO, Any, NamedTuple

from emit.cli.output import UsageError, read_all, standard_input

# -- Messages from a file or standard input --------------------------------------------------------

FORMATS = ("json", "ndjson", "csv")

_SUFFIXES = {".json": "json", ".csv": "csv"}

#: Largest row of CSV, in bytes. No message may be larger, and without a limit a quote that is never
#: closed would keep the whole file in memory.
_LARGEST_ROW = 16 * 1024 * 1024


class Fed(NamedTuple):
    """A message and its place in the input; or the error, if the input holds no message there."""

    place: str
    message: dict[str, Any]
    error: UsageError | None = None


class Feed:
    """
    An iterator over the messages of a file or of standard input, as they arrive.

    Args:
        path: A file, or ``-`` for standard input.
        format: One of FORMATS; None: by the file's suffix, else NDJSON.

    Attributes:
        size: Bytes of the file; None for a pipe.
        taken: Bytes read so far.

    Raises:
        UsageError: The file can't be read.
    """

    def __init__(self, path: str, format: str | None) -> None:
        self._file: IO[bytes] = standard_input() if path == "-" else _open(path)
        self._name = "standard input" if path == "-" else path
        self._format = format or _SUFFIXES.get(os.path.splitext(path)[1], "ndjson")
        status = os.fstat(self._file.fileno())
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else None
        self.taken = 0
        self._line = 0

    def __iter__(self) -> Iterator[Fed]:
        with self._file:
            if self._format == "json":
                yield _fed(self._name, read_all(self._file, self._name))
            elif self._format == "csv":
                yield from self._rows()
            else:
                for line in self._lines():
                    if line.strip():
                        yield _fed(f"line {self._line}", line)

    def _lines(self) -> Iterator[bytes]:
        # Iteration reads ahead; readline returns a slow pipe's line at once.
        while line := self._read_line():
            self.taken += len(line)
            self._line += 1
            yield line

    def _read_line(self) -> bytes:
        try:
            return self._file.readline()
        except OSError as error:
            raise UsageError(f"{self._name} can't be read: {error.strerror}") from error

    def _rows(self) -> Iterator[Fed]:
        lines = _Rows(self._lines())
        names = next(lines, None)
        if names is None:
            return
        if why := lines.wrong() or _wrong_names(names):
            raise UsageError(f"line 1 of {self._name} {why}")
        for row in lines:
            place = f"line {lines.first}"
            if why := lines.wrong() or _wrong_row(row, names):
                yield Fed(place, {}, UsageError(f"it {why}"))
            elif row:  # an empty line is not a message
                yield Fed(place, dict(zip(names, row, strict=True)))


class _Rows:
    """
    An iterator over the rows of CSV. Each row is a list of its values.

    Bytes that are not UTF-8 become surrogates, which a later check finds. Quotes and commas are
    still seen, so a bad value spoils no other row. If a row of several lines is broken, the next
    row begins at its second line: the fault may be the quote in its first line.

    Attributes:
        first: Number of the line in which the last row began.
        error: Why the last row is not CSV and has no values; None if it is.
    """

    def __init__(self, lines: Iterator[bytes]) -> None:
        self.first = 0
        self.error: csv.Error | None = None
        self._source = lines
        self._again: deque[str] = deque()
        self._row: list[str] = []
        self._size = self._line = 0
        csv.field_size_limit(_LARGEST_ROW)
        self._begin()

    def _begin(self) -> None:
        self._reader = csv.reader(iter(self._next_line, None), strict=True)

    def __iter__(self) -> _Rows:
        return self

    def __next__(self) -> list[str]:
        self._row, self._size, self.error = [], 0, None
        self.first = self._line + 1
        try:
            return next(self._reader)
        except csv.Error as error:
            self._again.extendleft(reversed(self._row[1:]))
            self._line -= len(self._row) - 1
            self.error = error
            self._begin()  # a reader that has seen the end of the file yields no more rows
            return []

    def wrong(self) -> str:
        """Return the fault of the last row; "" if it is CSV."""
        return f"is no CSV: {self.error}" if self.error else ""

    def _next_line(self) -> str | None:
        if self._size > _LARGEST_ROW:
            raise csv.Error("a quote in it is not closed")
        if self._again:
            line = self._again.popleft()
        else:
            data = next(self._source, b"")
            encoding = "utf-8" if self._line else "utf-8-sig"
            line = data.decode(encoding, "surrogateescape")
        if not line:
            return None
        self._line += 1
        self._row.append(line)
        self._size += len(line)
        return line


def _wrong_names(names: Sequence[str]) -> str:
    """Return why the first row can't be the header; "" if it can."""
    twice = [name for at, name in enumerate(names) if name in names[:at]]
    if twice:
        return f'names the column "{twice[0]}" twice; a message has one value of each name'
    return _no_text(names, [f"the name of column {at}" for at in range(1, len(names) + 1)])


def _wrong_row(row: Sequence[str], names: Sequence[str]) -> str:
    """Return why a row is not a message; "" if it is one."""
    if row and len(row) != len(names):
        return f"has {len(row)} values, and the first line names {len(names)}"
    return _no_text(row, names)


def _no_text(values: Sequence[str], names: Sequence[str]) -> str:
    for name, value in zip(names, values, strict=False):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            byte = ord(value[error.start]) - 0xDC00
            return f"is no UTF-8: byte {byte:#x} in {name}; convert the file, as by iconv"
    return ""


def _fed(place: str, data: bytes) -> Fed:
    try:
        return Fed(place, parse_message(data, "it"))
    except UsageError as error:
        return Fed(place, {}, error)


def _open(path: str) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from error


# -- Messages on a command line --------------------------------------------------------------------

#: Help for an argument that is a message.
MESSAGE = (
    "the message: any number of key=text, key:=json, key=@file, key:=@file; or '{...}', @file, -"
)

_WORD = re.compile(r"(?P<key>[^=]+?)(?P<json>:?)=(?P<file>@?)(?P<value>.*)", re.DOTALL)


def read_message(words: Sequence[str]) -> dict[str, Any]:
    """
    Return the message that the words of a command line describe; without words, an empty message.

    Raises:
        UsageError: A word is wrong; the text says which.

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
    """Parse a JSON object. Raise UsageError, with the name of the source, for anything else."""
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


# -- Values for output -----------------------------------------------------------------------------


def show(value: Any) -> str:
    """
    Return a value as JSON in one line.

    JSON has no bytes, no times, no NaN, and no keys but text. Each of these becomes an object with
    its kind as the key, so a reader can't take it for another value. Bytes are in base64, and times
    in ISO 8601.

    Example:
        >>> show({"word": "Zoë", "raw": b"ab", "mean": float("nan")})
        '{"word": "Zoë", "raw": {"$bytes": "YWI="}, "mean": {"$float": "NaN"}}'
    """
    plain = _plain(value)
    text = _encode(plain)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a lone surrogate, or a character that the terminal lacks
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


#: The spelling of JavaScript and of most readers of JSON.
_FLOATS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

#: Made once, because json.dumps makes an encoder for each value.
_encode = json.JSONEncoder(ensure_ascii=False).encode
