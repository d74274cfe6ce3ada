"""The exceptions: what they are, what they say, and that they travel between processes."""

from __future__ import annotations

import copy
import inspect
import pickle
import signal
from typing import Any

import pytest

from emit import errors
from emit.errors import (
    EmitError,
    GraphError,
    HostError,
    NodeError,
    Reject,
    RemoteError,
    ResultError,
    Retry,
)

#: What each exception is made of, where it takes more than a text.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "AmbiguousLetter": {"id": "7a", "candidates": ("7a1", "7a2")},
    "RemoteError": {"type": "ArgumentError", "message": "no", "stack": ("a.rb:3", "b.rb:4")},
    "StartError": {"argv": ("ruby", "a b.rb"), "reason": "command not found", "hint": "install it"},
    "StartTimeout": {"timeout": 1.5, "stderr_tail": "the end"},
    "ProcessDied": {"status": -9, "stderr_tail": "the end"},
    "CallTimeout": {"timeout": 1.5, "stderr_tail": "the end"},
    "ProtocolError": {"reason": "no JSON", "sample": b"\x1b[31mred", "stderr_tail": "the end"},
    "FrameTooLarge": {"size": 11, "limit": 10, "outgoing": True},
    "EncodeError": {"path": "items[3].price", "reason": "no NaN"},
    "PoolTimeout": {"timeout": 1.5, "size": 2},
    "PoolClosed": {},
    "HostLost": {"path": "/tmp/host.sock", "reason": "connection refused"},
    "InProgress": {"key": "mail:7", "lease": 60.0},
    "LedgerError": {"doing": "keep a dead letter", "where": "h:1/0", "error": OSError("no way")},
    "LetterNotFound": {"id": "7"},
    "Unavailable": {"retry_in": 1.5, "last": ValueError("x")},
    "Undelivered": {"deliveries": 5},
    "Unreadable": {"reason": "its text is damaged"},
    "UnreadableLetter": {"id": "7", "reason": "it has no 'node'"},
}
TEXT_ONLY = ("EmitError", "GraphError", "NodeError", "DispatchError", "Reject", "Retry")


def make(name: str) -> EmitError:
    made = getattr(errors, name)
    if name in TEXT_ONLY:
        return made("a text")  # type: ignore[no-any-return]
    if name in ("HostError", "ResultError"):
        return made("a text", node="app.node")  # type: ignore[no-any-return]
    required = inspect.signature(made).parameters
    given = dict(ARGUMENTS[name])
    for extra, value in (("node", "app.node"), ("uptime", 2.5), ("calls", 7), ("served", 7)):
        if extra in required:
            given[extra] = value
    return made(**given)  # type: ignore[no-any-return]


def notes(error: BaseException) -> list[str]:
    """Return the notes below the traceback (an attribute from Python 3.11 on)."""
    return list(vars(error)["__notes__"])


def test_every_exception_is_public() -> None:
    """Every exception of the module is in ``__all__``, and all have one root."""
    there = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException)
    }
    assert set(errors.__all__) == there
    assert all(issubclass(getattr(errors, name), EmitError) for name in there)


@pytest.mark.parametrize(("retry", "kind"), [(False, Reject), (True, Retry), (None, None)])
def test_a_refusal_in_another_process_is_a_refusal(retry: bool | None, kind: Any) -> None:
    """A caller tells it from a failure by its class, also when it was pickled or copied."""
    made = RemoteError(node="a", type="Reject", message="no", retry=retry, after=1.5)
    for error in (made, pickle.loads(pickle.dumps(made)), copy.copy(made)):
        assert [k for k in (Reject, Retry) if isinstance(error, k)] == ([kind] if kind else [])
        assert isinstance(error, RemoteError)
        assert type(error).__name__ == "RemoteError"
        assert (error.retry, error.after, str(error)) == (retry, 1.5, '"a": Reject: no')


@pytest.mark.parametrize("after", [-1, float("inf"), float("nan")])
def test_a_retry_after_no_time(after: float) -> None:
    """A wait that can't be is refused where it is asked for."""
    with pytest.raises(ValueError, match="after must be seconds"):
        Retry(after=after)


