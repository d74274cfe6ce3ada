"""A program as a node, one process for each message, through the public API."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode
from emit.errors import (
    CallTimeout,
    EncodeError,
    FrameTooLarge,
    GraphError,
    ProcessDied,
    ProtocolError,
    ResultError,
    StartError,
)
from emit.host.host import Host
from tests.faults.nodes import PATH
from tests.hosts import ROOT, count
from tests.leaks import no_leaks

SDK = {"PYTHONPATH": str(ROOT / "sdks" / "python")}

Declare = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_leaks(router: Router) -> Iterator[None]:
    with no_leaks():
        yield
        router.close()


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.fixture
def shell(router: Router) -> Declare:
    """Declare a node that runs a shell script; its arguments are ``$0``, ``$1`` and so on."""

    def declare(script: str, *args: str, fields: Sequence[str] = ("n",), **options: Any) -> Any:
        options = {"mode": "oneshot", "name": "n", **options}
        return router.node(fields, command=["sh", "-c", script, *args], **options)(ShellNode)

    return declare


# Declaring


def test_a_class_as_a_node(router: Router) -> None:
    """Decorated as a class, as the documentation prints it; its name is the class's."""

    @router.node(("n",))
    class CatNode(ShellNode):
        """Gives back what it gets."""

        command = "cat"

    node: Any = CatNode  # a type checker does not see what a decorator makes of a class
    assert node(n=1) == ({"n": 1},)
    assert (CatNode.__name__, CatNode.__doc__) == ("CatNode", "Gives back what it gets.")
    assert router.names == {f"{__name__}.CatNode"}


def test_an_instance_as_a_node(router: Router) -> None:
    """Decorated as an instance, two of one class are two nodes."""

    class Fixed(ShellNode):
        def __init__(self, text: str) -> None:
            super().__init__()
            self.command = ["printf", "%s\\n", text]

    one = router.node(("n",), name="one")(Fixed("1"))
    two = router.node(("n",), "one", name="two")(Fixed("2"))
    assert (one(x=0), two(x=0)) == (({"n": 1},), ({"n": 2},))


def test_results_go_on_in_order(router: Router, shell: Declare) -> None:
    """A program's results reach its subscribers, and say where they are from."""
    heard = []
    numbers = shell("echo 1; echo 2; echo 3", name="numbers")
    router.node((), "numbers", name="hear")(lambda msg: heard.append((msg._origin, msg.n)))
    assert numbers(x=0) == ({"n": 1}, {"n": 2}, {"n": 3})
    assert heard == [("numbers", 1), ("numbers", 2), ("numbers", 3)]


def test_a_program_gets_all_fields_and_the_origin(router: Router, shell: Declare) -> None:
    """Beside its fields a message has ``_origin``, the name of the node that it comes from."""
    heard = []
    shell('echo "[$(cat)]"', entry_point=True)
    router.node((), "n", name="hear")(lambda msg: heard.append(msg.n))
    router(a=1, b="two")
    assert heard == [[{"a": 1, "b": "two", "_origin": "__entry_point"}]]


@pytest.mark.parametrize(
    "command", ["printf '%s\\n' '\"a b\"' $HOME", ["printf", "%s\\n", '"a b"', "$HOME"]]
)
def test_a_command_is_split_but_no_shell_sees_it(router: Router, command: Any) -> None:
    """A string and a list mean the same; nothing in them is expanded."""

    class Plain(ShellNode):
        def deserialize(self, msg: str | bytes) -> Any:
            return msg

    node = router.node(("n",), name="n", command=command)(Plain)
    assert [result["n"] for result in node(x=0)] == ['"a b"', "$HOME"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("ruby 'words.rb", "No closing quotation"),
        ("", "command must be a string or a list of strings"),
        ("  ", "command must be"),
        ([], "command must be"),
        (["ruby", 1], "command must be"),
        (None, "command"),
        (7, "command"),
    ],
)
def test_a_command_that_is_none(router: Router, command: Any, says: str) -> None:
    """It is refused when it is declared, with the node's name; nothing is registered."""
    with pytest.raises(GraphError, match=says) as caught:
        router.node(("n",), name="words", command=command)(ShellNode)
    assert '"words"' in str(caught.value)
    assert router.names == set()


