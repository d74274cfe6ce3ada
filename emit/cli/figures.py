"""The figures of ``emit top``: ask all hosts of this user, add up by node, format."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from emit.host import status
from emit.text import clean, one_line

# -- Asking all hosts ------------------------------------------------------------------------------


def snapshots() -> Snapshots:
    """Return the snapshots of all hosts. A host without a usable answer is named on stderr."""
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


# -- Adding up snapshots, by node. No I/O here -----------------------------------------------------

#: For a node whose last start succeeded, or that was never started.
_NO_ERROR: Mapping[str, Any] = {"text": "", "retry_in": 0.0}

#: Causes of an end after which another process takes over, if there is work.
_RESTARTS = ("failed", "max_calls", "max_age", "max_rss")


@dataclass(frozen=True)
class Row:
    """
    One node, added up over all hosts that have it.

    Attributes:
        node: The node's name.
        language: The program's language, or the program's name; empty before its first start.
        hosts: Number of hosts that have the node.
        busy: Processes at work, or being started.
        processes: All processes, busy or not.
        queued: Messages that wait for a process.
        calls: Messages done since the hosts were started.
        calls_per_second: Messages per second since the last look.
        p50: Median duration of a message in seconds, since the hosts were started.
        p99: Seconds that 99 of 100 messages do not exceed, in the slowest host.
        failures: Messages that ended in an exception.
        restarts: Processes that died or were replaced.
        open: Hosts whose breaker is open: they try no start for a while.
        start_error: Why the program can't be started, if the last start failed; else empty.
        retry_in: Seconds until that host may try again; 0 if the next message does.
        rss_bytes: Memory of the processes.
    """

    node: str
    language: str
    hosts: int
    busy: int
    processes: int
    queued: int
    calls: int
    calls_per_second: float
    p50: float
    p99: float
    failures: int
    restarts: int
    open: int
    start_error: str
    retry_in: float
    rss_bytes: int


#: The results of Host.snapshot, by the id of the host's process.
Snapshots = Mapping[int, Mapping[str, Any]]

#: Sort keys by column, the largest first; names in alphabetical order.
SORTS: dict[str, Callable[[Row], Any]] = {
    "node": lambda row: row.node,
    "busy": lambda row: -row.busy,
    "queue": lambda row: -row.queued,
    "calls/s": lambda row: -row.calls_per_second,
    "p50": lambda row: -row.p50,
    "p99": lambda row: -row.p99,
    "fail": lambda row: -row.failures,
    "restarts": lambda row: -row.restarts,
    "memory": lambda row: -row.rss_bytes,
}


def rows(before: Snapshots, now: Snapshots, seconds: float) -> list[Row]:
    """
    Add snapshots up, and return a row for each node.

    Args:
        before: Earlier snapshots, from which calls per second are computed. Hosts come and go.
        now: The current snapshots.
        seconds: Time between the two.
    """
    names = dict.fromkeys(name for snapshot in now.values() for name in snapshot["nodes"])
    return [_row(name, _of(name, before), _of(name, now), seconds) for name in names]


def is_snapshot(answer: Mapping[str, Any]) -> bool:
    """Return True if rows can be made of an answer: another version may have other figures."""
    try:
        rows({0: answer}, {0: answer}, 1.0)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return True


def arrange(rows: Iterable[Row], sort: str) -> list[Row]:
    """Sort rows by one of SORTS, then by name."""
    return sorted(rows, key=lambda row: (SORTS[sort](row), row.node))


def _of(name: str, snapshots: Snapshots) -> dict[int, Mapping[str, Any]]:
    return {pid: s["nodes"][name] for pid, s in snapshots.items() if name in s["nodes"]}


def _row(name: str, before: Snapshots, now: Snapshots, seconds: float) -> Row:
    nodes = list(now.values())
    # A host that was started before an upgrade may lack "start_error".
    failed = [error for node in nodes if (error := node.get("start_error")) is not None]
    last = max(failed, key=lambda error: error["at"], default=_NO_ERROR)
    fresh = sum(node["calls"] - before[pid]["calls"] for pid, node in now.items() if pid in before)
    return Row(
        node=name,
        language=next((node["language"] for node in nodes if node["language"]), ""),
        hosts=len(nodes),
        busy=_sum(nodes, "busy"),
        processes=_sum(nodes, "busy") + _sum(nodes, "idle"),
        queued=_sum(nodes, "queued"),
        calls=_sum(nodes, "calls"),
        calls_per_second=max(0.0, fresh / seconds),
        p50=_mean([(node["calls"], node["call_seconds"]["p50"]) for node in nodes]),
        p99=max(node["call_seconds"]["p99"] for node in nodes),
        failures=sum(sum(node["failures"].values()) for node in nodes),
        restarts=sum(node["ends"].get(cause, 0) for node in nodes for cause in _RESTARTS),
        open=sum(node["breaker"] == "open" for node in nodes),
        start_error=last["text"],
        retry_in=last["retry_in"],
        rss_bytes=_sum(nodes, "rss_bytes"),
    )


def _sum(nodes: Sequence[Mapping[str, Any]], key: str) -> int:
    return sum(node[key] for node in nodes)


def _mean(weighted: Sequence[tuple[int, float]]) -> float:
    """Return the mean of values, each weighted by its number of messages."""
    whole = sum(count for count, _ in weighted)
    return sum(count * value for count, value in weighted) / whole if whole else 0.0


# -- Formatting rows. No I/O here ------------------------------------------------------------------

#: The heads of a row's cells.
HEAD = ("node", "runtime", "busy", "queue", "calls/s", "p50", "p99", "fail", "restarts", "memory")


def format_row(row: Row) -> tuple[str, ...]:
    """Return a row's cells, in the order of HEAD."""
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
    """Yield a line for each node whose program can't be started: the next try, and the cause."""
    for row in rows:
        if row.start_error:
            next_try = f"in {ceil(row.retry_in)} s" if row.retry_in > 0 else "with the next message"
            yield clean(f"cannot start, next try {next_try}; last cause: {row.start_error}")


def _time(seconds: float) -> str:
    if not seconds:  # no message has been answered
        return "-"
    if seconds < 1e-4:  # the share of one message in a pipeline
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1000:.1f} ms" if seconds < 10 else f"{seconds:.0f} s"
