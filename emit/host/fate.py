"""
What becomes of a message whose process failed: pure rules. No I/O here.

1. A process that hangs or talks nonsense is at the oldest message that is open: that one is
   charged with an attempt and runs again, alone. Those behind it never started, so they go
   to another process and are charged with nothing. (Charging all of 50 dead-lettered 313
   innocents of 20,000.)
2. A process that died may have taken finished answers with it, since answers wait up to 1 ms
   for company; and one that works on several at a time has several suspects. None is charged;
   each runs again alone, and the one whose process fails then is charged. (Charging the oldest
   had up to 30 innocents, one process start for each, for every message that kills.) The same is
   so of the only one in a process that had announced its end: it may have been another's doing.
3. A death before ``ready`` charges nobody.
4. The loss of a shared host charges nobody either.
5. After ``max_attempts`` charges the message becomes a dead letter, with all its causes. With
   ``max_retries`` the attempts after which the handler asks for another have a count of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emit.context import Context
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

#: The overflow of a job whose results had to be dropped, as too many others waited: see `Batch`.
AHEAD = "ahead"

#: Failures of a peer, as opposed to answers: the message may run again with another one.
FAILURES = (ProcessDied, CallTimeout, ProtocolError, HostLost)


@dataclass(eq=False, slots=True)
class Job:
    """
    One message on its way to its fate.

    Attributes:
        fields: The message.
        index: Its place in a batch.
        node: Whose it is.
        program_node: Which of the program's nodes is to have it, where there are several.
        context: What a queue knows of the message; None: it came from no queue.
        causes: Why the charged attempts failed.
        asked: After how many of them the handler asked for another.
        losses: How often a shared host was lost with it.
        alone: Run it with no other message in the process.
        results: What has come of it so far, where it comes in parts.
        size: The bytes of what has come of it.
        streamed: Its results are taken as they come, so there is no limit of them.
        overflow: The setting that its results were over, such as ``max_results``: they are dropped.
            `AHEAD`: they would have waited too long for those of an earlier message.
        outcome: Its end: its results, or the exception that stands for them. None: open.
    """

    fields: Mapping[str, Any] = field(repr=False)  # a repr ends in logs
    index: int = 0
    node: str = ""
    program_node: str | None = None
    context: Context | None = None
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
        """The number of the next attempt; 1 is the first."""
        return len(self.causes) + 1

    def add(self, results: Sequence[Any]) -> None:
        """Keep results that have come; others follow."""
        if self.results is None:
            self.results = []
        self.results += results

    def all_with(self, last: Sequence[Any]) -> list[Any]:
        """What was kept and the last results. Nothing is kept: a stream would give it twice."""
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
        Note a failed attempt: of the process, or one after which the handler asks for another.

        Returns:
            True if the message may run again. If not, its outcome is *error*, which carries the
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
        """It was open in a process that failed, but not because of it: run it again, whole."""
        self.results = None
        self.size = 0
        self.overflow = ""


def split(
    open_jobs: list[Job], concurrency: int, error: HostError, *, announced: bool = False
) -> tuple[Job | None, list[Job]]:
    """
    Sort the jobs that were open in a process that failed.

    Args:
        open_jobs: The oldest first.
        concurrency: How many it worked on at a time.
        error: How it failed.
        announced: It had said before that it can't go on.

    Returns:
        Who is charged (None: nobody can be told), and the others, which run again.
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
    """The error of a message with more results, or more bytes of them, than a setting allows."""
    unit = "results" if setting == "max_results" else "bytes of results"
    return ResultError(
        f'"{node}" emitted more than {setting} = {limit} {unit} for one message: emit less at '
        f"once, raise {setting} of the node, or declare it with stream=True, which has no limit",
        node=node,
    )
