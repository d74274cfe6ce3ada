"""Bytes from a process to frames: both codecs, in pieces of any size. No I/O here.

1. The same bytes give the same events, however they were cut.
2. The reader holds at most ``max_frame`` bytes, and copies each byte a bounded number of times.
3. A 0x00 where a frame may begin starts a msgpack frame. It also ends a line of text, since JSON
   has no raw 0x00 in it. So a stray print can't swallow the frame behind it.
4. Text that is not a frame is the author's print, and never an error. Text that begins like a
   frame and is none breaks the protocol: the frames of two threads are mixed, or it is not UTF-8.
5. After a violation the reader reads nothing more.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]

from emit.host.wire.frames import (
    MAX_FRAME,
    OPS,
    BadFrame,
    Calls,
    Ends,
    Frame,
    Out,
    Read,
    Stray,
    TooLarge,
    Violation,
    from_wire,
)
from emit.host.wire.values import (
    MAX_DEPTH,
    Malformed,
    TooDeep,
    from_json,
    from_msgpack,
    has_long_numbers,
)

__all__ = ["Reader"]

#: Bytes kept of a stray line, and of an unfinished line for diagnosis.
_KEPT = 8192

#: Bytes of an `End` that is too small to count. A whole window of them does not matter to a host,
#: and counting each took a tenth of a message's time.
SMALL = 512

#: Bytes of an oversized frame that are searched for its op and id.
_HEAD = 64

#: The envelope adds a map and a list around a result; that of a group adds another list.
_DEPTH = MAX_DEPTH + 2
_GROUPS = (Calls, Ends)

_BRACE = ord("{")
_length_at = struct.Struct(">I").unpack_from
_MAPS = frozenset([*range(0x80, 0x90), 0xDE, 0xDF])
_LIKE_A_FRAME = re.compile(rb'\s*\{.*?"op"\s*:\s*"(?:%b)"' % "|".join(OPS).encode(), re.DOTALL)
_HEAD_OF = re.compile(rb'\s*\{\s*"op"\s*:\s*"(\w+)"(?:\s*,\s*"id"\s*:\s*(-?\d+)\s*[,}])?')
#: The frames that answer a call; their id says which.
_ANSWERS = ("out", "end", "err")


class Reader:
    """
    Turns the output of a process into frames, stray text and violations.

    Args:
        max_frame: Bytes of the largest frame, framing not counted; from 64 to 2**24 - 1.
        binary: Accept msgpack frames. If False, a 0x00 is ordinary text.

    Attributes:
        sizes: Sizes in bytes of frames that the last `feed` returned, by their position in its
            list: of each frame larger than `SMALL`, and of each `Out`.

    Example:
        >>> Reader().feed(b'hello\\n{"op":"end","id":1}\\n')
        [Stray(data=b'hello'), End(id=1, msgs=())]
    """

    def __init__(self, *, max_frame: int = MAX_FRAME, binary: bool = True) -> None:
        if not _HEAD <= max_frame <= MAX_FRAME:
            raise ValueError(f"max_frame must be from {_HEAD} to {MAX_FRAME}, not {max_frame}")
        self._max = max_frame
        self._binary = binary
        self.sizes: dict[int, int] = {}
        self._held = bytearray()  # the start of a frame or line whose end has not come
        self._skip = 0  # bytes of an oversized msgpack frame still to pass over
        self._step: Callable[[bytes, int, list[Read]], int] = self._text

    @property
    def rest(self) -> bytes:
        """The start of the unfinished frame or line, at most 8 KiB; for diagnosis."""
        return bytes(self._held[:_KEPT])

    def feed(self, data: bytes) -> list[Read]:
        """Take the next bytes and return the frames and lines they complete, in order."""
        events: list[Read] = []
        if self.sizes:
            self.sizes = {}
        position = 0
        while position < len(data):
            position = self._step(data, position, events)
        return events

    # Each step takes some of *data* from *start* on, and returns the position where it stopped.

    def _text(self, data: bytes, start: int, events: list[Read]) -> int:
        """Take lines, up to a 0x00 or to the last newline. Hold the rest."""
        zero = data.find(b"\0", start) if self._binary else -1
        end = zero if zero >= 0 else data.rfind(b"\n", start)
        if end < 0:
            return self._hold(data, start, events)
        block = data[start:end]
        if self._held:
            block = bytes(self._held) + block
            self._held.clear()
        if zero < 0:
            return max(end + 1, self._lines(block, events))
        self._step = self._frames
        return max(end, self._lines(block, events))

    def _hold(self, data: bytes, start: int, events: list[Read]) -> int:
        self._held += data[start:]
        if len(self._held) > self._max:
            events.append(self._overlong(bytes(self._held)))
            self._held.clear()
            self._step = self._rest_of_line
        return len(data)

    def _rest_of_line(self, data: bytes, start: int, events: list[Read]) -> int:
        """Pass over the rest of an overlong line."""
        newline = data.find(b"\n", start)
        zero = data.find(b"\0", start) if self._binary else -1
        ends = [end for end in (newline, zero) if end >= 0]
        if not ends:
            return len(data)
        self._step = self._text
        return min(ends)

    def _frames(self, data: bytes, start: int, events: list[Read]) -> int:
        """Take whole msgpack frames, as long as they are well-formed."""
        end, stop = len(data), start
        try:
            while end - start > 4 and data[start] == 0 and data[start + 4] in _MAPS:
                size = _length_at(data, start)[0]
                stop = start + 4 + size
                if not 0 < size <= self._max or stop > end:
                    break
                if (frame := _frame(data[start + 4 : stop])) is not None:
                    if size > SMALL or type(frame) is Out:
                        self.sizes[len(events)] = size
                    events.append(frame)
                start = stop
        except BadFrame as error:
            return self._violation(str(error), data[start:stop], events)
        if start < end:
            self._step = self._partial if data[start] == 0 else self._text
        return start

    def _partial(self, data: bytes, start: int, events: list[Read]) -> int:
        """Take one msgpack frame that is cut, too large or not well-formed."""
        held = self._held
        try:
            while len(held) < (need := _needed(held, self._max)):
                if start == len(data):
                    return start
                piece = data[start : start + need - len(held)]
                held += piece
                start += len(piece)
            if (found := self._whole(bytes(held))) is not None:
                self.sizes[len(events)] = len(held) - 4
                events.append(found)
        except BadFrame as error:
            return self._violation(str(error), bytes(held), events)
        held.clear()
        return start

    def _whole(self, held: bytes) -> Read | None:
        """Return a whole frame, or the report of an oversized one from its first bytes."""
        size = _length_at(held)[0]
        if size <= self._max:
            self._step = self._frames
            return _frame(held[4:])
        self._skip = size + 4 - len(held)
        self._step = self._rest_of_frame
        return _too_large(size, self._max, *_head_of_map(held[4:]))

    def _rest_of_frame(self, data: bytes, start: int, events: list[Read]) -> int:
        passed = min(self._skip, len(data) - start)
        self._skip -= passed
        if not self._skip:
            self._step = self._text
        return start + passed

    def _stop(self, data: bytes, start: int, events: list[Read]) -> int:
        return len(data)

    # The steps' findings.

    def _lines(self, block: bytes, events: list[Read]) -> int:
        long_numbers = has_long_numbers(block)
        line = block
        try:
            for line in block.split(b"\n"):
                if line and (event := self._line(line, long_numbers)) is not None:
                    if len(line) > SMALL or type(event) is Out:
                        self.sizes[len(events)] = len(line)
                    events.append(event)
        except BadFrame as error:
            return self._violation(str(error), line, events)
        return 0

    def _line(self, line: bytes, long_numbers: bool) -> Read | None:
        if len(line) > self._max:
            return self._overlong(line)
        if line[0] != _BRACE and not line.lstrip().startswith(b"{"):
            return _stray(line) if line != b"\r" else None
        try:
            fields = from_json(line, _DEPTH, long_numbers)
        except TooDeep as error:
            return _group_of(line, error, from_json) if _LIKE_A_FRAME.match(line) else _stray(line)
        except Malformed as error:
            if _LIKE_A_FRAME.match(line):
                raise BadFrame(f"a frame {error}") from None
            return _stray(line)
        frame = from_wire(fields)
        return _stray(line) if frame is None and type(fields.get("op")) is not str else frame

    def _overlong(self, line: bytes) -> Read:
        if line.lstrip()[:1] != b"{":
            return _stray(line[: self._max])
        told = _HEAD_OF.match(line[:_HEAD])
        if told is None:
            return TooLarge(None, self._max)
        return _too_large(None, self._max, told[1].decode(), told[2] and int(told[2]))

    def _violation(self, reason: str, sample: bytes, events: list[Read]) -> int:
        """Add the last event. Return a position from which no step goes on."""
        events.append(Violation(reason, sample[:80]))
        self._held.clear()
        self._step = self._stop
        return sys.maxsize


def _frame(body: bytes) -> Frame | None:
    """Return the frame in a msgpack map, or None if its op is unknown."""
    try:
        fields = from_msgpack(body, _DEPTH)
    except TooDeep as error:
        return _group_of(body, error, from_msgpack)
    except Malformed as error:
        raise BadFrame(f"a frame {error}") from None
    frame = from_wire(fields)
    if frame is None and type(fields.get("op")) is not str:
        raise BadFrame("a frame has no op")
    return frame


def _group_of(data: bytes, error: TooDeep, read: Callable[[bytes, int], Any]) -> Frame:
    """Return the group in *data*, which may have one level more than the reader allows."""
    try:
        frame = from_wire(read(data, _DEPTH + 1))
    except TooDeep:
        frame = None
    if frame is None or type(frame) not in _GROUPS:
        raise BadFrame(f"a frame {error}") from None
    return frame


def _stray(line: bytes) -> Stray:
    return Stray(line[:_KEPT].removesuffix(b"\r"))


def _needed(held: bytearray, limit: int) -> int:
    """Return the bytes of a msgpack frame to wait for. Byte 4 or 5 exposes a wrong length."""
    if len(held) < 4:
        return 4
    size: int = _length_at(held)[0]
    if size == 0:
        raise BadFrame("a frame of length 0")
    if len(held) < 5:
        return 5
    if held[4] not in _MAPS:
        raise BadFrame(f"a length of {size} bytes with no map behind it")
    return 4 + (size if size <= limit else _HEAD)


def _head_of_map(head: bytes) -> tuple[object, object]:
    """Return the op and the id in the first bytes of a map, as far as they are there."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(head)
    found: list[Any] = []
    try:
        unpacker.read_map_header()
        while len(found) < 4:
            found.append(unpacker.unpack())
    except (ValueError, msgpack.UnpackException):
        pass
    first, op, second, id = (*found, None, None, None, None)[:4]
    return (op, id if second == "id" else None) if first == "op" else (None, None)


def _too_large(size: int | None, limit: int, op: object, id: object) -> TooLarge:
    known = op if type(op) is str and op in OPS else None
    if known in _ANSWERS and type(id) is int:
        return TooLarge(size, limit, id, known != "out", known)
    return TooLarge(size, limit, op=known)
