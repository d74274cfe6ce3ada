"""``emit top``: watch all nodes with programs on this machine."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict

from emit.cli.figures import HEAD, SORTS, Row, arrange, format_row, names, rows, snapshots, troubles
from emit.cli.output import CommandError, paint, plural

HELP = "Watch the nodes of all Emit hosts of this user on this machine."

EXAMPLES = """
  emit top
  emit top --once --sort memory
  emit top --json | jq '.nodes[] | select(.queued > 0)'
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


def run(arguments: argparse.Namespace) -> int:
    watched = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
    if arguments.once or arguments.json or not watched:
        return _once(arguments)
    try:
        from emit.cli import live
    except ImportError as error:
        raise CommandError(
            "the live view needs rich: pip install 'emit-graph[cli]'; or use --once"
        ) from error
    live.show(arguments.sort, arguments.interval)
    return 0


def _once(arguments: argparse.Namespace) -> int:
    snapshots()  # rates are since a look before
    time.sleep(arguments.interval)
    now = snapshots()
    table = arrange(rows(now), arguments.sort)
    if arguments.json:
        data = {"hosts": list(now.values()), "nodes": [asdict(row) for row in table]}
        print(json.dumps(data, ensure_ascii=False, indent=2))
    else:
        print("\n".join(_lines(table, len(now))))
    return 0


def _lines(table: list[Row], hosts: int) -> Iterator[str]:
    if not table:
        yield f"{plural(hosts, 'host')}, and no node with a program of its own"
        return
    cells = [HEAD, *map(format_row, table, names(table))]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    for number, line in enumerate(cells):
        padded = (
            f"{cell:<{width}}" if column < 2 else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        text = "  ".join(padded)
        yield paint(text, "dim") if number == 0 else text
    for trouble in troubles(table):
        yield paint(trouble, "red")
