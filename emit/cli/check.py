"""``emit check app.router``: what is wrong with a graph, before a message runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from emit.checks.findings import (
    Finding,
    find_cycles,
    find_lacking,
    find_unmatched,
    find_unreached,
)
from emit.cli.errors import UsageError
from emit.cli.handlers import Needs, NoSuchNode, find_misspelt, find_programs, needs_of
from emit.cli.screen import paint, plural
from emit.cli.target import load_router
from emit.drawing.outline import Outline, outline
from emit.errors import GraphError, HostError
from emit.nearest import nearest
from emit.router import Router
from emit.router.queued import QueueRouter

HELP = "Find what is wrong with a graph before a message runs; exit code 1 if there is something."

EXAMPLES = """
  emit check app.router
  emit check app.router --all
  emit check app.router --called report --ignore cycle
  emit check app.router --json | jq -r '.findings[].text'
"""

KINDS = {
    "declaration": "a setting, or an order of settings, that can't work; a misspelt one",
    "subscription": "it matches no node",
    "unreached": "no call of the router leads to the node",
    "cycle": "nodes that hear each other in a circle",
    "fields": "an edge does not carry what its reader needs",
    "program": "a command, a file, a language or the program's node is missing",
    "queue": "settings of the queue that lose or repeat messages, or run them for ever",
}


@dataclass
class Report:
    """What was found, and of which nodes it is not known what they need."""

    seen: Outline | None = None
    findings: list[Finding] = field(default_factory=list)
    needs: dict[str, Needs] = field(default_factory=dict)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("router", help="its dotted path, such as app.router")
    parser.add_argument(
        "--called",
        action="append",
        default=[],
        metavar="NODE",
        help="a node your code calls itself",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        choices=KINDS,
        metavar="KIND",
        help=f"leave these out: {', '.join(KINDS)}",
    )
    parser.add_argument("--all", action="store_true", help="show every edge, not only the faults")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")


def run(arguments: argparse.Namespace) -> int:
    report = Report()
    try:
        router = load_router(arguments.router)
    except GraphError as error:
        report.findings = [Finding("declaration", "", str(error))]
    else:
        _check(router, arguments.called, report)
    report.findings = [f for f in report.findings if f.kind not in arguments.ignore]
    if arguments.json:
        print(json.dumps(_as_dict(report), ensure_ascii=False, indent=2))
    else:
        _show(report, arguments.all)
    return 1 if report.findings else 0


def _check(router: Router, called: Iterable[str], report: Report) -> None:
    for name in called:
        if name not in router.names:
            raise UsageError(f"there is no node {name}{nearest(name, router.names)}")
    report.seen = outline(router, called)
    programs = list(find_programs(router))
    broken = {finding.node for finding in programs}
    for name, node in router._nodes.items():
        if name not in broken:
            try:
                report.needs[name] = needs_of(node, router)
            except (HostError, NoSuchNode) as error:
                programs.append(Finding("program", name, str(error)))
    needs = {name: known.fields for name, known in report.needs.items() if known.fields}
    queue = [*router.problems(), *_try_out(router)] if isinstance(router, QueueRouter) else []
    report.findings = [
        *find_misspelt(router),
        *find_unmatched(router),
        *find_unreached(report.seen),
        *find_cycles(report.seen),
        *find_lacking(report.seen, needs),
        *programs,
        *(Finding("queue", "", text) for text in queue),
    ]


def _try_out(router: Router) -> list[str]:
    """Return what can't be kept in Redis; nothing if Redis is away, as nobody knows then."""
    from emit.cli.queues import find_unkept

    wrong = []
    for text, is_away in find_unkept(router):
        if is_away:
            print(f"emit check: not tried: {text}", file=sys.stderr)
        else:
            wrong.append(text)
    return wrong


def _as_dict(report: Report) -> dict[str, object]:
    needs = {name: known._asdict() for name, known in report.needs.items()}
    return {"findings": [asdict(finding) for finding in report.findings], "needs": needs}


def _show(report: Report, everything: bool) -> None:
    if everything and report.seen is not None:
        _show_edges(report.seen, report.needs)
    for finding in report.findings:
        print(f"{paint('✘', 'red')} {finding.kind:<13} {finding.text}")
    if report.seen is None:
        return
    size = f"{plural(len(report.seen.nodes), 'node')}, {plural(len(report.seen.edges), 'edge')}"
    found = plural(len(report.findings), "finding") if report.findings else "nothing found"
    unknown = sum(known.fields is None for known in report.needs.values())
    rest = f"; not known what they need: {plural(unknown, 'node')} (see --all)" if unknown else ""
    print(f"{size}: {found}{rest}")


def _show_edges(seen: Outline, needs: dict[str, Needs]) -> None:
    for edge in seen.edges:
        known = needs.get(edge.destination, Needs(None, "it can't be asked"))
        fields = seen.fields_of(edge)
        gives = "what the caller gives" if fields is None else f"({', '.join(fields)})"
        if fields is None and edge.origin in seen.nodes:  # it passes on what it is given
            gives = f"({', '.join(seen.nodes[edge.origin].shown)}), … being {gives}"
        way = f"{edge.origin} -> {edge.destination}: {gives}"
        if known.fields is None:
            print(f"{paint('–', 'yellow')} {way}; not known what it needs: {known.reason}")
            continue
        wants = f"needs {', '.join(known.fields) or 'no field for certain'}"
        mark, colour = ("–", "yellow") if fields is None else ("✔", "green")
        if fields is None or set(known.fields) <= set(fields):
            print(f"{paint(mark, colour)} {way}; {wants}")
