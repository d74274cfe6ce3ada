"""A conversation with a process: whole transcripts, and the same bytes one at a time."""

from __future__ import annotations

import json
import math
from collections import UserDict
from typing import Any

import hypothesis
import hypothesis.strategies as st
import msgpack
import pytest

from emit.errors import EncodeError, FrameTooLarge, ProtocolError
from emit.host.wire.codec import CODECS, encode
from emit.host.wire.frames import (
    FIELDS,
    FROM_HOST,
    Bye,
    Call,
    Calls,
    Cancel,
    End,
    Ends,
    Err,
    Failure,
    Frame,
    Hello,
    Log,
    Out,
    Ping,
    Pong,
    Ready,
    Stray,
    TooLarge,
)
from emit.host.wire.reader import Reader
from emit.host.wire.session import TRANSITIONS, Broken, Session, State, Unmatched
from emit.host.wire.values import MAX_DEPTH

#: A loaded machine is no failure.
SLOW = [hypothesis.HealthCheck.too_slow]
both = pytest.mark.parametrize("codec", CODECS)

ANSWERS: dict[type[Frame], Frame] = {
    Ready: Ready(1),
    Out: Out(1, [1]),
    End: End(1),
    Ends: Ends(1, [[1]]),
    Err: Err(1, "A", "b"),
    Failure: Failure("A", "b"),
    Log: Log("info", "a"),
    Pong: Pong(1),
    Hello: Hello([1], ["json"], "count", 100),
    Call: Call(1, {}),
    Calls: Calls(1, [{}]),
    Cancel: Cancel(1),
    Ping: Ping(1),
    Bye: Bye(),
}


def started(codec: str = "json", calls: int = 0, **options: Any) -> Session:
    """A session that is ready and has open calls 1 to *calls*."""
    session = Session("count", codecs=[codec], **options)
    session.hello()
    session.receive(encode(Ready(1, codec, caps=["groups"])))
    for _ in range(calls):
        session.call({"n": 1})
    return session


def in_state(state: State) -> Session:
    """A session in one state, with call 1 open where there can be calls."""
    session = Session("count", codecs=["json"])
    if state is not State.NEW:
        session.hello()
    if state in (State.READY, State.CLOSING, State.BROKEN):
        session.receive(encode(Ready(1, caps=["groups"])))
        session.call({"n": 1})
    if state is State.CLOSING:
        session.bye()
    if state is State.FAILED:
        session.receive(encode(Failure("A", "b")))
    if state is State.BROKEN:
        session.receive(encode(Bye()))
    assert session.state is state
    return session


def broken(session: Session, data: bytes) -> ProtocolError:
    """The error that some bytes break a session with."""
    event = session.receive(data)[-1]
    assert isinstance(event, Broken)
    assert session.state is State.BROKEN
    assert session.error is event.error
    return event.error


def said(data: bytes) -> list[Any]:
    """The frames in what a session wants written."""
    return Reader().feed(data)


@both
@pytest.mark.parametrize("size", [1, 3, 10**6])
def test_a_conversation(codec: str, size: int) -> None:
    """A whole transcript, from hello to bye, in pieces of any size."""
    session = Session("count", config={"a": 1})
    assert said(session.hello()) == [Hello([1], ["msgpack", "json"], "count", 2**24 - 1, {"a": 1})]
    ready = Ready(1, codec, "ruby/0.5.0", 2, ["count"], {}, ["cancel"])
    assert feed(session, b"loading...\n" + encode(ready), size) == [Stray(b"loading..."), ready]
    assert (session.ready, session.codec, session.state) == (ready, codec, State.READY)

    ids, calls = zip(*[session.call({"n": n}) for n in range(3)], strict=True)
    assert said(b"".join(calls)) == [Call(id, {"n": n}) for n, id in enumerate(ids)]
    assert session.open == ids == (1, 2, 3)
    assert said(session.cancel(3)) == [Cancel(3)]

    answers: list[Any] = [
        Out(1, [0]),
        End(2, [1]),
        Log("info", "half way", 1),
        Out(1, [1]),
        End(1),
        Err(3, "Cancelled", "as asked", retry=False),
    ]
    data = b"".join(encode(frame, codec) for frame in answers)
    assert feed(session, data, size) == answers
    assert session.open == ()

    assert said(session.ping(7)) == [Ping(7)]
    assert feed(session, encode(Pong(7), codec), size) == [Pong(7)]
    assert said(session.bye()) == [Bye()]
    assert session.state is State.CLOSING


