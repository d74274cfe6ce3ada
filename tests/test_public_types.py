"""mypy and pyright accept what is right, find what is wrong, and know every option."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import typing
from collections import defaultdict
from pathlib import Path

import pytest

from emit.host.settings import Settings
from emit.multilang import ShellNode
from emit.router.options import CELERY, OPTIONS, QUEUED, RQ
from emit.typing import NodeOptions
from tests.conftest import require
from tests.hosts import ROOT

HERE = ROOT / "tests" / "public_types"

#: The folders of the examples that have Python.
EXAMPLES = sorted({path.parent for path in ROOT.glob("examples/*/*.py")})


def run(*command: str, cwd: Path) -> str:
    """Return what a checker prints. Its exit code only says if it has found something."""
    env = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def of_mypy(cache: Path, folder: Path, *files: str) -> dict[str, dict[int, str]]:
    """Return mypy's errors, by file and line."""
    config = ("--config-file", str(HERE / "mypy.ini"), "--cache-dir", str(cache))
    found: dict[str, dict[int, str]] = defaultdict(dict)
    printed = run("mypy", *config, *files, cwd=folder)
    assert "checked" in printed or "no issues found" in printed, printed
    for file, line, text in re.findall(r"^(\S+):(\d+): error: (.+)$", printed, re.MULTILINE):
        found[file][int(line)] = text
    return found


def of_pyright(*files: Path) -> dict[str, dict[int, str]]:
    """Return pyright's errors, by file and line."""
    require("node")
    told = json.loads(run("pyright", "--outputjson", *map(str, files), cwd=HERE))
    assert told["summary"]["filesAnalyzed"] >= len(files), told
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for error in told["generalDiagnostics"]:
        line = error["range"]["start"]["line"] + 1
        found[Path(error["file"]).name][line] = error["message"]
    return found


def expected() -> list[int]:
    lines = (HERE / "wrong.py").read_text().splitlines()
    return [number for number, line in enumerate(lines, 1) if line.endswith("  # wrong")]


@pytest.mark.slow
def test_mypy(tmp_path: Path) -> None:
    """
    mypy --strict accepts each right use and the examples, and finds exactly the lines with a wrong
    use. Each example is a program of its own: some have modules of the same name.
    """
    found = of_mypy(tmp_path, HERE, "right.py", "wrong.py")
    assert sorted(found.pop("wrong.py")) == expected()
    for folder in EXAMPLES:
        found |= of_mypy(tmp_path, folder, ".")
    assert {file: errors for file, errors in found.items() if errors} == {}


@pytest.mark.slow
def test_pyright() -> None:
    """So does pyright."""
    found = of_pyright(HERE / "right.py", HERE / "wrong.py", *ROOT.glob("examples/*/*.py"))
    assert sorted(found.pop("wrong.py")) == expected()
    assert found == {}


def test_every_option_has_a_type() -> None:
    """NodeOptions knows each option of node() that a router or a program takes, and no other."""
    known = {*OPTIONS, *QUEUED, *CELERY, *RQ, *ShellNode.options}
    assert known == set(NodeOptions.__annotations__)


@pytest.mark.parametrize("setting", Settings.__annotations__)
def test_a_setting_has_one_type(setting: str) -> None:
    """It is the same in Settings, in a ShellNode and as an option (where RQ has a timeout too)."""
    names = {"Mode": Settings.mode, "Codec": Settings.codec}
    one = Settings.__annotations__[setting]
    assert ShellNode.__annotations__[setting] == one
    option = typing.cast("typing.ForwardRef", NodeOptions.__annotations__[setting])
    if one in names:
        assert "Literal" in option.__forward_arg__
    elif setting != "timeout":
        assert option.__forward_arg__ == one
