"""``emit_digraph`` and ``emit digraph``."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from emit import Router
from emit.cli.digraph import main
from emit.digraph import make_digraph

APP = """
from emit import Router

router = Router(node_modules=["tasks"])
number = 3
"""

TASKS = """
from app import router

def node(name, *wishes, **options):
    router.node(("x",), wishes, name="tasks." + name, **options)(lambda msg: msg.x)

node("count_messages", "tasks.tweet_text")
node("clean_text", "tasks.tweet_text")
node("clean_words", "tasks.clean_text")
node("tally_words", "tasks.clean_words")
node("tweet_text", entry_point=True)
node("alone")
"""

PRINTED = """\
digraph router {
"__entry_point" -> "tasks.tweet_text";
"tasks.clean_text" -> "tasks.clean_words";
"tasks.clean_words" -> "tasks.tally_words";
"tasks.tweet_text" -> "tasks.clean_text";
"tasks.tweet_text" -> "tasks.count_messages";
"tasks.alone";
}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


def run(cwd: Path, *argv: str, main: str = "emit.cli.digraph") -> subprocess.CompletedProcess[str]:
    """Run the program as the installed command, with only the project itself on the path."""
    root = str(Path(__file__).parent.parent)
    program = f"import sys; sys.path[0] = {root!r}; from {main} import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_prints_the_documented_form(project: Path) -> None:
    """The current directory is importable; lines are sorted; a node without edges is shown."""
    done = run(project, "app.router")
    assert (done.stdout, done.stderr, done.returncode) == (PRINTED, "", 0)


def test_emit_digraph_is_also_a_command_of_emit(project: Path) -> None:
    """``emit digraph app.router`` is the same; options are handed on."""
    done = run(project, "digraph", "app.router", "--name", "tweets", main="emit.cli")
    assert (done.stdout, done.returncode) == (PRINTED.replace("router {", "tweets {"), 0)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("router", "is not of the form module.router"),
        ("", "is not of the form module.router"),
        (".app.router", "is not of the form module.router"),
        ("ap.router", "there is no module ap here or on the Python path"),
        ("app.more.router", "there is no module app.more here or on the Python path"),
        ("app.ruter", "the module app has no ruter (its routers: router)"),
        ("app.number", "is no router, but of type int"),
    ],
)
def test_a_wrong_path(
    project: Path,
    path: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A wrong path ends with code 2, one line on stderr that says why, and no traceback."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", sys.path[:])
    for module in ("app", "tasks"):
        monkeypatch.setitem(sys.modules, module, None)  # restored afterwards, whatever it was
        del sys.modules[module]
    assert main([path]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert why in printed.err


def test_a_fault_in_the_module_itself_is_shown(project: Path) -> None:
    """An import that fails inside the module is not taken for a wrong path."""
    (project / "tasks.py").write_text("import not_there_at_all")
    done = run(project, "app.router")
    assert done.returncode == 2
    assert "No module named 'not_there_at_all'" in done.stderr
    assert "tasks.py:1 in <module>" in done.stderr


def test_no_path_is_a_usage_error(project: Path) -> None:
    """A call without a path prints the usage."""
    done = run(project)
    assert done.returncode == 2
    assert "usage: emit_digraph" in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="it is Linux's")
@pytest.mark.parametrize(
    ("to", "code", "says"),
    [
        (">/dev/full", 1, "No space left on device\n"),
        (">&-", 1, "it is closed\n"),
        ("| true", 0, ""),
    ],
)
def test_output_that_nobody_takes(project: Path, to: str, code: int, says: str) -> None:
    """A full disk is one line, as with every command; a reader who has gone is none."""
    program = "from emit.cli.digraph import main; main(['app.router'])"
    if code:
        program = program.replace("main([", "raise SystemExit(main([") + ")"
    command = f"{shlex.quote(sys.executable)} -uc {shlex.quote(program)} {to}"
    done = subprocess.run(
        command, shell=True, cwd=project, capture_output=True, text=True, timeout=60
    )
    says = says and f"emit_digraph: standard output can't be written to: {says}"
    assert (done.returncode, done.stderr) == (code, says)


def test_an_empty_graph() -> None:
    """A router without nodes is a graph without lines."""
    assert make_digraph(Router()) == "digraph router {\n}"


ODD = ['say "hi"', "back\\slash", "two\nlines", "Käse", "a -> b"]


def odd_router() -> Router:
    router = Router()
    for name in ODD:
        router.node(("x",), entry_point=True, name=name)(lambda msg: msg.x)
    return router


@pytest.mark.requires("graphviz")
@pytest.mark.parametrize("name", ["router", "my graph", "graph", "Node", "1st", "it's"])
def test_graphviz_reads_it(name: str) -> None:
    """Graphviz understands the text, whatever the nodes and the graph are called."""
    text = make_digraph(odd_router(), name)
    done = subprocess.run(["dot", "-T", "plain"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\nnode ") == len(ODD) + 1


def test_quotes_names() -> None:
    """Quotes and backslashes in a name are escaped."""
    text = make_digraph(odd_router())
    assert r'"__entry_point" -> "say \"hi\"";' in text
    assert r'"__entry_point" -> "back\\slash";' in text
    assert '"__entry_point" -> "Käse";' in text
