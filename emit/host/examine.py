"""Looking at one process from outside: does it answer, and does it stop when it is asked to."""

from __future__ import annotations

import time

from emit.errors import CallTimeout, ProtocolError
from emit.host.process import Process
from emit.host.transport import Poll, remaining
from emit.host.wire.frames import Pong
from emit.host.wire.session import Session


def ping(process: Process, timeout: float) -> float | None:
    """
    Ask an idle process for a sign of life.

    Returns:
        Seconds until it came; None for a process without an SDK, which can't be asked.

    Raises:
        CallTimeout, ProtocolError: None came.
    """
    session = process.session
    if not isinstance(session, Session):
        return None
    began = time.monotonic()
    process.pipes.send(session.ping(1))
    poll = Poll([process.pipes])
    while remaining(began + timeout) > 0 and not process.pipes.over:
        poll.step(remaining(began + timeout))
        chunks, process.pipes.received = process.pipes.received, []
        if any(isinstance(event, Pong) for chunk in chunks for event in session.receive(chunk)):
            return time.monotonic() - began
    if process.pipes.over:
        raise ProtocolError(node=process.node, reason="it ended instead of answering a ping")
    raise CallTimeout(node=process.node, timeout=timeout, stderr_tail=process.pipes.lines.tail)


def end(process: Process, grace: float) -> float | None:
    """
    Close the input of a process and wait for its end; its status is then ``child.status``.

    Returns:
        Seconds that it took; None: it had not ended after *grace* seconds, and still runs.
    """
    began = time.monotonic()
    process.begin_stop()
    poll = Poll([process.pipes])
    while not process.pipes.dead and remaining(began + grace) > 0:
        poll.step(remaining(began + grace))
        process.pipes.received.clear()
    return time.monotonic() - began if process.pipes.dead else None
