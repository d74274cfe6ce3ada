"""Output of programs that breaks the protocol, and output that may look odd but is allowed."""

from __future__ import annotations

import logging
import re
import select
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest

from emit import Router
from emit.errors import (
    CallTimeout,
    FrameTooLarge,
    ProcessDied,
    ProtocolError,
    RemoteError,
    ResultError,
    StartError,
    StartTimeout,
)
from emit.multilang import ShellNode
from tests.faults.nodes import CHAOS, PATH, pool, raw, sdk, started
from tests.hosts import run_host

pytestmark = pytest.mark.usefixtures("leak_free")

#: Answers each message with its process id and the attempt it is told.
PIDS = """
for id, msg in calls():
    end(id, os.getpid(), msg["attempt"])
"""


def logged(caplog: pytest.LogCaptureFixture, level: str) -> list[str]:
    found = [r for r in caplog.records if r.name == "emit.node.n" and r.levelname == level]
    return [record.getMessage() for record in found]


# Prints


def test_prints_of_an_sdk_program(caplog: pytest.LogCaptureFixture) -> None:
    """Prints before, between and behind frames go to stderr, whole, a child's too."""
    caplog.set_level(logging.INFO)
    program = sdk("""
        import subprocess

        take_wire()
        print("before")

        def double(n):
            print("between", end="")
            subprocess.run(["echo", " a child"])
            os.write(1, b"raw\\n")
            yield n * 2
            print("behind")

        serve(double)
    """)
    with pool(program) as node:
        assert [node.call({"n": n}) for n in (1, 2)] == [[2], [4]]
        assert node.snapshot()["strays"] == 0
    lines = [line for line in logged(caplog, "INFO") if "is ready after" not in line]
    assert lines[0] == "before"
    assert sorted(lines[1:]) == sorted(["between", " a child", "raw", "behind"] * 2) or sorted(
        lines[1:]
    ) == sorted(["between a child", "raw", "behind"] * 2)


def test_prints_of_a_program_without_an_sdk(caplog: pytest.LogCaptureFixture) -> None:
    """They are told from frames; the first is a warning with a hint, the others are counted."""
    caplog.set_level(logging.INFO)
    program = raw("""
        write("before\\n")
        for id, msg in calls():
            write('{"half": ')
            end(id, "done")
            write("behind")
    """)
    with pool(program) as node:
        assert [node.call({}) for _ in range(3)] == [["done"]] * 3
        figures = node.snapshot()
    assert (figures["starts"], figures["strays"]) == (1, 4)
    (warning,) = logged(caplog, "WARNING")
    assert "before" in warning
    assert "print to stderr" in warning


def test_an_endless_line() -> None:
    """Text without an end is dropped as it comes; the call ends at its deadline."""
    said = run_host(
        textwrap.dedent("""
        import psutil
        from tests.faults.nodes import pool, raw, started

        for start in ("x", '{"op": "end", "id": 1, "msgs": ["', "{"):
            endless = raw(f'''
                for id, msg in calls():
                    write({start!r})
                    while True:
                        write("x" * 65536)
            ''')
            limits = {"timeout": 1.5 if start == "x" else 60.0, "max_frame": 1 << 20}
            try:
                with pool(endless, max_attempts=1, **limits) as node:
                    started(node)
                    node.call({})
            except HostError as error:
                print(type(error).__name__, error.timeout if start == "x" else error.limit)
        print(psutil.Process().memory_info().rss < 100 << 20)
        """)
    )
    assert said == "CallTimeout 1.5\nFrameTooLarge 1048576\nFrameTooLarge 1048576\nTrue\n"


# Cut and broken frames


def test_a_frame_cut_at_every_byte() -> None:
    """Its message runs again on a fresh process, and nothing of the half answer is used."""
    answer = '\n{"op":"end","id":1,"msgs":["whole"]}\n'
    program = raw(f"""
        for id, msg in calls():
            write({answer!r}[: msg["cut"] if msg["attempt"] == 1 else None])
            sys.exit()
    """)
    with pool(program, limits=None) as node:
        cuts = range(len(answer) - 1)
        assert [node.call({"cut": cut}) for cut in cuts] == [["whole"]] * len(cuts)
        assert node.snapshot()["retries"] == {"ProcessDied": len(cuts)}


