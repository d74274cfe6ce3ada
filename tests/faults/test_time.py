"""Deadlines: absolute, by the monotonic clock, and each for what it says."""

from __future__ import annotations

import threading
import time
from collections import Counter

import psutil
import pytest

from emit.errors import CallTimeout, PoolTimeout
from tests.faults.nodes import pool, raw, started

PID = "for id, msg in calls(): end(id, os.getpid())"


def test_a_hang() -> None:
    """The call ends at its deadline, the program with it, and the next finds another."""
    program = raw("""
        for id, msg in calls():
            if msg["hang"]:
                hang()
            end(id, os.getpid())
    """)
    with pool(program, timeout=3.0, max_attempts=1) as node:
        started(node)
        (first,) = node.call({"hang": False})
        with pytest.raises(CallTimeout, match="timeout = 3 s") as caught:
            node.call({"hang": True})
        assert caught.value.may_have_run
        assert not psutil.pid_exists(first)
        started(node)
        assert node.call({"hang": False}) != [first]


def test_a_drip() -> None:
    """A byte now and then moves no deadline: it is a time, and not a length of silence."""
    program = raw("""
        for id, msg in calls():
            while True:
                write("x")
                time.sleep(0.05)
    """)
    with pool(program, timeout=1.0, max_attempts=1) as node:
        began = time.monotonic()
        with pytest.raises(CallTimeout):
            node.call({})
        assert time.monotonic() - began < 30.0


def test_a_hang_among_many() -> None:
    """Only the message that hangs is charged; its mates are answered once each, in order."""
    program = raw("""
        for id, msg in calls():
            if msg["n"] == 7:
                hang()
            end(id, msg["n"])
    """)
    with pool(program, timeout=2.0, max_attempts=2) as node:
        outcomes = list(node.call_many({"n": n} for n in range(20)))
    hung = outcomes.pop(7)
    assert isinstance(hung, CallTimeout)
    assert len(hung.letter.causes) == 2
    assert outcomes == [[n] for n in range(20) if n != 7]


def test_a_slow_reader_is_no_slow_program() -> None:
    """The time that the caller takes with an outcome is not the program's."""
    program = raw("for id, msg in calls(): end(id, 'x' * 50_000)")
    with pool(program, timeout=2.0, window=8) as node:
        outcomes = node.call_many({} for _ in range(64))
        next(outcomes)
        time.sleep(2.5)  # longer than the deadline, with answers waiting in a full pipe
        assert [len(outcome[0]) for outcome in outcomes] == [50_000] * 63


def test_waiting_for_a_process() -> None:
    """It counts against the call's own deadline, and the message has certainly not run."""
    with pool(raw(PID), timeout=1.0) as node, node.pool.lease(time.monotonic() + 30):
        with pytest.raises(PoolTimeout) as caught:
            node.call({})
        assert not caught.value.may_have_run
        assert node.snapshot()["retries"] == {}


def test_nobody_starves() -> None:
    """Each of 32 threads gets its turn at two processes."""
    turns: Counter[int] = Counter()

    def call(number: int) -> None:
        for _ in range(50):
            node.call({})
            turns[number] += 1

    with pool(raw(PID), size=2, timeout=60.0) as node:
        threads = [threading.Thread(target=call, args=[number]) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert node.snapshot()["failures"] == {}
    assert turns == dict.fromkeys(range(32), 50)
