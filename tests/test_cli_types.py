"""Types along edges, contracts, and types for other languages, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_cli import run

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"

HEAD = "from emit import Router, ShellNode\n\nrouter = Router()\n\n"

WORDS = """
@router.node({"word": str, "length": %s}, entry_point=True, name="words")
def words(msg):
    for word in msg.text.split():
        yield word, %s
"""

TOTAL = """
@router.node({"total": int}, "words", name="total")
class Total(ShellNode):
    file = "total.go"
"""

TOTAL_GO = """package total

type In struct {
	Word   string `json:"word"`
	Length int    `json:"length"`
}

func Total(in In) int { return in.Length }
"""

PRICE = """
@router.node(("price",), "words", name="price")
class Price(ShellNode):
    file = "price.rb"

@router.node((), "price", name="show")
class Show(ShellNode):
    file = "show.mjs"
"""

PRICE_RB = """require 'emit'

Emit.node(:price, inputs: { word: String, length: Integer }, outputs: %s) { |msg| 1 }
"""

SHOW_MJS = """/** @param {{price: number}} msg */
export function show({ price }) {}
"""


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)


@pytest.mark.requires("go")
def test_from_python_into_go(tmp_path: Path) -> None:
    """A text into an int of Go is found, with both places named; an int is not complained about."""
    write(tmp_path, app_py=HEAD + WORDS % ("str", "str(len(word))") + TOTAL, total_go=TOTAL_GO)
    done = run("check", "app.router", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        "✘ types         words -> total: length is string, and integer is needed "
        "(words is at app.py:6, total at total.go)",
        "2 nodes, 2 edges: 1 finding",
    ]
    write(tmp_path, app_py=HEAD + WORDS % ("int", "len(word)") + TOTAL)
    done = run("check", "app.router", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "2 nodes, 2 edges: nothing found\n")


@pytest.mark.requires("ruby", "node")
def test_from_ruby_into_javascript(tmp_path: Path) -> None:
    """What a Ruby program says that it gives is held against what a JavaScript file states."""
    write(
        tmp_path,
        app_py=HEAD + WORDS % ("int", "len(word)") + PRICE,
        price_rb=PRICE_RB % "String",
        show_mjs=SHOW_MJS,
    )
    done = run("check", "app.router", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "✘ types         price -> show: price is string, and float is needed "
        "(price is at price.rb, show at show.mjs)",
        "3 nodes, 3 edges: 1 finding",
    ]
    write(tmp_path, price_rb=PRICE_RB % "Integer")
    done = run("check", "app.router", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "3 nodes, 3 edges: nothing found\n")


@pytest.mark.requires("go", "ruby", "node")
def test_long_integers_into_javascript(tmp_path: Path) -> None:
    """An int64 of Go may be too long for a number, and says so by its type; an int does not."""
    app = (
        HEAD
        + """
router.node(("price",), entry_point=True, name="price", file="price.go")(ShellNode)
router.node((), "price", name="show", file="show.mjs")(ShellNode)
"""
    )
    go = "package price\n\ntype In struct{}\n\nfunc Price(in In) %s { return 1 }\n"
    write(tmp_path, app_py=app, price_go=go % "int64", show_mjs=SHOW_MJS)
    done = run("check", "app.router", cwd=tmp_path)
    assert "price is integer up to 9223372036854775807, and a double has whole" in done.stdout
    write(tmp_path, price_go=go % "int")
    assert run("check", "app.router", cwd=tmp_path).returncode == 0


@pytest.mark.requires("ruby")
def test_a_program_that_breaks_its_declaration(tmp_path: Path) -> None:
    """A program whose result is of another type than the router declares is found."""
    app = (
        HEAD
        + """
router.node({"price": int}, entry_point=True, name="price", file="price.rb")(ShellNode)
"""
    )
    write(tmp_path, app_py=app, price_rb=PRICE_RB % "[:or, Integer, nil]")
    done = run("check", "app.router", cwd=tmp_path)
    assert (
        "price gives price: price is integer or null, and integer is needed "
        "(the handler is at price.rb, its declaration at app.py:6)\n" in done.stdout
    )


def test_types_through_pass_through(tmp_path: Path) -> None:
    """A field that a node passes on keeps its type, also through a circle."""
    app = (
        HEAD
        + WORDS % ("str", "str(len(word))")
        + """
