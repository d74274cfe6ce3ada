"""The types of fields: how they are declared, told by programs, and converted to."""

from __future__ import annotations

import datetime
import typing
from dataclasses import dataclass
from typing import Any

import msgspec
import pydantic
import pytest

from emit import Router, ShellNode
from emit.errors import GraphError, NodeError, ResultError
from emit.host.process import stop_all
from emit.typed.python import required_of, schemas_of
from emit.typed.schema import Misfit, check_fit, describe, subset
from tests.tiny import SDK


@dataclass
class Counted:
    word: str
    count: int


class Keys(typing.TypedDict):
    word: str
    count: int


class Fast(msgspec.Struct):
    word: str
    count: int


class Model(pydantic.BaseModel):
    word: str
    count: int


class Some(typing.TypedDict, total=False):
    word: str


WAYS: list[Any] = [{"word": str, "count": int}, Counted, Keys, Fast, Model]


@pytest.mark.parametrize("fields", WAYS, ids=lambda way: getattr(way, "__name__", "dict"))
def test_ways_to_declare(fields: Any) -> None:
    """A dictionary, or any kind of class with fields, gives names and types."""
    router = Router()

    @router.node(fields, name="count")
    def count(msg: Any) -> Any:
        return msg.given

    assert router.fields == {"count": ("word", "count")}
    assert router.types == {"count": fields}
    assert count(given=("rain", "2")) == {"word": "rain", "count": "2"}  # nothing is validated
    integer, text = {"type": "integer"}, {"type": "string"}
    assert schemas_of(fields, gives=True) == {"word": text, "count": integer}
    if isinstance(fields, type) and fields is not Keys:
        assert count(given=fields(word="rain", count=2)) == {"word": "rain", "count": 2}


@pytest.mark.parametrize("fields", WAYS, ids=lambda way: getattr(way, "__name__", "dict"))
def test_validation(fields: Any) -> None:
    """validate=True refuses a value of another type, and tells its place but not the value."""
    router = Router()

    @router.node(fields, name="count", validate=True)
    def count(msg: Any) -> Any:
        return msg.given

    assert count(given=("rain", 2)) == {"word": "rain", "count": 2}
    with pytest.raises(ResultError, match=r'"count" emitted .*\$\.count') as caught:
        count(given=("rain", "a secret"))
    assert "secret" not in str(caught.value)
    assert caught.value.fields == ("word", "count")


def test_conversion() -> None:
    """Text becomes an instant, a list a tuple. A field's name need not be one of Python's."""
    router = Router()
    fields = {"at": datetime.datetime, "my-pair": tuple[int, int], "kind": typing.Literal["a", "b"]}

    @router.node(fields, name="n", validate=True)
    def node(msg: Any) -> Any:
        return "2026-12-01T00:00:00", [1, 2], msg.kind

    assert node(kind="a") == {
        "at": datetime.datetime(2026, 12, 1),
        "my-pair": (1, 2),
        "kind": "a",
    }
    with pytest.raises(ResultError, match=r"an unknown value - at `\$\.kind`") as caught:
        node(kind="secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", [Counted, Keys, Fast, Model])
def test_messages_are_objects(kind: Any) -> None:
    """With validate=True, a handler gets its message as the class that it is annotated with."""
    router, got = Router(), []

    def take(msg: Any) -> None:
        got.append(msg)

    take.__annotations__["msg"] = kind
    node = router.node((), name="take", validate=True)(take)
    node(word="rain", count=2, other=True)
    assert got == [kind(word="rain", count=2)]
    with pytest.raises(NodeError, match=rf'"take" was given .* fit {kind.__name__}: .*\$\.count'):
        node(word="rain", count="x")


def test_validation_with_pass_through() -> None:
    """The declared fields are converted; those that are passed on are left as they are."""
    router = Router()

    @router.node({"at": datetime.date}, name="n", validate=True, pass_through=True)
    def node(msg: Any) -> Any:
        return {"at": "2026-12-01", "word": msg.word}

    assert node(word=1) == {"at": datetime.date(2026, 12, 1), "word": 1}


