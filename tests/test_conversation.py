"""The outcomes of a process's open calls, from events alone: no process is started."""

from __future__ import annotations

import logging
from typing import Any
from unittest import mock

import pytest

from emit.errors import FrameTooLarge, ProtocolError, RemoteError, ResultError
from emit.host.conversation import Conversation, error_of
from emit.host.fate import Job
from emit.host.settings import Settings
from emit.host.wire import frames
from emit.host.wire.session import Broken, Session, Unmatched


@pytest.fixture
def peer() -> mock.Mock:
    """One that is asked for nothing but errors; a conversation does not keep it alive."""
    return mock.Mock()


@pytest.fixture
def answers(peer: mock.Mock) -> Conversation:
    """One that moves no bytes."""
    transport = mock.Mock()
    peer.error_of = lambda job, err: error_of(job.node, 1.0, err)
    transport.watched.return_value = []
    settings = Settings(max_results=3, max_result_bytes=1000)
    logger = logging.getLogger("emit.node.n")
    return Conversation("n", Session("n"), transport, peer, settings, logger)


def opened(answers: Conversation, number: int = 1, **options: Any) -> Job:
    job = answers.jobs[number] = Job({}, node="n", **options)
    return job


def test_results_are_gathered(answers: Conversation) -> None:
    """Results of ``out`` come before those of ``end``, and the call is open no more."""
    job, done = opened(answers), []
    answers.take([frames.Out(id=1, msgs=[1]), frames.End(id=1, msgs=[2])], done, {})
    assert (job.outcome, done, answers.jobs, answers.count) == ([1, 2], [job], {}, 1)


def test_an_end_need_not_have_results(answers: Conversation) -> None:
    """PROTOCOL.md lets it leave out its msgs, whether anything came before or not."""
    first, second = opened(answers), opened(answers, 2)
    answers.take([frames.Out(id=1, msgs=[1]), frames.End(id=1), frames.End(id=2)], [], {})
    assert (first.outcome, second.outcome) == ([1], [])


@pytest.mark.parametrize("parts", [[4], [2, 2], [3, 1, 0]])
def test_too_many_results(answers: Conversation, parts: list[int]) -> None:
    """However they are cut into frames, more than max_results are a ResultError."""
    job = opened(answers)
    *before, last = [["x"] * part for part in parts]
    answers.take([frames.Out(id=1, msgs=msgs) for msgs in before], [], {})
    answers.take([frames.End(id=1, msgs=last)], [], {})
    assert isinstance(job.outcome, ResultError)


def test_a_stream_has_no_such_limit(answers: Conversation) -> None:
    """Its results are taken out as they come."""
    job = opened(answers, streamed=True)
    answers.take([frames.Out(id=1, msgs=[0] * 9), frames.End(id=1, msgs=[])], [], {})
    assert job.outcome == [0] * 9


def test_an_error_ends_its_call(answers: Conversation) -> None:
    """The other call stays open."""
    first, second, done = opened(answers), opened(answers, 2), []
    answers.take([frames.Err(id=2, type="KeyError", message="word", retry=True)], done, {})
    assert (done, list(answers.jobs)) == ([second], [1])
    assert isinstance(second.outcome, RemoteError)
    assert (second.outcome.type, second.outcome.retry, first.outcome) == ("KeyError", True, None)
    assert answers.condemned is None


def test_a_frame_that_was_too_large(answers: Conversation) -> None:
    """It ends its call, or (where nobody knows whose it was) the process's use."""
    job, done = opened(answers), []
    answers.take([frames.TooLarge(id=1, size=9, limit=5)], done, {})
    assert done == [job]
    assert isinstance(job.outcome, FrameTooLarge)
    assert answers.condemned is None
    answers.take([frames.TooLarge(id=None, size=9, limit=5)], done, {})
    assert answers.condemned == "it wrote a frame over max_frame"


def test_what_condemns_a_process(answers: Conversation) -> None:
    """An answer that nobody asked for, a failure of its own, a broken protocol."""
    answers.take([Unmatched(frames.End(id=7, msgs=[]))], [], {})
    assert answers.condemned == "it answered what nobody had asked"
    failure = frames.Failure(type="LoadError", message="no such file")
    answers.take([failure], [], {})
    assert answers.failed is failure
    fault = ProtocolError(node="n", reason="it wrote nonsense", sample=b"payload")
    answers.take([Broken(fault)], [], {})
    assert answers.fault is fault
    assert answers.condemned == "it wrote nonsense"


def test_prints(answers: Conversation, caplog: pytest.LogCaptureFixture) -> None:
    """The first is a warning with a hint, later ones are counted and told at DEBUG."""
    with caplog.at_level(logging.DEBUG):
        answers.take([frames.Stray(data=b"one"), frames.Stray(data=b"\xfftwo")], [], {})
    assert answers.strays == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG"]
    assert "print to stderr" in caplog.messages[0]


def test_a_log_of_an_unknown_level(answers: Conversation, caplog: pytest.LogCaptureFixture) -> None:
    """It is told at INFO, with the call that it belongs to."""
    with caplog.at_level(logging.DEBUG):
        answers.take([frames.Log(level="loud", text="hello", id=1)], [], {})
    [record] = caplog.records
    assert (record.levelname, record.getMessage(), record.emit_call) == ("INFO", "hello", 1)
