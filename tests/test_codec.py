"""Frames and bytes: both codecs out, one reader in, whatever the pieces."""

from __future__ import annotations

import os
import random
import struct
from typing import Any

import hypothesis
import hypothesis.strategies as st
import msgpack
import orjson
import pytest

from emit.host.wire.codec import CODECS, encode
from emit.host.wire.frames import (
    FIELDS,
    MAX_FRAME,
    OPS,
    BadFrame,
    Bye,
    Call,
    Calls,
    Cancel,
    End,
    Ends,
    Err,
    Failure,
    Frame,
    Hello,
    Log,
    Out,
    Ping,
    Pong,
    Read,
    Ready,
    Stray,
    TooLarge,
    Violation,
    from_wire,
    to_wire,
)
from emit.host.wire.reader import Reader

ONE_OF_EACH: list[Frame] = [
    Hello([1], ["json"], "count", 100, {"a": 1}),
    Ready(1, "msgpack", "ruby/1", 4, ["count"], {"count": {"required": ["n"]}}, ["cancel"]),
    Ready(1),
    Call(1, {"n": 1}),
    Call(2**40, {"n": 1}, "count", {"origin": "a"}),
    Out(1, [1, None]),
    End(1, [{"a": "ä\u2028"}]),
    End(1),
    Ends(1, [[1], []]),
    Err(1, "ArgumentError", "no", ["count.rb:3"], False, 1.5, {"type": "A", "message": "b"}),
    Err(1, "ArgumentError", "no"),
    Failure("LoadError", "no such file", ["count.rb:1"]),
    Log("info", "text", 3, {"a": 1}),
    Log("info", "text"),
    Calls(1, [{"n": 1}, {}], "count", {"attempt": 1}, [None, {"attempt": 2}]),
    Cancel(1),
    Ping(1),
    Pong(1),
    Bye(),
]

#: A loaded machine is no failure.
SLOW = [hypothesis.HealthCheck.too_slow]
both = pytest.mark.parametrize("codec", CODECS)


def framed(value: object) -> bytes:
    body = msgpack.packb(value)
    return struct.pack(">I", len(body)) + body


def read(data: bytes, size: int | None = None, **options: Any) -> list[Read]:
    """The events of some bytes, fed in pieces of a size."""
    reader = Reader(**options)
    step = size or max(len(data), 1)
    pieces = (data[at : at + step] for at in range(0, len(data), step))
    return [event for piece in pieces for event in reader.feed(piece)]


def all_ways(data: bytes, **options: Any) -> list[Read]:
    """The events of some bytes, having checked that the pieces do not matter."""
    events = read(data, **options)
    for size in (1, 2, 3, 7):
        assert read(data, size, **options) == events
    return events


def violation(data: bytes, **options: Any) -> Violation:
    (event,) = all_ways(data, **options)
    assert isinstance(event, Violation)
    return event


@both
@pytest.mark.parametrize("frame", ONE_OF_EACH, ids=lambda frame: type(frame).__name__)
def test_round_trip(codec: str, frame: Frame) -> None:
    """Every frame comes back from its bytes in either codec."""
    assert all_ways(encode(frame, codec)) == [frame]


def test_one_of_each_is_all() -> None:
    """No frame is left out of the round trip."""
    assert {type(frame) for frame in ONE_OF_EACH} == set(FIELDS)
    assert len(OPS) == len(FIELDS) - 1


@both
@pytest.mark.parametrize("more", [{}, {"node": "b"}, {"node": "b", "meta": {"attempt": 1}}])
@pytest.mark.parametrize("id", [1, 2**32 - 1, 2**32, 2**63])
def test_a_call_by_hand(codec: str, more: dict[str, Any], id: int) -> None:
    """The call put together by hand is the one that the whole map would give."""
    chosen = CODECS[codec]()
    extras = chosen.extras(more)
    data = chosen.call(id, {"n": [1]}, extras)
    assert all_ways(data) == [Call(id, {"n": [1]}, **more)]


def test_the_bytes_of_json() -> None:
    """A JSON frame is a newline, an object with its op first, and a newline."""
    assert encode(End(7, ["é"])) == '\n{"op":"end","id":7,"msgs":["é"]}\n'.encode()
    assert encode(Failure("A", "b")) == b'\n{"op":"err","id":null,"type":"A","message":"b"}\n'