def feed(session: Session, data: bytes, size: int) -> list[Any]:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return [event for piece in pieces for event in session.receive(piece)]


def test_meta() -> None:
    """A call carries its node and meta where they are given, and nothing where not."""
    session = started("msgpack")
    meta = {"origin": "a", "attempt": 2, "deadline_ms": 1000}
    _, data = session.call({"n": 1}, node="count", meta=meta)
    assert said(data) == [Call(1, {"n": 1}, "count", meta)]
    assert said(session.call({"n": 1})[1]) == [Call(2, {"n": 1})]


@both
def test_meta_that_changes(codec: str) -> None:
    """Each call carries its own meta, also where the caller keeps one dict and changes it."""
    session = started(codec)
    meta = {"attempt": 1}
    for attempt in (1, 1, 2, 3):
        meta["attempt"] = attempt
        id, data = session.call({"n": 1}, meta=meta)
        assert said(data) == [Call(id, {"n": 1}, None, {"attempt": attempt})]
    with pytest.raises(EncodeError) as caught:
        session.call({"n": 1}, meta={"attempt": object()})
    assert caught.value.path == "meta.attempt"
    assert said(session.call({"n": 1}, meta=meta)[1]) == [Call(5, {"n": 1}, None, meta)]


def test_any_mapping_is_a_message() -> None:
    """A message need not be a dict."""
    assert said(started().call(UserDict(n=1))[1]) == [Call(1, {"n": 1})]


# The table.


def test_the_table_is_whole() -> None:
    """Every state is in the table, every frame can be sent by somebody, broken is the end."""
    assert set(TRANSITIONS) == set(State)
    assert {frame for row in TRANSITIONS.values() for frame in row} == set(FIELDS)
    assert TRANSITIONS[State.BROKEN] == {}


@pytest.mark.parametrize("kind", [kind for kind in FIELDS if kind not in FROM_HOST])
@pytest.mark.parametrize("state", [state for state in State if state is not State.BROKEN])
def test_what_a_process_may_say(state: State, kind: type[Frame]) -> None:
    """A frame of the process leads where the table says, and else breaks the session."""
    session = in_state(state)
    events = session.receive(encode(ANSWERS[kind]))
    if kind in TRANSITIONS[state]:
        assert events == [ANSWERS[kind]]
        assert session.state is TRANSITIONS[state][kind]
    else:
        assert isinstance(events[-1], Broken)
        assert f"while {state.value}" in str(events[-1].error)


@pytest.mark.parametrize("kind", FROM_HOST)
@pytest.mark.parametrize("state", [state for state in State if state is not State.BROKEN])
def test_what_a_host_may_say(state: State, kind: type[Frame]) -> None:
    """An op that the table does not allow the host is a bug of the caller, and changes nothing."""
    session = in_state(state)
    say = {
        Hello: session.hello,
        Call: lambda: session.call({"n": 1}),
        Calls: lambda: session.calls([{"n": 1}], [None]),
        Cancel: lambda: session.cancel(1),
        Ping: lambda: session.ping(1),
        Bye: session.bye,
    }[kind]
    if kind in TRANSITIONS[state]:
        say()
        assert session.state is TRANSITIONS[state][kind]
    else:
        with pytest.raises(RuntimeError, match=f"cannot be sent while {state.value}"):
            say()
        assert session.state is state


@pytest.mark.parametrize("kind", FROM_HOST)
@pytest.mark.parametrize("state", [State.STARTING, State.READY, State.CLOSING])
def test_an_echo(kind: type[Frame], state: State) -> None:
    """A program that echoes its input, such as cat, is told from one that speaks."""
    error = broken(in_state(state), encode(ANSWERS[kind]))
    assert "does it echo its input?" in str(error)


# Groups.


@both
@pytest.mark.parametrize("size", [1, 3, 10**6])
def test_a_group(codec: str, size: int) -> None:
    """One frame opens several calls, and one ends them; each call has an id and an answer."""
    session = started(codec, calls=1)
    meta = {"deadline_ms": 5}
    first, data = session.calls([{"n": n} for n in range(3)], [meta] * 3, node="count")
    assert first == 2
    assert said(data) == [Calls(2, [{"n": 0}, {"n": 1}, {"n": 2}], "count", meta)]
    assert session.open == (1, 2, 3, 4)
    answers = [Ends(1, [[0], []]), Err(4, "A", "b"), Out(3, [1]), Ends(3, [[2]])]
    data = b"".join(encode(answer, codec) for answer in answers)
    assert feed(session, data, size) == answers
    assert session.open == ()
    assert session.call({"n": 1})[0] == 5


