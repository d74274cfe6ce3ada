"""Measure what a one-shot node adds to a bare subprocess.run. Target: 10 % at most."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from measure import ratio, rounds, table, verdict

from emit import Router, ShellNode
from emit.host.system.program import environment

TARGET = 1.10
ROUNDS = 60
MESSAGE = b'{"n":1}\n'

PROGRAMS = {
    "cat": ["cat"],
    "python -S": [sys.executable, "-S", "-c", "import sys; print(sys.stdin.read())"],
    "ruby": ["ruby", "-e", "puts STDIN.read"],
    "node": ["node", "-e", "process.stdin.pipe(process.stdout)"],
}


def main() -> None:
    rows = []
    for name, (program, *arguments) in PROGRAMS.items():
        path = shutil.which(program)
        if path is None:
            print(f"left out: {name} (not found)", file=sys.stderr)
            continue
        taken = rounds({"bare": bare([path, *arguments]), "emit": emit([path, *arguments])}, ROUNDS)
        mine = ratio(taken["emit"], taken["bare"])
        medians = [f"{statistics.median(times):.2f}" for times in taken.values()]
        rows.append((name, *medians, f"{mine:.3f}, {verdict(mine <= TARGET)}"))
    table(("ms per message", "bare", "emit", f"ratio (target {TARGET:.2f})"), rows)


def timed(run: Callable[[], None]) -> Callable[[], float]:
    def once() -> float:
        started = time.perf_counter()
        run()
        return (time.perf_counter() - started) * 1e3

    return once


def bare(command: list[str]) -> Callable[[], float]:
    env = environment({})

    def run() -> None:
        done = subprocess.run(command, input=MESSAGE, capture_output=True, check=True, env=env)
        assert done.stdout.strip() == MESSAGE.strip()

    return timed(run)


def emit(command: list[str]) -> Callable[[], float]:
    node = Router().node(("n",), name=os.path.basename(command[0]), mode="oneshot")
    function = node(type("Program", (ShellNode,), {"command": command}))

    def run() -> None:
        assert function(n=1) == ({"n": 1},)

    return timed(run)


if __name__ == "__main__":
    main()
