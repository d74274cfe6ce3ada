"""
The work and the cost of a node: counters, percentiles, memory and processor time.

:meth:`emit.host.Host.snapshot` documents the shape of the figures.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from emit.observe.facts import ProcessEnded, ProcessReplaced
from emit.observe.observers import Observers, tell

#: Buckets per doubling: a percentile is accurate to within 25 %.
_FINENESS = 4

#: Durations below this many seconds count as zero: a lease takes this long if no caller waits.
INSTANT = 5e-6


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket of a duration that is not instant."""
    # frexp splits into a power of two and a share, which is cut in four.
    share, power = math.frexp(seconds)
    return power * _FINENESS + int(share * 2 * _FINENESS) - _FINENESS


class Times:
    """Durations in seconds, kept as counts in buckets: four buckets per doubling."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.longest = 0.0
        self._instant = 0
        self._buckets: dict[int, int] = {}

    @classmethod
    def of(
        cls, count: int, total: float, longest: float, instant: int, buckets: dict[int, int]
    ) -> Times:
        """Return the durations that were counted elsewhere, by :func:`bucket_of`."""
        times = cls()
        times.count, times.total, times.longest = count, total, longest
        times._instant, times._buckets = instant, buckets
        return times

    def add(self, seconds: float, times: int = 1) -> None:
        self.count += times
        if seconds < INSTANT:
            self._instant += times
            return
        self.total += seconds * times
        if seconds > self.longest:
            self.longest = seconds
        bucket = bucket_of(seconds)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + times

    def percentile(self, share: float) -> float:
        """Return the duration that a *share* of all do not exceed; 0 if there are none."""
        wanted = self.count * share
        seen = self._instant
        if seen >= wanted:
            return 0.0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                power, quarter = divmod(bucket, _FINENESS)
                return min(
                    self.longest, math.ldexp((quarter + 1 + _FINENESS) / (2 * _FINENESS), power)
                )
        return 0.0

    def copy(self) -> Times:
        """Return the same durations as an object of its own."""
        other = Times()
        vars(other).update(vars(self) | {"_buckets": dict(self._buckets)})
        return other

    def since(self, earlier: Times) -> Times:
        """Return the durations that were added after *earlier* was copied."""
        new = Times()
        new.count, new.total = self.count - earlier.count, self.total - earlier.total
        new.longest = self.longest  # of all, as nobody knows when it was
        new._instant = self._instant - earlier._instant
        had = earlier._buckets
        new._buckets = {at: n - had.get(at, 0) for at, n in self._buckets.items()}
        return new

    def summary(self) -> dict[str, float]:
        mean = self.total / self.count if self.count else 0.0
        return {
            "p50": self.percentile(0.5),
            "p90": self.percentile(0.9),
            "p99": self.percentile(0.99),
            "max": self.longest,
            "mean": mean,
        }


#: Errors kept per node (the last ones), and characters kept of each text.
_ERRORS = 5
_TEXT = 2000

#: Answers that are noted first and counted together. A note costs a call 0.3 us. Counting at once
#: cost 3 us, as reading the pipe had pushed the counting code and its figures out of the cache.
_NOTES = 64


#: The longest and the shortest time in seconds that ``recent`` figures are of, if anybody looks so
#: often. A look is compared with the oldest look that was not earlier than the first of these.
_RECENT = 10.0
_BETWEEN = 0.5


class _Look(NamedTuple):
    """The figures at the time of a snapshot."""

    at: float
    calls: int
    failures: int
    times: Times


class Recent:
    """The figures of a node in the last seconds, by looks at its totals."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque()

    def look(self, now: float, calls: int, failures: int, times: Times) -> dict[str, float]:
        """
        Return the figures of the last seconds, and keep the present ones for later looks.

        Args:
            now: The time, by the monotonic clock.
            calls, failures, times: The totals. *times* is kept: it must not change later.
        """
        looks = self._looks
        while looks and now - looks[0].at > _RECENT:
            looks.popleft()
        look = _Look(now, calls, failures, times)
        first = looks[0] if looks else look
        if not looks or now - looks[-1].at >= _BETWEEN:
            looks.append(look)
        times = look.times.since(first.times)
        return {
            "seconds": now - first.at,
            "calls": look.calls - first.calls,
            "failures": look.failures - first.failures,
            "p50": times.percentile(0.5),
            "p99": times.percentile(0.99),
        }


