"""
Play all scenarios, each against a fresh process, and judge the outcomes. The value vectors are
scenarios, too. By default, as many scenarios run at a time as there are processors.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from emit.conformance.scenario import CODECS, Scenario, folder, lacks, load
from emit.conformance.steps import Skip, play, scenarios, shake_hands, try_echo
from emit.conformance.talk import Fault, Overdue, Talk
from emit.errors import StartError
from emit.host.wire import frames

__all__ = [
    "FEATURES",
    "Feature",
    "Outcome",
    "Selection",
    "Subject",
    "Verdict",
    "all_scenarios",
    "expected_failures",
    "files_in",
    "judge",
    "meet",
    "run",
]

#: All features, in the order of a report: those that every program needs come first.
FEATURES = (
    *("core", "plain", "values", "kinds", "refusals", "stream", "stack", "cause", "native"),
    *("retry", "limits", "names", "exit", "broken", "deadline", "log", "context", "stdin"),
    *("cancel", "groups", "concurrency", "stop", "busy", "files"),
)

#: The file with which a launcher introduces itself.
_FIRST = "words"

#: Number of scenarios played at a time, among those that mostly wait.
_WAITING = 12

#: After this many waits in vain, wait only this many seconds for the program.
_OFTEN, _BRIEFLY = 4, 2.0


@dataclass(frozen=True)
class Subject:
    """
    The program under test, as it introduced itself.

    Attributes:
        command: The command that starts it.
        ready: Its answer to hello.
        seconds: Time from the start to that answer.
        flaw: The fault of its node ``echo``, on which most scenarios depend; empty if it works.
        files: If the program is a launcher: the files for it, by their names without suffix.
    """

    command: tuple[str, ...]
    ready: frames.Ready
    seconds: float
    flaw: str = ""
    files: Mapping[str, Path] = field(default_factory=dict)

    def start(self, scenario: Scenario) -> tuple[str, ...]:
        """Return the command for a scenario."""
        words = (str(self.files[scenario.file]), scenario.function) if scenario.file else ()
        return (*self.command, *filter(None, words))


@dataclass(frozen=True)
class Selection:
    """
    The scenarios to play, and how.

    Attributes:
        scenarios: The scenarios, each for one codec.
        patience: Seconds to wait for each expected frame or exit.
        jobs: Scenarios to play at a time; 0: as many as there are processors.
    """

    scenarios: tuple[Scenario, ...]
    patience: float = 10.0
    jobs: int = 0


def all_scenarios() -> list[Scenario]:
    """
    Return the scenarios of the files and of the value vectors, sorted by feature.

    Raises:
        FileNotFoundError, ValueError: The files do not exist, or are wrong.
    """
    place = folder()
    values = json.loads((place / "values.json").read_text("utf-8"))
    found = [*load(place), *scenarios(values)]
    return sorted(found, key=lambda scenario: FEATURES.index(scenario.feature))


def split(scenarios: Sequence[Scenario], codecs: Collection[str]) -> Iterator[Scenario]:
    """Yield a copy of each scenario for each of *codecs* that it is played in."""
    for codec in CODECS:
        for scenario in scenarios:
            if codec in codecs and codec in scenario.codecs:
                yield replace(scenario, codecs=(codec,))


def files_in(place: Path) -> dict[str, Path]:
    """
    Return the files for a launcher in a folder, by their names without suffix.

    Raises:
        ValueError: Two files have one name, or a file that the scenarios need is missing.
        OSError: The folder can't be read.
    """
    paths = sorted(path for path in place.resolve().iterdir() if path.is_file())
    found = {path.stem: path for path in paths}
    twice = sorted(stem for stem in found if sum(path.stem == stem for path in paths) > 1)
    lacking = sorted({one.file for one in all_scenarios() if one.file} - found.keys())
    if twice or lacking:
        what = f"has several files called {twice[0]}" if twice else f"lacks {', '.join(lacking)}"
        raise ValueError(f"{place} {what}; emit conformance --nodes lists the files")
    return found


def meet(
    command: tuple[str, ...], patience: float, files: Mapping[str, Path] | None = None
) -> Subject:
    """
    Start the program once, and return how it introduces itself.

    Args:
        command: The program, or a launcher.
        patience: Seconds to wait for an answer.
        files: The files for a launcher, by their names without suffix.

    Raises:
        StartError: The program cannot be started.
        Fault: The program does not answer hello with ready. The text has its stderr.
    """
    begun = time.monotonic()
    first = (str(files[_FIRST]),) if files else ()
    with Talk((*command, *first), "msgpack", patience=patience) as talk:
        try:
            ready = shake_hands(talk)
        except Fault as fault:
            raise Fault(f"{fault}\n{talk.errors}".strip()) from None
        seconds = time.monotonic() - begun
        flaw = try_echo(talk) if "echo" in ready.nodes else ""
        return Subject(command, ready, seconds, flaw, files or {})


def run(
    subject: Subject, selection: Selection, report: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """
    Play the selection, and return the outcomes in its order.

    After several waits in vain, all further waits are short: a hanging program must not delay the
    run for long.

    Args:
        report: Called with each outcome at once, in any thread.
    """
    overdue = 0

    def play(scenario: Scenario) -> Outcome:
        nonlocal overdue
        most = float("inf") if overdue < _OFTEN else _BRIEFLY
        outcome = play_one(subject, scenario, selection.patience, most)
        overdue += outcome.overdue
        report(outcome)
        return outcome

    jobs = selection.jobs or os.cpu_count() or 1
    with ThreadPoolExecutor(_WAITING) as waiting, ThreadPoolExecutor(jobs) as working:
        pools = [waiting if scenario.waits else working for scenario in selection.scenarios]
        try:
            futures = [p.submit(play, s) for p, s in zip(pools, selection.scenarios, strict=True)]
            return [future.result() for future in futures]
        except BaseException:  # an interrupt: start no more scenarios
            waiting.shutdown(wait=False, cancel_futures=True)
            working.shutdown(wait=False, cancel_futures=True)
            raise


def play_one(
    subject: Subject, scenario: Scenario, patience: float, most: float = float("inf")
) -> Outcome:
    """Play one scenario in its first codec, and return the outcome."""
    [codec, *_] = scenario.codecs
    about = Outcome(codec, scenario.feature, scenario.name, scenario.doc, "passed")
    reason = lacks(scenario, subject.ready.nodes, subject.ready.caps)
    if not reason and subject.flaw and "echo" in scenario.needs and scenario.name != "echo":
        reason = f"it needs echo, and {subject.flaw}"
    if reason:
        return replace(about, result="skipped", reason=reason)
    begun = time.monotonic()
    command = subject.start(scenario)
    talk = functools.partial(Talk, command, codec, patience=patience, most=most)
    found = _attempt(scenario, talk, about)
    return replace(found, seconds=time.monotonic() - begun)


def _attempt(scenario: Scenario, start: Callable[..., Talk], about: Outcome) -> Outcome:
    try:
        talk = start(max_frame=scenario.max_frame, env=scenario.env, wrapped=scenario.wrapped)
    except StartError as error:
        return replace(about, result="failed", reason=str(error))
    with talk:
        try:
            play(scenario, talk)
        except Skip as skip:
            return replace(about, result="skipped", reason=str(skip))
        except Fault as fault:
            reason = "; ".join(filter(None, [str(fault), scenario.hint]))
            failed = replace(about, result="failed", reason=reason, sent=talk.sent)
            overdue = isinstance(fault, Overdue)
            return replace(failed, stderr=talk.errors, overdue=overdue)
    return about


# -- Outcomes and the verdict. No I/O here ---------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """
    The outcome of one scenario in one codec.

    Attributes:
        result: ``passed``, ``failed`` or ``skipped``.
        reason: Why it failed or was skipped: what was sent, expected and got.
        sent: The last data sent to the program, if the scenario failed.
        stderr: The end of the program's stderr, if the scenario failed.
        seconds: Duration.
        overdue: True if it failed because something did not come in time.
    """

    codec: str
    feature: str
    name: str
    doc: str
    result: str
    reason: str = ""
    sent: str = ""
    stderr: str = ""
    seconds: float = 0.0
    overdue: bool = False

    @property
    def title(self) -> str:
        """The outcome's name in a list of expected failures."""
        return f"{self.codec}/{self.feature}/{self.name}"


