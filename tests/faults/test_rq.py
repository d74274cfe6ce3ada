"""Workers of RQ whose Redis goes away, or whose neighbour dies."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue, Worker
from rq.registry import StartedJobRegistry
from rq.scheduler import RQScheduler

from emit.dead import DeadLetters
from emit.rq import EmitWorker, _scheduling
from tests.faults.servers import Server
from tests.queues.notes import graph
from tests.queues.worker import eventually, rq_worker

pytestmark = pytest.mark.requires("redis-server")

KIND = "emit.rq.EmitWorker"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "redis").mkdir()
    server = Server(tmp_path / "redis")
    yield server
    server.kill()


@pytest.fixture
def outage(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("EMIT_TEST_FOLDER", str(tmp_path))
    with graph("outage", server.url) as module:
        yield module


@pytest.mark.parametrize(
    ("how", "status", "runs"),
    [
        ("end", "finished", 1),
        ("fail", "failed", 1),
        ("retry", "finished", 2),
        ("send", "finished", 2),
    ],
)
def test_redis_goes_away_in_the_middle_of_a_job(
    outage: Any, server: Server, tmp_path: Path, how: str, status: str, runs: int
) -> None:
    """The worker waits for it, writes down how the job has ended, and goes on with others."""
    with rq_worker(tmp_path / "log", KIND, "default") as worker:
        job = outage.held.delay(how=how)
        eventually(lambda: outage.runs("held") == 1)
        server.kill()
        (tmp_path / "go").touch()
        worker.said("waits for Redis")
        server.start()
        eventually(lambda: job.get_status() == status)
        assert outage.runs("held") == runs
        eventually(lambda: outage.runs("after") == (how == "send"))
        letters = DeadLetters(outage.connection).list()
        assert [letter.id for letter in letters] == ([job.id] if how == "fail" else [])
        another = outage.held.delay(how="end")
        eventually(lambda: another.get_status() == "finished")
        assert worker.stop() == 0


def test_a_worker_is_stopped_while_redis_is_away(
    outage: Any, server: Server, tmp_path: Path
) -> None:
    """One with a job writes down its end first; an idle one ends at once."""
    with rq_worker(tmp_path / "busy", KIND, "default") as busy:
        job = outage.held.delay(how="end")
        eventually(lambda: outage.runs("held") == 1)
        with rq_worker(tmp_path / "idle", KIND, "default") as idle:
            server.kill()
            idle.said("waits for Redis")
            assert idle.stop() == 0
        busy.send(signal.SIGTERM)
        busy.said("Redis doesn't know that this worker is to stop")
        (tmp_path / "go").touch()
        busy.said("waits for Redis")
        server.start()
        eventually(lambda: not busy.is_alive)
        assert job.get_status() == "finished"
        assert outage.runs("held") == 1


def test_redis_is_not_there_at_the_start(outage: Any, server: Server, tmp_path: Path) -> None:
    """A missing Redis is an error, as with RQ's own workers: its reader sees a wrong address."""
    server.kill()
    with pytest.raises(AssertionError, match="Connection refused"):
        with rq_worker(tmp_path / "log", KIND, "default"):
            pass


def test_a_handler_does_not_wait_for_redis(outage: Any, server: Server) -> None:
    """The client that a worker was given is left as it was: handlers may use it as well."""
    client = Redis.from_url(server.url)
    before = client.connection_pool.connection_kwargs.get("retry")
    worker = EmitWorker([Queue(connection=client)], connection=client)
    worker.work(burst=True)
    assert worker.connection is not client
    assert client.connection_pool.connection_kwargs.get("retry") is before
    client.close()


@pytest.mark.parametrize("given", [{}, {"maintenance_interval": 600}])
def test_a_worker_looks_every_minute(server: Server, given: dict[str, int]) -> None:
    """A worker looks every minute unless told otherwise; RQ's own default does not count."""
    with Redis.from_url(server.url) as client:
        worker = EmitWorker(["default"], connection=client, **given)
        assert (worker.maintenance_interval, worker.dequeue_timeout) == (60, 60)
        told = EmitWorker(["default"], connection=client, maintenance_interval=20)
        assert (told.maintenance_interval, told.dequeue_timeout) == (20, 20)
        rare = EmitWorker(["default"], connection=client, maintenance_interval=900, worker_ttl=30)
        assert (rare.maintenance_interval, rare.dequeue_timeout) == (900, 15)


def test_an_idle_worker_runs_the_job_of_a_dead_one(
    outage: Any, server: Server, tmp_path: Path
) -> None:
    """The waiting worker runs the job, although the dead one has left a queue locked."""
    with rq_worker(tmp_path / "first", KIND, "default") as first:
        job = outage.held.delay(how="end")
        eventually(lambda: outage.runs("held") == 1)
        often = ("--maintenance-interval", "1")
        with rq_worker(tmp_path / "second", KIND, *often, "default"):
            eventually(lambda: "idle" in [w.get_state() for w in Worker.all(outage.connection)])
            first.stop(signal.SIGKILL)
            (tmp_path / "go").touch()
            registry = StartedJobRegistry(connection=outage.connection)
            key = Queue(connection=outage.connection).registry_cleaning_key
            with outage.connection.pipeline() as pipeline:
                pipeline.set(key, 1, ex=600)
                for member in outage.connection.zrange(registry.key, 0, -1):
                    pipeline.zadd(registry.key, {member: 1})  # the time of its job is over
                pipeline.execute()
            eventually(lambda: job.get_status() == "finished")
    assert outage.runs("held") == 2


def test_the_time_of_a_dead_worker_is_watched(server: Server) -> None:
    """A worker that finds another's lock takes it over once it has run out, and not much later."""
    with Redis.from_url(server.url) as client:
        lock = RQScheduler.get_locking_key("default")
        client.set(lock, "a dead worker")
        scheduler = RQScheduler([Queue(connection=client)], connection=client)
        with _scheduling(scheduler):
            eventually(lambda: scheduler.lock_acquisition_time)
            assert not scheduler.acquired_locks
            client.delete(lock)  # it runs out, a minute after its worker has died
            eventually(lambda: scheduler.acquired_locks == {"default"})
        assert not client.exists(lock)