def test_a_node_without_a_command(router: Router) -> None:
    """A subclass that forgot it is told at once."""

    class Forgetful(ShellNode):
        fil = "words.rb"

    says = r'Forgetful": neither a command nor a file is given, .*; is fil meant to be file\?'
    with pytest.raises(GraphError, match=says):
        router.node(("n",))(Forgetful)
    with pytest.raises(GraphError, match=r"is comand meant to be command\?"):
        router.node(("n",), name="words", comand="cat")(ShellNode)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("mode", "forever"),
        ("codec", "xml"),
        ("timeout", 0),
        ("timeout", -1.0),
        ("timeout", "30"),
        ("timeout", None),
        ("timeout", True),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("start_timeout", 0),
        ("acquire_timeout", 0),
        ("size", 0),
        ("size", 1.5),
        ("min_idle", -1),
        ("window", 0),
        ("max_attempts", 0),
        ("max_calls", 0),
        ("max_age", 0),
        ("max_rss", 100),
        ("idle_timeout", 0),
        ("jitter", 2),
        ("max_frame", 0),
        ("max_frame", 2**24),
        ("max_results", 0),
        ("stop_grace", -1),
        ("term_grace", -1),
        ("backoff", -1),
        ("backoff_max", -1),
        ("breaker_failures", 0),
        ("breaker_window", 0),
        ("breaker_open", 0),
    ],
)
def test_wrong_settings(router: Router, setting: str, value: Any) -> None:
    """A value that can't work is refused when it is declared, by node, name and value."""
    with pytest.raises(GraphError) as caught:
        router.node(("n",), name="words", command="cat", **{setting: value})(ShellNode)
    assert '"words"' in str(caught.value)
    assert setting in str(caught.value)
    assert repr(value) in str(caught.value)
    assert router.names == set()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size": 1, "min_idle": 2}, "min_idle must not be over size"),
        ({"backoff": 2.0, "backoff_max": 1.0}, "backoff must not be over backoff_max"),
        ({"timeout": 1.0, "acquire_timeout": 2.0}, "acquire_timeout must not be over timeout"),
    ],
)
def test_settings_in_the_wrong_order(router: Router, settings: dict[str, Any], says: str) -> None:
    """Two settings that contradict each other are refused as well."""
    with pytest.raises(GraphError, match=says):
        router.node(("n",), command="cat", **settings)(ShellNode)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("cwd", 5),
        ("env", ["A"]),
        ("env", {"A": 1}),
        ("env", {"A=B": "1"}),
        ("pass_env", "HOME"),
        ("pass_env", [5]),
        ("dead_letter", 5),
        ("dead_letter", lambda: None),
        ("limits", {"cpu": 1}),
    ],
)
def test_wrong_surroundings(router: Router, setting: str, value: Any) -> None:
    """Values that would fail only at a start or at the first dead letter are refused at once."""
    with pytest.raises(GraphError, match='"words"') as caught:
        router.node(("n",), name="words", command="cat", **{setting: value})(ShellNode)
    assert setting in str(caught.value) or "environment variable" in str(caught.value)
    assert router.names == set()


def test_a_dead_letter_function_in_a_class(router: Router) -> None:
    """A plain function would be a method and fail at the first letter; it is refused at once."""

    def keep(letter: Any) -> None:
        """Stands for a user's own."""

    class Bound(ShellNode):
        command = "cat"
        dead_letter = keep  # type: ignore[assignment]

    class Unbound(Bound):
        dead_letter = staticmethod(keep)

    with pytest.raises(GraphError, match=r"staticmethod\(function\)"):
        router.node(("n",), name="bound")(Bound)
    router.node(("n",), name="unbound")(Unbound)
    router.node(("n",), name="builtin", dead_letter=[].append)(Unbound)


