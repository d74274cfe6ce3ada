"""
Decide when to start a process, wait, replace it or give up: pure policy. No I/O here, and no clock:
the caller passes *now* to every question (seconds by the monotonic clock).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cached_property

from emit.host.settings import Settings
from emit.letter import backoff


@dataclass
class Starts:
    """
    The starts of one node so far: the backoff and the breaker.

    1. After a failed start the next one waits ``backoff`` seconds. The wait doubles with each
       further failure, up to ``backoff_max``. Each wait is a random share, from half to all of it.
    2. ``breaker_failures`` failures within ``breaker_window`` open the breaker. There is no start
       for ``breaker_open`` seconds, then a single one, the probe. Other callers wait for its
       result.
    3. A start that works closes the breaker and forgets the failures. They count again if its
       process says before its first answer that it can't go on.

    Attributes:
        failures: Times of the failed starts, the newest last; at most as many as open the breaker.
        last: The newest failure.
        not_before: No start before this time.
        open_until: The breaker is open until this time; None: it is closed.
        probing_until: The probe is in progress, until this time at most: if its caller is
            interrupted, nobody reports its result.
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
        """Return whether calls fail at once because the breaker allows no start."""
        return self.open_until is not None and now < max(self.open_until, self.probing_until)

    def delay(self, now: float) -> float:
        """Return the seconds until a start is allowed."""
        return max(0.0, self.not_before - now)

    def began(self, now: float) -> None:
        """Note that a start begins. If the breaker was open, this start is the probe."""
        if self.open_until is not None:
            self.probing_until = now + self.settings.start_timeout

    def worked(self) -> None:
        """Note that a start has worked."""
        self._before = (tuple(self.failures), self.streak, self.open_until)
        self.failures.clear()
        self.streak = 0
        self.last = None
        self.not_before = 0.0
        self.open_until = None

    def failed(self, now: float, error: BaseException, share: float) -> None:
        """
        Note that a start failed at *now*.

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
        Note that a process gave up before its first answer. Its start had not worked after all, so
        the failures forgotten at that time count again. The arguments are those of `failed`.
        """
        failures, streak, open_until = self._before
        self._before = ((), 0, None)
        self.failures.extendleft(reversed(failures))
        self.streak += streak
        self.open_until = open_until if self.open_until is None else self.open_until
        self.failed(now, error, share)

    def interrupted(self) -> None:
        """Note that a caller broke off its start. That says nothing about the program."""
        self.probing_until = 0.0


@dataclass(frozen=True)
class Lifespan:
    """
    The limits after which one process is replaced. Its share of the jitter is drawn at its start.

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
        """Draw the limits. *share*, a random number from 0 to 1, adds up to ``jitter`` to each."""
        factor = 1.0 + settings.jitter * share
        return cls(
            max_calls=None if settings.max_calls is None else settings.max_calls * factor,
            max_age=None if settings.max_age is None else settings.max_age * factor,
            max_rss=settings.max_rss,
            idle_timeout=settings.idle_timeout,
        )

    @cached_property
    def is_endless(self) -> bool:
        """True if the process has no limit on calls, age or memory, which is the default."""
        return self.max_calls is None and self.max_age is None and self.max_rss is None

    def is_over(self, *, calls: int, age: float, rss: int | None) -> str | None:
        """Return the limit that a process has reached, such as ``max_calls``, or None."""
        if self.max_calls is not None and calls >= self.max_calls:
            return "max_calls"
        if self.max_age is not None and age >= self.max_age:
            return "max_age"
        if self.max_rss is not None and rss is not None and rss > self.max_rss:
            return "max_rss"
        return None

    def is_idle_too_long(self, idle: float) -> bool:
        return self.idle_timeout is not None and idle >= self.idle_timeout