def test_wrong_declarations() -> None:
    """A declaration that can't work is an error, and registers nothing."""
    router = Router()
    with pytest.raises(GraphError, match=r'validate=True needs the types .* \{"word": str\}'):
        router.node(("word",), name="n", validate=True)(lambda msg: 1)
    with pytest.raises(GraphError, match="all its fields, and Some may lack word"):
        router.node(Some, name="n")(lambda msg: 1)
    with pytest.raises(GraphError, match="validate must be True or False"):
        router.node({"word": str}, name="n", validate=1)(lambda msg: 1)  # type: ignore[arg-type]
    with pytest.raises(GraphError, match="its types can't be validated"):
        router.node({"word": datetime.date | str}, name="n", validate=True)(lambda msg: 1)
    assert router.names == set()


def test_a_program_may_be_validated() -> None:
    """The results of a program are converted, too."""
    router = Router()

    @router.node({"at": datetime.datetime}, name="n", validate=True)
    class Node(ShellNode):
        command = ("sh", "-c", "echo '\"2026-12-01T00:00:00\"'")
        mode = "oneshot"

    with router:
        assert Node(a=1) == ({"at": datetime.datetime(2026, 12, 1)},)


class Tree(msgspec.Struct):
    value: float
    leaves: list[Tree] = []
    name: str | None = None
    raw: bytes = b""


def test_schemas() -> None:
    """References are resolved, and a type inside itself is anything."""
    tree = schemas_of(Tree, gives=True)
    assert tree["leaves"]["items"]["properties"]["leaves"]["items"] == {}
    assert {**tree, "leaves": {}} == {
        "value": {"type": "number", "format": "double"},
        "leaves": {},
        "name": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "raw": {"type": "string", "format": "binary"},
    }
    assert schemas_of(Tree, gives=False)["value"] == {"type": "number"}
    assert required_of(Tree) == ("value",)
    assert schemas_of({"odd": typing.Callable}, gives=True) == {"odd": {}}


INT, TEXT, FLOAT = {"type": "integer"}, {"type": "string"}, {"type": "number", "format": "double"}
LONG = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
MAYBE = {"anyOf": [INT, {"type": "null"}]}
PAIR = {"type": "object", "properties": {"a": INT, "b": TEXT}, "required": ["a"]}


@pytest.mark.parametrize(
    ("given", "wanted", "text"),
    [
        (INT, TEXT, "x is integer, and string is needed"),
        (INT, {}, ""),
        ({}, INT, ""),
        (INT, FLOAT, ""),
        (FLOAT, INT, "x is float, and integer is needed"),
        ({"type": "number"}, INT, ""),
        (LONG, FLOAT, "a double has whole numbers up to 9007199254740991"),
        (LONG, {"type": "number"}, ""),
        (LONG, {**INT, "maximum": 255, "minimum": 0}, "and at most 255 is taken"),
        (INT, {**INT, "maximum": 255}, ""),
        (MAYBE, INT, "x is integer or null, and integer is needed"),
        (INT, MAYBE, ""),
        (MAYBE, MAYBE, ""),
        ({"type": ["integer", "string"]}, INT, "and integer is needed"),
        (TEXT, {**TEXT, "format": "date-time"}, "x is string, and instant is needed"),
        (TEXT, {**TEXT, "enum": ["a"]}, ""),
        ({**TEXT, "enum": ["a", "c"]}, {**TEXT, "enum": ["a", "b"]}, "x may be 'c'"),
        ({"type": "array", "items": INT}, {"type": "array", "items": TEXT}, r"x\[\] is integer"),
        ({"type": "array", "prefixItems": [INT]}, {"type": "array", "items": TEXT}, r"x\[0\] is"),
        (PAIR, {**PAIR, "required": ["a", "b"]}, "x.b may be missing"),
        (PAIR, {**PAIR, "properties": {"c": INT}, "required": ["c"]}, "x.c is missing"),
        (PAIR, {"type": "object", "additionalProperties": INT}, "x.b is string"),
        ({"type": "object", "additionalProperties": INT}, PAIR, ""),
    ],
)
def test_what_fits(given: Any, wanted: Any, text: str) -> None:
    """One type fits another unless what it states can't be taken; what it leaves open passes."""
    if not text:
        check_fit(given, wanted, "x")
    else:
        with pytest.raises(Misfit, match=text):
            check_fit(given, wanted, "x")


