"""A process for one message: the message in, end of input, output until its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

from emit.errors import CallTimeout, ProcessDied, describe_status, signal_of
from emit.host.language.missing import describe_missing
from emit.host.lines import Lines
from emit.host.system import spawn
from emit.host.system.program import Program
from emit.host.system.tree import describe_stall
from emit.host.transport import Pipes, Poll, remaining


def run(
    program: Program,
    data: bytes,
    *,
    timeout: float,
    has_finished: Callable[[], bool] = lambda: True,
    explain: Callable[[Program], str] = lambda program: "",
) -> Generator[bytes, None, None]:
    """
    Run a program on one message.

    Its output comes in chunks as it is written. The program has ended well when the generator
    ends; one that is closed early kills it. It need not read its input.

    Args:
        program: What to run.
        data: Its whole input.
        timeout: Seconds for all of it, without what the caller takes between two chunks.
        has_finished: Asked when it has ended with exit code 0 and all of its output was taken:
            whether that was all. A handler may have ended the process.
        explain: Asked when it has failed: what is known to be wrong with it, or "".

    Raises:
        StartError: It can't be started.
        ProcessDied: It ended with another exit code than 0, by a signal, or before it had
            finished.
        CallTimeout: It had not ended in time. It and all it had started have been killed.
    """
    began = time.monotonic()
    deadline = began + timeout
    child = spawn.start(program, timeout=timeout)
    try:
        pipes = Pipes(child, Lines(program.node))
        poll = Poll([pipes])
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
    except BaseException:
        child.kill_tree()
        raise
    finally:
        child.close()


def _take(pipes: Pipes) -> Generator[bytes, None, float]:
    """What has come. Returns the seconds that the caller took for it: not the program's."""
    chunks, pipes.received = pipes.received, []
    began = time.monotonic()
    yield from chunks
    return time.monotonic() - began
