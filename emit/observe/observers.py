"""
The observers of a router. Its carriers and its nodes' pools tell them facts.

The code that tells a fact looks at :attr:`Observers.each` first, and makes no fact if it is empty.
A :class:`Tap` is an observer that is shown messages and results as well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

from emit.context import Run, Trace
from emit.observe.facts import Fact, Observer, Started

__all__ = ["Observers", "Tap", "here", "noticing", "tell"]

_log = logging.getLogger("emit")

#: The observers of each router of this process.
here: WeakSet[Observers] = WeakSet()

#: Functions that are called with those of a new router.
noticing: list[Callable[[Observers], object]] = []


class Tap:
    """
    An observer that is also shown what passes: a subclass overrides some of these methods. The
    mappings are the node's own, so a tap neither changes nor keeps them.
    """

    def __call__(self, fact: Any) -> None:
        """Take a fact."""

    def message(self, fact: Started, fields: Mapping[str, Any]) -> None:
        """
        Look at a message, just before its node gets it.

        Args:
            fact: The beginning of its run, which this follows.
            fields: The message. It may have an ``_origin``.
        """

    def results(self, run: int, node: str, results: Sequence[Mapping[str, Any]]) -> None:
        """
        Look at results of a run, just before they are sent on.

        Args:
            run: The number of the run, as in its :class:`emit.observe.Started`. The results of a
                handler that takes many messages together are those of the first one's run.
            node: The node.
            results: The fields of one or more results.
        """


class Observers:
    """
    Attributes:
        each: The observers. The tuple is replaced and never changed, so no lock is needed.
        taps: Those that are taps.
        passing: The exceptions that do not come from an observer, although they are raised in it,
            such as a queue's time limit.
        redact: Names of fields that nobody is to be shown.
    """

    __slots__ = ("__weakref__", "each", "passing", "redact", "taps")

    def __init__(self, redact: Iterable[str] = ()) -> None:
        self.each: tuple[Observer, ...] = ()
        self.taps: tuple[Tap, ...] = ()
        self.passing: tuple[type[Exception], ...] = ()
        self.redact = frozenset(redact)
        here.add(self)
        for notice in noticing:
            notice(self)

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
            self.taps = tuple(each for each in self.each if isinstance(each, Tap))

    def remove(self, observer: Observer) -> None:
        """Never call an observer again. Nothing happens if it is not there."""
        self.each = tuple(each for each in self.each if each is not observer)
        self.taps = tuple(tap for tap in self.taps if tap is not observer)

    def show(self, fact: Started, fields: Mapping[str, Any]) -> None:
        """Show the taps a message."""
        for tap in self.taps:
            try:
                tap.message(fact, fields)
            except Exception as error:
                self._fail(tap, "a message", error)

    def show_results(
        self, run: Run | None, node: str, results: Sequence[Mapping[str, Any]]
    ) -> None:
        """Show the taps results of a run."""
        number = 0 if run is None else run.number
        for tap in self.taps if number else ():
            try:
                tap.results(number, node, results)
            except Exception as error:
                self._fail(tap, "results", error)

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
        self.remove(observer)
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
    if type(said) is Trace:  # of Emit's own observers
        return said
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
