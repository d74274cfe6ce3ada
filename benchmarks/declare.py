"""Measure the time to declare and resolve a graph of 2,000 nodes. Target: under 2 s.

Half of the nodes subscribe by an exact name, to a node that is declared later. A quarter subscribe
by a regular expression each. The last quarter subscribe by ``.+`` with an ignore, so each of them
hears every node.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from measure import rounds, table, verdict

from emit import Router

NODES = 2_000
TARGET = 2.0


def main() -> None:
    taken: dict[str, list[float]] = {"declare": [], "resolve": []}

    def both() -> float:
        declared, resolved = declare()
        taken["declare"].append(declared)
        taken["resolve"].append(resolved)
        return declared + resolved

    total = statistics.median(rounds({"both": both}, 3)["both"])
    rows = [(name, f"{statistics.median(times):.3f}", "") for name, times in taken.items()]
    table(
        (f"{NODES} nodes", "s", f"target < {TARGET:g}"),
        [*rows, ("both", f"{total:.3f}", verdict(total < TARGET))],
    )


def declare() -> tuple[float, float]:
    started = time.perf_counter()
    router = Router()
    for number in range(NODES):
        decorate = router.node(("n",), name=f"node.{number:04}", **subscription(number))
        decorate(lambda msg: msg.n)
    declared = time.perf_counter()
    routes = router.routes
    resolved = time.perf_counter()
    assert len(routes) == NODES + 1
    return declared - started, resolved - declared


def subscription(number: int) -> dict[str, Any]:
    match number % 4:
        case 0:
            return {"subscribe_to": rf"\.{number // 100:02}\d+$"}
        case 1:
            return {"subscribe_to": ".+", "ignore": f"node.{number + 1:04}"}
        case _:
            return {"subscribe_to": f"node.{(number + 1) % NODES:04}"}


if __name__ == "__main__":
    main()
