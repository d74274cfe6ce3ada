"""
A graph whose nodes fail in every known way, with a canary in the message or in the program's
output. It runs in this process, and in a worker of Celery or RQ.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from celery import Celery
from redis import Redis

from emit import CeleryRouter, Router, RQRouter, ShellNode
from emit.celery import configure
from tests.faults.nodes import PATH, raw, sdk

#: Stands for secret data, which only the next node may see.
CANARY = "canary-4111-1111"

MESSAGE: dict[str, Any] = {"card": CANARY, "n": 1}

#: Settings for each kind of program.
PERSISTENT = {"mode": "persistent"}
ONESHOT = {"mode": "oneshot"}
LINES = {"mode": "lines"}


class Failure(NamedTuple):
    """
    A node that fails.

    Attributes:
        error: The exception's class; empty if there is none, and only the log matters.
        command: The command of a program, or a Python handler.
        settings: The node's settings.
        message: The message for the node.
        waits: True if a queue keeps the message, because the failure is not its fault.
    """

    error: str
    command: list[str] | Callable[[Any], Any]
    settings: dict[str, Any]
    message: dict[str, Any] = MESSAGE
    waits: bool = False


def by_hand(code: str) -> list[str]:
    """Return a program that speaks the protocol. *code* has each call's ``id`` and ``card``."""
    indented = "\n    ".join(code.strip().splitlines())
    return raw(f"for id, msg in calls():\n    card = msg['card']\n    {indented}\n")


def once(code: str) -> list[str]:
    """Return a program for one message. *code* has its ``card``."""
    return python(f"card = json.load(sys.stdin)['card']\n{code}")


def each_line(code: str) -> list[str]:
    """Return a filter. *code* has each line and its ``card``."""
    indented = "\n    ".join(code.strip().splitlines())
    return python(f"for line in sys.stdin:\n    card = json.loads(line)['card']\n    {indented}\n")


def python(code: str) -> list[str]:
    start = "import json, os, struct, sys, time\ndef write(text): os.write(1, text.encode())\n"
    return [sys.executable, "-c", start + code]


#: A frame in msgpack whose map is cut off by a byte that can't begin a value.
_PACKED = r"""
body = b"\x83\xa2op\xa3end\xa2id" + bytes([id]) + b"\xa4msgs\x92" + bytes([0xa0 + len(card)])
body += card.encode() + b"\xc1"
write(len(body).to_bytes(4, "big") + body)
"""


def _misfit(msg: Any) -> Any:
    return msg.card, msg.card, msg.card


def _odd_keys(msg: Any) -> Any:
    return {msg.card: 1, "n": 2}


