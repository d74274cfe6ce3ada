"""runtimes/PROTOCOL.md is what the code does: its tables, its examples, its SDK."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode
from emit.host.settings import Settings
from emit.host.wire.codec import encode
from emit.host.wire.frames import (
    FIELDS,
    FROM_HOST,
    MAX_FRAME,
    OPS,
    End,
    Err,
    Failure,
    Frame,
    Pong,
    Ready,
    op_of,
)
from emit.host.wire.plain import results
from emit.host.wire.reader import Reader
from emit.host.wire.session import TRANSITIONS, Session, State
from emit.host.wire.values import MAX_DEPTH, MAX_ITEMS
from tests.hosts import ROOT
from tests.tiny import PAGE, SDK

NODE = """
def count(msg):
    print("a print that touches no frame")
    if msg["n"] < 0:
        raise ValueError("n is negative")
    yield from range(msg["n"])
    yield from msg.get("odd", {}).values()
    yield from [float("nan")] * (msg["n"] == 77) + [2**64] * (msg["n"] == 78)
    yield from ["\\ud800"] * (msg["n"] == 79) + ["x" * 1000] * (msg["n"] == 80)

serve({"count": count})
"""


def section(title: str) -> str:
    """Return the text under one heading, up to the next of its kind or above."""
    level = "##" if f"\n## {title}\n" in PAGE else "###"
    _, found, rest = PAGE.partition(f"\n{level} {title}\n")
    assert found, title
    return re.split(f"\n#{{2,{len(level)}}} ", rest)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the table rows in a text, heads and rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row, line in zip(cells, lines, strict=True) if "|---" not in line]


def examples(text: str) -> Iterator[str]:
    for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL):
        yield from block.splitlines()


def decoded(line: str) -> Any:
    """The one frame in a line."""
    (frame,) = Reader().feed(line.encode() + b"\n")
    return frame


def test_the_table_of_frames() -> None:
    """The one table names every frame, who sends it and what it carries."""
    expected = []
    for op, kind in OPS.items():
        names = [f"`{n}`" if f.required else f"[`{n}`]" for n, f in FIELDS[kind].items()]
        sender = "host" if kind in FROM_HOST else "process"
        expected.append([f"`{op}`", sender, ", ".join(names)])
    found = [[op, sender, fields] for op, sender, _, fields in rows(section("Frames"))[1:]]
    assert sorted(found) == sorted(expected)


def test_the_table_of_states() -> None:
    """The state table is the code's, row by row."""
    expected = [
        [state.value, label(kind), "host" if kind in FROM_HOST else "process", after.value]
        for state, allowed in TRANSITIONS.items()
        for kind, after in allowed.items()
    ]
    assert rows(section("States"))[1:] == expected


def label(kind: type[Frame]) -> str:
    return "`err`, id null" if kind is Failure else f"`{op_of(kind)}`"


@pytest.mark.parametrize("op", OPS)
def test_the_fields_of_each_frame(op: str) -> None:
    """Each frame's own table has its fields, their types and whether they must be there."""
    found = [row[:3] for row in rows(section(op))[1:]]
    expected = [
        [f"`{name}`", field.kind, "required" if field.required else "optional"]
        for name, field in FIELDS[OPS[op]].items()
    ]
    assert found == expected


@pytest.mark.parametrize("op", OPS)
def test_the_examples_of_each_frame(op: str) -> None:
    """Each frame has an example, which is that frame, and comes out as the host would write it."""
    lines = list(examples(section(op)))
    assert lines
    for line in lines:
        frame = decoded(line)
        assert op_of(type(frame)) == op
        assert decoded(encode(frame).decode().strip()) == frame
        assert set(json.loads(line)) - {"op"} - {"id"} <= set(FIELDS[type(frame)])


def test_every_example_is_in_a_section_of_a_frame() -> None:
    """No example stands where no test reads it."""
    assert list(examples(PAGE)) == [line for op in OPS for line in examples(section(op))]


def test_the_transcript() -> None:
    """The conversation on the page is one that a session has."""
    session = Session("count")
    said: list[Any] = []
    spoken = {
        "hello": lambda _: session.hello(),
        "call": lambda frame: session.call(frame.msg)[1],
        "ping": lambda frame: session.ping(frame.n),
        "bye": lambda _: session.bye(),
    }
    for arrow, line in re.findall(r"^([→←]) (.*)$", PAGE, re.MULTILINE):
        frame = decoded(line)
        if arrow == "→":
            data = spoken[op_of(type(frame))](frame)
            assert Reader().feed(data) == [frame]
        else:
            said += session.receive(line.encode() + b"\n")
            assert said[-1] == frame
    assert (session.state, session.open, len(said)) == (State.CLOSING, (), 5)


def test_the_numbers() -> None:
    """The limits and timeouts on the page are the code's."""
    limits, defaults = section("Limits and timeouts"), Settings()
    assert MAX_FRAME == 2**24 - 1
    assert f"| {MAX_DEPTH} |" in limits
    assert f"| {MAX_ITEMS:,} |" in limits
    for name in ("start_timeout", "timeout", "stop_grace", "term_grace"):
        assert re.search(rf"`{name}`, .*\| {getattr(defaults, name):g} s \|", limits)


def test_the_contents() -> None:
    """The list of contents has every section."""
    titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    contents = PAGE.partition("Contents:")[2].partition("\n\n")[0]
    assert re.findall(r"\[(.*?)\]\(#", contents) == titles


# The SDK.


