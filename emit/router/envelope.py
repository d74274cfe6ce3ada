"""
The text that a queue carries, with one or several messages of one origin. Pure: no I/O here, and
nothing of Celery or RQ.

    {"v":1,"origin":"words","messages":[{"word":"rain"}]}
{"v":1,"origin":"words","ids":["4991bea7-...","9a0c7c1e-..."],"messages":[{"n":1},"msgpack:gqF..."]}

1. The fields of messages are in "messages" and nowhere else, so no field can pass for one of
   Emit's own.
2. A message is an object if JSON carries it exactly, and otherwise a string: the text that
   `emit.exact` makes of it. A value that `emit.exact` can't carry is refused, with its path, before
   anything is sent.
3. A single message has the id of the queue's own message. The messages of a batch have their ids in
   "ids", and their trace contexts in "traces" if an observer has given any. The trace context of a
   single message is in the headers `traceparent` and `tracestate` of the queue's own message.
4. Readers ignore keys that they don't know. A writer may add a key that readers may ignore. For
   anything else it needs a higher "v", and older readers then read nothing of the text.

A header of Celery's, or the meta of an RQ job, carries the message's earlier attempts: see
:class:`Past`. By this header a reader knows that Emit wrote the text. A text without the header is
only a text, for example if a chain of Celery's passes on what a task has returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import orjson

from emit.context import Trace, as_trace
from emit.errors import EncodeError, Unreadable
from emit.exact import Inexact, from_text, to_json, to_text
from emit.letter import Cause
from emit.message import Message
from emit.router.delivery import batch_id

#: The version of the text that is written, and the highest that is read.
VERSION = 1

#: Causes that travel with a message. A broker may allow a header only a few bytes (RabbitMQ's
#: frames have 128 KiB), and a message may be tried for days.
KEPT = 5


#: The trace context of each message; empty: none has one.
Traces = list[Trace | None]


class Packed(NamedTuple):
    """Messages of one origin for one destination, ready to travel together."""

    ids: list[str]
    texts: list[bytes]
    traces: Traces = []  # noqa: RUF012  # nobody adds to it

    @property
    def id(self) -> str:
        """The id of the queue's own message."""
        return self.ids[0] if len(self.ids) == 1 else batch_id(self.ids)

    def text(self, origin: str) -> str:
        ids = b"" if len(self.ids) == 1 else b'"ids":%b,' % orjson.dumps(self.ids)
        if ids and any(self.traces):
            ids += b'"traces":%b,' % orjson.dumps(list(map(_listed, self.traces)))
        messages = b",".join(self.texts)
        head = b'{"v":%d,"origin":%b,' % (VERSION, orjson.dumps(origin))
        return (head + ids + b'"messages":[%b]}' % messages).decode()

    @property
    def headers(self) -> dict[str, str]:
        """The trace context of a single message, as headers of the queue's own message."""
        trace = self.traces[0] if len(self.ids) == 1 and self.traces else None
        return {} if trace is None else trace.headers

    def cut(self, count: int, size: int) -> Iterator[Packed]:
        """
        Cut the messages into parcels of at most *count* messages and *size* bytes.

        A message that is larger than *size* travels alone.
        """
        begin, left = 0, size
        for end, text in enumerate(self.texts):
            if end > begin and (end - begin == count or len(text) > left):
                yield self._part(begin, end)
                begin, left = end, size
            left -= len(text)
        if self.ids:
            yield self._part(begin, len(self.ids))

    def _part(self, begin: int, end: int) -> Packed:
        part = slice(begin, end)
        return Packed(self.ids[part], self.texts[part], self.traces[part])


class Parcel(NamedTuple):
    """Messages that came together from one origin."""

    ids: list[str]
    messages: Sequence[Mapping[str, Any]]
    traces: Traces = []  # noqa: RUF012  # nobody adds to it

    def packed(self, node: str) -> Packed:
        """
        Raises:
            EncodeError: As of :func:`pack`.
        """
        return Packed(self.ids, [pack(node, message) for message in self.messages], self.traces)


def pack(node: str, fields: Mapping[str, Any]) -> bytes:
    """
    Return one message as a part of the text. Its ``_origin``, if any, is left out: the text has its
    own.

    Args:
        node: The node to name in an error: the one that emitted the message, or that is to get it.
        fields: The message.

    Raises:
        EncodeError: No text represents a value exactly. The error has its path.

    Example:
        >>> pack("words", {"n": 1, "_origin": "x"}), pack("words", {"n": (1, 2)})
        (b'{"n":1}', b'"msgpack:gaFuxwMDkgEC"')
    """
    if "_origin" in fields or type(fields) is not dict:
        fields = {name: value for name, value in fields.items() if name != "_origin"}
    text = to_json(fields)
    if text is not None:
        return text
    for name in fields:
        if type(name) is not str:
            reason = f"a field's name must be text, not of type {type(name).__name__}"
            raise EncodeError(node=node, path="the message", reason=reason)
    try:
        return orjson.dumps(to_text(fields))
    except Inexact as error:
        reason = f"{error.reason}, so no queue can carry it"
        raise EncodeError(node=node, path=error.path, reason=reason) from None


