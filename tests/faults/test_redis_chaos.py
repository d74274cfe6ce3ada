"""
Messages in this process, through Celery and through RQ, while all there is around them fails.

Programs are killed, in the middle of a message and at their starts; processes of the pool and whole
workers are; all connections to Redis are dropped by a proxy; the keys that are Emit's own are
forbidden for a while; and Redis is away for five seconds.
"""

from __future__ import annotations

import collections
import contextlib
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Gone
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq.intermediate_queue import IntermediateQueue
from rq.registry import StartedJobRegistry

from emit import NoResult, Router, ShellNode, idempotent
from emit.dead import DeadLetters
from emit.errors import InProgress, LedgerError, RemoteError, StartError, Unavailable
from emit.letter import Cause, DeadLetter
from tests.faults.chaos import (
    Storm,
    all_letters,
    check,
    command,
    count_done,
    kill_something,
    send,
    task_of,
    told,
)
from tests.faults.nodes import CHAOS
from tests.faults.servers import Server
from tests.queues.notes import graph
from tests.queues.proxy import Proxy
from tests.queues.worker import ROOT, Worker, celery_worker, rq_worker

pytestmark = pytest.mark.requires("redis-server")

MESSAGES = 20_000 if CHAOS else 2_000
#: Then it is enough: on a slow machine what is killed all the time gets nothing done.
FAULTS = 150 if CHAOS else 15
#: Seconds between two faults.
PAUSE = 1.0 if CHAOS else 0.4
#: Seconds for which Emit's own keys are forbidden.
DENIED = 5.0 if CHAOS else 1.0

#: The worker's own death is noticed after the visibility timeout, so that is short here.
SHORT = {"EMIT_TEST_LIMIT": "4", "EMIT_TEST_VISIBILITY": "10"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "redis").mkdir()
    server = Server(tmp_path / "redis")
    yield server
    server.kill()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def storm(server: Server, proxy: Proxy) -> Storm:
    random.seed(1)
    return Storm(server, proxy, denied=DENIED)


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has each third start of a program be killed. A character for each of them."""
    file = tmp_path / "killed"
    monkeypatch.setenv("EMIT_TEST_KILLED_STARTS", str(file))
    return file


@pytest.fixture
def client(server: Server) -> Iterator[Redis]:
    """Return a client to inspect Redis; it is not part of the test."""
    with Redis.from_url(server.url) as client:
        yield client


def url(server: Server, port: int, user: str = "") -> str:
    return server.url.replace(f"127.0.0.1:{server.port}", f"{user}127.0.0.1:{port}")


def disturb(worker: Worker, storm: Storm, is_over: Callable[[], bool]) -> None:
    """Have it all happen, until it is enough: then the rest is done in peace."""
    end = time.monotonic() + 60
    # Celery gives up if a process is killed before its pool is up: then it is started anew.
    while not is_over() and worker.is_alive:
        if storm.faults.total() >= FAULTS:
            time.sleep(0.1)  # between two looks at whether all is done
            continue
        is_due = storm.faults.total() >= FAULTS / 2 and not storm.faults["worker"]
        if is_due or time.monotonic() > end:
            return  # the worker itself comes next
        # The fault itself: at times that nothing here is in step with.
        time.sleep(PAUSE * random.uniform(0.5, 1.5))
        storm.strike(partial(kill_something, worker))


# -- in this process -----------------------------------------------------------------------------

#: They tell who calls a node to call it again; a RedisError is of a letter that was not kept.
AGAIN = (InProgress, LedgerError, RedisError, StartError, Unavailable)


def test_in_this_process(
    server: Server,
    proxy: Proxy,
    storm: Storm,
    killed: Path,
    client: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Four threads call, and call again where they are told to. What is refused they keep themselves;
    and a message whose letter can't be kept stays with who calls.
    """
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "sdks" / "python"))
    address = url(server, proxy.port, "emit:secret@")
    keeper = Redis.from_url(address, retry=Retry(NoBackoff(), 0))
    letters = DeadLetters(keeper)
    found: dict[str, str] = {}
    again: collections.Counter[str] = collections.Counter()
    router = Router()

    @router.node(("n", "doubled"), name="double", dead_letter=letters.add)
    class Double(ShellNode):
        command = (sys.executable, str(ROOT / "tests" / "queues" / "program.py"))
        mode = "persistent"
        pass_env = (*ShellNode.pass_env, "PYTHONPATH", "EMIT_TEST_KILLED_STARTS")
        size = 2
        timeout = 60

    @router.node((), "double", name="sum")
    def summed(msg: Any) -> Any:
        with idempotent(keeper, f"summed:{msg.n}", lease=5) as first:
            if first:
                found[str(msg.n)] = str(msg.doubled)
        return NoResult

    def call(n: int) -> None:
        try:
            Double(n=n)
        except RemoteError as error:
            letters.add(DeadLetter("double", {"n": n}, (Cause.of(error, time.time()),)))

    def work(numbers: Iterable[int]) -> None:
        for n in numbers:
            while True:
                try:
                    call(n)
                    break
                except AGAIN as error:
                    again[type(error).__name__] += 1
                    time.sleep(0.05)  # between two attempts, as a caller would

    threads = [threading.Thread(target=work, args=(range(n, MESSAGES, 4),)) for n in range(4)]
    with router:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            # By progress, so that all of it happens while there is something to do.
            if len(found) >= storm.faults.total() * MESSAGES / FAULTS / 1.5:
                storm.strike(kill_program)
            time.sleep(0.01)  # between two looks
    keeper.close()
    kept = all_letters(client)
    told(MESSAGES, storm.faults, killed, kept, again=dict(again))
    assert storm.has_struck
    assert check(MESSAGES, found, kept, killed, FAULTS / 5) == set()


