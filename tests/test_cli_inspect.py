"""``emit inspect`` and ``emit bench``, as they are installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from emit.errors import CallTimeout, ProtocolError
from emit.multilang import ShellNode
from tests.test_cli import run

pytestmark = pytest.mark.slow

WORDS = """
def words(text, times=1):
    for word in text.split():
        yield word * times
"""

#: It speaks the protocol, prints before it is ready, and stays when its input ends, until it is
#: killed.
STUBBORN = """
import sys, time
print("hello", flush=True)
sys.stdin.readline()
print('{"op":"ready","v":1}', flush=True)
sys.stdin.readline(); sys.stdin.readline()
print('{"op":"pong","n":1}', flush=True)
sys.stdin.read()
time.sleep(600)
"""


APP = f"""
from emit import Router, ShellNode
router = Router()
patient = {{"file": "words.py", "stop_grace": 60.0}}
router.node(("word",), name="words", entry_point=True, **patient)(ShellNode)
router.node((), "words", name="end")(lambda msg: None)
stubborn = {{"command": [{sys.executable!r}, "stubborn.py"], "stop_grace": 0.5}}
router.node((), "words", name="stubborn", mode="persistent", **stubborn)(ShellNode)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "words.py").write_text(WORDS)
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize("target", ["words.py", "words.py:words", "app.router:words"])
def test_inspect(project: Path, target: str) -> None:
    """Show a program's announcement and its end, for people and as JSON."""
    done = run("inspect", target, "--timeout", "60", cwd=project)
    assert (done.returncode, done.stderr) == (0, "")
    assert "node          words: needs text, and may have times\n" in done.stdout
    assert "stray output  none\n" in done.stdout
    assert "after the end of its input: ended with exit code 0\n" in done.stdout
    again = run("inspect", target, "--timeout", "60", "--json", cwd=project)
    look = json.loads(again.stdout)
    assert look["nodes"] == {"words": {"required": ["text"], "optional": ["times"]}}
    assert (look["language"], look["protocol"], look["status"]) == ("python", 1, 0)
    assert look["rss_bytes"] > 1e6
    assert 0 < look["ping_seconds"] < 5


def test_a_program_that_misbehaves(project: Path) -> None:
    """Prints are counted and shown; one that does not stop is a failure, and is killed."""
    (project / "stubborn.py").write_text(STUBBORN)
    done = run("inspect", "app.router:stubborn", "--json", cwd=project)
    assert done.returncode == 1
    look = json.loads(done.stdout)
    assert (look["strays"], look["stop_seconds"], look["status"]) == (1, None, None)
    assert "a line on stdout that is no frame: hello" in done.stderr


def test_a_program_that_takes_its_time_to_end(project: Path) -> None:
    """A command has as long for it as for its start, which is more than a node's stop_grace."""
    (project / "late.py").write_text(STUBBORN.replace("600", "2.2"))  # stop_grace is 2.0
    done = run("inspect", f"{sys.executable} late.py", "--timeout", "60", cwd=project)
    assert done.returncode == 0
    assert "after the end of its input: ended with exit code 0" in done.stdout


@pytest.mark.parametrize(
    ("target", "code", "why"),
    [
        ("app.router:end", 2, '"end" is a Python node: it has no program of its own'),
        ("gone.py", 2, "there is no "),
        ("nothere", 2, "command not found"),
        ("cat", 2, "does it echo its input?"),
        ("sleep 600", 2, "was not ready within start_timeout = 0.5 s"),
        ("words.py:nope", 2, "there is no function nope in it (found: words)"),
    ],
)
def test_what_cannot_be_inspected(project: Path, target: str, code: int, why: str) -> None:
    """One line says why, and the exit code is that of a node that could not be started."""
    timeout = "0.5" if target == "sleep 600" else "60"
    done = run("inspect", target, "--timeout", timeout, cwd=project)
    assert (done.returncode, done.stdout) == (code, "")
    assert why in done.stderr


def test_ping() -> None:
    """A process that does not answer is told, and so is one that ends instead."""
    for rest, error in (("sys.stdin.read()", CallTimeout), ("sys.exit()", ProtocolError)):
        program = f"""if True:
            import sys
            sys.stdin.readline(); print('{{"op":"ready","v":1}}', flush=True)
            sys.stdin.readline(); {rest}"""
        node = ShellNode()
        node.configure(
            "n", {"command": [sys.executable, "-c", program], "mode": "persistent"}, stream=False
        )
        process = node.start()
        try:
            with pytest.raises(error):
                process.ping(1.0 if error is CallTimeout else 60.0)
        finally:
            process.discard()


@pytest.mark.parametrize("seconds", ["0.2", "0"])
def test_bench(project: Path, seconds: str) -> None:
    """A row for each codec that the program has, with every figure, however short the time."""
    done = run("bench", "words.py", "text=a b", "--seconds", seconds, "--json", cwd=project)
    assert done.stderr == ""
    rows = json.loads(done.stdout)
    assert [row["codec"] for row in rows] == ["json", "msgpack"]
    for row in rows:
        assert all(value > 0 for name, value in row.items() if name != "codec")
        assert row["p50"] <= row["p99"]
        assert row["results_per_second"] == pytest.approx(2 * row["calls_per_second"])


@pytest.mark.parametrize("mode", ["oneshot", "lines"])
def test_bench_of_a_filter(project: Path, mode: str) -> None:
    """A program without an SDK is measured as it would be run; the table has a line for it."""
    (project / "filter.py").write_text("import sys\nfor line in sys.stdin: print(1, flush=True)\n")
    command = f"{sys.executable} filter.py"
    done = run("bench", command, "--mode", mode, "--seconds", "0.1", cwd=project)
    assert (done.returncode, done.stderr) == (0, "")
    head, row = done.stdout.splitlines()
    assert head.split() == ["codec", "start", "p50", "p99", "calls/s", "results/s", "memory"]
    assert row.startswith("json ")


def test_a_bench_of_failures(project: Path) -> None:
    """A message that fails ends the measuring with the author's error, and no figures."""
    done = run("bench", "words.py", "tax=a", "--seconds", "0.1", cwd=project)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'words needs "text"' in done.stderr
