"""
The messages of one node, and what becomes of each: results, the author's error, or the last
failure after so many attempts, with a dead letter.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from copy import copy
from typing import TYPE_CHECKING, Any

from emit import context
from emit.errors import CallTimeout, HostError, RemoteError
from emit.host.accounting import CallAccount
from emit.host.batch import Batch
from emit.host.fate import AHEAD, FAILURES, Job, too_much
from emit.host.lines import logger_of
from emit.host.pool import Lease, Pool
from emit.host.starts import backoff
from emit.host.transport import pause
from emit.letter import DeadLetter

if TYPE_CHECKING:
    from emit.host.process import Process

#: The share of its time that a handler is not told of, and the most of it, in seconds. One that
#: gives up at its deadline is then heard before its process is killed.
_MARGIN, _MARGIN_MOST = 0.05, 0.25

#: Seconds that a message may wait for a process without being told that it has less time.
_AT_ONCE = 0.01


class Calls:
    """
    Args:
        node: The node's name.
        pool: Its processes, which other nodes of the same program may share.
        program_node: Which of the program's nodes it is, where it has several.
        dead_letter: Called with each dead letter; its message then has no results. None: the
            failure is raised, with the letter as an attribute.

    Attributes:
        account: What has become of its messages.
        caller: A socket, when the messages come from another process: a message that is under
            way when its other end is closed ends with `Abandoned`, and its process with it.
    """

    caller: int | None = None

    def __init__(
        self,
        node: str,
        pool: Pool,
        program_node: str | None = None,
        dead_letter: Callable[[DeadLetter], Any] | None = None,
    ) -> None:
        self.node = node
        self.pool = pool
        self.settings = pool.settings
        self.account = CallAccount()
        self._program_node = program_node
        self._dead_letter = dead_letter
        self._meta = {"deadline_ms": _milliseconds(self.settings.timeout)}

    def asked_by(self, caller: int) -> Calls:
        """The same node, its processes and its account, for messages that come by a socket."""
        calls = copy(self)
        calls.caller = caller
        return calls

    def prepare(self) -> None:
        """Make what is started, before the time of a message begins: see :meth:`Pool.prepare`."""
        try:
            self.pool.prepare()
        except HostError as error:
            error.about(self.node)
            raise

    def acquire(self, deadline: float) -> Lease:
        """As :meth:`Pool.acquire`; what it raises names this node, if several share the pool."""
        try:
            return self.pool.acquire(deadline)
        except HostError as error:
            error.about(self.node)
            raise

    def call(self, fields: Mapping[str, Any]) -> list[Any]:
        """
        Give one message to a process.

        Returns:
            What its handler emitted; empty where it emitted nothing.

        Raises:
            NodeError: The handler failed. The process stays usable.
            HostError: The process, its pipe or its pool failed ``max_attempts`` times, or the
                message can't be sent at all.
        """
        job = self.job(fields)
        self.run(job)
        return job.outcome if type(job.outcome) is list else self._results(job)

    def run(self, job: Job) -> None:
        """Try one message until it has an outcome."""
        while job.outcome is None:
            self._attempt(job)

    def stream(self, fields: Mapping[str, Any]) -> Generator[Any, None, None]:
        """
        As :meth:`call`, but each result comes as it is emitted, and none is kept.

        After the first result nothing is tried again: it may already have gone on.

        Raises:
            NodeError, HostError: As :meth:`call`, the dead letter included.
        """
        job = self.job(fields)
        for results in self.parts(job):
            yield from results
        yield from self._results(job)

    def parts(self, job: Job) -> Generator[list[Any], None, None]:
        """What a streamed message emits, as it comes; what is left is the job's outcome."""
        job.streamed = True
        try:
            while job.outcome is None:
                yield from self._stream(job)
        except HostError as error:
            error.about(self.node)
            raise

    def _stream(self, job: Job) -> Generator[list[Any], None, None]:
        """One attempt, which is the last one if anything has come of it."""
        began = time.monotonic()
        last = False
        try:
            with closing(self._parts(job)) as parts:
                for results in parts:
                    last = True
                    yield results
        except FAILURES as error:
            self.judge(job, error, last)
            return
        outcome = job.outcome
        if isinstance(outcome, CallTimeout):
            self.gave_up(job, outcome, last)
        elif isinstance(outcome, RemoteError) and self.tries_again(job):
            self._again(job, outcome, last)
        else:
            self.account.answered((outcome,), time.monotonic() - began)

    def _parts(self, job: Job) -> Generator[list[Any], None, None]:
        began = time.monotonic()
        deadline = began + self.settings.timeout
        with self.pool.lease(deadline) as process, process.attending(self.caller):
            process.submit(job, self.meta(job, time.monotonic() - began))
            process.flush()
            while job.outcome is None:
                process.wait(deadline)
                process.receive()
                results, job.results = job.results, None
                if results:
                    yield results
                    # Not before: while the caller takes them, the process may be blocked.
                    deadline = time.monotonic() + self.settings.timeout

    def call_many(self, messages: Iterable[Mapping[str, Any]]) -> Generator[Any, None, None]:
        """
        Give many messages to the node's processes, pipelined.

        Returns:
            An outcome for each, in their order: a list of results, or the exception that
            stands for them. Closing the generator early kills the processes it uses.
        """
        return Batch(self, messages).outcomes()

    def job(self, fields: Mapping[str, Any], index: int = 0) -> Job:
        """A message; in a worker of a queue with what the queue knows of it."""
        told = context.current.get()
        return Job(fields, index, self.node, self._program_node, told)

    def settle(self, job: Job) -> list[Any] | Exception:
        """
        A finished job's results, or what stands for them; a dead letter goes where asked.

        The job loses its outcome: an exception's traceback holds frames that hold the job, and
        in a circle the message would stay in memory until the collector's next round.
        """
        outcome, job.outcome = job.outcome, None
        if not isinstance(outcome, Exception):
            return outcome or []
        letter = getattr(outcome, "letter", None)
        if letter is not None and self._dead_letter is not None:
            self._dead_letter(letter)
            return []
        return outcome

    def _results(self, job: Job) -> list[Any]:
        outcome = self.settle(job)
        if isinstance(outcome, list):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # as above

    def meta(self, job: Job, waited: float = 0.0) -> Mapping[str, Any]:
        """
        Return what the process is told about a call.

        Args:
            job: The call.
            waited: Seconds of its time that have passed before it gets to the process.
        """
        told, base = job.context, self._meta
        if waited > _AT_ONCE:
            base = {"deadline_ms": _milliseconds(self.settings.timeout - waited)}
        if told is None:
            return {**base, "attempt": job.attempt} if job.causes else base
        attempt = told.attempt + len(job.causes)
        meta: dict[str, Any] = {**base, "origin": told.origin, "attempt": attempt}
        if told.traceparent is not None:
            meta["traceparent"] = told.traceparent
        return meta

    def judge(self, job: Job, error: HostError | RemoteError, last: bool = False) -> None:
        """
        Charge a job with a failure of its process, or with an answer that asks for more.

        Args:
            last: Nothing is tried again: results of it have gone on.
        """
        self.account.charged(error)
        if job.overflow and job.overflow != AHEAD:  # any other process would emit the same again
            limit = getattr(self.settings, job.overflow)
            job.outcome = too_much(job.node, job.overflow, limit)
            self.account.answered((job.outcome,), None)
            return
        attempts, retries = self.settings.max_attempts, self.settings.max_retries
        if last:
            attempts, retries = 1, None
        if not job.charge(error, attempts, time.time(), retries):
            self.account.answered((error,), None)

    def _attempt(self, job: Job) -> None:
        began = time.monotonic()
        deadline = began + self.settings.timeout
        lease = self.acquire(deadline)
        waited = time.monotonic() - began
        try:
            assert lease.process is not None
            meta = self.meta(job, waited)
            if self.caller is None:
                lease.process.call(job, meta, deadline)
            else:
                self._call_for(self.caller, lease.process, job, meta, deadline)
        except FAILURES as error:
            self.judge(job, error)
            return
        finally:
            self.pool.release(lease)
        outcome = job.outcome
        if isinstance(outcome, CallTimeout):
            self.gave_up(job, outcome)
        elif isinstance(outcome, RemoteError) and self.tries_again(job):
            self._again(job, outcome)
        else:
            self.account.answered((outcome,), time.monotonic() - began, waited)

    def _call_for(
        self, caller: int, process: Process, job: Job, meta: Mapping[str, Any], deadline: float
    ) -> None:
        pause(0, caller)  # it may have hung up while it waited for the process
        with process.attending(caller):
            process.call(job, meta, deadline)

    def gave_up(self, job: Job, error: CallTimeout, last: bool = False) -> None:
        """Charge a job whose handler has ended at its deadline by itself; its process lives on."""
        job.outcome = None
        self.judge(job, error, last)

    def tries_again(self, job: Job) -> bool:
        """
        Whether the author asks for another attempt, here. For a message from a queue the queue
        sees to that: its worker has others to work on meanwhile.
        """
        return job.context is None and getattr(job.outcome, "retry", None) is True

    def _again(self, job: Job, error: RemoteError, last: bool = False) -> None:
        """The author asks for another attempt: after the delay that he gave, or the backoff."""
        job.outcome = None
        self.judge(job, error, last)
        if job.outcome is None:
            self.pool.rest(self.retry_delay(job, error), self.caller)

    def retry_delay(self, job: Job, error: RemoteError) -> float:
        """
        Seconds to wait before another attempt: what the author asks for, but no longer than
        ``backoff_max``, since the caller waits meanwhile.
        """
        settings, share = self.settings, random.random()
        if error.after is not None and error.after > settings.backoff_max:
            logger_of(self.node).warning(
                "another attempt is asked for in %.3g s; it is made in backoff_max = %g s",
                error.after,
                settings.backoff_max,
            )
        if error.after is not None:
            return min(error.after, settings.backoff_max)
        return backoff(settings.backoff, settings.backoff_max, len(job.causes), share)

    def snapshot(self) -> dict[str, Any]:
        """The node in :meth:`emit.host.host.Host.snapshot`."""
        return {**self.account.snapshot(), **self.pool.snapshot()}

    def __repr__(self) -> str:
        return f"<Calls {self.node} [{self.account.calls} done | {self.pool!r}]>"


def _milliseconds(left: float) -> int:
    """What a process is told of the seconds that a call has left."""
    return max(1, int(1000 * (left - min(left * _MARGIN, _MARGIN_MOST))))
