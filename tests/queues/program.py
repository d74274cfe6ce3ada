"""A program of several nodes, for the tests of queues."""

from __future__ import annotations

import os
import time
from typing import Any

from emit_sdk import Reject, Retry, context, node, serve


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
    if how == "context":
        ctx = context()
        return [ctx.origin, ctx.attempt, ctx.traceparent]
    return [os.getpid(), msg.n]


@node
def double(msg: Any) -> Any:
    return [msg.n, 2 * msg.n]


@node
def busy(msg: Any) -> Any:
    with open(msg.file, "a") as file:
        file.write(f"{os.getpid()}\n")
    end = time.monotonic() + msg.seconds
    while time.monotonic() < end:
        pass
    return os.getpid()


serve()
