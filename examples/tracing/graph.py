"""A trace that goes on inside nodes in two other languages, printed as a tree."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from emit import Router, ShellNode
from emit.observe.otel import instrument

HERE = Path(__file__).parent
SPANS = os.environ.setdefault("SPANS", str(Path(tempfile.mkdtemp()) / "spans"))

exporter = InMemorySpanExporter()
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))  # type: ignore[attr-defined]

router = Router()
instrument(router)


@router.node(("word",), entry_point=True, name="words")
def words(msg: Any) -> Any:
    yield from msg.text.split()


@router.node(("word", "price"), "words", name="price")
class Price(ShellNode):
    file = str(HERE / "price.mjs")
    pass_env = (*ShellNode.pass_env, "SPANS")


@router.node(("total",), "price", name="measure")
class Measure(ShellNode):
    file = str(HERE / "measure")
    pass_env = (*ShellNode.pass_env, "SPANS")


def main() -> None:
    with router:
        router(text="the rain")
    spans = [json.loads(line) for line in Path(SPANS).read_text().splitlines()]
    for span in exporter.get_finished_spans():
        own, parent = span.context, span.parent
        assert own is not None
        above = f"{parent.span_id:016x}" if parent else None
        spans.append([span.name, f"{own.trace_id:032x}", f"{own.span_id:016x}", above])
    show(spans, None, "")


def show(spans: list[Any], parent: str | None, indent: str) -> None:
    """Print the names of the spans below *parent*, and those below them."""
    for name, _, id, above in spans:
        if above == parent:
            print(f"{indent}{name}")
            show(spans, id, indent + "  ")


if __name__ == "__main__":
    main()
