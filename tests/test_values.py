"""Values and bytes: exactly, or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import doctest
import enum
import json
import math
import re
import struct
import uuid
from collections import OrderedDict
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import msgpack
import orjson
import pytest

from emit.host.wire import codec, frames, plain, reader, session, values
from emit.host.wire.values import (
    MAX_DEPTH,
    MAX_ITEMS,
    Encoder,
    Malformed,
    Unfit,
    from_json,
    from_msgpack,
)

UTC = datetime.timezone.utc
ENCODER = Encoder()
CODECS = {
    "json": (ENCODER.json, from_json),
    "msgpack": (ENCODER.msgpack, from_msgpack),
}
both = pytest.mark.parametrize("name", CODECS)

#: A loaded machine is no failure.
SLOW = [hypothesis.HealthCheck.too_slow]
integers = st.integers(-(2**63), 2**64 - 1)
scalars = st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(codec="utf-8"))


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=20
    )


class Colour(enum.Enum):
    RED = 1


class Size(str, enum.Enum):
    BIG = "big"


class Number(int):
    pass


class Text(str):
    pass


class Point(NamedTuple):
    x: int


@dataclasses.dataclass
class Record:
    x: int


def deep(levels: int, *, maps: bool = False) -> Any:
    value: Any = {} if maps else []
    for _ in range(levels - 1):
        value = {"a": value} if maps else [value]
    return value


def refusal(name: str, value: object) -> Unfit:
    with pytest.raises(Unfit) as caught:
        CODECS[name][0](value)
    return caught.value


@pytest.mark.parametrize("module", [codec, frames, plain, reader, session, values])
def test_examples_in_docstrings(module: Any) -> None:
    """The examples in docstrings are true."""
    assert doctest.testmod(module).failed == 0


@both
@hypothesis.given(value=nested(scalars | text))
@hypothesis.settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
def test_round_trip(name: str, value: Any) -> None:
    """Values that both codecs carry come out equal and of the same types."""
    encode, decode = CODECS[name]
    assert repr(decode(encode(value))) == repr(value)


@hypothesis.given(value=nested(scalars | text | st.binary() | st.just(math.inf)))
@hypothesis.settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
def test_round_trip_of_binary(value: Any) -> None:
    """Bytes and infinities come through msgpack."""
    assert repr(from_msgpack(ENCODER.msgpack(value))) == repr(value)


@hypothesis.given(value=nested(scalars | text | st.floats() | st.binary() | st.integers()))
@hypothesis.settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
def test_json_is_exact_or_refused(value: Any) -> None:
    """JSON carries a value exactly or refuses it; there is no third way."""
    try:
        data = ENCODER.json(value)
    except Unfit:
        return
    assert repr(from_json(data)) == repr(value)


@hypothesis.given(data=st.binary(max_size=200))
@hypothesis.settings(max_examples=300, deadline=None, suppress_health_check=SLOW)
def test_any_bytes(data: bytes) -> None:
    """Any bytes are a value or Malformed."""
    for decode in (from_json, from_msgpack):
        with contextlib.suppress(Malformed):
            decode(data)


@hypothesis.given(
    value=st.datetimes(timezones=st.timezones() | st.just(UTC)).filter(
        lambda value: 1 < value.year < 9999
    )
)
@hypothesis.settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
def test_datetimes_name_the_same_instant(value: datetime.datetime) -> None:
    """A datetime comes through msgpack as the same instant, in UTC."""
    result = from_msgpack(ENCODER.msgpack(value))
    assert result == value.astimezone(UTC)
    assert result.tzinfo == UTC


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, b"x", datetime.datetime(2026, 1, 1, tzinfo=UTC)],
    ids=str,
)
def test_only_msgpack_carries(value: Any) -> None:
    """A value without a form in JSON is refused with its path and the codec that would carry it."""
    error = refusal("json", {"items": [0, {"price": value}], "none": None})
    assert error.path == "items[1].price"
    assert 'codec = "msgpack"' in error.reason
    assert repr(from_msgpack(ENCODER.msgpack([value]))) == repr([value])


@both
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (2**64, "beyond 64 bits"),
        (-(2**63) - 1, "beyond 64 bits"),
        ("\ud800", "lone surrogate"),
        ({"\udfff": 1}, "a key with a lone surrogate"),
        ({1: 2}, "a key of type int"),
        ({b"a": 2}, "a key of type bytes"),
        ({Text("a"): 2}, "a key of type Text"),
        (datetime.datetime(2026, 1, 1), "time zone"),
        (datetime.date(2026, 1, 1), "datetime.date"),
        (datetime.time(1), "datetime.time"),
        (decimal.Decimal(1), "decimal.Decimal"),
        (uuid.UUID(int=1), "uuid.UUID"),
        (Colour.RED, "Colour"),
        (Size.BIG, "Size"),
        (Number(1), "Number"),
        (Text("a"), "Text"),
        (Point(1), "Point"),
        (Record(1), "Record"),
        (OrderedDict(a=1), "OrderedDict"),
        ({1, 2}, "builtins.set"),
        (bytearray(b"a"), "bytearray"),
        (memoryview(b"a"), "memoryview"),
        (1j, "complex"),
        (object, "builtins.type"),
        (orjson.Fragment(b"1"), "Fragment"),
        (msgpack.ExtType(1, b""), "ExtType"),
        (msgpack.Timestamp(1), "Timestamp"),
    ],
    ids=lambda given: re.sub(r" at 0x\w+", "", repr(given)),
)
def test_refused_alike(name: str, value: Any, reason: str) -> None:
    """Values that neither codec carries are refused by both, with the same words."""
    error = refusal(name, {"a b": (value,)})
    assert error.path == "[key 1][0]"
    assert reason in error.reason
    assert str(error) == f"{error.path}: {error.reason}"


@both
@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), 2**53 + 1, 0.1, -0.0, 1e308, 5e-324])
def test_numbers_are_exact(name: str, value: float) -> None:
    """Integers up to 64 bits and every finite float keep their value and their type."""
    encode, decode = CODECS[name]
    assert repr(decode(encode({"n": value}))) == repr({"n": value})


@both
def test_tuples_become_lists(name: str) -> None:
    """A tuple is as good as a list."""
    encode, decode = CODECS[name]
    assert decode(encode({"a": (1, (2,))})) == {"a": [1, [2]]}


def test_bytes_that_look_like_nan_are_an_integer() -> None:
    """An integer whose bytes look like a NaN's is not taken for one."""
    lookalike = int.from_bytes(b"\x01\xcb\x7f\xf8\0\0\0\0", "big")
    assert from_json(ENCODER.json({"n": lookalike})) == {"n": lookalike}