FAILURES: dict[str, Failure] = {
    # in Python
    "py_misfit": Failure("ResultError", _misfit, {}),
    "py_odd_keys": Failure("ResultError", _odd_keys, {}),
    # frames
    "no_json": Failure(
        "ProtocolError",
        by_hand('write(\'\\n{"op":"end","id":%d,"msgs":["%s",NaN]}\\n\' % (id, card))'),
        {**PERSISTENT, "codec": "json"},
    ),
    "no_msgpack": Failure("ProtocolError", by_hand(_PACKED), PERSISTENT),
    "wrong_type": Failure(
        "ProtocolError", by_hand("frame(op='end', id=id, msgs=card)"), PERSISTENT
    ),
    "wrong_id": Failure("ProtocolError", by_hand("frame(op='end', id=card, msgs=[])"), PERSISTENT),
    "echo": Failure(
        "ProtocolError", by_hand("frame(op='call', id=id, msg={'card': card})"), PERSISTENT
    ),
    "unasked": Failure(
        "ProcessDied", by_hand("end(id + 1, card)\ntime.sleep(0.1)\nos._exit(3)"), PERSISTENT
    ),
    "too_large": Failure(
        "FrameTooLarge", by_hand("end(id, card * 200)"), {**PERSISTENT, "max_frame": 2048}
    ),
    "unknown_too_large": Failure(
        "FrameTooLarge",
        by_hand('write(\'\\n{"msgs":["%s"],"op":"end","id":1}\\n\' % (card * 200))'),
        {**PERSISTENT, "max_frame": 2048, "codec": "json"},
    ),
    "misfit": Failure("ResultError", by_hand("end(id, {card: card})"), PERSISTENT),
    "too_many": Failure(
        "ResultError", by_hand("end(id, card, card)"), {**PERSISTENT, "max_results": 1}
    ),
    "too_much": Failure(
        "ResultError", by_hand("end(id, card * 100)"), {**PERSISTENT, "max_result_bytes": 1024}
    ),
    "prints": Failure(
        "", by_hand("write(json.dumps({'card': card}) + '\\n' + card + '\\n')\nend(id)"), PERSISTENT
    ),
    "dies": Failure("ProcessDied", by_hand("os._exit(3)"), PERSISTENT),
    "crashes": Failure("ProcessDied", by_hand("os.kill(os.getpid(), signal.SIGSEGV)"), PERSISTENT),
    "hangs": Failure("CallTimeout", by_hand("hang()"), {**PERSISTENT, "timeout": 1.0}),
    "closes": Failure("ProtocolError", by_hand("os.close(1)\nhang()"), PERSISTENT),
    "grows": Failure(
        "ProcessDied", by_hand("x = [card] * 50_000_000\nhang()"), {**PERSISTENT, "max_rss": 2**27}
    ),
    # an SDK that refuses a result, or a message
    "sdk_key": Failure(
        "RemoteError", sdk("def f(msg): return {(msg.card,): 1}\nserve(f)"), PERSISTENT
    ),
    "sdk_value": Failure(
        "RemoteError", sdk("def f(msg): return {msg.card: {1}}\nserve(f)"), PERSISTENT
    ),
    "sdk_large": Failure(
        "RemoteError",
        sdk("def f(msg): return msg.card * 200\nserve(f)"),
        {**PERSISTENT, "max_frame": 2048},
    ),
    "sdk_lacks": Failure("RemoteError", sdk("def f(word): return word\nserve(f)"), PERSISTENT),
    "sdk_no_node": Failure(
        "RemoteError",
        sdk("@node\ndef a(msg): pass\n@node\ndef b(msg): pass\nserve()"),
        {**PERSISTENT, "program_node": "c"},
    ),
    # values that can't be sent
    "unfit": Failure(
        "EncodeError",
        by_hand("end(id)"),
        {**PERSISTENT, "codec": "json"},
        {**MESSAGE, "prices": {CANARY: float("nan")}},
    ),
    "message_too_large": Failure(
        "FrameTooLarge",
        by_hand("end(id)"),
        {**PERSISTENT, "max_frame": 1024},
        {"card": CANARY * 99},
    ),
    # a process for each message
    "once_no_json": Failure("ProtocolError", once("print([1, 2])\nprint(card, '[NaN]')"), ONESHOT),
    "once_no_msgpack": Failure(
        "ProtocolError",
        python(f"sys.stdout.buffer.write(b'\\x92\\x{0xA0 + len(CANARY):x}{CANARY}\\xc1')"),
        {**ONESHOT, "codec": "msgpack"},
    ),
    "once_too_large": Failure(
        "FrameTooLarge", once("print(json.dumps(card * 200))"), {**ONESHOT, "max_frame": 2048}
    ),
    "once_misfit": Failure("ResultError", once("print(json.dumps({card: 1}))"), ONESHOT),
    "once_too_many": Failure(
        "ResultError", once("print(json.dumps(card))\n" * 2), {**ONESHOT, "max_results": 1}
    ),
    "once_too_much": Failure(
        "ResultError", once("print(json.dumps(card * 100))"), {**ONESHOT, "max_result_bytes": 1024}
    ),
    "once_exit": Failure("ProcessDied", once("sys.exit(3)"), ONESHOT),
    "once_hangs": Failure("CallTimeout", once("time.sleep(600)"), {**ONESHOT, "timeout": 1.0}),
    "once_message_too_large": Failure(
        "FrameTooLarge", once(""), {**ONESHOT, "max_frame": 1024}, {"card": CANARY * 99}
    ),
    "once_unfit": Failure(
        "EncodeError", once(""), ONESHOT, {**MESSAGE, "prices": {CANARY: float("inf")}}
    ),
    # filters
    "line_no_json": Failure("ProtocolError", each_line("print(card, flush=True)"), LINES),
    "line_cut": Failure(
        "ProtocolError", each_line("write(line + card)\ntime.sleep(600)"), {**LINES, "timeout": 2.0}
    ),
    "line_twice": Failure("ProtocolError", each_line("write(line * 2)"), LINES),
    "line_too_long": Failure(
        "ProtocolError",
        each_line("print(json.dumps(card * 200), flush=True)"),
        {**LINES, "max_frame": 2048},
    ),
    "line_too_much": Failure(
        "ResultError",
        each_line("print(json.dumps(card * 100), flush=True)"),
        {**LINES, "max_result_bytes": 1024},
    ),
    "line_misfit": Failure("ResultError", each_line("write('{\"%s\": 1}\\n' % card)"), LINES),
    "line_dies": Failure("ProcessDied", each_line("os._exit(3)"), LINES),
    "line_hangs": Failure("CallTimeout", each_line("time.sleep(600)"), {**LINES, "timeout": 1.0}),
    # starts
    "missing": Failure("StartError", ["./no-such-program"], PERSISTENT, waits=True),
    "never_ready": Failure(
        "StartTimeout", raw("hang()"), {**PERSISTENT, "start_timeout": 0.5}, waits=True
    ),
    "not_loaded": Failure("StartError", raw("os._exit(3)"), PERSISTENT, waits=True),
    "once_missing": Failure("StartError", ["./no-such-program"], ONESHOT, waits=True),
}


def declare(router: Router, module: dict[str, Any]) -> None:
    """Make the nodes attributes of the module: RQ finds functions by their names."""
    common = {"size": 1, "max_attempts": 1, "timeout": 20.0, "backoff": 0.01, "backoff_max": 0.1}
    for slug, failure in FAILURES.items():
        fields = ("a", "b")
        name = f"canary.{slug}"
        if isinstance(failure.command, list):
            env = {"PYTHONPATH": PATH, "PYTHONIOENCODING": "utf-8"}
            values = {"command": failure.command, "env": env, "__module__": "canary"}
            made: Any = type(slug, (ShellNode,), values)
            module[slug] = router.node(fields, name=name, **{**common, **failure.settings})(made)
        else:
            failure.command.__module__, failure.command.__qualname__ = "canary", slug
            failure.command.__name__ = slug
            module[slug] = router.node(fields, name=name)(failure.command)


if "EMIT_TEST_QUEUE" in os.environ:
    URL = os.environ["EMIT_TEST_REDIS"]
    connection = Redis.from_url(URL)
    redis = Redis.from_url(URL, decode_responses=True)
    app = Celery("canary", broker=URL, backend=URL)
    configure(app, time_limit=60)
    router: Any
    if os.environ["EMIT_TEST_QUEUE"] == "celery":
        router = CeleryRouter(app.task)
    else:
        router = RQRouter(connection)
    declare(router, globals())
