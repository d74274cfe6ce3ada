"""
Facts about the message being handled besides its fields. This module belongs to neither half:
a router that takes messages from a queue sets them, and the host sends them to the program.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

__all__ = ["Context", "current"]


class Context(NamedTuple):
    """
    The message that a handler works on.

    Attributes:
        id: The message's id. A message that is delivered again has the same.
        node: The node that handles it.
        origin: The node that it came from.
        attempt: Which attempt this is; 1 is the first.
        traceparent: The W3C trace context, or None: this run's, if an observer has begun one, and
            otherwise the sender's.
        tracestate: The second part of that context, or None.
    """

    id: str
    node: str
    origin: str = ""
    attempt: int = 1
    traceparent: str | None = None
    tracestate: str | None = None


#: The message that this thread (or greenlet) handles for a queue. None: no queue is involved.
#:
#: Example:
#:     >>> current.get() is None
#:     True
current: ContextVar[Context | None] = ContextVar("emit_context", default=None)


class Trace(NamedTuple):
    """A W3C trace context: ``traceparent``, and ``tracestate`` or an empty text."""

    traceparent: str
    tracestate: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """Its parts by their names in W3C's standard."""
        state = {"tracestate": self.tracestate} if self.tracestate else {}
        return {"traceparent": self.traceparent, **state}


def as_trace(parent: object, state: object = None) -> Trace | None:
    """Return the trace context in two headers, or None."""
    if not isinstance(parent, str) or not parent:
        return None
    return Trace(parent, state if isinstance(state, str) else "")


class Run:
    """
    A run of a node that the router's observers have been told of.

    Attributes:
        number: Unique in this process.
        trace: Its trace context, if an observer has given one.
        waited: Seconds that its message has waited for a process so far, set by the host; None: the
            node has no process.
        awaits: The name of the node, until its handler is called.
    """

    __slots__ = ("awaits", "number", "trace", "waited")

    def __init__(self, number: int) -> None:
        self.number = number
        self.trace: Trace | None = None
        self.waited: float | None = None
        self.awaits = ""


#: The run that this thread (or greenlet) works for. None: no observer has been told of one.
run: ContextVar[Run | None] = ContextVar("emit_run", default=None)


#: The :class:`emit.awaiting.Caller` that awaits this call, if one does. In a task that the call has
#: left running it is still there, and ``is_over``.
caller: ContextVar[Any] = ContextVar("emit_caller", default=None)


#: Takes the seconds of a wait between two attempts at a message in this process, in a test whose
#: clock is not the real one. None: the host waits.
rest: ContextVar[Callable[[float], None] | None] = ContextVar("emit_rest", default=None)


def trace_of(told: Context | None, of: Run | None) -> Trace | None:
    """
    Return the trace context of a run, or else that of the message that it handles.

    Args:
        told: The message, if a queue brought it.
        of: The run, if an observer was told of one.
    """
    if of is not None and of.trace is not None:
        return of.trace
    if told is None or told.traceparent is None:
        return None
    return Trace(told.traceparent, told.tracestate or "")
