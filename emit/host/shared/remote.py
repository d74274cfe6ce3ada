"""
A shared host as its clients see it: what :class:`emit.host.host.Host` and `Calls` offer, with the
processes elsewhere.

When the host is not there, a call waits for it for the node's ``timeout``. When it is lost in the
middle, the message goes to the next one, ``max_attempts`` times at most. There is no fall back to
processes of one's own: it would start a machine's worth of them in every client at the same time,
which is what a shared host is there to prevent.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from emit.errors import (
    EncodeError,
    FrameTooLarge,
    HostLost,
    PoolClosed,
    PoolTimeout,
    StartError,
    StartTimeout,
    Unavailable,
)
from emit.host.accounting import CallAccount
from emit.host.calls import Calls
from emit.host.fate import Job
from emit.host.settings import Settings
from emit.host.shared.data import Described, from_node
from emit.host.shared.link import Link, LinkFull, LinkLost, LinkRefused
from emit.host.system.command import directory_of
from emit.host.system.program import Program
from emit.host.transport import remaining
from emit.letter import DeadLetter

__all__ = ["RemoteCalls", "RemoteHost"]

logger = logging.getLogger(__name__)

#: Seconds between two tries to reach a host.
_TURN = 0.05

#: Seconds, at the most, to the next try at one that has no room: many may be waiting for it.
_FULL = 1.0

#: Bytes that are written ahead of the host's reading, at the most.
_AHEAD = 1024 * 1024

#: A window is refilled when a fourth of it is free.
_SLICES = 4

#: What ends a whole batch and not one message of it, as it does in a host of one's own.
_OF_THE_POOL = (PoolClosed, PoolTimeout, StartError, StartTimeout, Unavailable)


class RemoteHost:
    """
    The shared host at a socket, for one client process.

    Args:
        path: Of the socket.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.pid = os.getpid()
        self._lock = threading.Lock()  # guards the nodes
        self._nodes: list[RemoteCalls] = []

    def calls(
        self,
        node: str,
        program: Callable[[], Program],
        settings: Settings,
        *,
        program_node: str | None = None,
        shared: bool = True,
        dead_letter: Callable[[DeadLetter], Any] | None = None,
    ) -> Calls:
        """As :meth:`emit.host.host.Host.calls`. Nothing is sent before the first message."""

        def describe() -> Described:
            made = program()
            # The host is in a directory of its own.
            made = replace(made, cwd=directory_of(made))
            return Described(made, settings, program_node, shared)

        calls = RemoteCalls(self.path, node, describe, settings, dead_letter)
        with self._lock:
            self._nodes.append(calls)
        return calls

    def begin_close(self, calls: Calls) -> None:
        """Nothing: to let go of links takes no time."""

    def close(self, calls: Calls | None = None) -> None:
        """Let go of all links, or those of *calls*; the host stops what nobody uses."""
        with self._lock:
            closing = [one for one in self._nodes if calls is None or one is calls]
            self._nodes = [one for one in self._nodes if one not in closing]
        for one in closing:
            one.close()

    def snapshot(self) -> dict[str, Any]:
        """This client's part: ``calls``, ``failures`` and times of each node."""
        with self._lock:
            nodes = list(self._nodes)
        return {
            "pid": self.pid,
            "shared": self.path,
            "nodes": {one.node: one.snapshot() for one in nodes},
        }

    def __repr__(self) -> str:
        return f"<RemoteHost {self.path} [{len(self._nodes)} nodes]>"


