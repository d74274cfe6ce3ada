"""A started program, as its host holds it: three pipes, its death, its end."""

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

#: Seconds for the kernel to take a killed process down.
_LAST_BREATH = 0.5

#: Children that are killed together: each is locked meanwhile, by a call in a call.
_TOGETHER = 50

#: Seconds between two looks where there is no pidfd to wait on.
_TICK = 0.005


class Child:
    """
    A program that runs, in a session of its own.

    In a forked child of the host every method does nothing: the program is the parent's. One
    that is dropped without `close` is killed and closed by a thread of the host, so an exception
    at any moment leaves no process and no descriptor behind.

    Attributes:
        node: The node's name.
        argv: The command, its first item an absolute path.
        pid: Its process id, and that of its group and session. It stays its own, even when
            it is dead, until `kill_tree` or `close`.
        stdin: Its pipes, the host's ends, non-blocking; -1 when closed.
        stdout: As above.
        stderr: As above.
        pidfd: Readable when it is dead; None where the system has none (macOS, Linux < 5.4).
        started: When, by ``time.monotonic()``.
        status: Exit code, or the negative number of the signal that killed it. None while
            it runs, and if somebody else took the status, a host that ignores SIGCHLD or has a
            ``waitpid(-1)`` of its own, and the kernel can't say it again (Linux before 6.15).
    """

    #: Held while descriptors are closed, and by a thread that forks: in the midst of it, the
    #: forked child could not tell which of the inherited ones are still to be closed.
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
        """Whether it has ended; then `status` says how. Does not block, does not reap."""
        if not self._ended and self._is_ours():
            self._look()
        return self._ended

    def wait(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds for its end. Returns what `poll` would."""
        end = time.monotonic() + timeout
        while not self.poll() and self._is_ours():
            left = end - time.monotonic()
            if left <= 0:
                break
            self._sleep(left)
        return self._ended

    def terminate(self) -> None:
        """Ask its process group to end: SIGTERM, and SIGCONT, as a stopped one hears nothing."""
        if self._is_pinned():
            tree.signal_group(self.pid, signal.SIGTERM)
            tree.signal_group(self.pid, signal.SIGCONT)

    def kill_group(self) -> None:
        """SIGKILL to its process group, without waiting for anything."""
        if self._is_pinned():
            tree.signal_group(self.pid, signal.SIGKILL)

    def kill_tree(self) -> bool:
        """
        Kill it and all that it started, then reap it. Takes about 10 ms, 2 s at most.

        Returns:
            Whether nothing is left; see `tree.kill_trees` for what is not found.
        """
        return kill_trees([self])

    def close_stdin(self) -> None:
        """Let it see the end of its input."""
        with self._lock:
            if self._is_ours() and self.stdin >= 0:
                with self.closing:
                    self.stdin = -1
                    self._descriptors[0].close()

    def close_outputs(self) -> None:
        """Let it see that nobody reads what it writes."""
        with self._lock, self.closing:
            self.stdout = self.stderr = -1
            for descriptor in self._descriptors[1:3]:
                descriptor.close()

    def close(self) -> None:
        """
        Let go of it. Any number of times, from any thread.

        One that runs is killed with `kill_tree`: nobody can talk to it any more. One that has
        ended is reaped, and what is left in its process group is killed. What it left in
        other sessions lives on until the host ends, unless `kill_tree` came before.
        """
        with self._lock:
            if self._closed or not self._is_ours():
                return
            self._end()
            self.table.reap()
            self._close_descriptors()
            self._forget(self)
            self._closed = True  # last: what is interrupted before is done again

    def _make_locks(self) -> None:
        # Over ending it: killing and closing, which take up to seconds.
        self._lock = threading.RLock()
        # Over one look at it, so that no thread looks through a pidfd that another has closed.
        self._looking = threading.Lock()

    def watch(self) -> None:
        """Open the pidfd. After the making, so that a failure finds the process owned."""
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
        """Close the pipe on which the trampoline has spoken."""
        with self._lock, self.closing:
            self.confirmation = -1
            self._descriptors[3].close()

    def disown(self) -> None:
        """In a forked child: close the inherited pipes, else a sibling never sees their end."""
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
        """Whether the number is sure to be its own: it runs, or is a zombie nobody reaped."""
        return self._is_ours() and not self._reaped and self._look()

    def _look(self) -> bool:
        """Note how it ended, if it has. False if somebody else has reaped it."""
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
        """How it has ended, if somebody else has reaped it."""
        if self._end_told is not None:
            return self._end_told.status()
        end = time.monotonic() + _LAST_BREATH
        with self._looking:
            while self.pidfd is not None and _KERNEL_TELLS:
                told, status = _status_of(self.pidfd)
                if told or time.monotonic() > end:
                    return status
                time.sleep(_TICK)  # its parent is told that it has ended a moment earlier
        return None

    def _waitid(self, how: int) -> os.waitid_result | None:
        """Through the pidfd: after a foreign reaper the number may be our next child's."""
        how |= os.WEXITED | os.WNOHANG
        with self._looking:
            if self.pidfd is None:
                return os.waitid(os.P_PID, self.pid, how)
            return os.waitid(os.P_PIDFD, self.pidfd, how)

    def _look_and_reap(self) -> bool:
        """As `_look`, where the system has no waitid: to see a death is to reap it."""
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
        """Reap it after its end; a word to the log if there is something left of it."""
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


#: Linux from 6.15 on tells by a pidfd how a process has ended, whoever has reaped it.
_KERNEL_TELLS = sys.platform == "linux" and tuple(
    map(int, re.findall(r"\d+", os.uname().release)[:2])
) >= (6, 15)

#: PIDFD_GET_INFO, whose structure begins with what is asked for and ends with the status.
_GET_INFO, _INFO = 0xC040FF0B, struct.Struct("=QQ11Ii")

#: PIDFD_INFO_EXIT.
_EXIT = 1 << 3


def _status_of(pidfd: int) -> tuple[bool, int | None]:
    """Whether the kernel has an answer, and how a process has ended that somebody has reaped."""
    info = bytearray(_INFO.pack(_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:  # a sandbox that does not know it
        return True, None
    told, *_, status = _INFO.unpack(info)
    return (True, os.waitstatus_to_exitcode(status)) if told & _EXIT else (False, None)


def kill_trees(children: Sequence[Child]) -> bool:
    """
    Kill programs and all that they started, together, as `Child.kill_tree` does one.

    Returns:
        Whether nothing is left of any.
    """
    mine = sorted((child for child in children if child._is_ours()), key=lambda child: child.pid)
    clean = [_kill(mine[n : n + _TOGETHER]) for n in range(0, len(mine), _TOGETHER)]
    return all(clean)


def _kill(children: Sequence[Child], locked: int = 0) -> bool:
    if locked < len(children):
        with children[locked]._lock:
            return _kill(children, locked + 1)
    # A zombie keeps its number from a new owner while its group and session are killed.
    trees = [tree.Tree(child.pid, child.cookie, child._is_pinned()) for child in children]
    clean = tree.kill_trees(trees, children[0].table)
    buried = [child._bury(clean) for child in children]
    return all(buried)


class _Descriptor(io.FileIO):
    """
    A descriptor that is closed once, however often and wherever that is interrupted.

    After ``os.close(fd)`` comes a line that notes it. A time limit or Ctrl-C that strikes between
    the two has the next close hit a number that may be another file's by then. `FileIO.close` does
    both in one step of the interpreter.
    """

    def __del__(self) -> None:
        self.close()  # else it warns of one that was left open
