"""Plain messages in and plain results out, for programs without an SDK. No I/O here.

``oneshot``: the message, then the end of input; results until the end of output.
``lines``: a line in, a line out.

JSON is one value per line. msgpack is one object after another, each followed by a newline byte.
That byte alone is also the integer 10, so the reader takes objects and newlines in turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack  # type: ignore[import-untyped]

from emit.errors import EncodeError, FrameTooLarge, ProtocolError
from emit.host.wire.frames import MAX_FRAME
from emit.host.wire.values import (
    MAX_DEPTH,
    Encoder,
    Hooks,
    Malformed,
    Unfit,
    check_keys,
    from_json,
    layers,
    refuse_extension,
    why_no_msgpack,
)

__all__ = ["JsonResults", "MsgpackResults", "Results", "encode_message", "results"]


def encode_message(
    msg: Mapping[str, Any], *, node: str, codec: str = "json", max_frame: int = MAX_FRAME
) -> bytes:
    """
    Return a message as a program reads it: a line of JSON, or one msgpack map.

    Raises:
        EncodeError: The codec can't carry a value.
        FrameTooLarge: The message is over ``max_frame`` bytes, the newline not counted.

    Example:
        >>> encode_message({"n": 2}, node="count")
        b'{"n":2}\\n'
    """
    encoder = Encoder()
    encode, end = (encoder.json, b"\n") if codec == "json" else (encoder.msgpack, b"")
    try:
        data = encode(msg if type(msg) is dict else dict(msg))
    except Unfit as error:
        raise EncodeError(node=node, path=error.path, reason=error.reason) from None
    if len(data) > max_frame:
        raise FrameTooLarge(node=node, size=len(data), limit=max_frame, outgoing=True)
    return data + end


def results(
    *, node: str, codec: str = "json", max_frame: int = MAX_FRAME, probed: bool = False
) -> Results:
    """
    Make a reader of the results of one program.

    Args:
        node: The program's node, for errors.
        codec: The codec of the program's output.
        max_frame: Bytes of the largest result.
        probed: The output may begin with a ready frame. That frame is JSON for every codec, and
            comes first among the results.

    Example:
        >>> reader = results(node="count")
        >>> reader.feed(b'0\\n\\n{"n":'), reader.feed(b'1}'), reader.end()
        ([0], [], [{'n': 1}])
    """
    return (
        JsonResults(node, max_frame) if codec == "json" else MsgpackResults(node, max_frame, probed)
    )


class JsonResults:
    """
    One JSON value per line; blank lines are skipped.

    Both methods raise `ProtocolError` for a line that is not a value, with a sample of it, and
    `FrameTooLarge` for a line over the limit. Earlier results in the same bytes are lost with it,
    as the message has failed.

    Attributes:
        sizes: Bytes of each result that the last `feed` returned.
    """

    def __init__(self, node: str, max_frame: int) -> None:
        self._node = node
        self._max = max_frame
        self.sizes: list[int] = []
        self._held = bytearray()
        self._lines = 0

    def feed(self, data: bytes) -> list[Any]:
        """Take the next bytes and return the results they complete."""
        end = data.rfind(b"\n")
        self._held += data[: end + 1]
        whole = bytes(self._held) if end >= 0 else b""
        if end >= 0:
            self._held.clear()
        self._held += data[end + 1 :]
        values: list[Any] = []
        self.sizes = []
        for line in whole.split(b"\n")[:-1]:
            self._lines += 1
            if line.strip():
                values.append(self._value(line))
                self.sizes.append(len(line))
        self._check_size(self._held)
        return values

    def end(self) -> list[Any]:
        """Take the end of output: the last line may lack its newline."""
        return self.feed(b"\n")

    def _value(self, line: bytes) -> Any:
        self._check_size(line)
        try:
            return from_json(line)
        except Malformed as error:
            reason = f"line {self._lines} of its output, of {len(line)} bytes, {error}"
            raise ProtocolError(node=self._node, reason=reason, sample=line) from None

    def _check_size(self, line: bytes | bytearray) -> None:
        if len(line) > self._max:
            raise FrameTooLarge(node=self._node, size=None, limit=self._max, outgoing=False)


class MsgpackResults:
    """One msgpack object after another, each followed by a newline byte. Raises as JsonResults."""

    def __init__(self, node: str, max_frame: int, probed: bool = False) -> None:
        self._head = bytearray() if probed else None  # possibly the ready frame, in JSON
        self._node = node
        self._max = max_frame
        self.sizes: list[int] = []
        self._hooks = Hooks()
        self._unpacker = msgpack.Unpacker(
            timestamp=3,
            ext_hook=refuse_extension,
            max_buffer_size=2**31 - 1,  # not needed: _check_size limits each object
            **self._hooks.options(),
        )
        self._fed = 0
        self._start = 0  # where the present object began
        self._newline = False  # True if a newline must come next

    def feed(self, data: bytes) -> list[Any]:
        """Take the next bytes and return the results they complete."""
        values: list[Any] = []
        self.sizes = []
        if self._head is not None:
            data = self._take_head(data, values)
        self._fed += len(data)
        self._unpacker.feed(data)
        try:
            for value in self._unpacker:
                self._take(value, values)
        except Malformed as error:
            raise self._broken(str(error), data) from None
        except (ValueError, OverflowError, MemoryError, msgpack.UnpackException) as error:
            raise self._broken(f"is no msgpack: {why_no_msgpack(error)}", data) from None
        self._check_size(self._fed)
        return values

    def end(self) -> list[Any]:
        """Take the end of output: only the last newline may be missing."""
        self.sizes = []
        if self._head:  # too short to tell a ready frame from msgpack
            head, self._head = bytes(self._head), None
            values = self.feed(head)
            sizes = self.sizes
            values += self.end()
            self.sizes = sizes
            return values
        if self._start != self._fed:
            raise self._broken("ends in the middle of an object", b"")
        return []

    def _take_head(self, data: bytes, values: list[Any]) -> bytes:
        """Take a ready frame off the start. Return the bytes that are certainly msgpack."""
        assert self._head is not None
        self._head += data
        line = bytes(self._head.lstrip(b"\n"))
        if line[:2] in (b"", b"{"):
            return b""
        if line[:2] == b'{"':  # a msgpack integer would be followed by a newline
            end = line.find(b"\n")
            if end < 0:
                self._check_line(line)
                return b""
            values += JsonResults(self._node, self._max).feed(line[: end + 1])
            self.sizes.append(end)
            line = line[end + 1 :]
        else:
            line = bytes(self._head)
        self._head = None
        return line

    def _check_line(self, line: bytes) -> None:
        if len(line) > self._max:
            raise FrameTooLarge(node=self._node, size=None, limit=self._max, outgoing=False)

    def _take(self, value: Any, values: list[Any]) -> None:
        here = self._unpacker.tell()
        self._check_size(here)
        if self._newline and (value != 10 or here != self._start + 1):
            raise Malformed("has a result that no newline follows")
        if not self._newline:
            _check(value)
            values.append(value)
            self.sizes.append(here - self._start)
        self._hooks.items = 0
        self._start = here
        self._newline = not self._newline

    def _check_size(self, here: int) -> None:
        if here - self._start > self._max:
            raise FrameTooLarge(node=self._node, size=None, limit=self._max, outgoing=False)

    def _broken(self, reason: str, data: bytes) -> ProtocolError:
        return ProtocolError(node=self._node, reason=f"its output {reason}", sample=data)


Results = JsonResults | MsgpackResults


def _check(value: Any) -> None:
    check_keys(value)
    if sum(1 for _ in layers(value)) > MAX_DEPTH:
        raise Malformed(f"nests deeper than {MAX_DEPTH} levels")
