"""Real shared hosts for tests, each in a process of its own, and clients of them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from emit.host.calls import Calls
from emit.host.host import Host, RemoteHost
from emit.host.place import Place
from emit.host.settings import Settings
from emit.host.shared import server
from emit.host.system.program import Program, environment
from emit.letter import DeadLetter
from tests.faults.nodes import PATH
from tests.hosts import ROOT

#: The installed program, beside the interpreter that runs the tests.
EMIT = str(Path(sys.executable).parent / "emit")


@contextlib.contextmanager
def start(path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start ``emit host``, which may not listen yet, and kill it at the end if it still runs."""
    command = [EMIT, "host", "--socket", str(path), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as host:
        try:
            yield host
        finally:
            host.kill()


def wait_for(host: subprocess.Popen[str], text: str = "listening at") -> None:
    """Read the host's log until it listens."""
    assert host.stderr is not None
    said = []
    for line in host.stderr:
        said.append(line)
        if text in line:
            return
    raise AssertionError("".join(said))


@contextlib.contextmanager
def listening(path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start a host like `start`, and wait until it listens."""
    with start(path, *options) as host:
        wait_for(host)
        yield host


@contextlib.contextmanager
def serving(path: Path) -> Iterator[Host]:
    """A shared host in this process, to look into."""
    host = Host()
    with Place(str(path)) as place:
        place.take()
        listening, listen = threading.Event(), place.listen

        def tell() -> socket.socket:
            listener = listen()
            listening.set()
            return listener

        place.listen = tell  # type: ignore[method-assign]  # the path exists a moment before
        running = server.Server(place, host)
        thread = threading.Thread(target=running.run)
        thread.start()
        try:
            assert listening.wait(60)
            yield host
        finally:
            running.stop()
            thread.join()


def status(path: Path) -> Any:
    """Return the output of ``emit host --status``."""
    command = [EMIT, "host", "--socket", str(path), "--status"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


@contextlib.contextmanager
def client(
    path: Path,
    argv: Sequence[str],
    *,
    name: str = "n",
    dead_letter: Callable[[DeadLetter], Any] | None = None,
    **settings: Any,
) -> Iterator[Calls]:
    """Provide a node of one persistent process, unless *settings* say otherwise, at a host."""
    program = Program(name, tuple(argv), environment({"PYTHONPATH": PATH}))
    chosen = Settings(**{"mode": "persistent", "size": 1, **settings})
    host = RemoteHost(str(path))
    node = host.calls(name, lambda: program, chosen, dead_letter=dead_letter)
    _hosts[node] = host
    try:
        yield node
    finally:
        host.close()


def host_of(node: Calls) -> RemoteHost:
    """Return the shared host of a node that `client` has made, as the client sees it."""
    return _hosts[node]


_hosts: weakref.WeakKeyDictionary[Calls, RemoteHost] = weakref.WeakKeyDictionary()


def open_client(path: Path, code: str) -> subprocess.Popen[str]:
    """Start another process with pipes, whose foreign nodes run at the shared host."""
    env = {**os.environ, "EMIT_HOST": str(path), "PYTHONPATH": f"{ROOT}:{PATH}"}
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env, cwd=ROOT, text=True)
