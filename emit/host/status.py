"""
A host answers on a private unix socket who asks for its figures, as ``emit top`` does.

1. Only who asks costs anything: a daemon thread sleeps in ``accept``, and nothing is computed.
2. The socket is in a directory that only its user may enter: ``$XDG_RUNTIME_DIR/emit``, or
   ``/tmp/emit-<uid>``. The user at the other end is checked, too.
3. A forked child closes its copy, and opens a socket of its own when it makes a host.
4. It is removed at exit. Of a process that was killed it stays, and who reads removes it.
5. ``EMIT_STATUS=off`` switches it off. Where no socket can be made, that is logged at INFO, and
   the host works without.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from emit.host.place import peer_of
from emit.host.system.private import private

logger = logging.getLogger(__name__)

#: Seconds for a question to come, and for an answer to be taken.
PATIENCE = 2.0

#: Bytes of the longest question.
_QUESTION = 64 * 1024

#: What `accept` fails with where the process or the machine has too many open files just now.
_BUSY = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)

#: Seconds to the next try then, and for the thread to end.
_PAUSE = 0.1

#: Answers a question: both are maps that JSON can carry.
Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def folder() -> Path:
    """Where the sockets of this user's hosts are."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime, "emit")
    # Not $TMPDIR, which a worker and the shell beside it may have set differently.
    return Path(f"/tmp/emit-{os.geteuid()}")


class Status:
    """
    One process's socket, and the thread that answers on it.

    Args:
        answer: Called with each question, by that thread.

    Raises:
        OSError: No socket can be made here.
    """

    def __init__(self, answer: Answer) -> None:
        self.pid = os.getpid()
        self.path = private(folder()) / f"{self.pid}-{os.urandom(4).hex()}.sock"
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(str(self.path))
            self._listener.listen()
            self._thread = threading.Thread(target=self._serve, name="emit-status", daemon=True)
            self._thread.start()
        except BaseException:
            self._listener.close()
            self.path.unlink(missing_ok=True)
            raise

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError as error:
                if error.errno not in _BUSY:  # it was closed
                    return
                time.sleep(_PAUSE)
                continue
            with peer:
                try:
                    self._serve_one(peer)
                except (OSError, ValueError) as error:
                    logger.info("status: a question was not answered: %s", error)
                except Exception:
                    logger.exception("status: a question was not answered")

    def _serve_one(self, peer: socket.socket) -> None:
        peer.settimeout(PATIENCE)
        if peer_of(peer) != os.geteuid():
            return
        with peer.makefile("rb") as lines:
            question = json.loads(lines.readline(_QUESTION))
        peer.sendall(json.dumps(self._answer(question)).encode() + b"\n")

    def close(self) -> None:
        """Remove the socket and end the thread; in a forked child only its copy is closed."""
        if self.pid == os.getpid():
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
            self._thread.join(_PAUSE)  # it may be with somebody who says nothing
            self.path.unlink(missing_ok=True)
        self._listener.close()


_current: Status | None = None


def serve(answer: Answer) -> None:
    """Answer questions from now on, unless ``EMIT_STATUS`` is ``off``."""
    global _current
    close()
    if os.environ.get("EMIT_STATUS") == "off":
        return
    try:
        _current = Status(answer)
    except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
        logger.info("status: no socket for `emit top`: %s", error)


def close() -> None:
    """Answer no more."""
    global _current
    if _current is not None:
        status, _current = _current, None
        status.close()


atexit.register(close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=close)


# -- asking ------------------------------------------------------------------------------------


def sockets() -> list[Path]:
    """The sockets of this user's hosts, also of those that were killed."""
    try:
        return sorted(private(folder(), make=False).glob("*.sock"))
    except OSError:
        return []


def ask(path: Path, question: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    Ask one host.

    Returns:
        Its answer; None: its process is gone, and the socket has been removed.

    Raises:
        OSError, ValueError: It does not answer, or nonsense.
    """
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(PATIENCE)
        try:
            asking.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return None
        asking.sendall(json.dumps(question).encode() + b"\n")
        with asking.makefile("rb") as lines:
            line = lines.readline()
    answer: dict[str, Any] = json.loads(line)
    return answer


def ask_all(question: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any] | Exception]]:
    """Ask every host of this user: its process's id, and its answer or why there is none."""
    for path in sockets():
        pid = int(path.name.partition("-")[0])
        try:
            answer = ask(path, question)
        except (OSError, ValueError) as error:
            yield pid, error
        else:
            if answer is not None:
                yield pid, answer
