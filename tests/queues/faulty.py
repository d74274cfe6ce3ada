"""
Let one of Emit's Redis commands fail in a worker, and record all commands that Emit makes.

The name of a command is its Redis name and the function of Emit that makes it: ``EVAL add``. A
command that RQ makes on behalf of Emit counts as Emit's. Commands that Celery, RQ and handlers make
by themselves do not count.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError, NoPermissionError, ResponseError

#: Parts of the paths of modules that make commands on behalf of others.
_CARRIERS = ("/redis/", "/rq/", "/contextlib.py", "/tests/queues/faulty.py")

#: Modules of Emit whose commands are Emit's own.
_OWN = ("/emit/router/", "/emit/dead.py", "/emit/once.py")


#: The kinds of failure: True if Redis executes the command, and the exception to raise.
KINDS: dict[str, tuple[bool, Callable[[], Exception]]] = {
    "away": (False, lambda: ConnectionError("Connection refused.")),
    "lost": (True, lambda: ConnectionError("Connection closed by server.")),
    "noperm": (False, lambda: NoPermissionError("this user has no permissions")),
    "oom": (False, lambda: ResponseError("OOM command not allowed")),
}


def install(folder: Path) -> None:
    """
    Wrap redis-py. In *folder*, the file ``fault`` says which command fails; ``made`` records all
    commands, and ``hit`` those that failed.
    """

    def wrap(kind: type, method: str, commands: Callable[..., list[str]]) -> None:
        plain = getattr(kind, method)

        def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
            maker = _maker()
            names = [f"{name} {maker}" for name in commands(self, *args)] if maker else []
            for name in names:
                _append(folder / "made", name)
            fault = _fault(folder)
            if fault is None or fault["command"] not in names:
                return plain(self, *args, **kwargs)
            _append(folder / "hit", fault["command"])
            is_done, error = KINDS[fault["kind"]]
            if is_done:
                plain(self, *args, **kwargs)
            raise error()

        setattr(kind, method, guarded)

    wrap(redis.Redis, "execute_command", lambda _, *args: [args[0].upper()])
    wrap(Pipeline, "execute", lambda self, *_: [args[0].upper() for args, _ in self.command_stack])
    wrap(Pipeline, "immediate_execute_command", lambda _, *args: [args[0].upper()])


def _fault(folder: Path) -> dict[str, str] | None:
    try:
        return json.loads((folder / "fault").read_text())  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None


def _append(file: Path, line: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def _maker() -> str:
    """Return the function of Emit that makes the command; empty if somebody else makes it."""
    for path, name in _frames():
        if not (any(part in path for part in _CARRIERS) or name == "_call" or name[0] == "<"):
            return name if any(part in path for part in _OWN) else ""
    return ""


def _frames() -> Iterator[tuple[str, str]]:
    frame: Any = sys._getframe(1)
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_code.co_name
        frame = frame.f_back
