"""A host and a shell for the tests of the Python SDK: real processes over pipes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import threading

import pytest

import emit_sdk

SDK = pathlib.Path(emit_sdk.__file__).parent
HANG = 60  # seconds after which a test counts as hung

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
def fields(**fields):
    return fields

@node
def all_of_it(**msg):
    return msg

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
    trace = [c.traceparent, c.tracestate]
    return [c.node, c.origin, c.attempt, c.remaining() is not None, *trace]

@node
def slow(msg):
    yield "first"
    while not os.path.exists(msg.go):
        time.sleep(0.01)
    yield "last"

@node
def left(msg):
    return context().remaining()

@node
def late(msg):
    if msg.how != "early":
        time.sleep(max(0, context().remaining()))  # the node's work
    if msg.how == "subprocess":
        subprocess.run(["sleep", "60"], timeout=0.001)
    if msg.how == "cause":
        raise ValueError("no answer") from TimeoutError("late")
    if msg.how == "reject":
        raise Reject("never") from TimeoutError("late")
    raise ValueError("mine") if msg.how == "other" else TimeoutError("late")

@node
def wait(msg):
    yield "began"
    while not context().cancelled:
        time.sleep(0.01)
    yield "noticed"
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
    here = {**os.environ, "PYTHONPATH": str(SDK), **more}
    here.pop("PYTHONUNBUFFERED", None)  # prints that take no lock: a fork in one is harmless
    return here


@contextlib.contextmanager
def hosted(tmp_path, text=NODES + "\nserve()\n", codec="json"):
    with subprocess.Popen(
        [sys.executable, program(tmp_path, text)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        guard = threading.Timer(HANG, process.kill)
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
