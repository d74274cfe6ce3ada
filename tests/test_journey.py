"""A message's way through both halves, held against the table in docs/architecture.md."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
ROWS = re.findall(r"^\| \d+ \| `emit/([\w/]+)\.py` `(\w+)\.(\w+)` \|", PAGE, re.MULTILINE)
ECHO = "import emit_sdk; emit_sdk.serve(lambda msg: msg.word)"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the table's functions as they are called, a call's repeats left out."""
    calls: list[str] = []
    for module, class_name, name in ROWS:
        owner = getattr(import_module("emit." + module.replace("/", ".")), class_name)
        monkeypatch.setattr(
            owner, name, noting(getattr(owner, name), f"{class_name}.{name}", calls)
        )
    return calls


def noting(function: Callable[..., Any], label: str, calls: list[str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def noted(*args: Any, **kwargs: Any) -> Any:
        calls.append(label)
        return function(*args, **kwargs)

    return noted


def test_way(seen: list[str]) -> None:
    """One message passes every row of the table, in its order, and its result arrives."""
    router = Router()
    arrived: list[str] = []

    class Echo(ShellNode):
        command = (sys.executable, "-c", ECHO)
        env = {"PYTHONPATH": str(ROOT / "sdks" / "python")}  # noqa: RUF012
        mode = "persistent"

    router.node(("word",), entry_point=True, name="echo")(Echo)
    router.node((), "echo", name="sink")(lambda msg: arrived.append(msg.word))
    with router:
        router(word="warm")  # starts the process, so that its handshake is not in the way
        seen.clear()
        router(word="rain")
    assert arrived == ["warm", "rain"]
    way = [f"{class_name}.{name}" for _, class_name, name in ROWS]
    assert list(in_order(seen, way)) == way


def in_order(seen: list[str], way: list[str]) -> Iterator[str]:
    """Those of *way* that *seen* has, each looked for after the one before it."""
    rest = iter(seen)
    for label in way:
        if label in rest:
            yield label
