"""The steps of a scenario. A step raises `Fault` if the process does not do what it should."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgpack  # type: ignore[import-untyped]

from emit.conformance.scenario import CODECS, Scenario, build, difference, shorten
from emit.conformance.talk import Fault, Talk, describe
from emit.host.system.family import descendants
from emit.host.wire import frames
from emit.host.wire.values import from_json, from_msgpack

__all__ = ["Skip", "check_vectors", "play", "scenarios", "shake_hands", "try_echo"]

Step = dict[str, Any]


class Skip(Exception):
    """A scenario can't be played with this program. The text says why."""


def play(scenario: Scenario, talk: Talk) -> None:
    """
    Make the handshake, if the scenario has one, and play the steps.

    Raises:
        Fault: The process does not do what it should.
        Skip: The program can't play the scenario.
    """
    if scenario.plain:
        talk.plain = bytearray()
    elif scenario.hello:
        _take_up(scenario, talk)
    for step in scenario.steps:
        [verb] = [key for key in step if key in STEPS]
        STEPS[verb](talk, step)


def _take_up(scenario: Scenario, talk: Talk) -> None:
    ready = shake_hands(talk, config=scenario.config, max_frame=scenario.max_frame)
    if ready.codec != talk.codec:
        raise Fault(f"expected it to take {talk.codec}, got {describe(ready)}")
    if scenario.concurrency and ready.concurrency != scenario.concurrency:
        raise Skip(f"it announces a concurrency of {ready.concurrency}")


def shake_hands(talk: Talk, **fields: Any) -> frames.Ready:
    """
    Say hello, and return the ready frame.

    Raises:
        Fault: The process does not answer with ready.
    """
    _send_hello(talk, {"hello": {name: value for name, value in fields.items() if value}})
    _expect_ready(talk, {"ready": {"v": 1}})
    ready = talk.heard.ready
    assert ready is not None
    return ready


def try_echo(talk: Talk) -> str:
    """
    Call ``echo`` once, and return the fault of its results. The text is empty if there is none, or
    if there is no answer: the scenarios report that.
    """
    heard, message = talk.heard, {"value": "a word"}
    codec = heard.ready.codec if heard.ready else "json"
    call = {"op": "call", "id": 1, "node": "echo", "msg": message}
    heard.open.add(1)
    try:
        talk.write(talk.framed(talk.body(call, codec), codec))
        talk.wait(lambda: 1 in heard.answers, "an answer")
    except Fault:
        return ""
    answer = heard.answers[1]
    if isinstance(answer, frames.Err):
        return f"its echo fails for the message {shorten(message)}: {shorten(answer.message)}"
    if heard.results[1] == ["a word"]:
        return ""
    return f"its echo emits {shorten(heard.results[1])} for the message {shorten(message)}"


# -- To the process --------------------------------------------------------------------------------


def _send_hello(talk: Talk, step: Step) -> None:
    codecs = ["json"] if talk.codec == "json" else ["msgpack", "json"]
    usual = {"op": "hello", "v": [1], "codecs": codecs, "node": "echo", "max_frame": 2**24 - 1}
    frame = talk.framed(talk.body(usual | step["hello"], "json"), "json")
    talk.write(step.get("before", "").encode() + frame, piece=step.get("piece", 0))


def _send(talk: Talk, step: Step) -> None:
    given = step["send"] if isinstance(step["send"], list) else [step["send"]]
    data = bytearray()
    for frame in (one for item in given for one in _each(item)):
        data += talk.framed(talk.body(frame))
        if frame["op"] == "call":
            talk.heard.open.add(frame["id"])
        elif frame["op"] == "calls" and isinstance(frame["msgs"], list):
            talk.heard.knows_groups = True
            talk.heard.open.update(range(frame["id"], frame["id"] + len(frame["msgs"])))
    talk.write(bytes(data), piece=step.get("piece", 0))


def _each(item: Any) -> list[dict[str, Any]]:
    """Expand ``{"$each": [1, 3, frame]}`` to three frames, with the number in place of ``"$n"``."""
    if "$each" not in item:
        return [build(item)]
    first, last, frame = item["$each"]
    return [build(_numbered(frame, number)) for number in range(first, last + 1)]


