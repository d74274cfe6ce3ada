"""Advice of `make` to a machine that lacks something, run with programs that are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import tools

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the whole PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(file: Path, output: str, status: int = 0) -> None:
    file.write_text(f"#!/bin/sh\necho '{output}'\nexit {status}\n")
    file.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("ruby 3.1.2p20 (2022-04-12 revision 4491bb740a) [x86_64-linux-gnu]", (3, 1, 2)),
        ("v20.20.2", (20, 20, 2)),
        ("go version go1.22.1 linux/amd64", (1, 22, 1)),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", (7, 0, 15)),
        ("dot - graphviz version 2.43.0 (0)", (2, 43, 0)),
        ("(none)", None),
    ],
)
def test_version_is_read_from_what_programs_print(text: str, version: tuple[int, ...]) -> None:
    """The first dotted number is the version; a text without one has none."""
    assert tools.numbers(text) == version


@pytest.mark.usefixtures("path")
def test_everything_is_lacking_on_an_empty_path() -> None:
    """Every tool is asked for where it would be run from, and none is found elsewhere."""
    assert tools.lacking() == dict.fromkeys(tools.TOOLS, "not found")


def test_old_program_is_lacking_with_both_versions(path: Path) -> None:
    """A Node that is too old is as good as none, and the reason says which it is."""
    program(path / "node", "v18.20.4")
    assert tools.lack(tools.named("node")) == "18.20.4 is older than 20.19"


def test_shim_that_fails_is_lacking(path: Path) -> None:
    """A version manager's shim that chooses no version is no program."""
    program(path / "ruby", "rbenv: version 3.1.2 is not installed", status=127)
    assert tools.lack(tools.named("ruby")) == "not found"


@pytest.mark.parametrize(("ci", "status"), [("true", 1), ("", 0)])
def test_missing_language_fails_only_in_ci(path: Path, ci: str, status: int) -> None:
    """A check that cannot run is named; it is an error in CI, where everything must run."""
    code = f"""
import pathlib
from scripts import languages
languages.ROOT = pathlib.Path({str(path)!r})
raise SystemExit(languages.main("lint"))
"""
    (path / "sdks").mkdir()
    (path / "sdks" / "emit.rb").write_text("1\n")
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"CI": ci},
        capture_output=True,
        text=True,
    )
    assert (result.stdout, result.returncode) == ("left out ruby: not found\n", status)