def test_the_bytes_of_msgpack() -> None:
    """A msgpack frame is four bytes of length, the first of them zero, and a map."""
    assert encode(Pong(7), "msgpack") == b"\0\0\0\x0c\x82\xa2op\xa4pong\xa1n\x07"


def test_defaults_are_left_out() -> None:
    """Optional fields at their default take no room."""
    assert to_wire(Ready(1)) == {"op": "ready", "v": 1}


def test_null_is_absent() -> None:
    """A null in an optional field is as good as none."""
    assert from_wire({"op": "end", "id": 1, "msgs": None}) == End(1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"op": "end"}, "the id of 'end' is missing"),
        ({"op": "end", "id": "1"}, "the id of 'end' is str, not int"),
        ({"op": "end", "id": True, "msgs": []}, "the id of 'end' is bool, not int"),
        ({"op": "end", "id": 1.0}, "the id of 'end' is float, not int"),
        ({"op": "end", "id": None}, "the id of 'end' is NoneType, not int"),
        ({"op": "end", "id": 1, "msgs": {}}, "the msgs of 'end' is dict, not list"),
        ({"op": "out", "id": 1}, "the msgs of 'out' is missing"),
        ({"op": "out", "id": 1, "msgs": None}, "the msgs of 'out' is NoneType, not list"),
        ({"op": "err", "type": "A", "message": "b"}, "the id of 'err' is missing"),
        ({"op": "err", "id": None, "type": "A"}, "the message of 'err' is missing"),
        ({"op": "err", "id": 1, "type": "A", "message": "b", "stack": [1]}, "list of str"),
        ({"op": "err", "id": 1, "type": "A", "message": "b", "retry": 1}, "not bool"),
        ({"op": "err", "id": 1, "type": "A", "message": "b", "after": -1}, "not seconds"),
        ({"op": "err", "id": 1, "type": "A", "message": "b", "after": True}, "not seconds"),
        ({"op": "err", "id": 1, "type": "A", "message": "b", "cause": "c"}, "not map"),
        ({"op": "ready", "v": "1"}, "the v of 'ready' is str, not int"),
        (
            {"op": "ready", "v": 1, "concurrency": 0},
            "concurrency of 'ready' is 0, not 1 or more",
        ),
        ({"op": "log", "level": "info", "text": 1}, "the text of 'log' is int, not str"),
        ({"op": "hello", "v": 1, "codecs": [], "node": "", "max_frame": 1}, "list of int"),
    ],
)
@both
def test_wrong_fields(codec: str, fields: dict[str, Any], reason: str) -> None:
    """A known op with a field missing or of the wrong type is a violation that says which."""
    with pytest.raises(BadFrame) as caught:
        from_wire(fields)
    assert reason in str(caught.value)
    data = orjson.dumps(fields) + b"\n" if codec == "json" else framed(fields)
    event = violation(data)
    assert (event.reason, event.sample) == (str(caught.value), data.rstrip(b"\n")[:80])


@both
def test_unknown_ops_and_fields_are_ignored(codec: str) -> None:
    """Additions of a later version are passed over."""
    later = {"op": "later", "id": "x"}
    more = {"op": "pong", "n": 1, "later": 1}
    if codec == "json":
        data = orjson.dumps(later) + b"\n" + orjson.dumps(more) + b"\n"
    else:
        data = framed(later) + framed(more)
    assert all_ways(data) == [Pong(1)]


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        b"  hello  ",
        b"[1, 2]",
        b"3",
        b'{"a": 1}',
        b"{",
        b'{"op": 1}',
        b'{"op": "end", "id": 1'.replace(b"op", b"up"),
        b'\xef\xbb\xbf{"op":"end","id":1}',
        b'"op":"end"',
        b"\xff\xfe",
        b"\x1b[31mred\x1b[0m",
        b'{"n": 99999999999999999999999}',
        b'{"a":' * 200 + b"1" + b"}" * 200,
    ],
)
def test_stray_text(line: bytes) -> None:
    """A line that is no frame is the author's print, and what follows is read."""
    for ending in (b"\n", b"\r\n", b"\n\r\n\n"):
        data = line + ending + b'{"op":"pong","n":1}\r\n'
        assert all_ways(data) == [Stray(line), Pong(1)]


