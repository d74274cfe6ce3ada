"""``emit call`` and ``emit run``, as they are installed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import EMIT, run

pytestmark = pytest.mark.slow

SDK = str(Path(__file__).parent.parent / "sdks" / "python")

APP = """
from emit import Router, ShellNode

router = Router()

@router.node(("word",), entry_point=True, name="words")
def words(msg):
    yield from msg.text.split()

@router.node(("length",), "words", name="length")
def length(msg):
    return len(msg.word)

@router.node((), ".+", name="audit")
def audit(msg):
    pass
"""

ECHO = f"""
import sys
sys.path.insert(0, {SDK!r})
import logging
from emit_sdk import serve

def echo(msg):
    logging.warning("careful")
    if "fail" in msg:
        raise ValueError(msg["fail"])
    yield msg.value

serve(echo)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "echo.py").write_text(ECHO)
    return tmp_path


# -- call ----------------------------------------------------------------------------------


def test_call_a_node_of_a_router(project: Path) -> None:
    """Its results are printed with their fields, and not sent on."""
    done = run("call", "app.router:words", "text=the rain", cwd=project)
    assert (done.returncode, done.stdout) == (0, '{"word": "the"}\n{"word": "rain"}\n')
    assert done.stderr.startswith("2 results in ")


@pytest.mark.parametrize("mode", ["auto", "oneshot", "persistent"])
def test_call_a_command(project: Path, mode: str) -> None:
    """Its results are printed as they are; what it logs goes to stderr."""
    command = f"{sys.executable} echo.py"
    done = run("call", command, 'value:={"n": [1, null]}', "--mode", mode, cwd=project)
    assert (done.returncode, done.stdout) == (0, '{"n": [1, null]}\n')
    assert "careful" in done.stderr


@pytest.mark.parametrize(
    ("target", "words", "code", "why"),
    [
        ("app.router:words", ["no=1"], 1, 'AttributeError: "text" is not included'),
        ("app.router:wrods", [], 2, 'has no node "wrods" (nearest: words)'),
        ("ap.router:words", [], 2, "there is no module ap here"),
        ("nothere x", [], 2, "command not found"),
        ("'", [], 2, "No closing quotation"),
        ("", [], 2, "the target is empty"),
        ("app.router:words", ["--mode", "lines"], 64, "a node of a router has settings of its own"),
        ("app.router:words", ["--timeout", "0"], 64, "--timeout 0: it must be above 0"),
        ("cat", ["--timeout", "0"], 2, "timeout = 0.0 must be from 0.001"),
        ("app.router:words", ["text"], 64, '"text" is not of the form'),
        ("sh -c 'echo oops >&2; exit 3'", [], 1, "ended with exit code 3"),
    ],
)
def test_calls_that_fail(project: Path, target: str, words: list[str], code: int, why: str) -> None:
    """The exit code tells whose fault it is, stderr says why, and stdout stays empty."""
    done = run("call", target, *words, cwd=project)
    assert (done.returncode, done.stdout) == (code, "")
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_a_program_that_takes_too_long(project: Path) -> None:
    """The node's own timeout ends it; or that of the whole call, if the kill takes over 0.5 s."""
    done = run("call", "sleep 60", "--timeout", "0.2", cwd=project)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(r"within (--)?timeout = 0\.2 s", done.stderr)
    assert "Traceback" not in done.stderr


SHOP = (
    ECHO.partition("def echo")[0].replace("import serve", "import node, serve")
    + """
@node
def delete(msg):
    return "deleted"

@node
def price(msg):
    return 4

serve()
"""
)


@pytest.mark.parametrize("mode", ["auto", "oneshot", "persistent"])
def test_one_of_several_nodes_of_a_program(project: Path, mode: str) -> None:
    """--node says which; without it none is run, and the error lists them."""
    (project / "shop.py").write_text(SHOP)
    for target in (f"{sys.executable} shop.py", "shop.py"):
        done = run("call", "--mode", mode, "--node", "price", target, "sku=tea", cwd=project)
        assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr
        done = run("call", "--mode", mode, target, "sku=tea", cwd=project)
        assert (done.returncode, done.stdout) == (1, "")
        assert "it has: delete, price" in done.stderr


