"""A graph with one node in another program, for hosts that fork. Use: ``import graph``."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
sys.path.append(str(ROOT))

from emit import Router  # noqa: E402
from emit.host.host import current  # noqa: E402
from emit.multilang import ShellNode  # noqa: E402

CODE = """
from emit_sdk import serve
def echo(msg):
    return f"{msg.n} for {msg.caller}"
serve(echo)
"""

router = Router()


@router.node(("answer",), name="echo")
class Echo(ShellNode):
    command = (sys.executable, "-c", CODE, os.environ.get("TAG", ""))
    env = {"PYTHONPATH": str(ROOT / "sdks" / "python")}  # noqa: RUF012
    mode = "persistent"
    size = 2


def check(count):
    """Make calls that each fit only their own answer, and return the number of wrong answers."""
    me = os.getpid()
    return sum(Echo(n=n, caller=me) != ({"answer": f"{n} for {me}"},) for n in range(count))


def figures():
    return current().snapshot()["nodes"]["echo"]


def pids():
    return [process["pid"] for process in figures()["processes"]]
