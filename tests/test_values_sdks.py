"""A value goes through a program of each SDK and comes back as it was, in both codecs."""

from __future__ import annotations

import datetime
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import pytest

from emit import Router, ShellNode
from emit.errors import EncodeError
from emit.host.wire.values import MAX_DEPTH
from tests.conftest import require
from tests.hosts import ROOT
from tests.leaks import no_leaks

pytestmark = pytest.mark.slow

CHAOS = os.environ.get("EMIT_CHAOS") == "1"

#: Values in one batch; batches in a test: 10^3 values for each SDK and codec, or 10^5.
BATCH = 50
BATCHES = 2_000 if CHAOS else 20

UTC = datetime.timezone.utc

#: The programs of tests/conformance/README.md, of which this needs only `echo`: the toolchain,
#: the file, and the command that runs it (None: it is built first).
APPS: dict[str, tuple[str, str, list[str] | None]] = {
    "python": ("", "sdks/python/tests/conformance_app.py", [sys.executable]),
    "ruby": ("ruby", "sdks/ruby/test/conformance_app.rb", ["ruby"]),
    "node": ("node", "sdks/node/test/conformance_app.mjs", ["node"]),
    "go": ("go", "sdks/go/conformance", None),
}


class Echo(NamedTuple):
    """A running program that answers a message with its field ``value``."""

    sdk: str
    codec: str
    node: ShellNode

    def each(self, values: list[Any]) -> list[Any]:
        """Return the results for each of *values*."""
        outcomes = self.node.call_many({"value": value} for value in values)
        return [outcome if isinstance(outcome, Exception) else outcome[0] for outcome in outcomes]

    def check(self, values: list[Any]) -> None:
        for sent, got in zip(values, self.each(values), strict=True):
            assert is_same(sent, got), f"{sent!r} came back as {got!r}"


@pytest.fixture(scope="module", params=APPS)
def app(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[str]]:
    """The name of an SDK, and the command of its program."""
    tool, file, interpreter = APPS[request.param]
    require(*filter(None, [tool]))
    if interpreter is not None:
        return request.param, [*interpreter, str(ROOT / file)]
    binary = tmp_path_factory.mktemp("app") / "app"
    subprocess.run([tool, "build", "-o", binary, "."], cwd=ROOT / file, check=True)
    return request.param, [str(binary)]


@pytest.fixture(scope="module", params=["json", "msgpack"])
def echo(request: pytest.FixtureRequest, app: tuple[str, list[str]]) -> Iterator[Echo]:
    node = ShellNode()
    sdk, command = app
    with no_leaks(), Router() as router:
        router.node(
            ("value",),
            name=f"echo {sdk} {request.param}",
            command=command,
            env={"PYTHONPATH": str(ROOT / "sdks" / "python")},
            program_node="echo",
            mode="persistent",
            codec=request.param,
            size=1,
        )(node)
        yield Echo(sdk, request.param, node)


def is_same(sent: Any, got: Any) -> bool:
    """
    Return True if *got* is *sent*: of the same type, to the sign of zero and the order of keys.

    Up to 2^53 a number without a fraction is one number, whether it is written 3 or 3.0: JavaScript
    has no other way to see it, and a Go program may have an int or a float64 for it.
    """
    if isinstance(sent, dict):
        return (
            isinstance(got, dict)
            and sent.keys() == got.keys()
            and all(is_same(value, got[key]) for key, value in sent.items())
        )
    if isinstance(sent, list):
        return isinstance(got, list) and len(sent) == len(got) and all(map(is_same, sent, got))
    if isinstance(sent, float):
        return is_same_float(sent, got)
    return type(sent) is type(got) and sent == got


def is_same_float(sent: float, got: Any) -> bool:
    if type(got) is int:
        is_whole = sent == got and abs(sent) <= 2**53
        return is_whole and math.copysign(1, sent) == (1 if got >= 0 else -1)
    if type(got) is not float:
        return False
    if math.isnan(sent):
        return math.isnan(got)
    return sent == got and math.copysign(1, sent) == math.copysign(1, got)


# Random values

text = st.text(st.characters(codec="utf-8"))
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | text
finite = st.floats(allow_nan=False, allow_infinity=False)
times = st.datetimes(
    datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1), timezones=st.just(UTC)
)
LEAVES = {
    "json": plain | finite,
    "msgpack": plain | st.floats() | st.binary() | times,
}


def nested(values: st.SearchStrategy[Any], levels: int = 3) -> st.SearchStrategy[Any]:
    """Build nested values; st.recursive would take ten times as long."""
    if levels == 0:
        return values
    lists = st.lists(values, max_size=3)
    return nested(values | lists | st.dictionaries(text, values, max_size=3), levels - 1)