def kill_program() -> str:
    """Kill a program of this process's own."""
    programs = [
        child
        for child in psutil.Process().children(recursive=True)
        if "program.py" in command(child)
    ]
    with contextlib.suppress(psutil.NoSuchProcess, IndexError):
        random.choice(programs).kill()
        return "node"
    return "nothing"


# -- through Celery ------------------------------------------------------------------------------


@pytest.fixture
def flow(
    server: Server, proxy: Proxy, redis: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    for name, value in SHORT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EMIT_TEST_BROKER", url(server, proxy.port))
    monkeypatch.setenv("EMIT_TEST_EMIT_REDIS", url(server, proxy.port, "emit:secret@"))
    with graph("flow", redis) as module:
        yield module
        module.app.close()


def test_celery(flow: Any, storm: Storm, killed: Path, client: Redis, tmp_path: Path) -> None:
    """
    kombu takes a message out of Redis in one step and notes in another who has it: what is between
    the two when Redis or the whole worker is killed, or the connection dropped, is lost to every
    user of Celery on Redis. That is one task for each such fault at most, as the worker takes them
    one by one; but a task may have 50 messages.
    """
    faults = storm.faults

    def is_over() -> bool:
        # A fast machine has done all before everything has happened, which it must all the same.
        return storm.has_struck and bool(faults["worker"]) and not is_busy(flow, client)

    send(flow, "flow.double", MESSAGES)
    while not is_over():
        with celery_worker(tmp_path / "log") as worker:
            disturb(worker, storm, is_over)
            if not is_over():
                worker.kill()
                faults["worker"] += 1
                print(
                    f"{count_done(MESSAGES, flow.redis, client)} of {MESSAGES} done, {dict(faults)}"
                )
    letters = all_letters(client)
    missing = check(MESSAGES, flow.redis.hgetall("doubled"), letters, killed, FAULTS / 5)
    lost = {task_of(n) for n in missing}
    told(MESSAGES, storm.faults, killed, letters, lost_by_kombu=len(lost))
    assert len(lost) <= faults["away"] + faults["worker"] + faults["dropped"], missing


def is_busy(flow: Any, client: Redis) -> bool:
    """True if a message is not done, and somewhere to be found: to be sure, for a while."""
    for _ in range(20):
        if count_done(MESSAGES, flow.redis, client) >= MESSAGES:
            return False
        with contextlib.suppress(Gone, OSError):
            if not client.llen("celery") and not client.hlen("unacked"):
                time.sleep(0.1)  # a message may be between two keys: looked at again
                continue
        return True
    return False


# -- through RQ ----------------------------------------------------------------------------------


@pytest.fixture
def jobs(
    server: Server, proxy: Proxy, redis: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    monkeypatch.setenv("EMIT_TEST_BROKER", url(server, proxy.port, "emit:secret@"))
    with graph("jobs", redis) as module:
        yield module


def test_rq(jobs: Any, storm: Storm, killed: Path, client: Redis, tmp_path: Path) -> None:
    """None is lost: of a worker with one queue each job is somewhere at every moment."""
    faults = storm.faults

    def done() -> int:
        return count_done(MESSAGES, jobs.redis, client)

    def is_over() -> bool:
        return storm.has_struck and bool(faults["worker"]) and done() >= MESSAGES

    send(jobs, "jobs.double", MESSAGES)
    while not is_over():
        with rq_worker(tmp_path / "log", "emit.rq.EmitWorker", "default") as worker:
            disturb(worker, storm, lambda: is_over() or is_stuck(client))
            if not is_over():
                worker.kill()
                faults["worker"] += 1
                print(f"{done()} of {MESSAGES} done, {dict(faults)}")
                pass_time(client)
    letters = all_letters(client)
    told(MESSAGES, storm.faults, killed, letters)
    assert check(MESSAGES, jobs.redis.hgetall("doubled"), letters, killed, FAULTS / 5) == set()


def is_stuck(client: Redis) -> bool:
    """
    True if all that is left was given to a worker whose connection was dropped just then: it does
    not know, and RQ looks for such jobs a minute later.
    """
    queue = Queue(connection=client)
    for _ in range(20):
        with contextlib.suppress(Gone, OSError):
            others = (queue.started_job_registry, queue.scheduled_job_registry)
            if queue.count or any(registry.count for registry in others):
                return False
            time.sleep(0.1)  # a job may be between two keys: looked at again
            continue
        return False
    return True


def pass_time(client: Redis) -> None:
    """Have it be some minutes later for what a worker has had that was killed."""
    queue = Queue(connection=client)
    waiting = IntermediateQueue(queue.key, client)
    started = StartedJobRegistry(connection=client)
    with client.pipeline() as pipeline:
        pipeline.delete(queue.registry_cleaning_key)
        for id in waiting.get_job_ids():
            pipeline.set(waiting.get_first_seen_key(id), 1)
        for member in client.zrange(started.key, 0, -1):
            pipeline.zadd(started.key, {member: 1})
        pipeline.execute()
