"""The SDK as a host, a shell and a test of an author see it: real processes over pipes."""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

import emit_sdk

SDK = pathlib.Path(emit_sdk.__file__).parent
HANG = 20  # seconds after which a test counts as hung

msgpack = importlib.import_module("msgpack") if importlib.util.find_spec("msgpack") else None
CODECS = ["json", "msgpack"] if msgpack else ["json"]
needs_msgpack = pytest.mark.skipif(msgpack is None, reason="msgpack is not installed here")

NODES = """
import asyncio, logging, os, subprocess, sys, threading, time
from emit_sdk import Reject, Retry, context, node, serve

@node
def count(msg):
    yield from range(msg.count)

@node
def echo(msg):
    return msg.value

@node
def emit_none(msg):
    yield None

@node
def nothing(msg):
    return None

@node
def fail(msg):
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("as asked \\ud800") from error

@node
def leave(msg):
    sys.exit(3)

@node
def interrupt(msg):
    raise KeyboardInterrupt

@node
def price(sku, *, count=1):
    return [sku, count]

@node
def rest(sku, **others):
    return others

@node
def later(msg):
    raise Retry("busy", after=1.5)

@node
def never(msg):
    raise Reject("bad message")

@node
def noisy(msg):
    print("printed")
    os.write(1, b"written\\n")
    subprocess.run(["sh", "-c", "echo from a child; cat"], check=True)
    return sys.stdin.read()

@node
def log(msg):
    logging.getLogger("shop").warning("stock is %d", 3)

@node
def about(msg):
    c = context()
    return [c.node, c.origin, c.attempt, c.remaining() is not None, c.traceparent]

@node
def slow(msg):
    yield "first"
    open(msg.started, "w").close()
    while not os.path.exists(msg.go):
        time.sleep(0.01)
    yield "last"

@node
def wait(msg):
    yield "began"
    while not context().cancelled:
        time.sleep(0.01)
    yield "noticed"

@node
def fork(msg):
    child = os.fork()
    if child == 0:
        logging.getLogger().error("from the fork")
        os._exit(0)
    os.waitpid(child, 0)
    return "parent"
"""

ASYNC = """
import asyncio
from emit_sdk import node, serve

@node
async def double(msg):
    await asyncio.sleep(0)
    return msg.value * 2

@node
async def stream(msg):
    for n in range(msg.count):
        await asyncio.sleep(0)
        yield n

@node
async def forever(msg):
    yield "began"
    await asyncio.sleep(3600)

met = None

@node
async def meet(msg):
    global met
    if met is None:
        met = asyncio.Event()
        await met.wait()
    else:
        met.set()
    return msg.value

@node
def plain(msg):
    return msg.value

serve(concurrency=4)
"""


class Host:
    """The other end of the pipes, frame by frame."""

    def __init__(self, process: subprocess.Popen[bytes], codec: str) -> None:
        self.process, self.codec = process, "json"
        self.send(op="hello", v=[1], codecs=[codec, "json"], node="x", max_frame=1 << 20)
        self.ready = self.read()
        self.codec = self.ready.get("codec", "json")

    def write(self, data: bytes) -> None:
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def pack(self, **frame: object) -> bytes:
        if self.codec == "json":
            return b"\n" + json.dumps(frame).encode() + b"\n"
        data = msgpack.packb(frame, datetime=True)
        return len(data).to_bytes(4, "big") + data

    def send(self, **frame: object) -> None:
        self.write(self.pack(**frame))

    def read(self) -> dict:
        if self.codec == "msgpack":
            head = self.process.stdout.read(4)
            data = self.process.stdout.read(int.from_bytes(head, "big"))
            return msgpack.unpackb(data, timestamp=3) if data else {}
        line = b"\n"
        while line == b"\n":
            line = self.process.stdout.readline()
        return json.loads(line) if line else {}

    def ask(self, node: str, number: int = 1, meta: object = None, **msg: object) -> None:
        self.send(op="call", id=number, node=node, msg=msg, meta=meta)

    def answer(self) -> dict:
        """The frame that ends the call, with the results of the frames before it."""
        frame, results = self.read(), []
        while frame["op"] == "out":
            results, frame = results + frame["msgs"], self.read()
        return {**frame, "msgs": results + frame["msgs"]} if frame["op"] == "end" else frame

    def call(self, node: str, number: int = 1, meta: object = None, **msg: object) -> dict:
        self.ask(node, number, meta, **msg)
        return self.answer()

    def end(self) -> int:
        self.process.stdin.close()
        return self.process.wait(HANG)


