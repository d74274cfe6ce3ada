"""
One client of a shared host: a connection, for one node, served by a thread of its own.

1. Bytes in, messages to the node's processes, outcomes back in the order of the messages. What
   has come together goes to the processes together, a window's worth at most: then they are
   there for whoever waits longest, so that one client's million messages keep no other waiting.
2. While messages are with the processes, nothing waits for the client: its answers are kept, up
   to a limit. A client that does not read stops only itself.
3. When it hangs up, what it had asked for ends at once, and the process with it: nobody would
   read the answer, and the next caller must not.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from emit import context
from emit.context import Context
from emit.errors import EmitError, FrameTooLarge, HostError, HostLost, StartError
from emit.host.shared.data import from_error, to_context
from emit.host.transport import Abandoned
from emit.host.wire import frames
from emit.host.wire.codec import Msgpack
from emit.host.wire.frames import Call, Err, Failure, Hello, Ping, Pong, Ready
from emit.host.wire.reader import Reader
from emit.host.wire.values import MAX_FRAME, Encoder

if TYPE_CHECKING:
    from emit.host.calls import Calls
    from emit.host.shared.server import Server

__all__ = ["Connection"]

logger = logging.getLogger(__name__)

#: Bytes per read.
_CHUNK = 256 * 1024

#: Bytes of results in one frame, unless a single one is larger.
_PART = 256 * 1024

#: Bytes of the largest single result: the frame around it takes less than the rest.
_LARGEST = MAX_FRAME - 64

#: Bytes of answers that are sent together while more are to come: a client that gets a whole
#: window at once runs in lockstep with the host.
_TOGETHER = 8 * 1024

#: Bytes of answers that are kept while messages are with the processes.
_KEPT = 4 * MAX_FRAME

#: Seconds for a client to say hello, which it does as it connects.
_HELLO = 5.0

#: A call, and what its client's queue knows of it.
_Asked = tuple[Call, Context | None]

_BEAT = Msgpack().wrap(Msgpack().body(Pong(0)))
_length = struct.Struct(">BI").pack


class Connection:
    """
    Args:
        connected: The socket.
        server: Whose client it is.
    """

    def __init__(self, connected: socket.socket, server: Server) -> None:
        self._socket = connected
        self._server = server
        self._reader = Reader(max_frame=MAX_FRAME)
        self._codec = Msgpack()
        self._encode = Encoder().msgpack
        self._inbox: deque[Call] = deque()
        self._hello: Hello | None = None
        self._out = _Outbox(connected)
        self.busy = False

    def run(self) -> None:
        """Serve it until it hangs up."""
        try:
            self._serve()
        except (Abandoned, OSError) as error:
            logger.debug("a client is gone: %r", error)
        except Exception as error:
            logger.exception("a client could not be served")
            self._apologize(error)
        finally:
            self._server.forget(self)
            self._socket.close()

    def beat(self) -> None:
        """Say that its work goes on. From another thread."""
        if self.busy:
            self._out.offer(_BEAT)

    def stop(self) -> None:
        """Take no more from it. What it has asked for is answered. From another thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def cut(self) -> None:
        """Hang up in the middle. From another thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    # -- the conversation ------------------------------------------------------------------

    def _serve(self) -> None:
        end = time.monotonic() + _HELLO
        while self._hello is None:
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            if not self._receive():
                return
        self._socket.settimeout(None)
        config = self._hello.config or {}
        if "asked" in config:
            return self._look()
        try:
            node = self._server.node(self._hello.node, config)
        except EmitError as error:
            return self._refuse(error)
        with node:
            self._ready()
            calls = node.calls.asked_by(self._socket.fileno())
            while self._has_next():
                self.busy = True
                self._answer(calls, bool(config.get("stream")))
                self.busy = False
                self._out.flush()

    def _ready(self) -> None:
        self._out.send(self._codec.wrap(self._codec.body(Ready(1, "msgpack", "emit-host"))))

    def _look(self) -> None:
        """It wants no node but to see what there is."""
        self._ready()
        while self._has_next():
            self._tell(self._inbox.popleft(), [self._server.snapshot()])
            self._out.flush()

    def _has_next(self) -> bool:
        """Wait for a call. False: there is none any more."""
        while not self._inbox:
            if not self._receive():
                return False
        return True

    def _receive(self) -> bool:
        """Wait for the next bytes. False: there are none any more."""
        data = self._socket.recv(_CHUNK)
        for frame in self._reader.feed(data):
            match frame:
                case Call():
                    self._inbox.append(frame)
                case Hello():
                    self._hello = frame
                case Ping(n):
                    self._out.send(self._codec.wrap(self._codec.body(Pong(n))))
                case frames.Bye() | frames.Cancel():
                    pass
                case _:
                    self._hang_up(getattr(frame, "reason", f"it wrote {type(frame).__name__}"))
                    return False
        return bool(data)

    def _hang_up(self, reason: str) -> None:
        logger.warning("a client breaks the protocol: %s", reason)
        node = self._hello.node if self._hello else "?"
        text = f"the shared host and its client speak differently: {reason}"
        self._refuse(StartError(node=node, argv=(), reason=text, hint="restart the older one"))

    def _apologize(self, error: Exception) -> None:
        """Tell a client that this host has failed: the client would wait for another one else."""
        with contextlib.suppress(OSError):
            text = f"the shared host has failed: {type(error).__name__}"
            self._refuse(HostError(text, node=self._hello.node if self._hello else ""))

    def _refuse(self, error: EmitError) -> None:
        failure = Failure(type(error).__name__, str(error), cause=from_error(error))
        self._out.send(self._codec.wrap(self._codec.body(failure)))

    # -- messages --------------------------------------------------------------------------

    def _answer(self, calls: Calls, stream: bool) -> None:
        count = min(len(self._inbox), calls.settings.window)
        batch = deque(self._understood([self._inbox.popleft() for _ in range(count)], calls.node))
        try:
            if stream:
                self._stream(calls, batch)
            elif len(batch) == 1:
                self._one(calls, batch)
            else:
                self._many(calls, batch)
        except HostError as error:  # of the pool, so of all that are left
            for call, _ in batch:
                self._fail(call, error)

    def _understood(self, calls: Iterable[Call], node: str) -> Iterator[_Asked]:
        """The calls, each with what its client's queue knows of it; others have failed."""
        for call in calls:
            try:
                yield call, to_context(node, call.meta)
            except EmitError as error:
                self._fail(call, error)

    def _one(self, calls: Calls, batch: deque[_Asked]) -> None:
        job = calls.job(_message(batch[0]))
        calls.run(job)
        self._tell(batch.popleft()[0], calls.settle(job))

    def _many(self, calls: Calls, batch: deque[_Asked]) -> None:
        for outcome in calls.call_many(map(_message, list(batch))):
            self._tell(batch.popleft()[0], outcome)

    def _stream(self, calls: Calls, batch: deque[_Asked]) -> None:
        while batch:
            job = calls.job(_message(batch[0]))
            for results in calls.parts(job):
                self._results(batch[0][0], results, last=False)
                self._out.flush()
            self._tell(batch.popleft()[0], calls.settle(job))

    # -- answers ---------------------------------------------------------------------------

    def _tell(self, call: Call, outcome: list[Any] | Exception) -> None:
        if isinstance(outcome, Exception):
            self._fail(call, outcome)
        else:
            self._results(call, outcome, last=True)

    def _fail(self, call: Call, error: Exception) -> None:
        kind, data = type(error).__name__, from_error(error)
        body = self._codec.body(Err(call.id, kind, "", cause=data))
        if len(body) > MAX_FRAME:
            return self._fail(call, self._too_large(len(body)))
        self._out.keep(self._codec.wrap(body))

    def _too_large(self, size: int) -> FrameTooLarge:
        node = self._hello.node if self._hello else ""
        return FrameTooLarge(node=node, size=size, limit=_LARGEST, outgoing=False)

    def _results(self, call: Call, results: Iterable[Any], *, last: bool) -> None:
        """In one frame, or in as many as they take."""
        part: list[bytes] = []
        size = 0
        for result in results:
            packed = self._encode(result)
            if len(packed) > _LARGEST:
                return self._fail(call, self._too_large(len(packed)))
            if part and size + len(packed) > _PART:
                self._out.keep(_frame(call.id, part, last=False))
                part, size = [], 0
            part.append(packed)
            size += len(packed)
        if last or part:
            self._out.keep(_frame(call.id, part, last=last))


