"""
Hands the log of nodes, and the stderr of their programs, to ``emit dev``, from any process that it
has started: each record is a line on stderr that begins with `MARK`.
"""

from __future__ import annotations

import json
import logging
import os

__all__ = ["MARK", "VARIABLE", "begin"]

#: Set in the processes that ``emit dev`` starts.
VARIABLE = "EMIT_DEV"

#: Begins a line that has a record, in JSON: the node, the level and the text.
MARK = "\x1eemit "

#: Records that ``emit dev`` tells by itself, or not at all: they say nothing of a message.
_TOLD = ("process %d is ready after", "version %s has taken over", "the version %s is not taken")


class ToDev(logging.Handler):
    """Writes records to stderr, where ``emit dev`` reads them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record in one step, so that those of several processes don't mix."""
        if str(record.msg).startswith(_TOLD):
            return
        try:
            told = [record.name.removeprefix("emit.node."), record.levelname, record.getMessage()]
            os.write(2, f"{MARK}{json.dumps(told)}\n".encode())
        except Exception:
            self.handleError(record)


def begin() -> None:
    """Hand the log of nodes over from now on, and to nobody else."""
    logger = logging.getLogger("emit.node")
    logger.addHandler(ToDev())
    logger.setLevel(logging.INFO)
    logger.propagate = False
