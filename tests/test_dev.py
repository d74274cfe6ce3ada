"""``emit dev``: edits are taken over as they are saved, and a broken one changes nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emit.dev.lines import source_line
from tests.hosts import lives, until
from tests.reloaded import CODES
from tests.shared_hosts import EMIT

pytestmark = pytest.mark.slow

PYTHON = CODES["python"]

APP = """
import sys
from emit import Router, ShellNode
router = Router()

@router.node(("n", "pid", "v"), name="node", entry_point=True)
class Node(ShellNode):
    file = "node.py"
    size = 1

@router.node((), "node", name="last")
def last(msg):
    print("saw", msg.v, "here", WORD)

WORD = "one"
"""

#: The command: sends messages until it is stopped, and says that it ends as it was asked to.
FEED = """
import os, signal, sys, threading
from app import router

stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
print("began", os.getpid(), flush=True)
while not stopped.wait(0.02):
    router(n=1, log="log")
print("ended well", flush=True)
"""


class Dev:
    """A running ``emit dev``, with all that it has printed."""

    def __init__(self, folder: Path, *words: str, **env: str) -> None:
        self.text = ""
        self._process = subprocess.Popen(
            [EMIT, "dev", *words],
            cwd=folder,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self.text += line

    def said(self, pattern: str, after: int = 0) -> re.Match[str]:
        """Wait for a text after a place of the output."""

        def look() -> bool:
            ended = self._process.poll() is not None
            return bool(re.search(pattern, self.text[after:])) or ended

        until(look)
        found = re.search(pattern, self.text[after:])
        assert found is not None, self.text
        return found

    def end(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(60)
        self._reader.join()
        return code


@contextlib.contextmanager
def dev(folder: Path, *words: str, **env: str) -> Iterator[Dev]:
    running = Dev(folder, *words, **env)
    try:
        yield running
    finally:
        running.end()


@pytest.fixture
def folder(tmp_path: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide a project with a router, a program and a command, and hosts of its own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "feed.py").write_text(FEED)
    PYTHON.write(tmp_path, 1)
    return tmp_path


def test_a_command(folder: Path) -> None:
    """
    A program's edit is swapped without a restart, that of a Python module restarts the command
    gracefully, and an error of either is shown once, while the last good version goes on.
    """
    with dev(folder, "app.router", "--", sys.executable, "feed.py") as running:
        name = Path(sys.executable).name
        first = running.said(rf"{name} +│ began (\d+)")[1]
        running.said("saw 11 here one")
        PYTHON.write(folder, 2)
        running.said(r"node +│ version \w{7} has taken over in ")
        running.said("saw 102 here one")
        PYTHON.spoil(folder)
        running.said(r"node.py:\d+ \|")
        place = len(running.text)
        running.said("saw 102 here one", place)
        assert running.text.count("cannot be started") == 1
        assert running.text.count("began") == 1
        app = folder / "app.py"
        app.write_text(APP + "1 / 0\n")
        running.said(r"dev +│ .*ZeroDivisionError")
        place = len(running.text)
        running.said("saw 102 here one", place)
        PYTHON.write(folder, 3)
        running.said("saw 1003 here one")
        app.write_text(APP.replace('"one"', '"two"'))
        running.said(r"app\.py: started again")
        assert running.said(r"began \d+(?s:.*)began (\d+)")[1] != first
        assert "ended well" in running.text
        running.said("saw 1003 here two")
        last = running.said(r"began \d+(?s:.*)began (\d+)")[1]
    assert running.text.count("ended well") == 2
    assert not lives(int(last))


def test_the_lines_of_a_node(folder: Path) -> None:
    """What a program writes on stderr has its node's name, and is not printed twice."""
    code = PYTHON.good.replace("VERSION", "1")
    code = code.replace(
        "def node(msg):\n", "def node(msg):\n    print('W! deep', file=sys.stderr)\n"
    )
    (folder / "node.py").write_text(f"import sys\n{code}")
    with dev(folder, "app.router", "n:=1", f"log={folder}/log") as running:
        running.said(r"run +│ .*last")
        running.said(r"node +│ (?:W! )?deep")
        assert running.text.count("deep") == 1


def test_a_sample_of_a_file(folder: Path) -> None:
    """It runs again at each save, with what is saved."""
    with dev(folder, "node.py", "n:=1", f"log={folder}/log") as running:
        running.said(r'"v": 11\}')
        PYTHON.write(folder, 2)
        running.said(r'"v": 102\}')
        PYTHON.spoil(folder)
        running.said("SyntaxError")
        PYTHON.write(folder, 3)
        running.said(r'"v": 1003\}')


def test_the_page(folder: Path) -> None:
    """--ui shows the graph beside the command, and opens it in a browser once."""
    opened = folder / "opened"
    browser = folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    browser.chmod(0o700)
    words = ("app.router", "--ui", "127.0.0.1:0", "--", sys.executable, "feed.py")
    with dev(folder, *words, BROWSER=f"{browser} %s") as running:
        address = running.said(r"ui +│ (http://127\.0\.0\.1:\d+/)")[1]
        until(opened.exists)
        until(lambda: opened.read_text().strip() == address)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("app.router", "n:=1", "--", "true"), "not both"),
        (("node.py", "--", "true"), "not both"),
        (("node.py", "--ui"), "is a file"),
    ],
)
def test_wrong_command_lines(folder: Path, words: tuple[str, ...], said: str) -> None:
    """The error says what does not go together."""
    done = subprocess.run([EMIT, "dev", *words], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, said in done.stderr) == (64, True)


def test_a_command_that_ends(folder: Path) -> None:
    """Its exit code is told, and an edit starts it again."""
    with dev(folder, "app.router", "--", "sh", "-c", "echo ran; exit 3") as running:
        running.said(r"sh +│ has ended, exit code 3")
        (folder / "app.py").write_text(APP + "\n")
        running.said("ran(?s:.*)ran")


def test_the_authors_line(tmp_path: Path) -> None:
    """Only a line of a file below the folder is shown."""
    (tmp_path / "words.rb").write_text("def words(msg)\n  {\n")
    path = tmp_path / "words.rb"
    assert source_line(f"SyntaxError: {path}:2: unexpected end", tmp_path) == "words.rb:2 | {"
    assert source_line("words.rb:1", tmp_path) == "words.rb:1 | def words(msg)"
    assert source_line("words.rb:9 and /etc/passwd:1", tmp_path) == ""