def test_a_stream_cut_at_every_byte() -> None:
    """Results before the cut have gone on, so its message is not tried again."""
    out, answer = '\n{"op":"out","id":1,"msgs":[1,2]}\n', '\n{"op":"end","id":1,"msgs":[3]}\n'
    program = raw(f"""
        for id, msg in calls():
            write({out + answer!r}[: msg["cut"]])
            sys.exit()
    """)
    with pool(program, limits=None) as node:
        for cut in (0, len(out) - 2, len(out), len(out + answer) - 2):
            stream = node.stream({"cut": cut})
            expected = [1, 2] if cut >= len(out) else []
            assert [next(stream) for _ in expected] == expected
            with pytest.raises(ProcessDied):
                next(stream)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('{"op":"end","id":"1","msgs":[]}', "the id of 'end' is str, not int"),
        ('{"op":"end","msgs":[]}', "the id of 'end' is missing"),
        ('{"op":"end","id":1.0,"msgs":[]}', "the id of 'end' is float, not int"),
        ('{"op":"end","id":true,"msgs":[]}', "the id of 'end' is bool, not int"),
        ('{"op":"end","id":1,"msgs":7}', "the msgs of 'end' is int, not list"),
        ('{"op":"out","id":1}', "the msgs of 'out' is missing"),
        ('{"op":"err","id":1,"message":"m"}', "the type of 'err' is missing"),
        ('{"op":"end","id":1,"msgs":[NaN]}', "a frame is no JSON"),
        ('{"op":"end","id":1,"msgs":[18446744073709551616]}', "beyond 64 bits"),
        ('{"op":"end","id":1,"msgs":["\\xff"]}', "a frame is no JSON"),
        ('{"op":"end","id":1,"msgs":[1{"op":"end"}', "a frame is no JSON"),
        ('{"op":"call","id":1,"msg":{}}', "which only the host sends"),
        ('{"op":"ready","v":1}', "wrote 'ready' while ready"),
    ],
)
def test_a_frame_that_breaks_the_protocol(answer: str, reason: str) -> None:
    """An error that names the reason; the program is killed, the next message finds another."""
    program = raw(f"""
        for id, msg in calls():
            if msg["break"]:
                write({answer.encode("latin-1")!r} + b"\\n")
                hang()
            end(id, os.getpid())
    """)
    with pool(program, max_attempts=1) as node:
        (first,) = node.call({"break": False})
        with pytest.raises(ProtocolError) as caught:
            node.call({"break": True})
        assert not psutil.pid_exists(first)
        assert node.call({"break": False}) != [first]
    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "7", '"text"', "null", '{"no": "op"}', '{"id": 1}'])
def test_json_that_is_no_frame(text: str) -> None:
    """It is a print like any other."""
    program = raw(f"""
        for id, msg in calls():
            write({text!r} + "\\n")
            end(id, "done")
    """)
    with pool(program) as node:
        assert node.call({}) == ["done"]
        assert node.snapshot()["strays"] == 1


NONSENSE = [
    ("end(id, 'second')", "answered what nobody had asked"),
    ("end(id + 7)", "answered what nobody had asked"),
    ('write(\'{"op":"end","id":"x"}\\n\')', "the id of 'end' is str"),
    ("frame(op='err', id=None, type='E', message='m')", "can't go on: E"),
]
ENDS = [("os.close(1)", "closed its stdout"), ("sys.exit(3)", "exit code 3")]