@dataclass(frozen=True)
class Feature:
    """All outcomes of a feature, in all codecs."""

    name: str
    outcomes: tuple[Outcome, ...]

    @property
    def holds(self) -> bool:
        """True if each of its scenarios was played and passed."""
        return all(outcome.result == "passed" for outcome in self.outcomes)


@dataclass(frozen=True)
class Verdict:
    """
    The result of a run.

    Attributes:
        features: All features, in the order of the report.
        required: Names of the features that decide the exit code.
        failed: Failed or skipped scenarios of required features, except for expected failures.
        expected: Expected failures that did fail.
        stale: Titles of expected failures that passed, or that no scenario has.
    """

    features: tuple[Feature, ...]
    required: tuple[str, ...]
    failed: tuple[Outcome, ...]
    expected: tuple[Outcome, ...]
    stale: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return 1 if self.failed or self.stale else 0

    @property
    def held(self) -> list[str]:
        """The names of the features in which every scenario passed."""
        return [feature.name for feature in self.features if feature.holds]

    def count(self, result: str) -> int:
        outcomes = (outcome for feature in self.features for outcome in feature.outcomes)
        return sum(outcome.result == result for outcome in outcomes)


def judge(
    outcomes: Sequence[Outcome],
    required: Collection[str],
    expected: Collection[str] = (),
    known: Collection[str] = (),
) -> Verdict:
    """
    Judge the outcomes of a run.

    Args:
        outcomes: The outcomes of all scenarios that were played.
        required: Names of features; ``all`` stands for every feature.
        expected: Titles of outcomes that are expected to fail.
        known: Titles of all scenarios, even if only some were played.
    """
    features = _by_feature(outcomes)
    names = [f.name for f in features if f.name in required or "all" in required]
    wrong = [o for o in outcomes if o.result == "failed" and o.title not in expected]
    skipped = [o for o in outcomes if o.result == "skipped" and o.title not in expected]
    passed = {outcome.title for outcome in outcomes if outcome.result == "passed"}
    titles = {*known, *(outcome.title for outcome in outcomes)}
    return Verdict(
        features=tuple(features),
        required=tuple(names),
        failed=tuple(o for o in [*wrong, *skipped] if o.feature in names),
        expected=tuple(o for o in outcomes if o.result == "failed" and o.title in expected),
        stale=tuple(title for title in expected if title in passed or title not in titles),
    )


def expected_failures(text: str) -> list[str]:
    """Return the titles in a list of expected failures: one per line, ``#`` begins a comment."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def _by_feature(outcomes: Iterable[Outcome]) -> list[Feature]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.feature, []).append(outcome)
    return [Feature(name, tuple(mine)) for name, mine in found.items()]