@both
def test_the_meta_of_a_group(codec: str) -> None:
    """Each message has its own if they differ; a common one is written once."""
    session = started(codec)
    metas = [{"attempt": 1}, None, {"attempt": 2}]
    assert said(session.calls([{}] * 3, metas)[1]) == [Calls(1, [{}] * 3, metas=metas)]
    assert said(session.calls([{}] * 2, [None, None])[1]) == [Calls(4, [{}] * 2)]
    equal = [{"attempt": 1}, {"attempt": 1}]
    assert said(session.calls([{}] * 2, equal)[1]) == [Calls(6, [{}] * 2, meta=equal[0])]


@both
def test_a_group_that_is_refused(codec: str) -> None:
    """A value that can't be carried, or a frame that is too large: no id is used up."""
    session = started(codec, max_frame=200)
    with pytest.raises(EncodeError):
        session.calls([{"n": 1}, {"n": object()}], [None, None])
    with pytest.raises(FrameTooLarge):
        session.calls([{"n": "x" * 90}] * 3, [None] * 3)
    assert session.open == ()
    assert session.call({"n": 1})[0] == 1


def test_a_process_that_takes_no_groups() -> None:
    """It is a bug to send it one; and it breaks the protocol if it writes one."""
    session = Session("count", codecs=["json"])
    session.hello()
    session.receive(encode(Ready(1)))
    session.call({"n": 1})
    with pytest.raises(RuntimeError, match="without 'groups' in its caps"):
        session.calls([{}], [None])
    assert "without 'groups' in its caps" in str(broken(session, encode(Ends(1, [[1]]))))


def test_a_group_that_answers_too_much() -> None:
    """Only the answers to open calls count."""
    session = started(calls=2)
    events = session.receive(encode(Ends(1, [[1], [2], [3]])))
    assert events == [End(1, [1]), End(2, [2]), Unmatched(End(3, [3]))]


@pytest.mark.parametrize("msgs", ["[]", "[1]", "{}", "null", "[[1],2]"])
def test_a_group_that_is_no_group(msgs: str) -> None:
    """A group of answers is a list of lists, and not empty."""
    error = broken(started(calls=2), b'{"op":"ends","id":1,"msgs":%b}\n' % msgs.encode())
    assert "the msgs of 'ends' is" in str(error)


@both
def test_the_levels_of_a_group(codec: str) -> None:
    """The levels of each message, and of each result, count separately."""
    deepest: Any = []
    for _ in range(MAX_DEPTH - 1):
        deepest = [deepest]

    def answer(op: str, msgs: Any) -> bytes:
        # By hand: the host's own encoder refuses what is too deep.
        frame = {"op": op, "id": 1, "msgs": msgs}
        if codec == "json":
            return json.dumps(frame).encode() + b"\n"
        packed: bytes = msgpack.packb(frame)
        return len(packed).to_bytes(4, "big") + packed

    session = started(codec, calls=2)
    assert session.receive(answer("ends", [[deepest], [1]])) == [Ends(1, [[deepest], [1]])]
    for op, msgs in (("ends", [[[deepest]], [1]]), ("end", [[deepest]])):
        error = broken(started(codec, calls=2), answer(op, msgs))
        assert "nests deeper than 128 levels" in str(error)


@both
def test_the_sizes_of_a_group(codec: str) -> None:
    """Small answers are not counted. In a large group each answer is."""
    session = started(codec, calls=6)
    session.receive(encode(Ends(1, [["x" * 100], ["x" * 400]]), codec))
    assert session.sizes == {}
    session.receive(encode(Ends(3, [["x" * 5000], ["x"]]), codec))
    assert 5000 <= session.sizes[3] < 5010
    assert session.sizes[4] < 10


# The start.


def test_a_load_failure() -> None:
    """A process whose code does not load says why; nothing can be called."""
    session = in_state(State.STARTING)
    failure = Failure("LoadError", "no such file", ["count.rb:1"])
    assert session.receive(encode(failure)) == [failure]
    assert session.state is State.FAILED
    with pytest.raises(RuntimeError):
        session.call({})


def test_a_wrong_version() -> None:
    """A process that speaks another version breaks the session, with both numbers."""
    error = broken(in_state(State.STARTING), encode(Ready(2)))
    assert "speaks version 2 of the protocol; this host speaks 1" in str(error)


