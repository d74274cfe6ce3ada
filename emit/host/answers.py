"""
The open calls of a process, and what it says: to them, of itself, and to nobody. No I/O here but
the node's log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from emit.errors import CallTimeout, FrameTooLarge, ProtocolError, RemoteError
from emit.host.fate import AHEAD, Job, too_much
from emit.host.lines import LEVELS
from emit.host.wire import frames
from emit.host.wire.session import Broken, Unmatched
from emit.text import LINES, clean

_EARLY = (
    "a line on stdout that is no frame: %s (print to stderr or use the SDK's log; more such "
    "lines are only counted)"
)
_LATER = (
    "a line of %d bytes on stdout that is no frame (print to stderr or use the SDK's log; set "
    "this logger to DEBUG to see such lines; more are only counted)"
)


class Answers:
    """
    Args:
        node: The node's name, for errors.
        max_results: Of one message, unless it streams.
        max_bytes: Of the results of one message, unless it streams.
        timeout: Seconds for one message, for errors.
        logger: The node's.

    Attributes:
        node: The node's name.
        logger: The node's.
        jobs: The open ones by the numbers of their calls, the oldest first.
        count: Calls that were answered.
        kept: Bytes of the results that have come of open calls.
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
        max_results: int,
        max_bytes: int,
        timeout: float,
        logger: logging.Logger,
    ) -> None:
        self.jobs: dict[int, Job] = {}
        self.count = 0
        self.kept = 0
        self.strays = 0
        self.failed: frames.Failure | None = None
        self.fault: ProtocolError | None = None
        self.oversized: frames.TooLarge | None = None
        self.condemned: str | None = None
        self.node = node
        self._max_results = max_results
        self._max_bytes = max_bytes
        self._timeout = timeout
        self.logger = logger

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
                if sizes or job.results is not None or job.overflow:
                    self.kept -= job.size
                    job.size += sizes.get(event.id, 0)
                self.finish(job, event.msgs)
                done.append(job)
            else:
                self._take(event, done, sizes)

    def finish(self, job: Job, results: Any) -> None:
        """A call has succeeded; *results* are its last."""
        self.count += 1
        if job.results is not None:
            results = job.all_with(results)
        if job.overflow or len(results) > self._max_results or job.size > self._max_bytes:
            job.overflow = job.overflow or self._overflow(job, len(results))
            if job.overflow:
                return self._refuse(job)
        job.outcome = results or []  # an end may leave them out

    def _refuse(self, job: Job) -> None:
        job.size = 0
        if job.overflow != AHEAD:
            limit = self._max_bytes if job.overflow == "max_result_bytes" else self._max_results
            job.outcome = too_much(job.node or self.node, job.overflow, limit)

    def drop(self, job: Job) -> None:
        """
        Drop what has come of an open call, and what is still to come: there is no room for it. At
        its end it has no outcome, and is to run again.
        """
        self.kept -= job.size
        job.release()
        job.overflow = AHEAD

    def _closed(self, id: int) -> Job:
        job = self.jobs.pop(id)
        self.kept -= job.size
        return job

    def _overflow(self, job: Job, count: int) -> str:
        """The setting that so many results of a job are over, if any."""
        if job.streamed:
            return ""
        if count > self._max_results:
            return "max_results"
        return "max_result_bytes" if job.size > self._max_bytes else ""

    def _take(self, event: Any, done: list[Job], sizes: dict[int, int]) -> None:
        match event:
            case frames.Out():
                self._add(self.jobs[event.id], event.msgs, sizes.pop(event.id, 0))
            case frames.Err():
                job = self._closed(event.id)
                self.count += 1
                job.size = 0
                job.outcome = self._failure(job.node, event)
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
            case Unmatched():
                self.condemned = "it answered what nobody had asked"
            case Broken():
                self.fault = event.error
                self.condemned = event.error.reason  # its text quotes what was said

    def _add(self, job: Job, results: Any, size: int) -> None:
        if job.overflow:  # the rest is read, so that the process stays usable, and dropped
            return
        job.add(results)
        job.size += size
        self.kept += size
        if overflow := self._overflow(job, len(job.results or ())):
            self.kept -= job.size
            job.release()
            job.overflow = overflow

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

    def _too_large(self, event: frames.TooLarge) -> list[Job]:
        if event.id is None or event.id not in self.jobs:
            self.oversized = event
            self.condemned = "it wrote a frame over max_frame"
            return []
        job = self._closed(event.id)
        job.size = 0
        job.outcome = FrameTooLarge(
            node=self.node, size=event.size, limit=event.limit, outgoing=False
        )
        return [job]

    def _failure(self, node: str, event: frames.Err) -> RemoteError | CallTimeout:
        error = RemoteError(
            node=node,
            type=event.type,
            message=event.message,
            stack=tuple(event.stack),
            retry=event.retry,
            after=event.after,
        )
        if event.timeout and event.retry is None:  # else the author has said what is to be done
            return CallTimeout(node=node, timeout=self._timeout, remote=error)
        return error
