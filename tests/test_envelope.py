"""The text that a queue carries: written exactly or refused, and read with care. Nothing runs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from emit.errors import EncodeError, Unreadable
from emit.letter import Cause
from emit.message import Message
from emit.router.delivery import batch_id
from emit.router.envelope import (
    KEPT,
    Packed,
    Parcel,
    Past,
    by_hand,
    given,
    is_emits,
    pack,
    read,
    shown,
    unpack,
)
from tests.test_exact import VALUES, typed

HEADER = Past().header()
names = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda name: name != "_origin")
messages = st.dictionaries(names, VALUES, max_size=4)
plain = st.dictionaries(st.text("abc", max_size=3), st.text() | st.integers(), max_size=4)


def packed(*of: dict[str, Any]) -> Packed:
    return Parcel([str(number) for number in range(len(of))], of).packed("test")


def sent(packed: Packed, origin: str = "words") -> tuple[str, Parcel]:
    """Return the origin and the parcel that the receiver reads."""
    return read("count", packed.id, HEADER, [packed.text(origin)], {})


@examples(st.lists(messages, min_size=1, max_size=4))
def test_a_text_is_read_as_it_was_written(of: list[dict[str, Any]]) -> None:
    """Every value is what it was, and of the same type."""
    origin, parcel = sent(packed(*of))
    assert origin == "words"
    assert typed(list(parcel.messages)) == typed(of)
    assert len(parcel.ids) == len(of)


def test_the_form_of_the_text() -> None:
    """The form is fixed: each version reads the text of the one before."""
    assert packed({"n": 1}).text("words") == '{"v":1,"origin":"words","messages":[{"n":1}]}'
    assert json.loads(packed({"n": 1}, {"n": (1, 2)}).text("words")) == {
        "v": 1,
        "origin": "words",
        "ids": ["0", "1"],
        "messages": [{"n": 1}, "msgpack:gaFuxwMDkgEC"],
    }


def test_one_odd_message_does_not_change_the_others() -> None:
    """They stay readable for a person, and quick."""
    whole = json.loads(packed({"n": 1}, {"n": b"x"}, {"n": 2**64}).text("words"))
    assert whole["messages"][0] == {"n": 1}
    assert whole["messages"][2] == '{"n":18446744073709551616}'


class Colour(str, Enum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


@dataclass
class Point:
    x: int = 1


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"items": [1, 2, 3, {"price": {1}}]}, "items[3].price"),
        ({"a": {"b": (1, object())}}, "a.b[1]"),
        ({"colour": Colour.RED}, "colour"),
        ({"n": [Number.ONE]}, "n[0]"),
        ({"p": Point()}, "p"),
        ({"m": {Number.ONE: 1}}, "key 1 of m"),
        ({"m": {"ada@example.org": {"c": 1j}}}, "m[key 1].c"),
        ({"z": 1j, "fine": 2}, "z"),
    ],
)
def test_refused_with_its_path(fields: dict[str, Any], path: str) -> None:
    """The error comes before anything is sent, and does not contain the value."""
    with pytest.raises(EncodeError) as caught:
        pack("shop.orders", fields)
    assert (caught.value.node, caught.value.path) == ("shop.orders", path)
    assert str(caught.value).startswith(f'"shop.orders": {path}: ')


def test_a_field_whose_name_is_no_text() -> None:
    with pytest.raises(EncodeError, match="a field's name must be text, not of type int"):
        pack("n", {1: 2})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "value",
    [
        *((1,), b"\0", 2**64, -(2**63) - 1, {1: "one"}, {None: "none", "a": [{True: 2}]}),
        *({"__type__": "datetime", "__value__": "x"}, datetime(2026, 10, 25, 2, 30, fold=1)),
        *(datetime(2026, 1, 1, tzinfo=timezone.utc), date(2026, 1, 1), Decimal("1.10")),
        *(UUID(int=1), "\ud800", -0.0, 1e300, float("inf"), {"self": {"_batch": 1}}),
    ],
    ids=repr,
)
def test_values_that_queues_change(value: Any) -> None:
    """Celery's JSON makes something else of most of these, without a word."""
    _, parcel = sent(packed({"v": value}, {"plain": 1}))
    got = parcel.messages[0]["v"]
    assert typed(got) == typed(value)
    assert repr(got) == repr(value)  # -0.0, and the fold