def test_one_object_is_one_node(router: Router) -> None:
    """A second declaration would change the settings of the first."""

    class Cat(ShellNode):
        command = "cat"

    cat = Cat()
    node = router.node(("n",), name="first", timeout=5)(cat)
    with pytest.raises(GraphError, match='"second": this object is "first" already'):
        router.node(("n",), name="second", timeout=0.001)(cat)
    assert node(n=1) == ({"n": 1},)


def test_an_unknown_option_lists_those_there_are(router: Router) -> None:
    """A misspelt setting is an error, not a setting that does nothing."""
    with pytest.raises(GraphError, match=r"no option 'timout' \(nearest: timeout") as caught:
        router.node(("n",), name="words", command="cat", timout=3)(ShellNode)
    assert all(f" {option}" in str(caught.value) for option in ("timeout", "mode", "pass_env"))


def test_an_option_wins_over_the_class(router: Router) -> None:
    """An option of ``router.node`` counts for this node, and leaves the class alone."""

    class Cat(ShellNode):
        command = "false"

    assert router.node(("n",), name="n", command="cat")(Cat)(n=1) == ({"n": 1},)
    assert Cat.command == "false"


# What the program gets


def test_cwd(shell: Declare, tmp_path: Path) -> None:
    """The program starts in ``cwd``, and in the host's directory without one."""
    script = 'printf \'"%s"\\n\' "$(pwd -P)"'
    here = tmp_path.resolve()
    assert shell(script, cwd=str(here))(x=0) == ({"n": str(here)},)
    assert shell(script, name="plain")(x=0) == ({"n": os.getcwd()},)


def test_a_relative_command_is_found_in_cwd(router: Router, tmp_path: Path) -> None:
    """A command with a slash is looked for beside the program's own directory."""
    script = tmp_path / "one"
    script.write_text("#!/bin/sh\necho 1\n")
    script.chmod(0o755)
    node = router.node(("n",), name="n", command="./one", cwd=str(tmp_path))(ShellNode)
    assert node(x=0) == ({"n": 1},)


