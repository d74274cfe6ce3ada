"""
What all workers of all machines do: each worker publishes a report in the Redis that Emit uses
there, and ``emit top --all`` reads them.

A thread of the worker makes the report every few seconds. It has the snapshot of each host of the
worker: its own, those of its pool's processes, and the shared host that it uses. No message waits
for it. A Python function has no host: :mod:`emit.observe.functions` counts for it. Without a Redis
nothing is published. If Redis is away, or refuses, the log says so once, and the next report tries
again.

``EMIT_FLEET``
    ``off``, or the seconds between two reports: 2 by default.
``EMIT_MACHINE``
    The name of this machine; by default that of the system.
``EMIT_PROJECT``
    The name of the project, by which nodes of the same name are told apart.

The keys, after the prefix that all of Emit's keys have there:

``emit:fleet:<id>``
    the report of one worker. It expires, so that a killed worker is soon gone.
``emit:fleet``
    a sorted set of the ids, by the time of the worker
``emit:fleet@looks``, ``emit:fleet@seen:<id>``
    those who want to know more for a while, and what they have asked for: see
    :mod:`emit.observe.taps`

A report is JSON, compressed by zlib, in base64. It has figures, names of nodes and the texts of
errors at a start; never a message, a program's command, its environment or its stderr. Messages are
shown only to those who ask for them, and without the fields that a router's ``redact`` names.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import platform
import random
import socket
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from emit.errors import LedgerError
from emit.host import host, status
from emit.host.host import Host
from emit.host.place import project, socket_path
from emit.observe.functions import Functions
from emit.observe.taps import Looks
from emit.once import asking
from emit.text import one_line
from emit.workers import Worker

__all__ = ["EVERY", "Publisher", "Report", "join", "machine", "snapshots"]

logger = logging.getLogger(__name__)

#: Seconds between two reports of a worker. Each costs Redis little more than one command.
EVERY = 2.0

#: A report is kept for so many times the seconds between two of them, and for so long at least.
_KEPT = 5
_LEAST = 10.0

#: Seconds between two entries in the set of workers, and seconds that an entry is kept.
_ENTER = 30.0
_ENTERED = 3600

#: The longest wait in seconds until the next report while Redis is away.
_LONGEST = 30.0

#: Seconds after which an old answer of a process that doesn't answer is no longer reported.
_STALE = 30.0

#: The form of a report, and the most bytes of it that are read.
_VERSION = 1
_MOST = 64 * 1024 * 1024

#: Reports that are read from Redis at a time.
_PAGE = 100

#: Seconds between two reports while somebody looks.
LOOKED = 0.75


#: What is empty in a node, and in an error: it may have secrets, or the words of a program.
_PRIVATE: dict[str, Any] = {"command": []}
_PRIVATE_ERROR = {"stderr_tail": ""}


class Report(NamedTuple):
    """
    What one worker has published last.

    Attributes:
        machine: The name of its machine.
        worker: Its name in its queue.
        queue: The kind of its queue: ``celery`` or ``rq``.
        app: The name of its application; empty for none.
        project: `$EMIT_PROJECT`, or the directory in which it began.
        pid: The id of its process.
        emit: The version of Emit.
        python: The version of Python.
        began: When it began, in seconds since the epoch, by the clock of its machine.
        at: When this report was made, by that clock.
        every: Seconds between two reports.
        hosts: The snapshot of each host of the worker, as by
            :meth:`emit.host.host.Host.snapshot`; commands and the stderr of programs are empty.
        functions: The same of the nodes that are Python functions, over all processes of the
            worker. What only a program has is 0 or empty, and so is ``size``, the number of its
            processes. ``calls`` are messages that were handled or given up.
        counts: The messages of all nodes that were counted since somebody looks, as of
            :meth:`emit.observe.totals.Totals.told`; None: nobody does.
    """

    machine: str
    worker: str
    queue: str
    app: str
    project: str
    pid: int
    emit: str
    python: str
    began: float
    at: float
    every: float
    hosts: list[dict[str, Any]]
    functions: dict[str, Any]
    counts: dict[str, Any] | None = None


def machine() -> str:
    """Return the name of this machine: ``$EMIT_MACHINE``, else that of the system."""
    return os.environ.get("EMIT_MACHINE") or socket.gethostname()


def snapshots(redis: Any, prefix: str = "") -> list[Report]:
    """
    Return the latest report of each worker, by machine and worker.

    A worker that was killed is among them for ten seconds. A shared host is reported by each worker
    that uses it: it has one ``pid``. A report that can't be read, since its Emit is of another
    version, is left out, and logged at INFO.

    Args:
        redis: A client of redis-py.
        prefix: The beginning of the names of all keys: Celery's ``global_keyprefix``.

    Raises:
        LedgerError: Redis can't be reached, or refuses.

    Example:
        >>> from emit.observe import fleet
        >>> for report in fleet.snapshots(client):  # doctest: +SKIP
        ...     print(report.machine, report.worker, len(report.hosts))
        web1 celery@web1 4
    """
    index = f"{prefix}emit:fleet"
    with asking(redis, "read the reports of workers"):
        ids = [_text(id) for id in redis.zrange(index, 0, -1)]
        found: list[Any] = []
        for at in range(0, len(ids), _PAGE):
            found += redis.mget([f"{index}:{id}" for id in ids[at : at + _PAGE]])
    reports = []
    for id, told in zip(ids, found, strict=True):
        if told is None:  # it has ended
            continue
        try:
            reports.append(_read(told))
        except Exception as error:
            logger.info("the report %s can't be read: %s", id, one_line(str(error)))
    return sorted(reports, key=lambda report: (report.machine, report.worker, report.pid))


#: The types of a report's fields.
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("machine", "worker", "queue", "app", "project", "emit", "python"), str),
    **dict.fromkeys(("began", "at", "every"), (int, float)),
    "pid": int,
    "hosts": list,
    "functions": dict,
    "counts": (dict, type(None)),
}

#: Fields that earlier versions don't have.
_OPTIONAL = frozenset(Report._field_defaults)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _write(report: Report) -> bytes:
    data = json.dumps({"version": _VERSION, **report._asdict()}, separators=(",", ":"))
    return base64.b64encode(zlib.compress(data.encode(), 1))


def _read(told: Any) -> Report:
    """
    Raises:
        ValueError: It is not a report, or one of a later form.
    """
    unpacking = zlib.decompressobj()
    data = json.loads(unpacking.decompress(base64.b64decode(_text(told)), _MOST))
    if unpacking.unconsumed_tail:
        raise ValueError(f"it has more than {_MOST} bytes")
    if not isinstance(data, dict) or data.get("version") != _VERSION:
        raise ValueError("its Emit is of another version")
    given = {name for name in Report._fields if name in data or name not in _OPTIONAL}
    report = Report(**{name: data[name] for name in given})
    for name, kind in _KINDS.items():
        held = getattr(report, name)
        if not isinstance(held, kind):
            raise ValueError(f"{name} is of type {type(held).__name__}")
    if not all(isinstance(snapshot, dict) for snapshot in report.hosts):
        raise ValueError("hosts are no maps")
    return report


# -- Publishing ------------------------------------------------------------------------------------


#: The counts of this worker, made before its pool forks.
_functions: Functions | None = None


def prepare(worker: Worker) -> None:
    """Count what this worker's Python functions do from now on, if it is to publish reports."""
    global _functions
    is_off = worker.open_redis is None or os.environ.get("EMIT_FLEET") == "off"
    if not is_off and (_functions is None or _functions.pid != os.getpid()):
        _functions = Functions(project())


