"""The bar of ``emit run``, on a real terminal: what else is written comes above it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import pyte

from tests.test_cli import EMIT

WIDTH = 80

APP = """
import logging
import os
import sys
import time
import warnings

from emit import Router

logging.basicConfig(format="root %(message)s")  # holds the stream of before there is a bar
router = Router()

def wait():
    time.sleep(0.3)  # the bar is drawn ten times a second

@router.node((), entry_point=True)
def node(msg):
    wait()
    logging.getLogger("emit.node.rb").warning("the program says %s", "x" * 100)
    wait()
    logging.getLogger("app").warning("logged %s", "y" * 100)
    warnings.warn("be warned " + "w" * 100)
    print("a line in", end=" ", file=sys.stderr)
    wait()
    print("two parts", file=sys.stderr)
    wait()
    raise ValueError("it is wrong: " + ", ".join(map(str, range(60))))
"""


def test_whole_lines_above_the_bar(tmp_path: Path) -> None:
    """Logs, warnings, prints and errors; in the end nothing is left of the bar."""
    (tmp_path / "app.py").write_text(APP)
    sent, lines = on_a_terminal(tmp_path, "run", "app.router", "n=8")
    assert "━" in sent  # there was one
    assert [line for line in lines if "━" in line] == []
    whole = [
        "rb warning │ the program says " + "x" * 100,
        "root logged " + "y" * 100,
        "a line in two parts",
        "the message: ValueError: it is wrong: " + ", ".join(map(str, range(60))),
    ]
    assert [line for line in whole if line not in sent] == []  # the terminal alone breaks them
    begins = [line[:WIDTH].rstrip() for line in whole]
    assert [line for line in lines if line in begins] == begins
    assert "UserWarning: be warned " + "w" * 100 in sent


def test_a_line_without_its_end(tmp_path: Path) -> None:
    """It is not lost with the bar."""
    node = "lambda msg: print('no end', end='', file=sys.stderr)"
    start = "import sys\nfrom emit import Router\nrouter = Router()\n"
    (tmp_path / "app.py").write_text(f"{start}router.node((), entry_point=True, name='n')({node})")
    _, lines = on_a_terminal(tmp_path, "run", "app.router", "n=8")
    assert lines[0] == "no end"
    assert lines[1].startswith("1 message in ")


def on_a_terminal(folder: Path, *words: str) -> tuple[str, list[str]]:
    """Return a command's output on a terminal, without colours, and the final screen's lines."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": str(WIDTH), "LINES": "100"}
    argv = [EMIT, *words]
    with subprocess.Popen(argv, cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        sent = read_all(ours)
    screen = pyte.Screen(WIDTH, 100)
    pyte.Stream(screen).feed(sent)
    return re.sub(r"\x1b\[[0-9;]*m", "", sent), [line.rstrip() for line in screen.display]


def read_all(descriptor: int) -> str:
    """Read until the command has ended and nobody holds the other end."""
    seen = b""
    try:
        while data := os.read(descriptor, 65536):
            seen += data
    except OSError:  # Linux says the end of a terminal so
        pass
    os.close(descriptor)
    return seen.decode()
