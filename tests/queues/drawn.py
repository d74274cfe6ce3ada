"""
Graphs that Hypothesis has drawn, for a queue's workers and for emit.testing.drive.

EMIT_TEST_GRAPHS names a file with a list of graphs. A graph is a list of nodes; each hears some of
those before it, has options, and does something to each message. What it does depends on the
message's path, which says by which results it has come.
"""

from __future__ import annotations

import json
import os
import signal
import zlib
from typing import Any

from redis import Redis

import emit
from emit import CeleryRouter, RQRouter
from emit.context import current
from emit.testing import die

URL = os.environ["EMIT_TEST_REDIS"]
router: Any
if os.environ["EMIT_TEST_CARRIER"] == "rq":
    from rq import Worker

    class Forking(Worker):
        """RQ's own worker, in a process that has imported this module before it forks."""

    router = RQRouter(redis_connection=Redis.from_url(URL))
else:
    from celery import Celery

    from emit.celery import configure

    app = Celery("drawn", broker=URL)
    configure(app, time_limit=60)
    app.conf.worker_log_format = "%(message).200s"
    router = CeleryRouter(celery_task=lambda function: app.task(function, shared=False))


class Notes:
    """What the nodes have seen, and how often a message has killed: in Redis, for workers."""

    def __init__(self) -> None:
        self._redis = Redis.from_url(URL, decode_responses=True)

    def done(self, node: str, path: str) -> None:
        self._redis.sadd("done", f"{node} {path}")

    def deaths(self, key: str) -> int:
        return int(self._redis.incr(f"deaths:{key}"))

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def all(self) -> set[str]:
        return set(self._redis.smembers("done"))  # type: ignore[arg-type]


class InMemory(Notes):
    """The same for a graph that is driven."""

    def __init__(self) -> None:
        self._done: set[str] = set()
        self._deaths: dict[str, int] = {}

    def done(self, node: str, path: str) -> None:
        self._done.add(f"{node} {path}")

    def deaths(self, key: str) -> int:
        self._deaths[key] = self._deaths.get(key, 0) + 1
        return self._deaths[key]

    def die(self) -> None:
        die()

    def all(self) -> set[str]:
        return self._done


notes = Notes()


def chosen(acts: list[list[Any]], node: str, path: str) -> list[Any]:
    """Return what a node does to a message: the same in every process."""
    return acts[zlib.crc32(f"{node} {path}".encode()) % len(acts)]


def act(node: str, spec: dict[str, Any], path: str) -> list[Any]:
    """Do what the node does to one message. Return its results."""
    kind, number = chosen(spec["acts"], node, path)
    told = current.get()
    if kind == "kill" and notes.deaths(f"{node} {path}") <= number:
        notes.die()
    if kind == "fail":
        raise ValueError(path)
    if kind == "reject":
        raise emit.Reject("no")
    # Of several messages that come together nobody knows the attempt.
    if kind == "ask" and (told is None or told.attempt <= number):
        raise emit.Retry("again", after=0)
    notes.done(node, path)
    if kind == "odd":
        return [{"path"}]  # a set, which no queue can carry
    # With the node in it: one that hears two nodes gets no path twice.
    own = node.rpartition("n")[2]
    return [f"{path}.{own}{'abc'[result]}" for result in range(number if kind == "emit" else 1)]


def make(graph: int, number: int, spec: dict[str, Any]) -> None:
    """Declare a node, and give the module its function, as RQ needs it."""
    name = f"g{graph}_n{number}"

    def one(msg: Any) -> Any:
        yield from act(name, spec, msg.path)

    def many(messages: Any) -> Any:
        for msg in messages:
            yield from act(name, spec, msg.path)

    function = many if spec["options"].get("many") else one
    function.__name__ = function.__qualname__ = name
    heard = [f"drawn.g{graph}_n{other}" for other in spec["hears"]]
    globals()[name] = router.node(("path",), heard, name=f"drawn.{name}", **spec["options"])(
        function
    )


with open(os.environ["EMIT_TEST_GRAPHS"], encoding="utf-8") as file:
    for graph, specs in enumerate(json.load(file)):
        for number, spec in enumerate(specs):
            make(graph, number, spec)
