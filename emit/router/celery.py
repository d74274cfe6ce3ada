"""
:class:`CeleryRouter`: every node is a Celery task, and Celery carries the messages.

Emit routes, Celery carries: names, headers, root and parent ids, priorities, countdowns, events
and time limits are Celery's own. What Emit adds is in one header, ``emit``, and only where a
message is tried again: the causes of the attempts before.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, NoReturn

from celery import Celery, Task, current_task, signals
from celery.app.task import Context as Request
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.utils.imports import cwd_in_path
from kombu.exceptions import EncodeError as KombuEncodeError
from kombu.utils.url import maybe_sanitize_url

from emit.celery import (
    check_worker,
    has_quorum_queues,
    longest_wait,
    problems,
    redis_of,
    redis_url,
    speaks_amqp,
)
from emit.dead import DeadLetters
from emit.errors import DispatchError, EncodeError, GraphError, LedgerError
from emit.letter import Cause, DeadLetter
from emit.router import celery_host
from emit.router.delivery import Parcel, opened
from emit.router.ledger import Ledger
from emit.router.naming import get_name
from emit.router.queued import QueueRouter
from emit.router.receiver import Delivery, Ended
from emit.text import one_line

__all__ = ["CeleryRouter"]

#: The header of a Celery message that has what Emit needs to know about earlier attempts.
HEADER = "emit"

#: The header of one that waits longer than the broker allows: until when, in seconds since the
#: epoch.
UNTIL = "emit-until"

#: The header of one that was put back without a charge: how often.
WAITS = "emit-waits"

#: The header of one that was put back before a delivery was counted: the name of that delivery.
REPEAT = "emit-repeat"

#: Seconds before a message goes back that could be neither finished nor put back. They double with
#: each, up to the second number: the broker refuses, and is not asked as fast as it can refuse.
_PAUSES = (1.0, 30.0)

#: Seconds for RabbitMQ to confirm that it has a message. Then it is sent again.
_CONFIRM = 30.0

#: Seconds between two looks of a pool's process for its master.
_LOOK = 0.25


class CeleryRouter(QueueRouter):
    """
    Routes messages from one Celery task to the next.

    Args:
        celery_task: What makes a function a task: ``app.task``, ``app.task(rate_limit="5/s")``,
            ``shared_task``. A node may have its own: ``router.node(..., celery_task=...)``.
        args, kwargs: As for :class:`emit.router.Router`. The *node_modules* are imported by
            the worker, too, so that it knows their tasks.

    A node declared with it is a Celery task: ``tasks.emit_words.delay(document=...)`` has a
    worker run it, and calling it runs it here. :mod:`emit.celery` has the settings to go with
    it.

    Example:
        >>> app = Celery("words", broker="redis://")
        >>> router = CeleryRouter(celery_task=app.task, node_modules=["tasks"])
    """

    interrupts = (SoftTimeLimitExceeded,)
    signals = (Retry, Ignore, Reject)
    queue_options = ("celery_task",)

    def __init__(self, celery_task: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.celery_task = _checked("CeleryRouter", celery_task)
        self._tasks: dict[str, str] = {}
        self._ledger: tuple[int, Ledger | None] | None = None
        self._unsettled = 0  # messages in a row that went back as they were
        celery_host.connect()
        signals.import_modules.connect(self._import, weak=False)
        signals.celeryd_after_setup.connect(self._check, weak=False)
        signals.worker_process_init.connect(_end_with_master)
        signals.worker_process_shutdown.connect(self._stop, weak=False)
        signals.worker_shutdown.connect(self._stop, weak=False)

    # -- declaring -------------------------------------------------------------------------

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
        """The task's function, named so that Celery gives it the node's name."""

        def run(*args: Any, **kwargs: Any) -> Any:
            return self._run_task(node.node, args, kwargs)

        module, name = self._task_name(node)
        run.__module__, run.__name__, run.__qualname__ = module, name, name
        run.__doc__ = node.__doc__
        return run

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
        parcel: Parcel,
        *,
        delay: float = 0.0,
        causes: Sequence[Cause] = (),
        waits: int = 0,
    ) -> Any:
        """
        Send messages as one task; its id is that of the message.

        Raises:
            GraphError: There is no node *destination*.
            DispatchError: Celery could not reach its broker.
            EncodeError: Celery's serializer has no form for a value.
        """
        task: Any = self.functions.get(destination)
        if task is None:
            raise GraphError(f'"{destination}" is not the name of a node')
        options = _without_payload(origin, len(parcel.ids)) | _when(task.app, delay)
        if causes:
            options.setdefault("headers", {})[HEADER] = _to_header(causes)
        if waits:
            options.setdefault("headers", {})[WAITS] = waits
        with _publishing(origin, destination, task), _confirmed(task.app) as confirmed:
            return task.apply_async(
                (),
                parcel.envelope(origin),
                task_id=parcel.id,
                add_to_parent=False,
                **options,
                **confirmed,
            )

    def put_back(
        self,
        delivery: Delivery,
        error: Exception | None,
        *,
        delay: float,
        causes: Sequence[Cause],
        waits: int,
        repeat: str,
    ) -> Any:
        """Send the same task again, with all that Celery knows of it, and end this one."""
        task, request = delivery.native, delivery.native.request
        options = _without_payload(delivery.origin, len(delivery.parcel.ids))
        options |= _when(task.app, delay)
        new = {HEADER: _to_header(causes), WAITS: waits, REPEAT: repeat, UNTIL: None}
        headers = {**(request.headers or {}), **new, **options.pop("headers", {})}
        # A message that only waits uses up none of the retries that its author allows.
        charged = len(causes) > len(delivery.causes)
        signature = task.signature_from_request(
            request, retries=request.retries + charged, headers=headers, **options
        )
        with _confirmed(task.app) as confirmed:
            signature.apply_async(**confirmed)
        why = f": {one_line(str(error))}" if error else ""
        raise Retry(f"in {delay:.3g} s{why}", exc=error, when=delay)

    # -- receiving -------------------------------------------------------------------------

    def _run_task(self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = bool(args) and isinstance(args[0], Task)
        task = args[0] if bound else current_task
        message = self.get_message_from_call(*args[bound:], **kwargs)
        if not task or task.request.called_directly:
            return self._receiver.call(node, message, task if bound else None)
        try:
            delivery = _delivery(task, message, bound)
            self._wait_on(delivery)
            outcome = self._receiver.deliver(node, delivery)
        except self.signals:
            raise
        except Ended as end:
            error = end.error
        except Exception as unsettled:
            self._keep_in_queue(node, task, unsettled)
        else:
            self._unsettled = 0
            return outcome
        raise error  # here, so that it keeps the cause that it has

    def _keep_in_queue(self, node: Any, task: Any, error: Exception) -> NoReturn:
        """
        Give a message back to the broker as it is, which is all that is left.

        An exception would not do: to Celery it is the task's failure, and rejects it for good.
        """
        self._unsettled += 1
        self._receiver.say(node, "stay", "%s stays in the queue: %s", task.request.id, error)
        with suppress(SoftTimeLimitExceeded):  # then there is no time to wait
            time.sleep(min(_PAUSES[0] * 2.0 ** min(self._unsettled - 1, 63), _PAUSES[1]))
        # Without its cause: a worker that waits for its broker reads no answers, and a long
        # traceback, stuck half-way in the pipe when the soft limit strikes, is its end.
        raise Reject(str(error), requeue=True) from None

    def _wait_on(self, delivery: Delivery) -> None:
        """Put back what has waited for as long as the broker may have it wait at a time."""
        until = (delivery.native.request.headers or {}).get(UNTIL)
        if until is None or (left := until - time.time()) <= 0 or delivery.eager:
            return
        self.put_back(
            delivery,
            None,
            delay=left,
            causes=delivery.causes,
            waits=delivery.waits,
            repeat=delivery.repeat,
        )

    def wants_retry(self, delivery: Delivery, error: Exception) -> bool:
        """Whether Celery's own ``autoretry_for`` is about to try again."""
        task = delivery.native
        kinds = tuple(getattr(task, "autoretry_for", ()))
        not_kinds = tuple(getattr(task, "dont_autoretry_for", ()))
        wanted = isinstance(error, kinds) and not isinstance(error, not_kinds)
        return wanted and (task.max_retries is None or task.request.retries < task.max_retries)

    @contextmanager
    def as_single(self, delivery: Delivery, number: int) -> Iterator[None]:
        """So that ``task.retry()`` sends this message again, and not its batch."""
        task, fields = delivery.native, delivery.parcel.messages[number]
        request = Request(
            {**vars(task.request), "id": delivery.parcel.ids[number]},
            args=(),
            kwargs={**fields, "_origin": delivery.origin},
        )
        task.request_stack.push(request)
        try:
            yield
        finally:
            task.request_stack.pop()

    # -- what Redis keeps ------------------------------------------------------------------

    @property
    def dead_letters(self) -> DeadLetters | None:
        """The messages that were given up; None where no Redis is known to keep them."""
        for task in self.functions.values():
            if isinstance(task, Task):
                client = redis_of(task.app)
                return Ledger(client).letters if client is not None else None
        return None

    def bury(self, delivery: Delivery, letter: DeadLetter) -> None:
        """Keep a dead letter in Redis; without one the error is all that is left of it."""
        ledger = self._keep(delivery)
        if ledger is not None:
            ledger.bury(letter)
        self.logger.error("%s is given up: %r", letter.id, letter)

    def count(self, delivery: Delivery) -> int:
        ledger = self._keep(delivery)
        return ledger.count(delivery.id, delivery.repeat) if ledger is not None else 1

    def forget(self, delivery: Delivery) -> None:
        ledger = self._keep(delivery)
        if ledger is not None:
            ledger.forget(delivery.id)

    def _keep(self, delivery: Delivery) -> Ledger | None:
        """Made in the process that uses it: a connection does not survive a fork."""
        if self._ledger is None or self._ledger[0] != os.getpid():
            try:
                client = redis_of(delivery.native.app)
            except Exception as error:
                url = redis_url(delivery.native.app)
                raise LedgerError("be reached", maybe_sanitize_url(url), error) from error
            self._ledger = (os.getpid(), Ledger(client) if client is not None else None)
        return self._ledger[1]

    # -- in the worker ---------------------------------------------------------------------

    def _import(self, **_: Any) -> None:
        with cwd_in_path():  # as the worker does for the modules of its own "imports"
            self.resolve_node_modules()

    def import_tasks(self) -> None:
        """
        Import what a worker imports: the modules that Celery's app names, or finds in Django's.

        For who looks at a graph whose nodes are known to Celery only, and not as node_modules.
        """
        app = getattr(self.celery_task, "__self__", None)
        if isinstance(app, Celery):
            app.loader.import_default_modules()

    def _check(self, instance: Any, **_: Any) -> None:
        check_worker(instance.app, self._all_tasks(), self._timeouts())

    def problems(self) -> list[str]:
        """What the settings of its Celery apps do to messages; see `emit.celery.problems`."""
        apps = {id(task.app): task.app for task in self._all_tasks()}
        return [text for app in apps.values() for text in problems(app, self._timeouts())]

    def _all_tasks(self) -> list[Any]:
        return [task for task in self.functions.values() if isinstance(task, Task)]

    def _stop(self, **_: Any) -> None:
        self.close()


