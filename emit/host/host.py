"""
The host: all pools of one operating-system process, with its own programs (:class:`Host`) or with
connections to a shared host (:class:`RemoteHost`).

A host never crosses a fork: the child drops it and makes its own on first use. Two processes that
share one pipe read each other's answers (in a test, more than half of 500 answers were wrong).
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

from emit.forks import at_fork
from emit.host import status
from emit.host.admission import Admission
from emit.host.calls import Calls
from emit.host.keeper import Keeper
from emit.host.place import project, socket_path
from emit.host.pool import Pool
from emit.host.process import Launcher, Process, stop_all
from emit.host.settings import Settings
from emit.host.shared.client import Dialer, at_the_host
from emit.host.shared.data import Described, from_job
from emit.host.system.command import directory_of
from emit.host.system.program import Program
from emit.letter import DeadLetter
from emit.observe.observers import Observers


class Host:
    """
    All nodes of this operating-system process, their pools, and the limits on all of them together.

    Args:
        max_processes: Processes of all nodes together; None: only the pools' own sizes limit them.
        max_rss: Bytes of memory of all processes together; None: no limit. The host checks it
            before each start, so it does not stop a process that grows later.
        observers: Told about the processes of all nodes, beside the observers of each node.

    At either limit the process that has idled longest, of any node, makes room for a new one. If
    none is idle, the start waits. The start that has waited longest gets the room of the next
    process that becomes idle.

    Example:
        >>> host = Host(max_processes=8)
        >>> host
        <Host [0 nodes | Processes: 0 busy, 0 idle of 8]>
        >>> host.close()
    """

    def __init__(
        self,
        max_processes: int | None = None,
        max_rss: int | None = None,
        observers: Sequence[Observers] = (),
    ) -> None:
        self._observers = observers
        self.max_processes = max_processes
        self.max_rss = max_rss
        self.pid = os.getpid()
        self.project = project()
        self._began = time.time()
        self.keeper = Keeper(self._keep)
        self.admission = Admission(max_processes, max_rss, lambda: self.pools)
        # Guards the three fields below. Reentrant: a signal handler may close the host at any time.
        self._lock = threading.RLock()
        self._nodes: list[Calls] = []
        self._shared: dict[Any, Pool[Process]] = {}
        self._ending: list[tuple[Pool[Process], Process]] = []
        self._closed = False

    def calls(
        self,
        node: str,
        program: Callable[[], Program],
        settings: Settings,
        *,
        program_node: str | None = None,
        shared: bool = True,
        dead_letter: Callable[[DeadLetter], Any] | None = None,
        observers: Sequence[Observers] = (),
    ) -> Calls:
        """
        Register a node and return its calls, with a pool for them. Only ``min_idle`` processes
        are started.

        Nodes that name their *program_node* share one pool with the other nodes of the same
        program, environment, configuration and settings, unless *shared* is False.
        """
        pool = self._shared_pool(program, settings) if program_node and shared else None
        if pool is None:
            pool = self._pool(node, program, settings)
        told = pool.account.observers
        told += [own for own in observers if own not in told]
        calls = Calls(node, pool, program_node, dead_letter, observers=observers)
        with self._lock:
            self._nodes.append(calls)
        if pool.needs_keeping:
            self.keeper.wake()
        return calls

    def _shared_pool(self, make: Callable[[], Program], settings: Settings) -> Pool[Process]:
        program = make()
        if not program.name:
            # Only a command with several nodes has no name yet.
            from emit.host.language.runtime import name_of

            program = replace(program, name=name_of(program.argv))
        started = (program.argv, program.cwd, frozenset(program.env.items()), program.config)
        key = (*started, settings)
        with self._lock:
            if key not in self._shared:
                named = partial(_named, make, program.name)
                self._shared[key] = self._pool(program.name, named, settings)
            return self._shared[key]

    def _pool(self, node: str, program: Callable[[], Program], settings: Settings) -> Pool[Process]:
        told = [*self._observers]
        source = Launcher(program, settings, told)
        return Pool(node, source, settings, self.admission, self.keeper, told)

    @property
    def nodes(self) -> list[Calls]:
        """The calls of each node, registered and not closed."""
        with self._lock:
            return list(self._nodes)

    @property
    def pools(self) -> list[Pool[Process]]:
        with self._lock:
            return list({id(calls.pool): calls.pool for calls in self._nodes}.values())

    # -- looking ---------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """
        Return all figures as plain data that JSON can carry. Cheap enough to call every second.

        Returns:
            ``{"pid", "project", "began", "max_processes", "max_rss", "nodes": {name: node}}``. The
            project is ``$EMIT_PROJECT``, else the directory in which the process began. ``began``
            is the time at which the host was made, in seconds since the epoch. Each *node* has, in
            this order:

            * ``node``, its name, and its ``project``. In a shared host these are its client's. If
              another project has a node of that name, the *name* above is ``"name (project)"``;
            * ``calls``, and two counts by the name of the exception: ``failures`` (messages that
              ended in one) and ``retries`` (attempts that were charged, or that asked a queue for
              another attempt);
            * ``wait_seconds`` (for a process) and ``call_seconds`` (the wait included), each as
              ``{"p50", "p90", "p99", "max", "mean"}``, to within 25 %;
            * ``recent``: ``calls``, ``failures``, and ``p50`` and ``p99`` of the calls, in the
              last ``seconds``: since the oldest snapshot that was made within 10 seconds before
              this one. If there was none, all are 0;
            * figures of its pool, which nodes of one program may share: ``starts``,
              ``start_failures``, ``start_error`` (None, or why the last start failed: an error as
              in :meth:`describe`, with ``retry_in``, the seconds until the next start may be
              tried; 0 means with the next message), ``ends`` by cause (``failed``, ``stopped``,
              ``idle``, ``evicted``, ``reload``, ``max_calls``, ``max_age``, ``max_rss``),
              ``start_seconds``;
            * ``sent_bytes``, ``received_bytes``, ``strays`` (lines on stdout that were not
              frames), ``cpu_seconds``, ``rss_bytes`` and ``peak_rss_bytes`` (of one process
              and its children, at the moments when it was measured);
            * ``processes``: each with ``pid``, ``version`` (of its program), ``state`` ("busy" or
              "idle"), ``calls``, ``age_seconds``, ``idle_seconds``, ``cpu_seconds``,
              ``rss_bytes``;
            * ``pool``: the node, or the program if several nodes share its processes;
            * ``size``, ``busy``, ``idle``, ``queued`` and ``breaker`` ("closed" or "open");
            * ``language`` (or the name of the program), ``command``, a list, and ``version``, of
              the process that was started last: 12 hexadecimal digits, see
              :mod:`emit.host.system.version`; all empty before the first start.
        """
        return {
            "pid": self.pid,
            "project": self.project,
            "began": self._began,
            "max_processes": self.max_processes,
            "max_rss": self.max_rss,
            "nodes": dict(self._figures()),
        }

    def _figures(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the figures of each node by its name, which has the project if it is not alone."""
        projects: dict[str, str] = {}
        for calls in list(self._nodes):
            name, project = calls.node, calls.project or self.project
            first = projects.setdefault(name, project)
            named = name if project == first else f"{name} ({project})"
            yield named, {"node": name, "project": project, **calls.snapshot()}

    def describe(self, node: str) -> dict[str, Any]:
        """
        Return the last errors of a node and the stderr of its processes, as plain data.

        Returns:
            ``{"errors": [...], "stderr": [...]}``. The errors come oldest first; if the node can't
            be started, the reason is the last one. Each has ``at`` (seconds since the epoch),
            ``type``, ``text`` and ``stderr_tail``. ``stderr`` has the ``pid`` and the ``tail`` of
            each living process. Both lists are empty if the node does not exist.
        """
        with self._lock:
            mine = [calls for calls in self._nodes if calls.node == node]
        processes = [process for calls in mine for process in calls.pool.processes]
        starts = [calls.pool.account.start_error for calls in mine]
        return {
            "errors": [
                *(error for calls in mine for error in calls.account.errors),
                *(error for error in starts if error is not None),
            ],
            "stderr": [{"pid": p.child.pid, "tail": p.pipes.lines.tail} for p in processes],
        }

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """
        Answer a question of `status`: :meth:`describe` of a ``node``, a ``swap`` by
        `emit.host.swap`, else :meth:`snapshot`.
        """
        if "swap" in question:  # by its name: a host that swaps nothing does not import it
            answer: dict[str, Any] = import_module("emit.host.swap").answer(self, question["swap"])
            return answer
        node = question.get("node")
        return self.snapshot() if node is None else self.describe(node)

    def __repr__(self) -> str:
        pools = self.pools
        busy = sum(pool.busy for pool in pools)
        idle = sum(len(pool.processes) for pool in pools) - busy
        of = f" of {self.max_processes}" if self.max_processes is not None else ""
        closed = " | closed" if self._closed else ""
        return (
            f"<Host [{len(self._nodes)} nodes | Processes: {busy} busy, {idle} idle{of}{closed}]>"
        )

    # -- the end ---------------------------------------------------------------------------

    def _keep(self) -> bool:
        needy = [pool for pool in self.pools if pool.needs_keeping]
        for pool in needy:
            pool.keep()
        return bool(needy)

    def begin_close(self, calls: Calls) -> None:
        """Stop taking messages for *calls*. The next `close` stops its processes."""
        if self.pid == os.getpid():
            self._leave(calls)

    def close(self, calls: Calls | None = None) -> None:
        """
        Stop all processes, or those that only *calls* uses, politely and together.

        Calls in progress in other threads end with their answer or with ``PoolClosed``. In a
        forked child this does nothing: the processes are the parent's. May be called repeatedly.
        """
        if self.pid != os.getpid():
            return
        if calls is None:
            self._closed = True
            self.keeper.stop(timeout=max([0.0, *(p.settings.stop_grace for p in self.pools)]))
        self._leave(calls)
        with self._lock:
            stopping, self._ending = self._ending, []
        _stop_together(stopping)

    def _leave(self, calls: Calls | None) -> None:
        """Remove all nodes, or only *calls*, and collect the processes that no other node uses."""
        with self._lock:
            closing = self._nodes if calls is None else [calls]
            self._nodes = [other for other in self._nodes if other not in closing]
            used = {id(other.pool) for other in self._nodes}
            pools = {id(c.pool): c.pool for c in closing if id(c.pool) not in used}
            self._shared = {k: pool for k, pool in self._shared.items() if id(pool) not in pools}
        idle = [(pool, process) for pool in pools.values() for process in pool.close()]
        with self._lock:
            self._ending += idle


