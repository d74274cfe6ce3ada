"""Messages that wait in a router's queues, and its dead letters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emit.router import Router

__all__ = ["dead_letters", "messages"]


def messages(router: Router) -> dict[str, int]:
    """
    Return the number of the queue's own messages by queue: tasks or jobs, each of which may have a
    batch of messages. Those that wait for their time are not counted.

    Raises:
        Exception: The library's own, if the broker can't be reached.
    """
    return dict([*_of_rq(router), *_of_celery(router)])


def dead_letters(router: Router) -> int | None:
    """
    Return the number of dead letters, or None if there is no place for them.

    Raises:
        Exception: redis-py's own, if Redis can't be reached.
    """
    letters = getattr(router, "dead_letters", None)
    return None if letters is None else len(letters)


def _of_rq(router: Any) -> Iterator[tuple[str, int]]:
    for jobs in getattr(router, "_jobs", {}).values():
        yield jobs.queue.name, int(jobs.queue.count)


def _of_celery(router: Any) -> Iterator[tuple[str, int]]:
    tasks = [task for task in router.functions.values() if hasattr(task, "app")]
    for app in {id(task.app): task.app for task in tasks}.values():
        named = (task.name for task in tasks if task.app is app)
        queues = {app.amqp.router.route({}, name)["queue"].name for name in named}
        with app.connection_for_read() as connection:
            for queue in sorted(queues):
                yield queue, _size(connection, queue)


def _size(connection: Any, queue: str) -> int:
    # In a channel of its own: RabbitMQ closes it if there is no such queue yet.
    with connection.channel() as channel, suppress(connection.channel_errors):
        return int(channel.queue_declare(queue, passive=True).message_count)
    return 0
