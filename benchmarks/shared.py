"""
Compare private hosts with a shared host: eight worker processes that use four nodes each.

Memory is the proportional set size of the workers, the shared host and all programs, after every
worker has called every node. A node is a filter in Ruby, or in Python if Ruby is missing. A message
has 100 bytes. Times are measured for one worker, and for all eight at the same time. The last ones
are of a node with the Python SDK, which takes groups of calls.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from measure import ROOT, ratio, rounds, table

WORKERS, NODES, ROUNDS = 8, 4, 5

RUBY = "$stdout.sync = true; while l = gets; puts l; end # node %d"
PYTHON = "import sys\nfor l in sys.stdin: print(l, end='', flush=True) # node %d"

#: A worker does the work that a line names, and answers with a line.
WORKER = """
import json, sys, time
from emit.host.host import current
from emit.host.system.program import environment
from emit.host.system.program import Limits, Program
from emit.host.settings import Settings

MESSAGE = {"word": "rain" * 5, "count": 12, "_origin": "graph.words", "text": "the rain in spa"}

def node(number, argv):
    program = Program(f"n{number}", tuple(argv), environment({}), limits=Limits())
    return current().calls(f"n{number}", lambda: program, Settings(mode="lines", size=1))

def warm(count):
    for each in nodes:
        each.call(MESSAGE)
    return 0

def single(count):
    times = []
    for _ in range(count):
        began = time.perf_counter()
        nodes[0].call(MESSAGE)
        times.append(time.perf_counter() - began)
    return sorted(times)[count // 2]

def many(count):
    began = time.perf_counter()
    assert sum(1 for _ in nodes[0].call_many(MESSAGE for _ in range(count))) == count
    return (time.perf_counter() - began) / count

def grouped(count):
    if len(nodes) == 4:
        env = environment({"PYTHONPATH": sys.argv[2]})
        argv = (sys.executable, "-c", "import emit_sdk; emit_sdk.serve(lambda msg: msg)")
        program = Program("sdk", argv, env, limits=Limits())
        settings = Settings(mode="persistent", size=1)
        nodes.append(current().calls("sdk", lambda: program, settings))
        nodes[4].call(MESSAGE)
    began = time.perf_counter()
    assert sum(1 for _ in nodes[4].call_many(MESSAGE for _ in range(count))) == count
    return (time.perf_counter() - began) / count

nodes = [node(number, argv) for number, argv in enumerate(json.loads(sys.argv[1]))]
for line in sys.stdin:
    what, count = line.split()
    print(globals()[what](int(count)), flush=True)
"""


class Fleet:
    """Eight workers, private or with a shared host."""

    def __init__(self, workers: list[subprocess.Popen[str]], others: list[int]) -> None:
        self.workers = workers
        self.others = others

    def ask(self, what: str, count: int, workers: int) -> float:
        """Return the median answer of *workers* workers at the same time."""
        chosen = self.workers[:workers]
        for worker in chosen:
            assert worker.stdin is not None
            print(what, count, file=worker.stdin, flush=True)
        return statistics.median(float(w.stdout.readline()) for w in chosen if w.stdout)

    def figures(self) -> tuple[float, float, int]:
        """Return MiB of memory of the workers and of all others, and the number of programs."""
        roots = [psutil.Process(pid) for pid in (*self.others, *(w.pid for w in self.workers))]
        below = {child for root in roots for child in root.children(recursive=True)}
        everyone = {*roots, *below}
        pss = {process.pid: process.memory_full_info().pss / 2**20 for process in everyone}
        programs = [child for child in below if "# node" in " ".join(child.cmdline())]
        workers = sum(pss.pop(worker.pid) for worker in self.workers)
        return workers, sum(pss.values()), len(programs)


@contextmanager
def fleet(path: str) -> Iterator[Fleet]:
    """Provide workers with a shared host at *path*, or with private hosts if it is empty."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "EMIT_HOST": path or "private"}
    sdk = str(ROOT / "sdks" / "python")
    command = [sys.executable, "-c", WORKER, json.dumps(list(programs())), sdk]
    pipe = subprocess.PIPE
    with ExitStack() as stack:
        others = [stack.enter_context(shared_host(path))] if path else []
        workers = [
            stack.enter_context(
                subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env, text=True)
            )
            for _ in range(WORKERS)
        ]
        yield Fleet(workers, others)


@contextmanager
def shared_host(path: str) -> Iterator[int]:
    """Run a shared host at *path*, and provide its process id."""
    run = "import sys; from emit.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", run, "host", "--socket", path]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=env, text=True) as host:
        assert host.stderr is not None
        host.stderr.readline()
        yield host.pid
        host.terminate()


def programs() -> Iterator[list[str]]:
    ruby = shutil.which("ruby")
    for number in range(NODES):
        yield [ruby, "-e", RUBY % number] if ruby else [sys.executable, "-c", PYTHON % number]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        fleets = {
            "private": stack.enter_context(fleet("")),
            "shared": stack.enter_context(fleet(str(Path(folder, "host.sock")))),
        }
        for each in fleets.values():
            each.ask("warm", 1, WORKERS)
        memory(fleets)
        times(fleets)


def memory(fleets: Mapping[str, Fleet]) -> None:
    rows = []
    for name, each in fleets.items():
        workers, others, count = each.figures()
        total = f"{workers + others:.0f}"
        rows.append((name, f"{workers:.0f}", f"{others:.0f}", total, str(count)))
    head = ("MiB of workers", "host and programs", "all", "programs")
    table((f"{WORKERS} workers, {NODES} nodes", *head), rows)


def times(fleets: Mapping[str, Fleet]) -> None:
    asked = (
        ("one call, one worker", "single", 500, 1),
        ("one call, eight workers", "single", 100, WORKERS),
        ("call_many, one worker", "many", 10_000, 1),
        ("call_many, eight workers", "many", 2000, WORKERS),
        ("call_many of the SDK, one worker", "grouped", 20_000, 1),
        ("call_many of the SDK, eight workers", "grouped", 4000, WORKERS),
    )
    rows = []
    for title, what, count, workers in asked:
        contestants: dict[str, Any] = {
            name: (lambda each=each: each.ask(what, count, workers))  # noqa: B023
            for name, each in fleets.items()
        }
        taken = rounds(contestants, ROUNDS)
        private, shared = (statistics.median(taken[name]) * 1e6 for name in fleets)
        factor = ratio(taken["shared"], taken["private"])
        rows.append((title, f"{private:.0f}", f"{shared:.0f}", f"{factor:.2f}"))
    table(("us a message, as a worker sees it", "private", "shared", "shared / private"), rows)


if __name__ == "__main__":
    main()
