"""The rules for messages in queues: their ids, and what is done with a failure. Nothing runs."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emit import errors
from emit.errors import GraphError
from emit.node import Handler
from emit.observe.observers import Observers
from emit.router.delivery import NAMESPACE, Plan, Policy, judge, message_id
from emit.router.queued import read_plan
from emit.router.sender import Outbox
from emit.router.watch import Watch

texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts, texts, st.integers(min_value=0))
def test_an_id_is_a_uuid5(parent: str, destination: str, index: int) -> None:
    """Written out for speed, it is what the standard library makes."""
    expected = str(uuid.uuid5(NAMESPACE, f"{parent}/{destination}/{index}"))
    assert message_id(parent, destination, index) == expected


def test_ids_repeat_and_differ() -> None:
    """The same parent, destination and number give the same id; any other, another."""
    ways = [(p, d, n) for p in ("a", "b") for d in ("x", "y") for n in range(3)]
    ids = [message_id(*way) for way in ways]
    assert len(set(ids)) == len(ways)
    assert ids == [message_id(*way) for way in ways]


NODE = {"node": "n"}
REMOTE = {**NODE, "type": "E", "message": "m"}
LATER = [
    errors.StartError(**NODE, argv=["x"], reason="not found"),
    errors.StartTimeout(**NODE, timeout=1),
    errors.PoolTimeout(**NODE, timeout=1, size=1),
    errors.PoolClosed(**NODE),
    errors.Unavailable(**NODE, retry_in=7.5, last=None),
    errors.HostLost(**NODE, path="/run/emit", reason="it is gone"),
    errors.DispatchError("refused"),
    errors.InProgress("key", 60),
    errors.LedgerError("keep a dead letter", "localhost:6379/0", OSError("no way")),
]
DEAD = [
    errors.Reject("no such thing"),
    errors.RemoteError(**REMOTE, retry=False),
    errors.RemoteError(**REMOTE),
    errors.ResultError("misfit"),
    errors.EncodeError(**NODE, path="a", reason="b"),
    errors.FrameTooLarge(**NODE, size=9, limit=8, outgoing=True),
    errors.ProcessDied(**NODE, status=-9),
    errors.ProcessDied(**NODE, status=1, may_have_run=False),
    errors.CallTimeout(**NODE, timeout=1),
    errors.ProtocolError(**NODE, reason="nonsense"),
    errors.Undelivered(**NODE, deliveries=5),
    errors.Unreadable(**NODE, reason="damaged"),
    KeyError("word"),
]
by_type = {"ids": lambda error: type(error).__name__}


@pytest.mark.parametrize("error", LATER, **by_type)
@pytest.mark.parametrize("attempt", [1, 3, 99])
def test_later(error: Exception, attempt: int) -> None:
    """A message that was never tried is not charged, however often that happens."""
    assert judge(error, attempt, waits=attempt * 10).fate == "later"


def test_later_waits_for_the_breaker() -> None:
    """The message waits at least until the next start."""
    assert judge(LATER[4], 1).delay >= 7.5


@pytest.mark.parametrize("error", DEAD, **by_type)
def test_dead(error: Exception) -> None:
    """The host has tried by then, or another attempt can't help."""
    assert judge(error, 1).fate == "dead"


@pytest.mark.parametrize(("attempt", "fate"), [(1, "retry"), (2, "retry"), (3, "dead")])
def test_retry(attempt: int, fate: str) -> None:
    """The author's wish, and a time limit, up to max_attempts."""
    assert judge(errors.RemoteError(**REMOTE, retry=True), attempt).fate == fate
    assert judge(errors.Retry(), attempt).fate == fate
    assert judge(TimeoutError(), attempt, again=True).fate == fate


def test_retries_that_are_counted_apart() -> None:
    """The handler's requests and cut-off attempts are counted apart with max_retries."""
    asks = errors.RemoteError(**REMOTE, retry=True)
    policy = Policy(max_attempts=2, max_retries=5)
    fates = [judge(asks, n + 1, policy, asked=n).fate for n in range(6)]
    assert fates == ["retry"] * 5 + ["dead"]
    assert judge(asks, 4, policy, asked=2).fate == "retry"  # another attempt was cut off
    assert judge(TimeoutError(), 5, policy, asked=4, again=True).fate == "retry"
    assert judge(TimeoutError(), 6, policy, asked=4, again=True).fate == "dead"
    assert judge(asks, 1, Policy(max_retries=0)).fate == "dead"


