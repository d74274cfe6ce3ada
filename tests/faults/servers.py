"""Servers that tests kill and start again."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as Gone

from tests.conftest import free_port
from tests.queues.worker import eventually

#: The user whose permissions tests change while the server runs.
USER = ("--user", "emit", "on", ">secret", "~*", "&*", "+@all")


class Server:
    """A Redis that survives a kill with its append-only file."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        kept = ["--appendonly", "yes", "--save", ""]
        self._process = subprocess.Popen(
            ["redis-server", *options, *kept, *USER], stdout=subprocess.DEVNULL
        )
        eventually(self.is_there)

    def is_there(self) -> bool:
        with contextlib.suppress(Gone, OSError), Redis.from_url(self.url) as client:
            return bool(client.ping())
        return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def allow(self, *keys: str) -> None:
        """Let the user ``emit`` touch these keys and no others."""
        with Redis.from_url(self.url) as client:
            client.execute_command("ACL", "SETUSER", "emit", "resetkeys", *keys)  # type: ignore[no-untyped-call]
