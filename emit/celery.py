"""
The settings of Celery that lose no message, and a check of the settings a worker runs with.

``configure(app)`` sets them. A worker with a ``CeleryRouter`` checks them when it starts, and
warns about each setting that loses messages or lets them run for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from celery import Celery, Task
from celery.utils.quorum_queues import detect_quorum_queues
from kombu.serialization import registry
from kombu.transport import TRANSPORT_ALIASES

from emit.celery_redis import address_of, broker_of, is_redis, open_redis
from emit.errors import GraphError

__all__ = [
    "check_worker",
    "configure",
    "has_quorum_queues",
    "longest_wait",
    "problems",
    "redis_of",
    "speaks_amqp",
    "visibility",
]

_log = logging.getLogger("emit.celery")

#: Seconds between two searches of kombu for messages of dead workers, times its throttle of 1.
#: With kombu's own throttle of 10, such messages wait 100 s longer than necessary.
_RESTORE = {"unacked_restore_interval": 10, "unacked_restore_throttle": 1}

#: Seconds that RabbitMQ gives a worker to finish a message, unless its ``consumer_timeout`` is set.
#: Then RabbitMQ closes the channel, which ends the whole worker.
_CONSUMER_TIMEOUT = 1800.0

#: Connections to Redis that a worker may open: one for each greenlet or thread that is
#: acknowledging. They are opened as needed. With kombu's limit of 10 an acknowledgement can fail,
#: and its message is delivered again.
_CONNECTIONS = 1000

#: The limits of Celery's pools, by the names that ``celery worker -P`` takes.
_POOLS = {
    **dict.fromkeys(
        ("eventlet", "solo", "threads"),
        "no time limit of Celery's is enforced: a Python handler that hangs is never ended; of a "
        "program its own timeout holds",
    ),
    "gevent": (
        "task_soft_time_limit is not enforced, and task_time_limit ends a handler only where it "
        "waits; its message is delivered again after visibility_timeout; of a program its own "
        "timeout holds"
    ),
}


#: The settings that :func:`configure` sets.
_SET = (
    *("task_acks_late", "task_reject_on_worker_lost", "task_acks_on_failure_or_timeout"),
    *("worker_prefetch_multiplier", "task_serializer", "result_serializer", "accept_content"),
    *("task_time_limit", "task_soft_time_limit", "broker_transport_options"),
)

#: The values that :func:`configure` has set on each app. All other values are the app's own.
_configured: WeakKeyDictionary[Celery, dict[str, Any]] = WeakKeyDictionary()

#: Seconds that a task may take, if neither the app nor the caller sets a limit.
_TIME_LIMIT = 300.0


def configure(app: Celery, *, time_limit: float | None = None) -> None:
    """
    Set what a worker needs so that no message is lost and none runs for ever.

    ======================================= ==================================================
    ``task_acks_late``                      a message stays until its results have been sent
    ``task_reject_on_worker_lost``          ... and goes back if its process dies
    ``task_acks_on_failure_or_timeout``     off: ... or if it takes too long
    ``worker_prefetch_multiplier`` 1        a worker reserves only the messages it works on
    ``task_serializer``, ``accept_content`` JSON only: reading a pickle can run code
    ``task_time_limit``, soft               *time_limit*, and nine tenths of it
    ``visibility_timeout`` (Redis)          2.4 times *time_limit*: the time after which another
                                            worker gets the messages of a dead one
    ``unacked_restore_throttle`` (Redis)    1: and at most 10 s later, not 100 (kombu 5.7)
    ``max_connections`` (Redis)             1000: for many greenlets or threads
    ``confirm_publish`` (RabbitMQ)          a message counts as sent once RabbitMQ confirms it
    ======================================= ==================================================

    Call it after the app's own settings. It keeps every setting that the app has made, and sets the
    others to match. The log warns about each of the app's settings that loses messages.

    Args:
        app: The Celery app.
        time_limit: Seconds that a task may take; 300 if neither this nor the app sets it.

    Raises:
        GraphError: *time_limit* differs from the app's own ``task_time_limit``.
    """
    own = _own(app)
    hard, soft = own.get("task_time_limit"), own.get("task_soft_time_limit")
    if time_limit is not None and hard is not None and hard != time_limit:
        raise GraphError(
            f"configure(app, time_limit={time_limit:g}), but the app sets task_time_limit = "
            f"{hard:g}: leave one of them out"
        )
    if hard is None:
        hard = time_limit or max(_TIME_LIMIT, (soft or 0.0) / 0.9)
    wanted = {
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_acks_on_failure_or_timeout": False,
        "worker_prefetch_multiplier": 1,
        "task_serializer": "json",
        "result_serializer": "json",
        "task_time_limit": hard,
        "task_soft_time_limit": hard * 0.9,
    }
    settings = {**wanted, **own}
    # A worker must be able to read the messages that the app itself sends.
    written = (settings["task_serializer"], settings["result_serializer"])
    wanted["accept_content"] = [*dict.fromkeys(["json", *written])]
    options = {
        **_RESTORE,
        "visibility_timeout": round(settings["task_time_limit"] * 2.4),
        "max_connections": _CONNECTIONS,
        "confirm_publish": True,
    }
    wanted["broker_transport_options"] = {**options, **own.get("broker_transport_options", {})}
    own.pop("broker_transport_options", None)
    _configured[app] = {name: value for name, value in wanted.items() if name not in own}
    app.conf.update(_configured[app])
    with suppress(GraphError):  # an unusable broker: the worker reports it
        for text in (*_wrong(app), *_limits(app)):
            _log.warning("configure(app) leaves what the app has set itself: %s", text)


def _own(app: Celery) -> dict[str, Any]:
    """Return the settings of :func:`configure` that the app has set itself, in any spelling."""
    conf, ours = app.conf, _configured.get(app, {})
    found = {name: conf[name] for name in _SET}  # reading a setting loads the app's configuration
    return {
        name: value
        for name, value in found.items()
        if value is not None
        and (name not in ours or value != ours[name])
        and any(key in layer for layer in conf.maps[:-1] for key in conf._to_keys(name))
    }


def redis_of(app: Celery) -> Any:
    """
    Return a client of the Redis in which Emit keeps counts and dead letters, or None if there is
    none.

    It is the Redis of the setting ``emit_redis``; without that the broker if it is a Redis;
    otherwise the result backend if it is a Redis.

    Raises:
        GraphError: A setting names a Redis that can't be used.
    """
    place = address_of(app)
    return None if place is None else open_redis(place)


def check_worker(
    app: Celery, tasks: Iterable[Task], timeouts: Mapping[str, float], pool: str = "prefork"
) -> None:
    """
    Log a worker's :func:`problems` and the limits of its pool.

    Raises:
        SystemExit: A task may run longer than the broker waits for it, so that it would run
            several times at once; or the nodes can't run in the pool.
    """
    for problem in problems(app, timeouts):
        _log.warning("%s", problem)
    if pool in _POOLS:
        _log.warning("-P %s: %s", pool, _POOLS[pool])
    if pool == "eventlet" and timeouts:
        raise SystemExit(
            f'"{next(iter(timeouts))}" is a program, and programs can\'t run in a worker with '
            f"-P eventlet, which has no select.poll: use -P prefork, threads or gevent"
        )
    for task in tasks:
        # Celery before 5.7 does not copy the setting to the task.
        limit, visible = task.time_limit or app.conf.task_time_limit, visibility(app)
        if limit is not None and visible is not None and limit >= visible:
            raise SystemExit(
                f"{task.name} may run for time_limit = {limit:g} s, but after visibility_timeout "
                f"= {visible:g} s (broker_transport_options) Redis gives it to another worker as "
                f"well: make that more than {2 * limit:g}, or call emit.celery.configure(app)"
            )


def visibility(app: Celery) -> float | None:
    """
    Seconds after which Redis gives a task to another worker; None if the broker is not a Redis.
    """
    broker = broker_of(app, app.connection_for_read)
    if not is_redis(broker):
        return None
    return float(broker.transport_options.get("visibility_timeout", 3600))


def speaks_amqp(app: Celery) -> bool:
    """True if the broker is RabbitMQ, or another that speaks AMQP 0-9-1."""
    name = str(broker_of(app).transport_cls)
    return TRANSPORT_ALIASES.get(name, name).startswith("kombu.transport.pyamqp")


def has_quorum_queues(app: Celery) -> bool:
    """True if Celery delays messages with RabbitMQ's own queues (its native delayed delivery)."""
    return speaks_amqp(app) and bool(detect_quorum_queues(app, "amqp")[0])


