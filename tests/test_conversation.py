"""The outcomes of a process's open calls, from events alone: no process is started."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import pytest

from emit.errors import FrameTooLarge, ProtocolError, RemoteError, ResultError
from emit.host.conversation import Conversation, error_of
from emit.host.fate import Job
from emit.host.settings import Settings
from emit.host.wire import frames
from emit.host.wire.frames import MAX_FRAME
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


# Calls that are given up


class Script:
    """A transport that records what is sent, and gives the host a chunk at each poll."""

    over = sending = torn = is_blind = False
    pending = 0
    until = float("inf")

    def __init__(self, *chunks: bytes) -> None:
        self.received: list[bytes] = []
        self.sent = b""
        self.chunks = list(chunks)
        self._fd = os.open(os.devnull, os.O_RDONLY)  # poll always finds it readable

    def send(self, data: bytes | bytearray) -> None:
        self.sent += data

    def watched(self) -> list[tuple[int, Any]]:
        return [(self._fd, self.read)]

    def writer(self) -> tuple[int, Any]:
        raise AssertionError("everything is sent at once")

    def see_death(self) -> bool:
        return False

    def read(self) -> bool:
        self.received += self.chunks[:1]
        del self.chunks[:1]
        return False

    def __del__(self) -> None:
        os.close(self._fd)


class Opened(NamedTuple):
    talk: Conversation
    script: Script
    jobs: list[Job]


@pytest.fixture
def three(peer: mock.Mock) -> Callable[..., Opened]:
    """A conversation with three open calls."""

    def make(*chunks: bytes, caps: str = '["cancel","groups"]', grace: float = 60.0) -> Opened:
        session = Session("n", codecs=["json"])
        session.hello()
        session.receive(b'{"op":"ready","v":1,"caps":%b}\n' % caps.encode())
        script = Script(*chunks)
        settings = Settings(cancel_grace=grace)
        peer.error_of = lambda job, err: error_of(job.node, 1.0, err)
        talk = Conversation("n", session, script, peer, settings, logging.getLogger("emit.node.n"))
        jobs = [Job({"n": n}, n, "n") for n in range(3)]
        for job in jobs:
            talk.submit(job)
        talk.flush()
        script.sent = b""
        return Opened(talk, script, jobs)

    return make


def told(script: Script) -> list[Any]:
    return [json.loads(line) for line in script.sent.split(b"\n") if line]


@pytest.mark.parametrize(
    "answer",
    [
        b'{"op":"end","id":1,"msgs":["old"]}\n',
        b'{"op":"out","id":1,"msgs":["old"]}\n{"op":"end","id":1}\n',
        b'{"op":"err","id":1,"type":"Cancelled","message":"old"}\n',
        b'{"op":"err","id":1,"type":"Busy","message":"old","retry":true}\n',
        b'{"op":"end","id":1,"msgs":["%b"]}\n' % (b"x" * MAX_FRAME),
        b'{"op":"ends","id":1,"msgs":[["old"]]}\n',
    ],
    ids=["end", "out", "err", "retry", "too large", "group"],
)
def test_an_answer_of_a_call_that_was_given_up(three: Any, answer: bytes) -> None:
    """It ends its call and reaches nobody, whatever it is. The other calls have their answers."""
    talk, script, (first, second, third) = three(answer + b'{"op":"end","id":3,"msgs":[3]}\n')
    assert talk.cancel([first]) > 0
    assert told(script) == [{"op": "cancel", "id": 1}]
    assert (talk.open_jobs, talk.is_cancelling, talk.can_cancel) == ([second, third], True, False)
    talk._poll.step(0)
    assert talk.receive() == [third]
    assert (first.outcome, third.outcome, talk.kept) == (None, [3], 0)
    assert (talk.open_jobs, talk.is_cancelling, talk.can_cancel) == ([second], False, True)
    assert talk.condemned is None


def test_all_calls_are_ended_in_time(three: Any) -> None:
    """The peer may be used again, and its next call gets an answer of its own."""
    ended = [
        b'{"op":"end","id":1,"msgs":["old"]}\n',
        b'{"op":"end","id":%d}\n{"op":"end","id":%d}\n',
    ]
    talk, script, jobs = three(ended[0], ended[1] % (3, 2), b'{"op":"end","id":4,"msgs":["new"]}\n')
    assert talk.settle()
    assert told(script) == [{"op": "cancel", "id": id} for id in (1, 2, 3)]
    assert (talk.jobs, talk.kept, [job.outcome for job in jobs]) == ({}, 0, [None] * 3)
    job = Job({}, node="n")
    talk.submit(job)
    talk._poll.step(0)
    assert talk.receive() == [job]
    assert job.outcome == ["new"]


def test_one_call_is_not_ended_in_time(three: Any) -> None:
    """The peer must be killed: it would work on for nobody."""
    talk, _, _ = three(b'{"op":"end","id":1}\n{"op":"end","id":3}\n', grace=0.01)
    assert not talk.settle()
    assert not talk.settle()  # and nothing is asked a second time
    assert (list(talk.jobs), talk.open_jobs, talk.condemned) == ([2], [], None)


def test_the_peer_fails_meanwhile(three: Any, peer: mock.Mock) -> None:
    """It has ended, or it breaks the protocol: that is seen at once."""
    talk, _, _ = three(b'{"op":"end","id":9}\n{"op":"end","id":1}\n{"op":"end","id":2}\n{"op":"x\n')
    peer.ended.side_effect = lambda fault: fault
    assert not talk.settle()
    assert talk.condemned is not None


@pytest.mark.parametrize(
    "why", ["no cap", "no grace", "condemned", "torn", "over", "asked before", "nothing open"]
)
def test_a_peer_that_can_not_be_asked(three: Any, why: str) -> None:
    """Nothing is sent, and a peer with open calls is not used again."""
    talk, script, _ = three(
        caps='["end"]' if why == "no cap" else '["cancel"]',
        grace=0.0 if why == "no grace" else 0.01,
    )
    if why == "condemned":
        talk.condemned = "a fault"
    elif why == "nothing open":
        talk.jobs.clear()
    elif why == "asked before":
        talk.cancel()
    elif why in ("torn", "over"):
        setattr(script, why, True)
    before = script.sent
    assert talk.cancel() == 0.0
    assert script.sent == before
    assert talk.settle() == (why == "nothing open")
    assert script.sent == before


def test_results_of_a_call_that_was_given_up_take_no_room(three: Any) -> None:
    """Neither those that came before nor those that come later."""
    out = b'{"op":"out","id":%d,"msgs":["%b"]}\n'
    talk, _, (first, second, _) = three(out % (1, b"x" * 5000), out % (2, b"y" * 5000))
    talk._poll.step(0)
    talk.receive()
    assert talk.kept > 4000
    talk.cancel([first])
    assert talk.kept == 0
    talk._poll.step(0)
    talk.receive()
    assert talk.kept == second.size > 4000
