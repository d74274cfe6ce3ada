"""``emit top``: what is added up, what is shown, and the installed program on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from emit.cli.figures import HEAD, SORTS, Row, arrange, format_row, rows, troubles
from emit.cli.live import View, split_keys
from emit.host import status
from tests.test_status import hosting, runtime

__all__ = ["runtime"]  # a fixture

#: ``emit top`` as it is installed, but for its patience with a host: a loaded machine is slow.
PATIENT = """
import sys
from emit.cli import main
from emit.host import status
status.PATIENCE = 60.0
sys.exit(main())
"""
TOP = [sys.executable, "-c", PATIENT, "top"]


def top(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TOP, *options], capture_output=True, text=True, timeout=110)


def node(calls: int = 0, **figures: Any) -> dict[str, Any]:
    times = {"p50": 0.01, "p90": 0.02, "p99": 0.03, "max": 0.04, "mean": 0.01}
    return {
        "calls": calls,
        "failures": {},
        "start_error": None,
        "call_seconds": times,
        "ends": {},
        "busy": 0,
        "idle": 0,
        "queued": 0,
        "breaker": "closed",
        "language": "ruby",
        "rss_bytes": 0,
        **figures,
    }


def snapshots(**hosts: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {number: {"nodes": nodes} for number, nodes in enumerate(hosts.values())}


def test_hosts_are_added_up() -> None:
    """Nodes are added up: sums, the mean of the medians by weight, and the worst of the tails."""
    slow = {"p50": 0.04, "p90": 0.1, "p99": 0.2, "max": 1, "mean": 0.05}
    now = snapshots(
        one={"a": node(30, busy=1, idle=1, queued=2, rss_bytes=10, failures={"X": 1, "Y": 2})},
        two={"a": node(10, call_seconds=slow, busy=2, ends={"failed": 1, "idle": 5, "max_age": 2})},
    )
    before = snapshots(one={"a": node(10)})
    [row] = rows(before, now, 2.0)
    assert row == Row(
        node="a",
        language="ruby",
        hosts=2,
        busy=3,
        processes=4,
        queued=2,
        calls=40,
        calls_per_second=10.0,  # a host that was not there before does not count
        p50=pytest.approx(0.0175),
        p99=0.2,
        failures=3,
        restarts=3,
        open=0,
        start_error="",
        retry_in=0.0,
        rss_bytes=10,
    )


def test_a_host_that_was_started_anew() -> None:
    """Fewer calls than before under the same process id are no negative speed."""
    [row] = rows(snapshots(one={"a": node(50)}), snapshots(one={"a": node(2)}), 1.0)
    assert row.calls_per_second == 0
    assert rows({}, {}, 1.0) == []


def test_before_the_first_start() -> None:
    """The row has no language yet, and nothing to divide by."""
    [row] = rows({}, snapshots(one={"a": node(language="", breaker="open")}), 1.0)
    assert (row.language, row.p50, row.open) == ("", 0.01 * 0, 1)
    assert format_row(row)[1] == "-"
    assert "open" in format_row(row)[HEAD.index("restarts")]


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (0.0, "-"),
        (4e-6, "4 µs"),
        (9.9e-5, "99 µs"),
        (1e-4, "0.1 ms"),
        (1.5, "1500.0 ms"),
        (12, "12 s"),
    ],
)
def test_times(seconds: float, says: str) -> None:
    """No message is answered in no time: a pipelined one may take microseconds."""
    [row] = rows({}, snapshots(one={"a": node()}), 1.0)
    cells = format_row(replace(row, p50=seconds, p99=seconds))
    assert [cells[HEAD.index(name)] for name in ("p50", "p99")] == [says, says]


def test_a_node_that_cannot_start() -> None:
    """Red, and below the table the newest cause of all hosts, and when that host tries again."""
    older = {"at": 1.0, "text": "not found", "retry_in": 0.0}
    newer = {"at": 2.0, "text": "\x1b[2Jno database", "retry_in": 11.2}
    now = snapshots(
        one={"a": node(start_error=older)}, two={"a": node(start_error=newer), "b": node()}
    )
    table = rows({}, now, 1.0)
    says = "cannot start, next try in 12 s; last cause: \\x1b[2Jno database"
    assert list(troubles(table)) == [says]
    view = View("node")
    view.take({}, now, 1.0)
    assert says in shown(view)
    [row] = rows({}, snapshots(one={"a": node(start_error=older)}), 1.0)
    assert list(troubles([row])) == [
        "cannot start, next try with the next message; last cause: not found"
    ]


@pytest.mark.parametrize("sort", SORTS)
def test_sorting(sort: str) -> None:
    """The largest first, and by name where that is the same."""
    large = {"busy": 3, "queued": 3, "rss_bytes": 3, "failures": {"X": 1}, "ends": {"failed": 1}}
    times = dict.fromkeys(("p50", "p90", "p99", "max", "mean"), 5.0)
    now = snapshots(one={"b": node(1), "c": node(9, call_seconds=times, **large), "a": node(1)})
    before = snapshots(one={"b": node(), "c": node(), "a": node()})
    names = [row.node for row in arrange(rows(before, now, 1.0), sort)]
    assert names == (["a", "b", "c"] if sort == "node" else ["c", "a", "b"])


def test_keys() -> None:
    """Keys of a terminal are recognized, also several together; unknown ones are skipped."""
    assert split_keys("\x1b[A\x1b[Bq") == ["up", "down", "quit"]
    assert split_keys("\rs\x1b") == ["open", "sort", "back"]
    assert split_keys("x\x1b[5~") == ["", ""]


def shown(view: View) -> str:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(view.render())
        return console.export_text()


def test_the_view() -> None:
    """Keys choose, sort, open and close; the mark stays on its node when rows change places."""
    view = View("node")
    view.take({}, snapshots(one={"a": node(1), "b": node(2, queued=5)}), 1.0)
    assert view.press("down")
    assert view.press("down")  # there is no third
    assert view.table[view.chosen].node == "b"
    while view.sort != "queue":
        view.press("sort")
    assert [row.node for row in view.table] == ["b", "a"]
    assert view.table[view.chosen].node == "b"
    view.press("open")
    view.details = {
        7: {
            "errors": [{"at": 0, "type": "ProcessDied", "text": "gone [b]", "stderr_tail": "x"}],
            "stderr": [{"pid": 8, "tail": "last words"}],
        }
    }
    text = shown(view)
    assert "ProcessDied" in text
    assert "gone [b]" in text
    assert "last words" in text
    view.press("back")
    assert "restarts" in shown(view)
    assert not view.press("quit")


def test_names_and_texts_are_no_markup() -> None:
    """Brackets are shown as they are, and no control character gets to the terminal."""
    view = View("node")
    view.take({}, snapshots(one={"a[red]b": node(1)}), 1.0)
    assert "a[red]b" in shown(view)
    view.press("open")
    error = {"at": 0, "type": "E", "text": "\x1b[2Jgone", "stderr_tail": ""}
    view.details = {1: {"errors": [error], "stderr": []}}
    assert "\\x1b[2Jgone" in shown(view)


def test_a_view_of_nothing() -> None:
    """It says so, and no key fails."""
    view = View("node")
    for key in ("up", "down", "open", "sort", "back", ""):
        assert view.press(key)
    view.take({}, {}, 1.0)
    assert "no node with a program" in shown(view)


def test_once(runtime: Path) -> None:
    """A table of what other processes do, and the same as JSON."""
    with hosting() as process:
        done = top("--once", "--interval", "0.1")
        assert (done.returncode, done.stderr) == (0, "")
        head, line = done.stdout.splitlines()
        assert head.split() == list(HEAD)
        assert line.split()[:4] == ["count", "python", "0/1", "0"]
        data = json.loads(top("--json", "--interval", "0.1").stdout)
        assert [host["pid"] for host in data["hosts"]] == [process.pid]
        assert (data["nodes"][0]["node"], data["nodes"][0]["calls"]) == ("count", 1)


def test_once_of_what_cannot_start(runtime: Path, tmp_path: Path) -> None:
    """A file that can't be served, a command that is not there, a program that ends at once."""
    (tmp_path / "words.rb").write_text("def words(msg")
    code = f"""
def fail(name, **settings):
    node = ShellNode()
    node.configure(name, settings, stream=False)
    try:
        list(node({{}}))
    except Exception as error:
        print(type(error).__name__, flush=True)
    return node

nodes = [
    fail("file", file={str(tmp_path / "words.rb")!r}, env={{"PATH": "/no/such"}}, pass_env=()),
    fail("command", command="no-such-command", mode="lines"),
    fail("ends", command=[sys.executable, "-c", "0"], mode="persistent", backoff=3000.0,
         backoff_max=3000.0),
]
sys.stdin.read()
"""
    with hosting(code) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == ["StartError\n"] * 3
        done = top("--once", "--interval", "0")
        assert [line.split()[0] for line in done.stdout.splitlines()[1:5]] == [
            "command",
            "count",
            "ends",
            "file",
        ]
        command, ends, file = done.stdout.splitlines()[5:]
        assert command.startswith(
            'cannot start, next try with the next message; last cause: "command" cannot be '
            "started: command not found (looked for no-such-command in "
        )
        assert re.match(r'cannot start, next try in \d{4} s; last cause: "ends" ', ends)
        assert "ruby was not found" in file
        data = json.loads(top("--json", "--interval", "0").stdout)
        figures = data["hosts"][0]["nodes"]["file"]
        assert (figures["starts"], figures["start_failures"]) == (0, 1)
        assert figures["start_error"]["type"] == "StartError"
        details = dict(status.ask_all({"node": "file"}))[process.pid]
        assert isinstance(details, dict)
        assert ["ruby was not found" in error["text"] for error in details["errors"]] == [True]


