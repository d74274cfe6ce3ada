"""
The types of the public API, for annotations and for type checkers. The rest of Emit imports nothing
from here at run time.

A decorated function is a :class:`NodeFunction`. A subclass of a router that takes options of its
own adds them to :class:`NodeOptions`::

    class MyOptions(NodeOptions, total=False):
        priority: int

    class MyRouter(Router):
        def node(self, fields: Fields, subscribe_to: Origins | None = None,
                 entry_point: bool = False, ignore: Origins | None = None,
                 **wrapper_options: Unpack[MyOptions]) -> Decorator:
            return super().node(fields, subscribe_to, entry_point, ignore, **wrapper_options)
"""

from __future__ import annotations

import os
import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar, overload

from emit.message import Message

if TYPE_CHECKING:
    from redis import Redis
    from rq import Queue
    from rq.job import Job

    from emit.host.system.program import Limits
    from emit.letter import DeadLetter

__all__ = [
    "Decorator",
    "Fields",
    "NodeFunction",
    "NodeOptions",
    "Origin",
    "Origins",
    "RQDecorator",
    "RQFunction",
    "Rows",
]

#: The declaration of a node's fields: their names in order, or names with types. A single string or
#: a set is none.
Fields: TypeAlias = list[str] | tuple[str, ...] | Mapping[str, Any] | type[Any] | Iterator[str]

#: One wish of a subscription: a name or regular expression, a compiled pattern, or a node.
Origin: TypeAlias = str | re.Pattern[str] | Callable[..., Any]

#: A subscription: one wish, or several.
Origins: TypeAlias = Origin | Sequence[Origin] | AbstractSet[Origin]

#: The results of a node whose handler is a generator or a program.
Rows: TypeAlias = tuple[dict[str, Any], ...]

R_co = TypeVar("R_co", covariant=True)


class NodeFunction(Protocol[R_co]):
    """
    A node, as the decorator returns it. Call it with one dictionary or message, or with keywords.

    The result is a tuple of dictionaries (:data:`Rows`) if the handler is a generator or a program.
    Otherwise it is a dictionary or :class:`emit.NoResult`, and type checkers take it as ``Any``.
    """

    name: str
    __name__: str

    @overload
    def __call__(self, message: Mapping[str, Any] | Message, /) -> R_co: ...
    @overload
    def __call__(self, /, **fields: Any) -> R_co: ...
    @overload
    async def acall(self, message: Mapping[str, Any] | Message, /) -> R_co: ...
    @overload
    async def acall(self, /, **fields: Any) -> R_co: ...
    @overload
    def astream(
        self, message: Mapping[str, Any] | Message, /
    ) -> AsyncGenerator[dict[str, Any], None]: ...
    @overload
    def astream(self, /, **fields: Any) -> AsyncGenerator[dict[str, Any], None]: ...


class RQFunction(NodeFunction[R_co], Protocol):
    """A node of an ``RQRouter``: its messages can also be put into the queue by hand."""

    @overload
    def delay(self, message: Mapping[str, Any] | Message, /) -> Job: ...
    @overload
    def delay(self, /, **fields: Any) -> Job: ...
    @overload
    def enqueue(self, message: Mapping[str, Any] | Message, /) -> Job: ...
    @overload
    def enqueue(self, /, **fields: Any) -> Job: ...


class _Iterates(Protocol):
    """An object with a generator as its handler, such as a ShellNode."""

    def __call__(self, msg: Any, /) -> Iterator[Any] | AsyncIterator[Any]: ...


_Generator: TypeAlias = Callable[..., Iterator[Any] | AsyncIterator[Any]] | type[_Iterates]


class Decorator(Protocol):
    """The decorator that ``Router.node(...)`` returns."""

    @overload
    def __call__(self, handler: _Generator, /) -> NodeFunction[Rows]: ...
    @overload
    def __call__(self, handler: Callable[..., Any], /) -> NodeFunction[Any]: ...


class RQDecorator(Protocol):
    """The decorator that ``RQRouter.node(...)`` returns."""

    @overload
    def __call__(self, handler: _Generator, /) -> RQFunction[Rows]: ...
    @overload
    def __call__(self, handler: Callable[..., Any], /) -> RQFunction[Any]: ...


class NodeOptions(TypedDict, total=False):
    """
    The options of ``router.node`` beside its parameters. Each class of routers knows them all.

    :meth:`emit.Router.node` describes those of every router, docs/celery.md and docs/rq.md those of
    the queues, and :class:`emit.ShellNode` and docs/knobs.md those of programs.
    """

    # Every router's.
    name: str
    stream: bool
    pass_through: bool
    validate: bool

    # Those of the queues. ``timeout`` is RQ's for a function, and a program's own.
    batch: int
    batch_bytes: int
    many: bool
    return_results: bool
    max_attempts: int
    max_retries: int | None
    max_deliveries: int
    celery_task: Callable[..., Any]
    queue: str | Queue
    connection: str | Redis
    timeout: float | str | None
    result_ttl: int | str

    # A program's: what it is.
    command: str | Sequence[str]
    file: str | os.PathLike[str] | None
    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str]
    pass_env: Sequence[str]
    config: Mapping[str, Any]
    program_node: str | None
    dead_letter: Callable[[DeadLetter], Any] | None

    # A program's: how it is run.
    mode: Literal["auto", "oneshot", "persistent", "lines"]
    codec: Literal["json", "msgpack"] | None
    start_timeout: float
    acquire_timeout: float | None
    size: int
    min_idle: int
    window: int
    max_calls: int | None
    max_age: float | None
    max_rss: int | None
    idle_timeout: float | None
    jitter: float
    max_frame: int
    max_results: int
    max_result_bytes: int
    cancel_grace: float
    stop_grace: float
    term_grace: float
    backoff: float
    backoff_max: float
    breaker_failures: int
    breaker_window: float
    breaker_open: float
    limits: Limits
