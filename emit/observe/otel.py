"""
Traces of a router's messages by OpenTelemetry: :func:`instrument`.

Install it with ``pip install 'emit-graph[otel]'``. It needs the package ``opentelemetry-api`` only.
The application brings its SDK, with the exporter and the sampler. Without an SDK nothing is
recorded.

Each message to a node has two spans, also if it travels in a batch:

==================  ========  ===============================================================
name                kind      what it is
==================  ========  ===============================================================
``send <node>``     PRODUCER  a message that is sent. It takes no time
``create <node>``   PRODUCER  the same, for a message that may travel with others
``process <node>``  CONSUMER  a run of the node: one attempt at one message
==================  ========  ===============================================================

* The parent of a ``send`` is the run that sends it, or the span around a call of the router.
* The parent of a ``process`` is the ``send``, also linked as the message's creation context.
* A later attempt, and a dead letter that is sent again, also link to the ``process`` of the first
  attempt.
* A run whose trace is not sampled has no span if the sampler follows its parents, as the usual one
  does: it passes its sender's context on.
* The node's program is told the context of its ``process`` as ``traceparent``. For a handler in
  Python it is the current span.
* A run that fails has the exception as an event, with the stack of the program's own language, and
  the status ERROR, unless the handler has rejected its message.

If Celery's own instrumentor (``opentelemetry-instrumentation-celery``) is active, its spans take
the place of ``send`` and ``process`` for a message that travels alone, and get the attributes and
events described here. For a batch, its spans are about the batch, and each ``process`` links to its
``run/<task>``.

Names, kinds, links and attributes are those of the `semantic conventions for messaging
<https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>`_, whose status is
"development", with the node as the destination. Events are those of the `conventions for exceptions
<https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/>`_. Further attributes:
``emit.origin``, ``emit.attempt``, ``emit.queue``, ``emit.batch`` (messages that were delivered
together), ``emit.results`` and ``emit.waited`` (seconds until there was a process). None has a
payload; the text of an exception may quote what its author has put there.
"""

from __future__ import annotations

import re
import sys
import traceback
from importlib.metadata import version
from typing import Any

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider,
    TraceState,
)

from emit.context import Trace
from emit.errors import CallTimeout, Reject, RemoteError
from emit.observe.facts import Failed, Finished, Retried, Sent, Started
from emit.router.core import Router

__all__ = ["Tracing", "instrument"]

#: The name of Celery's instrumentor, as a module and as the scope of its spans.
_CELERY = "opentelemetry.instrumentation.celery"

#: Milliseconds for an exporter to take what is left at the end of a process.
_FLUSH = 5000

#: The key of a run in OpenTelemetry's context.
_RUN = context.create_key("emit-run")

#: A context without a span. It is copied and never changed.
_NOWHERE = Context()

#: A ``traceparent`` of W3C's version 00, or of a later one, which may add parts.
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


def instrument(router: Router, tracer_provider: TracerProvider | None = None) -> Tracing:
    """
    Trace the messages of a router.

    Call it where the router is declared, so that its workers do so as well. Spans are exported when
    the router is closed, and when a process of Celery's pool or RQ's work horse ends: such a
    process ends without Python's own exit handlers. If a process is killed, the spans that its SDK
    has not exported are lost.

    Args:
        router: The router. Traced once, however often this is called.
        tracer_provider: The SDK's; default: the global one, which may also be set later.

    Returns:
        The observer.

    Example:
        >>> router = Router()
        >>> tracing = instrument(router)
    """
    for observer in router._observers.each:
        if isinstance(observer, Tracing):
            return observer
    tracing = Tracing(tracer_provider)
    router.observe(tracing)
    return tracing


class _Run:
    """
    A run whose span is open.

    Attributes:
        span: The span.
        is_ours: We end it. False: it is Celery's instrumentor's, or stands for the sender's.
        is_dropped: Its trace is not sampled, so it has no span of its own.
        within: The context with the span.
        before: The context that was current before.
        outer: The run in that context, if any.
        is_over: Its span has ended.
        task: The span of Celery's instrumentor around it, if there is one.
        last: The time at which it last sent a message, in nanoseconds.
    """

    __slots__ = (
        *("before", "is_dropped", "is_ours", "is_over", "last", "outer", "span", "task", "within"),
    )

    def __init__(
        self, span: Span, is_ours: bool, task: Span | None, is_dropped: bool = False
    ) -> None:
        self.task = task
        self.is_dropped = is_dropped
        self.span = span
        self.is_ours = is_ours
        self.is_over = False
        self.last = 0
        before = self.before = context.get_current()
        self.outer: _Run | None = before.get(_RUN)  # type: ignore[assignment]
        self.within = context.set_value(_RUN, self, trace.set_span_in_context(span, before))
        context.attach(self.within)

    def leave(self) -> None:
        """Make the context current that was so before, unless another run has taken its place."""
        self.is_over = True
        if context.get_current().get(_RUN) is self:
            before, outer = self.before, self.outer
            while outer is not None and outer.is_over:
                before, outer = outer.before, outer.outer
            context.attach(before)