def longest_wait(app: Celery) -> float:
    """
    Return how many seconds a message may wait in a worker: half of the broker's limit.

    To the broker, a worker that holds a waiting message is working on it. After the visibility
    timeout Redis gives such a message to another worker, and both run it. RabbitMQ ends the worker.
    """
    allowed = visibility(app)
    if allowed is None and speaks_amqp(app):
        allowed = _consumer_timeout(app)
    return float("inf") if allowed is None else allowed / 2


def _consumer_timeout(app: Celery) -> float:
    """Return RabbitMQ's consumer timeout in seconds, as set for the app or for its queues."""
    own = [float(app.conf.get("emit_consumer_timeout") or _CONSUMER_TIMEOUT)]
    for queue in app.amqp.queues.values():
        told = (queue.queue_arguments or {}).get("x-consumer-timeout")
        own += [told / 1000] if isinstance(told, (int, float)) else []
    return min(own)


def problems(app: Celery, timeouts: Mapping[str, float] = {}) -> list[str]:
    """
    Return the faults in the settings of *app*, one line each; an empty list if there are none.

    Args:
        app: The Celery app.
        timeouts: The ``timeout`` of each node that is a program, in seconds.

    Example:
        >>> app = Celery(broker="redis://")
        >>> configure(app)
        >>> problems(app)
        []
    """
    try:
        broker_of(app)
    except GraphError as error:
        return [str(error)]
    found = _wrong(app)
    if visibility(app) is not None and _throttle(app) > 20:
        found.append(
            f"unacked_restore_interval times unacked_restore_throttle is {_throttle(app):g} s: the "
            f"messages of a dead worker wait for so much longer than visibility_timeout"
        )
    if speaks_amqp(app):
        found += _of_rabbitmq(app)
    found += _limits(app)
    if len(found) > 1 and app not in _configured:
        found.append("emit.celery.configure(app) sets what loses nothing, where the app is made")
    return [*found, *_too_long(app, timeouts), *_keeping(app)]


