"""
Write a node of an Emit graph in another Python: one file, no dependencies, Python 3.8 or newer.

::

    from emit_sdk import serve

    def count(msg):
        yield from range(msg.count)

    serve(count)

The map of this file, which the SDKs of other languages follow: errors, nodes (the author's part),
codec, frames, session, serve, testing. The wire is described in runtimes/PROTOCOL.md.
It is one long file, because copying it installs it.
"""

from __future__ import annotations

import collections
import contextvars
import itertools
import json
import os
import re
import select
import signal
import struct
import sys
import threading
import time

TYPE_CHECKING = False  # importing typing would cost 6 ms of every start
if TYPE_CHECKING:
    from typing import Any, BinaryIO, Callable, Iterable, Iterator, NoReturn

__version__ = "0.5.0"
__all__ = ["Message", "Reject", "Retry", "boot", "call", "context", "node", "serve", "take_wire"]

SLICE = 16 * 1024  #: Bytes per read: the host refills the pipe while this slice is worked on.
LARGEST = (1 << 24) - 1  #: Bytes of a frame, the most that max_frame can be.
ENOUGH = 32 * 1024  #: Bytes of results that are worth a write of their own.
GROUPED = 512  #: Bytes of the results of a call that ends in one frame with others.
LINGER = 0.001  #: Seconds that a finished result may wait for company.
DEPTH, MEMBERS = 128, 1_000_000  #: Levels, and members of lists and maps, that a host takes.
GRACE = 4.0  #: Seconds from seeing the end to the exit: 5 in all, as watch() looks once a second.
GLANCE = 0.01  #: Seconds between two looks for a cancel while a handler yields.
EARLY = 0.005  #: Seconds by which a timer may fire early.

_PARENT = os.getppid()


# Errors


class Retry(Exception):
    """Raise it to get the same message again, *after* seconds from now."""

    def __init__(self, text: str = "try again", after: float | None = None) -> None:
        if after is not None and not 0 <= after < float("inf"):
            raise ValueError(f"after must be seconds from 0 up, not {after!r}")
        super().__init__(text)
        self.after = after


class Reject(Exception):
    """Raise it when no attempt with this message can succeed."""


class EncodeError(ValueError):
    """The wire cannot carry a result unchanged. The text says which part of it, and why."""


class FrameTooLarge(EncodeError):
    """A result, or a frame from the host, beyond ``max_frame``. Nothing of it was written."""


class Cancelled(Exception):
    """The answer of a call that the host cancelled before it began, or between two results."""


class _NobodyReads(BaseException):
    # The reader of a plain run has ended, as `| head -1` does.
    pass


def _describe(error: BaseException, depth: int = 4) -> dict[str, Any]:
    about: dict[str, Any] = {"type": type(error).__name__, "message": _text(error)}
    about["stack"] = _stack(error)
    cause = _cause(error)
    if cause is not None and depth:
        about["cause"] = _describe(cause, depth - 1)
    if isinstance(error, (Retry, Reject)):
        about["retry"] = isinstance(error, Retry)
    if isinstance(error, Retry) and error.after is not None:
        about["after"] = error.after
    return about


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_timeout(error: BaseException | None, depth: int = 4) -> bool:
    # By name: each library has its own, and not all are TimeoutErrors.
    if error is None or not depth:
        return False
    named = any("Timeout" in kind.__name__ for kind in type(error).__mro__)
    return named or _is_timeout(_cause(error), depth - 1)


def _stack(error: BaseException) -> list[str]:
    # Innermost first, but the author's lines before those of libraries, and none of the SDK's.
    from traceback import extract_tb

    frames = [f for f in extract_tb(error.__traceback__, limit=-40) if f.filename != __file__]
    libraries = (sys.prefix, sys.base_prefix, "<frozen")
    frames.reverse()
    frames.sort(key=lambda frame: frame.filename.startswith(libraries))
    lines = [_text(f"{f.filename}:{f.lineno} in {f.name}: {f.line}", 400) for f in frames]
    if isinstance(error, SyntaxError):  # no frame: the line was never reached
        lines.insert(0, _text(f"{error.filename}:{error.lineno}: {error.text}".rstrip(), 400))
    return lines


def _text(value: object, most: int = 8192) -> str:
    try:
        left = isinstance(value, SystemExit)
        text = f"the handler ended the process: {value!r}" if left else str(value)
    except Exception as error:  # an author's own __str__ may fail as well
        text = f"(no text: __str__ raised {type(error).__name__})"
    text = text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"
    return text.encode("utf-8", "backslashreplace").decode()


# Nodes: the author's part


