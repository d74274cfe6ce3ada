"""Every pool of Celery's, with a real worker: what docs/celery.md says of each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.queues.notes import dead, graph, wait_for
from tests.queues.worker import ROOT, are_gone, celery_worker, eventually

pytestmark = [pytest.mark.slow, pytest.mark.requires("redis-server")]

COUNT = 10


def need(library: str) -> None:
    """Skip a test without *library*. Not imported here: eventlet warns at each later fork."""
    if find_spec(library) is None:
        pytest.skip(f"left out: {library}")


@pytest.fixture
def flow(redis: str) -> Iterator[Any]:
    with graph("flow", redis) as module:
        yield module


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_a_pool(flow: Any, log: Path, pool: str) -> None:
    """
    Functions, coroutines and programs of each kind work in it; a program that hangs is ended by its
    own timeout, also where Celery's limits are not enforced, which the worker says; and nothing
    outlives the worker.
    """
    if pool == "gevent":
        need("gevent")
    # With Redis, Celery pauses each time that all greenlets are busy.
    concurrency = "100" if pool == "gevent" else "4"
    with celery_worker(log, "-P", pool, "-c", concurrency) as worker:
        flow.router.dispatch("test", "flow.count", {"count": COUNT})
        flow.router._carrier.carry("test", "flow.program", [{"n": n} for n in range(COUNT)])
        for n in range(COUNT):
            flow.router.dispatch("test", "flow.shot", {"n": n})
            flow.router.dispatch("test", "flow.later", {"n": n})
        wait_for(flow, "flow.last", COUNT)
        answers = [r["fields"]["answer"] for r in wait_for(flow, "flow.answered", COUNT)]
        assert sorted(n for _, n in answers) == list(range(COUNT))
        others = wait_for(flow, "flow.last_of_all", 2 * COUNT)
        for origin in ("flow.shot", "flow.later"):
            numbers = [r["fields"]["n"] for r in others if r["origin"] == origin]
            assert sorted(numbers) == list(range(COUNT))
        assert not len(flow.router.dead_letters)
        assert (f"-P {pool}: " in worker.text) == (pool != "prefork")
        flow.router.dispatch("test", "flow.hanging", {"seconds": 600, "file": str(log) + ".pids"})
        (letter,) = dead(flow, 1)
        assert letter.causes[-1].type == "CallTimeout"
        everything = worker.everything()
        worker.stop()
        eventually(lambda: are_gone(everything), what=f"still there: {everything}")


def test_eventlet_and_programs(flow: Any, log: Path) -> None:
    """Such a worker ends at its start, and says which node and which pool do not go together."""
    need("eventlet")
    with pytest.raises(AssertionError), celery_worker(log, "-P", "eventlet"):
        pass
    assert "is a program, and programs can't run in a worker with -P eventlet" in log.read_text()
    assert '"flow.' in log.read_text()
    assert "Traceback" not in log.read_text()


def test_eventlet_and_functions(redis: str, log: Path) -> None:
    """Functions work, coroutines too: eventlet's greenlets share a thread, and take turns."""
    need("eventlet")
    with graph("functions", redis) as functions:
        with celery_worker(log, "-P", "eventlet", "-c", "100", app="functions"):
            for n in range(COUNT):
                functions.router.dispatch("test", "functions.later", {"n": n})
            eventually(lambda: functions.redis.llen("noted") >= COUNT)
        noted = map(int, functions.redis.lrange("noted", 0, -1))
        assert sorted(noted) == list(range(COUNT))
        assert not len(functions.router.dead_letters)


PROGRAM = """
import eventlet
eventlet.monkey_patch()
from emit import Router, ShellNode
from emit.errors import StartError
router = Router()
echo = router.node(("n",), name="echo", command=["cat"], mode="oneshot")(ShellNode)
try:
    echo(n=1)
except StartError as error:
    print(error)
"""


def test_a_process_that_eventlet_has_patched() -> None:
    """A start without Celery is an error that says what is in the way."""
    need("eventlet")
    printed = subprocess.check_output(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=100,
    )
    assert printed.startswith('"echo" cannot be started: select.poll is not there (eventlet takes')
