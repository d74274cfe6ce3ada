"""
Housekeeping between messages: replace worn processes, stop idle ones, start ``min_idle``.

One daemon thread per host, started with the first job. It sleeps until there is work: a host
without such settings has no thread here, and idle processes cost no processor time.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable

from emit.text import one_line

logger = logging.getLogger(__name__)

#: Seconds between two rounds of housekeeping.
TICK = 0.5


class Keeper:
    """
    The thread that does a host's housekeeping, and jobs that should not delay a message.

    Args:
        keep: Does one round of housekeeping. Returns whether another round is needed.
    """

    def __init__(self, keep: Callable[[], bool]) -> None:
        self._keep = keep
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.RLock()  # guards the thread's creation; reentrant like the pool's
        self._thread: threading.Thread | None = None

    def do(self, job: Callable[[], None]) -> None:
        """Have the keeper's thread run *job* soon."""
        self._jobs.put(job)
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="emit-keeper", daemon=True)
                if self._thread is None:  # the collector may have called `do` just now
                    self._thread = thread
                    thread.start()

    def wake(self) -> None:
        """Have the keeper do a round of housekeeping soon."""
        self.do(lambda: None)

    def stop(self, timeout: float) -> None:
        """End the thread after its present job."""
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._jobs.put(None)
            thread.join(timeout)

    def _run(self) -> None:
        more = False
        while True:
            job: Callable[[], None] | None = _nothing
            with contextlib.suppress(queue.Empty):
                job = self._jobs.get(timeout=TICK if more else None)
            if job is None:
                return
            more = self._do(job)

    def _do(self, job: Callable[[], None]) -> bool:
        # No caller waits for this job, so its failure is logged; the pool it came from counts it.
        try:
            job()
            return self._keep()
        except Exception as error:
            logger.warning("keeper: %s", one_line(str(error)))
            return True


def _nothing() -> None:
    pass