@pytest.mark.parametrize(("behind", "reason"), NONSENSE)
def test_nonsense_with_an_answer(
    behind: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The answer counts if nonsense comes in the same write; the next message gets another process.
    """
    program = raw(f"""
        for id, msg in calls():
            held, os_write = [], os.write
            os.write = lambda fd, data: held.append(bytes(data)) or len(data)
            end(id, os.getpid(), msg["attempt"])
            {behind}
            os_write(1, b"".join(held))
            hang()
    """)
    with pool(program) as node:
        first, attempt = node.call({})
        second, again = node.call({})
        assert first != second
        assert (attempt, again) == (1, 1)
        assert node.snapshot()["retries"] == {}
    assert reason in caplog.text


@pytest.mark.parametrize(("behind", "reason"), NONSENSE + ENDS)
def test_nonsense_behind_an_answer(
    behind: str, reason: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A while after it: the answer counts, the next message is not charged with it."""
    program = raw(f"""
        for id, msg in calls():
            end(id, os.getpid(), msg["attempt"])
            while not os.path.exists(sys.argv[1]):
                time.sleep(0.002)
            {behind}
            hang()
    """)
    read = tmp_path / "read"
    with pool([*program, str(read)]) as node:
        first, attempt = node.call({})
        read.touch()
        _until_something_came(node)
        second, again = node.call({})
        assert first != second
        assert (attempt, again) == (1, 1)
        assert node.snapshot()["retries"] == {}
    assert reason in caplog.text


@pytest.mark.parametrize(("said", "reason"), NONSENSE + ENDS)
def test_nonsense_before_the_end(
    said: str, reason: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Nobody needs the process any more: the host says what it did, and stops it all the same."""
    program = raw(f"""
        for id, msg in calls():
            end(id, "right")
            while not os.path.exists(sys.argv[1]):
                time.sleep(0.002)
            {said}
            hang()
    """)
    read = tmp_path / "read"
    with pool([*program, str(read)], stop_grace=0.1, term_grace=0.1) as node:
        assert node.call({}) == ["right"]
        read.touch()
        _until_something_came(node)
    assert reason in caplog.text


def _until_something_came(node: Any) -> None:
    """
    The idle process has said something on stdout, or closed it; nobody has looked yet. Its stderr
    does not count: of a process that ends Linux closes that a moment before.
    """
    (process,) = node.pool.processes
    select.select([process.child.stdout], [], [])


@pytest.mark.parametrize("mark", ["id=id+100", "id=-id"])
def test_an_answer_to_nobody(mark: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is never matched by order: the call waits for its own, and the process goes."""
    program = raw(f"""
        for id, msg in calls():
            frame(op="end", {mark}, msgs=["wrong"])
            if msg["attempt"] == 1:
                hang()
            end(id, "right")
    """)
    with pool(program, timeout=4.0) as node:
        assert node.call({}) == ["right"]
        figures = node.snapshot()
    assert figures["retries"] == {"CallTimeout": 1}
    assert figures["ends"] == {"failed": 2}
    both = logged(caplog, "WARNING")
    assert ["answered what nobody had asked" in text for text in both] == [True, True]


def test_an_answer_before_any_message() -> None:
    """It is nobody's, even if it guesses the first id."""
    program = raw("""
        hello = read()
        write(line(op="ready", v=1) + line(op="end", id=1, msgs=["wrong"]))
        while True:
            end(read()["id"], "right")
    """)
    with pool(program) as node:
        assert [node.call({}), node.call({})] == [["right"], ["right"]]
        assert node.snapshot()["starts"] == 2


# Many and large


def test_a_million_results() -> None:
    """Streamed they pass through; in a list they end at max_results, and the process is kept."""
    count = 1_000_000 if CHAOS else 200_000
    said = run_host(
        textwrap.dedent(f"""
        import psutil
        from tests.faults.nodes import pool, sdk

        def rss():
            return psutil.Process().memory_info().rss >> 20

        program = sdk("def many(n): yield from range(n)\\nserve(many)")
        with pool(program, max_results=1000) as node:
            assert node.call({{"n": 1000}}) == list(range(1000))
            before = rss()
            print(sum(1 for _ in node.stream({{"n": {count}}})), rss() - before < 20)
            try:
                node.call({{"n": {count}}})
            except ResultError as error:
                print("max_results = 1000" in str(error), rss() - before < 20)
            assert node.call({{"n": 3}}) == [0, 1, 2]
            print(node.snapshot()["starts"])
        """)
    )
    assert said == f"{count} True\nTrue True\n1\n"


def test_large_answers_of_many_threads() -> None:
    """Eight handlers write 1 MB at the same time, and no frame is in another."""
    program = sdk("""
        def fill(n):
            yield chr(65 + n) * (1 << 20)
            print("x" * 5000)
            yield n

        serve(fill, concurrency=8)
    """)
    with pool(program) as node:
        outcomes = list(node.call_many({"n": n % 26} for n in range(32)))
    assert outcomes == [[chr(65 + n % 26) * (1 << 20), n % 26] for n in range(32)]


def test_an_exit_right_behind_a_large_answer() -> None:
    """The whole frame arrives, from an SDK and from a one-shot program."""
    program = sdk("""
        def last(msg):
            yield "x" * (4 << 20)
            os.kill(os.getpid(), signal.SIGTERM)

        serve(last)
    """)

    class Once(ShellNode):
        command = sdk("def last(msg): yield 'x' * (4 << 20)\nserve(last)")
        env = {"PYTHONPATH": PATH}  # noqa: RUF012
        mode = "oneshot"

    with pool(program) as node:
        assert node.call({}) == ["x" * (4 << 20)]
    assert list(Once()({})) == ["x" * (4 << 20)]


def test_a_message_over_max_frame() -> None:
    """It is refused before a byte is written, alone or among others; the process is kept."""
    with pool(raw(PIDS), max_frame=10_000) as node:
        (pid, _) = node.call({"text": "x" * 9_000})
        with pytest.raises(FrameTooLarge, match="max_frame = 10000") as caught:
            node.call({"text": "x" * 10_000})
        assert caught.value.may_have_run is False
        outcomes = list(node.call_many({"text": "x" * size} for size in (1, 10_000, 1)))
        assert [outcomes[0], outcomes[2]] == [[pid, 1]] * 2
        assert isinstance(outcomes[1], FrameTooLarge)
        assert node.snapshot()["starts"] == 1


def test_an_answer_over_max_frame() -> None:
    """It is skipped, its call fails, the process is kept."""
    program = raw("""
        for id, msg in calls():
            end(id, "x" * msg["size"], os.getpid())
    """)
    with pool(program, max_frame=10_000) as node:
        (_, pid) = node.call({"size": 1})
        with pytest.raises(FrameTooLarge, match=r"an answer.*max_frame = 10000"):
            node.call({"size": 200_000})
        assert node.call({"size": 1}) == ["x", pid]


# Handshakes


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("sys.exit(0)", "ended with exit code 0"),
        ("read(); print('no module named x', file=sys.stderr); sys.exit(3)", "exit code 3"),
        ("read(); frame(op='ready', v=2)", "speaks version 2"),
        ("read(); frame(op='ready', v=1, codec='xml')", "took codec 'xml'"),
        ("read(); frame(op='ready')", "the v of 'ready' is missing"),
        ("read(); frame(op='ready', v=1, concurrency=0)", "concurrency of 'ready'"),
        ("read(); frame(op='end', id=1)", "wrote 'end' while starting"),
        ("frame(**read())", "only the host sends"),
        ("frame(op='err', id=None, type='LoadError', message='no x')", "could not load: LoadError"),
        ("read(); os.close(1); hang()", "closed its stdout"),
    ],
)
def test_a_bad_start(code: str, reason: str) -> None:
    """An error of the start that names the cause; no message is charged with it."""
    with pool(raw(code)) as node:
        with pytest.raises(StartError) as caught:
            node.call({})
        figures = node.snapshot()
    assert reason in str(caught.value)
    assert caught.value.started
    assert (figures["start_failures"], figures["retries"]) == (1, {})


