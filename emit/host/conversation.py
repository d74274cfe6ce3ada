"""
What a host and one peer say to each other: the open calls, what has come for them, and what else
the peer has said. A peer is a process of a node (`emit.host.process`), or a shared host
(`emit.host.shared.client`).

1. One thread at a time converses: the holder of the peer's lease.
2. Whatever interrupts an exchange (a soft time limit, Ctrl-C, an abandoned generator) leaves bytes
   of the old answer on their way, which the next caller would take for his. So a conversation that
   is left with open calls is never used again.
3. A call is open from `submit` until its job has an outcome. `jobs` is the one table of them.
4. `condemned` is the one verdict on whether the peer may be used again.
"""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from emit.errors import CallTimeout, FrameTooLarge, HostError, ProtocolError, RemoteError
from emit.host.fate import AHEAD, Job, too_much
from emit.host.lines import LEVELS
from emit.host.settings import Settings
from emit.host.transport import Poll, Transport
from emit.host.wire import frames
from emit.host.wire.session import Broken, LineSession, Session, Unmatched
from emit.text import LINES, clean

__all__ = ["MEMORY_TICK", "Conversation", "Peer"]

#: Seconds between two looks at the memory of a process that has ``max_rss`` and works: one that
#: allocates 1 GB/s is then found 110 MB above its limit.
MEMORY_TICK = 0.1

_EARLY = (
    "a line on stdout that is no frame: %s (print to stderr or use the SDK's log; more such "
    "lines are only counted)"
)
_LATER = (
    "a line of %d bytes on stdout that is no frame (print to stderr or use the SDK's log; set "
    "this logger to DEBUG to see such lines; more are only counted)"
)


class Peer(Protocol):
    """The other end, as far as a conversation has to ask about it."""

    def serve(self, node: str) -> None:
        """Work for another node of the same program from now on."""

    def ended(self, fault: ProtocolError | None) -> HostError | None:
        """
        Say what has become of it, and condemn it: it has broken the protocol, or nothing more can
        come. None: more has come meanwhile.
        """

    def failure(self, *, may_have_run: bool | None = None) -> HostError:
        """Make the error of a peer that has said that it can't go on."""

    def overdue(self) -> HostError:
        """Make the error of a peer that has not answered in time."""

    def check_memory(self) -> None:
        """Raise the error of a peer that has more memory than it may have."""

    def error_of(self, job: Job, err: frames.Err) -> Exception:
        """Make the outcome of a job that has failed."""


