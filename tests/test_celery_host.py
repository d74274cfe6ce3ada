"""Celery's workers with a shared host: one program for all children, whoever is killed."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.queues.worker import Worker, are_gone, celery_worker, eventually

pytestmark = pytest.mark.requires("redis-server")

HERE = Path(__file__).parent / "queues"


@pytest.fixture
def path(short_folder: Path) -> Path:
    return short_folder / "run" / "host.sock"


@pytest.fixture(scope="module")
def together(redis_server: str) -> Iterator[Any]:
    """The graph, imported here as a web process would; once, as Celery keeps its tasks."""
    pytest.importorskip("celery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMIT_TEST_REDIS", redis_server)
        patch.setenv("EMIT_TEST_HOST", "private")
        patch.syspath_prepend(str(HERE))
        yield importlib.import_module("together")
        sys.modules.pop("together", None)


@pytest.fixture
def graph(redis: str, together: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The graph, with nothing sent yet; its workers have a host at *path*."""
    monkeypatch.setenv("EMIT_TEST_REDIS", redis)
    monkeypatch.setenv("EMIT_TEST_HOST", str(path))
    return together


def worker(tmp_path: Path, name: str = "one") -> contextlib.AbstractContextManager[Worker]:
    """A prefork worker with three children."""
    return celery_worker(tmp_path / f"{name}.log", "-c", "3", "-n", f"{name}@%h", app="together")


def noted(graph: Any, count: int) -> list[tuple[int, int, int]]:
    """The pid of the program, the number and the pid of the child, of so many messages."""
    eventually(lambda: graph.redis.llen("noted") >= count, what="messages are missing")
    lines = graph.redis.lrange("noted", 0, -1)
    return [tuple(map(int, line.split())) for line in lines]


def send(graph: Any, first: int, count: int) -> None:
    for n in range(first, first + count):
        graph.router(n=n)


def host_of(running: Worker) -> int:
    """The process of the worker's host."""

    def look() -> Any:
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(running.pid).children():
                if "emit.cli" in process.cmdline():
                    return process.pid
        return None

    pid: int = eventually(look, what="it has no host")
    return pid


def test_children_share_a_program(graph: Any, tmp_path: Path, path: Path) -> None:
    """Three children, one program; all of it is gone with the worker."""
    graph.redis.set("wanted", 60)
    with worker(tmp_path) as running:
        send(graph, 0, 60)
        found = noted(graph, 60)
        assert len({pid for pid, _, _ in found}) == 1
        assert len({child for _, _, child in found}) > 1
        assert sorted(n for _, n, _ in found) == list(range(60))
        everything = running.everything()
        assert running.stop() == 0
        eventually(lambda: are_gone(everything))
        assert not path.exists()


def test_the_host_is_killed(graph: Any, tmp_path: Path) -> None:
    """The worker starts it again, and no message is lost."""
    with worker(tmp_path) as running:
        send(graph, 0, 20)
        noted(graph, 20)
        first = host_of(running)
        send(graph, 20, 20)
        os.kill(first, signal.SIGKILL)
        send(graph, 40, 20)
        found = noted(graph, 60)
        assert {n for _, n, _ in found} == set(range(60))
        assert host_of(running) != first


def test_the_master_is_killed(graph: Any, tmp_path: Path) -> None:
    """The host ends by itself, and its program with it."""
    with worker(tmp_path) as running:
        send(graph, 0, 5)
        noted(graph, 5)
        everything = running.everything()
        host_of(running)
        running.stop(signal.SIGKILL)
        eventually(lambda: are_gone(everything))


def test_two_workers(graph: Any, tmp_path: Path) -> None:
    """They share one host; when its worker stops, the other one's takes its place."""
    with worker(tmp_path, "one") as one:
        send(graph, 0, 10)
        (pid,) = {pid for pid, _, _ in noted(graph, 10)}
        with worker(tmp_path, "two"):
            send(graph, 10, 20)
            assert {pid for pid, _, _ in noted(graph, 30)} == {pid}
            one.stop()
            send(graph, 30, 10)
            found = noted(graph, 40)
            assert {n for _, n, _ in found} == set(range(40))
            assert len({pid for pid, _, _ in found}) == 2


def test_a_wrong_setting(graph: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker does not start, and says why."""
    monkeypatch.setenv("EMIT_TEST_HOST", "sharred")
    with pytest.raises(AssertionError, match="'sharred' must be 'private', 'shared', or"):
        with worker(tmp_path):
            pytest.fail("it has started")
