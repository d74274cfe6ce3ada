"""The SDK that PROTOCOL.md prints, and a program with it that has the nodes of the core feature."""

from __future__ import annotations

import re

from tests.hosts import ROOT

PAGE = (ROOT / "runtimes" / "PROTOCOL.md").read_text("utf-8")

SDK = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[-1]

NODES = """
import subprocess
import time


def echo(msg):
    yield msg["value"]


def none(msg):
    return ()


def count(msg):
    return range(msg["n"])


def text(msg):
    yield "x" * msg["n"]


def slow(msg):
    time.sleep(msg["seconds"])
    yield msg["value"]


def fail(msg):
    raise ValueError(msg["text"])


def partial(msg):
    yield from range(msg["n"])
    raise ValueError(msg["text"])


def prints(msg):
    print(msg["text"], end="", flush=True)
    subprocess.run(["printf", "%s", msg["text"]], check=True, close_fds=False)
    yield "printed"


def stdin(msg):
    yield sys.stdin.read() + subprocess.run(["cat"], stdout=subprocess.PIPE, text=True).stdout


def bad(msg):
    yield {"items": [0, {"price": float("nan")}]}


def leave(msg):
    os._exit(0)


handlers = [echo, none, count, text, slow, fail, partial, stdin, bad, leave]
nodes = {"print": prints, **{handler.__name__: handler for handler in handlers}}
nodes["exit"] = lambda msg: sys.exit(0)
chosen = os.environ.get("CONFORMANCE_NODES", "").split(",")
nodes = {name: nodes[name] for name in nodes if chosen == [""] or name in chosen}
"""

PROGRAM = f"{SDK}{NODES}\nserve(nodes)\n"

#: The nodes of the program.
NAMES = [
    "echo",
    "none",
    "count",
    "text",
    "slow",
    "fail",
    "partial",
    "stdin",
    "bad",
    "leave",
    "print",
    "exit",
]
