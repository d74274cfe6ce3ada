"""
The output of all commands: colour, errors and exit codes, the standard streams, the report of a
failure, and a progress bar.
"""

from __future__ import annotations

import errno
import importlib
import io
import logging
import os
import select
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, TextIO

import emit
from emit.errors import CallTimeout, EmitError, RemoteError, StartError, StartTimeout
from emit.host.lines import READY
from emit.text import clean

# -- Text ------------------------------------------------------------------------------------------

_CODES = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """Colour *text*, if *stream* (by default stdout) is a terminal that takes colours."""
    stream = sys.stdout if stream is None else stream
    return f"\033[{_CODES[colour]}m{text}\033[0m" if has_colour(stream) else text


def has_colour(stream: TextIO) -> bool:
    """Return True if text for *stream* may be coloured."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and stream.isatty()


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 node``, ``2 nodes``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


# -- Errors and exit codes -------------------------------------------------------------------------

USAGE = 64  #: The exit code of a wrong command line, EX_USAGE of sysexits.h.
INTERRUPTED = 130  #: Ended by Ctrl-C: 128 + SIGINT, as in a shell.
UNHEARD = 141  #: The reader of the output has gone: 128 + SIGPIPE.


class CommandError(EmitError):
    """A command can't do its work. The user sees only the text of this error."""

    code = 2


class TargetError(CommandError):
    """A router, node or file of the command line does not exist, or can't be used."""


class UsageError(CommandError):
    """The command line is wrong in a way that its parser can't see."""

    code = USAGE


# -- Standard streams: the shell may have closed them, and their readers may go --------------------


class OutputFailed(BaseException):
    """
    Standard output can't be written to. This ends the command, even if a handler was printing: it
    is not the handler's failure, so `except Exception` must not catch it.
    """

    def __init__(self, error: OSError) -> None:
        closed = error.errno == errno.EBADF
        reason = "it is closed" if closed else error.strerror
        super().__init__(f"standard output can't be written to: {reason}")
        self.code = UNHEARD if error.errno == errno.EPIPE else 1


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        """Write all of *data*. A pipe may take a part; a non-blocking one may take nothing yet."""
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
            # Python flushes its buffer at the exit, and would report the same error once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            raise OutputFailed(error) from error


class _Errors(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:  # nowhere is left to report it
            return len(data)


def take_streams() -> None:
    """
    Replace stdout and stderr: a failure to write to stdout ends the command, a failure to write to
    stderr is ignored.

    A closed descriptor is opened on /dev/null. Otherwise the next file would get its number, and
    prints would go to that file.
    """
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            # It gets the lowest free number, which is this one. The wrong mode lets reads and
            # prints fail, as they do on a closed descriptor.
            os.open(os.devnull, mode)
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Errors(2, "w", closefd=False), sys.stderr)


