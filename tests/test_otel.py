"""Spans of messages in this process, by OpenTelemetry's own SDK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from emit import Router, ShellNode
from emit.errors import RemoteError
from emit.observe.otel import Tracing, instrument
from tests.spans import Spans
from tests.test_observe import chain


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def test_a_chain(exporter: InMemorySpanExporter, provider: TracerProvider) -> None:
    """Each message has a span of its sending, and each run one below that; all are one trace."""
    router = chain()
    instrument(router, provider)
    tracer = provider.get_tracer("app")
    with tracer.start_as_current_span("request"):
        router(text="the rain")
    spans = Spans(exporter.get_finished_spans())
    assert spans.tree() == {
        "request": {
            "send words": {
                "process words": {
                    "send length": {"process length": {}},
                    "send length 2": {"process length": {}},
                }
            }
        }
    }
    process = spans.named("process length")[0]
    assert process.kind == SpanKind.CONSUMER
    assert dict(process.attributes or {}) == {
        "messaging.system": "emit",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "length",
        "emit.origin": "words",
        "emit.attempt": 1,
        "emit.results": 1,
    }
    (link,) = process.links
    assert process.parent is not None
    assert link.context.span_id == process.parent.span_id
    send = spans.named("send length")[0]
    assert send.kind == SpanKind.PRODUCER
    assert send.start_time == send.end_time


def test_the_handlers_own_spans(exporter: InMemorySpanExporter, provider: TracerProvider) -> None:
    """A handler's run is the current span, and what was current before is so afterwards."""
    router, tracer = Router(), provider.get_tracer("app")

    @router.node(("n",), entry_point=True, name="outer")
    def outer(msg: Any) -> int:
        with tracer.start_as_current_span("query"):
            router.functions["inner"](n=1)
        return 1

    @router.node(("n",), "outer", name="inner")
    def inner(msg: Any) -> int:
        with tracer.start_as_current_span("inner query"):
            return 1

    instrument(router, provider)
    before = trace.get_current_span()
    router(n=1)
    assert trace.get_current_span() is before
    called = {"process inner": {"inner query": {}}}
    heard = {"send inner": {"process inner": {"inner query": {}}}}
    assert Spans(exporter.get_finished_spans()).tree() == {
        "send outer": {"process outer": {"query": called, **heard}}
    }


def test_a_failure(exporter: InMemorySpanExporter, provider: TracerProvider) -> None:
    """It is an event with the handler's traceback, and the span has the status ERROR."""
    router = Router()

    @router.node((), entry_point=True, name="ill")
    def ill(msg: Any) -> None:
        raise ValueError("no such thing")

    instrument(router, provider)
    with pytest.raises(ValueError, match="no such thing"):
        router(n=1)
    (span,) = Spans(exporter.get_finished_spans()).named("process ill")
    (event,) = span.events
    told = event.attributes or {}
    assert (event.name, told["exception.type"]) == ("exception", "ValueError")
    assert told["exception.message"] == "no such thing"
    assert 'raise ValueError("no such thing")' in str(told["exception.stacktrace"])
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "ValueError"
    assert not trace.get_current_span().get_span_context().is_valid


RUBY = """
def check(sku) = raise(KeyError, "no #{sku}")
Emit.node(:price) { |msg| msg[:sku] == 'bad' ? raise(Emit::Reject, 'bad') : check(msg[:sku]) }
"""


