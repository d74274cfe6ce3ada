"""Values as text and back: the same value of the same type, or an error."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emit.exact import Inexact, from_text, to_text

ZONE = timezone(timedelta(hours=2))

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False)
    | st.text(st.characters())  # lone surrogates as well
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.datetimes(timezones=st.sampled_from([ZONE, timezone.utc]))
    | st.datetimes()
    | st.dates()
    | st.times()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """A value with the type of each part of it, as 1, 1.0 and True are equal."""
    if isinstance(value, dict):
        return {typed(key): typed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(typed, value))
    return type(value), value


@given(VALUES)
def test_round_trip(value: Any) -> None:
    """Every value comes back the same; the text is one line of ASCII."""
    text = to_text(value)
    assert text.isascii()
    assert "\n" not in text
    assert typed(from_text(text)) == typed(value)


@pytest.mark.parametrize("value", [{"n": [1, 2.5, None, True, "é\n"]}, [], 2**70, "\ud800"])
def test_json_where_it_does(value: Any) -> None:
    """A value that JSON carries can be read by a person."""
    assert json.loads(to_text(value)) == value


def test_nan_and_infinity() -> None:
    """They come back, and never as null."""
    assert math.isnan(from_text(to_text(float("nan"))))
    assert from_text(to_text([float("-inf")])) == [float("-inf")]


class Colour(IntEnum):
    RED = 1


DEEP: list[Any] = []
for _ in range(5000):
    DEEP = [DEEP]
CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, Colour.RED, OrderedDict(a=1), [b"", CIRCLE], DEEP, CIRCLE, 1j]
)
def test_refused(value: Any) -> None:
    """No type that would come back as another, no circle, nothing too deep."""
    with pytest.raises(Inexact):
        to_text({"value": value})


@pytest.mark.parametrize(
    "value",
    [
        (1, (2, "x")),
        {"at": datetime(2026, 1, 2, 3, 4, 5, 6)},
        date(2026, 1, 2),
        time(3, 4, tzinfo=ZONE),
        [Decimal("1.10"), UUID(int=7)],
        {1: "a"},
        b"\x00\xff",
    ],
)
def test_what_json_changes(value: Any) -> None:
    """It goes another way, and comes back as it was."""
    assert to_text(value).startswith("msgpack:")
    assert typed(from_text(to_text(value))) == typed(value)
