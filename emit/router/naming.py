"""The names of nodes, and the places in the source where they were declared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import CodeType, FrameType
from typing import Any, NamedTuple

from emit.errors import GraphError
from emit.graph import ENTRY


def get_name(func: Any) -> str:
    """
    Return ``func.name`` if that is a string. Otherwise return ``module.name``: of the function or
    class, of the function that a partial calls, or of a callable object's class.
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


#: Set in the flags of a function's code, and not of a module's or class's: inspect.CO_OPTIMIZED,
#: but importing that takes longer than all of this package.
_OPTIMIZED = 1


class Declaration(NamedTuple):
    """
    Where a node was declared.

    Attributes:
        file: The source file.
        line: The line of the decorator.
        module: The module's dictionary and its ``__spec__``; a reload gives it a new one.
        code: What ran at the top of the module then. A module that is imported has one for all
            its nodes; what is typed into it, or given to ``exec``, has its own each time.
    """

    file: str
    line: int
    module: tuple[Any, Any]
    code: CodeType | None

    @classmethod
    def of_caller(cls) -> Declaration:
        """Return the declaration at the nearest frame outside of this package."""
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
            frame = frame.f_back
        module = frame.f_globals
        where = (module, module.get("__spec__"))
        return cls(frame.f_code.co_filename, frame.f_lineno, where, _top_code(frame))

    def repeats(self, earlier: Declaration) -> bool:
        """
        Return True if this replaces *earlier*, and is not a second node of the same name.

        It replaces it if the same file runs once more, as in a reload. It also does if it is typed
        in: a notebook's cell, changed or not, or a line at a prompt, gives a name anew.
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
        Return True if a declaration at *place* may take the place of an earlier one.

        Raises:
            GraphError: Another place has the name, or no node can have it.
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

    def claim(self, name: str, place: Declaration) -> bool:
        """Take a name, and return and raise as :meth:`check` does."""
        is_taken = self.check(name, place)
        self._taken[name] = place
        return is_taken
