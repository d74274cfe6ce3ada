"""The worker of RQ that suits nodes in other programs: :class:`EmitWorker`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

from redis import ConnectionPool, exceptions
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import SimpleWorker
from rq.connections import parse_connection
from rq.defaults import DEFAULT_MAINTENANCE_TASK_INTERVAL
from rq.scheduler import RQScheduler

from emit import workers
from emit.router.ledger import Ledger, try_out
from emit.router.rq import log_with_worker
from emit.workers import Worker

__all__ = ["EmitWorker"]

_log = logging.getLogger("emit.rq")

#: Seconds between two searches for jobs whose worker has died; RQ's own are 600.
MAINTENANCE = 60

#: Seconds that RQ locks a queue for such a search. After this time Emit takes a lock for one that a
#: worker left behind when it died, or when Redis went away.
_LOCKED = 899
_STALE = 120

#: Errors of Redis that pass: the next attempt at the same command may succeed.
_PASSING = (
    OSError,  # raised by redis-py before 6 if it can't connect
    exceptions.ConnectionError,  # also while Redis loads its data
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
    exceptions.OutOfMemoryError,
    exceptions.NoPermissionError,  # a working worker had the permission before
)

#: The longest wait in seconds between two attempts at a command while Redis is away.
_LONGEST_WAIT = 2.0

#: Seconds that others than the worker itself wait for Redis.
_ANSWER = 5.0

#: Seconds between two searches for jobs that are due, as in RQ.
TICK = 1.0

#: Seconds between two attempts to take over a queue's schedule from a worker that may have died.
#: RQ's own are 600: the dead worker's delayed jobs would wait that long.
_TAKE_OVER = 10.0

#: Seconds between two warnings that such searches fail.
_QUIET = 60.0


class EmitWorker(SimpleWorker):
    """
    Runs jobs in its own process, so that the nodes' programs are started once and stay.

    RQ's default worker forks for each job. A crash of a Python node then costs one fork, but every
    job starts the programs that it needs anew. Here a crash of a Python node ends the worker: its
    supervisor starts another, and RQ runs the job again. A crash of a program ends only that
    program.

    It also

    * watches the schedule of its queues, which delayed attempts need (as ``--with-scheduler``
      does, but in a thread);
    * looks every minute for the jobs of workers that died, also while it has no job itself;
    * waits for a Redis that goes away, also in the middle of a job. RQ's own workers then end.

    Example::

        rq worker --worker-class emit.rq.EmitWorker default words
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # RQ's command line passes its default as if the user had set it.
        if self.maintenance_interval == DEFAULT_MAINTENANCE_TASK_INTERVAL:
            self.maintenance_interval = MAINTENANCE
        self._patience = _Patience()

    @property
    def dequeue_timeout(self) -> int:
        """Seconds to wait for a job, at most until the next search for lost ones."""
        return max(1, min(super().dequeue_timeout, self.maintenance_interval, MAINTENANCE))

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """
        Begin to work, as RQ's workers do; then wait for Redis whenever it goes away.

        A Redis that can't be reached at the start is an error, as for RQ. A Redis that takes jobs
        but no dead letters is a warning. RQ sets up its log here, and Emit logs to the same place.
        """
        super().bootstrap(*args, **kwargs)
        log_with_worker()
        try_out([Ledger(self.connection, counts=False)], _log)
        workers.begin(Worker(self.name, "rq", open_redis=partial(_impatient, self.connection)))
        # A client of its own: handlers may use the worker's client, and must not wait.
        self.connection = self._patience.client(self.connection)
        self.queues = [self._patient(queue) for queue in self.queues]
        self._ordered_queues = self.queues[:]

    def _patient(self, queue: Any) -> Any:
        patient = copy(queue)
        patient.connection = self.connection
        return patient

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """Work as RQ's workers do. ``with_scheduler`` changes nothing: a scheduler always runs."""
        # RQ's scheduler is a forked process, which outlives a killed worker. It then holds the
        # worker's connection open, to which Redis gives the next job, and nobody runs that job.
        kwargs["with_scheduler"] = False
        quiet = logging.WARNING
        scheduler = RQScheduler(self.queues, connection=self.connection, logging_level=quiet)
        with _scheduling(scheduler):
            return super().work(*args, **kwargs)

    def clean_registries(self) -> None:
        """Look for the jobs of dead workers, as RQ does, and override a dead worker's lock."""
        for queue in self.queues:
            left = self.connection.ttl(queue.registry_cleaning_key)
            if 0 <= left < _LOCKED - _STALE:
                self.connection.delete(queue.registry_cleaning_key)
        super().clean_registries()  # type: ignore[no-untyped-call]

    def set_shutdown_requested_date(self) -> None:
        """
        Tell Redis that this worker is to stop. A signal handler calls this, so it must not wait.
        """
        with self._patience.ended(), _telling("Redis doesn't know that this worker is to stop"):
            super().set_shutdown_requested_date()  # type: ignore[no-untyped-call]

    def teardown(self) -> None:
        """Sign off in Redis, if it can be reached."""
        workers.end()
        with self._patience.ended(), _telling("Redis still lists this worker for some minutes"):
            super().teardown()  # type: ignore[no-untyped-call]


