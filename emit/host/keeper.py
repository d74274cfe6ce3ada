"""
What happens while nobody calls: replacing worn processes, stopping idle ones, filling up.

One daemon thread per host, started when there is first something to do. It sleeps until then:
a host without such settings has no thread here, and idle processes cost no processor time.
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
    Args:
        keep: One round of housekeeping. It returns whether another is needed.
    """

    def __init__(self, keep: Callable[[], bool]) -> None:
        self._keep = keep
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.RLock()  # guards the thread's making; reentrant as the pool's
        self._thread: threading.Thread | None = None

    def do(self, job: Callable[[], None]) -> None:
        """Have *job* done soon, by the keeper's thread."""
        self._jobs.put(job)
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="emit-keeper", daemon=True)
                if self._thread is None:  # the collector may have had something to do just now
                    self._thread = thread
                    thread.start()

    def wake(self) -> None:
        """Have a round of housekeeping done soon."""
        self.do(lambda: None)

    def stop(self, timeout: float) -> None:
        """End the thread after the job that it is at."""
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
        # A failure here is nobody's call: it is logged, and counted by the pool it came from.
        try:
            job()
            return self._keep()
        except Exception as error:
            logger.warning("keeper: %s", one_line(str(error)))
            return True


def _nothing() -> None:
    pass
