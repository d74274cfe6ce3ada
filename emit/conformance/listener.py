"""What has come from a process under test, frame by frame. No I/O here."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from emit.conformance.template import shorten
from emit.host.wire import frames
from emit.host.wire.reader import Reader

__all__ = ["Fault", "Listener", "Overdue"]

#: Bytes of standard output that are kept to look at the framing.
_KEPT = 64 * 1024


class Fault(Exception):
    """The process is not what the scenario asks for. The text says what was expected and came."""


class Overdue(Fault):
    """What was expected has not come in time."""


class Listener:
    """
    Frames in, sorted.

    Attributes:
        ready: The frame, once it has come.
        failure: An err with id null.
        open: Ids of the calls that have no answer yet; whoever sends a call adds it.
        results: For each id, the results so far.
        answers: For each id, its `End` or `Err`.
        order: Ids in the order of their answers.
        logs: Log frames.
        pongs: Numbers of pongs.
        last: The newest frame, for a complaint.
        raw: The first bytes of all that came.
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
        self.logs: list[frames.Log] = []
        self.pongs: list[int] = []
        self.last = "nothing"
        self.raw = bytearray()

    def feed(self, data: bytes) -> None:
        """
        Take what has come.

        Raises:
            Fault: It breaks the protocol, or answers what is not open.
        """
        self.raw += data[: _KEPT - len(self.raw)]
        for event in self._reader.feed(data):
            self.last = describe(event)
            self._take(event)

    def _take(self, event: frames.Read) -> None:
        match event:
            case frames.Out() | frames.End() | frames.Err():
                self._answer(event)
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
        """How the bytes that came are not framed as the page has it; empty when they are."""
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
    """A frame, for people: short, on one line, without what is at its default."""
    return shorten(frames.to_wire(event)) if type(event) in frames.FIELDS else repr(event)