@pytest.mark.requires("ruby")
def test_a_failure_in_another_language(
    tmp_path: Path, exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    """The event has the program's own stack. A message that the handler rejects is no error."""
    program = tmp_path / "price.rb"
    program.write_text(RUBY)
    router = Router()
    price = type("price", (ShellNode,), {"file": str(program)})
    router.node((), entry_point=True, name="price")(price)
    instrument(router, provider)
    with router:
        for sku in ("x", "bad"):
            with pytest.raises(RemoteError):
                router(sku=sku)
    failed, rejected = Spans(exporter.get_finished_spans()).named("process price")
    told = failed.events[0].attributes or {}
    assert (told["exception.type"], told["exception.message"]) == ("KeyError", "no x")
    first, second, *_ = str(told["exception.stacktrace"]).split("\n")
    assert first == "KeyError: no x"
    assert f"{program}:2:in" in second
    assert failed.status.status_code is StatusCode.ERROR
    assert rejected.status.status_code is StatusCode.UNSET
    assert rejected.events[0].name == "exception"


PYTHON = """
import os
from emit_sdk import Retry, context, node

@node
def tell(msg):
    if context().attempt == 1:
        raise Retry("busy", after=0.01)
    return context().traceparent
"""


def test_a_program_and_its_own_retries(
    tmp_path: Path, exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    """Each message that a program gets in a row is told its own run; an attempt is an event."""
    program = tmp_path / "tell.py"
    program.write_text(PYTHON)
    router, heard = Router(), list[str]()

    @router.node(("n",), entry_point=True, name="many")
    def many(msg: Any) -> Any:
        yield from range(msg.n)

    router.node(("trace",), "many", name="tell")(type("tell", (ShellNode,), {"file": str(program)}))

    @router.node((), "tell", name="hear")
    def hear(msg: Any) -> None:
        heard.append(msg.trace)

    instrument(router, provider)
    with router:
        router(n=20)
    spans = Spans(exporter.get_finished_spans())
    runs = spans.named("process tell")
    assert sorted(heard) == sorted(spans.traceparent(run) for run in runs)
    assert {run.parent.span_id for run in runs if run.parent} == {
        sent.context.span_id for sent in spans.named("send tell") if sent.context
    }
    assert {event.name for run in runs for event in run.events} == {"emit.retried"}
    assert {len(run.events) for run in runs} == {1}
    for run, heard_of in ((run, spans.children(run)) for run in runs):
        assert [child.name for child in heard_of] == ["send hear"], run.name
    assert len(spans.traces()) == 1
    assert not trace.get_current_span().get_span_context().is_valid


def test_what_is_not_sampled(exporter: InMemorySpanExporter) -> None:
    """Nothing is recorded, and the context that travels says so."""
    provider = TracerProvider(sampler=ALWAYS_OFF)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    router, sampled = Router(), list[bool]()

    @router.node((), entry_point=True, name="one")
    def one(msg: Any) -> None:
        sampled.append(trace.get_current_span().get_span_context().trace_flags.sampled)

    instrument(router, provider)
    router(n=1)
    assert sampled == [False]
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize("follows", [True, False], ids=["a usual sampler", "one that does not ask"])
def test_a_trace_that_its_caller_does_not_sample(
    exporter: InMemorySpanExporter, follows: bool
) -> None:
    """A sampler that follows the caller drops each run. Any other one decides for itself."""
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON) if follows else ALWAYS_ON)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    router, heard = Router(), list[trace.SpanContext]()

    @router.node(("n",), entry_point=True, name="one")
    def one(msg: Any) -> int:
        heard.append(trace.get_current_span().get_span_context())
        return 1

    @router.node((), "one", name="two")
    def two(msg: Any) -> None:
        heard.append(trace.get_current_span().get_span_context())
        raise KeyError("no")

    instrument(router, provider)
    outer = trace.SpanContext(1, 2, True, trace.TraceFlags(0))
    with trace.use_span(trace.NonRecordingSpan(outer)):
        with pytest.raises(KeyError):
            router(n=1)
        assert trace.get_current_span().get_span_context() is outer
    assert [told.trace_id for told in heard] == [1, 1]
    assert {told.trace_flags.sampled for told in heard} == {not follows}
    assert len(exporter.get_finished_spans()) == (0 if follows else 4)


def test_without_an_sdk() -> None:
    """The API alone traces nothing, and the messages go on."""
    router = chain()
    instrument(router)
    router(text="the rain")


def test_closing_exports(exporter: InMemorySpanExporter) -> None:
    """Spans that the SDK keeps back are exported by the end of the router."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000))
    router = chain()
    instrument(router, provider)
    router(text="rain")
    assert exporter.get_finished_spans() == ()
    router.close()
    assert len(exporter.get_finished_spans()) == 4
    provider.shutdown()


def test_instrumenting_twice(exporter: InMemorySpanExporter, provider: TracerProvider) -> None:
    """The router is traced once."""
    router = chain()
    tracing = instrument(router, provider)
    assert isinstance(tracing, Tracing)
    assert instrument(router, provider) is tracing
    router(text="rain")
    assert len(exporter.get_finished_spans()) == 4


def test_a_state_travels(exporter: InMemorySpanExporter, provider: TracerProvider) -> None:
    """The tracestate of the outer span is in every context below it."""
    router, states = Router(), list[str]()

    @router.node((), entry_point=True, name="one")
    def one(msg: Any) -> None:
        states.append(trace.get_current_span().get_span_context().trace_state.to_header())

    instrument(router, provider)
    state = trace.TraceState([("vendor", "x")])
    outer = trace.SpanContext(1, 2, True, trace.TraceFlags(1), state)
    with trace.use_span(trace.NonRecordingSpan(outer)):
        router(n=1)
    assert states == ["vendor=x"]
    spans: tuple[ReadableSpan, ...] = exporter.get_finished_spans()
    assert {span.context.trace_id for span in spans if span.context} == {1}
