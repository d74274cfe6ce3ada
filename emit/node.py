"""A node: its name, its handler, and the results that a handler's outcome stands for."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Generator, Iterable
from copy import copy
from functools import partial
from types import AsyncGeneratorType, CoroutineType, FunctionType, GeneratorType, ModuleType
from typing import Any

from emit.errors import GraphError
from emit.message import NoResult, make_fit_over

#: Types whose values are one result, as they are; with a subclass of these more is looked at.
PLAIN = frozenset({str, int, float, bool, tuple})

#: Outcomes that have to run first: a result comes of them, or a generator of results.
_PENDING = frozenset({CoroutineType, AsyncGeneratorType})

#: Flags of a function's code, as in inspect, which takes longer to import than all of Emit.
_VARARGS, _VARKEYWORDS = 4, 8


class Handler:
    """
    A handler that can do more than take a message: the seam between the graph and what runs
    programs.

    Any callable is a node's handler, and is called with each message. Only a subclass of this one
    is asked for more, so that the attributes of other objects mean what their authors want: a
    ``unittest.mock.Mock`` has all that there are.

    Attributes:
        foreign: It speaks to another program, where a tuple arrives as a list.
        language: That of the function or the program that it runs, such as ``ruby``.
        declared_size: How many processes it may have, if its author has said so.
        options: What ``router.node`` takes for it, and :meth:`configure` out of the options.
        takes_many: :meth:`call_many` does what calling does.
        max_attempts: How often a message is tried.
        max_retries: How often its handler may ask for another try; None: as *max_attempts* allows.
        timeout: Seconds that a message may take.
    """

    foreign = False
    options: tuple[str, ...] = ()
    max_attempts: int = 3
    max_retries: int | None = None
    timeout: float = math.inf

    def __call__(self, msg: Any) -> Any:
        """Handle one message. Returns what any handler may return."""
        raise NotImplementedError

    def call_many(self, messages: Iterable[Any]) -> Generator[Any, None, None]:
        """Handle many messages. Yields for each, in order, a list of results or an exception."""
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
        """Take the node's name, and out of *options* what :attr:`options` names."""

    def open(self) -> None:
        """Begin what is to be ready before the first message."""

    def begin_close(self) -> None:
        """Begin to end what it keeps, beside other handlers; :meth:`close` follows."""

    def close(self) -> None:
        """End what it keeps. It begins anew with a later message."""


#: What a handler can do that is not a subclass of Handler: nothing but to be called.
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
        pass_through: Each result also has those fields of the message that it does not name.
        seam: What may be asked of the handler: itself, or a Handler that can do nothing else.
        foreign: The handler speaks to another program, where a tuple arrives as a list.
        takes_many: It has a ``call_many``: messages in, for each an outcome (a list of what it
            emitted, or an exception) in their order.
        function: What a user calls: it runs the node and routes its results.
    """

    __slots__ = (
        *("fields", "fit", "foreign", "function", "handler", "name"),
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
        # By its type, since isinstance is true of a mock that says so for a test's sake.
        self.seam: Handler = handler if issubclass(type(handler), Handler) else _CALLABLE
        self.foreign = self.seam.foreign
        self.takes_many = False
        self.function: Callable[..., Any] | None = None

    def configure(self, options: dict[str, Any]) -> None:
        """Let the handler take from *options* what it knows, as a ShellNode its ``timeout``."""
        self.seam.configure(self.name, options, stream=self.stream)
        self.takes_many = self.seam.takes_many and not self.stream

    def bound(self, first: Any) -> Node:
        """Return a copy whose handler gets *first* before the message, as a Celery task does."""
        node = copy(self)
        node.handler = partial(self.handler, first)
        return node

    def run(self, message: Any) -> Any:
        """
        Run the handler and fit what it emits to the fields.

        Returns:
            A dictionary (it emitted one value), a tuple of them (it is a generator), a
            generator of them (it is one, and the node streams), or :class:`NoResult`.

        Raises:
            ResultError: A value does not fit.
            Exception: Whatever the handler raised.
        """
        fit = self.fit_for(message)  # first: the handler may change the message
        return self.settle(self.handler(message), fit)

    def fit_for(self, message: Any) -> Callable[[Any], dict[str, Any]]:
        """Return the function that fits the results of *message*."""
        return make_fit_over(message, self.fit, self.fields) if self.pass_through else self.fit

    def settle(self, outcome: Any, fit: Callable[[Any], dict[str, Any]]) -> Any:
        """Return what :meth:`run` does, from what the handler has returned."""
        kind = type(outcome)
        if kind in _PENDING:
            outcome = _settle(outcome)
            kind = type(outcome)
        if kind is GeneratorType:
            return _fitted(outcome, fit) if self.stream else tuple(_fitted_all(outcome, fit))
        if outcome is NoResult or kind is NoResult:
            return NoResult
        if outcome is None and self.fields:
            return NoResult  # as of a program, where a bare return emits nothing either
        return fit(outcome)


def _fitted(
    values: Generator[Any, None, None], fit: Callable[[Any], dict[str, Any]]
) -> Generator[dict[str, Any], None, None]:
    try:
        for value in values:
            if value is not NoResult and type(value) is not NoResult:
                yield fit(value)
    finally:
        # Not left to its last reference, which a traceback may hold for long.
        values.close()


def _fitted_all(
    values: Generator[Any, None, None], fit: Callable[[Any], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Do as :func:`_fitted`, in two thirds of its time."""
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


def _coroutines() -> ModuleType:
    """Imported with the first need, since asyncio takes longer to import than all of Emit."""
    with _importing:
        from emit import coroutines
    return coroutines


#: Held through a fork: a child has what another thread is importing half and locked, for ever.
_importing = threading.RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_importing.acquire,
        after_in_parent=_importing.release,
        after_in_child=_importing.release,
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
