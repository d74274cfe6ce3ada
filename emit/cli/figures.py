"""The figures of ``emit top``: ask all hosts of this user, add up by node, format."""

from __future__ import annotations

import sys
from collections import Counter
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

#: Processes of a version that are named.
_NAMED = 8

#: Causes of an end after which another process takes over, if there is work.
_RESTARTS = ("failed", "max_calls", "max_age", "max_rss")


@dataclass(frozen=True)
class Row:
    """
    One node, added up over all hosts that have it.

    Attributes:
        node: The node's name.
        project: Its project: `$EMIT_PROJECT`, or the directory in which a host began.
        language: The program's language, or the program's name; empty before its first start.
        is_function: It is a Python function, in the workers of the fleet: it has no processes of
            its own.
        hosts: Number of hosts that have the node.
        machines: The names of their machines; empty for hosts on this one.
        busy: Processes at work, or being started.
        processes: All processes, busy or not.
        queued: Messages that wait for a process.
        calls: Messages done since the hosts were started.
        calls_per_second: Messages per second, in the last seconds.
        p50: Median duration of a message in seconds, in the last seconds; 0 if there was none.
        p99: Seconds that 99 of 100 messages did not exceed, in the last seconds, in the slowest
            host.
        failures: Messages that ended in an exception, since the hosts were started.
        failures_lately: The same in the last seconds.
        restarts: Processes that died or were replaced.
        open: Hosts whose breaker is open: they try no start for a while.
        start_error: Why the program can't be started, if the last start failed; else empty.
        retry_in: Seconds until that host may try again; 0 if the next message does.
        rss_bytes: Memory of the processes.
        versions: The processes of each version of the program, the most common version first. A
            process is named by its id, and by its machine if it is not known to be this one.
    """

    node: str
    project: str
    language: str
    is_function: bool
    hosts: int
    machines: list[str]
    busy: int
    processes: int
    queued: int
    calls: int
    calls_per_second: float
    p50: float
    p99: float
    failures: int
    failures_lately: int
    restarts: int
    open: int
    start_error: str
    retry_in: float
    rss_bytes: int
    versions: dict[str, list[str]]

    @property
    def key(self) -> tuple[str, str]:
        """Tells the row from all others."""
        return self.node, self.project


#: The results of Host.snapshot, by the id of the host's process; or by the host's machine, its
#: worker and the id.
Snapshots = Mapping[Any, Mapping[str, Any]]

#: Sort keys by column, the largest first; names in alphabetical order.
SORTS: dict[str, Callable[[Row], Any]] = {
    "node": lambda row: row.node,
    "busy": lambda row: -row.busy,
    "queue": lambda row: -row.queued,
    "calls/s": lambda row: -row.calls_per_second,
    "p50": lambda row: -row.p50,
    "p99": lambda row: -row.p99,
    "fail": lambda row: (-row.failures_lately, -row.failures),
    "restarts": lambda row: -row.restarts,
    "memory": lambda row: -row.rss_bytes,
}


def rows(snapshots: Snapshots) -> list[Row]:
    """Add snapshots up, and return a row for each node of each project."""
    found: dict[tuple[str, str], dict[Any, Mapping[str, Any]]] = {}
    for host, snapshot in snapshots.items():
        for node in snapshot["nodes"].values():
            found.setdefault((node["node"], node["project"]), {})[host] = node
    return [_row(*key, nodes) for key, nodes in found.items()]


def is_snapshot(answer: Mapping[str, Any]) -> bool:
    """Return True if rows can be made of an answer: another version may have other figures."""
    try:
        rows({0: answer})
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return True


def arrange(rows: Iterable[Row], sort: str) -> list[Row]:
    """Sort rows by one of SORTS, then by name."""
    return sorted(rows, key=lambda row: (SORTS[sort](row), row.key))


def _row(name: str, project: str, hosts: Mapping[Any, Mapping[str, Any]]) -> Row:
    nodes = list(hosts.values())
    failed = [error for node in nodes if (error := node["start_error"]) is not None]
    last = max(failed, key=lambda error: error["at"], default=_NO_ERROR)
    recent = [node["recent"] for node in nodes]
    return Row(
        node=name,
        project=project,
        language=next((node["language"] for node in nodes if node["language"]), ""),
        is_function=not any(node["size"] for node in nodes),
        hosts=len(nodes),
        machines=sorted({machine for host in hosts if (machine := _machine(host))}),
        busy=_sum(nodes, "busy"),
        processes=_sum(nodes, "busy") + _sum(nodes, "idle"),
        queued=_sum(nodes, "queued"),
        calls=_sum(nodes, "calls"),
        calls_per_second=sum(each["calls"] / each["seconds"] for each in recent if each["seconds"]),
        p50=_mean([(each["calls"], each["p50"]) for each in recent]),
        p99=max(each["p99"] for each in recent),
        failures=sum(sum(node["failures"].values()) for node in nodes),
        failures_lately=_sum(recent, "failures"),
        restarts=sum(node["ends"].get(cause, 0) for node in nodes for cause in _RESTARTS),
        open=sum(node["breaker"] == "open" for node in nodes),
        start_error=last["text"],
        retry_in=last["retry_in"],
        rss_bytes=_sum(nodes, "rss_bytes"),
        versions=_versions(hosts),
    )


