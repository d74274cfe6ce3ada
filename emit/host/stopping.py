"""Stopping processes: politely, side by side, and in the end by force."""

from __future__ import annotations

import time
from collections.abc import Sequence

from emit.host.process import Process
from emit.host.system.child import kill_trees
from emit.host.transport import Poll, remaining


def stop_all(processes: Sequence[Process]) -> None:
    """
    Stop processes politely and side by side, by the ladder: the end of their input,
    *stop_grace*, SIGTERM, *term_grace*, SIGKILL. One that has died already is told of.
    """
    for process in processes:
        process.look()
        process.warn()
        process.begin_stop()
    stubborn = _wait_for_ends(processes, max((p.graces[0] for p in processes), default=0.0))
    for process in stubborn:
        process.child.terminate()
    _wait_for_ends(stubborn, max((p.graces[1] for p in stubborn), default=0.0))
    discard_all(processes)


def discard_all(processes: Sequence[Process]) -> None:
    """Kill processes and all that they have started, together and at once."""
    kill_trees([process.child for process in processes])
    for process in processes:
        process.pipes.drain_errors()
        process.child.close()


def _wait_for_ends(processes: Sequence[Process], grace: float) -> list[Process]:
    """Returns those that have not ended."""
    end = time.monotonic() + grace
    poll = Poll([process.pipes for process in processes])
    living = list(processes)
    while living and remaining(end) > 0:
        poll.step(remaining(end))
        for process in living:
            process.pipes.received.clear()
        living = [process for process in living if not process.pipes.dead]
    return living
