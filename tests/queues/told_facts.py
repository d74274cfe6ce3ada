"""Read the facts that the graph of told.py has recorded in Redis."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from tests.queues.worker import eventually

Fact = dict[str, Any]


def facts(told: Any, *names: str) -> list[Fact]:
    """Return the facts so far of these kinds, in order."""
    found = map(json.loads, told.redis.lrange("facts", 0, -1))
    return [fact for fact in found if not names or fact["fact"] in names]


def of_node(found: list[Fact], node: str, *names: str) -> list[Fact]:
    return [fact for fact in found if fact["node"] == node and fact["fact"] in names]


def send(told: Any, *pairs: tuple[str, str], ends: int) -> list[Fact]:
    """Send messages, and return all facts when *ends* messages of the last node have ended."""
    told.redis.delete("facts", "last")
    told.router(pairs=pairs)
    eventually(lambda: len(of_node(facts(told), "told.last", "Finished")) >= ends)
    eventually(lambda: not unended(facts(told)))
    return facts(told)


def unended(found: list[Fact]) -> list[Fact]:
    """Return the runs that have begun and not ended."""
    runs = Counter((fact["pid"], fact["run"]) for fact in found if fact["fact"] == "Started")
    ends = Counter((f["pid"], f["run"]) for f in found if f["fact"] in ("Finished", "Failed"))
    assert not ends - runs
    return list((runs - ends).elements())
