"""
The fate of a message whose process failed: pure rules. No I/O here.

1. A process that hangs or breaks the protocol is working on the oldest open message. That message
   is charged with an attempt and runs again, alone. The messages behind it never started, so they
   go to another process and are not charged. (Charging all of 50 dead-lettered 313 innocent
   messages of 20,000.)
2. A process that died may have taken finished answers with it, since answers wait up to 1 ms for
   company. A process that works on several messages at a time has several suspects. Nothing is
   charged then. Each suspect runs again alone, and is charged if its process fails then. (Charging
   the oldest charged up to 30 innocent messages, one process start for each, for every message
   that kills.) The rule also holds for a single message in a process that had announced its end:
   another message may have caused it.
3. A death before ``ready`` charges no message.
4. The loss of a shared host charges no message.
5. After ``max_attempts`` charges the message becomes a dead letter, with all its causes. With
   ``max_retries``, attempts after which the handler asks for another are counted separately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emit.context import Context, Run
from emit.errors import (
    CallTimeout,
    HostError,
    HostLost,
    ProcessDied,
    ProtocolError,
    RemoteError,
    ResultError,
)
from emit.letter import Cause, DeadLetter
from emit.observe.logs import marks

#: The overflow of a job whose results were dropped because too many others waited: see `Batch`.
AHEAD = "ahead"

#: Failures of a peer, as opposed to answers: the message may run again with another one.
FAILURES = (ProcessDied, CallTimeout, ProtocolError, HostLost)


@dataclass(eq=False, slots=True)
class Job:
    """
    One message on its way to its fate.

    Attributes:
        fields: The message.
        index: Its position in a batch.
        node: The node that the message is for.
        program_node: The node's name in its program, if the program has several nodes.
        context: The queue's data about the message; None: it did not come from a queue.
        run: The run that observers were told of, or None.
        causes: Reasons why the charged attempts failed.
        asked: Number of these attempts after which the handler asked for another.
        losses: Number of times that a shared host was lost with the message.
        alone: Run the message with no other message in the process.
        results: Results that have come so far, if they come in parts.
        size: Bytes of the results so far.
        streamed: The results are taken as they come, so they have no limit.
        overflow: The setting that the results exceeded, such as ``max_results``; they are dropped.
            `AHEAD`: they would have waited too long for the results of an earlier message.
        outcome: The results, or the exception that stands for them. None: the job is open.
    """

    fields: Mapping[str, Any] = field(repr=False)  # a payload must not get into logs
    index: int = 0
    node: str = ""
    program_node: str | None = None
    context: Context | None = None
    run: Run | None = None
    causes: tuple[Cause, ...] = ()
    asked: int = 0
    losses: int = 0
    alone: bool = False
    results: list[Any] | None = field(default=None, repr=False)
    size: int = 0
    streamed: bool = False
    overflow: str = ""
    outcome: list[Any] | Exception | None = field(default=None, repr=False)

    @property
    def attempt(self) -> int:
        """Number of the next attempt; 1 is the first."""
        return len(self.causes) + 1

    @property
    def marks(self) -> dict[str, Any]:
        """The attributes of log records about it."""
        attempt = self.attempt if self.context is None else self.context.attempt + len(self.causes)
        return marks(self.context, self.run, node=self.node, attempt=attempt)

    def add(self, results: Sequence[Any]) -> None:
        """Keep results that have come. More will follow."""
        if self.results is None:
            self.results = []
        self.results += results

    def all_with(self, last: Sequence[Any]) -> list[Any]:
        """Return all results, with the *last*. None is kept: a stream would repeat it."""
        kept, self.results = self.results or (), None
        return [*kept, *last]

    def charge(
        self,
        error: HostError | RemoteError,
        max_attempts: int,
        at: float,
        max_retries: int | None = None,
    ) -> bool:
        """
        Record a failed attempt: the process failed, or the handler asks for another attempt.

        Returns:
            True if the message may run again. Otherwise its outcome is *error*, which carries the
            dead letter as ``error.letter``.
        """
        asks = isinstance(error, RemoteError)
        self.causes = (*self.causes, Cause.of(error, at))
        self.asked += asks
        self.release()
        self.alone = True
        if max_retries is None:
            again = len(self.causes) < max_attempts
        elif asks:
            again = self.asked <= max_retries
        else:
            again = len(self.causes) - self.asked < max_attempts
        if not again:
            self.bury(error)
        return again

    def bury(self, error: HostError | RemoteError) -> None:
        error.letter = DeadLetter(self.node, self.fields, self.causes)
        self.outcome = error

    def release(self) -> None:
        """Forget the results so far, so that the message can run again from the start."""
        self.results = None
        self.size = 0
        self.overflow = ""


def split(
    open_jobs: list[Job], concurrency: int, error: HostError, *, announced: bool = False
) -> tuple[Job | None, list[Job]]:
    """
    Sort the jobs that were open in a process that failed.

    Args:
        open_jobs: The open jobs, oldest first.
        concurrency: Number of messages that the process works on at a time.
        error: The failure.
        announced: The process had said before that it can't go on.

    Returns:
        The job to charge (None: the culprit is unknown), and the other jobs, which run again.
    """
    if not open_jobs:
        return None, []
    if isinstance(error, HostLost):
        return None, open_jobs
    is_at_the_oldest = concurrency == 1 and not isinstance(error, ProcessDied)
    is_certain = len(open_jobs) == 1 and (open_jobs[0].alone or not announced)
    if is_at_the_oldest or is_certain:
        return open_jobs[0], open_jobs[1:]
    for job in open_jobs if concurrency == 1 else open_jobs[:concurrency]:
        job.alone = True
    return None, open_jobs


def too_much(node: str, setting: str, limit: int) -> ResultError:
    """Make the error of a message with more results, or more bytes, than *setting* allows."""
    unit = "results" if setting == "max_results" else "bytes of results"
    return ResultError(
        f'"{node}" emitted more than {setting} = {limit} {unit} for one message: emit less at '
        f"once, raise {setting} of the node, or declare it with stream=True, which has no limit",
        node=node,
    )
