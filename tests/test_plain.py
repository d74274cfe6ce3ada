"""Plain messages and results: what a program without an SDK reads and writes."""

from __future__ import annotations

import json
import math
import struct
from collections import UserDict
from typing import Any

import hypothesis
import hypothesis.strategies as st
import msgpack
import pytest

from emit.errors import EncodeError, FrameTooLarge, ProtocolError
from emit.host.wire.frames import Ready, from_wire
from emit.host.wire.plain import encode_message, results

#: A loaded machine is no failure.
SLOW = [hypothesis.HealthCheck.too_slow]
both = pytest.mark.parametrize("codec", ["json", "msgpack"])


def collect(data: bytes, size: int, **options: Any) -> list[Any]:
    reader = results(node="count", **options)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return [value for piece in pieces for value in reader.feed(piece)] + reader.end()


def written(values: list[Any], codec: str) -> bytes:
    dump = (lambda value: json.dumps(value).encode()) if codec == "json" else msgpack.packb
    return b"".join(dump(value) + b"\n" for value in values)


def test_messages() -> None:
    """A message is a line of JSON or one msgpack map; any mapping will do."""
    message = UserDict(n=10)
    assert encode_message(message, node="count") == b'{"n":10}\n'
    assert encode_message(message, node="count", codec="msgpack") == b"\x81\xa1n\n"


@both
def test_messages_over_the_limit(codec: str) -> None:
    """A message at the limit passes, one byte more is refused with both numbers."""
    message = {"text": "x" * 80}
    size = len(encode_message(message, node="count", codec=codec)) - (codec == "json")
    encode_message(message, node="count", codec=codec, max_frame=size)
    with pytest.raises(FrameTooLarge) as caught:
        encode_message(message, node="count", codec=codec, max_frame=size - 1)
    assert (caught.value.size, caught.value.limit) == (size, size - 1)
    assert not caught.value.may_have_run


def test_messages_that_do_not_fit() -> None:
    """A value that cannot be carried is named with its node and path."""
    with pytest.raises(EncodeError) as caught:
        encode_message({"a": [math.nan]}, node="count")
    assert (caught.value.node, caught.value.path) == ("count", "a[0]")


@both
@hypothesis.given(
    values=st.lists(
        st.none()
        | st.integers(-10, 300)
        | st.text(max_size=5)
        | st.dictionaries(st.text(), st.just(10)),
        max_size=6,
    ),
    size=st.integers(1, 30),
)
@hypothesis.settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
def test_results(codec: str, values: list[Any], size: int) -> None:
    """Results come back in order, tens and newlines included, in pieces of any size."""
    assert collect(written(values, codec), size, codec=codec) == values


@both
def test_no_output_is_no_results(codec: str) -> None:
    """A program that writes nothing has emitted nothing."""
    assert collect(b"", 1, codec=codec) == []


def test_json_lines_are_taken_kindly() -> None:
    """Blank lines, CRLF and a last line without a newline are fine."""
    assert collect(b'\n1\r\n \r\n\n{"a":2}\n3', 2) == [1, {"a": 2}, 3]


def test_the_last_newline_of_msgpack_may_be_missing() -> None:
    """The end of output is as good as the last newline."""
    assert collect(b"\x01\n\x02", 1, codec="msgpack") == [1, 2]


def test_a_probe_is_answered_with_a_ready_line() -> None:
    """The first line of an SDK that was probed is a ready frame like any other."""
    first, *rest = collect(b'\n{"op":"ready","v":1,"sdk":"ruby/1"}\n{"n":1}\n', 5)
    assert from_wire(first) == Ready(1, sdk="ruby/1")
    assert rest == [{"n": 1}]


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        ("json", b"hello \x1b[31m\n"),
        ("json", b"[1,\n2]\n"),
        ("json", b"NaN\n"),
        ("json", b"18446744073709551616\n"),
        ("json", b"[" * 129 + b"]" * 129 + b"\n"),
        ("msgpack", b"\x01\x02\n"),
        ("msgpack", b"\x01\xd0\x0a"),
        ("msgpack", b"\xc1\n"),
        ("msgpack", b"\xd4\x05a\n"),
        ("msgpack", b"\x81\x01\x01\n"),
        ("msgpack", b"\x81\xc4\x01a\x01\n"),
        ("msgpack", b"\x91" * 129 + b"\xc0\n"),
        ("msgpack", b"\xdd\xff\xff\xff\xff"),
        ("msgpack", b"\xdc\x00\x02" + (b"\xdd\x00\x07\xa1\x21" + b"\xc0" * 500_001) * 2 + b"\n"),
        ("msgpack", b"\x92\x01"),
    ],
)
def test_what_is_no_result(codec: str, data: bytes) -> None:
    """Output that is no value is an error that quotes it, escaped."""
    with pytest.raises(ProtocolError) as caught:
        collect(data, 4096, codec=codec)
    assert '"count": ' in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("codec", "data"),
    [
        ("json", b'"' + b"x" * 99 + b'"\n'),
        ("json", b"x" * 101),
        ("msgpack", b"\xd9\x63" + b"x" * 99 + b"\n"),
        ("msgpack", b"\xc6" + struct.pack(">I", 2**32 - 1) + b"x" * 100),
    ],
)
def test_results_over_the_limit(codec: str, data: bytes, size: int) -> None:
    """A result of one byte too many is refused, and so is one that has not ended by then."""
    with pytest.raises(FrameTooLarge) as caught:
        collect(data, size, codec=codec, max_frame=100)
    assert (caught.value.limit, caught.value.may_have_run) == (100, True)
    if codec == "json" and data.endswith(b"\n"):
        assert collect(data, size, max_frame=101) == ["x" * 99]


@pytest.mark.parametrize("newline", [b"", b"\n"])
@pytest.mark.parametrize("values", [[], [10], [123, 34], [{"op": "end", "id": None}], ["x" * 300]])
def test_a_ready_frame_before_msgpack(newline: bytes, values: list[Any]) -> None:
    """It is JSON all the same, and comes first; without one the results are as ever."""
    ready = newline + b'{"op":"ready","v":1}\n'
    for size in (1, 2, 7, 1000):
        options = {"codec": "msgpack", "probed": True}
        data = written(values, "msgpack")
        assert collect(ready + data, size, **options) == [{"op": "ready", "v": 1}, *values]
        assert collect(data, size, **options) == values


def test_a_ready_frame_that_never_ends() -> None:
    """It is refused as soon as it is over the limit."""
    reader = results(node="count", codec="msgpack", max_frame=100, probed=True)
    with pytest.raises(FrameTooLarge):
        reader.feed(b'{"' + b"x" * 100)
