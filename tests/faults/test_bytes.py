"""The bytes of results are bounded: of one message, and of those that wait for an earlier one's."""

from __future__ import annotations

import logging
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from emit import Router, ShellNode
from emit.errors import ResultError
from emit.host.settings import Settings
from tests.faults.nodes import PATH, pool, raw, sdk
from tests.hosts import run_host
from tests.shared_hosts import client, listening

MIB = 1024 * 1024

#: `n` results of `size` characters each, in frames of their own; by hand, as an SDK gathers them.
MANY = """
for id, msg in calls():
    for _ in range(msg["n"]):
        frame(op="out", id=id, msgs=["x" * msg["size"]])
    end(id)
"""

#: Begins a host and says how far its memory grew at the most, in MiB.
GROWTH = f"""
import logging, resource
sys.path[:0] = {PATH.split(":")!r}
from tests.faults.nodes import pool, raw, sdk
from emit import Router, ShellNode

def peak():
    unit = 20 if sys.platform == "darwin" else 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> unit

def grown(work):
    before = peak()
    try:
        print(work())
    except EmitError as error:
        print(type(error).__name__, str(error)[:150])
    print(peak() - before)
"""


def growth(code: str) -> tuple[str, int]:
    """Return the output of *code*, which calls ``grown``, and the MiB that its host grew by."""
    said, size = run_host(GROWTH + textwrap.dedent(code)).splitlines()
    return said, int(size)


def refused(limit: int) -> str:
    return f'"n" emitted more than max_result_bytes = {limit} bytes of results for one message'


@pytest.mark.parametrize("mode", ["persistent", "oneshot"])
def test_one_message(mode: str) -> None:
    """1.5 GB for one message cost the host no more than the limit and a few frames."""
    programs = {
        "persistent": raw(MANY),
        "oneshot": [
            sys.executable,
            "-c",
            "for _ in range(100): print('\"' + 'x' * 15728640 + '\"')",
        ],
    }
    said, size = growth(f"""
    class Big(ShellNode):
        command, mode, env = {programs[mode]!r}, {mode!r}, {{"PYTHONPATH": {PATH!r}}}
    node = Router().node(("x",), name="n", size=1, timeout=100)(Big)
    grown(lambda: node(n=100, size=15 << 20))
    """)
    assert refused(Settings.max_result_bytes) in said
    assert size < 400


def test_many_small_frames() -> None:
    """800 MB in frames of 2 KB."""
    said, size = growth(f"""
    with pool({raw(MANY)!r}, timeout=300) as node:
        grown(lambda: node.call(dict(n=400_000, size=2000)))
    """)
    assert refused(Settings.max_result_bytes) in said
    assert size < 400


@pytest.fixture(params=["frames", "one frame", "a shared host", "many"])
def call(request: pytest.FixtureRequest, short_folder: Path) -> Any:
    """A way to give a message to a node with a limit of 4,000 bytes."""
    limit: dict[str, Any] = {"max_result_bytes": 4000, "max_attempts": 1}
    one = "for id, msg in calls(): end(id, *['x' * msg['size']] * msg['n'])"
    if request.param == "a shared host":
        path = short_folder / "host.sock"
        with listening(path), client(path, raw(MANY), **limit) as node:
            yield node.call
    else:
        with pool(raw(one if request.param == "one frame" else MANY), **limit) as node:
            if request.param == "many":
                yield lambda fields: raised(next(iter(node.call_many([fields]))))
            else:
                yield node.call


def raised(outcome: Any) -> Any:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def test_the_limit(call: Callable[[Any], Any]) -> None:
    """A result over the limit is an error that names the limit; the node keeps the same process."""
    assert len(call({"n": 3, "size": 1000})) == 3
    with pytest.raises(ResultError) as caught:
        call({"n": 4, "size": 1000})
    assert str(caught.value) == (
        f"{refused(4000)}: emit less at once, raise max_result_bytes of the node, or declare it "
        f"with stream=True, which has no limit"
    )
    assert len(call({"n": 3, "size": 1000})) == 3


def test_the_process_is_kept() -> None:
    """The rest is read and dropped, so it can be asked again."""
    many = "def many(msg):\n    yield from [['x' * 1000, os.getpid()]] * msg.n\nserve(many)"
    with pool(sdk(many), max_result_bytes=4000) as node:
        [(_, before)] = node.call({"n": 1})
        with pytest.raises(ResultError):
            node.call({"n": 1000})
        assert node.call({"n": 1})[0][1] == before


