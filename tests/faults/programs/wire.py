"""The protocol by hand, for small programs that break it. Use: ``from wire import *``."""

import json
import os
import signal  # noqa: F401
import sys
import threading  # noqa: F401
import time


def write(data, fd=1):
    """Write all of *data* (text or bytes) to stdout: a signal may cut a single os.write short."""
    view = memoryview(data.encode() if isinstance(data, str) else data)
    while view:
        view = view[os.write(fd, view) :]


def line(**fields):
    """Return a frame with its framing."""
    return "\n" + json.dumps(fields) + "\n"


def frame(**fields):
    write(line(**fields))


def read():
    """Return the host's next frame. At the end of the input, end the program."""
    for text in sys.stdin.buffer:
        if text.strip():
            return json.loads(text)
    sys.exit()


def ready(**more):
    """Answer to hello."""
    hello = read()
    frame(op="ready", v=1, **more)
    return hello


def calls():
    """Be ready, and yield each call's id and message."""
    ready()
    while True:
        call = read()
        if call["op"] == "call":
            yield call["id"], {**call["msg"], "attempt": call["meta"].get("attempt", 1)}


def hang():
    """Do nothing until a test kills the program, which any test does within ten minutes."""
    time.sleep(600)  # the hang itself; a test's limit ends it


def end(id, *msgs):
    frame(op="end", id=id, msgs=msgs)
