"""A node: its name, its handler, and the results that a handler's outcome stands for."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from copy import copy
from functools import partial
from types import (
    AsyncGeneratorType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    ModuleType,
)
from typing import Any, NamedTuple

from emit.errors import GraphError
from emit.forks import at_fork
from emit.graph import ENTRY
from emit.message import NoResult, make_fit_over
from emit.observe.observers import Observers

#: Types whose values are one result as they are. A subclass of these needs a closer look.
PLAIN = frozenset({str, int, float, bool, tuple})

#: Outcomes that have to run first: they produce a result, or a generator of results.
_PENDING = frozenset({CoroutineType, AsyncGeneratorType})

#: Flags of a function's code, as in inspect, which takes longer to import than all of Emit.
_VARARGS, _VARKEYWORDS = 4, 8


class Handler:
    """
    A handler that can do more than take a message: the seam between the graph and the host, which
    runs programs.

    Any callable can be a node's handler, and is called with each message. Emit looks for more only
    in subclasses of this class. So the attributes of other objects keep their authors' meaning: a
    ``unittest.mock.Mock`` has every attribute.

    Attributes:
        foreign: It runs another program, where a tuple arrives as a list.
        language: The language of its function or program, such as ``ruby``.
        declared_size: The number of processes it may have, if its author has set one.
        options: The options of ``router.node`` that :meth:`configure` takes.
        takes_many: True if :meth:`call_many` does the same as calling it with each message.
        max_attempts: The most attempts at a message.
        max_retries: The most retries that its handler may ask for; None: as *max_attempts* allows.
        timeout: Seconds that a message may take.
    """

    foreign = False
    options: tuple[str, ...] = ()
    max_attempts: int = 3
    max_retries: int | None = None
    timeout: float = math.inf

    def __call__(self, msg: Any) -> Any:
        """Handle one message. Return any value that a handler may return."""
        raise NotImplementedError

    def call_many(self, messages: Iterable[Any]) -> Generator[Any, None, None]:
        """Handle many messages. For each, in order, yield a list of results or an exception."""
        raise NotImplementedError

    @property
    def takes_many(self) -> bool:
        return False

    @property
    def language(self) -> str:
        return "python"

    @property
    def declared_size(self) -> int | None:
        return None

    def configure(self, name: str, options: dict[str, Any], *, stream: bool) -> None:
        """Take the node's name, and the options that :attr:`options` names."""

    def open(self) -> None:
        """Prepare what is to be ready before the first message."""

    def running(self) -> Any:
        """Return its host and its calls on it, if it has had a message and can be reloaded."""
        return None

    def observe(self, observers: Observers) -> None:
        """Tell *observers* about its processes, if it has any."""

    def begin_close(self) -> None:
        """Begin to end its resources, at the same time as other handlers; :meth:`close` follows."""

    def close(self) -> None:
        """End its resources. A later message starts them again."""


#: Stands for every handler that is not a subclass of Handler: it can only be called.
_CALLABLE = Handler()


class Node:
    """
    One node of a router.

    Attributes:
        name: Unique in its router.
        handler: Takes a message; returns a value, a generator of values, a coroutine or an
            asynchronous generator.
        fit: Makes one emitted value a dictionary of the node's fields.
        stream: Route each result as it comes, instead of all after the handler has ended.
        fields: The declared fields, for *pass_through*.
        pass_through: Each result also has the fields of the message that it does not name.
        convert: Converts the fields of a result to their types, for ``validate=True``; else None.
        seam: The handler itself if it is a Handler; otherwise a Handler that can only be called.
        foreign: The handler runs another program, where a tuple arrives as a list.
        takes_many: It has a ``call_many``: messages in, and for each in order an outcome (a list of
            emitted values, or an exception).
        function: The function that a user calls: it runs the node and routes its results.
    """

    __slots__ = (
        *("convert", "fields", "fit", "foreign", "function", "handler", "name"),
        *("pass_through", "seam", "stream", "takes_many"),
    )

    def __init__(
        self,
        name: str,
        handler: Any,
        fit: Callable[[Any], dict[str, Any]],
        *,
        stream: bool = False,
        pass_through: bool = False,
    ) -> None:
        self.name = name
        self.handler = handler
        self.fit = fit
        self.stream = stream
        self.fields: tuple[str, ...] = ()
        self.pass_through = pass_through
        self.convert: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        # By its type, since isinstance is true of a mock that claims to be a Handler for a test.
        self.seam: Handler = handler if issubclass(type(handler), Handler) else _CALLABLE
        self.foreign = self.seam.foreign
        self.takes_many = False
        self.function: Callable[..., Any] | None = None

    def configure(self, options: dict[str, Any]) -> None:
        """Let the handler take its *options*, such as a ShellNode its ``timeout``."""
        self.seam.configure(self.name, options, stream=self.stream)
        self.takes_many = self.seam.takes_many and not self.stream

    def bound(self, first: Any) -> Node:
        """Return a copy whose handler gets *first* before the message, as a Celery task does."""
        node = copy(self)
        node.handler = partial(self.handler, first)
        return node

    def run(self, message: Any) -> Any:
        """
        Run the handler and fit each emitted value to the fields.

        Returns:
            A dictionary (the handler returned one value), a tuple of them (it is a generator), a
            generator of them (it is a generator, and the node streams), or :class:`NoResult`.

        Raises:
            ResultError: A value does not fit.
            Exception: Whatever the handler raised.
        """
        fit = self.fit_for(message)  # first, since the handler may change the message
        return self.settle(self.handler(message), fit)

    def fit_for(self, message: Any) -> Callable[[Any], dict[str, Any]]:
        """Return the function that fits the results of *message*."""
        if not self.pass_through:
            return self.fit
        over, convert = make_fit_over(message, self.fit, self.fields), self.convert
        return over if convert is None else lambda result: convert(over(result))

    def settle(self, outcome: Any, fit: Callable[[Any], dict[str, Any]]) -> Any:
        """Return the result of :meth:`run`, from the handler's return value."""
        kind = type(outcome)
        if kind in _PENDING:
            outcome = _settle(outcome)
            kind = type(outcome)
        if kind is GeneratorType:
            return _fitted(outcome, fit) if self.stream else tuple(_fitted_all(outcome, fit))
        if outcome is NoResult or kind is NoResult:
            return NoResult
        if outcome is None and self.fields:
            return NoResult  # as for a program, where a bare return emits nothing either
        return fit(outcome)


