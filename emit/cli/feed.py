"""Messages from a file or from standard input: one a line in NDJSON, one a row in CSV."""

from __future__ import annotations

import csv
import os
import stat
import sys
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from emit.cli.errors import UsageError
from emit.cli.message import parse_message

FORMATS = ("json", "ndjson", "csv")

_SUFFIXES = {".json": "json", ".csv": "csv"}


class Fed(NamedTuple):
    """One message, and where it stood; where it is none, the error instead."""

    place: str
    message: dict[str, Any]
    error: UsageError | None = None


class Feed:
    """
    Messages, as they come.

    Args:
        path: A file, or ``-`` for standard input.
        format: One of FORMATS; None: by the file's name, else NDJSON.

    Attributes:
        size: Bytes of the file; None for a pipe.
        taken: Bytes read so far.

    Raises:
        UsageError: The file can't be read.
    """

    def __init__(self, path: str, format: str | None) -> None:
        self._file: IO[bytes] = sys.stdin.buffer if path == "-" else _open(path)
        self._name = "standard input" if path == "-" else path
        self._format = format or _SUFFIXES.get(os.path.splitext(path)[1], "ndjson")
        status = os.fstat(self._file.fileno())
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else None
        self.taken = 0
        self._line = 0

    def __iter__(self) -> Iterator[Fed]:
        with self._file:
            if self._format == "json":
                yield _fed(self._name, self._file.read())
            elif self._format == "csv":
                yield from self._rows()
            else:
                for line in self._lines():
                    if line.strip():
                        yield _fed(f"line {self._line}", line)

    def _lines(self) -> Iterator[bytes]:
        # readline and not iteration, which reads ahead: a slow pipe's line is wanted at once.
        while line := self._file.readline():
            self.taken += len(line)
            self._line += 1
            yield line

    def _rows(self) -> Iterator[Fed]:
        try:
            rows = csv.DictReader((line.decode("utf-8-sig") for line in self._lines()), strict=True)
            for row in rows:
                place = f"line {rows.line_num}"
                if None in row or None in row.values():
                    names = len(rows.fieldnames or ())
                    error = UsageError(f"it has not the {names} values that the first line names")
                    yield Fed(place, {}, error)
                else:
                    yield Fed(place, dict(row))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageError(f"line {self._line} of {self._name} is no CSV: {error}") from error


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
