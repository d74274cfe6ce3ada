"""``emit test``: run recorded cases, and each node's own tests in its own language."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from emit.cases.format import is_cases
from emit.cases.own import files, own_tests
from emit.cases.own import run as run_own
from emit.cases.play import calling, play
from emit.cases.suite import FORMATS, Finding, Verdict, as_json, junit, summary, tap
from emit.cli.output import CommandError, UsageError, describe_failure, paint
from emit.cli.replay import load, place
from emit.errors import EmitError
from emit.text import clean

HELP = "Run recorded cases, and the tests of each node in its own language, with one summary."

EXAMPLES = """
  emit test
  emit test nodes cases/measure.ndjson
  emit test --format tap
  emit test --junit report.xml
"""

_MARKS = {"passed": ("✔", "green"), "failed": ("✘", "red"), "skipped": ("-", "dim")}


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("path", nargs="*", type=Path, default=[Path()], help="files and folders (default: .)")
    add("--format", choices=FORMATS, default="pretty", help="what to print (default: pretty)")
    add("--junit", type=Path, metavar="FILE", help="write a report in JUnit's XML, too")
    add("--strict", action="store_true", help="fail if a test is skipped, such as for no Ruby")


def run(arguments: argparse.Namespace) -> int:
    paths = [*_found(arguments.path)]
    began, done = time.monotonic(), []
    for one in _each(paths):
        done.append(one)
        if arguments.format == "pretty":
            _show(one)
    seconds = time.monotonic() - began
    reports = {"tap": tap, "junit": junit, "json": as_json}
    if arguments.format in reports:
        print(reports[arguments.format](done))
    if arguments.junit is not None:
        arguments.junit.write_text(f"{junit(done)}\n", "utf-8")
    bad = {"failed", "skipped"} if arguments.strict else {"failed"}
    failed = any(one.verdict in bad for one in done)
    print(paint(summary(done, seconds), "red" if failed else "green", sys.stderr), file=sys.stderr)
    if not done:
        raise CommandError("there are no tests here: see emit record, and emit new --test")
    return int(failed)


def _found(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from files(path)
        elif path.exists():
            yield path
        else:
            raise UsageError(f"{path}: there is no such file")


def _each(paths: list[Path]) -> Iterator[Finding]:
    for path in paths:
        if path.suffix == ".ndjson" and is_cases(path):
            yield from _cases(path)
    yield from run_own(own_tests(paths))


def _cases(path: Path) -> Iterator[Finding]:
    try:
        cases = load(path)
        with calling(cases.target) as call:
            for case in cases.each:
                began = time.monotonic()
                outcome = play(case, call, cases.settings)
                seconds = time.monotonic() - began
                verdict: Verdict = "failed" if outcome.differences else "passed"
                name = f"line {place(case)}"
                yield Finding(str(path), name, verdict, seconds, tuple(outcome.lines()))
    except EmitError as error:
        yield Finding(str(path), "", "failed", 0.0, tuple(describe_failure(error)))


def _show(one: Finding) -> None:
    mark, colour = _MARKS[one.verdict]
    print(paint(f"{mark} {clean(one.title)}", colour), flush=True)
    for line in one.lines:
        print(f"    {clean(line)}")