def test_the_environment_has_no_secret(shell: Declare, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable passes if it is named; ``env`` adds others; a secret does not pass by chance."""
    for name in ("EMIT_TEST_TOKEN", "EMIT_TEST_PLACE", "EMIT_TEST_OTHER"):
        monkeypatch.setenv(name, f"canary {name}")
    node = shell(
        f"{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'",
        env={"ADDED": "by env"},
        pass_env=(*ShellNode.pass_env, "EMIT_TEST_P*"),
    )
    (result,) = node(x=0)
    assert result["n"]["ADDED"] == "by env"
    assert result["n"]["EMIT_TEST_PLACE"] == "canary EMIT_TEST_PLACE"
    assert "PATH" in result["n"]
    assert "EMIT_TEST_TOKEN" not in result["n"]
    assert "EMIT_TEST_OTHER" not in result["n"]
    assert "EMIT_PROBE" not in result["n"]


@pytest.mark.parametrize("value", [1, "\N{GREEK SMALL LETTER ALPHA}\u2028", None, [1, {"a": 2.5}]])
@pytest.mark.parametrize("codec", [None, "json", "msgpack"])
def test_codecs(shell: Declare, codec: str | None, value: Any) -> None:
    """Values come back as they went, as JSON (the default) or as msgpack."""
    assert shell("cat", codec=codec)(n=value) == ({"n": value},)


def test_msgpack_carries_what_json_cannot(shell: Declare) -> None:
    """Bytes and infinity pass; each result is followed by a newline."""
    node = shell("cat; echo; printf '\\300\\n'", codec="msgpack")
    assert node(n=b"\0\xff\n") == ({"n": b"\0\xff\n"}, {"n": None})
    assert node(n=float("inf"))[0] == {"n": float("inf")}


def test_what_json_cannot_carry_is_refused(shell: Declare, tmp_path: Path) -> None:
    """The error names the field's path, suggests msgpack, and nothing has been started."""
    trace = tmp_path / "started"
    node = shell('touch "$0"; cat', str(trace))
    with pytest.raises(EncodeError, match=r"items\[1\]\.price.*msgpack") as caught:
        node(items=[{"price": 1.0}, {"price": float("nan")}])
    assert (caught.value.path, caught.value.may_have_run) == ("items[1].price", False)
    for value in (b"x", "\ud800", 2**64):
        with pytest.raises(EncodeError):
            node(n=value)
    assert not trace.exists()


def test_a_message_over_the_limit(shell: Declare) -> None:
    """It is refused before anything starts; the error names the limit."""
    with pytest.raises(FrameTooLarge, match="max_frame = 1024") as caught:
        shell("cat", max_frame=1024)(n="x" * 2000)
    assert not caught.value.may_have_run


# What it answers


def test_no_results(shell: Declare) -> None:
    """A program that writes nothing has emitted nothing; that is no error."""
    assert shell("cat >/dev/null")(n=1) == ()


def test_blank_lines_and_no_last_line_end(shell: Declare) -> None:
    """Only lines with something in them are results."""
    assert shell("printf '1\\n\\n  \\n2\\r\\n3'")(x=0) == ({"n": 1}, {"n": 2}, {"n": 3})


def test_a_list_fills_several_fields(shell: Declare) -> None:
    """A list of the right length fills the fields, and so does a mapping with their names."""
    node = shell("echo '[1, 2]'; echo '{\"b\": 4, \"a\": 3}'", fields=("a", "b"))
    assert node(x=0) == ({"a": 1, "b": 2}, {"a": 3, "b": 4})


def test_a_list_is_one_value_for_one_field(shell: Declare) -> None:
    """A list is the value of a single field."""
    assert shell("echo '[1]'")(x=0) == ({"n": [1]},)


@pytest.mark.parametrize("answer", ["[1, 2, 3]", "[1]", "1", '{"a": 1}', '{"a":1,"b":2,"c":3}'])
def test_results_that_do_not_fit(router: Router, shell: Declare, answer: str) -> None:
    """A result that does not fit the fields is an error, and nothing before it is sent on."""
    heard: list[Any] = []
    node = shell(f"echo '[1, 2]'; echo '{answer}'", fields=("a", "b"))
    router.node((), "n", name="hear")(heard.append)
    with pytest.raises(ResultError, match=r"its fields are \(a, b\)"):
        node(x=0)
    assert heard == []


@pytest.mark.parametrize("line", ["hello world", "{'n': 1}", "NaN", "1 2", "[1,"])
def test_a_line_that_is_no_result(shell: Declare, line: str) -> None:
    """The error names the node and says which line it is; what it says is an attribute alone."""
    with pytest.raises(ProtocolError) as caught:
        shell('echo 1; echo; echo "$0"; echo 2', line)(x=0)
    assert caught.value.sample == line
    where = f'"n": line 3 of its output, of {len(line)} bytes, is no JSON: '
    assert str(caught.value).startswith(where)
    assert line not in str(caught.value)


def test_a_sample_is_safe_to_print(shell: Declare) -> None:
    """Characters that could drive a terminal are escaped, and a long line is cut."""
    with pytest.raises(ProtocolError) as caught:
        shell("printf '\\033[2J%1000s\\n' x")(x=0)
    assert caught.value.sample.startswith("\\x1b[2J")
    assert len(caught.value.sample) < 100


def test_a_failed_program_is_gone_while_its_error_is_kept(shell: Declare, tag: str) -> None:
    """A caller that keeps the exception keeps no process."""
    with pytest.raises(ProtocolError) as caught:
        shell("echo nonsense; sleep 1000; :", tag)(x=0)
    assert count(tag, 0) == 0
    assert caught.value.node == "n"


def test_too_many_results(shell: Declare, tag: str) -> None:
    """An endless list of results ends at ``max_results``, and so does the program."""
    with pytest.raises(ResultError, match="max_results = 1000"):
        shell("while :; do echo 1; done", tag, max_results=1000)(x=0)
    assert count(tag, 0) == 0


def test_a_result_over_the_limit(shell: Declare) -> None:
    """A line that does not end is given up at ``max_frame``."""
    with pytest.raises(FrameTooLarge, match="max_frame = 2000"):
        shell("while :; do printf xxxxxxxx; done", max_frame=2000)(x=0)


def test_much_out_while_much_goes_in(router: Router) -> None:
    """50 MB of results and a message of 10 MB do not wait for each other."""
    script = """if True:
        import json, os, sys
        first = os.read(0, 1)
        for _ in range(50):
            print(json.dumps("x" * 1_000_000))
        print(len(first + sys.stdin.buffer.read()))
    """
    command = [sys.executable, "-S", "-c", script]
    node = router.node(("n",), name="n", command=command, mode="oneshot")(ShellNode)
    *long, size = node(text="y" * 10_000_000)
    assert [len(result["n"]) for result in long] == [1_000_000] * 50
    assert size == {"n": 10_000_000 + len('{"text":""}\n')}


def test_a_program_that_never_reads(shell: Declare) -> None:
    """It need not read its message."""
    assert shell("echo 1")(text="x" * 10_000_000) == ({"n": 1},)


def test_stderr_alone_is_no_failure(shell: Declare, caplog: pytest.LogCaptureFixture) -> None:
    """Its lines are logged for the node, each with the level that it announces."""
    caplog.set_level(logging.DEBUG, "emit.node.n")
    assert shell("echo E! disk >&2; echo '[WARN] slow' >&2; echo fine >&2; echo 1")(x=0)
    records = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "emit.node.n"]
    assert records == [("ERROR", "disk"), ("WARNING", "slow"), ("INFO", "fine")]