def _named(make: Callable[[], Program], name: str) -> Program:
    """Make a program that several nodes share."""
    return replace(make(), node=name, name=name)


def _stop_together(stopping: list[tuple[Pool[Process], Process]]) -> None:
    for pool, process in stopping:
        pool.account.ended(process, "stopped")
    stop_all([process for _, process in stopping])


class RemoteHost:
    """
    The shared host at a socket, for one client process.

    Args:
        path: The path of its socket.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.pid = os.getpid()
        self.project = project()
        self._admission = Admission(None, None, list, most_starts=float("inf"))
        # Guards the nodes. Reentrant: a signal handler may close the host at any time.
        self._lock = threading.RLock()
        self._nodes: dict[Calls, Dialer] = {}

    def calls(
        self,
        node: str,
        program: Callable[[], Program],
        settings: Settings,
        *,
        program_node: str | None = None,
        shared: bool = True,
        dead_letter: Callable[[DeadLetter], Any] | None = None,
        observers: Sequence[Observers] = (),
    ) -> Calls:
        """
        Register a node, like :meth:`Host.calls`. Sends nothing yet. The *observers*
        are told nothing of processes, which are the host's.
        """

        def describe() -> Described:
            made = program()
            # The host runs in another directory.
            made = replace(made, cwd=directory_of(made))
            return Described(made, settings, program_node, shared, self.project)

        dialer = Dialer(self.path, node, describe, settings)
        pool = Pool(node, dialer, at_the_host(settings), self._admission, keeper=None)
        calls = Calls(node, pool, dead_letter=dead_letter, tell=from_job, observers=observers)
        with self._lock:
            self._nodes[calls] = dialer
        return calls

    def begin_close(self, calls: Calls) -> None:
        """Do nothing: closing connections takes no time."""

    def close(self, calls: Calls | None = None) -> None:
        """
        Close all connections, or only those of *calls*. The host stops processes that no client
        uses. Calls in progress in other threads end with ``PoolClosed``.
        """
        with self._lock:
            chosen = list(self._nodes) if calls is None else [calls]
            closing = {one: self._nodes.pop(one) for one in chosen if one in self._nodes}
        for one, dialer in closing.items():
            dialer.give_up()
            for idle in one.pool.close():
                idle.discard()
            for used in one.pool.processes:
                used.hang_up()  # its caller closes the connection

    def snapshot(self) -> dict[str, Any]:
        """Return this client's figures: ``calls``, ``failures`` and times of each node."""
        with self._lock:
            nodes = list(self._nodes)
        return {
            "pid": self.pid,
            "shared": self.path,
            "nodes": {one.node: one.account.snapshot() for one in nodes},
        }

    def __repr__(self) -> str:
        return f"<RemoteHost {self.path} [{len(self._nodes)} nodes]>"


#: The host that carries a node's messages.
AnyHost = Host | RemoteHost

#: The host of this process. None before its first use, and in a forked child.
running: AnyHost | None = None

_making = threading.Lock()


def current() -> AnyHost:
    """
    Return this operating-system process's host, creating it on first use.

    ``$EMIT_HOST`` selects it: ``private`` (the default), ``shared``, or the path of a shared
    host's socket. See docs/shared-host.md.
    """
    global running
    host = running
    if host is None or host.pid != os.getpid():
        with _making:
            if running is None or running.pid != os.getpid():
                running = _make()
            host = running
    return host


def _make() -> AnyHost:
    path = socket_path()
    if path is not None:
        return RemoteHost(path)
    host = Host()
    status.serve(host.answer)
    return host


def _close_current() -> None:
    if running is not None:
        running.close()


def _forget() -> None:
    """Drop the parent's host in a forked child, and its lock, which the parent may hold."""
    global running, _making
    running = None
    _making = threading.Lock()


atexit.register(_close_current)
at_fork("host", in_child=_forget)
