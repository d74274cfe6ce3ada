"""What a pool starts: made when it is first needed, which may mean to build it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from emit.host.system.command import language_of
from emit.host.system.program import Program


class Prepared:
    """
    A program that is made once, so that later changes of PATH change nothing.

    Args:
        make: Makes it. One thread calls this, and others wait for what it makes.
    """

    def __init__(self, make: Callable[[], Program]) -> None:
        self._make = make
        self._making = threading.Lock()
        self._made: Program | None = None

    @property
    def is_made(self) -> bool:
        return self._made is not None

    def get(self) -> Program:
        """
        The program, which is made if it is not yet.

        Raises:
            StartError: It can't be made. The next call tries again.
        """
        program = self._made
        if program is None:
            with self._making:
                program = self._made = self._made or self._make()
        return program

    def forget(self) -> None:
        """Make it anew next time: what it names may have been moved, or built anew."""
        self._made = None

    def describe(self) -> dict[str, Any]:
        """Its part of a node in :meth:`emit.host.host.Host.snapshot`."""
        program = self._made
        if program is None:
            return {"language": "", "command": []}
        language = program.language or language_of(program.argv)
        return {"language": language, "command": list(program.argv)}