def _wrong(app: Celery) -> list[str]:
    return [text for is_wrong, text in _WRONG if is_wrong(app.conf)]


def _keeping(app: Celery) -> Iterator[str]:
    """Yield the faults in the settings of the Redis that keeps counts and dead letters."""
    try:
        place = address_of(app)
    except GraphError as error:
        yield f"{error}; until that is mended, a message that fails waits in the queue"
        return
    if place is None:
        yield (
            "no Redis is known: a message that kills its worker is delivered for ever, and dead "
            'letters are only logged; set app.conf.emit_redis = "redis://..."'
        )
    elif app.conf.broker_use_ssl is True and is_redis(broker_of(app)):
        yield (
            "broker_use_ssl = True is of no effect with Redis: Celery speaks to it without TLS; "
            'give it options, such as {"ssl_cert_reqs": ssl.CERT_REQUIRED}'
        )


def _throttle(app: Celery) -> float:
    options = app.conf.broker_transport_options
    interval = options.get("unacked_restore_interval", 10)
    return float(interval * options.get("unacked_restore_throttle", 10))


def _of_rabbitmq(app: Celery) -> list[str]:
    found = []
    if not app.conf.broker_transport_options.get("confirm_publish"):
        found.append(
            "broker_transport_options has no confirm_publish: a message is lost if the connection "
            "breaks as it is sent, or if RabbitMQ refuses it"
        )
    hard, allowed = app.conf.task_time_limit, _consumer_timeout(app)
    if hard is not None and hard >= allowed / 2:
        found.append(
            f"task_time_limit = {hard:g} s is not below half of RabbitMQ's consumer_timeout, "
            f"{allowed:g} s: RabbitMQ ends a worker that holds a message for longer; raise "
            f"consumer_timeout there and set emit_consumer_timeout, in seconds, to the same"
        )
    found += [
        f'the quorum queue "{queue.name}" has a direct exchange: messages that wait (for another '
        f"attempt, or for a program that can't be started) stay in the workers, which take no "
        f"others meanwhile; give it a topic exchange: "
        f'task_default_exchange_type = "topic", with a new task_default_exchange'
        for queue in app.amqp.queues.values()
        if (queue.queue_arguments or {}).get("x-queue-type") == "quorum"
        and queue.exchange.type == "direct"
    ]
    return found


