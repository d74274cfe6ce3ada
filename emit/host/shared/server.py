"""
One host for all processes of a user on a machine. It listens at a unix socket, and has the pools.

A client describes the program of a node, and the host runs it as its own user. It does so only for
clients of the same user, who could run the program anyway. So a client gains no rights. The folder
of the socket (0700), its mode (0600) and the peer's user id, from the kernel, keep others out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

from emit import context
from emit.errors import EmitError, FrameTooLarge, GraphError, HostError, HostLost, StartError
from emit.host.calls import Calls
from emit.host.host import Host
from emit.host.language.launch import explain, prepare
from emit.host.language.runtime import locate
from emit.host.place import Place, peer_of
from emit.host.shared.client import BEAT
from emit.host.shared.data import from_error, to_context, to_node, to_run
from emit.host.system.program import Program
from emit.host.transport import Abandoned, remaining
from emit.host.wire import frames
from emit.host.wire.codec import Msgpack
from emit.host.wire.frames import MAX_FRAME, Call, Err, Failure, Hello, Ping, Pong, Ready
from emit.host.wire.reader import Reader
from emit.host.wire.values import Encoder

__all__ = ["Server"]

logger = logging.getLogger(__name__)

#: Seconds without a client after which a node's processes are stopped.
LINGER = 60.0

#: Seconds for clients' messages to end when the host is stopped.
GRACE = 5.0

#: Most clients. Each of them takes a thread.
MOST_CLIENTS = 4096

#: Seconds between two log lines about refused clients.
_QUIET = 10.0

#: Seconds between two checks of the parent and the signs of life.
_TICK = 1.0

#: Bytes per read.
_CHUNK = 256 * 1024

#: Bytes of results in one frame, unless a single one is larger.
_PART = 256 * 1024

#: Bytes of the largest single result. The frame around it takes less than the rest.
_LARGEST = MAX_FRAME - 64

#: Bytes of answers that are sent together while more are to come. A client that gets a whole window
#: at once runs in lockstep with the host.
_TOGETHER = 8 * 1024

#: Seconds after an answer in which the next one counts as quick, and waits for others: at most
#: until none has come for `emit.host.calls.IDLE`. If messages take longer, sending each answer
#: alone costs little, and the client need not wait for it.
_SOON = 0.001

#: Bytes of the results of a message, at most, for an answer together with others in a frame.
_SMALL = 512

#: Bytes of answers that are kept while messages are with the processes.
_KEPT = 4 * MAX_FRAME

#: Seconds for a client to say hello. It does so when it connects.
_HELLO = 5.0

_BEAT = Msgpack().wrap(Msgpack().body(Pong(0)))
_length = struct.Struct(">BI").pack


class Server:
    """
    The shared host's server.

    Args:
        place: The place to listen at. It has been taken.
        host: The host whose pools get the messages. It is closed at the end.
        parent: The process that started this one. The server ends after it. None: don't check.
        max_clients: Most clients. There is one for each node and each thread that calls it. Further
            clients are refused, and try again. None: half of the open files that this process may
            have, so that programs can be started, but at most `MOST_CLIENTS`.
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
        self._lock = threading.Lock()  # guards the two fields below
        self._nodes: dict[Any, Node] = {}
        self._clients: dict[Client, threading.Thread] = {}
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._waker, False)

    def run(self) -> None:
        """Listen and serve until :meth:`stop` is called or the parent has ended."""
        listener = self._place.listen()
        logger.info("listening at %s, process %d", self._place.path, os.getpid())
        try:
            self._listen(listener)
        finally:
            listener.close()
            self._place.leave()
            self._end()

    def stop(self) -> None:
        """Make :meth:`run` return. May be called from any thread or a signal handler."""
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
            time.sleep(_TICK)  # no descriptor is free; some may be by then
            return
        owner = peer_of(connected)
        if owner != os.geteuid():
            logger.warning("a client of user %d is refused; this is %d", owner, os.geteuid())
            connected.close()
            return
        if len(self._clients) >= self._max_clients:
            self._refuse(connected)
            return
        connection = Client(connected, self)
        thread = threading.Thread(target=connection.run, name="emit-client", daemon=True)
        with self._lock:
            self._clients[connection] = thread
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
            clients = list(self._clients)
            now = time.monotonic()
            unused = {k: n for k, n in self._nodes.items() if n.is_unused(now)}
            for key in unused:
                del self._nodes[key]
        for connection in clients:
            connection.beat()
        for node in unused.values():
            logger.info('"%s" has had no client for %g s: it is stopped', node.calls.node, LINGER)
            self._host.keeper.do(partial(self._host.close, node.calls))

    # -- for the clients ---------------------------------------------------------------

    def node(self, name: str, config: Mapping[str, Any]) -> Node:
        """
        Return the node that a client describes. Clients share a node if its name, program,
        environment, configuration and settings are the same.

        Raises:
            EmitError: The description is not valid.
        """
        described = to_node(name, config, explain)
        program, key = described.program, (name, described.key)
        with self._lock:
            if key not in self._nodes:
                calls = self._host.calls(
                    name,
                    Maker(program),
                    described.settings,
                    program_node=described.program_node,
                    shared=described.shared,
                )
                calls.project = described.project
                self._nodes[key] = Node(calls, self._lock)
            self._nodes[key].users += 1
            return self._nodes[key]

    def forget(self, connection: Client) -> None:
        """Remove a client that has hung up."""
        with self._lock:
            self._clients.pop(connection, None)

    def snapshot(self) -> dict[str, Any]:
        """Return :meth:`emit.host.host.Host.snapshot` with the number of ``clients``."""
        with self._lock:
            clients = len(self._clients)
        return {**self._host.snapshot(), "clients": clients}

    # -- the end ---------------------------------------------------------------------------

    def _end(self) -> None:
        with self._lock:
            clients = dict(self._clients)
        for connection in clients:
            connection.stop()
        _join(clients, GRACE)
        for connection in clients:
            connection.cut()
        _join(clients, GRACE)
        self._host.close()
        os.close(self._wake)
        os.close(self._waker)