def test_nan_comes_back() -> None:
    assert math.isnan(sent(packed({"v": float("nan")}))[1].messages[0]["v"])


def test_no_field_is_control_data() -> None:
    """A field is never control data, whatever its name is."""
    evil = {"_batch": {"ids": ["x"], "messages": [{}]}, "v": 9, "ids": ["y"], "origin": "z"}
    origin, parcel = sent(packed(evil))
    assert (origin, parcel) == ("words", Parcel(["0"], [evil]))
    assert sent(packed({"_origin": "evil", "n": 1}))[1].messages == [{"n": 1}]


@examples(st.lists(plain, max_size=30), st.integers(1, 7), st.integers(1, 200))
def test_cutting_loses_nothing(of: list[dict[str, Any]], count: int, size: int) -> None:
    """All messages, in order, never more than count together, and over size only alone."""
    whole = packed(*of)
    parts = list(whole.cut(count, size))
    assert [id for part in parts for id in part.ids] == whole.ids
    assert [text for part in parts for text in part.texts] == whole.texts
    for part in parts:
        assert 1 <= len(part.ids) <= count
        assert len(part.ids) == 1 or sum(map(len, part.texts)) <= size


def test_cutting_by_size() -> None:
    """Three of 12 bytes do not go into 30."""
    whole = packed(*({"w": "abcd"} for _ in range(5)))
    assert [len(part.ids) for part in whole.cut(100, 30)] == [2, 2, 1]


def test_the_id_of_a_batch_is_not_that_of_a_message() -> None:
    """A batch's id is its own, and the same for the same messages."""
    assert packed({}, {}).id == batch_id(["0", "1"]) != "0"
    assert packed({}).id == "0"


# What can't be read

NEWER = '{"v":2,"origin":"words","of":[["an id",{"n":1}]]}'


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ([], {}, "needs fields"),
        (["{"], {}, "damaged"),
        (["no JSON"], {}, "damaged"),
        (["[]"], {}, "in no form"),
        (["null"], {}, "in no form"),
        (['{"origin":"x","messages":[{}]}'], {}, "in no form"),
        (['{"v":"1","origin":"x","messages":[{}]}'], {}, "in no form"),
        (['{"v":true,"origin":"x","messages":[{}]}'], {}, "in no form"),
        ([NEWER], {}, r"a newer version of Emit .* form 2, .* reads form 1: replay it when"),
        (['{"v":1,"origin":1,"messages":[{}]}'], {}, "damaged"),
        (['{"v":1,"messages":[{}]}'], {}, "damaged"),
        (['{"v":1,"origin":"x"}'], {}, "damaged"),
        (['{"v":1,"origin":"x","messages":[]}'], {}, "damaged"),
        (['{"v":1,"origin":"x","messages":{}}'], {}, "damaged"),
        (['{"v":1,"origin":"x","messages":[{},{}]}'], {}, "damaged"),
        (['{"v":1,"origin":"x","messages":[1]}'], {}, "damaged"),
        (['{"v":1,"origin":"x","messages":["msgpack:!"]}'], {}, "damaged"),
        (['{"v":1,"origin":"x","messages":["msgpack:xwMB"]}'], {}, "damaged"),
        (['{"v":1,"origin":"x","messages":["msgpack:1wEAAAAA"]}'], {}, "damaged"),
        (['{"v":1,"origin":"x","messages":["[]"]}'], {}, "damaged"),
        (['{"v":1,"origin":"x","ids":["a"],"messages":[{},{}]}'], {}, "damaged"),
        (['{"v":1,"origin":"x","ids":["a",1],"messages":[{},{}]}'], {}, "damaged"),
        (['{"v":1,"origin":"x","ids":"ab","messages":[{},{}]}'], {}, "damaged"),
        ([17], {}, "a int in place of a text"),
        (["{}", "{}"], {}, "more arguments"),
        (["{}"], {"n": 1}, "more arguments"),
    ],
)
def test_what_can_not_be_read(args: list[Any], kwargs: dict[str, Any], reason: str) -> None:
    """One clear error, never a TypeError from the depth, and no part of the payload in it."""
    with pytest.raises(Unreadable, match=reason) as caught:
        read("count", "7", HEADER, args, kwargs)
    assert str(caught.value).startswith('"count" got what it can\'t read: ')


