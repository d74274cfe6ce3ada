"""``emit reload``: have the present version of programs take over, without losing a message."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from emit.cli.output import CommandError, UsageError, paint, plural
from emit.cli.target import load_router
from emit.host.place import project
from emit.reload import Asked, Silent, ask_hosts
from emit.text import clean, nearest, one_line

HELP = "Have the present version of programs take over, without losing a message."

EXAMPLES = """
  emit reload
  emit reload app.router
  emit reload app.router:count
  emit reload --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "target",
        nargs="?",
        metavar="MODULE.ROUTER[:NODE]",
        help="a router, or one of its nodes (default: all nodes of this project)",
    )
    add("--force", action="store_true", help="also replace processes of the present version")
    add("--json", action="store_true", help="print the outcomes as JSON")


def run(arguments: argparse.Namespace) -> int:
    nodes = _nodes(arguments.target) if arguments.target else None
    here = project()
    told = [*ask_hosts(nodes, here, force=arguments.force)]
    hosts = [each for each in told if isinstance(each, Asked)]
    rows = [{"pid": host.pid, **each} for host in hosts for each in host.swapped or ()]
    silent = [each for each in told if isinstance(each, Silent)]
    silent += [Silent(host.pid, host.trouble) for host in hosts if host.trouble]
    for pid, trouble in silent:
        print(f"emit reload: process {pid} does not answer: {one_line(trouble)}", file=sys.stderr)
    if not hosts and not silent:
        of = "" if nodes is None else f" with a process of {' or '.join(sorted(nodes))}"
        raise CommandError(
            f"no host{of} runs for the project {here}; run this where the worker was started, or "
            f"set EMIT_PROJECT as it has it: emit top --json tells"
        )
    if arguments.json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        tell(rows)
    return int(bool(silent) or any(row["error"] for row in rows))


def _nodes(target: str) -> set[str]:
    """Return the names of the nodes that a target names."""
    path, _, name = target.partition(":")
    router = load_router(path)
    if name and name not in router.names:
        raise UsageError(f'"{path}" has no node "{name}"{nearest(name, router.names)}')
    return {name} if name else set(router.names)


def tell(rows: Sequence[dict[str, Any]]) -> None:
    """Print a line for each program, and one on stderr for each that can't be started."""
    programs: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        programs.setdefault(tuple(row["nodes"]), []).append(row)
    for nodes, each in programs.items():
        failed = [row for row in each if row["error"]]
        name = one_line(", ".join(nodes))
        if failed:
            before = _versions(version for row in each for version in row["before"])
            text = failed[0]["error"]["text"]
            print(paint(f"{name}: stays at {before}", "red", sys.stderr), file=sys.stderr)
            print(clean(text), file=sys.stderr)
            continue
        count = sum(row["processes"] for row in each)
        new = _versions(row["version"] for row in each)
        if not count:
            print(f"{name}: {new} already")
            continue
        before = _versions(version for row in each for version in row["before"])
        where = "1 process" if count == 1 else f"{count:,} processes"
        hosts = plural(len({row["pid"] for row in each}), "host")
        print(f"{name}: {before} -> {new}, {where} in {hosts}")


def _versions(versions: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(versions)) or "none"