class Maker:
    """
    Makes a program that a client has described: at first as it was described, which includes the
    client's build, and later, for a reload, of its present files.

    Args:
        program: The program.
    """

    def __init__(self, program: Program) -> None:
        self._described: Program | None = program
        self._program = program

    def __call__(self) -> Program:
        """
        Return the program.

        Raises:
            StartError: It can't be built.
        """
        first, self._described = self._described, None
        return first or self._remade()

    def _remade(self) -> Program:
        program, parts = self._program, self._program.parts
        if parts is None or not program.version:  # nothing is built: its start reads the files
            return program
        file = f"{parts.file}:{parts.function}" if parts.function else parts.file
        try:
            source = locate(program.node, file, program.cwd)
        except GraphError as error:
            raise StartError(node=program.node, argv=program.argv, reason=str(error)) from error
        return prepare(replace(program, version=""), source, program.env)


class Node:
    """A node and the number of its clients. Each client uses it in a ``with`` block."""

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


def _join(clients: Mapping[Client, threading.Thread], seconds: float) -> None:
    end = time.monotonic() + seconds
    for thread in clients.values():
        thread.join(remaining(end))


class Client:
    """
    One client: a connection, for one node, served by a thread of its own.

    1. Messages go to the node's processes as they come, also while others are there. After a window
       of them, a process is free for the caller that has waited longest. So a client with a million
       messages does not keep others waiting. Outcomes go back in the order of the messages.
    2. While messages are with the processes, nothing waits for the client. Its answers are kept, up
       to a limit. A client that does not read stops only itself.
    3. If the client hangs up, its calls end at once, and their process is killed: nobody would read
       the answer, and the next caller must not.

    Args:
        connected: The socket.
        server: The server that accepted it.
    """

    def __init__(self, connected: socket.socket, server: Server) -> None:
        self._socket = connected
        self._server = server
        self._reader = Reader(max_frame=MAX_FRAME)
        self._codec = Msgpack()
        self._encode = Encoder().msgpack
        self._repack = Encoder().repack
        self._inbox: deque[Call] = deque()
        self._taken: deque[Call] = deque()  # those with the processes
        self._is_over = False  # no more can come
        self._hello: Hello | None = None
        self._knows_groups = False
        self._group: list[bytes] = []  # answers for the next frame: the results of each
        self._group_id = 0  # of the first
        self._out = _Outbox(connected)
        self.busy = False

    def run(self) -> None:
        """Serve the client until it hangs up."""
        try:
            self._serve()
            self._out.flush()
        except (Abandoned, OSError) as error:
            logger.debug("a client is gone: %r", error)
        except Exception as error:
            logger.exception("a client could not be served")
            self._apologize(error)
        finally:
            self._server.forget(self)
            self._socket.close()

    def beat(self) -> None:
        """
        Send a sign of life if the client waits for answers: those that are kept, if there are any.
        Called from another thread.
        """
        if self.busy:
            self._out.offer(_BEAT)

    def stop(self) -> None:
        """Take no more messages; answer those that have come. Called from another thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def cut(self) -> None:
        """Hang up in the middle of an exchange. Called from another thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    # -- the conversation ------------------------------------------------------------------

    def _serve(self) -> None:
        end = time.monotonic() + _HELLO
        while self._hello is None:
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            self._receive()
            if self._is_over:
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
            calls = node.calls.asked_by(self._socket.fileno(), self._out.push)
            while self._has_next():
                self.busy = True
                self._answer(calls)
                self.busy = False

    def _ready(self) -> None:
        ready = Ready(1, "msgpack", "emit-host", caps=["groups"])
        self._out.send(self._codec.wrap(self._codec.body(ready)))

    def _look(self) -> None:
        """Answer status requests, which name no node."""
        self._ready()
        while self._has_next():
            self._results(self._inbox.popleft(), [self._server.snapshot()], last=True)

    def _has_next(self) -> bool:
        """Send all answers, and wait for a call. Return False if no more can come."""
        self._out.flush()
        while not self._inbox and not self._is_over:
            self._receive()
            self._out.flush()
        return bool(self._inbox)

    def _receive(self, flags: int = 0) -> None:
        """Take the next bytes. Wait for them, unless *flags* say otherwise."""
        try:
            data = self._socket.recv(_CHUNK, flags)
        except BlockingIOError:
            return
        self._is_over = not data
        for frame in self._reader.feed(data):
            match frame:
                case Call():
                    self._inbox.append(frame)
                case frames.Calls():
                    self._knows_groups = True
                    self._inbox.extend(_members(frame))
                case Hello():
                    self._hello = frame
                case Ping(n):
                    self._out.keep(self._codec.wrap(self._codec.body(Pong(n))))
                case frames.Bye() | frames.Cancel():
                    pass
                case _:
                    self._hang_up(getattr(frame, "reason", f"it wrote {type(frame).__name__}"))
                    self._is_over = True
                    return

    def _hang_up(self, reason: str) -> None:
        logger.warning("a client breaks the protocol: %s", reason)
        node = self._hello.node if self._hello else "?"
        text = f"the shared host and its client speak differently: {reason}"
        self._refuse(StartError(node=node, argv=(), reason=text, hint="restart the older one"))

    def _apologize(self, error: Exception) -> None:
        """Tell a client that this host has failed. Otherwise it would wait for another host."""
        with contextlib.suppress(OSError):
            text = f"the shared host has failed: {type(error).__name__}"
            self._refuse(HostError(text, node=self._hello.node if self._hello else ""))
            self._out.flush()

    def _refuse(self, error: EmitError) -> None:
        failure = Failure(type(error).__name__, str(error), cause=from_error(error))
        self._out.keep(self._codec.wrap(self._codec.body(failure)))

    # -- messages --------------------------------------------------------------------------

    def _answer(self, calls: Calls) -> None:
        """Answer the calls that have come, and those that come meanwhile."""
        try:
            if len(self._inbox) == 1 or _is_streamed(self._inbox[0]):
                self._one(calls)
            else:
                for outcome in calls.call_many(self._messages(calls.node)):
                    self._tell(self._taken.popleft(), outcome)
        except HostError as error:  # an error of the pool ends all calls that are left
            while self._taken:
                self._fail(self._taken.popleft(), error)
        self._end_group()

    def _one(self, calls: Calls) -> None:
        message = self._take(calls.node)
        if message is None:
            return
        job, call = calls.job(message), self._taken[0]
        job.streamed = _is_streamed(call)
        with contextlib.closing(calls.parts(job)) as parts:
            for results in parts:
                if not self._results(call, results, last=False):
                    self._taken.clear()  # its error has ended the call
                    return
                self._out.flush()
        self._taken.clear()
        self._tell(call, calls.settle(job))

    def _messages(self, node: str) -> Iterator[Mapping[str, Any] | None]:
        """
        Yield the messages that have come and are not streamed. Yield None when there is none at
        present: the others are here, and so are the answers that have come for them.
        """
        while True:
            self._end_group()
            if not self._inbox and not self._is_over:
                self._receive(socket.MSG_DONTWAIT)
            while self._inbox and not _is_streamed(self._inbox[0]):
                message = self._take(node)
                if message is not None:
                    yield message
            yield None

    def _take(self, node: str) -> Mapping[str, Any] | None:
        """
        Take the next call. Set its queue's data for the job that is made next, and return its
        message. If the data are not valid, answer with an error and return None.
        """
        call = self._inbox.popleft()
        told = None
        if call.meta:
            try:
                told = to_context(node, call.meta)
            except EmitError as error:
                self._fail(call, error)
                return None
        context.current.set(told)
        context.run.set(to_run(call.meta) if call.meta else None)
        self._taken.append(call)
        return call.msg

    # -- answers ---------------------------------------------------------------------------

    def _tell(self, call: Call, outcome: list[Any] | Exception) -> None:
        if isinstance(outcome, Exception):
            return self._fail(call, outcome)
        packed = self._repack(outcome)
        if len(packed) > _PART:
            self._results(call, outcome, last=True)
            return
        if not self._knows_groups or len(packed) > _SMALL:
            self._out.keep(_frame(b"end", call.id, packed))
            return
        if call.id != self._group_id + len(self._group):
            self._end_group()
        if not self._group:
            self._group_id = call.id
        self._group.append(packed)

    def _end_group(self) -> None:
        """Send the answers that were gathered."""
        if self._group:
            self._out.keep(_frame(b"ends", self._group_id, _list_of(self._group)))
            self._group = []

    def _fail(self, call: Call, error: Exception) -> None:
        kind, data = type(error).__name__, from_error(error)
        body = self._codec.body(Err(call.id, kind, "", cause=data))
        if len(body) > MAX_FRAME:
            return self._fail(call, self._too_large(len(body)))
        self._out.keep(self._codec.wrap(body))

    def _too_large(self, size: int) -> FrameTooLarge:
        node = self._hello.node if self._hello else ""
        return FrameTooLarge(node=node, size=size, limit=_LARGEST, outgoing=False)

    def _results(self, call: Call, results: Iterable[Any], *, last: bool) -> bool:
        """
        Send results in one frame, or in several if they are large. If one is too large for a frame,
        end the call with an error and return False.
        """
        part: list[bytes] = []
        size = 0
        for result in results:
            packed = self._encode(result)
            if len(packed) > _LARGEST:
                self._fail(call, self._too_large(len(packed)))
                return False
            if part and size + len(packed) > _PART:
                self._out.keep(_frame(b"out", call.id, _list_of(part)))
                part, size = [], 0
            part.append(packed)
            size += len(packed)
        if last or part:
            self._out.keep(_frame(b"end" if last else b"out", call.id, _list_of(part)))
        return True


