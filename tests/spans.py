"""Spans that were exported, and how they hang together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan


class Spans:
    """All spans of a test."""

    def __init__(self, spans: Iterable[ReadableSpan]) -> None:
        self.all = list(spans)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def traces(self) -> set[int]:
        return {span.context.trace_id for span in self.all if span.context}

    def children(self, of: ReadableSpan) -> list[ReadableSpan]:
        assert of.context is not None
        id = of.context.span_id
        return [span for span in self.all if span.parent is not None and span.parent.span_id == id]

    def tree(self) -> dict[str, Any]:
        """The names of all spans, each with its children. A name that occurs again is numbered."""
        return self._of(span for span in self.all if span.parent is None)

    def _of(self, spans: Iterable[ReadableSpan]) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for span in spans:
            count = sum(name.split(" ")[:2] == span.name.split(" ")[:2] for name in tree)
            name = span.name if not count else f"{span.name} {count + 1}"
            tree[name] = self._of(self.children(span))
        return tree

    @staticmethod
    def traceparent(span: ReadableSpan) -> str:
        told = span.context
        assert told is not None
        return f"00-{told.trace_id:032x}-{told.span_id:016x}-{told.trace_flags & 1:02x}"
