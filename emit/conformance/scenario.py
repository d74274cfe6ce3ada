"""Scenarios: what they are, reading their files, and which a program can play."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from emit import share

__all__ = ["CODECS", "Scenario", "folder", "lacks", "load", "read"]

#: The codecs, in the order of a report.
CODECS = ("json", "msgpack")

#: Keys of which one says what a step does.
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
        feature: What it is part of.
        name: Unique within the feature.
        doc: What a right program does.
        steps: What happens; see tests/conformance/README.md.
        rules: Words of PROTOCOL.md that it tests.
        hint: What to look at if it fails.
        needs: Nodes that the program must have. `read` adds those that the steps call.
        env: Variables of the environment.
        hello: Whether the handshake is made before the steps; False: they say hello themselves.
        plain: Whether there are no frames at all: a run by hand.
        config: The config of hello.
        max_frame: That of hello.
        caps: What `ready` must have in its caps.
        concurrency: What it must announce; 0: any.
        codecs: Those that it is played in.
        waits: Whether it spends seconds doing nothing: such ones are played at the same time.
        wrapped: Whether the process is started by another, which `orphan` kills.
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

    @property
    def title(self) -> str:
        return f"{self.feature}/{self.name}"


def folder() -> Path:
    """
    Where the data is: in the wheel, or else in the checkout.

    Raises:
        FileNotFoundError: In neither.
    """
    try:
        return share.find("conformance")
    except FileNotFoundError:
        return share.find("tests/conformance")


def load(place: Path) -> list[Scenario]:
    """The scenarios of every file in *place*/scenarios, by the names of the files."""
    found: list[Scenario] = []
    for path in sorted((place / "scenarios").glob("*.json")):
        found.extend(read(json.loads(path.read_text("utf-8")), path.name))
    return found


def read(data: dict[str, Any], source: str) -> Iterator[Scenario]:
    """
    The scenarios of one file.

    Raises:
        ValueError: Something in it is unknown, or missing. The text names the file.
    """
    for number, given in enumerate(data["scenarios"], 1):
        try:
            yield _scenario({"feature": data["feature"], **given})
        except (TypeError, ValueError) as error:
            name = given.get("name", f"number {number}")
            raise ValueError(f"{source}: {name}: {error}") from None


def lacks(scenario: Scenario, nodes: Collection[str], caps: Collection[str]) -> str:
    """Why a program with these nodes and caps cannot play it; empty when it can."""
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
    """Those it names itself, then each node that it calls and that is not meant to be missing."""
    called = [frame.get("node") for step in scenario.steps for frame in _frames(step)]
    plain = [scenario.env.get("EMIT_NODE")]
    names = dict.fromkeys([*scenario.needs, *called, *plain])
    return tuple(name for name in names if name and name != "nowhere")


def _frames(step: dict[str, Any]) -> list[dict[str, Any]]:
    sent = step.get("send", [])
    frames = sent if isinstance(sent, list) else [sent]
    return [frame.get("$each", [0, 0, frame])[2] for frame in frames]