@pytest.mark.parametrize("codec", ["msgpack", "xml", "x" * 1000])
def test_a_codec_that_was_not_offered(codec: str) -> None:
    """A process can only take a codec that was offered."""
    error = broken(in_state(State.STARTING), encode(Ready(1, codec)))
    assert "offered were json" in str(error)
    assert len(str(error)) < 200


def test_two_readies() -> None:
    """A process is ready once."""
    assert "wrote 'ready' while ready" in str(broken(started(), encode(Ready(1))))


def test_a_banner_of_a_megabyte() -> None:
    """A banner before ready, however long, is only text."""
    session = in_state(State.STARTING)
    events = session.receive(b"=" * 2**20 + b"\n" + encode(Ready(1)))
    assert events == [Stray(b"=" * 8192), Ready(1)]


def test_ready_after_bye() -> None:
    """A host may say bye before the process is ready; the ready that crosses it is fine."""
    session = in_state(State.STARTING)
    session.bye()
    assert session.receive(encode(Ready(1))) == [Ready(1)]
    assert session.state is State.CLOSING


@pytest.mark.parametrize("codecs", [[], ["xml"], ["json", "xml"]])
def test_unknown_codecs(codecs: list[str]) -> None:
    """Only known codecs can be offered."""
    with pytest.raises(ValueError, match="codecs must be of msgpack, json"):
        Session("count", codecs=codecs)


# Answers.


def test_answers_are_matched_by_id() -> None:
    """Answers in another order than the calls find theirs, and the oldest open call is first."""
    session = started(calls=3)
    assert session.receive(encode(End(3)) + encode(Err(1, "A", "b")))[0] == End(3)
    assert session.open == (2,)


@pytest.mark.parametrize("frame", [Out(9, [1]), End(9), Err(9, "A", "b")])
def test_an_unknown_id(frame: Frame) -> None:
    """An answer to no call is reported, and matched with none."""
    session = started(calls=1)
    assert session.receive(encode(frame)) == [Unmatched(frame)]
    assert session.open == (1,)


@pytest.mark.parametrize("second", [Out(1, [1]), End(1, [2]), Err(1, "A", "b")])
def test_the_first_answer_wins(second: Frame) -> None:
    """A later answer to a closed call is reported as such."""
    session = started(calls=1)
    events = session.receive(encode(End(1, [1])) + encode(second))
    assert events == [End(1, [1]), Unmatched(second)]


def test_answers_after_bye() -> None:
    """Open calls still end after bye."""
    session = in_state(State.CLOSING)
    assert session.receive(encode(End(1, [5]))) == [End(1, [5])]


def test_giving_up_leaves_the_calls_open() -> None:
    """An err without an id while ready ends the conversation; what was open stays so."""
    session = started(calls=2)
    session.receive(encode(Failure("NoMemoryError", "")))
    assert (session.state, session.open) == (State.FAILED, (1, 2))


# Limits.


@both
def test_a_message_over_the_limit(codec: str) -> None:
    """A call at the limit passes, one byte more is refused and uses up nothing."""
    session = started(codec, max_frame=250)
    framing = 2 if codec == "json" else 4
    room = 250 + framing + 200 - len(session.call({"text": "x" * 200})[1])
    session.call({"text": "x" * room})
    with pytest.raises(FrameTooLarge) as caught:
        session.call({"text": "x" * (room + 1)})
    assert (caught.value.size, caught.value.limit) == (251, 250)
    assert not caught.value.may_have_run
    assert session.open == (1, 2)
    assert session.call({})[0] == 3


@both
def test_a_value_that_does_not_fit(codec: str) -> None:
    """A value that cannot be carried names its node and path, and uses up nothing."""
    session = started(codec)
    for message in ({"items": [{"price": object()}]}, {"items": [{"price": 2**64}]}):
        with pytest.raises(EncodeError) as caught:
            session.call(message)
        assert (caught.value.node, caught.value.path) == ("count", "items[0].price")
    assert session.open == ()
    assert session.call({})[0] == 1


def test_a_config_that_does_not_fit() -> None:
    """A config that cannot be carried is refused with its path; hello can be said again."""
    session = Session("count", config={"a": math.nan})
    with pytest.raises(EncodeError) as caught:
        session.hello()
    assert caught.value.path == "config.a"
    assert session.state is State.NEW


