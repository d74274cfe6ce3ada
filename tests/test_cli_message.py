"""Messages on a command line."""

from __future__ import annotations

import io
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from emit.cli import input as feed
from emit.cli.input import Feed, read_message, show
from emit.cli.output import UsageError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], {}),
        (["a=1"], {"a": "1"}),
        (["a:=1", "b:=[true, null]"], {"a": 1, "b": [True, None]}),
        (["a="], {"a": ""}),
        (["a=b=c", "d:e=f"], {"a": "b=c", "d:e": "f"}),
        (["a=two\nlines"], {"a": "two\nlines"}),
        (['{"a": {"b": 9007199254740993}}'], {"a": {"b": 9007199254740993}}),
        ([" {} "], {}),
    ],
)
def test_words(words: list[str], message: dict[str, Any]) -> None:
    """Text after =, JSON after :=, or one JSON object."""
    assert read_message(words) == message


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["a"], '"a" is not of the form'),
        (["=1"], '"=1" is not of the form'),
        (["a:=x"], '"a" is no JSON'),
        (["a=1", "a=2"], '"a" is given twice'),
        (["{"], "the message is no JSON"),
        (["@nothere"], "nothere can't be read: No such file"),
        (["a=@nothere"], "nothere can't be read: No such file"),
        (["a=@."], ". can't be read: Is a directory"),
    ],
)
def test_wrong_words(words: list[str], why: str) -> None:
    """The error names the word."""
    with pytest.raises(UsageError, match=r".") as caught:
        read_message(words)
    assert why in str(caught.value)


def test_files(tmp_path: Path) -> None:
    """@ reads a file: text after =, JSON after :=, or the whole message."""
    (tmp_path / "a").write_text('{"n": 1}')
    assert read_message([f"x=@{tmp_path}/a", f"y:=@{tmp_path}/a"]) == {
        "x": '{"n": 1}',
        "y": {"n": 1},
    }
    assert read_message([f"@{tmp_path}/a"]) == {"n": 1}
    (tmp_path / "b").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="it is no text in UTF-8"):
        read_message([f"x=@{tmp_path}/b"])


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lone dash reads it."""
    monkeypatch.setattr("sys.stdin", io.StringIO('{"n": 1}\n'))
    assert read_message(["-"]) == {"n": 1}
    monkeypatch.setattr("sys.stdin", io.StringIO("[1]"))
    with pytest.raises(UsageError, match="standard input is no JSON object"):
        read_message(["-"])


def test_show() -> None:
    """One line; what JSON has no form for says what it is."""
    instant = datetime(2024, 1, 2, tzinfo=timezone.utc)
    value = {"a": "Zoë\n", "b": [b"\x00", instant]}
    assert show(value) == (
        '{"a": "Zoë\\n", "b": [{"$bytes": "AA=="}, {"$time": "2024-01-02T00:00:00+00:00"}]}'
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ([float("nan"), float("inf")], '[{"$float": "NaN"}, {"$float": "Infinity"}]'),
        ({"a": -float("inf"), "b": 1.0}, '{"a": {"$float": "-Infinity"}, "b": 1.0}'),
        ({1: "a", (2, 3): b"x"}, '{"$map": [[1, "a"], [[2, 3], {"$bytes": "eA=="}]]}'),
        ({"a": {1}}, '{"a": {"$set": "{1}"}}'),
        ("\ud800", '"\\ud800"'),
        ((True, None, 2**70), f"[true, null, {2**70}]"),
    ],
)
def test_show_what_json_has_no_form_for(value: object, shown: str) -> None:
    """It is JSON all the same, and no other value."""
    assert show(value) == shown
    json.loads(shown, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("name", "text", "fed"),
    [
        ("a.json", '{"a":\n1}', [{"a": 1}]),
        ("a.ndjson", '{"a":1}\n\n {"a":2}', [{"a": 1}, {"a": 2}]),
        ("a.csv", '\ufeffa,b\n1,"x\ny"\n2,\n', [{"a": "1", "b": "x\ny"}, {"a": "2", "b": ""}]),
        ("a.txt", "", []),
        ("a.csv", "", []),
    ],
)
def test_feed(tmp_path: Path, name: str, text: str, fed: list[Any]) -> None:
    """The file's suffix tells one object, one on each line, or a row each; all of it is counted."""
    path = tmp_path / name
    path.write_text(text)
    feeding = Feed(str(path), None)
    assert [one.message for one in feeding] == fed
    assert feeding.size == len(text.encode())
    assert feeding.taken == (feeding.size if not name.endswith("json") or "nd" in name else 0)


def test_wrong_lines(tmp_path: Path) -> None:
    """A line that is no message is told by its number, and those after it come."""
    path = tmp_path / "a.ndjson"
    path.write_text('{"a":1}\n[2]\nx\n{"a":3}\n')
    lines = list(Feed(str(path), None))
    assert [one.place for one in lines] == ["line 1", "line 2", "line 3", "line 4"]
    assert [bool(one.error) for one in lines] == [False, True, True, False]
    path.write_text("a,b\n1\n1,2,3\n4,5\n")
    rows = list(Feed(str(path), "csv"))
    assert [bool(row.error) for row in rows] == [True, True, False]
    assert str(rows[0].error) == "it has 1 values, and the first line names 2"


LARGE = "x" * 200_000


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (f"b,{LARGE}", ""),
        ("b,\0", "" if sys.version_info >= (3, 11) else "is no CSV: line contains NUL"),
        ('b,"two\nlines"', ""),
        ('b,5" wide', ""),
        ("M\xfcller,x", "is no UTF-8: byte 0xfc in name"),
        ('"M\xfcller\nand son",x', "is no UTF-8: byte 0xfc in name"),
        ("b", "has 1 values, and the first line names 2"),
        ("b,x,y", "has 3 values, and the first line names 2"),
        ('b,"x"y', "is no CSV: "),
        ('b,"x', "is no CSV: "),
        ('"b,x', "is no CSV: "),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else None,
)
@pytest.mark.parametrize("last", [False, True])
def test_a_row_that_is_odd(tmp_path: Path, row: str, why: str, last: bool) -> None:
    """It is a message, or told by the line it begins in; the rows before and after it come."""
    path = tmp_path / "a.csv"
    end = "" if last else "c,3\n"
    path.write_bytes(f"name,text\na,1\n{row}\n{end}".encode("latin-1"))
    before, odd, *after = Feed(str(path), None)
    assert (before.message, odd.place) == ({"name": "a", "text": "1"}, "line 3")
    assert [one.message for one in after] == ([] if last else [{"name": "c", "text": "3"}])
    assert bool(odd.error) == bool(why)
    assert why in str(odd.error or "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a,b,a\n1,2,3\n", 'names the column "a" twice'),
        ('a,"b"c\n1,2\n', "is no CSV"),
        ("a,\xfc\n1,2\n", "is no UTF-8: byte 0xfc in the name of column 2"),
    ],
)
def test_names_that_are_wrong(tmp_path: Path, text: str, why: str) -> None:
    """Nothing in the file can be read without them."""
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=f"line 1 of {path} {why}"):
        list(Feed(str(path), None))


def test_a_quote_that_is_never_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not hold all of an endless input: no message is so large."""
    monkeypatch.setattr(feed, "_LARGEST_ROW", 1000)
    path = tmp_path / "a.csv"
    path.write_text('a\n"b\n' + "x\n" * 2000)
    odd, *after = Feed(str(path), None)
    assert "a quote in it is not closed" in str(odd.error)
    assert [one.message for one in after] == [{"a": "x"}] * 2000
