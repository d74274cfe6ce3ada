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
from collections.abc import Callable, Sequence
from typing import Protocol

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


#: What to do when a descriptor is ready. It returns whether to watch it no longer.
Move = Callable[[], bool]


class Transport(Protocol):
    """
    What carries bytes to one peer and back: the pipes of a program, or a socket.

    Attributes:
        received: What has come and was not taken yet.
        over: Whether no exchange is possible any more.
        sending: Whether there is something left to write.
        until: When the peer is given up, by the monotonic clock, whatever else its callers allow.
    """

    received: list[bytes]
    over: bool
    sending: bool
    until: float

    def send(self, data: bytes | bytearray) -> None:
        """Write *data*, as much as the peer takes now; the rest goes out as it is polled."""

    @property
    def pending(self) -> int:
        """Bytes that are still to be written."""

    def watched(self) -> list[tuple[int, Move]]:
        """The descriptors to read from, each with what to do when it is ready."""

    def writer(self) -> tuple[int, Move]:
        """The descriptor to write to, and what to do when it takes more."""

    @property
    def is_blind(self) -> bool:
        """Whether no descriptor tells of the peer's end, so that `see_death` has to be asked."""

    def see_death(self) -> bool:
        """Look whether the peer has ended."""


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
        until: When it is given up, by the monotonic clock.
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
        self.until = float("inf")
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

    def watched(self) -> list[tuple[int, Move]]:
        """See `Transport`."""
        child = self.child
        watched: list[tuple[int, Move]] = [
            (child.stdout, self.read),
            (child.stderr, self.read_errors),
        ]
        return watched if child.pidfd is None else [*watched, (child.pidfd, self.see_death)]

    def writer(self) -> tuple[int, Move]:
        """See `Transport`."""
        return self.child.stdin, self.push

    @property
    def is_blind(self) -> bool:
        """See `Transport`."""
        return self.child.pidfd is None

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
    Waits for several peers at once.

    Args:
        transports: Whose descriptors to watch. Those of others are left alone, so the cost does
            not grow with the number of peers that idle.
    """

    def __init__(self, transports: Sequence[Transport]) -> None:
        self._transports = tuple(transports)
        self._poll = select.poll()
        self._moves: dict[int, Move] = {}
        self._blind = [transport for transport in self._transports if transport.is_blind]
        # gevent's poll can miss what happens on a pipe whose number was just reused.
        is_patched = type(self._poll).__module__ != "select"
        self._tick = _TICK if self._blind or is_patched else float("inf")
        for transport in self._transports:
            for fd, move in transport.watched():
                self._watch(fd, move)

    def step(self, timeout: float) -> None:
        """
        Wait until something can be moved, *timeout* seconds at most, and move it.

        Returns also when it was only stderr that moved, or nothing: the caller looks at its
        transports, and at the clock.
        """
        moves = self._moves
        for transport in self._transports:
            if transport.sending:
                fd, move = transport.writer()
                if fd not in moves:
                    self._watch(fd, move, select.POLLOUT)
        if timeout > self._tick:
            timeout = self._tick
        for fd, _ in self._poll.poll(timeout * 1000):
            if fd in moves and moves[fd]():
                self._poll.unregister(fd)
                del moves[fd]
        for transport in self._blind:
            transport.see_death()

    def attend(self, caller: int) -> None:
        """From now on `step` raises `Abandoned` when the other end of this socket is closed."""
        self._watch(caller, _hang_up, 0)  # no events: a hang-up is always told

    def leave(self, caller: int) -> None:
        """Attend a caller no longer, if it was."""
        if self._moves.pop(caller, None) is not None:
            self._poll.unregister(caller)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing can be moved just now."""
        return not self._poll.poll(0) and not self._blind

    def _watch(self, fd: int, move: Move, events: int = select.POLLIN) -> None:
        self._poll.register(fd, events)
        self._moves[fd] = move


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
