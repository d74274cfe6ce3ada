"""Text of a program's, made safe to log and to print."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emit.text import LINES, MOST, WORD, clean, clean_lines, clean_values, cut, one_line, said

#: Drives a terminal, turns the direction of writing, or ends a line for some readers.
UNSAFE = [
    *("\x00", "\x07", "\x0b", "\x1b", "\x7f", "\x85", "\x9b", "\x9f", "\u061c", "\u200e", "\u2028"),
    *("\u2029", "\u202a", "\u202e", "\u2066", "\u2069", "\ufeff", "\ud800", "\U000e0041"),
]


@pytest.mark.parametrize("character", UNSAFE, ids=lambda c: f"{ord(c):04x}")
def test_what_is_not_text_is_escaped(character: str) -> None:
    """The character is escaped in ASCII, by its number."""
    escaped = clean(f"a{character}b")
    assert escaped.isascii()
    assert f"{ord(character):x}" in escaped
    assert escaped.encode().decode("unicode_escape") == f"a{character}b"


@pytest.mark.parametrize("text", ["a\tb", "a\nb", "a\r\nb", "é, 日本, 👩‍👩‍👧, नमस्ते", "\\x1b"])
def test_text_stays(text: str) -> None:
    """Tabs, line ends, and every script."""
    assert clean(text) == text


def test_a_carriage_return_alone() -> None:
    """It would have the rest of a line written over its beginning."""
    assert clean("100 %\r  0 %\r") == "100 %\\x0d  0 %\\x0d"


@given(st.text())
def test_nothing_unsafe_is_left(text: str) -> None:
    """No control or format character is left but those that belong to text."""
    left = {c for c in clean(text) if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs")}
    assert left <= set("\t\n\r")


@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    """The text is one line by everybody's idea of a line."""
    assert len(one_line(text).splitlines()) <= 1


def test_what_is_cut_says_so() -> None:
    """Cut first and escaped then: half an escape would be something else."""
    assert said("x" * MOST) == "x" * MOST
    assert said("x" * (MOST + 1)) == "x" * MOST + " ... (cut at 8192 characters)"
    assert cut("ab\x1b", 2) == "ab ... (cut at 2 characters)"
    assert one_line("y" * 500, WORD) == "y" * 200 + " ... (cut at 200 characters)"


def test_lines() -> None:
    """Each is one line, and neither their number nor all of them together are too much."""
    assert clean_lines([]) == []
    assert clean_lines(["app.rb:3\x1b[0m", "b\nc"]) == ["app.rb:3\\x1b[0m", "b\\nc"]
    many = clean_lines([f"{n}" for n in range(1000)])
    assert (len(many), many[-1]) == (LINES + 1, "... (800 more)")
    long = clean_lines(["x" * 100_000] * 20)
    assert sum(map(len, long)) < MOST + 1024
    assert (len(long), long[-1]) == (9, "... (12 more)")


def test_values() -> None:
    """Texts at any depth, keys too; other values are as they were."""
    fields = {"a\x1b": "b\x1b", "n": 1.5, "list": ["\x07", {"\u202e": None}], "raw": b"\x1b"}
    expected = {"a\\x1b": "b\\x1b", "n": 1.5, "list": ["\\x07", {"\\u202e": None}], "raw": b"\x1b"}
    assert clean_values(fields) == expected


@pytest.mark.parametrize(
    "large", ["x" * MOST, ["x" * 100] * 100, {"x": {"y": "z" * MOST}}, [0] * MOST]
)
def test_values_that_are_too_many(large: object) -> None:
    """The first values stay, and the placeholder says how many others there are."""
    fields = clean_values({"a": 1, "large": large, "b": 2})
    assert fields == {"a": 1, "...": "2 fields left out, over 8192 characters"}