def test_stray_text_is_cut() -> None:
    """A long line is cut to 8 KiB."""
    assert all_ways(b"x" * 9000 + b"\n") == [Stray(b"x" * 8192)]


def test_only_newlines_end_lines() -> None:
    """U+2028, U+0085 and a form feed are part of a line, as is a lone CR."""
    line = "a\u2028b\u0085c\fd\re".encode()
    assert all_ways(line + b"\n") == [Stray(line)]
    text = {"op": "end", "id": 1, "msgs": ["a\u2028b\u0085c\fd\re\r\n\0"]}
    assert all_ways(orjson.dumps(text) + b"\n") == [End(1, text["msgs"])]


def test_spaces_around_a_frame() -> None:
    """A frame may be indented, as a hand-written one may be."""
    assert all_ways(b'  { "op" : "pong", "n" : 1 } \n') == [Pong(1)]


@both
def test_a_print_without_a_newline(codec: str) -> None:
    """A stray print that ends without a newline leaves the frame behind it whole."""
    assert all_ways(b"50 %" + encode(Pong(1), codec)) == [Stray(b"50 %"), Pong(1)]


def test_mixed_codecs() -> None:
    """One reader takes both codecs and text, in any order."""
    parts = [encode(Pong(n), codec) for n in range(3) for codec in CODECS]
    events = all_ways(b"a\n" + b"b\n".join(parts) + b"c\n")
    assert [event.n for event in events if isinstance(event, Pong)] == [0, 0, 1, 1, 2, 2]
    assert sum(isinstance(event, Stray) for event in events) == 7


def test_zeros_in_text() -> None:
    """A NUL is text like any other without msgpack; with msgpack it must begin a frame."""
    assert all_ways(b"a\0b\n\0\n", binary=False) == [Stray(b"a\0b"), Stray(b"\0")]
    assert read(b"a\0b\n\0\n")[0] == Stray(b"a")
    assert isinstance(read(b"a\0b\n\0\n")[1], Violation)


@pytest.mark.parametrize(
    "line",
    [
        b'{"op":"end","id":1,"msgs":[{"a"\n',
        b'{"op":"out","id":1,"m{"op":"out","id":2,"msgs":[]}\n',
        b'{"id":1,"op":"end","msgs":["\xff"]}\n',
        b'{"op":"end","id":1,"msgs":[NaN]}\n',
        b'{"op":"end","id":1,"msgs":[1e400]}\n',
        b'{"op":"end","id":1,"msgs":[18446744073709551616]}\n',
        b'{"op":"end","id":1,"msgs":["\\ud800"]}\n',
        b'{"op":"end","id":1,"msgs":[' + b"[" * 129 + b"]" * 129 + b"]}\n",
        b'{"op":"end","id":1,"msgs":[' + b"[" * 5000 + b"]" * 5000 + b"]}\n",
    ],
)
def test_broken_json(line: bytes) -> None:
    """A line that begins like a frame and is none is a violation that quotes it."""
    event = violation(line + b'{"op":"pong","n":1}\n')
    assert event.reason.startswith("a frame ")
    assert event.sample == line[:80].rstrip(b"\n")


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0",
        b"\0\0\0\0\x80",
        b"\0\0\0\x01\x80",
        b"\0\0\0\x01\xc0",
        b"\0\0\0\x02\x81\xa1",
        b"\0\0\0\x03\x81\xa1a",
        b"\0\xff\xff\xff\xc0",
        framed([1]),
        framed({}),
        framed({"a": 1}),
        framed({"op": 1}),
        framed({"op": "end", "id": 1, "msgs": [msgpack.ExtType(5, b"")]}),
        framed({"op": "end", "id": 1, "msgs": [{b"a": 1}]}),
        framed({"op": "end", "id": 1, "msgs": [{1: 1}]}),
        framed({"op": "pong", "n": 1})[:-1] + b"\xc1",
    ],
)
def test_broken_msgpack(data: bytes) -> None:
    """A length or a body that is a lie is a violation, and is told without waiting for more."""
    assert violation(data).sample == data[:80][: len(violation(data).sample)]
    assert violation(data + framed({"op": "pong", "n": 1})) == violation(data)