def _numbered(value: Any, number: int) -> Any:
    if isinstance(value, dict):
        return {key: _numbered(item, number) for key, item in value.items()}
    return number if value == "$n" else value


def _write(talk: Talk, step: Step) -> None:
    """Write raw bytes: a text, or a map packed as one msgpack object."""
    given = step["write"]
    data = given.encode() if isinstance(given, str) else msgpack.packb(build(given))
    talk.heard.open.update(step.get("calls", ()))
    talk.write(data, piece=step.get("piece", 0))


def _close(talk: Talk, step: Step) -> None:
    talk.close_all() if step["close"] == "all" else talk.close_input()


# -- From the process: frames ----------------------------------------------------------------------


def _expect_ready(talk: Talk, step: Step) -> None:
    heard = talk.heard
    talk.wait(lambda: heard.ready or heard.failure, "ready")
    if heard.ready is None:
        raise Fault(f"expected ready, got {heard.last}")
    _compare(step["ready"], heard.ready)


def _expect_failure(talk: Talk, step: Step) -> None:
    heard, before = talk.heard, talk.heard.ready
    talk.wait(lambda: heard.failure or heard.ready is not before, "err with the id null")
    if heard.failure is None:
        raise Fault(f"expected err with the id null, got {heard.last}")
    _compare(step["failure"], heard.failure)


def _expect_end(talk: Talk, step: Step) -> None:
    id = step["end"]
    answer = _answer(talk, id, step)
    if not isinstance(answer, frames.End):
        raise Fault(f"expected end of call {id}, got {describe(answer)}")
    if "msgs" in step:
        _check(difference(step["msgs"], talk.heard.results[id]), f"results of call {id}")


def _expect_err(talk: Talk, step: Step) -> None:
    id = step["err"]
    answer = _answer(talk, id, step)
    if isinstance(answer, frames.Err):
        if not answer.type:
            raise Fault(f"expected the type of an error, got {describe(answer)}")
        _compare(step.get("has", {}), answer)
    elif "unless" not in step or difference(step["unless"], talk.heard.results[id]):
        results = shorten(talk.heard.results[id])
        raise Fault(f"expected err of call {id}, got end with the results {results}")


def _expect_answer(talk: Talk, step: Step) -> None:
    _answer(talk, step["answer"], step)


def _answer(talk: Talk, id: int, step: Step) -> frames.End | frames.Err:
    answers = talk.heard.answers
    talk.wait(lambda: id in answers, f"an answer to call {id}", step.get("within", 0))
    return answers[id]


def _expect_out(talk: Talk, step: Step) -> None:
    """Expect results before the end of their call."""
    id, want, heard = step["out"], build(step["msgs"]), talk.heard
    what = f"the results {shorten(want)} of call {id} before its end"
    talk.wait(lambda: len(heard.results[id]) >= len(want) or id in heard.answers, what)
    if id in heard.answers:
        raise Fault(f"expected {what}, got {describe(heard.answers[id])}")
    _check(difference({"$starts": want}, heard.results[id]), f"results of call {id}")


def _expect_pong(talk: Talk, step: Step) -> None:
    number, pongs = step["pong"], talk.heard.pongs
    talk.wait(lambda: pongs, f"pong {number}")
    if pongs != [number]:
        raise Fault(f"expected pong {number}, got pong {pongs}")
    pongs.clear()


def _expect_log(talk: Talk, step: Step) -> None:
    """Expect a log frame like this. Other log frames may come before and after."""
    want, logs = {"$has": step["log"]}, talk.heard.logs

    def found() -> bool:
        return any(not difference(want, log._asdict()) for log in logs)

    try:
        talk.wait(found, f"a log frame with {shorten(step['log'])}")
    except Fault as fault:
        came = f"; log frames: {shorten([describe(log) for log in logs])}" if logs else ""
        raise Fault(f"{fault}{came}") from None


def _expect_order(talk: Talk, step: Step) -> None:
    _check(difference(step["order"], talk.heard.order), "the order of the answers")


def _expect_framed(talk: Talk, step: Step) -> None:
    if wrong := talk.heard.misframed():
        raise Fault(wrong)


