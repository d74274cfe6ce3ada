"""A started program, as its host owns it: three pipes, its death, its end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import re
import select
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from emit.errors import describe_status
from emit.host.system import greenlets, tree

__all__ = ["Child", "kill_trees"]

logger = logging.getLogger(__name__)

#: Seconds for the kernel to remove a killed process.
_LAST_BREATH = 0.5

#: Seconds for the kernel to say how a process has ended that it reaped itself. The process does the
#: last of that, and a busy machine may keep it waiting in the midst.
_LAST_WORD = 5.0

#: Most children killed together. Each is locked meanwhile, by one nested call per child.
_TOGETHER = 50

#: Seconds between two checks if there is no pidfd to wait for.
_TICK = 0.005


class Child:
    """
    A program that runs, in a session of its own.

    In a forked child of the host every method does nothing: the program is the parent's. A child
    that is dropped without `close` is killed and closed by a thread of the host. So an exception
    at any moment leaves no process and no descriptor behind.

    Attributes:
        node: The node's name.
        argv: The command; its first item is an absolute path.
        pid: The id of its process, its group and its session. The number can't be reused, even
            after its death, until `kill_tree` or `close`.
        stdin: The host's end of the pipe, non-blocking; -1 when closed.
        stdout: As above.
        stderr: As above.
        pidfd: Readable after its death; None if the system has none (macOS, Linux < 5.4).
        started: Time of its start, by ``time.monotonic()``.
        status: Exit code, or the negative number of the signal that killed it. None while it
            runs. Also None if other code took the status (the host ignores SIGCHLD, or has a
            ``waitpid(-1)`` of its own) and the kernel can't repeat it (Linux before 6.15).
    """

    #: Held while descriptors are closed, and by a thread that forks. In the middle of closing, the
    #: forked child could not tell which inherited descriptors are still open.
    closing: ClassVar[threading.RLock] = threading.RLock()

    def __init__(
        self,
        *,
        node: str,
        argv: tuple[str, ...],
        pid: int,
        pipes: Sequence[int],
        cookie: str,
        table: tree.Table,
        adopt: Callable[[Child], None],
        forget: Callable[[Child], None],
    ) -> None:
        self.node = node
        self.argv = argv
        self.pid = pid
        self._descriptors = [_Descriptor(fd) for fd in pipes]
        self.stdin, self.stdout, self.stderr, *more = pipes
        self.confirmation = more[0] if more else -1
        self.pidfd: int | None = None
        self.started = time.monotonic()
        self.status: int | None = None
        self.cookie = cookie
        self.table = table
        self._adopt = adopt
        self._forget = forget
        self._host = os.getpid()
        self._ended = False
        self._reaped = False
        self._closed = False
        self._end_told: greenlets.End | None = None
        self._make_locks()

    def poll(self) -> bool:
        """Return whether it has ended; `status` then says how. Does not block, does not reap."""
        if not self._ended and self._is_ours():
            self._look()
        return self._ended

    def wait(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds for its end. Return the result of `poll`."""
        end = time.monotonic() + timeout
        while not self.poll() and self._is_ours():
            left = end - time.monotonic()
            if left <= 0:
                break
            self._sleep(left)
        return self._ended

    def terminate(self) -> None:
        """Ask its process group to end: SIGTERM, then SIGCONT so that stopped processes get it."""
        if self._is_pinned():
            tree.signal_group(self.pid, signal.SIGTERM)
            tree.signal_group(self.pid, signal.SIGCONT)

    def kill_group(self) -> None:
        """Send SIGKILL to its process group, without waiting."""
        if self._is_pinned():
            tree.signal_group(self.pid, signal.SIGKILL)

    def kill_tree(self) -> bool:
        """
        Kill it and everything it started, then reap it. Takes about 10 ms, at most 2 s.

        Returns:
            True if nothing is left; see `tree.kill_trees` for processes that are not found.
        """
        return kill_trees([self])

    def close_stdin(self) -> None:
        """Close its input."""
        with self._lock:
            if self._is_ours() and self.stdin >= 0:
                with self.closing:
                    self.stdin = -1
                    self._descriptors[0].close()

    def close_outputs(self) -> None:
        """Close the host's ends of its outputs, so that it sees that nobody reads them."""
        with self._lock, self.closing:
            self.stdout = self.stderr = -1
            for descriptor in self._descriptors[1:3]:
                descriptor.close()

    def close(self) -> None:
        """
        Release it. May be called repeatedly, from any thread.

        A running program is killed with `kill_tree`: nobody can talk to it any more. A program
        that has ended is reaped, and the rest of its process group is killed. Its processes in
        other sessions live on until the host ends, unless `kill_tree` came before.
        """
        with self._lock:
            if self._closed or not self._is_ours():
                return
            self._end()
            self.table.reap()
            self._close_descriptors()
            self._forget(self)
            self._closed = True  # last, so that an interrupted close is done again

    def _make_locks(self) -> None:
        # Held while it is ended: killing and closing take up to seconds.
        self._lock = threading.RLock()
        # Held during one check, so that no thread uses a pidfd that another one has closed.
        self._looking = threading.Lock()

    def watch(self) -> None:
        """Open the pidfd. Not in the constructor, so that a failure finds the process owned."""
        if sys.platform == "linux":
            try:
                self._descriptors.append(_Descriptor(os.pidfd_open(self.pid)))
                self.pidfd = self._descriptors[-1].fileno()
            except ProcessLookupError:  # it ended at once, and the host ignores SIGCHLD
                self._ended = self._reaped = True
            except OSError as error:
                if error.errno != errno.ENOSYS:
                    raise
        if greenlets.are_here() and not _KERNEL_TELLS:
            self._end_told = greenlets.End(self.pid)

    def close_confirmation(self) -> None:
        """Close the trampoline's pipe."""
        with self._lock, self.closing:
            self.confirmation = -1
            self._descriptors[3].close()

    def disown(self) -> None:
        """Close inherited pipes in a forked child; else a sibling never sees their end."""
        self._make_locks()
        self._closed = True
        self._close_descriptors()

    def __repr__(self) -> str:
        return f"<Child {self.node} pid {self.pid} [{self._state()}]>"

    def __del__(self) -> None:
        if not self._closed and self._is_ours():
            self._adopt(self)

    def _state(self) -> str:
        if not self._is_ours():
            return "of another process"
        if self.poll():
            return describe_status(self.status) + (", closed" if self._closed else "")
        return f"running for {time.monotonic() - self.started:.1f} s"

    def _is_ours(self) -> bool:
        return self._host == os.getpid()

    def _is_pinned(self) -> bool:
        """Return whether the number is certainly its own: it runs, or is a zombie."""
        return self._is_ours() and not self._reaped and self._look()

    def _look(self) -> bool:
        """Record its end, if it has ended. Return False if other code has reaped it."""
        if sys.platform != "linux":
            return self._look_and_reap()
        try:
            found = self._waitid(os.WNOWAIT)
        except ChildProcessError:
            if self.status is None:
                self.status = self._status_of_reaped()
            self._ended = True
            return False
        if found is not None and not self._ended:
            exited = found.si_code == os.CLD_EXITED
            self.status = found.si_status if exited else -found.si_status
            self._ended = True
        return True

    def _status_of_reaped(self) -> int | None:
        """Return how it ended, after other code has reaped it."""
        if self._end_told is not None:
            return self._end_told.status()
        end = time.monotonic() + _LAST_WORD
        with self._looking:
            while self.pidfd is not None and _KERNEL_TELLS:
                is_late = time.monotonic() > end
                told, status = _status_of(self.pidfd)
                if told or is_late:
                    return status
                time.sleep(_TICK)  # its parent hears of the end a moment earlier than the pidfd
        return None

    def _waitid(self, how: int) -> os.waitid_result | None:
        """Call waitid by the pidfd: after a foreign reap the number may be our next child's."""
        how |= os.WEXITED | os.WNOHANG
        with self._looking:
            if self.pidfd is None:
                return os.waitid(os.P_PID, self.pid, how)
            return os.waitid(os.P_PIDFD, self.pidfd, how)

    def _look_and_reap(self) -> bool:
        """Do as `_look` on a system without waitid: there, seeing a death reaps the process."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            self._ended = True
            return False
        if pid:
            self.status = os.waitstatus_to_exitcode(status)
            self._ended = self._reaped = True
        return not pid

    def _sleep(self, seconds: float) -> None:
        pidfd = self.pidfd
        if pidfd is None:
            time.sleep(min(seconds, _TICK))
        else:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            poller.poll(min(seconds, 1.0) * 1000)  # not longer: close() may take the pidfd away

    def _bury(self, clean: bool) -> bool:
        """Reap it after its end. Log a warning if something is left of it."""
        if not (self.wait(_LAST_BREATH) and clean):
            logger.warning("child.survives %r: not gone after SIGKILL", self)
            return False
        if not self._reaped:
            self._reap()
        return True

    def _end(self) -> None:
        if not self.poll():
            self.kill_tree()
        elif not self._reaped:
            self.kill_group()
            self._reap()

    def _reap(self) -> None:
        if sys.platform == "linux":
            with contextlib.suppress(ChildProcessError):
                self._waitid(0)
        self._reaped = True

    def _close_descriptors(self) -> None:
        if self._end_told is not None and self._is_ours():
            self._end_told.forget()
        with self.closing, self._looking:
            self.stdin = self.stdout = self.stderr = self.confirmation = -1
            self.pidfd = None
            for descriptor in self._descriptors:
                descriptor.close()


#: From 6.15 on Linux reports by a pidfd how a process ended, even if other code has reaped it.
_KERNEL_TELLS = sys.platform == "linux" and tuple(
    map(int, re.findall(r"\d+", os.uname().release)[:2])
) >= (6, 15)

#: PIDFD_GET_INFO. Its structure begins with the requested fields and ends with the status.
_GET_INFO, _INFO = 0xC040FF0B, struct.Struct("=QQ11Ii")

#: PIDFD_INFO_EXIT.
_EXIT = 1 << 3


def _status_of(pidfd: int) -> tuple[bool, int | None]:
    """Return whether the kernel knows the end of a reaped process, and its status."""
    info = bytearray(_INFO.pack(_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:  # a sandbox that does not know this call
        return True, None
    told, *_, status = _INFO.unpack(info)
    return (True, os.waitstatus_to_exitcode(status)) if told & _EXIT else (False, None)


def kill_trees(children: Sequence[Child]) -> bool:
    """
    Kill programs and everything they started, together; like `Child.kill_tree` for one.

    Returns:
        True if nothing is left of any of them.
    """
    mine = sorted((child for child in children if child._is_ours()), key=lambda child: child.pid)
    clean = [_kill(mine[n : n + _TOGETHER]) for n in range(0, len(mine), _TOGETHER)]
    return all(clean)


def _kill(children: Sequence[Child], locked: int = 0) -> bool:
    if locked < len(children):
        with children[locked]._lock:
            return _kill(children, locked + 1)
    # A zombie's number can't be reused while its group and session are killed.
    trees = [tree.Tree(child.pid, child.cookie, child._is_pinned()) for child in children]
    clean = tree.kill_trees(trees, children[0].table)
    buried = [child._bury(clean) for child in children]
    return all(buried)


class _Descriptor(io.FileIO):
    """
    A descriptor that is closed only once, even if closing is interrupted or repeated.

    With ``os.close(fd)`` the next line would record that. If a time limit or Ctrl-C strikes between
    the two, the next close hits a number that may be another file's by then. `FileIO.close` does
    both in one step of the interpreter.
    """

    def __del__(self) -> None:
        self.close()  # else FileIO warns of an open file
