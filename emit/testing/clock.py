"""The clock of a driven graph, and the marks of idempotent sinks, which expire by it."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """
    Has ``time`` and ``sleep`` as the module has them. Time passes only by :meth:`sleep` and
    :meth:`go_to`.

    Attributes:
        began: The time at which it began, in seconds since the epoch: that of its making.
        now: Seconds since then.
    """

    def __init__(self) -> None:
        self.began = time.time()
        self.now = 0.0

    def time(self) -> float:
        """Return the time in seconds since the epoch."""
        return self.began + self.now

    def sleep(self, seconds: float) -> None:
        """Let *seconds* pass, at once."""
        self.now += max(0.0, seconds)

    def go_to(self, moment: float) -> None:
        """Let time pass up to *moment*, in seconds since its beginning. It never goes back."""
        self.now = max(self.now, moment)


class Marks:
    """
    Keeps the marks of :func:`emit.once.idempotent` in memory, in place of a client of redis-py.

    Args:
        clock: Tells when a mark has expired.
        is_alive: Returns False while a worker dies: a process that was killed writes nothing.
    """

    def __init__(self, clock: Clock, is_alive: Callable[[], bool]) -> None:
        self._clock = clock
        self._is_alive = is_alive
        self._kept: dict[str, tuple[str, float]] = {}

    def get(self, key: str) -> str | None:
        """Return the value of a mark; None if there is none."""
        value, until = self._kept.get(key, ("", 0.0))
        return value if until > self._clock.now else None

    def set(self, key: str, value: str, *, px: int, nx: bool = False) -> bool:
        """Set a mark for *px* milliseconds; with *nx* only if there is none. Return True if set."""
        if not self._is_alive() or (nx and self.get(key) is not None):
            return False
        self._kept[key] = (value, self._clock.now + px / 1000)
        return True

    def eval(self, script: str, keys: int, key: str, value: str) -> None:
        """Do as the only script that is run for a mark: drop it if it has *value*."""
        if self._is_alive() and self.get(key) == value:
            del self._kept[key]