@both
def test_an_answer_over_the_limit(codec: str) -> None:
    """An oversized answer fails its own call; the others and the process go on."""
    session = started(codec, calls=2, max_frame=200)
    big = encode(End(1, ["x" * 200]), codec)
    first, second = session.receive(big + encode(End(2), codec))
    assert isinstance(first, TooLarge)
    assert (first.id, first.limit, second) == (1, 200, End(2))
    assert session.open == ()
    assert session.call({})[0] == 3


@both
def test_partial_results_over_the_limit(codec: str) -> None:
    """An oversized out fails the call, and later frames for it are dropped."""
    session = started(codec, max_frame=200)
    big = ["x" * 200]
    for end in (End(1), End(1, big)):
        id, _ = session.call({})
        frames = [Out(id, big), Out(id, [1]), Out(id, big), end._replace(id=id), End(id)]
        events = session.receive(b"".join(encode(frame, codec) for frame in frames))
        assert [type(event) for event in events] == [TooLarge, Unmatched]
        assert events[0] == TooLarge(events[0].size, 200, id, False, "out")


def test_an_oversized_frame_of_nobody() -> None:
    """Every open call fails, the oldest first, if the frame does not tell its call."""
    session = started(calls=2, max_frame=200)
    events = session.receive(b'{"msgs":[' + b"1," * 200 + b'1],"op":"end","id":2}\n')
    assert events == [TooLarge(None, 200, 1), TooLarge(None, 200, 2)]
    assert session.receive(encode(End(1))) == []
    assert session.open == ()


@pytest.mark.parametrize("id", [b"7", b'"x"'])
def test_an_oversized_frame_of_no_call(id: bytes) -> None:
    """An oversized frame is only reported if it can't belong to a call."""
    session = started(max_frame=200)
    events = session.receive(b'{"op":"end","id":%b,"msgs":["%b"]}\n' % (id, b"x" * 200))
    assert events == [TooLarge(None, 200, op="end")]


# Breaking.


def test_what_came_before_a_violation_counts() -> None:
    """Answers before a violation are delivered; after it there is nothing more."""
    session = started(calls=2)
    events = session.receive(encode(End(1)) + b'{"op":"end","id":"2"}\n' + encode(End(2)))
    assert events[0] == End(1)
    assert isinstance(events[1], Broken)
    assert len(events) == 2
    assert session.open == (2,)
    assert events[1].error.sample == r'{"op":"end","id":"2"}'
    assert events[1].error.node == "count"


def test_a_broken_session_is_of_no_use() -> None:
    """Every method of a broken session raises its error."""
    session = in_state(State.BROKEN)
    uses = [
        session.hello,
        session.bye,
        lambda: session.call({}),
        lambda: session.cancel(1),
        lambda: session.ping(1),
        lambda: session.receive(b""),
    ]
    for use in uses:
        with pytest.raises(ProtocolError) as caught:
            use()
        assert caught.value is session.error


def test_an_answer_that_is_cut_at_every_byte() -> None:
    """A frame that has not ended delivers nothing, wherever it is cut."""
    for codec in CODECS:
        whole = encode(End(1, [{"a": 1}]), codec)
        for size in range(len(whole)):
            session = started(codec, calls=1)
            assert session.receive(whole[:size]) == []
            assert session.open == (1,)
            assert session._reader.rest == whole[:size].removeprefix(b"\n")


@hypothesis.given(
    st.lists(
        st.sampled_from([encode(frame, codec) for frame in ANSWERS.values() for codec in CODECS])
        | st.binary(max_size=20),
        max_size=8,
    ),
    st.integers(1, 40),
)
@hypothesis.settings(max_examples=300, deadline=None, suppress_health_check=SLOW)
def test_anything(parts: list[bytes], size: int) -> None:
    """The events do not depend on the pieces of the input, and only Broken ends them."""
    first, second = (started_with_both() for _ in range(2))
    data = b"".join(parts)
    assert [str(event) for event in until_broken(second, data, size)] == [
        str(event) for event in until_broken(first, data, len(data) + 1)
    ]
    assert first.open == second.open
    assert first.state is second.state


def started_with_both() -> Session:
    session = Session("count")
    session.hello()
    session.receive(encode(Ready(1, "msgpack")))
    session.call({"n": 1})
    return session


def until_broken(session: Session, data: bytes, size: int) -> list[Any]:
    events: list[Any] = []
    for at in range(0, len(data), size):
        if session.error is None:
            events += session.receive(data[at : at + size])
    return events


def test_repr() -> None:
    """A session shows its node, its state and how many calls are open."""
    assert repr(started(calls=2)) == "<Session count [ready, 2 open]>"