def program(tmp_path: pathlib.Path, text: str) -> str:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(text))
    return str(path)


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SDK), **more}


@contextlib.contextmanager
def hosted(tmp_path, text=NODES + "\nserve()\n", codec="json"):
    with subprocess.Popen(
        [sys.executable, program(tmp_path, text)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        guard = __import__("threading").Timer(HANG, process.kill)
        guard.start()
        try:
            yield Host(process, codec)
        finally:
            guard.cancel()
            process.kill()


def by_hand(tmp_path, stdin="", text=NODES + "\nserve()\n", **env):
    return subprocess.run(
        [sys.executable, program(tmp_path, text)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=HANG,
        env=environment(**env),
        check=False,
    )


# Under a host


@pytest.mark.parametrize("codec", CODECS)
def test_ready_says_what_this_program_is(tmp_path, codec):
    """Ready carries version, codec, concurrency, nodes, their inputs and cancel."""
    with hosted(tmp_path, codec=codec) as host:
        assert host.ready["op"] == "ready"
        assert host.ready["v"] == 1
        assert host.ready["codec"] == codec
        assert host.ready["concurrency"] == 1
        assert "count" in host.ready["nodes"]
        assert host.ready["inputs"] == {
            "price": {"required": ["sku"], "optional": ["count"]},
            "rest": {"required": ["sku"], "optional": []},
        }
        assert host.ready["caps"] == ["cancel"]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("node", "msg", "results"),
    [
        ("count", {"count": 3}, [0, 1, 2]),
        ("count", {"count": 20}, list(range(20))),
        (
            "echo",
            {"value": {"a": [1, None, True, "ü\u2028\n"]}},
            [{"a": [1, None, True, "ü\u2028\n"]}],
        ),
        ("echo", {"value": 2**64 - 1}, [2**64 - 1]),
        ("echo", {"value": -(2**63)}, [-(2**63)]),
        ("emit_none", {}, [None]),
        ("nothing", {}, []),
        ("price", {"sku": "a", "other": 1}, [["a", 1]]),
        ("price", {"sku": "a", "count": 2}, [["a", 2]]),
        ("rest", {"sku": "a", "b": 1}, [{"b": 1}]),
    ],
)
def test_results_ride_on_end(tmp_path, codec, node, msg, results):
    """A handler's results come in order, on the one frame that ends the call."""
    with hosted(tmp_path, codec=codec) as host:
        assert host.call(node, 7, **msg) == {"op": "end", "id": 7, "msgs": results}


def test_every_call_of_a_backlog_is_answered_in_order(tmp_path):
    """A thousand calls written at once get a thousand answers, in order of arrival."""
    with hosted(tmp_path) as host:
        host.write(
            b"".join(host.pack(op="call", id=n, node="echo", msg={"value": n}) for n in range(1000))
        )
        assert [host.read() for _ in range(1000)] == [
            {"op": "end", "id": n, "msgs": [n]} for n in range(1000)
        ]


@pytest.mark.parametrize("codec", CODECS)
def test_a_long_stream_comes_in_parts(tmp_path, codec):
    """Results do not pile up until the end: out frames carry them, all and in order."""
    with hosted(tmp_path, codec=codec) as host:
        host.ask("count", count=100_000)
        frame, results, outs = host.read(), [], 0
        while frame["op"] == "out":
            results, outs, frame = results + frame["msgs"], outs + 1, host.read()
        assert results + frame["msgs"] == list(range(100_000))
        assert outs > 2


def test_no_result_waits_for_a_slow_handler(tmp_path):
    """A finished call, and what a slow one has yielded, arrive while the slow one still runs."""
    with hosted(tmp_path) as host:
        go, started = tmp_path / "go", tmp_path / "started"
        quick = host.pack(op="call", id=1, node="echo", msg={"value": 1})
        host.write(
            quick
            + host.pack(op="call", id=2, node="slow", msg={"go": str(go), "started": str(started)})
        )
        assert host.read() == {"op": "end", "id": 1, "msgs": [1]}
        assert host.read() == {"op": "out", "id": 2, "msgs": ["first"]}
        go.touch()
        assert host.read() == {"op": "end", "id": 2, "msgs": ["last"]}


@pytest.mark.parametrize("codec", CODECS)
def test_an_error_names_the_authors_line_and_its_cause(tmp_path, codec):
    """Err has type, text, the author's frames only and the chain of causes; the process goes on."""
    with hosted(tmp_path, codec=codec) as host:
        err = host.call("fail")
        assert (err["op"], err["id"], err["type"]) == ("err", 1, "ValueError")
        assert err["message"] == "as asked \\ud800"
        assert "program.py" in err["stack"][0]
        assert "emit_sdk" not in "".join(err["stack"])
        assert err["cause"]["type"] == "KeyError"
        assert "retry" not in err
        assert host.call("echo", 2, value=1)["msgs"] == [1]


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("later", {"type": "Retry", "message": "busy", "retry": True, "after": 1.5}),
        ("never", {"type": "Reject", "message": "bad message", "retry": False}),
        ("leave", {"type": "SystemExit", "message": "3"}),
        ("interrupt", {"type": "KeyboardInterrupt"}),
        ("price", {"type": "TypeError", "message": 'price needs "sku"; the message has: '}),
        ("count", {"type": "AttributeError", "message": 'no field "count"; the message has: '}),
        ("unknown", {"type": "LookupError"}),
    ],
)
def test_whatever_a_handler_raises_answers_its_call(tmp_path, node, expected):
    """Exits and interrupts too are errors of one call, with what they say about a retry."""
    with hosted(tmp_path) as host:
        err = host.call(node)
        assert {**expected, "op": "err"} == {key: err[key] for key in [*expected, "op"]}
        assert host.call("echo", 2, value=1)["op"] == "end"


