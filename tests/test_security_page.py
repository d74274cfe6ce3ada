"""docs/security.md says what is so: the variables that pass, and every limit with its default."""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from emit import ShellNode
from emit.dead import DeadLetters
from emit.host import lines, status
from emit.host.settings import Settings
from emit.host.shared import server
from emit.host.system.program import DEFAULT, Limits
from emit.host.wire import values
from emit.router import envelope
from emit.router.delivery import LONGEST_WAIT, Policy
from emit.text import LINES, MOST
from tests.hosts import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
LETTERS = inspect.signature(DeadLetters).parameters


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_the_variables_that_pass() -> None:
    """The table has the whole allow-list, and nothing else."""
    names = re.findall(
        r"`([^`]+)`", "".join(row[1] for row in rows(section("Which variables a program sees")))
    )
    assert sorted(names) == sorted(DEFAULT)
    assert len(set(names)) == len(names)
    assert ShellNode.pass_env == DEFAULT


#: The limits that no setting changes, and where the code has them.
FIXED: dict[str, list[Any]] = {
    "levels of lists and maps": [values.MAX_DEPTH],
    "members of lists and maps in a frame": [values.MAX_ITEMS],
    "characters of an error's message, of a stack, of a log's text": [MOST],
    "lines of a stack or of a log's text": [LINES],
    "bytes of a line of stderr; of the end of stderr that is kept": [lines.LINE],
    "seconds that a message waits in a queue for that": [LONGEST_WAIT],
    "causes that travel with a message through a queue": [envelope.KEPT],
    "bytes of a question to the status socket; seconds for it": [
        status._QUESTION,
        status.PATIENCE,
    ],
    "clients of a shared host, if its limit of open files allows": [server.MOST_CLIENTS],
}


@pytest.mark.parametrize("row", rows(section("What is bounded")), ids=lambda row: row[0])
def test_a_limit(row: list[str]) -> None:
    """Each row has the default that the code has."""
    what, limit, setting = row
    shown = [type_of(text) for text in re.findall(r"`([^`]+)`", limit)]
    if what in FIXED:
        assert (shown, setting) == (FIXED[what], "")
    elif setting == "`DeadLetters(max=, ttl=)`":
        assert shown == [LETTERS["max"].default, LETTERS["ttl"].default]
    elif setting == "`limits`":
        assert shown == [Limits().core if "core" in what else Limits().nofile]
    elif setting == "`max_deliveries`":
        assert shown == [Policy().max_deliveries]
    else:
        assert shown == [getattr(Settings, setting.strip("`"))]


def type_of(text: str) -> float:
    return float(text) if "." in text else int(text)


def test_the_tail_is_as_long_as_a_line() -> None:
    """They share a row."""
    assert lines.TAIL == lines.LINE


def test_every_bound_of_a_node_is_told() -> None:
    """Each setting that bounds something by default is in the table."""
    told = {row[2].strip("`") for row in rows(section("What is bounded"))}
    bounding = {name for name in Settings.__dataclass_fields__ if name.startswith("max_")}
    by_default = {name for name in bounding if getattr(Settings, name) is not None}
    assert by_default <= told


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_the_list_is_no_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program can read what its user can, its host's environment too, as the page warns."""
    code = "open(f'/proc/{os.getppid()}/environ').read().partition('PATH=')[1]"
    program = f"import os; print(repr({code}).replace(chr(39), chr(34)))"

    class Reads(ShellNode):
        command = (sys.executable, "-c", program)

    assert "PATH=" in Path(f"/proc/{os.getpid()}/environ").read_text("utf-8", "replace")
    assert list(Reads()({})) == ["PATH="]


def test_the_page_is_linked() -> None:
    """The first pages link to it, and SECURITY.md tells where to report."""
    for page in ("README.md", "SECURITY.md"):
        assert "](docs/security.md)" in (ROOT / page).read_text("utf-8")
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    assert "](security.md)" in index
    assert "\nsecurity\n" in index
    report = (ROOT / "SECURITY.md").read_text("utf-8")
    assert "/security/advisories/new" in report
