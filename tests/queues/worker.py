"""Real workers of Celery and RQ in processes of their own, and waiting for what they do."""

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

#: Seconds that anything may take on a loaded machine.
PATIENCE = 60.0


def eventually(look: Callable[[], Any], within: float = PATIENCE, what: str = "") -> Any:
    """What *look* gives as soon as that is true."""
    end = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < end, what or "it did not happen"
        time.sleep(0.02)
    return found


class Worker:
    """
    Attributes:
        log: The file that it writes to; another's words may stand there before its own.
        pid: Of its master.
    """

    def __init__(self, command: list[str], log: Path, cwd: Path, **env: str) -> None:
        self.log = log
        paths = os.pathsep.join([str(ROOT), str(ROOT / "sdks" / "python"), str(cwd)])
        warnings = {"PYTHONWARNINGS": "default", "PYTHONUNBUFFERED": "1"}
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
        """Processes of the pool."""
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.pid).children()
            return [c.pid for c in found if "celery" in " ".join(_command(c))]
        return []

    def everything(self) -> list[psutil.Process]:
        """All that has come of it so far, programs of nodes included."""
        with contextlib.suppress(psutil.NoSuchProcess):
            me = psutil.Process(self.pid)
            return [me, *me.children(recursive=True)]
        return []

    def send(self, signum: int) -> None:
        self._process.send_signal(signum)

    def stop(self, signum: int = signal.SIGTERM, within: float = PATIENCE) -> int:
        self.send(signum)
        return self._process.wait(within)

    def end(self) -> None:
        if self.is_alive:
            try:
                self.stop(within=20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """It, its processes and all nodes, at once: as when the power fails."""
        self._process.send_signal(signal.SIGSTOP)  # else it forks what nobody kills
        everything = self.everything()
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


@contextlib.contextmanager
def working(app: Any, **options: Any) -> Iterator[Any]:
    """
    A real worker of Celery's in a thread of this process.

    It is told to end by a message, and looks for messages all the time. At the flag that Celery's
    own helper sets it looks every two seconds. With RabbitMQ it looks at what it has to do itself,
    such as an acknowledgement, when it wakes up: after 10 s if there is no heartbeat.
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
    """A worker that is ready. What is left of it at the end is killed."""
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
    """A worker of the class *kind* that is ready. What is left of it at the end is killed."""
    url = ("--url", os.environ.get("EMIT_TEST_BROKER", os.environ["EMIT_TEST_REDIS"]))
    command = ["rq.cli", "worker", "--worker-class", kind, *url, *(queues or ("default", "words"))]
    worker = Worker(command, log, cwd, **env)
    try:
        worker.said("Listening on")
        yield worker
    finally:
        worker.end()


def are_gone(processes: Iterable[psutil.Process | int]) -> bool:
    """Whether all have ended: these processes, or those of these pids."""
    return all(map(_is_gone, processes))


def _is_gone(process: psutil.Process | int) -> bool:
    """A zombie is: that nobody has asked for its exit code yet is no doing of its own."""
    try:
        found = psutil.Process(process) if isinstance(process, int) else process
        return not found.is_running() or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # between the two questions
        return True
