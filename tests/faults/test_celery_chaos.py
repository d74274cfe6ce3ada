"""Messages through Celery while its processes, the nodes, the worker and Redis are killed."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.exceptions import ConnectionError as Gone

from emit.dead import DeadLetters
from tests.faults.nodes import CHAOS
from tests.faults.servers import Server
from tests.queues.notes import graph
from tests.queues.worker import Worker, celery_worker

pytestmark = pytest.mark.requires("redis-server")

MESSAGES = 20_000 if CHAOS else 2_000
#: Then it is enough: on a slow machine what is killed all the time gets nothing done.
KILLS = 200 if CHAOS else 15
#: Seconds between two kills, of a process of the pool and of a node.
PAUSE = 1.0 if CHAOS else 0.4

#: The worker's own death is noticed after the visibility timeout, so that is short here.
SHORT = {"EMIT_TEST_LIMIT": "4", "EMIT_TEST_VISIBILITY": "10"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def flow(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in SHORT.items():
        monkeypatch.setenv(name, value)
    with graph("flow", server.url) as module:
        yield module


def test_nothing_is_lost(flow: Any, server: Server, tmp_path: Path) -> None:
    """
    Each message is doubled by a program and added up: no number is missing, none is wrong.

    A repeat may count a number twice, so the sink notes them by their ids. kombu takes a message
    out of Redis in one step and notes in another who has it: what is between the two when Redis,
    or the whole worker, is killed is lost to every user of Celery on Redis. That is one task for
    each such kill at most, as the worker takes them one by one; but a task may have 50 messages.
    """
    random.seed(1)
    for start in range(0, MESSAGES, 500):
        numbers = range(start, min(start + 500, MESSAGES))
        # Most of them in batches, each fifth in a task of its own.
        flow.router._carrier.carry("test", "flow.double", [{"n": n} for n in numbers if n % 5])
        for n in numbers[::5]:
            flow.router.dispatch("test", "flow.double", {"n": n})
    kills: collections.Counter[str] = collections.Counter()
    log = tmp_path / "log"
    while goes_on(flow, kills):
        with celery_worker(log) as worker:
            disturb(flow, worker, server, kills)
            if is_busy(flow):
                worker.kill()
                kills["worker"] += 1
                print(f"{done(flow)} of {MESSAGES} done, kills: {dict(kills)}", file=sys.stderr)
    letters = DeadLetters(flow.redis).list(limit=MESSAGES)
    print(f"{MESSAGES} messages, kills: {dict(kills)}, {len(letters)} dead letters")
    found = {int(n): int(value) for n, value in flow.redis.hgetall("doubled").items()}
    assert {n: value for n, value in found.items() if value != 2 * n} == {}
    missing = set(range(MESSAGES)) - found.keys()
    given_up = {DeadLetters(flow.redis).show(letter.id).message.get("n") for letter in letters}
    lost = {task_of(n) for n in missing - given_up}
    assert len(lost) <= kills["redis"] + kills["worker"], missing - given_up
    assert len(letters) <= kills.total() / 5
    assert kills["redis"]


def task_of(n: int) -> tuple[int, ...]:
    """Which of the dispatched tasks a number was in: one of its own, or the batch of 50."""
    block, place = divmod(n, 500)
    return (n,) if n % 5 == 0 else (block, (place - place // 5 - 1) // 50)


def disturb(flow: Any, worker: Worker, server: Server, kills: collections.Counter[str]) -> None:
    """Kill this and that, until enough is killed: then the rest is done in peace."""
    end = time.monotonic() + 60
    # Celery gives up if a process is killed before its pool is up: then it is started anew.
    while goes_on(flow, kills) and worker.is_alive:
        if kills.total() >= KILLS:
            time.sleep(0.1)  # between two looks at whether all is done
            continue
        if time.monotonic() > end:
            return
        # The fault itself: kills at times that nothing here is in step with.
        time.sleep(PAUSE * random.uniform(0.5, 1.5))
        kills[kill_something(worker)] += 1
        if random.random() < 0.05 or (not kills["redis"] and kills.total() > 2):
            server.kill()
            time.sleep(0.3)  # how long Redis is away: so that somebody asks for it meanwhile
            server.start()
            kills["redis"] += 1


def goes_on(flow: Any, kills: collections.Counter[str]) -> bool:
    """A fast machine has done all before Redis is killed: that is killed once all the same."""
    return not kills["redis"] or is_busy(flow)


def is_busy(flow: Any) -> bool:
    """Whether a message is not done, and somewhere to be found: to be sure, for a while."""
    for _ in range(20):
        if done(flow) >= MESSAGES:
            return False
        with contextlib.suppress(Gone, OSError):
            if not flow.redis.llen("celery") and not flow.redis.hlen("unacked"):
                time.sleep(0.1)  # a message may be between two keys: looked at again
                continue
        return True
    return False


def done(flow: Any) -> int:
    """Messages whose end is known."""
    with contextlib.suppress(Gone, OSError):
        return int(flow.redis.hlen("doubled")) + len(DeadLetters(flow.redis))
    return 0


def kill_something(worker: Worker) -> str:
    """A process of the pool, or one of a node."""
    everything = worker.everything()[1:]
    children = set(worker.children())
    nodes = [p for p in everything if "program.py" in " ".join(command(p))]
    pool = [p for p in everything if p.pid in children]
    for name, processes in random.sample([("child", pool), ("node", nodes)], 2):
        if processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                os.kill(random.choice(processes).pid, signal.SIGKILL)
                return name
    return "nothing"


def command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return list(process.cmdline())
    return []