@examples(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        unpack("count", "7", text)


@examples(st.data())
def test_a_damaged_text_is_read_or_refused(data: st.DataObject) -> None:
    """A character changed anywhere."""
    text = packed({"n": [1, "x"]}, {"t": (1, b"x")}).text("words")
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.characters()) + text[at + 1 :]
    try:
        origin, parcel = unpack("count", "7", changed)
    except Unreadable:
        return
    assert len(parcel.ids) == len(parcel.messages) == 2
    assert all(isinstance(message, dict) for message in parcel.messages)
    assert isinstance(origin, str)


def test_keys_of_a_later_version_are_ignored() -> None:
    """A writer may add what a reader may ignore."""
    text = '{"v":1,"origin":"words","sent_by":"0.9","messages":[{"n":1}],"more":{}}'
    assert unpack("count", "7", text) == ("words", Parcel(["7"], [{"n": 1}]))


def test_a_text_without_emits_header_is_only_a_text() -> None:
    """A chain of Celery's passes on what a task returned, and that may come from anybody."""
    text = packed({"amount": 9999}, {"amount": 1}).text("words")
    for header in (None, [], {}, {"version": 1}, "v"):
        with pytest.raises(Unreadable, match=r"\(str\); in a chain .* \.si\("):
            read("count", "7", header, [text], {})


# What is sent by hand, and what older versions have sent


def test_what_came_as_fields() -> None:
    """``func.delay(_origin=origin, **message)``, and ``app.send_task(name, kwargs=...)``."""
    words = ("words", Parcel(["7"], [{"n": 1}]))
    assert read("count", "7", None, [], {"n": 1, "_origin": "words"}) == words
    assert read("count", "7", None, [{"n": 1}], {"_origin": "words"}) == words
    assert read("count", "7", None, [{"n": 1, "_origin": "evil"}], {})[0] == ""
    assert read("count", "7", None, (), {"n": 1}) == ("", Parcel(["7"], [{"n": 1}]))
    assert read("count", "7", [{"type": "KeyError"}], (), {"n": 1})[1].messages == [{"n": 1}]
    with pytest.raises(Unreadable, match="_origin is of type int, not text"):
        read("count", "7", None, (), {"_origin": 1, "n": 1})


def test_a_batch_of_an_older_version() -> None:
    """Only if it is nothing else, and the queue's id is made of its own."""
    batch = {"ids": ["a", "b"], "messages": [{"n": 1}, {"n": 2}]}
    old, id = {"_origin": "words", "_batch": batch}, batch_id(["a", "b"])
    assert read("count", id, None, [], old) == ("words", Parcel(["a", "b"], [{"n": 1}, {"n": 2}]))
    single = Parcel(["7"], [{"_batch": batch}])
    assert read("count", "7", None, [], old) == ("words", single)
    assert read("count", id, None, [], {"_batch": batch}) == ("", Parcel([id], [{"_batch": batch}]))
    more = {**old, "user": "me"}
    assert read("count", id, None, [], more)[1].messages == [{"_batch": batch, "user": "me"}]
    for wrong in (
        {"ids": ["a", "b"], "messages": [{"n": 1}]},
        {"ids": ["a", "b"], "messages": "xy"},
        {"ids": "ab"},
        {"version": 2, "of": []},
        None,
    ):
        odd = {"_origin": "words", "_batch": wrong}
        assert read("count", id, None, [], odd)[1].messages == [{"_batch": wrong}]


