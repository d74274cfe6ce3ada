"""
Swaps of programs: a host starts the present version of a program, and has it take over from the
processes that run another one, without losing a message.

1. The program is made anew, which may mean a build, and one process of it is started. If that
   fails, nothing has changed: the error is told, and the old processes go on.
2. Each process of another version then gives its place to a fresh one, one after the other. A
   message that it has is finished by it. So a message is never handled by two versions, except if
   it is tried again.
3. A swap takes one process more than ``size`` and ``max_processes`` allow, as the old one is
   needed until the fresh one is ready. A host does one swap at a time.

A one-shot program needs no swap: each message starts its present version.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from emit.errors import HostError, PoolClosed, StartError
from emit.host.calls import Calls
from emit.host.host import Host
from emit.host.lines import logger_of
from emit.host.pool import Pool
from emit.host.process import Launcher, Process
from emit.host.shared.data import from_error
from emit.host.system.program import Program
from emit.host.system.version import version_of
from emit.text import one_line

__all__ = ["REASON", "Swapped", "answer", "reload", "swap"]

logger = logging.getLogger(__name__)

#: The cause of the end of a process that gave its place to another version.
REASON = "reload"

#: Seconds between two looks at starts that began before the swap.
_TURN = 0.01

#: Swaps whose outcome is kept for a client that asks for it.
_KEPT = 32


class Swapped(NamedTuple):
    """
    The outcome of the swap of one pool.

    Attributes:
        nodes: The nodes that it serves.
        before: The versions of its processes before, the oldest first.
        version: The version that new messages go to. If there is an error: that of the files, as
            far as it is known.
        processes: Number of processes that took over.
        error: Why a process of the new version can't be started; None: it was.
    """

    nodes: tuple[str, ...]
    before: tuple[str, ...]
    version: str
    processes: int
    error: HostError | None = None

    @property
    def is_new(self) -> bool:
        """True if a process of another version has taken over."""
        return self.processes > 0

    def as_data(self) -> dict[str, Any]:
        """Return it as a map that JSON can carry."""
        error = None
        if self.error is not None:
            tail = getattr(self.error, "stderr_tail", "")
            kind = type(self.error).__name__
            error = {"type": kind, "text": str(self.error), "stderr_tail": tail}
        nodes, before = list(self.nodes), list(self.before)
        return {**self._asdict(), "nodes": nodes, "before": before, "error": error}


#: For each host: held by its swap in progress.
_locks: weakref.WeakKeyDictionary[Host, threading.Lock] = weakref.WeakKeyDictionary()


def reload(host: Host, calls: Iterable[Calls], *, force: bool = False) -> list[Swapped]:
    """
    Swap the pools of some nodes of a host, one after the other.

    Args:
        host: The host.
        calls: The nodes. Others that share a pool with them are swapped with them.
        force: Also replace processes that run the present version.

    Returns:
        The outcome for each pool. A failure in one does not keep the others from being swapped.
    """
    pools = {id(each.pool): each.pool for each in calls}
    names = {id_: tuple(c.node for c in host.nodes if id(c.pool) == id_) for id_ in pools}
    with _locks.setdefault(host, threading.Lock()):
        return [swap(pool, names[id_], force=force) for id_, pool in pools.items()]


def swap(pool: Pool[Process], nodes: tuple[str, ...], *, force: bool = False) -> Swapped:
    """Have the present version of a pool's program take over; see the module."""
    began = time.monotonic()
    launcher = pool.source
    assert isinstance(launcher, Launcher)
    before = tuple(dict.fromkeys(process.version for process in _serving(pool)))
    version, replaced = "", 0
    try:
        program = launcher.remake()
        version = version_of(program)
        if not force and not pool.starting and before == (version,):
            launcher.take(program, version)
            return Swapped(nodes, before, version, 0)
        fresh: Process | None = _start(pool, launcher, program)
        assert fresh is not None
        version = fresh.version
        launcher.take(program, version)
        _await_starts(pool)
        old = [p for p in _serving(pool) if p.version != version or (force and p.born < began)]
        places: list[Process | None] = [*old] or [None]
        for process in places:
            fresh = fresh or _start(pool, launcher, program)
            if pool.exchange(process, fresh, REASON):
                fresh, replaced = None, replaced + 1
        if fresh is not None:
            pool.stop(fresh, REASON)
    except HostError as error:
        logger_of(pool.node).error(
            "the version %s is not taken: %s", version or "of its files", one_line(str(error))
        )
        return Swapped(nodes, before, version, replaced, error)
    logger_of(pool.node).info(
        "version %s has taken over from %s in %d processes", version, _listed(before), replaced
    )
    return Swapped(nodes, before, version, replaced)


