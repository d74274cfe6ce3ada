"""
Moves bytes to and from running programs, in the calling thread.

One poll covers stdin, stdout, stderr and the death of one or several programs. There is no reader
thread. Handing a message from one thread to another costs more than the pipe (13 us on one core),
and a thread that holds a lock while the host forks leaves the child deadlocked.

The end of stdout is not the end of the program, and the program's death is not the end of stdout
(a grandchild may hold the pipe). So this module reports the two separately.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from emit.host.lines import Lines

#: Bytes per read. From 256 KiB on each read maps fresh memory: 14 us instead of 1.4.
CHUNK = 64 * 1024

#: Bytes that a pipe holds at most. A dead program can't have left more than this. Further bytes are
#: those of a process that outlives it, and may never end.
_PIPE = 1024 * 1024

#: Seconds between two checks of a program, if some events don't wake us.
_TICK = 0.05


class Abandoned(BaseException):
    """The caller has hung up. Not an Exception: nothing must take it for a process's failure."""


#: Moves bytes of a ready descriptor. Returns True if the descriptor needs no more watching.
Move = Callable[[], bool]


class Transport(Protocol):
    """
    Carries bytes to one peer and back: the pipes of a program, or a socket.

    Attributes:
        received: Data that has come and was not taken yet.
        over: True if no exchange is possible any more.
        sending: True if there is something left to write.
        torn: True if an exception, such as Ctrl-C, has come in the middle of a write: nobody knows
            which bytes the peer has, so nothing more can be sent.
        until: Time at which the peer is given up, by the monotonic clock, whatever its callers
            allow.
    """

    received: list[bytes]
    over: bool
    sending: bool
    torn: bool
    until: float

    def send(self, data: bytes | bytearray) -> None:
        """Write *data*, as much as the peer takes now; the next polls write the rest."""

    @property
    def pending(self) -> int:
        """Bytes that are still to be written."""

    def watched(self) -> list[tuple[int, Move]]:
        """Return the descriptors to read from, each with the function to call when it is ready."""

    def writer(self) -> tuple[int, Move]:
        """Return the descriptor to write to, and the function to call when it takes more."""

    @property
    def is_blind(self) -> bool:
        """True if no descriptor reports the peer's end, so that `see_death` must be called."""

    def see_death(self) -> bool:
        """Return whether the peer has ended."""


class Owner(Protocol):
    """The process whose pipes these are: see :class:`emit.host.system.child.Child`."""

    pid: int
    stdin: int
    stdout: int
    stderr: int
    pidfd: int | None

    def poll(self) -> bool: ...
    def close_stdin(self) -> None: ...


class Pipes:
    """
    The transport of one child: its pipes.

    Attributes:
        child: The process that has them.
        lines: Receives its stderr.
        ended: True if stdout has come to its end.
        dead: True if the program has ended. Its earlier output is in `received` by then.
        broken: True if the program closed its stdin, so that nothing more can be sent.
        over: True if any of these three is: no exchange is possible.
        sent: Bytes written so far.
        taken: Bytes read from stdout so far.
    """

    def __init__(self, child: Owner, lines: Lines) -> None:
        self.child = child
        self.lines = lines
        self.received: list[bytes] = []
        self.ended = False
        self.dead = False
        self.broken = False
        self.over = False  # not a property: each call reads it several times
        self.sent = 0
        self.taken = 0
        self.sending = False
        self.torn = False
        self.until = float("inf")
        self._outgoing = memoryview(b"")
        self._finishing = False

    def send(self, data: bytes | bytearray) -> None:
        """Write *data*, as much as the pipe takes now; the next polls write the rest."""
        if self.sending:
            data = bytes(self._outgoing) + data
        self._outgoing = memoryview(data)
        self.sending = not self.broken
        self.flush()

    def finish(self) -> None:
        """Close stdin once everything is written."""
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
            self.torn = True
            try:
                count = os.write(self.child.stdin, self._outgoing)
            except BlockingIOError:
                self.torn = False
                return
            except BrokenPipeError:
                self.broken = self.over = True
                self.sending = False
                return
            self.sent += count
            self._outgoing = self._outgoing[count:]
            self.sending = bool(self._outgoing)
            self.torn = False
        if self._finishing:
            self.child.close_stdin()

    def read(self) -> bool:
        """Take one chunk from stdout. Return whether stdout has come to its end."""
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
        """Take one chunk from stderr. Return whether stderr has come to its end."""
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
        """Check whether the program has ended. If so, take its remaining output."""
        if not self.dead and self.child.poll():
            self.drain()
        return self.dead

    def push(self) -> bool:
        """Continue writing. Return True if everything is written, or nothing can be."""
        self.flush()
        return not self.sending

    def drain(self) -> None:
        """Take the rest of both pipes after the program's death, without waiting."""
        self.dead = self.over = True
        end = self.taken + _PIPE
        while not self.ended and self._took_some() and self.taken < end:
            pass
        self.drain_errors()
        self.lines.finish()

    def drain_errors(self) -> None:
        """Take the data that stderr holds now, at most a pipe's size; nothing if it is closed."""
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
        transports: The peers whose descriptors to watch. Those of other peers are left alone, so
            the cost does not grow with the number of idle peers.
    """

    def __init__(self, transports: Sequence[Transport]) -> None:
        self._transports = tuple(transports)
        self._poll = select.poll()
        self._moves: dict[int, Move] = {}
        self._blind = [transport for transport in self._transports if transport.is_blind]
        # gevent's poll can miss events on a pipe whose number was just reused.
        is_patched = type(self._poll).__module__ != "select"
        self._tick = _TICK if self._blind or is_patched else float("inf")
        for transport in self._transports:
            for fd, move in transport.watched():
                self._watch(fd, move)

    def step(self, timeout: float) -> None:
        """
        Wait until bytes can be moved, at most *timeout* seconds, and move them.

        Also returns if only stderr moved, or nothing: the caller checks its transports and the
        clock.
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
        """Have `step` raise `Abandoned` if the other end of this socket is closed."""
        self._watch(caller, _hang_up, 0)  # no events: poll always reports a hang-up

    def leave(self, caller: int) -> None:
        """Stop attending to a caller's socket, if it was attended."""
        if self._moves.pop(caller, None) is not None:
            self._poll.unregister(caller)

    @property
    def is_quiet(self) -> bool:
        """True if nothing can be moved at present."""
        return not self._poll.poll(0) and not self._blind

    def _watch(self, fd: int, move: Move, events: int = select.POLLIN) -> None:
        self._poll.register(fd, events)
        self._moves[fd] = move


def _hang_up() -> bool:
    raise Abandoned


def pause(seconds: float, caller: int | None = None) -> None:
    """Sleep. Raise `Abandoned` if the other end of the socket *caller* is closed."""
    if caller is None:
        time.sleep(seconds)
    else:
        poller = select.poll()
        poller.register(caller, 0)
        if poller.poll(seconds * 1000):
            raise Abandoned


def remaining(deadline: float) -> float:
    """Return the seconds until a time by the monotonic clock; 0 if it has passed."""
    return max(0.0, deadline - time.monotonic())