class _Patience(Retry):
    """Retries a worker's commands to Redis until they succeed."""

    def __init__(self) -> None:
        super().__init__(NoBackoff(), -1, supported_errors=_PASSING)  # -1: any number of times
        self._is_ended = False
        self._warned = float("-inf")

    def __deepcopy__(self, memo: Any) -> _Patience:
        return self  # each connection copies it, and all of them must see the end

    def client(self, client: Any) -> Any:
        """Return a client for the same Redis as *client* that waits for it."""
        kind, connection_class, settings = parse_connection(client)
        settings |= {"retry": self, "retry_on_error": list(_PASSING)}
        return kind(connection_pool=ConnectionPool(connection_class=connection_class, **settings))

    @contextmanager
    def ended(self) -> Iterator[None]:
        """Try each command only once in this block."""
        before, self._is_ended = self._is_ended, True
        try:
            yield
        finally:
            self._is_ended = before

    def call_with_retry(self, do: Any, fail: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call *do* until it succeeds, and *fail* after each failure, as redis-py defines it."""
        failures = 0

        def failed(error: Exception, *more: Any) -> None:
            nonlocal failures
            failures += 1
            fail(error, *more)
            if self._is_ended:
                raise error
            self._tell(error)
            time.sleep(min(0.05 * 2.0 ** min(failures, 10), _LONGEST_WAIT))

        return super().call_with_retry(do, failed, *args, **kwargs)

    def _tell(self, error: Exception) -> None:
        if time.monotonic() - self._warned >= _QUIET:
            self._warned = time.monotonic()
            _log.warning("this worker waits for Redis: %s", error)


def _impatient(client: Any) -> Any:
    """Return a client for the same Redis as *client* that gives up soon."""
    kind, connection_class, settings = parse_connection(client)
    limits = {"socket_timeout": _ANSWER, "socket_connect_timeout": _ANSWER}
    settings = {**settings, **limits, "retry": Retry(NoBackoff(), 0)}
    return kind(connection_pool=ConnectionPool(connection_class=connection_class, **settings))


@contextmanager
def _telling(what: str) -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        _log.warning("%s: %s", what, error)


@contextmanager
def _scheduling(scheduler: RQScheduler) -> Iterator[None]:
    """Put jobs into their queues when they are due, in a thread."""
    ended = threading.Event()
    thread = threading.Thread(target=_schedule, args=(scheduler, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _schedule(scheduler: Any, ended: threading.Event) -> None:
    warned = asked = float("-inf")
    while not ended.wait(TICK):
        if time.monotonic() - asked >= _TAKE_OVER:
            asked = time.monotonic()
            scheduler.lock_acquisition_time = None  # asks at once for the missing locks
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