def _compare(want: dict[str, Any], frame: Any) -> None:
    _check(difference({"$has": want}, frame._asdict()), frames.op_of(type(frame)))


def _check(wrong: str, what: str) -> None:
    if wrong:
        raise Fault(f"{what}: {wrong.removeprefix('it: ').removeprefix('.')}")


# -- From the process: its exit, plain output and stderr -------------------------------------------


def _expect_exit(talk: Talk, step: Step) -> None:
    status = talk.wait_exit(step.get("within", 0))
    want = step["exit"]
    if status != want and want != "any" and not (want == "not 0" and status):
        raise Fault(f"expected the exit code {want}, got {status}")


def _expect_quiet(talk: Talk, step: Step) -> None:
    """Expect that every call has its answer, and that every plain line was expected."""
    if talk.plain is not None and _lines(talk):
        raise Fault(f"expected no more output, got {shorten(repr(_lines(talk)))}")
    if talk.heard.open:
        raise Fault(f"expected answers to all calls, got none to {sorted(talk.heard.open)}")


def _expect_only(talk: Talk, step: Step) -> None:
    """Expect that it serves these nodes only, as the environment asks for; else skip."""
    nodes = talk.heard.ready.nodes if talk.heard.ready else talk.introduced.get("nodes", ())
    if list(nodes) != step["only"]:
        raise Skip("it does not heed CONFORMANCE_NODES")


def _expect_over(talk: Talk, step: Step) -> None:
    talk.wait(lambda: talk.over, "its end, seen by the end of its output", step["over"])


def _expect_stderr(talk: Talk, step: Step) -> None:
    text, times = step["stderr"], step.get("times", 1)
    what = f"the text {shorten(text)} on standard error" + (f", {times} times" * (times > 1))
    try:
        talk.wait(lambda: talk.errors.count(text) >= times, what)
    except Fault as fault:
        raise Fault(f"{fault}; standard error ends: {shorten(talk.errors[-300:])}") from None


def _expect_lines(talk: Talk, step: Step) -> None:
    """Expect the next lines of plain output, each one JSON value. More may follow."""
    want = step["lines"]
    talk.wait(lambda: len(_lines(talk)) >= len(want), f"the lines {shorten(want)}")
    got = _lines(talk)[: len(want)]
    values = [_value(line) for line in got]
    _check(difference(want, values), "the lines of output")
    _introduce(talk, values)
    _drop_lines(talk, len(want))


def _introduce(talk: Talk, values: list[Any]) -> None:
    if values and isinstance(values[0], dict) and values[0].get("op") == "ready":
        talk.introduced = values[0]


def _expect_finish(talk: Talk, step: Step) -> None:
    """Expect the end frame of a probed run, if its ready frame has announced one."""
    if "end" in (talk.introduced.get("caps") or ()):
        _expect_lines(talk, {"lines": [_END]})


def _lines(talk: Talk) -> list[bytes]:
    """Return the whole lines that have come and that no step has expected yet."""
    *lines, rest = bytes(talk.plain or b"").split(b"\n")
    lines += [rest] if talk.over and rest else []  # the newline after the last may be missing
    if lines[:1] == [b""] and not talk.introduced:
        if len(lines) == 1 and not talk.over:
            return []  # a frame begins with an empty line, and may follow
        if b'"ready"' in b"".join(lines[1:2]):
            lines = lines[1:]
    for line in lines:
        if not line.strip():
            raise Fault("expected one line for each result, got a blank line")
    return lines


def _drop_lines(talk: Talk, count: int) -> None:
    rest = bytes(talk.plain or b"").lstrip(b"\n")
    for _ in range(count):
        _, _, rest = rest.partition(b"\n")
    talk.plain = bytearray(rest)


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        text = shorten(line.decode(errors="replace"))
        raise Fault(f"expected a line of JSON, got {text}") from None


def _expect_packed(talk: Talk, step: Step) -> None:
    """
    Expect the whole output: msgpack objects, each followed by a newline. The last newline may be
    missing.
    """
    talk.wait_exit()
    data, want = bytes(talk.plain or b""), build(step["packed"])
    if "after" in step:
        line, _, data = data.lstrip(b"\n").partition(b"\n")
        value = _value(line)
        _check(difference(step["after"], value), "the first line")
        want = [*want, _END] if "end" in (value.get("caps") or ()) else want
    _check(difference(want, _unpacked(data)), "the packed results")