class RemoteCalls(Calls):
    """The messages of one node, for which a shared host has the processes."""

    def __init__(
        self,
        path: str,
        node: str,
        describe: Callable[[], Described],
        settings: Settings,
        dead_letter: Callable[[DeadLetter], Any] | None = None,
    ) -> None:
        self.node = node
        self.settings = settings
        self.account = CallAccount()
        self._program_node = None  # that is for the host to know
        self._dead_letter = dead_letter
        self._path = path
        self._describe = describe
        self._described: dict[str, Any] | None = None
        # One for each thread that calls at the same time, and for streams others.
        self._idle: dict[bool, list[Link]] = {False: [], True: []}
        self._lock = threading.Lock()  # guards the set below
        self._all: weakref.WeakSet[Link] = weakref.WeakSet()
        self._closed = False

    def prepare(self) -> None:
        """Make what the host is to start; that is done here, where the files are."""
        self._config(stream=False)

    def run(self, job: Job) -> None:
        began = time.monotonic()
        for attempts in self._attempts():
            with self._lease(attempts) as link:
                link.run(job)
        self.account.answered((job.outcome,), time.monotonic() - began)

    def parts(self, job: Job) -> Generator[list[Any], None, None]:
        job.streamed = True
        began = time.monotonic()
        for attempts in self._attempts():
            with self._lease(attempts, stream=True) as link:
                link.submit(job)
                while job.outcome is None:
                    link.step()
                    results, job.results = job.results, None
                    if results:
                        attempts.exhausted = True  # what has gone on is not repeated
                        yield results
        self.account.answered((job.outcome,), time.monotonic() - began)

    def call_many(self, messages: Iterable[Mapping[str, Any]]) -> Generator[Any, None, None]:
        waiting: deque[Job] = deque()  # without an outcome that was yielded, in order
        source = (self.job(fields, index) for index, fields in enumerate(messages))
        began = time.monotonic()
        for attempts in self._attempts():
            with self._lease(attempts) as link:
                for job in waiting:
                    self._submit(link, job)
                while self._fill(link, waiting, source) or waiting:
                    while waiting and waiting[0].outcome is not None:
                        attempts.count = 0
                        began = self._note(waiting[0], began)
                        yield self._settled(waiting.popleft())
                    if link.load:
                        link.step()

    def snapshot(self) -> dict[str, Any]:
        return self.account.snapshot()

    def close(self) -> None:
        """Calls that are under way in other threads end with ``PoolClosed``."""
        self._closed = True
        with self._lock:
            links = list(self._all)
        for link in links:
            link.hang_up()  # those in use are their callers' to close
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    def __repr__(self) -> str:
        return f"<RemoteCalls {self.node} [{self.account.calls} done] at {self._path}>"

    # -- links -----------------------------------------------------------------------------

    def _attempts(self) -> Iterator[_Attempts]:
        """Once if all goes well; again for each host that is lost in the middle."""
        attempts = _Attempts()
        while not attempts.done:
            yield attempts

    @contextmanager
    def _lease(self, attempts: _Attempts, stream: bool = False) -> Generator[Link, None, None]:
        """A link for a ``with`` block; it is kept if nothing is open on it by then."""
        link = self._take(stream) or self._connect(stream, attempts)
        try:
            yield link
            attempts.done = True
        except LinkLost as lost:
            if self._closed:
                raise PoolClosed(node=self.node, may_have_run=True) from lost
            attempts.count += 1
            logger.warning('"%s": the shared host at %s is lost: %s', self.node, self._path, lost)
            if attempts.exhausted or attempts.count >= self.settings.max_attempts:
                raise self._lost(lost, may_have_run=True) from lost
        finally:
            if link.is_fit and not self._closed:
                self._idle[stream].append(link)
            else:
                link.close()

    def _take(self, stream: bool) -> Link | None:
        idle = self._idle[stream]
        while idle:
            link = idle.pop()
            if link.is_fit:
                return link
            link.close()
        return None

    def _connect(self, stream: bool, attempts: _Attempts) -> Link:
        """Wait for a host, as long as a message may take."""
        config = self._config(stream)
        deadline = time.monotonic() + self.settings.timeout
        while True:
            if self._closed:
                raise PoolClosed(node=self.node, may_have_run=attempts.count > 0)
            try:
                return self._link(config)
            except LinkRefused as refused:
                raise self._lost(refused, may_have_run=attempts.count > 0) from refused
            except LinkLost as lost:
                turn = _TURN if not isinstance(lost, LinkFull) else _FULL * random.random()
                if not attempts.warned:
                    attempts.warned = True
                    logger.warning(
                        '"%s" waits for a shared host at %s: %s', self.node, self._path, lost
                    )
                if remaining(deadline) <= 0:
                    raise self._lost(lost, may_have_run=attempts.count > 0) from lost
            time.sleep(min(turn, remaining(deadline)))

    def _link(self, config: Mapping[str, Any]) -> Link:
        link = Link(self._path, self.node, config)
        with self._lock:
            self._all.add(link)
        return link

    def _config(self, stream: bool) -> dict[str, Any]:
        """Made once, as a pool's program is: another environment later is not another node."""
        if self._described is None:
            self._described = from_node(self._describe())
        return {**self._described, "stream": stream}

    def _lost(self, lost: LinkLost, *, may_have_run: bool) -> HostLost:
        return HostLost(
            node=self.node,
            path=self._path,
            reason=str(lost),
            may_have_run=may_have_run,
            is_full=isinstance(lost, LinkFull),
        )

    # -- many ------------------------------------------------------------------------------

    def _fill(self, link: Link, waiting: deque[Job], source: Iterator[Job]) -> bool:
        """Submit the next messages, if there is room for a slice of them. False: it did not."""
        window = self.settings.window
        if len(waiting) > window - max(1, window // _SLICES):
            return False
        before = len(waiting)
        while len(waiting) < window and link.pending < _AHEAD:
            job = next(source, None)
            if job is None:
                break
            waiting.append(job)
            self._submit(link, job)
        return len(waiting) > before

    def _submit(self, link: Link, job: Job) -> None:
        if job.outcome is None:
            job.release()
            try:
                link.submit(job)
            except (EncodeError, FrameTooLarge) as error:
                job.outcome = error

    def _settled(self, job: Job) -> list[Any] | Exception:
        outcome = self.settle(job)
        if isinstance(outcome, _OF_THE_POOL):
            raise outcome
        return outcome

    def _note(self, job: Job, since: float) -> float:
        now = time.monotonic()
        self.account.answered((job.outcome,), now - since)
        return now


class _Attempts:
    """How often a host was lost with the same work."""

    def __init__(self) -> None:
        self.count = 0
        self.done = False
        self.exhausted = False
        self.warned = False
