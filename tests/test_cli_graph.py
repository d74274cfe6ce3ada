"""``emit graph``, as it is installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import EMIT, run

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"

APP = """
from emit import Router

router = Router()
router.node(("word",), entry_point=True, name="words")(lambda msg: msg.text.split())
router.node((), "words", name="count")(lambda msg: None)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def test_text_is_what_it_prints(project: Path) -> None:
    """The output is a tree without options."""
    done = run("graph", "app.router", cwd=project)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "● entry\n└─ words  (word)\n   └─ count\n"


def test_json(project: Path) -> None:
    """JSON that a script can read."""
    data = json.loads(run("graph", "app.router", "--format", "json", cwd=project).stdout)
    assert [node["name"] for node in data["nodes"]] == ["words", "count"]


@pytest.mark.requires("graphviz")
@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("g.svg", b"<?xml"),
        ("g.png", b"\x89PNG"),
        ("g.mmd", b"flowchart"),
        ("g.gv", b"digraph emit"),
        ("g.txt", "● entry".encode()),
    ],
)
def test_the_name_of_the_file_says_what_to_write(project: Path, name: str, begins: bytes) -> None:
    """The file's suffix chooses the format, and --output prints nothing."""
    done = run("graph", "app.router", "--output", name, cwd=project)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (project / name).read_bytes().startswith(begins)


def test_an_unknown_kind_of_file(project: Path) -> None:
    """It is a usage error that lists the formats, and nothing is written."""
    done = run("graph", "app.router", "-o", "graph.gif", cwd=project)
    assert (done.returncode, done.stdout) == (64, "")
    assert "graph.gif: say what to write" in done.stderr
    assert not (project / "graph.gif").exists()


def test_without_dot(project: Path) -> None:
    """One line says that graphviz is missing, and how to get it on this machine."""
    (project / "apk").touch(mode=0o755)
    env = {**os.environ, "PATH": str(project)}
    argv = [EMIT, "graph", "app.router", "--format", "svg"]
    done = subprocess.run(argv, cwd=project, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "on the PATH: apk add graphviz, or see https://graphviz.org" in done.stderr
    assert "apt-get" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_the_python_package(project: Path) -> None:
    """One line says how to get the missing package graphviz."""
    program = "import sys; sys.modules['graphviz'] = None; from emit.cli import main; main()"
    argv = [sys.executable, "-c", program, "graph", "app.router", "--format", "svg"]
    done = subprocess.run(argv, cwd=project, capture_output=True, text=True)
    assert done.stdout == ""
    assert "pip install 'emit-graph[cli]'" in done.stderr


def test_a_language_of_ones_own_has_its_colours(project: Path) -> None:
    """They are in its runtime.toml. Emit's languages keep theirs."""
    toy = project / "emit_runtimes" / "toy" / "runtime.toml"
    toy.parent.mkdir(parents=True)
    toy.write_text(
        'name = "toy"\nsuffixes = [".toy"]\nprograms = ["toy"]\n[detect]\ncommand = ["toy"]\n'
        '[launch]\ncommand = ["toy"]\n[picture]\nfill = "#ffeedd"\nink = "#112233"\n'
    )
    (project / "toys.py").write_text(
        "from emit import Router, ShellNode\n"
        "router = Router()\n"
        'router.node(("n",), name="a", command="toy x")(ShellNode)\n'
        'router.node(("n",), name="b")(lambda msg: 1)\n'
    )
    done = run("graph", "toys.router", "--format", "dot", cwd=project)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'fillcolor="#ffeedd", fontcolor="#112233"' in done.stdout
    assert 'fillcolor="#dbeafe"' in done.stdout


@pytest.mark.requires("graphviz")
def test_the_picture_of_the_documentation(tmp_path: Path) -> None:
    """The committed picture is what the command draws: all but sizes, which fonts decide."""
    (tmp_path / "app.py").write_text((PICTURES / "app.py").read_text("utf-8"))
    done = run("graph", "app.router", "--format", "svg", cwd=tmp_path)
    assert done.stderr == ""
    assert _shape(done.stdout) == _shape((PICTURES / "graph.svg").read_text("utf-8"))


def _shape(svg: str) -> list[str]:
    """Texts, titles, colours and dashes, without coordinates and the version of graphviz."""
    kept = re.findall(r"<title>.*?</title>|>[^<>\n]+</text>|(?:fill|stroke)\w*=\"[^\"]+\"", svg)
    assert len(kept) > 20
    return kept
