"""What ``emit doctor`` looks at of queues: Redis, and the workers of a router."""

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

#: Where Redis is if nobody says where.
USUAL = "redis://localhost:6379/0"

#: Seconds for a connection, and for an answer.
_PATIENCE = 10


class _Place(NamedTuple):
    """A client of the Redis that somebody means, and who says so; empty: nobody."""

    client: Any
    said_by: str


def check_redis(url: str | None, router: Router | None, app: str | None) -> Iterator[Checked]:
    """
    A ping.

    Args:
        url: The address that the command line has, or None: the router's own Redis, else that of
            ``$EMIT_REDIS``, else of ``$REDIS_URL``, else the usual one, which nobody may need.
        router: The router that is asked about, if one is.
        app: Its path.
    """
    try:
        import redis
    except ImportError:
        return  # check_packages has said so
    try:
        place = _find(redis, url, router, app)
    except ValueError as error:  # the address is none
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
    """Whether the Redis of each app lets Emit keep counts and dead letters there."""
    for ledger, error in _tried(router):
        if error is None:
            yield Checked("queue", "dead letters", "ok", f"kept at {address(ledger.redis)}")
        elif not is_away(error):  # check_redis has said so
            yield Checked("queue", "dead letters", "broken", str(error), ledger.remedy(error))


def find_unkept(router: Router) -> Iterator[tuple[str, bool]]:
    """What can't be kept, or not at the moment: an error, and if it is only that Redis is away."""
    for ledger, error in _tried(router):
        if error is not None:
            yield said(ledger, error), is_away(error)


def _tried(router: Router) -> Iterator[tuple[Ledger, LedgerError | None]]:
    """Each ledger of a router, by a client that does not wait for long, and what is wrong there."""
    try:
        ledgers = [*router.ledgers()] if isinstance(router, QueueRouter) else []
    except GraphError:  # problems() and check_redis have it
        return
    for ledger in ledgers:
        import redis  # it is there if a ledger is

        with _impatient(redis, ledger.redis) as client:
            tried = ledger.at(client)
            try:
                tried.try_out()
            except LedgerError as error:
                yield tried, error
            else:
                yield tried, None


def _find(redis: Any, url: str | None, router: Router | None, app: str | None) -> _Place:
    letters = getattr(router, "dead_letters", None)
    if url is None and letters is not None:
        return _Place(_impatient(redis, letters.redis), str(app))
    named = ((url, "--redis"), *((os.environ.get(x), f"${x}") for x in ("EMIT_REDIS", "REDIS_URL")))
    found, said_by = next(((where, who) for where, who in named if where), (USUAL, ""))
    return _Place(_impatient(redis, redis.Redis.from_url(found)), said_by)


def _impatient(redis: Any, client: Any) -> Any:
    """A client of the same Redis that does not wait for long; of a cluster's, the same client."""
    pool: Any = getattr(client, "connection_pool", None)
    if type(pool) not in (redis.ConnectionPool, redis.BlockingConnectionPool):
        return client
    limits = {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE}
    return redis.Redis.from_pool(
        redis.ConnectionPool(pool.connection_class, **{**pool.connection_kwargs, **limits})
    )


def check_workers(router: Router, app: str) -> Iterator[Checked]:
    """Whether the brokers of a router can be reached, and whether workers answer."""
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
    """A worker that was killed is still on Redis's list for as long as its heartbeat may take."""
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
