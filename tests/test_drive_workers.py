"""A graph that is driven has the same outcome as with real workers of Celery and RQ."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from redis import Redis

from emit.dead import DeadLetters
from emit.testing import drive
from tests.queues.notes import graph
from tests.queues.worker import celery_worker, eventually, rq_worker

pytestmark = pytest.mark.requires("redis-server")

CHAOS = os.environ.get("EMIT_CHAOS") == "1"

#: Graphs that one worker runs at the same time, and how many times there is a new one.
AT_ONCE, TIMES = (50, 20) if CHAOS else (8, 1)

#: What nodes do, with numbers to choose from. Most messages go on, so that there are many.
ACTS = {
    "emit": (1, 2, 3),
    "fail": (0,),
    "reject": (0,),
    "odd": (0,),
    "ask": (1, 2, 3),
    "kill": (1, 2, 3),
}

OPTIONS: dict[str, tuple[Any, ...]] = {
    "batch": (2, 3, 10),
    "many": (True,),
    "return_results": (True,),
    "max_retries": (0, 1, 2),
    "stream": (True,),
}


def node(chance: Random, number: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "max_attempts": chance.randint(1, 3),
        "max_deliveries": chance.randint(1, 3),
    }
    for name, values in OPTIONS.items():
        if chance.random() < 0.4:
            options[name] = chance.choice(values)
    if options.get("many"):
        options.pop("stream", None)
    kinds = chance.choices(list(ACTS), (8, 1, 0.5, 0.5, 2, 2), k=chance.randint(2, 6))
    return {
        "hears": sorted(
            {chance.randrange(number) for _ in range(chance.randint(1, 2))} if number else ()
        ),
        "options": options,
        "acts": [(kind, chance.choice(ACTS[kind])) for kind in kinds],
    }


def graph_of(seed: int) -> list[dict[str, Any]]:
    """
    Make a graph. No message that kills comes from a batch with another that does: its parts run
    again, and how often a message is there twice depends on the order in which workers take them.
    """
    chance = Random(seed)
    specs = [node(chance, number) for number in range(chance.randint(2, 5))]
    torn: set[int] = set()
    for number, spec in enumerate(specs):
        kinds = {kind for kind, _ in spec["acts"]}
        if torn & {*spec["hears"]}:
            spec["acts"] = [
                ("emit", 1) if kind == "kill" else (kind, n) for kind, n in spec["acts"]
            ]
            torn.add(number)
        elif "kill" in kinds and spec["options"].get("batch", 1) > 1:
            torn.add(number)
    return specs


graphs = st.integers(2**40, 2**60).map(graph_of)

Outcome = tuple[set[str], set[tuple[Any, ...]]]


def dead(letters: Any) -> set[tuple[Any, ...]]:
    return {
        (letter.node, letter.id, letter.message["path"], letter.causes[-1].type)
        for letter in letters
    }


@contextmanager
def drawn(url: str, specs: list[Any], carrier: str) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder, "graphs.json")
        path.write_text(json.dumps(specs), "utf-8")
        patch.setenv("EMIT_TEST_GRAPHS", str(path))
        patch.setenv("EMIT_TEST_CARRIER", carrier)
        patch.setenv("EMIT_TEST_BROKER", url)
        with graph("drawn", url) as module:
            yield module


def roots(specs: list[Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the messages to begin with: an id, a node and a path."""
    for number in range(len(specs)):
        for path in ("a", "b", "c"):
            yield f"root-{number}-{path}", f"drawn.g{number}_n0", path


def send_all(module: Any, specs: list[Any]) -> None:
    from emit.router.envelope import Packed, pack

    for id, node, path in roots(specs):
        module.router.send("", node, Packed([id], [pack(node, {"path": path})]))


def driven(module: Any, specs: list[Any]) -> Outcome:
    module.notes = module.InMemory()
    with drive(module.router, limit=100_000) as running:
        send_all(module, specs)
        running.run()
    return module.notes.all(), dead(running.dead)


def worked(module: Any, specs: list[Any], url: str, carrier: str, expected: Outcome) -> Outcome:
    """Run the graphs with real workers, until their queue is empty for good."""
    client = Redis.from_url(url)
    client.flushall()
    module.notes = module.Notes()
    letters = DeadLetters(client)
    log = Path(os.environ["EMIT_TEST_GRAPHS"]).with_name("log")

    def outcome() -> Outcome:
        return module.notes.all(), dead(
            map(letters.show, (x.id for x in letters.list(limit=100_000)))
        )

    def is_idle() -> bool:
        with client.pipeline(transaction=True) as asking:
            for key in ("celery", "rq:queue:default", "rq:queue:default:intermediate"):
                asking.llen(key)
            asking.hlen("unacked")
            asking.zcard("rq:wip:default")
            return not any(asking.execute())

    def is_over() -> bool:
        return is_idle() and (outcome() == expected or all(is_idle() for _ in range(200)))

    send_all(module, specs)
    make = {
        "celery": lambda: celery_worker(log, "-c", "2", app="drawn"),
        "rq": lambda: rq_worker(log, "drawn.Forking", "default"),
    }
    with make[carrier]():
        eventually(is_over, within=300)
        return outcome()


def several(number: int) -> list[Any]:
    """Return different graphs that Hypothesis draws."""
    found: list[Any] = []

    @settings(
        max_examples=number,
        deadline=None,
        derandomize=not CHAOS,
        database=None,
        phases=[Phase.generate],
    )
    @given(graphs)
    def draw(specs: Any) -> None:
        found.append(specs)

    draw()
    return found


def differing(specs: list[Any], *outcomes: set[Any]) -> list[Any]:
    """Return the differences of outcomes, with the graphs that they are in."""
    first, second = outcomes
    said = [
        *(f"only driven: {x}" for x in first - second),
        *(f"only worked: {x}" for x in second - first),
    ]
    numbers = {int(text) for line in said for text in re.findall(r"\bg(\d+)_n", line)}
    return [*sorted(said), *(specs[number] for number in sorted(numbers)[:3])]


@pytest.mark.parametrize("carrier", ["celery", "rq"])
def test_a_driven_graph_does_as_real_workers(redis: str, carrier: str) -> None:
    """Random graphs with failures, retries, batches and deaths: same effects, same dead letters."""
    every = several(AT_ONCE * TIMES)
    for begin in range(0, len(every), AT_ONCE):
        specs = every[begin : begin + AT_ONCE]
        with drawn(redis, specs, carrier) as module:
            expected = driven(module, specs)
            assert len(expected[0]) > AT_ONCE
            assert len(expected[1]) > AT_ONCE / 2
            done, letters = worked(module, specs, redis, carrier, expected)
            assert differing(specs, expected[0], done) == []
            assert differing(specs, expected[1], letters) == []