class CallAccount:
    """The outcomes of one node's messages. Each method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards the fields below; reentrant like the pool's
        self._calls = 0
        self._errors: deque[dict[str, Any]] = deque(maxlen=_ERRORS)
        self._failures: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()
        self._waits = Times()
        self._times = Times()
        self._recent = Recent()
        # (messages, seconds, waited): appended without the lock, taken under it.
        self._notes: deque[tuple[int, float | None, float]] = deque()

    def answered(self, outcomes: Sequence[Any], seconds: float | None, waited: float = 0.0) -> None:
        """
        Count messages that have their outcome.

        Args:
            outcomes: The outcome of each message.
            seconds: Duration of each call; None: there was no answer, so nothing is timed.
            waited: Part of *seconds* that the message waited for a process.
        """
        self._notes.append((len(outcomes), seconds, waited))
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                self._failed(outcome)
        if len(self._notes) >= _NOTES:
            self._count()

    def _failed(self, error: Exception) -> None:
        if getattr(error, "retry", None) is True and getattr(error, "letter", None) is None:
            self.charged(error)  # it goes back to its queue, for another attempt
            return
        with self._lock:
            self._failures[type(error).__name__] += 1
            self._keep(error)

    def _count(self) -> None:
        with self._lock:
            while self._notes:
                times, seconds, waited = self._notes.popleft()
                self._calls += times
                if seconds is not None:
                    self._times.add(seconds, times)
                    self._waits.add(waited, times)

    def charged(self, error: Exception) -> None:
        """Count a failed attempt at a message."""
        with self._lock:
            self._retries[type(error).__name__] += 1
            self._keep(error)

    def _keep(self, error: Exception) -> None:
        kept = _as_data(error)
        # The failure of the last attempt is also the message's, so it comes here twice.
        if not (self._errors and self._errors[-1]["text"] == kept["text"]):
            self._errors.append(kept)

    @property
    def calls(self) -> int:
        """Number of messages that have their outcome."""
        with self._lock:
            self._count()
            return self._calls

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The last errors, oldest first; see :meth:`emit.host.host.Host.describe`."""
        with self._lock:
            return list(self._errors)

    def snapshot(self) -> dict[str, Any]:
        with self._lock:
            return {
                "calls": self.calls,  # first: it counts the pending notes for the figures below
                "failures": dict(self._failures),
                "retries": dict(self._retries),
                "wait_seconds": self._waits.summary(),
                "call_seconds": self._times.summary(),
                "recent": self._recent.look(
                    time.monotonic(), self._calls, self._failures.total(), self._times.copy()
                ),
            }


def _as_data(error: Exception) -> dict[str, Any]:
    """Return an error as text. The exception itself would keep its frames, and so the message."""
    return {
        "at": time.time(),
        "type": type(error).__name__,
        "text": str(error)[:_TEXT],
        "stderr_tail": getattr(error, "stderr_tail", "")[-_TEXT:],
    }


class Measured(Protocol):
    """A process, as a user of memory and processor time."""

    def usage(self) -> Usage:
        """Return its use so far."""

    def describe(self, usage: Usage) -> dict[str, Any]:
        """Return its row in a snapshot."""


class ProcessAccount:
    """
    The cost of a pool's processes. Each method may be called from any thread.

    Attributes:
        node: The node, or the program if several nodes share it.
        observers: Those of each router whose nodes use the pool. Others may be added.
        start_error: Why the last start failed, in the form of an error of
            :meth:`emit.host.host.Host.describe`; None: it worked, or there was none.
    """

    def __init__(self, node: str, observers: list[Observers] | None = None) -> None:
        self.node = node
        self.observers = [] if observers is None else observers
        self._lock = threading.RLock()  # guards the fields below; reentrant like the pool's
        self._starts = 0
        self._start_failures = 0
        self.start_error: dict[str, Any] | None = None
        self._ends: Counter[str] = Counter()
        self._start_times = Times()
        self._past = Usage()
        self._peak = 0

    def started(self, seconds: float) -> None:
        """Count a process that became ready after *seconds*."""
        with self._lock:
            self._starts += 1
            self.start_error = None
            self._start_times.add(seconds)

    def failed_to_start(self, error: Exception) -> None:
        with self._lock:
            self._start_failures += 1
            self.start_error = _as_data(error)

    def replaced(self, process: Measured, cause: str) -> None:
        """Tell that a process was replaced."""
        if self.observers:
            pid = process.describe(Usage())["pid"]
            tell(self.observers, ProcessReplaced(self.node, pid, cause))

    def ended(self, process: Measured, cause: str) -> None:
        """Count the end of a process, and keep its use. Called while the process still exists."""
        usage = process.usage()
        if self.observers:
            row = process.describe(usage)
            figures = row["calls"], row["age_seconds"], usage.cpu_seconds
            tell(self.observers, ProcessEnded(self.node, row["pid"], cause, *figures))
        with self._lock:
            self._ends[cause] += 1
            self._past += usage
            self._peak = max(self._peak, usage.rss_bytes)

    def snapshot(self, processes: Sequence[Measured]) -> dict[str, Any]:
        """Return the figures as plain data; *processes* are the living ones."""
        each = [(process, process.usage()) for process in processes]
        live = sum((usage for _, usage in each), Usage())
        with self._lock:
            self._peak = max([self._peak, *(usage.rss_bytes for _, usage in each)])
            total = live + self._past
            return {
                "starts": self._starts,
                "start_failures": self._start_failures,
                "start_error": self.start_error and dict(self.start_error),
                "ends": dict(self._ends),
                "start_seconds": self._start_times.summary(),
                "sent_bytes": total.sent_bytes,
                "received_bytes": total.received_bytes,
                "strays": total.strays,
                "cpu_seconds": total.cpu_seconds,
                "rss_bytes": live.rss_bytes,
                "peak_rss_bytes": self._peak,
                "processes": [process.describe(usage) for process, usage in each],
            }


class Usage:
    """The use of one or more processes. Uses can be added."""

    __slots__ = ("cpu_seconds", "received_bytes", "rss_bytes", "sent_bytes", "strays")

    def __init__(
        self,
        cpu_seconds: float = 0.0,
        rss_bytes: int = 0,
        sent_bytes: int = 0,
        received_bytes: int = 0,
        strays: int = 0,
    ) -> None:
        self.cpu_seconds = cpu_seconds
        self.rss_bytes = rss_bytes
        self.sent_bytes = sent_bytes
        self.received_bytes = received_bytes
        self.strays = strays

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, name) + getattr(other, name) for name in _FIGURES))


_FIGURES = ("cpu_seconds", "rss_bytes", "sent_bytes", "received_bytes", "strays")