def _text(raw: io.FileIO, before: TextIO | None) -> TextIO:
    """Return a text stream over *raw*, with the settings of the stream *before*."""
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
    Return standard input as a file of bytes.

    Raises:
        UsageError: Standard input is closed.
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
        UsageError: The file can't be read.
    """
    try:
        return file.read()
    except OSError as error:
        raise UsageError(f"{name} can't be read: {error.strerror}") from error


# -- The report of a failed node -------------------------------------------------------------------

#: Files whose stack frames are not the author's: Emit's, and those of Python's import.
_NOT_THE_AUTHORS = (
    f"{Path(emit.__file__).parent}{os.sep}",
    importlib.__file__,
    "<frozen importlib",
)


def describe_failure(error: BaseException) -> list[str]:
    """
    Return the lines that describe an error to people: its type and text, the author's stack in any
    language, the innermost frame first, and the node. Emit's own errors have no stack.
    """
    notes = getattr(error, "__notes__", ())  # the router's note names the node
    tries = _attempts(error)
    if isinstance(error, CallTimeout) and error.remote is not None:
        return [str(error), *_below(error.remote.stack, notes, tries)]
    if isinstance(error, RemoteError):
        return [f"{error.type}: {error.message}", *_below(error.stack, notes, tries)]
    if isinstance(error, EmitError):
        return [str(error), *_below(_sample(error), tries)]
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in reversed(frames) if not frame.filename.startswith(_NOT_THE_AUTHORS)]
    text = f"{type(error).__name__}: {error}"
    stack = (f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in mine)
    return [text, *_below(stack, notes)]


def _sample(error: BaseException) -> list[str]:
    """
    Return the text that a program wrote in place of an answer. It may hold a message, so it goes to
    a terminal only, and not to a log.
    """
    sample = getattr(error, "sample", "")
    return [f"it wrote: {sample}"] if sample and sys.stderr.isatty() else []


def _attempts(error: BaseException) -> list[str]:
    """Return a line with the number of attempts and the causes of the earlier ones, if any."""
    causes = getattr(getattr(error, "letter", None), "causes", ())
    before = ", ".join(cause.type for cause in causes[:-1])
    return [f"after {len(causes)} attempts; those before ended in {before}"] if before else []


def _below(*parts: Iterable[str]) -> Iterator[str]:
    return (f"    {line}" for line in chain(*parts))


def report_failure(error: BaseException, where: str = "") -> int:
    """Describe a failure on stderr, and return the exit code."""
    first, *stack = map(clean, describe_failure(error))  # its bytes must not control the terminal
    print(paint(f"{where}{first}", "red", sys.stderr), *stack, sep="\n", file=sys.stderr)
    return 2 if isinstance(error, (StartError, StartTimeout)) else 1


def show_logs(level: int = logging.INFO) -> None:
    """Show the log of nodes, and the stderr of their programs, on stderr."""
    logger = logging.getLogger("emit.node")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Line())
        # Who runs a command wants to see what the program says, not when it was ready.
        handler.addFilter(lambda record: record.msg != READY)
        logger.addHandler(handler)
        logger.propagate = False


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        node = record.name.removeprefix("emit.node.")
        mark = paint(f"{node} {record.levelname.lower()} │", "dim", sys.stderr)
        return f"{mark} {record.getMessage()}"


# -- A progress bar, on a terminal -----------------------------------------------------------------

#: Takes the amount that is done, and the number of messages.
Advance = Callable[[int, int], None]


@contextmanager
def progress(whole: int | None) -> Iterator[Advance]:
    """
    Show a bar on stderr inside a ``with`` block, if stderr is a terminal and rich is installed.
    Other output to the terminal appears above the bar, in whole lines.

    Args:
        whole: The amount of work, in any unit; None if it is not known.

    Returns:
        A function to be called with the amount that is done and the number of messages.
    """
    if not sys.stderr.isatty():
        yield _nothing
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield _nothing
        return
    bar = Progress(
        BarColumn(),
        TextColumn("{task.fields[messages]:,} messages"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(),
        console=Console(stderr=True, soft_wrap=True),  # the terminal breaks long lines
        transient=True,
        # Output of nodes appears above the bar; but if stdout is a file, it goes to the file.
        redirect_stdout=sys.stdout.isatty(),
    )
    before = sys.stdout, sys.stderr
    with bar, _moved_logs(dict(zip(before, (sys.stdout, sys.stderr), strict=True))):
        task = bar.add_task("", total=whole, messages=0, rate=0.0)

        def advance(done: int, messages: int) -> None:
            rate = messages / max(bar.tasks[0].elapsed or 0.0, 1e-3)
            bar.update(task, completed=done, messages=messages, rate=rate)

        yield advance


@contextmanager
def _moved_logs(streams: dict[TextIO, TextIO]) -> Iterator[None]:
    """Move the logging handlers of these streams to the streams that replace them."""
    loggers = [logging.root, *logging.Logger.manager.loggerDict.values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    moved = [
        (handler, handler.stream)
        for handler in handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in streams
    ]
    for handler, stream in moved:
        handler.setStream(streams[stream])
    try:
        yield
    finally:
        for handler, stream in moved:
            handler.setStream(stream)
        for stream in streams.values():
            stream.flush()  # shows an unfinished line above the bar, before the bar goes


def _nothing(done: int, messages: int) -> None:
    pass