def test_lengths_that_are_no_lengths() -> None:
    """A length over 2**24 starts with no zero, so it is text without an end: held, bounded."""
    reader = Reader(max_frame=1000)
    assert reader.feed(b"\xff\xff\xff\xff\x80") == []
    assert reader.rest == b"\xff\xff\xff\xff\x80"


@both
def test_depth_of_a_result(codec: str) -> None:
    """A result of 128 levels is taken, so that it can be sent on; the envelope is not counted."""
    value: Any = []
    for _ in range(127):
        value = [value]
    fields = {"op": "end", "id": 1, "msgs": [value]}
    data = orjson.dumps(fields) + b"\n" if codec == "json" else framed(fields)
    assert read(data) == [End(1, [value])]
    fields["msgs"] = [[value]]
    data = orjson.dumps(fields) + b"\n" if codec == "json" else framed(fields)
    assert "deeper than 128" in violation(data).reason


@both
def test_an_oversized_frame_that_answers_nothing(codec: str) -> None:
    """It tells its op, if that comes first; what is no op of ours is none."""
    for fields, op in (
        ({"op": "ready", "v": 1, "sdk": "x" * 300}, "ready"),
        ({"op": "log", "level": "info", "text": "x" * 300}, "log"),
        ({"op": "news", "id": 1, "text": "x" * 300}, None),
        ({"id": 1, "op": "end", "msgs": ["x" * 300]}, None),
        ({"op": ["end"], "id": 1, "text": "x" * 300}, None),
        ({"op": "end", "x": {"y": 1}, "text": "x" * 300}, "end"),
    ):
        data = orjson.dumps(fields) + b"\n" if codec == "json" else framed(fields)
        (event,) = all_ways(data, max_frame=200)
        assert isinstance(event, TooLarge)
        assert (event.op, event.id, event.last) == (op, None, True)


@both
@pytest.mark.parametrize("op", ["end", "out", "err"])
def test_oversized_frames(codec: str, op: str) -> None:
    """A frame at the limit passes; one byte more is skipped, and tells its call."""
    fields = {"op": op, "id": 12, "msgs": [""], "type": "", "message": ""}
    dump = orjson.dumps if codec == "json" else msgpack.packb
    empty = dump({**fields, "msgs": ["x" * 40]})
    for over in (0, 1, 50):
        data = dump({**fields, "msgs": ["x" * (200 + over - len(empty) + 40)]})
        assert len(data) == 200 + over
        wire = data + b"\n" if codec == "json" else struct.pack(">I", len(data)) + data
        events = all_ways(wire + encode(Pong(1), codec), max_frame=200)
        if over:
            size = None if codec == "json" else len(data)
            assert events == [TooLarge(size, 200, 12, op != "out", op), Pong(1)]
        else:
            assert [type(event).__name__.lower() for event in events] == [op, "pong"]


@pytest.mark.parametrize(
    "data",
    [
        b'{"msgs":[' + b"1," * 100 + b'1],"op":"end","id":1}\n',
        b'{"op":"end","id":"' + b"1" * 200 + b'"}\n',
        b'{"op":"log","level":"info","text":"' + b"1" * 200 + b'"}\n',
        framed({"msgs": [1] * 200, "op": "end", "id": 1}),
        framed({"op": "x" * 200, "id": 1}),
        framed({"op": "end", "id": "x" * 200}),
        framed({"op": "log", "id": 1, "text": "x" * 200}),
        framed({"op": "end", "id": True, "text": "x" * 200}),
        struct.pack(">I", 200) + b"\x84\xc1" + b"x" * 198,
        struct.pack(">I", 200) + b"\x84\xa1\xff" + b"x" * 197,
    ],
)
def test_oversized_frames_of_nobody(data: bytes) -> None:
    """No call is named if the start of the frame does not tell it."""
    oversized, pong = all_ways(data + encode(Pong(1)), max_frame=100)
    assert isinstance(oversized, TooLarge)
    assert (oversized.id, oversized.last, pong) == (None, True, Pong(1))