def test_no_host(runtime: Path) -> None:
    """The command says that no host runs."""
    done = top("--once", "--interval", "0")
    assert (done.returncode, done.stdout) == (0, "0 hosts, and no node with a program of its own\n")


def test_on_a_terminal(runtime: Path) -> None:
    """It renews itself, opens a node, leaves the terminal as it was, and ends at q."""
    with hosting():
        ours, theirs = pty.openpty()
        argv = [*TOP, "--interval", "0.05"]
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
        with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
            os.close(theirs)
            try:
                read_until(ours, b"count")
                os.write(ours, b"\r")
                read_until(ours, b"trouble")
                os.write(ours, b"\x1b")
                read_until(ours, b"restarts")
                os.write(ours, b"q")
                read_until(ours, b"\x1b[?1049l")  # back from the alternate screen
                assert process.wait(60) == 0
            finally:
                process.kill()
                os.close(ours)


def read_until(descriptor: int, wanted: bytes, within: float = 60.0) -> None:
    seen = b""
    end = time.monotonic() + within
    while wanted not in seen:
        assert time.monotonic() < end, seen
        seen += os.read(descriptor, 65536)


def test_without_rich() -> None:
    """The live view says what it needs; nothing else does."""
    program = "import sys; sys.modules['rich'] = None\nfrom emit.cli import main\nsys.exit(main())"
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", program, "top"], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert b"pip install 'emit-graph[cli]'" in done.stderr