# How it fails


def test_exit_status_and_stderr(router: Router, shell: Declare) -> None:
    """A failure carries the exit code and the end of stderr, and sends no result on."""
    heard: list[Any] = []
    node = shell("echo 1; echo no such user >&2; exit 3")
    router.node((), "n", name="hear")(heard.append)
    with pytest.raises(ProcessDied, match='"n" ended with exit code 3') as caught:
        node(x=0)
    error = caught.value
    assert (error.exit_code, error.signal, error.may_have_run) == (3, None, True)
    assert error.stderr_tail == "no such user\n"
    assert any("no such user" in note for note in getattr(error, "__notes__", ()))
    assert heard == []


def test_a_signal_has_its_name(shell: Declare) -> None:
    """A program that was killed is reported by the signal's name."""
    with pytest.raises(ProcessDied, match="killed by SIGKILL") as caught:
        shell("echo 1; kill -9 $$")(x=0)
    assert (caught.value.exit_code, caught.value.signal) == (None, "SIGKILL")


def test_the_timeout_kills_the_whole_tree(shell: Declare, tag: str) -> None:
    """The error names the setting, and all that the program had started is gone."""
    script = 'sh -c "sleep 1000; :" "$0" & setsid sh -c "sleep 1000; :" "$0" & wait'
    with pytest.raises(CallTimeout, match=r"timeout = 0\.3 s"):
        shell(script, tag, timeout=0.3)(x=0)
    assert count(tag, 0) == 0


def test_a_grandchild_that_keeps_stdout_open(shell: Declare, tag: str) -> None:
    """The program's own end is the end."""
    assert shell('sh -c "sleep 1000; :" "$0" & echo 1', tag)(x=0) == ({"n": 1},)
    assert count(tag, 0) == 0


