"""RQ's workers of every kind run programs, and are killed while they do."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rq import Retry
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry

from emit.dead import DeadLetters
from tests.queues.notes import dead, graph, seen, wait_for
from tests.queues.worker import are_gone, eventually, rq_worker
from tests.shared_hosts import listening

pytestmark = pytest.mark.requires("redis-server")


@pytest.fixture
def jobs(redis: str) -> Iterator[Any]:
    with graph("jobs", redis) as module:
        yield module


def test_programs_end_with_the_worker(jobs: Any, tmp_path: Path) -> None:
    """A warm stop ends them politely, SIGKILL within a moment."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        jobs.redis.delete("seen")
        with rq_worker(tmp_path / signum.name, "emit.rq.EmitWorker") as worker:
            jobs.Answer.delay(n=1, _origin="test")
            pid = wait_for(jobs, "jobs.answered", 1)[0]["fields"]["answer"][0]
            everything = [process.pid for process in worker.everything()]
            assert pid in everything
            worker.stop(signum)
            eventually(lambda pids=everything: are_gone(pids))


def test_a_worker_is_killed_with_a_job(jobs: Any, tmp_path: Path) -> None:
    """Its job runs again once its heartbeat is missed, and counts as a second delivery."""
    with rq_worker(tmp_path / "first", "emit.rq.EmitWorker") as worker:
        job = jobs.moody.delay(how="kill once", _origin="test")
        eventually(lambda: not worker.is_alive)
    registry = StartedJobRegistry("default", connection=jobs.connection)
    assert registry.count == 1
    registry.cleanup(timestamp=time.time() + 86_400)
    with rq_worker(tmp_path / "second", "emit.rq.EmitWorker"):
        eventually(lambda: job.get_status(refresh=True) == "finished")
    assert [record["id"] for record in seen(jobs, "jobs.moody")] == [job.id] * 2


@pytest.mark.parametrize("kind", ["rq.Worker", "rq.worker.SpawnWorker"])
def test_a_worker_that_forks(jobs: Any, kind: str, tmp_path: Path) -> None:
    """RQ's default: each job starts the program anew, and leaves nothing behind."""
    with rq_worker(tmp_path / "log", kind):
        for n in range(3):
            jobs.Answer.delay(n=n, _origin="test")
        answers = [r["fields"]["answer"] for r in wait_for(jobs, "jobs.answered", 3)]
        assert sorted(n for _, n in answers) == [0, 1, 2]
        assert len({pid for pid, _ in answers}) == 3
        eventually(lambda: are_gone(pid for pid, _ in answers))


def test_a_worker_that_forks_with_a_shared_host(
    jobs: Any, tmp_path: Path, short_folder: Path
) -> None:
    """A process for each job, and one program for all of them."""
    path = short_folder / "host.sock"
    with listening(path), rq_worker(tmp_path / "log", "rq.Worker", EMIT_HOST=str(path)):
        for n in range(4):
            jobs.Answer.delay(n=n, _origin="test")
        records = wait_for(jobs, "jobs.answered", 4)
    answers = [record["fields"]["answer"] for record in records]
    assert sorted(n for _, n in answers) == [0, 1, 2, 3]
    assert len({pid for pid, _ in answers}) == 1
    assert len({record["pid"] for record in records}) == 4


def test_a_horse_is_killed(jobs: Any, tmp_path: Path) -> None:
    """A message that kills is delivered max_deliveries times; its mates in a batch once."""
    jobs.redis.set("bad", "kill")
    with rq_worker(tmp_path / "log", "rq.Worker"):
        jobs.spread.delay(count=5)
        (letter,) = dead(jobs, 1)
        assert letter.message == {"n": 3}
        assert (letter.causes[-1].type, letter.attempts) == ("Undelivered", 3)
        eventually(lambda: sum(len(r["ns"]) for r in seen(jobs, "collected")) >= 4)
    counted = Counter(n for r in seen(jobs, "collected") for n in r["ns"])
    assert sorted(counted) == [n for n in range(5) if n != 3]
    assert len(seen(jobs, "jobs.batched")) == 1 + 3


