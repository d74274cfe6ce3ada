"""
One supervised process of a node: its program, the conversation with it, and its lifespan.
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
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
from emit.host.accounting import Usage
from emit.host.conversation import Conversation, error_of
from emit.host.fate import Job
from emit.host.language.missing import describe_missing
from emit.host.lines import READY, Lines, logger_of
from emit.host.settings import Settings
from emit.host.starts import Lifespan
from emit.host.system import spawn
from emit.host.system.child import kill_trees
from emit.host.system.command import is_transient
from emit.host.system.program import Program
from emit.host.system.tree import describe_stall, is_ending, used
from emit.host.system.version import version_of
from emit.host.transport import Pipes, Poll, remaining
from emit.host.wire import frames
from emit.host.wire.session import LineSession, Session
from emit.host.wire.values import from_json
from emit.observe.facts import ProcessEnded, ProcessReady, ProcessStarted
from emit.observe.observers import Observers, tell
from emit.text import one_line

__all__ = ["Launcher", "Process", "stop_all"]

#: Seconds to wait for an exit status after the end of stdout; and the same if the kernel says that
#: the process is ending.
_STATUS = 0.1
_ENDING = 10.0


class Process:
    """
    A running program that has said it is ready. Its other attributes are those of
    :class:`emit.host.pool.Member`.

    Attributes:
        program: The program that was started.
        settings: The node's options.
        child: The operating system's view of the process.
        pipes: Its pipes.
        version: The version of the program that it runs; see `emit.host.system.version`.
    """

    def __init__(self, program: Program, settings: Settings, child: spawn.Child) -> None:
        self.program = program
        self.settings = settings
        self.child = child
        self.pipes = Pipes(child, Lines(program.node))
        session = _session(program, settings)
        logger = self.pipes.lines.logger
        self.talk = Conversation(program.node, session, self.pipes, self, settings, logger)
        self.pipes.lines.jobs = self.talk.jobs
        self.born = self.used = child.started
        self.start_seconds = 0.0
        self.lifespan = Lifespan.draw(settings, random.random())
        self.retiring = False
        self.replaced: str | None = None
        self.version = ""

    @classmethod
    def start(
        cls, program: Program, settings: Settings, observers: Sequence[Observers] = ()
    ) -> Process:
        """
        Start a program and wait until it is ready. Tell *observers* about it.

        Raises:
            StartError: The program can't be started, or it ended before it was ready.
            StartTimeout: It was not ready within ``start_timeout``. It has been killed.
        """
        deadline = time.monotonic() + settings.start_timeout
        version = version_of(program)  # before it reads its files: an edit meanwhile is a new one
        child = spawn.start(program, timeout=settings.start_timeout)
        process = cls(program, settings, child)
        process.version = version
        tell(observers, ProcessStarted(program.node, child.pid, version))
        try:
            process._shake_hands(deadline)
        except BaseException:
            process.discard()
            age = time.monotonic() - process.born
            tell(observers, ProcessEnded(program.node, child.pid, "start", 0, age, 0.0))
            raise
        process.start_seconds = time.monotonic() - process.born
        process.pipes.lines.logger.info(READY, child.pid, process.start_seconds, version)
        ready = process.talk.session.ready
        sdk = "" if ready is None else ready.sdk
        told = program.node, child.pid, version, sdk, process.start_seconds
        tell(observers, ProcessReady(*told))
        return process

    # -- for its pool ----------------------------------------------------------------------

    def replace(self, reason: str) -> None:
        """Give the process no more messages: its replacement is ready."""
        self.replaced = reason
        self.talk.condemned = self.talk.condemned or reason

    @property
    def is_finished(self) -> bool:
        """True if the process is replaced and has answered everything: it is stopped politely."""
        return self._is_well and self.replaced is not None and not self.talk.jobs

    @property
    def gave_up(self) -> bool:
        """True if the process said that it can't go on before it had answered any call."""
        return self.talk.failed is not None and not self.talk.count

    def worn(self) -> str | None:
        """Return why the process should be replaced now, or None."""
        lifespan = self.lifespan
        rss = self.rss() if lifespan.max_rss is not None else None
        age = time.monotonic() - self.born
        return lifespan.is_over(calls=self.talk.count, age=age, rss=rss)

    def rss(self) -> int:
        """Return the bytes of memory that the process and its children use."""
        return used(self.child.pid)[1]

    def usage(self) -> Usage:
        """Return the present use of the process and its children. After its end: only the bytes."""
        cpu, rss = used(self.child.pid)
        return Usage(cpu, rss, self.pipes.sent, self.pipes.taken, self.talk.strays)

    def describe(self, usage: Usage) -> dict[str, Any]:
        """Return the process's row in :meth:`emit.host.host.Host.snapshot`."""
        now, is_busy = time.monotonic(), bool(self.talk.jobs)
        return {
            "pid": self.child.pid,
            "version": self.version,
            "state": "busy" if is_busy else "idle",
            "calls": self.talk.count,
            "age_seconds": now - self.born,
            "idle_seconds": 0.0 if is_busy else now - self.used,
            "cpu_seconds": usage.cpu_seconds,
            "rss_bytes": usage.rss_bytes,
        }

    # -- for its conversation --------------------------------------------------------------

    def serve(self, node: str) -> None:
        """Report its errors and log its lines under the name *node* from now on."""
        self.pipes.drain_errors()  # lines written so far belong to the node before
        self.pipes.lines.logger = logger_of(node)
        self.talk.serve(node, self.pipes.lines.logger)

    def ended(self, fault: ProtocolError | None) -> HostError | None:
        """Return the error that ended the process; None: there is more to read."""
        if fault is not None:
            return fault
        self._see_end()
        if self.pipes.received:
            return None
        if self.talk.failed is not None and self.talk.session.ready is not None:
            return self.failure()
        if self.pipes.dead:
            return self._died(self.child.status)
        closed = "stdout" if self.pipes.ended else "stdin"
        reason = f"it closed its {closed} and lives on"
        tail = self.pipes.lines.tail
        return self._lost(ProtocolError(node=self.talk.node, reason=reason, stderr_tail=tail))

    def failure(self, *, may_have_run: bool | None = None) -> HostError:
        """Make the error of a process that said, in its own words, that it can't go on."""
        failed, status = self.talk.failed, self.child.status
        assert failed is not None
        end = describe_status(status) if self.child.poll() else "did not end by itself"
        reason = f"could not go on ({failed.type}: {failed.message}) and {end}"
        return self._died(status, reason, may_have_run)

    def overdue(self) -> HostError:
        """Make the error of a process that did not answer in time."""
        if self.talk.failed is not None:
            return self.failure()
        error = CallTimeout(
            node=self.talk.node,
            timeout=self.settings.timeout,
            stderr_tail=self.pipes.lines.tail,
            hint=describe_stall(self.child.pid),
        )
        return error if self.talk.can_cancel else self._lost(error)

    def check_memory(self) -> None:
        """Raise ProcessDied if it uses more than ``max_rss``. The caller must kill it."""
        limit, rss = self.settings.max_rss, self.rss()
        if limit is not None and rss > limit:
            reason = f"was killed with {rss} bytes of memory, over max_rss = {limit},"
            raise self._died(-signal.SIGKILL, reason)

    def error_of(self, job: Job, err: frames.Err) -> Exception:
        """Make the outcome of a job whose handler failed."""
        return error_of(job.node, self.settings.timeout, err)

    def _see_end(self) -> None:
        """Take everything that the process wrote, if it ended along with its pipe."""
        child = self.child
        if not self.pipes.dead and (
            child.wait(_STATUS) or (is_ending(child.pid) and child.wait(_ENDING))
        ):
            self.pipes.drain()

    def _died(
        self, status: int | None, reason: str = "", may_have_run: bool | None = None
    ) -> HostError:
        tail, argv = self.pipes.lines.tail, self.program.argv
        said = "" if reason else self.pipes.lines.last_words(signal_of(status))
        if not reason and self.talk.jobs and status is not None and status >= 0:
            reason = f"{describe_status(status)} before it had answered,"
        error = ProcessDied(
            node=self.talk.node,
            status=status,
            reason=reason,
            stderr_tail=tail,
            uptime=time.monotonic() - self.born,
            calls=self.talk.count,
            may_have_run=may_have_run,
            said=said,
            hint="" if self.talk.count else describe_missing(tail, argv, self.program.cwd),
        )
        return self._lost(error)

    def _lost(self, error: HostError) -> HostError:
        """Condemn the process for *error*. An earlier fault is the better cause, and stays."""
        if self._is_well:
            self.talk.condemned = str(error)
        return error

    # -- its end ---------------------------------------------------------------------------

    @property
    def _is_well(self) -> bool:
        """True if the process is not condemned, or only because it was replaced."""
        return self.talk.condemned in (None, self.replaced)

    def warn(self) -> None:
        """Log why the process is lost, if the fault is its own and not a caller's."""
        if not self._is_well:
            logger = self.pipes.lines.logger
            logger.warning("%r is discarded: %s", self, one_line(str(self.talk.condemned)))

    def discard(self) -> None:
        """Kill the process and everything it has started, at once."""
        self.child.kill_tree()
        self.pipes.drain_errors()
        self.child.close()

    def begin_stop(self) -> None:
        """Ask the process to end: send ``bye``, unless it can't go on, and close its input."""
        if self.talk.failed is None:
            with contextlib.suppress(ProtocolError):
                self.pipes.send(self.talk.session.bye())
        self.pipes.finish()

    def stop(self) -> None:
        """Stop the process politely, and by force in the end: see `stop_all`."""
        stop_all([self])

    def ask_to_end(self) -> float | None:
        """
        Ask the process to end, and wait. Its status is then ``child.status``.

        Returns:
            Seconds that it took; None: it still runs after *stop_grace*.
        """
        began = time.monotonic()
        self.begin_stop()
        stays = _wait_for_ends([self], self.settings.stop_grace)
        return None if stays else time.monotonic() - began

    def ping(self, timeout: float) -> float | None:
        """
        Ask an idle process for a sign of life.

        Returns:
            Seconds until the answer; None for a process without an SDK, which can't be asked.

        Raises:
            CallTimeout, ProtocolError: No answer came.
        """
        session, pipes = self.talk.session, self.pipes
        if not isinstance(session, Session):
            return None
        began = time.monotonic()
        pipes.send(session.ping(1))
        poll = Poll([pipes])
        while remaining(began + timeout) > 0 and not pipes.over:
            poll.step(remaining(began + timeout))
            chunks, pipes.received = pipes.received, []
            events = [event for chunk in chunks for event in session.receive(chunk)]
            if any(isinstance(event, frames.Pong) for event in events):
                return time.monotonic() - began
        if pipes.over:
            reason = "it ended instead of answering a ping"
            raise ProtocolError(node=self.program.node, reason=reason)
        tail = pipes.lines.tail
        raise CallTimeout(node=self.program.node, timeout=timeout, stderr_tail=tail)

    # -- its start -------------------------------------------------------------------------

    def _shake_hands(self, deadline: float) -> None:
        poll = Poll([self.pipes])
        self.pipes.send(self.talk.session.hello())
        try:
            while self.talk.session.ready is None:
                if (failed := self.talk.failed) is not None:
                    said = f"{failed.type}: {failed.message}"
                    hints = (
                        *failed.stack[:1],
                        describe_missing(said, self.program.argv, self.program.cwd),
                    )
                    reason = f"it could not load: {said}"
                    raise self._not_ready(reason, "; ".join(filter(None, hints)))
                large = self.talk.oversized
                if large is not None and large.op == "ready":
                    reason = f"its ready frame is over max_frame = {large.limit} bytes"
                    raise self._not_ready(reason, "raise max_frame of the node")
                if remaining(deadline) <= 0:
                    raise StartTimeout(
                        node=self.talk.node,
                        timeout=self.settings.start_timeout,
                        stderr_tail=self.pipes.lines.tail,
                        hint=_skipped(large) or describe_stall(self.child.pid),
                    )
                if not self.talk.is_over:
                    poll.step(remaining(deadline))
                self.talk.receive()
        except (ProcessDied, ProtocolError) as error:
            # It has not had any message yet, so the quoted output can't contain a payload.
            sample = getattr(error, "sample", "")
            wrote = f"; it wrote: {sample}" if sample else ""
            reason = f"before it was ready, {_without_node(error)}{wrote}"
            raise self._not_ready(reason, signal=getattr(error, "signal", None)) from error

    def _not_ready(self, reason: str, hint: str = "", signal: str | None = None) -> StartError:
        if signal is None:  # else the language is not at fault, and each question takes memory
            hint = "; ".join(filter(None, (hint, self.program.explain())))
        return StartError(
            node=self.talk.node,
            argv=self.program.argv,
            reason=reason,
            hint=hint,
            stderr_tail=self.pipes.lines.tail,
            started=True,
            signal=signal,
        )

    def __repr__(self) -> str:
        talk = self.talk
        state = f"{len(talk.jobs)} open" if talk.jobs else "idle"
        return f"<Process {talk.node} pid {self.child.pid} [{state}, {talk.count} calls]>"


