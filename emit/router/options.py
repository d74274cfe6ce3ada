"""
The options of ``router.node``: the router that takes each, and the meaning of a queue's options
without a queue. No I/O here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import Any

from emit.errors import GraphError
from emit.node import Node, look_like
from emit.text import nearest

#: The options of ``router.node`` that every router takes.
OPTIONS = ("name", "stream", "pass_through", "validate")

#: The options of ``router.node`` that every router of a queue takes.
QUEUED = (
    *("batch", "batch_bytes", "many", "return_results"),
    *("max_attempts", "max_retries", "max_deliveries"),
)

#: The other options of ``CeleryRouter`` and ``RQRouter``. Every router knows them, so that nodes
#: can be declared with another one, as in a test.
CELERY = ("celery_task",)
RQ = ("queue", "connection", "timeout", "result_ttl")

_numbers = count(1)


def unknown_options(node: str, router: str, given: Iterable[str], known: Iterable[str]) -> str:
    """
    Return a text that names the unknown options, each with the nearest known one, and all known
    ones.

    Example:
        >>> unknown_options("words", "Router", ["nme"], ["name", "stream"])
        '"words": Router.node takes no option \\'nme\\' (nearest: name); it takes: name, stream'
    """
    taken = list(dict.fromkeys(known))  # a program's max_attempts is also the queue's
    wrong = ", ".join(f"{option!r}{nearest(option, taken)}" for option in given)
    return f'"{node}": {router}.node takes no option {wrong}; it takes: {", ".join(taken)}'


def check_queued(node: str, given: Mapping[str, Any], *, foreign: bool) -> None:
    """
    Check the options that are named in ``QUEUED``.

    Raises:
        GraphError: A value can't work.
    """
    for key in ("batch", "batch_bytes", "max_attempts", "max_deliveries"):
        value = given.get(key, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise GraphError(f'"{node}": {key} must be a whole number of 1 or more, not {value!r}')
    retries = given.get("max_retries")
    if retries is not None and (type(retries) is not int or retries < 0):
        raise GraphError(
            f'"{node}": max_retries must be a whole number of 0 or more, or None, not {retries!r}'
        )
    for key in ("many", "return_results"):
        check_switch(node, key, given.get(key, False))
    if given.get("many") and foreign:
        raise GraphError(
            f'"{node}": many=True is for Python functions; a program gets a batch pipelined anyway'
        )


def take_many(node: Node) -> None:
    """
    Call the handler of a node with ``many=True`` with a list, also for a single message.

    Raises:
        GraphError: The node passes fields on.
    """
    if node.pass_through:
        raise GraphError(
            f'"{node.name}": pass_through=True needs one message for each result; the '
            f"handler of a node with many=True has a list of them"
        )
    node.handler = partial(_with_a_list, node.handler)


def _with_a_list(handler: Callable[..., Any], *args: Any) -> Any:
    """
    Call *handler* with a list instead of a message. Any argument before the message is the task.
    """
    *first, messages = args
    return handler(*first, messages if isinstance(messages, list) else [messages])


def call_as_task(node: Node, celery_task: Any) -> None:
    """
    Call the handler as the task that *celery_task* makes of it, here and now, as Celery does for
    ``task(msg)``. A task with ``bind=True`` gets itself before the message.

    Raises:
        GraphError: *celery_task* makes no tasks.
    """
    if not callable(celery_task):
        raise GraphError(
            f'"{node.name}": celery_task must be what makes a function a task, such as app.task, '
            f"not {celery_task!r}"
        )
    if not node.foreign:  # a program can't do anything with a task
        handler = node.handler

        def run(*args: Any) -> Any:
            return handler(*args)

        look_like(run, handler, node.name)
        # Celery makes code from the name, so it can't be "<lambda>". Of two tasks with one name, as
        # two tests may make, Celery keeps the first.
        name = "".join(letter if letter.isalnum() else "_" for letter in run.__name__)
        run.__name__ = run.__qualname__ = f"{name}_{next(_numbers)}"
        node.handler = celery_task(run)


def check_switch(node: str, option: str, value: object) -> None:
    """
    Raises:
        GraphError: The value is neither True nor False.
    """
    if not isinstance(value, bool):
        raise GraphError(f'"{node}": {option} must be True or False, not {value!r}')
