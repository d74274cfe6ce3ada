"""
Answers requests for a host's figures on a private unix socket, as ``emit top`` makes them.

1. Without requests it costs nothing: a daemon thread sleeps in ``poll``. The thread serves many
   clients at a time, so a client that connects and says nothing holds up no other.
2. The socket is in a directory that only its user may enter: ``$XDG_RUNTIME_DIR/emit``, or
   ``/tmp/emit-<uid>``. The user at the other end is checked, too.
3. A forked child closes its copy, and opens a socket of its own when it makes a host.
4. The socket is removed at exit. A killed process leaves its socket, and the next reader removes
   it.
5. A process without a host may have a socket, too, with another ending: see :func:`open_idle`.
6. ``EMIT_STATUS=off`` switches it off. If no socket can be made, that is logged at INFO, and the
   host works without one.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import logging
import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from emit.forks import at_fork
from emit.host.place import peer_of
from emit.host.system.private import private

logger = logging.getLogger(__name__)

#: Seconds in which a whole question must come, and then in which its answer must be taken.
PATIENCE = 2.0

#: Number of clients that may be asking at a time.
_ASKERS = 64

#: Bytes of the longest question.
_QUESTION = 64 * 1024

#: Errors of `accept` if the process or the machine has too many open files at present.
_BUSY = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)

#: Seconds until the next try after such an error, and for the thread to end.
_PAUSE = 0.1

#: Seconds between two checks if some events don't wake us.
_TICK = 0.05

#: The name of a socket, with the ids of its process and of that process's parent; ``look``: the
#: process has no host.
_NAME = re.compile(r"([0-9]+)-(?:([0-9]+)-)?[0-9a-f]+\.(sock|look)")

#: Who answers questions that have these keys, as ``module:function``: neither the host nor this
#: module knows them. See :mod:`emit.observe.looks`.
OTHERS = {"look": "emit.observe.looks:answer"}

#: Answers a question. Both are maps that JSON can carry.
Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def folder() -> Path:
    """Return the folder of the sockets of this user's hosts."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime, "emit")
    # Not $TMPDIR: a worker and the shell beside it may have different values of it.
    return Path(f"/tmp/emit-{os.geteuid()}")


class Status:
    """
    One process's socket, and the thread that answers on it.

    Args:
        answer: Called with each question, in that thread.
        ending: The ending of the socket's name: ``sock``, or ``look`` without a host.

    Raises:
        OSError: No socket can be made here.
    """

    def __init__(self, answer: Answer, ending: str = "sock") -> None:
        self.pid = os.getpid()
        named = f"{self.pid}-{os.getppid()}-{os.urandom(4).hex()}.{ending}"
        self.path = private(folder()) / named
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(str(self.path))
            self._listener.listen()
            self._listener.setblocking(False)
            self._thread = threading.Thread(target=self._run, name="emit-status", daemon=True)
            self._thread.start()
        except BaseException:
            self._listener.close()
            self.path.unlink(missing_ok=True)
            raise

    def _run(self) -> None:
        asking: list[_Asker] = []
        try:
            self._serve(asking)
        finally:
            for asker in asking:
                asker.socket.close()

    def _serve(self, asking: list[_Asker]) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        # gevent's poll can miss events on a socket whose number was just reused.
        tick = PATIENCE if type(poll).__module__ == "select" else _TICK
        while True:
            left = min((asker.deadline - time.monotonic() for asker in asking), default=None)
            poll.poll(None if left is None else max(0.0, min(left, tick)) * 1000)
            try:
                self._accept(poll, asking)
            except OSError as error:
                if error.errno not in _BUSY:  # the listener was closed
                    return
                time.sleep(_PAUSE)
            for asker in list(asking):
                if self._is_done_with(asker):
                    asking.remove(asker)
                    poll.unregister(asker.socket)
                    asker.socket.close()
                elif asker.answer:
                    poll.modify(asker.socket, select.POLLOUT)

    def _accept(self, poll: select.poll, asking: list[_Asker]) -> None:
        """Accept new clients. Over the limit, drop the client that has waited longest."""
        while True:
            try:
                peer, _ = self._listener.accept()
            except BlockingIOError:
                return
            peer.setblocking(False)
            if peer_of(peer) != os.geteuid():
                peer.close()
                continue
            poll.register(peer, select.POLLIN)
            asking.append(_Asker(peer))
            if len(asking) > _ASKERS:
                slowest = min(asking, key=lambda asker: asker.deadline)
                asking.remove(slowest)
                poll.unregister(slowest.socket)
                slowest.socket.close()

    def _is_done_with(self, asker: _Asker) -> bool:
        """Read more of the question, or send more of the answer. Return whether this is done."""
        try:
            if not asker.answer:
                asker.hear()
                if not asker.has_asked:
                    return self._is_late(asker)
                asker.answer = memoryview(self._answer_to(bytes(asker.question)))
                asker.deadline = time.monotonic() + PATIENCE
            asker.answer = asker.answer[asker.socket.send(asker.answer) :]
        except BlockingIOError:
            return self._is_late(asker)
        except ValueError as error:
            logger.info("status: a question was not answered: %s", error)
            return True
        except OSError as error:
            logger.info("status: an asker has gone: %s", error)
            return True
        return not asker.answer

    def _is_late(self, asker: _Asker) -> bool:
        if time.monotonic() < asker.deadline:
            return False
        what = "an answer was not taken" if asker.answer else "a question was not asked"
        logger.info("status: %s within %g s", what, PATIENCE)
        return True

    def _answer_to(self, line: bytes) -> bytes:
        """
        Return the answer to a question, as a line.

        Raises:
            ValueError: The line is not a question, or answering failed.
        """
        try:
            question = json.loads(line)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(question, dict):
            raise ValueError(f"it must be a map, not {type(question).__name__}")
        try:
            return json.dumps(_answering(question, self._answer)).encode() + b"\n"
        except Exception as error:
            logger.exception("status: a question was not answered")
            raise ValueError(type(error).__name__) from error

    def close(self) -> None:
        """Remove the socket and end the thread. A forked child only closes its copy."""
        if self.pid == os.getpid():
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
            self._thread.join(_PAUSE)  # not longer: it may be making an answer
            self.path.unlink(missing_ok=True)
        self._listener.close()