def test_a_node_of_a_router_has_its_own_name(project: Path) -> None:
    """--node is for files and commands."""
    done = run("call", "--node", "words", "app.router:words", "text=a", cwd=project)
    assert done.returncode == 64
    assert "--node: a node of a router has settings of its own" in done.stderr


def test_an_error_of_another_language(project: Path) -> None:
    """Its type, its text and its own stack are shown."""
    command = f"{sys.executable} echo.py"
    done = run("call", command, "fail=no such shop", "--mode", "persistent", cwd=project)
    assert done.returncode == 1
    assert "ValueError: no such shop\n    " in done.stderr
    assert "echo.py" in done.stderr


def test_an_error_does_not_drive_the_terminal(project: Path) -> None:
    """Control characters in a node's text are shown, not sent."""
    command = f"{sys.executable} echo.py"
    done = run("call", command, 'fail:="\\u001b[2J"', "--mode", "persistent", cwd=project)
    assert (done.returncode, "\x1b" in done.stderr) == (1, False)
    assert "ValueError: \\x1b[2J" in done.stderr


ATTEMPTS = """
import os, time
def hang(msg):
    time.sleep(600)  # the hang itself
def dies(msg):
    os._exit(3)
def later(msg):
    from emit_sdk import Retry
    raise Retry("the shop is closed", after=600)
"""


@pytest.mark.parametrize("target", ["work.py:hang", "app.router:hang"])
def test_a_call_that_takes_too_long(project: Path, target: str) -> None:
    """--timeout is for the whole call, whatever the node is written in."""
    (project / "work.py").write_text(ATTEMPTS)
    code = "\n@router.node((), name='hang')\ndef hang(msg):\n    import time\n    time.sleep(600)\n"
    (project / "app.py").write_text(APP + code)
    done = run("call", target, "--timeout", "1", cwd=project)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no result within --timeout = 1 s" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_call_whose_attempts_take_too_long(project: Path) -> None:
    """All of them together, and the waits between them; it says how many, and why they failed."""
    (project / "work.py").write_text(ATTEMPTS)
    done = run("call", "work.py:later", "--timeout", "5", cwd=project)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no result within --timeout = 5 s, in 2 attempts\n" in done.stderr
    assert "Retry: the shop is closed" in done.stderr


def test_attempts_are_told(project: Path) -> None:
    """The last of several says how many there were, and what became of the others."""
    (project / "work.py").write_text(ATTEMPTS)
    done = run("call", "work.py:dies", cwd=project)
    assert done.returncode == 1
    assert "after 3 attempts; those before ended in ProcessDied, ProcessDied\n" in done.stderr


# -- run -----------------------------------------------------------------------------------


def test_run_prints_what_nobody_hears(project: Path) -> None:
    """Results of the last nodes are printed; one that only watches does not count as hearing."""
    done = run("run", "app.router", "text=the rain", cwd=project)
    assert (done.returncode, done.stdout) == (0, '{"length": 3}\n{"length": 4}\n')
    lines = done.stderr.splitlines()
    assert lines[0].startswith("1 message in ")
    assert lines[0].endswith(" s; sent along each edge, done or still queued:")
    assert "  words -> length         2" in lines


def test_run_prints_what_is_asked_for(project: Path) -> None:
    """--results chooses the nodes, --origin tells whose a result is, --quiet prints none."""
    done = run("run", "app.router", "text=a", "--results", "words", "--origin", cwd=project)
    assert done.stdout == '{"_origin": "words", "word": "a"}\n'
    assert run("run", "app.router", "text=a", "--quiet", cwd=project).stdout == ""
    done = run("run", "app.router", "text=a", "--results", "wrods", cwd=project)
    assert (done.returncode, done.stdout) == (64, "")
    assert "there is no node wrods (nearest: words)" in done.stderr