@pytest.mark.parametrize(
    ("odd", "cut"),
    [
        (None, {}),
        ([], {}),
        ({"type": 7}, {}),
        ({"enum": 1}, {}),
        ({"anyOf": []}, {}),
        ({"type": "object", "properties": {"a": 1}, "required": 3}, {"a": {}}),
    ],
)
def test_odd_schemas(odd: Any, cut: Any) -> None:
    """A program may tell anything: it is cut to the subset."""
    made = subset(odd, {}, floats=False)
    assert made.get("properties", made) == cut
    check_fit(made, made, "x")
    assert describe(made)


FILES = {
    "ruby": (
        "score.rb",
        "require 'emit'\nEmit.node(:score, inputs: { word: String, 'weight?': Integer }, "
        "outputs: { word: String, score: Float }) { |msg| msg }\n",
    ),
    "python": (
        "score.py",
        "from typing import Iterator, TypedDict\n\nclass Out(TypedDict):\n    word: str\n"
        "    score: float\n\n"
        "def score(word: str, weight: int = 1) -> Iterator[Out]:\n    yield {}\n",
    ),
    "node": (
        "score.mjs",
        "/**\n * @param {{word: string, weight?: bigint}} msg\n"
        " * @returns {{word: string, score: number}}\n */\n"
        "export function score({ word, weight = 1n }) { return { word, score: 1 }; }\n",
    ),
    "go": (
        "score.go",
        'package score\n\ntype In struct {\n\tWord   string `json:"word"`\n'
        '\tWeight int `json:"weight,omitempty"`\n}\n\ntype Out struct {\n'
        '\tWord  string  `json:"word"`\n\tScore float64 `json:"score"`\n}\n\n'
        "func Score(in In) Out { return Out{in.Word, 1} }\n",
    ),
}


@pytest.mark.parametrize(
    "language",
    [pytest.param(name, marks=pytest.mark.requires(*({name} - {"python"}))) for name in FILES],
)
def test_programs_tell_their_types(language: str, tmp_path: Any) -> None:
    """A plain file in each language tells the types of its message and of its result."""
    file, text = FILES[language]
    (tmp_path / file).write_text(text)
    node = ShellNode()
    node.file, node.cwd = file, str(tmp_path)
    node.configure("score", {}, stream=False)
    process = node.start()
    try:
        ready = process.talk.session.ready
        assert ready is not None
        [told], [result] = ready.inputs.values(), ready.outputs.values()
        assert (told["required"], told["optional"]) == (["word"], ["weight"])
        assert told["properties"] == {"word": TEXT, "weight": INT}
        score = {"type": "number"} if language == "node" else FLOAT
        assert result == {
            "type": "object",
            "properties": {"word": TEXT, "score": score},
            "required": ["word", "score"],
        }
    finally:
        stop_all([process])


def test_a_program_that_tells_no_types(tmp_path: Any) -> None:
    """An SDK need not tell types: the 100 lines of the protocol's page don't."""
    (tmp_path / "n.py").write_text(SDK + "\n\nserve({'n': lambda msg: [1]})\n")
    router = Router()

    @router.node({"n": int}, name="n", mode="persistent", validate=True)
    class Node(ShellNode):
        command = ("python3", str(tmp_path / "n.py"))

    with router:
        assert Node(a=1) == ({"n": 1},)