def _checked(who: str, celery_task: Any) -> Callable[..., Any]:
    """
    Raises:
        GraphError: It makes no tasks of functions: it is an app, most likely.
    """
    if not callable(celery_task) or isinstance(celery_task, Task):
        raise GraphError(
            f"{who}: celery_task must be what makes a function a task, such as app.task or "
            f'app.task(rate_limit="5/s"), not {celery_task!r}'
        )
    return celery_task  # type: ignore[no-any-return]


def _end_with_master(**_: Any) -> None:
    """
    In a process of the pool: do not outlive a master that was killed. Nobody could acknowledge
    what it works on, which is delivered again, while it and its nodes would go on with it.
    """
    threading.Thread(target=_watch, args=(os.getppid(),), name="emit-watch", daemon=True).start()


def _watch(master: int) -> None:
    while os.getppid() == master:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGKILL)


def _without_payload(origin: str, count: int) -> dict[str, Any]:
    """What logs, events and monitors show in place of a task's arguments."""
    what = "a message" if count == 1 else f"{count} messages"
    return {"argsrepr": "()", "kwargsrepr": f"<{what} from {origin}>"}


def _when(app: Any, delay: float) -> dict[str, Any]:
    """
    Options for a task that is to run in *delay* seconds.

    A wait that is longer than the broker allows is made of several. Celery's native delayed
    delivery, by quorum queues of RabbitMQ, knows whole seconds only, and refuses less than one.
    """
    longest = longest_wait(app)
    if delay and has_quorum_queues(app):
        delay = math.ceil(delay)
    if delay <= longest:
        return {"countdown": delay} if delay else {}
    return {"countdown": longest, "headers": {UNTIL: time.time() + delay}}


