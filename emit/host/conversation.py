"""
The exchange between a host and one peer: the open calls, their results, and everything else that
the peer says. A peer is a process of a node (`emit.host.process`) or a shared host
(`emit.host.shared.client`).

1. One thread at a time converses: the holder of the peer's lease.
2. A call is open from `submit` until its answer has come. `jobs` is the only table of them.
3. `condemned` is the only verdict on whether the peer may be used again. While a call is open, it
   may not.
4. A call that is left open (after a timeout, a soft time limit, Ctrl-C or an abandoned generator)
   is given up: it stays in the table, without its job, until its answer has come, and the peer is
   asked to end it. If the peer does not within ``cancel_grace``, it must be killed: it would work
   on for nobody, and the next caller would wait for it.
"""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from emit.errors import (
    CallTimeout,
    EncodeError,
    FrameTooLarge,
    HostError,
    ProtocolError,
    RemoteError,
)
from emit.host.fate import AHEAD, Job, too_much
from emit.host.lines import LEVELS
from emit.host.settings import Settings
from emit.host.transport import Poll, Transport, remaining
from emit.host.wire import frames
from emit.host.wire.session import Broken, LineSession, Session, Unmatched
from emit.text import LINES, clean, one_line

__all__ = ["MEMORY_TICK", "Conversation", "Peer"]

#: Seconds between two checks of the memory of a working process that has ``max_rss``. A process
#: that allocates 1 GB/s is then found 110 MB above its limit.
MEMORY_TICK = 0.1

#: Bytes of a group of calls, about: the capacity of a pipe on Linux. A process begins with a group
#: when it has read all of it, so a larger one would keep the process waiting.
GROUP = 64 * 1024

#: Stands in the table of open calls for a message that was given up. Its answer is dropped.
_GIVEN_UP = Job({}, overflow=AHEAD)

_EARLY = (
    "a line on stdout that is no frame: %s (print to stderr or use the SDK's log; more such "
    "lines are only counted)"
)
_LATER = (
    "a line of %d bytes on stdout that is no frame (print to stderr or use the SDK's log; set "
    "this logger to DEBUG to see such lines; more are only counted)"
)


class Peer(Protocol):
    """The other end of a conversation."""

    def serve(self, node: str) -> None:
        """Work for another node of the same program from now on."""

    def ended(self, fault: ProtocolError | None) -> HostError | None:
        """
        Return the error that ended the peer, and condemn the peer: it broke the protocol, or no
        more data can come. None: more data has come meanwhile.
        """

    def failure(self, *, may_have_run: bool | None = None) -> HostError:
        """Make the error of a peer that said that it can't go on."""

    def overdue(self) -> HostError:
        """Make the error of a peer that did not answer in time."""

    def check_memory(self) -> None:
        """Raise the error of a peer that uses more memory than its limit."""

    def error_of(self, job: Job, err: frames.Err) -> Exception:
        """Make the outcome of a job whose handler failed."""


