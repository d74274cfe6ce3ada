"""Other host processes for tests: the test run itself must not be killed or lose its signals."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent

PREAMBLE = """
import os, resource, signal, sys, threading, time
from emit.errors import *
from emit.host.system import spawn
from emit.host.system.spawn import *

def sentinel_pid():
    return spawn._current.lifeline.pid
"""


def open_host(code: str) -> subprocess.Popen[str]:
    """Start a host that runs *code*, with pipes for its stdin and stdout."""
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )


def run_host(code: str, *, status: int = 0) -> str:
    """Run *code* in a host until the host ends with *status*, and return its output."""
    with open_host(code) as host:
        said, _ = host.communicate(timeout=100)
    assert status == host.returncode, said
    return said


def until(condition: Callable[[], Any], within: float = 60.0) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.005)


def lives(pid: int) -> bool:
    """Return True if a process runs. A process that nobody has reaped is a zombie: it has ended."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def tagged(tag: str) -> list[int]:
    """Return the running processes with *tag* in their command. A zombie's command is empty."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error):
            if any(tag in word for word in psutil.Process(pid).cmdline()):
                found.append(pid)
    return found


def sleepers(tag: str) -> int:
    """Return how many processes are ``sleep TAG``. Before its exec, a fork is not one."""
    found = 0
    for pid in tagged(tag):
        with contextlib.suppress(psutil.Error):
            words = psutil.Process(pid).cmdline()
            found += words[1:] == [tag] and Path(words[0]).name == "sleep"
    return found


def count(tag: str, expected: int, within: float = 60.0) -> int:
    """Wait until *expected* processes run, and return how many do."""
    end = time.monotonic() + within
    while (number := len(tagged(tag))) != expected and time.monotonic() < end:
        time.sleep(0.005)
    return number