@contextmanager
def _confirmed(app: Any) -> Iterator[dict[str, Any]]:
    """
    Give options for sending a task, by which it is an exception if the broker does not take it.

    RabbitMQ takes a message for which there is no queue, and drops it, unless it is mandatory.
    """
    if app.conf.task_always_eager:
        yield {}
        return
    with app.producer_or_acquire() as producer:
        try:
            yield {"producer": producer, "mandatory": True, "confirm_timeout": _CONFIRM}
        except BaseException:
            # The confirmation may still come, and would be taken for that of the next message.
            # And kombu would say farewell, which a broker that hangs never answers.
            if speaks_amqp(app):
                producer.connection.collect()
            raise


@contextmanager
def _publishing(origin: str, destination: str, task: Any) -> Iterator[None]:
    try:
        yield
    except KombuEncodeError as error:
        reason = f"Celery's serializer can't write it: {error}"
        raise EncodeError(node=origin, path="a result", reason=reason) from error
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:
        if task.app.conf.task_always_eager:  # then it is the subscriber's own
            raise
        text = f'"{destination}": Celery could not send a message from "{origin}": {error}'
        raise DispatchError(text) from error


def _delivery(task: Any, message: Any, bound: bool) -> Delivery:
    request = task.request
    headers: Mapping[str, Any] = request.headers or {}
    origin, parcel = opened(request.id, vars(message))
    redelivered = (request.delivery_info or {}).get("redelivered")
    return Delivery(
        id=request.id,
        origin=origin,
        parcel=parcel,
        causes=_from_header(headers.get(HEADER)),
        waits=headers.get(WAITS) or 0,
        repeat=str(uuid.uuid4()) if redelivered else headers.get(REPEAT) or "",
        traceparent=headers.get("traceparent"),
        native=task,
        bound=bound,
        eager=request.is_eager,
    )


def _to_header(causes: Sequence[Cause]) -> list[dict[str, Any]]:
    """Short: a broker may allow a header few bytes."""
    return [asdict(cause) | {"text": cause.text[:500], "stderr_tail": ""} for cause in causes]


def _from_header(header: Any) -> tuple[Cause, ...]:
    return tuple(map(Cause.read, header or ()))