BAD = {
    "float('nan')": "result.a[0] is nan",
    "float('-inf')": "result.a[0] is -inf",
    "b'x'": "result.a[0] is a bytes",
    "datetime.datetime.now(datetime.timezone.utc)": "result.a[0] is a datetime",
}
BAD_IN_BOTH = {
    "2**64": "result.a[0] is an integer beyond 64 bits",
    "-2**63-1": "result.a[0] is an integer beyond 64 bits",
    "'\\ud800'": "result.a[0] is no valid text",
    "{1: 2}": "result.a[0] has the key 1",
    "{1}": "result.a[0] is a set",
    "uuid.uuid4()": "result.a[0] is a UUID",
    "datetime.datetime.now()": "result.a[0] is a datetime",
    "datetime.date.today()": "result.a[0] is a date",
    "print": "result.a[0] is a builtin_function_or_method",
}
EVALUATE = """
import datetime, enum, collections, uuid
from emit_sdk import serve

class Level(enum.IntEnum):
    HIGH = 3

class Text(str):
    pass

def evaluate(msg):
    yield {"a": [eval(msg.text)]}

serve(evaluate)
"""


REFUSED = [("json", text) for text in {**BAD, **BAD_IN_BOTH}]
if msgpack:
    REFUSED += [("msgpack", text) for text in BAD_IN_BOTH]


