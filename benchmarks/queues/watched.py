"""Graphs on Celery that differ only in who observes them, for traces.py."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celery import Celery
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

from emit import CeleryRouter
from emit.celery import configure
from emit.observe.counts import Counts
from emit.observe.otel import Tracing
from emit.observe.series import Tally

#: Gets a byte for each message that is done.
DONE = os.open(os.environ["BENCH_DONE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

app = Celery("watched", broker=os.environ["BENCH_REDIS"])
configure(app)
app.conf.task_ignore_result = True


class Dropped(SpanExporter):
    """Takes spans, and does nothing with them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def tracing(sampler: Any) -> Tracing:
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(BatchSpanProcessor(Dropped(), max_queue_size=1 << 16))
    return Tracing(provider)


class Metrics:
    """Counts as emit.observe.metrics does, in a folder of this process's own."""

    def __init__(self) -> None:
        self._pid = 0
        self._tally: Any = None

    def __call__(self, fact: Any) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._tally = Tally(Counts.at(Path(tempfile.mkdtemp())))
        self._tally(fact)


OBSERVERS: dict[str, list[Any]] = {
    "nobody": [],
    "metrics": [Metrics()],
    "out": [tracing(ALWAYS_OFF)],
    "all": [Metrics(), tracing(ALWAYS_ON)],
}


def graph(name: str, observers: list[Any]) -> Any:
    router = CeleryRouter(celery_task=app.task)
    for observer in observers:
        router.observe(observer)

    @router.node(("word",), name=f"{name}.words")
    def words(msg: Any) -> Any:
        yield from msg.document.split()

    @router.node(("length",), f"{name}.words", name=f"{name}.length")
    def length(msg: Any) -> Any:
        os.write(DONE, b".")
        return len(msg.word)

    return router


routers = {name: graph(name, observers) for name, observers in OBSERVERS.items()}
