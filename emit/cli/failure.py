"""What a command says when a node fails, and the exit code that stands for it."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import emit
from emit.cli.screen import paint
from emit.errors import CallTimeout, EmitError, RemoteError, StartError, StartTimeout
from emit.text import clean

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