@pytest.mark.parametrize(("codec", "text"), REFUSED)
def test_what_a_codec_cannot_carry_is_refused_with_its_path(tmp_path, codec, text):
    """No value is changed silently: the call fails, and its error names the place."""
    with hosted(tmp_path, EVALUATE, codec) as host:
        err = host.call("evaluate", text=text)
        assert err["type"] == "EncodeError"
        assert err["message"].startswith({**BAD, **BAD_IN_BOTH}[text])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(1, 2)", [1, 2]),
        ("Level.HIGH", 3),
        ("Text('ü')", "ü"),
        ("collections.OrderedDict(a=1)", {"a": 1}),
        ("collections.namedtuple('P', 'x y')(1, None)", [1, None]),
        ("1.0", 1.0),
        ("None", None),
        ("'1' * 30", "1" * 30),
        ("'null'", "null"),
    ],
)
def test_subclasses_travel_as_what_they_are(tmp_path, codec, text, value):
    """A subclass of a plain type is carried as that type, the same in each codec."""
    with hosted(tmp_path, EVALUATE, codec) as host:
        assert host.call("evaluate", text=text)["msgs"] == [{"a": [value]}]


@needs_msgpack
def test_msgpack_carries_what_json_cannot(tmp_path):
    """Bytes, infinities and datetimes pass both ways, datetimes as aware ones in UTC."""
    now = datetime.datetime(2024, 2, 29, 12, 0, 0, 5, tzinfo=datetime.timezone.utc)
    with hosted(tmp_path, codec="msgpack") as host:
        value = [b"\n\x00", float("inf"), now]
        assert host.call("echo", value=value)["msgs"] == [value]


@pytest.mark.parametrize("codec", CODECS)
def test_what_a_host_would_not_take_is_refused_before_it_is_sent(tmp_path, codec):
    """A result as deep as allowed passes; one level more, and a circle, are errors of the call."""
    deep = "__import__('functools').reduce(lambda inner, _: [inner], range({}))"
    with hosted(tmp_path, EVALUATE, codec) as host:
        assert host.call("evaluate", text=deep.format(127))["op"] == "end"
        err = host.call("evaluate", 2, text=deep.format(128))
        assert err["type"] == "EncodeError"
        assert "deeper than 128 levels" in err["message"]
        assert (
            host.call("evaluate", 3, text="(lambda a: a.append(a) or a)([])")["type"]
            == "EncodeError"
        )


def test_a_retry_is_told_when():
    """An `after` that no clock can count is an error where it is written."""
    with pytest.raises(ValueError, match="seconds from 0 up"):
        emit_sdk.Retry("busy", after=-1)


def test_a_result_over_max_frame_is_refused(tmp_path):
    """Nothing of it is written; the error names the size, the limit and the setting."""
    with hosted(tmp_path, EVALUATE) as host:
        err = host.call("evaluate", text="'x' * (1 << 20)")
        assert err["type"] == "FrameTooLarge"
        assert "1048576" in err["message"]
        assert "max_frame" in err["message"]
        assert host.call("evaluate", 2, text="1")["op"] == "end"


def test_results_near_max_frame_share_no_frame(tmp_path):
    """Results that fit one by one, and not together, come in frames that are small enough."""
    text = EVALUATE.replace('yield {"a": [eval(msg.text)]}', "yield from eval(msg.text)")
    with hosted(tmp_path, text) as host:
        host.ask("evaluate", text="['x' * 1000000] * 3")
        frames = [host.read()]
        while frames[-1]["op"] == "out":
            frames.append(host.read())
        assert [item for frame in frames for item in frame["msgs"]] == ["x" * 1000000] * 3
        assert all(len(json.dumps(frame)) < 1 << 20 for frame in frames)


def test_prints_and_reads_cannot_touch_the_wire(tmp_path):
    """What the handler, a library or a child prints goes to stderr; reads find the end of input."""
    with hosted(tmp_path) as host:
        assert host.call("noisy") == {"op": "end", "id": 1, "msgs": [""]}
        assert host.end() == 0
        assert {b"printed", b"written", b"from a child"} <= set(
            host.process.stderr.read().split(b"\n")
        )


def test_a_forked_child_keeps_off_the_wire(tmp_path):
    """A fork neither answers nor logs in the name of its parent."""
    with hosted(tmp_path) as host:
        assert host.call("fork") == {"op": "end", "id": 1, "msgs": ["parent"]}
        assert host.call("echo", 2, value=1)["msgs"] == [1]


