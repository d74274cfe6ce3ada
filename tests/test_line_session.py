"""The conversation with a filter: one line in, one line out."""

from __future__ import annotations

import pytest

from emit.errors import EncodeError, FrameTooLarge
from emit.host.wire.frames import End
from emit.host.wire.session import Broken, LineSession


@pytest.fixture
def session() -> LineSession:
    return LineSession("double", max_frame=40)


def broken(events: list[object]) -> tuple[str, str]:
    """The text of the error, and its sample."""
    (event,) = events
    assert isinstance(event, Broken)
    return str(event.error), event.error.sample


def test_it_needs_no_greeting(session: LineSession) -> None:
    """A filter knows of no protocol: it is ready at once, and told nothing at the end."""
    assert session.ready is not None
    assert session.ready.concurrency == 1
    assert (session.hello(), session.bye()) == (b"", b"")


def test_calls_and_answers(session: LineSession) -> None:
    """Each answer belongs to the call before it; the message alone is sent."""
    number, line = session.call({"n": 1}, node="x", meta={"attempt": 2})
    assert (number, line) == (1, b'{"n":1}\n')
    assert session.receive(b"2\n") == [End(1, [2])]
    assert session.call({"n": 2}) == (2, b'{"n":2}\n')
    assert session.receive(b'{"n":4}\n') == [End(2, [{"n": 4}])]


def test_an_answer_in_pieces(session: LineSession) -> None:
    """It is complete with its line end."""
    session.call({})
    assert session.receive(b"[1,") == []
    assert session.receive(b"2]") == []
    assert session.receive(b"\n") == [End(1, [[1, 2]])]


def test_a_message_that_cannot_be_sent(session: LineSession) -> None:
    """It opens no call, and the session stays as it was."""
    with pytest.raises(EncodeError) as caught:
        session.call({"n": b"bytes"})
    assert caught.value.path == "n"
    with pytest.raises(FrameTooLarge) as too_large:
        session.call({"n": "x" * 40})
    assert (too_large.value.size, too_large.value.limit) == (49, 40)
    assert session.call({"n": 1})[0] == 1


def test_a_line_that_nobody_asked_for(session: LineSession) -> None:
    """A line is refused before any call, as the second in one piece, or in a later piece."""
    assert broken(session.receive(b"hello\n")) == (
        '"double": it wrote a line of 5 bytes that nobody had asked for',
        "hello",
    )
    for pieces in ((b"1\n2\n",), (b"1\n2",), (b"1\n", b"2\n")):
        fresh = LineSession("n", max_frame=40)
        fresh.call({})
        *_, events = [fresh.receive(piece) for piece in pieces]
        assert broken(events) == ('"n": it wrote a line of 1 bytes that nobody had asked for', "2")


def test_a_line_that_is_no_json(session: LineSession) -> None:
    """The error has it as a sample, which may be part of a message, and says where it is wrong."""
    session.call({})
    text, sample = broken(session.receive(b"oops\n"))
    assert (sample, "oops" in text) == ("oops", False)
    assert text.startswith('"double": its line of 4 bytes is no JSON: ')


def test_an_endless_line(session: LineSession) -> None:
    """It is cut at max_frame."""
    session.call({})
    assert session.receive(b"x" * 40) == []
    assert "longer than max_frame = 40 bytes" in broken(session.receive(b"x"))[0]


def test_a_complete_line_over_the_limit(session: LineSession) -> None:
    """It is refused as well, though it came in one piece."""
    session.call({})
    assert "longer than max_frame" in broken(session.receive(b'"' + b"x" * 60 + b'"\n'))[0]
