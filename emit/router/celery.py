"""
:class:`CeleryRouter`: every node is a Celery task, and Celery carries the messages.

Emit routes, Celery carries: names, headers, root and parent ids, priorities, countdowns, events
and time limits are Celery's own. A task has one argument, the text of envelope.py, also if its
author calls ``delay``. One header, ``emit``, has Emit's record of earlier attempts.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, NoReturn

from celery import Celery, Task, current_task, signals
from celery.app.task import Context as Request
from celery.app.trace import ExceptionInfo
from celery.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry, SoftTimeLimitExceeded
from celery.states import STARTED
from celery.utils.imports import cwd_in_path
from kombu.exceptions import OperationalError

from emit import errors, workers
from emit.celery import (
    check_worker,
    has_quorum_queues,
    longest_wait,
    problems,
    speaks_amqp,
)
from emit.celery_redis import address_of, open_redis
from emit.context import as_trace
from emit.dead import DeadLetters
from emit.errors import DispatchError, GraphError, LedgerError
from emit.exact import from_text, to_json
from emit.letter import DeadLetter, shortened
from emit.message import Message
from emit.node import get_name
from emit.observe.logs import GIVEN_UP
from emit.router import celery_host
from emit.router.celery_worker import HEADER, keep_unknown
from emit.router.envelope import Packed, Parcel, Past, by_hand, is_emits, shown, unpack
from emit.router.ledger import Ledger, try_out
from emit.router.queued import QueueRouter
from emit.router.receiver import RAW, Delivery, Ended
from emit.router.watch import Watch
from emit.text import hide_arguments, one_line

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from emit.typing import Fields, NodeOptions, Origins

__all__ = ["CeleryRouter"]

#: The header of a task that waits longer than the broker allows: the end of the wait, in seconds
#: since the epoch.
UNTIL = "emit-until"

#: The header of a task that was put back before its delivery was counted: that delivery's name.
REPEAT = "emit-repeat"

#: The header with the time from which a task could be delivered, in seconds since the epoch.
READY = "emit-ready"

#: Seconds before a message that could be neither finished nor put back returns to the queue: the
#: first wait and the longest; each doubles the one before. Without a wait, a broker that refuses
#: would be asked as fast as it can refuse.
_PAUSES = (1.0, 30.0)

#: Seconds for RabbitMQ to confirm that it has a message. After that it is sent again.
_CONFIRM = 30.0

#: What Celery raises for a user's own ``delay`` if the broker can't be reached or refuses.
_REFUSALS = (OperationalError, OSError)

#: Seconds between two checks of a pool's process that its master lives.
_LOOK = 0.25


class CeleryRouter(QueueRouter):
    """
    Routes messages from one Celery task to the next.

    Args:
        celery_task: The decorator that makes a function a task: ``app.task``,
            ``app.task(rate_limit="5/s")``, ``shared_task``. A node may have its own:
            ``router.node(..., celery_task=...)``.
        message_class, node_modules, node_package, redact: As for :class:`emit.router.Router`. The
            worker also imports *node_modules*, so that it knows their tasks.

    A node declared with it is a Celery task: ``tasks.emit_words.delay(document=...)`` runs it in a
    worker, and calling it runs it here. :mod:`emit.celery` has the settings for it.

    Example:
        >>> app = Celery("words", broker="redis://")
        >>> router = CeleryRouter(celery_task=app.task, node_modules=["tasks"])
    """

    interrupts = (SoftTimeLimitExceeded,)
    exceptions = (Retry, Ignore, Reject)
    carrier = "celery"
    queue_options = ("celery_task",)

    def __init__(
        self,
        celery_task: Callable[..., Any],
        message_class: type[Message] | None = None,
        node_modules: Sequence[str] | None = None,
        node_package: str | None = None,
        redact: Iterable[str] = (),
    ) -> None:
        super().__init__(message_class, node_modules, node_package, redact)
        self.celery_task = _checked("CeleryRouter", celery_task)
        self._tasks: dict[str, str] = {}
        self._ledgers: dict[tuple[int, int], Ledger | None] = {}  # by process and app
        self._unsettled = 0  # messages in a row that went back unchanged
        celery_host.connect()
        signals.import_modules.connect(self._import, weak=False)
        signals.celeryd_after_setup.connect(self._check, weak=False)
        signals.celeryd_after_setup.connect(_prepare)
        signals.worker_process_init.connect(_end_with_master)
        signals.worker_process_init.connect(_begin_process)
        signals.worker_process_shutdown.connect(_end)
        signals.worker_ready.connect(_begin)
        signals.worker_shutdown.connect(_end)
        signals.worker_process_shutdown.connect(self._stop, weak=False)
        signals.worker_shutdown.connect(self._stop, weak=False)

    # -- declaring -------------------------------------------------------------------------

    if TYPE_CHECKING:

        def node(
            self,
            fields: Fields,
            subscribe_to: Origins | None = None,
            entry_point: bool = False,
            ignore: Origins | None = None,
            **wrapper_options: Unpack[NodeOptions],
        ) -> Callable[[Callable[..., Any]], Any]: ...

    def wrap_node(self, node: Callable[..., Any], options: dict[str, Any]) -> Any:
        """Make a node a Celery task, by its own ``celery_task`` or the router's."""
        own = options.pop("celery_task", None)
        make_task = _checked(f'"{get_name(node)}"', own) if own else self.celery_task
        self.plan_node(node, options)
        replaced = self.functions.get(get_name(node))
        if isinstance(replaced, Task):  # of two tasks with one name Celery would keep the first
            replaced.app.tasks.pop(replaced.name, None)
        return make_task(self._body(node))

    def _body(self, node: Any) -> Callable[..., Any]:
        """Return the task's function, named so that Celery gives it the node's name."""

        def run(*args: Any, **kwargs: Any) -> Any:
            return self._run_task(node.node, args, kwargs)

        module, name = self._task_name(node)
        run.__module__, run.__name__, run.__qualname__ = module, name, name
        run.__doc__ = _Doc.of(node.__doc__ or "", partial(self._adapt, node.node.name))
        return run

    def _adapt(self, node: str, task: Any) -> None:
        """
        Make messages that users send by hand travel as Emit's own: exactly or not at all, and
        unseen.

        Args:
            node: The node's name.
            task: The class of its task, as Celery is making it for some app.
        """
        inherited, signed, tried = task.apply_async, task.signature, task.retry
        number, watch = self._sender.own_id, self._watch

        @wraps(inherited)
        def apply_async(
            self: Any, args: Any = None, kwargs: Any = None, *more: Any, **options: Any
        ) -> Any:
            sent = _by_hand(node, tuple(args or ()), kwargs or {}, options)
            if not more and "task_id" not in options and (id := number(node)):
                options["task_id"] = id
            if READY not in (options.get("headers") or ()) or options.get("retries"):
                _note_sending(watch, node, options)
            return inherited(self, *sent, *more, **options)

        @wraps(signed)
        def signature(
            self: Any, args: Any = None, kwargs: Any = None, options: Any = None, **more: Any
        ) -> Any:
            options = dict(options or {})
            if "type" not in more and not _is_plain(args, kwargs):
                args, kwargs = _by_hand(node, tuple(args or ()), kwargs or {}, options)
            return signed(self, args, kwargs, options, **more)

        @wraps(tried)
        def retry(own: Any, *args: Any, **options: Any) -> Any:
            if "countdown" in options:
                options["countdown"] = _whole(own.app, options["countdown"])
            try:
                return tried(own, *args, **options)
            except Reject as refused:
                # The broker did not take the retry, and Celery would drop the message.
                if refused.requeue or not isinstance(refused.reason, Exception):
                    raise
                self._keep_in_queue(self._nodes[node], own, refused.reason)

        task.apply_async, task.signature, task.emit = apply_async, signature, (self, node)
        task.retry = retry
        task.tells_start, task.track_started = task.track_started, False
        task.throws = (*task.throws, errors.Reject)  # logged as expected, without a traceback
        if task.delay is Task.delay:
            task.delay = _delay  # any field may be called "self"
        if task.Strategy == Task.Strategy:
            task.Strategy = "emit.router.celery_worker:strategy"
        if task.Request == Task.Request:
            task.Request = "emit.router.celery_worker:NodeRequest"

    def _task_name(self, node: Any) -> tuple[str, str]:
        module, _, name = node.name.rpartition(".")
        module = module or node.__module__
        name = "".join(letter if letter.isalnum() else "_" for letter in name)
        taken = self._tasks.setdefault(f"{module}.{name}", node.name)
        if taken != node.name:
            raise GraphError(
                f'"{node.name}" and "{taken}" would both be the Celery task {module}.{name}; '
                f"give one of them another name"
            )
        return module, name

    # -- sending ---------------------------------------------------------------------------

    def send(
        self,
        origin: str,
        destination: str,
        packed: Packed,
        *,
        delay: float = 0.0,
        past: Past = Past(),  # noqa: B008  # it can't be changed
    ) -> Any:
        """
        Send messages as one task; its id is the id of the message.

        Raises:
            GraphError: There is no node *destination*.
            DispatchError: Celery could not reach its broker.
        """
        task = self._task_of(destination)
        options = _when(self.clock, task.app, delay)
        headers = {HEADER: past.header(), READY: time.time() + delay, **options.pop("headers", {})}
        if packed.traces:
            headers |= packed.headers
        options |= {"headers": headers, "argsrepr": shown(origin, len(packed.ids))}
        with _publishing(origin, destination, task), _confirmed(task.app) as confirmed:
            return task.apply_async(
                (packed.text(origin),),
                task_id=packed.id,
                add_to_parent=False,
                **options,
                **confirmed,
            )

    def send_raw(self, letter: DeadLetter) -> None:
        """
        Send a task again as it came.

        Raises:
            GraphError: There is no such node.
            DispatchError: Celery could not reach its broker, or Celery had read nothing of the
                task.
        """
        task, raw = self._task_of(letter.node), from_text(letter.message[RAW])
        if "args" not in raw:
            raise DispatchError(
                f'"{letter.node}": {letter.id} can\'t be sent again: Celery could not decode its '
                f"body; the letter shows it"
            )
        header = raw.get("header")
        headers = {} if header is None else {HEADER: header}
        options = {"task_id": letter.id, "headers": headers}
        with _publishing(letter.origin, letter.node, task), _confirmed(task.app) as confirmed:
            _as_it_is(task, raw["args"], raw["kwargs"], **options, **confirmed)

    def put_back(
        self,
        delivery: Delivery,
        error: Exception | None,
        *,
        delay: float,
        past: Past,
        repeat: str,
    ) -> NoReturn:
        """
        Send the same task again, with everything that Celery knows about it, and end this one.
        """
        task, request = delivery.native, delivery.native.request
        options = _when(self.clock, task.app, delay)
        new = {HEADER: past.header(), REPEAT: repeat, UNTIL: None, READY: time.time() + delay}
        headers = {**_headers(request), **new, **options.pop("headers", {})}
        # A message that only waits uses up none of the retries that its author allows.
        charged = past.attempts > delivery.past.attempts
        again = task.signature_from_request(
            request, retries=request.retries + charged, headers=headers, **options
        )
        shown_as = {"argsrepr": request.argsrepr}
        with _confirmed(task.app) as confirmed:
            _as_it_is(task, again.args, again.kwargs, **shown_as, **again.options, **confirmed)
        why = f": {one_line(str(error))}" if error else ""
        raise Retry(f"in {delay:.3g} s{why}", exc=error, when=delay)

    def _dispatch_each(self, origin: str, destination: str, results: Any) -> None:
        """
        Let a subclass's ``dispatch`` send messages, typically with the task's own ``delay``. They
        get the ids that Emit's own sending gives.

        Raises:
            DispatchError: The broker refused. The message whose results these are is not at fault.
        """
        task = self._task_of(destination)
        with self._sender.numbering(), _publishing(origin, destination, task, _REFUSALS):
            super()._dispatch_each(origin, destination, results)

    def _task_of(self, destination: str) -> Any:
        task = self.functions.get(destination)
        if task is None:
            raise GraphError(f'"{destination}" is not the name of a node')
        return task

    # -- receiving -------------------------------------------------------------------------

    def _run_task(self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = bool(args) and isinstance(args[0], Task)
        task, args = (args[0], args[1:]) if bound else (current_task, args)
        if not task or task.request.called_directly:
            message = self.get_message_from_call(*args, **kwargs)
            return self._receiver.call(node, message, task if bound else None)
        try:
            delivery = _delivery(task, args, kwargs, bound)
            self._wait_on(delivery)
            self._tell_start(node, delivery)
            outcome = self._receiver.deliver(node, delivery)
        except self.exceptions:
            raise
        except Ended as end:
            error = end.error
        except Exception as unsettled:
            self._keep_in_queue(node, task, unsettled)
        else:
            self._unsettled = 0
            return outcome
        # Shortened here, so that it keeps its cause.
        raise error if task.request.is_eager else shortened(error)

    def _keep_in_queue(self, node: Any, task: Any, error: Exception) -> NoReturn:
        """
        Give a message back to the broker unchanged, when nothing else is possible.

        Celery takes an exception for the task's failure, and rejects the message for good.
        """
        self._unsettled += 1
        self._receiver.say(node, "stay", "%s stays in the queue: %s", task.request.id, error)
        with suppress(SoftTimeLimitExceeded):  # if interrupted, there is no time to wait
            self.clock.sleep(min(_PAUSES[0] * 2.0 ** min(self._unsettled - 1, 63), _PAUSES[1]))
        # Without its cause: a worker that waits for its broker reads no answers. A long traceback
        # that is half-way in the pipe when the soft limit strikes would end the worker.
        raise Reject(one_line(str(error), 500), requeue=True) from None

    def _wait_on(self, delivery: Delivery) -> None:
        """Put back a message that has waited as long as the broker allows at a time."""
        until = _headers(delivery.native.request).get(UNTIL)
        if not isinstance(until, (int, float)) or delivery.eager:
            return
        left = until - self.clock.time()
        if left > 0:
            self.put_back(delivery, None, delay=left, past=delivery.past, repeat=delivery.repeat)

    def _tell_start(self, node: Any, delivery: Delivery) -> None:
        """
        Tell the result backend that a task has begun, if ``task_track_started`` asks for it. If the
        backend is away, Celery itself would fail the task and lose the message.
        """
        task = delivery.native
        told, request = task.tells_start, task.request
        is_wanted = task.app.conf.task_track_started if told is None else told
        if not is_wanted or delivery.eager or request.ignore_result or task.ignore_result:
            return
        by = {"pid": os.getpid(), "hostname": request.hostname}
        try:
            task.backend.store_result(delivery.id, by, STARTED, request=request)
        except self.interrupts:
            raise
        except Exception as error:
            hide_arguments(error)
            text = "%s: the result backend could not be told that it has begun: %s"
            self._receiver.say(node, "start", text, delivery.id, one_line(str(error)))

    def wants_retry(self, delivery: Delivery, error: Exception) -> bool:
        """Return True if Celery's own ``autoretry_for`` is about to try again."""
        task = delivery.native
        kinds = tuple(getattr(task, "autoretry_for", ()))
        not_kinds = tuple(getattr(task, "dont_autoretry_for", ()))
        wanted = isinstance(error, kinds) and not isinstance(error, not_kinds)
        return wanted and (task.max_retries is None or task.request.retries < task.max_retries)

    @contextmanager
    def as_single(self, delivery: Delivery, number: int) -> Iterator[None]:
        """
        Show a bound handler its own message's id and fields (as keywords) in ``task.request``, so
        that ``task.retry()`` sends this message again, and not its batch.
        """
        task, fields = delivery.native, delivery.parcel.messages[number]
        task.request.children  # noqa: B018  # makes the list, so that both requests have the same
        request = Request(
            {**vars(task.request), "id": delivery.parcel.ids[number]},
            args=(),
            kwargs={**fields, "_origin": delivery.origin},
        )
        task.request_stack.push(request)
        try:
            yield
        except MaxRetriesExceededError as error:
            # Celery's text has the arguments, and a text ends in logs.
            error.args = (f"task.retry() was called after max_retries = {task.max_retries}",)
            error.task_args, error.task_kwargs = (), {}
            raise
        finally:
            task.request_stack.pop()

    def tell_failed(
        self, delivery: Delivery, number: int, error: Exception, *, level: int = logging.ERROR
    ) -> None:
        """
        Report one message of a batch to Celery's backend, hooks, signals and events, as Celery
        itself reports a single one. Sentry reads it from the log.
        """
        task, id = delivery.native, delivery.parcel.ids[number]
        cut = shortened(error)
        self.logger.log(level, '"%s": %s failed in a batch', task.name, id, exc_info=cut)
        try:
            self._tell(delivery, number, error)
        except self.interrupts:
            raise
        except Exception:  # the message's fate is settled
            self.logger.warning("Celery could not be told of it", exc_info=True)

    def _tell(self, delivery: Delivery, number: int, error: Exception) -> None:
        task, id = delivery.native, delivery.parcel.ids[number]
        packed = Parcel([id], [delivery.parcel.messages[number]]).packed(task.name)
        text = packed.text(delivery.origin)
        own = {"id": id, "callbacks": None, "chain": None, "chord": None}
        own |= {"argsrepr": shown(delivery.origin, 1), "kwargsrepr": "{}"}
        request = Request({**vars(task.request), **own}, args=(text,), kwargs={})
        ignored = request.ignore_result or task.ignore_result
        try:
            raise error  # as for a single message: an error from a program has no traceback yet
        except Exception:
            traceback = ExceptionInfo()
        told = {"exception": error, "args": request.args, "kwargs": {}, "einfo": traceback}
        task.request_stack.push(request)
        try:
            task.backend.mark_as_failure(
                id,
                error,
                traceback.traceback,
                request=request,
                store_result=not ignored or bool(task.store_errors_even_if_ignored),
            )
            task.on_failure(error, id, request.args, {}, traceback)
            signals.task_failure.send(
                sender=task, task_id=id, traceback=error.__traceback__, **told
            )
            if task.send_events:
                shown_as = {"args": request.argsrepr, "kwargs": request.kwargsrepr}
                task.send_event(
                    "task-received", name=task.name, root_id=request.root_id, **shown_as
                )
                task.send_event("task-failed", exception=repr(error), traceback=traceback.traceback)
        finally:
            task.request_stack.pop()

    # -- counts and dead letters in Redis --------------------------------------------------

    @property
    def dead_letters(self) -> DeadLetters | None:
        """The messages that were given up; None if no Redis is known to keep them."""
        return next((ledger.letters for ledger in self.ledgers()), None)

    def ledgers(self) -> Iterator[Ledger]:
        """Yield each app's ledger in its Redis."""
        for app in self._apps():
            ledger = self._open(app)
            if ledger is not None:
                yield ledger

    def _open(self, app: Celery) -> Ledger | None:
        place = address_of(app)
        if place is None:
            return None
        name, client = app.main or "", open_redis(place)
        return Ledger(client, prefix=place.prefix, app=name, nodes=self.functions)

    def bury(self, delivery: Delivery, letter: DeadLetter, *, level: int = logging.ERROR) -> None:
        """Keep a dead letter in Redis. Without a Redis, only the error is left."""
        with self._keeping(delivery) as ledger:
            if ledger is not None:
                ledger.bury(letter)
        self.logger.log(level, GIVEN_UP, letter.id, letter)

    def count(self, delivery: Delivery) -> int:
        with self._keeping(delivery) as ledger:
            return 1 if ledger is None else ledger.count(delivery.id, delivery.repeat)

    def forget(self, delivery: Delivery) -> None:
        with self._keeping(delivery) as ledger:
            if ledger is not None:
                ledger.forget(delivery.id)

    @contextmanager
    def _keeping(self, delivery: Delivery) -> Iterator[Ledger | None]:
        """
        Yield the ledger of an app, made in the process that uses it: a connection does not survive
        a fork. After an error it is made anew, as there may be several addresses to choose from.
        """
        app = delivery.native.app
        key = (os.getpid(), id(app))
        if key not in self._ledgers:
            self._ledgers[key] = self._open(app)
        try:
            yield self._ledgers[key]
        except LedgerError:
            self._ledgers.pop(key, None)
            raise

    # -- in the worker ---------------------------------------------------------------------

    def _import(self, **_: Any) -> None:
        with cwd_in_path():  # as the worker does for the modules of its own "imports"
            self.resolve_node_modules()

    def import_tasks(self) -> None:
        """
        Import the modules that a worker imports: those that Celery's app names, or finds in
        Django's.

        For looking at a graph whose nodes only Celery knows, and not *node_modules*.
        """
        app = getattr(self.celery_task, "__self__", None)
        if isinstance(app, Celery):
            app.loader.import_default_modules()

    def _check(self, instance: Any, **_: Any) -> None:
        pool = instance.pool_cls.__module__.rpartition(".")[2]
        name = {"thread": "threads"}.get(pool, pool)
        check_worker(instance.app, self._all_tasks(), self._timeouts(), name)
        if any(app is instance.app for app in self._apps()):
            keep_unknown(self, instance.consumer)
        try:
            ledgers = [*self.ledgers()]
        except GraphError as error:
            raise SystemExit(str(error)) from error
        try_out(ledgers, self.logger)
        for ledger in ledgers:  # the processes of the pool have connections of their own
            ledger.redis.connection_pool.disconnect()

    def problems(self) -> list[str]:
        """Return how the settings of its Celery apps harm messages; see `emit.celery.problems`."""
        return [text for app in self._apps() for text in problems(app, self._timeouts())]

    def _apps(self) -> list[Celery]:
        return list({id(task.app): task.app for task in self._all_tasks()}.values())

    def _all_tasks(self) -> list[Any]:
        return [task for task in self.functions.values() if isinstance(task, Task)]

    def _stop(self, **_: Any) -> None:
        self.close()


def _checked(who: str, celery_task: Any) -> Callable[..., Any]:
    """
    Raises:
        GraphError: *celery_task* does not make tasks of functions; most likely it is an app.
    """
    if not callable(celery_task) or isinstance(celery_task, Task):
        raise GraphError(
            f"{who}: celery_task must be what makes a function a task, such as app.task or "
            f'app.task(rate_limit="5/s"), not {celery_task!r}'
        )
    return celery_task  # type: ignore[no-any-return]


def _prepare(instance: Any, **_: Any) -> None:
    """Begin what hangs on this worker, and must be there before its pool forks."""
    workers.prepare(_described(instance.app, instance.hostname))


def _begin(sender: Any, **_: Any) -> None:
    """Begin what hangs on this worker. It is at work from now on."""
    workers.begin(_described(sender.app, sender.hostname))


def _described(app: Any, name: str) -> workers.Worker:
    try:
        address = address_of(app)
    except (
        GraphError
    ):  # a worker without nodes may have such a setting; for one with nodes see above
        address = None
    return workers.Worker(
        name=name,
        queue="celery",
        app=app.main or "",
        open_redis=None if address is None else partial(open_redis, address),
        prefix="" if address is None else address.prefix,
    )


def _begin_process(**_: Any) -> None:
    workers.begin_process()


def _end(**_: Any) -> None:
    workers.end()


def _end_with_master(**_: Any) -> None:
    """
    End a process of the pool whose master was killed. Such a process can't acknowledge its message,
    which is delivered again while the process and its nodes would still work on it.
    """
    threading.Thread(target=_watch, args=(os.getppid(),), name="emit-watch", daemon=True).start()


def _watch(master: int) -> None:
    while os.getppid() == master:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGKILL)