def refuse(connected: socket.socket, reason: str) -> None:
    """Tell a client why it has to try again, if it can be told at once, and hang up."""
    codec = Msgpack()
    with connected, contextlib.suppress(OSError):
        failure = Failure(HostLost.__name__, reason)
        connected.send(codec.wrap(codec.body(failure)), socket.MSG_DONTWAIT)


def _message(asked: _Asked) -> Mapping[str, Any]:
    """Its fields; what its queue knows of it is what jobs that are made now belong to."""
    call, told = asked
    context.current.set(told)
    return call.msg


def _frame(id: int, results: list[bytes], *, last: bool) -> bytes:
    """An out or an end, of results that are encoded already: each up to the limit of depth."""
    op = b"end" if last else b"out"
    head = b"\x83\xa2op\xa3%b\xa2id\xcf%b\xa4msgs" % (op, id.to_bytes(8, "big"))
    body = b"".join([head, _length(0xDD, len(results)), *results])
    return len(body).to_bytes(4, "big") + body


class _Outbox:
    """What is to be sent to a client: by its own thread, and beats by another."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._data = bytearray()
        self._lock = threading.Lock()  # guards the data and their order

    def send(self, data: bytes) -> None:
        """Send all of it, however long the client takes."""
        with self._lock:
            self._data += data
        self.flush()

    def keep(self, data: bytes) -> None:
        """Send what the client takes now, and keep the rest, up to a limit."""
        with self._lock:
            self._data += data
            if len(self._data) > _TOGETHER:
                self._push()
            full = len(self._data) > _KEPT
        if full:
            self.flush()

    def offer(self, data: bytes) -> None:
        """Send it if the client takes it now and nothing is before it; else not at all."""
        with self._lock, contextlib.suppress(OSError):
            if not self._data:
                self._data += data
                self._push()

    def flush(self) -> None:
        """Send all that is kept, however long the client takes."""
        while True:
            with self._lock:
                self._push()
                if not self._data:
                    return
            poller = select.poll()
            poller.register(self._socket, select.POLLOUT)
            poller.poll()

    def _push(self) -> None:
        while self._data:
            try:
                flags = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
                sent = self._socket.send(memoryview(self._data)[:_CHUNK], flags)
            except BlockingIOError:
                return
            del self._data[:sent]
