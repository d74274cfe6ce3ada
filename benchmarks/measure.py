"""Helpers of all benchmarks: interleaved rounds, a line about the machine, a table."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# A benchmark runs as a file, so its own folder is on the path, and not the project's.
sys.path.insert(0, str(ROOT))


def rounds(contestants: Mapping[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """
    Run each contestant once per round, in turn: a slow moment of the machine hits all of them.

    Args:
        contestants: By name, a function that does the work once and returns its measure.
        count: Rounds that count. One more comes before them, as a warm-up.
    """
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(count + 1):
        for name, run in contestants.items():
            measure = run()
            if number:
                taken[name].append(measure)
    return taken


def ratio(mine: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios of all rounds."""
    return statistics.median(a / b for a, b in zip(mine, others, strict=True))


def machine() -> str:
    cores, load = os.cpu_count(), os.getloadavg()[0]
    return f"{platform.machine()}, {cores} cores, load {load:.1f}, Python {sys.version.split()[0]}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        first, *rest = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join([first.strip().ljust(widths[0]), *rest]))
    print(f"({machine()})")


def verdict(ok: bool) -> str:
    return "met" if ok else "MISSED"


def installed(requirement: str, *options: str) -> Path | None:
    """
    Install *requirement* from PyPI into a folder of its own in ``.cache``, and return the folder;
    None if PyPI can't be reached.
    """
    folder = ROOT / ".cache" / "benchmarks" / requirement
    if folder.is_dir():
        return folder
    # The folder moves to its place when it is complete, because an installation may be interrupted.
    part = folder.with_suffix(f".{os.getpid()}.part")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(part)]
    done = subprocess.run([*command, *options, requirement], capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip() or "pip failed").splitlines()[-1]
        print(f"left out: {requirement} could not be installed ({why})", file=sys.stderr)
        return None
    part.rename(folder)
    return folder
