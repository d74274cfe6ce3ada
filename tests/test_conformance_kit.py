"""The kit itself: each of many programs, wrong in one way, fails that feature and no other."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from emit.conformance import runner
from emit.conformance.runner import Outcome, Selection, Subject, all_scenarios, play_one
from emit.host.wire.frames import Ready
from tests.hosts import ROOT, count
from tests.tiny import NAMES, PROGRAM

pytestmark = pytest.mark.slow

SCENARIOS = {scenario.title: scenario for scenario in all_scenarios()}

#: What a program that is wrong elsewhere passes.
CONTROLS = (
    *("core/one result", "core/failure and survival", "core/prints", "core/bye"),
    *("plain/by hand", "values/small integers"),
)

APP = ROOT / "sdks" / "python" / "tests" / "conformance_app.py"


class Wrong(NamedTuple):
    """
    A change to a right program, and the scenarios that it must then fail. One that sleeps for 600 s
    does so until the kit kills it.
    """

    what: str
    old: str
    new: str
    fails: tuple[str, ...]


LAST = 'send(out, answer(nodes, frame, hello), b"\\n")\n        elif frame["op"] == "ping"'
PONG = 'send(out, encode({"op": "pong", "n": frame["n"]}), b"\\n")'
ANSWER = 'send(out, answer(nodes, frame, hello), b"\\n")'
ENDS = ("core/bye", "core/the end of input", "plain/by hand", "plain/EMIT_MSG")
FAILED = "return encode(failure)"
RESULTS = 'find(nodes, call.get("node") or hello["node"])(call["msg"])'
FAILURES = (
    *("core/failure and survival", "core/a partial failure", "core/an unknown node"),
    *("core/answered once", "core/max_frame"),
)
SEVERAL = (
    *("names/several nodes, another name in hello", "names/several nodes, another name in a call"),
    *("names/several nodes by hand, no name", "names/several nodes by hand, another name"),
)
ONLY = (
    *("names/one node, another name in hello", "names/one node, another name in a call"),
    *("names/one node by hand, another name", "names/one node by hand, no name"),
)
EVERYTHING = tuple(title for title in CONTROLS if not title.startswith("plain"))

TINY = [
    Wrong("nothing", "import json", "import json", ()),
    Wrong("prints into the wire", "os.dup2(2, 1)", "pass", ("core/prints", "core/a forged frame")),
    Wrong(
        "lets programs read the wire",
        "os.dup2(os.open(os.devnull, os.O_RDONLY), 0)",
        "pass",
        ("stdin/standard input is empty",),
    ),
    Wrong("swallows errors", FAILED, 'return encode({**failure, "op": "end"})', FAILURES),
    Wrong(
        "answers a failure twice",
        FAILED,
        "body = encode(failure); return body + b'\\n\\n' + body",
        ("core/failure and survival", "core/answered once"),
    ),
    Wrong(
        "answers twice",
        ANSWER,
        f"{ANSWER}; {ANSWER}",
        ("core/answered once", "core/bye", "values/small integers"),
    ),
    Wrong(
        "answers another call",
        '% (call["id"], ',
        '% (call["id"] + 1, ',
        (*EVERYTHING, "core/which node"),
    ),
    Wrong(
        "answers nothing",
        ANSWER,
        "answer(nodes, frame, hello)",
        EVERYTHING,
    ),
    Wrong("loses the order", RESULTS, f"list({RESULTS})[::-1]", ("core/many results",)),
    Wrong(
        "takes a partial failure for success",
        f"results = {RESULTS}",
        "results = []\n"
        '        handler = find(nodes, call.get("node") or hello["node"])\n'
        "        try:\n"
        '            results.extend(handler(call["msg"]))\n'
        "        except ValueError:\n"
        "            if not results: raise",
        ("core/a partial failure",),
    ),
    Wrong(
        "emits nothing for null",
        RESULTS,
        f"[r for r in {RESULTS} if r is not None]",
        ("core/null is a result", "values/null and truth"),
    ),
    Wrong(
        "serves an unknown node",
        "if len(nodes) > 1 and name not in nodes:",
        "if False:",
        ("core/an unknown node", *SEVERAL),
    ),
    Wrong(
        "dies of an unknown frame",
        PONG,
        f'{PONG}\n        elif frame["op"] not in ("bye", "cancel"):\n            sys.exit(3)',
        ("core/unknown frames and fields",),
    ),
    Wrong(
        "dies of a cancel",
        PONG,
        f'{PONG}\n        elif frame["op"] == "cancel":\n            sys.exit(3)',
        ("core/a cancel of nothing",),
    ),
    Wrong("does not pong", PONG, "pass", ("core/ping",)),
    Wrong("pongs something else", PONG, PONG.replace('frame["n"]', "1"), ("core/ping",)),
    Wrong(
        "leaves out the newline before a frame",
        "out.write(before + body",
        "out.write(body",
        ("core/framing",),
    ),
    Wrong(
        "splits lines at U+2028",
        "lines = (line for line in lines if line.strip())",
        "lines = (b.encode() for a in lines for b in a.decode().splitlines() if b.strip())",
        ("core/other line ends", "values/control characters"),
    ),
    Wrong(
        "reads a line with only a carriage return",
        "lines = (line for line in lines if line.strip())",
        'lines = (line for line in lines if line != b"\\n")',
        ("core/handshake after blank lines", "core/line ends", "plain/line by line"),
    ),
    Wrong(
        "dies of SIGINT",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "pass",
        ("core/SIGINT",),
    ),
    Wrong(
        "takes any version",
        'if 1 not in hello["v"]:',
        "if False:",
        ("core/an unknown version",),
    ),
    Wrong(
        "ignores max_frame",
        'if len(body) > hello["max_frame"]:',
        "if False:",
        ("core/max_frame",),
    ),
    Wrong(
        "stays after bye",
        'elif frame["op"] == "bye":\n            break',
        'elif frame["op"] == "bye":\n            time.sleep(600)',
        ("core/bye",),
    ),
    Wrong(
        "stays after the end of input",
        "\nserve(nodes)\n",
        "\nserve(nodes)\ntime.sleep(600)\n",
        (*ENDS, "core/the host is gone", "core/the end of input, idle"),
    ),
    Wrong(
        "exits with 1",
        "\nserve(nodes)\n",
        "\nserve(nodes)\nsys.exit(1)\n",
        ENDS,
    ),
    Wrong(
        "answers one call late",
        LAST,
        "held = globals().get('held_answer')\n"
        "            globals()['held_answer'] = answer(nodes, frame, hello)\n"
        "            if held: send(out, held)\n"
        '        elif frame["op"] == "ping"',
        tuple(title for title in EVERYTHING if title != "core/bye"),
    ),
    Wrong(
        "rounds integers beyond 2^53",
        'yield msg["value"]\n\n\ndef none',
        'v = msg["value"]; yield int(float(v)) if type(v) is int and v < 2**63 else v\n\n\n'
        "def none",
        ("values/integers beyond 2^53",),
    ),
    Wrong(
        "loses the sign of zero",
        'yield msg["value"]\n\n\ndef none',
        'v = msg["value"]; yield v + 0.0 if type(v) is float else v\n\n\ndef none',
        ("values/negative zero",),
    ),
    Wrong(
        "normalizes text",
        'yield msg["value"]\n\n\ndef none',
        'import unicodedata; v = msg["value"]; '
        'yield unicodedata.normalize("NFC", v) if isinstance(v, str) else v\n\n\ndef none',
        ("values/text",),
    ),
    Wrong(
        "takes the first of two keys",
        "frame = json.loads(line)\n        if",
        "frame = json.loads(line, object_pairs_hook=lambda p: dict(reversed(p)))\n        if",
        ("values/a key given twice",),
    ),
    Wrong(
        "makes null of NaN",
        "json.dumps(value, allow_nan=False, ensure_ascii=False).encode()",
        'json.dumps(value, ensure_ascii=False).replace("NaN", "null").encode()',
        ("refusals/nan", "plain/a result that JSON cannot carry"),
    ),
    Wrong(
        "writes NaN as Python does",
        "json.dumps(value, allow_nan=False, ensure_ascii=False).encode()",
        "json.dumps(value, ensure_ascii=False).encode()",
        ("refusals/nan", "plain/a result that JSON cannot carry"),
    ),
    Wrong(
        "fails by hand with exit code 0",
        "\nserve(nodes)\n",
        "\ntry:\n    serve(nodes)\nexcept ValueError as e:\n    print(e, file=sys.stderr)\n",
        ("plain/a failure", "plain/no JSON"),
    ),
    Wrong(
        "ignores EMIT_PROBE",
        'if probed := os.environ.get("EMIT_PROBE") == "1"',
        "if probed := False",
        ("plain/EMIT_PROBE",),
    ),
    Wrong(
        "takes a message for a hello",
        " and not by_hand",
        "",
        ("plain/EMIT_PROBE, a message like hello", "plain/EMIT_MSG, a message like hello"),
    ),
    Wrong(
        "says of no run that it has finished",
        'send(out, encode({"op": "end", "id": None}))',
        "pass",
        ("plain/EMIT_PROBE", "names/one node by hand, no name"),
    ),
    Wrong(
        "says of a failed run that it has finished",
        "    except SystemExit as error:\n",
        "    except ValueError:\n"
        '        send(out, encode({"op": "end", "id": None}))\n'
        "        raise\n"
        "    except SystemExit as error:\n",
        ("plain/EMIT_PROBE, a failure",),
    ),
    Wrong(
        "writes blank lines between results",
        "send(out, encode(result))",
        'send(out, encode(result), b"\\n")',
        ("plain/by hand", "plain/line by line"),
    ),
    Wrong(
        "writes CR LF behind frames",
        'out.write(before + body + b"\\n")',
        'out.write(before + body + b"\\r\\n")',
        ("core/framing",),
    ),
    Wrong(
        "emits the message and not its value",
        'yield msg["value"]\n\n\ndef none',
        "yield msg\n\n\ndef none",
        ("core/echo", "core/one result", "values/small integers"),
    ),
    Wrong(
        "refuses what the router adds to a message",
        f"results = {RESULTS}",
        f'assert "_origin" not in call["msg"]\n        results = {RESULTS}',
        ("core/a message of another node",),
    ),
    Wrong(
        "makes texts of numbers",
        'yield msg["value"]\n\n\ndef none',
        'v = msg["value"]; yield str(v) if type(v) is int else v\n\n\ndef none',
        ("core/handshake", "values/small integers"),
    ),
    Wrong(
        "has its children inherit the wire",
        "    return wire, out\n",
        "    for file in (wire, out): os.set_inheritable(file.fileno(), True)\n"
        "    return wire, out\n",
        ("stdin/a child process has no wire",),
    ),
    Wrong(
        "serves one node under its own name only",
        "if len(nodes) > 1 and name not in nodes:",
        "if name not in nodes:",
        ONLY,
    ),
    Wrong(
        "does not say which nodes there are",
        "; this program has: {', '.join(nodes)}",
        "",
        SEVERAL,
    ),
    Wrong(
        "runs the first of several nodes by hand",
        'os.environ.get("EMIT_NODE")',
        'os.environ.get("EMIT_NODE") or next(iter(nodes))',
        ("names/several nodes by hand, no name",),
    ),
    Wrong(
        "lets a handler end a plain run with 0",
        "    except SystemExit as error:\n",
        "    except ZeroDivisionError as error:\n",
        ("exit/in a plain run", "exit/in a probed run"),
    ),
    Wrong(
        "lets a handler end it under a host",
        "except (Exception, SystemExit) as error:",
        "except Exception as error:",
        ("exit/under a host",),
    ),
    Wrong(
        "says that it has finished before it has",
        "    handler = find(nodes, os.environ",
        '    if probed: send(out, encode({"op": "end", "id": None}))\n'
        "    handler = find(nodes, os.environ",
        ("exit/without a word", "exit/in a probed run", "plain/EMIT_PROBE"),
    ),
    Wrong(
        "ignores EMIT_NODE",
        'os.environ.get("EMIT_NODE")',
        'os.environ.get("EMIT_NODE") and "echo"',
        ("plain/by hand", "plain/EMIT_MSG"),
    ),
    Wrong(
        "waits for the end of a plain input",
        "for line in lines:\n            for result",
        "for line in list(lines):\n            for result",
        ("plain/line by line",),
    ),
]

#: Changes to the Python SDK, made before the program of conformance is run.
SDK = [
    Wrong("nothing", "", "", ()),
    Wrong(
        "has no cause",
        "",
        "describe = emit_sdk._describe\n"
        "emit_sdk._describe = lambda error, depth=4: {**describe(error, 0)}",
        ("cause/cause",),
    ),
    Wrong("has no stack", "", "emit_sdk._stack = lambda error: []", ("stack/stack",)),
    Wrong(
        "forgets the delay of a retry",
        "",
        "init = emit_sdk.Retry.__init__\n"
        "emit_sdk.Retry.__init__ = lambda self, text, after=None: init(self, text)",
        ("retry/retry with a delay",),
    ),
    Wrong(
        "retries what is rejected",
        "",
        "emit_sdk.Reject = emit_sdk.Retry",
        ("retry/reject",),
    ),
    Wrong(
        "does not say whose log it is",
        "",
        "send = emit_sdk._Session.send\n"
        "emit_sdk._Session.send = lambda self, f: send(self, {k: f[k] for k in f if k != 'id'})",
        ("log/levels",),
    ),
    Wrong(
        "does not log",
        "",
        "emit_sdk._log_through = lambda send: None",
        ("log/levels", "log/before the answer"),
    ),
    Wrong(
        "never hears of a cancel",
        "",
        "emit_sdk._RECEIVERS['cancel'] = lambda self, frame: None",
        ("cancel/during", "cancel/before the start", "cancel/only that call"),
    ),
    Wrong(
        "works on more calls than it says",
        "",
        "ready = emit_sdk._ready\n"
        "emit_sdk._ready = lambda nodes, n: {**ready(nodes, n), 'concurrency': max(1, n // 2)}\n"
        "os.environ['CONFORMANCE_CONCURRENCY'] = "
        "str(2 * int(os.environ.get('CONFORMANCE_CONCURRENCY', '1')))",
        ("concurrency/never more", "concurrency/one at a time"),
    ),
    Wrong(
        "works on fewer calls than it says",
        "",
        "ready = emit_sdk._ready\n"
        "emit_sdk._ready = lambda nodes, n: {**ready(nodes, n), 'concurrency': n * 4}\n"
        "os.environ['CONFORMANCE_CONCURRENCY'] = "
        "str(int(os.environ.get('CONFORMANCE_CONCURRENCY', '1')) // 4 or 1)",
        ("concurrency/as announced",),
    ),
    Wrong(
        "does not count the attempts",
        "",
        "emit_sdk.Call.attempt = 1",
        ("context/all that a call says",),
    ),
    Wrong(
        "takes milliseconds for seconds",
        "",
        "remaining = emit_sdk.Call.remaining\n"
        "emit_sdk.Call.remaining = lambda self: (remaining(self) or 0) * 1000 or None",
        ("context/all that a call says",),
    ),
    Wrong(
        "writes only when a call is done",
        "",
        "emit_sdk._Session.arm = lambda self: None",
        ("stream/results as they come", "cancel/during", "busy/the last result is not held back"),
    ),
    Wrong(
        "does not watch the end",
        "",
        "emit_sdk._Session.watch = lambda self: None",
        ("stop/the end of input while a handler waits", "stop/the parent is gone"),
    ),
    Wrong(
        "does not cut an err",
        "",
        "emit_sdk._Session.fit = lambda self, fields: self.codec.frame(fields)",
        ("limits/an err that is too large",),
    ),
    Wrong(
        "says nothing of a broken frame",
        "",
        "emit_sdk._Session.give_up = lambda self, error: os._exit(1)",
        ("broken/a call without an id", "broken/no map", "broken/no JSON"),
    ),
    Wrong(
        "ends at SIGTERM at once",
        "",
        "emit_sdk._Session.end_input = lambda self: os._exit(0)",
        ("stop/SIGTERM", "stop/the author's cleanup at SIGTERM"),
    ),
    Wrong(
        "carries 130 levels",
        "",
        "emit_sdk._is_plain.__defaults__ = (130,)",
        ("refusals/129 levels",),
    ),
]

#: The same, with all scenarios in msgpack.
PACKED = [
    Wrong("nothing", "", "", ()),
    Wrong(
        "writes long integers as floats",
        "",
        "dump = lambda d: lambda v: d(float(v) if type(v) is int and v > 2**32 else v)\n"
        "init = emit_sdk._Msgpack.__init__\n"
        "def replaced(self, msgpack):\n"
        "    init(self, msgpack)\n"
        "    self.dumps = dump(self.dumps)\n"
        "emit_sdk._Msgpack.__init__ = replaced",
        ("values/integers beyond 2^53", "values/integers up to 2^53"),
    ),
    Wrong(
        "reads instants as floats",
        "",
        "init = emit_sdk._Msgpack.__init__\n"
        "def replaced(self, msgpack):\n"
        "    init(self, msgpack)\n"
        "    self.loads = msgpack.unpackb\n"
        "emit_sdk._Msgpack.__init__ = replaced",
        ("values/instants",),
    ),
    Wrong(
        "writes bytes as text",
        "",
        "value = emit_sdk._Codec.value\n"
        "emit_sdk._Codec.value = lambda self, v: value(\n"
        "    self, v.decode('latin-1') if type(v) is bytes else v)",
        ("values/bytes",),
    ),
    Wrong(
        "has bytes for an error's text",
        "",
        "describe = emit_sdk._describe\n"
        "def replaced(error, depth=4):\n"
        "    about = describe(error, depth)\n"
        "    return {**about, 'message': about['message'].encode()}\n"
        "emit_sdk._describe = replaced",
        ("native/an error of the language", "core/failure and survival"),
    ),
    Wrong(
        "goes on in JSON",
        "",
        "emit_sdk._Msgpack.frame = lambda self, fields: emit_sdk._Json().frame(fields)",
        ("core/framing",),
    ),
]


def judge(command: Sequence[str], ready: Ready, fails: Sequence[str], codec: str = "json") -> None:
    """It fails these, and of the controls nothing that belongs to another feature."""
    subject = Subject(tuple(command), ready, 0.0)

    def play(title: str) -> Outcome:
        # What must pass may take its time; what must fail shall not, but for the 5 s of an end.
        scenario = replace(SCENARIOS[title], codecs=(codec,))
        limits = (1.5, 8.0) if title in fails else (30.0,)
        return play_one(subject, scenario, *limits)

    titles = dict.fromkeys((*CONTROLS, *fails))
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(play, [t for t in titles if codec in SCENARIOS[t].codecs]))
    assert not [outcome for outcome in outcomes if outcome.result == "skipped"]
    failed = {f"{o.feature}/{o.name}": o for o in outcomes if o.result == "failed"}
    assert set(fails) <= set(failed)
    features = {title.partition("/")[0] for title in fails}
    assert {outcome.feature for outcome in failed.values()} == features
    assert all(outcome.reason for outcome in failed.values())


@pytest.mark.parametrize("wrong", TINY, ids=lambda wrong: wrong.what)
def test_a_wrong_program(tmp_path: Path, wrong: Wrong) -> None:
    """The SDK of the protocol's page, changed at one place."""
    assert PROGRAM.count(wrong.old) == 1 or wrong.what == "nothing"
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace(wrong.old, wrong.new))
    judge([sys.executable, str(program)], Ready(1, nodes=NAMES), wrong.fails)


