"""
The conversation with a filter such as ``jq -c --unbuffered``: one line of JSON in, exactly one
out, in order, one at a time. It answers the same calls as :class:`Session`. No I/O here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emit.errors import EncodeError, FrameTooLarge, ProtocolError
from emit.host.wire.frames import Broken, End, Ready
from emit.host.wire.values import Encoder, Malformed, Unfit, from_json


class LineSession:
    """
    Args:
        node: The node's name, for errors.
        max_frame: Bytes of the longest line, both ways.

    Example:
        >>> session = LineSession("double", max_frame=1000)
        >>> session.call({"n": 2})
        (1, b'{"n":2}\\n')
        >>> session.receive(b'4\\n')
        [End(id=1, msgs=[4])]
    """

    #: Calls that may be open at once.
    window = 1

    codec = "json"

    def __init__(self, node: str, *, max_frame: int) -> None:
        self.node = node
        self.ready: Ready | None = Ready(v=1)
        self._max_frame = max_frame
        self._encode = Encoder().json
        self.sizes: dict[int, int] = {}
        self._held = bytearray()
        self._next = 1
        self._open: int | None = None

    def hello(self) -> bytes:
        return b""

    def bye(self) -> bytes:
        return b""

    def call(
        self,
        msg: Mapping[str, Any],
        *,
        node: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> tuple[int, bytes]:
        """Open a call; a filter is told neither *node* nor *meta*."""
        try:
            line = self._encode(dict(msg)) + b"\n"
        except Unfit as error:
            raise EncodeError(node=self.node, path=error.path, reason=error.reason) from None
        if len(line) > self._max_frame:
            raise FrameTooLarge(
                node=self.node, size=len(line), limit=self._max_frame, outgoing=True
            )
        self._open, self._next = self._next, self._next + 1
        return self._open, line

    def receive(self, data: bytes) -> list[Any]:
        """The answer, once its line is complete; anything else breaks the conversation."""
        self._held += data
        if b"\n" not in data:
            return self._check_length(self._held)
        line, _, rest = bytes(self._held).partition(b"\n")
        if self._open is None or rest:
            unasked = (rest or line).partition(b"\n")[0]
            reason = f"it wrote a line of {len(unasked)} bytes that nobody had asked for"
            return [self._broken(reason, unasked)]
        if too_long := self._check_length(line):
            return too_long
        self._held.clear()
        number, self._open = self._open, None
        self.sizes = {number: len(line)}
        try:
            return [End(number, [from_json(line)])]
        except Malformed as error:
            return [self._broken(f"its line of {len(line)} bytes {error}", line)]

    def _check_length(self, line: bytes | bytearray) -> list[Any]:
        if len(line) <= self._max_frame:
            return []
        reason = f"its line is longer than max_frame = {self._max_frame} bytes"
        return [self._broken(reason, bytes(line[:80]))]

    def _broken(self, reason: str, sample: bytes) -> Broken:
        return Broken(ProtocolError(node=self.node, reason=reason, sample=sample))
