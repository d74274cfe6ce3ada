"""
Our SDKs conform in everything; the page's hundred lines and Perl in the features they announce.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import conformance, launched
from scripts.conformance import SDKS, Sdk
from tests import tiny
from tests.conftest import require
from tests.hosts import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("sdk", SDKS, ids=lambda sdk: sdk.language)
def test_an_sdk(sdk: Sdk, codec: str) -> None:
    """Every scenario and value vector passes, in both codecs: what `make conformance` says."""
    require(*sdk.tools)
    with sdk.built() as command:
        done = conformance.play(command, sdk.known, codec=codec, capture=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("sdk", [s for s in SDKS if s.launcher], ids=lambda sdk: sdk.language)
def test_a_launcher(sdk: Sdk) -> None:
    """It makes a node of a file, and says why a file does not load."""
    require(*sdk.tools)
    done = conformance.launch(sdk, capture=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("Conforms to emit-node/1: files\n")


SILENT_LAUNCHER = """
import json, runpy, sys

file, *function = sys.argv[1:]
try:
    names = runpy.run_path(file)
except Exception:
    sys.exit(0)
handler = names.get(*function or [file.split("/")[-1].removesuffix(".py")], names.get("first"))
for line in filter(str.strip, sys.stdin):
    frame = json.loads(line)
    op, id = frame.get("op"), frame.get("id")
    if op == "hello":
        print(json.dumps({"op": "ready", "v": 1}), flush=True)
    elif op == "call":
        print(json.dumps({"op": "end", "id": id, "msgs": list(handler(frame["msg"]))}), flush=True)
"""


def test_a_launcher_that_does_little(tmp_path: Path) -> None:
    """Each of its faults is found: prints among the frames, failures without a word, ..."""
    (files := tmp_path / "files").mkdir()
    launched.write("python", files)
    launcher = tmp_path / "silent.py"
    launcher.write_text(SILENT_LAUNCHER)
    options = ("--files", str(files), "--format", "json", "--timeout", "10")
    done = emit(*options, "--", sys.executable, str(launcher))
    failed = {title.partition("/files/")[2] for title in json.loads(done.stdout)["failed"]}
    assert done.returncode == 1
    assert failed >= {
        "a print while it loads",
        "a file that does not parse",
        "a file that fails while it loads",
        "several functions and no name",
        "a failure by hand",
    }


def emit(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``emit conformance``, with more patience than its own unless *words* say otherwise."""
    command = [sys.executable, "-m", "emit.cli", "conformance", "--timeout", "60", *words]
    return subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


@pytest.fixture
def hundred(tmp_path: Path) -> list[str]:
    """The command of a program with the SDK on the page of the protocol."""
    program = tmp_path / "tiny.py"
    program.write_text(tiny.PROGRAM)
    return [sys.executable, str(program)]


def test_the_hundred_lines(hundred: list[str]) -> None:
    """They have all of core."""
    done = emit("--only", "core", "--", *hundred)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("Conforms to emit-node/1: core\n")


@pytest.mark.requires("perl")
def test_a_third_language() -> None:
    """The example of a language that Emit does not know has what its README says."""
    features = ("core", "plain", "values", "native", "limits", "stdin")
    options = ("--only", *features, "--require", *features)
    done = emit(*options, "--", "perl", "examples/third-party/conformance_app.pl")
    assert done.returncode == 0, done.stdout + done.stderr


# The command line


