"""The nodes of tests/conformance/README.md: what `emit conformance` tests the Python SDK with."""

import atexit
import datetime
import logging
import os
import subprocess
import sys
import threading
import time

import emit_sdk
from emit_sdk import Reject, Retry, context, node, serve

KINDS = {
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "float",
    str: "text",
    bytes: "bytes",
    datetime.datetime: "time",
    list: "list",
    dict: "map",
}


@node
def echo(msg):
    yield msg.value


@node
def none(msg):
    pass


@node
def count(msg):
    yield from range(msg.n)


@node
def text(msg):
    return "x" * msg.n


@node
def slow(msg):
    time.sleep(msg.seconds)
    yield msg.value


@node
def fail(msg):
    if "cause" not in msg:
        raise ValueError(msg.text)
    try:
        raise KeyError(msg.cause)
    except KeyError as error:
        raise ValueError(msg.text) from error


@node
def partial(msg):
    yield from range(msg.n)
    raise ValueError(msg.text)


@node(name="print")
def print_text(msg):
    print(msg.text, end="", flush=True)
    subprocess.run(["printf", "%s", msg.text], check=True)
    return "printed"


@node
def kind(msg):
    return KINDS[type(msg.value)]


@node
def bad(msg):
    values = {
        "nan": float("nan"),
        "infinity": float("inf"),
        "big": 2**64,
        "small": -(2**63) - 1,
        "bytes": b"\x00\xff",
        "time": datetime.datetime.now(datetime.timezone.utc),
        "surrogate": "\ud800",
        "key": {1: "one"},
        "object": object(),
    }
    yield {"items": [0, {"price": values[msg.what]}]}


@node
def deep(msg):
    value = []
    for _ in range(msg.n - 1):
        value = [value]
    yield value


@node
def wide(msg):
    return [0] * msg.n


@node
def native(msg):
    return {}["missing"]


@node
def retry(msg):
    raise Retry(msg.text, after=msg.get("after"))


@node
def reject(msg):
    raise Reject(msg.text)


@node
def stdin(msg):
    return sys.stdin.read() + subprocess.run(["cat"], stdout=subprocess.PIPE, text=True).stdout


@node
def log(msg):
    logging.log(getattr(logging, msg.level.upper()), msg.text)


@node(name="context")
def about(msg):
    call = context()
    return {
        "id": call.id,
        "node": call.node,
        "origin": call.origin,
        "attempt": call.attempt,
        "traceparent": call.traceparent,
        "config": call.config,
        "has_deadline": call.remaining() is not None,
        "remaining": call.remaining(),
    }


@node
def trickle(msg):
    for number in range(msg.n):
        yield number
        time.sleep(msg.seconds)


@node
def wait(msg):
    yield "began"
    end = time.monotonic() + msg.seconds
    while not context().cancelled and time.monotonic() < end:
        time.sleep(0.01)
    yield "cancelled" if context().cancelled else "waited"


@node
def spin(msg):
    end = time.monotonic() + msg.seconds
    while time.monotonic() < end:
        pass
    return "spun"


class Meeting:
    now = most = 0
    changed = threading.Condition()


@node
def meet(msg):
    with Meeting.changed:
        Meeting.now += 1
        Meeting.most = max(Meeting.most, Meeting.now)
        Meeting.changed.notify_all()
        Meeting.changed.wait_for(lambda: Meeting.most >= msg.n, msg.seconds)
        Meeting.now -= 1
        return Meeting.most


@node
def late(msg):
    left = context().remaining()
    if left is not None and left < msg.seconds:
        time.sleep(max(0, left))  # the node's work
        raise TimeoutError("late")
    time.sleep(msg.seconds)  # the node's work
    return "waited"


@node(name="exit")
def leave_politely(msg):
    sys.exit(0)


@node
def leave(msg):
    os._exit(0)


if __name__ == "__main__":
    chosen = os.environ.get("CONFORMANCE_NODES", "").split(",")
    handlers = {name: handler for handler, name in emit_sdk._registered.items()}
    atexit.register(lambda: print("cleaned up", file=sys.stderr, flush=True))
    serve(
        *(handlers[name] for name in chosen if name),
        concurrency=int(os.environ.get("CONFORMANCE_CONCURRENCY", "1")),
    )
