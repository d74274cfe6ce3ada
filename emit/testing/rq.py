"""A line for ``RQRouter``: takes jobs where RQ would write them to Redis, and performs them."""

from __future__ import annotations

from contextlib import ExitStack
from copy import copy
from dataclasses import replace
from enum import Enum
from typing import Any

from rq import Retry
from rq.job import Job
from rq.utils import now

from emit.router.receiver import Delivery
from emit.router.rq import META, RQRouter
from emit.testing.driver import Died, Drive, Parcel


class Line:
    """
    Args:
        router: The router.
        drive: Keeps the messages.
    """

    def __init__(self, router: RQRouter, drive: Drive) -> None:
        self._router = router
        self._drive = drive
        self._nodes: dict[str, str] = {}

    def open(self, stack: ExitStack) -> None:
        for node, jobs in self._router._jobs.items():
            queue: Any = copy(jobs.queue)
            queue.connection, queue._is_async = _Absent(), True
            queue.enqueue_job, queue.schedule_job = self._enqueue, self._schedule
            stack.callback(self._router._jobs.__setitem__, node, jobs)
            self._router._jobs[node] = replace(jobs, queue=queue)
            function = self._router.functions[node]
            self._nodes[f"{function.__module__}.{function.__qualname__}"] = node

    def _enqueue(self, job: Any, *_: Any, **__: Any) -> Any:
        job.enqueued_at = now()
        self._put(job)
        return job

    def _schedule(self, job: Any, moment: Any, *_: Any, **__: Any) -> Any:
        self._put(job, delay=round((moment - now()).total_seconds(), 2))
        return job

    def _put(self, job: Any, *, delay: float = 0.0) -> None:
        delivery = Delivery(job.id, job.meta.get(META), job.args, job.kwargs)
        native = job.id, job.to_dict(include_meta=True, include_result=False)
        self._drive.take(delivery, self._nodes[job.func_name], native, delay=delay)

    def deliver(self, parcel: Parcel) -> list[Any]:
        job = self._read(parcel)
        try:
            value = job.perform()
        except Died:
            raise
        except Exception:
            self._again(job)
            return []
        if not isinstance(value, Retry):
            return [value]
        # As RQ's worker does with a Retry that a job returns.
        if not (job.number_of_retries and job.number_of_retries >= value.max):
            job.number_of_retries = (job.number_of_retries or 0) + 1
            self._put(job, delay=Retry.get_interval(job.number_of_retries, value.intervals))
        return []

    def lost(self, parcel: Parcel) -> None:
        self._again(self._read(parcel))

    def _again(self, job: Any) -> None:
        """Do as RQ does with a job that failed or whose worker died."""
        if job.retries_left is not None and job.retries_left > 0:
            job.retries_left -= 1
            self._put(job)

    def _read(self, parcel: Parcel) -> Any:
        id, stored = parcel.native
        queue = self._router._jobs[parcel.node].queue
        job = Job(id, connection=queue.connection, serializer=queue.serializer)
        job.restore({name: _stored(value) for name, value in stored.items()})
        return job


class _Absent:
    """Stands where a client of Redis stands. A scheduler runs, as far as it can be seen from it."""

    def exists(self, *_: Any) -> int:
        return 1

    def hset(self, *_: Any, **__: Any) -> int:
        return 0

    def persist(self, *_: Any) -> int:
        return 1


def _stored(value: Any) -> bytes:
    """Return a value as Redis gives it back."""
    if isinstance(value, bytes):
        return value
    return str(value.value if isinstance(value, Enum) else value).encode()