def _machine(host: Any) -> str:
    return str(host[0]) if isinstance(host, tuple) else ""


def _versions(hosts: Mapping[Any, Mapping[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for host, node in hosts.items():
        for process in node["processes"]:
            named = " ".join(filter(None, (_machine(host), str(process["pid"]))))
            found.setdefault(process["version"], []).append(named)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def _sum(nodes: Sequence[Mapping[str, Any]], key: str) -> int:
    return sum(node[key] for node in nodes)


def _mean(weighted: Sequence[tuple[int, float]]) -> float:
    """Return the mean of values, each weighted by its number of messages."""
    whole = sum(count for count, _ in weighted)
    return sum(count * value for count, value in weighted) / whole if whole else 0.0


# -- Formatting rows. No I/O here ------------------------------------------------------------------

#: The heads of a row's cells.
HEAD = (
    *("node", "runtime", "busy", "queue", "calls/s", "p50", "p99", "fail", "restarts", "memory"),
    "version",
)

#: Hexadecimal digits of a version in a cell.
_SHORT = 7


def format_row(row: Row, name: str = "") -> tuple[str, ...]:
    """Return a row's cells, in the order of HEAD; *name* stands for the node's, if it is given."""
    busy, queue, restarts, memory = (
        f"{row.busy}/{row.processes}",
        f"{row.queued}",
        f"{row.restarts:,}" + (" open" if row.open else ""),
        f"{row.rss_bytes / 1e6:.0f} MB",
    )
    language = row.language or "-"
    if row.is_function:
        language, busy, queue, restarts, memory = "function", "-", "-", "-", "-"
    return (
        one_line(name or row.node),
        language,
        busy,
        queue,
        f"{row.calls_per_second:,.0f}",
        _time(row.p50),
        _time(row.p99),
        f"{row.failures:,}" + (f" +{row.failures_lately:,}" if row.failures_lately else ""),
        restarts,
        memory,
        _version(row),
    )


def names(rows: Sequence[Row]) -> list[str]:
    """
    Return the name of each row to be shown. Nodes of two projects with one name also have the last
    part of their project, or all of it, as far as that is needed to tell them apart.
    """
    whole = Counter(row.node for row in rows)
    short = Counter((row.node, _last_part(row.project)) for row in rows)
    found = []
    for row in rows:
        last = _last_part(row.project)
        said = last if short[row.node, last] == 1 else row.project
        found.append(f"{row.node} ({said})" if whole[row.node] > 1 else row.node)
    return found


def _last_part(project: str) -> str:
    return project.rstrip("/").rpartition("/")[2] or project


def _version(row: Row) -> str:
    first = next(iter(row.versions), "")[:_SHORT] or "-"
    return f"{first} +{len(row.versions) - 1}" if len(row.versions) > 1 else first


def troubles(rows: Sequence[Row]) -> Iterator[str]:
    """
    Yield a line for each node whose program can't be started, with the next try and the cause; and
    one for each node whose processes have different versions of the program.
    """
    for row, name in zip(rows, names(rows), strict=True):
        if row.start_error:
            next_try = f"in {ceil(row.retry_in)} s" if row.retry_in > 0 else "with the next message"
            yield clean(f"cannot start, next try {next_try}; last cause: {row.start_error}")
        if len(row.versions) > 1:
            (usual, most), *others = row.versions.items()
            told = "; ".join(f"{version} in {_processes(each)}" for version, each in others)
            yield one_line(
                f"{name}: {len(row.versions)} versions of its program at a time: {usual} in "
                f"{len(most):,} of its processes, {told}"
            )


def _processes(each: Sequence[str]) -> str:
    shown = ", ".join(each[:_NAMED])
    return f"{shown} and {len(each) - _NAMED} more" if len(each) > _NAMED else shown


def _time(seconds: float) -> str:
    if not seconds:  # no message has been answered
        return "-"
    if seconds < 1e-4:  # the share of one message in a pipeline
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1000:.1f} ms" if seconds < 10 else f"{seconds:.0f} s"
