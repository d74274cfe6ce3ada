"""A real RabbitMQ for tests: on loopback only, with all its files in a folder of the tests."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port, require

#: A shell that kills both programs once this test run is gone, even if the run was killed: its
#: read ends then. It starts epmd, through which Erlang's programs find each other, because RabbitMQ
#: would start one that stays.
GUARD = """
epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" >/dev/null 2>&1 &
names=$!
"$1" &
exec >/dev/null 2>&1
read -r _
kill -9 $names
kill -9 $!
wait
"""

#: Number of virtual hosts. Each test gets an empty one.
HOSTS = 24


class Rabbit:
    """
    A server that keeps durable messages when it is killed.

    Attributes:
        port: The port for AMQP.
    """

    def __init__(self, folder: Path, **settings: int) -> None:
        require("rabbitmq-server")
        self.port = free_port()
        self._folder = folder
        self._hosts = iter(range(HOSTS))
        _write_settings(folder, settings)
        self.start()

    def url(self, port: int | None = None) -> str:
        """Return the URL of a new virtual host; with *port*, through a proxy."""
        self._host = f"test{next(self._hosts)}"
        return f"amqp://guest:guest@127.0.0.1:{port or self.port}/{self._host}"

    def start(self) -> None:
        # Debian's script on the PATH changes the user and the folder.
        found = Path(str(shutil.which("rabbitmq-server"))).resolve().parent / "rabbitmq-server"
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, "rabbitmq-guard", str(found)],
            cwd=self._folder,  # a crash dump goes there
            env=os.environ | _environment(self._folder, self.port),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self._guard.stdout is not None
        log = []
        for line in self._guard.stdout:
            log.append(line)
            if "completed with" in line:
                return
        self.kill()
        pytest.fail("rabbitmq-server ended:\n" + "".join(log), pytrace=False)

    def kill(self) -> None:
        """Kill the server at once, as in a power failure."""
        with self._guard:
            assert self._guard.stdin is not None
            self._guard.stdin.close()


def _environment(folder: Path, port: int) -> dict[str, str]:
    return {
        "HOME": str(folder),  # holds the cookie by which Erlang's programs know each other
        "RABBITMQ_NODENAME": f"emit{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_CONFIG_FILE": str(folder / "none.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none.sh"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        # One thread that does not spin, because the tested processes need the machine, too.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}"
        ),
        # With this, the script becomes the server, which is then a child of the guard.
        "NOTIFY_SOCKET": str(folder / "none"),
        "ERL_EPMD_PORT": str(free_port()),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }


def _write_settings(folder: Path, settings: dict[str, int]) -> None:
    (folder / "plugins").write_text("[].\n")
    salt = os.urandom(4)
    password = base64.b64encode(salt + hashlib.sha256(salt + b"guest").digest()).decode()
    everything = dict.fromkeys(("configure", "read", "write"), ".*")
    hosts = [f"test{number}" for number in range(HOSTS)]
    definitions = {
        "users": [{"name": "guest", "password_hash": password, "tags": "administrator"}],
        "vhosts": [{"name": host} for host in hosts],
        "permissions": [{"user": "guest", "vhost": host, **everything} for host in hosts],
    }
    (folder / "definitions.json").write_text(json.dumps(definitions))
    lines = {"load_definitions": f'"{folder / "definitions.json"}"', **settings}
    terms = ", ".join(f"{{{name}, {value}}}" for name, value in lines.items())
    (folder / "advanced.config").write_text(f"[{{rabbit, [{terms}]}}].\n")


@contextlib.contextmanager
def serving_rabbitmq(folder: Path, **settings: int) -> Iterator[Rabbit]:
    """Provide a server with *settings* of its Erlang application, and kill it at the end."""
    rabbit = Rabbit(folder, **settings)
    try:
        yield rabbit
    finally:
        rabbit.kill()
