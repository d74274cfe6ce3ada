"""Traces through real workers of Celery and RQ, and programs in two languages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("opentelemetry.sdk")

from emit.dead import DeadLetters
from emit.errors import InProgress
from tests.queues.notes import dead, graph
from tests.queues.worker import celery_worker, eventually, rq_worker

pytestmark = [
    pytest.mark.requires("redis-server", "ruby", "node"),
    pytest.mark.usefixtures("builds"),
]

COUNT = 100

DOUBLE = """
Emit.node(:double) { |msg| [2 * msg[:n], Emit.context.traceparent] }
"""

ADD = """
import { context, node } from 'emit-graph-sdk';
node('add', ({ n, ruby }) => [n + 1, ruby, context().traceparent]);
"""


class Span(NamedTuple):
    """A span that a process has exported."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str | None
    links: list[str]
    attributes: dict[str, Any]


class Traced(NamedTuple):
    """The graph, and the file of its spans."""

    graph: Any
    file: Path

    def spans(self) -> list[Span]:
        text = self.file.read_text() if self.file.exists() else ""
        return [span_of(json.loads(line)) for line in text.splitlines()]

    def flush(self) -> None:
        """Export the spans of this process, which only sends."""
        self.graph.provider.force_flush()


def span_of(told: dict[str, Any]) -> Span:
    own = told["context"]
    links = [link["context"]["span_id"] for link in told["links"]]
    about = (own["trace_id"], own["span_id"], told["parent_id"], links, told["attributes"])
    return Span(told["name"], told["kind"].rpartition(".")[2], *about)


@contextmanager
def traced(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, carrier: str, *, theirs: bool = False
) -> Iterator[Traced]:
    (folder / "double.rb").write_text(DOUBLE)
    (folder / "add.mjs").write_text(ADD)
    file = folder / "spans"
    monkeypatch.setenv("EMIT_TEST_CARRIER", carrier)
    monkeypatch.setenv("EMIT_TEST_FOLDER", str(folder))
    monkeypatch.setenv("EMIT_TEST_SPANS", str(file))
    if theirs:
        monkeypatch.setenv("EMIT_TEST_INSTRUMENTOR", "1")
    with graph("traced", url) as module:
        try:
            yield Traced(module, file)
        finally:
            module.provider.shutdown()
            if theirs:
                module.CeleryInstrumentor().uninstrument()


def arrived(graph: Any, count: int) -> list[str]:
    eventually(lambda: graph.redis.llen("last") >= count, what="too few have arrived")
    found: list[str] = graph.redis.lrange("last", 0, -1)
    return found


def check_whole(spans: list[Span], *roots: str) -> dict[str, Span]:
    """Check that all spans are one trace, and none of their parents is missing."""
    by_id = {span.id: span for span in spans}
    assert len(by_id) == len(spans)
    assert len({span.trace for span in spans}) == 1
    assert [span.name for span in spans if span.parent is None] == [*roots]
    for span in spans:
        assert span.parent is None or span.parent in by_id, span
        assert set(span.links) <= by_id.keys(), span
    return by_id


