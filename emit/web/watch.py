"""
The figures that the page shows.

1. With a Redis, those of the workers of all machines, which publish them there: see
   :mod:`emit.observe.fleet`. While a page looks they do so more often, and count messages by edge.
2. Without one, or if it does not answer, those of the processes of this user and this project on
   this machine, by their sockets: see :mod:`emit.observe.looks`.
3. Always, those of this process.

Nothing is counted for a page that nobody has open.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from emit.cli.figures import Row, is_snapshot, rows
from emit.cli.fleet import nodes_of
from emit.errors import EmitError
from emit.host import status
from emit.host.accounting import Recent, Times
from emit.host.place import project
from emit.observe.fleet import Report, snapshots
from emit.observe.looks import Outlet, Wish
from emit.observe.taps import COUNTS, Looking
from emit.observe.totals import Totals
from emit.router import Router
from emit.text import one_line

__all__ = ["Watch"]

#: Seconds between two points of the line of a node, and points of it: 15 minutes.
STEP, POINTS = 5.0, 180

#: Seconds over which the rate of an edge is taken.
SPAN = 5.0

#: Seconds for which a process that has died is shown.
LATELY = 10.0

#: Errors of a node that are shown, and seconds to wait for workers to tell them.
ERRORS, PATIENCE = 20, 4.0

#: Seconds without a new report after which a worker is silent: it was killed, or can't reach Redis.
SILENT = 4.0

#: Seconds after which a worker without a report has ended.
ENDED = 60.0


class Source(NamedTuple):
    """
    Where figures come from.

    Attributes:
        name: A worker and its machine, or this machine.
        age: Seconds since it has told them.
        host: A host that it is about; for a worker None.
    """

    name: str
    age: float


class Seen(NamedTuple):
    """What a look has found: snapshots of hosts, counts of messages, and who has told them."""

    hosts: Mapping[Any, Mapping[str, Any]]
    totals: Totals
    sources: list[Source]
    said: str


class Watch:
    """
    The figures of a router's graph. All methods are for one thread at a time.

    Args:
        router: The router.

    Example:
        >>> watch = Watch(router)
        >>> watch.look()["nodes"]["words"]["rate"]
        0.0
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._own: Outlet | None = None
        self._others: Outlet | None = None
        self._places: list[tuple[Any, str]] | None = None
        self._past = Totals()  # of workers that have ended
        self._workers: dict[str, tuple[float, Report]] = {}
        self._present = 0  # workers in the last look
        self._recent: dict[str, Recent] = {}
        self._edges: deque[tuple[float, Mapping[tuple[str, str], int]]] = deque()
        self._ends: deque[tuple[float, Mapping[str, int]]] = deque()
        self._lines: dict[str, deque[tuple[float, float, float]]] = {}
        self._due = 0.0
        self._hosts: Mapping[Any, Mapping[str, Any]] = {}
        self._guard = threading.Lock()

    def look(self) -> dict[str, Any]:
        """
        Return the figures now, as plain data.

        Returns:
            ``at`` (seconds since the epoch), ``source`` (a text that says where they come from),
            ``sources`` (each with ``name`` and ``age``, the seconds since it has told them),
            ``silent`` (the number of workers that have not told anything for some seconds),
            ``nodes`` and ``edges``. A node has ``rate`` (messages a second), ``calls``,
            ``failures`` and ``failing`` (failures in the last seconds), ``p50`` and ``p99`` in
            seconds, ``queued``, ``busy`` and ``processes``, ``breaker`` (the number of hosts with
            an open one), ``restarts``, ``died`` (processes, in the last seconds), ``error`` (why it
            can't be started), ``rss_bytes``, ``versions`` and ``line``, messages a second in steps
            of 5 s, the latest last. An edge has ``origin``, ``node``, ``rate`` and ``count``, since
            the page looks.
        """
        with self._guard:
            seen = self._see()
            self._hosts = hosts = {key: _merged(host) for key, host in seen.hosts.items()}
            now = time.monotonic()
            nodes = {name: self._counted(now, name, seen.totals) for name in self._router.names}
            for row in rows(hosts):
                if row.node in nodes:
                    nodes[row.node] = _joined(nodes[row.node], row)
            self._count_deaths(now, nodes)
            self._extend(now, nodes)
            return {
                "at": time.time(),
                "source": seen.said,
                "sources": [source._asdict() for source in seen.sources],
                "silent": sum(source.age > SILENT for source in seen.sources),
                "nodes": nodes,
                "edges": [*self._of_edges(now, seen.totals)],
            }

    def history(self, node: str) -> list[tuple[float, float, float]]:
        """Return messages a second, p50 and p99 of a node, in steps of 5 s, the latest last."""
        return list(self._lines.get(node, ()))

    def processes(self, node: str) -> list[dict[str, Any]]:
        """Return the living processes of a node, by the last look, with the machine of each."""
        found = []
        for key, host in self._hosts.items():
            machine = key[0] if isinstance(key, tuple) else socket.gethostname()
            for each in host["nodes"].values():
                if each["node"] == node:
                    found += [{**process, "machine": machine} for process in each["processes"]]
        return found

    def describe(self, node: str) -> dict[str, Any]:
        """
        Return the last errors of a node, and the end of its processes' stderr: of all workers, or
        of the hosts of this machine. Takes up to some seconds.
        """
        answers = [(socket.gethostname(), pid, told) for pid, told in _described_here(node)]
        if self._places:
            with suppress(EmitError):  # it can't be reached: the picture says so
                own = [each for each in answers if each[1] == os.getpid()]
                answers = [*own, *self._described_there(node)]
        errors = [
            {**error, "host": pid, "machine": machine}
            for machine, pid, told in answers
            for error in told["errors"]
        ]
        stderr = [
            {**each, "machine": machine} for machine, _, told in answers for each in told["stderr"]
        ]
        latest = sorted(errors, key=lambda error: error["at"], reverse=True)
        return {"errors": latest[:ERRORS], "stderr": stderr}

    def _described_there(self, node: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
        wish = Wish(f"node-{secrets.token_hex(8)}", node=node)
        end = time.monotonic() + PATIENCE
        for client, prefix in self.places():
            wanted, begun = self._present, 0
            with Looking(client, prefix, wish) as looking:
                looking.renew()
                while begun < wanted and time.monotonic() < end:
                    time.sleep(0.1)
                    for seen in looking.take():
                        begun += seen.passed.way == "begin"
                        if seen.passed.way == "describe" and seen.passed.fields is not None:
                            yield seen.machine, seen.pid, seen.passed.fields

    def close(self) -> None:
        """Look no longer. The next look begins again."""
        with self._guard:
            for outlet in (self._own, self._others):
                if outlet is not None:
                    outlet.close()
            self._own = self._others = None

    # -- who is asked ----------------------------------------------------------------------

    def _see(self) -> Seen:
        if self._own is None:
            self._own = Outlet(Wish(COUNTS, counts=True))
        self._own.ask([], here=True)
        try:
            reports = []
            for client, prefix in self.places():
                Looking(client, prefix, Wish(COUNTS, counts=True)).renew()
                reports += [_readable(report) for report in snapshots(client, prefix)]
        except EmitError as error:
            return self._see_here(f"; {one_line(str(error))}")
        return self._see_workers(reports) if self._places else self._see_here("")

    def places(self) -> list[tuple[Any, str]]:
        """
        Return a client and a prefix for each Redis that the router uses; none: it has none.

        Raises:
            GraphError: A setting of the router names no Redis that can be used.
        """
        if self._places is None:
            found = {}
            for ledger in getattr(self._router, "ledgers", tuple)():
                where = sorted(ledger.redis.connection_pool.connection_kwargs.items(), key=str)
                found[f"{where} {ledger.prefix}"] = ledger.redis, ledger.prefix
            self._places = [*found.values()]
        return self._places

    def _see_here(self, trouble: str) -> Seen:
        """Ask the processes of this user on this machine."""
        assert self._own is not None
        if self._others is None:
            self._others = Outlet(Wish(COUNTS, counts=True, project=project()))
        self._others.ask(status.sockets(idle=True))
        hosts = {pid: _of_project(host) for pid, host in _hosts()}
        count = self._others.asked
        others = f" and {count} other{'' if count == 1 else 's'}" if count else ""
        totals = self._own.totals()
        totals.add(self._others.totals().told())
        machine = socket.gethostname()
        said = f"this process{others} on {machine}, by their sockets{trouble}"
        return Seen(hosts, totals, [Source(machine, 0.0)], said)

    def _see_workers(self, reports: list[Report]) -> Seen:
        """Add what workers have published, and ask this process itself."""
        assert self._own is not None
        now, totals = time.monotonic(), self._own.totals()
        told = {f"{report.machine} {report.worker} {report.pid}": report for report in reports}
        for key, report in told.items():
            since, last = self._workers.get(key, (now, report))
            if _size(report) < _size(last):  # it has begun to count anew, as nobody has looked
                _add(self._past, last)
            self._workers[key] = (since if last.at == report.at else now, report)
        for key, (since, report) in [*self._workers.items()]:
            if key not in told and now - since > ENDED:
                _add(self._past, report)
                del self._workers[key]
            else:  # one that is missing may come back, if Redis has lost its report
                _add(totals, report)
        totals.add(self._past.told())
        hosts = {**nodes_of(reports), **dict(_hosts(own=True))}
        sources = [
            Source(one_line(f"{report.worker} on {report.machine}"), round(now - since, 1))
            for key, (since, report) in self._workers.items()
            if key in told
        ]
        machines = len({report.machine for report in reports})
        count = self._present = len(reports)
        workers = f"{count} worker{'' if count == 1 else 's'}"
        said = f"{workers} on {machines} machine{'' if machines == 1 else 's'}, by Redis"
        return Seen(hosts, totals, sources, said)

    # -- what they have told ---------------------------------------------------------------

    def _counted(self, now: float, name: str, totals: Totals) -> dict[str, Any]:
        """Return the figures of a node by the counts of messages."""
        node = totals.nodes.get(name)
        done, failed = (0, 0) if node is None else (node.done, node.failed)
        times = Times() if node is None else node.times
        lately = self._recent.setdefault(name, Recent()).look(now, done, failed, times)
        rate = lately["calls"] / lately["seconds"] if lately["seconds"] else 0.0
        return _NOTHING | {
            "rate": max(0.0, rate),
            "calls": done,
            "failures": failed,
            "failing": max(0, lately["failures"]),
            "p50": lately["p50"],
            "p99": lately["p99"],
        }

    def _of_edges(self, now: float, totals: Totals) -> Iterator[dict[str, Any]]:
        while self._edges and now - self._edges[0][0] > SPAN:
            self._edges.popleft()
        at, before = self._edges[0] if self._edges else (now, totals.edges)
        self._edges.append((now, totals.edges))
        seconds = max(0.5, now - at)
        for (origin, node), count in totals.edges.items():
            fresh = max(0, count - before.get((origin, node), 0))
            yield {"origin": origin, "node": node, "rate": fresh / seconds, "count": count}

    def _count_deaths(self, now: float, nodes: Mapping[str, dict[str, Any]]) -> None:
        """Add the number of processes that have died in the last seconds."""
        ends = Counter[str]()
        for host in self._hosts.values():
            for each in host["nodes"].values():
                ends[each["node"]] += each["ends"].get("failed", 0)
        while self._ends and now - self._ends[0][0] > LATELY:
            self._ends.popleft()
        before = self._ends[0][1] if self._ends else ends
        self._ends.append((now, ends))
        for name, node in nodes.items():
            node["died"] = max(0, ends[name] - before.get(name, ends[name]))

    def _extend(self, now: float, nodes: Mapping[str, dict[str, Any]]) -> None:
        """Add a point to each line if it is time."""
        is_due = now >= self._due
        if is_due:
            self._due = now + STEP
        for name, node in nodes.items():
            line = self._lines.setdefault(name, deque(maxlen=POINTS))
            if is_due:
                line.append((round(node["rate"], 2), node["p50"], node["p99"]))
            node["line"] = [rate for rate, _, _ in line]


#: The figures of a node that has no program, or none that was started.
_NOTHING: dict[str, Any] = {
    "queued": 0,
    "busy": 0,
    "processes": 0,
    "breaker": 0,
    "restarts": 0,
    "error": "",
    "rss_bytes": 0,
    "versions": {},
}


def _readable(report: Report) -> Report:
    """Return a report without the hosts of another version of Emit."""
    return report._replace(hosts=[host for host in report.hosts if is_snapshot(host)])


def _size(report: Report) -> int:
    """Return a number that grows with the counts of a report."""
    return sum(count for *_, count in report.counts["edges"]) if report.counts else -1


def _add(totals: Totals, report: Report) -> None:
    if report.counts is not None:
        try:
            totals.add(report.counts)
        except ValueError:  # its Emit is of another version
            return


def _hosts(*, own: bool = False) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield the snapshot of each host of this user on this machine, or of this process alone."""
    for path in status.sockets():
        pid = int(path.name.partition("-")[0])
        if own and pid != os.getpid():
            continue
        with suppress(OSError, ValueError):  # it is busy, or is ending
            answer = status.ask(path, {})
            if answer is not None and is_snapshot(answer):
                yield pid, answer


def _of_project(host: Mapping[str, Any]) -> dict[str, Any]:
    """Return the snapshot of a host without the nodes of other projects."""
    nodes = host["nodes"].items()
    return {**host, "nodes": {name: n for name, n in nodes if n["project"] == project()}}


def _merged(host: Mapping[str, Any]) -> dict[str, Any]:
    """Return a snapshot whose nodes can be added to those of other folders with the same code."""
    return {**host, "nodes": {key: {**n, "project": ""} for key, n in host["nodes"].items()}}


def _joined(counted: dict[str, Any], row: Row) -> dict[str, Any]:
    """Return the figures of a node with those of its programs, which also count its messages."""
    figures = counted | {
        "rate": row.calls_per_second,
        "calls": max(counted["calls"], row.calls),
        "failures": max(counted["failures"], row.failures),
        "failing": row.failures_lately,
        "p50": row.p50,
        "p99": row.p99,
    }
    if row.is_function:
        return figures
    return figures | {
        "queued": row.queued,
        "busy": row.busy,
        "processes": row.processes,
        "breaker": row.open,
        "restarts": row.restarts,
        "error": row.start_error,
        "rss_bytes": row.rss_bytes,
        "versions": row.versions,
    }


def _described_here(node: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for pid, answer in status.ask_all({"node": node}):
        if not isinstance(answer, Exception) and "errors" in answer:
            yield pid, answer
