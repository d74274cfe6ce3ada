"""Tests of the values in a result: each is carried exactly, or refused with its place."""

from __future__ import annotations

import datetime
import json

import pytest
from sdk_host import CODECS, hosted, msgpack, needs_msgpack

EVALUATE = """
import datetime, enum, collections, uuid
from emit_sdk import serve

class Level(enum.IntEnum):
    HIGH = 3

class Text(str):
    pass

def evaluate(msg):
    yield {"a": [eval(msg.text)]}

serve(evaluate)
"""
BAD = {
    "float('nan')": "result.a[0] is nan",
    "float('-inf')": "result.a[0] is -inf",
    "b'x'": "result.a[0] is a bytes",
    "datetime.datetime.now(datetime.timezone.utc)": "result.a[0] is a datetime",
}
BAD_IN_BOTH = {
    "2**64": "result.a[0] is an integer beyond 64 bits",
    "-2**63-1": "result.a[0] is an integer beyond 64 bits",
    "'\\ud800'": "result.a[0] is no valid text",
    "{1: 2}": "result.a[0] has a key of type int",
    "{'b': 1, '4111-1': {'unit-price': 2**64}}": "result.a[0][key 2].unit-price is an integer",
    "{1}": "result.a[0] is a set",
    "uuid.uuid4()": "result.a[0] is a UUID",
    "datetime.datetime.now()": "result.a[0] is a datetime",
    "datetime.date.today()": "result.a[0] is a date",
    "print": "result.a[0] is a builtin_function_or_method",
}
REFUSED = [("json", text) for text in {**BAD, **BAD_IN_BOTH}]
if msgpack:
    REFUSED += [("msgpack", text) for text in BAD_IN_BOTH]


@pytest.mark.parametrize(("codec", "text"), REFUSED)
def test_what_a_codec_cannot_carry_is_refused_with_its_path(tmp_path, codec, text):
    """No value is changed silently: the call fails, and its error names the place."""
    with hosted(tmp_path, EVALUATE, codec) as host:
        err = host.call("evaluate", text=text)
        assert err["type"] == "EncodeError"
        assert err["message"].startswith({**BAD, **BAD_IN_BOTH}[text])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(1, 2)", [1, 2]),
        ("Level.HIGH", 3),
        ("Text('ü')", "ü"),
        ("collections.OrderedDict(a=1)", {"a": 1}),
        ("collections.namedtuple('P', 'x y')(1, None)", [1, None]),
        ("1.0", 1.0),
        ("None", None),
        ("'1' * 30", "1" * 30),
        ("'null'", "null"),
    ],
)
def test_subclasses_travel_as_what_they_are(tmp_path, codec, text, value):
    """A subclass of a plain type is carried as that type, the same in each codec."""
    with hosted(tmp_path, EVALUATE, codec) as host:
        assert host.call("evaluate", text=text)["msgs"] == [{"a": [value]}]


@needs_msgpack
def test_msgpack_carries_what_json_cannot(tmp_path):
    """Bytes, infinities and datetimes pass both ways, datetimes as aware ones in UTC."""
    now = datetime.datetime(2024, 2, 29, 12, 0, 0, 5, tzinfo=datetime.timezone.utc)
    with hosted(tmp_path, codec="msgpack") as host:
        value = [b"\n\x00", float("inf"), now]
        assert host.call("echo", value=value)["msgs"] == [value]


@pytest.mark.parametrize("codec", CODECS)
def test_what_a_host_would_not_take_is_refused_before_it_is_sent(tmp_path, codec):
    """A result as deep as allowed passes; one level more, and a circle, are errors of the call."""
    deep = "__import__('functools').reduce(lambda inner, _: [inner], range({}))"
    with hosted(tmp_path, EVALUATE, codec) as host:
        assert host.call("evaluate", text=deep.format(127))["op"] == "end"
        err = host.call("evaluate", 2, text=deep.format(128))
        assert err["type"] == "EncodeError"
        assert "deeper than 128 levels" in err["message"]
        assert (
            host.call("evaluate", 3, text="(lambda a: a.append(a) or a)([])")["type"]
            == "EncodeError"
        )


def test_a_result_over_max_frame_is_refused(tmp_path):
    """Nothing of it is written; the error names the size, the limit and the setting."""
    with hosted(tmp_path, EVALUATE) as host:
        err = host.call("evaluate", text="'x' * (1 << 20)")
        assert err["type"] == "FrameTooLarge"
        assert "1048576" in err["message"]
        assert "max_frame" in err["message"]
        assert host.call("evaluate", 2, text="1")["op"] == "end"


def test_results_near_max_frame_share_no_frame(tmp_path):
    """Results that fit one by one, and not together, come in frames that are small enough."""
    text = EVALUATE.replace('yield {"a": [eval(msg.text)]}', "yield from eval(msg.text)")
    with hosted(tmp_path, text) as host:
        host.ask("evaluate", text="['x' * 1000000] * 3")
        frames = [host.read()]
        while frames[-1]["op"] == "out":
            frames.append(host.read())
        assert [item for frame in frames for item in frame["msgs"]] == ["x" * 1000000] * 3
        assert all(len(json.dumps(frame)) < 1 << 20 for frame in frames)