def test_one_failure_leaves_the_node_usable(shell: Declare, tmp_path: Path) -> None:
    """The next message is served as if nothing had been."""
    node = shell('mkdir "$0" && exit 1; echo 1', str(tmp_path / "first"))
    with pytest.raises(ProcessDied):
        node(x=0)
    assert node(x=0) == ({"n": 1},)


def script(folder: Path, text: str, mode: int) -> str:
    path = folder / "script"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_hints_for_programs_that_do_not_start(router: Router, tmp_path: Path) -> None:
    """The usual causes each have their reason, and what to do about it."""
    plain = script(tmp_path, "#!/no/such/ruby\n", 0o755)
    for command, options, says in (
        (
            "no-such-command",
            {"env": {"PATH": "/usr/bin"}},
            "not found.*looked for no-such-command in /usr/bin",
        ),
        ("/no/such/command", {}, "not found.*/no/such/command does not exist"),
        (plain, {}, "bad interpreter /no/such/ruby.*install it"),
        ("cat", {"cwd": "/no/such/folder"}, "/no/such/folder does not exist.*check cwd"),
    ):
        node = router.node(("n",), name=says, command=[command], **options)(ShellNode)
        with pytest.raises(StartError, match=says) as caught:
            node(n=1)
        assert not caught.value.may_have_run
    script(tmp_path, "#!/bin/sh\n", 0o644)
    node = router.node(("n",), name="mode", command=[plain])(ShellNode)
    with pytest.raises(StartError, match=r"not executable.*chmod \+x"):
        node(n=1)


# What a subclass can change


def test_get_command_and_get_cwd(router: Router, tmp_path: Path) -> None:
    """Both can be computed; each message asks again."""
    (tmp_path / "here").write_text("1\n")

    class Computed(ShellNode):
        asked = 0

        def get_command(self) -> list[str]:
            type(self).asked += 1
            return ["cat", "here"]

        def get_cwd(self) -> str:
            return str(tmp_path)

    node = router.node(("n",), name="n", mode="oneshot")(Computed)
    assert node(x=0) == node(x=0) == ({"n": 1},)
    assert Computed.asked == 2


def test_a_computed_command_that_is_no_list(router: Router) -> None:
    """A string is not taken for a list of its letters."""

    class Computed(ShellNode):
        def get_command(self) -> Any:
            return "cat"

    node = router.node(("n",), name="n")(Computed)
    with pytest.raises(GraphError, match=r"get_command\(\) must return a list of strings"):
        node(n=1)


def test_deserialize(router: Router) -> None:
    """Bare lines of text are results of a program whose node reads them so."""

    class Text(ShellNode):
        command = ["printf", "one\\n\\ntwo words\\n\\316\\261"]  # noqa: RUF012

        def deserialize(self, msg: str | bytes) -> Any:
            return str(msg).upper()

    node = router.node(("n",), name="n")(Text)
    assert [result["n"] for result in node(x=0)] == ["ONE", "TWO WORDS", "\u0391"]


def test_an_overridden_deserialize_keeps_the_limit(router: Router) -> None:
    """A line over ``max_frame`` is given up however it would be read."""

    class Text(ShellNode):
        def deserialize(self, msg: str | bytes) -> Any:
            return len(msg)

    command = ["sh", "-c", "printf '%01000d\\n' 1; while :; do printf xxxxxxxx; done"]
    node = router.node(("n",), name="n", command=command, max_frame=2000)(Text)
    with pytest.raises(FrameTooLarge, match="max_frame = 2000"):
        node(x=0)


def test_call(router: Router) -> None:
    """``__call__`` can look at the message first, and at the results after."""

    class Picky(ShellNode):
        command = "cat"

        def __call__(self, msg: Any) -> Any:
            if msg.n >= 0:
                yield from ([result["n"]] for result in super().__call__({"n": msg.n}))

    node = router.node(("n",), name="n")(Picky)
    assert (node(n=1), node(n=-1)) == (({"n": [1]},), ())