def test_logging_reaches_the_host_with_the_call(tmp_path):
    """A record of the standard library's logging is a log frame with level, text and id."""
    with hosted(tmp_path) as host:
        host.ask("log", 5)
        log = host.read()
        assert log == {
            "op": "log",
            "level": "warning",
            "text": "stock is 3",
            "id": 5,
            "fields": {"logger": "shop"},
        }
        assert host.read() == {"op": "end", "id": 5, "msgs": []}


def test_context_tells_about_the_call(tmp_path):
    """The meta of a call is what context() gives."""
    meta = {"origin": "shop", "attempt": 2, "deadline_ms": 5000, "traceparent": "00-1-2-01"}
    with hosted(tmp_path) as host:
        assert host.call("about", meta=meta)["msgs"] == [["about", "shop", 2, True, "00-1-2-01"]]


def test_cancel_reaches_a_busy_handler(tmp_path):
    """A handler that asks sees the cancel, though one thread reads and runs."""
    with hosted(tmp_path) as host:
        waiting = host.pack(op="call", id=1, node="wait", msg={})
        behind = host.pack(op="call", id=2, node="echo", msg={"value": 1})
        host.write(waiting + behind)
        assert host.read() == {"op": "out", "id": 1, "msgs": ["began"]}
        host.send(op="cancel", id=2)
        host.send(op="cancel", id=1)
        assert host.read() == {"op": "end", "id": 1, "msgs": ["noticed"]}
        assert host.read()["type"] == "Cancelled"


def test_ping_unknown_frames_and_fields(tmp_path):
    """Ping is answered; what is not known is ignored."""
    with hosted(tmp_path) as host:
        host.send(op="from the future", id=1)
        host.send(op="ping", n=3, more=True)
        assert host.read() == {"op": "pong", "n": 3}


def test_another_version_is_refused_in_words(tmp_path):
    """A hello without version 1 is answered by an err that says so, and exit status 1."""
    hello = '{"op": "hello", "v": [2], "codecs": ["json"]}\n'
    ran = by_hand(tmp_path, hello)
    err = json.loads(ran.stdout)
    assert (err["op"], err["id"], ran.returncode) == ("err", None, 1)
    assert "version 1" in err["message"]


def test_a_program_that_cannot_be_served_says_why(tmp_path):
    """A file that fails to load under boot is an err without an id, and exit status 1."""
    bad = tmp_path / "bad.py"
    bad.write_text("1 / 0\n")
    text = f"import emit_sdk\nemit_sdk.boot({str(bad)!r})\n"
    ran = by_hand(tmp_path, '{"op": "hello", "v": [1], "codecs": ["json"]}\n', text)
    err = json.loads(ran.stdout)
    assert (err["id"], err["type"], ran.returncode) == (None, "ZeroDivisionError", 1)
    assert "bad.py:1" in err["stack"][0]


@pytest.mark.parametrize(
    "body",
    [
        "def twice(msg):\n    return msg.n * 2\n",
        "from emit_sdk import serve\ndef twice(msg):\n    return msg.n * 2\nserve(twice)\n",
    ],
)
def test_boot_serves_a_file_with_or_without_emit(tmp_path, body):
    """A file of one function is a node; one that serves itself stays one."""
    (tmp_path / "one.py").write_text("print('loading')\n" + body)
    text = f"import emit_sdk\nemit_sdk.boot({str(tmp_path / 'one.py')!r})\n"
    ran = by_hand(tmp_path, '{"n": 2}', text)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("4\n", "loading\n", 0)