from typing import TypedDict

class Sized(TypedDict):
    length: int

router.node((), ["words", "again"], name="again", pass_through=True)(lambda msg: None)
router.node((), ["again", "more"], name="more", pass_through=True)(lambda msg: None)

@router.node((), "more", name="sized")
def sized(msg: Sized):
    pass
"""
    )
    write(tmp_path, app_py=app)
    done = run("check", "app.router", "--ignore", "cycle", cwd=tmp_path)
    assert "✘ types         more -> sized: length is string, and integer is needed" in done.stdout
    assert "1 finding" in done.stdout


@pytest.mark.requires("go", "ruby", "node")
def test_contract(tmp_path: Path) -> None:
    """--against a saved contract tells which subscribers a change breaks, and exits with 1."""
    app = HEAD + WORDS % ("int", "len(word)") + TOTAL + PRICE
    write(tmp_path, app_py=app, total_go=TOTAL_GO, price_rb=PRICE_RB % "Integer")
    write(tmp_path, show_mjs=SHOW_MJS)
    done = run("contract", "app.router", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "contract.json").write_text(done.stdout)
    node = json.loads(done.stdout)["nodes"]["total"]
    assert node == {
        "language": "go",
        "entry_point": False,
        "hears": ["words"],
        "fields": {"total": {"type": "integer"}},
        "takes": {
            "required": ["word", "length"],
            "optional": [],
            "properties": {"word": {"type": "string"}, "length": {"type": "integer"}},
        },
    }
    against = ("check", "app.router", "--against", "contract.json")
    same = run(*against, cwd=tmp_path)
    assert (same.returncode, same.stdout) == (0, "4 nodes, 4 edges: nothing found\n")
    more = app.replace('"length": int}', '"length": int, "more": int}').replace(
        "yield word, len(word)", "yield word, len(word), 1"
    )
    write(tmp_path, app_py=more)
    assert run(*against, cwd=tmp_path).returncode == 0  # a new field breaks nothing
    write(tmp_path, app_py=app.replace('"length": int}', '"length": str}'))
    done = run(*against, "--ignore", "types", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == (
        "✘ contract      words: length is string, and integer was given before: breaks total, price"
    )
    write(tmp_path, app_py=app.replace('"length": int', '"size": int').replace("text", "line"))
    done = run(*against, "--ignore", "fields", cwd=tmp_path)
    assert done.stdout.splitlines()[:2] == [
        "✘ contract      words no longer gives length: breaks total, price",
        "✘ contract      words now needs line: breaks calls of the router",
    ]
    write(tmp_path, app_py=app.replace('name="words"', 'name="word"'))
    done = run(*against, "--ignore", "subscription", "--ignore", "unreached", cwd=tmp_path)
    assert done.stdout.splitlines()[0] == (
        '✘ contract      the node "words" is gone: breaks total, price, calls of the router'
    )


def test_what_is_no_contract(tmp_path: Path) -> None:
    """A file that is no contract is an error of usage."""
    write(tmp_path, app_py=HEAD + WORDS % ("int", "len(word)"), other_json="{}")
    for name, text in (("other.json", "is no contract"), ("none.json", "can't be read")):
        done = run("check", "app.router", "--against", name, cwd=tmp_path)
        assert (done.returncode, text in done.stderr) == (64, True), done.stderr


@pytest.mark.requires("ruby", "node", "go", "perl")
@pytest.mark.parametrize(
    ("example", "router"),
    [
        ("simple", "graph"),
        ("regex", "graph"),
        ("multilang", "graph"),
        ("polyglot", "graph"),
        ("celery", "app"),
        ("rq", "app"),
        ("third-party", "graph"),
    ],
)
def test_no_false_alarm(example: str, router: str) -> None:
    """Every example works, so no field and no type of it is complained about."""
    done = run("check", f"{router}.router", "--json", cwd=EXAMPLES / example)
    findings = json.loads(done.stdout[done.stdout.index("{") :])["findings"]
    assert [found for found in findings if found["kind"] in ("fields", "types", "program")] == []
