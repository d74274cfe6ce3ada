"""
A client's connection to a shared host: the conversation of runtimes/PROTOCOL.md, in which the host
plays the process.

1. One thread at a time uses a link, and bytes are moved by that thread.
2. A link that is left in the middle of an exchange is closed, never used again: what is half-read
   would be the next caller's answer. Its host then ends what it was doing for it.
3. A host that works says so every few seconds, so one that hangs is told from a slow node.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
import weakref
from collections.abc import Mapping
from typing import Any

from emit.host.fate import Job
from emit.host.place import check_path, peer_of
from emit.host.shared.data import from_context, to_error
from emit.host.transport import remaining
from emit.host.wire import frames
from emit.host.wire.session import Broken, Session, Unmatched
from emit.host.wire.values import MAX_FRAME

__all__ = ["BEAT", "Link", "LinkFull", "LinkLost", "LinkRefused"]

#: Seconds between two signs of life of a host that works for a link.
BEAT = 4.0

#: Seconds without any after which the host is taken for dead.
_SILENCE = 5 * BEAT

#: Seconds between two looks where not every event wakes us.
_TICK = 0.05

#: Bytes per read and write.
_CHUNK = 256 * 1024


class LinkLost(Exception):
    """The host has ended, hangs, or talks nonsense. Its text says which."""


class LinkFull(LinkLost):
    """The host has no room for another client just now."""


class LinkRefused(LinkLost):
    """There is no sense in trying again."""


class Link:
    """
    Args:
        path: Of the host's socket.
        node: The node that this link is for.
        config: What the host has to know of it; see `emit.host.shared.data.from_node`.

    Raises:
        LinkLost: Nobody listens there, or it has ended in the middle.
        LinkFull: It has as many clients as it may have.
        LinkRefused: Another user listens there, or no socket can have this path.
        EmitError: The host refuses the node.
    """

    def __init__(self, path: str, node: str, config: Mapping[str, Any]) -> None:
        self.node = node
        self._jobs: dict[int, Job] = {}
        self._out = bytearray()
        self._refusal: frames.Failure | None = None
        self._session = Session(node, codecs=["msgpack"], max_frame=MAX_FRAME, config=config)
        self._heard = time.monotonic()
        self._poll = select.poll()
        # gevent's poll can miss what happens on a socket whose number was just reused.
        self._tick = _TICK if type(self._poll).__module__ != "select" else _SILENCE
        self._socket = socket.socket(socket.AF_UNIX)
        _links.add(self)
        try:
            self._connect(path)
            self._poll.register(self._socket, select.POLLIN)
            self._shake_hands()
        except BaseException:
            self.close()
            raise

    @property
    def load(self) -> int:
        """Calls without an outcome."""
        return len(self._jobs)

    @property
    def pending(self) -> int:
        """Bytes that are still to be sent."""
        return len(self._out)

    @property
    def is_fit(self) -> bool:
        """Whether it can be used again: nothing is open, nothing has come unasked."""
        return self._socket.fileno() >= 0 and not self._jobs and not self._poll.poll(0)

    def submit(self, job: Job) -> None:
        """
        Encode a call; `step` sends it.

        Raises:
            EncodeError, FrameTooLarge: It can't be sent. The link stays usable.
        """
        if not self._jobs:
            self._heard = time.monotonic()
        number, data = self._session.call(job.fields, meta=from_context(job.context))
        self._jobs[number] = job
        self._out += data

    def run(self, job: Job) -> None:
        """One call, until its job has an outcome."""
        self.submit(job)
        while job.outcome is None:
            self.step()

    def step(self) -> None:
        """
        Move what can be moved, after waiting for it.

        Raises:
            LinkLost: The link is of no more use.
        """
        if self._out:
            self._send()
        events = select.POLLIN | (select.POLLOUT if self._out else 0)
        self._poll.modify(self._socket, events)
        left = remaining(self._heard + _SILENCE)
        ready = self._poll.poll(min(self._tick, left) * 1000 + 1)
        if not ready or ready[0][1] & ~select.POLLOUT:
            self._receive()
        if time.monotonic() > self._heard + _SILENCE:
            raise LinkLost(f"it has said nothing for {_SILENCE:g} s")

    def hang_up(self) -> None:
        """Have both ends see its end. From another thread than the one that uses it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Any number of times, and in a forked child: the parent's end stays open."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def __del__(self) -> None:
        if hasattr(self, "_socket"):
            self.close()

    def _send(self) -> None:
        try:
            sent = self._socket.send(memoryview(self._out)[:_CHUNK])
        except BlockingIOError:
            return
        except OSError as error:
            raise LinkLost(os.strerror(error.errno or 0)) from error
        del self._out[:sent]
        self._heard = time.monotonic()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            raise LinkLost(os.strerror(error.errno or 0)) from error
        if not data:
            said = self._refusal
            raise LinkLost("it has ended" if said is None else f"it has ended: {said.message}")
        self._heard = time.monotonic()
        for event in self._session.receive(data):
            if type(event) is frames.End:  # the common case, first
                job = self._jobs.pop(event.id)
                job.outcome = job.all_with(event.msgs)
            else:
                self._take(event)

    def _take(self, event: Any) -> None:
        match event:
            case frames.Out():
                self._jobs[event.id].add(event.msgs)
            case frames.Err():
                job = self._jobs.pop(event.id)
                job.outcome = to_error(event.cause or {"type": event.type}, job.node, job.fields)
            case frames.Failure():
                self._refusal = event
            case Broken():
                raise LinkLost(str(event.error))
            case Unmatched():
                raise LinkLost("it answered what nobody had asked")

    def _connect(self, path: str) -> None:
        try:
            check_path(path)
            self._socket.settimeout(_SILENCE)
            self._socket.connect(path)
            owner = peer_of(self._socket)
        except ValueError as error:
            raise LinkRefused(str(error)) from error
        except OSError as error:
            # No number: a path that no socket can have.
            lost = LinkRefused if error.errno in (None, errno.EACCES) else LinkLost
            raise lost(error.strerror or str(error)) from error
        if owner != os.geteuid():
            raise LinkRefused(f"the one there is of user {owner}, not {os.geteuid()}")
        self._socket.setblocking(False)

    def _shake_hands(self) -> None:
        self._out += self._session.hello()
        while self._session.ready is None:
            try:
                self.step()
            except LinkLost:
                self._receive()  # it may have said why before it hung up
                if self._refusal is None:
                    raise
            if self._refusal is not None and self._refusal.type == "HostLost":
                raise LinkFull(self._refusal.message)
            if self._refusal is not None:
                raise to_error(self._refusal.cause or {"type": "HostError"}, self.node, {})


_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _close_all() -> None:
    """In a forked child: the links are the parent's, whose end the host must see."""
    for link in list(_links):
        link.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)
