"""
A program's stderr as log records: bytes in, lines out. No I/O here but logging.

Reads chunks instead of lines, since a progress bar has no line ends. The memory used is bounded for
any input.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping
from typing import Any, Protocol

from emit.observe.logs import NodeFilter
from emit.text import WORD, clean, one_line

#: The record of a process that is ready: its id, the seconds since its start, its version.
READY = "process %d is ready after %.3f s, version %s"

#: Bytes of a line that are logged; a longer line is cut, and the record says so.
LINE = 8 * 1024

#: Bytes of the newest output that go into every crash error.
TAIL = 8 * 1024

#: A mark that begins a line and gives its level: Telegraf's ``E!``, and ``[WARN]`` or ``WARN:``.
_PREFIX = re.compile(
    r"\s*(?:(?P<letter>[EWIDT])!|\[(?P<word>[A-Za-z]+)\]|(?P<bare>[A-Z]{4,8})(?::|\s+--))\s*"
)
#: The levels by their names in such marks and in log frames.
LEVELS = {
    "E": logging.ERROR,
    "W": logging.WARNING,
    "I": logging.INFO,
    "D": logging.DEBUG,
    "T": logging.DEBUG,
    "FATAL": logging.CRITICAL,
    "CRITICAL": logging.CRITICAL,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "WARN": logging.WARNING,
    "INFO": logging.INFO,
    "NOTICE": logging.INFO,
    "DEBUG": logging.DEBUG,
    "TRACE": logging.DEBUG,
}


#: Last words of crashed programs in Rust, Go, C, C++ and Node, and of the sanitizers.
_FATAL = re.compile(
    r"has overflowed its stack|stack overflow|panicked at|\bpanic: |fatal (?:runtime )?error\b|"
    r"\bassert|terminate called|^\*\*\* |double free|corrupted|out of memory|Sanitizer:",
    re.IGNORECASE,
)

#: Signals that report a crash: the program raised one itself, or the system sent it for a fault.
_CRASHES = frozenset({"SIGABRT", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS"})

#: Characters of the last words in an error's text; its note has the whole tail.
_WORDS = 300


@functools.cache
def logger_of(node: str) -> logging.Logger:
    """
    Return a node's logger. It is looked up once, not at each start: ``logging`` takes a global lock
    for the lookup. An exception at that moment, as from a time limit, would leave it locked.

    The logger is below ``emit.node`` for every name. A name with nothing between two dots would
    otherwise get ``emit`` as its parent.

    Example:
        >>> logger_of("app.words").name, logger_of("../bin/prog").name, logger_of("a..b").name
        ('emit.node.app.words', 'emit.node.bin/prog', 'emit.node.a.b')
    """
    name = re.sub(r"\.{1,2}/", "", one_line(node, WORD))
    logger = logging.getLogger(".".join(["emit.node", *filter(None, name.split("."))]))
    logger.addFilter(NodeFilter(node))
    return logger


class About(Protocol):
    """A message that a program has."""

    @property
    def marks(self) -> dict[str, Any]:
        """The attributes of records about it."""


class Lines:
    """
    Turns chunks of a program's stderr into log records.

    Args:
        node: The node's name; the lines go to the logger ``emit.node.<name>``.

    Attributes:
        logger: The logger for the next line.
        size: Bytes fed so far.
        jobs: The messages that the program has. A line is about a message if it is the only one:
            the program writes its answers elsewhere, so nobody can tell which of several it is.
    """

    def __init__(self, node: str) -> None:
        self.logger = logger_of(node)
        self.size = 0
        self.jobs: Mapping[int, About] = {}
        self._tail = b""
        self._partial = b""
        self._cut = False
        self._fatal: list[str] = []  # the last line with fatal words, and the line after it

    @property
    def tail(self) -> str:
        """The last 8 KiB, as text that is safe to print."""
        return clean(self._tail.decode("utf-8", "replace"))

    def last_words(self, signal: str | None) -> str:
        """
        Return the program's own words about its end, in one line, or an empty text.

        Args:
            signal: The name of the signal that ended the program. If the signal reports a crash,
                the last two lines are taken even if they don't mention it.
        """
        lines = self._fatal
        if not lines and signal in _CRASHES:
            lines = [line for line in self.tail.split("\n") if line.strip()][-2:]
        return one_line("; ".join(line.strip() for line in lines), _WORDS)

    def feed(self, data: bytes) -> None:
        """Take a chunk, and log the lines that it completes."""
        self.size += len(data)
        self._tail = (self._tail + data)[-TAIL:]
        *complete, rest = (self._partial + data).split(b"\n")
        for line in complete:
            self._end_line(line)
        if self._cut:
            rest = b""
        elif len(rest) > LINE:
            self._log(rest)
            self._cut, rest = True, b""
        self._partial = rest

    def finish(self) -> None:
        """Log the last line if it had no line end."""
        rest, self._partial = self._partial, b""
        if rest:
            self._end_line(rest)

    def _end_line(self, line: bytes) -> None:
        if self._cut:  # the rest of a line whose beginning is already logged
            self._cut = False
        else:
            self._log(line)

    def _log(self, line: bytes) -> None:
        text = line[:LINE].decode("utf-8", "replace").rstrip("\r")
        if len(line) > LINE:
            text += f" ... (cut at {LINE} bytes)"
        level, text = read_level(text)
        if text.strip():
            if _FATAL.search(text):
                self._fatal = [*self._fatal, text][-2:] if len(self._fatal) == 1 else [text]
            elif len(self._fatal) == 1:
                self._fatal.append(text)
            about = next(iter(self.jobs.values())).marks if len(self.jobs) == 1 else None
            self.logger.log(level, "%s", clean(text), extra=about)


def read_level(text: str) -> tuple[int, str]:
    """
    Return the level that a line announces, and the line without its mark; INFO if it has none.

    Example:
        >>> read_level("E! disk full"), read_level("[WARN] slow"), read_level("ready")
        ((40, 'disk full'), (30, 'slow'), (20, 'ready'))
    """
    match = _PREFIX.match(text)
    if match:
        mark = match["letter"] or (match["word"] or match["bare"]).upper()
        if mark in LEVELS:
            return LEVELS[mark], text[match.end() :]
    return logging.INFO, text