def test_counts_as_json(project: Path) -> None:
    """--json prints the counts for a script, on stderr, where they stood before."""
    done = run("run", "app.router", "text=a b", "--json", cwd=project)
    counts = json.loads(done.stderr)
    assert (counts["messages"], counts["failed"]) == (1, 0)
    edges = {(e["origin"], e["destination"]): e["count"] for e in counts["edges"]}
    assert edges["words", "length"] == 2
    assert edges["__entry_point", "words"] == 1


LINES = '{"text": "a"}\n{"no": 1}\nnonsense\n{"text": "bb cc"}\n'


def test_a_failing_line_ends_the_run(project: Path) -> None:
    """It says which line it was, and why; what came before has been printed."""
    (project / "in.ndjson").write_text(LINES)
    done = run("run", "app.router", "@in.ndjson", cwd=project)
    assert (done.returncode, done.stdout) == (1, '{"length": 1}\n')
    assert 'line 2: AttributeError: "text" is not included' in done.stderr
    assert 'in node "words", with a message from "__entry_point"' in done.stderr
    assert f"{project}/app.py:8 in words" in done.stderr
    assert "1 message, 1 failed in" in done.stderr


def test_keep_going(project: Path) -> None:
    """Each failing line is told, the others are run, and the exit code says that some failed."""
    (project / "in.ndjson").write_text(LINES)
    done = run("run", "app.router", "@in.ndjson", "--keep-going", cwd=project)
    assert done.returncode == 1
    assert done.stdout == '{"length": 1}\n{"length": 2}\n{"length": 2}\n'
    assert "line 3: it is no JSON" in done.stderr
    assert "2 messages, 2 failed in" in done.stderr


def test_csv(project: Path) -> None:
    """A row is a message, with the first line's names."""
    (project / "in.csv").write_text('text\n"the rain"\n')
    done = run("run", "app.router", "@in.csv", cwd=project)
    assert (done.returncode, done.stdout) == (0, '{"length": 3}\n{"length": 4}\n')


def test_a_router_without_entry_point(project: Path) -> None:
    """Nothing would be run, so it is an error."""
    (project / "app.py").write_text(APP.replace("entry_point=True, ", "").replace('".+"', '"x"'))
    done = run("run", "app.router", "text=a", cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no entry point" in done.stderr


def follow(project: Path, *options: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    argv = [EMIT, "run", "app.router", "-", *options]
    return subprocess.Popen(argv, cwd=project, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_follow(project: Path) -> None:
    """Each result is there as soon as its line has come; a bad line does not end it."""
    with follow(project, "--follow") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text, length in (("a", 1), ("bb", 2)):
            process.stdin.write(f'nonsense\n{{"text": "{text}"}}\n')
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == {"length": length}
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1  # two lines were nonsense
    assert "2 failed in" in errors
    assert "words -> length         2\n" in errors
    assert "Traceback" not in errors


def test_ctrl_c(project: Path) -> None:
    """It ends a run with code 130, in the middle of a handler, and the counts are printed."""
    # The handler sleeps until Ctrl-C: longer than any test.
    (project / "app.py").write_text(
        APP + "\n@router.node((), 'words', name='hang')\ndef hang(msg):\n"
        "    import sys, time\n    sys.stderr.write('hanging\\n')\n    time.sleep(600)\n"
    )
    with follow(project) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write('{"text": "a"}\n')
        process.stdin.flush()
        assert process.stderr.readline() == "hanging\n"
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "0 messages in" in errors
    assert "Traceback" not in errors


def test_a_reader_that_has_seen_enough(project: Path) -> None:
    """A reader that leaves early (``| head``) gets no complaint; the code is SIGPIPE's."""
    with open(project / "in.ndjson", "w") as file:
        file.writelines('{"text": "a"}\n' for _ in range(20000))
    argv = [EMIT, "run", "app.router", "@in.ndjson"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=project, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
    assert process.returncode == 141
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors
