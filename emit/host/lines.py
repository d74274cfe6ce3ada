"""
A program's stderr as log records: bytes in, lines out. No I/O here but logging.

Chunks and not lines are read, since a progress bar has no line ends; what is kept in memory
is bounded whatever comes.
"""

from __future__ import annotations

import functools
import logging
import re

from emit.text import WORD, clean, one_line

#: Bytes of a line that are logged; what is longer is cut and says so.
LINE = 8 * 1024

#: Bytes of the newest output that go into every crash error.
TAIL = 8 * 1024

#: What a line may begin with to say its level: Telegraf's ``E!``, and ``[WARN]`` or ``WARN:``.
_PREFIX = re.compile(
    r"\s*(?:(?P<letter>[EWIDT])!|\[(?P<word>[A-Za-z]+)\]|(?P<bare>[A-Z]{4,8})(?::|\s+--))\s*"
)
#: What the levels are called there, and in a log frame.
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


#: What a program's last words may be: of Rust, Go, C, C++, Node and the sanitizers.
_FATAL = re.compile(
    r"has overflowed its stack|stack overflow|panicked at|\bpanic: |fatal (?:runtime )?error\b|"
    r"\bassert|terminate called|^\*\*\* |double free|corrupted|out of memory|Sanitizer:",
    re.IGNORECASE,
)

#: Signals by which a program ends itself, or is ended for what it has done.
_CRASHES = frozenset({"SIGABRT", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS"})

#: Characters of the last words in an error's text; its note has the whole tail.
_WORDS = 300


@functools.cache
def logger_of(node: str) -> logging.Logger:
    """
    A node's logger, looked up once and not at each start: ``logging`` takes a lock of the whole
    program for that, and an exception thrown in just then, as by a time limit, leaves it taken.

    It is below ``emit.node``, whatever the node is called: of a name with nothing between two dots
    the parent would be ``emit``.

    Example:
        >>> logger_of("app.words").name, logger_of("../bin/prog").name, logger_of("a..b").name
        ('emit.node.app.words', 'emit.node.bin/prog', 'emit.node.a.b')
    """
    name = re.sub(r"\.{1,2}/", "", one_line(node, WORD))
    return logging.getLogger(".".join(["emit.node", *filter(None, name.split("."))]))


class Lines:
    """
    Args:
        node: The node's name; the lines go to the logger ``emit.node.<name>``.

    Attributes:
        logger: Where the next line goes.
        size: Bytes fed so far.
    """

    def __init__(self, node: str) -> None:
        self.logger = logger_of(node)
        self.size = 0
        self._tail = b""
        self._partial = b""
        self._cut = False
        self._fatal: list[str] = []  # the last line that says so, and the one after it

    @property
    def tail(self) -> str:
        """The last 8 KiB, as text that is safe to print."""
        return clean(self._tail.decode("utf-8", "replace"))

    def last_words(self, signal: str | None) -> str:
        """
        What a program said of its end, in one line; empty: nothing that is told from the rest.

        Args:
            signal: The name of the one that ended it. If it is one of a crash, the last two lines
                are taken for it anyway.
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
        """Log the last line, if it had no end."""
        rest, self._partial = self._partial, b""
        if rest:
            self._end_line(rest)

    def _end_line(self, line: bytes) -> None:
        if self._cut:  # the rest of a line whose beginning is in the log
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
            self.logger.log(level, "%s", clean(text))


def read_level(text: str) -> tuple[int, str]:
    """
    The level that a line announces, and the line without its mark; INFO where it has none.

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
