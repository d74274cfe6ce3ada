"""Standard input, output and error, as a shell may have left them: closed, full, unheard."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import IO, Any, TextIO

from emit.cli.errors import UNHEARD, UsageError

__all__ = ["OutputFailed", "read_all", "standard_input", "take_streams"]


class OutputFailed(BaseException):
    """
    What a command prints can't be written. It ends the command, whoever was printing: a handler's
    failure it is not, and so no `except Exception` is to take it for one.
    """

    def __init__(self, error: OSError) -> None:
        closed = error.errno == errno.EBADF
        reason = "it is closed" if closed else error.strerror
        super().__init__(f"standard output can't be written to: {reason}")
        self.code = UNHEARD if error.errno == errno.EPIPE else 1


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        """Write all of it: a pipe takes a part, or nothing yet where somebody made it so."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                written = super().write(rest)
                if not written:
                    select.select([], [self.fileno()], [])
                rest = rest[written or 0 :]
            return size
        except OSError as error:
            # What is still held would be written at the end, and Python would complain once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            raise OutputFailed(error) from error


class _Errors(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:  # there is nobody left to tell
            return len(data)


def take_streams() -> None:
    """
    Have a failure to print end a command, and one to complain not.

    A descriptor that is closed is opened on nothing: else the next file that is opened would get
    its number, and be printed to.
    """
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # the lowest free number is this one; a read or print fails
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Errors(2, "w", closefd=False), sys.stderr)


def _text(raw: io.FileIO, before: TextIO | None) -> TextIO:
    """A stream as Python made it, over *raw*."""
    old = before if isinstance(before, io.TextIOWrapper) else None
    if old is not None:
        old.flush()
    unbuffered = old is not None and old.write_through
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=old.encoding if old is not None else "utf-8",
        errors=old.errors if old is not None else "backslashreplace",
        line_buffering=old is not None and old.line_buffering,
        write_through=unbuffered,
    )


def standard_input() -> IO[bytes]:
    """
    Return standard input, as bytes.

    Raises:
        UsageError: It is closed.
    """
    if sys.stdin is None:
        raise UsageError("standard input is closed, so there is no message to read")
    return sys.stdin.buffer if hasattr(sys.stdin, "buffer") else io.BytesIO(_encoded(sys.stdin))


def _encoded(text: TextIO) -> bytes:
    return text.read().encode()


def read_all(file: IO[bytes], name: str) -> bytes:
    """
    Return the rest of a file.

    Raises:
        UsageError: It can't be read.
    """
    try:
        return file.read()
    except OSError as error:
        raise UsageError(f"{name} can't be read: {error.strerror}") from error
