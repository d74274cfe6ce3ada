"""``emit``: its help, its errors and its exit codes."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import emit
from emit.cli import COMMANDS
from emit.cli.screen import paint

#: The installed program, beside the interpreter that runs the tests.
EMIT = str(Path(sys.executable).parent / "emit")


def run(*argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([EMIT, *argv], cwd=cwd, capture_output=True, text=True, timeout=110)


def test_help_fits_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The help names every command, in 24 lines of 80 characters."""
    monkeypatch.setenv("COLUMNS", "80")
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


def test_version() -> None:
    """The version is that of the package."""
    assert run("--version").stdout == f"emit {emit.__version__}\n"


@pytest.mark.parametrize("argv", [(), ("nothing",), ("--nothing",), ("digraph",)])
def test_a_wrong_command_line(argv: tuple[str, ...]) -> None:
    """It ends with code 64, says how it is used on stderr, and nothing on stdout."""
    done = run(*argv)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith("usage: emit ")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_examples(name: str) -> None:
    """The help of a command says what it does and shows examples that call it."""
    done = run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    command = import_module(f"emit.cli.{name}")
    assert command.HELP in " ".join(done.stdout.split())
    assert f"emit {name} " in command.EXAMPLES


def test_a_wrong_router(tmp_path: Path) -> None:
    """A router that is not there ends with code 2 and one line."""
    done = run("digraph", "app.router", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith('emit digraph: "app.router": there is no module app here')


def test_a_router_that_fails_to_import(tmp_path: Path) -> None:
    """It ends with code 2, the module, the exception, and the author's own lines of the way."""
    (tmp_path / "bad.py").write_text("import nothere\n")
    (tmp_path / "way.py").write_text("\nimport bad\n")
    done = run("check", "way.router", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        'emit check: "way.router": the module way can\'t be imported: '
        "ModuleNotFoundError: No module named 'nothere'",
        f"    {tmp_path}/bad.py:1 in <module>",
        f"    {tmp_path}/way.py:2 in <module>",
    ]


def test_node_modules_that_fail_to_import(tmp_path: Path) -> None:
    """It ends with code 2 and says that one of the router's node_modules is meant."""
    code = "from emit import Router\nrouter = Router(node_modules=['tsks'])\n"
    (tmp_path / "app.py").write_text(code)
    done = run("graph", "app.router", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        'emit graph: "app.router": one of its node_modules can\'t be imported: '
        "ModuleNotFoundError: No module named 'tsks'\n"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="it is Linux's")
def test_a_full_disk() -> None:
    """Output that can't be written is an error, and one line says so."""
    with open("/dev/full", "w") as full:
        done = subprocess.run([EMIT, "completion", "bash"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"emit completion: [Errno 28] No space left on device\n"


def test_a_closed_output() -> None:
    """Without a stdout a command does its work all the same."""
    done = subprocess.run(
        f"{shlex.quote(EMIT)} completion bash >&-", shell=True, stderr=subprocess.PIPE
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_page_has_every_command() -> None:
    """docs/command-line.md lists all of them, each with a section."""
    page = (Path(__file__).parent.parent / "docs" / "command-line.md").read_text("utf-8")
    for name in COMMANDS:
        assert f"\n| [`emit {name}`](#" in page
        assert f"\n## {name}\n" in page or name == "digraph"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only on a terminal, and neither with NO_COLOR nor on a dumb one."""
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert paint("x", "red", Terminal()) == "\033[31mx\033[0m"
    assert paint("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("TERM", "dumb")
    assert paint("x", "red", Terminal()) == "x"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red", Terminal()) == "x"
