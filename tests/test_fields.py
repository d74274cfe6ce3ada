"""Results fill a node's fields, or are refused."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import pytest

from emit.errors import GraphError, NodeError, ResultError
from emit.message import Message, check_fields, make_fit, make_fit_over

Pair = namedtuple("Pair", ["left", "right"])

ONE, TWO, NONE = ("word",), ("word", "count"), ()


@pytest.mark.parametrize(
    ("fields", "result", "expected"),
    [
        (ONE, "rain", {"word": "rain"}),
        (ONE, 3, {"word": 3}),
        (ONE, None, {"word": None}),
        (ONE, ("rain",), {"word": "rain"}),
        (ONE, (("a", "b"),), {"word": ("a", "b")}),
        (ONE, ["a", "b"], {"word": ["a", "b"]}),
        (ONE, {"other": 1}, {"word": {"other": 1}}),
        (ONE, {"word": 1}, {"word": 1}),
        (TWO, ("rain", 2), {"word": "rain", "count": 2}),
        (TWO, Pair("rain", 2), {"word": "rain", "count": 2}),
        (TWO, {"count": 2, "word": "rain"}, {"word": "rain", "count": 2}),
        (TWO, OrderedDict(count=2, word="rain"), {"word": "rain", "count": 2}),
        (NONE, None, {}),
        (NONE, (), {}),
        (NONE, {}, {}),
    ],
)
def test_what_fits(fields: tuple[str, ...], result: Any, expected: dict[str, Any]) -> None:
    """A tuple fits by position, a mapping by name, anything else one field; order as declared."""
    fitted = make_fit("node", fields)(result)
    assert fitted == expected
    assert tuple(fitted) == fields


@pytest.mark.parametrize(
    ("fields", "result", "expected"),
    [
        (TWO, {"_origin": "a", "count": 2, "word": "rain"}, {"word": "rain", "count": 2}),
        (TWO, Message(count=2, word="rain", _origin="a"), {"word": "rain", "count": 2}),
        (TWO, Message(count=2, word="rain"), {"word": "rain", "count": 2}),
        (ONE, {"_origin": "a", "word": 1}, {"word": 1}),
        (ONE, {"_origin": "a", "other": 1}, {"word": {"other": 1}}),
        (ONE, {"word": {"_origin": "a"}}, {"word": {"_origin": "a"}}),
        (ONE, [{"_origin": "a"}], {"word": [{"_origin": "a"}]}),
        (NONE, {"_origin": "a"}, {}),
    ],
)
def test_the_origin_does_not_go_out(
    fields: tuple[str, ...], result: Any, expected: dict[str, Any]
) -> None:
    """The _origin of a mapping or message that is emitted is dropped; what is deeper is a value."""
    before = dict(vars(result)) if isinstance(result, Message) else result
    assert make_fit("node", fields)(result) == expected
    assert before == (vars(result) if isinstance(result, Message) else result)


def test_a_message_that_is_a_value() -> None:
    """A message that does not name the only field is that field's value, as it is."""
    message = Message(other=1, _origin="a")
    assert make_fit("node", ONE)(message)["word"] is message
    with pytest.raises(ResultError, match=r"a Message with the keys \(other, _origin\)"):
        make_fit("node", TWO)(message)


@pytest.mark.parametrize(
    ("fields", "result", "expected"),
    [
        (("b",), 2, {"a": 1, "id": 7, "b": 2}),
        (("b",), {"b": 2}, {"a": 1, "id": 7, "b": 2}),
        (("b",), {"b": 2, "a": 3}, {"a": 3, "id": 7, "b": 2}),
        (("b",), {"a": 1, "id": 7, "b": 2, "_origin": "x"}, {"a": 1, "id": 7, "b": 2}),
        (("b",), {"id": 8}, {"a": 1, "id": 7, "b": {"id": 8}}),
        (("b",), {"b": 2, "c": 3}, {"a": 1, "id": 7, "b": {"b": 2, "c": 3}}),
        (("a",), 5, {"a": 5, "id": 7}),
        (("a", "b"), (5, 6), {"a": 5, "id": 7, "b": 6}),
        (("a", "b"), {"b": 6}, {"a": 1, "id": 7, "b": 6}),
        (("a", "b"), Message(b=6, _origin="x"), {"a": 1, "id": 7, "b": 6}),
        ((), None, {"a": 1, "id": 7}),
        ((), {}, {"a": 1, "id": 7}),
        ((), {"a": 2}, {"a": 2, "id": 7}),
    ],
)
def test_passing_through(fields: tuple[str, ...], result: Any, expected: dict[str, Any]) -> None:
    """A result has the fields of the message that it does not name, but for its origin."""
    message = Message(a=1, id=7, _origin="start")
    fit = make_fit_over(message, make_fit("node", fields), fields)
    message.a = "changed by the handler"
    assert fit(result) == expected