@pytest.mark.parametrize("kind", ["rq.Worker", "emit.rq.EmitWorker"])
def test_a_failed_job_is_requeued(jobs: Any, kind: str, tmp_path: Path) -> None:
    """Its handler runs as if the message were new, and the dead letter keeps the first cause."""
    with rq_worker(tmp_path / "log", kind):
        job = jobs.moody.delay(how="two errors", _origin="test")
        eventually(lambda: job.get_status() == "failed")
        for requeue in (job.requeue, lambda: job.failed_job_registry.requeue(job.id)):
            before = len(seen(jobs, "jobs.moody"))
            requeue()
            eventually(lambda before=before: len(seen(jobs, "jobs.moody")) == before + 1)
            eventually(lambda: job.get_status() == "failed")
    assert [record["attempt"] for record in seen(jobs, "jobs.moody")] == [1, 1, 1]
    (letter,) = dead(jobs, 1)
    assert [cause.text.split("'")[1] for cause in letter.causes] == [
        "the first cause",
        "the second cause",
        "the second cause",
    ]
    assert (letter.id, letter.attempts) == (job.id, 3)


def test_the_command_of_rq_requeues(jobs: Any, tmp_path: Path) -> None:
    """All failed jobs of a queue; one that ends well leaves its dead letter for who looks at it."""
    with rq_worker(tmp_path / "log", "rq.Worker"):
        job = jobs.moody.delay(how="error, kill, end", _origin="test")
        eventually(lambda: job.get_status() == "failed")
        jobs.redis.incr("moody:once")  # no kill
        command = ["rq.cli", "requeue", "--url", jobs.URL, "--all", "--queue", "default"]
        subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
        eventually(lambda: job.get_status() == "finished")
    (letter,) = dead(jobs, 1)
    assert "the first cause" in letter.causes[0].text


def test_a_requeued_job_kills_its_process(jobs: Any, tmp_path: Path) -> None:
    """RQ runs it again, as any other."""
    with rq_worker(tmp_path / "log", "rq.Worker"):
        job = jobs.moody.delay(how="error, kill, end", _origin="test")
        eventually(lambda: job.get_status() == "failed")
        job.requeue()
        eventually(lambda: job.get_status() == "finished")
    assert len(seen(jobs, "jobs.moody")) == 3


def test_a_job_is_requeued_that_rq_failed_itself(jobs: Any, tmp_path: Path) -> None:
    """It has no dead letter, as its code could not be imported, say: it runs then."""
    job = jobs.moody.delay(how="end", _origin="test")
    jobs.router._jobs["jobs.moody"].queue.remove(job)
    job.retries_left = 0
    job.set_status(JobStatus.FAILED)
    job.failed_job_registry.add(job, exc_string="ModuleNotFoundError")
    job.requeue()
    with rq_worker(tmp_path / "log", "rq.Worker"):
        eventually(lambda: job.get_status() == "finished")
    assert len(seen(jobs, "jobs.moody")) == 1
    assert DeadLetters(jobs.redis).list() == []


def test_a_job_that_was_enqueued_by_hand(jobs: Any, tmp_path: Path) -> None:
    """RQ's own way of enqueuing: RQ tries it as often as it is told there."""
    queue = jobs.router._jobs["jobs.moody"].queue
    for how, retry in (("end", Retry(max=1)), ("kill once", Retry(max=1)), ("error", None)):
        job = Job.fetch(queue.enqueue(jobs.moody, how=how, retry=retry).id, jobs.connection)
        with rq_worker(tmp_path / how, "rq.Worker"):
            wanted = "failed" if how == "error" else "finished"
            eventually(lambda job=job, wanted=wanted: job.get_status() == wanted)
    job.requeue()
    with rq_worker(tmp_path / "requeued", "rq.Worker"):
        eventually(lambda: len(seen(jobs, "jobs.moody")) == 1 + 2 + 2)
