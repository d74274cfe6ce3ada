"""Measure microseconds per hop inside one process, and compare with emit 0.4.0 and streamz.

The graph is the documentation's word count with three nodes: split a document into words, clean
each word, count each word. A hop is one message that reaches one node. All three carry the same
named fields; streamz has no fields, so it carries dictionaries.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import installed, ratio, rounds, table, verdict

OLD, STREAMZ = "emit==0.4.0", "streamz==0.6.6"
TARGET = 0.5
WORDS = 10_000
DOCUMENT = "the rain in spain falls mainly on the plain and " * (WORDS // 10)
HOPS = 1 + 2 * WORDS


def main() -> None:
    contestants = {"emit": timed(emit_graph(importlib.import_module("emit").Router))}
    if folder := installed(OLD, "--no-deps", "--no-binary", ":all:"):
        contestants[OLD] = timed(emit_graph(old_router(folder)))
    if folder := installed(STREAMZ):
        contestants[STREAMZ] = timed(streamz_graph(folder))
    taken = rounds(contestants, 25)
    rows = []
    for name, times in taken.items():
        mine = ratio(taken["emit"], times)
        reached = "" if name == "emit" else f"{mine:.2f} of it, {verdict(mine <= TARGET)}"
        rows.append((name, f"{statistics.median(times):.2f}", f"{min(times):.2f}", reached))
    table(("", "us per hop", "best", f"emit (target {TARGET})"), rows)


def timed(run: Callable[[str], Counter[str]]) -> Callable[[], float]:
    def once() -> float:
        started = time.perf_counter()
        counts = run(DOCUMENT)
        taken = time.perf_counter() - started
        assert counts.total() == WORDS
        return taken / HOPS * 1e6

    return once


def emit_graph(router_class: Any) -> Callable[[str], Counter[str]]:
    router = router_class()
    counts: Counter[str] = Counter()

    def words(msg: Any) -> Any:
        yield from msg.document.split()

    def clean(msg: Any) -> Any:
        return msg.word.lower()

    def tally(msg: Any) -> Any:
        counts[msg.word] += 1
        return msg.word, counts[msg.word]

    router.node(("word",), entry_point=True)(words)
    router.node(("word",), f"^{__name__}.words$")(clean)
    router.node(("word", "count"), f"^{__name__}.clean$")(tally)

    def run(document: str) -> Counter[str]:
        counts.clear()
        router(document=document)
        return counts

    return run


def streamz_graph(folder: Path) -> Callable[[str], Counter[str]]:
    sys.path.insert(0, str(folder))
    source = importlib.import_module("streamz").Stream()
    counts: Counter[str] = Counter()

    def words(msg: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"word": word} for word in msg["document"].split()]

    def clean(msg: dict[str, Any]) -> dict[str, Any]:
        return {"word": msg["word"].lower()}

    def tally(msg: dict[str, Any]) -> dict[str, Any]:
        counts[msg["word"]] += 1
        return {"word": msg["word"], "count": counts[msg["word"]]}

    source.map(words).flatten().map(clean).sink(tally)

    def run(document: str) -> Counter[str]:
        counts.clear()
        source.emit({"document": document})
        return counts

    return run


def old_router(folder: Path) -> Any:
    """Import the Router of emit 0.4.0. It has the same module name, so ours is set aside."""
    ours = set_aside()
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("emit").Router
    finally:
        sys.path.remove(str(folder))
        set_aside()
        sys.modules.update(ours)


def set_aside() -> dict[str, Any]:
    names = [name for name in sys.modules if name.split(".")[0] == "emit"]
    return {name: sys.modules.pop(name) for name in names}


if __name__ == "__main__":
    main()