@pytest.mark.parametrize("wrong", SDK, ids=lambda wrong: wrong.what)
def test_a_wrong_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Wrong) -> None:
    """The Python SDK, changed at one place."""
    judge(*changed(tmp_path, monkeypatch, wrong), wrong.fails)


@pytest.mark.parametrize("wrong", PACKED, ids=lambda wrong: wrong.what)
def test_a_wrong_sdk_in_msgpack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Wrong
) -> None:
    """The Python SDK, changed at one place, in msgpack."""
    judge(*changed(tmp_path, monkeypatch, wrong), wrong.fails, "msgpack")


def changed(folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: Wrong) -> tuple[list[str], Ready]:
    """The command of the Python SDK's program with that change, and what it has."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "sdks" / "python"))
    program = folder / "program.py"
    program.write_text(f"import os, emit_sdk\n{wrong.new}\nexec(open({str(APP)!r}).read())\n")
    nodes = [name for scenario in SCENARIOS.values() for name in scenario.needs]
    return [sys.executable, str(program)], Ready(1, nodes=nodes, caps=["cancel"])


def test_a_program_that_never_answers() -> None:
    """The kit is not kept by one: not by one that says nothing, nor by one that writes no end."""
    for program in ("sleep 600", "yes", "cat >/dev/null", "exec cat"):
        subject = Subject(("sh", "-c", program), Ready(1, nodes=["echo"]), 0.0)
        outcome = play_one(subject, SCENARIOS["core/one result"], 1.0)
        assert (outcome.result, bool(outcome.reason)) == ("failed", True), program


def test_what_it_leaves_behind(tag: str) -> None:
    """A program's children are gone with it, whatever they do."""
    # The err ends the scenario, at once, when the child is there.
    failure = '{"op":"err","id":null,"type":"E","message":"m"}'
    script = f"trap '' TERM HUP; sleep {tag} & echo '{failure}'; sleep {tag}"
    subject = Subject(("sh", "-c", script), Ready(1, nodes=["echo"]), 0.0)
    outcome = play_one(subject, SCENARIOS["core/one result"], 60.0)
    assert outcome.reason.startswith('expected ready, got {"op": "err"')
    assert count(tag, 0, within=30) == 0


def test_a_program_that_keeps_us_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The later waits are brief after some waits in vain."""
    monkeypatch.setattr(runner, "_OFTEN", 2)
    monkeypatch.setattr(runner, "_BRIEFLY", 0.25)
    ready = '{"op":"ready","v":1,"nodes":["echo"]}'
    subject = Subject(("sh", "-c", f"echo '{ready}'; exec sleep 600"), Ready(1), 0.0)
    one = replace(SCENARIOS["core/one result"], needs=())
    plan = Selection((one,) * 4, patience=1.0, jobs=1)
    reasons = [outcome.reason for outcome in runner.run(subject, plan)]
    waited = [re.findall(r"within (\S+) s", reason) for reason in reasons]
    assert waited == [["1"], ["1"], ["0.25"], ["0.25"]]