def refuse(connected: socket.socket, reason: str) -> None:
    """Tell a client without waiting that it must try again, and hang up."""
    codec = Msgpack()
    with connected, contextlib.suppress(OSError):
        failure = Failure(HostLost.__name__, reason)
        connected.send(codec.wrap(codec.body(failure)), socket.MSG_DONTWAIT)


def _is_streamed(call: Call) -> bool:
    return bool((call.meta or {}).get("stream"))


def _members(group: frames.Calls) -> Iterator[Call]:
    """Yield the calls of a group."""
    for at, message in enumerate(group.msgs):
        meta = group.meta
        if group.metas:
            meta = {**(meta or {}), **(group.metas[at] or {})}
        yield Call(group.id + at, message, None, meta)


def _list_of(items: Sequence[bytes]) -> bytes:
    """Encode a list of encoded items. Each of them may have the full depth."""
    return _length(0xDD, len(items)) + b"".join(items)


def _frame(op: bytes, id: int, msgs: bytes) -> bytes:
    """Make an out, end or ends frame around an encoded list."""
    head = b"\x83\xa2op%c%b\xa2id\xcf%b\xa4msgs" % (0xA0 + len(op), op, id.to_bytes(8, "big"))
    return (len(head) + len(msgs)).to_bytes(4, "big") + head + msgs


