"""Colour, where somebody sees it: on a terminal, unless ``NO_COLOR`` is set."""

from __future__ import annotations

import os
import sys
from typing import TextIO

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
