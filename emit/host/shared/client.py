"""
The connections of a client to a shared host. A node has the same calls and the same pool as with a
private host. The pool holds connections to the shared host, which plays the process of
runtimes/PROTOCOL.md.

1. If the host is not there, a call waits for it for the node's ``timeout``. If the host is lost in
   the middle of a message, the message goes to the next host, up to ``max_attempts`` times. There
   is no fallback to private processes. Every client would start a full set of them at the same
   time, and a shared host is there to prevent that.
2. A connection that is left in the middle of an exchange is closed. Its host then ends the work
   that it did for this connection.
3. A working host sends a sign of life every few seconds. So clients can tell a host that hangs
   from a slow node.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from emit.errors import HostError, HostLost, PoolClosed, ProtocolError
from emit.forks import at_fork
from emit.host.accounting import Usage
from emit.host.conversation import Conversation
from emit.host.fate import Job
from emit.host.lines import logger_of
from emit.host.place import check_path, peer_of
from emit.host.settings import Settings
from emit.host.shared.data import Described, from_node, to_error
from emit.host.starts import Lifespan
from emit.host.transport import Move, remaining
from emit.host.wire import frames
from emit.host.wire.frames import MAX_FRAME
from emit.host.wire.session import Session

__all__ = ["BEAT", "Connection", "Dialer", "ask", "at_the_host"]

#: Seconds between two signs of life from a host that works for a client.
BEAT = 4.0

#: Seconds without a sign of life after which the host counts as dead.
SILENCE = 5 * BEAT

#: Seconds between two tries to reach a host.
_TURN = 0.05

#: Most seconds until the next try at a host without room: many clients may be waiting for it.
_FULL = 1.0

#: Bytes per read and write.
_CHUNK = 256 * 1024

#: No limit: a client may have as many connections as it has threads.
_ANY_NUMBER = 1 << 62


def at_the_host(settings: Settings) -> Settings:
    """Return the settings of a pool of connections. The host applies the others."""
    return replace(
        settings,
        size=_ANY_NUMBER,
        min_idle=0,
        acquire_timeout=None,
        max_calls=None,
        max_age=None,
        max_rss=None,
        idle_timeout=None,
        cancel_grace=0.0,  # a connection is closed at once, and its host cancels the calls
    )


class Dialer:
    """
    Connects to the host at a socket, for one node.

    Args:
        path: The path of the socket.
        node: The node's name.
        describe: Returns the program that the host is to start. Called once: a later change of the
            environment does not make another node.
        settings: The node's options.
    """

    def __init__(
        self, path: str, node: str, describe: Callable[[], Described], settings: Settings
    ) -> None:
        self._path = path
        self._node = node
        self._describe = describe
        self._settings = settings
        self._described: dict[str, Any] | None = None
        self._closing = threading.Event()

    @property
    def is_ready(self) -> bool:
        """True if the description for the host is made."""
        return self._described is not None

    def prepare(self) -> dict[str, Any]:
        """Make the description for the host. That happens in the client, which has the files."""
        if self._described is None:
            self._described = from_node(self._describe())
        return self._described

    def start(self) -> Connection:
        """
        Connect. Wait for the host for at most the node's ``timeout``.

        Raises:
            HostLost: The host was not there, or had no room.
            PoolClosed: The node was closed meanwhile.
            EmitError: The host refuses the node.
        """
        config = self.prepare()
        deadline = time.monotonic() + self._settings.timeout
        has_warned = False
        while True:
            try:
                return Connection(self._path, self._node, config, self._settings)
            except _Refused as refused:
                raise self._lost(refused) from refused
            except _Lost as lost:
                if not has_warned:
                    has_warned = True
                    text = '"%s" waits for a shared host at %s: %s'
                    logger_of(self._node).warning(text, self._node, self._path, lost)
                if remaining(deadline) <= 0:
                    raise self._lost(lost) from lost
                turn = _FULL * random.random() if isinstance(lost, _Full) else _TURN
            if self._closing.wait(min(turn, remaining(deadline))):
                raise PoolClosed(node=self._node)

    def give_up(self) -> None:
        """End the wait of the callers that wait for the host."""
        self._closing.set()

    def is_permanent(self, error: HostError) -> bool:
        """Return True: a failed try has waited for the host already, so there is no backoff."""
        return True

    def describe(self) -> dict[str, Any]:
        """Return nothing: the host reports its programs."""
        return {}

    def _lost(self, lost: _Lost) -> HostLost:
        is_full = isinstance(lost, _Full)
        return HostLost(node=self._node, path=self._path, reason=str(lost), is_full=is_full)


class _Lost(Exception):
    """The host is not there, or has ended. The text says which."""


class _Full(_Lost):
    """The host has no room for another client at present."""


class _Refused(_Lost):
    """Another try would fail, too."""


class Connection:
    """
    One connection to a shared host. Its pool treats it as a process.

    Args:
        path: The path of the host's socket.
        node: The node's name.
        config: The description of the node; see `emit.host.shared.data.from_node`.
        settings: The node's options.

    Raises:
        EmitError: The host refuses the node.
    """

    def __init__(self, path: str, node: str, config: Mapping[str, Any], settings: Settings) -> None:
        self.born = self.used = time.monotonic()
        self.start_seconds = 0.0
        self.retiring = False
        self.replaced: str | None = None
        self.lifespan = Lifespan(None, None, None, None)
        self._path = path
        self._socket = Socket(path)
        _connections.add(self)
        session = Session(node, codecs=["msgpack"], max_frame=MAX_FRAME, config=config)
        # The host has applied these limits already.
        unlimited = replace(
            at_the_host(settings), max_results=_ANY_NUMBER, max_result_bytes=_ANY_NUMBER
        )
        self.talk = Conversation(node, session, self._socket, self, unlimited, logger_of(node))
        try:
            self._shake_hands()
        except BaseException:
            self.discard()
            raise
        self.start_seconds = time.monotonic() - self.born

    # -- for its conversation --------------------------------------------------------------

    def serve(self, node: str) -> None:
        """Do nothing: a connection is for one node."""

    def ended(self, fault: ProtocolError | None) -> HostError | None:
        """Return the error that ended the host."""
        if fault is not None:
            return self._lost(str(fault))
        return self.failure()

    def failure(self, *, may_have_run: bool | None = None) -> HostError:
        """Make the error of a host that has ended, with its own words if there are any."""
        said = self.talk.failed
        why = self._socket.why or "it has ended"
        return self._lost(why if said is None else f"{why}: {said.message}")

    def overdue(self) -> HostError:
        """Make the error of a host that hangs."""
        return self._lost(f"it has said nothing for {SILENCE:g} s")

    def check_memory(self) -> None:
        """Do nothing: the host checks the memory."""

    def error_of(self, job: Job, err: frames.Err) -> Exception:
        """Make the error that occurred in the host, with its attributes."""
        return to_error(err.cause or {"type": err.type}, job.node, job.fields)

    def _lost(self, reason: str) -> HostLost:
        self.talk.condemned = self.talk.condemned or reason
        return HostLost(node=self.talk.node, path=self._path, reason=reason, may_have_run=True)

    # -- for its pool ----------------------------------------------------------------------

    @property
    def is_finished(self) -> bool:
        """False: a connection is not replaced."""
        return False

    @property
    def gave_up(self) -> bool:
        """False: the end of a host does not mean that it can't be started."""
        return False

    def worn(self) -> str | None:
        """Return None: a connection does not wear out."""
        return None

    def replace(self, reason: str) -> None:
        """Do nothing: a connection is not replaced."""

    def rss(self) -> int:
        """Return 0: a connection has no memory of its own."""
        return 0

    def usage(self) -> Usage:
        """Return an empty use, as in `rss`."""
        return Usage()

    def describe(self, usage: Usage) -> dict[str, Any]:
        """Return nothing: the host reports its processes."""
        return {}

    def warn(self) -> None:
        """Do nothing: `Calls` logs the loss of a host."""

    def hang_up(self) -> None:
        """Shut the connection down for both ends. Called from another thread than its user's."""
        self._socket.shut()

    def discard(self) -> None:
        """Close the connection, repeatedly if need be. In a fork the parent's end stays open."""
        self._socket.close()

    stop = discard

    # -- its start -------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        talk = self.talk
        self._socket.send(talk.session.hello())
        while talk.session.ready is None:
            try:
                talk.wait(float("inf"))
                talk.receive()
            except HostLost as lost:
                if talk.failed is None:
                    raise _Lost(lost.reason) from lost
            refusal = talk.failed
            if refusal is not None and refusal.type == HostLost.__name__:
                raise _Full(refusal.message)
            if refusal is not None:
                raise to_error(refusal.cause or {"type": "HostError"}, talk.node, {})


