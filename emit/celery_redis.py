"""
The Redis in which Emit keeps counts and dead letters for a Celery app.

Emit finds and reaches this Redis as Celery does. Celery names a Redis in many ways: ``redis://``,
``rediss://`` with TLS options in the address or in ``broker_use_ssl``, ``redis+socket://``,
``sentinel://`` with ``master_name``, and several addresses, of which it takes one that answers.
kombu, Celery's transport, makes a pool of connections from each of them. Emit lets kombu make its
pool, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import celery
import kombu
from celery import Celery
from celery.app.backends import by_url
from kombu.connection import Connection
from kombu.utils.url import maybe_sanitize_url, url_to_parts

from emit.errors import GraphError

__all__ = ["RedisAddress", "address_of", "broker_of", "is_redis", "open_redis"]

#: Seconds for an answer and for a connection, if the app's settings name none. kombu's own are
#: endless, since its connections wait for messages. Emit's connections wait only for answers.
_LIMITS = {"socket_timeout": 30.0, "socket_connect_timeout": 5.0}

#: Connections of a pool. kombu allows 10, but a worker may have a thousand greenlets.
_CONNECTIONS = 2**31

#: How the address of a Redis may begin in the setting ``emit_redis``.
_SCHEMES = ("redis", "rediss", "unix", "socket", "redis+socket", "sentinel")


class RedisAddress(NamedTuple):
    """
    A Redis, or several addresses of which the first that answers is used.

    Attributes:
        said_by: The setting that names it.
        where: Its addresses, without passwords.
        prefix: The beginning of the names of all its keys: ``global_keyprefix``.
        pools: Functions that make a pool of connections, one for each address.
    """

    said_by: str
    where: str
    prefix: str
    pools: Sequence[Callable[[], Any]]


def address_of(app: Celery) -> RedisAddress | None:
    """
    Return the Redis of the setting ``emit_redis``, else a Redis as the broker, else a Redis as the
    result backend, else None. Opens no connection.

    Raises:
        GraphError: The setting names something that is not a Redis, or an address that can't work.
    """
    own = app.conf.get("emit_redis")
    if own:
        return _own(app, own)
    broker = broker_of(app)
    return _broker(app, broker) if is_redis(broker) else _backend(app)


def open_redis(address: RedisAddress) -> Any:
    """
    Return a client of the Redis of *address*. Of several addresses, use the first that answers.

    Raises:
        Exception: The client's own exception, if none of several answers.
    """
    from redis import Redis  # installed with Celery's Redis transport, but not with the others

    *others, last = [_patient(make()) for make in address.pools]
    for pool in others:
        client = Redis(connection_pool=pool)
        try:
            client.ping()
            return client
        except Exception:  # try the next, as Celery does; using the last raises its error
            pool.disconnect()
    return Redis(connection_pool=last)


def broker_of(app: Celery, make: Callable[[], Any] | None = None) -> Any:
    """
    Return an unopened kombu connection to the broker of an app, for sending or as *make* makes it.

    Raises:
        GraphError: kombu does not know this broker.
    """
    with _using("broker_url", ""):
        broker = (make or app.connection_for_write)()
        broker.get_transport_cls()
        return broker


def is_redis(connection: Any) -> bool:
    """True if kombu would speak to a Redis, by whatever name. Opens no connection."""
    return getattr(connection.get_transport_cls(), "driver_type", None) == "redis"


def _own(app: Celery, value: Any) -> RedisAddress:
    """Return the address that ``emit_redis`` names, spelled as for Celery or for redis-py."""
    urls = _listed(value)
    shown = _shown(urls)
    for url in urls:
        if not isinstance(url, str) or url.partition("://")[0] not in _SCHEMES:
            raise GraphError(
                f"emit_redis = {shown!r}: it must be the address of a Redis, which begins with "
                f"{', '.join(f'{scheme}://' for scheme in _SCHEMES)}"
            )
    options: dict[str, Any] = (
        app.conf.get("emit_redis_options") or app.conf.broker_transport_options or {}
    )
    if urls[0].startswith("sentinel://"):
        urls = [";".join(urls)]
    pools = [_checked("emit_redis", shown, _own_pool(app, url, options)) for url in urls]
    return RedisAddress("emit_redis", shown, str(options.get("global_keyprefix", "")), pools)


def _own_pool(app: Celery, url: str, options: dict[str, Any]) -> Callable[[], Any]:
    url = f"redis+{url}" if url.startswith("socket://") else url
    known = url.startswith(("redis+socket://", "sentinel://")) or all(
        name.startswith("ssl_") or name == "virtual_host" for name in url_to_parts(url).query
    )
    if url.startswith("unix://") or not known:  # spelled as for redis-py, such as ?db=1
        from redis import ConnectionPool

        return partial(ConnectionPool.from_url, url)
    secure = app.conf.broker_use_ssl if url.startswith("rediss://") else False
    secure = isinstance(secure, dict) and secure  # kombu takes a bare True for no TLS
    connection: Any = Connection
    return partial(_pool, connection(url, ssl=secure, transport_options=options))


def _broker(app: Celery, broker: Any) -> RedisAddress:
    """Return the broker's address, without alternatives that are not a Redis."""
    options, urls = broker.transport_options, _listed(app.conf.broker_write_url or "redis://")
    connections = [broker]
    if broker.alt and not _is_sentinel(broker):
        each = {url: app.connection_for_write(url) for url in broker.alt}
        connections = [one for one in each.values() if is_redis(one)]
        urls = [url for url, one in each.items() if one in connections]
    shown = _shown(urls)
    pools = [_checked("broker_url", shown, partial(_pool, one)) for one in connections]
    return RedisAddress("broker_url", shown, str(options.get("global_keyprefix", "")), pools)


