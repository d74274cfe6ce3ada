"""
Facts about the message being handled besides its fields. This module belongs to neither half:
a router that takes messages from a queue sets them, and the host sends them to the program.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Context", "current"]


@dataclass(frozen=True, slots=True)
class Context:
    """
    Attributes:
        id: The message's id. A message that is delivered again has the same.
        node: The node that handles it.
        origin: The node that it came from.
        attempt: Which attempt this is; 1 is the first.
        traceparent: The sender's W3C trace context, or None.
    """

    id: str
    node: str
    origin: str = ""
    attempt: int = 1
    traceparent: str | None = None


#: The message that this thread (or greenlet) handles for a queue. None: no queue is involved.
#:
#: Example:
#:     >>> current.get() is None
#:     True
current: ContextVar[Context | None] = ContextVar("emit_context", default=None)
