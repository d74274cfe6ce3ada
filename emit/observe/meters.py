"""
Metrics by OpenTelemetry: the series of :mod:`emit.observe.series` as instruments.

Needs ``pip install 'emit-graph[otel]'``, which has only OpenTelemetry's API; the application brings
the SDK and decides where the metrics go. Each process exports its own, and loses what it has
counted since its last export if it is killed. For exact counts, or to have one process tell all of
a machine, let a collector's Prometheus receiver ask ``emit metrics``: :mod:`emit.observe.metrics`.

Names and attributes follow the semantic conventions for messaging, if they have one:
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import MeterProvider, get_meter

from emit.observe.series import ALL, BUCKETS, DEAD, HANDLED, RUN, SENT, Series, Tally

if TYPE_CHECKING:
    from emit.router import Router

__all__ = ["instrument"]

#: The attribute of each label. An empty label has none, as of a message that has not failed.
_ATTRIBUTES = {
    "node": "messaging.destination.name",
    "carrier": "messaging.system",
    "error": "error.type",
    "outcome": "emit.outcome",
    "cause": "emit.process.end_cause",
}

#: ``messaging.operation.name`` of the series that the conventions know.
_OPERATIONS = {SENT: "send", HANDLED: "process", RUN: "process", DEAD: "settle"}


def instrument(router: Router, meter_provider: MeterProvider | None = None) -> None:
    """
    Measure the messages of *router*, and the processes of its programs, from now on.

    Args:
        router: Any router. Call this once for each.
        meter_provider: Makes the meter ``emit``; None: OpenTelemetry's global one.
    """
    router.observe(Tally(_Meter(meter_provider)))


class _Meter:
    """Fills OpenTelemetry's instruments."""

    def __init__(self, provider: MeterProvider | None) -> None:
        meter = get_meter("emit", meter_provider=provider)
        self._instruments: dict[Series, Any] = {}
        for series in ALL:
            about = series.otel, _unit(series), series.help
            self._instruments[series] = (
                meter.create_histogram(*about, explicit_bucket_boundaries_advisory=BUCKETS)
                if series.is_histogram
                else meter.create_counter(*about)
            )
        self._known: dict[tuple[Series, tuple[str, ...]], dict[str, str]] = {}

    def add(self, series: Series, labels: tuple[str, ...], amount: float = 1.0) -> None:
        """Add to a counter."""
        self._instruments[series].add(amount, self._attributes(series, labels))

    def record(self, series: Series, labels: tuple[str, ...], seconds: float) -> None:
        """Record a duration in a histogram."""
        self._instruments[series].record(seconds, self._attributes(series, labels))

    def _attributes(self, series: Series, labels: tuple[str, ...]) -> dict[str, str]:
        known = self._known.get((series, labels))
        if known is None:
            pairs = zip(series.labels, labels, strict=True)
            known = {_ATTRIBUTES[name]: value for name, value in pairs if value}
            if series in _OPERATIONS:
                known["messaging.operation.name"] = _OPERATIONS[series]
            self._known[series, labels] = known
        return known


def _unit(series: Series) -> str:
    """Return the unit in UCUM, as the conventions have it."""
    if series.is_histogram or series.name.endswith("_seconds"):
        return "s"
    return "{message}" if "messages" in series.name else "{process}"
