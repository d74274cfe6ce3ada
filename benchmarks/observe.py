"""Measure the cost of a hop that nobody observes, and of one whose facts an observer is told.

The graph is that of hops.py. A hop has three facts: a message is sent, its run starts and finishes.
An observer also takes the runner out of its fast loop; that is part of the price here.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hops import emit_graph, timed
from measure import rounds, table, verdict

from emit import Router
from emit.observe.counts import Counts
from emit.observe.series import Tally

#: Microseconds that a fact may cost.
TARGET = 1.0

FACTS = 3

#: The observer that has the target: what it does with a fact is not the price of a fact.
BARE = "a function that does nothing"


def main() -> None:
    contestants = {name: timed(graph(observer)) for name, observer in OBSERVERS.items()}
    taken = rounds(contestants, 15)
    nobody = taken["nobody"]
    rows = []
    for name, times in taken.items():
        extra = statistics.median(a - b for a, b in zip(times, nobody, strict=True)) / FACTS
        reached = "" if name == "nobody" else f"{extra:.2f}"
        if name == BARE:
            reached += f", {verdict(extra <= TARGET)}"
        rows.append((name, f"{statistics.median(times):.2f}", reached))
    table(("observed by", "us per hop", f"us per fact (target {TARGET:g})"), rows)


def graph(observer: Callable[[Any], Any] | None) -> Callable[[str], Counter[str]]:
    class Observed(Router):
        def __init__(self) -> None:
            super().__init__()
            if observer is not None:
                self.observe(observer)

    return emit_graph(Observed)


def nothing(fact: Any) -> None:
    pass


def counting(fact: Any) -> None:
    """Count as emit.observe.metrics does, in a folder of this process's own."""
    _tally(fact)


_folder = tempfile.TemporaryDirectory()
_tally = Tally(Counts.at(Path(_folder.name)))

OBSERVERS: dict[str, Callable[[Any], Any] | None] = {
    "nobody": None,
    BARE: nothing,
    "emit.observe.metrics": counting,
}


if __name__ == "__main__":
    main()
