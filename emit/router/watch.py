"""
Tells a router's observers about messages: :class:`Watch` for a carrier, :class:`Watched` for one
run of a node. A carrier that nobody observes looks at ``observers.each`` and does nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING, Any

from emit import context
from emit.context import Run, Trace
from emit.observe.facts import Dead, Failed, Finished, Retried, Sent, Started, Waiting
from emit.observe.observers import Observers

if TYPE_CHECKING:  # to import it takes longer than the rest of the router
    from emit.letter import DeadLetter

#: Makes the number of each run.
_numbers = count(1)

#: Makes a fact in a third of the time that its class takes. Each hop has three.
_make = tuple.__new__


class Watch:
    """
    Tells what happens to a carrier's messages.

    Args:
        observers: The router's. If its ``each`` is empty, no method is called.
        carrier: The name of the carrier, as facts have it.
    """

    __slots__ = ("carrier", "observers")

    def __init__(self, observers: Observers, carrier: str) -> None:
        self.observers = observers
        self.carrier = carrier

    def sent(self, origin: str, node: str, id: str = "", alone: bool = True) -> Trace | None:
        """Tell that a message is about to be sent. Return the trace context that it is to carry."""
        run = context.run.get()
        number = 0 if run is None else run.number
        fact = _make(Sent, (origin, node, id, self.carrier, number, time.time(), alone))
        return self.observers.tell(fact)

    def begin(
        self,
        node: str,
        origin: str,
        fields: Mapping[str, Any],
        trace: Trace | None = None,
        *,
        id: str = "",
        attempt: int = 1,
        queue: str = "",
        batch: int = 1,
        ready: float | None = None,
        first: str | None = None,
    ) -> Watched:
        """
        Tell that a run begins.

        Args:
            node, origin, id, attempt, queue, batch, first: As in :class:`emit.observe.Started`.
            fields: The message, for taps.
            trace: The context that came with the message.
            ready: The time from which the queue could deliver it.
        """
        now, number, carrier = time.time(), next(_numbers), self.carrier
        watched = Watched(self.observers, (node, id, attempt, carrier, number), now)
        parent, state = (None, None) if trace is None else (trace[0], trace[1] or None)
        queued = None if ready is None else max(0.0, now - ready)
        told = (
            node,
            origin,
            id,
            attempt,
            carrier,
            queue,
            batch,
            queued,
            number,
            now,
            parent,
            state,
            first,
        )
        fact = _make(Started, told)
        watched.trace = self.observers.tell(fact)
        if self.observers.taps:
            self.observers.show(fact, fields)
        return watched

    def put_back(
        self,
        node: str,
        id: str,
        attempt: int,
        run: int,
        error: BaseException,
        delay: float,
        *,
        charged: bool,
    ) -> None:
        """Tell that a message will be handled again. *charged*: the attempt counts."""
        make = Retried if charged else Waiting
        head = (node, id, attempt, self.carrier, run, type(error).__name__)
        self.observers.tell(make(*head, delay))

    def dead(self, letter: DeadLetter, run: int, error: BaseException) -> None:
        """Tell that a message was given up."""
        attempts = len(letter.causes) if letter.attempts is None else letter.attempts
        head = (letter.node, letter.id, attempts, self.carrier, run)
        self.observers.tell(Dead(*head, type(error).__name__))


class Watched(Run):
    """
    One run of a node, from its beginning to its end.

    Attributes:
        results: Number of its results, if it is told later than they are known.
        is_over: Its end was told.
    """

    __slots__ = ("_at", "_began", "_head", "_observers", "_seconds", "is_over", "results")

    def __init__(
        self, observers: Observers, head: tuple[str, str, int, str, int], at: float
    ) -> None:
        # As Run does, but without the call, since each hop makes one.
        self.number, self.trace, self.waited, self.awaits = head[-1], None, None, ""
        self.results = 0
        self.is_over = False
        self._observers = observers
        self._head = head
        self._at = at
        self._seconds: float | None = None
        self._began = time.monotonic()

    def stop(self, before: float = 0.0) -> float:
        """
        Note that the handler has ended. Whether the run has ended well shows later.

        Args:
            before: The end of the message before it in a batch.

        Returns:
            The time, by the monotonic clock.
        """
        now = time.monotonic()
        self._at += now - self._began
        self._seconds = now - max(self._began, before)
        return now

    def finished(self, results: int) -> None:
        """Tell that the run has ended well."""
        self.is_over = True
        if self._seconds is None:
            self.stop()
        told = (*self._head, results, self._seconds, self.waited, self._at)
        self._observers.tell(_make(Finished, told))

    def failed(self, error: BaseException) -> None:
        """Tell that the run has ended in an exception."""
        self.is_over = True
        if self._seconds is None:
            self.stop()
        told = (type(error).__name__, error, self._seconds, self.waited, self._at)
        self._observers.tell(_make(Failed, (*self._head, *told)))


class Flow:
    """
    Results that are taken one at a time, while other nodes run in between.

    Args:
        results: The results. They are made, and sent, in the context of their run.
        watched: Their run; None: the present one, or those that the generator sets.

    Attributes:
        run: The run of the result that was taken last.
    """

    def __init__(self, results: Generator[Any, None, None], watched: Watched | None = None) -> None:
        self.run: Run | None = context.run.get() if watched is None else watched
        self._results = results
        self._watched = watched
        self._count = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        token = context.run.set(self.run)
        try:
            result = next(self._results)
        except StopIteration:
            if self._watched is not None:
                self._watched.finished(self._count)
            raise
        except BaseException as error:
            self._fail(error)
            raise
        else:
            self.run = context.run.get()
            self._count += 1
            return result
        finally:
            context.run.reset(token)

    def sending(self, send: Callable[..., Any], *args: Any) -> None:
        """Call *send* in the context of the run of the last result."""
        token = context.run.set(self.run)
        try:
            send(*args)
        finally:
            context.run.reset(token)

    def close(self) -> None:
        """Give up the results that are left."""
        token = context.run.set(self.run)
        try:
            with closing(self._results):
                self._fail(GeneratorExit())
        finally:
            context.run.reset(token)

    def _fail(self, error: BaseException) -> None:
        if self._watched is not None and not self._watched.is_over:
            self._watched.failed(error)
