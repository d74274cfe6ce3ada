"""What ``import emit`` adds to the start of Python. Target: under 60 ms."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from measure import ROOT, rounds, table, verdict

TARGET = 60.0


def main() -> None:
    taken = rounds({"python": start("pass"), "import emit": start("import emit")}, 15)
    bare, emit = (statistics.median(times) for times in taken.values())
    extra = emit - bare
    rows = [
        ("python -c pass", f"{bare:.1f}", ""),
        ("python -c 'import emit'", f"{emit:.1f}", ""),
        ("import emit adds", f"{extra:.1f}", verdict(extra < TARGET)),
    ]
    table(("", "ms", f"target < {TARGET:g}"), rows)


def start(program: str) -> Callable[[], float]:
    def once() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
        return (time.perf_counter() - started) * 1e3

    return once


if __name__ == "__main__":
    main()
