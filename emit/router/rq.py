"""
:class:`RQRouter`: every node is a function that RQ runs, and RQ carries the messages.

1. A job has one argument, the text of envelope.py, and its id is its message's. The job's ``meta``
   has Emit's record of earlier attempts.
2. RQ runs a job again whose worker died, ``max_deliveries`` times: RQ's ``retries_left`` is Emit's
   count of deliveries. With 1 left the delivery only makes a dead letter. With 0 left RQ has failed
   the job for good. If it comes all the same, somebody has requeued it, and it begins anew.
3. Another attempt is an RQ ``Retry`` that the job returns, so nothing is logged as a failure.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import reduce
from typing import TYPE_CHECKING, Any, NoReturn

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Retry, get_current_job
from rq.defaults import DEFAULT_WORKER_TTL
from rq.exceptions import TimeoutFormatError
from rq.job import Job, JobStatus
from rq.scheduler import RQScheduler
from rq.timeouts import JobTimeoutException
from rq.utils import now, parse_timeout

from emit.context import as_trace
from emit.dead import DeadLetters
from emit.errors import DispatchError, GraphError, InProgress, LedgerError, Reject
from emit.exact import from_text
from emit.letter import DeadLetter, shortened
from emit.message import Message
from emit.node import look_like
from emit.observe.logs import GIVEN_UP
from emit.router.envelope import Packed, Past, by_hand, shown
from emit.router.ledger import Ledger, is_away
from emit.router.queued import QueueRouter
from emit.router.receiver import RAW, Delivery, Ended
from emit.text import hide_arguments

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from emit.typing import Fields, NodeOptions, Origins, RQDecorator

__all__ = ["RQRouter", "log_with_worker"]

#: The key in a job's ``meta`` that marks it as Emit's, with the message's earlier attempts. For a
#: job that a user enqueues by RQ's own means, RQ counts as the user told it to.
META = "emit"

#: Causes that a dead letter of a job keeps: the first, and the latest of the others.
_REMEMBERED = 20

#: The longest wait in seconds of a worker itself before another attempt, if no scheduler runs.
_LONGEST_WAIT = 5.0

#: Seconds beyond a job's time limit after which RQ treats its worker as dead.
_GRACE = 60

#: RQ sets up handlers and a level only for its own loggers.
_worker = logging.getLogger("rq.worker")
_emit = logging.getLogger("emit")


@dataclass(frozen=True)
class Jobs:
    """
    The queue of a node's jobs, and their limits.

    Attributes:
        queue: RQ's own.
        timeout: Seconds that a job may take; None: the queue's limit, 180 by default.
        result_ttl: Seconds that RQ keeps a job's return value.
    """

    queue: Queue
    timeout: int | None
    result_ttl: int

    @property
    def limit(self) -> int:
        """Seconds that a job may take; -1: no limit."""
        return self.queue._default_timeout if self.timeout is None else self.timeout


class Again(Exception):
    """Ends a job that is to run again. *retry* is its result for RQ."""

    def __init__(self, retry: Retry) -> None:
        super().__init__(repr(retry))
        self.retry = retry


class RQRouter(QueueRouter):
    """
    Routes messages from one RQ job to the next.

    Args:
        redis_connection: A client of redis-py for the jobs of all nodes, or the URL for one, such
            as ``"redis://localhost:6379/0"``.
        app: The name of the application, if others keep their dead letters in the same Redis.
        message_class, node_modules, node_package, redact: As for :class:`emit.router.Router`.

    ``router.node`` also takes

    ==============  ===================  ====================================================
    option          default
    ==============  ===================  ====================================================
    ``queue``       ``"default"``        the name of a queue, or an ``rq.Queue``
    ``connection``  *redis_connection*   another client or URL, for this node's jobs
    ``timeout``     None: RQ's, 180      seconds that a job may take. For a node that is a
                                         program, it is the program's own limit; set the
                                         job's with ``Queue(default_timeout=...)``
    ``result_ttl``  500                  seconds that a job's return value is kept
    ==============  ===================  ====================================================

    A node can be enqueued by hand as well: ``tasks.emit_words.delay(document=...)``. RQ finds it
    by its name in its module, so the module must have it under that name.

    Raises:
        GraphError: *redis_connection* is neither a client nor a URL.

    Example:
        >>> router = RQRouter(redis_connection=Redis(), node_modules=["tasks"])
    """

    interrupts = (JobTimeoutException,)
    exceptions = (Again,)
    carrier = "rq"
    queue_options = ("queue", "connection", "timeout", "result_ttl")

    def __init__(
        self,
        redis_connection: str | Redis,
        message_class: type[Message] | None = None,
        node_modules: Sequence[str] | None = None,
        node_package: str | None = None,
        redact: Iterable[str] = (),
        *,
        app: str = "",
    ) -> None:
        super().__init__(message_class, node_modules, node_package, redact)
        self._app = app
        self.redis_connection = _client("RQRouter: redis_connection", redis_connection)
        self._jobs: dict[str, Jobs] = {}
        self._limits: dict[str, int] = {}  # max_deliveries, by RQ's name of a node
        self._found: set[str] = set()

    # -- declaring -------------------------------------------------------------------------

    if TYPE_CHECKING:

        def node(
            self,
            fields: Fields,
            subscribe_to: Origins | None = None,
            entry_point: bool = False,
            ignore: Origins | None = None,
            **wrapper_options: Unpack[NodeOptions],
        ) -> RQDecorator: ...

    def wrap_node(self, node: Callable[..., Any], options: dict[str, Any]) -> Any:
        """Return the node in a form that RQ can run, with ``delay`` and ``enqueue``."""
        name = self.node_in(node).name
        self._jobs[name] = self._jobs_of(name, options)
        self.plan_node(node, options)
        return self._job(node)

    def _jobs_of(self, name: str, options: dict[str, Any]) -> Jobs:
        own = options.pop("connection", None)
        connection = self.redis_connection if own is None else _client(f'"{name}": connection', own)
        queue = options.pop("queue", "default")
        if not isinstance(queue, Queue):
            queue = Queue(queue, connection=connection)
        timeout = options.pop("timeout", None)
        return Jobs(
            queue,
            timeout if timeout is None else seconds(name, "timeout", timeout),
            seconds(name, "result_ttl", options.pop("result_ttl", 500)),
        )

    def _job(self, node: Any) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            job = get_current_job()
            if job is None or job.func_name != _path(run) or getattr(job, "emit_begun", False):
                message = self.get_message_from_call(*args, **kwargs)
                return self._receiver.call(node.node, message)
            job.emit_begun = True  # type: ignore[attr-defined]  # a call by its handler is none
            return self._work(node.node, job, args, kwargs)

        def enqueue(*args: Any, **kwargs: Any) -> Any:
            origin, text = by_hand(node.name, args, kwargs)
            return self._sender.send_text(origin, node.name, text)

        look_like(run, node, node.name)
        self._limits[_path(run)] = self._plans[node.name].policy.max_deliveries
        run.delay = run.enqueue = enqueue  # type: ignore[attr-defined]
        return run

    def problems(self) -> list[str]:
        """Return how the settings of its queues and jobs harm messages; see :func:`problems`."""
        return problems(self._jobs, self._timeouts())

    # -- sending ---------------------------------------------------------------------------

    def send(
        self,
        origin: str,
        destination: str,
        packed: Packed,
        *,
        delay: float = 0.0,
        past: Past = Past(),  # noqa: B008  # it can't be changed
    ) -> Job:
        """
        Enqueue messages as one job; its id is the id of the message.

        Raises:
            GraphError: There is no node *destination*, or RQ could not find it.
            DispatchError: Redis refused.
        """
        job = self._make_job(
            destination,
            packed.id,
            shown(origin, len(packed.ids)),
            args=(packed.text(origin),),
            meta={META: past.header(), **packed.headers},
        )
        return self._enqueue(origin, destination, job, delay)

    def send_raw(self, letter: DeadLetter) -> None:
        """
        Enqueue a job again as it came.

        Raises:
            GraphError: There is no such node, or RQ could not find it.
            DispatchError: Redis refused.
        """
        raw = from_text(letter.message[RAW])
        meta = None if raw["header"] is None else {META: raw["header"]}
        job = self._make_job(
            letter.node,
            letter.id,
            shown("a queue", 1),
            args=tuple(raw["args"]),
            kwargs=raw["kwargs"],
            meta=meta,
        )
        self._enqueue(letter.origin, letter.node, job)

    def _make_job(self, destination: str, id: str, what: str, **options: Any) -> Job:
        function, jobs = self._find(destination), self._jobs[destination]
        return jobs.queue.create_job(
            function,
            job_id=id,
            timeout=jobs.timeout,
            result_ttl=jobs.result_ttl,
            description=f"{destination}({what})",
            retry=Retry(max=self._life(_path(function))),
            **options,
        )

    def _enqueue(self, origin: str, destination: str, job: Job, delay: float = 0.0) -> Job:
        queue = self._jobs[destination].queue
        with _publishing(origin, destination):
            if queue.is_async and self._schedules(queue, delay):
                job.set_status(JobStatus.SCHEDULED)
                return queue.schedule_job(job, now() + timedelta(seconds=delay))
            return queue.enqueue_job(job)

    def resend(self, letter: DeadLetter) -> None:
        """
        Do as :meth:`QueueRouter.resend`.

        Raises:
            InProgress: The worker that gave the message up has not ended its job yet, or was killed
                before it did. RQ would write that end over the new job, which has the same id.
        """
        jobs = self._jobs.get(letter.node)
        if jobs is not None:
            with _publishing(letter.origin, letter.node):
                status = jobs.queue.connection.hget(Job.key_for(letter.id), "status")
            if status in (JobStatus.STARTED, JobStatus.STARTED.encode()):
                raise InProgress(letter.id, max(jobs.limit, 0) + _GRACE)
            with _publishing(letter.origin, letter.node):  # else `rq requeue` sends it once more
                jobs.queue.failed_job_registry.remove(letter.id)
        super().resend(letter)

    def _find(self, destination: str) -> Any:
        """Return the node as RQ will find it."""
        function = self.functions.get(destination)
        if function is None:
            raise GraphError(f'"{destination}" is not the name of a node')
        if destination not in self._found:
            _check_path(destination, function)
            self._found.add(destination)
        return function

    def _schedules(self, queue: Queue, delay: float) -> bool:
        """Return True if there is a *delay* and a worker watches this queue's schedule."""
        if round(delay) < 1:
            return False
        return bool(queue.connection.exists(RQScheduler.get_locking_key(queue.name)))

    def put_back(
        self, delivery: Delivery, error: Exception, *, delay: float, past: Past, repeat: str
    ) -> NoReturn:
        """Make RQ run the same job again, and end this run of it."""
        job: Any = delivery.native
        job.meta[META] = past.header()
        if not repeat:  # otherwise RQ's count of remaining retries stays unchanged
            job.retries_left = self._life(job.func_name)
        queue = Queue(job.origin, connection=job.connection)
        try:
            scheduled = self._schedules(queue, delay)
        except RedisError:  # RQ is about to notice by itself
            scheduled = False
        if not scheduled:
            self.clock.sleep(min(delay, _LONGEST_WAIT))
        once_more = (job.number_of_retries or 0) + 1
        raise Again(Retry(max=once_more, interval=round(delay) if scheduled else 0)) from error

    def _life(self, path: str) -> int:
        """Return the ``retries_left`` of a new job: all its deliveries, and one to bury it."""
        return self._limits[path] + 1

    # -- receiving -------------------------------------------------------------------------

    def _work(self, node: Any, job: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if META in job.meta and job.retries_left == 0:
            return self._renew(job)
        delivery = self._delivery(node, job, args, kwargs)
        if not delivery.eager:  # an eager job may run in a process that is not a worker
            log_with_worker()
        try:
            return self._receiver.deliver(node, delivery)
        except Again as again:
            return again.retry
        except Ended as end:
            job.retries_left = 0  # it is a dead letter now
            error = end.error
            if isinstance(error, Reject):
                _rejected.expect(job.id)
        except Exception as unsettled:
            self._receiver.say(node, "stay", "%s stays in the queue: %s", job.id, unsettled)
            # RQ subtracts one, but this delivery must not count.
            left = self._life(job.func_name) if job.retries_left is None else job.retries_left
            job.retries_left = max(1, left) + 1
            raise
        finally:
            if os.environ.get("RQ_JOB_ID") == job.id:  # this process was forked only for this job
                self.close()
        # Shortened here, so that it keeps its cause.
        raise error if delivery.eager else shortened(error)

    def _renew(self, job: Any) -> Retry:
        """
        Let a failed job that was requeued begin anew, as if it were sent now.

        It goes back into the queue first. RQ counts with the value that it has read from Redis, and
        would fail the job at once if its worker died now.
        """
        job.retries_left = self._life(job.func_name)
        job.meta[META] = Past().header()
        return Retry(max=(job.number_of_retries or 0) + 1)

    def _delivery(
        self, node: Any, job: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Delivery:
        left = job.retries_left
        counted = META in job.meta and left is not None and left < self._life(job.func_name)
        return Delivery(
            id=job.id,
            header=job.meta.get(META),
            args=args,
            kwargs=kwargs,
            repeat=str(left) if counted else "",
            trace=as_trace(job.meta.get("traceparent"), job.meta.get("tracestate")),
            queue=job.origin,
            ready=None if job.enqueued_at is None else job.enqueued_at.timestamp(),
            native=job,
            eager=not self._jobs[node.name].queue.is_async,
        )

    # -- counts and dead letters in Redis --------------------------------------------------

    @property
    def dead_letters(self) -> DeadLetters:
        """The messages that were given up, except those of nodes with another ``connection``."""
        return self._ledger(self.redis_connection).letters

    def ledgers(self) -> Iterator[Ledger]:
        """Yield a ledger for each Redis that jobs come from."""
        clients = [self.redis_connection, *(jobs.queue.connection for jobs in self._jobs.values())]
        yield from map(self._ledger, {id(client): client for client in clients}.values())

    def _ledger(self, client: Any) -> Ledger:
        return Ledger(client, app=self._app, nodes=self.functions, counts=False)

    def bury(self, delivery: Delivery, letter: DeadLetter, *, level: int = logging.ERROR) -> None:
        """
        Keep a dead letter in the Redis that the job came from. If the job was requeued, add the
        causes of the message's earlier letter.
        """
        # With the node's client: a worker's own client repeats even a command that is not
        # permitted.
        ledger = self._ledger(self._jobs[letter.node].queue.connection)
        try:
            _bury(ledger, letter)
        except LedgerError as error:
            if not is_away(error):
                raise
            delivery.native.connection.ping()  # an EmitWorker's client returns when Redis is back
            _bury(ledger, letter)
        self.logger.log(level, GIVEN_UP, letter.id, letter)

    def tell_failed(
        self, delivery: Delivery, number: int, error: Exception, *, level: int = logging.ERROR
    ) -> None:
        """Log the failure of one message of a batch, where Sentry reads it. RQ knows only jobs."""
        id, name = delivery.parcel.ids[number], delivery.native.func_name
        text = '"%s": %s failed in a batch'
        self.logger.log(level, text, name, id, exc_info=shortened(error))

    def count(self, delivery: Delivery) -> int:
        job: Any = delivery.native
        return self._life(job.func_name) - int(job.retries_left) + 1

    def forget(self, delivery: Delivery) -> None:
        """Do nothing: RQ forgets its count with the job."""


def _client(option: str, connection: Any) -> Any:
    """
    Return a client of redis-py.

    Raises:
        GraphError: *connection* is neither a client nor a URL for one. The text does not quote it,
            as it may hold a password.
    """
    needed = f"{option} must be a client of redis-py, or a URL such as redis://localhost:6379/0"
    if isinstance(connection, str):
        try:
            return Redis.from_url(connection)
        except ValueError:
            text = "redis-py can't read the one given (in a password write / as %2F, : as %3A)"
            raise GraphError(f"{needed}: {text}") from None
    kind = type(connection)
    if not hasattr(connection, "connection_pool") or kind.__module__.startswith("redis.asyncio"):
        raise GraphError(f"{needed}, not of type {kind.__module__}.{kind.__qualname__}")
    return connection


def _bury(ledger: Ledger, letter: DeadLetter) -> None:
    earlier = ledger.find(letter.id)
    ledger.bury(letter if earlier is None else _after(earlier, letter))


def _after(earlier: DeadLetter, letter: DeadLetter) -> DeadLetter:
    """Add an earlier letter's history of the same message to *letter*."""
    first, *others = (*earlier.causes, *letter.causes)
    causes = (first, *others[1 - _REMEMBERED :])
    attempts = (earlier.attempts or 0) + (letter.attempts or 0)
    return replace(letter, causes=causes, attempts=attempts)


def _path(function: Any) -> str:
    """Return RQ's name for a function."""
    return f"{function.__module__}.{function.__qualname__}"


def _check_path(destination: str, function: Any) -> None:
    """
    Raises:
        GraphError: A worker could not import it.
    """
    module = sys.modules.get(function.__module__)
    names = function.__qualname__.split(".")
    found = reduce(lambda owner, name: getattr(owner, name, None), names, module)
    if found is not function or function.__module__ == "__main__":
        raise GraphError(
            f'"{destination}": RQ finds a node by its name, and {_path(function)} is not this one; '
            f"declare it at the top of a module that the worker can import, under its own name"
        )


@contextmanager
def _publishing(origin: str, destination: str) -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        hide_arguments(error)
        text = f'"{destination}": RQ could not enqueue a message from "{origin}": {error}'
        raise DispatchError(text) from error


def seconds(node: str, option: str, value: Any) -> int:
    """
    Read a time as RQ does: whole seconds, or a text such as ``"1h"``. -1 means no limit.

    Raises:
        GraphError: *value* is not a time.
    """
    try:
        read = parse_timeout(value)
    except (TimeoutFormatError, TypeError, AssertionError, OverflowError) as error:
        raise GraphError(f'"{node}": {option} = {value!r}: {error}') from error
    cut_off = isinstance(value, float) and value != read  # RQ would cut it off silently
    if read is None or cut_off or read < -1 or (read == 0 and option == "timeout"):
        raise GraphError(f'"{node}": {option} = {value!r} is no number of whole seconds, nor -1')
    return read


def problems(of_nodes: Mapping[str, Jobs], timeouts: Mapping[str, float] = {}) -> list[str]:
    """
    Return the faults in the settings of nodes, one line each; an empty list if there are none.

    Args:
        of_nodes: The jobs of each node, by its name.
        timeouts: The ``timeout`` of each node that is a program, in seconds.

    Example:
        >>> problems({"words": Jobs(Queue(connection=Redis()), timeout=None, result_ttl=500)})
        []
    """
    each = [text for name, jobs in of_nodes.items() for text in _of(name, jobs, timeouts.get(name))]
    return [*each, *_mixed(of_nodes)]


def _of(name: str, jobs: Jobs, timeout: float | None) -> Iterator[str]:
    queue, limit = jobs.queue, jobs.limit
    if not queue.is_async:
        yield (
            f'"{name}": the queue "{queue.name}" has is_async=False: a job runs where it is sent, '
            f"and its message is lost if that process dies"
        )
    if limit < 0:
        yield (
            f'"{name}": its jobs have no time limit: one that hangs is never ended, and one that '
            f"takes more than {DEFAULT_WORKER_TTL} s in an EmitWorker is taken for dead and run "
            f"again beside it; set timeout, of a program Queue(default_timeout=...)"
        )
    elif timeout is not None and timeout >= limit:
        yield (
            f'"{name}": timeout = {timeout:g} s is not below the time limit of its job, {limit} s: '
            f"set the node's timeout, or Queue(default_timeout=...)"
        )
    if jobs.result_ttl < 0:
        yield (
            f'"{name}": result_ttl is -1: Redis keeps every job for ever, and the message with it'
        )


def _mixed(of_nodes: Mapping[str, Jobs]) -> Iterator[str]:
    """Yield each queue with several serializers. A worker reads all its jobs with one."""
    first: dict[Any, tuple[str, Jobs]] = {}
    for name, jobs in of_nodes.items():
        queue = jobs.queue
        other, known = first.setdefault((queue.name, id(queue.connection)), (name, jobs))
        if known.queue.serializer is not queue.serializer:
            yield (
                f'"{name}" and "{other}": the queue "{queue.name}" has two serializers: a worker '
                f"fails the jobs of one of them unread, and makes no dead letter of them"
            )


class _WithWorker(logging.Handler):
    """Passes a record to the worker's log, unless the user has set up handlers for it."""

    def emit(self, record: logging.LogRecord) -> None:
        if _emit.handlers == [self] and not (_emit.propagate and logging.root.handlers):
            named = copy(record)
            named.msg, named.args = f"{record.name}: {record.getMessage()}", ()
            named.name = _worker.name  # so that Sentry leaves it out: it has the first one
            _worker.handle(named)


class _Rejected(logging.Filter):
    """
    Makes the line of RQ's worker that a job has failed a warning if the author's handler has
    rejected its message: alerts are on errors.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ids: set[str] = set()

    def expect(self, id: str) -> None:
        """Wait for the line about a job."""
        self._ids.add(id)
        _worker.addFilter(self)  # once, however often

    def filter(self, record: logging.LogRecord) -> bool:
        id = getattr(record, "job_id", None)
        if id in self._ids:
            self._ids.discard(id)
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


_rejected = _Rejected()


def log_with_worker() -> None:
    """
    Log the logger ``emit`` as the worker's own log: same handlers, form and level.

    Does nothing if ``emit`` has a handler already, or if this process has no worker's log.
    """
    if _emit.hasHandlers() or not _worker.hasHandlers():
        return
    _emit.addHandler(_WithWorker())
    if _emit.level == logging.NOTSET:
        _emit.setLevel(_worker.getEffectiveLevel())
