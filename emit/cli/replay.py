"""``emit replay FILE ...``: give recorded messages to their node again."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from emit.cases.format import Case, CaseError, Cases, read, write
from emit.cases.play import Outcome, calling, play
from emit.cli.output import CommandError, paint, plural, show_logs
from emit.text import clean

HELP = "Give recorded messages to their node again, and show what differs from then."

EXAMPLES = """
  emit replay measure.ndjson
  emit replay measure.ndjson --update
  emit replay measure.ndjson --ignore at --tolerance 1e-6 --any-order
  emit replay measure.ndjson --target nodes/measure.rb
"""


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", nargs="+", type=Path, help="a file that emit record has written")
    add("--update", action="store_true", help="write the new results to the file")
    add("--target", help="another node than the file's, such as app.router:words or words.rb")
    add(
        "--ignore",
        action="append",
        default=[],
        metavar="FIELD",
        help="a field that may differ, at any depth, beside those that the file names",
    )
    add("--any-order", action="store_true", help="the results may come in any order")
    add(
        "--tolerance",
        type=float,
        metavar="X",
        help="how much numbers may differ: relative, or absolute below 1 (default: the file's, or "
        "0, with which 1 and 1.0 differ)",
    )
    add("--json", action="store_true", help="print a line of JSON for each case")


def run(arguments: argparse.Namespace) -> int:
    show_logs()
    began, total, failed = time.monotonic(), 0, 0
    for path in arguments.file:
        cases = told(arguments, load(path))
        outcomes = []
        with calling(cases.target) as call:
            for case in cases.each:
                outcome = play(case, call, cases.settings)
                outcomes.append(outcome)
                if arguments.json:
                    print(_json(path, outcome), flush=True)
                elif outcome.differences:
                    print("\n".join(lines(path, cases.target, outcome)), flush=True)
        total, failed = total + len(outcomes), failed + sum(bool(x.differences) for x in outcomes)
        if arguments.update:
            write(path, replace(cases, each=tuple(outcome.case for outcome in outcomes)))
    said = (
        f"{plural(total, 'case')}, {failed} with differences" if failed else plural(total, "case")
    )
    done = ", written to the file" if arguments.update and failed else ""
    text = f"{said}{done}, in {time.monotonic() - began:.1f} s"
    print(paint(text, "red" if failed else "green", sys.stderr), file=sys.stderr)
    return int(bool(failed) and not arguments.update)


def load(path: Path) -> Cases:
    """
    Read a file of cases.

    Raises:
        CommandError: It can't be read.
    """
    try:
        return read(path)
    except CaseError as error:
        raise CommandError(str(error)) from error


def told(arguments: argparse.Namespace, cases: Cases) -> Cases:
    """Return cases with the target and the settings of the command line."""
    settings = cases.settings
    settings = replace(settings, ignore=tuple(dict.fromkeys((*settings.ignore, *arguments.ignore))))
    if arguments.any_order:
        settings = replace(settings, ordered=False)
    if arguments.tolerance is not None:
        settings = replace(settings, tolerance=arguments.tolerance)
    return replace(cases, target=arguments.target or cases.target, settings=settings)


def lines(path: Path, target: str, outcome: Outcome) -> Iterator[str]:
    """Yield what is to be told of a case that differs."""
    yield paint(f"{path}:{place(outcome.case)}  {target}", "red")
    for line in outcome.lines():
        yield f"    {clean(line)}"


def place(case: Case) -> str:
    """Return the line of a case, and its name."""
    return f"{case.line} {case.name}" if case.name else str(case.line)


def _json(path: Path, outcome: Outcome) -> str:
    told = {
        "file": str(path),
        "line": outcome.case.line,
        "name": outcome.case.name,
        "passed": not outcome.differences,
        "differences": [*outcome.lines()],
    }
    return json.dumps(told, ensure_ascii=False)