@pytest.fixture
def node(tmp_path: Path) -> list[str]:
    """The command of a program of the page's SDK and one handler."""
    path = tmp_path / "count.py"
    path.write_text(SDK + NODE)
    return [sys.executable, str(path)]


def run(node: list[str], given: bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, **environment}
    return subprocess.run(node, input=given, capture_output=True, timeout=60, env=env)


def conversation(node: list[str], messages: list[Any], **options: Any) -> list[Any]:
    """All that the SDK answers to hello, some calls, a ping and bye, written at once."""
    session = Session("count", **options)
    given = session.hello()
    dry = Session("count", codecs=["json"])  # Writes the calls before the process has answered.
    dry.hello()
    dry.receive(encode(Ready(1)))
    given += b"".join(dry.call(message)[1] for message in messages) + dry.ping(1) + dry.bye()
    done = run(node, given)
    assert done.returncode == 0, done.stderr
    ready, *rest = Reader(**options).feed(done.stdout)
    assert session.receive(encode(ready)) == [ready]
    for message in messages:
        session.call(message)
    return session.receive(b"".join(encode(frame) for frame in rest))


def test_the_sdk_converses(node: list[str]) -> None:
    """The page's SDK answers calls and errors, and its prints touch no frame."""
    events = conversation(node, [{"n": 2}, {"n": -1}, {}, {"n": 0}])
    assert events == [
        End(1, [0, 1]),
        Err(2, "ValueError", "n is negative"),
        Err(3, "KeyError", "'n'"),
        End(4, []),
        Pong(1),
    ]


def test_the_sdk_is_strict(node: list[str]) -> None:
    """A value that the wire cannot carry is an error of the call, not of the process."""
    options = {"max_frame": 1000}
    events = conversation(node, [{"n": n} for n in (77, 78, 79, 80, 1)], **options)
    assert [type(event) for event in events] == [Err, Err, Err, Err, End, Pong]
    assert "max_frame = 1000" in events[3].message


def test_the_sdk_refuses_another_version(node: list[str]) -> None:
    """The SDK ends if the host speaks another version."""
    hello = b'{"op":"hello","v":[2],"codecs":["json"],"node":"count","max_frame":1000}\n'
    done = run(node, hello)
    assert done.returncode == 1
    (failure,) = Reader().feed(done.stdout)
    assert isinstance(failure, Failure)


def test_the_sdk_counts_levels(node: list[str]) -> None:
    """A result of 128 levels passes, one more is an error of its call; so it is by hand."""
    deep, deeper = ({"n": 0, "odd": {"a": nested(levels)}} for levels in (128, 129))
    events = conversation(node, [{"n": 0}, {"n": 1}])  # the host sends no message so deep
    assert [type(event) for event in events] == [End, End, Pong]
    for message, status in ((deep, 0), (deeper, 1)):
        done = run(node, json.dumps(message).encode())
        assert (done.returncode, b"deeper than 128" in done.stderr) == (status, bool(status))


def nested(levels: int) -> list[Any]:
    return [nested(levels - 1)] if levels > 1 else []


def test_the_sdk_in_mode_lines(node: list[str]) -> None:
    """A plain run has a line for each result, and no others."""
    router = Router()
    one = router.node(("n",), name="another", command=node, mode="lines")(ShellNode)
    with router:
        assert (one(n=1), one(n=1)) == (({"n": 0},), ({"n": 0},))


def test_the_sdk_has_one_node_under_any_name(node: list[str]) -> None:
    """The name does not matter in mode auto, by hand for the first message or in frames later."""
    router = Router()
    one = router.node(("n",), name="another", command=node)(ShellNode)
    with router:
        assert [one(n=2) for _ in range(3)] == [({"n": 0}, {"n": 1})] * 3


@pytest.mark.parametrize("given", [b'{"n":2}\n{"n":1}\n', b'\n{"n":2}\n\n{"n":1}'])
def test_the_sdk_by_hand(node: list[str], given: bytes) -> None:
    """Plain messages in, plain results out."""
    done = run(node, given)
    reader = results(node="count")
    assert (reader.feed(done.stdout), done.returncode) == ([0, 1, 0], 0)


def test_the_sdk_with_a_message_of_the_environment(node: list[str]) -> None:
    """EMIT_MSG leaves the input alone; the handler's print is free to go where results go."""
    done = run(node, b"", EMIT_MSG='{"n":2}', PYTHONUNBUFFERED="1")  # else it comes at the end
    assert done.stdout.split(b"\n")[-3:] == [b"0", b"1", b""]


def test_the_sdk_when_probed(node: list[str]) -> None:
    """EMIT_PROBE has it say that it is ready before its results, and that it has finished."""
    done = run(node, b'{"n":1}\n', EMIT_PROBE="1")
    ready, zero, end = results(node="count").feed(done.stdout)
    assert decoded(json.dumps(ready)) == Ready(1, sdk="tiny/1", nodes=["count"], caps=["end"])
    assert (zero, end) == (0, {"op": "end", "id": None})


def test_the_sdk_fails_by_hand(node: list[str]) -> None:
    """An error of a plain run is text on stderr and exit code 1; no input is no error."""
    done = run(node, b'{"n":-1}\n')
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"n is negative" in done.stderr
    assert run(node, b"").returncode == 0


def test_the_sdk_is_that_of_the_documentation() -> None:
    """The page that leads to it, step by step, ends in the same file."""
    assert f"```python file=tiny.py\n{SDK}```" in (ROOT / "docs" / "write-an-sdk.md").read_text()


def test_the_sdk_is_small() -> None:
    """The 100 lines are 100 lines."""
    assert len(SDK.splitlines()) <= 100
