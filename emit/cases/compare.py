"""Compares results with those expected, and tells the differences to people. No I/O here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from emit.cases.format import Settings

#: Stands for a value that is not there.
ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "nothing"})()

#: A field that was hidden when it was recorded. Nobody knows what it was, so anything fits.
HIDDEN = "[hidden]"

#: Characters of a value that are shown.
_SHOWN = 200


class Difference(NamedTuple):
    """
    One place at which a result is not as expected.

    Attributes:
        path: The place, such as ``result 1 .letters[0]``.
        expected: The value there, or :data:`ABSENT`.
        actual: The same of the result.
    """

    path: str
    expected: Any
    actual: Any

    def __str__(self) -> str:
        if self.expected is ABSENT:
            return f"{self.path}: not expected: {shown(self.actual)}"
        if self.actual is ABSENT:
            return f"{self.path}: missing: {shown(self.expected)}"
        return f"{self.path}: expected {shown(self.expected)}, got {shown(self.actual)}"


def shown(value: Any) -> str:
    """Return a value as JSON, shortened; one that is not JSON by its repr."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"


def differences(
    expected: Sequence[Any],
    actual: Sequence[Any],
    settings: Settings = Settings(),  # noqa: B008
) -> list[Difference]:
    """
    Return the differences of two lists of results.

    Example:
        >>> for each in differences([{"n": 1, "at": 5}], [{"n": 2, "at": 9}], Settings(("at",))):
        ...     print(each)
        result 1 .n: expected 1, got 2
    """
    old, new = list(enumerate(expected, 1)), list(enumerate(actual, 1))
    if not settings.ordered:
        for item in list(old):
            match = next((one for one in new if not _differs(item[1], one[1], settings)), None)
            if match is not None:
                old.remove(item)
                new.remove(match)
    found: list[Difference] = []
    for at in range(max(len(old), len(new))):
        number, before = old[at] if at < len(old) else (new[at][0], ABSENT)
        after = new[at][1] if at < len(new) else ABSENT
        found += _compare(f"result {number}", before, after, settings)
    return found


def _differs(expected: Any, actual: Any, settings: Settings) -> bool:
    return any(True for _ in _compare("", expected, actual, settings))


def _compare(path: str, expected: Any, actual: Any, settings: Settings) -> Iterator[Difference]:
    if isinstance(expected, str) and expected == HIDDEN:
        return
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        for name in [*expected, *(name for name in actual if name not in expected)]:
            if name not in settings.ignore:
                before, after = expected.get(name, ABSENT), actual.get(name, ABSENT)
                yield from _compare(_field(path, name), before, after, settings)
    elif isinstance(expected, (list, tuple)) and isinstance(actual, (list, tuple)):
        for at in range(max(len(expected), len(actual))):
            before = expected[at] if at < len(expected) else ABSENT
            after = actual[at] if at < len(actual) else ABSENT
            yield from _compare(f"{path}[{at}]", before, after, settings)
    elif not _equal(expected, actual, settings.tolerance):
        yield Difference(path, expected, actual)


def _field(path: str, name: Any) -> str:
    is_word = isinstance(name, str) and name.isidentifier()
    dot = " ." if path.startswith("result") and path[-1].isdigit() else "."
    return f"{path}{dot}{name}" if is_word else f"{path}[{name!r}]"


def _equal(expected: Any, actual: Any, tolerance: float) -> bool:
    numbers = (int, float)
    if bool in (type(expected), type(actual)):
        return expected is actual
    if isinstance(expected, numbers) and isinstance(actual, numbers):
        if math.isnan(expected) or math.isnan(actual):
            return math.isnan(expected) and math.isnan(actual)
        if not tolerance:
            return type(expected) is type(actual) and expected == actual
        largest = max(abs(expected), abs(actual), 1.0)
        return expected == actual or abs(expected - actual) <= tolerance * largest
    return type(expected) is type(actual) and bool(expected == actual)
