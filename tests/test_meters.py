"""Metrics by OpenTelemetry, with its own SDK."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from emit import Router
from emit.observe import meters


def points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    """Return the data points of each metric."""
    data = reader.get_metrics_data()
    assert data is not None
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    assert scope.scope.name == "emit"
    return {metric.name: [*metric.data.data_points] for metric in scope.metrics}


def test_messages() -> None:
    """Names, attributes and values are those of the semantic conventions for messaging."""
    reader, router = InMemoryMetricReader(), Router()
    meters.instrument(router, MeterProvider(metric_readers=[reader]))

    @router.node(("n",), entry_point=True, name="length")
    def length(msg: Any) -> int:
        return len(msg.word)

    router(word="rain")
    with pytest.raises(AttributeError):
        router(n=1)
    found = points(reader)
    (sent,) = found["messaging.client.sent.messages"]
    about = {"messaging.destination.name": "length", "messaging.system": "process"}
    assert (sent.value, sent.attributes) == (2, {**about, "messaging.operation.name": "send"})
    processed = {**about, "messaging.operation.name": "process"}
    consumed = {
        point.attributes.get("error.type"): (point.value, point.attributes)
        for point in found["messaging.client.consumed.messages"]
    }
    assert consumed == {
        None: (1, {**processed, "emit.outcome": "finished"}),
        "AttributeError": (
            1,
            {**processed, "emit.outcome": "failed", "error.type": "AttributeError"},
        ),
    }
    (run,) = found["messaging.process.duration"]
    assert (run.count, run.attributes) == (2, processed)
    assert 0 < run.sum < 60
    assert run.explicit_bounds[0] == 0.001
