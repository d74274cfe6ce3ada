"""
Programs under gevent, which replaces threads by greenlets.

After ``gevent.monkey.patch_all()`` a thread is a greenlet, and waiting lets the others run. That
affects programs in two ways. gevent's ``Popen`` forks the host with all of its memory and runs its
fork handlers; the standard library's takes a millisecond. And gevent's loop reaps every child of
the process, so it alone learns how a program has ended.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import subprocess
import sys
import time
import types
from typing import Any

__all__ = ["End", "are_here", "popen"]

#: Seconds for the loop to report the end of a child that it has reaped.
_TOLD = 0.5


def are_here() -> bool:
    """Return whether threads are gevent's greenlets in this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def popen() -> type[subprocess.Popen[bytes]]:
    """Return the standard library's ``Popen``, even if another one has replaced it."""
    return _pristine() if "gevent.monkey" in sys.modules else subprocess.Popen


@functools.cache
def _pristine() -> type[subprocess.Popen[bytes]]:
    # From a fresh copy of the module: the class that gevent saved finds gevent's names in the usual
    # one. gevent's os.close, for example, closes a pipe later, and Popen reads it to its end.
    spec = importlib.util.find_spec("subprocess")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.os = types.SimpleNamespace(**vars(os) | sys.modules["gevent.monkey"].saved.get("os", {}))
    original: type[subprocess.Popen[bytes]] = module.Popen
    return original


class End:
    """
    The end of a child, as gevent's loop reports it. Must be made before the loop runs again.

    Args:
        pid: The child's process id.
    """

    def __init__(self, pid: int) -> None:
        self._gevent = importlib.import_module("gevent")
        self._status: int | None = None
        self._watcher: Any = None
        loop = self._gevent.get_hub().loop
        if loop.default:  # any other loop reaps no children
            self._watcher = loop.child(pid, ref=False)
            self._watcher.start(self._note)

    def _note(self) -> None:
        self._status = os.waitstatus_to_exitcode(self._watcher.rstatus)

    def status(self) -> int | None:
        """Return how a child ended, as in ``Popen.returncode``, after the loop has reaped it."""
        end = time.monotonic() + _TOLD
        is_hub = self._gevent.getcurrent() is self._gevent.get_hub()
        while self._watcher and self._status is None and not is_hub and time.monotonic() < end:
            self._gevent.sleep(0.001)
        return self._status

    def forget(self) -> None:
        """Stop waiting for the child's end."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
