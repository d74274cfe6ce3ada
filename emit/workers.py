"""
The life of a queue's worker, for what hangs on it and works beside its messages.

A companion is a function that a worker calls when it is ready, in the process that the pool of
Celery belongs to, or in RQ's worker itself. Others are called before the pool forks, or in each of
its processes. The worker knows no companion but its name, and imports it by that. A companion that
fails is logged, and changes nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple
from weakref import WeakSet

from emit.text import one_line

__all__ = [
    *("COMPANIONS", "EARLY", "OF_PROCESSES", "Worker", "add", "begin", "begin_process"),
    *("each_router", "end", "prepare"),
]

logger = logging.getLogger("emit")

#: The companions of each worker, as ``module:function``. The function takes the worker, and returns
#: what is called at its end, or None.
COMPANIONS = ["emit.observe.fleet:join"]

#: Those that are called before the pool forks, in the same form. What they return is left alone.
EARLY = ["emit.observe.fleet:prepare"]

#: The companions of each process that handles messages. They take nothing, and return the same.
OF_PROCESSES = ["emit.observe.looks:open"]


class Worker(NamedTuple):
    """
    A worker that is ready.

    Attributes:
        name: Its name in its queue, such as ``celery@web1``.
        queue: The kind of its queue: ``celery`` or ``rq``.
        app: The name of its application; empty for none.
        open_redis: Makes a client of the Redis that Emit uses there, with short timeouts and
            connections of its own; None: there is no Redis.
        prefix: The beginning of the names of all keys in it, before ``emit:``.
    """

    name: str
    queue: str
    app: str = ""
    open_redis: Callable[[], Any] | None = None
    prefix: str = ""


#: The ends of companions, each with the process that it belongs to.
_ends: list[tuple[int, Callable[[], object]]] = []

#: The routers of this process that a queue brings messages, and the functions that see each.
_routers: WeakSet[Any] = WeakSet()
_seeing: list[Callable[[Any], object]] = []


def add(router: Any) -> None:
    """Make a queue's router known to :func:`each_router`."""
    _routers.add(router)
    for see in _seeing:
        see(router)


def each_router(see: Callable[[Any], object]) -> Callable[[], None]:
    """
    Call *see* with each queue's router of this process, also with those that are made later. Return
    what ends that.
    """
    _seeing.append(see)
    for router in list(_routers):
        see(router)
    return partial(_seeing.remove, see)


def prepare(worker: Worker) -> None:
    """Call the companions that come before the pool forks. They must not wait."""
    for name in EARLY:
        _call(name, worker)


def begin(worker: Worker) -> None:
    """Call the companions. They must not wait: the worker waits for them."""
    end()
    for name in COMPANIONS:
        _keep(_call(name, worker))
    begin_process()


def begin_process() -> None:
    """Call the companions of a process that handles messages. They must not wait."""
    for name in OF_PROCESSES:
        _keep(_call(name))


def _keep(ends: Any) -> None:
    if ends is not None:
        _ends.append((os.getpid(), ends))


def _call(name: str, *args: Any) -> Any:
    module, _, function = name.partition(":")
    try:
        return getattr(import_module(module), function)(*args)
    except Exception:
        logger.exception("%s could not begin; the worker goes on without it", name)
    return None


def end() -> None:
    """Tell the companions that the worker ends, or this process of its pool. May be repeated."""
    while _ends:
        pid, ends = _ends.pop()
        if pid != os.getpid():  # those of the master that has forked this process
            continue
        try:
            ends()
        except Exception as error:
            logger.warning("%r did not end well: %s", ends, one_line(str(error)))
