"""
What all commands print, and how they end: colour, their errors and exit codes, standard input and
output as a shell may have left them, a failure told to people, and progress.
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
from emit.text import clean

_CODES = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """*text* in a colour, if *stream* (stdout unless told) is a terminal that may have some."""
    stream = sys.stdout if stream is None else stream
    return f"\033[{_CODES[colour]}m{text}\033[0m" if has_colour(stream) else text


def has_colour(stream: TextIO) -> bool:
    """Whether what is written to *stream* may be coloured."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and stream.isatty()


def plural(count: int, noun: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


# -- What ends a command: a line on stderr and an exit code ----------------------------------------

USAGE = 64  #: The exit code of a wrong command line, EX_USAGE of sysexits.h.
INTERRUPTED = 130  #: Ended by Ctrl-C: 128 and SIGINT, as a shell has it.
UNHEARD = 141  #: Nobody reads the output any more: 128 and SIGPIPE.


class CommandError(EmitError):
    """A command can't do what it was asked for. Its text is all that the user sees of it."""

    code = 2


class TargetError(CommandError):
    """What the command line names is not there."""


class UsageError(CommandError):
    """The command line is wrong, in a way that its parser can't see."""

    code = USAGE


# -- Standard input, output and error, as a shell may have left them: closed, full, unheard --------


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


# -- What a command says when a node fails, and the exit code that stands for it -------------------

#: Whose frames are not the author's: Emit's, and Python's own ways to a module.
_NOT_THE_AUTHORS = (
    f"{Path(emit.__file__).parent}{os.sep}",
    importlib.__file__,
    "<frozen importlib",
)


def describe_failure(error: BaseException) -> list[str]:
    """
    An error in lines, for people: its type and text, then its author's stack, the innermost
    frame first, in whatever language, and the node. What Emit itself says has no stack.
    """
    notes = getattr(error, "__notes__", ())  # the router's: in which node
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
    """What a program wrote that was no answer: only for who looks on, as it may be a message."""
    sample = getattr(error, "sample", "")
    return [f"it wrote: {sample}"] if sample and sys.stderr.isatty() else []


def _attempts(error: BaseException) -> list[str]:
    """Of the last of several attempts: how many there were, and why the others failed."""
    causes = getattr(getattr(error, "letter", None), "causes", ())
    before = ", ".join(cause.type for cause in causes[:-1])
    return [f"after {len(causes)} attempts; those before ended in {before}"] if before else []


def _below(*parts: Iterable[str]) -> Iterator[str]:
    return (f"    {line}" for line in chain(*parts))


def report_failure(error: BaseException, where: str = "") -> int:
    """Say on stderr what has failed. Returns the exit code."""
    first, *stack = map(clean, describe_failure(error))  # a node's text must not drive a terminal
    print(paint(f"{where}{first}", "red", sys.stderr), *stack, sep="\n", file=sys.stderr)
    return 2 if isinstance(error, (StartError, StartTimeout)) else 1


def show_logs(level: int = logging.INFO) -> None:
    """Show on stderr what nodes log, and the stderr of their programs."""
    logger = logging.getLogger("emit.node")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Line())
        logger.addHandler(handler)
        logger.propagate = False


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        node = record.name.removeprefix("emit.node.")
        mark = paint(f"{node} {record.levelname.lower()} │", "dim", sys.stderr)
        return f"{mark} {record.getMessage()}"


# -- How far a run has come, as a bar on a terminal; elsewhere nothing -----------------------------

#: Tells how much of the whole is done, and how many messages that was.
Advance = Callable[[int, int], None]


@contextmanager
def progress(whole: int | None) -> Iterator[Advance]:
    """
    Show a bar on stderr inside a ``with`` block, if that is a terminal and rich is installed.
    Whatever else is written there meanwhile comes above it, in whole lines.

    Args:
        whole: What there is to do, in any unit; None: not known.

    Returns:
        A function to be called with how much of it is done and the number of messages.
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
        console=Console(stderr=True, soft_wrap=True),  # long lines are the terminal's to break
        transient=True,
        # What nodes print comes above the bar; where stdout is a file it has to get there.
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
    """Have all that is logged to one of these streams go to the one that stands for it."""
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
            stream.flush()  # a line without its end, while there is a bar to put it above


def _nothing(done: int, messages: int) -> None:
    pass
