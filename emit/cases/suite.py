"""The outcomes of tests, and reports of them: TAP, JUnit XML or JSON. No I/O here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal
from xml.etree import ElementTree

__all__ = ["FORMATS", "Finding", "junit", "summary", "tap"]

Verdict = Literal["passed", "failed", "skipped"]

FORMATS = ("pretty", "tap", "junit", "json")

#: Characters that XML can't have.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Finding:
    """
    The outcome of one test.

    Attributes:
        suite: The file that it is from.
        name: Its name in the file.
        verdict: How it ended.
        seconds: How long it took.
        lines: Why it failed or was skipped.
    """

    suite: str
    name: str
    verdict: Verdict
    seconds: float = 0.0
    lines: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.suite}: {self.name}" if self.name else self.suite


def summary(each: Sequence[Finding], seconds: float) -> str:
    """
    Example:
        >>> summary([Finding("a.ndjson", "line 2", "passed")], 0.25)
        '1 passed in 0.2 s'
    """
    counts = ((kind, sum(one.verdict == kind for one in each)) for kind in _KINDS)
    said = ", ".join(f"{count} {kind}" for kind, count in counts if count)
    return f"{said or 'no tests'} in {seconds:.1f} s"


_KINDS: tuple[Verdict, ...] = ("failed", "passed", "skipped")


def tap(each: Sequence[Finding]) -> str:
    """Return a report in the Test Anything Protocol, version 13."""
    lines = ["TAP version 13", f"1..{len(each)}"]
    for number, one in enumerate(each, 1):
        mark = "not ok" if one.verdict == "failed" else "ok"
        title = one.title.replace("#", "")
        why = f" # SKIP {' '.join(one.lines)}" if one.verdict == "skipped" else ""
        lines.append(f"{mark} {number} - {title}{why}")
        if one.verdict == "failed":
            lines += [f"# {line}" for line in one.lines]
    return "\n".join(lines)


def junit(each: Sequence[Finding]) -> str:
    """Return a report in JUnit's XML, with a suite for each file."""
    root = ElementTree.Element("testsuites", name="emit test")
    for name, tests in _by_suite(each):
        suite = ElementTree.SubElement(root, "testsuite", name=name)
        suite.attrib |= {
            "tests": str(len(tests)),
            "failures": str(sum(one.verdict == "failed" for one in tests)),
            "skipped": str(sum(one.verdict == "skipped" for one in tests)),
            "time": f"{sum(one.seconds for one in tests):.3f}",
        }
        for one in tests:
            case = ElementTree.SubElement(suite, "testcase", classname=name)
            case.attrib |= {"name": _xml(one.name or name), "time": f"{one.seconds:.3f}"}
            if one.verdict != "passed":
                kind = "failure" if one.verdict == "failed" else "skipped"
                told = ElementTree.SubElement(case, kind, message=_xml("".join(one.lines[:1])))
                told.text = _xml("\n".join(one.lines))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")


def as_json(each: Iterable[Finding]) -> str:
    """Return each outcome as a line of JSON."""
    return "\n".join(json.dumps(asdict(one), ensure_ascii=False) for one in each)


def _by_suite(each: Iterable[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    suites: dict[str, list[Finding]] = {}
    for one in each:
        suites.setdefault(one.suite, []).append(one)
    yield from suites.items()


def _xml(text: str) -> str:
    return _CONTROL.sub("\ufffd", text)
