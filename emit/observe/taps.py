"""
Looks over machines, by the Redis of the fleet: see :mod:`emit.observe.looks`.

Whoever looks puts a wish into Redis (:class:`Looking`) and renews it every second. The thread of a
worker that publishes its reports reads the wishes with each of them. If there is one, it asks all
processes of the worker (:class:`Looks`), and puts what they show into a list in Redis.

``emit:fleet@looks``
    a hash of the wishes, by their ids. It expires.

``emit:fleet@seen:<id>``
    a list of messages for the look with that id. It is short, and expires.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from emit.errors import LedgerError
from emit.host import status
from emit.observe.looks import Outlet, Seen, Wish
from emit.observe.tap import Passed
from emit.once import asking
from emit.workers import Worker

__all__ = ["COUNTS", "Looking", "Looks"]

logger = logging.getLogger(__name__)

#: Seconds that a look is kept after its last beat, and seconds that its keys are.
_BEATEN, _LASTS = 6.0, 15

#: Messages that wait for whoever looks, at most.
_WAITING = 1000

#: The id of the look of all pages together: they want the same.
COUNTS = "counts"


class Looking:
    """
    Have all workers tell more, until this is closed, or not renewed.

    Args:
        redis: A client of redis-py.
        prefix: The beginning of the names of all keys.
        wish: What is to be seen. Its id tells this look from others.

    Raises:
        LedgerError: By each method, if Redis can't be reached, or refuses.

    Example:
        >>> wish = Wish("me", points=[["words", None]])
        >>> with Looking(client, "", wish) as looking:  # doctest: +SKIP
        ...     looking.renew()
        ...     for seen in looking.take():
        ...         print(seen.machine, seen.passed.fields)
    """

    def __init__(self, redis: Any, prefix: str, wish: Wish) -> None:
        self._redis = redis
        self._wish = wish
        self._looks = f"{prefix}emit:fleet@looks"
        self._seen = f"{prefix}emit:fleet@seen:{wish.id}"

    def __enter__(self) -> Looking:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(LedgerError):  # it expires
            self.close()

    def renew(self) -> None:
        """Go on for some seconds. Call this every second or two."""
        told = json.dumps({"wish": self._wish, "beat": uuid.uuid4().hex[:8]})
        with asking(self._redis, "look at workers"):
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hset(self._looks, self._wish.id, told)
            pipeline.expire(self._looks, _LASTS)
            pipeline.execute()

    def take(self) -> list[Seen]:
        """
        Return the messages that workers have shown since the last time. The first of a worker has
        the way ``begin``: it looks from now on.
        """
        with asking(self._redis, "look at workers"):
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.lrange(self._seen, 0, -1)
            pipeline.delete(self._seen)
            told = pipeline.execute()[0]
        found = []
        for each in told:
            with contextlib.suppress(TypeError, ValueError):  # of another version
                passed, *rest = json.loads(each)
                found.append(Seen(Passed(*passed), *rest))
        return found

    def close(self) -> None:
        """End the look."""
        with asking(self._redis, "look at workers"):
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hdel(self._looks, self._wish.id)
            pipeline.delete(self._seen)
            pipeline.execute()


class Looks:
    """
    The looks at a worker.

    Args:
        worker: The worker.
        machine: The name of its machine.
        index: The beginning of the names of the keys.
    """

    def __init__(self, worker: Worker, machine: str, index: str) -> None:
        self._worker = worker
        self._machine = machine
        self._index = index
        self._beats: dict[str, tuple[str, float]] = {}
        self._outlets: dict[str, Outlet] = {}
        self._described: set[str] = set()

    @property
    def are_there(self) -> bool:
        """True if anybody looks."""
        return bool(self._outlets)

    def counts(self) -> dict[str, Any] | None:
        """Return what was counted since a page looks; None: none does."""
        outlet = self._outlets.get(COUNTS)
        return None if outlet is None else outlet.totals().told()

    def close(self) -> None:
        """End all looks."""
        self._keep({})

    def serve(self, client: Any) -> None:
        """
        Ask the processes of this worker what those who look want to know, and pass it on.

        Raises:
            LedgerError: Redis can't be reached, or refuses.
        """
        with asking(client, "read who looks at this worker"):
            told = client.hgetall(f"{self._index}@looks")
        self._keep(self._wishes(told))
        paths = status.sockets(parent=os.getpid(), idle=True) if self._outlets else []
        for id, outlet in self._outlets.items():
            if outlet.wish.node:
                if id not in self._described:
                    self._described.add(id)
                    seen = [*_described(outlet.wish.node), _told("begin")]
                    self._show(client, f"{self._index}@seen:{id}", seen)
                continue
            is_first = not outlet.asked
            outlet.ask(paths, here=True)
            seen = outlet.take()
            if is_first and outlet.wish.points is not None:
                seen = [_told("begin"), *seen]
            if seen:
                self._show(client, f"{self._index}@seen:{id}", seen)

    def _wishes(self, told: Mapping[Any, Any]) -> dict[str, Wish]:
        """Return the wishes whose beat goes on."""
        now = time.monotonic()
        wishes, beats = {}, {}
        for each in told.values():
            with contextlib.suppress(KeyError, TypeError, ValueError):  # of another version
                data = json.loads(each)
                wish, beat = Wish.read(data["wish"]), str(data["beat"])
                known, since = self._beats.get(wish.id, ("", now))
                beats[wish.id] = (beat, since if beat == known else now)
                if now - beats[wish.id][1] < _BEATEN:
                    wishes[wish.id] = wish
        self._beats = beats
        return wishes

    def _keep(self, wishes: Mapping[str, Wish]) -> None:
        """Have an outlet for each wish, and no other."""
        for id in [id for id in self._outlets if id not in wishes]:
            self._outlets.pop(id).close()
            self._described.discard(id)
        for id, wish in wishes.items():
            if id not in self._outlets:
                try:
                    self._outlets[id] = Outlet(wish)
                except OSError as error:
                    logger.info("nobody can look at this worker: %s", error)

    def _show(self, client: Any, key: str, seen: list[Seen]) -> None:
        own = self._machine, self._worker.name
        told = [json.dumps([*each[:2], *own], separators=(",", ":")) for each in seen]
        with asking(client, "show messages"):
            pipeline = client.pipeline(transaction=False)
            pipeline.rpush(key, *told)
            pipeline.ltrim(key, -_WAITING, -1)
            pipeline.expire(key, _LASTS)
            pipeline.execute()


def _told(way: str, node: str = "", fields: dict[str, Any] | None = None) -> Seen:
    return Seen(Passed(way, node, "", "", 0, 0, time.time(), fields), os.getpid())


def _described(node: str) -> Iterator[Seen]:
    """Yield what each host of this worker tells about a node."""
    for path in status.sockets():
        pid, parent = path.name.split("-")[:2]
        if str(os.getpid()) in (pid, parent):
            with contextlib.suppress(OSError, ValueError):  # it is busy, or is ending
                answer = status.ask(path, {"node": node})
                if answer is not None and "errors" in answer:
                    yield _told("describe", node, answer)._replace(pid=int(pid))
