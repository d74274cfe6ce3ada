"""Subscriptions, ignores and the routes made of them."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from emit.errors import GraphError
from emit.graph import ENTRY, Graph, subscriptions


def name_of(node: Any) -> str:
    return str(node.name)


def read(wish: Any) -> Any:
    return subscriptions(wish, name_of, node="node")


def graph(hears: dict[str, Any], ignores: dict[str, Any] | None = None, entry: str = "") -> Graph:
    made = Graph()
    for name, wish in hears.items():
        made.subscribe(name, read(wish))
    for name, wish in (ignores or {}).items():
        made.ignore(name, read(wish))
    if entry:
        made.enter(entry)
    return made


class Node:
    name = "a.c"

    def __call__(self) -> None: ...


def test_a_registered_name_means_that_node_only() -> None:
    """``words`` hears words and not words_filtered, though it would be found in both."""
    routes = graph({"words": None, "words_filtered": None, "count": "words"}).resolve()
    assert routes == {"words": ("count",)}


def test_any_other_string_is_searched() -> None:
    """A string that is no name is a regular expression, found anywhere in a name."""
    routes = graph({"app.words": None, "app.words_filtered": None, "count": "word"}).resolve()
    assert routes == {"app.words": ("count",), "app.words_filtered": ("count",)}


def test_the_dots_of_a_name_are_plain() -> None:
    """The exact name ``a.c`` does not hear ``abc``, which the expression would match."""
    assert graph({"a.c": None, "abc": None, "count": "a.c"}).resolve() == {"a.c": ("count",)}


def test_order_of_declaration_does_not_matter() -> None:
    """Every order of declaration gives the same routes, exact names and ignores included."""
    hears = {"words": None, "words_2": "words", "count": "words", "all": ".+"}
    expected = {
        ENTRY: {"words", "all"},
        "words": {"words_2", "count", "all"},
        "count": {"all"},
    }
    for order in itertools.permutations(hears):
        made = graph({name: hears[name] for name in order}, {"all": "words_2"}, "words")
        assert {origin: set(to) for origin, to in made.resolve().items()} == expected


def test_routes_and_edges_agree() -> None:
    """They are made in two ways: what is drawn is what is routed. A name goes before a pattern."""
    hears = {"a": None, "b": [".+", "a"], "c": ["a", "."], "d": ["d", "^[abd]"]}
    made = graph(hears, {"b": "d"}, "c")
    drawn = {(edge.origin, edge.destination): edge.pattern for edge in made.edges()}
    assert set(drawn) == {(of, to) for of, heard in made.resolve().items() for to in heard}
    assert drawn["a", "b"] is drawn["a", "c"] is drawn["d", "d"] is None
    assert (drawn["c", "b"], drawn["b", "c"], drawn["b", "d"]) == (".+", ".", "^[abd]")


def test_a_wide_expression_hears_the_entry_and_not_itself() -> None:
    """``.+`` hears the router's own calls and every node but its own."""
    assert graph({"a": None, "all": ".+"}).resolve() == {ENTRY: ("all",), "a": ("all",)}


def test_two_wide_expressions_hear_each_other() -> None:
    """A node that does not hear itself still hears the others."""
    routes = graph({"x": ".+", "y": ".+"}).resolve()
    assert routes == {ENTRY: ("x", "y"), "x": ("y",), "y": ("x",)}


def test_a_node_may_hear_itself_by_name() -> None:
    """A node that names itself exactly hears itself, which makes a cycle."""
    assert graph({"loop": "loop"}).resolve() == {"loop": ("loop",)}


def test_the_entry_can_be_subscribed_to_by_name() -> None:
    """``__entry_point`` is a name like any other."""
    assert graph({"a": "__entry_point", "b": None}).resolve() == {ENTRY: ("a",)}


@pytest.mark.parametrize(
    "ignore",
    ["noise", "^noi", re.compile("NOISE", re.IGNORECASE), ["nothing", "noise"], {"noise"}],
)
def test_ignores_take_the_same_forms(ignore: Any) -> None:
    """An ignore is a name, an expression, a pattern or several of these."""
    made = graph({"signal": None, "noise": None, "all": ".+"}, {"all": ignore})
    assert made.resolve() == {ENTRY: ("all",), "signal": ("all",)}