@pytest.mark.parametrize(
    ("body", "name", "result"),
    [
        ("def one(msg): return 1\ndef handler(msg): return 2\n", "", 1),
        ("def two(msg): return 1\ndef handler(msg): return 2\n", "", 2),
        ("def two(msg): return 1\ndef handler(msg): return 2\n", "two", 1),
        (
            "from os.path import join\nclass Word: pass\ndef _a(): pass\ndef b(msg): return 3\n",
            "",
            3,
        ),
        (
            "import functools\n@functools.lru_cache\ndef cached(n): return n\ndef _b(): pass\n",
            "",
            2,
        ),
        ("one = lambda msg: msg.n + 2\n", "", 4),
        ("def b(msg): return 5\nif __name__ == '__main__':\n    raise SystemExit(9)\n", "", 5),
    ],
)
def test_which_function_boot_serves(tmp_path, body, name, result):
    """The one that is named, else that of the file's name, else handler, else the only one."""
    (tmp_path / "one.py").write_text(body)
    text = f"import emit_sdk\nemit_sdk.boot({str(tmp_path / 'one.py')!r}, {name!r})\n"
    ran = by_hand(tmp_path, '{"n": 2}', text)
    assert (ran.stdout, ran.stderr, ran.returncode) == (f"{result}\n", "", 0)


@pytest.mark.parametrize(
    ("body", "name", "says"),
    [
        (
            "def a(m): pass\ndef b(m): pass\n",
            "",
            "one.py: which function is the node? Name it one, or say one.py:name (found: a, b)",
        ),
        ("def a(m): pass\n", "c", "one.py: there is no function c in it (found: a)"),
        ("from os.path import join\na = 1\n", "", "one.py: there is no function in it"),
        ("a = 1\n", "a", "one.py: there is no function in it"),
    ],
)
def test_what_boot_says_where_no_function_is_the_node(tmp_path, body, name, says):
    """The err before ready lists the functions that the file has."""
    (tmp_path / "one.py").write_text(body)
    text = f"import emit_sdk\nemit_sdk.boot({str(tmp_path / 'one.py')!r}, {name!r})\n"
    ran = by_hand(tmp_path, '{"op": "hello", "v": [1], "codecs": ["json"]}\n', text)
    err = json.loads(ran.stdout)
    assert (err["id"], err["message"], ran.returncode) == (None, says, 1)


def test_a_file_that_does_not_compile_names_its_line(tmp_path):
    """Python has no frame for it, so its place is put on top of the stack."""
    (tmp_path / "one.py").write_text("a = 1\ndef one(:\n")
    text = f"import emit_sdk\nemit_sdk.boot({str(tmp_path / 'one.py')!r})\n"
    ran = by_hand(tmp_path, '{"op": "hello", "v": [1], "codecs": ["json"]}\n', text)
    err = json.loads(ran.stdout)
    assert (err["type"], ran.returncode) == ("SyntaxError", 1)
    assert err["stack"][0].endswith("one.py:2: def one(:")


@pytest.mark.parametrize("how", ["close", "bye", "term"])
def test_accepted_calls_are_finished_before_the_exit(tmp_path, how):
    """End of input, bye and SIGTERM let the open call finish; atexit runs; the status is 0."""
    text = NODES + "\nimport atexit\natexit.register(lambda: print('cleaned'))\nserve()\n"
    go, started = tmp_path / "go", tmp_path / "started"
    with hosted(tmp_path, text) as host:
        host.ask("slow", go=str(go), started=str(started))
        assert host.read()["op"] == "out"
        while not started.exists():
            pass
        if how == "close":
            host.process.stdin.close()
        elif how == "bye":
            host.send(op="bye")
        else:
            host.process.send_signal(signal.SIGTERM)
        go.touch()
        assert host.read() == {"op": "end", "id": 1, "msgs": ["last"]}
        assert host.process.wait(HANG) == 0
        assert b"cleaned" in host.process.stderr.read()


def test_sigterm_ends_an_idle_process(tmp_path):
    """A process that waits for calls exits 0 at SIGTERM."""
    with hosted(tmp_path) as host:
        assert host.call("echo", value=1)["op"] == "end"
        host.process.send_signal(signal.SIGTERM)
        assert host.process.wait(HANG) == 0


def test_sigint_is_left_to_the_host(tmp_path):
    """Ctrl-C on the terminal does not end a hosted process."""
    with hosted(tmp_path) as host:
        host.process.send_signal(signal.SIGINT)
        assert host.call("echo", value=1)["op"] == "end"