def _listed(versions: Collection[str]) -> str:
    return " and ".join(versions) or "none"


def _serving(pool: Pool[Process]) -> list[Process]:
    """Return the processes that get messages, the oldest first."""
    serving = [process for process in pool.processes if process.replaced is None]
    return sorted(serving, key=lambda process: process.born)


def _start(pool: Pool[Process], launcher: Launcher, program: Program) -> Process:
    """
    Start a process beside the pool. A start that a signal has ended is tried again.

    Raises:
        StartError, StartTimeout: It can't be started, or ended as soon as it was ready.
        PoolClosed: The pool was closed.
    """
    for left in reversed(range(pool.settings.max_attempts)):
        if pool.is_closed:
            break
        try:
            process = launcher.start_other(program)
            if process.talk.look() is None:
                return process
            pool.stop(process, "failed")
            raise StartError(
                node=pool.node,
                argv=program.argv,
                reason=f"it ended as soon as it was ready: {process.talk.condemned}",
                stderr_tail=process.pipes.lines.tail,
                started=True,
            )
        except StartError as error:
            if error.signal is None or not left:
                raise
            logger_of(pool.node).warning("a start is tried again: %s", error)
    raise PoolClosed(node=pool.node)


def _await_starts(pool: Pool[Process]) -> None:
    """Wait for the starts that began before the swap: they are of the former version."""
    waiting = pool.starting
    while any(lease.process is None and lease in pool.starting for lease in waiting):
        time.sleep(_TURN)


# -- Questions of another process ------------------------------------------------------------------


class Swaps:
    """
    The swaps that other processes have asked a host for. Each takes as long as a start, or a build,
    so its client asks again for the outcome.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the field below
        self._done: OrderedDict[int, list[Swapped] | None] = OrderedDict()
        self._numbers = itertools.count(1)

    def begin(self, work: Callable[[], list[Swapped]]) -> int:
        """Do *work* in a thread, and return the number by which its outcome is asked for."""
        number = next(self._numbers)
        with self._lock:
            self._done[number] = None
            while len(self._done) > _KEPT:
                self._done.popitem(last=False)

        def run() -> None:
            try:
                done = work()
            except Exception as error:  # its client would wait for the outcome for ever
                logger.exception("a swap has failed")
                text = f"the swap has failed: {type(error).__name__}: {one_line(str(error))}"
                done = [Swapped((), (), "", 0, HostError(text, node=""))]
            with self._lock:
                self._done[number] = done

        threading.Thread(target=run, name="emit-swap", daemon=True).start()
        return number

    def outcome(self, number: int) -> list[Swapped] | None:
        """
        Return the outcome; None: it is not known yet.

        Raises:
            KeyError: There is no such swap, or there were many after it.
        """
        with self._lock:
            return self._done[number]


_swaps: weakref.WeakKeyDictionary[Host, Swaps] = weakref.WeakKeyDictionary()


def answer(host: Host, question: Mapping[str, Any]) -> dict[str, Any]:
    """
    Answer a question about swaps.

    Args:
        host: The host that is asked.
        question: ``{"nodes": names or None, "project": name or None, "force": bool}`` begins a
            swap of these nodes, where None stands for all. The answer is ``{"swap": number}``, or
            ``{"swap": None}`` if the host has none of them. ``{"outcome": number}`` asks for its
            outcome: ``{"swapped": list, "causes": list}``, of :meth:`Swapped.as_data` and of their
            errors as by `emit.host.shared.data.from_error`; or ``{"swapped": None}`` meanwhile.
    """
    swaps = _swaps.setdefault(host, Swaps())
    if "outcome" in question:
        try:
            done = swaps.outcome(question["outcome"])
        except KeyError:
            return {"error": "there is no such swap"}
        if done is None:
            return {"swapped": None}
        causes = [None if each.error is None else from_error(each.error) for each in done]
        return {"swapped": [each.as_data() for each in done], "causes": causes}
    chosen = [*_chosen(host, question.get("nodes"), question.get("project"))]
    if not chosen:
        return {"swap": None}
    force = bool(question.get("force"))
    return {"swap": swaps.begin(lambda: reload(host, chosen, force=force))}


def _chosen(host: Host, nodes: Collection[str] | None, project: str | None) -> Iterable[Calls]:
    for calls in host.nodes:
        is_named = nodes is None or calls.node in nodes
        if is_named and project in (None, calls.project or host.project):
            yield calls
