"""Data between a shared host and its clients comes out as it went in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from emit import errors
from emit.context import Context
from emit.errors import GraphError, HostError, ProcessDied, StartError, Unavailable
from emit.host.fate import Job
from emit.host.settings import Settings
from emit.host.shared.data import (
    Described,
    from_error,
    from_job,
    from_node,
    to_context,
    to_error,
    to_node,
)
from emit.host.system.program import Limits, Parts, Program
from emit.host.wire.values import Encoder, from_msgpack
from emit.letter import Cause, DeadLetter
from tests.test_errors import make


def crossed(value: Any) -> Any:
    return from_msgpack(Encoder().msgpack(value))


def facts(error: Any) -> Any:
    """All that an exception is, nested ones included."""
    if isinstance(error, BaseException):
        return type(error), error.args, {k: facts(v) for k, v in vars(error).items()}
    return error


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "Unavailable"])
def test_every_exception(name: str) -> None:
    """Type, text and attributes, their types included."""
    error = make(name)
    again = to_error(crossed(from_error(error)), "app.node", {})
    assert facts(again) == facts(error)
    assert str(again) == str(error)


def test_an_exception_in_another() -> None:
    """The last cause of an open breaker is one; a foreign one is told by its name and text."""
    inner = StartError(node="n", argv=("ruby",), reason="no", started=True)
    error = Unavailable(node="n", retry_in=1.5, last=inner)
    again = to_error(crossed(from_error(error)), "n", {})
    assert facts(again) == facts(error)
    again = to_error(
        crossed(from_error(Unavailable(node="n", retry_in=1, last=OSError("x")))), "n", {}
    )
    assert isinstance(again, Unavailable)
    assert isinstance(again.last, HostError)
    assert "OSError: x" in str(again.last)


def test_a_dead_letter() -> None:
    """Its message stays where it is: with the client."""
    error = ProcessDied(node="n", status=-6, stderr_tail="end")
    cause = Cause.of(error, 12.5)
    error.letter = DeadLetter("n", {"secret": 1}, (cause, cause))
    data = crossed(from_error(error))
    assert "secret" not in repr(data)
    again: Any = to_error(data, "n", {"mine": 2})
    assert again.letter == DeadLetter("n", {"mine": 2}, (cause, cause))


def test_text_that_is_no_utf_8() -> None:
    """Such text, a path for example, is escaped, and the error still crosses."""
    error = StartError(node="n", argv=("/caf\udce9",), reason="no")
    again: Any = to_error(crossed(from_error(error)), "n", {})
    assert again.argv == (r"/caf\udce9",)
    assert to_error(crossed(from_error(OSError("\udce9"))), "n", {})


def test_a_type_that_is_not_ours() -> None:
    """Nothing is looked up but the exceptions of Emit, whatever the name says."""
    for data in (
        {"type": "os.system", "args": {"tuple": ["true"]}, "state": {}},
        {"type": "KeyError", "text": "x"},
        {"type": "EmitError"},
    ):
        again = to_error(data, "n", {})
        assert type(again) is HostError
        assert data["type"] in str(again)


NODE = Described(
    Program("n", ("ruby", "a.rb"), {"PATH": "/bin"}, "/srv", Limits(nofile=9)),
    Settings(mode="lines", size=3, max_rss=2**30, limits=Limits(cpu=7)),
    "words",
    False,
)


def test_a_node() -> None:
    """Program, settings and the node's name in it, limits included."""
    bare = Described(Program("n", ("a",), {}), Settings())
    parts = Parts("/srv/a.rb", manifest="/srv/Gemfile", suffixes=(".rb",), folders=("/sdk",))
    filed = Described(Program("n", ("a",), {}, parts=parts, version="6b1f0a7c93de"), Settings())
    for node in (NODE, bare, filed):
        again = to_node("n", crossed(from_node(node)))
        assert (again, again.key) == (node, node.key)
    assert hash(NODE.key) != hash(bare.key)


@pytest.mark.parametrize("place", ["program", "settings"])
def test_another_version(place: str) -> None:
    """A key that the host does not know is refused, and not left out."""
    data = from_node(NODE)
    data[place]["new"] = 1
    with pytest.raises(StartError, match=r"different versions of Emit: .*'new'.*restart the older"):
        to_node("n", data)
    with pytest.raises(StartError, match="different versions of Emit: no 'program'"):
        to_node("n", {})


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        ("settings", "codec", []),
        ("settings", "timeout", "1"),
        ("settings", "size", True),
        ("settings", "max_age", {}),
        ("program", "env", ["A=1"]),
        ("program", "env", {"A": 1}),
        ("program", "argv", [1]),
        ("program", "argv", 5),
        ("program", "cwd", b"/srv"),
        ("program", "guard", None),
        ("program", "limits", []),
        ("program", "limits", {"cpu": "1"}),
        ("program", "toolchain", {"name": "ruby"}),
        ("program", "toolchain", {"name": 5, "detect": [], "check": []}),
        (None, "program_node", ["x"]),
        (None, "shared", "yes"),
        (None, "settings", [1]),
        (None, "program", None),
    ],
)
def test_values_of_another_type(place: str | None, name: str, value: Any) -> None:
    """They are refused as well, before they are looked up or started."""
    data = from_node(NODE)
    (data if place is None else data[place])[name] = value
    with pytest.raises(StartError, match=r'"n" cannot be started: .* different versions of Emit'):
        to_node("n", data)


def test_a_setting_that_cannot_work() -> None:
    """It is refused as where it is declared."""
    with pytest.raises(GraphError, match="timeout = -1"):
        to_node("n", from_node(replace(NODE, settings=Settings(timeout=-1))))


def test_what_a_queue_knows() -> None:
    """Additions of a later version are left out; missing keys are told."""
    known = Context("7", "n", "words", 2, None)
    told = crossed(from_job(Job({}, context=known)))
    told["context"]["priority"] = 3
    assert to_context("n", told) == known
    assert to_context("n", None) is to_context("n", {}) is None
    for wrong in (
        {"of": "later"},
        {"id": 7, "node": "n"},
        {"id": "7", "node": "n", "attempt": "1"},
    ):
        with pytest.raises(StartError, match="different versions of Emit"):
            to_context("n", {"context": wrong})
    for wrong in ([], 5, "text"):
        with pytest.raises(StartError, match="different versions of Emit"):
            to_context("n", {"context": wrong})


def test_an_exception_of_another_version() -> None:
    """An exception that cannot be made again is told all the same; additions are left out."""
    error = ProcessDied(node="n", status=-6)
    error.letter = DeadLetter("n", {}, (Cause.of(error, 12.5),))
    data = crossed(from_error(error))
    data["state"]["letter"]["letter"][0]["new"] = 1
    again: Any = to_error(data, "n", {})
    assert again.letter == error.letter
    for changes in ({"args": 5}, {"state": {"letter": {"letter": 5}}}, {"state": []}):
        again = to_error(data | changes, "n", {})
        assert isinstance(again, StartError)
    assert isinstance(to_error({}, "n", {}), HostError)
