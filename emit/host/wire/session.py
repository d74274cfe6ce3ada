"""The protocol between the host and one process. No I/O here, and no clock.

Turns bytes into events, and everything the host has to say into bytes. The owner moves the bytes,
keeps the time, and decides the fate of the process and its calls.

1. `TRANSITIONS` alone says which frame may come when. A frame that is not in it for the current
   state breaks the protocol. A host that sends one has a bug.
2. An answer belongs to the call whose id it carries. Ids are never reused, and nothing is matched
   by order.
3. The first answer to a call closes it. Answers to a closed or unknown id are `Unmatched`; their
   process must not get another call.
4. A refused message changes nothing: no id is used up, and there is nothing to write.
5. Texts of a program in an error, a log or ``ready`` are cut and cleaned here, by `emit.text`. The
   code behind this is safe from escape sequences and from texts of 16 MB.
6. Each event is delivered once, in the order of the bytes, however these were cut. After a
   `Broken` there are no more events, and every method raises its error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from emit.errors import EncodeError, FrameTooLarge, ProtocolError
from emit.host.wire.codec import CODECS, Codec, Json
from emit.host.wire.frames import (
    FROM_HOST,
    MAX_FRAME,
    VERSION,
    Broken,
    Bye,
    Call,
    Calls,
    Cancel,
    End,
    Ends,
    Err,
    Failure,
    Frame,
    Hello,
    Log,
    Out,
    Ping,
    Pong,
    Ready,
    Stray,
    TooLarge,
    Unmatched,
    Violation,
    op_of,
)
from emit.host.wire.reader import SMALL, Reader
from emit.host.wire.values import Encoder, Malformed, Unfit, from_json
from emit.text import WORD, clean_lines, clean_value, clean_values, one_line, said

__all__ = ["TRANSITIONS", "Broken", "Event", "LineSession", "Session", "State", "Unmatched"]


class State(Enum):
    """The state of a session. The values are the names in ``runtimes/PROTOCOL.md``."""

    NEW = "new"
    STARTING = "starting"
    READY = "ready"
    CLOSING = "closing"
    FAILED = "failed"
    BROKEN = "broken"


TRANSITIONS: dict[State, dict[type[Frame], State]] = {
    State.NEW: {
        Hello: State.STARTING,
    },
    State.STARTING: {
        Ready: State.READY,
        Failure: State.FAILED,
        Log: State.STARTING,
        Bye: State.CLOSING,
    },
    State.READY: {
        Call: State.READY,
        Calls: State.READY,
        Cancel: State.READY,
        Ping: State.READY,
        Out: State.READY,
        End: State.READY,
        Ends: State.READY,
        Err: State.READY,
        Log: State.READY,
        Pong: State.READY,
        Failure: State.FAILED,
        Bye: State.CLOSING,
    },
    State.CLOSING: {
        Ready: State.CLOSING,
        Cancel: State.CLOSING,
        Out: State.CLOSING,
        End: State.CLOSING,
        Ends: State.CLOSING,
        Err: State.CLOSING,
        Log: State.CLOSING,
        Pong: State.CLOSING,
        Failure: State.FAILED,
    },
    State.FAILED: {
        Log: State.FAILED,
    },
    State.BROKEN: {},
}


Event = (
    Ready | Out | End | Ends | Err | Failure | Log | Pong | Stray | TooLarge | Unmatched | Broken
)


class Session:
    """
    The protocol's state with one process.

    Args:
        node: The node's name, for hello and for errors.
        codecs: The codecs to offer, the preferred one first.
        max_frame: Bytes of the largest frame, both ways; below 2**24.
        config: A map for the process to start with, or None.

    Attributes:
        ready: The process's announcement; None before it comes.
        takes_groups: True if the process reads groups of calls.
        error: The breach of the protocol, or None.
        sizes: For each call, the bytes of its frames in the data that `receive` took last. A small
            ``end`` is not counted, see `emit.host.wire.reader.SMALL`.

    Raises:
        ValueError: An unknown codec, or a max_frame out of range.

    Example:
        >>> session = Session("count", codecs=["json"])
        >>> _ = session.hello()
        >>> session.receive(b'{"op":"ready","v":1}\\n')[0].codec
        'json'
        >>> session.call({"n": 2})
        (1, b'\\n{"op":"call","id":1,"msg":{"n":2}}\\n')
        >>> session.receive(b'{"op":"end","id":1,"msgs":[0,1]}\\n')
        [End(id=1, msgs=[0, 1])]
    """

    def __init__(
        self,
        node: str,
        *,
        codecs: Sequence[str] = tuple(CODECS),
        max_frame: int = MAX_FRAME,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        if not codecs or not set(codecs) <= set(CODECS):
            raise ValueError(f"codecs must be of {', '.join(CODECS)}, not {list(codecs)}")
        self.node = node
        self._enter(State.NEW)
        self.ready: Ready | None = None
        self.takes_groups = False
        self.error: ProtocolError | None = None
        self._codecs = tuple(codecs)
        self._max_frame = max_frame
        self._config = config
        self._codec: Codec = Json()
        self._reader = Reader(max_frame=max_frame, binary="msgpack" in codecs)
        self._next = 1
        # The node and meta of the last call, and their bytes: most calls repeat them.
        self._told: tuple[str | None, Mapping[str, Any] | None] = (None, None)
        self._extras = b""
        self._open: dict[int, None] = {}
        self._lost: set[int] = set()  # failed by an oversized frame; answers may still follow
        self.sizes: dict[int, int] = {}
        self._measuring = Encoder()

    def __repr__(self) -> str:
        return f"<Session {self.node} [{self.state.value}, {len(self._open)} open]>"

    @property
    def open(self) -> tuple[int, ...]:
        """The ids of the calls that have no answer yet, oldest first."""
        return tuple(self._open)

    @property
    def codec(self) -> str:
        """The codec of the calls: "json" until the process chooses another."""
        return self._codec.name

    # From the host. Each method returns the bytes to write.

    def hello(self) -> bytes:
        """Make the first frame. If ``config`` does not fit, raise the errors of `call`."""
        return self._send(Hello([VERSION], self._codecs, self.node, self._max_frame, self._config))

    def call(
        self,
        msg: Mapping[str, Any],
        *,
        node: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> tuple[int, bytes]:
        """
        Open a call.

        Args:
            msg: The message: a map of text to values.
            node: The node's name in its program; None if the program has one node.
            meta: ``origin``, ``attempt``, ``deadline_ms``, ``traceparent`` and ``tracestate``, if
                they apply.
                It is encoded again only if it differs from the last call's.

        Returns:
            The call's id and the bytes to write.

        Raises:
            EncodeError: The codec can't carry a value. The session stays as it was.
            FrameTooLarge: The frame is over ``max_frame``. The session stays as it was.
            ProtocolError: The session is broken.
            RuntimeError: The process is not ready, or was told bye: a bug of the caller.
        """
        if Call not in self._allowed:
            self._next_state(Call)
        id = self._next
        plain = msg if type(msg) is dict else dict(msg)
        try:
            if node != self._told[0] or meta != self._told[1]:
                self._tell(node, meta)
            data = self._codec.call(id, plain, self._extras)
        except Unfit as error:
            raise self._unfit(error) from None
        size = len(data) - self._codec.framing
        if size > self._max_frame:
            raise self._too_large(size)
        self._next = id + 1
        self._open[id] = None
        return id, data

    def calls(
        self,
        msgs: Sequence[Mapping[str, Any]],
        metas: Sequence[Mapping[str, Any] | None],
        *,
        node: str | None = None,
    ) -> tuple[int, bytes]:
        """
        Open a group of calls, of a process that `takes_groups`.

        Args:
            msgs: The messages, at least one.
            metas: The meta of each of them.
            node: The node's name in its program; None if the program has one node.

        Returns:
            The id of the first call, and the bytes to write. The other calls have the next ids.

        Raises:
            EncodeError, FrameTooLarge, ProtocolError, RuntimeError: As `call`, for all of them
                together. The session stays as it was.
        """
        if Calls not in self._allowed or not self.takes_groups:
            self._next_state(Calls)
            raise RuntimeError("'calls' cannot be sent to a process without 'groups' in its caps")
        id, count = self._next, len(msgs)
        first = metas[0]
        is_common = metas.count(first) == count
        plain = [msg if type(msg) is dict else dict(msg) for msg in msgs]
        try:
            if not is_common:
                extras = self._codec.extras(_given(node=node, metas=list(metas)))
            else:
                if node != self._told[0] or first != self._told[1]:
                    self._tell(node, first)
                extras = self._extras
            data = self._codec.calls(id, plain, extras)
        except Unfit as error:
            raise self._unfit(error) from None
        size = len(data) - self._codec.framing
        if size > self._max_frame:
            raise self._too_large(size)
        self._next = id + count
        self._open.update(dict.fromkeys(range(id, id + count)))
        return id, data

    def cancel(self, id: int) -> bytes:
        """Ask for an open call to end early, if ``ready.caps`` has "cancel". It stays open until
        its answer comes."""
        return self._send(Cancel(id))

    def ping(self, n: int) -> bytes:
        """Ask an idle process for a pong with the same n."""
        return self._send(Ping(n))

    def bye(self) -> bytes:
        """Ask the process to finish its open calls and to exit. No call can follow."""
        return self._send(Bye())

    # From the process.

    def receive(self, data: bytes) -> list[Event]:
        """
        Take the next bytes of the process.

        Returns:
            The events, in order:

            - `Ready`, once; `Log`, `Pong` and `Stray` as they come.
            - `Out` has results so far of an open call. `End` and `Err` close a call, and so does a
              `TooLarge` with an id. `Ends` closes several. A `TooLarge` whose call is unknown comes
              once for each open call, as any of them may have lost results, or once without an id
              if none is open.
            - `Failure`: the process can't go on. Open calls stay open; the process exits.
            - `Unmatched` for an answer to no open call.
            - `Broken` is the last event, with the error to raise.

        Raises:
            ProtocolError: The session was broken before.
        """
        if self.error is not None:
            raise self.error
        events: list[Event] = []
        reads = self._reader.feed(data)
        self.sizes = self._measure(reads) if self._reader.sizes else {}
        for read in reads:
            if type(read) is End and read.id in self._open and End in self._allowed:
                del self._open[read.id]  # one per message; _take would do the same
                events.append(read)
            else:
                self._take(read, events)
                if self.error is not None:
                    break
        return events

    def _measure(self, reads: Sequence[Any]) -> dict[int, int]:
        sizes: dict[int, int] = {}
        for at, size in self._reader.sizes.items():
            read = reads[at]
            if isinstance(read, (Out, End)):
                sizes[read.id] = sizes.get(read.id, 0) + size
            elif isinstance(read, Ends) and size > SMALL * len(read.msgs):
                # Only a group of large results is looked into: the size of each is an estimate.
                for id, results in enumerate(read.msgs, read.id):
                    sizes[id] = sizes.get(id, 0) + len(self._measuring.msgpack(results))
        return sizes

    def _take(self, read: Any, events: list[Event]) -> None:
        match read:
            case Stray():
                events.append(read)
            case TooLarge():
                self._lose(read, events)
            case Violation(reason, sample):
                self._break(reason, sample, events)
            case _ if isinstance(read, FROM_HOST):
                said = op_of(type(read))
                reason = f"wrote {said!r}, which only the host sends; does it echo its input?"
                self._break(reason, b"", events)
            case _ if type(read) not in self._allowed:
                self._break(f"wrote {op_of(type(read))!r} while {self.state.value}", b"", events)
            case Ready():
                self._start(_shown(read), events)
            case Out() | End():
                self._answer(read, events)
            case Ends():
                self._end_group(read, events)
            case Err():
                self._answer(_shown(read), events)
            case _:
                self._enter(self._allowed[type(read)])
                events.append(_shown(read))

    def _start(self, ready: Ready, events: list[Event]) -> None:
        if ready.v != VERSION:
            reason = f"speaks version {ready.v} of the protocol; this host speaks {VERSION}"
            return self._break(reason, b"", events)
        if ready.codec not in self._codecs:
            reason = f"took codec {ready.codec!r:.40}; offered were {', '.join(self._codecs)}"
            return self._break(reason, b"", events)
        self.ready = ready
        self.takes_groups = "groups" in ready.caps
        self._codec = CODECS[ready.codec]()
        self._extras = self._codec.extras({})
        self._enter(self._allowed[Ready])
        events.append(ready)

    def _answer(self, frame: Out | End | Err, events: list[Event]) -> None:
        last = type(frame) is not Out
        if frame.id in self._open:
            if last:
                del self._open[frame.id]
            events.append(frame)
        elif frame.id in self._lost:
            if last:
                self._lost.discard(frame.id)
        else:
            events.append(Unmatched(frame))

    def _end_group(self, frame: Ends, events: list[Event]) -> None:
        if not self.takes_groups:
            return self._break("wrote 'ends' without 'groups' in its caps", b"", events)
        ids = range(frame.id, frame.id + len(frame.msgs))
        if self._open.keys() >= set(ids):
            for id in ids:
                del self._open[id]
            events.append(frame)
        else:
            for id, results in zip(ids, frame.msgs, strict=True):
                self._answer(End(id, results), events)

    def _lose(self, frame: TooLarge, events: list[Event]) -> None:
        """Fail the call of an oversized frame; if it is unknown, fail all open calls."""
        if frame.id in self._lost:
            if frame.last:
                self._lost.discard(frame.id)
            return
        lost = [id for id in self._open if frame.id in (id, None)]
        if frame.id is None or not frame.last:
            self._lost.update(lost)
        for id in lost:
            del self._open[id]
            events.append(frame._replace(id=id))
        if not lost:
            events.append(frame._replace(id=None))

    def _break(self, reason: str, sample: bytes, events: list[Event]) -> None:
        self._enter(State.BROKEN)
        self.error = ProtocolError(node=self.node, reason=reason, sample=sample)
        events.append(Broken(self.error))

    def _tell(self, node: str | None, meta: Mapping[str, Any] | None) -> None:
        self._extras = self._codec.extras(_given(node=node, meta=meta))
        self._told = (node, None if meta is None else dict(meta))

    def _send(self, frame: Frame) -> bytes:
        state = self._next_state(type(frame))
        try:
            body = self._codec.body(frame)
        except Unfit as error:
            raise self._unfit(error) from None
        data = self._wrap(body)
        self._enter(state)
        return data

    def _enter(self, state: State) -> None:
        self.state = state
        # Kept, and not looked up for each frame: hashing a state takes 0.2 us.
        self._allowed = TRANSITIONS[state]

    def _next_state(self, kind: type[Frame]) -> State:
        if self.error is not None:
            raise self.error
        try:
            return self._allowed[kind]
        except KeyError:
            raise RuntimeError(f"{op_of(kind)!r} cannot be sent while {self.state.value}") from None

    def _wrap(self, body: bytes) -> bytes:
        if len(body) > self._max_frame:
            raise self._too_large(len(body))
        return self._codec.wrap(body)

    def _too_large(self, size: int) -> FrameTooLarge:
        return FrameTooLarge(node=self.node, size=size, limit=self._max_frame, outgoing=True)

    def _unfit(self, error: Unfit) -> EncodeError:
        return EncodeError(node=self.node, path=error.path, reason=error.reason)


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _shown(frame: Any) -> Any:
    """Return the frame with its texts made safe to log and print."""
    match frame:
        case Err() | Failure():
            return frame._replace(
                type=one_line(frame.type, WORD),
                message=said(frame.message),
                stack=clean_lines(frame.stack),
            )
        case Log(fields=fields):
            return frame._replace(
                text=said(frame.text), fields=None if fields is None else clean_values(fields)
            )
        case Ready():
            nodes = [one_line(name, WORD) for name in frame.nodes]
            return frame._replace(
                sdk=one_line(frame.sdk, WORD),
                nodes=nodes or frame.nodes,
                inputs=clean_value(frame.inputs),
                outputs=clean_value(frame.outputs),
            )
    return frame


# -- A filter such as ``jq -c --unbuffered``: one line of JSON in, exactly one out -----------------


class LineSession:
    """
    The protocol with a filter.

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

    takes_groups = False

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
        """Open a call. A filter does not get *node* and *meta*."""
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
        """Return the answer once its line is complete. Any other line breaks the protocol."""
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