def _unpacked(data: bytes) -> list[Any]:
    # In msgpack, a newline is the integer 10: results and tens take turns.
    unpacker = msgpack.Unpacker(timestamp=3)
    unpacker.feed(data)
    try:
        found = list(unpacker)
    except ValueError as error:
        raise Fault(f"expected msgpack objects, got {shorten(repr(data[:100]))}: {error}") from None
    if any(ten != 10 for ten in found[1::2]):
        raise Fault(f"expected a newline after each object, got {shorten(repr(data[:100]))}")
    return found[::2]


# -- From the system: descriptors of child processes -----------------------------------------------


def _expect_apart(talk: Talk, step: Step) -> None:
    """
    Expect that a child process of the node ``print`` has neither end of the wire. The child can be
    inspected while its print blocks: nobody reads stderr, and its pipe has no room for a second
    text.
    """
    if sys.platform != "linux":
        raise Skip("what a child process has is only told on Linux")
    talk.drain()
    child, before = talk.child, _family(talk.child.pid)
    room = fcntl.fcntl(child.stderr, _F_GETPIPE_SZ)
    text = "x" * (room * 5 // 8)
    call = {"op": "call", "id": step["apart"], "node": "print", "msg": {"text": text}}
    _send(talk, {"send": call})
    wire = {os.fstat(fd).st_ino for fd in (child.stdin, child.stdout)}
    for pid in _printers(talk, before, len(text)):
        held = [name for name in os.listdir(f"/proc/{pid}/fd") if _inode(pid, name) in wire]
        if held:
            names = ", ".join(sorted(held, key=int))
            raise Fault(f"a child process has inherited the wire, as its descriptor {names}")


#: From <fcntl.h>. The module fcntl has the name from Python 3.10 on.
_F_GETPIPE_SZ = 1032


def _printers(talk: Talk, before: set[int], printed: int) -> set[int]:
    """
    Wait for a child that prints, and return the new children. Before that, a child that was just
    forked still holds all descriptors of its parent.
    """
    end = time.monotonic() + min(talk.patience, talk.most)
    while time.monotonic() < end:
        waits = fcntl.ioctl(talk.child.stderr, termios.FIONREAD, b"    ")
        new = _family(talk.child.pid) - before
        if int.from_bytes(waits, sys.byteorder) > printed and new:
            return new
        time.sleep(0.01)
    raise Skip("its child process could not be watched")


def _family(pid: int) -> set[int]:
    return {number for number, _ in descendants(pid)}


def _inode(pid: int, name: str) -> int:
    with contextlib.suppress(OSError):
        return os.stat(f"/proc/{pid}/fd/{name}").st_ino
    return -1


# -- Value vectors ---------------------------------------------------------------------------------

# A vector is a value, its bytes in each codec, and the type that a handler must see. The node
# ``echo`` must return the very value, and ``kind`` the type that its handler saw.

#: Number of wrong values that a fault lists.
_LISTED = 3


def scenarios(data: dict[str, Any]) -> Iterator[Scenario]:
    """Yield a scenario for each group of values.json, and one for the types that a handler sees."""
    for group in data["groups"]:
        rules = tuple(group.get("rules", ()))
        scenario = _scenario("values", group["name"], group["doc"], "echo", group["vectors"])
        [step] = scenario.steps
        step = {**step, "within": group.get("within", 0)}
        yield replace(scenario, rules=rules, steps=(step,))
    every = [vector for group in data["groups"] for vector in group["vectors"]]
    seen = [vector for vector in every if "kind" in vector]
    yield _scenario("kinds", "kinds", "A handler sees the language's own types.", "kind", seen)


def _scenario(
    feature: str, name: str, doc: str, node: str, vectors: list[dict[str, Any]]
) -> Scenario:
    return Scenario(
        feature=feature,
        name=name,
        doc=doc,
        steps=({"vectors": vectors, "node": node},),
        needs=(node,),
        codecs=tuple(c for c in CODECS if any(c in v or "value" in v for v in vectors)),
    )


def check_vectors(talk: Talk, step: dict[str, Any]) -> None:
    """
    Send each value to the node, one at a time.

    Raises:
        Fault: Some values come back changed. The text names them.
    """
    wrong: list[str] = []
    sendings = _sendings(talk, step["vectors"])
    for id, (vector, data) in enumerate(sendings, 1):
        talk.heard.open.add(id)
        talk.write(talk.framed(_call(talk, id, step["node"], data)))
        what, within = f"an answer for {vector['name']}", step.get("within", 0)
        talk.wait(functools.partial(talk.heard.answers.get, id), what, within)
        if fault := _judge(talk, id, vector, data, step["node"]):
            wrong.append(f"{vector['name']}: {fault}")
    if wrong:
        more = f" (and {len(wrong) - _LISTED} more)" * (len(wrong) > _LISTED)
        raise Fault("; ".join(wrong[:_LISTED]) + more)


def _sendings(talk: Talk, vectors: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield each vector with each of its forms in bytes."""
    codec = talk.codec
    for vector in vectors:
        if "value" in vector and codec not in vector:
            yield vector, talk.body(build(vector["value"]))
        for text in vector.get(codec, ()):
            yield vector, text.encode() if codec == "json" else bytes.fromhex(text)


def _call(talk: Talk, id: int, node: str, data: bytes) -> bytes:
    # The bytes are spliced in, because a vector may hold bytes that no encoder writes.
    packed = talk.body({"op": "call", "id": id, "node": node, "msg": {"value": None}})
    if talk.codec == "json":
        return packed.removesuffix(b"null}}") + data + b"}}"
    return packed.removesuffix(b"\xc0") + data


def _judge(talk: Talk, id: int, vector: dict[str, Any], data: bytes, node: str) -> str:
    answer, results = talk.heard.answers[id], talk.heard.results[id]
    sent = f"sent {_shown(data, talk.codec)}, "
    if not isinstance(answer, frames.End):
        return sent + f"got {describe(answer)}"
    value = _decoded(data, talk.codec) if "value" not in vector else build(vector["value"])
    want = {"$or": _kinds(vector, value)} if node == "kind" else _either(value, vector)
    return sent + wrong if (wrong := difference([want], results)) else ""


def _decoded(data: bytes, codec: str) -> Any:
    return from_json(data) if codec == "json" else from_msgpack(data)


def _shown(data: bytes, codec: str) -> str:
    some = data[:1000]
    return shorten(some.hex() if codec == "msgpack" else some.decode(errors="replace"))


def _either(value: Any, vector: dict[str, Any]) -> Any:
    # $exactly, because a map among the values may look like a word of a template.
    return {"$or": [{"$exactly": value}, *vector.get("or", ())]}


def _kinds(vector: dict[str, Any], value: Any) -> list[str]:
    whole = isinstance(value, float) and value.is_integer()
    return [vector["kind"], *(["int"] if whole else [])]


# -- All steps -------------------------------------------------------------------------------------

#: The frame with which a probed run says that it has finished.
_END = {"op": "end", "id": None}

#: The function of each step, by the step's key; see `scenario.VERBS`.
STEPS: dict[str, Callable[[Talk, Step], None]] = {
    "hello": _send_hello,
    "send": _send,
    "write": _write,
    "close": _close,
    "signal": lambda talk, step: talk.signal(step["signal"]),
    "orphan": lambda talk, step: talk.orphan(),
    "vectors": check_vectors,
    "ready": _expect_ready,
    "failure": _expect_failure,
    "end": _expect_end,
    "err": _expect_err,
    "answer": _expect_answer,
    "out": _expect_out,
    "pong": _expect_pong,
    "log": _expect_log,
    "order": _expect_order,
    "framed": _expect_framed,
    "exit": _expect_exit,
    "quiet": _expect_quiet,
    "over": _expect_over,
    "lines": _expect_lines,
    "packed": _expect_packed,
    "finish": _expect_finish,
    "stderr": _expect_stderr,
    "only": _expect_only,
    "apart": _expect_apart,
}