class Conversation:
    """
    The conversation with one peer.

    Args:
        node: The node's name.
        session: The protocol: turns bytes into events, and calls into bytes.
        transport: Moves the bytes.
        peer: The other end.
        settings: The node's options.
        logger: The node's logger.

    Attributes:
        node: The node that the peer serves at present.
        logger: That node's logger.
        session: The protocol's state; `session.ready` has the peer's announcement.
        transport: Moves the bytes.
        jobs: The open jobs by the numbers of their calls, oldest first.
        count: Number of answered calls.
        kept: Bytes of the results of open calls so far.
        unsent: Bytes of calls that the peer had not taken at the last `flush`, and of later calls.
        strays: Number of lines on stdout that were not frames.
        failed: The peer's message that it can't go on.
        fault: The breach of the protocol. Earlier answers stand.
        oversized: The last frame over max_frame that belonged to no call.
        condemned: Why the peer must go once its open calls are done, if not earlier. For the log,
            so it has no payload. None: the peer may stay.
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
        # Weak: if the last caller is interrupted, its peer must be gone at once. In a circle it
        # would stay until the collector's next round.
        self._peer: Peer = weakref.proxy(peer)
        self._settings = settings
        self._poll = Poll([transport])
        self._unsent: list[bytes] = []
        self._average = GROUP  # bytes of a message of the last frame
        self._grace_end = 0.0  # when a call that was given up must have ended
        self._overdue = ""  # why it was given up, if its time had passed
        self._has_limit = settings.max_rss is not None
        self._memory_due = 0.0

    @property
    def concurrency(self) -> int:
        """Number of messages that the peer works on at a time, as it announced."""
        return self.session.ready.concurrency if self.session.ready else 1

    @property
    def is_over(self) -> bool:
        """True if no more data can come from the peer; `receive` then raises the reason."""
        return self.fault is not None or self.transport.over

    @property
    def open_jobs(self) -> list[Job]:
        """The jobs without an outcome, oldest first, but not those that were given up."""
        return [job for job in self.jobs.values() if job is not _GIVEN_UP]

    @property
    def is_cancelling(self) -> bool:
        """True if a call that was given up has not ended yet."""
        return _GIVEN_UP in self.jobs.values()

    @property
    def can_cancel(self) -> bool:
        """True if the peer can be asked to end a call, and has not been asked before."""
        ready, is_well = self.session.ready, self.condemned is None and not self.transport.torn
        asks = self._settings.cancel_grace > 0 and ready is not None and "cancel" in ready.caps
        return asks and is_well and not self.is_over and not self.is_cancelling

    # -- to the peer -----------------------------------------------------------------------

    def submit(self, job: Job, meta: Mapping[str, Any] | None = None) -> None:
        """
        Encode a call. It is sent with the next `flush`.

        Raises:
            EncodeError, FrameTooLarge: The message can't be sent. Nothing was sent, and the peer
                stays usable.
            HostError: The peer has said that it can't go on.
        """
        if self.failed is not None:
            raise self._peer.failure(may_have_run=False)
        if job.node and job.node != self.node:
            self._peer.serve(job.node)
        number, data = self.session.call(job.fields, node=job.program_node, meta=meta)
        self.jobs[number] = job
        self._unsent.append(data)
        self._average = len(data)
        self.unsent += self._average

    def submit_all(self, jobs: list[Job], metas: list[Mapping[str, Any] | None]) -> None:
        """
        Encode the calls of several jobs of one node, which are sent with the next `flush`: as a
        group, if the peer takes groups and all of them fit. The size of a group should be at most
        `group_size`. A message that can't be sent is the outcome of its job.

        Args:
            jobs: The jobs; at least one.
            metas: The meta of each.

        Raises:
            HostError: The peer has said that it can't go on.
        """
        if len(jobs) > 1 and self.session.takes_groups and self._submit_group(jobs, metas):
            return
        for job, meta in zip(jobs, metas, strict=True):
            try:
                self.submit(job, meta)
            except (EncodeError, FrameTooLarge) as error:
                job.outcome = error

    def _submit_group(self, jobs: list[Job], metas: list[Mapping[str, Any] | None]) -> bool:
        """Encode a group. Return False if a message can't be sent, or a frame can't hold all."""
        if self.failed is not None:
            raise self._peer.failure(may_have_run=False)
        first = jobs[0]
        if first.node and first.node != self.node:
            self._peer.serve(first.node)
        assert isinstance(self.session, Session)  # a filter takes no groups
        messages = [job.fields for job in jobs]
        try:
            number, data = self.session.calls(messages, metas, node=first.program_node)
        except (EncodeError, FrameTooLarge):
            return False
        self.jobs.update(zip(range(number, number + len(jobs)), jobs, strict=True))
        self._unsent.append(data)
        self._average = len(data) // len(jobs)
        self.unsent += len(data)
        return True

    @property
    def group_size(self) -> int:
        """Number of messages to send as a group: 1 until the size of one message is known."""
        return max(1, GROUP // (self._average + 1)) if self.session.takes_groups else 1

    def serve(self, node: str, logger: logging.Logger) -> None:
        """Report errors and log lines under the name *node* from now on."""
        self.node = self.session.node = node
        self.logger = logger

    def flush(self) -> None:
        """Send the submitted calls, as far as the peer takes them; `wait` sends the rest."""
        if self._has_limit:
            self._memory_due = time.monotonic() + MEMORY_TICK
        if self._unsent:
            data, self._unsent = b"".join(self._unsent), []  # an exception must not send it twice
            self.transport.send(data)
        self.unsent = self.transport.pending if self.transport.sending else 0

    def cancel(self, jobs: Sequence[Job] | None = None) -> float:
        """
        Give up open calls: drop their answers, and ask the peer to end them.

        Args:
            jobs: The jobs to give up. None: all that are open.

        Returns:
            Time until which the peer should have ended them, by the monotonic clock. 0: it can't be
            asked, and nothing has changed.
        """
        ids = [id for id, job in self.jobs.items() if jobs is None or job in jobs]
        if not ids or not self.can_cancel:
            return 0.0
        assert isinstance(self.session, Session)  # a filter has no abilities
        data = map(self.session.cancel, ids)
        self._grace_end = time.monotonic() + self._settings.cancel_grace
        for id in ids:
            self.jobs[id] = _GIVEN_UP
        self.kept = sum(job.size for job in self.open_jobs)
        self._unsent += data
        self.flush()
        return self._grace_end

    def settle(self) -> bool:
        """
        Return whether the peer may be used again. If it has open calls, they are given up, and it
        has ``cancel_grace`` to end them.
        """
        if self.jobs and (self.is_cancelling or self.cancel()):
            with contextlib.suppress(HostError):  # the error is in `condemned`
                while self.is_cancelling and not self.condemned and remaining(self._grace_end) > 0:
                    self._poll.step(remaining(self._grace_end))
                    self.receive()
        if self.jobs:
            self.condemned = self.condemned or self._overdue or None
        return not self.jobs and self.condemned is None

    # -- from the peer ---------------------------------------------------------------------

    def attend(self, caller: int) -> None:
        """Have `wait` raise `Abandoned` if the other end of this socket is closed."""
        self._poll.attend(caller)

    def leave(self, caller: int) -> None:
        """Stop attending to the socket."""
        self._poll.leave(caller)

    def wait(self, deadline: float) -> None:
        """
        Wait until data has come from the peer.

        Raises:
            HostError: No data came by *deadline*; or the peer has grown over ``max_rss``.
        """
        transport = self.transport
        if transport.over or self.fault is not None:
            return
        now = time.monotonic()
        if transport.until <= now < deadline:
            self._poll.step(0)  # the caller of a stream may have left signs of life unread
            if transport.over or transport.until > now:
                return
        left = min(deadline, transport.until) - now
        if left <= 0:
            raise self._time_out()
        self._poll.step(min(left, MEMORY_TICK) if self._has_limit else left)
        if self._has_limit and not transport.received:
            self.check_memory()

    def _time_out(self) -> HostError:
        error = self._peer.overdue()
        self._overdue = str(error)
        return error

    def check_memory(self) -> None:
        """
        Check the memory of a peer that has worked for a while since the last call was sent. A quick
        call is checked when it is over.

        Raises:
            ProcessDied: The peer uses more than ``max_rss``. The caller must kill it.
        """
        now = time.monotonic()
        if self._has_limit and now >= self._memory_due:
            self._memory_due = now + MEMORY_TICK
            self._peer.check_memory()

    def receive(self) -> list[Job]:
        """
        Take the data that has come.

        Returns:
            The jobs that are no longer open.

        Raises:
            HostError: The peer can't be used any more. Its earlier answers are in their jobs.
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
        Check an idle peer before it is used again.

        Returns:
            Why it can't be used: it has ended, or said something unasked. None: it can be used.
        """
        if self.condemned is None and self._poll.is_quiet:
            return None
        with contextlib.suppress(HostError):  # the error is in `condemned`
            self._poll.step(0)
            self.receive()
        return self.condemned

    def take(self, events: Iterable[Any], done: list[Job], sizes: dict[int, int]) -> None:
        """
        Take the events that the session has read.

        Args:
            events: The events, in order.
            done: A list that gets the jobs that are no longer open.
            sizes: For each call, the bytes of its results among *events*.
        """
        for event in events:
            if type(event) is frames.End:  # the common case, first
                job = self.jobs.pop(event.id)
                self.count += 1
                if job is _GIVEN_UP:
                    self._see_kept()
                    continue
                done.append(job)
                results: Any = event.msgs or []  # an end may leave them out
                if sizes or job.results is not None or job.overflow:
                    self.kept -= job.size
                    job.size += sizes.get(event.id, 0)
                    self._finish(job, results)
                elif len(results) > self._settings.max_results:
                    self._finish(job, results)
                else:
                    job.outcome = results
            elif type(event) is frames.Ends:
                self._take_group(event, done, sizes)
            else:
                self._take(event, done, sizes)

    def _take_group(self, group: frames.Ends, done: list[Job], sizes: dict[int, int]) -> None:
        most, pop = self._settings.max_results, self.jobs.pop
        self.count += len(group.msgs)
        for id, results in enumerate(group.msgs, group.id):
            job = pop(id)
            if job is _GIVEN_UP:
                self._see_kept()
                continue
            done.append(job)
            if sizes or job.results is not None or job.overflow or len(results) > most:
                self.kept -= job.size
                job.size += sizes.get(id, 0)
                self._finish(job, results)
            else:
                job.outcome = results  # type: ignore[assignment]  # a list, as the reader has seen

    def drop(self, job: Job) -> None:
        """
        Drop the results of an open call, present and future ones, as there is no room for them.
        At its end the job has no outcome and must run again.
        """
        self.kept -= job.size
        job.release()
        job.overflow = AHEAD

    def _finish(self, job: Job, results: Any) -> None:
        """End a call that succeeded. *results* are its last ones."""
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
        """Return the setting that *count* results of a job exceed, or an empty text."""
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
                if job is _GIVEN_UP:
                    return self._see_kept()
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
                # The process gets this long to end by itself.
                self.transport.until = time.monotonic() + self._settings.stop_grace
            case Unmatched():
                self.condemned = "it answered what nobody had asked"
            case Broken():
                self.fault = event.error
                self.condemned = event.error.reason  # the error's text quotes the output

    def _see_kept(self) -> None:
        """A call that was given up has ended. Log the fault that did not cost its peer the life."""
        if self._overdue and not self.is_cancelling:
            self.logger.warning(
                "%s; the process ended the call and is kept", one_line(self._overdue)
            )
            self._overdue = ""

    def _close(self, id: int) -> Job:
        """End a call without results."""
        job = self.jobs.pop(id)
        self.kept -= job.size
        job.size = 0
        return job

    def _add(self, job: Job, results: Any, size: int) -> None:
        if job.overflow:  # the rest is read and dropped, so that the peer stays usable
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
        if job is _GIVEN_UP:
            self._see_kept()
            return []
        job.outcome = FrameTooLarge(
            node=self.node, size=event.size, limit=event.limit, outgoing=False
        )
        return [job]

    def _log(self, event: frames.Log) -> None:
        """Log each line as its own record, as for stderr: no line can pass for another record."""
        level = LEVELS.get(event.level.upper(), logging.INFO)
        extra = {"emit_call": event.id, "emit_fields": event.fields}
        job = None if event.id is None else self.jobs.get(event.id)
        if job is not None:
            extra |= job.marks
        lines = [line for line in event.text.split("\n") if line.strip()]
        for line in lines[:LINES]:
            self.logger.log(level, "%s", line.rstrip("\r"), extra=extra)
        if len(lines) > LINES:
            self.logger.log(level, "... (%d more lines)", len(lines) - LINES, extra=extra)

    def _stray(self, data: bytes) -> None:
        """
        Log or count a line that is not a frame. Before the first message it can only be a print of
        the program. Later it may be an answer in the program's own format, so it is a payload.
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
    """Make the error of a handler that failed, or that stopped itself at its deadline."""
    error = RemoteError(
        node=node,
        type=err.type,
        message=err.message,
        stack=tuple(err.stack),
        retry=err.retry,
        after=err.after,
    )
    if err.timeout and err.retry is None:  # else the author has decided about the retry
        return CallTimeout(node=node, timeout=timeout, remote=error)
    return error
