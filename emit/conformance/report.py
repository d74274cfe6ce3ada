"""Write a verdict as text: for people, or as TAP, JUnit XML or JSON. No I/O here."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict
from xml.etree import ElementTree

from emit.conformance.runner import Feature, Outcome, Subject, Verdict
from emit.conformance.scenario import CODECS, shorten

__all__ = ["FORMATS", "failure"]

_MARKS = {"passed": "✔", "failed": "✘", "skipped": "-"}
#: Lines of stderr that are shown with a failure: enough for an error of Node with its stack.
_LINES = 16
_COLOURS = {"passed": "32", "failed": "31", "skipped": "2"}


def pretty(subject: Subject, verdict: Verdict, colour: bool) -> str:
    """Return a line for each feature with its failures below it, and the conclusion."""
    lines = [_introduction(subject), ""]
    for feature in verdict.features:
        lines.append(_feature_line(feature, colour))
        lines += _complaints(feature, verdict, colour)
    lines += ["", _counts(verdict), *_stale(verdict), _conclusion(verdict)]
    return "\n".join(lines)


def tap(subject: Subject, verdict: Verdict, colour: bool) -> str:
    """Return a report in the Test Anything Protocol, version 13."""
    outcomes = [outcome for feature in verdict.features for outcome in feature.outcomes]
    lines = ["TAP version 13", f"1..{len(outcomes)}"]
    for number, outcome in enumerate(outcomes, 1):
        mark = "not ok" if outcome.result == "failed" else "ok"
        lines.append(f"{mark} {number} - {outcome.title}{_directive(outcome, verdict)}")
        if outcome.result == "failed":
            lines += [f"# {line}" for line in failure(outcome)]
    return "\n".join([*lines, *(f"# {line}" for line in _stale(verdict))])


def junit(subject: Subject, verdict: Verdict, colour: bool) -> str:
    """Return a report in JUnit's XML, with a suite for each feature."""
    root = ElementTree.Element("testsuites", name=shlex.join(subject.command))
    for feature in verdict.features:
        failed = sum(o.result == "failed" and o not in verdict.expected for o in feature.outcomes)
        suite = ElementTree.SubElement(root, "testsuite", name=feature.name)
        suite.attrib |= {"tests": str(len(feature.outcomes)), "failures": str(failed)}
        suite.attrib["skipped"] = str(sum(o.result == "skipped" for o in feature.outcomes))
        for outcome in feature.outcomes:
            _testcase(suite, outcome, verdict)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")


def as_json(subject: Subject, verdict: Verdict, colour: bool) -> str:
    """Return everything as one JSON document."""
    document = {
        "command": list(subject.command),
        "sdk": subject.ready.sdk,
        "nodes": list(subject.ready.nodes),
        "ready_seconds": round(subject.seconds, 4),
        "required": list(verdict.required),
        "held": verdict.held,
        "failed": [outcome.title for outcome in verdict.failed],
        "expected": [outcome.title for outcome in verdict.expected],
        "stale": list(verdict.stale),
        "outcomes": [asdict(o) for feature in verdict.features for o in feature.outcomes],
    }
    return json.dumps(document, indent=1, ensure_ascii=False)


FORMATS: dict[str, Callable[[Subject, Verdict, bool], str]] = {
    "pretty": pretty,
    "tap": tap,
    "junit": junit,
    "json": as_json,
}


def failure(outcome: Outcome) -> Iterator[str]:
    """Yield a few lines that describe a failed outcome."""
    yield shorten(outcome.reason, 600)
    if outcome.sent and outcome.sent != "nothing":
        yield f"last sent: {outcome.sent}"
    if outcome.stderr.strip():
        # The last line need not be the error: Node ends with its version.
        lines = [line for line in outcome.stderr.splitlines() if line.strip()][-_LINES:]
        yield f"stderr ends: {shorten(lines[0])}"
        yield from (f"  {shorten(line)}" for line in lines[1:])


def _introduction(subject: Subject) -> str:
    sdk = shorten(subject.ready.sdk) or "no sdk named"
    return f"{shlex.join(subject.command)}: {sdk}, {len(subject.ready.nodes)} nodes"


def _feature_line(feature: Feature, colour: bool) -> str:
    result = "passed" if feature.holds else "failed"
    if not feature.holds and not any(o.result == "failed" for o in feature.outcomes):
        result = "skipped"
    line = f"{_mark(result, colour)} {feature.name:<12}"
    return (line + "".join(_in_codec(feature, codec) for codec in CODECS)).rstrip()


def _in_codec(feature: Feature, codec: str) -> str:
    mine = [outcome for outcome in feature.outcomes if outcome.codec == codec]
    passed = sum(outcome.result == "passed" for outcome in mine)
    return f" {codec} {f'{passed}/{len(mine)}':<6}" if mine else ""


def _complaints(feature: Feature, verdict: Verdict, colour: bool) -> Iterator[str]:
    for outcome in feature.outcomes:
        if outcome.result == "failed":
            known = " (expected to fail)" if outcome in verdict.expected else ""
            yield f"  {_mark('failed', colour)} {outcome.codec}: {outcome.name}{known}"
            yield from (f"      {line}" for line in failure(outcome))
    yield from _left_out(feature, colour)


def _left_out(feature: Feature, colour: bool) -> Iterator[str]:
    """Yield one line for each reason to skip, with the number of scenarios."""
    reasons: dict[str, int] = {}
    for outcome in feature.outcomes:
        if outcome.result == "skipped":
            reasons[outcome.reason] = reasons.get(outcome.reason, 0) + 1
    for reason, count in reasons.items():
        yield f"  {_mark('skipped', colour)} {count} left out: {reason}"


def _mark(result: str, colour: bool) -> str:
    mark = _MARKS[result]
    return f"\x1b[{_COLOURS[result]}m{mark}\x1b[0m" if colour else mark


def _counts(verdict: Verdict) -> str:
    known = f", {len(verdict.expected)} of them expected" * bool(verdict.expected)
    failed = f"{verdict.count('failed')} failed{known}"
    return f"{verdict.count('passed')} passed, {failed}, {verdict.count('skipped')} left out"


def _stale(verdict: Verdict) -> list[str]:
    return [f"not failing, take it off the expected failures: {title}" for title in verdict.stale]


def _conclusion(verdict: Verdict) -> str:
    lacking = [f.name for f in verdict.features if f.name in verdict.required and not f.holds]
    unmet = [name for name in lacking if any(o.feature == name for o in verdict.failed)]
    if unmet:
        return f"Does not conform: {', '.join(unmet)} required"
    return f"Conforms to emit-node/1: {', '.join(verdict.held)}"


def _directive(outcome: Outcome, verdict: Verdict) -> str:
    if outcome.result == "skipped":
        return f" # SKIP {outcome.reason}"
    return " # TODO expected to fail" if outcome in verdict.expected else ""


def _testcase(suite: ElementTree.Element, outcome: Outcome, verdict: Verdict) -> None:
    case = ElementTree.SubElement(suite, "testcase", name=outcome.name)
    case.attrib |= {"classname": f"{outcome.codec}.{outcome.feature}"}
    case.attrib["time"] = f"{outcome.seconds:.3f}"
    if outcome.result == "skipped" or outcome in verdict.expected:
        reason = outcome.reason if outcome.result == "skipped" else "expected to fail"
        ElementTree.SubElement(case, "skipped", message=reason)
    elif outcome.result == "failed":
        element = ElementTree.SubElement(case, "failure", message=shorten(outcome.reason, 600))
        element.text = "\n".join(failure(outcome))