class Message(dict):  # type: ignore[type-arg]  # Python 3.8 has no dict[str, Any]
    """
    The fields of one message: a dict whose keys are attributes too.

    Read a field named like a method of dict, such as ``items``, as ``msg["items"]``.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f'no field "{name}"; the message has: {", ".join(self)}') from None


class Call:
    """
    One message given to a handler.

    Attributes:
        id: The call's number in this process; None outside of a host.
        node: Name of the node that was called.
        origin: Name of the node that emitted the message, or None.
        attempt: The number of this attempt, counted by the host.
        traceparent: The W3C trace context of this run, if it is traced at the host, and otherwise
            the sender's; None: there is none.
        tracestate: The second part of that context, or None.
        config: The node's configuration at the host; from a shell, the map in EMIT_CONFIG.
    """

    _deadline: float | None = None
    _cancelled = False
    _asks = False  # the handler looks itself if it is cancelled
    _task: Any = None
    _parts: Any = ()  # results that are in no frame yet, and their size in bytes
    _size = 0

    def __init__(
        self,
        id: Any = None,
        node: Any = None,
        msg: Any = None,
        meta: dict[str, Any] | None = None,
        session: _Session | None = None,
    ) -> None:
        self.id, self.node = id, node
        self._msg, self._meta, self._session = msg, meta or {}, session

    @property
    def origin(self) -> str | None:
        return self._meta.get("origin")

    @property
    def attempt(self) -> Any:
        return self._meta.get("attempt", 1)

    @property
    def traceparent(self) -> str | None:
        return self._meta.get("traceparent")

    @property
    def tracestate(self) -> str | None:
        return self._meta.get("tracestate")

    @property
    def config(self) -> dict[str, Any]:
        return _read_config() if _config is None else _config

    def remaining(self) -> float | None:
        """
        Return the seconds until the deadline, below 0 after it; None without a deadline.

        The time of a call begins when its handler is called. A handler that fails with a timeout
        (`TimeoutError`, `subprocess.TimeoutExpired`, ...) after the deadline is tried again.
        """
        return None if self._deadline is None else self._deadline - time.monotonic()

    def _has_struck(self) -> bool:
        left = self.remaining()
        return left is not None and left < EARLY

    @property
    def cancelled(self) -> bool:
        """
        True if the host has cancelled this call: nobody waits for its results any more. A handler
        that works for long without a ``yield`` should look now and then, and return. If it looks,
        it is not ended at a ``yield``.
        """
        self._asks = True
        if self._session:
            self._session.look()
        return self._cancelled


_config: dict[str, Any] | None = None  # of hello, or of a plain run


def _read_config() -> dict[str, Any]:
    try:
        config = _choose([]).loads((os.environ.get("EMIT_CONFIG") or "{}").encode())
    except ValueError:
        config = None  # the error's text quotes what may be a secret
    if not isinstance(config, dict):
        raise ValueError("EMIT_CONFIG must be a map in JSON")
    return config


_current: contextvars.ContextVar[Call | None] = contextvars.ContextVar("emit_call", default=None)


def context() -> Call:
    """
    Return the current call. Outside of one, as in a test, return a call that is never cancelled.
    """
    return _current.get() or Call()


_registered: dict[Any, str] = {}  # handler: name


def node(handler: Any = None, *, name: str = "") -> Any:
    """
    Register *handler* as a node of this program, and return it unchanged.

    A handler with exactly one parameter, called ``msg``, ``message``, ``m`` or ``_``, is given the
    whole message. Any other parameters are fields. Each field is passed by its name, and a default
    makes it optional. ``**rest`` takes all other fields (alone: all fields); without it they are
    left out.

    Its results are the values that it returns or yields. Returning None is no result; yielding None
    is one.
    """
    if handler is None:
        return lambda handler: node(handler, name=name)
    _registered[handler] = name or handler.__name__
    return handler


def _absent(name: object, nodes: Any) -> LookupError:
    known = ", ".join(nodes)
    return LookupError(f'there is no node "{name}" in this program; it has: {known}')


def _name(handler: Callable[..., Any]) -> str:
    return _registered.get(handler) or handler.__name__


class _Node:
    # A handler, and how to call it with a message.

    def __init__(self, handler: Callable[..., Any]) -> None:
        self.name = _name(handler)
        self.handler, self.rest = handler, False
        self.inputs: dict[str, Any] = {}
        self.told: dict[str, Any] = {}  # the inputs that only its annotations tell
        self.outputs: dict[str, Any] = {}
        code: Any = getattr(handler, "__code__", None)
        self.is_async = bool(code and code.co_flags & 0x280)  # coroutine, async generator
        shape = code and (code.co_argcount, code.co_kwonlyargcount, code.co_flags & 0x0C)
        if shape != (1, 0, 0) or code.co_varnames[0] not in ("msg", "message", "m", "_"):
            self._read_parameters()
        if getattr(handler, "__annotations__", None):
            self._read_types()

    def _read_parameters(self) -> None:
        import inspect  # takes 10 ms, and only handlers that name fields need it

        parameters = list(inspect.signature(self.handler).parameters.values())
        inner = inspect.unwrap(self.handler)
        self.is_async = inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)
        only = parameters[0] if len(parameters) == 1 else None
        if only and only.kind < only.KEYWORD_ONLY and only.name in ("msg", "message", "m", "_"):
            return  # ``**msg`` takes the fields, as any ``**rest`` does
        if any(p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL) for p in parameters):
            raise TypeError(f"{self.name} must take one `msg`, or the fields it needs by name")
        named = [p for p in parameters if p.kind != p.VAR_KEYWORD]
        required = [p.name for p in named if p.default is p.empty]
        optional = [p.name for p in named if p.default is not p.empty]
        self.inputs, self.rest = {"required": required, "optional": optional}, named != parameters

    def _read_types(self) -> None:
        kinds = _annotations(self.handler)
        self.outputs = _result_schema(kinds.pop("return", None))
        if self.inputs:
            known = self.inputs["required"] + self.inputs["optional"]
            schemas = {name: _schema(kinds[name], False) for name in known if name in kinds}
            self.inputs["properties"] = {name: s for name, s in schemas.items() if s}
        elif len(kinds) == 1:
            message = _schema(*kinds.values(), False)
            self.told = (
                {
                    "required": message["required"],
                    "optional": [n for n in message["properties"] if n not in message["required"]],
                    "properties": message["properties"],
                }
                if "properties" in message
                else {}
            )

    def invoke(self, msg: dict[str, Any]) -> Any:
        if not self.inputs:
            return self.handler(Message(msg))
        for name in self.inputs["required"]:
            if name not in msg:
                raise TypeError(f'{self.name} needs "{name}"; the message has: {", ".join(msg)}')
        known = self.inputs["required"] + self.inputs["optional"]
        return self.handler(**(msg if self.rest else {k: msg[k] for k in known if k in msg}))


# Types: what annotations tell about messages and results, as JSON Schema


def _annotations(handler: Any) -> dict[str, Any]:
    # typing.get_type_hints would import typing. An annotation that can't be read tells nothing.
    names = getattr(handler, "__globals__", {})
    kinds = {}
    for name, kind in handler.__annotations__.items():
        try:
            kinds[name] = eval(kind, names) if isinstance(kind, str) else kind
        except Exception:
            kinds[name] = object
    return kinds


_SCHEMAS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    bytes: {"type": "string", "format": "binary"},
    type(None): {"type": "null"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    dict: {"type": "object"},
}
_STREAMS = ("Generator", "Iterator", "AsyncGenerator", "AsyncIterator")
_LISTS = ("list", "List", "Sequence", "tuple", "Tuple", "Iterable", "Collection")
_MAPS = ("dict", "Dict", "Mapping", "Counter", "defaultdict", "OrderedDict")


def _result_schema(kind: Any) -> dict[str, Any]:
    # None is no result, so `str | None` gives texts.
    if getattr(getattr(kind, "__origin__", None), "__name__", "") in _STREAMS:
        return _schema(kind.__args__[0], True)
    schema = {} if kind is None else _schema(kind, True)
    others = [part for part in schema.get("anyOf", ()) if part != {"type": "null"}]
    return others[0] if len(others) == 1 else ({"anyOf": others} if others else schema)


def _schema(kind: Any, gives: bool, above: tuple[Any, ...] = ()) -> dict[str, Any]:
    # `gives`: of a result, whose floats are floats. A message for a float may have an int.
    if kind is float:
        return {"type": "number", "format": "double"} if gives else {"type": "number"}
    if kind is None or (isinstance(kind, type) and kind in _SCHEMAS):
        return dict(_SCHEMAS[type(None) if kind is None else kind])
    if kind in above:
        return {}
    origin, args = getattr(kind, "__origin__", None), getattr(kind, "__args__", ())
    name = getattr(origin, "__name__", "") or str(origin).replace("typing.", "")
    inner = [_schema(part, gives, (*above, kind)) for part in args if part is not Ellipsis]
    if hasattr(kind, "__metadata__"):  # Annotated
        return _schema(origin, gives, above)
    if type(kind).__name__ in ("UnionType", "Union") or name == "Union":
        return {} if {} in inner else {"anyOf": inner}
    if name == "Literal":
        return {"enum": list(args)}
    if name in ("tuple", "Tuple") and args and Ellipsis not in args:
        return {"type": "array", "prefixItems": inner}
    if name in _LISTS:
        return {"type": "array", "items": inner[0]} if inner else {"type": "array"}
    if name in _MAPS:
        return {"type": "object", "additionalProperties": inner[1] if len(inner) > 1 else {}}
    if getattr(kind, "__module__", "") == "datetime" and kind.__name__ == "datetime":
        return {"type": "string", "format": "date-time"}
    if isinstance(kind, type) and hasattr(kind, "__required_keys__"):  # a TypedDict
        import typing  # its class has imported it

        fields = {
            n: _schema(k, gives, (*above, kind)) for n, k in typing.get_type_hints(kind).items()
        }
        required = [n for n in fields if n in kind.__required_keys__]  # type: ignore[attr-defined]
        return {"type": "object", "properties": fields, "required": required}
    return {}


def _is_stream(result: Any) -> bool:
    # hasattr alone makes an AttributeError and its text for each plain result.
    return type(result) not in _VALUES and hasattr(type(result), "__next__")


def _drain(result: Any, emit: Callable[[Any], None]) -> None:
    if not _is_stream(result):
        return None if result is None else emit(result)
    try:
        for item in result:
            emit(item)
    finally:
        if hasattr(result, "close"):
            result.close()  # so that a generator's own `finally` runs now


async def _drain_async(result: Any, emit: Callable[[Any], None]) -> None:
    if not hasattr(type(result), "__aiter__"):
        return _drain(await result if hasattr(type(result), "__await__") else result, emit)
    try:
        async for item in result:
            emit(item)
    finally:
        if hasattr(result, "aclose"):
            await result.aclose()


def _drive(node: _Node, msg: dict[str, Any], emit: Callable[[Any], None]) -> None:
    if not isinstance(msg, dict):
        raise TypeError(f"a message is a map of fields, not {type(msg).__name__}")
    if not node.is_async:
        return _drain(node.invoke(msg), emit)
    import asyncio

    asyncio.run(_drain_async(node.invoke(msg), emit))


# Codec: values to bytes and back, with no silent change

_PLAIN: frozenset[Any] = frozenset((str, int, float, bool, type(None)))
_VALUES = _PLAIN | {dict, Message, list, tuple}
_NAME = re.compile(r"(?!(?:\D*\d){5})[^\W\d][\w-]{0,39}")
_LONG = b"0" * 19  # this many digits in a row may be an integer beyond 64 bits
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_NO_JSON = 'JSON cannot carry it; msgpack can: pip install msgpack here, codec = "msgpack" there'


def _is_plain(value: Any, leaves: frozenset[Any], levels: int = DEPTH) -> bool:
    # The encoders turn the key 1 and a UUID into text. issuperset(map(...)) runs in C.
    kind = type(value)
    if kind is dict or kind is Message:
        for key, item in value.items():
            if type(key) is not str:
                return False
            if type(item) not in leaves and not (levels and _is_plain(item, leaves, levels - 1)):
                return False
        return levels > 0
    if kind is not list and kind is not tuple:
        return kind in leaves
    if not levels or leaves.issuperset(map(type, value)):
        return levels > 0
    for item in value:
        if type(item) not in leaves and not _is_plain(item, leaves, levels - 1):
            return False
    return True


def _clean(value: Any, leaves: frozenset[Any], path: str = "result", levels: int = DEPTH) -> Any:
    # Copies a value into plain types, or says where and why it cannot be carried.
    if isinstance(value, (dict, list, tuple)):
        if not levels:
            raise EncodeError(f"{path[:80]}... nests deeper than {DEPTH} levels")
        return _clean_inside(value, leaves, path, levels - 1)
    if isinstance(value, str):
        if value.encode("utf-8", "replace") != value.encode("utf-8", "surrogatepass"):
            raise EncodeError(f"{path} is no valid text: it holds a lone surrogate")
        return value.encode().decode()
    if value is None or isinstance(value, bool):
        return value
    return _clean_number(value, leaves, path)


def _clean_inside(value: Any, leaves: frozenset[Any], path: str, levels: int) -> Any:
    if not isinstance(value, dict):
        return [_clean(item, leaves, f"{path}[{at}]", levels) for at, item in enumerate(value)]
    for key in value:
        if not isinstance(key, str):
            kind = type(key).__name__
            raise EncodeError(f"{path} has a key of type {kind}; a key must be text")
    return {
        _clean(key, leaves, f"a key of {path}"): _clean(item, leaves, _step(path, key, at), levels)
        for at, (key, item) in enumerate(value.items(), 1)
    }


def _step(path: str, key: str, at: int) -> str:
    # A key that may be data, such as an address, is replaced by its number: the text ends in logs.
    return f"{path}.{key}" if _NAME.fullmatch(key) else f"{path}[key {at}]"


def _members(value: Any) -> int:
    items = value.values() if isinstance(value, dict) else value
    return len(items) + sum(map(_members, items)) if isinstance(value, (dict, list, tuple)) else 0


def _clean_number(value: Any, leaves: frozenset[Any], path: str) -> Any:
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 64:
            raise EncodeError(f"{path} is an integer beyond 64 bits; emit it as text")
        return int.__int__(value)
    if not isinstance(value, float):
        return _clean_binary(value, leaves, path)
    if bytes not in leaves and (value != value or abs(value) == float("inf")):
        raise EncodeError(f"{path} is {value}: {_NO_JSON}")
    return float.__float__(value)


def _clean_binary(value: Any, leaves: frozenset[Any], path: str) -> Any:
    from datetime import datetime

    kind = type(value).__name__
    if not isinstance(value, (bytes, bytearray, memoryview, datetime)):
        raise EncodeError(f"{path} is a {kind}, which no codec carries")
    if bytes not in leaves:
        raise EncodeError(f"{path} is a {kind}: {_NO_JSON}")
    if not isinstance(value, datetime):
        return bytes(value)
    if value.tzinfo is None:
        raise EncodeError(f"{path} is a datetime without a time zone")
    return value


def _has_long(data: bytes) -> bool:
    # A regular expression took a quarter of a call's whole time. `in` is slow, too: it first makes
    # an error, because bytes are not a number.
    return data.translate(_DIGITS).find(_LONG) >= 0


class _Codec:
    leaves: frozenset[Any] = _PLAIN
    dumps: Callable[[Any], bytes]
    suspect: Callable[[bytes], object] | None = None

    def value(self, value: Any) -> bytes:
        # One result. Most are encoded as they are; each part is checked only if the result is
        # suspect.
        try:
            if _is_plain(value, self.leaves):
                data = self.dumps(value)
                if self.suspect is None or not self.suspect(data):
                    return data
        except (ValueError, TypeError, OverflowError):
            pass  # _clean says where and why
        return self.dumps(_clean(value, self.leaves))


class _Json(_Codec):
    name = "json"

    def __init__(self, orjson: Any = None) -> None:
        encode = json.JSONEncoder(
            ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
        ).encode
        self.decode = json.JSONDecoder(parse_constant=self._no_constant).decode
        self.orjson, self.dumps = orjson, lambda value: encode(value).encode()
        self.suspect = _has_long  # the standard library takes integers of any size
        if orjson:
            self.dumps, self.suspect = orjson.dumps, lambda data: data.find(b"null") >= 0  # a NaN?

    def _no_constant(self, name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    def loads(self, data: bytes) -> Any:
        if self.orjson and not _has_long(data):  # orjson reads 2**64 as a float
            return self.orjson.loads(data)
        value = self.decode(data.decode())
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()  # raises for a lone surrogate
        return value

    def frame(self, fields: dict[str, Any]) -> bytes:
        # The newline in front keeps a stray print without one from gluing itself to the frame.
        return b"\n" + self.dumps(fields) + b"\n"

    def results(self, op: bytes, number: int, parts: list[bytes]) -> bytes:
        return b'\n{"op":"%s","id":%d,"msgs":[%s]}\n' % (op, number, b",".join(parts))

    def group(self, number: int, each: list[Any]) -> bytes:
        body = b"],[".join([b",".join(parts) for parts in each])
        return b'\n{"op":"ends","id":%d,"msgs":[[%s]]}\n' % (number, body)

    def split(self, buffer: bytearray) -> list[bytes]:
        end = buffer.rfind(b"\n", max(0, len(buffer) - SLICE)) + 1  # there is none before that
        lines = bytes(buffer[:end]).split(b"\n")
        del buffer[:end]
        return [line for line in lines if line.strip()]


_HEAD = struct.Struct(">I5s3s4sQ6sI")  # a frame of results up to the first result


class _Msgpack(_Codec):
    name = "msgpack"

    def __init__(self, msgpack: Any) -> None:
        from datetime import datetime
        from functools import partial

        self.leaves = _PLAIN | {bytes, datetime}
        # Faster than packb by half, but not thread-safe: the session's lock guards it.
        self.dumps = msgpack.Packer(datetime=True).pack
        self.packb = msgpack.packb
        self.loads = partial(msgpack.unpackb, timestamp=3)  # 3: datetime in UTC

    def frame(self, fields: dict[str, Any]) -> bytes:
        return self._sized(self.packb(fields))  # packb: a finalizer may log while dumps runs

    def results(self, op: bytes, number: int, parts: list[bytes]) -> bytes:
        # {"op": op, "id": number, "msgs": [...]} around results that are packed already.
        body = b"".join(parts)
        size = _HEAD.size - 4 + len(body)
        fields = (b"\x83\xa2op\xa3", op, b"\xa2id\xcf", number, b"\xa4msgs\xdd", len(parts))
        return _HEAD.pack(size, *fields) + body

    def group(self, number: int, each: list[Any]) -> bytes:
        head = b"\x83\xa2op\xa4ends\xa2id\xcf%b\xa4msgs\xdd%b"
        head %= (number.to_bytes(8, "big"), len(each).to_bytes(4, "big"))
        lists = [self._list(len(parts)) + b"".join(parts) for parts in each]
        return self._sized(head + b"".join(lists))

    def _list(self, size: int) -> bytes:
        return b"%c" % (0x90 + size) if size < 16 else b"\xdd" + size.to_bytes(4, "big")

    def _sized(self, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    def split(self, buffer: bytearray) -> list[bytes]:
        if len(buffer) < 4 + int.from_bytes(buffer[:4], "big"):
            return []  # most slices of a large frame: nothing is copied yet
        at, end, frames, data = 0, 0, [], bytes(buffer)
        while end <= len(data):
            frames.append(data[at + 4 : end])
            at, end = end, end + 4 + int.from_bytes(data[end : end + 4], "big")
        del frames[0]
        del buffer[:at]
        return frames


def _choose(offered: list[str]) -> Any:
    try:
        import msgpack  # type: ignore[import-untyped,unused-ignore]

        if "msgpack" in offered and msgpack.version >= (1, 0):
            return _Msgpack(msgpack)
    except ImportError:
        pass
    try:
        import orjson
    except ImportError:
        return _Json()
    return _Json(orjson)


# Frames: the two private descriptors

_wire: tuple[BinaryIO, int] | None = None


def take_wire() -> tuple[BinaryIO, int]:
    """
    Take descriptors 0 and 1 away from all other code, and return private ones: a reader, a number.

    Afterwards a read finds the end of input. A print goes to stderr, also one of a library or a
    child process. A terminal stays, as does any input with EMIT_MSG: they are for a debugger.

    `serve` calls this, importing does not: a test imports this file too. A launcher calls it
    before it loads the author's file; without one the host takes lines before `ready` as prints.
    """
    global _wire
    if _wire is None:
        _wire = os.fdopen(os.dup(0), "rb", SLICE), os.dup(1)  # dup makes them close-on-exec
        if not (os.isatty(0) or "EMIT_MSG" in os.environ):
            _silence(0, inheritable=True)
        os.dup2(2, 1)
        os.set_blocking(_wire[1], True)
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(line_buffering=True)
    return _wire


def _silence(fd: int, inheritable: bool = False) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fd, inheritable)
    os.close(null)


def _write(fd: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


# Session: the calls of one process under a host


class _Session:
    # The main thread reads. With concurrency 1 and no async handler it runs the calls as well:
    # a hop between threads costs more than most handlers do. Otherwise threads and a loop run them.

    def __init__(self, nodes: dict[str, _Node], concurrency: int) -> None:
        self.nodes, self.concurrency, self.running = nodes, concurrency, 0
        self.is_async = any(node.is_async for node in nodes.values())
        self.inline = concurrency == 1 and not self.is_async
        self.source, self.sink = take_wire()
        self.poll, self.main = select.poll(), threading.get_ident()
        self.poll.register(self.source, select.POLLIN)
        self.input = bytearray()
        self.codec: Any = _Json()
        # Guards the attributes below. Reentrant, for a signal handler or a finalizer that logs.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.open: dict[Any, Call] = {}
        self.waiting: collections.deque[Call] = collections.deque()
        self.partial: dict[Call, None] = {}  # calls with results that are in no frame yet
        self.unsent, self.oldest = bytearray(), 0.0
        # The results of ended calls with consecutive ids, which are in no frame yet: the first id,
        # the parts of each, and their size in bytes. `grouping` is True if the host knows groups.
        self.first, self.size = 0, 0
        self.ends: list[Any] = []
        self.grouping = False
        self.writing = self.armed = self.ended = self.forked = False
        self.gone = self.broken = False  # nobody reads any more; and it is our own doing
        self.leaving = 0.0  # when the input ended
        self.looked = 0.0  # when the input was last looked at
        self.due = threading.Lock()  # held, except while flush_late is to run
        self.due.acquire()

    def run(self, hello: dict[str, Any]) -> None:
        # A program with one node serves it under any name.
        self.only = next(iter(self.nodes)) if len(self.nodes) == 1 else None
        self.preferred = hello.get("node")
        self.max_frame = hello.get("max_frame", LARGEST)
        self.room = self.max_frame - 64  # for results, beside the frame's other fields
        self.enough = min(ENOUGH, self.room)
        # Ctrl-C reaches every process of a terminal, and the host decides. A function, since the
        # author's child processes would inherit SIG_IGN.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.end_input())
        codec = _choose(hello.get("codecs", ()))
        self.announce({**_ready(self.nodes, self.concurrency), "codec": codec.name})
        self.codec = codec
        self.log_handler = _log_through(self.send)  # after ready: logging takes 6 ms to import
        os.register_at_fork(after_in_child=self.forget)
        for job in (self.flush_late, self.watch):
            threading.Thread(target=job, daemon=True).start()
        self.start_runners()
        self.loop()

    def announce(self, ready: dict[str, Any]) -> None:
        # Leave out the inputs if the frame is too large. They are for people, and grow with the
        # program.
        for fields in (ready, {**ready, "inputs": {}, "outputs": {}}):
            size = len(self.codec.frame(fields)) - 2
            if size <= self.max_frame:
                return self.send(fields)
        raise FrameTooLarge(
            f"the ready frame of this program takes {size} bytes, and a frame holds at most "
            f"{self.max_frame}: raise max_frame of the node"
        )

    def loop(self) -> None:
        while True:
            self.start_calls()
            if self.ended or self.gone or not self.fill():
                break
        self.leaving = self.leaving or time.monotonic()
        with self.lock:
            # watch() enforces the limit.
            self.changed.wait_for(lambda: self.broken or not self.open)
        if self.is_async:
            self.aloop.call_soon_threadsafe(self.stop.set)
            self.aloop_thread.join()

    # Frames in

    def fill(self) -> bool:
        data = self.source.read1(SLICE)  # type: ignore[attr-defined]
        self.input += data
        loads = self.codec.loads
        try:
            for raw in self.codec.split(self.input):
                frame = loads(raw)
                receive = _RECEIVERS.get(frame.get("op"))
                if receive:  # an unknown frame comes from a newer host
                    receive(self, frame)
            if len(self.input) > self.max_frame + 4:
                raise FrameTooLarge(f"a frame beyond the {self.max_frame} bytes of max_frame")
        except Exception as error:  # the input is not a frame
            self.give_up(error)
        return bool(data)

    def give_up(self, error: Exception) -> None:
        # At once. An exception would pass through the author's code, if that looks for a cancel.
        self.leaving = self.leaving or time.monotonic()
        with self.lock:
            self.waiting.clear()
            self.send({"op": "err", "id": None, **_describe(error)})
            self.broken = self.gone = True

    def accept(self, frame: dict[str, Any]) -> None:
        wrong = _misfit(frame)
        if wrong:
            error = ValueError(f"a call of the host lacks its {wrong}, or it is of another type")
            if wrong == "id":
                raise error
            return self.send({"op": "err", "id": frame["id"], **_describe(error)})
        node = self.only or frame.get("node") or self.preferred
        call = Call(frame["id"], node, frame["msg"], frame.get("meta"), self)
        self.open[call.id] = call
        self.waiting.append(call)

    def accept_group(self, frame: dict[str, Any]) -> None:
        wrong = _misfit_in_group(frame)
        if wrong:  # its id is not enough to answer all of its calls
            raise ValueError(f"a group of calls lacks its {wrong}, or it is of another type")
        self.grouping = True
        node, meta = self.only or frame.get("node") or self.preferred, frame.get("meta")
        number = frame["id"]
        for msg, more in zip(frame["msgs"], frame.get("metas") or itertools.repeat(None)):
            given = {**meta, **more} if meta and more else more or meta
            self.open[number] = call = Call(number, node, msg, given, self)
            self.waiting.append(call)
            number += 1

    def cancel(self, frame: dict[str, Any]) -> None:
        call = self.open.get(frame["id"])
        if call:
            call._cancelled = True
            if call._task:
                self.aloop.call_soon_threadsafe(call._task.cancel)

    def pong(self, frame: dict[str, Any]) -> None:
        self.send({"op": "pong", "n": frame.get("n")})

    def bye(self, frame: dict[str, Any]) -> None:
        self.ended = True

    def look(self) -> None:
        # A `cancel` may wait in the pipe while the main thread is busy with a handler.
        if self.inline and threading.get_ident() == self.main:
            self.looked = time.monotonic()
            while self.poll.poll(0) and self.fill():
                pass

    # Calls

    def start_runners(self) -> None:
        if not self.inline:
            from concurrent.futures import ThreadPoolExecutor

            self.threads = ThreadPoolExecutor(self.concurrency)
        if self.is_async:
            import asyncio

            self.asyncio = asyncio
            self.aloop_thread = threading.Thread(target=asyncio.run, args=(self.live(),))
            with self.lock:
                self.aloop_thread.start()
                self.changed.wait()

    async def live(self) -> None:
        # One loop for all calls, so that handlers can keep connections between them.
        with self.lock:
            self.aloop, self.stop = self.asyncio.get_running_loop(), self.asyncio.Event()
            self.changed.notify_all()
        await self.stop.wait()

    def start_calls(self) -> None:
        if self.inline:
            waiting, run_call = self.waiting, self.run_call
            while waiting:
                run_call(waiting.popleft())
            _current.set(None)
            return
        with self.lock:
            while self.waiting and self.running < self.concurrency:
                self.running += 1
                call = self.waiting.popleft()
                if call.node in self.nodes and self.nodes[call.node].is_async:
                    self.asyncio.run_coroutine_threadsafe(self.run_call_async(call), self.aloop)
                else:
                    self.threads.submit(self.run_call, call)

    def run_call(self, call: Call) -> None:
        _current.set(call)
        try:
            result = self.invoke(call)
            if type(result) not in _VALUES and _is_stream(result):
                _drain(result, lambda value: self.emit(call, value))
                result = None
        except BaseException as error:  # a SystemExit has to answer the call, too
            self.finish(call, error)
        else:
            self.finish(call, None, result)

    async def run_call_async(self, call: Call) -> None:
        _current.set(call)
        # Set here, not from outside: a task that is cancelled before it begins runs none of this.
        call._task = self.asyncio.current_task()
        try:
            await _drain_async(self.invoke(call), lambda value: self.emit(call, value))
        except BaseException as error:
            self.finish(call, error)
        else:
            self.finish(call)

    def invoke(self, call: Call) -> Any:
        if call._cancelled:
            raise Cancelled("cancelled by the host before it began")
        limit = call._meta.get("deadline_ms")
        if limit is not None:  # from the call's turn on: calls are sent ahead and wait for it
            call._deadline = time.monotonic() + limit / 1000
        node = self.nodes.get(call.node)
        if node is None:
            raise _absent(call.node, self.nodes)
        return node.invoke(call._msg)

    # Frames out

    def emit(self, call: Call, value: Any) -> None:
        if self.inline and time.monotonic() - self.looked > GLANCE:
            self.look()
        if call._cancelled and not call._asks:
            raise Cancelled("cancelled by the host")  # the generator is closed
        with self.lock:
            part = self.encode(call, value)
            if call._size + len(part) > self.enough:
                self.put_partial(call)
                self.write()
            call._parts = call._parts or []
            call._parts.append(part)
            call._size += len(part) + 1
            self.partial[call] = None
            if not self.armed:
                self.arm()

    def encode(self, call: Call, value: Any) -> bytes:
        part: bytes = self.codec.value(value)
        if len(part) <= self.enough:
            return part
        if len(part) > MEMBERS and _members(value) > MEMBERS - 100:  # some for the frame itself
            raise EncodeError(f"{call.node} emitted a result of over {MEMBERS - 100} members")
        if len(part) <= self.room:
            return part
        other = "raise max_frame of the node" if self.max_frame < LARGEST else "pass a path"
        raise FrameTooLarge(
            f"{call.node} emitted a result of {len(part)} bytes; a frame holds at most "
            f"{self.max_frame}: emit less at once, or {other}"
        )

    def put_partial(self, call: Call) -> None:
        if self.partial.pop(call, call) is None:
            self.put(self.codec.results(b"out", call.id, call._parts))
            call._parts, call._size = [], 0

    def finish(self, call: Call, error: BaseException | None = None, result: Any = None) -> None:
        # *result* is the only one: the end frame carries it.
        if self.forked:
            _leave(error)
        with self.lock:
            if result is not None:
                try:
                    part = self.encode(call, result)
                    call._parts, call._size = (part,), len(part)
                except Exception as unfit:
                    error = unfit
            del self.open[call.id]
            if self.partial:
                self.partial.pop(call, None)
            ends, size = self.ends, call._size
            if error is not None:
                self.put_error(call, error)
            elif (
                ends
                and call.id == self.first + len(ends)
                and size <= GROUPED
                and self.size + size <= self.enough
            ):
                ends.append(call._parts)
                self.size += size + 6  # and the list around it
            else:
                self.put_end(call)
            if not self.inline:
                self.running -= 1
                self.start_calls()
                self.changed.notify_all()
            if (
                not self.waiting
                or len(self.unsent) + self.size >= ENOUGH
                or time.monotonic() - self.oldest >= LINGER
            ):
                self.write()
            elif not self.armed:
                self.arm()

    def put_end(self, call: Call) -> None:
        # A large result has a frame of its own, which the reader measures.
        if call._size > GROUPED or not self.grouping:
            return self.put(self.codec.results(b"end", call.id, call._parts))
        self.put_ends()
        self.first, self.size = call.id, call._size + 6
        self.ends.append(call._parts)
        if not self.unsent:
            self.oldest = time.monotonic()

    def put_error(self, call: Call, error: BaseException) -> None:
        about = _describe(error)
        if "retry" not in about and call._has_struck() and _is_timeout(error):
            about["timeout"] = True
        self.put(self.fit({"op": "err", "id": call.id, **about}))

    def put_ends(self) -> None:
        ends, self.ends, self.size = self.ends, [], 0
        if len(ends) > 1:
            self.unsent += self.codec.group(self.first, ends)
        elif ends:
            self.unsent += self.codec.results(b"end", self.first, ends[0])

    def send(self, fields: dict[str, Any]) -> None:
        with self.lock:
            self.put(self.fit(fields))
            self.write()

    def fit(self, fields: dict[str, Any]) -> bytes:
        # An err or a log over max_frame would be lost whole, so its longest parts are cut.
        frame: bytes = self.codec.frame(fields)
        if len(frame) <= self.max_frame or fields["op"] not in ("err", "log"):
            return frame
        text = "message" if "message" in fields else "text"
        most = max(0, self.max_frame - 200) // 6  # a character takes up to 6 bytes of JSON
        kept = {k: v for k, v in fields.items() if k not in ("stack", "cause", "fields")}
        cut: bytes = self.codec.frame({**kept, text: kept[text][:most]})
        return cut

    def put(self, frame: bytes) -> None:
        if self.ends:
            self.put_ends()
        if not self.unsent:
            self.oldest = time.monotonic()
        self.unsent += frame

    def write(self) -> None:
        if self.writing:
            return  # called again by a finalizer: the loop below takes its frame along
        self.writing = True
        try:
            self.put_ends()
            while self.unsent and not self.gone:
                data, self.unsent = self.unsent, bytearray()
                _write(self.sink, data)
        except OSError:  # nobody reads any more
            self.gone = True
        finally:
            self.writing = False

    def arm(self) -> None:
        self.armed = True
        self.due.release()

    def flush_late(self) -> None:
        # So that no result waits for a slow handler: the next one's or its own.
        while True:
            self.due.acquire()
            time.sleep(LINGER)
            with self.lock:
                self.armed = False
                for call in list(self.partial):
                    self.put_partial(call)
                self.write()

    # The end

    def end_input(self) -> None:
        # A blocked read is tried again after a signal, and finds the end. Input that was read
        # before is kept, and no exception passes through the author's code.
        self.leaving = self.leaving or time.monotonic()
        _silence(self.source.fileno())

    def watch(self) -> None:
        # The main thread may be busy in a handler, so this thread watches for the host's end.
        hangup = select.poll()
        hangup.register(self.source, 0)
        while True:
            time.sleep(1)
            if self.gone or os.getppid() != _PARENT:  # not 1: in a container the host may be 1
                self.end_input()
                signal.pthread_kill(self.main, signal.SIGTERM)
            if hangup.poll(0):
                self.leaving = self.leaving or time.monotonic()
            if self.leaving and time.monotonic() - self.leaving > GRACE:
                os._exit(1)

    def forget(self) -> None:
        # A forked child must not answer for this process, nor keep its pipes open.
        import logging

        self.gone = self.forked = True
        self.lock = threading.RLock()
        logging.getLogger().removeHandler(self.log_handler)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _silence(self.source.fileno())
        _silence(self.sink)
        _renew_prints()


def _misfit(call: dict[str, Any]) -> str:
    # Name the field that breaks a call of the host. The id comes first: it identifies the call.
    if type(call.get("id")) is not int:
        return "id"
    if type(call.get("msg")) is not dict:
        return "msg"
    if not isinstance(call.get("node"), (str, type(None))):
        return "node"
    return "" if isinstance(call.get("meta"), (dict, type(None))) else "meta"


def _misfit_in_group(calls: dict[str, Any]) -> str:
    msgs, metas = calls.get("msgs"), calls.get("metas")
    if type(msgs) is not list or not msgs or not all(type(msg) is dict for msg in msgs):
        return "msgs"
    if metas is not None and (
        type(metas) is not list
        or len(metas) != len(msgs)
        or not all(isinstance(meta, (dict, type(None))) for meta in metas)
    ):
        return "metas"
    return _misfit({**calls, "msg": msgs[0]})


def _renew_prints() -> None:
    # A thread that was printing at the fork held the stream's lock, and does not exist in the child
    # to release it. The child's first print would wait for ever.
    for fd, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        if old and old is getattr(sys, f"__{name}__"):  # keeps it: closing may wait, too
            kept = (old.encoding, old.errors)
            setattr(sys, name, os.fdopen(fd, "w", 1, *kept, closefd=False))


def _leave(error: BaseException | None) -> None:
    # A forked child returned from its handler. The waiting calls, the atexit functions, the threads
    # and the event loop are its parent's.
    status = 0 if error is None else 1
    try:
        if isinstance(error, SystemExit) and isinstance(error.code, (int, type(None))):
            status = error.code or 0
        elif error:
            _complain(error)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


_RECEIVERS = {
    "call": _Session.accept,
    "calls": _Session.accept_group,
    "cancel": _Session.cancel,
    "ping": _Session.pong,
    "bye": _Session.bye,
}


def _log_through(send: Callable[[dict[str, Any]], None]) -> Any:
    # Everything logged in this program reaches the host, with the id of the call it belongs to.
    import logging

    class Frames(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            call, level = _current.get(), min(record.levelno // 10 * 10, logging.CRITICAL)
            name = logging.getLevelName(max(level, logging.DEBUG)).lower()
            frame = {"op": "log", "level": name, "text": _text(self.format(record))}
            send({**frame, "fields": {"logger": record.name}, **({"id": call.id} if call else {})})

    root, handler = logging.getLogger(), Frames()
    if not root.handlers and root.level == logging.WARNING:
        root.setLevel(logging.INFO)
    for old in root.handlers[:]:
        if getattr(old, "stream", None) in (sys.stdout, sys.stderr):
            root.removeHandler(old)  # otherwise stderr would repeat it
    root.addHandler(handler)
    return handler


# Serve

_offered: tuple[Any, int] | None = None  # set by serve() in an imported file


def serve(*handlers: Callable[..., Any], concurrency: int = 1) -> None:
    """
    Serve *handlers*, or all nodes that `node` registered, until the input ends.

    Under a host this speaks frames. By hand, ``echo '{"count": 3}' | python count.py``, it prints
    one line of JSON per result; ``EMIT_MSG='{"count": 3}' python count.py`` leaves the terminal
    to a debugger. By hand, EMIT_NODE chooses among several nodes, and a handler that ends the
    process has failed: the exit code is 1.

    Does nothing when the calling file was imported. Call it last, from the main thread.

    Args:
        handlers: Functions and generator functions, plain or ``async def``.
        concurrency: How many calls run at a time, in threads or, for ``async def``, tasks.

    Raises:
        SystemExit: Status 1 after a failure by hand, or a program that cannot be served.
    """
    global _offered
    if sys._getframe(1).f_globals.get("__name__") == "__main__":
        _serve(lambda: (handlers or _registered, concurrency))
    else:
        _offered = handlers or _registered, concurrency


def boot(path: str, name: str = "") -> None:
    """
    Load the file at *path* and serve it, for a launcher. The file need not know of Emit.

    Serves the nodes that the file serves or registers. Without any, serves its function *name*, the
    function with the file's name, ``handler``, or its only function. ``sys.argv`` is as of
    ``python FILE``.
    """
    take_wire()
    sys.argv[:] = [path]
    _serve(lambda: _load(path, name))


def _load(path: str, name: str) -> tuple[Any, int]:
    from importlib.util import module_from_spec, spec_from_file_location

    stem = os.path.splitext(os.path.basename(path))[0]
    # Not under the name of a module that Python, or this file, has or will need.
    taken = stem in sys.modules or stem in _LIBRARIES or stem in _standard()
    spec: Any = spec_from_file_location(f"{stem}_node" if taken else stem, path)
    module = sys.modules[spec.name] = module_from_spec(spec)
    _let_import_from(os.path.dirname(os.path.abspath(path)), path)
    spec.loader.exec_module(module)
    if not (_offered or _registered):
        return [_pick(vars(module), stem, name)], 1
    served = _offered or (_registered, 1)
    if not name:
        return served
    names = {_name(handler): handler for handler in served[0]}
    if name not in names:
        file = os.path.basename(path)
        raise LookupError(f"{file}: there is no node {name} in it (found: {', '.join(names)})")
    return [names[name]], served[1]


_LIBRARIES = ("msgpack", "orjson", "emit_sdk")


def _standard() -> Any:
    known = getattr(sys, "stdlib_module_names", None)
    if known:
        return known
    folder = os.path.dirname(os.__file__)  # Python 3.8 and 3.9
    found = [*os.listdir(folder), *os.listdir(os.path.join(folder, "lib-dynload"))]
    return {each.partition(".")[0] for each in found}.union(sys.builtin_module_names)


def _let_import_from(folder: str, path: str) -> None:
    # First, as in `python FILE`. But all of Python would find a file there with the name of one of
    # Python's own modules, such as a string.py. In that case the folder comes after Python's own.
    from importlib.machinery import BuiltinImporter, FrozenImporter

    beside = set(_modules(folder))
    for library in beside.intersection(_LIBRARIES):
        try:
            __import__(library)
        except ImportError:
            sys.modules[library] = None  # type: ignore[assignment]  # it is not there, for import
    hiding = beside.intersection(_standard())
    first = (BuiltinImporter, FrozenImporter)  # no file can hide these
    hiding -= {each for each in hiding if any(finder.find_spec(each) for finder in first)}
    if not hiding:
        sys.path.insert(0, folder)
        return
    own = os.path.dirname(os.__file__)
    ours = [at for at, each in enumerate(sys.path) if each in (own, f"{own}/lib-dynload")]
    sys.path.insert(max(ours, default=-1) + 1, folder)
    _refuse_hiding(path, hiding - {os.path.splitext(os.path.basename(path))[0]}, set())


def _modules(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            for each in found:
                if each.name.endswith(".py"):
                    yield each.name[:-3]
                elif each.is_dir() and os.path.exists(os.path.join(each.path, "__init__.py")):
                    yield each.name
    except PermissionError:  # its files can still be imported by name
        return


def _refuse_hiding(path: str, hiding: set[str], seen: set[str]) -> None:
    # The author's files say `string.up`, and Python's own string has no `up`. So they mean the
    # string.py beside them, which only they get.
    import ast

    seen.add(path)
    try:
        with open(path, "rb") as file:
            used = _uses(ast.parse(file.read()))
    except (OSError, SyntaxError, ValueError):
        return  # reported when the file is loaded
    for name, attributes in used.items():
        beside = os.path.join(os.path.dirname(path), f"{name}.py")
        if name in hiding:
            lacking = [each for each in attributes if not hasattr(__import__(name), each)]
            if lacking:
                raise ImportError(
                    f"{os.path.basename(path)} uses {name}.{lacking[0]}, and {name}.py beside it "
                    f"hides a module of Python's standard library; rename {name}.py"
                )
        elif beside not in seen and os.path.exists(beside):
            _refuse_hiding(beside, hiding, seen)


def _uses(tree: Any) -> dict[str, set[str]]:
    # The modules that a file imports, and the names that it uses of each.
    import ast

    used: dict[str, set[str]] = {}
    called: dict[str, str] = {}
    for each in ast.walk(tree):
        if isinstance(each, ast.Import):
            for alias in each.names:
                used.setdefault(alias.name.partition(".")[0], set())
                if "." not in alias.name or not alias.asname:
                    called[(alias.asname or alias.name).partition(".")[0]] = alias.name
        elif isinstance(each, ast.ImportFrom) and each.module and not each.level:
            names = {alias.name for alias in each.names if alias.name != "*"}
            whole = "." not in each.module
            used.setdefault(each.module.partition(".")[0], set()).update(names if whole else ())
    for each in ast.walk(tree):
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
            module = called.get(each.value.id, "")
            if module and "." not in module:
                used[module].add(each.attr)
    return used


def _pick(names: dict[str, Any], stem: str, name: str) -> Any:
    # The function that is the node, in a file without any call of Emit's.
    file = os.path.basename(names["__file__"])
    mine = names["__name__"]
    own = [n for n, v in names.items() if getattr(v, "__module__", "") == mine and n[0] != "_"]
    own = [n for n in own if callable(names[n]) and not isinstance(names[n], type)]
    wanted = [name] if name else [stem, "handler", *own[: len(own) == 1]]
    chosen = next((n for n in wanted if callable(names.get(n))), None)
    if chosen:
        _registered[names[chosen]] = chosen
        return names[chosen]
    if not own:
        raise LookupError(f"{file}: there is no function in it")
    found = f"(found: {', '.join(own)})"
    if name:
        raise LookupError(f"{file}: there is no function {name} in it {found}")
    raise LookupError(
        f"{file}: which function is the node? Name it {stem}, or say {file}:name {found}"
    )


def _serve(load: Callable[[], tuple[Any, int]]) -> None:
    global _config
    source, sink = take_wire()
    failure: BaseException | None = None
    nodes: dict[str, _Node] = {}
    concurrency = 1
    try:
        handlers, concurrency = load()
        nodes = _named([_Node(handler) for handler in handlers])
    except BaseException as error:
        failure = error
    given = os.environb.get(b"EMIT_MSG")
    first = _first_line(source if given is None else [given])
    # A line that looks like a hello is a message there: it may have a field "op".
    is_by_hand = given is not None or os.environ.get("EMIT_PROBE") == "1"
    hello = None if is_by_hand else _hello(first)
    if hello and not failure and 1 not in hello.get("v", ()):
        failure = ValueError(f"this SDK speaks version 1, not any of {hello.get('v')}")
    if hello and failure:
        _write(sink, _Json().frame({"op": "err", "id": None, **_describe(failure)}))
        sys.exit(1)
    if failure:
        raise failure
    if hello:
        _config = hello.get("config") or {}
        session = _Session(nodes, concurrency)
        try:
            session.run(hello)
        except Exception as error:  # no ready frame fits
            session.give_up(error)
        if session.broken:
            sys.exit(os.EX_PROTOCOL)
    else:
        _plain(nodes, concurrency, first)


def _named(nodes: list[_Node]) -> dict[str, _Node]:
    by_name = {node.name: node for node in nodes}
    if not nodes or len(by_name) < len(nodes):
        raise ValueError(f"each node needs a name of its own: {[node.name for node in nodes]}")
    return by_name


def _first_line(lines: Iterable[bytes]) -> bytes:
    return next((line for line in lines if line.strip()), b"")


def _hello(line: bytes) -> Any:
    try:
        frame = json.loads(line)
    except ValueError:
        return None
    return frame if isinstance(frame, dict) and frame.get("op") == "hello" else None


def _ready(nodes: dict[str, _Node], concurrency: int) -> dict[str, Any]:
    return {
        "op": "ready",
        "v": 1,
        "sdk": f"python/{__version__}",
        "concurrency": concurrency,
        "nodes": list(nodes),
        "inputs": {
            n: node.inputs or node.told for n, node in nodes.items() if node.inputs or node.told
        },
        "outputs": {name: node.outputs for name, node in nodes.items() if node.outputs},
        "caps": ["cancel", "end", "groups"],
    }


def _plain(nodes: dict[str, _Node], concurrency: int, first: bytes) -> None:
    # No host: messages in, one line per result out.
    global _config
    source, sink = take_wire()
    _config = _read_config()
    os.environ.pop("EMIT_CONFIG", "")  # hidden from programs that a handler starts, as EMIT_PROBE
    packed = first[:1] >= b"\x80"  # the first byte of a msgpack map, never of JSON
    codec = _choose(["msgpack"] if packed else [])
    probed = os.environ.pop("EMIT_PROBE", "") == "1"  # hidden from programs that a handler starts
    if probed:
        _write(sink, _Json().frame(_ready(nodes, concurrency)))
    failed = False
    try:
        for raw in [first + source.read()] if packed else _messages(first, source):
            failed = not _run_plain(nodes, codec, raw, sink) or failed
        if probed and not failed:  # tells the host that no handler ended the process
            _print(sink, codec.value({"op": "end", "id": None}))
    except _NobodyReads:
        sys.exit(0)
    if failed:
        sys.exit(1)


def _run_plain(nodes: dict[str, _Node], codec: Any, raw: bytes, sink: int) -> bool:
    try:
        _drive(_chosen(nodes), codec.loads(raw), lambda v: _print(sink, codec.value(v)))
    except Exception as error:
        _complain(error)
        return False
    except SystemExit as error:
        print(_text(error), file=sys.stderr)
        sys.exit(1)
    return True


def _messages(first: bytes, source: BinaryIO) -> Iterator[bytes]:
    # One message per line, one document over several lines, or the message in the environment.
    lines = iter(()) if "EMIT_MSG" in os.environ else source
    try:
        json.loads(first or b"{}")
    except ValueError:
        first += b"".join(lines)
    yield from (line for line in itertools.chain([first], lines) if line.strip())


def _chosen(nodes: dict[str, _Node]) -> _Node:
    name = os.environ.get("EMIT_NODE")
    if len(nodes) == 1:
        return next(iter(nodes.values()))
    if not name:
        raise LookupError(f"set EMIT_NODE to one of the program's nodes: {', '.join(nodes)}")
    if name not in nodes:
        raise _absent(name, nodes)
    return nodes[name]


def _print(sink: int, data: bytes) -> None:
    try:
        _write(sink, data + b"\n")
    except BrokenPipeError:
        raise _NobodyReads from None  # as with `| head -1`: the reader has enough


def _complain(error: BaseException) -> None:
    import traceback

    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)


# Testing


def call(handler: Callable[..., Any], /, **fields: Any) -> list[Any]:
    """
    Give *handler* one message, and return the list of its results as a host would see them.

    Works in any test runner, without Emit. Raises the handler's exception, or EncodeError if no
    codec carries a result.

    Example:
        >>> call(count, count=3)
        [0, 1, 2]
    """
    results: list[Any] = []
    _drive(_Node(handler), fields, lambda v: results.append(_clean(v, _PLAIN | {bytes})))
    return results