def test_a_handler_that_never_ends_does_not_outlive_its_host_for_long(tmp_path):
    """Once the input has ended, a busy handler gets its grace, and then the process exits."""
    text = NODES.replace(
        "import asyncio", "import emit_sdk; emit_sdk.GRACE = 0.1\nimport asyncio", 1
    )
    with hosted(tmp_path, text + "\nserve()\n") as host:
        host.send(op="call", id=1, node="wait", msg={})
        assert host.end() == 1


# Concurrency


def test_async_handlers_run_together_on_one_loop(tmp_path):
    """Two calls that wait for each other both end, so they ran at the same time."""
    with hosted(tmp_path, ASYNC) as host:
        assert host.ready["concurrency"] == 4
        host.send(op="call", id=1, node="meet", msg={"value": 1})
        host.send(op="call", id=2, node="meet", msg={"value": 2})
        assert {1, 2} == {host.read()["id"], host.read()["id"]}
        assert host.call("double", 3, value=2)["msgs"] == [4]
        assert host.call("stream", 4, count=3)["msgs"] == [0, 1, 2]
        assert host.call("plain", 5, value=6)["msgs"] == [6]
        assert host.end() == 0


def test_cancel_stops_an_async_handler(tmp_path):
    """The task of a cancelled call is cancelled, and its call answered."""
    with hosted(tmp_path, ASYNC) as host:
        host.ask("forever", 1)
        assert host.read() == {"op": "out", "id": 1, "msgs": ["began"]}
        host.send(op="cancel", id=1)
        assert host.read()["type"] == "CancelledError"


def test_cancel_of_an_async_call_that_hardly_began(tmp_path):
    """However early the cancel comes, the call is answered, once."""
    with hosted(tmp_path, ASYNC) as host:
        for n in range(50):
            cancel = host.pack(op="cancel", id=n)
            host.write(host.pack(op="call", id=n, node="forever", msg={}) + cancel)
            err = host.answer()
            assert (err["op"], err["id"]) == ("err", n)
            assert err["type"] in ("CancelledError", "Cancelled")


def test_no_more_calls_run_than_announced(tmp_path):
    """With concurrency 2, two threads meet, and never a third."""
    text = """
    import threading
    from emit_sdk import serve
    both, lock, inside, most = threading.Barrier(2), threading.Lock(), 0, 0

    def work(msg):
        global inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        both.wait(10)
        with lock:
            inside -= 1
        return most

    serve(work, concurrency=2)
    """
    with hosted(tmp_path, text) as host:
        host.write(b"".join(host.pack(op="call", id=n, msg={}) for n in range(20)))
        frames = [host.read() for _ in range(20)]
        assert set(range(20)) == {frame["id"] for frame in frames}
        assert max(frame["msgs"][0] for frame in frames) == 2


def test_large_results_of_many_threads_do_not_mix(tmp_path):
    """Eight threads that answer 200 KB at once leave whole frames."""
    text = """
    from emit_sdk import serve

    def big(msg):
        return msg.text * 200_000

    serve(big, concurrency=8)
    """
    with hosted(tmp_path, text) as host:
        host.write(
            b"".join(host.pack(op="call", id=n, msg={"text": chr(65 + n % 26)}) for n in range(40))
        )
        for _ in range(40):
            frame = host.read()
            assert frame["msgs"] == [chr(65 + frame["id"] % 26) * 200_000]


# By hand


@pytest.mark.parametrize(
    "stdin",
    ['{"value": 1}\n{"value": 2}\n', '{"value": 1}\n\n{"value": 2}'],
)
def test_one_message_per_line(tmp_path, stdin):
    """Lines of JSON in, a line of JSON per result out."""
    ran = by_hand(tmp_path, stdin, EMIT_NODE="echo")
    assert (ran.stdout, ran.returncode) == ("1\n2\n", 0)