def unpack(node: str, id: str, text: object) -> tuple[str, Parcel]:
    """
    Return the origin and the messages of a text: the queue's message *id* for *node*.

    Raises:
        Unreadable: It is damaged, or a newer version of Emit wrote it.

    Example:
        >>> unpack("count", "7", '{"v":1,"origin":"words","messages":[{"word":"rain"}]}')
        ('words', Parcel(ids=['7'], messages=[{'word': 'rain'}]))
    """
    if not isinstance(text, str):
        raise Unreadable(node=node, reason=f"it has a {type(text).__name__} in place of a text")
    try:
        found = orjson.loads(text)
    except ValueError as error:
        raise Unreadable(node=node, reason=f"its text is damaged: {error}") from None
    version = found.get("v") if type(found) is dict else None
    if type(version) is int and version > VERSION:
        raise Unreadable(
            node=node,
            reason=f"a newer version of Emit wrote it, in form {version}, and this one reads form "
            f"{VERSION}: replay it when all workers are upgraded",
        )
    if type(version) is not int or version != VERSION:
        raise Unreadable(node=node, reason="its text is in no form that Emit writes")
    origin, parcel = found.get("origin"), _parcel(id, found.get("ids"), found.get("messages"))
    if parcel is None or type(origin) is not str:
        raise Unreadable(node=node, reason="its text is damaged: ids and messages don't agree")
    return origin, parcel if "traces" not in found else _traced(parcel, found["traces"])


def _listed(trace: Trace | None) -> list[str] | None:
    return None if trace is None else [part for part in trace if part]


def _traced(parcel: Parcel, traces: Any) -> Parcel:
    """Add trace contexts to a parcel, if they can be read. A message needs none."""
    if type(traces) is not list or len(traces) != len(parcel.ids):
        return parcel
    return parcel._replace(traces=[as_trace(*one[:2]) if one else None for one in traces])


def _parcel(id: str, ids: Any, messages: Any) -> Parcel | None:
    """Return the parcel, or None if *messages* are not messages."""
    if ids is None:
        ids = [id]
    if type(ids) is not list or type(messages) is not list or not 0 < len(ids) == len(messages):
        return None
    try:
        read: list[Mapping[str, Any]] = [
            one if type(one) is dict else _fields(one) for one in messages
        ]
    except ValueError:
        return None
    return Parcel(ids, read) if all(type(one) is str for one in ids) else None


def _fields(text: Any) -> dict[str, Any]:
    fields = from_text(text) if type(text) is str else None
    if type(fields) is not dict or not all(type(name) is str for name in fields):
        raise ValueError
    return fields


def by_hand(node: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, bytes]:
    """
    Return the origin of a message that a user sends by hand, and the message as a part of the text.

    Raises:
        TypeError: It is neither keywords nor one dictionary.
        EncodeError: A value that no queue can carry unchanged, with its path.

    Example:
        >>> by_hand("count", (), {"n": 1, "_origin": "words"})
        ('words', b'{"n":1}')
    """
    try:
        fields = given(args, kwargs)
    except TypeError as error:
        raise TypeError(f'"{node}": {error}') from None
    origin = fields.get("_origin", "")
    if type(origin) is not str:
        reason = f"is the name of a node, so text and not of type {type(origin).__name__}"
        raise EncodeError(node=node, path="_origin", reason=reason)
    return origin, pack(node, fields)