def _listed(urls: Any) -> list[Any]:
    return urls.split(";") if isinstance(urls, str) else list(urls)


def _shown(urls: Iterable[Any]) -> str:
    """Return addresses without passwords."""
    return ";".join(maybe_sanitize_url(str(url)) for url in urls)


def _is_sentinel(connection: Any) -> bool:
    return "sentinel" in str(connection.transport_cls)


def _backend(app: Celery) -> RedisAddress | None:
    """Return the result backend's address; it has settings and a pool of its own."""
    url = app.conf.result_backend
    if not isinstance(url, str):
        return None
    shown = _shown(_listed(url))
    with _using("result_backend", shown):
        kind, _ = by_url(url, app.loader)
    if "RedisBackend" not in {base.__name__ for base in kind.__mro__}:
        return None
    options = app.conf.result_backend_transport_options

    def make() -> Any:
        backend: Any = app.backend
        with _as_known(backend, celery):
            return backend._get_pool(**backend.connparams)

    pools = [_checked("result_backend", shown, make)]
    return RedisAddress("result_backend", shown, str(options.get("global_keyprefix", "")), pools)


def _pool(connection: Any) -> Any:
    """
    Return the pool that kombu would make for *connection*. kombu makes it in a channel, which
    connects.
    """
    transport = connection.transport
    with _as_known(transport, kombu):
        channel = transport.Channel.__new__(transport.Channel)
    with _as_known(channel, kombu):
        channel.connection = transport
        for name in channel.from_transport_options:
            if name in connection.transport_options:
                setattr(channel, name, connection.transport_options[name])
        for name, seconds in _LIMITS.items():
            if getattr(channel, name, None) is None:
                setattr(channel, name, seconds)
        return channel._get_pool()


@contextmanager
def _as_known(inside: Any, library: Any) -> Iterator[None]:
    """
    Raise an error that names the library if its *inside* is not as Emit expects.

    Emit uses parts of the library that no version promises.

    Raises:
        GraphError: The library lacks the part that Emit asked for.
    """
    try:
        yield
    except AttributeError as error:
        if error.obj is not inside:
            raise
        raise GraphError(
            f"{library.__name__} {library.__version__} is not known to Emit (its "
            f"{type(inside).__name__} has no {error.name}): install an earlier one; or set "
            f"app.conf.emit_redis to an address that redis-py reads by itself, by one of its own "
            f"options, such as redis://localhost:6379?db=0"
        ) from error


def _checked(said_by: str, shown: str, make: Callable[[], Any]) -> Callable[[], Any]:
    """
    Make a pool once, to find out whether it can be made. Making one opens no connection.

    Raises:
        GraphError: The pool can't be made.
    """
    with _using(said_by, shown):
        make()
    return make


@contextmanager
def _using(said_by: str, shown: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        what = f"{said_by} = {shown!r}" if shown else said_by
        raise GraphError(f"{what} can't be used: {reason}") from error


def _patient(pool: Any) -> Any:
    """Limit how long a client waits for an answer, and for one of a few connections."""
    told = pool.connection_kwargs
    for name, seconds in _LIMITS.items():
        if told.get(name) is None and ("path" not in told or name == "socket_timeout"):
            told[name] = seconds
    pool.max_connections = _CONNECTIONS
    return pool
