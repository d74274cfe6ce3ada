"""Types along edges, contracts, and types for other languages, from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import run
from tests.test_cli_new import install

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

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
    """The types that a Ruby program tells are held against those of a JavaScript file."""
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


@pytest.mark.requires("ruby", "node")
def test_from_ruby_into_typescript(tmp_path: Path) -> None:
    """The same with the annotations of TypeScript."""
    install(tmp_path)
    show = "export function show({ price }: { price: number }): void {}\n"
    app = (HEAD + WORDS % ("int", "len(word)") + PRICE).replace("show.mjs", "show.ts")
    write(tmp_path, app_py=app, price_rb=PRICE_RB % "String", show_ts=show)
    done = run("check", "app.router", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "✘ types         price -> show: price is string, and float is needed "
        "(price is at price.rb, show at show.ts)",
        "3 nodes, 3 edges: 1 finding",
    ]
    write(tmp_path, price_rb=PRICE_RB % "Float")
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
        ("observe", "tasks"),
        ("tracing", "graph"),
        ("typed", "graph"),
    ],
)
def test_no_false_alarm(example: str, router: str) -> None:
    """Every example works, so no field and no type of it is complained about."""
    done = run("check", f"{router}.router", "--json", cwd=EXAMPLES / example)
    findings = json.loads(done.stdout[done.stdout.index("{") :])["findings"]
    assert [found for found in findings if found["kind"] in ("fields", "types", "program")] == []


TYPED = """
import datetime
from typing import Literal

import msgspec

from emit import Router

router = Router()

class Price(msgspec.Struct):
    cents: int
    currency: Literal["EUR", "USD"]

class Sold(msgspec.Struct):
    sku: str
    price: Price
    at: datetime.datetime
    raw: bytes
    tags: list[str | None]
    by_shop: dict[str, float]
    pair: tuple[str, int]
    note: str | None
    any: object

@router.node(Sold, entry_point=True, name="shop.sold")
def sold(msg):
    yield msg.sold

@router.node({"sku": str, "total-price": bool, "class": int | str}, "shop.sold", name="total")
def total(msg: Sold):
    return 1

router.node((), ["shop.sold", "total"], name="show")(lambda msg: None)
"""


def types(folder: Path, *options: str) -> str:
    (folder / "app.py").write_text(TYPED)
    done = run("types", "app.router", *options, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def passes(folder: Path, *command: str) -> None:
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.requires("node")
def test_types_for_typescript(tmp_path: Path) -> None:
    """tsc takes the interfaces, and a node's author can use them."""
    tsc = ROOT / "sdks/node/node_modules/.bin/tsc"
    if not tsc.exists():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("left out: make setup")
    (tmp_path / "types.ts").write_text(types(tmp_path, "--lang", "ts"))
    (tmp_path / "node.ts").write_text(
        "import type { ShowMessage, SoldResult, TotalResult } from './types.ts';\n"
        "export function show(msg: ShowMessage): TotalResult {\n"
        "  const sold: Partial<SoldResult> = { pair: ['a', 1], tags: [null], note: null };\n"
        "  const currency: 'EUR' | 'USD' | undefined = msg.price?.currency;\n"
        "  return { sku: `${sold.sku}${currency}`, 'total-price': true, class: 'a' };\n"
        "}\n"
    )
    options = ("--noEmit", "--strict", "--allowImportingTsExtensions", "--target", "es2022")
    passes(tmp_path, str(tsc), *options, "--module", "nodenext", "node.ts")


@pytest.mark.requires("go")
def test_types_for_go(tmp_path: Path) -> None:
    """go vet and gofmt take the structs, and a node's author can use them."""
    (tmp_path / "nodes").mkdir()
    types(tmp_path, "--lang", "go", "--output", "nodes/types.go")
    (tmp_path / "go.mod").write_text("module app\n\ngo 1.22\n")
    (tmp_path / "nodes" / "show.go").write_text(
        "package nodes\n\nfunc Show(in ShowMessage) TotalResult {\n"
        "\tif in.Price != nil && in.Price.Cents > 0 {\n"
        '\t\treturn TotalResult{Sku: in.Sku, TotalPrice: true, Class: "a"}\n\t}\n'
        "\treturn TotalResult{}\n}\n"
    )
    passes(tmp_path, "go", "vet", "./...")
    done = subprocess.run(("gofmt", "-l", "."), cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.requires("ruby")
def test_types_for_ruby(tmp_path: Path) -> None:
    """RBS, which comes with Ruby, takes the types."""
    (tmp_path / "types.rbs").write_text(types(tmp_path, "--lang", "ruby"))
    program = (
        "require 'rbs'; loader = RBS::EnvironmentLoader.new; "
        "loader.add(path: Pathname('types.rbs')); "
        "env = RBS::Environment.from_loader(loader).resolve_type_names; "
        "puts env.alias_decls.keys.map(&:to_s).grep(/Nodes/).sort"
    )
    done = subprocess.run(("ruby", "-e", program), cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == [
        "::Nodes::show_message",
        "::Nodes::sold_message",
        "::Nodes::sold_result",
        "::Nodes::sold_result_price",
        "::Nodes::total_message",
        "::Nodes::total_message_price",
        "::Nodes::total_result",
    ], done.stderr


def test_types_for_python(tmp_path: Path) -> None:
    """mypy takes the TypedDicts, and finds a mistake of a node's author."""
    (tmp_path / "shop_types.py").write_text(types(tmp_path, "--lang", "python"))
    (tmp_path / "node.py").write_text(
        "from shop_types import ShowMessage, TotalResult\n\n\n"
        "def show(msg: ShowMessage) -> TotalResult:\n"
        '    price = msg["price"]["cents"] if "price" in msg else 0\n'
        '    return {"sku": msg["sku"], "total-price": price > 1, "class": "a"}\n'
    )
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-version", "3.12", "node.py")
    passes(tmp_path, *mypy)
    text = (tmp_path / "node.py").read_text().replace('["cents"]', '["cent"]')
    (tmp_path / "node.py").write_text(text)
    done = subprocess.run(mypy, cwd=tmp_path, capture_output=True, text=True)
    assert 'has no key "cent"' in done.stdout


def test_documents(tmp_path: Path) -> None:
    """The documents are what their formats say: JSON Schemas that a result fits, and a page."""
    whole = json.loads(types(tmp_path, "--format", "jsonschema"))
    assert whole["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert whole["$defs"]["TotalResult"]["properties"]["total-price"] == {"type": "boolean"}
    document = json.loads(types(tmp_path, "--format", "asyncapi"))
    assert document["asyncapi"] == "3.0.0"
    assert document["channels"]["shop.sold"]["address"] == "shop.sold"
    assert document["operations"]["TotalReceivesSold"] == {
        "action": "receive",
        "channel": {"$ref": "#/channels/shop.sold"},
    }
    for operation in document["operations"].values():
        assert operation["channel"]["$ref"].removeprefix("#/channels/") in document["channels"]
    page = types(tmp_path, "--format", "markdown")
    assert "## total\n\nA node in python. It hears `shop.sold`.\n" in page
    assert "| `class` | integer or string | always |\n" in page