def test_mates_are_not_charged() -> None:
    """Only the message over the limit fails among many."""
    with pool(raw(MANY), max_result_bytes=4000) as node:
        messages = [{"n": 9 if n == 50 else 1, "size": 1000} for n in range(100)]
        outcomes = list(node.call_many(messages))
    failed = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Exception)]
    assert failed == [50]
    assert isinstance(outcomes[50], ResultError)
    assert node.account.snapshot()["failures"] == {"ResultError": 1}


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_program_for_each_message(codec: str, stream: bool) -> None:
    """Its output is bounded as well, unless it streams."""

    class Big(ShellNode):
        command = (
            sys.executable,
            "-c",
            "import sys; out = sys.stdout.buffer\n"
            "for _ in range(4):\n"
            "    text = b'x' * 1000\n"
            + (
                "    out.write(b'\"' + text + b'\"\\n')"
                if codec == "json"
                else "    out.write(b'\\xda\\x03\\xe8' + text + b'\\n')"
            ),
        )
        mode = "oneshot"

    Big.codec = codec
    router = Router()
    node = router.node(("x",), name="n", max_result_bytes=4000, stream=stream)(Big)
    if stream:
        assert len(node(n=1)) == 4
    else:
        with pytest.raises(ResultError, match="max_result_bytes = 4000"):
            node(n=1)


def test_a_format_of_ones_own() -> None:
    """The bytes are counted before a ``deserialize`` reads them."""

    class Lines(ShellNode):
        command = (sys.executable, "-c", "for _ in range(40): print('x' * 100)")

        def deserialize(self, msg: str | bytes) -> Any:
            return len(msg)

    node = Router().node(("x",), name="n", max_result_bytes=3999)(Lines)
    with pytest.raises(ResultError, match="max_result_bytes = 3999"):
        node(n=1)


def test_a_filter() -> None:
    """A line is a result, too."""
    code = (
        "import sys\nfor line in sys.stdin: print('\"' + 'x' * int(line[5:-2]) + '\"', flush=True)"
    )
    with pool([sys.executable, "-c", code], mode="lines", max_result_bytes=4000) as node:
        assert len(node.call({"n": 3000})[0]) == 3000
        with pytest.raises(ResultError, match="max_result_bytes = 4000"):
            node.call({"n": 4000})
        assert len(node.call({"n": 3000})[0]) == 3000


def test_a_stream_has_no_such_limit() -> None:
    """Its results are handed on as they come, and what is ahead of its reader stays in the pipe."""
    said, size = growth(f"""
    def read(node):
        return sum(len(text) for text in node.stream(dict(n=40, size=15 << 20))) >> 20
    with pool({raw(MANY)!r}, timeout=100) as node:
        grown(lambda: read(node))
    """)
    assert said == "600"
    assert size < 200


# -- what waits for an earlier message ---------------------------------------------------------

#: The first message waits until all others have been answered, or a while where they can't be.
LATE = """
import tempfile
for id, msg in calls():
    open(msg["runs"], "a").write(f"{msg['n']}\\n")
    if msg["n"] == 0:
        time.sleep(msg["seconds"])  # the node's work
    end(id, [msg["n"], "x" * msg["size"]])
"""

#: The same by an SDK, several at a time.
LATE_TOGETHER = """
def late(msg):
    open(msg.runs, "a").write(f"{msg.n}\\n")
    if msg.n == 0:
        time.sleep(msg.seconds)  # the node's work
    if msg.parts:
        for _ in range(msg.parts):
            yield ["x" * (msg.size // msg.parts)]
    else:
        yield [msg.n, "x" * msg.size]
serve(late, concurrency=4)
"""


@pytest.mark.parametrize(
    ("program", "size"), [(raw(LATE), 2), (sdk(LATE_TOGETHER), 1)], ids=["processes", "concurrency"]
)
def test_a_slow_first_message(program: list[str], size: int, tmp_path: Path) -> None:
    """900 MB of the others' results don't pile up meanwhile; all come, and in order."""
    runs = tmp_path / "runs"
    said, grown = growth(f"""
    def outcomes(node):
        messages = (
            dict(n=n, size=15 << 20, seconds=3.0, parts=0, runs={str(runs)!r}) for n in range(60)
        )
        return [results[0][0] for results in node.call_many(messages)] == list(range(60))
    with pool({program!r}, size={size}, timeout=100) as node:
        for n in range(8):
            node.call(dict(n=1, size=1, seconds=0, parts=0, runs={str(tmp_path / "warm")!r}))
        grown(lambda: outcomes(node))
    """)
    assert said == "True"
    assert grown < 500
    assert len(runs.read_text().split()) <= 2 * 60


