"""
Attempts that failed: the wait before the next one, their causes, and the dead letter, which is a
message that was given up. The host makes it, a router completes it, Redis keeps it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from traceback import walk_tb
from types import FrameType, TracebackType
from typing import Any

from emit.errors import IN_NODE, EmitError
from emit.text import WORD, one_line, said

__all__ = ["Cause", "DeadLetter", "backoff"]

#: Frames from here say nothing about a node: they are Emit's, or belong to the message's carrier.
_EMIT = os.path.dirname(__file__) + os.sep
_CARRIERS = frozenset({"billiard", "celery", "kombu", "rq"})

#: The folders of Python and of installed packages.
_PYTHON = (os.path.dirname(os.__file__) + os.sep, "<frozen")
_INSTALLED = frozenset({"site-packages", "dist-packages"})


def backoff(first: float, most: float, times: int, share: float) -> float:
    """
    Return the seconds to wait after a number of failures in a row: of attempts at a message, or of
    starts of a program.

    Args:
        first: The wait after the first failure. It doubles with each further failure.
        most: The longest wait.
        times: Number of failures.
        share: A random number from 0 to 1. It draws from the upper half of the wait, so that many
            callers do not come back at the same moment.
    """
    return min(most, first * 2.0 ** min(times - 1, 60)) * (0.5 + share / 2)


@dataclass(frozen=True)
class Cause:
    """
    The reason why one attempt at a message failed.

    Attributes:
        type: The exception's class name.
        text: Its text, cut at 8,192 characters and with control characters escaped; for an
            exception of a Python node with the author's line that raised it.
        stderr_tail: The end of the process's output on stderr; may be empty.
        exit_code: Its exit code, or None.
        signal: The signal that killed it, or None.
        at: When, in seconds since the epoch.
    """

    type: str
    text: str
    stderr_tail: str
    exit_code: int | None
    signal: str | None
    at: float

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Cause:
        """
        Make a cause from the dictionary that ``dataclasses.asdict`` made of one, in this version of
        Emit or another. Unknown fields are left out, and missing fields are empty.

        Raises:
            ValueError: *told* is not a map.
        """
        if not isinstance(told, Mapping):
            raise ValueError(f"a cause is a map, not {type(told).__name__}")
        code, signal, at = (told.get(name) for name in ("exit_code", "signal", "at"))
        return cls(
            **{name: str(told.get(name, "")) for name in ("type", "text", "stderr_tail")},
            exit_code=code if isinstance(code, int) else None,
            signal=signal if isinstance(signal, str) else None,
            at=float(at) if isinstance(at, (int, float)) else 0.0,
        )

    @classmethod
    def of(cls, error: BaseException, at: float) -> Cause:
        return cls(
            type=one_line(type(error).__name__, WORD),
            text=f"{said(str(error))}{_where(error)}".lstrip(),
            stderr_tail=getattr(error, "stderr_tail", ""),
            exit_code=getattr(error, "exit_code", None),
            signal=getattr(error, "signal", None),
            at=at,
        )


@dataclass(frozen=True)
class DeadLetter:
    """
    A message that was given up.

    The host sets the first three fields. The sender through a queue adds the others, for example by
    ``dataclasses.replace(letter, id=..., origin=..., route=...)``.

    Attributes:
        node: The node's name.
        message: The message's fields, unchanged.
        causes: Why each attempt failed and when, the first one first.
        origin: The node that the message came from; empty: the message's own ``_origin``, if any.
        id: The message's id. In a store, a letter replaces an earlier letter with the same id.
        attempts: How often the message was tried. None: once for each cause.
        at: When it was given up, in seconds since the epoch. None: with its last cause.
        route: What its router needs to send it again, such as the task and the queue.
    """

    node: str
    message: Mapping[str, Any]
    causes: tuple[Cause, ...]
    origin: str = ""
    id: str = ""
    attempts: int | None = None
    at: float | None = None
    route: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        # The message is left out: a repr ends in logs.
        last = one_line(self.causes[-1].text) if self.causes else "no cause"
        attempts = len(self.causes) if self.attempts is None else self.attempts
        return f"<DeadLetter {self.node} after {counted(attempts)}: {last}>"


def counted(attempts: int) -> str:
    """
    Example:
        >>> counted(1), counted(3)
        ('1 attempt', '3 attempts')
    """
    return f"{attempts} attempt{'' if attempts == 1 else 's'}"


def _where(error: BaseException) -> str:
    """Return the author's innermost line, else a library's, in the form of the SDKs' stacks."""
    lines = {}
    for frame, line in walk_tb(error.__traceback__):
        code = frame.f_code
        lines[_whose(frame)] = f" ({code.co_filename}:{line} in {code.co_name})"
    return lines.get("author") or lines.get("library") or ""


def shortened(error: Exception) -> Exception:
    """
    Return *error* as a queue's own log is to show it.

    Its traceback has the frames of the author and of libraries, without the thirty frames of Emit
    and its carriers around them, and ends with the error itself. The queue says which node it was.
    An error in Emit's own code keeps all its frames.
    """
    notes = [note for note in vars(error).get("__notes__", ()) if not note.startswith(IN_NODE)]
    vars(error).pop("__notes__", None)
    if notes:
        vars(error)["__notes__"] = notes
    frames = list(walk_tb(error.__traceback__))
    if not frames or (_whose(frames[-1][0]) == "emit" and not isinstance(error, EmitError)):
        return error
    kept: TracebackType | None = None
    for frame, line in reversed(frames):
        if _whose(frame) in ("author", "library"):
            kept = TracebackType(kept, frame, frame.f_lasti, line)
    return error.with_traceback(kept)


def _whose(frame: FrameType) -> str:
    path = frame.f_code.co_filename
    folders = frozenset(path.split(os.sep))
    if path.startswith(_EMIT):
        return "emit"
    if not path.startswith(_PYTHON) and _INSTALLED.isdisjoint(folders):
        return "author"
    return "library" if _CARRIERS.isdisjoint(folders) else "carrier"
