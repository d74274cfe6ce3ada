"""A program with several nodes, for the tests of queues."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

from emit_sdk import Reject, Retry, context, node, serve

#: The file that counts starts. The first start, and every third, ends as if memory had run out.
KILLED = os.environ.get("EMIT_TEST_KILLED_STARTS")
if KILLED and (not os.path.exists(KILLED) or random.random() < 1 / 3):
    with open(KILLED, "a") as count:
        count.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


@node
def answer(msg: Any) -> Any:
    how = getattr(msg, "how", None)
    if how == "retry" and context().attempt == 1:
        raise Retry("again", after=0.05)
    if how == "reject":
        raise Reject("never")
    if how == "print":
        print("hello from a program")
    if how == "die":
        os._exit(3)
    if how == "wait":  # for the file; its other one tells that the message is at work
        with open(f"{msg.file}.began", "a") as began:
            began.write("x")
        while not os.path.exists(msg.file):
            time.sleep(0.01)  # between two looks
    if how == "context":
        ctx = context()
        return [ctx.origin, ctx.attempt, ctx.traceparent]
    return [os.getpid(), msg.n]


@node
def double(msg: Any) -> Any:
    if msg.n % 100 == 13:
        raise Reject("ill")
    return [msg.n, 2 * msg.n]


@node
def endure(msg: Any) -> Any:
    if not os.path.exists(msg.file):
        while not context().cancelled:
            time.sleep(0.01)  # between two looks
        with open(msg.file, "w") as file:
            file.write("cancelled")
    return os.getpid()


@node
def busy(msg: Any) -> Any:
    with open(msg.file, "a") as file:
        file.write(f"{os.getpid()}\n")
    end = time.monotonic() + msg.seconds
    while time.monotonic() < end:
        pass
    return os.getpid()


serve()
