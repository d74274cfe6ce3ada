"""The figures of all hosts of this user, asked for and formatted."""

from __future__ import annotations

import sys

from emit.cli.fleet import Row, Snapshots
from emit.host import status

HEAD = ("node", "runtime", "busy", "queue", "calls/s", "p50", "p99", "fail", "restarts", "memory")


def snapshots() -> Snapshots:
    """Ask all hosts. One that does not answer is named on stderr, and left out."""
    found = {}
    for pid, answer in status.ask_all({}):
        if isinstance(answer, Exception):
            print(f"emit top: process {pid} does not answer: {answer}", file=sys.stderr)
        else:
            found[pid] = answer
    return found


def format_row(row: Row) -> tuple[str, ...]:
    """A row's cells, in the order of HEAD."""
    return (
        row.node,
        row.language or "-",
        f"{row.busy}/{row.processes}",
        f"{row.queued}",
        f"{row.calls_per_second:,.0f}",
        _milliseconds(row.p50),
        _milliseconds(row.p99),
        f"{row.failures:,}",
        f"{row.restarts:,}" + (" open" if row.open else ""),
        f"{row.rss_bytes / 1e6:.0f} MB",
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 10 else f"{seconds:.0f} s"