def test_a_ready_frame_over_max_frame() -> None:
    """It is told at once, with the limit and what to change; not after start_timeout."""
    program = raw("read(); frame(op='ready', v=1, sdk='x' * 2000); hang()")
    with pool(program, max_frame=1024, start_timeout=600) as node:
        says = "its ready frame is over max_frame = 1024 bytes (raise max_frame of the node)"
        with pytest.raises(StartError, match=re.escape(says)):
            node.call({})


def test_a_frame_over_max_frame_that_may_have_been_ready() -> None:
    """A long frame whose op is not first may be a print; the timeout's error hints at it."""
    program = raw("read(); write(json.dumps({'v': 1, 'sdk': 'x' * 2000, 'op': 'ready'})); hang()")
    with pool(program, max_frame=1024, start_timeout=4.0) as node:
        with pytest.raises(StartTimeout, match="a frame over max_frame = 1024 bytes was skipped"):
            node.call({})


def test_an_end_before_the_answer() -> None:
    """A program that ends by itself, with 0 even, is said to have done so too early."""
    with pool(raw("for id, msg in calls(): sys.exit(0)"), max_attempts=1) as node:
        with pytest.raises(ProcessDied, match="ended with exit code 0 before it had answered,"):
            node.call({})


def test_a_message_behind_one_that_ended_the_process() -> None:
    """A program that has announced its end by an err is not used again, and nobody is charged."""
    program = raw("""
        for id, msg in calls():
            if msg["n"] == 1:
                failed = {"type": "Exit", "message": "exit(0)"}
                write(line(op="err", id=id, **failed) + line(op="err", id=None, **failed))
                sys.exit(0)
            end(id, msg["attempt"])
    """)
    with pool(program, max_attempts=1) as node:
        with pytest.raises(RemoteError, match="exit"):
            node.call({"n": 1})
        assert node.call({"n": 2}) == [1]
        for count in (2, 5):
            outcomes = list(node.call_many({"n": n} for n in range(1, count + 1)))
            assert isinstance(outcomes[0], RemoteError)
            assert outcomes[1:] == [[1]] * (count - 1)
        assert node.snapshot()["retries"] == {}


