"""Scenarios: read their files, find those that a program can play, and compare their values."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from emit import share

__all__ = [
    "CODECS",
    "Scenario",
    "build",
    "difference",
    "folder",
    "lacks",
    "load",
    "read",
    "shorten",
    "unequal",
]

#: The codecs, in the order of a report.
CODECS = ("json", "msgpack")

#: Each step has one of these keys, which names what it does.
VERBS = {
    *("send", "write", "hello", "close", "signal", "orphan", "vectors"),
    *("ready", "failure", "end", "err", "answer", "out", "pong", "log", "order", "framed"),
    *("exit", "quiet", "lines", "packed", "finish", "stderr", "over", "only", "apart"),
}


@dataclass(frozen=True)
class Scenario:
    """
    One conversation with a fresh process.

    Attributes:
        feature: The feature that it tests.
        name: Its name, unique within the feature.
        doc: The behaviour of a right program.
        steps: Its steps; see tests/conformance/README.md.
        rules: Words of PROTOCOL.md that it tests.
        hint: Advice for a failure.
        needs: Nodes that the program must have. `read` adds those that the steps call.
        env: Environment variables for the process.
        hello: True to make the handshake before the steps; False if a step says hello.
        plain: True if there are no frames at all, as in a run by hand.
        config: The config of hello.
        max_frame: The max_frame of hello.
        caps: Capabilities that `ready` must have in its caps.
        concurrency: The concurrency that `ready` must announce; 0: any.
        codecs: The codecs to play it in.
        waits: True if it spends seconds doing nothing. More of these are played at the same time.
        wrapped: True to start the process by way of a shell, which `orphan` kills.
        file: The file, by its name without suffix, for which a launcher is started; empty if it
            tests a program.
        function: The function of that file that the launcher gets; empty for none.
    """

    feature: str
    name: str
    doc: str
    steps: tuple[dict[str, Any], ...]
    rules: tuple[str, ...] = ()
    hint: str = ""
    needs: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    hello: bool = True
    plain: bool = False
    config: dict[str, Any] | None = None
    max_frame: int = 2**24 - 1
    caps: tuple[str, ...] = ()
    concurrency: int = 0
    codecs: tuple[str, ...] = CODECS
    waits: bool = False
    wrapped: bool = False
    file: str = ""
    function: str = ""

    @property
    def title(self) -> str:
        return f"{self.feature}/{self.name}"


def folder() -> Path:
    """
    Return the folder of the data: in the wheel, else in the checkout.

    Raises:
        FileNotFoundError: The folder is in neither.
    """
    try:
        return share.find("conformance")
    except FileNotFoundError:
        return share.find("tests/conformance")


def load(place: Path) -> list[Scenario]:
    """Return the scenarios of every file in *place*/scenarios, in the order of the file names."""
    found: list[Scenario] = []
    for path in sorted((place / "scenarios").glob("*.json")):
        found.extend(read(json.loads(path.read_text("utf-8")), path.name))
    return found


def read(data: dict[str, Any], source: str) -> Iterator[Scenario]:
    """
    Yield the scenarios of one file.

    Raises:
        ValueError: A key is unknown or missing. The text names the file.
    """
    for number, given in enumerate(data["scenarios"], 1):
        try:
            yield _scenario({"feature": data["feature"], **given})
        except (TypeError, ValueError) as error:
            name = given.get("name", f"number {number}")
            raise ValueError(f"{source}: {name}: {error}") from None


def lacks(scenario: Scenario, nodes: Collection[str], caps: Collection[str]) -> str:
    """Return why a program with these nodes and caps can't play a scenario; empty if it can."""
    if scenario.needs and not nodes:
        return "its ready lists no nodes"
    for name in scenario.needs:
        if name not in nodes:
            return f"it has no node {name}"
    for name in scenario.caps:
        if name not in caps:
            return f"its caps lack {name}"
    return ""


