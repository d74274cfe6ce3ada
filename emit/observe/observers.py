"""
The observers of a router. Its carriers and its nodes' pools tell them facts.

The code that tells a fact looks at :attr:`Observers.each` first, and makes no fact if it is empty.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from emit.context import Trace
from emit.observe.facts import Fact, Observer

__all__ = ["Observers", "tell"]

_log = logging.getLogger("emit")


class Observers:
    """
    Attributes:
        each: The observers. The tuple is replaced and never changed, so no lock is needed.
        passing: The exceptions that do not come from an observer, although they are raised in it,
            such as a queue's time limit.
    """

    __slots__ = ("each", "passing")

    def __init__(self) -> None:
        self.each: tuple[Observer, ...] = ()
        self.passing: tuple[type[Exception], ...] = ()

    def add(self, observer: Observer) -> None:
        """
        Add an observer. A second time changes nothing.

        Raises:
            TypeError: It can't be called.
        """
        if not callable(observer):
            raise TypeError(f"an observer must be callable with one fact, not {observer!r}")
        if observer not in self.each:
            self.each = (*self.each, observer)

    def tell(self, fact: Fact) -> Trace | None:
        """Tell all observers. Return the first trace context that one of them returns."""
        trace = None
        for observer in self.each:
            try:
                said = observer(fact)
                if said is not None:
                    trace = trace or _trace(said)
            except Exception as error:
                self._fail(observer, type(fact).__name__, error)
        return trace

    def flush(self) -> None:
        """Have the observers that keep something back give it away: this process may end."""
        for observer in self.each:
            try:
                getattr(observer, "flush", _nothing)()
            except Exception as error:
                self._fail(observer, "flush()", error)

    def _fail(self, observer: Observer, told: str, error: Exception) -> None:
        """Log an observer's exception, and never call the observer again."""
        if isinstance(error, self.passing):
            raise error
        self.each = tuple(other for other in self.each if other is not observer)
        named = observer if hasattr(observer, "__qualname__") else type(observer)
        text = "the observer %s.%s raised an exception when it was told %s; it is switched off"
        _log.error(text, named.__module__, named.__qualname__, told, exc_info=error)


def _nothing() -> None:
    pass


def _trace(said: Any) -> Trace | None:
    """
    Raises:
        TypeError: *said* is not a mapping of texts.
    """
    if not isinstance(said, Mapping):
        raise TypeError(f"an observer returns None or a mapping, not {type(said).__name__}")
    parent, state = said.get("traceparent"), said.get("tracestate") or ""
    if parent is None:
        return None
    if not isinstance(parent, str) or not isinstance(state, str):
        raise TypeError("traceparent and tracestate must be texts")
    return Trace(parent, state)


def tell(all: Iterable[Observers], fact: Fact) -> None:
    """Tell the observers of routers whose nodes share processes. Each observer is told once."""
    told: list[Observer] = []
    for observers in all:
        for observer in observers.each:
            if observer not in told:
                told.append(observer)
                try:
                    observer(fact)
                except Exception as error:
                    observers._fail(observer, type(fact).__name__, error)