class Tracing:
    """
    An observer that makes spans; see :func:`instrument`.

    Args:
        tracer_provider: As for :func:`instrument`.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._provider = tracer_provider
        self._tracer = trace.get_tracer("emit", version("emit-graph"), tracer_provider)
        self._runs: dict[int, _Run] = {}
        self._known: dict[tuple[str, str, str, str], dict[str, Any]] = {}
        self._sampler: Any = None
        self._drops = False

    def __call__(self, fact: Any) -> Trace | None:
        """Take a fact. Return the trace context of the message or the run that begins."""
        kind = type(fact)
        if kind is Sent:
            return self._sent(fact)
        if kind is Started:
            return self._started(fact)
        if kind is Finished:
            self._finished(fact)
        elif kind is Failed:
            self._failed(fact)
        elif kind is Retried and fact.carrier == "host":
            self._retried(fact)
        return None

    def flush(self) -> None:
        """Have the SDK export the spans that have ended."""
        provider = self._provider or trace.get_tracer_provider()
        flush = getattr(provider, "force_flush", None)  # of an SDK
        if flush is not None:
            flush(_FLUSH)

    # -- messages --------------------------------------------------------------------------

    def _sent(self, fact: Sent) -> Trace | None:
        run = self._runs.get(fact.run)
        if run is not None and context.get_current().get(_RUN) is not run:
            context.attach(run.within)  # for the spans of the queue's client
        if fact.alone and fact.carrier == "celery" and _celery_is_traced():
            return None
        if run is not None and run.is_dropped:
            return _trace(run.span)
        operation = "send" if fact.alone else "create"
        at = _nanoseconds(fact.at)
        span = self._tracer.start_span(
            f"{operation} {fact.node}",
            None if run is None else run.within,
            SpanKind.PRODUCER,
            self._about(fact, operation),
            start_time=at,
        )
        span.end(at)
        if run is not None:
            run.last = at
        return _trace(span)

    # -- runs ------------------------------------------------------------------------------

    def _started(self, fact: Started) -> Trace | None:
        sender = _read(fact.traceparent, fact.tracestate)
        task = _task_of(fact)
        if task is None and sender is not None and self._will_drop(sender):
            self._runs[fact.run] = run = _Run(NonRecordingSpan(sender), False, None, True)
            return _trace(run.span)
        about = self._about(fact, "process")
        about["emit.attempt"] = fact.attempt
        if fact.queue:
            about["emit.queue"] = fact.queue
        if fact.batch > 1:
            about["emit.batch"] = fact.batch
        first = _read(fact.first)
        links = [] if first is None else [Link(first, {"emit.link": "first attempt"})]
        if task is not None and fact.batch == 1:
            task.set_attributes(about)
            for link in links:
                task.add_link(link.context, link.attributes)
            run = _Run(task, False, task)
        else:
            if sender is not None:
                links.insert(0, Link(sender))
            if task is not None:
                links.append(Link(task.get_span_context()))
            span = self._tracer.start_span(
                f"process {fact.node}",
                _within(sender),
                SpanKind.CONSUMER,
                about,
                links,
                start_time=_nanoseconds(fact.at),
            )
            run = _Run(span, True, task)
        self._runs[fact.run] = run
        return _trace(run.span)

    def _finished(self, fact: Finished) -> None:
        run = self._runs.pop(fact.run, None)
        if run is not None:
            run.span.set_attribute("emit.results", fact.results)
            self._end(run, fact)

    def _failed(self, fact: Failed) -> None:
        run = self._runs.pop(fact.run, None)
        if run is None:
            return
        span, error = run.span, fact.error
        if span.is_recording() and isinstance(error, Exception):
            told = _exception(error)
            if run.is_ours or isinstance(error, RemoteError):  # else Celery's instrumentor does
                span.add_event("exception", told, _nanoseconds(fact.at))
            span.set_attribute("error.type", told["exception.type"])
            if not isinstance(error, Reject):
                span.set_status(Status(StatusCode.ERROR, told["exception.message"]))
        self._end(run, fact)

    def _retried(self, fact: Retried) -> None:
        """Record an attempt of the program's host within a run."""
        run = self._runs.get(fact.run)
        if run is not None:
            about: dict[str, Any] = {
                "error.type": fact.kind,
                "emit.attempt": fact.attempt,
                "emit.delay": fact.delay,
            }
            run.span.add_event("emit.retried", about)

    def _end(self, run: _Run, fact: Finished | Failed) -> None:
        if fact.waited:
            run.span.set_attribute("emit.waited", fact.waited)
        run.leave()
        if run.is_ours:
            run.span.end(max(_nanoseconds(fact.at), run.last))

    def _will_drop(self, parent: SpanContext) -> bool:
        """
        Return True if the sampler drops what its parent has dropped: it need not be asked then, and
        nothing is made for it. The SDK's usual sampler does so.
        """
        if parent.trace_flags & TraceFlags.SAMPLED:
            return False
        sampler = getattr(
            self._provider or trace.get_tracer_provider(), "sampler", None
        )  # of an SDK
        if sampler is not self._sampler:
            self._sampler = sampler
            self._drops = sampler is not None and _follows_parents(sampler.get_description())
        return self._drops

    def _about(self, fact: Sent | Started, operation: str) -> dict[str, Any]:
        """Return the attributes of a span, as a dictionary of its own."""
        key = operation, fact.carrier, fact.node, fact.origin
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = {
                "messaging.system": "emit" if fact.carrier == "process" else fact.carrier,
                "messaging.operation.name": operation,
                "messaging.operation.type": operation,
                "messaging.destination.name": fact.node,
                "emit.origin": fact.origin,
            }
        return known | {"messaging.message.id": fact.id} if fact.id else known.copy()


