"""Read the records of a test's graph in Redis, and its dead letters."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from emit.dead import DeadLetters
from tests.queues.worker import eventually


@contextmanager
def graph(name: str, url: str) -> Iterator[Any]:
    """Import the module *name* of this folder, as a web process does, for the Redis at *url*."""
    os.environ["EMIT_TEST_REDIS"] = url
    sys.path.insert(0, str(Path(__file__).parent))
    module = importlib.import_module(name)
    try:
        yield module
    finally:
        del sys.path[0], sys.modules[name]
        for client in vars(module).values():
            if isinstance(client, Redis):
                client.close()  # otherwise a later test gets a warning about its socket


def forget(graph: Any) -> None:
    """Delete all records and dead letters."""
    graph.redis.delete("seen", "bad", "moody:once")
    DeadLetters(graph.redis).drop_all()


def seen(graph: Any, node: str) -> list[dict[str, Any]]:
    records = map(json.loads, graph.redis.lrange("seen", 0, -1))
    return [record for record in records if record.get("node") == node]


def wait_for(graph: Any, node: str, count: int) -> list[dict[str, Any]]:
    """Wait for *count* records of *node* or more, and return them."""
    eventually(lambda: len(seen(graph, node)) >= count, what=f"{node} has too few of {count}")
    return seen(graph, node)


def dead(graph: Any, count: int) -> list[Any]:
    """Wait for *count* dead letters or more, and return them."""
    letters = DeadLetters(graph.redis)
    eventually(lambda: len(letters.list()) >= count, what="no dead letter")
    return [letters.show(entry.id) for entry in letters.list()]
