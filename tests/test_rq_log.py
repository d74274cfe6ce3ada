"""Lines in the log of RQ's workers from Emit and the programs of nodes."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq.scheduler import RQScheduler

import emit.rq
from emit.router.rq import log_with_worker
from tests.queues.notes import dead, graph, wait_for
from tests.queues.worker import eventually, rq_worker

HELLO = "hello from a program"


@pytest.fixture
def jobs(redis: str) -> Iterator[Any]:
    with graph("jobs", redis) as module:
        yield module


@pytest.mark.requires("redis-server")
@pytest.mark.parametrize("kind", ["emit.rq.EmitWorker", "rq.Worker"])
def test_it_is_in_the_log_of_the_worker(jobs: Any, kind: str, tmp_path: Path) -> None:
    """The log has prints and given-up messages in the worker's form, with the logger's name."""
    with rq_worker(tmp_path / "log", kind) as worker:
        jobs.Answer.delay(n=1, how="print", _origin="test")
        wait_for(jobs, "jobs.answered", 1)
        jobs.moody.delay(how="error", _origin="test")
        (letter,) = dead(jobs, 1)
        worker.said(f"{letter.id} is given up")
    clock = r"^\d\d:\d\d:\d\d "
    assert re.search(f"{clock}emit[.]node[.]jobs[.]Answer: {HELLO}$", worker.text, re.M)
    assert re.search(f"{clock}emit: {letter.id} is given up", worker.text, re.M)
    assert worker.text.count(HELLO) == 1


@pytest.mark.requires("redis-server")
@pytest.mark.parametrize("kind", ["emit.rq.EmitWorker", "rq.Worker"])
def test_handlers_of_the_users_own(jobs: Any, kind: str, tmp_path: Path) -> None:
    """They alone have it, also where they come after the worker has set up its log."""
    form = "mine %(name)s %(message)s"
    with rq_worker(tmp_path / "log", kind, EMIT_TEST_LOG=form) as worker:
        jobs.Answer.delay(n=1, how="print", _origin="test")
        wait_for(jobs, "jobs.answered", 1)
    assert re.search(f"^mine emit[.]node[.]jobs[.]Answer {HELLO}$", worker.text, re.M)
    assert worker.text.count(HELLO) == 1


@pytest.mark.requires("redis-server")
@pytest.mark.parametrize("kind", ["emit.rq.EmitWorker", "rq.Worker"])
def test_a_rejected_message_is_a_warning(jobs: Any, kind: str, tmp_path: Path) -> None:
    """It is one in all lines of the worker, RQ's own included. Another failure is an error."""
    form = ("--log-format", "%(levelname)s %(message)s", "default", "words")
    with rq_worker(tmp_path / "log", kind, *form) as worker:
        rejected = jobs.moody.delay(how="reject", _origin="test")
        worker.said(f"job {rejected.id}: exception raised while executing")
        failed = jobs.moody.delay(how="error", _origin="test")
        worker.said(f"job {failed.id}: exception raised while executing")
    levels = {
        id: {line.split()[0] for line in worker.text.splitlines() if f"{id}: exception" in line}
        | {line.split()[0] for line in worker.text.splitlines() if f"{id} is given up" in line}
        for id in (rejected.id, failed.id)
    }
    assert levels == {rejected.id: {"WARNING"}, failed.id: {"ERROR"}}


def test_another_process_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a worker's log is left alone."""
    monkeypatch.setattr(logging.root, "handlers", [])
    log_with_worker()
    assert logging.getLogger("emit").handlers == []


def test_redis_is_away(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Waiting jobs are logged once a minute, and at DEBUG at each look."""
    caplog.set_level(logging.DEBUG, logger="emit.rq")
    monkeypatch.setattr(emit.rq, "TICK", 0.01)
    ended = threading.Event()
    with Redis(port=1, retry=Retry(NoBackoff(), 0)) as nowhere:
        arguments = (RQScheduler(["default"], nowhere, logging_level="WARNING"), ended)
        thread = threading.Thread(target=emit.rq._schedule, args=arguments)
        thread.start()
        eventually(lambda: len(caplog.records) >= 5)
        ended.set()
        thread.join()
    told = [r.levelname for r in caplog.records if "jobs whose time has come" in r.getMessage()]
    assert told == ["WARNING", *["DEBUG"] * (len(told) - 1)]