def given(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the fields of a message that was sent by hand: keywords, or one dictionary or message.

    A chain of Celery's gives both; the keywords win. Only the keyword ``_origin`` is an origin: an
    ``_origin`` in a dictionary is data, and may come from a stranger.

    Raises:
        TypeError: It is neither.

    Example:
        >>> given((), {"n": 1}), given(({"n": 1, "a": 2},), {"n": 3})
        ({'n': 1}, {'n': 3, 'a': 2})
    """
    if not args and kwargs:
        return dict(kwargs)
    first = args[0] if len(args) == 1 else None
    if isinstance(first, Message):
        first = vars(first)
    if isinstance(first, Mapping):
        return {**{name: first[name] for name in first if name != "_origin"}, **kwargs}
    if not args:
        raise TypeError("a message needs fields: keyword arguments, or one dictionary")
    kinds = ", ".join(type(arg).__name__ for arg in args)
    raise TypeError(
        f"a message is keyword arguments or one dictionary, and this got ({kinds}); in a chain or "
        f"as a callback of Celery's, .si(...) takes nothing from the task before"
    )


def read(
    node: str, id: str, header: object, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str, Parcel]:
    """
    Return the origin and the messages that a queue has delivered to *node* as its own message *id*.

    Raises:
        Unreadable: It is damaged, a newer version of Emit wrote it, or it is not a message.
    """
    if is_emits(header) and args:
        if len(args) > 1 or kwargs:
            raise Unreadable(node=node, reason="it has more arguments than Emit's text")
        return unpack(node, id, args[0])
    try:
        fields = given(args, kwargs)
    except TypeError as error:
        raise Unreadable(node=node, reason=str(error)) from None
    return opened(node, id, fields)


def opened(node: str, id: str, fields: Mapping[str, Any]) -> tuple[str, Parcel]:
    """
    Return the origin and the messages of a delivery that came as fields: sent by hand, by a program
    that does not know Emit, or by a version of Emit before the text.

    A batch of an old version is ``_origin`` and ``_batch`` and nothing else. The id of its queue
    message is made of its messages' ids, which no sender can choose. Any other ``_batch`` is a
    field.

    Raises:
        Unreadable: ``_origin`` is not a text.
    """
    origin = fields.get("_origin", "")
    if type(origin) is not str:
        raise Unreadable(node=node, reason=f"_origin is of type {type(origin).__name__}, not text")
    batch = fields.get("_batch")
    if fields.keys() == {"_origin", "_batch"} and type(batch) is dict:
        parcel = _parcel(id, batch.get("ids"), batch.get("messages"))
        if parcel is not None and batch_id(parcel.ids) == id:
            return origin, parcel
    rest = {name: value for name, value in fields.items() if name != "_origin"}
    return origin, Parcel([id], [rest])


@dataclass(frozen=True)
class Past:
    """
    The history of a message in the deliveries before this one.

    Attributes:
        attempts: The number of failed attempts.
        retries: The number of those after which the handler asked for another attempt.
        causes: Why the last few failed.
        waits: How often the message was put back since the last of them, without a charge.
        first: The ``traceparent`` of the run that was the first of them; empty if it had none.
    """

    attempts: int = 0
    retries: int = 0
    causes: tuple[Cause, ...] = ()
    waits: int = 0
    first: str = ""

    def failed(self, cause: Cause, *, asked: bool, trace: Trace | None = None) -> Past:
        """
        Return the same with one more attempt.

        Args:
            cause: Why it has failed.
            asked: The handler asks for another one.
            trace: The trace context of its run.
        """
        causes = (*self.causes, cause)[-KEPT:]
        first = self.first or (trace.traceparent if trace else "")
        return Past(self.attempts + 1, self.retries + asked, causes, first=first)

    def waited(self) -> Past:
        """Return the same, put back once more."""
        return replace(self, waits=self.waits + 1)

    def header(self) -> dict[str, Any]:
        """
        Return a plain, short form for any serializer. It also marks the text beside it as Emit's.
        """
        causes = [
            asdict(cause) | {"text": cause.text[:500], "stderr_tail": ""} for cause in self.causes
        ]
        told = {"attempts": self.attempts, "retries": self.retries, "causes": causes}
        told |= {"waits": self.waits, "first": self.first}
        return {"v": VERSION} | {name: value for name, value in told.items() if value}

    @classmethod
    def read(cls, header: object) -> Past:
        """
        Read what is understood of a header of any version, or of the list in its place at first.
        """
        told = header if isinstance(header, Mapping) else {"causes": header}
        found = told.get("causes")
        if not isinstance(found, (list, tuple)):
            found = ()
        attempts = max(_count(told.get("attempts"), len(found)), len(found))
        # The list had only attempts after which the handler had asked for another one, apart
        # from those that a time limit had cut off.
        retries = _count(told.get("retries"), 0 if told is header else attempts)
        causes = tuple(Cause.read(one) for one in found if isinstance(one, Mapping))
        first = told.get("first")
        waits = _count(told.get("waits"), 0)
        return cls(attempts, retries, causes, waits, first if isinstance(first, str) else "")


def is_emits(header: object) -> bool:
    """Return True if Emit wrote the text that came with this header."""
    return isinstance(header, Mapping) and "v" in header


def shown(origin: str, count: int) -> str:
    """Return the text that logs, events and monitors show in place of a task's arguments."""
    what = "a message" if count == 1 else f"{count} messages"
    return f"<{what} from {origin or 'a call'}>"


def _count(value: object, otherwise: int) -> int:
    return value if type(value) is int and value >= 0 else otherwise