class Socket:
    """
    The transport of a connection; see `emit.host.transport.Transport`.

    Args:
        path: The path of the host's socket.

    Attributes:
        over: True if the host has hung up.
        until: Time at which a silent host is given up, by the monotonic clock.
        why: Why no more data can come; empty if the host has hung up.

    Raises:
        _Lost: No host listens there.
        _Refused: Another user listens there, or the path can't be a socket's.
    """

    def __init__(self, path: str) -> None:
        self.received: list[bytes] = []
        self.over = False
        self.sending = False
        self.torn = False  # a connection is not asked to cancel: it is closed
        self.until = time.monotonic() + SILENCE
        self.why = ""
        self._outgoing = bytearray()
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._connect(path)
            # Two descriptors, as a poll watches each of them for one thing.
            self._writer = self._socket.dup()
        except BaseException:
            self._socket.close()
            raise

    def send(self, data: bytes | bytearray) -> None:
        """See `emit.host.transport.Transport`."""
        if not self._outgoing:
            self._heard()  # the host had nothing to answer before
        self._outgoing += data
        self.sending = not self.over
        self.push()

    @property
    def pending(self) -> int:
        """Bytes that are still to be written."""
        return len(self._outgoing)

    def push(self) -> bool:
        """Continue writing. Return True if everything is written, or nothing can be."""
        while self.sending:
            try:
                sent = self._writer.send(memoryview(self._outgoing)[:_CHUNK])
            except BlockingIOError:
                return False
            except OSError as error:
                self._end(os.strerror(error.errno or 0))
                return True
            del self._outgoing[:sent]
            self.sending = bool(self._outgoing)
            self._heard()
        return True

    def read(self) -> bool:
        """Take one chunk. Return whether the host has hung up."""
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            self._end(os.strerror(error.errno or 0))
            return True
        if data:
            self.received.append(data)
            self._heard()
        else:
            self._end("")
        return not data

    def watched(self) -> list[tuple[int, Move]]:
        """See `emit.host.transport.Transport`."""
        return [(self._socket.fileno(), self.read)]

    def writer(self) -> tuple[int, Move]:
        """See `emit.host.transport.Transport`."""
        return self._writer.fileno(), self.push

    #: The descriptor reports the host's end.
    is_blind = False

    def see_death(self) -> bool:
        """See `emit.host.transport.Transport`."""
        return self.over

    def shut(self) -> None:
        """Shut the connection down for both ends."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket. May be called repeatedly."""
        for each in (self._socket, self._writer):
            with contextlib.suppress(OSError):
                each.close()

    def __del__(self) -> None:
        if hasattr(self, "_writer"):
            self.close()

    def _heard(self) -> None:
        self.until = time.monotonic() + SILENCE

    def _end(self, why: str) -> None:
        if not self.over:
            # Take what the host had sent before it hung up.
            with contextlib.suppress(OSError):
                while data := self._socket.recv(_CHUNK):
                    self.received.append(data)
        self.over, self.sending, self.why = True, False, self.why or why

    def _connect(self, path: str) -> None:
        try:
            check_path(path)
            self._socket.settimeout(SILENCE)
            self._socket.connect(path)
            owner = peer_of(self._socket)
        except ValueError as error:
            raise _Refused(str(error)) from error
        except OSError as error:
            # An error without a number: the path can't be a socket's.
            lost = _Refused if error.errno in (None, errno.EACCES) else _Lost
            raise lost(error.strerror or str(error)) from error
        if owner != os.geteuid():
            raise _Refused(f"the one there is of user {owner}, not {os.geteuid()}")
        self._socket.setblocking(False)


def ask(path: str) -> dict[str, Any]:
    """
    Return the snapshot of the shared host at *path*.

    Raises:
        HostLost: No host listens there.
    """
    try:
        connection = Connection(path, "status", {"asked": "snapshot"}, Settings())
    except _Lost as lost:
        raise HostLost(node="status", path=path, reason=str(lost)) from lost
    try:
        job = Job({})
        connection.talk.submit(job)
        connection.talk.flush()
        while job.outcome is None:
            connection.talk.wait(float("inf"))
            connection.talk.receive()
    finally:
        connection.discard()
    assert isinstance(job.outcome, list)
    snapshot: dict[str, Any] = job.outcome[0]
    return snapshot


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _close_all() -> None:
    """Close the parent's connections in a forked child. Else the host would not see their end."""
    for connection in list(_connections):
        connection.discard()


at_fork("connections", in_child=_close_all)