def _scenario(given: dict[str, Any]) -> Scenario:
    values = {name: _frozen(value) for name, value in given.items()}
    unknown = set(values) - {field.name for field in fields(Scenario)}
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    scenario = Scenario(**values)
    for step in scenario.steps:
        if len(VERBS & step.keys()) != 1:
            raise ValueError(f"not one thing to do in {step}")
    return replace(scenario, needs=_needed(scenario))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _needed(scenario: Scenario) -> tuple[str, ...]:
    """Return the nodes that a scenario needs or calls, except for the one meant to be missing."""
    if scenario.file:
        return ()  # a launcher serves the file's only node under any name
    called = [frame.get("node") for step in scenario.steps for frame in _frames(step)]
    plain = [scenario.env.get("EMIT_NODE")]
    names = dict.fromkeys([*scenario.needs, *called, *plain])
    return tuple(name for name in names if name and name != "nowhere")


def _frames(step: dict[str, Any]) -> list[dict[str, Any]]:
    sent = step.get("send", [])
    frames = sent if isinstance(sent, list) else [sent]
    return [frame.get("$each", [0, 0, frame])[2] for frame in frames]


# -- Values in scenarios. No I/O here --------------------------------------------------------------

# A map with one key that begins with $ (a "word") stands for a value that JSON can't hold.
#
# Words in sent and in expected values: ``{"$repeat": ["x", 5000000]}`` a long text,
# ``{"$list": [0, 1000]}`` a list of 1000 zeros, ``{"$range": [0, 9]}`` numbers, ``{"$nest": 127}``
# lists in lists, ``{"$float": "nan"}``, ``{"$bytes": "00ff"}``, ``{"$time": "..."}``.
#
# Words in expected values only: ``{"$any": true}``, ``{"$contains": "text"}``,
# ``{"$between": [1, 4]}``, ``{"$starts": [...]}`` the first items of a list, ``{"$has": {...}}``
# some fields of a map, ``{"$or": [...]}``, and ``{"$exactly": value}``, in which nothing is a word.
#
# Any other value stands for itself, and its type counts.

_Compare = Callable[[Any, Any, str], str]


def build(value: Any) -> Any:
    """
    Return the value that a template stands for.

    Raises:
        ValueError: An unknown ``$`` word.

    Example:
        >>> build([{"$repeat": ["ab", 2]}, {"$nest": 2}])
        ['abab', [[]]]
    """
    if isinstance(value, list):
        return [build(item) for item in value]
    if not isinstance(value, dict):
        return value
    word = _word(value)
    if word in _BUILDERS:
        return _BUILDERS[word](value[word])
    if word in _MATCHERS:
        return value
    if word:
        raise ValueError(f"unknown word {word!r} in a template")
    return {key: build(item) for key, item in value.items()}


def difference(want: Any, got: Any, where: str = "") -> str:
    """
    Return where and how *got* differs from the template *want*; empty if it does not.

    Numbers are compared exactly: 3 is not 3.0, 0.0 is not -0.0, and NaN is NaN. But a float
    without a fraction may come as that integer, since some languages have one type of number.

    Example:
        >>> difference({"$between": [1, 4]}, 3), difference([1, "a"], [1, "b"])
        ('', '[1]: expected "a", got "b"')
    """
    word = _word(want) if isinstance(want, dict) else ""
    if word in _MATCHERS:
        return _MATCHERS[word](want[word], got, where)
    if word:
        return unequal(build(want), got, where)
    if isinstance(want, dict):
        return _map(want, got, where, difference)
    if isinstance(want, list):
        return _list(want, got, where, difference)
    return unequal(want, got, where)


def unequal(want: Any, got: Any, where: str = "") -> str:
    """Compare like `difference`, but take *want* as a value: nothing in it is a word."""
    if isinstance(want, dict):
        return _map(want, got, where, unequal)
    if isinstance(want, list):
        return _list(want, got, where, unequal)
    return "" if _same(want, got) else _unlike(want, got, where)


