"""
Bytes in and out of running programs, moved by the calling thread.

One poll over stdin, stdout, stderr and the death of one or several programs. There is no
reader thread: handing a message from one thread to another costs more than the pipe (13 us on
one core), and a thread that holds a lock when the host forks leaves the child deadlocked.

The end of stdout is not the end of the program, and its death is not the end of stdout (a
grandchild may hold the pipe), so both are told apart here.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from emit.host.lines import Lines
from emit.host.system.child import Child

#: Bytes per read. From 256 KiB on each read maps fresh memory: 14 us instead of 1.4.
CHUNK = 64 * 1024

#: Bytes that a pipe holds at the most. What follows them is not the program's last words, but
#: those of a process that outlives it, and perhaps without end.
_PIPE = 1024 * 1024

#: Seconds between two looks at a program where not every event wakes us.
_TICK = 0.05


class Abandoned(BaseException):
    """Who asked has hung up. No Exception, so that nothing takes it for the process's failure."""


class Pipes:
    """
    The pipes of one child.

    Attributes:
        child: Whose they are.
        lines: Where its stderr goes.
        received: What has come on stdout and was not taken yet.
        ended: Whether stdout has come to its end.
        dead: Whether the program has ended. What it wrote before is in `received` by then.
        broken: Whether it has closed its stdin, so that nothing more can be sent.
        over: Whether one of these three has come: no exchange is possible.
        sending: Whether there is something left to write.
        sent: Bytes written in its life.
        taken: Bytes read from stdout in its life.
    """

    def __init__(self, child: Child, lines: Lines) -> None:
        self.child = child
        self.lines = lines
        self.received: list[bytes] = []
        self.ended = False
        self.dead = False
        self.broken = False
        self.over = False  # no property: it is asked for several times in each call
        self.sent = 0
        self.taken = 0
        self.sending = False
        self._outgoing = memoryview(b"")
        self._finishing = False

    def send(self, data: bytes | bytearray) -> None:
        """Write *data*, as much as the pipe takes now; the rest goes out as it is polled."""
        if self.sending:
            data = bytes(self._outgoing) + data
        self._outgoing = memoryview(data)
        self.sending = not self.broken
        self.flush()

    def finish(self) -> None:
        """Close stdin once all is written."""
        self._finishing = True
        if not self.sending:
            self.child.close_stdin()

    @property
    def pending(self) -> int:
        """Bytes that are still to be written."""
        return len(self._outgoing)

    def flush(self) -> None:
        while self.sending:
            try:
                count = os.write(self.child.stdin, self._outgoing)
            except BlockingIOError:
                return
            except BrokenPipeError:
                self.broken = self.over = True
                self.sending = False
                return
            self.sent += count
            self._outgoing = self._outgoing[count:]
            self.sending = bool(self._outgoing)
        if self._finishing:
            self.child.close_stdin()

    def read(self) -> bool:
        """Take one chunk from stdout. Returns whether it has come to its end."""
        try:
            data = os.read(self.child.stdout, CHUNK)
        except BlockingIOError:
            return False
        if data:
            self.taken += len(data)
            self.received.append(data)
        else:
            self.ended = self.over = True
        return self.ended

    def read_errors(self) -> bool:
        """Take one chunk from stderr. Returns whether it has come to its end."""
        try:
            data = os.read(self.child.stderr, CHUNK)
        except BlockingIOError:
            return False
        if data:
            self.lines.feed(data)
        else:
            self.lines.finish()
        return not data

    def see_death(self) -> bool:
        """Look whether the program has ended; then take what it had written."""
        if not self.dead and self.child.poll():
            self.drain()
        return self.dead

    def push(self) -> bool:
        """Write what is left to write. Returns whether all is written, or nothing can be."""
        self.flush()
        return not self.sending

    def drain(self) -> None:
        """After its death: take what is left in both pipes, and wait for nobody."""
        self.dead = self.over = True
        end = self.taken + _PIPE
        while not self.ended and self._took_some() and self.taken < end:
            pass
        self.drain_errors()
        self.lines.finish()

    def drain_errors(self) -> None:
        """Take what stderr holds just now, a pipe's size at the most; of a closed one nothing."""
        before, end = -1, self.lines.size + _PIPE
        while before < self.lines.size < end and self.child.stderr >= 0:
            before = self.lines.size
            if self.read_errors():
                return

    def _took_some(self) -> bool:
        before = self.taken
        self.read()
        return self.taken > before


class Poll:
    """
    Waits for several programs at once.

    Args:
        all_pipes: Whose pipes to watch. Descriptors of others are left alone, so the cost
            does not grow with the number of programs that idle.
    """

    def __init__(self, all_pipes: Sequence[Pipes]) -> None:
        self._pipes = tuple(all_pipes)
        self._poll = select.poll()
        #: What to do when a descriptor is ready. It returns whether to watch it no longer.
        self._handlers: dict[int, Callable[[], bool]] = {}
        self._blind = [pipes for pipes in self._pipes if pipes.child.pidfd is None]
        # gevent's poll can miss what happens on a pipe whose number was just reused.
        is_patched = type(self._poll).__module__ != "select"
        self._tick = _TICK if self._blind or is_patched else float("inf")
        for pipes in self._pipes:
            child = pipes.child
            self._watch(child.stdout, pipes.read)
            self._watch(child.stderr, pipes.read_errors)
            if child.pidfd is not None:
                self._watch(child.pidfd, pipes.see_death)

    def step(self, timeout: float) -> None:
        """
        Wait until something can be moved, *timeout* seconds at most, and move it.

        Returns also when it was only stderr that moved, or nothing: the caller looks at its
        pipes, and at the clock.
        """
        handlers = self._handlers
        for pipes in self._pipes:
            if pipes.sending and pipes.child.stdin not in handlers:
                self._watch(pipes.child.stdin, pipes.push, select.POLLOUT)
        if timeout > self._tick:
            timeout = self._tick
        for fd, _ in self._poll.poll(timeout * 1000):
            if fd in handlers and handlers[fd]():
                self._poll.unregister(fd)
                del handlers[fd]
        for pipes in self._blind:
            pipes.see_death()

    def attend(self, caller: int) -> None:
        """From now on `step` raises `Abandoned` when the other end of this socket is closed."""
        self._watch(caller, _hang_up, 0)  # no events: a hang-up is always told

    @contextmanager
    def attending(self, caller: int | None) -> Generator[None, None, None]:
        """`attend` a caller, if there is one, for a ``with`` block."""
        if caller is None:
            yield
            return
        self.attend(caller)
        try:
            yield
        finally:
            self._poll.unregister(caller)
            del self._handlers[caller]

    @property
    def is_quiet(self) -> bool:
        """Whether nothing can be moved just now."""
        return not self._poll.poll(0) and not self._blind

    def _watch(self, fd: int, handler: Callable[[], bool], events: int = select.POLLIN) -> None:
        self._poll.register(fd, events)
        self._handlers[fd] = handler


def _hang_up() -> bool:
    raise Abandoned


def pause(seconds: float, caller: int | None = None) -> None:
    """Sleep; raises `Abandoned` when the other end of the socket *caller* is closed."""
    if caller is None:
        time.sleep(seconds)
    else:
        poller = select.poll()
        poller.register(caller, 0)
        if poller.poll(seconds * 1000):
            raise Abandoned


def remaining(deadline: float) -> float:
    """Seconds left until a time by the monotonic clock; 0 when it has passed."""
    return max(0.0, deadline - time.monotonic())