def test_what_is_required(hundred: list[str], tmp_path: Path) -> None:
    """The exit code is that of the required features; what is known to fail may fail."""
    options = ("--only", "core/ping", "plain/pretty-printed")
    assert emit(*options, "--", *hundred).returncode == 0
    done = emit(*options, "--require", "core", "plain", "--", *hundred)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        1,
        "Does not conform: plain required",
    )
    known = tmp_path / "known"
    known.write_text("json/plain/pretty-printed  # one document\n")
    listed = ("--expected-failures", str(known))
    assert emit(*options, "--require", "all", *listed, "--", *hundred).returncode == 0
    known.write_text("json/core/ping\n")
    done = emit(*options, *listed, "--", *hundred)
    assert done.returncode == 1
    assert "take it off the expected failures: json/core/ping" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--require", "speed", "--", "cat"], 64, "there is no feature speed"),
        (["--only", "core/nothing", "--", "cat"], 64, "nothing is called core/nothing"),
        ([], 64, "say -- and the command of the program"),
        (["--files", "docs/pictures", "--", "cat"], 2, "lacks missing, nothing, prints"),
        (["--files", "/no/such", "--", "cat"], 2, "No such file"),
        (["--codec", "xml", "--", "cat"], 64, "invalid choice"),
        (["--", "no-such-program"], 2, "command not found"),
        (["--", "sh", "-c", "echo no module json2 >&2; exit 3"], 2, "it ended with exit code 3"),
        (["--timeout", "0.2", "--", "sleep", "60"], 2, "expected ready within 0.2 s"),
        (["--expected-failures", "/no/such", "--", "cat"], 2, "No such file"),
    ],
)
def test_what_cannot_be_tested(words: list[str], code: int, said: str) -> None:
    """A wrong command line, and a program that does not come up, are no failed tests."""
    done = emit(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_program_that_does_not_start_is_quoted() -> None:
    """The program's standard error says why."""
    assert "no module json2" in emit("--", "sh", "-c", "echo no module json2 >&2").stderr


def test_the_list() -> None:
    """Every scenario with what a right program does."""
    lines = emit("--list").stdout.splitlines()
    assert len(lines) > 100
    [ping] = [line for line in lines if line.startswith("core/ping ")]
    assert ping.endswith("A ping to an idle process is answered with its number.")


def test_the_nodes() -> None:
    """The list has all that a test needs: the behaviour of each node, and the program."""
    said = emit("--nodes").stdout
    assert said.startswith("## The nodes\n")
    assert "| `echo` {value} | → `value`, unchanged." in said
    assert "CONFORMANCE_CONCURRENCY" in said
    assert "## Features" not in said


@pytest.mark.parametrize(
    ("echo", "does"),
    [
        (
            "yield msg",
            """its echo emits [{"value": "a word"}] for the message {"value": "a word"}""",
        ),
        ("yield msg['text']", """its echo fails for the message {"value": "a word"}: 'text'"""),
    ],
)
def test_an_echo_that_is_wrong(tmp_path: Path, echo: str, does: str) -> None:
    """One complaint says what echo has to do; what needs it is left out."""
    program = tmp_path / "tiny.py"
    program.write_text(tiny.PROGRAM.replace('yield msg["value"]', echo, 1))
    done = emit("--only", "core", "values", "--codec", "json", "--", sys.executable, str(program))
    assert done.returncode == 1
    assert done.stdout.count("✘ json:") == 1
    assert "`echo` has to emit the field `value` of its message" in done.stdout
    assert does in done.stdout


def test_a_ready_frame_over_max_frame(tmp_path: Path) -> None:
    """The complaint names the frame."""
    program = tmp_path / "tiny.py"
    program.write_text(tiny.PROGRAM.replace('"sdk": "tiny/1"', '"sdk": "tiny/1" * 400', 1))
    done = emit("--only", "limits", "core/max_frame", "--", sys.executable, str(program))
    assert "got the frame 'ready' over the 1024 bytes of max_frame" in done.stdout


@pytest.mark.parametrize("format", ["tap", "junit", "json"])
def test_machines_get_only_the_report(hundred: list[str], format: str) -> None:
    """Standard output has the report; standard error has its duration."""
    done = emit("--only", "core/ping", "--format", format, "--", *hundred)
    assert done.returncode == 0
    assert done.stdout.startswith({"tap": "TAP", "junit": "<testsuites", "json": "{"}[format])
    assert done.stderr.startswith("1 scenarios in ")
