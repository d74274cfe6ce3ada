"""What a node is called, and where it was declared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import WRAPPER_ASSIGNMENTS, partial
from typing import Any, NamedTuple

from emit.errors import GraphError
from emit.graph import ENTRY


def get_name(func: Any) -> str:
    """
    ``func.name`` where that is a string, else ``module.name`` of a function or class, of what
    a partial calls, or of the class of a callable object.
    """
    name = getattr(func, "name", None)
    if isinstance(name, str):
        return name
    named = _named(func)
    return f"{named.__module__}.{named.__name__}"


def _named(func: Any) -> Any:
    while isinstance(func, partial):
        func = func.func
    return func if hasattr(func, "__name__") else type(func)


def look_like(function: Callable[..., Any], func: Any, name: str) -> None:
    """As functools.wraps, also for classes and callable objects, which lack some attributes."""
    source = _named(func)
    for attribute in WRAPPER_ASSIGNMENTS:
        if hasattr(source, attribute):
            setattr(function, attribute, getattr(source, attribute))
    function.__annotations__ = {}  # the call's signature is Emit's, not the handler's
    function.__wrapped__ = func  # type: ignore[attr-defined]
    function.name = name  # type: ignore[attr-defined]


class Place(NamedTuple):
    """
    Where a node was declared.

    Attributes:
        file: The source file.
        line: The line of the decorator.
        execution: Two objects that are the same only for one run of one module's code.
    """

    file: str
    line: int
    execution: tuple[Any, Any]

    @classmethod
    def of_caller(cls) -> Place:
        """The nearest frame outside of this package."""
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
            frame = frame.f_back
        module = frame.f_globals
        return cls(frame.f_code.co_filename, frame.f_lineno, (module, module.get("__spec__")))

    def repeats(self, earlier: Place) -> bool:
        """Whether this is the same file run once more: a reload gives a module a new spec."""
        mine, theirs = self.execution, earlier.execution
        again = mine[0] is not theirs[0] or mine[1] is not theirs[1]
        return again and self.file == earlier.file

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Places:
    """Which place each node's name was declared at."""

    def __init__(self) -> None:
        self._taken: dict[str, Place] = {}

    def claim(self, name: str, place: Place) -> bool:
        """
        Take a name.

        Returns:
            Whether it was taken before, by an earlier run of the same code.

        Raises:
            GraphError: Another place has it, or it can be no node's.
        """
        if not isinstance(name, str) or not name or name == ENTRY:
            raise GraphError(f"a node can't be called {name!r}: give a string, such as 'words'")
        taken = self._taken.get(name)
        if taken is not None and not place.repeats(taken):
            raise GraphError(
                f'two nodes are called "{name}": one at {taken}, one at {place}; '
                f"give one of them another name, as in router.node(..., name='other')"
            )
        self._taken[name] = place
        return taken is not None
