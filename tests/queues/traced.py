"""A traced graph, Python -> Ruby -> Node -> Python, for workers of Celery or RQ."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celery import Celery
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from redis import Redis

from emit import CeleryRouter, RQRouter, ShellNode
from emit.celery import configure
from emit.context import current
from emit.errors import RemoteError
from emit.observe.otel import instrument

URL = os.environ["EMIT_TEST_REDIS"]
redis = Redis.from_url(URL, decode_responses=True)


class ToFile(SpanExporter):
    """Appends each span to a file, which all processes share."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        text = "".join(span.to_json(indent=None) + "\n" for span in spans)
        with Path(os.environ["EMIT_TEST_SPANS"]).open("a") as file:
            file.write(text)
        return SpanExportResult.SUCCESS


provider = TracerProvider()
# It never exports by itself: what is in the file was flushed.
processor = BatchSpanProcessor(ToFile(), schedule_delay_millis=3_600_000, max_queue_size=10_000)
provider.add_span_processor(processor)
if "EMIT_TEST_INSTRUMENTOR" in os.environ:
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    CeleryInstrumentor().instrument(tracer_provider=provider)

router: Any
if os.environ["EMIT_TEST_CARRIER"] == "rq":
    connection = Redis.from_url(URL)
    router = RQRouter(redis_connection=connection)
else:
    app = Celery("traced", broker=URL)
    configure(app, time_limit=60)
    router = CeleryRouter(celery_task=lambda function: app.task(function, shared=False))
instrument(router, provider)

FOLDER = Path(os.environ["EMIT_TEST_FOLDER"])


@router.node(("n",), entry_point=True)
def split(msg: Any) -> Any:
    yield from range(msg.count)


@router.node(("n", "ruby"), "traced.split", name="traced.double", batch=100, size=1)
class Double(ShellNode):
    file = str(FOLDER / "double.rb")


@router.node(("n", "ruby", "node"), "traced.double", name="traced.add", batch=100, size=1)
class Add(ShellNode):
    file = str(FOLDER / "add.mjs")


@router.node((), "traced.add", batch=25)
def last(msg: Any) -> None:
    told = current.get()
    assert told is not None
    span = trace.get_current_span().get_span_context()
    assert told.traceparent is not None
    assert f"{span.span_id:016x}" in told.traceparent
    redis.rpush("last", f"{msg.ruby} {msg.node} {told.traceparent}")


@router.node(())
def moody(msg: Any) -> None:
    told = current.get()
    assert told is not None
    redis.rpush("last", f"{told.attempt} {told.traceparent}")
    if told.attempt == 1 and not redis.exists("well"):
        again = msg.how == "again"
        raise RemoteError(node="moody", type="Busy", message="no", retry=again, after=0.0)
