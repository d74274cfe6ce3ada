"""What the benchmarks share: interleaved rounds, a line about the machine, a table."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# A benchmark is run as a file, so that its own folder comes first on the path, not the project's.
sys.path.insert(0, str(ROOT))


def rounds(contestants: Mapping[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """
    Run each contestant once per round, in turn, so that a slow moment of the machine hits all.

    Args:
        contestants: Name -> a function that does the work once and returns its own measure.
        count: Rounds that count; one more goes before them.
    """
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(count + 1):
        for name, run in contestants.items():
            measure = run()
            if number:
                taken[name].append(measure)
    return taken


def ratio(mine: Sequence[float], others: Sequence[float]) -> float:
    """The median of the rounds' own ratios."""
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
    A folder of its own with *requirement* from PyPI, kept in ``.cache``; None if unreachable.
    """
    folder = ROOT / ".cache" / "benchmarks" / requirement
    if folder.is_dir():
        return folder
    # Moved into place when complete: an interrupted installation is no installation.
    part = folder.with_suffix(f".{os.getpid()}.part")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(part)]
    done = subprocess.run([*command, *options, requirement], capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip() or "pip failed").splitlines()[-1]
        print(f"left out: {requirement} could not be installed ({why})", file=sys.stderr)
        return None
    part.rename(folder)
    return folder
