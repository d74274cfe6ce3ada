"""Counters, percentiles, memory and processor time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from types import ModuleType

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emit.errors import CallTimeout, RemoteError
from emit.host import accounting
from emit.host.accounting import CallAccount, Times, Usage
from emit.host.system import family, tree
from emit.letter import DeadLetter
from tests.hosts import until


def test_no_times_at_all() -> None:
    """All figures are 0."""
    assert Times().summary() == {"p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0, "mean": 0.0}


def test_times_are_told_as_percentiles() -> None:
    """Each at most a bucket above the truth; maximum and mean are exact."""
    times = Times()
    times.add(0.001, times=90)
    times.add(0.1, times=9)
    times.add(2.0)
    summary = times.summary()
    assert 0.001 <= summary["p50"] <= 0.00125
    assert 0.001 <= summary["p90"] <= 0.00125
    assert 0.1 <= summary["p99"] <= 0.125
    assert summary["max"] == 2.0
    assert summary["mean"] == pytest.approx((0.09 + 0.9 + 2.0) / 100)


@given(st.lists(st.floats(1e-5, 1e4), min_size=1, max_size=100), st.sampled_from([0.5, 0.9, 0.99]))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a loaded machine is slow
def test_a_percentile_is_near_the_truth(seconds: list[float], share: float) -> None:
    """The percentile is never below the true one, and less than 25 % above."""
    times = Times()
    for second in seconds:
        times.add(second)
    ordered = sorted(seconds)
    exact = next(s for n, s in enumerate(ordered, 1) if n >= len(ordered) * share)
    assert exact <= times.percentile(share) * 1.0001
    assert times.percentile(share) <= exact * 1.25


def test_times_too_short_to_tell_apart() -> None:
    """0 seconds is a time as well."""
    times = Times()
    times.add(0.0, times=10)
    assert times.summary()["p99"] == 0.0


def test_outcomes_are_counted() -> None:
    """Failures by the name of their exception; charged attempts apart from them."""
    account = CallAccount()
    error = CallTimeout(node="n", timeout=1.0)
    account.answered([[1], error, []], 0.5, 0.25)
    account.charged(error)
    account.charged(error)
    figures = account.snapshot()
    assert figures["calls"] == 3
    assert figures["failures"] == {"CallTimeout": 1}
    assert figures["retries"] == {"CallTimeout": 2}
    assert figures["call_seconds"]["max"] == 0.5
    assert figures["wait_seconds"]["max"] == 0.25


def test_a_message_that_goes_back_to_its_queue_has_not_failed() -> None:
    """Its handler asks for another attempt. If that was the last one here, there is a letter."""
    account = CallAccount()
    asks = RemoteError(node="n", type="Retry", message="not now", retry=True)
    account.answered([asks, [1]], 0.5)
    assert account.snapshot()["failures"] == {}
    assert account.snapshot()["retries"] == {"RemoteError": 1}
    asks.letter = DeadLetter("n", {}, ())
    account.answered([asks], None)
    assert account.snapshot()["failures"] == {"RemoteError": 1}


def test_what_has_not_been_answered_has_no_time() -> None:
    """A message whose attempts have all failed is counted, and is not the quickest of all."""
    account = CallAccount()
    account.answered([[1]], 0.5)
    for _ in range(9):
        account.answered([CallTimeout(node="n", timeout=1.0)], None)
    figures = account.snapshot()
    assert (figures["calls"], figures["failures"]) == (10, {"CallTimeout": 9})
    assert figures["call_seconds"]["p50"] == 0.5


def test_many_threads_count_together() -> None:
    """No call is lost."""
    account = CallAccount()

    def count() -> None:
        for _ in range(2_000):
            account.answered([[]], 0.001)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert account.snapshot()["calls"] == account.calls == 8_000


def test_usages_add_up() -> None:
    """Each figure with its own kind."""
    total = Usage(1.5, 10, 20, 30, 4) + Usage(0.5, 1, 2, 3, 1)
    figures = (total.cpu_seconds, total.rss_bytes, total.sent_bytes, total.received_bytes)
    assert (*figures, total.strays) == (2.0, 11, 22, 33, 5)


@pytest.mark.parametrize("source", [tree, family], ids=["proc", "psutil"])
def test_what_a_process_has_started(source: ModuleType) -> None:
    """Its descendants, whichever thread has started them, and what they use; of one that is gone
    nothing."""
    code = """
import subprocess, sys, threading
def run(): subprocess.run(["sh", "-c", "cat; true"])
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        until(lambda: len(source.descendants(process.pid)) == 2)
        alone = psutil.Process(process.pid).memory_info().rss
        assert source.used(process.pid)[1] > alone
        process.stdin.close()
        process.wait()
    assert source.descendants(process.pid) == set()
    assert source.used(process.pid) == (0.0, 0)
    assert source.used(os.getpid())[0] > 0


def test_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """They begin at the oldest look within ten seconds, and are of nothing without a look."""
    clock = [100.0]
    monkeypatch.setattr(accounting.time, "monotonic", lambda: clock[0])
    account = CallAccount()
    account.answered([1], seconds=1.0)
    assert account.snapshot()["recent"] == {
        "seconds": 0.0,
        "calls": 0,
        "failures": 0,
        "p50": 0.0,
        "p99": 0.0,
    }
    clock[0] += 4
    account.answered([1, ValueError("x")], seconds=0.01)
    recent = account.snapshot()["recent"]
    assert (recent["seconds"], recent["calls"], recent["failures"]) == (4.0, 2, 1)
    assert recent["p50"] == recent["p99"] == pytest.approx(0.01, rel=0.25)
    clock[0] += 7
    recent = account.snapshot()["recent"]  # since the second look: the first is 11 s old
    assert (recent["seconds"], recent["calls"], recent["p99"]) == (7.0, 0, 0.0)
    clock[0] += 3600
    assert account.snapshot()["recent"]["seconds"] == 0.0


def test_many_looks_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks a thousand times a second gets the same figures, and costs no memory."""
    clock = [0.0]
    monkeypatch.setattr(accounting.time, "monotonic", lambda: clock[0])
    account = CallAccount()
    for n in range(3000):
        clock[0] = n / 100
        account.answered([1], seconds=0.001)
        recent = account.snapshot()["recent"]
    assert recent["calls"] / recent["seconds"] == pytest.approx(100)
    assert len(account._recent._looks) <= 22