class _Outbox:
    """The data to send to a client. Its own thread sends answers, another one signs of life."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._data = bytearray()
        self._lock = threading.Lock()  # guards the data and their order
        self._last = 0.0  # time when data was last kept

    def send(self, data: bytes) -> None:
        """Send all data, however long the client takes."""
        with self._lock:
            self._data += data
        self.flush()

    def keep(self, data: bytes) -> None:
        """
        Send as much as the client takes now, and keep the rest, up to a limit. A little data that
        comes soon after other data is kept as well, at most until the next sign of life.
        """
        now = time.monotonic()
        with self._lock:
            self._data += data
            if len(self._data) > _TOGETHER or now - self._last > _SOON:
                self._push()
            self._last = now
            full = len(self._data) > _KEPT
        if full:
            self.flush()

    def offer(self, data: bytes) -> None:
        """Send what the client takes now of the data that is kept, or *data* if there is none."""
        with self._lock, contextlib.suppress(OSError):
            if not self._data:
                self._data += data
            self._push()

    def push(self) -> None:
        """Send as much of the data that is kept as the client takes now."""
        with self._lock:
            self._push()
            self._last = 0.0

    def flush(self) -> None:
        """Send all data that is kept, however long the client takes."""
        while True:
            with self._lock:
                self._push()
                if not self._data:
                    self._last = 0.0  # the next answer has no company
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
