"""The wire by hand, for small programs that break it: ``from wire import *``."""

import json
import os
import signal  # noqa: F401
import sys
import threading  # noqa: F401
import time


def write(data, fd=1):
    """Write all of *data*, text or bytes, on stdout: a signal may cut a single os.write short."""
    view = memoryview(data.encode() if isinstance(data, str) else data)
    while view:
        view = view[os.write(fd, view) :]


def line(**fields):
    """A frame as it goes on the pipe."""
    return "\n" + json.dumps(fields) + "\n"


def frame(**fields):
    write(line(**fields))


def read():
    """The host's next frame; the program ends where its input does."""
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
    """Say and do nothing until it is killed, which takes less than ten minutes in any test."""
    time.sleep(600)  # the hang itself; a test's limit ends it


def end(id, *msgs):
    frame(op="end", id=id, msgs=msgs)
