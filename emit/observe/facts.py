"""
The facts that observers are told: what happened to a message, or to a process. No I/O here.

1. A fact never has a payload, nor a part of one. It has names of nodes, ids, numbers and times.
2. Each run of a node begins with :class:`Started` and ends with :class:`Finished` or
   :class:`Failed`. All facts of one run have the same ``run``, a number that is unique in its
   process. Only the death of the worker leaves a run without an end.
3. In a queue, one of :class:`Retried`, :class:`Waiting` and :class:`Dead` follows
   :class:`Failed`, and tells the fate of the message.
4. The facts :class:`Sent` of a run come between its beginning and its end.

``carrier`` is ``"process"`` for a message that its sender's own process handles, ``"celery"``,
``"rq"``, or ``"host"`` for attempts that a program's host makes within one run. ``kind`` is the
name of an exception's class. Times of day are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from emit.context import Trace

__all__ = ["Fact", "Observer"]


class Sent(NamedTuple):
    """
    A message is about to be given to its carrier. A message that is tried again isn't sent again.

    Attributes:
        origin: The node that it comes from; ``__entry_point`` for a call of the router, empty for a
            call of a node's ``delay``.
        node: The node that it goes to.
        id: Its id; empty in a process, where a message has none.
        carrier: How it travels.
        run: The run that sends it; 0: none that observers know.
        at: The time.
        alone: It is given to its carrier now, and alone. False: it may wait for others, and travel
            with them.
    """

    origin: str
    node: str
    id: str
    carrier: str
    run: int
    at: float
    alone: bool = True


class Started(NamedTuple):
    """
    A run of a node begins: one message, or one message of a batch, is about to be handled.

    Attributes:
        node: The node.
        origin: The node that the message comes from; empty for a call.
        id: The message's id; empty in a process.
        attempt: Number of the attempt, from 1.
        carrier: How the message has travelled.
        queue: The name of the queue that it was taken from; empty if none.
        batch: Number of messages that were delivered together.
        queued: Seconds that it was ready in the queue, by the clocks of two machines; None if they
            are not known.
        run: The number of the run.
        at: The time.
        traceparent: The W3C trace context that came with the message, or None.
        tracestate: The second part of that context, or None.
        first: The ``traceparent`` of the run that was the message's first attempt, if that one has
            failed; also of a dead letter that was sent again. None: not known.
    """

    node: str
    origin: str
    id: str
    attempt: int
    carrier: str
    queue: str
    batch: int
    queued: float | None
    run: int
    at: float
    traceparent: str | None
    tracestate: str | None
    first: str | None = None


class Finished(NamedTuple):
    """
    A run has ended well: the handler has ended, and the carrier has all of its results.

    Attributes:
        node, id, attempt, carrier, run: As in :class:`Started`.
        results: Number of results.
        seconds: Duration of the handler. In a batch that is given to a program as a whole: the
            seconds since the end of the message before.
        waited: Part of *seconds* in which the message waited for a process; None: the node has no
            process.
        at: The time at which the handler ended.
    """

    node: str
    id: str
    attempt: int
    carrier: str
    run: int
    results: int
    seconds: float
    waited: float | None
    at: float


class Failed(NamedTuple):
    """
    A run has ended in an exception.

    Attributes:
        node, id, attempt, carrier, run: As in :class:`Started`.
        kind: The class of the exception. ``GeneratorExit``: the run was given up, since another one
            failed.
        error: The exception itself. Its text may quote what its author has put there.
        seconds, waited, at: As in :class:`Finished`.
    """

    node: str
    id: str
    attempt: int
    carrier: str
    run: int
    kind: str
    error: BaseException
    seconds: float
    waited: float | None
    at: float


class Retried(NamedTuple):
    """
    A message will be tried again, and the failed attempt counts.

    Attributes:
        node, id, attempt, carrier, run: As in :class:`Started`, of the attempt that has failed.
        kind: The reason.
        delay: Seconds until the next attempt.
    """

    node: str
    id: str
    attempt: int
    carrier: str
    run: int
    kind: str
    delay: float


class Waiting(NamedTuple):
    """
    A message goes back to its queue. No attempt is charged to it.

    Attributes:
        node, id, attempt, carrier: As in :class:`Started`.
        run: The run that was broken off; 0: none had begun.
        kind: The reason.
        delay: Seconds until the next delivery.
    """

    node: str
    id: str
    attempt: int
    carrier: str
    run: int
    kind: str
    delay: float


class Dead(NamedTuple):
    """
    A message was given up. Its dead letter is kept, if there is a place for it.

    Attributes:
        node, id, carrier: As in :class:`Started`.
        attempts: Number of its attempts.
        run: The last run; 0: none had begun.
        kind: The last reason.
    """

    node: str
    id: str
    attempts: int
    carrier: str
    run: int
    kind: str


class ProcessStarted(NamedTuple):
    """
    A program was started.

    Attributes:
        node: The node, or the program if several nodes share it.
        pid: The id of the process.
        version: The version of the program: a digest of what it is made of; empty if not known.
    """

    node: str
    pid: int
    version: str


class ProcessReady(NamedTuple):
    """
    A process takes messages.

    Attributes:
        node, pid, version: As in :class:`ProcessStarted`.
        sdk: The name and version of its SDK, such as ``ruby/0.5.0``; empty without one.
        seconds: Seconds since its start.
    """

    node: str
    pid: int
    version: str
    sdk: str
    seconds: float


class ProcessEnded(NamedTuple):
    """
    A process has ended, or is about to be stopped.

    Attributes:
        node, pid: As in :class:`ProcessStarted`.
        cause: ``failed``, ``stopped``, ``idle``, ``evicted``, ``reload``, ``max_calls``,
            ``max_age``, ``max_rss``; ``start``: it was never ready; ``finished``: it ran for one
            message.
        calls: Number of messages that it has answered.
        seconds: Seconds since its start.
        cpu_seconds: Processor time that it and its children have used; 0 if it has died by itself.
    """

    node: str
    pid: int
    cause: str
    calls: int
    seconds: float
    cpu_seconds: float


class ProcessReplaced(NamedTuple):
    """
    A process gets no more messages, since its successor is ready. Its end follows.

    Attributes:
        node, pid: As in :class:`ProcessStarted`, of the old process.
        cause: ``max_calls``, ``max_age``, ``max_rss`` or ``reload``.
    """

    node: str
    pid: int
    cause: str


#: One of the facts. A match statement over their types tells them apart.
Fact = (
    Sent
    | Started
    | Finished
    | Failed
    | Retried
    | Waiting
    | Dead
    | ProcessStarted
    | ProcessReady
    | ProcessEnded
    | ProcessReplaced
)

#: Is called with each fact, at once and in the thread where it happens. It returns None; or, to
#: Started and Sent, a mapping with the W3C trace context ``traceparent``, and maybe ``tracestate``:
#: of this run, or of this message. If it has a method ``flush``, that is called
#: when its router is closed, as at the end of a worker's process.
Observer = Callable[[Any], Mapping[str, str] | Trace | None]
