"""
A shared host as its clients see it: what :class:`emit.host.host.Host` offers, with the processes
elsewhere. A node has the same calls and the same pool as at a host of one's own. The pool holds
connections to the shared host, which plays the process of runtimes/PROTOCOL.md.

1. When the host is not there, a call waits for it for the node's ``timeout``. When it is lost in
   the middle, the message goes to the next one, ``max_attempts`` times at most. There is no fall
   back to processes of one's own: it would start a machine's worth of them in every client at the
   same time, which is what a shared host is there to prevent.
2. A connection that is left in the middle of an exchange is closed, and its host then ends what it
   was doing for it.
3. A host that works says so every few seconds, so one that hangs is told from a slow node.
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
from emit.host.admission import Admission
from emit.host.calls import Calls
from emit.host.conversation import Conversation
from emit.host.fate import Job
from emit.host.lines import logger_of
from emit.host.place import check_path, peer_of
from emit.host.pool import Pool
from emit.host.settings import Settings
from emit.host.shared.data import Described, from_job, from_node, to_error
from emit.host.starts import Lifespan
from emit.host.system.command import directory_of
from emit.host.system.program import Program
from emit.host.transport import Move, remaining
from emit.host.wire import frames
from emit.host.wire.session import Session
from emit.host.wire.values import MAX_FRAME
from emit.letter import DeadLetter

__all__ = ["BEAT", "Connection", "RemoteHost", "ask"]

#: Seconds between two signs of life of a host that works for a client.
BEAT = 4.0

#: Seconds without any after which the host is taken for dead.
SILENCE = 5 * BEAT

#: Seconds between two tries to reach a host.
_TURN = 0.05

#: Seconds, at the most, to the next try at one that has no room: many may be waiting for it.
_FULL = 1.0

#: Bytes per read and write.
_CHUNK = 256 * 1024

#: No limit: a client may have as many connections as it has threads.
_ANY_NUMBER = 1 << 62


class RemoteHost:
    """
    The shared host at a socket, for one client process.

    Args:
        path: Of the socket.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.pid = os.getpid()
        self._admission = Admission(None, None, list, most_starts=float("inf"))
        # Guards the nodes. Reentrant: a signal's handler may close the host at any moment.
        self._lock = threading.RLock()
        self._nodes: dict[Calls, Dialer] = {}

    def calls(
        self,
        node: str,
        program: Callable[[], Program],
        settings: Settings,
        *,
        program_node: str | None = None,
        shared: bool = True,
        dead_letter: Callable[[DeadLetter], Any] | None = None,
    ) -> Calls:
        """As :meth:`emit.host.host.Host.calls`. Nothing is sent before the first message."""

        def describe() -> Described:
            made = program()
            # The host is in a directory of its own.
            made = replace(made, cwd=directory_of(made))
            return Described(made, settings, program_node, shared)

        dialer = Dialer(self.path, node, describe, settings)
        pool = Pool(node, dialer, _at_the_host(settings), self._admission, keeper=None)
        calls = Calls(node, pool, dead_letter=dead_letter, tell=from_job)
        with self._lock:
            self._nodes[calls] = dialer
        return calls

    def begin_close(self, calls: Calls) -> None:
        """Nothing: to let go of connections takes no time."""

    def close(self, calls: Calls | None = None) -> None:
        """
        Let go of all connections, or those of *calls*; the host stops what nobody uses. Calls that
        are under way in other threads end with ``PoolClosed``.
        """
        with self._lock:
            chosen = list(self._nodes) if calls is None else [calls]
            closing = {one: self._nodes.pop(one) for one in chosen if one in self._nodes}
        for one, dialer in closing.items():
            dialer.give_up()
            for idle in one.pool.close():
                idle.discard()
            for used in one.pool.processes:
                used.hang_up()  # those in use are their callers' to close

    def snapshot(self) -> dict[str, Any]:
        """This client's part: ``calls``, ``failures`` and times of each node."""
        with self._lock:
            nodes = list(self._nodes)
        return {
            "pid": self.pid,
            "shared": self.path,
            "nodes": {one.node: one.account.snapshot() for one in nodes},
        }

    def __repr__(self) -> str:
        return f"<RemoteHost {self.path} [{len(self._nodes)} nodes]>"


def _at_the_host(settings: Settings) -> Settings:
    """The knobs of a pool of connections: the host sees to the rest of them."""
    return replace(
        settings,
        size=_ANY_NUMBER,
        min_idle=0,
        acquire_timeout=None,
        max_calls=None,
        max_age=None,
        max_rss=None,
        idle_timeout=None,
    )


class Dialer:
    """
    Connects to the host at a socket, for one node.

    Args:
        path: Of the socket.
        node: The node's name.
        describe: Tells what the host is to start; called once, as another environment later is not
            another node.
        settings: The node's knobs.
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
        """Whether it is known what the host is to start."""
        return self._described is not None

    def prepare(self) -> dict[str, Any]:
        """Make what the host is to start; that is done here, where the files are."""
        if self._described is None:
            self._described = from_node(self._describe())
        return self._described

    def start(self) -> Connection:
        """
        Connect, and wait for the host as long as a message may take.

        Raises:
            HostLost: It was not there, or had no room.
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
        """Have those that wait for the host wait no longer."""
        self._closing.set()

    def is_permanent(self, error: HostError) -> bool:
        """Another try has waited for the host already, so there is no backoff between two."""
        return True

    def describe(self) -> dict[str, Any]:
        """Nothing: the host tells of its programs."""
        return {}

    def _lost(self, lost: _Lost) -> HostLost:
        is_full = isinstance(lost, _Full)
        return HostLost(node=self._node, path=self._path, reason=str(lost), is_full=is_full)