def test_one_document_over_several_lines(tmp_path):
    """A pretty-printed message is one message."""
    ran = by_hand(tmp_path, json.dumps({"value": [1]}, indent=2), EMIT_NODE="echo")
    assert (ran.stdout, ran.returncode) == ("[1]\n", 0)


def test_a_message_in_the_environment_leaves_the_input_alone(tmp_path):
    """With EMIT_MSG, stdin stays what it was, for a debugger."""
    text = """
    import sys
    from emit_sdk import serve

    def read(msg):
        return sys.stdin.read()

    serve(read)
    """
    ran = by_hand(tmp_path, "typed", text, EMIT_MSG='{"a": 1}')
    assert (ran.stdout, ran.returncode) == ('"typed"\n', 0)


def test_an_error_by_hand_is_text_and_status_1(tmp_path):
    """The traceback shows the author's frames, and later messages still run."""
    ran = by_hand(tmp_path, '{}\n{"count": 1}\n', EMIT_NODE="count")
    assert (ran.stdout, ran.returncode) == ("0\n", 1)
    assert 'no field "count"' in ran.stderr
    assert "emit_sdk.py" not in ran.stderr.split("yield from")[0]


def test_a_probe_gets_ready_before_the_results(tmp_path):
    """EMIT_PROBE=1 puts the very ready frame in front, and changes nothing else."""
    ran = by_hand(tmp_path, '{"count": 2}', EMIT_PROBE="1", EMIT_NODE="count")
    ready, *results = ran.stdout.split("\n")[1:-1]
    assert json.loads(ready)["op"] == "ready"
    assert results == ["0", "1"]


def test_several_nodes_by_hand_need_a_name(tmp_path):
    """Without EMIT_NODE nothing is guessed."""
    ran = by_hand(tmp_path, "{}")
    assert ran.returncode == 1
    assert "set EMIT_NODE to one of: count, echo" in ran.stderr


def test_async_by_hand(tmp_path):
    """Async handlers need no host either."""
    ran = by_hand(tmp_path, '{"count": 2}', ASYNC, EMIT_NODE="stream")
    assert (ran.stdout, ran.returncode) == ("0\n1\n", 0)


# In an author's test


def test_importing_a_node_file_serves_nothing(tmp_path):
    """The file is a module as any other, and its functions are what was written."""
    path = program(
        tmp_path, "from emit_sdk import serve\ndef one(msg):\n    return msg.n\nserve(one)\n"
    )
    spec = importlib.util.spec_from_file_location("a_node", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.one(emit_sdk.Message(n=1)) == 1


def test_call_runs_each_kind_of_handler():
    """Values, generators, async functions and async generators, all give a list."""

    async def later(msg):
        return msg.n

    async def stream(msg):
        yield msg.n
        yield None

    assert emit_sdk.call(lambda msg: msg.n, n=1) == [1]
    assert emit_sdk.call(lambda msg: iter((msg.n, 2)), n=1) == [1, 2]
    assert emit_sdk.call(lambda msg: None) == []
    assert emit_sdk.call(later, n=1) == [1]
    assert emit_sdk.call(stream, n=1) == [1, None]
    assert emit_sdk.call(lambda n, k=2: (n, k), n=1) == [[1, 2]]
    assert emit_sdk.call(lambda _: emit_sdk.context().cancelled) == [False]


def test_call_refuses_what_no_codec_carries():
    """A test fails where a host would."""
    with pytest.raises(emit_sdk.EncodeError, match="result is a set"):
        emit_sdk.call(lambda msg: {1})


def test_a_generator_is_closed_when_its_result_is_refused():
    """The handler's own finally runs before the error is reported."""
    seen = []

    def handler(msg):
        try:
            yield {1}
        finally:
            seen.append("closed")

    with pytest.raises(emit_sdk.EncodeError):
        emit_sdk.call(handler)
    assert seen == ["closed"]


def test_a_positional_handler_is_refused():
    """Parameters that no field can name are an error at once."""
    with pytest.raises(TypeError, match="or the fields it needs by name"):
        emit_sdk.call(lambda *args: args)
