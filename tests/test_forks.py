"""The hooks at a fork run in one order, and all of them, whatever goes wrong."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from emit import forks
from tests.hosts import run_host

PACKAGE = Path(forks.__file__).parent

FORK = """
import os, sys
from emit import forks

def saying(what):
    return lambda: os.write(1, (what + " ").encode())

for step in forks.STEPS:
    before = saying(f"before-{step}") if step in forks.STEPS[:3] else None
    forks.at_fork(step, before=before, in_parent=saying(f"parent-{step}"),
                  in_child=saying(f"child-{step}"))
"""


def test_the_order() -> None:
    """The first three steps are undone the other way round; then come the others."""
    said = run_host(FORK + "pid = os.fork()\nif pid: os.waitpid(pid, 0)\nelse: os._exit(0)")
    words = said.split()
    assert words[:3] == ["before-modules", "before-imports", "before-starts"]
    after = ["starts", "imports", "modules", "connections", "status", "host", "looks"]
    for who in ("parent", "child"):
        mine = [word.partition("-")[2] for word in words if word.startswith(who)]
        assert mine == after


def test_a_step_that_fails() -> None:
    """The others are done, and the fork as well."""
    said = run_host(f"""{FORK}
def fail():
    raise ValueError("no")

sys.unraisablehook = lambda told: saying(type(told.exc_value).__name__)()
forks.at_fork("imports", before=fail, in_parent=fail, in_child=fail)
pid = os.fork()
if not pid:
    os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""")
    words = said.split()
    assert words.count("ValueError") == 3
    assert {"before-starts", "parent-modules", "child-host"} <= set(words)
    assert words[-1] == "3"


def test_no_such_step() -> None:
    with pytest.raises(KeyError):
        forks.at_fork("nowhere")


def test_all_handlers_are_here() -> None:
    """No other module registers any, so that the order is known."""
    found = {
        path.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Attribute) and node.attr == "register_at_fork"
    }
    assert found == {"forks.py"}
