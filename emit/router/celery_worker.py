"""The treatment of a node's task by a Celery worker before its arguments are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker.request import Request
from celery.worker.strategy import default
from kombu.exceptions import ContentDisallowed, DecodeError

from emit.errors import Unreadable
from emit.observe.logs import get_logger
from emit.router.envelope import is_emits
from emit.router.receiver import Delivery

__all__ = ["HEADER", "NodeRequest", "keep_unknown", "strategy"]

logger = get_logger("emit.celery")

#: The header that marks a Celery message as Emit's, with the message's earlier attempts.
HEADER = "emit"

#: Seconds before a message that can be neither read nor kept goes back to the queue.
_PAUSE = 1.0


class NodeRequest(Request):  # type: ignore[misc]
    """Shows ``celery inspect`` the same as events show, without the message."""

    def info(self, safe: bool = False) -> Any:
        return super().info(safe=True)


def strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """
    Do as Celery's own strategy, but make a dead letter of an unreadable message.

    Celery would log it and throw it away, without looking at the node's task.
    """
    handle = default(task, app, consumer, **options)

    def receive(message: Any, body: Any, *more: Any, **others: Any) -> Any:
        try:
            if body is None:
                _check(message)
            return handle(message, body, *more, **others)
        except (ContentDisallowed, DecodeError, InvalidTaskError, _Unfit) as error:
            return _give_up(task, consumer, message, error)

    return receive


class _Unfit(Exception):
    """Arguments with which no task can be called."""


def _check(message: Any) -> None:
    """
    Raises:
        ContentDisallowed: Its content type is not in accept_content.
        DecodeError: Its body is damaged.
        _Unfit: It is not a task's body.
    """
    try:
        payload = message.payload  # decoded once, for Celery as well
    except (ContentDisallowed, DecodeError):
        raise
    except Exception as error:
        raise DecodeError(type(error).__name__) from error
    if isinstance(payload, Mapping):  # the form of Celery 3
        return
    if not isinstance(payload, (list, tuple)) or len(payload) != 3:
        raise _Unfit("its body is not a task's")
    args, kwargs, _ = payload
    if not isinstance(args, (list, tuple)) or not isinstance(kwargs, Mapping):
        raise _Unfit("its arguments are not a list and a map")
    if "self" in kwargs:
        raise _Unfit('it has a field "self", which a task takes in one dictionary only')


def keep_unknown(router: Any, consumer: Any) -> None:
    """
    Make a worker turn a message for an unknown node into a dead letter. Newer code may have sent
    it. Celery would log it, with its content, and throw it away.
    """
    inherited = consumer.on_unknown_task

    def on_unknown_task(body: Any, message: Any, error: Any) -> None:
        if is_emits(message.headers.get(HEADER)):
            _give_up_unknown(router, consumer, message)
        else:
            inherited(body, message, error)

    consumer.on_unknown_task = on_unknown_task


def _give_up_unknown(router: Any, consumer: Any, message: Any) -> None:
    node, app = message.headers["task"], consumer.app
    reason = (
        "this worker knows no node of that name: upgrade it, or have it import the node's module, "
        "and replay this"
    )
    try:
        _check(message)
        raw = dict(zip(("args", "kwargs"), message.payload, strict=False))
        raw["header"] = message.headers[HEADER]
    except (ContentDisallowed, DecodeError, _Unfit):
        raw = _raw(message)
    native = SimpleNamespace(app=app, backend=app.backend)
    _keep(router, consumer, message, native, Unreadable(node=node, reason=reason), raw)


def _give_up(task: Any, consumer: Any, message: Any, error: Exception) -> None:
    router, node = task.emit
    # The text of a decoder's error may quote the data.
    reason = str(error) if isinstance(error, (_Unfit, InvalidTaskError)) else type(error).__name__
    unreadable = Unreadable(node=node, reason=f"Celery can't read it: {reason}")
    _keep(router, consumer, message, task, unreadable, _raw(message))


def _keep(
    router: Any,
    consumer: Any,
    message: Any,
    task: Any,
    unreadable: Unreadable,
    raw: Mapping[str, Any],
) -> None:
    """Make a dead letter of a message, or leave it in the queue."""
    headers = message.headers if isinstance(message.headers, Mapping) else {}
    delivery = Delivery(str(headers.get("id") or ""), native=task)
    reject = partial(message.reject_log_error, logger, consumer.connection_errors)
    try:
        router._receiver.bury_raw(delivery, unreadable, raw)
    except Exception as failure:
        text = '"%s": %s stays in the queue: %s'
        logger.error(text, unreadable.node, delivery.id, failure)
        consumer.timer.call_after(_PAUSE, reject, kwargs={"requeue": True})
        return
    logger.error("%s", unreadable)
    reject()
    try:
        task.backend.mark_as_failure(delivery.id, unreadable)
    except Exception:  # the letter is kept, which matters more
        logger.warning("the failure of %s could not be stored", delivery.id, exc_info=True)


def _raw(message: Any) -> dict[str, Any]:
    body = message.body if isinstance(message.body, str) else bytes(message.body)
    if isinstance(body, bytes):
        with suppress(UnicodeDecodeError):
            body = body.decode()
    return {
        "body": body,
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
    }