def _fitted(
    values: Generator[Any, None, None], fit: Callable[[Any], dict[str, Any]]
) -> Generator[dict[str, Any], None, None]:
    try:
        for value in values:
            if value is not NoResult and type(value) is not NoResult:
                yield fit(value)
    finally:
        # Closed here, since a traceback may hold the last reference for long.
        values.close()


def _fitted_all(
    values: Generator[Any, None, None], fit: Callable[[Any], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Do the same as :func:`_fitted`, in two thirds of its time."""
    results = []
    try:
        for value in values:
            if value is not NoResult and type(value) is not NoResult:
                results.append(fit(value))
    finally:
        values.close()
    return results


def _settle(outcome: Any) -> Any:
    """Run a coroutine for its value; make an asynchronous generator a plain one."""
    coroutines = _coroutines()
    if isinstance(outcome, CoroutineType):
        return coroutines.run(outcome)
    return coroutines.iterate(outcome)


def awaiting() -> ModuleType:
    """Return the module of calls that are awaited, imported on first use, as asyncio is."""
    with _importing:
        from emit import awaiting
    return awaiting


def make_awaitable(function: Callable[..., Any], name: str) -> None:
    """Give a node's function ``acall`` and ``astream``. A queue's task stays as it is."""
    if type(function) is not FunctionType:
        return

    async def acall(*args: Any, **kwargs: Any) -> Any:
        return await awaiting().call(function, *args, **kwargs)

    def astream(*args: Any, **kwargs: Any) -> Any:
        return awaiting().stream(function, name, *args, **kwargs)

    function.acall, function.astream = acall, astream  # type: ignore[attr-defined]


def _coroutines() -> ModuleType:
    """Return the module, imported on first use: asyncio takes longer to import than all of Emit."""
    with _importing:
        from emit import coroutines
    return coroutines


#: Held through a fork. Otherwise a child could inherit another thread's half-done, locked import.
_importing = threading.RLock()

at_fork(
    "imports",
    before=_importing.acquire,
    in_parent=_importing.release,
    in_child=_importing.release,
)


def make_handler(func: Any) -> Callable[[Any], Any]:
    """
    Return the callable that handles messages: *func*, or one instance of it if it is a class.

    Raises:
        GraphError: Not callable, or a class that can't be made without arguments.
    """
    if isinstance(func, type):
        try:
            func = func()
        except TypeError as error:
            raise GraphError(
                f"{func.__module__}.{func.__qualname__} can't be made without arguments, as a "
                f"node is: {error}"
            ) from error
    if not callable(func):
        raise GraphError(f"a node must be callable, not {func!r}")
    return _with_fields(func) if _takes_only_fields(func) else func


def _takes_only_fields(func: Any) -> bool:
    """True for ``def f(**fields)``, which can be called with no message."""
    if type(func) is not FunctionType:
        return False
    code = func.__code__
    kinds = code.co_flags & (_VARARGS | _VARKEYWORDS)
    return (code.co_argcount, code.co_kwonlyargcount, kinds) == (0, 0, _VARKEYWORDS)


def _with_fields(func: Callable[..., Any]) -> Callable[[Any], Any]:
    def handler(msg: Any) -> Any:
        return func(**vars(msg))

    handler.__wrapped__ = func  # type: ignore[attr-defined]
    return handler


# -- The names of nodes, and the places in the source where they were declared ---------------------


def get_name(func: Any) -> str:
    """
    Return ``func.name`` if it is a string, otherwise ``module.name``.

    The latter names the function or class, the function that a partial calls, or the class of a
    callable object.
    """
    name = getattr(func, "name", None)
    if isinstance(name, str):
        return name
    named = _named(func)
    return f"{named.__module__}.{named.__name__}"


def _named(func: Any) -> Any:
    while isinstance(func, partial):
        func = func.func
    # The attributes of a mock with a spec are mocks.
    return func if isinstance(getattr(func, "__name__", None), str) else type(func)


def look_like(function: Callable[..., Any], func: Any, name: str) -> None:
    """Do as functools.wraps does, also for classes and objects, which lack some attributes."""
    source = _named(func)
    for attribute in ("__module__", "__name__", "__qualname__", "__doc__"):
        value = getattr(source, attribute, None)
        if isinstance(value, str):
            setattr(function, attribute, value)
    function.__annotations__ = {}  # the call's signature is Emit's, not the handler's
    function.__wrapped__ = func  # type: ignore[attr-defined]
    function.name = name  # type: ignore[attr-defined]


#: inspect.CO_OPTIMIZED: set in the code of a function, not of a module or class. Importing inspect
#: takes longer than all of this package.
_OPTIMIZED = 1


def _is_ours(frame: FrameType) -> bool:
    package = frame.f_globals.get("__package__") or ""
    return package.partition(".")[0] == __package__


class Declaration(NamedTuple):
    """
    The place of a node's declaration.

    Attributes:
        file: The source file.
        line: The line of the decorator.
        module: The module's dictionary and its ``__spec__``; a reload gives it a new one.
        code: The code at the top of the module at that time. An imported module has one for all
            its nodes. Code that is typed in or given to ``exec`` has its own each time.
    """

    file: str
    line: int
    module: tuple[Any, Any]
    code: CodeType | None

    @classmethod
    def of_caller(cls) -> Declaration:
        """Return the declaration at the nearest frame outside of this package."""
        frame = sys._getframe(1)
        while frame.f_back is not None and _is_ours(frame):
            frame = frame.f_back
        module = frame.f_globals
        where = (module, module.get("__spec__"))
        return cls(frame.f_code.co_filename, frame.f_lineno, where, _top_code(frame))

    def repeats(self, earlier: Declaration) -> bool:
        """
        Return True if this declaration replaces *earlier*, instead of giving a second node its
        name.

        It replaces it if the same file runs once more, as in a reload. Typed code, such as a
        notebook's cell (changed or not) or a line at a prompt, also replaces it.
        """
        module, spec = self.module
        if module is not earlier.module[0] or spec is not earlier.module[1]:
            return self.file == earlier.file
        if self.code is None or self.code is earlier.code:
            return False
        return self.file == earlier.file or module.get("__name__") == "__main__"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def _top_code(frame: FrameType | None) -> CodeType | None:
    """Return the code at the top of *frame*'s module; None if that code has ended."""
    module = frame.f_globals if frame is not None else None
    while frame is not None:
        code = frame.f_code
        # "<module>", or "<cell line: 1>"; a class's body has the name of its class.
        at_top = code.co_name.startswith("<") and not code.co_flags & _OPTIMIZED
        if at_top and frame.f_globals is module:
            return code
        frame = frame.f_back
    return None


class Declarations:
    """The declarations of a router's nodes, by name."""

    def __init__(self) -> None:
        self._taken: dict[str, Declaration] = {}

    def check(self, name: str, place: Declaration) -> bool:
        """
        Return True if a declaration at *place* may replace an earlier one.

        Raises:
            GraphError: Another place has the name, or the name can't be a node's.
        """
        if not isinstance(name, str) or not name or name == ENTRY:
            raise GraphError(f"a node can't be called {name!r}: give a string, such as 'words'")
        taken = self._taken.get(name)
        if taken is not None and not place.repeats(taken):
            raise GraphError(
                f'two nodes are called "{name}": one at {taken}, one at {place}; '
                f"give one of them another name, as in router.node(..., name='other')"
            )
        return taken is not None

    def place(self, name: str) -> str:
        """Return the place of a node's declaration: a file from this folder on, and a line."""
        return str(self._taken[name]).removeprefix(f"{os.getcwd()}{os.sep}")

    def claim(self, name: str, place: Declaration) -> bool:
        """Take a name. Return and raise as :meth:`check` does."""
        is_taken = self.check(name, place)
        self._taken[name] = place
        return is_taken
