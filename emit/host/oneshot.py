"""Runs one process for one message: writes the message, closes stdin, and reads to the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence

from emit.context import current
from emit.context import run as this_run
from emit.errors import CallTimeout, ProcessDied, describe_status, signal_of
from emit.host.fate import Job
from emit.host.language.missing import describe_missing
from emit.host.lines import Lines
from emit.host.system import spawn
from emit.host.system.program import Program
from emit.host.system.tree import describe_stall
from emit.host.transport import Pipes, Poll, remaining
from emit.observe.facts import ProcessEnded, ProcessStarted
from emit.observe.observers import Observers, tell


def run(
    program: Program,
    data: bytes,
    *,
    timeout: float,
    has_finished: Callable[[], bool] = lambda: True,
    explain: Callable[[Program], str] = lambda program: "",
    caller: int | None = None,
    observers: Sequence[Observers] = (),
) -> Generator[bytes, None, None]:
    """
    Run a program on one message.

    Yield its output in chunks as it is written. If the generator ends, the program has ended well.
    Closing the generator early kills the program. The program need not read its input.

    Args:
        program: The program to run.
        data: Its whole input.
        timeout: Seconds for the whole run, without the time the caller takes between two chunks.
        has_finished: Called when the program has ended with exit code 0 and all of its output was
            taken. Returns whether the output is complete: a handler may have ended the process.
        caller: A socket. If its other end is closed, the program is killed.
        explain: Called when the program has failed. Returns the known reason, or "".
        observers: Are told that the process starts and ends.

    Raises:
        StartError: The program can't be started.
        ProcessDied: It ended with an exit code other than 0, by a signal, or before it had
            finished.
        CallTimeout: It had not ended in time. It and everything it started have been killed.
    """
    began = time.monotonic()
    deadline = began + timeout
    child = spawn.start(program, timeout=timeout)
    cause = "failed"
    tell(observers, ProcessStarted(program.node, child.pid, ""))
    try:
        lines = Lines(program.node)
        lines.jobs = {0: Job({}, node=program.node, context=current.get(), run=this_run.get())}
        pipes = Pipes(child, lines)
        poll = Poll([pipes])
        if caller is not None:
            poll.attend(caller)
        pipes.send(data)
        pipes.finish()
        while not pipes.dead or pipes.received:
            deadline += yield from _take(pipes)
            if pipes.dead:
                continue
            if remaining(deadline) <= 0:
                raise CallTimeout(
                    node=program.node,
                    timeout=timeout,
                    stderr_tail=pipes.lines.tail,
                    hint=describe_stall(child.pid),
                )
            poll.step(remaining(deadline))
        if child.status != 0 or not has_finished():
            reason = f"{describe_status(0)} before it had answered," if child.status == 0 else ""
            signal = signal_of(child.status)
            hints = [describe_missing(pipes.lines.tail, program.argv, program.cwd)]
            if child.status and not signal:
                hints.append(explain(program))
            raise ProcessDied(
                node=program.node,
                status=child.status,
                reason=reason,
                stderr_tail=pipes.lines.tail,
                uptime=time.monotonic() - began,
                said=pipes.lines.last_words(signal),
                hint="; ".join(filter(None, hints)),
            )
        cause = "finished"
    except BaseException:
        child.kill_tree()
        raise
    finally:
        child.close()
        calls, seconds = int(cause == "finished"), time.monotonic() - began
        tell(observers, ProcessEnded(program.node, child.pid, cause, calls, seconds, 0.0))


def _take(pipes: Pipes) -> Generator[bytes, None, float]:
    """Yield the data that has come. Return the seconds that the caller took for it."""
    chunks, pipes.received = pipes.received, []
    began = time.monotonic()
    yield from chunks
    return time.monotonic() - began
