"""Faults of a graph that are found before a message runs."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from emit import Router, ShellNode
from emit.checks import (
    certain_reads,
    find_cycles,
    find_lacking,
    find_unmatched,
    find_unreached,
)
from emit.drawing import outline


def graph(*nodes: tuple[str, str, object]) -> Router:
    """Nodes of (name, fields, wishes); one that wishes for "entry" is an entry point."""
    router = Router()
    for name, fields, wishes in nodes:
        entry = wishes == "entry"
        node = router.node(fields.split(), None if entry else wishes, entry_point=entry, name=name)
        node(lambda msg: None)
    return router


@pytest.mark.parametrize(
    ("wish", "found"),
    [
        ("word", " (nearest: words)"),
        ("app.words", " (nearest: words)"),
        ("^x$", ""),
        (["words", "nothing"], ""),
        ("^b$", None),
    ],
)
def test_unmatched_subscriptions(wish: object, found: str | None) -> None:
    """A wish that no other name fulfils is found, with the nearest names; a node is no match of
    its own pattern."""
    router = graph(("words", "word", "entry"), ("b", "", wish))
    texts = [finding.text for finding in find_unmatched(router)]
    if found is None:
        assert texts == ['"b" hears "^b$", which matches no node']
    elif wish == "word":  # a regular expression, and found in "words"
        assert texts == []
    else:
        [text] = texts
        assert text.endswith(f"which matches no node{found}")


def test_unmatched_node_of_another_router() -> None:
    """A node that was given itself, but belongs to another router, matches nothing."""
    other = graph(("far", "x", "entry"))
    router = graph(("near", "x", "entry"), ("b", "", other.functions["far"]))
    assert [f.node for f in find_unmatched(router)] == ["b"]


def test_unmatched_ignores() -> None:
    """An ignored node has to exist, too."""
    router = graph(("words", "word", "entry"))
    router.node((), ".+", ignore="wrods", name="b")(lambda msg: None)
    [finding] = find_unmatched(router)
    assert finding.text == '"b" ignores "wrods", which matches no node (nearest: words)'


def test_unreached() -> None:
    """The first of what is never reached is told, and what is behind it."""
    router = graph(("a", "", "entry"), ("b", "", None), ("c", "", "b"), ("d", "", "a"))
    [finding] = find_unreached(outline(router))
    assert (finding.node, finding.text) == ("b", '"b" is never reached, nor c behind it')
    assert list(find_unreached(outline(router, called=["b"]))) == []


def test_no_entry_point() -> None:
    """A graph without an entry point is one finding and not one for each node."""
    [finding] = find_unreached(outline(graph(("a", "", None), ("b", "", "a"))))
    assert "no node is an entry point" in finding.text
    assert list(find_unreached(outline(Router()))) == []


@pytest.mark.parametrize(
    ("wishes", "circles"),
    [
        ({"a": "entry", "b": "a"}, []),
        ({"a": "a"}, ["a -> a"]),
        ({"a": "c", "b": "a", "c": "b"}, ["a -> b -> c -> a"]),
        ({"a": ".+", "b": ".+"}, ["a -> b -> a"]),
        ({"a": "b", "b": "a", "c": "d", "d": "c"}, ["a -> b -> a", "c -> d -> c"]),
    ],
)
def test_cycles(wishes: dict[str, str], circles: list[str]) -> None:
    """Each circle is found, wherever it begins."""
    found = find_cycles(outline(graph(*((name, "", wish) for name, wish in wishes.items()))))
    assert sorted(map(rotated, found_ways(found))) == sorted(map(rotated, circles))


def found_ways(found: object) -> list[str]:
    return [finding.text.removesuffix(TAIL) for finding in found]  # type: ignore[attr-defined]


TAIL = " is a circle: it ends only where one of them emits nothing"


def rotated(way: str) -> list[str]:
    """A circle from its first name on, so that where it was entered does not count."""
    *names, _ = way.split(" -> ")
    start = names.index(min(names))
    return names[start:] + names[:start]


def test_lacking_fields() -> None:
    """An edge that lacks a field is found; what a caller of the router gives is not known."""
    router = graph(("a", "word n", "entry"), ("b", "", "a"), ("none", "", "a"), ("c", "", "none"))
    needs = {"a": ["text"], "b": ["n", "score", "rank"], "c": ["x"]}
    assert [finding.text for finding in find_lacking(outline(router), needs)] == [
        "a -> b: needs score, rank; a gives only word, n",
        "none -> c: needs x; none gives no fields",
    ]


def test_fields_that_are_passed_through() -> None:
    """Fields are certain only if all origins give them; a caller of the router guarantees none."""
    router = graph(("a", "x y", "entry"), ("b", "y z", "entry"))

    def passing(name: str, fields: str, wishes: Any, entry: bool = False) -> None:
        node = router.node(fields.split(), wishes, entry, name=name, pass_through=True)
        node(lambda msg: None)

    passing("one", "n", "a")
    passing("both", "n", ["a", "b"], entry=True)
    passing("round", "r", ["one", "trip"])
    passing("trip", "t", "round")
    passing("free", "n", None, entry=True)
    passing("freer", "m", "free")
    origins = ("one", "both", "trip", "free", "freer")
    for name in origins:
        router.node((), name, name=f"after {name}")(lambda msg: None)
    needs = {f"after {name}": ["x", "_origin"] for name in origins}
    assert [finding.text for finding in find_lacking(outline(router), needs)] == [
        "both -> after both: needs x; both gives only y, n"
    ]
    seen = outline(router)
    given = {edge.origin: seen.fields_of(edge) for edge in seen.edges}
    assert given["one"] == ("x", "y", "n")
    assert given["trip"] == ("x", "y", "n", "r", "t")
    assert given["round"] == ("x", "y", "n", "r")
    assert given["free"] is given["freer"] is None


def test_capitals_of_a_program() -> None:
    """A program in Go reads "word" into its Word; a Python handler does not."""
    router = graph(("a", "word", "entry"), ("python", "", "a"))
    router.node((), "a", name="go", command="./count")(ShellNode)
    needs = {"python": ["Word"], "go": ["Word", "Count"]}
    assert [finding.text for finding in find_lacking(outline(router), needs)] == [
        "a -> python: needs Word; a gives only word",
        "a -> go: needs Count; a gives only word",
    ]


@pytest.mark.parametrize(
    ("body", "reads"),
    [
        ("return msg.a, msg['b']", "a b"),
        ("yield from msg.a.split()", "a"),
        ("for x in msg.a:\n  yield x + msg.b", "a"),
        ("if msg.a:\n  print(msg.b)\nreturn msg.c", "a c"),
        ("if msg.a:\n  return\nreturn msg.c", "a"),
        ("with open(msg.a) as f:\n  f.write(msg.b)", "a b"),
        ("try:\n  x = msg.a\nexcept AttributeError:\n  x = 1", ""),
        ("x = msg.a or msg.b", "a"),
        ("x = msg.a if msg.b else msg.c", "b"),
        ("x = [msg.a for _ in msg.b]", "b"),
        ("return lambda: msg.a", ""),
        ("def inner():\n  return msg.a\nreturn msg.b", "b"),
        ("msg.a = 1\nreturn msg.a", ""),
        ("msg = change(msg)\nreturn msg.a", ""),
        ("fill(msg)\nreturn msg.a", ""),
        ("return fill(msg.a, msg).x + msg.b", "a"),
        ("print(msg, msg.a)\nreturn len(msg), msg.b", "a b"),
        ("x = {**msg}\nreturn msg.a", ""),
        ("return msg[key], msg.a", ""),
        ("return msg._origin, msg.as_dict(), msg.a", "a"),
        ("return f'{msg.a}'", "a"),
        ("match msg.a:\n  case 1: return msg.b", "a"),
        ("raise ValueError(msg.a)", "a"),
        ("while msg.a:\n  break\nreturn msg.b", "a"),
        ("yield msg.a\nyield msg.b", "a b"),
    ],
)
def test_certain_reads(body: str, reads: str) -> None:
    """Only what is read of every message counts, and only until the message is in other hands."""
    source = "def f(self, msg):\n" + "".join(f"  {line}\n" for line in body.splitlines())
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert certain_reads(function, ignored=["as_dict"]) == tuple(reads.split())


def test_a_function_without_parameters() -> None:
    """It reads nothing."""
    function = ast.parse("def f(*args): return args[0].a").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert certain_reads(function) == ()
