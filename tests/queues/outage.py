"""A graph for tests in which Redis goes away. It keeps its records in files."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from emit import RQRouter
from emit.errors import RemoteError

FOLDER = Path(os.environ["EMIT_TEST_FOLDER"])
connection = Redis.from_url(os.environ["EMIT_TEST_REDIS"], retry=Retry(NoBackoff(), 0))
router = RQRouter(redis_connection=connection)


def note(name: str) -> int:
    """Record a run of a node, and return how many runs there are by now."""
    with (FOLDER / name).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return runs(name)


def runs(name: str) -> int:
    return len((FOLDER / name).read_text().split()) if (FOLDER / name).exists() else 0


@router.node(("n",))
def held(msg: Any) -> Any:
    """Begin, wait for the test, and end in the way that the message names."""
    times = note("held")
    while not (FOLDER / "go").exists():
        time.sleep(0.01)  # between two looks
    if msg.how == "fail":
        raise ValueError("as it was asked to")
    if msg.how == "retry" and times == 1:
        raise RemoteError(node="held", type="Retry", message="again", retry=True, after=0)
    if msg.how == "send":
        yield times


@router.node((), "outage.held")
def after(msg: Any) -> Any:
    note("after")
