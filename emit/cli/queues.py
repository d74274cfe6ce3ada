"""The checks of queues for ``emit doctor`` and ``emit check``: Redis, and a router's workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from emit.cli.checkup import Checked
from emit.errors import GraphError, LedgerError
from emit.once import address
from emit.router import Router
from emit.router.ledger import Ledger, is_away, said
from emit.router.queued import QueueRouter

#: The address of Redis if nobody names one.
USUAL = "redis://localhost:6379/0"

#: Seconds to wait for a connection, and for an answer.
_PATIENCE = 10


class _Found(NamedTuple):
    """A Redis client, and the option or variable that named the address; "" if none did."""

    client: Any
    said_by: str


def check_redis(url: str | None, router: Router | None, app: str | None) -> Iterator[Checked]:
    """
    Check that Redis answers.

    Args:
        url: The address of the command line; None: the router's own Redis, else ``$EMIT_REDIS``,
            else ``$REDIS_URL``, else the usual address, which may be missing without harm.
        router: The router of the command line, if there is one.
        app: The router's path.
    """
    try:
        import redis
    except ImportError:
        return  # check_packages reports it
    try:
        place = _find(redis, url, router, app)
    except ValueError as error:  # it is not an address
        yield Checked("queue", "redis", "broken", str(error), "such as redis://localhost:6379/0")
        return
    where = address(place.client) + (f", of {place.said_by}" if place.said_by else "")
    try:
        with place.client as client:
            version = client.info("server")["redis_version"]
    except Exception as error:
        if "permission" not in str(error):
            state: Literal["absent", "broken"] = "broken" if place.said_by else "absent"
            hint = "start one, or say where it is: --redis, --app, $EMIT_REDIS or $REDIS_URL"
            yield Checked("queue", "redis", state, f"{where}: {error}", hint)
            return
        version = "a Redis that doesn't tell its version"
    yield Checked("queue", "redis", "ok", f"{version} at {where}")


def check_ledgers(router: Router) -> Iterator[Checked]:
    """Check that Emit may keep counts and dead letters in the Redis of each app."""
    for ledger, error in _tried(router):
        if error is None:
            yield Checked("queue", "dead letters", "ok", f"kept at {address(ledger.redis)}")
        elif not is_away(error):  # if it is away, check_redis reports it
            yield Checked("queue", "dead letters", "broken", str(error), ledger.remedy(error))


def find_unkept(router: Router) -> Iterator[tuple[str, bool]]:
    """Yield why counts and dead letters can't be kept, and True if Redis can't be reached."""
    for ledger, error in _tried(router):
        if error is not None:
            yield said(ledger, error), is_away(error)


def _tried(router: Router) -> Iterator[tuple[Ledger, LedgerError | None]]:
    """Yield each ledger of a router, over a client with short timeouts, and its error or None."""
    try:
        ledgers = [*router.ledgers()] if isinstance(router, QueueRouter) else []
    except GraphError:  # problems() and check_redis report it
        return
    for ledger in ledgers:
        import redis  # a ledger has imported it already

        with _impatient(redis, ledger.redis) as client:
            tried = ledger.at(client)
            try:
                tried.try_out()
            except LedgerError as error:
                yield tried, error
            else:
                yield tried, None


def _find(redis: Any, url: str | None, router: Router | None, app: str | None) -> _Found:
    letters = getattr(router, "dead_letters", None)
    if url is None and letters is not None:
        return _Found(_impatient(redis, letters.redis), str(app))
    named = ((url, "--redis"), *((os.environ.get(x), f"${x}") for x in ("EMIT_REDIS", "REDIS_URL")))
    found, said_by = next(((where, who) for where, who in named if where), (USUAL, ""))
    return _Found(_impatient(redis, redis.Redis.from_url(found)), said_by)


def _impatient(redis: Any, client: Any) -> Any:
    """Return a client of the same Redis with short timeouts; a cluster's client as it is."""
    pool: Any = getattr(client, "connection_pool", None)
    if type(pool) not in (redis.ConnectionPool, redis.BlockingConnectionPool):
        return client
    limits = {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE}
    return redis.Redis.from_pool(
        redis.ConnectionPool(pool.connection_class, **{**pool.connection_kwargs, **limits})
    )


def check_workers(router: Router, app: str) -> Iterator[Checked]:
    """Check that the brokers of a router can be reached, and that workers answer."""
    apps = {id(task.app): task.app for task in router.functions.values() if hasattr(task, "app")}
    jobs = getattr(router, "_jobs", {}).values()  # of an RQRouter
    for celery in apps.values():
        yield _ask_celery(celery, app.rpartition(".")[0])
    for queue in {(one.queue.name, id(one.queue.connection)): one.queue for one in jobs}.values():
        yield _ask_rq(queue)
    if not apps and not jobs:
        yield Checked("queue", "workers", "broken", f'"{app}" has no node of a queue', "see --app")


def _ask_celery(app: Any, module: str) -> Checked:
    broker = "the broker"
    try:
        with app.connection_for_write(transport_options={"socket_connect_timeout": 3}) as link:
            broker = link.as_uri()
            link.ensure_connection(max_retries=1, timeout=3)
            workers = app.control.ping(timeout=1.0, connection=link)
    except Exception as error:
        return Checked("queue", "celery", "broken", f"{broker}: {error}", "start the broker")
    if not workers:
        hint = f"celery -A {module} worker"
        return Checked("queue", "celery", "broken", f"no worker answers at {broker}", hint)
    names = ", ".join(sorted(name for answer in workers for name in answer))
    return Checked("queue", "celery", "ok", f"{names} at {broker}")


def _ask_rq(queue: Any) -> Checked:
    """
    Check the workers of an RQ queue. A killed worker stays on the list in Redis until its heartbeat
    is overdue.
    """
    from rq import Worker

    what = f'of the queue "{queue.name}" at {address(queue.connection)}'
    try:
        workers = Worker.all(queue=queue)
    except Exception as error:
        return Checked("queue", "rq", "broken", f"workers {what}: {error}", "start Redis")
    if not workers:
        hint = f"rq worker --worker-class emit.rq.EmitWorker {queue.name}"
        return Checked("queue", "rq", "broken", f"there is no worker {what}", hint)
    return Checked("queue", "rq", "ok", f"workers {what}: {len(workers)}")
