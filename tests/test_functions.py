"""Counts of Python functions in memory that the processes of a worker share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from emit import CeleryRouter
from emit.cli.figures import HEAD, format_row, rows
from emit.observe import functions
from emit.observe.functions import Functions
from tests.test_cli_top import node

ROOT = Path(__file__).parent.parent

#: Four children at a time, one after the other in the same slots. Half of them are killed right
#: after a count that they tell their parent of.
FORKS = """
import json, os, signal
from emit.observe.functions import Functions, _CALLS

counts = Functions("/app")
for turn in range(3):
    children = []
    for number in range(4):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            for _ in range(100):
                counts.time("words", 0.01)
                counts.add("words", _CALLS)
            counts.add(f"own {number}", _CALLS)
            os.write(writer, b"!")
            if number % 2:
                signal.pause()
            os._exit(0)
        os.close(writer)
        children.append((pid, reader))
    for number, (pid, reader) in enumerate(children):
        assert os.read(reader, 1) == b"!"
        os.close(reader)
        if number % 2:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
print(json.dumps([counts.snapshot(), os.fstat(counts._file).st_size]))
"""


def test_processes_that_are_killed_and_replaced() -> None:
    """The sums are exact, and there are as many slots as processes at a time."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    told, size = json.loads(done.stdout)
    assert {name: each["calls"] for name, each in told["nodes"].items()} == {
        "words": 1200,
        **{f"own {number}": 3 for number in range(4)},
    }
    times = told["nodes"]["words"]["call_seconds"]
    assert {times["p50"], times["p99"], times["max"]} == {0.01}
    assert times["mean"] == pytest.approx(0.01)
    assert size <= 4 * functions._SLOT


@pytest.fixture
def counts() -> Any:
    made = Functions("/app")
    yield made
    made.close()


def test_durations(counts: Functions) -> None:
    """From nothing to longer than any bucket."""
    for seconds in (0.0, 1e-6, 0.001, 0.1, 1e9):
        counts.time("words", seconds)
    times = counts.snapshot()["nodes"]["words"]["call_seconds"]
    assert times["max"] == 1e9
    assert times["p50"] == pytest.approx(0.001, rel=0.25)
    assert times["p99"] > 2**20


def test_names_that_have_no_room(counts: Functions) -> None:
    """They are left out, and the others are counted."""
    longest = "ü" * (functions._NAME // 2)
    for name in (longest, longest + "x"):
        counts.add(name, functions._CALLS)
    for number in range(functions._ROWS + 5):
        counts.add(f"{number}", functions._CALLS)
    nodes = counts.snapshot()["nodes"]
    assert len(nodes) == functions._ROWS
    assert longest in nodes
    assert longest + "x" not in nodes


def test_as_emit_top_shows_them(counts: Functions) -> None:
    """A function has no processes, and so no figures of any. A program of its name has them."""
    counts.add("words", functions._CALLS)
    counts.time("words", 0.001)
    [row] = rows({("web1", 1, "functions"): counts.snapshot()})
    cells = dict(zip(HEAD, format_row(row), strict=True))
    assert (row.calls, row.machines, row.project) == (1, ["web1"], "/app")
    assert {name: cells[name] for name in ("runtime", "busy", "queue", "restarts", "memory")} == {
        "runtime": "function",
        **dict.fromkeys(("busy", "queue", "restarts", "memory"), "-"),
    }
    program = {"nodes": {"words": node(3, name="words")}}
    [both] = rows({0: counts.snapshot(), 1: program})
    assert (both.calls, both.is_function) == (4, False)


def test_without_a_file_in_memory(monkeypatch: pytest.MonkeyPatch, counts: Functions) -> None:
    """Systems other than Linux have a file that has lost its name."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    other = Functions("/app")
    other.add("words", functions._CALLS)
    assert other.snapshot()["nodes"]["words"]["calls"] == 1
    other.close()


def test_routers_that_come_and_go(counts: Functions) -> None:
    """Those that are there, and those that are made later; none when it is closed."""
    first = CeleryRouter(celery_task=Celery("first", broker="memory://").task)
    other = Functions("/app")
    later = CeleryRouter(celery_task=Celery("later", broker="memory://").task)
    assert [len(router._observers.each) for router in (first, later)] == [2, 2]
    other.close()
    last = CeleryRouter(celery_task=Celery("last", broker="memory://").task)
    assert [len(router._observers.each) for router in (first, later, last)] == [1, 1, 1]
