"""
The socket path of a host, the lock that keeps it to one host, the user of each client, and the
project that a process belongs to.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
import time
from pathlib import Path
from types import TracebackType

from emit.errors import EmitError
from emit.host.system.private import private

__all__ = ["VARIABLE", "Place", "PlaceTaken", "check_path", "peer_of", "project", "socket_path"]

#: The environment variable that chooses a host: ``private``, ``shared``, or a socket's path.
VARIABLE = "EMIT_HOST"

#: Seconds between two tries to get the place from another host.
_TURN = 0.1


class PlaceTaken(EmitError):
    """
    Another host listens at this path.

    Attributes:
        pid: Its process id, or None if it has not written it yet.
    """

    def __init__(self, path: str, pid: int | None) -> None:
        super().__init__(f"a shared host already listens at {path}: process {pid or 'unknown'}")
        self.pid = pid


def socket_path() -> str | None:
    """
    Return the socket path that ``$EMIT_HOST`` chooses; None: no shared host.

    The path is not in ``$TMPDIR`` or ``$XDG_RUNTIME_DIR``: a worker that runs as a service and a
    shell may have different values of these. macOS allows no path over 104 bytes.

    A value other than ``private``, ``shared`` or an absolute path is refused by
    :func:`check_path` at its first use, when there is a node to name.
    """
    chosen = os.environ.get(VARIABLE, "") or "private"
    if chosen == "private":
        return None
    if chosen == "shared":
        return f"/tmp/emit-shared-{os.geteuid()}/host.sock"
    return chosen


def project() -> str:
    """
    Return the name by which the nodes of this project are told from those of others:
    ``$EMIT_PROJECT``, else the current directory; "" if it has been removed.
    """
    try:
        return os.environ.get("EMIT_PROJECT") or os.getcwd()
    except FileNotFoundError:
        return ""


def check_path(path: str) -> None:
    """
    Refuse a path that can't be a socket's.

    Raises:
        ValueError: The path is not absolute. The text lists the valid values.
    """
    if not os.path.isabs(path):
        raise ValueError(
            f"{VARIABLE}={path} must be private, shared, or the absolute path of a socket"
        )


class Place:
    """
    The socket's path, held by a lock that the kernel releases however this process ends.

    So a socket left by a killed host is not an obstacle. If two hosts start at the same time, one
    of them gets `PlaceTaken`.

    Args:
        path: The socket's path. Its folder is made, for this user alone.

    Raises:
        ValueError: The path can't be a socket's.
        OSError: The folder is open to other users, or it can't be made.
    """

    def __init__(self, path: str) -> None:
        check_path(path)
        self.path = path
        private(Path(path).parent)
        self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self) -> None:
        """
        Take the place as its only host.

        Raises:
            PlaceTaken: Another host has it.
        """
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PlaceTaken(self.path, self._owner()) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)

    def try_for(self, seconds: float) -> bool:
        """Try for *seconds* to take the place. Return whether it is ours."""
        end = time.monotonic() + seconds
        while True:
            try:
                self.take()
                return True
            except PlaceTaken:
                if time.monotonic() >= end:
                    return False
                time.sleep(_TURN)

    def listen(self) -> socket.socket:
        """Make the socket and replace one that a killed host left. Only this user may connect."""
        Path(self.path).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            listener.bind(self.path)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
        finally:
            os.umask(before)
        return listener

    def leave(self) -> None:
        """Remove the socket. Existing connections stay open."""
        Path(self.path).unlink(missing_ok=True)

    def close(self) -> None:
        """Release the place to other hosts. May be called repeatedly."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _owner(self) -> int | None:
        text = os.pread(self._lock, 32, 0).strip()
        return int(text) if text.isdigit() else None

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def peer_of(connection: socket.socket) -> int:
    """Return the user id of the process at the other end of a unix socket, from the kernel."""
    if sys.platform == "linux":
        size = struct.calcsize("3i")
        data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(struct.unpack("3i", data)[1])
    # getpeereid by hand: LOCAL_PEERCRED of SOL_LOCAL gives a struct xucred.
    data = connection.getsockopt(0, 1, 76)
    return int(struct.unpack_from("2I", data)[1])
