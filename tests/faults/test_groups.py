"""Calls that are sent as a group: each has a fate of its own, whatever happens to the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emit.errors import EncodeError, FrameTooLarge, NodeError, RemoteError
from emit.host.calls import Calls
from emit.host.wire.frames import MAX_FRAME
from emit.letter import DeadLetter
from tests.faults.nodes import pool, sdk
from tests.shared_hosts import client, listening

pytestmark = pytest.mark.usefixtures("leak_free")

#: By its number, a message has one result, an error, or several results of which one is large, or
#: costs its process the life.
MIXED = sdk(
    """
    def mixed(msg):
        if msg.n % 50 == 7:
            os._exit(3)
        if msg.n % 10 == 3:
            raise ValueError(msg.n)
        if msg.n % 10 == 5:
            return once(msg.n)
        return [msg.n] * (msg.n % 3)

    def once(n):
        yield n
        yield "x" * 600
        yield n

    serve(mixed)
    """
)

POISON = [n for n in range(200) if n % 50 == 7]


@pytest.fixture(params=["private", "shared"])
def node(request: pytest.FixtureRequest, short_folder: Path) -> Iterator[tuple[Calls, list[Any]]]:
    """Provide the node, and the list of its dead letters."""
    letters: list[DeadLetter] = []
    settings: Any = {"max_attempts": 2, "dead_letter": letters.append, "size": 2}
    if request.param == "private":
        with pool(MIXED, **settings) as calls:
            yield calls, letters
    else:
        path = short_folder / "host.sock"
        with listening(path), client(path, MIXED, **settings) as calls:
            yield calls, letters


def test_each_has_its_own_fate(node: tuple[Calls, list[DeadLetter]]) -> None:
    """A process that dies in the midst of a group has the messages of nobody else lost."""
    calls, letters = node
    outcomes = list(calls.call_many({"n": n} for n in range(200)))
    for n, outcome in enumerate(outcomes):
        if n in POISON:
            assert outcome == []
        elif n % 10 == 3:
            assert isinstance(outcome, RemoteError)
            assert outcome.message == str(n)
        elif n % 10 == 5:
            assert outcome == [n, "x" * 600, n]
        else:
            assert outcome == [[n] * (n % 3)]
    assert sorted(letter.message["n"] for letter in letters) == POISON
    assert any(process.talk.session.takes_groups for process in calls.pool.processes)


@pytest.mark.parametrize(
    ("value", "error"), [({1, 2}, EncodeError), ("x" * MAX_FRAME, FrameTooLarge)]
)
def test_one_that_cannot_be_sent(value: object, error: type[Exception]) -> None:
    """It fails alone: its mates were not sent with it."""
    with pool(sdk("serve(lambda msg: msg.n)")) as calls:
        messages = [{"n": n, "value": value if n == 20 else None} for n in range(40)]
        outcomes = list(calls.call_many(messages))
        assert isinstance(outcomes.pop(20), error)
        assert outcomes == [[n] for n in range(40) if n != 20]
        assert calls.snapshot()["starts"] == 1


def test_more_than_a_frame_holds() -> None:
    """Large messages behind small ones, which say nothing about the size of a group."""
    with pool(sdk("serve(lambda msg: len(msg.text))")) as calls:
        sizes = [1] * 20 + [9_000_000] * 4 + [1] * 20
        outcomes = calls.call_many({"text": "x" * size} for size in sizes)
        assert list(outcomes) == [[size] for size in sizes]


def test_results_that_fit_no_frame() -> None:
    with pool(sdk("serve(lambda msg: 'x' * msg.size)")) as calls:
        sizes = [1] * 20 + [MAX_FRAME] + [1] * 20
        outcomes = list(calls.call_many({"size": size} for size in sizes))
        assert isinstance(outcomes.pop(20), NodeError)
        assert outcomes == [["x"]] * 40
        assert calls.snapshot()["starts"] == 1
