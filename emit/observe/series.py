"""
The series of metrics that Emit has, and the observer that fills them from facts. No I/O here.

The names are as Prometheus wants them: ``emit_``, and the base unit at the end. Labels are few, and
none has ids: a series exists once for each node, carrier and kind of error. ``node`` is a node's
name. In series of processes it is the program's name if several nodes share the program.

The names for OpenTelemetry are those of its semantic conventions for messaging, if they have one:
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from emit.observe import facts

__all__ = ["ALL", "Meter", "Series", "Tally"]

#: Upper bounds of a histogram's buckets, in seconds: about those that OpenTelemetry's conventions
#: advise for ``messaging.process.duration``, and longer ones for waits in a queue.
BUCKETS = (
    *(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
)


class Series(NamedTuple):
    """
    One series.

    Attributes:
        name: Its name in Prometheus; a counter's without ``_total``.
        labels: The names of its labels.
        help: What it measures.
        otel: Its name in OpenTelemetry.
        is_histogram: It has durations in seconds; otherwise it counts.
    """

    name: str
    labels: tuple[str, ...]
    help: str
    otel: str
    is_histogram: bool = False


SENT = Series(
    "emit_messages_sent",
    ("node", "carrier"),
    "Messages sent to a node.",
    "messaging.client.sent.messages",
)
HANDLED = Series(
    "emit_messages_handled",
    ("node", "carrier", "outcome", "error"),
    "Runs of a node that have ended: finished, failed, or retry if the handler asked for another.",
    "messaging.client.consumed.messages",
)
RETRIED = Series(
    "emit_messages_retried",
    ("node", "carrier", "error"),
    "Attempts after which a message is tried again.",
    "emit.messages.retried",
)
WAITING = Series(
    "emit_messages_put_back",
    ("node", "carrier", "error"),
    "Messages that went back to their queue without a charge, since they could not be tried.",
    "emit.messages.put_back",
)
DEAD = Series(
    "emit_messages_dead",
    ("node", "carrier", "error"),
    "Messages that were given up.",
    "emit.messages.dead",
)
RUN = Series(
    "emit_run_duration_seconds",
    ("node", "carrier"),
    "Duration of a handler.",
    "messaging.process.duration",
    True,
)
QUEUED = Series(
    "emit_queue_wait_seconds",
    ("node", "carrier"),
    "Time that a message was ready in its queue.",
    "emit.queue.wait",
    True,
)
WAITED = Series(
    "emit_process_wait_seconds",
    ("node",),
    "Time that a message waited for a process.",
    "emit.process.wait",
    True,
)
STARTS = Series(
    "emit_process_starts", ("node",), "Processes that were started.", "emit.process.starts"
)
READY = Series(
    "emit_process_start_seconds",
    ("node",),
    "Time until a process was ready.",
    "emit.process.start",
    True,
)
ENDS = Series(
    "emit_process_ends",
    ("node", "cause"),
    "Processes that have ended, by cause.",
    "emit.process.ends",
)
CPU = Series(
    "emit_process_cpu_seconds",
    ("node",),
    "Processor time of processes.",
    "emit.process.cpu_time",
)

ALL = (SENT, HANDLED, RETRIED, WAITING, DEAD, RUN, QUEUED, WAITED, STARTS, READY, ENDS, CPU)


class Meter(Protocol):
    """Keeps the values of series."""

    def add(self, series: Series, labels: tuple[str, ...], amount: float = 1.0) -> None:
        """Add to a counter."""

    def record(self, series: Series, labels: tuple[str, ...], seconds: float) -> None:
        """Record a duration in a histogram."""


class Tally:
    """An observer that fills the series of a meter."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._tellers: dict[type, Callable[[Any], None]] = {
            facts.Sent: self._sent,
            facts.Started: self._started,
            facts.Finished: self._finished,
            facts.Failed: self._failed,
            facts.Retried: self._retried,
            facts.Waiting: self._waiting,
            facts.Dead: self._dead,
            facts.ProcessStarted: self._process_started,
            facts.ProcessReady: self._process_ready,
            facts.ProcessEnded: self._process_ended,
        }

    def __call__(self, fact: Any) -> None:
        teller = self._tellers.get(type(fact))
        if teller is not None:
            teller(fact)

    def _sent(self, fact: facts.Sent) -> None:
        self._meter.add(SENT, (fact.node, fact.carrier))

    def _started(self, fact: facts.Started) -> None:
        if fact.queued is not None:
            self._meter.record(QUEUED, (fact.node, fact.carrier), fact.queued)

    def _finished(self, fact: facts.Finished) -> None:
        self._meter.add(HANDLED, (fact.node, fact.carrier, "finished", ""))
        self._ended(fact)

    def _failed(self, fact: facts.Failed) -> None:
        outcome = "retry" if _asks_again(fact.error) else "failed"
        self._meter.add(HANDLED, (fact.node, fact.carrier, outcome, fact.kind))
        self._ended(fact)

    def _ended(self, fact: facts.Finished | facts.Failed) -> None:
        self._meter.record(RUN, (fact.node, fact.carrier), fact.seconds)
        if fact.waited is not None:
            self._meter.record(WAITED, (fact.node,), fact.waited)

    def _retried(self, fact: facts.Retried) -> None:
        self._meter.add(RETRIED, (fact.node, fact.carrier, fact.kind))

    def _waiting(self, fact: facts.Waiting) -> None:
        self._meter.add(WAITING, (fact.node, fact.carrier, fact.kind))

    def _dead(self, fact: facts.Dead) -> None:
        self._meter.add(DEAD, (fact.node, fact.carrier, fact.kind))

    def _process_started(self, fact: facts.ProcessStarted) -> None:
        self._meter.add(STARTS, (fact.node,))

    def _process_ready(self, fact: facts.ProcessReady) -> None:
        self._meter.record(READY, (fact.node,), fact.seconds)

    def _process_ended(self, fact: facts.ProcessEnded) -> None:
        self._meter.add(ENDS, (fact.node, fact.cause))
        self._meter.add(CPU, (fact.node,), fact.cpu_seconds)


def _asks_again(error: BaseException) -> bool:
    """Return True if a handler has asked for another attempt: by Emit's Retry, or by Celery's."""
    return getattr(error, "retry", None) is True or type(error).__name__ == "Retry"