def test_whose_fault_it_is() -> None:
    """A wrong declaration and a misfit are ValueErrors too; the sides are told apart by class."""
    assert issubclass(GraphError, ValueError)
    assert ResultError.__mro__[1:3] == (NodeError, EmitError)
    assert issubclass(ResultError, ValueError)
    assert issubclass(errors.RemoteError, NodeError)
    sides = [name for name in errors.__all__ if issubclass(getattr(errors, name), NodeError)]
    assert not [name for name in sides if issubclass(getattr(errors, name), HostError)]


@pytest.mark.parametrize("name", errors.__all__)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_pickles_with_its_attributes(name: str, protocol: int) -> None:
    """Queues pickle exceptions: text, attributes and notes survive, but no sample of a message."""
    error = make(name)
    vars(error)["__notes__"] = [*vars(error).get("__notes__", ()), "a note"]
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert (str(again), again.args) == (str(error), error.args)
    kept = {name: value for name, value in vars(error).items() if name != "sample"}
    assert {**vars(again), "last": None} == {**kept, "last": None}
    assert getattr(again, "sample", "") == ""
    assert notes(again)[-1] == "a note"


@pytest.mark.parametrize("name", errors.__all__)
def test_copies(name: str) -> None:
    """A copy says the same."""
    error = make(name)
    assert str(copy.copy(error)) == str(error)
    assert getattr(copy.copy(error), "may_have_run", None) == getattr(error, "may_have_run", None)


@pytest.mark.parametrize(
    "name",
    sorted(
        {*ARGUMENTS}
        - {"AmbiguousLetter", "InProgress", "LedgerError", "LetterNotFound", "UnreadableLetter"}
    ),
)
def test_texts_name_the_node_in_one_line(name: str) -> None:
    """The text is one line that names the node; what the node wrote is a note, not text."""
    text = str(make(name))
    assert "\n" not in text
    assert "the end" not in text
    assert text.startswith('"app.node"')


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("StartTimeout", "start_timeout = 1.5 s"),
        ("CallTimeout", "timeout = 1.5 s"),
        ("FrameTooLarge", "max_frame = 10 bytes"),
        ("PoolTimeout", "acquire_timeout = 1.5 s"),
    ],
)
def test_a_limit_is_named_with_its_value(name: str, setting: str) -> None:
    """An error about a limit names the setting and what it was."""
    assert setting in str(make(name))


def test_what_a_node_wrote_cannot_drive_a_terminal() -> None:
    """A sample is escaped to printable ASCII."""
    error = make("ProtocolError")
    assert error.sample == r"\x1b[31mred"  # type: ignore[attr-defined]
    assert errors.escape(b"a\n\xff\x1b") == r"a\n\\xff\x1b"


def test_stderr_is_a_note() -> None:
    """The last of stderr is shown below the traceback, and not where there was none."""
    assert "the end" in notes(make("CallTimeout"))[0]
    assert not [note for note in getattr(make("StartError"), "__notes__", []) if "stderr" in note]


def test_a_start_error_begins_with_the_cause() -> None:
    """The fault and the advice come before the command, which is cut if it is long."""
    script = "while true\n  sleep 1\n" * 20
    made = errors.StartError(
        node="app.node",
        argv=("/usr/bin/ruby", "/opt/emit/launch.rb", "-e", script, "nodes/words.rb"),
        reason="it could not load: NameError: no word",
        hint="words.rb:3",
    )
    says, command = str(made).split("; its command: ")
    assert says == (
        '"app.node" cannot be started: it could not load: NameError: no word (words.rb:3)'
    )
    assert command.startswith("/usr/bin/ruby /opt/emit/launch.rb -e whi")
    assert command.endswith("while true sleep 1 nodes/words.rb")
    assert len(command) == 120
    assert str(make("StartError")).endswith("; its command: ruby a b.rb")
    assert made.argv[3] == script


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-signal.SIGTERM, "was killed by SIGTERM"),
        (-signal.SIGKILL, "was killed by SIGKILL: out of memory?"),
        (-64, "was killed by SIGRTMAX"),
        (-50, "was killed by signal 50"),
        (None, "ended with an unknown status: is SIGCHLD ignored?"),
    ],
)
def test_describe_status(status: int | None, text: str) -> None:
    """The end of a process is described by its code or by the signal's name."""
    assert errors.describe_status(status) == text