def test_by_hand() -> None:
    """Keywords, or one dictionary or message."""
    assert by_hand("count", (), {"self": 1, "_origin": "words"}) == ("words", b'{"self":1}')
    assert by_hand("count", ({"n": 1},), {}) == ("", b'{"n":1}')
    assert by_hand("count", (Message(n=1, _origin="words"),), {}) == ("", b'{"n":1}')
    assert by_hand("count", ({"_origin": {"x": 1}},), {"_origin": "words"}) == ("words", b"{}")
    assert by_hand("count", ({},), {}) == ("", b"{}")
    for args in ((), (5,), ("text",), ({}, {}), (None,)):
        with pytest.raises(TypeError, match=r'"count": a message '):
            by_hand("count", args, {})
    with pytest.raises(EncodeError, match="_origin: is the name of a node, so text"):
        by_hand("count", (), {"_origin": {"x": 1}})


def test_what_a_chain_passes_on() -> None:
    """A dictionary is taken into the message; what has no name is refused, with what to do."""
    assert given(({"n": 1, "a": 2},), {"n": 9}) == {"n": 9, "a": 2}
    with pytest.raises(TypeError, match=r"this got \(int\); in a chain .* \.si\(\.\.\.\)"):
        given((5,), {"n": 9})


# The header


def cause(number: int) -> Cause:
    return Cause("ValueError", f"{number} " + "é" * 1000, "stderr", 1, None, 1.5)


def test_the_past_stays_small() -> None:
    """The last few causes, and how many there were: a header has its limits, and waits are long."""
    past = Past()
    for number in range(1000):
        past = past.failed(cause(number), asked=number % 2 == 0)
    assert (past.attempts, past.retries, len(past.causes)) == (1000, 500, KEPT)
    assert [int(c.text.split()[0]) for c in past.causes] == [995, 996, 997, 998, 999]
    header = past.header()
    assert len(json.dumps(header)) < 20_000
    again = Past.read(json.loads(json.dumps(header)))
    assert (again.attempts, again.retries, again.waits) == (1000, 500, 0)
    assert Past.read(past.waited().waited().header()).waits == 2
    assert past.waited().failed(cause(1), asked=False).waits == 0
    assert again.causes[-1].text == past.causes[-1].text[:500]


def test_the_header_of_a_first_attempt() -> None:
    """It says that the text is Emit's, and nothing more."""
    assert Past().header() == {"v": 1}
    assert is_emits({"v": 1})
    assert Past.read({"v": 1}) == Past()


@pytest.mark.parametrize(
    ("header", "attempts", "causes"),
    [
        (None, 0, 0),
        ([{"type": "KeyError", "text": "x", "stderr_tail": "", "at": 1.0}], 1, 1),
        ([{"type": "KeyError", "of_a_later_version": 1}, {}], 2, 2),
        ({"version": 2, "causes": [{"type": "KeyError"}]}, 1, 1),
        ({"v": 1, "attempts": 40, "causes": [{"type": "KeyError", "more": 1}]}, 40, 1),
        ({"v": 1, "attempts": -1, "causes": "x"}, 0, 0),
        ({"v": 1, "attempts": "3", "causes": [1, None, {}], "waits": -1}, 3, 1),
        (17, 0, 0),
        ("text", 0, 0),
    ],
)
def test_headers_of_other_versions(header: Any, attempts: int, causes: int) -> None:
    """Headers are read as far as they can be understood, and the rest does no harm."""
    past = Past.read(header)
    assert (past.attempts, len(past.causes)) == (attempts, causes)
    assert all(isinstance(cause.at, float) for cause in past.causes)


def test_what_is_shown() -> None:
    """A short description is shown in place of the arguments."""
    assert shown("words", 1) == "<a message from words>"
    assert shown("", 3) == "<3 messages from a call>"


def test_orjson_reads_what_is_written() -> None:
    """The reader is orjson, which makes floats of long integers: none may be in the plain part."""
    whole = packed({"n": 2**64 - 1}, {"n": -(2**63)}, {"n": 2**64})
    found = orjson.loads(whole.text("words"))["messages"]
    assert [type(one) for one in found] == [dict, dict, str]