@both
def test_a_cycle_is_refused(name: str) -> None:
    """A list that holds itself is too deep, not a crash."""
    loop: list[Any] = []
    loop.append(loop)
    assert "deeper" in refusal(name, loop).reason


@both
@pytest.mark.parametrize("maps", [False, True])
def test_depth(name: str, maps: bool) -> None:
    """128 levels pass both ways, 129 pass neither."""
    encode, decode = CODECS[name]
    for levels in (MAX_DEPTH - 1, MAX_DEPTH):
        assert decode(encode(deep(levels, maps=maps))) == deep(levels, maps=maps)
    assert "deeper than 128" in refusal(name, deep(MAX_DEPTH + 1, maps=maps)).reason
    data = json.dumps if name == "json" else msgpack.packb
    over = data(deep(MAX_DEPTH + 1, maps=maps))
    with pytest.raises(Malformed, match="deeper than 128"):
        decode(over.encode() if name == "json" else over)


@both
def test_depth_with_another_orjson(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has no limit of its own does not help to count the levels."""
    monkeypatch.setattr(values, "_MOST_LEVELS", 0)
    test_depth(name, maps=False)


@both
def test_many_lists_are_not_depth(name: str) -> None:
    """Brackets side by side do not count as levels."""
    encode, decode = CODECS[name]
    value = [[{}] for _ in range(MAX_DEPTH)]
    assert decode(encode(value)) == value


@pytest.mark.parametrize("levels", [254, 1024, 10**5])
def test_far_too_deep(levels: int) -> None:
    """Depth beyond what the decoders themselves take is Malformed too."""
    for decode, data in (
        (from_json, b"[" * levels + b"]" * levels),
        (from_msgpack, b"\x91" * levels + b"\xc0"),
    ):
        with pytest.raises(Malformed):
            decode(data)


@both
def test_items(name: str) -> None:
    """A million items pass both ways, one more passes neither."""
    encode, decode = CODECS[name]
    assert len(decode(encode([10] * MAX_ITEMS))) == MAX_ITEMS
    assert "1000000 items" in refusal(name, [10] * (MAX_ITEMS + 1)).reason
    over = [10] * (MAX_ITEMS + 1)
    data = orjson.dumps(over) if name == "json" else msgpack.packb(over)
    with pytest.raises(Malformed, match=r"1000000 items|max_array_len"):
        decode(data)


@both
def test_items_of_all_levels_together(name: str) -> None:
    """The items of inner lists and maps count too."""
    over = [[0] for _ in range(MAX_ITEMS // 2 + 1)]
    data = orjson.dumps(over) if name == "json" else msgpack.packb(over)
    with pytest.raises(Malformed, match="1000000 items"):
        CODECS[name][1](data)
    assert "1000000 items" in refusal(name, over).reason


def test_items_of_chains_without_commas() -> None:
    """A few items of many levels each are counted before they are decoded."""
    with pytest.raises(Malformed, match="1000000 items"):
        from_json(b"[" + b",".join([b"[" * 1000 + b"]" * 1000] * 1001) + b"]")


def test_commas_in_text_are_no_items() -> None:
    """A long text of commas, brackets and quotes is one item."""
    value = {"text": ',[{"\\' * 600_000}
    assert from_json(ENCODER.json(value)) == value


@pytest.mark.parametrize(
    ("data", "decode"),
    [
        (b"[" + b"[]," * (2**24 // 3) + b"0]", from_json),
        (b'"' + b'\\",' * (2**24 // 3), from_json),
        (b"\xdd" + struct.pack(">I", 2**24) + b"\x90" * 2**24, from_msgpack),
        (b"\xdc\x00\x11" + (b"\xdd\x00\x0f\x42\x40" + b"\x90" * 10**6) * 17, from_msgpack),
    ],
    ids=["json", "json text", "one msgpack list", "lists of lists"],
)
def test_amplification(data: bytes, decode: Any) -> None:
    """16 MB that would decode to a gigabyte are refused before they are."""
    with pytest.raises(Malformed):
        decode(data)


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "1" * 5000])
def test_long_integers_from_json(number: str) -> None:
    """An integer beyond 64 bits is Malformed, never a float."""
    with pytest.raises(Malformed):
        from_json(b'{"n":%b}' % number.encode())


def test_long_numbers_that_are_fine() -> None:
    """Long digits in text, in fractions and within 64 bits are what they are."""
    digits = "1" * 40
    assert from_json(b'["%b",18446744073709551615]' % digits.encode()) == [digits, 2**64 - 1]
    assert from_json(b"0.1234567890123456789") == 0.1234567890123456789


@pytest.mark.parametrize(
    "data",
    [
        b"NaN",
        b"Infinity",
        b"1e400",
        b'"\\ud800"',
        b'"\xff"',
        b'"\x00"',
        b"\xef\xbb\xbf{}",
        b"{} {}",
        b"",
        b"{'a':1}",
    ],
)
def test_no_json(data: bytes) -> None:
    """Input that is not JSON is Malformed."""
    with pytest.raises(Malformed, match="is no JSON"):
        from_json(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01\x01",
        b"\xa2a",
        b"\xa1\xff",
        b"\x81\x01\x01",
        b"\x81\x90\x01",
        b"\x81\xc4\x01a\x01",
        b"\xd4\x05a",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdd\x00\x0f\x42\x40" * 1000,
        b"\xc7\x0c\xff" + b"\0" * 4 + b"\x7f" + b"\xff" * 7,
    ],
)
def test_no_msgpack(data: bytes) -> None:
    """Input that is not a msgpack value of the wire is Malformed, lies about sizes included."""
    with pytest.raises(Malformed):
        from_msgpack(data)


def test_msgpack_bytes_and_lookalike_keys_pass() -> None:
    """Bytes as a value, and keys whose letters look like a bytes header, are fine."""
    value = {"ą": b"\xc4", "ń": [{"ř": 1}]}
    assert from_msgpack(ENCODER.msgpack(value)) == value


@both
def test_duplicate_keys(name: str) -> None:
    """The last value of a key given twice counts, in both codecs."""
    data = {"json": b'{"a":1,"a":2}', "msgpack": b"\x82\xa1a\x01\xa1a\x02"}[name]
    assert CODECS[name][1](data) == {"a": 2}


def test_an_encoder_survives_refusals() -> None:
    """A refused value leaves nothing behind in the encoder."""
    encoder = Encoder()
    for value in ({"a": [1, object()]}, {"a": math.nan}, {"a": {1: 1}}):
        with pytest.raises(Unfit):
            encoder.json(value)
    assert encoder.msgpack({"a": 1}) == b"\x81\xa1a\x01"


def test_a_failure_that_cannot_be_placed() -> None:
    """The encoder's own words are given if no culprit is found."""
    assert values._explain({"a": 1}, binary=False, otherwise="because").reason == "because"
