"""The workers of all machines, for ``--all``: read their reports, add up, format."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from emit.cli.figures import Snapshots, is_snapshot
from emit.cli.output import CommandError, UsageError
from emit.cli.target import load_router
from emit.errors import EmitError
from emit.observe.fleet import Report, snapshots
from emit.text import one_line

#: Seconds to wait for a connection, and for an answer.
_PATIENCE = 10.0


@contextmanager
def reading(arguments: argparse.Namespace) -> Iterator[Callable[[], list[Report]]]:
    """
    Provide a function that reads the reports.

    Raises:
        CommandError: Redis can't be reached, or refuses.
        UsageError: No Redis is named.
    """
    router = load_router(arguments.app) if arguments.app else None
    with ExitStack() as stack:
        sources = redis_of(arguments, router, stack)
        if not sources:
            raise UsageError(
                "which Redis? Give --redis URL, or a router as --app, or set EMIT_REDIS or "
                "REDIS_URL"
            )

        def read() -> list[Report]:
            try:
                found = [snapshots(client, prefix) for client, prefix in sources]
            except EmitError as error:
                raise CommandError(str(error)) from error
            return [report for reports in found for report in reports]

        yield read


def redis_of(arguments: argparse.Namespace, router: Any, stack: ExitStack) -> list[tuple[Any, str]]:
    """
    Return a client and a prefix for each Redis that has reports; none: no Redis is named.

    Raises:
        CommandError: redis-py is missing, or a Redis can't be used.
    """
    try:
        import redis
    except ModuleNotFoundError as error:
        extras = "'emit-graph[celery]' or 'emit-graph[rq]'"
        raise CommandError(f"this needs redis-py: pip install {extras}") from error
    try:
        return [*_sources(arguments, router, redis, stack)]
    except (EmitError, ValueError) as error:
        raise CommandError(str(error)) from error


def _sources(
    arguments: argparse.Namespace, router: Any, redis: Any, stack: ExitStack
) -> Iterator[tuple[Any, str]]:
    ledgers = [*getattr(router, "ledgers", tuple)()]
    url = arguments.redis or os.environ.get("EMIT_REDIS") or os.environ.get("REDIS_URL")
    if ledgers and not arguments.redis:
        places = {(id(ledger.redis), ledger.prefix): ledger for ledger in ledgers}
        for ledger in places.values():
            yield ledger.redis, ledger.prefix if arguments.prefix is None else arguments.prefix
    elif url:
        limits = {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE}
        client = stack.enter_context(redis.Redis.from_url(url, **limits))
        prefix = arguments.prefix
        yield client, ledgers[0].prefix if prefix is None and ledgers else prefix or ""


def hosts_of(reports: Sequence[Report]) -> Snapshots:
    """
    Return the snapshots of all hosts, by machine, process id and the time of their beginning. A
    shared host is one, however many workers report it. Say on stderr which can't be used.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for report in reports:
        for snapshot in report.hosts:
            if is_snapshot(snapshot):
                found[report.machine, snapshot.get("pid"), snapshot.get("began")] = snapshot
            else:
                where = f"{one_line(report.worker)} on {one_line(report.machine)}"
                reason = "its Emit is of another version, and its figures cannot be read"
                print(f"{where}: {reason}", file=sys.stderr)
    return found


def nodes_of(reports: Sequence[Report]) -> Snapshots:
    """Return the snapshots of all hosts, and of each worker's Python functions."""
    functions = {
        (report.machine, report.pid, "functions"): report.functions
        for report in reports
        if is_snapshot(report.functions)
    }
    return {**hosts_of(reports), **functions}


#: The heads of a worker's cells.
HEAD = ("machine", "worker", "pid", "queue", "busy", "calls/s", "memory", "up", "emit", "python")


def format_worker(report: Report) -> tuple[str, ...]:
    """Return a worker's cells, in the order of HEAD."""
    told = [each for each in (*report.hosts, report.functions) if is_snapshot(each)]
    nodes = [node for each in told for node in each["nodes"].values()]
    pools = [(node["busy"], node["idle"]) for node in nodes]
    recent = [node["recent"] for node in nodes]
    rate = sum(each["calls"] / each["seconds"] for each in recent if each["seconds"])
    return (
        one_line(report.machine),
        one_line(report.worker),
        f"{report.pid}",
        one_line(report.queue),
        f"{sum(busy for busy, _ in pools)}/{sum(busy + idle for busy, idle in pools)}",
        f"{rate:,.0f}",
        f"{sum(node['rss_bytes'] for node in nodes) / 1e6:.0f} MB",
        _up(report.at - report.began),
        one_line(report.emit),
        one_line(report.python),
    )


def _up(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