@pytest.mark.parametrize(
    ("fields", "result"),
    [(("b", "c"), {"b": 1}), (("b", "c"), {"b": 1, "c": 2, "d": 3}), ((), 1), (("b", "c"), (1,))],
)
def test_what_does_not_pass_through(fields: tuple[str, ...], result: Any) -> None:
    """A declared field that nobody gives, or a field that nobody knows, is a ResultError."""
    with pytest.raises(ResultError, match='"node" emitted'):
        make_fit_over({"a": 1}, make_fit("node", fields), fields)(result)


@pytest.mark.parametrize(
    ("fields", "result", "came"),
    [
        (ONE, ("a", "b"), "a tuple of 2 values"),
        (ONE, (), "a tuple of 0 values"),
        (TWO, "rain", "a single str"),
        (TWO, None, "a single NoneType"),
        (TWO, ("rain",), "a tuple of 1 values"),
        (TWO, ("rain", 1, 2), "a tuple of 3 values"),
        (TWO, ["rain", 1], "a list of 2 values"),
        (TWO, {"word": 1}, "a dict with the keys (word)"),
        (TWO, {"word": 1, "count": 2, "more": 3}, "a dict with the keys (word, count, more)"),
        (NONE, "rain", "a single str"),
        (NONE, ("rain",), "a tuple of 1 values"),
        (NONE, {"word": 1}, "a dict with the keys (word)"),
        (NONE, {"word": 1, "4111-1111": 2}, "a dict with the keys (word, 1 other)"),
        (NONE, {1: 1, "ada@example.org": 2}, "a dict with the keys (2 others)"),
        (
            NONE,
            dict.fromkeys([f"n{n}" for n in range(99)]),
            f"a dict with the keys ({', '.join(f'n{n}' for n in range(20))}, 79 others)",
        ),
    ],
)
def test_what_does_not_fit(fields: tuple[str, ...], result: Any, came: str) -> None:
    """Anything else is a ResultError saying what came and what was declared; nothing is cut off."""
    with pytest.raises(ResultError) as caught:
        make_fit("node", fields)(result)
    error = caught.value
    assert str(error) == f'"node" emitted {came}, but its fields are ({", ".join(fields)})'
    assert (error.node, error.fields) == ("node", fields)
    assert isinstance(error, ValueError)
    assert isinstance(error, NodeError)


def test_the_error_does_not_quote_the_value() -> None:
    """The text describes a result by its shape, since it may end in a log."""
    for result in ("canary", ("canary",), ["canary"], {"word": "canary"}):
        with pytest.raises(ResultError) as caught:
            make_fit("node", ("a", "b"))(result)
        assert "canary" not in str(caught.value)


def test_a_foreign_list_fills_several_fields() -> None:
    """A list from another program fills several fields, and is the value of a single one."""
    assert make_fit("n", TWO, foreign=True)(["rain", 2]) == {"word": "rain", "count": 2}
    assert make_fit("n", ONE, foreign=True)(["rain"]) == {"word": ["rain"]}
    with pytest.raises(ResultError, match="a list of 1 values"):
        make_fit("n", TWO, foreign=True)(["rain"])


@pytest.mark.parametrize("fields", [("a", "b"), ["a", "b"], iter(["a", "b"])])
def test_fields_may_be_any_ordered_iterable(fields: Any) -> None:
    """A tuple, a list or an iterator of names declares the fields."""
    assert check_fields("node", fields) == ("a", "b")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ("word", "a tuple or list of names"),
        ({"a", "b"}, "a tuple or list of names"),
        ({"a": 1}, "a tuple or list of names"),
        (3, "a tuple or list of names"),
        (None, "a tuple or list of names"),
        (("a", 1), "must be a string, not 1"),
        (("a", "a"), "named twice"),
        (("_origin",), 'can\'t be called "_origin"'),
        (("keys",), 'can\'t be called "keys"'),
    ],
)
def test_wrong_fields(fields: Any, why: str) -> None:
    """Fields that have no order, are no names, repeat or are reserved are a GraphError."""
    with pytest.raises(GraphError, match=why) as caught:
        check_fields("the.node", fields)
    assert '"the.node"' in str(caught.value)
