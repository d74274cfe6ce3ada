"""``emit conformance -- COMMAND...``: test whether a program speaks emit-node/1."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path

from emit.cli.output import CommandError, UsageError, has_colour
from emit.conformance import runner
from emit.conformance.report import FORMATS
from emit.conformance.runner import Outcome, Subject, expected_failures, judge
from emit.conformance.scenario import CODECS, Scenario, folder
from emit.conformance.talk import Fault
from emit.errors import StartError

HELP = "Test whether a program speaks the protocol of nodes, feature by feature."

EXAMPLES = """
  emit conformance -- ruby app.rb
  emit conformance --require all --codec both -- ./app
  emit conformance --require core plain log --format junit -- php app.php > report.xml
  emit conformance --only core plain/EMIT_MSG -- perl app.pl
  emit conformance --list
  emit conformance --nodes
  emit conformance --files folder -- perl launch.pl

The program under test needs a few nodes of a few lines each. --nodes describes them, and
the files that a launcher needs.
"""

_REQUIRE = "features that decide the exit code: all, or some (default core, or files) of "
_FILES = "the command is a launcher: play the scenarios of the feature files, with those in FOLDER"
_EXPECTED = "titles of expected failures, one per line (json/busy/spin); a pass is an error"
_TIMEOUT = "seconds to wait for each expected frame or exit (%(default)g)"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    names = ", ".join(runner.FEATURES)
    add("--require", nargs="+", default=[], metavar="FEATURE", help=_REQUIRE + names)
    add("--only", nargs="+", default=[], metavar="FEATURE[/NAME]", help="play only these")
    add("--files", type=Path, metavar="FOLDER", help=_FILES)
    add("--codec", choices=(*CODECS, "both"), help="default: json, and msgpack if supported")
    add("--format", choices=FORMATS, default="pretty", help="format of the report (%(default)s)")
    add("--expected-failures", type=Path, metavar="FILE", help=_EXPECTED)
    add("--timeout", type=float, default=10.0, metavar="S", help=_TIMEOUT)
    add("--jobs", type=int, default=0, metavar="N", help="scenarios at a time (all processors)")
    add("--list", action="store_true", help="list the scenarios, and play none")
    add("--nodes", action="store_true", help="describe the nodes or files that are needed")
    add("command", nargs="*", metavar="COMMAND", help="the program, after --")


def run(arguments: argparse.Namespace) -> int:
    if arguments.nodes:
        print(_nodes())
        return 0
    scenarios = _chosen(runner.all_scenarios(), arguments.only)
    if arguments.list:
        return _list(scenarios)
    scenarios = [one for one in scenarios if bool(one.file) == bool(arguments.files)]
    if wrong := _mistake(arguments, scenarios):
        raise UsageError(wrong)
    try:
        return _test(arguments, scenarios)
    except (StartError, Fault, OSError, ValueError) as error:
        raise CommandError(str(error)) from error


def _mistake(arguments: argparse.Namespace, scenarios: list[Scenario]) -> str:
    unknown = sorted(set(arguments.require) - {"all", *runner.FEATURES})
    if unknown:
        return f"there is no feature {', '.join(unknown)}"
    if not scenarios:
        return f"nothing is called {', '.join(arguments.only)}"
    return "" if arguments.command else "say -- and the command of the program"


def _test(arguments: argparse.Namespace, scenarios: list[Scenario]) -> int:
    """Meet the program, play all scenarios and print the report. Return the exit code."""
    listed = arguments.expected_failures
    expected = expected_failures(listed.read_text("utf-8")) if listed else []
    files = runner.files_in(arguments.files) if arguments.files else None
    subject = runner.meet(tuple(arguments.command), arguments.timeout, files)
    todo = tuple(runner.split(scenarios, _codecs(arguments.codec, subject)))
    with Progress(len(todo)) as progress:
        selection = runner.Selection(todo, arguments.timeout, arguments.jobs)
        outcomes = runner.run(subject, selection, progress.count)
    outcomes.sort(key=lambda outcome: runner.FEATURES.index(outcome.feature))
    known = [f"{codec}/{s.title}" for s in runner.all_scenarios() for codec in s.codecs]
    required = arguments.require or ["files" if files else "core"]
    verdict = judge(outcomes, required, expected, known)
    print(FORMATS[arguments.format](subject, verdict, has_colour(sys.stdout)))
    return verdict.exit_code


def _chosen(scenarios: list[Scenario], only: list[str]) -> list[Scenario]:
    return [s for s in scenarios if not only or s.feature in only or s.title in only]


def _codecs(asked: str | None, subject: Subject) -> tuple[str, ...]:
    if asked in CODECS:
        return (asked,)
    both = asked == "both" or subject.ready.codec == "msgpack"
    return CODECS if both else CODECS[:1]


def _nodes() -> str:
    """Return the section of the data's README about the program under test and its nodes."""
    text = (folder() / "README.md").read_text("utf-8")
    _, heading, rest = text.partition("## The nodes\n")
    return f"{heading}{rest.partition('## Features')[0]}".rstrip()


def _list(scenarios: list[Scenario]) -> int:
    width = max((len(scenario.title) for scenario in scenarios), default=0)
    for scenario in scenarios:
        print(f"{scenario.title:<{width}}  {scenario.doc}")
    return 0


class Progress:
    """
    The progress of a run, on stderr: on a terminal the scenarios done so far, and at the end the
    time that they took.
    """

    def __init__(self, total: int) -> None:
        self._total, self._done, self._failed = total, 0, 0
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._shows = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        seconds = time.monotonic() - self._begun
        clear = "\r\x1b[K" if self._shows else ""
        print(f"{clear}{self._done} scenarios in {seconds:.1f} s", file=sys.stderr)

    def count(self, outcome: Outcome) -> None:
        """Count one more scenario as done."""
        with self._lock:
            self._done += 1
            self._failed += outcome.result == "failed"
            if self._shows:
                line = f"{self._done}/{self._total}, {self._failed} failed: {outcome.title}"
                print(f"\r\x1b[K{line[:78]}", end="", file=sys.stderr, flush=True)
