"""The host's end of the sentinel: starts it, and tells it what to kill when the host dies."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from emit.host.system import greenlets, sentinel

__all__ = ["Lifeline", "interpreter"]

logger = logging.getLogger(__name__)

_TICKS = os.sysconf("SC_CLK_TCK")


class Lifeline:
    """
    One host's cookie and its sentinel. Only the spawner's thread calls `ensure` and `began`.

    It uses a socket and not a pipe: writing to a dead sentinel must not raise SIGPIPE in a host
    that has restored the signal's default, as many command-line programs do.
    """

    def __init__(self) -> None:
        self.cookie = os.urandom(16).hex()
        self.pid: int | None = None
        self._socket: socket.socket | None = None
        self._told: dict[int, bytes] = {}

    def ensure(self) -> None:
        """Start the sentinel if there is none, or if it has died."""
        if self._send(b""):
            return
        if self.pid is not None:
            logger.warning("sentinel.restarted: process %d had been killed", self.pid)
            self.disconnect()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
        self._start()

    def began(self, sid: int, since: float) -> None:
        """Report a session that began between *since*, a `boot_clock`, and now."""
        first, last = int(since * _TICKS) - 1, int(boot_clock() * _TICKS) + 1
        self._told[sid] = line = b"+%d %d %d\n" % (sid, first, last)
        if not self._send(line):
            self.ensure()

    def ended(self, sid: int) -> None:
        """Report that nothing is left of a session."""
        if self._told.pop(sid, None):
            self._send(b"-%d\n" % sid)

    def disconnect(self) -> None:
        """Close this end, also in a forked child: the sentinel must see the parent's death."""
        lifeline, self._socket = self._socket, None
        if lifeline is not None:
            lifeline.close()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            self.pid = _start_sentinel(self.cookie, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = _Line(fileno=ours.detach())
        self._socket.setblocking(False)
        self._send(b"".join(list(self._told.values())))

    def _send(self, data: bytes) -> bool:
        """Send, or return False if it is dead. A full socket drops the line; the cookie remains."""
        lifeline = self._socket
        if lifeline is None:
            return False
        try:
            lifeline.send(data, getattr(socket, "MSG_NOSIGNAL", 0))
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True


class _Line(socket.socket):
    """A socket that may stay open until the interpreter ends, without a ResourceWarning."""

    def __del__(self) -> None:
        self.close()


def boot_clock() -> float:
    """Return the seconds since boot, as the process table counts starts."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return 0.0


def interpreter() -> str:
    """Return a Python to run scripts with. In a server such as uWSGI sys.executable is not one."""
    if sys.executable and Path(sys.executable).name.startswith("python"):
        return sys.executable
    return str(Path(sys.base_exec_prefix, "bin", f"python3.{sys.version_info[1]}"))


def _start_sentinel(cookie: str, fd: int) -> int:
    """Start a sentinel that inherits only the lifeline: no descriptor, directory or terminal."""
    popen = greenlets.popen()(
        [interpreter(), "-IS", sentinel.__file__, cookie, str(os.getpid())],
        stdin=fd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        # The cookies of the hosts above this one, so that they sweep this sentinel, too.
        env={k: v for k, v in os.environ.items() if k in (sentinel.COOKIE, "LD_LIBRARY_PATH")},
        start_new_session=True,
    )
    popen.returncode = 0  # else its __del__ warns, and a later Popen reaps in our place
    return popen.pid
