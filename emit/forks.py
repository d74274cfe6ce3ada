"""
The handlers of Emit that run when this process forks, all in one order.

Before the fork the first three steps run, from the first on. After the fork they run in reverse
order, in the parent and in the child. The child then continues with the other four.

=========== =================== =================================================================
step        of                  what it does
=========== =================== =================================================================
modules     emit.multilang      imports what each child would import for itself
imports     emit.node           waits for other threads' imports, which no child could finish
starts      emit.host.system    waits for starts and closings of programs; the child forgets the
                                parent's programs, and closes the inherited pipes
connections emit.host.shared    closes the child's copies of sockets, so that a host sees their end
status      emit.host.status    closes the child's copy of the socket that answers questions
host        emit.host.host      forgets the parent's host
looks       emit.observe.looks  observes no routers for those who look at the parent
=========== =================== =================================================================

Modules are loaded first, since loading may take the lock of imports. Starts are last, since a
thread that starts a program may import something. The child forgets its host last, since the
steps before may ask for the host.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

__all__ = ["STEPS", "at_fork"]

#: The names of all steps, in their order before a fork.
STEPS = ("modules", "imports", "starts", "connections", "status", "host", "looks")

#: The number of steps that have something to do before a fork.
_BEFORE = 3


class _Handlers(NamedTuple):
    before: Callable[[], object] | None = None
    in_parent: Callable[[], object] | None = None
    in_child: Callable[[], object] | None = None


_handlers = dict.fromkeys(STEPS, _Handlers())


def at_fork(
    step: str,
    *,
    before: Callable[[], object] | None = None,
    in_parent: Callable[[], object] | None = None,
    in_child: Callable[[], object] | None = None,
) -> None:
    """
    Register functions to call when this process forks. A module that is loaded again replaces its
    own functions.

    Args:
        step: One of :data:`STEPS`.
        before: Called before the fork, for one of the first three steps only.
        in_parent: Called after it, in the parent.
        in_child: Called after it, in the child.

    Raises:
        KeyError: There is no such step.
    """
    assert before is None or step in STEPS[:_BEFORE]
    _handlers[step]  # an unknown step is a KeyError
    _handlers[step] = _Handlers(before, in_parent, in_child)


def _before() -> None:
    _call(_handlers[step].before for step in STEPS)


def _in_parent() -> None:
    _call(_handlers[step].in_parent for step in _AFTER)


def _in_child() -> None:
    _call(_handlers[step].in_child for step in _AFTER)


def _call(functions: Iterable[Callable[[], object] | None]) -> None:
    """Call all of them, whatever one of them raises. Python reports the last error, and goes on."""
    error: BaseException | None = None
    for function in functions:
        try:
            if function is not None:
                function()
        except BaseException as raised:  # a time limit or Ctrl-C may strike here as anywhere
            error = raised
    if error is not None:
        raise error


_AFTER = (*reversed(STEPS[:_BEFORE]), *STEPS[_BEFORE:])

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
