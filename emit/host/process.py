"""
One supervised process of a node, and the conversation with it.

1. One thread at a time uses a process: the holder of its lease.
2. Whatever interrupts an exchange (a soft time limit, Ctrl-C, an abandoned generator) leaves
   bytes of the old answer in the pipe, which the next caller would take for his. So a process
   that is left in the middle of an exchange is discarded, never used again.
3. A call is open from `submit` until its job has an outcome; jobs that are open when the
   process fails are in `open_jobs`, the oldest first.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Mapping
from typing import Any

from emit.errors import (
    CallTimeout,
    HostError,
    ProcessDied,
    ProtocolError,
    StartError,
    StartTimeout,
    describe_status,
    signal_of,
)
from emit.host.accounting import usage_of
from emit.host.answers import Answers
from emit.host.fate import Job
from emit.host.language.missing import describe_missing
from emit.host.lines import Lines, logger_of
from emit.host.settings import Settings
from emit.host.starts import Lifespan
from emit.host.system import spawn
from emit.host.system.command import is_transient
from emit.host.system.program import Program
from emit.host.system.stalled import describe_stall, is_ending
from emit.host.transport import Pipes, Poll, remaining
from emit.host.wire import frames
from emit.host.wire.line_session import LineSession
from emit.host.wire.session import Session
from emit.text import one_line

#: Seconds to wait for an exit status after stdout has come to its end; and where the kernel says
#: that the process is ending.
_STATUS = 0.1
_ENDING = 10.0

#: Seconds between two looks at the memory of a process that has ``max_rss`` and works: one that
#: allocates 1 GB/s is then found 110 MB above its limit.
MEMORY_TICK = 0.1


class Process:
    """
    A running program that has said it is ready.

    Attributes:
        program: What was started.
        node: The node that it serves just now: the program's, unless several share it.
        child: The program as the system has it.
        session: The conversation; `session.ready` tells what the process announced.
        born: When it was started, by the monotonic clock.
        used: When it was last given back.
        unsent: Bytes of calls that it had not taken by the last `flush`, and of those since.
        answers: Its open calls, what has come for them, and what else it has said.
        start_seconds: What it took to be ready.
        lifespan: When it is to be replaced.
        retiring: A replacement is being started.
        replaced: Why there is a replacement, once that is ready; None: there is none.
    """

    def __init__(self, program: Program, settings: Settings, child: spawn.Child) -> None:
        self.program = program
        self.node = program.node
        self.child = child
        self.session: Session | LineSession = _converse(program, settings)
        self.born = self.used = child.started
        self.start_seconds = 0.0
        self.retiring = False
        self.replaced: str | None = None
        self._settings = settings
        self._unsent: list[bytes] = []
        self.unsent = 0
        self._memory_due = 0.0
        self._last_moment: float | None = None
        self.lifespan = Lifespan.draw(settings, random.random())
        self.pipes = Pipes(child, Lines(program.node))
        limits = (settings.max_results, settings.max_result_bytes, settings.timeout)
        self.answers = Answers(program.node, *limits, self.pipes.lines.logger)
        self._poll = Poll([self.pipes])

    @classmethod
    def start(cls, program: Program, settings: Settings) -> Process:
        """
        Start a program and wait until it is ready.

        Raises:
            StartError: It can't be started, or it ended before it was ready.
            StartTimeout: It was not ready within ``start_timeout``. It has been killed.
        """
        deadline = time.monotonic() + settings.start_timeout
        child = spawn.start(program, timeout=settings.start_timeout)
        process = cls(program, settings, child)
        try:
            process._shake_hands(deadline)
        except BaseException:
            process.discard()
            raise
        process.start_seconds = time.monotonic() - process.born
        return process

    @property
    def concurrency(self) -> int:
        """How many messages it works on at a time, as it announced."""
        return self.session.ready.concurrency if self.session.ready else 1

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come of it; `receive` then says why."""
        return self.answers.fault is not None or self.pipes.over

    @property
    def calls(self) -> int:
        """Messages it has answered."""
        return self.answers.count

    @property
    def condemned(self) -> str | None:
        """Why it must go, at the latest when its open calls are done; None: it may stay."""
        return self.answers.condemned or self.replaced

    @property
    def is_finished(self) -> bool:
        """Whether it is replaced, and has answered all and well: it is to be stopped politely."""
        answers = self.answers
        return self.replaced is not None and answers.condemned is None and not answers.jobs

    @property
    def open_count(self) -> int:
        return len(self.answers.jobs)

    @property
    def open_jobs(self) -> list[Job]:
        return list(self.answers.jobs.values())

    # -- calls -----------------------------------------------------------------------------

    def submit(self, job: Job, meta: Mapping[str, Any] | None = None) -> None:
        """
        Encode a call. It is sent with the next `flush`.

        Raises:
            EncodeError, FrameTooLarge: It can't be sent. Nothing of it was, and the process
                stays usable.
            ProcessDied: The process has said that it can't go on.
        """
        if self.answers.failed is not None:
            raise self.failure(may_have_run=False)
        if job.node and job.node != self.node:
            self.serve(job.node)
        number, data = self.session.call(job.fields, node=job.program_node, meta=meta)
        self.answers.jobs[number] = job
        self._unsent.append(data)
        self.unsent += len(data)

    def serve(self, node: str) -> None:
        """From now on its errors, and its lines in the log, are those of *node*."""
        self.pipes.drain_errors()  # what it has said belongs to the one before
        self.node = self.session.node = self.answers.node = node
        self.pipes.lines.logger = self.answers.logger = logger_of(node)

    def flush(self) -> None:
        """Send what was submitted, as much as the pipe takes; `wait` sends the rest."""
        if self._settings.max_rss is not None:
            self._memory_due = time.monotonic() + MEMORY_TICK
        if self._unsent:
            self.pipes.send(b"".join(self._unsent))
            self._unsent.clear()
        self.unsent = self.pipes.pending

    def call(self, job: Job, meta: Mapping[str, Any] | None, deadline: float) -> None:
        """
        One message, until its job has an outcome.

        Raises:
            ProcessDied, CallTimeout, ProtocolError: The process is of no more use.
            EncodeError, FrameTooLarge: The message can't be sent; the process stays usable.
        """
        self.submit(job, meta)
        self.flush()
        while job.outcome is None:
            self.wait(deadline)
            self.receive()

    def attending(self, caller: int | None) -> contextlib.AbstractContextManager[None]:
        """Have `wait` raise `Abandoned` when the other end of this socket, if any, is closed."""
        return self._poll.attending(caller)

    def wait(self, deadline: float) -> None:
        """
        Wait until something has come from the process.

        Raises:
            CallTimeout: Nothing has until *deadline*.
            ProcessDied: It has grown over ``max_rss`` and is to be killed.
        """
        if self.is_over:
            return
        left = min(deadline, self.last_moment) - time.monotonic()
        if left <= 0:
            raise self.timed_out()
        self._poll.step(left if self._settings.max_rss is None else min(left, MEMORY_TICK))
        if not self.pipes.received:
            self.check_memory()

    @property
    def last_moment(self) -> float:
        """When a process that has said that it can't go on must have ended; else infinite."""
        if self.answers.failed is None:
            return float("inf")
        if self._last_moment is None:
            self._last_moment = time.monotonic() + self._settings.stop_grace
        return self._last_moment

    def check_memory(self) -> None:
        """
        Look how much memory it has, if it has been at work for a while since it was last sent
        something: a quick call is looked at when it is over.

        Raises:
            ProcessDied: More than ``max_rss``. It is to be killed.
        """
        limit, now = self._settings.max_rss, time.monotonic()
        if limit is None or now < self._memory_due:
            return
        self._memory_due = now + MEMORY_TICK
        rss = self.rss()
        if rss > limit:
            reason = f"was killed with {rss} bytes of memory, over max_rss = {limit},"
            raise self._died(-signal.SIGKILL, reason)

    def receive(self) -> list[Job]:
        """
        Take what has come.

        Returns:
            The jobs that have an outcome now.

        Raises:
            ProcessDied, ProtocolError: The process is of no more use. What it had answered
                before is in its jobs.
        """
        done: list[Job] = []
        pipes = self.pipes
        if self.answers.fault is not None:
            raise self.answers.fault
        if pipes.over and not pipes.received:
            self._see_end()
            if not pipes.received:
                raise self._failure()
        chunks, pipes.received = pipes.received, []
        for chunk in chunks:
            self.answers.take(self.session.receive(chunk), done, self.session.sizes)
        return done

    def _see_end(self) -> None:
        """A pipe is at its end: is the process, too? Then take all that it had written."""
        child = self.child
        if not self.pipes.dead and (
            child.wait(_STATUS) or (is_ending(child.pid) and child.wait(_ENDING))
        ):
            self.pipes.drain()

    def _failure(self) -> HostError:
        """What has become of a process whose pipes are at an end."""
        if self.answers.failed is not None and self.session.ready is not None:
            return self.failure()
        if self.pipes.dead:
            return self._died(self.child.status)
        closed = "stdout" if self.pipes.ended else "stdin"
        reason = f"it closed its {closed} and lives on"
        tail = self.pipes.lines.tail
        return self._lost(ProtocolError(node=self.node, reason=reason, stderr_tail=tail))

    @property
    def gave_up(self) -> bool:
        """Whether it has said that it can't go on, before it had answered anything."""
        return self.answers.failed is not None and not self.calls

    def failure(self, *, may_have_run: bool | None = None) -> HostError:
        """The error of a process that has said that it can't go on, with its own words."""
        failed, status = self.answers.failed, self.child.status
        assert failed is not None
        end = describe_status(status) if self.child.poll() else "did not end by itself"
        reason = f"could not go on ({failed.type}: {failed.message}) and {end}"
        return self._died(status, reason, may_have_run)

    def _died(
        self, status: int | None, reason: str = "", may_have_run: bool | None = None
    ) -> HostError:
        tail, argv = self.pipes.lines.tail, self.program.argv
        said = "" if reason else self.pipes.lines.last_words(signal_of(status))
        if not reason and self.answers.jobs and status is not None and status >= 0:
            reason = f"{describe_status(status)} before it had answered,"
        error = ProcessDied(
            node=self.node,
            status=status,
            reason=reason,
            stderr_tail=tail,
            uptime=time.monotonic() - self.born,
            calls=self.calls,
            may_have_run=may_have_run,
            said=said,
            hint="" if self.calls else describe_missing(tail, argv, self.program.cwd),
        )
        return self._lost(error)

    def timed_out(self) -> HostError:
        if self.answers.failed is not None:
            return self.failure()
        error = CallTimeout(
            node=self.node,
            timeout=self._settings.timeout,
            stderr_tail=self.pipes.lines.tail,
            hint=describe_stall(self.child.pid),
        )
        return self._lost(error)

    def _lost(self, error: HostError) -> HostError:
        """The process is of no more use; what it had done wrong before is the better cause."""
        self.answers.condemned = self.answers.condemned or str(error)
        return error

    def look(self) -> str | None:
        """
        Look at an idle process before it is used again.

        Returns:
            Why it can't be used: it has died, or said what nobody asked for. None: it can.
        """
        if self.condemned is None and self._poll.is_quiet:
            return None
        with contextlib.suppress(HostError):  # it is condemned by that
            self._poll.step(0)
            self.receive()
        return self.condemned

    def worn(self) -> str | None:
        """Why it should be replaced now, or None."""
        lifespan = self.lifespan
        rss = self.rss() if lifespan.max_rss is not None else None
        return lifespan.is_over(calls=self.calls, age=time.monotonic() - self.born, rss=rss)

    def rss(self) -> int:
        """Bytes of memory of it and its children."""
        return usage_of(self).rss_bytes

    # -- its end ---------------------------------------------------------------------------

    def warn(self) -> None:
        """Log why it is lost, if it is its own fault and not that of a caller who has left."""
        if self.answers.condemned is not None:
            logger = self.pipes.lines.logger
            logger.warning("%r is discarded: %s", self, one_line(self.answers.condemned))

    def discard(self) -> None:
        """Kill it and all it has started, at once."""
        self.child.kill_tree()
        self.pipes.drain_errors()
        self.child.close()

    def begin_stop(self) -> None:
        """Ask it to end: ``bye``, unless it can't go on anyway, then the end of its input."""
        if self.answers.failed is None:
            with contextlib.suppress(ProtocolError):
                self.pipes.send(self.session.bye())
        self.pipes.finish()

    @property
    def graces(self) -> tuple[float, float]:
        """Seconds to end after the end of its input, and after SIGTERM."""
        return self._settings.stop_grace, self._settings.term_grace

    # -- its start -------------------------------------------------------------------------

    def _shake_hands(self, deadline: float) -> None:
        self.pipes.send(self.session.hello())
        try:
            while self.session.ready is None:
                if (failed := self.answers.failed) is not None:
                    said = f"{failed.type}: {failed.message}"
                    hints = (
                        *failed.stack[:1],
                        describe_missing(said, self.program.argv, self.program.cwd),
                    )
                    reason = f"it could not load: {said}"
                    raise self._not_ready(reason, "; ".join(filter(None, hints)))
                large = self.answers.oversized
                if large is not None and large.op == "ready":
                    reason = f"its ready frame is over max_frame = {large.limit} bytes"
                    raise self._not_ready(reason, "raise max_frame of the node")
                if remaining(deadline) <= 0:
                    raise StartTimeout(
                        node=self.node,
                        timeout=self._settings.start_timeout,
                        stderr_tail=self.pipes.lines.tail,
                        hint=_skipped(large) or describe_stall(self.child.pid),
                    )
                if not self.is_over:
                    self._poll.step(remaining(deadline))
                self.receive()
        except (ProcessDied, ProtocolError) as error:
            # It has not had any message, so what it wrote is its own.
            sample = getattr(error, "sample", "")
            wrote = f"; it wrote: {sample}" if sample else ""
            reason = f"before it was ready, {_without_node(error)}{wrote}"
            raise self._not_ready(reason, signal=getattr(error, "signal", None)) from error

    def _not_ready(self, reason: str, hint: str = "", signal: str | None = None) -> StartError:
        # Not before a start has failed, and no program of a command is asked.
        from emit.host.language.launch import explain

        if signal is None:  # else it is not the language's fault, and each question takes memory
            hint = "; ".join(filter(None, (hint, explain(self.program))))
        return StartError(
            node=self.node,
            argv=self.program.argv,
            reason=reason,
            hint=hint,
            stderr_tail=self.pipes.lines.tail,
            started=True,
            signal=signal,
        )

    def __repr__(self) -> str:
        state = f"{self.open_count} open" if self.open_count else "idle"
        return f"<Process {self.node} pid {self.child.pid} [{state}, {self.calls} calls]>"


def is_permanent(error: HostError) -> bool:
    """
    Whether another start would fail alike: the command itself is wrong. A program that was
    started and ended, or hung, may do better next time, when a database is back.
    """
    return isinstance(error, StartError) and not error.started and not is_transient(error)


def _converse(program: Program, settings: Settings) -> Session | LineSession:
    if settings.mode == "lines":
        return LineSession(program.node, max_frame=settings.max_frame)
    codecs = ("json",) if settings.codec == "json" else ("msgpack", "json")
    return Session(program.node, codecs=codecs, max_frame=settings.max_frame)


def _skipped(large: frames.TooLarge | None) -> str:
    """What may be wrong with a program that is not ready and has written this."""
    if large is None:
        return ""
    return f"a frame over max_frame = {large.limit} bytes was skipped; was it ready?"


def _without_node(error: HostError) -> str:
    text = str(error).removeprefix(f'"{error.node}"').lstrip(": ")
    return text if text.startswith(("it ", "the ")) else f"it {text}"
