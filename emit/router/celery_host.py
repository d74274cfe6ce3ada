"""
A shared host for the machine, started and kept by a Celery worker: ``app.conf.emit_host``.

The worker's master starts ``emit host`` as a program of its own before its pool, so that the pool
forks none of the host's threads. The worker's children find the host by the environment. The host
is stopped after the last child has ended. If the host is killed, it is started again within a
second or two, and the children's calls wait for it. If the master is killed, the host ends by
itself.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

from celery import bootsteps, signals

__all__ = ["VARIABLE", "HostStep", "connect"]

logger = logging.getLogger("emit.celery")

#: The environment variable by which a process chooses its host; see docs/shared-host.md.
VARIABLE = "EMIT_HOST"

#: Seconds between two checks that the host runs.
_LOOK = 1.0

#: Seconds that the host gets to stop. It gives open calls 5, and its programs their grace.
_PATIENCE = 15.0

#: The exit code of a host whose configuration is wrong.
_MISCONFIGURED = 2


class _Child:
    """
    The ``emit host`` of this worker. If another worker's host has the place, this one stands by.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "emit.cli", "host", "--standby"]
        # In a session of its own: Ctrl-C in a terminal ends the worker, which then ends the host.
        self._process = subprocess.Popen(
            [*command, "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def look(self) -> None:
        """Start the host again if it has ended."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return
        if code == _MISCONFIGURED:
            self._process = None
            logger.error("the shared host can't be started; calls of nodes will wait for one")
            return
        logger.warning("the shared host ended with code %d, and is started again", code)
        self.start()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            logger.warning("the shared host did not stop in %g s and is killed", _PATIENCE)
            process.kill()
            process.wait()


_child = _Child()


class HostStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Watches the host while the worker runs."""

    requires = ("celery.worker.components:Timer",)

    def start(self, parent: Any) -> None:
        parent.timer.call_repeatedly(_LOOK, _child.look)


def _begin(instance: Any, conf: Any, **_: Any) -> None:
    """Start the host, in the master before its pool."""
    chosen = conf.get("emit_host") or "private"
    if chosen == "private":
        return
    if chosen != "shared" and not os.path.isabs(chosen):
        raise SystemExit(
            f"emit_host = {chosen!r} must be 'private', 'shared', or the absolute path of a socket"
        )
    os.environ[VARIABLE] = chosen
    instance.app.steps["worker"].add(HostStep)
    _child.start()


def _end(**_: Any) -> None:
    """Stop the host, in the master after its pool."""
    _child.stop()


def connect() -> None:
    """Set this up in each worker of this process. May be called any number of times."""
    signals.celeryd_init.connect(_begin)
    signals.worker_shutdown.connect(_end)
