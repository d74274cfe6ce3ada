"""Run all benchmarks, or some by name: ``python -m benchmarks [NAME ...]``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: All benchmarks, in the order of a message's way. Each file describes its own.
NAMES = (
    "imports",
    "declare",
    "hops",
    "typed",
    "drive",
    "observe",
    "observe_celery",
    "oneshot",
    "wire",
    "calls",
    "sdks",
    "shared",
    "memory",
)
NAMES += ("workers", "rq_workers", "traces", "web")


def main(chosen: list[str]) -> int:
    unknown = set(chosen) - set(NAMES)
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 64
    for name in chosen or NAMES:
        print(f"\n== {name}", flush=True)
        subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py"))], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