def _answering(question: Mapping[str, Any], answer: Answer) -> Mapping[str, Any]:
    for key, named in OTHERS.items():
        if key in question:
            module, _, function = named.partition(":")
            answer = getattr(import_module(module), function)
    return answer(question)


class _Asker:
    """
    A client that has connected.

    Attributes:
        socket: The connection.
        deadline: Time by which the question must have come, or the answer have been taken.
        question: The question so far.
        answer: The rest of the answer that is to be sent.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.deadline = time.monotonic() + PATIENCE
        self.question = bytearray()
        self.answer = memoryview(b"")
        self.has_asked = False

    def hear(self) -> None:
        """
        Read more of the question.

        Raises:
            ValueError: The question is too long.
            ConnectionError: The client closed the connection without a question.
        """
        data = self.socket.recv(_QUESTION)
        self.question += data
        if not self.question:
            raise ConnectionError("it has asked nothing")
        self.has_asked = not data or b"\n" in data
        if len(self.question) > _QUESTION:
            raise ValueError(f"it has more than {_QUESTION} bytes")


_current: Status | None = None


def open_idle() -> None:
    """Answer the questions of OTHERS from now on, if this process does not answer any yet."""
    if _current is None:
        serve(lambda question: {}, "look")


def serve(answer: Answer, ending: str = "sock") -> None:
    """Answer questions from now on, unless ``EMIT_STATUS`` is ``off``."""
    global _current
    close()
    if os.environ.get("EMIT_STATUS") == "off":
        return
    try:
        _current = Status(answer, ending)
    except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
        logger.info("status: no socket for `emit top`: %s", error)


def close() -> None:
    """Stop answering."""
    global _current
    if _current is not None:
        status, _current = _current, None
        status.close()


atexit.register(close)
at_fork("status", in_child=close)


# -- asking ------------------------------------------------------------------------------------


def sockets(parent: int | None = None, *, idle: bool = False) -> list[Path]:
    """
    Return the sockets of this user's hosts, killed ones included, and no other file.

    Args:
        parent: Only those of processes that this process has started.
        idle: Also those of processes without a host.
    """
    try:
        files = [*private(folder(), make=False).iterdir()]
    except OSError:
        return []
    named = ((path, _NAME.fullmatch(path.name)) for path in files)
    found = (
        path
        for path, name in named
        if name and parent in (None, int(name[2] or 0)) and (idle or name[3] == "sock")
    )
    return sorted(path for path in found if path.is_socket())


def ask(path: Path, question: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    Ask one host.

    Returns:
        Its answer; None: its process is gone, and the socket has been removed.

    Raises:
        OSError, ValueError: The host does not answer, or its answer is not valid.
    """
    broken: Exception | None = None
    try:
        with _connected(path) as asking:
            line = _exchange(asking, json.dumps(question).encode() + b"\n")
        if not line:
            broken = ValueError("it has closed the connection")
    except (ConnectionError, FileNotFoundError) as error:
        broken = error
    if broken is not None:
        try:  # if the host has ended meanwhile, nobody listens any more
            _connected(path).close()
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return None
        raise broken
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise ValueError("its answer is no map")
    return answer


def _connected(path: Path) -> socket.socket:
    asking = socket.socket(socket.AF_UNIX)
    try:
        asking.settimeout(PATIENCE)
        asking.connect(str(path))
    except BaseException:
        asking.close()
        raise
    return asking


def _exchange(asking: socket.socket, question: bytes) -> bytes:
    """Return the answer to a question: a line, or less if the other end closes."""
    end = time.monotonic() + PATIENCE
    asking.sendall(question)
    line = bytearray()
    while not line.endswith(b"\n"):
        asking.settimeout(max(_TICK, end - time.monotonic()))
        data = asking.recv(_QUESTION)
        line += data
        if not data:
            break
        if time.monotonic() >= end:
            raise TimeoutError("timed out")
    return bytes(line)


def ask_all(question: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any] | Exception]]:
    """Ask every host of this user. Yield its process id, with its answer or the error."""
    for path in sockets():
        pid = int(path.name.partition("-")[0])
        try:
            answer = ask(path, question)
        except (OSError, ValueError) as error:
            yield pid, error
        else:
            if answer is not None:
                yield pid, answer
