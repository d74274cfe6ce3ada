"""The policy of starts: to start, to wait, to replace, to give up."""

from __future__ import annotations

import pytest

from emit.host.settings import Settings
from emit.host.starts import Lifespan, Starts

ERROR = RuntimeError("no database")


def fail(starts: Starts, *times: float, share: float = 1.0) -> None:
    for now in times:
        starts.began(now)
        starts.failed(now, ERROR, share)


def test_nothing_has_failed_yet() -> None:
    """A start may be made at once."""
    starts = Starts(Settings())
    starts.began(100.0)
    assert not starts.is_open(100.0)
    assert starts.delay(100.0) == 0


@pytest.mark.parametrize(("share", "first"), [(0.0, 0.05), (0.5, 0.075), (1.0, 0.1)])
def test_the_wait_is_spread(share: float, first: float) -> None:
    """The wait is between half and all of the backoff."""
    starts = Starts(Settings(backoff=0.1))
    fail(starts, 100.0, share=share)
    assert starts.delay(100.0) == pytest.approx(first)
    assert starts.delay(200.0) == 0


def test_the_wait_doubles_up_to_its_limit() -> None:
    """0.1, 0.2, 0.4 seconds and so on, never more than backoff_max."""
    starts = Starts(Settings(backoff=0.1, backoff_max=0.5, breaker_failures=1000))
    waits = []
    for now in (100.0, 200.0, 300.0, 400.0, 500.0):
        fail(starts, now)
        waits.append(starts.delay(now))
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])


def test_a_start_that_works_forgets_the_failures() -> None:
    """The next failure is a first one again."""
    starts = Starts(Settings(breaker_failures=2))
    fail(starts, 100.0)
    starts.worked()
    assert (starts.delay(100.0), starts.last) == (0, None)
    fail(starts, 101.0)
    assert not starts.is_open(101.0)
    assert starts.delay(101.0) == pytest.approx(0.1)


def test_a_start_that_had_not_worked_after_all() -> None:
    """The forgotten failures count again: the waits grow, and the breaker opens."""
    starts = Starts(Settings(backoff=0.1, breaker_failures=4, breaker_window=10, breaker_open=60))
    fail(starts, 100.0)
    waits = []
    for now in (101.0, 102.0):
        starts.began(now)
        starts.worked()
        assert starts.delay(now) == 0
        starts.relapsed(now, ERROR, 1.0)
        waits.append(starts.delay(now))
    assert waits == pytest.approx([0.2, 0.4])
    assert (starts.last, starts.is_open(102.0)) == (ERROR, False)
    starts.worked()
    starts.relapsed(103.0, ERROR, 1.0)
    assert starts.is_open(103.0)
    starts.began(163.0)
    starts.worked()  # the probe
    assert not starts.is_open(163.0)
    starts.relapsed(163.0, ERROR, 1.0)
    assert starts.is_open(222.0)


def test_two_starts_that_had_not_worked() -> None:
    """Each counts once, however they come together."""
    starts = Starts(Settings(breaker_failures=3, breaker_window=10))
    starts.worked()
    starts.worked()
    starts.relapsed(100.0, ERROR, 1.0)
    starts.relapsed(100.0, ERROR, 1.0)
    assert (len(starts.failures), starts.streak) == (2, 2)
    fail(starts, 101.0)
    assert starts.is_open(101.0)


def test_the_breaker_opens() -> None:
    """The breaker opens after so many failures within the window, for its time."""
    starts = Starts(Settings(breaker_failures=3, breaker_window=10, breaker_open=60))
    fail(starts, 100.0, 105.0)
    assert not starts.is_open(105.0)
    fail(starts, 110.0)
    assert starts.is_open(110.0)
    assert starts.is_open(169.9)
    assert not starts.is_open(170.0)
    assert starts.delay(110.0) == 60
    assert starts.last is ERROR


def test_failures_far_apart_open_nothing() -> None:
    """Only those within the window count."""
    starts = Starts(Settings(breaker_failures=3, breaker_window=10))
    fail(starts, 100.0, 106.0, 112.0, 118.0)
    assert not starts.is_open(118.0)


@pytest.fixture
def opened() -> Starts:
    """Open until 160."""
    starts = Starts(Settings(breaker_failures=1, breaker_open=60, start_timeout=30))
    fail(starts, 100.0)
    return starts


def test_one_probe_at_a_time(opened: Starts) -> None:
    """Other starts still fail at once while the probe is under way."""
    assert opened.delay(160.0) == 0
    opened.began(160.0)
    assert opened.is_open(161.0)


def test_a_probe_that_works_closes_the_breaker(opened: Starts) -> None:
    """All may start again."""
    opened.began(160.0)
    opened.worked()
    assert not opened.is_open(160.1)


def test_a_probe_that_fails_opens_it_again(opened: Starts) -> None:
    """The breaker opens for the whole time after one failure."""
    fail(opened, 160.0)
    assert opened.is_open(219.9)
    assert not opened.is_open(220.0)


def test_a_probe_that_is_broken_off(opened: Starts) -> None:
    """The next caller makes another; so too if nobody said that it was broken off."""
    opened.began(160.0)
    opened.interrupted()
    assert not opened.is_open(160.1)
    opened.began(161.0)
    assert opened.is_open(190.9)
    assert not opened.is_open(191.0)


def test_by_default_a_process_lives_for_ever() -> None:
    """No limit is set."""
    lifespan = Lifespan.draw(Settings(), 1.0)
    assert lifespan.is_endless
    assert lifespan.is_over(calls=10**9, age=1e9, rss=2**40) is None
    assert not lifespan.is_idle_too_long(1e9)


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"calls": 10, "age": 0.0, "rss": 0}, "max_calls"),
        ({"calls": 0, "age": 20.0, "rss": 0}, "max_age"),
        ({"calls": 0, "age": 0.0, "rss": 2**20 + 1}, "max_rss"),
        ({"calls": 9, "age": 19.9, "rss": 2**20}, None),
        ({"calls": 9, "age": 19.9, "rss": None}, None),
    ],
)
def test_each_limit_of_a_process(figures: dict[str, int], reason: str | None) -> None:
    """The reason is the name of the setting."""
    settings = Settings(max_calls=10, max_age=20.0, max_rss=2**20)
    lifespan = Lifespan.draw(settings, 0.0)
    assert not lifespan.is_endless
    assert lifespan.is_over(**figures) == reason


def test_processes_do_not_wear_out_together() -> None:
    """Calls and age grow by a share of the jitter; memory does not."""
    settings = Settings(max_calls=100, max_age=10.0, max_rss=2**20, jitter=0.5)
    drawn = Lifespan.draw(settings, 0.5)
    assert (drawn.max_calls, drawn.max_age, drawn.max_rss) == (125.0, 12.5, 2**20)


def test_a_process_that_idles() -> None:
    """A process idles too long from the timeout on."""
    lifespan = Lifespan.draw(Settings(idle_timeout=5.0), 0.0)
    assert not lifespan.is_idle_too_long(4.9)
    assert lifespan.is_idle_too_long(5.0)
