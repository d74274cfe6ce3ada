"""``emit completion``: the scripts, in the shells that are here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from emit.cli import COMMANDS
from tests.test_cli import run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("emit ", list(COMMANDS)),
        ("emit gr", ["graph"]),
        ("emit graph app.router --form", ["--format"]),
        ("emit graph app.router --format ", ["text", "dot", "svg", "png", "mermaid", "json"]),
        ("emit graph app.router -f j", ["json"]),
        ("emit completion ", ["bash", "zsh", "fish", "-h", "--help"]),
        ("emit nothing --", []),
    ],
)
def test_bash(line: str, words: list[str], tmp_path: Path) -> None:
    """Commands, options, what may follow an option, and words that may stand in a command."""
    script = tmp_path / "completion"
    script.write_text(run("completion", "bash").stdout)
    program = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _emit; '
    program += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", program, "bash", str(script), *line.split(" ")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_in_it(shell: str, tmp_path: Path) -> None:
    """Every command with its options; and a shell that is here can read it."""
    done = run("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    for name in COMMANDS:
        assert name in done.stdout
    assert ("-l keep-going" if shell == "fish" else "--keep-going") in done.stdout
    if shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(done.stdout)
        read = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True)
        assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not here")
def test_fish(tmp_path: Path) -> None:
    """Fish itself offers the completions."""
    script = tmp_path / "emit.fish"
    script.write_text(run("completion", "fish").stdout)
    asked = f'source {script}; complete -C "emit gr"; complete -C "emit graph x --format m"'
    done = subprocess.run(["fish", "-c", asked], capture_output=True, text=True)
    offered = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert offered == ["graph", "mermaid"]