def test_an_ignored_name_is_exact_too() -> None:
    """Ignoring ``words`` still hears words_filtered."""
    made = graph({"words": None, "words_filtered": None, "all": "word"}, {"all": "words"})
    assert made.resolve() == {"words_filtered": ("all",)}


def test_the_entry_can_be_ignored_but_not_by_an_entry_point() -> None:
    """``.+`` can leave out the entry; a node that is an entry point hears it all the same."""
    assert graph({"a": None, "all": ".+"}, {"all": "__entry"}).resolve() == {"a": ("all",)}
    assert graph({"all": ".+"}, {"all": "__entry"}, entry="all").resolve() == {ENTRY: ("all",)}


def test_each_destination_once_in_order_of_registration() -> None:
    """A node that hears an origin in two ways gets its messages once."""
    made = graph({"a": None, "late": ["a", "^a", ".+"], "early": "a"}, entry="late")
    assert made.resolve() == {"a": ("late", "early"), ENTRY: ("late",), "early": ("late",)}


@pytest.mark.parametrize(
    "wish",
    ["a", ["a", "b"], ("a", "b"), {"a", "b"}, frozenset("ab"), {"a": 1}.keys(), (n for n in "ab")],
)
def test_forms_of_a_subscription(wish: Any) -> None:
    """A string, or any iterable of strings."""
    assert {one.name for one in read(wish)} <= {"a", "b"}
    assert read("a")[0].name == "a"


def test_a_pattern_is_never_a_name() -> None:
    """A compiled pattern is searched also where a node's name is the same text."""
    assert graph({"a": None, "ab": None, "x": re.compile("a")}).resolve() == {
        "a": ("x",),
        "ab": ("x",),
    }


def test_a_node_is_never_a_pattern() -> None:
    """A node given itself means that one, also before it is registered."""
    assert graph({"x": Node(), "abc": None, "a.c": None}).resolve() == {"a.c": ("x",)}


@pytest.mark.parametrize("wish", [None, "", [], (), [None, ""]])
def test_no_subscription(wish: Any) -> None:
    """None, an empty text and an empty list subscribe to nothing."""
    assert read(wish) == []


@pytest.mark.parametrize("wish", ["(", ["fine", "[a"], "*"])
def test_an_invalid_expression(wish: Any) -> None:
    """An expression that does not compile is a GraphError that quotes it and names the node."""
    with pytest.raises(GraphError, match="no valid regular expression") as caught:
        read(wish)
    assert '"node"' in str(caught.value)
    assert isinstance(caught.value.__cause__, re.error)


@pytest.mark.parametrize("wish", [3, b"a", [3], 1.5, re.compile(b"a")])
def test_not_a_subscription(wish: Any) -> None:
    """Anything else is a GraphError that says what is allowed."""
    with pytest.raises(GraphError, match="give a name or regular expression"):
        read(wish)


def test_subscribing_again_adds() -> None:
    """A second subscription or ignore of one node adds to the first."""
    made = graph({"a": None, "b": None, "c": None, "x": ["a", "b"]})
    assert [one.name for one in made.subscribe("x", read("c"))] == ["a", "b", "c"]
    made.ignore("x", read("a"))
    made.ignore("x", read("b"))
    assert made.resolve() == {"c": ("x",)}


def test_a_cleared_node_keeps_its_turn() -> None:
    """A cleared node hears nobody; its subscribers stay, and its place among those of others."""
    made = graph({"a": None, "x": "a", "y": ["a", "x"]}, {"x": "b"}, entry="x")
    made.clear("x")
    assert made.resolve() == {"a": ("y",), "x": ("y",)}
    assert (made.ignores, made.entries) == ({}, {})
    made.subscribe("x", read("a"))
    assert made.resolve() == {"a": ("x", "y"), "x": ("y",)}


def test_routes_are_made_when_asked_for() -> None:
    """A change makes the routes stale; they are made again only when asked for."""
    made = graph({"a": None})
    made.resolve()
    made.subscribe("x", read("a"))
    assert made.routes is None
    assert made.resolve() is made.routes