def test_any_value(echo: Echo) -> None:
    """Every value that the codec carries comes back."""

    @hypothesis.settings(
        max_examples=BATCHES,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        database=None,
    )
    @hypothesis.given(st.lists(nested(LEAVES[echo.codec]), min_size=BATCH, max_size=BATCH))
    def check(values: list[Any]) -> None:
        echo.check(values)

    check()


# The edges

NUMBERS = [
    *(0, -1, 2**31 - 1, 2**31, 2**32, -(2**31) - 1),
    *(2**53 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63, -(2**63), 2**64 - 1),
    *(3.0, 0.0, -0.0, 0.1, 1e22, 1e300, -1e-300, 5e-324, 2.0**53, 2.0**63, 2.0**70),
]
TEXTS = [
    *("", " ", "\N{LINE SEPARATOR}", "\u0085", "a\nb\r\nc", "\0", "a\0b", "\ufeff", '"\\/'),
    *("e\N{COMBINING ACUTE ACCENT}", "\N{LATIN SMALL LETTER E WITH ACUTE}", "\U0001f469\u200d"),
    *("\x7f\x1b[2J", "</script>", "\ue000\uffff\U0010ffff", "$int", "NaN", "null", "x" * 70_000),
]
MAPS = [
    *([], {}, [[]], [{}], {"": ""}, {"a": 1}, {"\0": None}, {"op": "end", "id": 1}),
    *({"$int": "1"}, {"__proto__": 1, "constructor": 2}, {"toString": None, "length": 0}),
    *({"b": 1, "a": 2}, {"1": 1, "0": 2}, [None, True, False, 0, 1, "0"]),
]
BINARY = [
    *(b"", b"\0", b"\xff\xfe", b"text", bytes(range(256)), b"x" * 70_000),
    *(float("nan"), float("inf"), float("-inf")),
    *(
        datetime.datetime(1970, 1, 1, tzinfo=UTC),
        datetime.datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime.datetime(2038, 1, 19, 3, 14, 8, 1, tzinfo=UTC),
        datetime.datetime(2106, 2, 7, 6, 28, 16, 123_456, tzinfo=UTC),
    ),
]


def test_numbers(echo: Echo) -> None:
    """Numbers pass at the edges of 32, 53 and 64 bits, and floats that look like integers."""
    echo.check(NUMBERS)
    echo.check([NUMBERS, {str(number): number for number in NUMBERS}])


def test_texts(echo: Echo) -> None:
    """Texts pass that a line, a terminal or a template would take for something else."""
    echo.check(TEXTS)
    echo.check([{text: text for text in TEXTS}])


def test_maps_and_lists(echo: Echo) -> None:
    """Empty ones, and those with keys that mean something somewhere."""
    echo.check(MAPS)


def test_the_order_of_keys(echo: Echo) -> None:
    """Maps keep it, but for Go's, which have none, and keys that JavaScript takes for indexes."""
    if echo.sdk == "go":
        pytest.skip("a map of Go has no order")
    (got,) = echo.each([{"b": 1, "a": 2, "c": 3}])
    assert list(got) == ["b", "a", "c"]


def test_what_only_msgpack_carries(echo: Echo) -> None:
    """It comes back; in JSON it is refused before it is sent, and the error says what has it."""
    if echo.codec == "msgpack":
        echo.check(BINARY)
        echo.check([[BINARY, {"a": b"\0"}]])
        return
    for value, outcome in zip(BINARY, echo.each(BINARY), strict=True):
        assert isinstance(outcome, EncodeError), value
        assert 'codec = "msgpack"' in str(outcome)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\ud800", {1: 2}, {"a": object()}])
def test_what_no_codec_carries(echo: Echo, value: Any) -> None:
    """It is refused, and the program serves on."""
    outcomes = echo.each([1, value, 2])
    assert isinstance(outcomes[1], EncodeError)
    assert [outcomes[0], outcomes[2]] == [1, 2]


def test_depth(echo: Echo) -> None:
    """128 levels pass, the message's own among them, and one more is refused."""
    for levels in (MAX_DEPTH - 1, MAX_DEPTH):
        echo.check([nested_list(levels - 1), nested_map(levels - 1)])
    refused = echo.each([nested_list(MAX_DEPTH), nested_map(MAX_DEPTH), 1])
    assert [type(outcome) for outcome in refused] == [EncodeError, EncodeError, int]


def nested_list(levels: int) -> Any:
    return [] if levels == 1 else [nested_list(levels - 1)]


def nested_map(levels: int) -> Any:
    return {} if levels == 1 else {"a": nested_map(levels - 1)}
