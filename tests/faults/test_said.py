"""Output of programs never drives a terminal, and never passes for another line."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emit import Message, Router, ShellNode
from emit.errors import EmitError, EncodeError, ProcessDied, RemoteError, StartError
from emit.letter import Cause
from emit.text import LINES, MOST
from tests.conftest import require
from tests.faults.nodes import PATH, pool, raw
from tests.shared_hosts import client, listening

#: Clears the screen, sets a title, in C1 too; a line end for some; and text that runs backwards.
RUDE = "sku\x1b[2J\x1b]0;title\x07\x9b2J\x85\u2028\u202eend"
SHOWN = "sku\\x1b[2J\\x1b]0;title\\x07\\x9b2J\\x85\\u2028\\u202eend"
FORGED = "2026-01-01 00:00:00,000 CRITICAL billing: account closed"

#: Answers with the frame that the message has, with the text that `long` names so many times.
SAYS = """
for id, msg in calls():
    said, (name, times) = msg["texts"], msg.get("long", ("", 1))
    said |= {name: said[name] * times} if name else {}
    frame(op=msg["op"], id=id, **said, **msg.get("more", {}))
    if msg["op"] == "log":
        end(id, 1)
"""


def shown(error: BaseException) -> str:
    """All that is ever printed or kept of an error."""
    cause = Cause.of(error, time.time())
    whole = "".join(traceback.format_exception(error))
    return "\n".join([str(error), whole, repr(error), cause.type, cause.text, cause.stderr_tail])


def failure_of(call: Callable[[], Any]) -> EmitError:
    with pytest.raises(EmitError) as caught:
        call()
    return caught.value


@pytest.fixture(autouse=True)
def without_starts(caplog: pytest.LogCaptureFixture) -> None:
    """Leave the host's own lines about ready processes out of the captured log."""
    caplog.handler.addFilter(lambda record: not str(record.msg).startswith("process %d is ready"))


@pytest.fixture(params=["a host of one's own", "a shared host"])
def node(request: pytest.FixtureRequest, short_folder: Path) -> Any:
    """A node whose program says what it is told to."""
    if request.param == "a shared host":
        path = short_folder / "host.sock"
        with listening(path), client(path, raw(SAYS), max_attempts=1) as calls:
            yield calls
    else:
        with pool(raw(SAYS), max_attempts=1) as calls:
            yield calls


@pytest.mark.parametrize(
    ("texts", "more"),
    [
        ({"type": RUDE, "message": "m"}, {}),
        ({"type": "Bad", "message": RUDE}, {}),
        ({"type": "Bad", "message": "m"}, {"stack": [f"app.rb:3 {RUDE}", RUDE]}),
        ({"type": "Bad", "message": "m"}, {"cause": {"type": RUDE, "message": RUDE}}),
    ],
    ids=["type", "message", "stack", "cause"],
)
def test_an_error(node: Any, texts: dict[str, str], more: dict[str, Any]) -> None:
    """Its type, text and stack are escaped, wherever it is shown."""
    error = failure_of(lambda: node.call({"op": "err", "texts": texts, "more": more}))
    assert isinstance(error, RemoteError)
    text = shown(error) + error.type + error.message + "".join(error.stack)
    assert not set(RUDE) & set("\x1b\x07\x9b\x85\u2028\u202e") & set(text)
    if "cause" not in more:
        assert SHOWN in text


@pytest.mark.parametrize("name", ["type", "message"])
def test_a_long_error(node: Any, name: str) -> None:
    """5 MB are no text for a log; the beginning is."""
    texts = {"type": "Bad", "message": "M", name: "x"}
    call = {"op": "err", "texts": texts, "long": (name, 5_000_000)}
    error = failure_of(lambda: node.call(call))
    assert "xxx" in str(error)
    assert "(cut at" in str(error)
    assert len(shown(error)) < 10 * MOST


def test_line_ends_of_an_error(node: Any) -> None:
    """They stay in its text, and none makes two lines of the type or of one of the stack's."""
    texts = {"type": "Bad\nType", "message": "one\n\ttwo"}
    call = {"op": "err", "texts": texts, "more": {"stack": ["app.rb:3\nforged"]}}
    error = failure_of(lambda: node.call(call))
    assert isinstance(error, RemoteError)
    assert (error.type, error.message, error.stack) == (
        "Bad\\nType",
        "one\n\ttwo",
        ("app.rb:3\\nforged",),
    )
    assert '"n": Bad\\nType: one\n    \ttwo (' in str(error)


def test_no_line_of_an_error_passes_for_another_record(node: Any) -> None:
    """Wherever a traceback is logged."""
    call = {"op": "err", "texts": {"type": "Bad", "message": f"boom\n{FORGED}\r\n{FORGED}"}}
    error = failure_of(lambda: node.call(call))
    lines = shown(error).splitlines()
    assert any(FORGED in line for line in lines)
    assert [line for line in lines if line.startswith(FORGED[:20])] == []