def test_stream(router: Router, shell: Declare, tmp_path: Path) -> None:
    """A result is passed on with ``stream=True`` while the program is still at the next."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    heard = []

    def hear(msg: Any) -> None:
        heard.append(msg.n)
        if msg.n == 1:
            gate.write_text("\n")  # blocks until the program waits for it

    node = shell('echo 1; read -r _ <"$0"; echo 2', str(gate), stream=True)
    router.node((), "n", name="hear")(hear)
    assert node(x=0) == ({"n": 1}, {"n": 2})
    assert heard == [1, 2]


def test_a_subscriber_that_fails_ends_a_stream(router: Router, shell: Declare, tag: str) -> None:
    """The program that was still writing is killed."""

    def fail(msg: Any) -> None:
        raise KeyError(msg.n)

    node = shell("echo 1; sleep 1000; :", tag, stream=True)
    router.node((), "n", name="fail")(fail)
    with pytest.raises(KeyError) as caught:
        node(x=0)
    assert caught.value.args == (1,)
    assert count(tag, 0) == 0


def test_an_abandoned_generator_leaves_nothing(tag: str) -> None:
    """A caller that takes only one result of a ShellNode leaves no process behind."""
    node = ShellNode()
    node.command = ["sh", "-c", "echo 1; sleep 1000; :", tag]
    results = node({"x": 0})
    assert next(results) == 1
    results.close()
    assert count(tag, 0) == 0


# Mode "auto"

PIDS = """
import os, sys
sys.path.insert(0, sys.argv[1])
from emit_sdk import serve

def pid(msg):
    yield os.getpid()

serve(pid)
"""


def test_a_program_with_an_sdk_becomes_persistent(router: Router, tag: str) -> None:
    """The first message asks it; from the second on it is one process."""
    command = [sys.executable, "-c", PIDS, SDK["PYTHONPATH"], tag]
    node = router.node(("pid",), name="n", command=command, size=1)(ShellNode)
    first, second, third = (node(x=0)[0]["pid"] for _ in range(3))
    assert first != second == third
    assert count(tag, 1) == 1
    router.close()
    assert count(tag, 0) == 0


def test_min_idle_processes_before_the_first_message(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``with router:`` starts them; and nothing for a node that wants none, or is one-shot."""
    command = [sys.executable, "-c", "from emit_sdk import serve; serve(lambda msg: msg.x)"]
    options: dict[str, Any] = {"command": command, "env": SDK, "size": 2}
    for name, more in (
        ("ahead", {"mode": "persistent", "min_idle": 2}),
        ("later", {"mode": "persistent"}),
        ("oneshot", {"mode": "oneshot", "min_idle": 1}),
    ):
        router.node(("n",), name=name, **options, **more)(ShellNode)
    with closing(Host()) as host:
        monkeypatch.setattr("emit.host.host.running", host)
        with router:
            nodes = host.snapshot()["nodes"]
            assert list(nodes) == ["ahead"]
            end = time.monotonic() + 60
            while nodes["ahead"]["idle"] < 2 and time.monotonic() < end:
                time.sleep(0.01)
                nodes = host.snapshot()["nodes"]
            assert (nodes["ahead"]["idle"], nodes["ahead"]["calls"]) == (2, 0)


def test_an_unmodified_program_stays_oneshot(shell: Declare) -> None:
    """A program that knows nothing of Emit gets a process for each message."""
    node = shell("echo $$; cat >/dev/null", mode="auto")
    assert len({node(x=0)[0]["n"] for _ in range(3)}) == 3


