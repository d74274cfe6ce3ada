"""The figures of all hosts of this user, asked for and formatted."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from math import ceil

from emit.cli.fleet import Row, Snapshots, is_snapshot
from emit.host import status
from emit.text import clean, one_line

HEAD = ("node", "runtime", "busy", "queue", "calls/s", "p50", "p99", "fail", "restarts", "memory")


def snapshots() -> Snapshots:
    """Ask all hosts. One that does not answer, or not as a host does, is named on stderr."""
    found = {}
    for pid, answer in status.ask_all({}):
        if isinstance(answer, Exception):
            print(f"emit top: process {pid} does not answer: {answer}", file=sys.stderr)
        elif not is_snapshot(answer):
            reason = "its Emit is of another version, and its figures cannot be read"
            print(f"emit top: process {pid}: {reason}", file=sys.stderr)
        else:
            found[pid] = answer
    return found


def format_row(row: Row) -> tuple[str, ...]:
    """A row's cells, in the order of HEAD."""
    return (
        one_line(row.node),
        row.language or "-",
        f"{row.busy}/{row.processes}",
        f"{row.queued}",
        f"{row.calls_per_second:,.0f}",
        _time(row.p50),
        _time(row.p99),
        f"{row.failures:,}",
        f"{row.restarts:,}" + (" open" if row.open else ""),
        f"{row.rss_bytes / 1e6:.0f} MB",
    )


def troubles(rows: Iterable[Row]) -> Iterator[str]:
    """A line for each node whose program can't be started: when it is tried again, and why."""
    for row in rows:
        if row.start_error:
            next_try = f"in {ceil(row.retry_in)} s" if row.retry_in > 0 else "with the next message"
            yield clean(f"cannot start, next try {next_try}; last cause: {row.start_error}")


def _time(seconds: float) -> str:
    if not seconds:  # no message has been answered
        return "-"
    if seconds < 1e-4:  # of many messages in a pipeline
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1000:.1f} ms" if seconds < 10 else f"{seconds:.0f} s"
