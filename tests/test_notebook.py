"""Nodes that are declared where code is typed in: a notebook, a prompt, ``exec``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emit import Router
from emit.errors import GraphError
from tests.hosts import ROOT
from tests.queues.worker import are_gone, eventually

pytestmark = pytest.mark.slow

BEGIN = "from emit import Router, ShellNode\nrouter = Router()\nseen = []"

WORDS = """
@router.node(("word",), entry_point=True)
def words(msg):
    yield from msg.text.split()
"""

SHOW = """
@router.node((), words)
def show(msg):
    seen.append(msg.word)
"""

PROGRAM = """
@router.node(("pid",), words)
class Program(ShellNode):
    file = "pid.py"
"""

#: Each is typed in, and some once more: the last one with a change.
CELLS = (BEGIN, WORDS, SHOW, PROGRAM, PROGRAM, SHOW, WORDS.replace(".text.", ".text.upper()."))

IPYTHON = """
import sys
from IPython.terminal.interactiveshell import TerminalInteractiveShell

shell = TerminalInteractiveShell.instance(simple_prompt=True)
for cell in sys.argv[1:]:
    result = shell.run_cell(cell, store_history=True)
    error = result.error_before_exec or result.error_in_exec
    if error is not None:
        raise SystemExit(f"{type(error).__name__}: {error}")
"""


def run(*command: str, cwd: Path, text: str = "") -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(cwd), "NO_COLOR": "1"}
    env |= {"PYTHON_BASIC_REPL": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=env, input=text, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ipython(cwd: Path, *cells: str) -> str:
    pytest.importorskip("IPython")
    return run("-c", IPYTHON, *cells, cwd=cwd).strip()


def test_cells_are_run_again(tmp_path: Path) -> None:
    """The newer handler takes the place of the older; who hears it, and whom it hears, stay."""
    (tmp_path / "pid.py").write_text("import os\ndef pid(): return os.getpid()")
    assert ipython(tmp_path, *CELLS, 'router(text="the rain"); print(seen)') == "['THE', 'RAIN']"


def test_the_order_of_subscribers_stays(tmp_path: Path) -> None:
    """A cell that is run again does not move its node behind the others."""
    first = '@router.node((), "__main__.words")\ndef first(msg): seen.append(1)'
    second = first.replace("first", "second").replace("1", "2")
    cells = (BEGIN, WORDS, first, second, first, 'router(text="rain"); print(seen)')
    assert ipython(tmp_path, *cells) == "[1, 2]"


def test_the_processes_of_a_cell_end_with_it(tmp_path: Path) -> None:
    """A cell that runs again ends the processes of the node that it declared before."""
    (tmp_path / "pid.py").write_text("import os\ndef pid(): return os.getpid()")
    ask = "print(Program(n=1)[0]['pid'])"
    look = "import psutil\nprint(psutil.pid_exists(first))"
    keep = "first = Program(n=1)[0]['pid']"
    said = ipython(tmp_path, BEGIN, WORDS, PROGRAM, keep, ask, PROGRAM, look, ask).split()
    assert said[1] == "False"
    assert said[0] != said[2]


def test_a_router_draws_itself(tmp_path: Path) -> None:
    """IPython gets the graph as text, and as a picture if graphviz is installed."""
    show = "data, _ = get_ipython().display_formatter.format(router)"
    look = "print(data['text/plain']); print('<svg' in data.get('image/svg+xml', ''))"
    printed = ipython(tmp_path, BEGIN, WORDS, SHOW, show, look).splitlines()
    assert [line.split()[1] for line in printed[:-1]] == [
        "entry",
        "__main__.words",
        "__main__.show",
    ]
    assert printed[-1] == str(shutil.which("dot") is not None)


def test_a_file_is_run_again(tmp_path: Path) -> None:
    """IPython's %run works in a namespace of its own and in that of the cells."""
    (tmp_path / "app.py").write_text(BEGIN)
    (tmp_path / "nodes.py").write_text(f"from app import router\n{WORDS}")
    (tmp_path / "cells.py").write_text(WORDS)
    runs = ("%run nodes.py", "%run nodes.py", "from app import router", "%run -i nodes.py")
    names = "print(*router.names)"
    assert ipython(tmp_path, *runs, "%run -i nodes.py", names) == "__main__.words"
    assert ipython(tmp_path, BEGIN, *["%run -i cells.py"] * 2, names) == "__main__.words"


def test_two_nodes_of_one_name_in_a_loop_of_a_cell(tmp_path: Path) -> None:
    """One line that gives two nodes one name is a mistake there, too."""
    cell = 'for n in (1, 2): router.node((), name="twin")(lambda msg: None)'
    with pytest.raises(AssertionError, match='GraphError: two nodes are called "twin"'):
        ipython(tmp_path, BEGIN, cell)


def test_lines_are_typed_again(tmp_path: Path) -> None:
    """Lines typed at Python's own prompt may replace declarations of a file (python -i)."""
    (tmp_path / "nodes.py").write_text("\n".join((BEGIN, WORDS, SHOW)))
    typed = (SHOW, WORDS.replace(".text.", ".text.upper()."), SHOW)
    lines = [part.strip() + "\n\n" for part in (*typed, 'router(text="the rain")', "print(seen)")]
    assert "['THE', 'RAIN']" in run("-i", "nodes.py", cwd=tmp_path, text="".join(lines))


def test_code_is_executed_again() -> None:
    """Code may run again by exec, changed or not; a name twice in the same code is a mistake."""
    router, seen = Router(), [0]
    place: dict[str, Any] = {"router": router, "seen": seen, "__name__": "cells"}
    for code in (WORDS, SHOW, WORDS, SHOW, WORDS.replace(".text.", ".text.upper().")):
        exec(code, place)
    router(text="rain")
    assert seen == [0, "RAIN"]
    with pytest.raises(GraphError, match=r'two nodes are called "cells.words"'):
        exec(WORDS + WORDS, {"router": Router(), "__name__": "cells"})


def test_a_function_that_declares_is_called_again() -> None:
    """It declares the same name twice: that is no repetition of a module's code."""
    router = Router()
    place = {"router": router, "__name__": "__main__"}
    exec("def make():\n    router.node((), name='twin')(lambda msg: None)\n", place)
    place["make"]()  # type: ignore[operator]
    with pytest.raises(GraphError, match='two nodes are called "twin"'):
        place["make"]()  # type: ignore[operator]


def test_processes_end_when_a_module_is_reloaded(tmp_path: Path) -> None:
    """The node that replaces another ends the processes of the old one."""
    (tmp_path / "pid.py").write_text("import os\ndef pid(): return os.getpid()")
    place: dict[str, Any] = {}
    code = f"{BEGIN}\n{PROGRAM.replace(', words', '').replace('pid.py', str(tmp_path / 'pid.py'))}"
    exec(code, place)
    pid = place["Program"](n=1)[0]["pid"]
    exec(code.partition("seen = []")[2], place)
    eventually(lambda: are_gone([pid]))
    assert place["Program"](n=1)[0]["pid"] != pid
    place["router"].close()
