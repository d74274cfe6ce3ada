"""Frames to bytes, in JSON lines and in length-prefixed msgpack. No I/O here.

JSON:     ``\\n`` + one object + ``\\n``. The newline in front keeps a stray print that ended
          without one from gluing itself to the frame.
msgpack:  4 bytes of length, big-endian + one map. Frames stay below 2**24 bytes, so the first
          byte is 0x00, which no text holds: `emit.host.wire.reader.Reader` tells the two apart.

The bytes of a call are put together by hand around the encoded message, as it is the one frame
the host writes per message: 0.1 us less than encoding the whole map, and 0.2 us less than framing
it in a second step.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Protocol

from emit.host.wire.frames import Frame, to_wire
from emit.host.wire.values import Encoder

__all__ = ["CODECS", "Codec", "Json", "Msgpack", "encode"]


class Codec(Protocol):
    """Frames to the bodies of frames, and bodies to what goes on the pipe."""

    name: str

    #: Bytes that the framing adds to a body.
    framing: int

    def body(self, frame: Frame) -> bytes:
        """The frame without its framing: what ``max_frame`` counts."""

    def extras(self, fields: Mapping[str, Any]) -> bytes:
        """What else `call` is to tell: fields of its map, perhaps none."""

    def call(self, id: int, msg: Mapping[str, Any], extras: bytes) -> bytes:
        """A call with what `extras` has made, framed."""

    def wrap(self, body: bytes) -> bytes:
        """The body, framed."""


class Json:
    """One object per line."""

    name = "json"
    framing = 2

    def __init__(self) -> None:
        self._encode = Encoder().json

    def body(self, frame: Frame) -> bytes:
        return self._encode(to_wire(frame))

    def extras(self, fields: Mapping[str, Any]) -> bytes:
        # Their closing brace is the one of the whole.
        return b"," + self._encode(fields)[1:] if fields else b"}"

    def call(self, id: int, msg: Mapping[str, Any], extras: bytes) -> bytes:
        return b'\n{"op":"call","id":%d,"msg":%b%b\n' % (id, self._encode(msg), extras)

    def wrap(self, body: bytes) -> bytes:
        return b"\n%b\n" % body


class Msgpack:
    """A length, then one map."""

    name = "msgpack"
    framing = 4

    def __init__(self) -> None:
        self._encode = Encoder().msgpack

    def body(self, frame: Frame) -> bytes:
        return self._encode(to_wire(frame))

    def extras(self, fields: Mapping[str, Any]) -> bytes:
        return self._encode(fields)

    def call(self, id: int, msg: Mapping[str, Any], extras: bytes) -> bytes:
        packed = self._encode(msg)
        # A map of up to 15 entries starts with one byte, 0x80 plus their number.
        head = 3 + extras[0]
        body = b"%c\xa2op\xa4call\xa2id%b\xa3msg%b%b" % (head, _integer(id), packed, extras[1:])
        return _LENGTH.pack(len(body)) + body

    def wrap(self, body: bytes) -> bytes:
        return _LENGTH.pack(len(body)) + body


#: The codecs a host offers, the preferred one first.
CODECS: dict[str, type[Json] | type[Msgpack]] = {"msgpack": Msgpack, "json": Json}

_LENGTH = struct.Struct(">I")


def encode(frame: Frame, codec: str = "json") -> bytes:
    """
    One frame as it goes on the pipe.

    Raises:
        Unfit: A value in it cannot be carried; its path starts at the frame.

    Example:
        >>> from emit.host.wire.frames import Cancel
        >>> encode(Cancel(3))
        b'\\n{"op":"cancel","id":3}\\n'
    """
    chosen = CODECS[codec]()
    return chosen.wrap(chosen.body(frame))


def _integer(id: int) -> bytes:
    """An id below 2**32 always as uint32: 5 bytes, and no encoder to ask."""
    return b"\xce" + id.to_bytes(4, "big") if id < 2**32 else b"\xcf" + id.to_bytes(8, "big")