def stop_all(processes: Sequence[Process]) -> None:
    """
    Stop processes politely and side by side. The steps: the end of their input, *stop_grace*,
    SIGTERM, *term_grace*, SIGKILL. A process that has died already is reported in the log.
    """
    for process in processes:
        process.talk.look()
        process.warn()
        process.begin_stop()
    grace = max((process.settings.stop_grace for process in processes), default=0.0)
    stubborn = _wait_for_ends(processes, grace)
    for process in stubborn:
        process.child.terminate()
    _wait_for_ends(
        stubborn, max((process.settings.term_grace for process in stubborn), default=0.0)
    )
    _discard_all(processes)


def _discard_all(processes: Sequence[Process]) -> None:
    """Kill processes and everything they have started, together and at once."""
    kill_trees([process.child for process in processes])
    for process in processes:
        process.pipes.drain_errors()
        process.child.close()


def _wait_for_ends(processes: Sequence[Process], grace: float) -> list[Process]:
    """Wait until the processes have ended. Return those that have not."""
    end = time.monotonic() + grace
    poll = Poll([process.pipes for process in processes])
    living = [process for process in processes if not process.pipes.dead]
    while living and remaining(end) > 0:
        poll.step(remaining(end))
        for process in living:
            process.pipes.received.clear()
        living = [process for process in living if not process.pipes.dead]
    return living