def test_an_error_of_the_process_itself() -> None:
    """Its code does not load: what it says of that is in a StartError."""
    code = f"frame(op='err', id=None, type={RUDE!r}, message={RUDE!r}, stack=[{RUDE!r}])\nhang()"
    with pool(raw(f"read()\n{code}"), max_attempts=1) as node:
        error = failure_of(lambda: node.call({}))
    assert isinstance(error, StartError)
    assert SHOWN in str(error)
    assert not set("\x1b\x07\x9b\x85\u2028\u202e") & set(shown(error))


@pytest.mark.parametrize("mode", ["oneshot", "lines"])
def test_the_end_of_stderr(mode: str) -> None:
    """The same of a program without an SDK."""

    class Rude(ShellNode):
        command = (sys.executable, "-c", f"import sys; sys.stderr.write({RUDE!r}); sys.exit(3)")
        max_attempts = 1

    Rude.mode = mode
    error = failure_of(lambda: list(Rude()({"n": 1})))
    assert isinstance(error, (ProcessDied, StartError))
    assert SHOWN in shown(error)
    assert not set("\x1b\x07\x9b\x85\u2028\u202e") & set(shown(error))


def test_a_log(caplog: pytest.LogCaptureFixture) -> None:
    """A record for each of its lines, as of stderr: none can pass for another logger's."""
    caplog.set_level(logging.DEBUG, "emit.node")
    text = f"all is well{RUDE}\r\n\n{FORGED}\n"
    with pool(raw(SAYS)) as node:
        node.call({"op": "log", "texts": {"level": "warning", "text": text}})
    assert caplog.messages == [f"all is well{SHOWN}", FORGED]
    assert {(r.name, r.levelname, r.emit_call) for r in caplog.records} == {
        ("emit.node.n", "WARNING", 1)
    }


@pytest.mark.parametrize("text", ["l", "l\n", "\n", "\x1b"])
def test_a_long_log(text: str, caplog: pytest.LogCaptureFixture) -> None:
    """Megabytes in one frame are neither a record of that size nor a million records."""
    caplog.set_level(logging.DEBUG, "emit.node")
    with pool(raw(SAYS)) as node:
        texts = {"level": "info", "text": text}
        node.call({"op": "log", "texts": texts, "long": ("text", 2_000_000)})
    assert len(caplog.records) <= LINES + 1
    assert sum(map(len, caplog.messages)) < 5 * MOST


def test_the_fields_of_a_log(caplog: pytest.LogCaptureFixture) -> None:
    """Values of a handler that formats them, and names."""
    caplog.set_level(logging.DEBUG, "emit.node")
    fields = {"path": RUDE, RUDE: ["x", {"y": RUDE}], "rows": 500}
    with pool(raw(SAYS)) as node:
        texts = {"level": "info", "text": "half way"}
        node.call({"op": "log", "texts": texts, "more": {"fields": fields}})
    [record] = caplog.records
    assert record.emit_fields == {"path": SHOWN, SHOWN: ["x", {"y": SHOWN}], "rows": 500}


#: A plain file of each language: it fails with the text of the message.
FAILING = {
    "python": (".py", "def fail(msg):\n    raise ValueError(msg.text)\n"),
    "ruby": (".rb", "def fail(msg)\n  raise ArgumentError, msg[:text]\nend\n"),
    "node": (".mjs", "export const fail = ({ text }) => { throw new RangeError(text); };\n"),
    "go": (
        ".go",
        'package nodes\n\nimport "errors"\n\ntype message struct{ Text string }\n\n'
        'func fail(in message) (string, error) { return "", errors.New(in.Text) }\n',
    ),
}


@pytest.mark.usefixtures("builds")
@pytest.mark.parametrize("language", FAILING)
def test_errors_of_every_language(language: str, tmp_path: Path) -> None:
    """They come by its own SDK."""
    require(*({language} - {"python"}))
    suffix, code = FAILING[language]
    (tmp_path / "fail").with_suffix(suffix).write_text(code)
    made = type("Fail", (ShellNode,), {"file": str((tmp_path / "fail").with_suffix(suffix))})()
    try:
        error = failure_of(lambda: list(made(Message(text=RUDE))))
    finally:
        made.close()
    assert isinstance(error, RemoteError)
    assert error.message == SHOWN
    assert not set("\x1b\x07\x9b\x85\u2028\u202e") & set(shown(error))


def test_the_log_of_a_shared_host(short_folder: Path) -> None:
    """The host's log has the lines that its nodes log."""
    path = short_folder / "host.sock"
    with listening(path) as host:
        with client(path, raw(SAYS)) as node:
            text = f"all is well{RUDE}\n{FORGED}"
            node.call({"op": "log", "texts": {"level": "warning", "text": text}})
        host.terminate()
        assert host.stderr is not None
        said = host.stderr.read()
    assert SHOWN in said
    assert [line for line in said.split("\n") if line.startswith(FORGED[:20])] == []


def test_a_print_before_the_first_message(caplog: pytest.LogCaptureFixture) -> None:
    """It is the program's own, and says why a start is slow: it is shown, escaped."""
    with pool(
        raw(f"write('bundling' + {RUDE!r} + '\\n')\nfor id, msg in calls(): end(id)")
    ) as node:
        node.call({})
    [record] = [r for r in caplog.records if "stdout" in r.getMessage()]
    assert record.levelname == "WARNING"
    assert f"bundling{SHOWN}" in record.getMessage()