def test_parts_of_others_are_dropped_and_run_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Results that come in parts count as they come; no message fails by it, and it is logged."""
    caplog.set_level(logging.WARNING, "emit.node")
    runs = tmp_path / "runs"
    messages = [
        {"n": n, "size": 3000, "seconds": 1.0, "parts": 3, "runs": str(runs)} for n in range(40)
    ]
    with pool(sdk(LATE_TOGETHER), max_result_bytes=4000, timeout=60) as node:
        outcomes = list(node.call_many(messages))
    assert [len(outcome) for outcome in outcomes] == [3] * 40
    assert "max_result_bytes = 4000" in caplog.text
    assert caplog.text.count("they run again") == 1
    assert node.account.snapshot()["calls"] == 40


#: The first message asks to be tried again in a while; the others go on meanwhile.
RETRIED = """
def late(msg):
    open(msg.runs, "a").write(f"{msg.n}\\n")
    if msg.n == 0 and not os.path.exists(msg.runs + ".tried"):
        open(msg.runs + ".tried", "w").close()
        raise Retry("not now", after=1.0)
    yield [msg.n, "x" * msg.size]
serve(late, concurrency=%d)
"""


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("size", [1, 3])
def test_a_first_message_that_is_tried_later(concurrency: int, size: int, tmp_path: Path) -> None:
    """The others wait for it without work for the processor, and run twice at the most."""
    runs = tmp_path / "runs"
    messages = [{"n": n, "size": 1500, "runs": str(runs)} for n in range(60)]
    program = sdk(RETRIED % concurrency)
    with pool(program, size=size, window=8, max_result_bytes=4000, timeout=60) as node:
        node.call({"n": 1, "size": 1, "runs": str(tmp_path / "warm")})
        began = time.process_time()
        outcomes = list(node.call_many(messages))
        assert time.process_time() - began < 0.9
    assert [outcome[0][0] for outcome in outcomes] == list(range(60))
    assert len(runs.read_text().split()) <= 2 * 60


def test_results_in_order_run_once(tmp_path: Path) -> None:
    """However many come together: they wait for nobody."""
    runs = tmp_path / "runs"
    messages = [{"n": n, "size": 3000, "seconds": 0, "runs": str(runs)} for n in range(500)]
    with pool(raw(LATE), max_result_bytes=4000) as node:
        outcomes = list(node.call_many(messages))
    assert [outcome[0][0] for outcome in outcomes] == list(range(500))
    assert runs.read_text().split() == [str(n) for n in range(500)]


def test_many_through_a_shared_host(short_folder: Path, tmp_path: Path) -> None:
    """Neither the host nor its client takes them all into memory."""
    path, runs = short_folder / "host.sock", tmp_path / "runs"
    with listening(path) as host:
        program = psutil.Process(host.pid)
        said, grown = growth(f"""
        from tests.shared_hosts import client
        from pathlib import Path
        def outcomes(node):
            same = dict(size=15 << 20, seconds=3.0, parts=0, runs={str(runs)!r})
            messages = (dict(same, n=n) for n in range(60))
            return [results[0][0] for results in node.call_many(messages)] == list(range(60))
        with client(Path({str(path)!r}), {sdk(LATE_TOGETHER)!r}, timeout=100) as node:
            grown(lambda: outcomes(node))
        """)
        assert said == "True"
        assert grown < 300
        if sys.platform == "linux":
            status = Path(f"/proc/{program.pid}/status").read_text()
            peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
            assert int(peak.split()[1]) // 1024 < 700


def test_large_messages_are_not_all_written_ahead() -> None:
    """Only the messages that the process is about to take are encoded, out of 60 of 15 MB."""
    said, size = growth(f"""
    text = "x" * (15 << 20)
    with pool({raw("for id, msg in calls(): end(id, len(msg['text']))")!r}, timeout=100) as node:
        node.call(dict(text=text))
        grown(lambda: sum(o[0] for o in node.call_many(dict(text=text) for _ in range(60))) >> 20)
    """)
    assert said == "900"
    assert size < 200