def join(worker: Worker) -> Callable[[], None] | None:
    """
    Publish the reports of a worker from now on, unless it has no Redis or ``EMIT_FLEET`` is
    ``off``. Return what ends that. See :mod:`emit.workers`.
    """
    every = _every()
    if worker.open_redis is None or every is None:
        return None
    prepare(worker)
    publisher = Publisher(worker, every, _functions)
    publisher.start()
    return publisher.stop


def _every() -> float | None:
    told = os.environ.get("EMIT_FLEET", "")
    if told == "off":
        return None
    try:
        every = float(told or EVERY)
        if not 0.05 <= every <= 3600:
            raise ValueError
    except ValueError:
        text = "EMIT_FLEET=%s must be off, or seconds from 0.05 to 3600; it is taken as %g"
        logger.warning(text, one_line(told), EVERY)
        return EVERY
    return every


class Publisher:
    """
    Publishes the reports of one worker, in a thread.

    Args:
        worker: The worker. It has a Redis.
        every: Seconds between two reports.
        functions: The counts of its Python functions, if there are any.
    """

    def __init__(self, worker: Worker, every: float, functions: Functions | None = None) -> None:
        self._worker = worker
        self._every = every
        self._functions = functions
        self._began = time.time()
        self._machine = machine()
        self._project = project()
        self._index = f"{worker.prefix}emit:fleet"
        self._key = f"{self._index}:{uuid.uuid4().hex}"
        self._client: Any = None
        self._entered = float("-inf")
        self._failures = 0
        self._answers: dict[Path, tuple[float, dict[str, Any]]] = {}
        self._looks = Looks(worker, self._machine, self._index)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="emit-fleet", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and take the report back if Redis answers at once."""
        self._stopped.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        wait = 0.0
        while not self._stopped.wait(wait):
            began = time.monotonic()
            wait = self._try() - (time.monotonic() - began)
        self._looks.close()
        if not self._failures:
            self._try_to_leave()
        self._client = None

    def _try(self) -> float:
        """Publish a report. Return the seconds until the next one."""
        try:
            self._looks.serve(self._opened())
            self._publish(_write(self._report()))
        except Exception as error:  # whatever it is, no message may suffer
            self._failures += 1
            self._client, self._entered = None, float("-inf")
            if self._failures == 1:
                text = "`emit top --all` does not show this worker: %s"
                logger.warning(text, self._said(error))
            return min(self._every * 2.0 ** min(self._failures, 10), max(_LONGEST, self._every))
        if self._failures:
            logger.info("`emit top --all` shows this worker again")
        self._failures = 0
        every = min(self._every, LOOKED) if self._looks.are_there else self._every
        return every * random.uniform(0.9, 1.1)  # workers that began together spread out

    def _said(self, error: Exception) -> str:
        said = one_line(str(error) or type(error).__name__)
        if isinstance(error, LedgerError) and "permission" in str(error.__cause__):
            said += f": give its user these keys and commands: ~{self._index}* +@read +@write"
        return f"{said}; EMIT_FLEET=off switches it off"

    def _opened(self) -> Any:
        assert self._worker.open_redis is not None
        if self._client is None:
            self._client = self._worker.open_redis()
        return self._client

    def _publish(self, report: bytes) -> None:
        with asking(self._opened(), "publish what this worker does"):
            kept = int(1000 * max(_LEAST, _KEPT * self._every))
            now = time.monotonic()
            if now - self._entered < _ENTER:
                self._client.set(self._key, report, px=kept)
                return
            id, clock = self._key.rpartition(":")[2], time.time()
            pipeline = self._client.pipeline(transaction=False)
            pipeline.set(self._key, report, px=kept)
            pipeline.zadd(self._index, {id: clock})
            pipeline.zremrangebyscore(self._index, "-inf", clock - _ENTERED)
            pipeline.expire(self._index, _ENTERED)
            pipeline.execute()
            self._entered = now

    def _try_to_leave(self) -> None:
        try:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.delete(self._key)
            pipeline.zrem(self._index, self._key.rpartition(":")[2])
            pipeline.execute()
        except Exception as error:  # it expires
            logger.info("the report of this worker stays for some seconds: %s", error)

    def _report(self) -> Report:
        return Report(
            machine=self._machine,
            worker=self._worker.name,
            queue=self._worker.queue,
            app=self._worker.app,
            project=self._project,
            pid=os.getpid(),
            emit=str(getattr(sys.modules["emit"], "__version__", "")),
            python=platform.python_version(),
            began=self._began,
            at=time.time(),
            every=self._every,
            hosts=[_shown(snapshot) for snapshot in self._snapshots()],
            functions=self._functions.snapshot() if self._functions else {"nodes": {}},
            counts=self._looks.counts(),
        )

    def _snapshots(self) -> Iterator[dict[str, Any]]:
        """Yield the snapshot of each host of the worker."""
        own = host.running
        if isinstance(own, Host) and own.pid == os.getpid():
            yield own.snapshot()
        end = time.monotonic() + max(self._every, status.PATIENCE)
        paths = dict.fromkeys((*status.sockets(parent=os.getpid()), *_of_the_shared_host()))
        self._answers = {path: told for path, told in self._answers.items() if path in paths}
        for path in paths:
            now = time.monotonic()
            try:
                answer = status.ask(path, {}) if now < end else None
            except (OSError, ValueError):  # it is busy, or is ending
                answer = None
            if answer is not None and "nodes" in answer:
                self._answers[path] = (now, answer)
            at, last = self._answers.get(path, (float("-inf"), {}))
            if now - at < _STALE:
                yield last


def _of_the_shared_host() -> list[Path]:
    """Return the socket at which the shared host of this user answers questions."""
    path = socket_path()
    try:
        owner = Path(f"{path}.lock").read_text("ascii").strip() if path else ""
    except (OSError, ValueError):
        return []
    return [each for each in status.sockets() if owner and each.name.startswith(f"{owner}-")]


def _shown(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """Return a snapshot without what is not for others."""
    nodes = {name: {**node, **_PRIVATE} for name, node in snapshot["nodes"].items()}
    for node in nodes.values():
        if node.get("start_error"):
            node["start_error"] = {**node["start_error"], **_PRIVATE_ERROR}
    return {**snapshot, "nodes": nodes}