def test_emit_call_shows_them(tmp_path: Path) -> None:
    """`emit call` shows the lines on a terminal, too."""
    (tmp_path / "fail.py").write_text(FAILING["python"][1])
    command = [str(Path(sys.executable).parent / "emit"), "call", "fail.py", f"text={RUDE}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert SHOWN in done.stderr
    assert not set("\x1b\x07\x9b\x85\u2028\u202e") & set(done.stderr)


# -- who says it -------------------------------------------------------------------------------

#: Two nodes of one program, and what it says outside of any call.
TOGETHER = """
def say(text):
    print(text, file=sys.stderr, flush=True)

say("loading")

@node
def upper(msg):
    say(f"upper {msg.n}")
    logging.warning("upper logs")
    if msg.n == 13:
        say("fatal error: 13")
        os.abort()
    return msg.n

@node
def lower(msg):
    say(f"lower {msg.n}")
    return msg.n

serve()
"""


@pytest.fixture
def together(tmp_path: Path) -> Any:
    """Two nodes that share a program of the current folder."""
    path = tmp_path / "prog"
    path.write_text(
        f"#!{sys.executable}\nimport logging, os, sys\nfrom emit_sdk import *\n{TOGETHER}"
    )
    path.chmod(0o755)
    router = Router()

    class Shared(ShellNode):
        command = "./prog"
        mode = "persistent"
        size = 1
        max_attempts = 1

    Shared.cwd, Shared.env = str(tmp_path), {"PYTHONPATH": PATH}
    with router:
        yield [
            router.node(("n",), name=f"app.{name}", program_node=name)(Shared())
            for name in ("upper", "lower")
        ]


def test_nodes_that_share_a_program(together: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Each line is that of the node that was called; those of no call are the program's."""
    caplog.set_level(logging.DEBUG, "emit.node")
    upper, lower = together
    for n in range(20):
        upper(n=n if n < 13 else 1)
        lower(n=n)
    said = {(record.name, record.getMessage().split()[0]) for record in caplog.records}
    assert said == {
        ("emit.node.prog", "loading"),
        ("emit.node.app.upper", "upper"),
        ("emit.node.app.lower", "lower"),
    }


def test_errors_of_nodes_that_share_a_program(
    together: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """They name the node that was called, and so does the log."""
    caplog.set_level(logging.INFO, "emit.node")
    upper, lower = together
    lower(n=1)
    with pytest.raises(ProcessDied) as caught:
        upper(n=13)
    assert (caught.value.node, caught.value.signal) == ("app.upper", "SIGABRT")
    assert str(caught.value).startswith('"app.upper" was killed by SIGABRT')
    [warning] = [r for r in caplog.records if "is discarded" in r.getMessage()]
    assert (warning.name, warning.levelname) == ("emit.node.app.upper", "WARNING")
    assert "fatal error: 13" in warning.getMessage()
    with pytest.raises(EncodeError, match=r'^"app\.lower": n: '):
        lower(n=object())
    assert lower(n=2) == ({"n": 2},)


def test_a_shared_program_that_cannot_be_started(tmp_path: Path) -> None:
    """The error names the node."""
    router = Router()

    class Missing(ShellNode):
        command = ("./nothing",)
        mode = "persistent"
        program_node = "a"

    Missing.cwd = str(tmp_path)
    with router, pytest.raises(StartError, match=r'^"app\.missing" cannot be'):
        router.node(("n",), name="app.missing")(Missing)(n=1)


@pytest.mark.usefixtures("builds")
def test_what_a_program_says_of_its_end(tmp_path: Path) -> None:
    """A stack overflow of Go is told in the error, though the traces after it are long."""
    require("go")
    (tmp_path / "deep.go").write_text(
        "package nodes\n\ntype message struct{ N int }\n\n"
        "func down(n int) int { return down(n+1) + 1 }\n\n"
        "func Deep(in message) (int, error) { return down(in.N), nil }\n"
    )
    node = type("Deep", (ShellNode,), {"file": str(tmp_path / "deep.go"), "max_attempts": 1})()
    try:
        error = failure_of(lambda: list(node({"n": 1})))
    finally:
        node.close()
    assert isinstance(error, ProcessDied)
    assert "fatal error: stack overflow" in error.said
    assert error.said in str(error)


@pytest.mark.parametrize("mode", ["oneshot", "lines"])
def test_what_a_crash_says(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """The error, the cause of the dead letter and a pooled process's log quote the crash."""
    caplog.set_level(logging.WARNING, "emit.node")
    code = "import os; input(); os.write(2, b'bad state\\n7\\n'); os.abort()"
    node = ShellNode()
    node.command, node.mode, node.max_attempts = [sys.executable, "-c", code], mode, 1
    error = failure_of(lambda: list(node({"n": 1})))
    assert isinstance(error, ProcessDied)
    assert str(error).endswith("; its stderr ended with: bad state; 7")
    if mode == "lines":
        assert error.letter.causes[0].text == str(error)
        assert "bad state; 7" in caplog.text