@pytest.mark.parametrize("kind", ["celery", "recycled", "rq.Worker", "emit.rq.EmitWorker"])
def test_one_trace_of_a_batch(
    kind: str, redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 100 messages in a batch has its own two spans at each node; none is missing."""
    carrier = "rq" if "rq" in kind else "celery"
    with traced(redis, tmp_path, monkeypatch, carrier) as it:
        options = ("--max-tasks-per-child=1",) if kind == "recycled" else ()
        worker: Any
        if carrier == "celery":
            worker = celery_worker(tmp_path / "log", *options, app="traced")
        else:
            worker = rq_worker(tmp_path / "log", kind, "default")
        with worker as running:
            it.graph.router(count=COUNT)
            heard = arrived(it.graph, COUNT)
            it.flush()
            running.stop()
        spans = it.spans()
    assert Counter((span.name, span.kind) for span in spans) == {
        ("send traced.split", "PRODUCER"): 1,
        ("process traced.split", "CONSUMER"): 1,
        ("create traced.double", "PRODUCER"): COUNT,
        ("process traced.double", "CONSUMER"): COUNT,
        ("create traced.add", "PRODUCER"): COUNT,
        ("process traced.add", "CONSUMER"): COUNT,
        ("create traced.last", "PRODUCER"): COUNT,
        ("process traced.last", "CONSUMER"): COUNT,
    }
    by_id = check_whole(spans, "send traced.split")
    names = ["split", "double", "add", "last"]
    above = {f"process traced.{name}": f"traced.{name}" for name in names}
    above |= {
        f"create traced.{name}": f"process traced.{before}" for before, name in pairwise(names)
    }
    for span in spans:
        if span.parent is not None:
            assert by_id[span.parent].name.endswith(above[span.name])
            children = [other for other in spans if other.parent == span.id]
            many = COUNT if span.name == "process traced.split" else 1
            assert len(children) == (0 if span.name == "process traced.last" else many)
        if span.name.startswith("process"):
            assert span.links == [span.parent]
            assert span.attributes["messaging.system"] == carrier
    assert len(heard) == COUNT
    for line in heard:  # what Ruby, Node and Python were told is a way through the tree
        ruby, node, python = (by_id[f"0x{told.split('-')[2]}"] for told in line.split())
        assert (ruby.name, node.name) == ("process traced.double", "process traced.add")
        assert python.name == "process traced.last"
        for outer, inner in ((ruby, node), (node, python)):
            assert inner.parent is not None
            assert by_id[inner.parent].parent == outer.id


def test_with_celerys_own_instrumentor(
    redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its spans take the place of ours for single messages; those of a batch link to its run."""
    with traced(redis, tmp_path, monkeypatch, "celery", theirs=True) as it:
        with celery_worker(tmp_path / "log", app="traced") as worker:
            it.graph.router(count=COUNT)
            arrived(it.graph, COUNT)
            it.flush()
            worker.stop()
        spans = it.spans()
    counts = Counter((span.name, span.kind) for span in spans)
    wanted = {("apply_async/traced.split", "PRODUCER"): 1, ("run/traced.split", "CONSUMER"): 1}
    for name, batches in (("double", 1), ("add", 1), ("last", 4)):
        wanted |= {
            (f"create traced.{name}", "PRODUCER"): COUNT,
            (f"apply_async/traced.{name}", "PRODUCER"): batches,
            (f"run/traced.{name}", "CONSUMER"): batches,
            (f"process traced.{name}", "CONSUMER"): COUNT,
        }
    assert counts == wanted
    by_id = check_whole(spans, "apply_async/traced.split")
    for span in spans:
        assert span.parent is not None or span.name == "apply_async/traced.split"
        if span.name == "run/traced.split":
            assert span.attributes["messaging.operation.type"] == "process"
        if span.name.startswith("process"):
            sent, run = (by_id[id] for id in span.links)
            assert (sent.id, run.name) == (span.parent, f"run/{span.name.split()[1]}")


@pytest.mark.parametrize("carrier", ["celery", "rq"])
def test_later_attempts(
    carrier: str, redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry, and a dead letter that is sent again, link to the first attempt."""
    with traced(redis, tmp_path, monkeypatch, carrier) as it:
        worker: Any
        if carrier == "celery":
            worker = celery_worker(tmp_path / "log", app="traced")
        else:
            worker = rq_worker(tmp_path / "log", "emit.rq.EmitWorker", "default")
        with worker as running:
            router, store = it.graph.router, it.graph.redis
            router.dispatch("", "traced.moody", {"how": "again"})
            arrived(it.graph, 2)
            router.dispatch("", "traced.moody", {"how": "never"})
            (letter,) = dead(it.graph, 1)
            store.set("well", "1")
            eventually(lambda: replayed(router, store, letter.id))
            arrived(it.graph, 4)
            it.flush()
            running.stop()
        spans = it.spans()
    assert Counter(span.name for span in spans) == {
        "send traced.moody": 2,
        "process traced.moody": 4,
    }
    runs = [span for span in spans if span.kind == "CONSUMER"]
    firsts = [span for span in runs if span.links == [span.parent]]
    again = [span for span in runs if len(span.links) == 2]
    assert len(firsts) == len(again) == 2
    for span in again:
        (first,) = (other for other in firsts if other.trace == span.trace)
        assert span.links == [span.parent, first.id]
        assert span.parent == first.parent


def replayed(router: Any, store: Any, id: str) -> bool:
    """Send a dead letter again, if the worker has ended its job."""
    try:
        DeadLetters(store).replay(id, router.resend)
    except InProgress:
        return False
    return True