def _limits(app: Celery) -> list[str]:
    """Yield each limit that leaves no time for its work before the next limit ends it."""
    soft, hard, visible = app.conf.task_soft_time_limit, app.conf.task_time_limit, visibility(app)
    found = []
    if hard is None:
        found.append(
            "task_time_limit is not set: a task that hangs is never ended, and one that takes "
            "longer than the broker waits is run by several workers at once"
        )
    elif visible is not None and hard >= visible / 2:
        found.append(f"task_time_limit = {hard:g} s is not below half of visibility_timeout")
    if hard is not None and (soft is None or soft >= hard):
        found.append(
            f"task_soft_time_limit = {soft} is not below task_time_limit = {hard:g}: a task that "
            f"takes too long has no time to put its message back, and waits for its delivery"
        )
    return found


def _too_long(app: Celery, timeouts: Mapping[str, float]) -> Iterator[str]:
    """Yield the programs whose own timeout does not fit into the time limit of their task."""
    first = app.conf.task_soft_time_limit or app.conf.task_time_limit
    for name, timeout in timeouts.items():
        if first is not None and timeout >= first:
            yield (
                f'"{name}": timeout = {timeout:g} s is not below the time limit of its task, '
                f"{first:g} s: set the node's timeout, or configure(app, time_limit=...)"
            )


def _acks_on_timeout(conf: Any) -> bool:
    own = conf.get("task_acks_on_timeout")
    return bool(conf.task_acks_on_failure_or_timeout if own is None else own)


def _accepts(conf: Any, serializer: str) -> bool:
    names = {type: name for name, type in registry.name_to_type.items()}
    return serializer in {names.get(one, one) for one in conf.accept_content}


#: The names of the serializers that run code while they read.
_PICKLE = frozenset({"pickle", "application/x-python-serialize"})

#: Settings of Celery: the test of the value, what is wrong with it, and the effect.
_WRONG: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda conf: not conf.task_acks_late,
        "task_acks_late is off: a message is lost if the process that works on it dies",
    ),
    (
        lambda conf: not conf.task_reject_on_worker_lost,
        "task_reject_on_worker_lost is off: a message whose process dies is lost",
    ),
    (
        _acks_on_timeout,
        "task_acks_on_failure_or_timeout is on: a message over its hard time limit is lost",
    ),
    (
        lambda conf: conf.worker_prefetch_multiplier != 1,
        "worker_prefetch_multiplier is not 1: a worker keeps messages waiting that others could "
        "have, and those it held when it dies wait for visibility_timeout",
    ),
    (
        lambda conf: bool(_PICKLE & set(conf.accept_content)),
        "accept_content has pickle: whoever can write to the broker can run any code here",
    ),
    (
        lambda conf: bool(_PICKLE & {conf.task_serializer, conf.result_serializer}),
        "task_serializer or result_serializer is pickle: whoever can write to the broker or the "
        "result backend can run any code where it is read",
    ),
    (
        lambda conf: not _accepts(conf, conf.task_serializer),
        "accept_content lacks the task_serializer: a worker throws away what the app sends",
    ),
)
