"""
Messages through Celery and RabbitMQ while its processes, the nodes, the worker and RabbitMQ are
killed, programs at their starts as well, the connections dropped, and Emit's own Redis refuses
every command for a while.
"""

from __future__ import annotations

import collections
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest
from redis import Redis

from tests.faults.chaos import all_letters, check, count_done, kill_something, send, told
from tests.faults.nodes import CHAOS
from tests.queues.notes import graph
from tests.queues.proxy import Proxy
from tests.queues.rabbit import Rabbit, serving_rabbitmq
from tests.queues.worker import PATIENCE, Worker, celery_worker

pytestmark = pytest.mark.requires("redis-server", "rabbitmq-server")

MESSAGES = 50_000 if CHAOS else 1_000
#: Then it is enough: on a slow machine what is killed all the time gets nothing done.
FAULTS = 200 if CHAOS else 12
#: Seconds between two faults, and how often RabbitMQ itself is killed.
PAUSE, BROKER = (0.6, 0.05) if CHAOS else (0.4, 0.0)
#: Seconds for which Emit's Redis refuses its user.
DENIED = 5.0 if CHAOS else 1.0
#: After so many messages that are sent a connection is reset, and the last never arrives.
EVERY = 100


@pytest.fixture
def rabbit(tmp_path: Path) -> Iterator[Rabbit]:
    with serving_rabbitmq(tmp_path) as rabbit:
        yield rabbit


@pytest.fixture
def proxy(rabbit: Rabbit) -> Iterator[Proxy]:
    with Proxy(rabbit.port) as proxy:
        yield proxy


@pytest.fixture(params=["classic", "quorum"])
def flow(
    request: pytest.FixtureRequest,
    redis: str,
    rabbit: Rabbit,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    monkeypatch.setenv("EMIT_TEST_BROKER", rabbit.url(proxy.port))
    monkeypatch.setenv("EMIT_TEST_QUEUE", request.param)
    monkeypatch.setenv("EMIT_TEST_EMIT_REDIS", redis.replace("//", "//emit:secret@"))
    with graph("flow", redis) as module:
        allow(module.redis)
        yield module
        proxy.every = 0
        module.app.close()
        module.redis.acl_deluser("emit")


def allow(redis: Redis) -> None:
    """Have the user by whom Emit keeps letters and counts, and let it do everything."""
    redis.acl_setuser(
        "emit",
        enabled=True,
        passwords=["+secret"],
        keys=["*"],
        channels=["*"],
        categories=["+@all"],
    )


def test_nothing_is_lost(
    flow: Any, rabbit: Rabbit, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Each message is doubled by a program and added up: no number is missing, none is wrong. A
    repeat may count a number twice, so the sink notes them by their ids.
    """
    random.seed(1)
    killed = tmp_path / "killed"
    monkeypatch.setenv("EMIT_TEST_KILLED_STARTS", str(killed))
    proxy.every = EVERY
    send(flow, "flow.double", MESSAGES)
    faults: collections.Counter[str] = collections.Counter()
    while not is_over(flow, faults):
        with celery_worker(tmp_path / "worker.log") as worker:
            disturb(flow, worker, rabbit, proxy, faults)
            if not is_over(flow, faults):
                worker.kill()
                faults["worker"] += 1
                print(f"{done(flow)} of {MESSAGES} done, {dict(faults)}", file=sys.stderr)
    letters = all_letters(flow.redis)
    told(MESSAGES, faults, killed, letters, resets=proxy.resets)
    found = flow.redis.hgetall("doubled")
    assert check(MESSAGES, found, letters, killed, faults.total() / 5) == set()


def disturb(
    flow: Any,
    worker: Worker,
    rabbit: Rabbit,
    proxy: Proxy,
    faults: collections.Counter[str],
) -> None:
    """Kill and drop this and that, until it is enough: then the rest is done in peace."""
    end = time.monotonic() + 60
    before, since = (0, 0), time.monotonic()
    # Celery gives up if a process is killed before its pool is up: then it is started anew.
    while not is_over(flow, faults) and worker.is_alive:
        if faults.total() >= FAULTS:
            proxy.every = 0
            if (now := (done(flow), waiting(flow, rabbit))) != before:
                before, since = now, time.monotonic()
            # A message may wait for a minute.
            assert time.monotonic() - since < 2 * PATIENCE, f"{MESSAGES - now[0]} are lost"
            time.sleep(0.1)  # between two looks at whether all is done
            continue
        if time.monotonic() > end:
            return
        # The fault itself: at times that nothing here is in step with.
        time.sleep(PAUSE * random.uniform(0.5, 1.5))
        if random.random() < BROKER or (not faults["broker"] and faults.total() > 5):
            rabbit.kill()
            rabbit.start()
            faults["broker"] += 1
        elif random.random() < 0.05 or (not faults["denied"] and faults.total() > 3):
            flow.redis.acl_setuser("emit", categories=["-@all"])
            time.sleep(DENIED)  # the fault itself: so long nothing can be counted or kept
            allow(flow.redis)
            faults["denied"] += 1
        elif random.random() < 0.4 or not faults["dropped"]:
            proxy.drop()
            faults["dropped"] += 1
        else:
            faults[kill_something(worker)] += 1


def is_over(flow: Any, faults: collections.Counter[str]) -> bool:
    """
    True if all is done. A fast machine has done all before RabbitMQ is killed, a connection is
    dropped, or Redis refuses: each happens once all the same.
    """
    seen = faults["broker"] and faults["dropped"] and faults["denied"]
    return bool(seen) and done(flow) >= MESSAGES


def done(flow: Any) -> int:
    return count_done(MESSAGES, flow.redis, flow.redis)


def waiting(flow: Any, rabbit: Rabbit) -> int:
    """Tasks that no worker has taken."""
    url = flow.app.conf.broker_url.rsplit("/", 1)
    with kombu.Connection(f"amqp://guest:guest@127.0.0.1:{rabbit.port}/{url[1]}") as connection:
        queue = flow.app.conf.task_default_queue
        found = connection.default_channel.queue_declare(queue, passive=True)
        return int(found.message_count)