def shorten(value: Any, most: int = 160) -> str:
    """Return one line of about *most* characters, without bytes that control a terminal."""
    text = value if isinstance(value, str) else _one_line(_trimmed(value))
    text = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def _trimmed(value: Any, most: int = 200) -> Any:
    # Trim before making a text: a million zeros take a second.
    if isinstance(value, (list, tuple)):
        return [_trimmed(item) for item in value[:most]]
    if isinstance(value, Mapping):
        return {key: _trimmed(item) for key, item in list(value.items())[:most]}
    return value


def _one_line(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=repr)
    except (ValueError, RecursionError):
        return repr(value)


def _word(value: Mapping[str, Any]) -> str:
    [*words] = value
    return words[0] if len(words) == 1 and words[0].startswith("$") else ""


def _nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


_BUILDERS: dict[str, Callable[[Any], Any]] = {
    "$repeat": lambda given: given[0] * given[1],
    "$list": lambda given: [given[0]] * given[1],
    "$range": lambda given: list(range(given[0], given[1] + 1)),
    "$nest": _nested,
    "$float": float,
    "$bytes": bytes.fromhex,
    "$time": datetime.fromisoformat,
}


def _same(want: Any, got: Any) -> bool:
    if type(want) is float and type(got) is int:
        return want == got and (got != 0 or math.copysign(1, want) > 0)
    if type(want) is not type(got):
        return False
    if type(want) is float:
        signs = math.copysign(1, want) == math.copysign(1, got)
        return (want == got and signs) or (math.isnan(want) and math.isnan(got))
    return bool(want == got)


def _unlike(want: Any, got: Any, where: str) -> str:
    return f"{where or 'it'}: expected {_shown(want)}, got {_shown(got)}"


def _shown(value: Any) -> str:
    """Shorten a value like `shorten`, but quote a text: "1" is not 1."""
    return shorten(_one_line(value) if isinstance(value, str) else value)


def _map(want: dict[str, Any], got: Any, where: str, compare: _Compare) -> str:
    if not isinstance(got, dict) or set(want) != set(got):
        return _unlike(want, got, where)
    return _fields(want, got, where, compare)


def _fields(want: dict[str, Any], got: Any, where: str, compare: _Compare) -> str:
    if not isinstance(got, Mapping):
        return _unlike(want, got, where)
    found = (compare(item, got.get(key), f"{where}.{key}") for key, item in want.items())
    return next(filter(None, found), "")


def _list(want: list[Any], got: Any, where: str, compare: _Compare) -> str:
    if not isinstance(got, (list, tuple)) or len(want) != len(got):
        return _unlike(want, got, where)
    if {*map(type, want), *map(type, got)} in ({int}, {str}) and want == list(got):
        return ""  # the quick way: a million items in less than a second
    return _items(want, got, where, compare)


def _items(want: list[Any], got: Any, where: str, compare: _Compare) -> str:
    if not isinstance(got, (list, tuple)) or len(got) < len(want):
        return _unlike(want, got, where)
    pairs = zip(want, got, strict=False)
    found = (compare(w, g, f"{where}[{at}]") for at, (w, g) in enumerate(pairs))
    return next(filter(None, found), "")


def _something(want: Any, got: Any, where: str) -> str:
    return "" if got is not None else f"{where or 'it'}: expected something, got null"


def _contains(want: str, got: Any, where: str) -> str:
    if isinstance(got, str) and want in got:
        return ""
    return f"{where or 'it'}: expected a text with {shorten(want)} in it, got {_shown(got)}"


def _between(want: list[float], got: Any, where: str) -> str:
    if type(got) in (int, float) and want[0] <= got <= want[1]:
        return ""
    return f"{where or 'it'}: expected a number from {want[0]} to {want[1]}, got {_shown(got)}"


def _either(want: list[Any], got: Any, where: str) -> str:
    found = [difference(one, got, where) for one in want]
    return "" if "" in found else " or ".join(found)


_MATCHERS: dict[str, Callable[[Any, Any, str], str]] = {
    "$any": _something,
    "$contains": _contains,
    "$between": _between,
    "$starts": lambda want, got, where: _items(want, got, where, difference),
    "$has": lambda want, got, where: _fields(want, got, where, difference),
    "$or": _either,
    "$exactly": unequal,
}
