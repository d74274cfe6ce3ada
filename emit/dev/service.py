"""A command that ``emit dev`` starts, stops and starts again, and whose output it relays."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO

from emit.dev.child import VARIABLE
from emit.dev.lines import Lines

__all__ = ["GRACE", "Service"]

#: Seconds that a command has to finish its work after SIGTERM.
GRACE = 30.0


class Service:
    """
    A command.

    Args:
        name: Its name in the output.
        command: Its words.
        lines: Prints its output.
        heard: Called with each line of its stdout that is not the record of a node; None: it is
            printed with the command's name.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        lines: Lines,
        heard: Callable[[str], object] | None = None,
    ) -> None:
        self.name = name
        self._command = list(command)
        self._lines = lines
        self._heard = heard
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []

    def start(self) -> None:
        """Start it. A command that can't be started is told, and may be started again later."""
        try:
            process = self._process = subprocess.Popen(
                self._command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, VARIABLE: "1", "PYTHONUNBUFFERED": "1"},
                text=True,
                errors="replace",
            )
        except OSError as error:
            self._lines.say(self.name, f"can't be started: {error}", "31")
            return
        assert process.stdout is not None
        assert process.stderr is not None
        heard = self._heard or (lambda line: self._lines.relay(self.name, line))
        threads = ((process.stdout, heard), (process.stderr, self._told))
        self._readers = [threading.Thread(target=_read, args=each, daemon=True) for each in threads]
        for reader in self._readers:
            reader.start()

    def _told(self, line: str) -> None:
        self._lines.relay(self.name, line)

    @property
    def is_running(self) -> bool:
        """True if it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def code(self) -> int | None:
        """The exit code of a command that has ended by itself."""
        return None if self._process is None else self._process.poll()

    def stop(self) -> None:
        """Have it finish its work and end; kill it after `GRACE` seconds."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self._lines.say(self.name, f"is killed: it did not end within {GRACE:g} s", "33")
                process.kill()
        self.forget()

    def wait(self) -> None:
        """Wait for its end, after a signal that it has got as well."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGKILL)
        self.forget()

    def kill(self) -> None:
        """Kill it at once."""
        if self._process is not None:
            self._process.kill()
        self.forget()

    def forget(self) -> None:
        """Read the rest of the output of a command that has ended."""
        if self._process is not None:
            self._process.wait()
        for reader in self._readers:
            reader.join(1.0)  # a process that it has left behind may hold the pipe
        self._process = None


def _read(stream: IO[str], take: Callable[[str], object]) -> None:
    with contextlib.suppress(ValueError), stream:
        for line in stream:
            take(line.rstrip("\n"))


def emit_command(*words: str) -> list[str]:
    """Return the words of a command of this Emit."""
    return [sys.executable, "-m", "emit.cli", *words]
