"""``emit top``: what is added up, what is shown, and the installed program on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from emit.cli.figures import HEAD, SORTS, Row, arrange, format_row, names, rows, troubles
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


def node(calls: int = 0, name: str = "a", project: str = "/app", **figures: Any) -> dict[str, Any]:
    recent = {"seconds": 2.0, "calls": calls, "failures": 0, "p50": 0.01, "p99": 0.03}
    return {
        "node": name,
        "project": project,
        "calls": calls,
        "recent": recent if calls else dict.fromkeys(recent, 0),
        "failures": {},
        "start_error": None,
        "processes": [],
        "ends": {},
        "busy": 0,
        "idle": 0,
        "size": 4,
        "queued": 0,
        "breaker": "closed",
        "language": "ruby",
        "rss_bytes": 0,
        **figures,
    }


def snapshots(**hosts: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Make snapshots of hosts; a node has the name of its key."""
    return {
        number: {"nodes": {name: {**figures, "node": name} for name, figures in nodes.items()}}
        for number, nodes in enumerate(hosts.values())
    }


def test_hosts_are_added_up() -> None:
    """Nodes are added up: sums, the mean of the medians by weight, and the worst of the tails."""
    slow = {"seconds": 4.0, "calls": 10, "failures": 2, "p50": 0.04, "p99": 0.2}
    [row] = rows(
        snapshots(
            one={"a": node(30, busy=1, idle=1, queued=2, rss_bytes=10, failures={"X": 1, "Y": 2})},
            two={"a": node(90, recent=slow, busy=2, ends={"failed": 1, "idle": 5, "max_age": 2})},
            three={"a": node()},
        )
    )
    assert row == Row(
        node="a",
        project="/app",
        language="ruby",
        is_function=False,
        hosts=3,
        machines=[],
        busy=3,
        processes=4,
        queued=2,
        calls=120,
        calls_per_second=17.5,
        p50=pytest.approx(0.0175),
        p99=0.2,
        failures=3,
        failures_lately=2,
        restarts=3,
        open=0,
        start_error="",
        retry_in=0.0,
        rss_bytes=10,
        versions={},
    )
    assert format_row(row)[HEAD.index("fail")] == "3 +2"


def test_two_projects() -> None:
    """Their nodes of one name are kept apart, and named as far as that is needed."""
    one, two, three = "/srv/one/app", "/srv/two/app", "/srv/shop"
    hosts = [{"a": node(1, project=project)} for project in (one, one, two, three)]
    hosts[3]["b"] = node(1, project=three)
    table = arrange(rows(snapshots(**dict(zip("klmn", hosts, strict=True)))), "node")
    assert [(row.key, row.hosts) for row in table] == [
        (("a", one), 2),
        (("a", three), 1),
        (("a", two), 1),
        (("b", three), 1),
    ]
    # The table tells by the project's last part if it can, and else by all of it.
    wanted = [f"a ({one})", "a (shop)", f"a ({two})", "b"]
    assert names(table) == wanted
    view = View("node")
    view.take(snapshots(**dict(zip("klmn", hosts, strict=True))))
    assert all(name in shown(view) for name in wanted)


def test_two_versions() -> None:
    """The processes with another version than most of their mates are named."""
    processes = [{"pid": n, "version": "bbb" if n == 7 else "aaa"} for n in range(5, 9)]
    [row] = rows({("web1", "w", 1): {"nodes": {"a": node(processes=processes)}}})
    assert row.versions == {"aaa": ["web1 5", "web1 6", "web1 8"], "bbb": ["web1 7"]}
    assert row.machines == ["web1"]
    assert list(troubles([row])) == [
        "a: 2 versions of its program at a time: aaa in 3 of its processes, bbb in web1 7"
    ]
    assert format_row(row)[-1] == "aaa +1"
    many = [{"pid": n, "version": "bbb" if n > 20 else "aaa"} for n in range(1, 31)]
    [row] = rows({4: {"nodes": {"a": node(processes=many)}}})
    assert list(troubles([row])) == [
        "a: 2 versions of its program at a time: aaa in 20 of its processes, bbb in 21, 22, 23, "
        "24, 25, 26, 27, 28 and 2 more"
    ]


def test_before_the_first_start() -> None:
    """The row has no language yet, no version, and nothing to divide by."""
    assert rows({}) == []
    [row] = rows(snapshots(one={"a": node(language="", breaker="open")}))
    assert (row.language, row.p50, row.p99, row.open) == ("", 0.0, 0.0, 1)
    cells = dict(zip(HEAD, format_row(row), strict=True))
    assert {cells[head] for head in ("runtime", "p50", "p99", "version")} == {"-"}
    assert "open" in cells["restarts"]


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
    [row] = rows(snapshots(one={"a": node()}))
    cells = format_row(replace(row, p50=seconds, p99=seconds))
    assert [cells[HEAD.index(name)] for name in ("p50", "p99")] == [says, says]


def test_a_node_that_cannot_start() -> None:
    """Red, and below the table the newest cause of all hosts, and when that host tries again."""
    older = {"at": 1.0, "text": "not found", "retry_in": 0.0}
    newer = {"at": 2.0, "text": "\x1b[2Jno database", "retry_in": 11.2}
    now = snapshots(
        one={"a": node(start_error=older)}, two={"a": node(start_error=newer), "b": node()}
    )
    table = rows(now)
    says = "cannot start, next try in 12 s; last cause: \\x1b[2Jno database"
    assert list(troubles(table)) == [says]
    view = View("node")
    view.take(now)
    assert says in shown(view)
    [row] = rows(snapshots(one={"a": node(start_error=older)}))
    assert list(troubles([row])) == [
        "cannot start, next try with the next message; last cause: not found"
    ]


@pytest.mark.parametrize("sort", SORTS)
def test_sorting(sort: str) -> None:
    """The largest first, and by name where that is the same."""
    large = {"busy": 3, "queued": 3, "rss_bytes": 3, "failures": {"X": 1}, "ends": {"failed": 1}}
    recent = {"seconds": 1.0, "calls": 9, "failures": 1, "p50": 5.0, "p99": 5.0}
    now = snapshots(one={"b": node(1), "c": node(9, recent=recent, **large), "a": node(1)})
    assert [row.node for row in arrange(rows(now), sort)] == (
        ["a", "b", "c"] if sort == "node" else ["c", "a", "b"]
    )


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
    view.take(snapshots(one={"a": node(1), "b": node(2, queued=5)}))
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
    view.take(snapshots(one={"a[red]b": node(1)}))
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
    view.take({})
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
    with hosting(), terminal("--interval", "0.05") as screen:
        read_until(screen, b"count")
        os.write(screen, b"\r")
        read_until(screen, b"trouble")
        os.write(screen, b"\x1b")
        read_until(screen, b"restarts")
        os.write(screen, b"q")
        read_until(screen, b"\x1b[?1049l")  # back from the alternate screen


@contextmanager
def terminal(*options: str) -> Iterator[int]:
    """
    Run the command on a terminal, and provide the descriptor of our end. It has to end well at q.
    """
    ours, theirs = pty.openpty()
    argv = [*TOP, *options]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "140", "LINES": "30"}
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        try:
            yield ours
            os.write(ours, b"q")
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
