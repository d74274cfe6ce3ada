"""Nodes with real programs. Most of them misbehave on purpose."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from emit.host.calls import Calls
from emit.host.host import Host
from emit.host.settings import Settings
from emit.host.system.program import Program, environment
from emit.letter import DeadLetter
from tests.hosts import ROOT

CHAOS = os.environ.get("EMIT_CHAOS") == "1"

#: Folders of the modules that `raw` and `sdk` programs import.
PATH = f"{Path(__file__).parent / 'programs'}:{ROOT / 'sdks' / 'python'}"


def raw(code: str, *argv: str) -> list[str]:
    """Return a program that speaks the protocol, or breaks it, by hand; see programs/wire.py."""
    return [sys.executable, "-S", "-c", f"from wire import *\n{textwrap.dedent(code)}", *argv]


def sdk(code: str, *argv: str) -> list[str]:
    """Return a program that uses the Python SDK."""
    start = "import os, signal, sys, threading, time\nfrom emit_sdk import *\n"
    return [sys.executable, "-c", start + textwrap.dedent(code), *argv]


@contextlib.contextmanager
def pool(
    argv: Sequence[str],
    *,
    name: str = "n",
    dead_letter: Callable[[DeadLetter], Any] | None = None,
    **settings: Any,
) -> Iterator[Calls]:
    """Provide a node of one persistent process, unless *settings* say otherwise; then close it."""
    program = Program(name, tuple(argv), environment({"PYTHONPATH": PATH}))
    chosen = Settings(**{"mode": "persistent", "size": 1, **settings})
    host = Host()
    node = host.calls(name, lambda: program, chosen, dead_letter=dead_letter)
    _hosts[node] = host
    try:
        yield node
    finally:
        host.close()


def host_of(node: Calls) -> Host:
    """Return the host of a node that `pool` has made."""
    return _hosts[node]


_hosts: weakref.WeakKeyDictionary[Calls, Host] = weakref.WeakKeyDictionary()


def started(node: Calls) -> None:
    """Start a process beforehand: the start then takes no time of a message."""
    node.pool.release(node.pool.acquire(time.monotonic() + 60.0))