def _exception(error: Exception) -> dict[str, str]:
    """Return the attributes of an exception; of one in a program, as that program has told it."""
    inner = error.remote if isinstance(error, CallTimeout) else error
    if isinstance(inner, RemoteError):
        kind, text = inner.type, inner.message
        stack = "\n".join([f"{kind}: {text}", *(f"  {line}" for line in inner.stack)])
    else:
        kind, text = type(error).__qualname__, str(error)
        if type(error).__module__ != "builtins":
            kind = f"{type(error).__module__}.{kind}"
        stack = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return {"exception.type": kind, "exception.message": text, "exception.stacktrace": stack}


def _read(traceparent: str | None, tracestate: str | None = None) -> SpanContext | None:
    """
    Return the context in these headers, or None if they name none.

    The API's propagator does the same, and takes a tenth of the time of a message.
    """
    found = None if traceparent is None else _PARENT.fullmatch(traceparent)
    if found is None:
        return None
    trace_id, span_id, flags = found.groups()
    state = TraceState.from_header([tracestate]) if tracestate else None
    told = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)), state)
    return told if told.is_valid else None


def _within(told: SpanContext | None) -> Context | None:
    return None if told is None else trace.set_span_in_context(NonRecordingSpan(told), _NOWHERE)


def _trace(span: Span) -> Trace | None:
    told = span.get_span_context()
    if not told.is_valid:
        return None
    # Only whether it is sampled: Go's SDK refuses a context that has a further flag as well.
    flags = "01" if told.trace_flags & TraceFlags.SAMPLED else "00"
    state = told.trace_state
    header = state.to_header() if state else ""
    return Trace(f"00-{told.trace_id:032x}-{told.span_id:016x}-{flags}", header)


def _follows_parents(description: str) -> bool:
    """
    Return True if a sampler drops each span whose parent was dropped, by its description: see
    https://opentelemetry.io/docs/specs/otel/trace/sdk/#parentbased

    Example:
        >>> from opentelemetry.sdk.trace import sampling
        >>> _follows_parents(sampling.DEFAULT_ON.get_description())
        True
        >>> _follows_parents(sampling.ALWAYS_ON.get_description())
        False
    """
    ends = ("remoteParentNotSampled:AlwaysOffSampler", "localParentNotSampled:AlwaysOffSampler")
    return description.startswith("ParentBased{") and all(end in description for end in ends)


def _celery_is_traced() -> bool:
    module: Any = sys.modules.get(_CELERY)
    return module is not None and bool(module.CeleryInstrumentor().is_instrumented_by_opentelemetry)


def _task_of(fact: Started) -> Span | None:
    """Return the span of Celery's instrumentor around a run, if there is one."""
    if fact.carrier != "celery":
        return None
    span = trace.get_current_span()
    if getattr(getattr(span, "instrumentation_scope", None), "name", "") == _CELERY:
        return span
    outer: Any = context.get_value(_RUN)  # another message of the same batch
    return None if outer is None or outer.is_over else outer.task


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
