"""
A mark in Redis: one process at a time does a piece of work, and none does it again.

This module takes a client of redis-py and does not import it.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from emit.errors import EmitError, InProgress, LedgerError
from emit.observe.logs import get_logger
from emit.text import hide_arguments

__all__ = ["address", "asking", "claim", "idempotent"]

logger = get_logger(__name__)

#: The value of a mark whose work is done. During the work it is the owner's token.
_DONE = "done"

#: Keeps the marks in place of every client, in a test that has no Redis.
stand_in: ContextVar[Any] = ContextVar("emit_marks", default=None)

#: Delete a mark if this owner still has it.
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


@contextmanager
def idempotent(
    redis: Any, key: str, *, lease: float = 60.0, ttl: float = 72 * 3600.0
) -> Generator[bool, None, None]:
    """
    Do a sink's effect once for each key, however often its message is delivered.

    The effect happens **at least once**. It happens twice only in these cases: the process is
    killed after the effect and before the mark; Redis goes away at that point and the message comes
    again; or the effect takes longer than *lease*. If even that is too much, the effect must know
    its key itself: a unique column in the same transaction, or the idempotency key of the service
    that is called.

    Args:
        redis: A client of redis-py.
        key: Identifies the effect, such as by the sink's name and the message's id. The mark is
            ``emit:once:<key>``.
        lease: Seconds that the effect may take; the claim lasts this long. If a process is killed
            during the effect, another may do it after this time.
        ttl: Seconds that the mark stays after the effect; longer than a repeat may take to come.

    Yields:
        True: do the effect. False: it is done. An exception in the block takes the claim back, so
        that the next delivery does the effect; the exception goes on.

    Raises:
        InProgress: Another process is doing the effect, or was killed while it did. Nothing was
            done. Don't catch it, so that the message is tried again.
        LedgerError: Redis can't be reached, or refuses. Nothing was done. Don't catch it, so that
            the message waits. (If Redis goes away during the effect, the log says so.)

    Example:
        >>> def sink(msg):
        ...     with idempotent(client, f"mail:{msg.id}") as first:
        ...         if first:
        ...             send_mail(msg.address)
    """
    redis = redis if stand_in.get() is None else stand_in.get()
    mark, token = f"emit:once:{key}", uuid.uuid4().hex
    with asking(redis, "say whether it is done"):
        held = _take(redis, mark, token, lease)
    if held == _DONE:
        yield False
        return
    if held is not None:
        raise InProgress(key, lease)
    try:
        yield True
    except BaseException:
        _let_go(redis, mark, token)
        raise
    try:
        redis.set(mark, _DONE, px=_milliseconds(ttl))
    except Exception as error:
        # The effect is done: an exception would certainly repeat it.
        text = "%s is done and not marked: if its message comes again after %g s, so does this: %s"
        logger.warning(text, mark, lease, error)


@contextmanager
def asking(redis: Any, what: str) -> Iterator[None]:
    """
    Raise a LedgerError if the ``with`` block fails.

    Args:
        redis: The client that is used in the block.
        what: What the block asks the client to do.
    """
    try:
        yield
    except EmitError:
        raise
    except Exception as error:
        hide_arguments(error)
        raise LedgerError(what, address(redis), error) from error


def address(redis: Any) -> str:
    """
    Return the address of a client's Redis, without its password.

    Example:
        >>> address(Redis(host="localhost", port=6379, db=1, password="secret"))
        'localhost:6379/1'
    """
    pool: Any = getattr(redis, "connection_pool", None)
    told = getattr(pool, "connection_kwargs", {})
    if hasattr(pool, "sentinel_manager"):
        sentinels = [
            address(client).rpartition("/")[0] for client in pool.sentinel_manager.sentinels
        ]
        where = f"{pool.service_name}@{','.join(sentinels)}"
    else:
        where = told.get("path") or f"{told.get('host', 'localhost')}:{told.get('port', 6379)}"
    return f"{where}/{told.get('db') or 0}"


@contextmanager
def claim(redis: Any, mark: str, *, lease: float) -> Generator[None, None, None]:
    """
    Claim a piece of work for a ``with`` block, for *lease* seconds at most.

    Raises:
        InProgress: Another process has the claim.
    """
    token = uuid.uuid4().hex
    if _take(redis, mark, token, lease) is not None:
        raise InProgress(mark, lease)
    try:
        yield
    finally:
        _let_go(redis, mark, token)


def _take(redis: Any, mark: str, token: str, lease: float) -> str | None:
    """
    Set a mark if there is none. Return the value of an existing mark; None if the mark is ours.
    """
    while not redis.set(mark, token, nx=True, px=_milliseconds(lease)):
        held = redis.get(mark)
        if held is not None:  # the mark may have expired since
            return held.decode() if isinstance(held, bytes) else str(held)
    return None


def _let_go(redis: Any, mark: str, token: str) -> None:
    # The exception on its way up matters more; a claim that stays expires by itself.
    try:
        redis.eval(_RELEASE, 1, mark, token)
    except Exception as error:
        logger.warning("%s stays claimed until its lease is over: %s", mark, error)


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
