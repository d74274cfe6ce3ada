"""Messages on a command line."""

from __future__ import annotations

import io
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from emit.cli.errors import UsageError
from emit.cli.feed import Feed
from emit.cli.message import read_message, show


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
    """By the file's name: one object, one on each line, or a row each; all of it is counted."""
    path = tmp_path / name
    path.write_text(text)
    feed = Feed(str(path), None)
    assert [one.message for one in feed] == fed
    assert feed.size == len(text.encode())
    assert feed.taken == (feed.size if not name.endswith("json") or "nd" in name else 0)


def test_wrong_lines(tmp_path: Path) -> None:
    """A line that is no message is told by its number, and those after it come."""
    path = tmp_path / "a.ndjson"
    path.write_text('{"a":1}\n[2]\nx\n{"a":3}\n')
    feed = list(Feed(str(path), None))
    assert [one.place for one in feed] == ["line 1", "line 2", "line 3", "line 4"]
    assert [bool(one.error) for one in feed] == [False, True, True, False]
    path.write_text("a,b\n1\n1,2,3\n4,5\n")
    rows = list(Feed(str(path), "csv"))
    assert [bool(row.error) for row in rows] == [True, True, False]
    assert str(rows[0].error) == "it has not the 2 values that the first line names"


def test_a_broken_csv(tmp_path: Path) -> None:
    """What is no CSV at all ends the feed with an error that names the line."""
    path = tmp_path / "a.csv"
    path.write_text('a\n"x"y\n')
    with pytest.raises(UsageError, match=r"line 2 of .* is no CSV"):
        list(Feed(str(path), None))
