"""A program's stderr as log records."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emit.host.lines import LINE, TAIL, Lines, logger_of, read_level
from emit.text import clean


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    caplog.set_level(logging.DEBUG, "emit.node.n")
    return Lines("n")


def test_one_record_per_line(lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    """However the chunks were cut; empty lines are left out."""
    for chunk in (b"one\ntw", b"o\n", b"\n  \nthree\r\nfo", b"ur"):
        lines.feed(chunk)
    assert caplog.messages == ["one", "two", "three"]
    lines.finish()
    lines.finish()
    assert caplog.messages == ["one", "two", "three", "four"]
    assert lines.size == 23
    assert {record.name for record in caplog.records} == {"emit.node.n"}


def test_a_line_without_an_end(lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    """Its beginning is logged once, at the limit; what follows of it is dropped."""
    for _ in range(100):
        lines.feed(b"x" * 1000)
    lines.feed(b"end of it\nnext\n")
    lines.finish()
    assert caplog.messages == ["x" * LINE + f" ... (cut at {LINE} bytes)", "next"]


def test_a_cut_line_at_the_very_end(lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    """The end of the input logs nothing more about the line."""
    lines.feed(b"x" * (LINE + 1))
    lines.finish()
    assert len(caplog.messages) == 1


def test_the_tail_is_bounded(lines: Lines) -> None:
    """The newest 8 KiB, with nothing in it that drives a terminal."""
    lines.feed(b"a" * 100_000 + b"\x1b[31m\xff\n")
    assert lines.tail.endswith("a\\x1b[31m�\n")
    assert lines.tail.startswith("aaa")
    assert len(lines.tail) <= TAIL + 10


@pytest.mark.parametrize(
    ("text", "level", "rest"),
    [
        ("E! disk full", logging.ERROR, "disk full"),
        ("W! slow", logging.WARNING, "slow"),
        ("I! ok", logging.INFO, "ok"),
        ("D! x", logging.DEBUG, "x"),
        ("T! x", logging.DEBUG, "x"),
        ("[warn] slow", logging.WARNING, "slow"),
        ("  [Error]  bad", logging.ERROR, "bad"),
        ("[FATAL] gone", logging.CRITICAL, "gone"),
        ("WARNING: old", logging.WARNING, "old"),
        ("INFO -- : ready", logging.INFO, ": ready"),
        ("[main] hello", logging.INFO, "[main] hello"),
        ("HTTP: hello", logging.INFO, "HTTP: hello"),
        ("Error: bad", logging.INFO, "Error: bad"),
        ("", logging.INFO, ""),
    ],
)
def test_the_level_that_a_line_announces(text: str, level: int, rest: str) -> None:
    """INFO where it has no mark, or one that is no level; then the line stays whole."""
    assert read_level(text) == (level, rest)


def test_levels_are_those_of_the_records(lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    """A mark alone is no message."""
    lines.feed(b"E! bad\nE!\nfine\n")
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [(40, "bad"), (20, "fine")]


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_nothing_is_lost_in_whatever_chunks(chunks: list[bytes]) -> None:
    """The tail is the end of all that came, and its size is counted."""
    fed = Lines("quiet")
    fed.logger.disabled = True
    for chunk in chunks:
        fed.feed(chunk)
    whole = b"".join(chunks)
    assert fed.size == len(whole)
    assert fed.tail == clean(whole[-TAIL:].decode("utf-8", "replace"))


@pytest.mark.parametrize(
    ("node", "logger"),
    [
        ("words", "emit.node.words"),
        ("app.words", "emit.node.app.words"),
        ("./prog", "emit.node.prog"),
        ("../../bin/prog", "emit.node.bin/prog"),
        ("nodes/../words.rb", "emit.node.nodes/words.rb"),
        ("a..b", "emit.node.a.b"),
        (".hidden.", "emit.node.hidden"),
        ("..", "emit.node"),
        ("", "emit.node"),
        ("one\ntwo\x1b[2J", "emit.node.one\\ntwo\\x1b[2J"),
    ],
)
def test_every_logger_is_below_emit_node(node: str, logger: str) -> None:
    """The settings of emit.node hold for every node, whatever its name is."""
    found = logger_of(node)
    assert found.name == logger
    above = logging.getLogger("emit.node")
    while found is not above:
        assert found.parent is not None
        assert found.parent.name.startswith("emit.node")
        found = found.parent


OVERFLOW = "ok\nthread 'main' has overflowed its stack\nfatal runtime error: stack\n"
PANIC = "thread 'main' panicked at src/main.rs:2:5:\nboom\nnote: run with RUST_BACKTRACE=1\n"
TRACE = "fatal error: stack overflow\n\nruntime stack:\n" + "main.f(...)\n" * 2000


@pytest.mark.parametrize(
    ("said", "signal", "words"),
    [
        (OVERFLOW, "SIGABRT", "thread 'main' has overflowed its stack; fatal runtime error: stack"),
        (PANIC, None, "thread 'main' panicked at src/main.rs:2:5:; boom"),
        (TRACE, None, "fatal error: stack overflow; runtime stack:"),
        (
            "panic: boom\n\ngoroutine 1:\n\t/go/runtime/panic.go:785\n",
            None,
            "panic: boom; goroutine 1:",
        ),
        ("n.c:3: main: Assertion `n' failed.", "SIGABRT", "n.c:3: main: Assertion `n' failed."),
        ("loading\nbad state\n7", "SIGSEGV", "bad state; 7"),
        ("loading\nbad state\n7", "SIGKILL", ""),
        ("loading\nbad state\n7", None, ""),
        ("", "SIGSEGV", ""),
    ],
)
def test_the_last_words(lines: Lines, said: str, signal: str | None, words: str) -> None:
    """A program's last words are found in its log; after a crash they may be the log's end."""
    lines.feed(said.encode())
    lines.finish()
    assert lines.last_words(signal) == words


def test_the_last_words_are_short(lines: Lines) -> None:
    """The whole tail is in the note of the error."""
    lines.feed(b"fatal error: " + b"x" * 5000)
    lines.finish()
    assert len(lines.last_words(None)) < 350