class _Doc(str):
    """
    The docstring of a task, through which Emit finds the task's class.

    Celery makes that class when it needs it, one for each app, and has no hook for it. Python calls
    ``__set_name__`` of each attribute of a new class.
    """

    adapt: Callable[[Any], None]

    @classmethod
    def of(cls, text: str, adapt: Callable[[Any], None]) -> _Doc:
        doc = cls(text)
        doc.adapt = adapt
        return doc

    def __set_name__(self, owner: Any, name: str) -> None:
        self.adapt(owner)


def _delay(self: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Send the call to the queue, like Celery's ``delay``."""
    return self.apply_async(args, kwargs)


def _as_it_is(task: Any, args: Any, kwargs: Any, **options: Any) -> Any:
    """Send arguments that are Emit's already, or that came from a queue."""
    options = {"argsrepr": shown("a queue", 1), "kwargsrepr": "{}", **options}
    return task.apply_async.__wrapped__(task, args, kwargs, **options)


def _by_hand(
    node: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: dict[str, Any]
) -> tuple[Any, Any]:
    """
    Return Emit's text as the arguments for a task that is sent by hand. Change its *options* to
    match.

    Raises:
        TypeError: The arguments are neither keywords nor one dictionary.
        EncodeError: A value that no queue can carry unchanged, with its path.
    """
    headers = options.get("headers") or {}
    marked = is_emits(headers.get(HEADER)) and bool(args) and isinstance(args[-1], str)
    if marked and len(args) == 1 and not kwargs:
        return args, {}
    if marked:  # a signature that was marked, with additions by a chain or its caller
        origin, parcel = unpack(node, "", args[-1])
        args, kwargs = args[:-1], {"_origin": origin, **parcel.messages[0], **kwargs}
    try:
        origin, text = by_hand(node, args, kwargs)
    except TypeError:
        if "parent_id" not in options:
            raise
        # A task in a chain: the earlier task has run, and is not at fault. The worker reports this
        # one.
        options.update(argsrepr="<what the task before it returned>", kwargsrepr="{}")
        return args, kwargs
    past = headers[HEADER] if is_emits(headers.get(HEADER)) else Past().header()
    options["headers"] = {**headers, HEADER: past}
    options.setdefault("argsrepr", shown(origin, 1))
    options.setdefault("kwargsrepr", "{}")
    return (Packed([""], [text]).text(origin),), {}


def _note_sending(watch: Watch, node: str, options: dict[str, Any]) -> None:
    """
    Add the time to the headers in *options*. Tell observers of a message that a user sends by hand.
    """
    headers = options.get("headers") or {}
    at = None if options.get("eta") else time.time() + (options.get("countdown") or 0)
    options["headers"] = {**headers, READY: at}
    if READY not in headers and watch.observers.each:
        id = options.setdefault("task_id", str(uuid.uuid4()))
        trace = watch.sent("", node, id)
        if trace is not None:
            options["headers"] |= Packed([id], [], [trace]).headers


def _is_plain(args: Any, kwargs: Any) -> bool:
    """
    True if Celery's own JSON changes nothing: a signature may travel inside another task. (A map
    with the key ``__type__`` may be one of its encoder's own.)
    """
    text = to_json([list(args or ()), dict(kwargs or {})])
    return text is not None and b'"__type__"' not in text


def _headers(request: Any) -> Mapping[str, Any]:
    return request.headers if isinstance(request.headers, Mapping) else {}


def _when(clock: Any, app: Any, delay: float) -> dict[str, Any]:
    """
    Return the options for a task that is to run in *delay* seconds.

    A wait longer than the broker allows is made of several.
    """
    if not delay:
        return {}
    longest, delay = longest_wait(app), _whole(app, delay)
    if delay <= longest:
        return {"countdown": delay}
    return {"countdown": longest, "headers": {UNTIL: clock.time() + delay}}


def _whole(app: Any, delay: Any) -> Any:
    """
    Round a delay up to whole seconds, if Celery delays messages by RabbitMQ's quorum queues. This
    native delayed delivery accepts only whole seconds, of at least one.
    """
    return math.ceil(delay) if delay and has_quorum_queues(app) else delay


@contextmanager
def _confirmed(app: Any) -> Iterator[dict[str, Any]]:
    """
    Yield options for sending a task that raise an exception if the broker does not take it.

    RabbitMQ accepts and drops a message without a queue, unless the message is mandatory.
    """
    if app.conf.task_always_eager:
        yield {}
        return
    with app.producer_or_acquire() as producer:
        try:
            yield {"producer": producer, "mandatory": True, "confirm_timeout": _CONFIRM}
        except BaseException:
            # The confirmation may still come, and would be taken for the next message's. A clean
            # close would wait for an answer, which a broker that hangs never sends.
            if speaks_amqp(app):
                producer.connection.collect()
            raise


@contextmanager
def _publishing(
    origin: str, destination: str, task: Any, refusals: tuple[type[Exception], ...] = (Exception,)
) -> Iterator[None]:
    try:
        yield
    except SoftTimeLimitExceeded:
        raise
    except refusals as error:
        if task.app.conf.task_always_eager:  # the error is then the subscriber's own
            raise
        hide_arguments(error)
        text = f'"{destination}": Celery could not send a message from "{origin}": {error}'
        raise DispatchError(text) from error


def _delivery(task: Any, args: Any, kwargs: Any, bound: bool) -> Delivery:
    request, headers = task.request, _headers(task.request)
    redelivered = (request.delivery_info or {}).get("redelivered")
    repeat, ready = headers.get(REPEAT), headers.get(READY)
    trace = None
    if "traceparent" in headers:
        trace = as_trace(headers["traceparent"], headers.get("tracestate"))
    return Delivery(
        id=request.id,
        header=headers.get(HEADER),
        args=args,
        kwargs=kwargs,
        repeat=str(uuid.uuid4()) if redelivered else str(repeat or ""),
        trace=trace,
        queue=str((request.delivery_info or {}).get("routing_key") or ""),
        ready=ready if isinstance(ready, float) else None,
        native=task,
        bound=bound,
        eager=request.is_eager,
    )
