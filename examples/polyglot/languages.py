"""The counting programs that work on this machine, and why others do not."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent


def find_languages(scratch: Path) -> tuple[dict[str, list[str]], list[str]]:
    """A command for each language, and reasons for those that are left out."""
    found, left_out = {"python": [sys.executable, str(HERE / "count.py")]}, []
    binary = str(scratch / "count")
    for language, attempt, command in (
        ("ruby", ("ruby", "--version"), ["ruby", str(HERE / "count.rb")]),
        ("node", ("node", "--version"), ["node", str(HERE / "count.mjs")]),
        ("go", ("go", "build", "-o", binary, str(HERE / "count.go")), [binary]),
    ):
        if why := _failure(attempt):
            left_out.append(f"{language} ({why})")
        else:
            found[language] = command
    return found, left_out


def _failure(command: Sequence[str]) -> str:
    """Why a command fails; empty if it does not."""
    if not shutil.which(command[0]):
        return "not found"
    # A version manager's shim is there, and fails where no version is chosen.
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    last = (done.stderr.strip() or "no reason given").splitlines()[-1]
    return f"{command[0]} {command[1]} failed: {last}" if done.returncode else ""
