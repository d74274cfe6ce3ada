"""The output of ``emit dev``: one stream, each line with the name of its node or command."""

from __future__ import annotations

import json
import re
import threading
import zlib
from pathlib import Path
from typing import TextIO

from emit.cli.output import has_colour
from emit.dev.child import MARK
from emit.text import clean, one_line

__all__ = ["Lines", "source_line"]

#: The colours of names, as in ECMA-48; a name has always the same.
_COLOURS = (36, 35, 34, 33, 32, 96, 95, 94, 93, 92)

#: Levels that colour the text, too.
_LOUD = {"WARNING": "33", "ERROR": "31", "CRITICAL": "31"}

#: A place in an error's text.
_PLACE = re.compile(r"((?:/|\./)?[\w.@+-]+(?:/[\w.@+ -]+)*):(\d+)")

#: Characters of a name that are aligned.
_WIDTH = 12


class Lines:
    """
    Prints lines, from any thread.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._width = 0

    def say(self, name: str, text: str, code: str = "") -> None:
        """
        Print a text below a name. Further lines of it are indented.

        Args:
            code: The colour of the text, as in ECMA-48; empty: none.
        """
        with self._lock:
            self._width = max(self._width, min(len(name), _WIDTH))
            for line in text.splitlines() or [""]:
                text = f"{self._named(one_line(name))} {self._painted(clean(line), code)}"
                print(text, file=self._stream, flush=True)

    def relay(self, name: str, line: str) -> None:
        """Print a line of a command's output: as the line of a node, if it is a record of one."""
        if not line.startswith(MARK):
            self.say(name, line)
            return
        node, level, text = json.loads(line[len(MARK) :])
        self.say(node, text, _LOUD.get(level, ""))

    def _named(self, name: str) -> str:
        colour = _COLOURS[zlib.crc32(name.encode()) % len(_COLOURS)]
        return self._painted(f"{name:<{self._width}} │", str(colour))

    def _painted(self, text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if code and has_colour(self._stream) else text


def source_line(text: str, folder: Path) -> str:
    """
    Return the first line of code below *folder* that an error's text names, as ``words.rb:2 | {``;
    empty if it names none.
    """
    for name, number in _PLACE.findall(text):
        path = (folder / name).resolve()
        try:
            if path.is_relative_to(folder.resolve()):
                line = path.read_text("utf-8", "replace").splitlines()[int(number) - 1]
                return f"{path.relative_to(folder.resolve())}:{number} | {line.strip()}"
        except (OSError, IndexError):
            continue
    return ""