@both
def test_oversized_print(codec: str) -> None:
    """A long print is only a print, and costs the frame behind it nothing."""
    data = b"x" * 500 + encode(Pong(1), codec)
    assert all_ways(data, max_frame=100) == [Stray(b"x" * 100), Pong(1)]


def test_an_endless_line_is_bounded() -> None:
    """An endless line is passed over without being kept."""
    reader = Reader(max_frame=1000)
    events = [event for _ in range(100) for event in reader.feed(b"x" * 500)]
    assert events == [Stray(b"x" * 1000)]
    assert reader.rest == b""


def test_rest() -> None:
    """An unfinished frame can be looked at, up to 8 KiB."""
    reader = Reader()
    reader.feed(b'{"op":"pong","n":1}\n{"op"' + b"x" * 9000)
    assert reader.rest == (b'{"op"' + b"x" * 9000)[:8192]


@pytest.mark.parametrize("size", [0, 63, MAX_FRAME + 1])
def test_max_frame_out_of_range(size: int) -> None:
    """A limit that the framing cannot keep is refused."""
    with pytest.raises(ValueError, match="max_frame must be from 64 to 16777215"):
        Reader(max_frame=size)


@both
def test_the_largest_frame_in_small_pieces(codec: str) -> None:
    """A frame of 16 MiB in pieces of 4 KiB is read once, not copied once per piece."""
    fields = {"op": "end", "id": 1, "msgs": [""]}
    dump = orjson.dumps if codec == "json" else msgpack.packb
    room = MAX_FRAME - len(dump(fields)) - (4 if codec == "msgpack" else 0)
    data = dump({**fields, "msgs": ["x" * room]})
    assert len(data) == MAX_FRAME
    wire = data + b"\n" if codec == "json" else struct.pack(">I", len(data)) + data
    (event,) = read(wire, 4096)
    assert isinstance(event, End)
    assert len(event.msgs[0]) == room


piece_of_output = (
    st.sampled_from([encode(frame, codec) for frame in ONE_OF_EACH for codec in CODECS])
    | st.sampled_from([b"\n", b"\r\n", b"\0", b"\0\0\0\x05\x81", b"{", b'{"op":"end",'])
    | st.binary(max_size=30)
    | st.sampled_from([b"x" * 300, b'{"op":"end","id":1,"msgs":["' + b"x" * 300 + b'"]}\n'])
)


@hypothesis.given(st.lists(piece_of_output, max_size=12), st.data(), st.booleans())
@hypothesis.settings(max_examples=400, deadline=None, suppress_health_check=SLOW)
def test_pieces_never_matter(parts: list[bytes], data: st.DataObject, binary: bool) -> None:
    """Any bytes cut anywhere give the same events; after a violation there are none."""
    whole = b"".join(parts)
    options = {"max_frame": 250, "binary": binary}
    events = read(whole, **options)
    assert not any(isinstance(event, Violation) for event in events[:-1])
    assert read(whole, 1, **options) == events
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    reader = Reader(**options)
    bounds = zip([0, *cuts], [*cuts, len(whole)], strict=True)
    assert [event for a, b in bounds for event in reader.feed(whole[a:b])] == events


def test_mutated_frames() -> None:
    """Frames with flipped, lost, doubled and added bytes give events, never an exception."""
    rounds = 100_000 if os.environ.get("EMIT_CHAOS") == "1" else 10_000
    chance = random.Random(20260101)
    originals = [encode(frame, codec) for frame in ONE_OF_EACH for codec in CODECS]
    kinds = set()
    for _ in range(rounds):
        data = bytearray(chance.choice(originals) + chance.choice(originals))
        for _ in range(chance.randint(1, 4)):
            mutate(data, chance)
        events = Reader(max_frame=4096).feed(bytes(data) + b"\n")
        kinds.update(map(type, events))
    assert {Stray, Violation, TooLarge, End} <= kinds


def mutate(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    match chance.randrange(4):
        case 0:
            data[at] ^= 1 << chance.randrange(8)
        case 1 if len(data) > 1:
            del data[at : at + chance.randint(1, 3)]
            data += b"\n"
        case 2:
            data[at:at] = data[at : at + 8]
        case _:
            data.insert(at, chance.randrange(256))
