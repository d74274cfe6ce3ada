"""The worker of RQ that suits nodes in other programs: :class:`EmitWorker`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.scheduler import RQScheduler

from emit.router.rq_log import log_with_worker

__all__ = ["EmitWorker"]

_log = logging.getLogger("emit.rq")

#: Seconds between two looks for jobs whose worker has died; RQ's own are 600.
MAINTENANCE = 60

#: Seconds between two looks for jobs whose time has come, as RQ's own.
TICK = 1.0

#: Seconds between two warnings that such looks fail.
_QUIET = 60.0


class EmitWorker(SimpleWorker):
    """
    Runs jobs in its own process, so that the programs of nodes stay, and are started once.

    RQ's default worker forks for each job: a crash of a Python node then costs one fork, but every
    job starts the programs that it needs anew. Here a crash of a Python node ends the worker; its
    supervisor starts another, and RQ runs the job again. A crash of a program ends nobody else.

    It also watches the time for its queues, which delayed attempts need (as ``--with-scheduler``
    does, but in a thread), and looks every minute for the jobs of workers that died.

    Example::

        rq worker --worker-class emit.rq.EmitWorker default words
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("maintenance_interval", MAINTENANCE)
        super().__init__(*args, **kwargs)

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """As of RQ's workers, which set up their log here; Emit's goes to the same."""
        super().bootstrap(*args, **kwargs)
        log_with_worker()

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """As of RQ's workers. ``with_scheduler`` is of no account: there always is one."""
        # RQ's is a forked process: it outlives a worker that is killed, and so does the worker's
        # connection in it, to which Redis then gives the next job, and nobody runs that.
        kwargs["with_scheduler"] = False
        quiet = logging.WARNING
        scheduler = RQScheduler(self.queues, connection=self.connection, logging_level=quiet)
        with _scheduling(scheduler):
            return super().work(*args, **kwargs)


@contextmanager
def _scheduling(scheduler: RQScheduler) -> Iterator[None]:
    """Put jobs into their queues when their time has come, in a thread."""
    ended = threading.Event()
    thread = threading.Thread(target=_schedule, args=(scheduler, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _schedule(scheduler: Any, ended: threading.Event) -> None:
    warned = float("-inf")
    while not ended.wait(TICK):
        try:
            _look(scheduler)
        except RedisError as error:  # the worker itself waits for it as well
            is_news = time.monotonic() - warned >= _QUIET
            if is_news:
                warned = time.monotonic()
            level = logging.WARNING if is_news else logging.DEBUG
            _log.log(level, "jobs whose time has come wait: %s", error)
    try:
        scheduler.stop()
    except RedisError as error:
        _log.warning("another worker watches the time a minute from now: %s", error)
    scheduler.connection.close()


def _look(scheduler: Any) -> None:
    if scheduler.should_reacquire_locks:
        scheduler.acquire_locks()
    scheduler.heartbeat()
    scheduler.enqueue_scheduled_jobs()
