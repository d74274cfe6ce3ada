"""
When to start, to wait, to replace, to give up: pure policy. No I/O here, and no clock: every
question brings its own *now* (seconds by the monotonic clock).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cached_property

from emit.host.settings import Settings


def backoff(first: float, most: float, times: int, share: float) -> float:
    """
    Seconds to wait after so many failures in a row.

    Args:
        first: After the first one; twice that after the next, and so on.
        most: The longest wait.
        times: How many failures.
        share: A random number from 0 to 1: a random half of the wait spreads a herd.
    """
    return min(most, first * 2.0 ** min(times - 1, 60)) * (0.5 + share / 2)


@dataclass
class Starts:
    """
    What the starts of one node have come to: the backoff and the breaker.

    1. After a failed start the next waits ``backoff`` seconds, twice that after the next
       failure and so on up to ``backoff_max``, each time a random share between half and
       all of it.
    2. ``breaker_failures`` failures within ``breaker_window`` open the breaker: no start for
       ``breaker_open`` seconds, then one, the probe. Others wait for its outcome.
    3. A start that works closes the breaker and forgets the failures, unless its process says
       before its first answer that it can't go on.

    Attributes:
        failures: When starts failed, the newest last, as many as open the breaker.
        last: The newest failure.
        not_before: No start before this time.
        open_until: The breaker is open until this time; None: it is closed.
        probing_until: A probe is under way, until this time at most: one whose caller was
            thrown out never says how it went.
    """

    settings: Settings
    failures: deque[float] = field(default_factory=deque)
    streak: int = 0
    last: BaseException | None = None
    not_before: float = 0.0
    open_until: float | None = None
    probing_until: float = 0.0
    _before: tuple[tuple[float, ...], int, float | None] = ((), 0, None)

    def is_open(self, now: float) -> bool:
        """Whether calls fail at once, since no start is allowed for a long while."""
        return self.open_until is not None and now < max(self.open_until, self.probing_until)

    def delay(self, now: float) -> float:
        """Seconds until a start is allowed."""
        return max(0.0, self.not_before - now)

    def began(self, now: float) -> None:
        """A start begins; after an open breaker it is the probe."""
        if self.open_until is not None:
            self.probing_until = now + self.settings.start_timeout

    def worked(self) -> None:
        """A start has worked."""
        self._before = (tuple(self.failures), self.streak, self.open_until)
        self.failures.clear()
        self.streak = 0
        self.last = None
        self.not_before = 0.0
        self.open_until = None

    def failed(self, now: float, error: BaseException, share: float) -> None:
        """
        A start failed at *now*.

        Args:
            share: A random number from 0 to 1 that spreads the waits.
        """
        settings = self.settings
        self.last = error
        self.streak += 1
        self.failures.append(now)
        while len(self.failures) > settings.breaker_failures:
            self.failures.popleft()
        wait = backoff(settings.backoff, settings.backoff_max, self.streak, share)
        self.not_before = now + wait
        full = len(self.failures) == settings.breaker_failures
        probed = self.open_until is not None
        if probed or (full and now - self.failures[0] <= settings.breaker_window):
            self.open_until = self.not_before = now + settings.breaker_open
        self.probing_until = 0.0

    def relapsed(self, now: float, error: BaseException, share: float) -> None:
        """
        What had worked gave up before it had done anything: it had not worked, and what was
        forgotten then counts again. The arguments are those of `failed`.
        """
        failures, streak, open_until = self._before
        self._before = ((), 0, None)
        self.failures.extendleft(reversed(failures))
        self.streak += streak
        self.open_until = open_until if self.open_until is None else self.open_until
        self.failed(now, error, share)

    def interrupted(self) -> None:
        """A start was broken off by its caller: it says nothing about the program."""
        self.probing_until = 0.0


@dataclass(frozen=True)
class Lifespan:
    """
    When one process is to be replaced: its share of the jitter is drawn at its start.

    Attributes:
        max_calls: Messages, or None.
        max_age: Seconds, or None.
        max_rss: Bytes, or None.
        idle_timeout: Seconds, or None.
    """

    max_calls: float | None
    max_age: float | None
    max_rss: int | None
    idle_timeout: float | None

    @classmethod
    def draw(cls, settings: Settings, share: float) -> Lifespan:
        """*share* is a random number from 0 to 1: the limits grow by up to ``jitter``."""
        factor = 1.0 + settings.jitter * share
        return cls(
            max_calls=None if settings.max_calls is None else settings.max_calls * factor,
            max_age=None if settings.max_age is None else settings.max_age * factor,
            max_rss=settings.max_rss,
            idle_timeout=settings.idle_timeout,
        )

    @cached_property
    def is_endless(self) -> bool:
        """Whether no call, year or byte is too many: the default, and the quickest answer."""
        return self.max_calls is None and self.max_age is None and self.max_rss is None

    def is_over(self, *, calls: int, age: float, rss: int | None) -> str | None:
        """Why a process should be replaced now: ``max_calls``, ``max_age``, ``max_rss``."""
        if self.max_calls is not None and calls >= self.max_calls:
            return "max_calls"
        if self.max_age is not None and age >= self.max_age:
            return "max_age"
        if self.max_rss is not None and rss is not None and rss > self.max_rss:
            return "max_rss"
        return None

    def is_idle_too_long(self, idle: float) -> bool:
        return self.idle_timeout is not None and idle >= self.idle_timeout