class Conversation:
    """
    Args:
        node: The node's name.
        session: The protocol: bytes to events, and what is said to bytes.
        transport: What moves the bytes.
        peer: The other end.
        settings: The node's knobs.
        logger: The node's.

    Attributes:
        node: The node that the peer serves just now.
        logger: That node's.
        session: The protocol's state; `session.ready` tells what the peer announced.
        transport: What moves the bytes.
        jobs: The open ones by the numbers of their calls, the oldest first.
        count: Calls that were answered.
        kept: Bytes of the results that have come of open calls.
        unsent: Bytes of calls that the peer had not taken by the last `flush`, and of those since.
        strays: Lines on stdout that were no frames.
        failed: What it said when it could not go on.
        fault: How it broke the protocol. What it had answered before stands.
        oversized: The last frame over max_frame that belonged to no call.
        condemned: Why it must go, at the latest when its open calls are done, for the log: no
            payload. None: it may stay.
    """

    def __init__(
        self,
        node: str,
        session: Session | LineSession,
        transport: Transport,
        peer: Peer,
        settings: Settings,
        logger: logging.Logger,
    ) -> None:
        self.node = node
        self.session = session
        self.transport = transport
        self.logger = logger
        self.jobs: dict[int, Job] = {}
        self.count = 0
        self.kept = 0
        self.unsent = 0
        self.strays = 0
        self.failed: frames.Failure | None = None
        self.fault: ProtocolError | None = None
        self.oversized: frames.TooLarge | None = None
        self.condemned: str | None = None
        # Weak: a peer whose last caller is thrown out is to be gone at once, and in a circle it
        # would stay until the collector's next round.
        self._peer: Peer = weakref.proxy(peer)
        self._settings = settings
        self._poll = Poll([transport])
        self._unsent: list[bytes] = []
        self._has_limit = settings.max_rss is not None
        self._memory_due = 0.0

    @property
    def concurrency(self) -> int:
        """How many messages the peer works on at a time, as it announced."""
        return self.session.ready.concurrency if self.session.ready else 1

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come of it; `receive` then says why."""
        return self.fault is not None or self.transport.over

    @property
    def open_jobs(self) -> list[Job]:
        """Those without an outcome, the oldest first."""
        return list(self.jobs.values())

    # -- to the peer -----------------------------------------------------------------------

    def submit(self, job: Job, meta: Mapping[str, Any] | None = None) -> None:
        """
        Encode a call. It is sent with the next `flush`.

        Raises:
            EncodeError, FrameTooLarge: It can't be sent. Nothing of it was, and the peer stays
                usable.
            HostError: The peer has said that it can't go on.
        """
        if self.failed is not None:
            raise self._peer.failure(may_have_run=False)
        if job.node and job.node != self.node:
            self._peer.serve(job.node)
        number, data = self.session.call(job.fields, node=job.program_node, meta=meta)
        self.jobs[number] = job
        self._unsent.append(data)
        self.unsent += len(data)

    def serve(self, node: str, logger: logging.Logger) -> None:
        """Have the errors and the log of what follows be those of *node*."""
        self.node = self.session.node = node
        self.logger = logger

    def flush(self) -> None:
        """Send what was submitted, as much as the peer takes; `wait` sends the rest."""
        if self._has_limit:
            self._memory_due = time.monotonic() + MEMORY_TICK
        if self._unsent:
            self.transport.send(b"".join(self._unsent))
            self._unsent.clear()
        self.unsent = self.transport.pending

    # -- from the peer ---------------------------------------------------------------------

    def attend(self, caller: int) -> None:
        """From now on `wait` raises `Abandoned` when the other end of this socket is closed."""
        self._poll.attend(caller)

    def leave(self, caller: int) -> None:
        """Attend the socket no longer."""
        self._poll.leave(caller)

    def wait(self, deadline: float) -> None:
        """
        Wait until something has come from the peer.

        Raises:
            HostError: Nothing has until *deadline*; or it has grown over ``max_rss``.
        """
        transport = self.transport
        if transport.over or self.fault is not None:
            return
        left = min(deadline, transport.until) - time.monotonic()
        if left <= 0:
            raise self._peer.overdue()
        self._poll.step(min(left, MEMORY_TICK) if self._has_limit else left)
        if self._has_limit and not transport.received:
            self.check_memory()

    def check_memory(self) -> None:
        """
        Look how much memory the peer has, if it has been at work for a while since it was last
        sent something: a quick call is looked at when it is over.

        Raises:
            ProcessDied: More than ``max_rss``. It is to be killed.
        """
        now = time.monotonic()
        if self._has_limit and now >= self._memory_due:
            self._memory_due = now + MEMORY_TICK
            self._peer.check_memory()

    def receive(self) -> list[Job]:
        """
        Take what has come.

        Returns:
            The jobs that are open no more.

        Raises:
            HostError: The peer is of no more use. What it had answered before is in its jobs.
        """
        transport, done = self.transport, list[Job]()
        if self.fault is not None or (transport.over and not transport.received):
            error = self._peer.ended(self.fault)
            if error is not None:
                raise error
        chunks, transport.received = transport.received, []
        for chunk in chunks:
            self.take(self.session.receive(chunk), done, self.session.sizes)
        return done

    def look(self) -> str | None:
        """
        Look at an idle peer before it is used again.

        Returns:
            Why it can't be used: it has ended, or said what nobody asked for. None: it can.
        """
        if self.condemned is None and self._poll.is_quiet:
            return None
        with contextlib.suppress(HostError):  # it is condemned by that
            self._poll.step(0)
            self.receive()
        return self.condemned

    def take(self, events: Iterable[Any], done: list[Job], sizes: dict[int, int]) -> None:
        """
        Take what the session has read.

        Args:
            events: What has happened, in order.
            done: To add the jobs to that are open no more.
            sizes: For each call, the bytes of its results among *events*.
        """
        for event in events:
            if type(event) is frames.End:  # the common case, first
                job = self.jobs.pop(event.id)
                done.append(job)
                self.count += 1
                results: Any = event.msgs or []  # an end may leave them out
                if sizes or job.results is not None or job.overflow:
                    self.kept -= job.size
                    job.size += sizes.get(event.id, 0)
                    self._finish(job, results)
                elif len(results) > self._settings.max_results:
                    self._finish(job, results)
                else:
                    job.outcome = results
            else:
                self._take(event, done, sizes)

    def drop(self, job: Job) -> None:
        """
        Drop what has come of an open call, and what is still to come: there is no room for it. At
        its end it has no outcome, and is to run again.
        """
        self.kept -= job.size
        job.release()
        job.overflow = AHEAD

    def _finish(self, job: Job, results: Any) -> None:
        """A call has succeeded; *results* are its last."""
        if job.results is not None:
            results = job.all_with(results)
        job.overflow = job.overflow or self._overflow(job, len(results))
        if not job.overflow:
            job.outcome = results
            return
        job.size = 0
        if job.overflow != AHEAD:
            limit = getattr(self._settings, job.overflow)
            job.outcome = too_much(job.node or self.node, job.overflow, limit)

    def _overflow(self, job: Job, count: int) -> str:
        """The setting that so many results of a job are over, if any."""
        if job.streamed:
            return ""
        if count > self._settings.max_results:
            return "max_results"
        return "max_result_bytes" if job.size > self._settings.max_result_bytes else ""

    def _take(self, event: Any, done: list[Job], sizes: dict[int, int]) -> None:
        match event:
            case frames.Out():
                self._add(self.jobs[event.id], event.msgs, sizes.pop(event.id, 0))
            case frames.Err():
                job = self._close(event.id)
                self.count += 1
                job.outcome = self._peer.error_of(job, event)
                done.append(job)
            case frames.Log():
                self._log(event)
            case frames.Stray():
                self._stray(event.data)
            case frames.TooLarge():
                done.extend(self._too_large(event))
            case frames.Failure():
                self.failed = event
                self.condemned = f"it can't go on: {event.type}"
                # It is given this long to end.
                self.transport.until = time.monotonic() + self._settings.stop_grace
            case Unmatched():
                self.condemned = "it answered what nobody had asked"
            case Broken():
                self.fault = event.error
                self.condemned = event.error.reason  # its text quotes what was said

    def _close(self, id: int) -> Job:
        """End a call without results."""
        job = self.jobs.pop(id)
        self.kept -= job.size
        job.size = 0
        return job

    def _add(self, job: Job, results: Any, size: int) -> None:
        if job.overflow:  # the rest is read, so that the peer stays usable, and dropped
            return
        job.add(results)
        job.size += size
        self.kept += size
        if overflow := self._overflow(job, len(job.results or ())):
            self.kept -= job.size
            job.release()
            job.overflow = overflow

    def _too_large(self, event: frames.TooLarge) -> list[Job]:
        if event.id is None or event.id not in self.jobs:
            self.oversized = event
            self.condemned = "it wrote a frame over max_frame"
            return []
        job = self._close(event.id)
        job.outcome = FrameTooLarge(
            node=self.node, size=event.size, limit=event.limit, outgoing=False
        )
        return [job]

    def _log(self, event: frames.Log) -> None:
        """A record for each line, as of stderr: no second line can pass for another record."""
        level = LEVELS.get(event.level.upper(), logging.INFO)
        extra = {"emit_call": event.id, "emit_fields": event.fields}
        lines = [line for line in event.text.split("\n") if line.strip()]
        for line in lines[:LINES]:
            self.logger.log(level, "%s", line.rstrip("\r"), extra=extra)
        if len(lines) > LINES:
            self.logger.log(level, "... (%d more lines)", len(lines) - LINES, extra=extra)

    def _stray(self, data: bytes) -> None:
        """
        A line that is not a frame. Before the first message it can only be the program's own print;
        afterwards it may be an answer that the program has written in its own way.
        """
        self.strays += 1
        is_own = not (self.jobs or self.count)
        text = clean(data.decode("utf-8", "replace"))
        if self.strays == 1 and is_own:
            self.logger.warning(_EARLY, text)
            return
        if self.strays == 1:
            self.logger.warning(_LATER, len(data))
        self.logger.debug("stdout: %s", text)


def error_of(node: str, timeout: float, err: frames.Err) -> RemoteError | CallTimeout:
    """Make the error of a handler that has failed, or that ended at its deadline by itself."""
    error = RemoteError(
        node=node,
        type=err.type,
        message=err.message,
        stack=tuple(err.stack),
        retry=err.retry,
        after=err.after,
    )
    if err.timeout and err.retry is None:  # else the author has said what is to be done
        return CallTimeout(node=node, timeout=timeout, remote=error)
    return error