@pytest.mark.parametrize("after", [86401, 1e9, 1e18, 1e308])
def test_retry_after_years(after: float) -> None:
    """A day at the most, which every queue can count."""
    error = errors.RemoteError(**REMOTE, retry=True, after=after)
    assert judge(error, 1) == ("retry", 86400.0)


def test_retry_after() -> None:
    """The author's delay is kept as it is, 0 included."""
    for after in (0.0, 0.25, 3600.0):
        assert judge(errors.RemoteError(**REMOTE, retry=True, after=after), 1).delay == after
        assert judge(errors.Retry(after=after), 1).delay == after


def test_the_backoff() -> None:
    """It doubles from backoff to backoff_max, and at least half of it is waited."""
    policy = Policy(backoff=2, backoff_max=20)
    for times, longest in [(1, 2), (2, 4), (3, 8), (4, 16), (5, 20), (5000, 20)]:
        waits = [policy.wait(times) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest


def test_every_error_has_a_fate() -> None:
    """Every exception of Emit is judged here."""
    judged = {type(error) for error in (*LATER, *DEAD)}
    abstract = {errors.EmitError, errors.NodeError, errors.HostError}
    of_the_store = {errors.LetterNotFound, errors.AmbiguousLetter, errors.UnreadableLetter}
    elsewhere = {errors.GraphError, *of_the_store}  # and of declarations
    kinds = {getattr(errors, name) for name in errors.__all__} - {errors.Retry}  # test_retry
    assert kinds - abstract - elsewhere == judged & kinds


def test_the_outbox_numbers_by_destination() -> None:
    """The numbers begin again for each message, and count each destination on its own."""
    outbox = Outbox()
    outbox.begin("p")
    assert [outbox.next_id("x"), outbox.next_id("y"), outbox.next_id("x")] == [
        message_id("p", "x", 0),
        message_id("p", "y", 0),
        message_id("p", "x", 1),
    ]
    outbox.begin("q")
    assert outbox.next_id("x") == message_id("q", "x", 0)


def test_the_outbox_without_a_parent() -> None:
    """A call from outside: every id is new."""
    outbox = Outbox()
    assert len({outbox.next_id("x") for _ in range(10)}) == 10


def test_the_outbox_keeps_by_way() -> None:
    """Messages for the same destination wait together, in order."""
    outbox, watch = Outbox(), Watch(Observers(), "celery")
    outbox.begin("p")
    outbox.add("o", "x", [b"1"], watch)
    outbox.add("o", "y", [b"2"], watch)
    assert outbox.add("o", "x", [b"3"], watch).texts == [b"1", b"3"]
    assert {(o, d): packed.texts for o, d, packed in outbox.take_all()} == {
        ("o", "x"): [b"1", b"3"],
        ("o", "y"): [b"2"],
    }
    assert list(outbox.take_all()) == []


@pytest.mark.parametrize("key", ["batch", "batch_bytes", "max_attempts", "max_deliveries"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "10", True, None])
def test_a_plan_that_cannot_work(key: str, value: Any) -> None:
    """The text names the node, the option and the value."""
    with pytest.raises(GraphError, match=f'"n": {key} must be a whole number of 1 or more'):
        read_plan("n", Handler(), {key: value})


@pytest.mark.parametrize("value", [-1, 1.5, "10", True])
def test_retries_that_cannot_be(value: Any) -> None:
    with pytest.raises(GraphError, match='"n": max_retries must be a whole number of 0 or more'):
        read_plan("n", Handler(), {"max_retries": value})


def test_a_plan_takes_only_its_own() -> None:
    """The rest is left for others to know."""
    options = {"batch": 10, "queue": "words", "max_attempts": 7, "max_retries": 0}
    policy = Policy(max_attempts=7, max_retries=0)
    assert read_plan("n", Handler(), options) == Plan(batch=10, policy=policy)
    assert options == {"queue": "words"}