def test_a_bad_start_quotes_stderr() -> None:
    """The error quotes the program's last output."""
    with pool(raw("read(); sys.exit('no module named x')")) as node:
        with pytest.raises(StartError) as caught:
            node.call({})
    assert caught.value.stderr_tail == "no module named x\n"


@pytest.mark.parametrize(
    "banner",
    ['"hello\\n" * 2', '"x" * (1 << 20) + "\\n"', '"{\\n" * 1000', '"no end"'],
    ids=["lines", "large", "braces", "without an end"],
)
def test_a_banner_before_ready(banner: str) -> None:
    """Text before ready is only text."""
    program = raw(f"""
        write({banner})
        for id, msg in calls():
            end(id, "done")
    """)
    with pool(program) as node:
        assert node.call({}) == ["done"]


def test_no_handshake() -> None:
    """A program that knows nothing of frames is an error of the start, with a hint."""
    program = raw("sys.stdin.read()")
    with pool(program, start_timeout=4.0) as node:
        with pytest.raises(StartTimeout, match=r"start_timeout = 4 s .it is waiting for input"):
            node.call({})


# Results


def test_no_results() -> None:
    """A node that emits nothing has no results, in every mode."""

    class Nothing(ShellNode):
        command = ("true",)
        mode = "oneshot"

    with pool(sdk("def none(msg): pass\nserve(none)")) as node:
        assert node.call({}) == []
        assert list(node.call_many([{}, {}])) == [[], []]
        assert list(node.stream({})) == []
    assert list(Nothing()({})) == []


@pytest.mark.parametrize(
    ("result", "fits"),
    [
        ({"a": 1, "b": 2}, True),
        ([1, 2], True),
        ({"a": 1}, False),
        ({"a": 1, "x": 2}, False),
        ([1, 2, 3], False),
        (7, False),
        (None, False),
    ],
)
def test_results_that_do_not_fit(result: object, fits: bool) -> None:
    """The author's error, named by the node's fields; the process is kept."""
    router = Router()
    node = router.node(
        ("a", "b"),
        name="n",
        command=raw(f"for id, msg in calls(): end(id, {result!r})"),
        env={"PYTHONPATH": PATH},
        mode="persistent",
    )(ShellNode)
    with router:
        if fits:
            assert node(n=1) == ({"a": 1, "b": 2},)
        else:
            with pytest.raises(ResultError, match=r'"n".*a.*b'):
                node(n=1)


def test_stderr_is_no_failure() -> None:
    """A program that writes to it and succeeds has succeeded, in every mode."""

    class Once(ShellNode):
        command = ("sh", "-c", "echo warning >&2; echo 1")
        mode = "oneshot"

    with pool(raw("for id, msg in calls(): os.write(2, b'E! bad\\n'); end(id, 1)")) as node:
        assert node.call({}) == [1]
    assert list(Once()({})) == [1]


def test_a_host_without_a_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is UTF-8 where the host's environment says nothing, or something else."""
    text = "Zürich 東京 \U0001f600 \u2028"
    program = sdk(
        "def echo(text): yield text, sys.getfilesystemencoding(), repr(text)\nserve(echo)"
    )
    for name in ("LANG", "LC_ALL", "LC_CTYPE"):
        monkeypatch.delenv(name, raising=False)
    for lc_all in ("", "C", "de_DE.ISO-8859-1"):
        monkeypatch.setenv("LC_ALL", lc_all)
        with pool(program) as node:
            assert node.call({"text": text}) == [[text, "utf-8", repr(text)]]


# No flush


def test_a_missing_flush() -> None:
    """The error of the deadline says that the program waits for input."""
    program = raw("""
        import io
        buffered = io.BufferedWriter(io.FileIO(1, "w", closefd=False), 1 << 16)
        for id, msg in calls():
            buffered.write(line(op="end", id=id, msgs=[1]).encode())
    """)
    with pool(program, timeout=3.0, max_attempts=1) as node:
        started(node)
        with pytest.raises(CallTimeout, match="waiting for input: a missing flush"):
            node.call({})
