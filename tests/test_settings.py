"""The knobs of a foreign node, and what is refused when it is declared."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from emit.errors import GraphError
from emit.host.settings import Settings, check
from emit.host.system.program import Limits


def test_the_defaults_are_fine() -> None:
    """The defaults are accepted, and so are numbers at the edges."""
    check("n", Settings())
    check("n", Settings(size=1, window=1, jitter=0, backoff=0.0, max_frame=1024))
    check("n", Settings(size=1000, min_idle=1000, window=65536, jitter=1))


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("timeout", 0, "timeout = 0 must be from 0.001 to 86,400"),
        ("timeout", None, "timeout must be a number, not None"),
        ("timeout", "30", "timeout must be a number, not '30'"),
        ("timeout", True, "timeout must be a number, not True"),
        ("timeout", float("nan"), "timeout = nan must be"),
        ("size", 0, "size = 0 must be a whole number from 1 to 1,000"),
        ("size", 1.5, "size = 1.5 must be a whole number from 1 to 1,000"),
        ("max_calls", 0, "max_calls = 0 must be a whole number of 1 or more"),
        ("max_rss", 100, "max_rss = 100 must be a whole number of 1,048,576 or more"),
        ("max_frame", 2**24, "max_frame = 16777216 must be a whole number from 1,024 to"),
        ("mode", "oneshoot", "mode = 'oneshoot' must be one of 'auto', 'oneshot', 'persistent'"),
        ("codec", "xml", "codec = 'xml' must be one of None, 'json', 'msgpack'"),
    ],
)
def test_a_wrong_value_is_refused(name: str, value: Any, text: str) -> None:
    """The error names the node, the setting, its value and what it has to be."""
    with pytest.raises(GraphError) as caught:
        check("count", Settings(**{name: value}))
    assert str(caught.value).startswith('"count": ')
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "limits", [None, {"cpu": 1}, Limits(cpu=-1), Limits(core="0"), Limits(nofile=1.5)]
)
def test_wrong_limits_are_refused(limits: Any) -> None:
    """Wrong limits are refused at the check, not by a start that fails."""
    with pytest.raises(GraphError, match='"count": limits'):
        check("count", Settings(limits=limits))


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        (Settings(size=1, min_idle=2), "min_idle must not be over size"),
        (Settings(backoff=2.0, backoff_max=1.0), "backoff must not be over backoff_max"),
        (Settings(timeout=1.0, acquire_timeout=2.0), "acquire_timeout must not be over timeout"),
    ],
)
def test_a_wrong_order_is_refused(settings: Settings, rule: str) -> None:
    """Two limits are refused if one must cover the other and does not."""
    with pytest.raises(GraphError, match=rule):
        check("n", settings)


@pytest.mark.parametrize(
    "name", ["acquire_timeout", "max_calls", "max_age", "max_rss", "idle_timeout"]
)
def test_limits_that_can_be_switched_off(name: str) -> None:
    """None means no limit; it is their default."""
    (field,) = (field for field in fields(Settings) if field.name == name)
    assert field.default is None
    for value in (None, 2**20 if name == "max_rss" else 10):
        setting: dict[str, Any] = {name: value}
        check("n", Settings(**setting))


def test_infinity_is_no_whole_number() -> None:
    """It gets the same clear error."""
    for value in (float("inf"), float("nan")):
        with pytest.raises(GraphError, match="max_calls"):
            check("n", Settings(max_calls=value))  # type: ignore[arg-type]
