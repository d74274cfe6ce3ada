"""
One host for all processes of a user on a machine: it listens at a unix socket, and has the pools.

A client says which program a node is, and the host runs it: as its own user, and only for that
user, who could run it as well without. So a client gains nothing by it, and the socket's folder
(0700), its mode (0600) and the peer's user id, as the kernel tells it, keep all others out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import select
import socket
import threading
import time
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Any

from emit.host.calls import Calls
from emit.host.host import Host
from emit.host.place import Place, peer_of
from emit.host.shared.data import to_node
from emit.host.shared.link import BEAT
from emit.host.shared.served import Connection, refuse
from emit.host.transport import remaining

__all__ = ["Server"]

logger = logging.getLogger(__name__)

#: Seconds after which a node's processes are stopped when it has no client any more.
LINGER = 60.0

#: Seconds that clients' messages get to end when the host is stopped.
GRACE = 5.0

#: Clients at most, each of which takes a thread.
MOST_CLIENTS = 4096

#: Seconds between two lines about clients that were refused.
_QUIET = 10.0

#: Seconds between two looks at what needs looking at.
_TICK = 1.0


class Server:
    """
    Args:
        place: Where to listen; it has been taken.
        host: Whose pools the messages go to. It is closed at the end.
        parent: The process that has started this one: end when it has ended. None: do not look.
        max_clients: Connections at most; a client has one for each node and each thread that calls
            it. Others are told so, and try again. None: half of the open files that this process
            may have, so that programs can be started, and `MOST_CLIENTS` at most.
    """

    def __init__(
        self,
        place: Place,
        host: Host,
        *,
        parent: int | None = None,
        max_clients: int | None = None,
    ) -> None:
        self._place = place
        self._host = host
        self._parent = parent
        self._max_clients = max_clients or _most_clients()
        self._refused, self._told = 0, -_QUIET
        self._lock = threading.Lock()  # guards the two below
        self._nodes: dict[Any, Node] = {}
        self._connections: dict[Connection, threading.Thread] = {}
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._waker, False)

    def run(self) -> None:
        """Listen and serve, until :meth:`stop` is called or the parent has ended."""
        listener = self._place.listen()
        logger.info("listening at %s, process %d", self._place.path, os.getpid())
        try:
            self._listen(listener)
        finally:
            listener.close()
            self._place.leave()
            self._end()

    def stop(self) -> None:
        """Have :meth:`run` come to its end. From any thread, or a signal's handler."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._waker, b"x")

    def _listen(self, listener: socket.socket) -> None:
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        beat = 0.0
        while self._parent in (None, os.getppid()):
            ready = dict(poller.poll(_TICK * 1000))
            if self._wake in ready:
                return
            if listener.fileno() in ready:
                self._accept(listener)
            if time.monotonic() >= beat:
                beat = time.monotonic() + BEAT
                self._beat()

    def _accept(self, listener: socket.socket) -> None:
        try:
            connected, _ = listener.accept()
        except OSError as error:
            logger.warning("a client could not be accepted: %s", error)
            time.sleep(_TICK)  # no descriptor is free: some may be by then
            return
        owner = peer_of(connected)
        if owner != os.geteuid():
            logger.warning("a client of user %d is refused; this is %d", owner, os.geteuid())
            connected.close()
            return
        if len(self._connections) >= self._max_clients:
            self._refuse(connected)
            return
        connection = Connection(connected, self)
        thread = threading.Thread(target=connection.run, name="emit-client", daemon=True)
        with self._lock:
            self._connections[connection] = thread
        try:
            thread.start()
        except RuntimeError as error:
            logger.warning("a client could not be served: %s", error)
            self.forget(connection)
            connected.close()

    def _refuse(self, connected: socket.socket) -> None:
        """Tell a client that there is no room for it, and hang up."""
        text = f"it has {self._max_clients} clients, its max_clients"
        refuse(connected, text)
        self._refused += 1
        if time.monotonic() - self._told >= _QUIET:
            logger.warning("%d clients were refused: %s", self._refused, text)
            self._refused, self._told = 0, time.monotonic()

    def _beat(self) -> None:
        with self._lock:
            connections = list(self._connections)
            now = time.monotonic()
            unused = {k: n for k, n in self._nodes.items() if n.is_unused(now)}
            for key in unused:
                del self._nodes[key]
        for connection in connections:
            connection.beat()
        for node in unused.values():
            logger.info('"%s" has had no client for %g s: it is stopped', node.calls.node, LINGER)
            self._host.keeper.do(partial(self._host.close, node.calls))

    # -- for the connections ---------------------------------------------------------------

    def node(self, name: str, config: Mapping[str, Any]) -> Node:
        """
        The node that a client describes, which it may share with others: by name, program,
        environment and settings.

        Raises:
            EmitError: It can't be one.
        """
        described = to_node(name, config)
        program, key = described.program, (name, described.key)
        with self._lock:
            if key not in self._nodes:
                calls = self._host.calls(
                    name,
                    lambda: program,
                    described.settings,
                    program_node=described.program_node,
                    shared=described.shared,
                )
                self._nodes[key] = Node(calls, self._lock)
            self._nodes[key].users += 1
            return self._nodes[key]

    def forget(self, connection: Connection) -> None:
        """It has hung up."""
        with self._lock:
            self._connections.pop(connection, None)

    def snapshot(self) -> dict[str, Any]:
        """As :meth:`emit.host.host.Host.snapshot`, and how many ``clients`` are connected."""
        with self._lock:
            clients = len(self._connections)
        return {**self._host.snapshot(), "clients": clients}

    # -- the end ---------------------------------------------------------------------------

    def _end(self) -> None:
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            connection.stop()
        _join(connections, GRACE)
        for connection in connections:
            connection.cut()
        _join(connections, GRACE)
        self._host.close()
        os.close(self._wake)
        os.close(self._waker)


class Node:
    """A node with its clients; a ``with`` block around each one's time."""

    def __init__(self, calls: Calls, lock: threading.Lock) -> None:
        self.calls = calls
        self.users = 0
        self._since = time.monotonic()
        self._lock = lock

    def is_unused(self, now: float) -> bool:
        return not self.users and now - self._since > LINGER

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self.users -= 1
            self._since = time.monotonic()


def _most_clients() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CLIENTS if files < 0 else max(1, min(MOST_CLIENTS, files // 2))


def _join(connections: Mapping[Connection, threading.Thread], seconds: float) -> None:
    end = time.monotonic() + seconds
    for thread in connections.values():
        thread.join(remaining(end))