class Launcher:
    """
    Starts processes of one program. The program is made once: later changes of PATH change nothing.

    Args:
        make: Makes the program, which may include building it. One thread calls it; others wait
            for its result.
        settings: The node's options.
        observers: Are told about the processes.
    """

    def __init__(
        self,
        make: Callable[[], Program],
        settings: Settings,
        observers: Sequence[Observers] = (),
    ) -> None:
        self._make = make
        self._settings = settings
        self._observers = observers
        self._making = threading.Lock()
        self._made: Program | None = None
        self._told: tuple[Program, str] | None = None  # a program and its language
        self._version = ""  # of the process that was started last

    @property
    def is_ready(self) -> bool:
        """True if the program is made."""
        return self._made is not None

    def prepare(self) -> Program:
        """
        Make the program, if it is not made yet.

        Raises:
            StartError: The program can't be made. The next call tries again.
        """
        program = self._made
        if program is None:
            with self._making:
                program = self._made = self._made or self._make()
        return program

    def start(self) -> Process:
        """Start a process. Raises StartError and StartTimeout, as `Process.start`."""
        try:
            process = Process.start(self.prepare(), self._settings, self._observers)
        except StartError as error:
            if self.is_permanent(error):
                self._made = None  # its file may have moved, or need another build
            raise
        self._compare(process)
        return process

    def _compare(self, process: Process) -> None:
        """Log the first process with another version than the process before."""
        before, self._version = self._version, process.version
        if before not in ("", process.version):
            logger_of(process.program.node).warning(
                "process %d has version %s, and those before it have %s: a file has changed; "
                "run emit reload, so that all run the same code",
                *(process.child.pid, process.version, before),
            )

    def remake(self) -> Program:
        """
        Make the program of its present files. Starts are of the former one until `take`.

        Raises:
            StartError: The program can't be made.
        """
        with self._making:
            return self._make()

    def take(self, program: Program, version: str) -> None:
        """Start *program*, of which *version* has been started, from now on."""
        self._made, self._version = program, version

    def start_other(self, program: Program) -> Process:
        """Start a process of *program*, as `start`."""
        return Process.start(program, self._settings, self._observers)

    def is_permanent(self, error: HostError) -> bool:
        """
        Return whether another start would fail in the same way, as the command itself is wrong. A
        program that was started and ended, or hung, may do better later, when a database is back.
        """
        return isinstance(error, StartError) and not error.started and not is_transient(error)

    def describe(self) -> dict[str, Any]:
        """Return the program's part of a node in :meth:`emit.host.host.Host.snapshot`."""
        program = self._made
        if program is None:
            return {"language": "", "command": [], "version": ""}
        told = self._told
        if told is None or told[0] is not program:
            # Imported here: only snapshots need it, and a command starts without any description.
            from emit.host.language.runtime import language_of

            told = self._told = program, program.language or language_of(program.argv)
        return {"language": told[1], "command": list(program.argv), "version": self._version}


def _session(program: Program, settings: Settings) -> Session | LineSession:
    if settings.mode == "lines":
        return LineSession(program.node, max_frame=settings.max_frame)
    codecs = ("json",) if settings.codec == "json" else ("msgpack", "json")
    config = from_json(program.config.encode()) if program.config else None
    return Session(program.node, codecs=codecs, max_frame=settings.max_frame, config=config)


def _skipped(large: frames.TooLarge | None) -> str:
    """Return a hint if a program that is not ready has written a frame over the limit."""
    if large is None:
        return ""
    return f"a frame over max_frame = {large.limit} bytes was skipped; was it ready?"


def _without_node(error: HostError) -> str:
    text = str(error).removeprefix(f'"{error.node}"').lstrip(": ")
    return text if text.startswith(("it ", "the ")) else f"it {text}"