class _Lost(Exception):
    """The host is not there, or has ended. Its text says which."""


class _Full(_Lost):
    """The host has no room for another client just now."""


class _Refused(_Lost):
    """There is no sense in trying again."""


class Connection:
    """
    One connection to a shared host: a process, as far as its pool can see.

    Args:
        path: Of the host's socket.
        node: The node that it is for.
        config: What the host has to know of it; see `emit.host.shared.data.from_node`.
        settings: The node's knobs.

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
        # What the host has let pass is not counted again.
        unlimited = replace(
            _at_the_host(settings), max_results=_ANY_NUMBER, max_result_bytes=_ANY_NUMBER
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
        """Nothing: it is for one node."""

    def ended(self, fault: ProtocolError | None) -> HostError | None:
        """Say what has become of the host."""
        if fault is not None:
            return self._lost(str(fault))
        return self.failure()

    def failure(self, *, may_have_run: bool | None = None) -> HostError:
        """Make the error of a host that has ended, with its own words if it had some."""
        said = self.talk.failed
        why = self._socket.why or "it has ended"
        return self._lost(why if said is None else f"{why}: {said.message}")

    def overdue(self) -> HostError:
        """Make the error of a host that hangs."""
        return self._lost(f"it has said nothing for {SILENCE:g} s")

    def check_memory(self) -> None:
        """Nothing: the host does."""

    def error_of(self, job: Job, err: frames.Err) -> Exception:
        """Make the error that the host has had, with its attributes."""
        return to_error(err.cause or {"type": err.type}, job.node, job.fields)

    def _lost(self, reason: str) -> HostLost:
        self.talk.condemned = self.talk.condemned or reason
        return HostLost(node=self.talk.node, path=self._path, reason=reason, may_have_run=True)

    # -- for its pool ----------------------------------------------------------------------

    @property
    def is_finished(self) -> bool:
        """Never: it is not replaced."""
        return False

    @property
    def gave_up(self) -> bool:
        """Never: a host that ends is not one that can't be started."""
        return False

    def worn(self) -> str | None:
        """Never."""
        return None

    def replace(self, reason: str) -> None:
        """Nothing: it is not replaced."""

    def rss(self) -> int:
        """Nothing of its own."""
        return 0

    def usage(self) -> Usage:
        """Nothing of its own."""
        return Usage()

    def describe(self, usage: Usage) -> dict[str, Any]:
        """Nothing: the host tells of its processes."""
        return {}

    def warn(self) -> None:
        """Nothing: a host that is lost in the middle of a message is told of by `Calls`."""

    def hang_up(self) -> None:
        """Have both ends see its end. From another thread than the one that uses it."""
        self._socket.shut()

    def discard(self) -> None:
        """Close it, any number of times. In a forked child the parent's end stays open."""
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
    The transport of a connection.

    Args:
        path: Of the host's socket.

    Attributes:
        received: What has come and was not taken yet.
        over: Whether the host has hung up.
        sending: Whether there is something left to write.
        until: When a host that says nothing is given up, by the monotonic clock.
        why: Why nothing can come any more, if it is not that the host has hung up.

    Raises:
        _Lost: Nobody listens there.
        _Refused: Another user listens there, or no socket can have this path.
    """

    def __init__(self, path: str) -> None:
        self.received: list[bytes] = []
        self.over = False
        self.sending = False
        self.until = time.monotonic() + SILENCE
        self.why = ""
        self._outgoing = bytearray()
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._connect(path)
            # Two descriptors, as a poll watches each for one thing.
            self._writer = self._socket.dup()
        except BaseException:
            self._socket.close()
            raise

    def send(self, data: bytes | bytearray) -> None:
        """See `emit.host.transport.Transport`."""
        if not self._outgoing:
            self._heard()  # it was not asked for anything before
        self._outgoing += data
        self.sending = not self.over
        self.push()

    @property
    def pending(self) -> int:
        """Bytes that are still to be written."""
        return len(self._outgoing)

    def push(self) -> bool:
        """Write what is left to write. Returns whether all is written, or nothing can be."""
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
        """Take one chunk. Returns whether the host has hung up."""
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

    #: Its end is told by its descriptor.
    is_blind = False

    def see_death(self) -> bool:
        """See `emit.host.transport.Transport`."""
        return self.over

    def shut(self) -> None:
        """Have both ends see its end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it, any number of times."""
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
            # What the host had said before it hung up is still to be read.
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
            # No number: a path that no socket can have.
            lost = _Refused if error.errno in (None, errno.EACCES) else _Lost
            raise lost(error.strerror or str(error)) from error
        if owner != os.geteuid():
            raise _Refused(f"the one there is of user {owner}, not {os.geteuid()}")
        self._socket.setblocking(False)


def ask(path: str) -> dict[str, Any]:
    """
    Return the snapshot of the shared host at *path*.

    Raises:
        HostLost: Nobody listens there.
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
    """In a forked child: the connections are the parent's, whose end the host must see."""
    for connection in list(_connections):
        connection.discard()


at_fork("connections", in_child=_close_all)
