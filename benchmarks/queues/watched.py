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
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import Link, Span, SpanKind

from emit import CeleryRouter
from emit.celery import configure
from emit.observe import Finished, Sent, Started
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


def provider(sampler: Any) -> TracerProvider:
    made = TracerProvider(sampler=sampler)
    made.add_span_processor(BatchSpanProcessor(Dropped(), max_queue_size=1 << 16))
    return made


class Bare:
    """
    Makes the two spans of each message, with as many attributes and links, by the SDK and nothing
    else: what the SDK alone costs. No context travels, so each is a trace of its own.
    """

    def __init__(self, sampler: Any) -> None:
        self._tracer = provider(sampler).get_tracer("bare")
        self._link = [Link(self._tracer.start_span("one").get_span_context())]
        self._spans: dict[int, Span] = {}

    def __call__(self, fact: Any) -> None:
        kind = type(fact)
        if kind is Sent:
            self._tracer.start_span(
                "send", kind=SpanKind.PRODUCER, attributes=self._about(fact, "send")
            ).end()
        elif kind is Started:
            about = self._about(fact, "process") | {"emit.attempt": 1, "emit.queue": fact.queue}
            self._spans[fact.run] = self._tracer.start_span(
                "process", kind=SpanKind.CONSUMER, attributes=about, links=self._link
            )
        elif kind is Finished:
            span = self._spans.pop(fact.run)
            span.set_attribute("emit.results", fact.results)
            span.end()

    def _about(self, fact: Any, operation: str) -> dict[str, Any]:
        return {
            "messaging.system": "celery",
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": fact.node,
            "messaging.message.id": fact.id,
            "emit.origin": fact.origin,
        }


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
    "bare_out": [Bare(ParentBased(ALWAYS_OFF))],
    "out": [Tracing(provider(ParentBased(ALWAYS_OFF)))],
    "bare_in": [Bare(ALWAYS_ON)],
    "in": [Tracing(provider(ALWAYS_ON))],
    "all": [Metrics(), Tracing(provider(ALWAYS_ON))],
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
