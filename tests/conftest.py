"""What tests share: the ``requires`` mark, a cache for builds, and a real Redis.

A test that hangs is ended by ``faulthandler_timeout`` in pyproject.toml, with every thread's stack.
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

#: The shell reads until this test run is gone, killed included, and then ends Redis. It closes its
#: own standard output, so that Redis alone holds the pipe: its end is the end of a failed start.
GUARD = 'redis-server "$@" & exec >&-; read -r _; kill -9 $!; wait'

#: A test that needs one of these is slow: its server has to come up, and mostly workers, too.
SERVERS = {"redis-server", "rabbitmq-server"}
SLOW_FIXTURES = {"redis_server", "usual_redis", "rabbitmq", "builds"}

#: What each process of xdist has left out.
left_out: list[int] = []


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell has it for what it runs in the background: all that tests start would inherit
        # that, and Ctrl-C could not be tried.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers",
        "requires(*names): needs programs of scripts/tools.py; skipped without, fails if CI=true",
    )
    # What is true of a value does not depend on how long a loaded machine takes for it.
    slow = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=slow)
    hypothesis.settings.load_profile("patient")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is slow by what it takes; modules and tests mark themselves for other reasons."""
    for item in items:
        programs = {name for mark in item.iter_markers("requires") for name in mark.args}
        fixtures = set(getattr(item, "fixturenames", ()))
        if "faults" in item.path.parts or programs & SERVERS or fixtures & SLOW_FIXTURES:
            item.add_marker("slow")


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Have a process of xdist say how many it leaves out: xdist itself does not."""
    output = getattr(items[0].config, "workeroutput", None)
    if output is not None:
        output["left_out"] = output.get("left_out", 0) + len(items)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """All processes of xdist leave out the same."""
    left_out.append(getattr(node, "workeroutput", {}).get("left_out", 0))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if any(left_out) and config.option.markexpr:
        terminalreporter.write_line(f"{max(left_out)} tests were left out; make test runs all")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("requires"):
        require(*mark.args)


def require(*names: str) -> None:
    """Skip where one of *names* is missing or too old; fail there when CI=true."""
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
    Have no Celery app take the tasks of another test's.

    Celery makes each task a task of every app that is finished later. Tests use the same names, so
    a test would be told that its own are taken, depending on which tests its process ran before.
    """
    yield
    if state := sys.modules.get("celery._state"):
        waiting = state._on_app_finalizers
        waiting -= {
            task for task in waiting if task.__module__ in ("celery.app", "celery.app.base")
        }


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Leave loggers as they were: a Celery worker in a thread sets up those of the process."""
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
    """The test leaves as many descriptors, threads and children as it found."""
    with no_leaks():
        yield


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """This user's alone, for sockets: their paths have 104 bytes at most, wherever $TMPDIR is."""
    with tempfile.TemporaryDirectory(prefix="emit-", dir="/tmp") as name:
        yield Path(name).resolve()


@pytest.fixture
def tag() -> Iterator[str]:
    """A number of seconds to sleep that no other process has; killed afterwards whatever fails."""
    name = f"86{os.getpid()}.{next(_tags)}"
    yield name
    for pid in tagged(name):
        with contextlib.suppress(ProcessLookupError):  # it was on its way out
            os.kill(pid, signal.SIGKILL)


_tags = itertools.count(1)


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this test run builds of files goes with it; Go's own cache stays where it is."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux":
            patch.setenv("GOCACHE", os.environ.get("GOCACHE") or str(caches / "go-build"))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def redis(redis_server: str) -> str:
    """The URL of a real Redis with nothing in it."""
    client = pytest.importorskip("redis")
    with client.Redis.from_url(redis_server) as connection:
        connection.flushall()
    return redis_server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of this test run's own Redis; take ``redis``, which empties it first."""
    with serving_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def usual_redis(tmp_path: Path) -> Iterator[str]:
    """The URL of a Redis on its usual port, for what is typed in from the documentation."""
    # One test at a time: others of this run may want the port in another process.
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
    """This test run's own RabbitMQ; ask it for a ``url()``, where there is nothing yet."""
    from tests.queues.rabbit import serving_rabbitmq  # which needs this module

    with serving_rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as rabbit:
        yield rabbit


@contextlib.contextmanager
def serving_redis(folder: Path, *options: str, port: int = 0) -> Iterator[str]:
    """The URL of a Redis that keeps its files in *folder*; it is killed by SIGKILL at the end."""
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


def free_port() -> int:
    """One that no system gives to a connection: it is still free when a server was killed."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
    pytest.fail("a hundred ports are taken")
