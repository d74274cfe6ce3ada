"""``emit top``: watch all nodes with programs on this machine, or on all machines."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from emit.cli.figures import (
    HEAD,
    SORTS,
    Snapshots,
    arrange,
    format_row,
    names,
    rows,
    snapshots,
    troubles,
)
from emit.cli.output import CommandError, paint, plural

if TYPE_CHECKING:
    from emit.observe.fleet import Report

HELP = "Watch the nodes of all Emit hosts of this user on this machine, or of all machines."

EXAMPLES = """
  emit top
  emit top --once --sort memory
  emit top --json | jq '.nodes[] | select(.queued > 0)'
  emit top --all --app app.router
"""


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--once", action="store_true", help="print one table and end")
    add(
        "--sort",
        choices=SORTS,
        default="node",
        help="column to sort by, the largest first (%(default)s)",
    )
    add("--interval", type=float, default=1.0, help="seconds between refreshes (%(default)g)")
    add("--json", action="store_true", help="print the figures once, as JSON")
    add("--all", action="store_true", help="show the workers of all machines, from their Redis")
    add("--redis", metavar="URL", help="their Redis (default: the app's, $EMIT_REDIS, $REDIS_URL)")
    add("--prefix", help="prefix of Emit's keys, as global_keyprefix (default: the app's, or none)")
    add("--app", metavar="MODULE.ROUTER", help="the Redis of a router, such as app.router")


def run(arguments: argparse.Namespace) -> int:
    watched = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
    is_once = arguments.once or arguments.json or not watched
    if not arguments.all:
        return _once(arguments) if is_once else _live(arguments)
    from emit.cli import fleet

    with fleet.reading(arguments) as read:
        if not is_once:
            return _live(arguments, read)
        reports = read()
        _print(arguments, fleet.nodes_of(reports), reports)
    return 0


def _live(arguments: argparse.Namespace, read: Any = None) -> int:
    try:
        from emit.cli import live
    except ImportError as error:
        raise CommandError(
            "the live view needs rich: pip install 'emit-graph[cli]'; or use --once"
        ) from error
    live.show(arguments.sort, arguments.interval, read)
    return 0


def _once(arguments: argparse.Namespace) -> int:
    snapshots()  # rates are since a look before
    time.sleep(arguments.interval)
    _print(arguments, snapshots())
    return 0


def _print(
    arguments: argparse.Namespace, hosts: Snapshots, reports: Sequence[Report] | None = None
) -> None:
    """Print the figures of hosts, and of the workers of all machines if they are given."""
    table = arrange(rows(hosts), arguments.sort)
    if arguments.json:
        data: dict[str, Any] = {"hosts": list(hosts.values())}
        if reports is not None:
            of_hosts = [key for key in hosts if key[2] != "functions"]  # those of its worker
            data["hosts"] = [{"machine": key[0], **hosts[key]} for key in of_hosts]
            each = [report._asdict() for report in reports]
            data["workers"] = [{k: v for k, v in one.items() if k != "hosts"} for one in each]
        data["nodes"] = [asdict(row) for row in table]
        print(json.dumps(data, ensure_ascii=False, indent=2))
        return
    if not table:
        print(f"{plural(len(hosts), 'host')}, and no node with a program of its own")
    else:
        print("\n".join(_aligned([HEAD, *map(format_row, table, names(table))])))
        for trouble in troubles(table):
            print(paint(trouble, "red"))
    if reports is not None:
        from emit.cli import fleet

        workers = [fleet.HEAD, *map(fleet.format_worker, reports)]
        print("\n".join(["", *_aligned(workers)]) if reports else "no worker has reported")


def _aligned(cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, whose first two columns are texts. The first line is its head."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for number, line in enumerate(cells):
        padded = (
            f"{cell:<{width}}" if column < 2 else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        text = "  ".join(padded)
        yield paint(text, "dim") if number == 0 else text