def test_many_messages_of_one_origin(router: Router, shell: Declare) -> None:
    """Each message of one origin has a process of its own, and they keep their order."""
    heard = []
    router.node(("n",), entry_point=True, name="entry")(lambda msg: (yield from range(4)))
    shell('echo "[$$, $(cat)]"', fields=("pid", "got"), subscribe_to="entry", mode="auto")
    router.node((), "n", name="hear")(lambda msg: heard.append((msg.pid, msg.got["n"])))
    router(x=0)
    assert [number for _, number in heard] == [0, 1, 2, 3]
    assert len({pid for pid, _ in heard}) == 4


def test_only_an_unasked_program_is_probed(shell: Declare) -> None:
    """``EMIT_PROBE`` is set for the first message in mode "auto" and never again."""
    node = shell('echo "${EMIT_PROBE:-0}"', mode="auto", name="auto")
    assert [node(x=0)[0]["n"] for _ in range(3)] == [1, 0, 0]
    assert shell('echo "${EMIT_PROBE:-0}"')(x=0) == ({"n": 0},)


END = '{"op":"end","id":null}'


@pytest.mark.parametrize("mode", ["auto", "oneshot"])
@pytest.mark.parametrize(
    ("caps", "end", "results"),
    [
        ([], "", (1, 2)),  # an SDK that says no end is taken at its exit code
        (["cancel"], '{"op":"end","id":null}', (1, 2, {"op": "end", "id": None})),
        (["end"], '{"op":"end","id":null}', (1, 2)),
        (
            ["end"],
            '{"op":"end","id":null}\n{"op": "end", "id": null}',
            (1, 2, {"op": "end", "id": None}),
        ),
        (["end"], "", None),
        (["end"], "3", None),
    ],
)
def test_an_sdk_says_that_it_has_finished(
    router: Router, mode: str, caps: list[str], end: str, results: tuple[Any, ...] | None
) -> None:
    """A run that is not finished has failed, with exit code 0, too; the end is no result."""
    ready = json.dumps({"op": "ready", "v": 1, "caps": caps})
    code = f"print({ready!r} if 'EMIT_PROBE' in os.environ else '', 1, 2, {end!r}, sep='\\n')"
    command = [sys.executable, "-c", f"import os; {code}"]
    node = router.node(("n",), name="n", command=command, mode=mode)(ShellNode)
    if results is None:
        with pytest.raises(ProcessDied, match="ended with exit code 0 before it had answered"):
            node(x=0)
    else:
        assert tuple(result["n"] for result in node(x=0)) == results


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_a_program_with_an_sdk_is_long_lived(router: Router, codec: str) -> None:
    """The first message in mode auto asks, in either codec; the others go to one process."""
    code = "import os\nfrom emit_sdk import serve\nserve(lambda msg: os.getpid())"
    options = {"codec": codec, "size": 1, "env": {"PYTHONPATH": PATH}}
    command = [sys.executable, "-c", code]
    node = router.node(("n",), name="n", command=command, mode="auto", **options)(ShellNode)
    with router:
        first, second, third = (node(x=0) for _ in range(3))
    assert first != second == third


def test_a_failure_at_the_first_message_decides_nothing(shell: Declare, tmp_path: Path) -> None:
    """A program that failed before it could answer is asked again."""
    node = shell('mkdir "$0" && exit 1; echo "$EMIT_PROBE"', str(tmp_path / "x"), mode="auto")
    with pytest.raises(ProcessDied):
        node(x=0)
    assert node(x=0) == ({"n": 1},)


def test_text_survives_any_locale(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text beyond ASCII survives a host whose locale is C."""
    for name in ("LANG", "LC_ALL"):
        monkeypatch.setenv(name, "C")
    text = "\N{SNOWMAN} \N{MUSICAL SYMBOL G CLEF}"
    code = "import json, sys; print(json.dumps(json.load(sys.stdin)['n'], ensure_ascii=False))"
    node = router.node(("n",), name="n", command=[sys.executable, "-c", code])(ShellNode)
    assert node(n=text) == ({"n": text},)
