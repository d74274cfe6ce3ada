"""One fresh process of the program under test: its pipes, and the frames that it has sent."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import termios
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from emit.conformance.scenario import shorten
from emit.host.lines import Lines
from emit.host.system import spawn, tree
from emit.host.system.program import Program
from emit.host.transport import Pipes, Poll, remaining
from emit.host.wire import frames
from emit.host.wire.reader import Reader
from emit.host.wire.values import Encoder

__all__ = ["Fault", "Listener", "Overdue", "Talk", "environment"]

#: A shell that starts the rest of its command line as a child with the same pipes, and waits.
_WRAPPER = ("sh", "-c", 'exec 3<&0; "$@" <&3 3<&- & exec 0<&- 1>&- 3<&-; wait', "wrapper")

#: Seconds for the kernel to remove a killed process.
_LAST_BREATH = 1.0

#: Seconds between two looks at the pipe, until the process has read everything.
_TICK = 0.001

#: Bytes kept of a plain program's output. A right program writes a few hundred.
_KEPT = 1 << 20


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """
    Return the environment of a program under test: all of ours, as its toolchain may need any of
    it, but without EMIT_ variables, which change a plain run.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("EMIT_")}
    return spawn.environment({**ours, **extra})


class Talk:
    """
    A process, from its start to its end. As a context manager, it leaves nothing behind.

    Args:
        command: The program and its arguments.
        codec: The codec that it is asked to take.
        patience: Seconds to wait for each expected thing, if the step does not say.
        most: Limit for all waits, in seconds, even if the step says more.
        max_frame: Largest frame that it may send, in bytes.
        env: Environment variables to add.
        wrapped: Start it by way of a shell, so that it can lose its parent.

    Attributes:
        heard: The frames that have come.
        plain: The output that has come; None if it should be frames.
        introduced: The ready frame of a plain run, once it has come.
        sent: The data sent last, for a fault's text.

    Raises:
        emit.errors.StartError: The program can't be started.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        codec: str = "json",
        *,
        patience: float = 10.0,
        most: float = float("inf"),
        max_frame: int = 2**24 - 1,
        env: Mapping[str, str] | None = None,
        wrapped: bool = False,
    ) -> None:
        argv = (*_WRAPPER, *command) if wrapped else command
        self.codec, self.patience, self.most = codec, patience, most
        self.heard = Listener(codec, max_frame)
        self.plain: bytearray | None = None
        self.introduced: Mapping[str, Any] = {}
        self.sent = "nothing"
        self._encoder = Encoder()
        self._child = spawn.start(Program("program", argv, environment(env or {})))
        self._gone = False
        self._lines = Lines("conformance")
        self._lines.logger.disabled = True  # a failure shows the stderr
        self._pipes = Pipes(self._child, self._lines)
        self._poll = Poll([self._pipes])

    def __enter__(self) -> Talk:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Only its group: looking for the whole tree takes longer than most scenarios, and its
        # children in other sessions end together with us.
        self._child.kill_group()
        self._child.wait(_LAST_BREATH)
        self._child.close()

    # -- To the process

    def body(self, frame: Mapping[str, Any], codec: str = "") -> bytes:
        """Encode a frame, without its framing."""
        encode = self._encoder.json if (codec or self.codec) == "json" else self._encoder.msgpack
        return encode(frame)

    def framed(self, body: bytes, codec: str = "") -> bytes:
        if (codec or self.codec) == "json":
            return b"\n%b\n" % body
        return len(body).to_bytes(4, "big") + body

    def write(self, data: bytes, *, piece: int = 0) -> None:
        """
        Write bytes. With *piece*, write that many at a time, and wait until the process has read
        them.
        """
        self.sent = shorten(data[:4096].decode("utf-8", "backslashreplace").strip())
        if not piece:
            self._pipes.send(data)
            return
        for start in range(0, len(data), piece):
            self._pipes.send(data[start : start + piece])
            self.wait(lambda: not self._pipes.sending, "its reading of what was sent")
            self._wait_until_read()

    def _wait_until_read(self) -> None:
        deadline = time.monotonic() + min(self.patience, self.most)
        while _unread(self._child.stdin) and not self._pipes.over:
            if remaining(deadline) <= 0:
                raise Overdue(f"expected its reading of {self.sent}")
            self._poll.step(_TICK)
            self._take()

    def close_input(self) -> None:
        """Close its input, once everything is written."""
        self._pipes.finish()

    def close_all(self) -> None:
        """Close all its pipes, as if this host had died."""
        self.wait(lambda: not self._pipes.sending, "its reading of what was sent")
        self._gone = True
        self._child.close_stdin()
        self._child.close_outputs()

    def signal(self, name: str) -> None:
        """Send a signal to its process group, as a terminal or a supervisor does."""
        tree.signal_group(self._child.pid, signal.Signals[f"SIG{name}"])

    @property
    def child(self) -> spawn.Child:
        """The process as the system sees it."""
        return self._child

    def drain(self) -> None:
        """Take the output that has come, without waiting for more."""
        self._poll.step(0)
        self._take()

    def orphan(self) -> None:
        """Kill the shell that started it, and only that."""
        os.kill(self._child.pid, signal.SIGKILL)

    # -- From the process

    @property
    def errors(self) -> str:
        """The end of its standard error."""
        return self._lines.tail

    @property
    def over(self) -> bool:
        """True if its standard output has ended."""
        return self._pipes.ended

    @property
    def status(self) -> int | None:
        return self._child.status

    def wait(self, done: Callable[[], object], what: str, within: float = 0.0) -> None:
        """
        Take output until *done* returns a true value.

        Raises:
            Fault: It does not in time, or the process has ended.
        """
        within = min(within or self.patience, self.most)
        deadline = time.monotonic() + within
        self._take()
        while not done():
            if self._nothing_more():
                raise Fault(f"expected {what}, but it ended{self._how()}; last: {self.heard.last}")
            if remaining(deadline) <= 0:
                raise Overdue(f"expected {what} within {within:g} s; last: {self.heard.last}")
            self._poll.step(remaining(deadline))
            self._take()

    def wait_exit(self, within: float = 0.0) -> int | None:
        """
        Wait for its end, take all its output, and return its exit code.

        Raises:
            Fault: The process still runs.
        """
        within = min(within or self.patience, self.most)
        deadline = time.monotonic() + within
        while not self._gone and not self._pipes.dead and remaining(deadline) > 0:
            self._poll.step(remaining(deadline))
            self._take()
        if not self._child.wait(remaining(deadline)):
            raise Overdue(f"expected its end within {within:g} s, but it runs on")
        self._take()
        return self._child.status

    def _nothing_more(self) -> bool:
        return self._pipes.ended and self._pipes.dead and not self._pipes.received

    def _how(self) -> str:
        return "" if self.status is None else f" with exit code {self.status}"

    def _take(self) -> None:
        chunks, self._pipes.received = self._pipes.received, []
        for chunk in chunks:
            if self.plain is None:
                self.heard.feed(chunk)
            else:
                self.plain += chunk[: _KEPT - len(self.plain)]


def _unread(pipe: int) -> bool:
    """Return True if a pipe still holds unread bytes. Only Linux can tell; elsewhere False."""
    if sys.platform != "linux":
        return False
    return fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)) != bytes(4)


# -- The frames that have come. No I/O here --------------------------------------------------------

#: Bytes of standard output that are kept to check the framing.
_HEARD = 64 * 1024


class Fault(Exception):
    """The process breaks a rule of the scenario. The text says what was expected and what came."""


class Overdue(Fault):
    """Something expected has not come in time."""


class Listener:
    """
    The frames from a process, sorted by kind.

    Attributes:
        ready: The ready frame, once it has come.
        failure: The err frame with id null, once it has come.
        open: Ids of the calls without an answer. The sender of a call adds its id.
        results: The results so far, by id.
        answers: The `End` or `Err`, by id.
        order: Ids in the order of their answers.
        knows_groups: True if a group of calls was sent.
        logs: Log frames.
        pongs: Numbers of pongs.
        last: The newest frame, for a fault's text.
        raw: The first bytes of the whole output.
    """

    def __init__(self, codec: str, max_frame: int) -> None:
        self._reader = Reader(max_frame=max_frame, binary=codec == "msgpack")
        self.codec = codec
        self.max_frame = max_frame
        self.ready: frames.Ready | None = None
        self.failure: frames.Failure | None = None
        self.open: set[int] = set()
        self.results: dict[int, list[Any]] = defaultdict(list)
        self.answers: dict[int, frames.End | frames.Err] = {}
        self.order: list[int] = []
        self.knows_groups = False
        self.logs: list[frames.Log] = []
        self.pongs: list[int] = []
        self.last = "nothing"
        self.raw = bytearray()

    def feed(self, data: bytes) -> None:
        """
        Read output of the process.

        Raises:
            Fault: The output breaks the protocol, or answers a call that is not open.
        """
        self.raw += data[: _HEARD - len(self.raw)]
        for event in self._reader.feed(data):
            self.last = describe(event)
            self._take(event)

    def _take(self, event: frames.Read) -> None:
        match event:
            case frames.Out() | frames.End() | frames.Err():
                self._answer(event)
            case frames.Ends():
                self._end_group(event)
            case frames.Ready():
                if self.ready is not None:
                    raise Fault("expected one ready, got a second")
                self.ready = event
            case frames.Log():
                self.logs.append(event)
            case frames.Pong():
                self.pongs.append(event.n)
            case frames.Failure():
                self.failure = event
            case _:
                self._refuse(event)

    def _answer(self, event: frames.Out | frames.End | frames.Err) -> None:
        kind = frames.op_of(type(event))
        if event.id not in self.open:
            known = "answered already" if event.id in self.answers else "never made"
            raise Fault(f"got {kind} of call {event.id}, which was {known}: {describe(event)}")
        if not isinstance(event, frames.Err):
            self.results[event.id] += event.msgs
        if not isinstance(event, frames.Out):
            self.open.discard(event.id)
            self.answers[event.id] = event
            self.order.append(event.id)

    def _end_group(self, event: frames.Ends) -> None:
        if not self.knows_groups:
            raise Fault(f"got an ends, and no calls was sent: {describe(event)}")
        for id, results in enumerate(event.msgs, event.id):
            self._answer(frames.End(id, results))

    def _refuse(self, event: frames.Read) -> None:
        match event:
            case frames.Stray(data=data) if self.ready is None:
                self.last = f"text: {shorten(data.decode('utf-8', 'replace'))}"
            case frames.Stray(data=data):
                text = shorten(data.decode("utf-8", "replace"))
                raise Fault(f"expected only frames on standard output, got the text {text}")
            case frames.TooLarge(limit=limit, op=op):
                what = f"the frame {op!r}" if op else "a frame"
                raise Fault(f"got {what} over the {limit} bytes of max_frame")
            case frames.Violation(reason=reason, sample=sample):
                text = shorten(sample.decode("utf-8", "replace"))
                raise Fault(f"got what is no frame: {reason}: {text}")
            case _:
                raise Fault(f"got a frame that only a host sends: {describe(event)}")

    def misframed(self) -> str:
        """Return how the output breaks the framing of PROTOCOL.md; empty if it does not."""
        data = bytes(self.raw)
        if self.codec == "json":
            return _misframed_lines(data)
        ready, _, rest = data.lstrip(b"\n").partition(b"\n")
        return _misframed_lines(data[: data.find(ready)] + ready + b"\n") or _misframed_maps(rest)


def _misframed_maps(data: bytes) -> str:
    while data:
        if data[0]:
            return f"after ready, expected the length of a frame, got {shorten(repr(data[:20]))}"
        data = data[4 + int.from_bytes(data[:4], "big") :]
    return ""


def _misframed_lines(data: bytes) -> str:
    lines = data.split(b"\n")
    for number, line in enumerate(lines):
        odd = line.endswith(b"\r") or (not line and number < len(lines) - 1)
        if (number % 2 == 0 and line) or (number % 2 and odd):
            return f"expected newline, object, newline; got {shorten(repr(data[:80]))}"
    return ""


def describe(event: Any) -> str:
    """Describe a frame for people: short, on one line, without default values."""
    return shorten(frames.to_wire(event)) if type(event) in frames.FIELDS else repr(event)
