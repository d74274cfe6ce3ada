"""
Measure the time that ``import emit`` adds to the start of Python (target: under 60 ms), and the
time of a command with ``--help`` (target: under 150 ms). Any call of the command takes that long
until its command line is parsed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from measure import ROOT, rounds, table, verdict

IMPORT, COMMAND = 60.0, 150.0

#: Commands to measure. The first ones need no host, the others need all of Emit.
COMMANDS = ("graph", "run", "top", "dead", "call", "inspect", "check", "bench", "doctor", "new")

#: Without this variable Python writes compiled files, which an installed package has.
ENV = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def main() -> None:
    programs = {"python": start("-c", "pass"), "import emit": start("-c", "import emit")}
    programs["emit"] = start("-m", "emit.cli", "--help")
    for command in COMMANDS:
        programs[f"emit {command}"] = start("-m", "emit.cli", command, "--help")
    taken = {name: statistics.median(times) for name, times in rounds(programs, 15).items()}
    taken["import emit"] -= taken.pop("python")
    rows = []
    for name, took in taken.items():
        most = IMPORT if name == "import emit" else COMMAND
        rows.append((name, f"{took:.1f}", f"< {most:g}", verdict(took < most)))
    table(("", "ms", "target", ""), rows)


def start(*words: str) -> Callable[[], float]:
    command = [sys.executable, *words]

    def once() -> float:
        started = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, env=ENV, stdout=subprocess.DEVNULL)
        return (time.perf_counter() - started) * 1e3

    return once


if __name__ == "__main__":
    main()
