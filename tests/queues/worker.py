"""Real workers of Celery and RQ in processes of their own, and ways to wait for them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
from celery.contrib.testing.worker import start_worker

ROOT = Path(__file__).resolve().parent.parent.parent

#: Seconds that any step may take on a loaded machine.
PATIENCE = 60.0


def eventually(look: Callable[[], Any], within: float = PATIENCE, what: str = "") -> Any:
    """Wait until *look* returns a true value, and return it."""
    end = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < end, what or "it did not happen"
        time.sleep(0.02)
    return found


class Worker:
    """
    A worker in a process of its own.

    Attributes:
        log: The worker's log file. Another worker may have written to it before.
        pid: Process id of the worker's master.
    """

    def __init__(self, command: list[str], log: Path, cwd: Path, **env: str) -> None:
        self.log = log
        paths = os.pathsep.join([str(ROOT), str(ROOT / "sdks" / "python"), str(cwd)])
        warnings = {"PYTHONWARNINGS": "default", "PYTHONUNBUFFERED": "1"}
        warnings |= {"PYTHONFAULTHANDLER": "1"}
        with log.open("ab") as output:
            self._start = output.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": paths, **warnings, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def text(self) -> str:
        return self.log.read_bytes()[self._start :].decode("utf-8", "replace")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def said(self, text: str, within: float = PATIENCE) -> None:
        def look() -> bool:
            return text in self.text or not self.is_alive

        eventually(look, within, f"it never said {text!r}")
        assert text in self.text, self.text

    def children(self) -> list[int]:
        """The processes of its pool."""
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.pid).children()
            return [c.pid for c in found if "celery" in " ".join(_command(c))]
        return []

    def everything(self) -> list[psutil.Process]:
        """Return the worker and all its descendants, including the programs of nodes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            me = psutil.Process(self.pid)
            return [me, *me.children(recursive=True)]
        return []

    def send(self, signum: int) -> None:
        self._process.send_signal(signum)

    def stop(self, signum: int = signal.SIGTERM, within: float = PATIENCE) -> int:
        """Stop it. If it does not end, show its log with the stacks of all its processes."""
        self.send(signum)
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            # Python's faulthandler prints the stacks.
            for process in [*self.children(), self.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGABRT)
            self._process.wait(PATIENCE)
            raise AssertionError(f"it did not end within {within:g} s\n{self.text}") from None

    def end(self) -> None:
        if self.is_alive:
            try:
                self.stop(within=20)
            except AssertionError:
                self.kill()

    def kill(self) -> None:
        """Kill the worker, its processes and all nodes at once, as in a power failure."""
        self._process.send_signal(signal.SIGSTOP)  # otherwise it forks processes that survive
        everything = self.everything()
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


@contextlib.contextmanager
def working(app: Any, **options: Any) -> Iterator[Any]:
    """
    Run a real Celery worker in a thread of this process.

    A message tells it to end, because it looks for messages all the time. Celery's own helper sets
    a flag, which the worker checks every two seconds only. With RabbitMQ, the worker does its own
    work, such as an acknowledgement, when it wakes up: after 10 s if there is no heartbeat.
    """
    options = {"pool": "solo", "perform_ping_check": False, "shutdown_timeout": PATIENCE, **options}
    options |= {"without_heartbeat": False, "heartbeat_interval": 0.2}
    with start_worker(app, **options) as worker:
        yield worker
        app.control.shutdown()


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return list(process.cmdline())
    return []


@contextlib.contextmanager
def celery_worker(
    log: Path, *options: str, app: str = "flow", cwd: Path = Path(__file__).parent, **env: str
) -> Iterator[Worker]:
    """Provide a Celery worker that is ready, and kill the rest of it at the end."""
    pool = () if any(option.startswith("-P") for option in options) else ("-c", "2")
    command = ["celery", "-A", app, "worker", "-l", "INFO", *pool, *options]
    worker = Worker([*command, "--without-gossip", "--without-mingle"], log, cwd, **env)
    try:
        worker.said(" ready.")
        yield worker
    finally:
        worker.end()


@contextlib.contextmanager
def rq_worker(
    log: Path, kind: str, *queues: str, cwd: Path = Path(__file__).parent, **env: str
) -> Iterator[Worker]:
    """Provide an RQ worker of the class *kind* that is ready, and kill the rest at the end."""
    url = ("--url", os.environ.get("EMIT_TEST_BROKER", os.environ["EMIT_TEST_REDIS"]))
    command = ["rq.cli", "worker", "--worker-class", kind, *url, *(queues or ("default", "words"))]
    worker = Worker(command, log, cwd, **env)
    try:
        worker.said("Listening on")
        yield worker
    finally:
        worker.end()


def are_gone(processes: Iterable[psutil.Process | int]) -> bool:
    """Return True if all have ended: these processes, or the processes with these pids."""
    return all(map(_is_gone, processes))


def _is_gone(process: psutil.Process | int) -> bool:
    """Return True if a process has ended. A zombie has: only its parent has not asked yet."""
    try:
        found = psutil.Process(process) if isinstance(process, int) else process
        return not found.is_running() or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return True
