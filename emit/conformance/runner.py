"""All scenarios, each in a fresh process: as many at a time as there are processors."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from emit.conformance import vectors
from emit.conformance.listener import Fault
from emit.conformance.scenario import CODECS, Scenario, folder, lacks, load
from emit.conformance.steps import Skip, play, shake_hands
from emit.conformance.talk import Talk
from emit.conformance.verdict import Outcome
from emit.errors import StartError
from emit.host import frames

__all__ = ["FEATURES", "Plan", "Subject", "all_scenarios", "meet", "run"]

#: The order of a report: what everybody needs comes first.
FEATURES = (
    *("core", "plain", "values", "kinds", "refusals", "stream", "stack", "cause", "native"),
    *("retry", "limits", "log", "context", "stdin", "cancel", "concurrency", "stop", "busy"),
)

#: How many of the scenarios that only wait are played at a time.
_WAITING = 12


@dataclass(frozen=True)
class Subject:
    """
    The program under test, as it introduced itself.

    Attributes:
        command: How it is started.
        ready: What it answered to hello.
        seconds: What that took.
    """

    command: tuple[str, ...]
    ready: frames.Ready
    seconds: float


@dataclass(frozen=True)
class Plan:
    """
    What to play.

    Attributes:
        scenarios: Which ones, each for one codec.
        patience: Seconds to wait for each thing that is expected.
        jobs: How many to play at a time.
    """

    scenarios: tuple[Scenario, ...]
    patience: float = 10.0
    jobs: int = 0


def all_scenarios() -> list[Scenario]:
    """
    Those of the files and those of the value vectors, by feature.

    Raises:
        FileNotFoundError, ValueError: The files are not there, or something in them is wrong.
    """
    place = folder()
    values = json.loads((place / "values.json").read_text("utf-8"))
    found = [*load(place), *vectors.scenarios(values)]
    return sorted(found, key=lambda scenario: FEATURES.index(scenario.feature))


def split(scenarios: Sequence[Scenario], codecs: Collection[str]) -> Iterator[Scenario]:
    """One for each of *codecs* that a scenario is played in."""
    for codec in CODECS:
        for scenario in scenarios:
            if codec in codecs and codec in scenario.codecs:
                yield replace(scenario, codecs=(codec,))


def meet(command: tuple[str, ...], patience: float) -> Subject:
    """
    Start the program once, to see what it can do.

    Raises:
        StartError: It cannot be started.
        Fault: It does not answer hello with ready. Its standard error is in the text.
    """
    begun = time.monotonic()
    with Talk(command, "msgpack", patience=patience) as talk:
        try:
            ready = shake_hands(talk)
        except Fault as fault:
            raise Fault(f"{fault}\n{talk.errors}".strip()) from None
        return Subject(command, ready, time.monotonic() - begun)


def run(
    subject: Subject, plan: Plan, report: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """
    Play the plan.

    Args:
        report: Called with each outcome as it comes, by any thread.

    Returns:
        The outcomes, in the order of the plan.
    """
    jobs = plan.jobs or os.cpu_count() or 1
    with ThreadPoolExecutor(_WAITING) as waiting, ThreadPoolExecutor(jobs) as working:
        futures: list[Future[Outcome]] = []
        for scenario in plan.scenarios:
            pool = waiting if scenario.waits else working
            futures.append(pool.submit(_play, subject, scenario, plan.patience, report))
        return [future.result() for future in futures]


def _play(
    subject: Subject, scenario: Scenario, patience: float, report: Callable[[Outcome], None]
) -> Outcome:
    outcome = play_one(subject, scenario, patience)
    report(outcome)
    return outcome


def play_one(subject: Subject, scenario: Scenario, patience: float) -> Outcome:
    """Play one scenario, in its first codec."""
    [codec, *_] = scenario.codecs
    about = Outcome(codec, scenario.feature, scenario.name, scenario.doc, "passed")
    if reason := lacks(scenario, subject.ready.nodes, subject.ready.caps):
        return replace(about, result="skipped", reason=reason)
    begun = time.monotonic()
    found = _attempt(subject, scenario, codec, patience, about)
    return replace(found, seconds=time.monotonic() - begun)


def _attempt(
    subject: Subject, scenario: Scenario, codec: str, patience: float, about: Outcome
) -> Outcome:
    try:
        talk = Talk(
            subject.command,
            codec,
            patience=patience,
            max_frame=scenario.max_frame,
            env=scenario.env,
            wrapped=scenario.wrapped,
        )
    except StartError as error:
        return replace(about, result="failed", reason=str(error))
    with talk:
        try:
            play(scenario, talk)
        except Skip as skip:
            return replace(about, result="skipped", reason=str(skip))
        except Fault as fault:
            failed = replace(about, result="failed", reason=str(fault), sent=talk.sent)
            return replace(failed, stderr=talk.errors)
    return about
