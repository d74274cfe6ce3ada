"""
Log records that tell which message they are about.

Each record of Emit's about a message, and of what its program logs, has these attributes. Those
that are not known are None:

=================  =====================================================================
attribute          what it is
=================  =====================================================================
``emit_node``      the node that handles the message
``emit_id``        the message's id; None if no queue brought it
``emit_origin``    the node that it came from
``emit_attempt``   number of the attempt, from 1
``emit_trace_id``  the trace of the run, if it is traced: 32 hexadecimal digits
``emit_span_id``   the span of the run: 16 hexadecimal digits
=================  =====================================================================

:class:`MessageFilter` adds the same to the records of other loggers, such as a handler's own.
"""

from __future__ import annotations

import logging
from typing import Any

from emit.context import Context, Run, current, run, trace_of

__all__ = ["MessageFilter"]


def marks(
    told: Context | None,
    of: Run | None = None,
    *,
    node: str | None = None,
    origin: str | None = None,
    attempt: int | None = None,
) -> dict[str, Any]:
    """
    Return the attributes for a record.

    Args:
        told: The message that the record is about, if a queue brought it.
        of: The run that it is about, if an observer was told of one.
        node, origin, attempt: What else is known.
    """
    trace = trace_of(told, of)
    parts = [] if trace is None else trace.traceparent.split("-")
    trace_id, span_id = parts[1:3] if len(parts) == 4 else (None, None)
    if told is not None:
        node, origin, attempt = node or told.node, told.origin, attempt or told.attempt
    return {
        "emit_node": node,
        "emit_id": None if told is None else told.id,
        "emit_origin": origin,
        "emit_attempt": attempt,
        "emit_trace_id": trace_id,
        "emit_span_id": span_id,
    }


#: The record of a message that was given up; Sentry's integration knows it by this text.
GIVEN_UP = "%s is given up: %r"


class MessageFilter(logging.Filter):
    """
    Adds the attributes of the message that this thread handles for a queue to each record that has
    none, and lets every record pass. Add it to a handler, so that a format can name the attributes
    for any logger's records.

    Example:
        >>> import logging, sys
        >>> handler = logging.StreamHandler(sys.stdout)
        >>> handler.addFilter(MessageFilter())
        >>> handler.setFormatter(logging.Formatter("%(emit_node)s %(emit_id)s %(message)s"))
        >>> logger = logging.getLogger("shop")
        >>> logger.addHandler(handler)
        >>> token = current.set(Context("7", "words"))
        >>> logger.warning("out of stock")
        words 7 out of stock
        >>> current.reset(token)
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if "emit_node" not in vars(record):
            vars(record).update(marks(current.get(), run.get()))
        return True


class NodeFilter(logging.Filter):
    """Adds the name of a node to each record that is about none of its messages."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._marks = marks(None, node=node)

    def filter(self, record: logging.LogRecord) -> bool:
        if "emit_node" not in vars(record):
            vars(record).update(self._marks)
        return True


_filter = MessageFilter()


def get_logger(name: str) -> logging.Logger:
    """Return a logger of Emit's whose records tell the message that this thread handles."""
    logger = logging.getLogger(name)
    logger.addFilter(_filter)  # once, however often
    return logger
