"""``emit host``: run one host for all processes of this user, at a unix socket."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import threading
from typing import Any

from emit.cli.output import CommandError
from emit.errors import HostLost
from emit.host import status, swap
from emit.host.host import Host
from emit.host.place import VARIABLE, Place, PlaceTaken, socket_path
from emit.host.shared.client import ask
from emit.host.shared.server import Server
from emit.observe.observers import Observers

HELP = "Run the programs of nodes for all processes of this user that have EMIT_HOST=shared."

EXAMPLES = """
  emit host
  emit host --socket /run/app/host.sock --max-processes 16
  emit host --status
"""

#: Seconds between two tries of a standby host to take over.
_TURN = 1.0


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--socket", metavar="PATH", help=f"where to listen (default: the socket of ${VARIABLE})")
    add("--max-processes", type=_count, metavar="N", help="limit the processes of all nodes")
    add("--max-rss", type=_count, metavar="BYTES", help="limit the memory of all processes")
    add("--max-clients", type=_count, metavar="N", help="limit the connections at a time")
    add("--status", action="store_true", help="print the figures of the host that runs")
    add("--standby", action="store_true", help="wait while another host runs, then take its place")
    add("--parent", type=int, metavar="PID", help="end when the parent process PID ends")


def run(arguments: argparse.Namespace) -> int:
    path = os.path.abspath(arguments.socket) if arguments.socket else _path()
    if arguments.status:
        print(json.dumps(_status(path), indent=2))
        return 0
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.INFO)
    try:
        with Place(path) as place:
            _serve(place, arguments)
    except (OSError, ValueError, PlaceTaken) as error:
        raise CommandError(str(error)) from error
    return 0


def _path() -> str:
    """
    Return the socket of ``$EMIT_HOST``. ``private`` counts as ``shared`` here: somebody who starts
    a host wants one.
    """
    if os.environ.get(VARIABLE, "private") in ("", "private"):
        os.environ[VARIABLE] = "shared"
    path = socket_path()
    assert path is not None
    return path


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _serve(place: Place, arguments: argparse.Namespace) -> None:
    host = Host(arguments.max_processes, arguments.max_rss, _counts())
    server = Server(place, host, parent=arguments.parent, max_clients=arguments.max_clients)
    stopped: list[int] = []

    def stop(number: int, _: Any) -> None:
        stopped.append(number)
        server.stop()

    def reload(number: int, _: Any) -> None:  # the outcome of each program is in the log
        threading.Thread(target=swap.reload, args=(host, host.nodes), name="emit-swap").start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGUSR1, reload)
    if arguments.standby:
        while not place.try_for(_TURN):
            if stopped or arguments.parent not in (None, os.getppid()):
                return
    else:
        place.take()
    status.serve(host.answer)
    server.run()


def _counts() -> list[Observers]:
    """Return what counts processes for `emit metrics`, if that is installed."""
    try:
        from emit.observe.metrics import of_a_shared_host
    except ImportError:
        return []
    return [of_a_shared_host()]


def _status(path: str) -> dict[str, Any]:
    try:
        return ask(path)
    except HostLost as error:
        raise CommandError(f"no shared host at {path}: {error.reason}") from error
