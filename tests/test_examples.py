"""The examples, run as a user runs them, and what they print."""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode
from tests.hosts import ROOT
from tests.test_documentation import PRINTED

pytestmark = pytest.mark.usefixtures("builds")

EXAMPLES = ROOT / "examples"
BIN = Path(sys.executable).parent

Result = subprocess.CompletedProcess[str]

TEXT = "The listen silent enlist tinsel: Word-count, the WORDS; café naïve a_b it's constructor.\n"


@pytest.fixture
def only(tmp_path: Path) -> Callable[..., str]:
    """A PATH that has these programs and no others."""

    def path(*names: str) -> str:
        folder = tmp_path / "path"
        folder.mkdir()
        found = {name: shutil.which(name) for name in (*names, "dirname")}
        for name, program in {**found, "python3": sys.executable}.items():
            assert program, f"{name} is not on the PATH"
            # Not a link: a Python finds its virtual environment beside what is called.
            executable(folder / name, f'exec {program} "$@"')
        return str(folder)

    return path


def executable(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A folder of text, with all that is not simple text in it."""
    folder = tmp_path / "text"
    (folder / "sub").mkdir(parents=True)
    (folder / "plain.txt").write_text(TEXT * 10)
    (folder / "sub" / "crlf").write_bytes(b"one two\r\nthree" + b"\r\n")
    (folder / "sub" / "no-end").write_bytes(b"joined")
    (folder / "sub" / "not-utf8").write_bytes(b"caf\xe9 surrogate \xed\xa0\x80 half\xc3")
    (folder / "empty").touch()
    (folder / "binary").write_bytes(b"\x7fELF\0binary")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "file").write_text("hidden")
    return folder


def run(*command: str | Path, stdin: str | None = None, **env: str) -> Result:
    return subprocess.run(
        [str(word) for word in command],
        input=stdin or "",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        timeout=100,
    )


def demo(
    *args: str | Path, graph: Path = EXAMPLES / "polyglot" / "graph.py", **more: str
) -> Result:
    return run(sys.executable, graph, *args, **more)


def counts(shown: str) -> dict[str, int]:
    """The table of the demo."""
    rows = re.findall(r"^  ([a-z]+) +([\d,]+)(?:  #+)?$", shown, re.MULTILINE)
    return {word: int(number.replace(",", "")) for word, number in rows}


# The documentation's examples


def test_simple(only: Callable[..., str]) -> None:
    """The quickstart as an example, by its run target, prints what the documentation prints."""
    done = run(EXAMPLES / "simple" / "run", PATH=only())
    assert (done.stdout, done.stderr, done.returncode) == (PRINTED, "", 0)


@pytest.mark.requires("ruby")
def test_multilang(only: Callable[..., str]) -> None:
    """Python and Ruby programs that know nothing of Emit answer the documented message."""
    done = run(EXAMPLES / "multilang" / "run", PATH=only("ruby"))
    numbers = "({'n': 0}, {'n': 1}, {'n': 2})"
    assert done.stdout == f"PythonShellNode {numbers}\nRubyShellNode {numbers}\n"
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.requires("ruby")
def test_multilang_through_bundler(tmp_path: Path, only: Callable[..., str]) -> None:
    """The command is the documented one if there is Bundler."""
    path = only("ruby")
    executable(tmp_path / "path" / "bundle", f'echo "$*" >>{tmp_path}/called; shift; exec "$@"')
    done = run(EXAMPLES / "multilang" / "run", PATH=path)
    assert "RubyShellNode ({'n': 0}" in done.stdout
    assert (tmp_path / "called").read_text() == "exec ruby test.rb\n"


def test_multilang_without_ruby(only: Callable[..., str]) -> None:
    """It says what is missing, and runs the rest."""
    done = run(EXAMPLES / "multilang" / "run", PATH=only())
    assert "PythonShellNode ({'n': 0}" in done.stdout
    assert 'left out: "__main__.RubyShellNode" cannot be started: command not found' in done.stdout


@pytest.mark.requires("perl")
def test_third_party(only: Callable[..., str]) -> None:
    """A language that Emit has no SDK for."""
    done = run(EXAMPLES / "third-party" / "run", PATH=only("perl"))
    assert done.stdout == "[('the', 2), ('rain', 1), ('in', 1), ('spain', 1)]\n"
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.requires("go")
def test_typed() -> None:
    """Its types, its contract and its cases are those of its graph, and its tests pass."""
    folder = EXAMPLES / "typed"
    done = run(folder / "run", PATH=os.pathsep.join([str(BIN), os.environ["PATH"]]))
    assert (done.stdout, done.stderr) == ("tea: 5.00\nmilk: 0.99\n", "")

    def emit(*words: str) -> Result:
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [str(BIN / "emit"), *words]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)

    types = (folder / "nodes" / "types.go").read_text("utf-8")
    assert emit("types", "graph.router", "--lang", "go").stdout == types
    assert emit("contract", "graph.router").stdout == (folder / "contract.json").read_text("utf-8")
    assert emit("check", "graph.router", "--against", "contract.json").returncode == 0
    tested = emit("test")
    assert (tested.returncode, tested.stderr.partition(" in ")[0]) == (0, "3 passed"), tested.stdout


# The demo


@pytest.mark.requires("ruby", "node", "go")
def test_the_demo_on_a_folder(text: Path) -> None:
    """Every language has its turn, and the counts are those that plain Python finds."""
    for number in range(4):  # pieces of a megabyte, cut anywhere
        (text / f"long{number}").write_text("abcdefg hijklmn\n" * 70_000)
    done = demo(text)
    assert done.returncode == 0, done.stderr
    assert counts(done.stdout)["abcdefg"] == 280_000
    assert counts(done.stdout)["the"] == 20
    assert "Languages, by turns: python, ruby, node, go; left out: none" in done.stdout
    assert "Checked against plain Python: 560,1" in done.stdout
    assert re.search(r"All of it took \d+\.\d s\.", done.stdout)
    assert re.search(r": [\d.]+ ms in a process of its own, [\d.]+ ms in a long", done.stdout)
    assert "left out: 1 binary files, such as " in done.stderr


@pytest.mark.requires("ruby", "node", "go")
@pytest.mark.parametrize("file", ["words.py", "words.rb", "words.mjs", "words.go"])
def test_all_programs_count_the_same(file: str) -> None:
    """Every language has the same idea of a word, and of which of its letters come first."""
    strange = (
        "K\u0130I\u017f ab abc ABC_def \u2028x\U0001d41atail toString __proto__ \0nul fooBar1baz"
    )
    with Router() as router:

        def declare(function: str, *fields: str) -> Any:
            source = EXAMPLES / "polyglot" / f"{file}:{function}"
            return router.node(fields, name=function, file=source)(ShellNode)

        words = Counter(word.lower() for word in re.findall("[A-Za-z]{3,}", strange + TEXT))
        count = declare("count", "counts")
        assert count(text=strange + TEXT) == ({"counts": dict(words)},)
        letters = declare("letters", "word", "letters")
        assert letters(word="constructor") == ({"word": "constructor", "letters": "ccnoorrsttu"},)


def test_the_demo_on_a_file_without_ruby(text: Path, only: Callable[..., str]) -> None:
    """Missing languages are named; nothing but the result is on stdout, with no colour."""
    done = demo(text / "plain.txt", PATH=only())
    assert done.returncode == 0, done.stderr
    assert counts(done.stdout)["words"] == 10
    assert "Most anagrams: enlist, listen, silent, tinsel" in done.stdout
    left_out = "ruby was not found, node was not found, go was not found"
    assert f"Languages, by turns: python; left out: {left_out}" in done.stdout
    assert "\033" not in done.stdout
    assert done.stderr == ""


def test_a_language_that_is_there_but_broken(
    text: Path, tmp_path: Path, only: Callable[..., str]
) -> None:
    """A version manager's shim without a version leaves a language out, and says why."""
    path = only()
    for name in ("ruby", "go"):
        executable(tmp_path / "path" / name, "echo no version is set >&2; exit 1")
    done = demo(text, PATH=path)
    assert done.returncode == 0, done.stderr
    assert "left out: ruby: before it was ready, it ended with exit code 1" in done.stdout
    assert ": no version is set, " in done.stdout
    assert ", go: command not found" in done.stdout


def test_the_demo_on_standard_input(only: Callable[..., str]) -> None:
    """A dash reads what is piped in; nothing at all has no words, and that is checked as well."""
    path = only()
    done = demo("-", stdin=TEXT, PATH=path)
    assert done.returncode == 0, done.stderr
    assert counts(done.stdout)["the"] == 2
    done = demo("-", PATH=path)
    assert done.returncode == 0, done.stderr
    assert "(no words)" in done.stdout
    assert "0 words, 0 different" in done.stdout


def test_nobody_reads_the_demo_to_its_end(text: Path, only: Callable[..., str]) -> None:
    """The demo ends without a word if its reader leaves early, as in ``| head``."""
    command = [sys.executable, str(EXAMPLES / "polyglot" / "graph.py"), str(text / "plain.txt")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": only()}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=env) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
    assert (said, process.returncode) == (b"", 141)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing", "there is no file or folder"),
        ("text/.hidden/none", "there is no file or folder"),
        ("text/binary", "there is no text in .*binary files"),
        ("void", "there is no text in .*: it is empty"),
    ],
)
def test_a_path_without_text(tmp_path: Path, text: Path, name: str, says: str) -> None:
    """One clear line and exit code 2."""
    (tmp_path / "void").mkdir()
    done = demo(tmp_path / name)
    assert done.returncode == 2
    assert re.search(says, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(text: Path) -> None:
    """It is left out with a reason."""
    (text / "plain.txt").chmod(0)
    done = demo(text)
    assert done.returncode == 0, done.stderr
    assert "plain.txt (Permission denied)" in done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the demo, to be changed."""
    shutil.copytree(EXAMPLES / "polyglot", tmp_path / "examples" / "polyglot")
    return tmp_path / "examples" / "polyglot"


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_the_check_sees_a_wrong_count(text: Path, copy: Path, only: Callable[..., str]) -> None:
    """A program that counts one word too often is found out, and the demo fails."""
    change(copy / "words.py", "words = ", "words = ['spurious'] + ")
    done = demo(text, graph=copy / "graph.py", PATH=only())
    assert done.returncode == 1
    assert "WRONG: 1 differences from plain Python" in done.stderr
    assert '"spurious": 1 counted, 0 there' in done.stderr
    assert "Checked" not in done.stdout


def test_the_check_sees_a_lost_word(text: Path, copy: Path, only: Callable[..., str]) -> None:
    """A program that answers nonsense is found out as well."""
    change(copy / "words.py", "sorted(word)", "reversed(word)")
    done = demo(text, graph=copy / "graph.py", PATH=only())
    assert done.returncode == 1
    assert "a node has sorted letters wrongly" in done.stderr


def test_a_program_that_fails(text: Path, copy: Path, only: Callable[..., str]) -> None:
    """Its error and its line are shown, and no traceback of ours."""
    change(copy / "words.py", "words = ", "raise ValueError('out of paper') #")
    done = demo(text, graph=copy / "graph.py", PATH=only())
    assert done.returncode == 1
    assert 'error: "count_python": ValueError: out of paper (' in done.stderr
    assert "words.py:8" in done.stderr
    assert "emit/router" not in done.stderr


def test_the_bar_on_a_terminal(text: Path, only: Callable[..., str]) -> None:
    """A terminal gets a bar and colour; NO_COLOR takes the colour away."""
    shown = on_terminal(text, PATH=only())
    assert "100%" in shown
    assert "\033[32m" in shown
    assert "Checked against plain Python" in shown
    assert "\033[32m" not in on_terminal(text, PATH=os.environ["PATH"], NO_COLOR="1")


def on_terminal(*args: str | Path, **env: str) -> str:
    """Return the demo's output on a terminal."""
    master, slave = pty.openpty()
    with io.FileIO(master) as screen:
        command = [sys.executable, str(EXAMPLES / "polyglot" / "graph.py"), *map(str, args)]
        full = {**os.environ, "PYTHONPATH": str(ROOT), **env}
        with subprocess.Popen(command, stdout=slave, stderr=slave, env=full):
            os.close(slave)
            return b"".join(iter(lambda: _read(screen), b"")).decode()


def _read(screen: io.FileIO) -> bytes:
    try:
        return screen.read(4096)
    except OSError:  # how Linux tells the end
        return b""


def test_the_demo_writes_nothing_beside_itself(
    text: Path, copy: Path, only: Callable[..., str]
) -> None:
    """The demo builds in a folder for temporary files, which is gone in the end."""
    scratch = text.parent / "scratch"
    scratch.mkdir()
    before = set(copy.rglob("*"))
    environment = {"PATH": only(), "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
    assert demo(text, graph=copy / "graph.py", **environment).returncode == 0
    assert set(copy.rglob("*")) == before
    assert list(scratch.iterdir()) == []
