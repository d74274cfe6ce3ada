"""Marks and fixtures for all tests: the ``requires`` mark, a cache for builds, real servers.

``faulthandler_timeout`` in pyproject.toml ends a test that hangs, and prints every thread's stack.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from scripts import tools
from tests.hosts import tagged
from tests.leaks import no_leaks

#: A shell that ends Redis once this test run is gone, even if the run was killed: its read ends
#: then. It closes its stdout, so only Redis holds the pipe: if the pipe ends, the start has failed.
GUARD = 'redis-server "$@" & exec >&-; read -r _; kill -9 $!; wait'

#: A test that needs one of these is slow: a server has to start, and often workers, too.
SERVERS = {"redis-server", "rabbitmq-server"}
SLOW_FIXTURES = {"redis_server", "usual_redis", "rabbitmq", "builds"}

#: The number of tests that each process of xdist has left out.
left_out: list[int] = []


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell ignores SIGINT in background jobs. All processes of the tests would inherit that,
        # and no test could press Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers",
        "requires(*names): needs programs of scripts/tools.py; skipped without, fails if CI=true",
    )
    # A loaded machine may take long for a value. That says nothing about the value.
    slow = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=slow)
    hypothesis.settings.load_profile("patient")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests as slow by their needs. Modules and tests mark themselves for other reasons."""
    for item in items:
        programs = {name for mark in item.iter_markers("requires") for name in mark.args}
        fixtures = set(getattr(item, "fixturenames", ()))
        if "faults" in item.path.parts or programs & SERVERS or fixtures & SLOW_FIXTURES:
            item.add_marker("slow")


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Let a process of xdist report how many tests it leaves out, which xdist itself does not."""
    output = getattr(items[0].config, "workeroutput", None)
    if output is not None:
        output["left_out"] = output.get("left_out", 0) + len(items)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Note the tests left out by one process of xdist. All processes leave out the same."""
    left_out.append(getattr(node, "workeroutput", {}).get("left_out", 0))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if any(left_out) and config.option.markexpr:
        terminalreporter.write_line(f"{max(left_out)} tests were left out; make test runs all")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("requires"):
        require(*mark.args)


def require(*names: str) -> None:
    """Skip the test if one of *names* is missing or too old. With CI=true, fail it."""
    for name in names:
        if reason := lack(name):
            refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            refuse(f"left out: {name} ({reason})")


@functools.cache
def lack(name: str) -> str:
    return tools.lack(tools.named(name))


@pytest.fixture(autouse=True)
def _own_tasks() -> Iterator[None]:
    """
    Keep Celery apps from taking the tasks of another test.

    Celery adds each task to every app that is finished later. Tests use the same names, so names
    would be taken already, depending on the tests that ran before in the process.
    """
    yield
    if state := sys.modules.get("celery._state"):
        waiting = state._on_app_finalizers
        waiting -= {
            task for task in waiting if task.__module__ in ("celery.app", "celery.app.base")
        }


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Restore the loggers: a Celery worker in a thread changes the loggers of the process."""
    root, disabled = logging.root, logging.root.manager.disable
    names = [name for name in root.manager.loggerDict if name.partition(".")[0] == "emit"]
    loggers = [root, *map(logging.getLogger, {"emit", *names})]
    before = [(each, each.level, each.propagate, each.disabled) for each in loggers]
    yield
    logging.disable(disabled)
    for each, level, propagate, off in before:
        each.setLevel(level)
        each.propagate, each.disabled = propagate, off


@pytest.fixture
def leak_free() -> Iterator[None]:
    """Check that the test leaves as many descriptors, threads and children as it found."""
    with no_leaks():
        yield


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Provide a private folder with a short path, as a socket's path has 104 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="emit-", dir="/tmp") as name:
        yield Path(name).resolve()


@pytest.fixture
def tag() -> Iterator[str]:
    """Provide a number for ``sleep`` that no other process has; kill its processes at the end."""
    name = f"86{os.getpid()}.{next(_tags)}"
    yield name
    for pid in tagged(name):
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, signal.SIGKILL)


_tags = itertools.count(1)


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put the builds of this test run into a folder of its own; Go's own cache stays in place."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux":
            patch.setenv("GOCACHE", os.environ.get("GOCACHE") or str(caches / "go-build"))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def redis(redis_server: str) -> str:
    """Return the URL of a real, empty Redis."""
    client = pytest.importorskip("redis")
    with client.Redis.from_url(redis_server) as connection:
        connection.flushall()
    return redis_server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Provide the URL of this run's own Redis. Tests use ``redis``, which empties it first."""
    with serving_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def usual_redis(tmp_path: Path) -> Iterator[str]:
    """Provide a Redis on its usual port, for commands that are typed from the documentation."""
    # One test at a time, because another process of this run may want the port, too.
    with (Path(tempfile.gettempdir()) / f"emit-usual-redis-{os.getuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", 6379))
            except OSError:
                pytest.skip("a Redis of somebody else's is on port 6379, and may hold data")
        with serving_redis(tmp_path, port=6379) as url:
            yield url


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Provide this run's own RabbitMQ. Its ``url()`` returns a new, empty virtual host."""
    from tests.queues.rabbit import serving_rabbitmq  # it imports this module

    with serving_rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as rabbit:
        yield rabbit


@contextlib.contextmanager
def serving_redis(folder: Path, *options: str, port: int = 0) -> Iterator[str]:
    """Provide the URL of a Redis with its files in *folder*, and kill it (SIGKILL) at the end."""
    require("redis-server")
    port = port or free_port()
    where = ("--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder))
    command = ("sh", "-c", GUARD, "redis-guard", *where, *options)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as guard:
        assert guard.stdout is not None
        log = []
        for line in guard.stdout:
            log.append(line)
            if "Ready to accept connections" in line:
                break
        else:
            pytest.fail("redis-server ended:\n" + "".join(log), pytrace=False)
        yield f"redis://127.0.0.1:{port}/0"


#: The ports of this process of xdist, of which there are eight at most: 1,500 in a random order.
_first = 20_000 + 1_500 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8)
_ports = iter(random.SystemRandom().sample(range(_first, _first + 1_500), 1_500))


def free_port() -> int:
    """
    Return a port that no connection gets, so it stays free while a server is down. No port is given
    twice in one run: a server may take seconds until it listens.
    """
    for port in itertools.islice(_ports, 100):
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
    pytest.fail("a hundred ports are taken")
