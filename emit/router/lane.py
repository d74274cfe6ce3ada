"""
Where a node's RQ jobs go, and what the settings there do to messages. RQ keeps its limits with each
job and each queue, so all of this is known where the nodes are declared, without a worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rq import Queue
from rq.defaults import DEFAULT_WORKER_TTL
from rq.exceptions import TimeoutFormatError
from rq.utils import parse_timeout

from emit.errors import GraphError


@dataclass(frozen=True)
class Lane:
    """
    Where a node's jobs go.

    Attributes:
        queue: RQ's own.
        timeout: Seconds that a job may take; None: what the queue says, which is 180 by default.
        result_ttl: Seconds that RQ keeps what a job has returned.
    """

    queue: Queue
    timeout: int | None
    result_ttl: int

    @property
    def limit(self) -> int:
        """Seconds that a job may take; -1: any number."""
        return self.queue._default_timeout if self.timeout is None else self.timeout


def seconds(node: str, option: str, value: Any) -> int:
    """
    Read a time as RQ does: whole seconds, or such as ``"1h"``. -1 stands for no end.

    Raises:
        GraphError: It is none.
    """
    try:
        read = parse_timeout(value)
    except (TimeoutFormatError, TypeError, AssertionError, OverflowError) as error:
        raise GraphError(f'"{node}": {option} = {value!r}: {error}') from error
    cut_off = isinstance(value, float) and value != read  # RQ would do it without a word
    if read is None or cut_off or read < -1 or (read == 0 and option == "timeout"):
        raise GraphError(f'"{node}": {option} = {value!r} is no number of whole seconds, nor -1')
    return read


def problems(lanes: Mapping[str, Lane], timeouts: Mapping[str, float] = {}) -> list[str]:
    """
    What the settings of nodes do to messages, one line each. Empty: nothing bad.

    Args:
        lanes: Of each node, by its name.
        timeouts: Of each node that is a program its ``timeout``, in seconds.

    Example:
        >>> problems({"words": Lane(Queue(connection=Redis()), timeout=None, result_ttl=500)})
        []
    """
    each = [text for name, lane in lanes.items() for text in _of(name, lane, timeouts.get(name))]
    return [*each, *_mixed(lanes)]


def _of(name: str, lane: Lane, timeout: float | None) -> Iterator[str]:
    queue, limit = lane.queue, lane.limit
    if not queue.is_async:
        yield (
            f'"{name}": the queue "{queue.name}" has is_async=False: a job runs where it is sent, '
            f"and its message is lost if that process dies"
        )
    if limit < 0:
        yield (
            f'"{name}": its jobs have no time limit: one that hangs is never ended, and one that '
            f"takes more than {DEFAULT_WORKER_TTL} s in an EmitWorker is taken for dead and run "
            f"again beside it; set timeout, of a program Queue(default_timeout=...)"
        )
    elif timeout is not None and timeout >= limit:
        yield (
            f'"{name}": timeout = {timeout:g} s is not below the time limit of its job, {limit} s: '
            f"set the node's timeout, or Queue(default_timeout=...)"
        )
    if lane.result_ttl < 0:
        yield (
            f'"{name}": result_ttl is -1: Redis keeps every job for ever, and the message with it'
        )


def _mixed(lanes: Mapping[str, Lane]) -> Iterator[str]:
    """A worker reads all of a queue's jobs with one serializer."""
    first: dict[Any, tuple[str, Lane]] = {}
    for name, lane in lanes.items():
        queue = lane.queue
        other, known = first.setdefault((queue.name, id(queue.connection)), (name, lane))
        if known.queue.serializer is not queue.serializer:
            yield (
                f'"{name}" and "{other}": the queue "{queue.name}" has two serializers: a worker '
                f"fails the jobs of one of them unread, and makes no dead letter of them"
            )
