"""
A line for ``CeleryRouter``: takes tasks where Celery would publish them, and traces them as a
worker does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from typing import Any

from celery.app.trace import build_tracer
from celery.backends.base import DisabledBackend, KeyValueStoreBackend
from celery.states import REJECTED
from kombu.serialization import dumps, loads

from emit.router.celery import UNTIL, CeleryRouter
from emit.router.celery_worker import HEADER
from emit.router.receiver import Delivery
from emit.testing.driver import Drive, Parcel


class Line:
    """
    Args:
        router: The router.
        drive: Keeps the messages.
    """

    def __init__(self, router: CeleryRouter, drive: Drive) -> None:
        self._router = router
        self._drive = drive
        self._tracers: dict[str, Any] = {}
        self._delays: dict[str, float] = {}

    def open(self, stack: ExitStack) -> None:
        for name, value in (("count", self._drive.count), ("forget", self._drive.forget)):
            self._drive._put(stack, name, value)
        for app in self._router._apps():
            app.finalize()
            self._take(app, stack)

    def _take(self, app: Any, stack: ExitStack) -> None:
        """Put this line in the place of an app's broker and of its result backend."""
        make, amqp = app.amqp.create_task_message, app.amqp

        def create(id: str, name: str, *args: Any, **options: Any) -> Any:
            message = make(id, name, *args, **options)
            self._delays[id] = _delay(*args[2:4])
            return message

        def send(producer: Any, name: str, message: Any, **options: Any) -> None:
            self._keep(app, name, message, options)

        _replace(stack, app.events, "default_dispatcher", _no_events)
        _replace(stack, amqp, "create_task_message", create)
        _replace(stack, amqp, "send_task_message", send)
        eager = app.conf.task_always_eager
        app.conf.task_always_eager = False
        stack.callback(setattr, app.conf, "task_always_eager", eager)
        if isinstance(app.backend, DisabledBackend):
            return
        results = Results(app=app)
        for owner, name in ((app, "_backend"), (app._local, "backend")):
            _replace(stack, owner, name, results)

    def _keep(self, app: Any, name: str, message: Any, options: dict[str, Any]) -> None:
        headers = {**message.headers, **(options.get("headers") or {})}
        if name not in app.tasks:
            self._drive.elsewhere.append(name)
            return
        queue = options.get("queue")
        serializer = options.get("serializer") or app.conf.task_serializer
        native = {
            "app": app,
            "task": name,
            "headers": headers,
            "properties": message.properties,
            "body": dumps(message.body, serializer=serializer),  # type: ignore[no-untyped-call]
            "queue": options.get("routing_key") or getattr(queue, "name", queue) or "",
        }
        delay = self._delays.pop(headers["id"], 0.0)
        if headers.get(UNTIL):  # one wait, which the broker allows only in several parts
            delay = headers.pop(UNTIL) - self._drive.clock.time()
        self._put(native, delay=delay)

    def _put(self, native: dict[str, Any], *, delay: float = 0.0, is_repeat: bool = False) -> None:
        headers, id = native["headers"], native["headers"]["id"]
        task = native["app"].tasks[native["task"]]
        args, kwargs, _ = _read(native["body"])
        delivery = Delivery(id, headers.get(HEADER), args, kwargs)
        node = task.emit[1] if hasattr(task, "emit") else ""
        self._drive.take(delivery, node, native, delay=delay, is_repeat=is_repeat)

    def deliver(self, parcel: Parcel) -> list[Any]:
        native = parcel.native
        app, name, headers = native["app"], native["task"], native["headers"]
        task = app.tasks[name]
        tracer = self._tracers.get(name)
        if tracer is None:
            tracer = build_tracer(name, task, app.loader, "emit.testing", app=app)
            self._tracers[name] = tracer
        args, kwargs, embed = _read(native["body"])
        place = {"exchange": "", "routing_key": native["queue"], "redelivered": parcel.is_repeat}
        request = {
            **headers,
            **embed,
            "hostname": "emit.testing",
            "is_eager": False,
            "args": args,
            "kwargs": kwargs,
            "delivery_info": {"priority": 0, **place},
            "properties": native["properties"],
            "reply_to": native["properties"].get("reply_to"),
            "correlation_id": native["properties"].get("correlation_id"),
        }
        value, info, *_ = tracer(headers["id"], args, kwargs, request)
        if info is None:
            return [value]
        if info.state == REJECTED and info.retval.requeue:
            self._put(native, is_repeat=True)
        return []

    def lost(self, parcel: Parcel) -> None:
        self._put(parcel.native, is_repeat=True)


class _Unheard:
    """Stands where the dispatcher of a worker's events stands."""

    def send(self, *_: Any, **__: Any) -> None:
        """Nobody listens."""


@contextmanager
def _no_events(*_: Any, **__: Any) -> Iterator[_Unheard]:
    yield _Unheard()


class Results(KeyValueStoreBackend):  # type: ignore[misc]
    """Keeps results of tasks in memory."""

    implements_incr = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._kept: dict[str, Any] = {}

    def get(self, key: Any) -> Any:
        return self._kept.get(_text(key))

    def mget(self, keys: Any) -> Any:
        return [self.get(key) for key in keys]

    def set(self, key: Any, value: Any) -> None:
        self._kept[_text(key)] = value

    def delete(self, key: Any) -> None:
        self._kept.pop(_text(key), None)

    def incr(self, key: Any) -> int:
        number = int(self._kept.get(_text(key), 0)) + 1
        self._kept[_text(key)] = number
        return number

    def expire(self, key: Any, value: Any) -> None:
        """Keep it until the test ends."""


def _text(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)


def _read(body: Any) -> Any:
    content_type, encoding, payload = body
    return loads(payload, content_type, encoding, accept={content_type})  # type: ignore[no-untyped-call]


def _delay(countdown: Any = None, eta: Any = None) -> float:
    """Return the seconds until a task is due, as it was sent with *countdown* or *eta*."""
    if countdown:
        return float(countdown)
    if eta is None:
        return 0.0
    moment = datetime.fromisoformat(eta) if isinstance(eta, str) else eta
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())


def _replace(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    mine = vars(owner)
    if name in mine:
        stack.callback(setattr, owner, name, mine[name])
    else:
        stack.callback(mine.pop, name, None)
    setattr(owner, name, value)
