"""
The figures that the page shows: of this process, and of all hosts of this user on this machine.

An observer counts what passes in this process. The hosts are asked for the figures of their
programs, as ``emit top`` does. A look at them takes a few milliseconds, on request only.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from emit.cli.figures import is_snapshot, rows
from emit.host import status
from emit.host.accounting import Times
from emit.observe import Failed, Finished, Retried, Sent
from emit.router import Router

__all__ = ["Watch"]

#: Seconds between two points of the line of a node, and points of it: 15 minutes.
STEP, POINTS = 5.0, 180

#: Seconds over which a rate is taken.
SPAN = 5.0


class _Sample(NamedTuple):
    """Totals at a time: messages and failures by node, messages by edge."""

    at: float
    nodes: Mapping[str, int]
    failures: Mapping[str, int]
    edges: Mapping[tuple[str, str], int]


class Watch:
    """
    The figures of a router's graph.

    Args:
        router: The router. Its messages in this process are counted from now on.

    Example:
        >>> watch = Watch(router)
        >>> watch.look()["nodes"]["words"]["rate"]
        0.0
    """

    def __init__(self, router: Router) -> None:
        self._lock = threading.Lock()
        self._done: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._passed: Counter[tuple[str, str]] = Counter()
        self._times: dict[str, Times] = {}
        self._samples: deque[_Sample] = deque(maxlen=int(SPAN) + 2)
        self._lines: dict[str, deque[float]] = {}
        self._due = 0.0
        self._router = router
        router.observe(self._count)

    def _count(self, fact: Any) -> None:
        kind = type(fact)
        with self._lock:
            if kind is Finished:
                self._done[fact.node] += 1
                if (times := self._times.get(fact.node)) is None:
                    times = self._times[fact.node] = Times()
                times.add(fact.seconds)
            elif kind is Sent:
                self._passed[(fact.origin, fact.node)] += 1
            elif kind is Failed:
                self._done[fact.node] += 1
                self._failed[fact.node] += 1
            elif kind is Retried:
                # Not the end of the message: its failed attempt does not count.
                self._done[fact.node] -= 1
                self._failed[fact.node] -= 1

    def look(self) -> dict[str, Any]:
        """
        Return the figures now, as plain data.

        Returns:
            ``at`` (seconds since the epoch), ``source`` (what was asked), and ``nodes`` and
            ``edges``, which have no entry for what has not been seen. A node has ``rate`` (messages
            a second), ``calls``, ``failures`` and ``failing`` (failures a second), ``p50`` and
            ``p99`` in seconds, ``queued``, ``busy`` and ``processes``, ``breaker`` (the number of
            hosts with an open one), ``error`` (why it can't be started), ``rss_bytes``,
            ``versions`` and ``line``, messages a second in steps of 5 s, the latest last. An edge
            has ``origin``, ``node`` and ``rate``.
        """
        hosts = dict(_hosts())
        with self._lock:
            nodes = {name: self._own(name) for name in self._router.names}
            edges = dict(self._passed)
        for row in rows(hosts):
            if row.node in nodes:
                nodes[row.node] = _joined(nodes[row.node], row)
        now = time.monotonic()
        calls, failures = (
            {name: node[what] for name, node in nodes.items()} for what in ("calls", "failures")
        )
        sample = _Sample(now, calls, failures, edges)
        before = next((s for s in self._samples if now - s.at <= SPAN + 1), sample)
        self._samples.append(sample)
        seconds = max(1e-3, now - before.at)
        for name, node in nodes.items() if before is not sample else ():
            fresh = calls[name] - before.nodes.get(name, calls[name])
            failed = failures[name] - before.failures.get(name, failures[name])
            node["rate"] = max(node["rate"], fresh / seconds)
            node["failing"] = max(node["failing"], failed / seconds)
        self._extend(now, nodes)
        return {
            "at": time.time(),
            "machine": socket.gethostname(),
            "source": f"this process and {len(hosts)} hosts on {socket.gethostname()}",
            "nodes": nodes,
            "edges": [
                {
                    "origin": origin,
                    "node": node,
                    "rate": (count - before.edges.get((origin, node), count)) / seconds,
                    "count": count,
                }
                for (origin, node), count in edges.items()
            ],
        }

    def _own(self, name: str) -> dict[str, Any]:
        times = self._times.get(name)
        return {
            "rate": 0.0,
            "calls": self._done[name],
            "failures": self._failed[name],
            "failing": 0.0,
            "p50": times.percentile(0.5) if times else 0.0,
            "p99": times.percentile(0.99) if times else 0.0,
            "queued": 0,
            "busy": 0,
            "processes": 0,
            "breaker": 0,
            "restarts": 0,
            "error": "",
            "rss_bytes": 0,
            "versions": {},
        }

    def _extend(self, now: float, nodes: Mapping[str, dict[str, Any]]) -> None:
        """Add a point to each line if it is time."""
        is_due = now >= self._due
        if is_due:
            self._due = now + STEP
        for name, node in nodes.items():
            line = self._lines.setdefault(name, deque(maxlen=POINTS))
            if is_due:
                line.append(round(node["rate"], 2))
            node["line"] = list(line)


def _hosts() -> Any:
    for pid, answer in status.ask_all({}):
        if not isinstance(answer, Exception) and is_snapshot(answer):
            yield pid, answer


def _joined(own: dict[str, Any], row: Any) -> dict[str, Any]:
    """Return the figures of a node with those of its programs, which also count its messages."""
    return own | {
        "rate": row.calls_per_second,
        "calls": max(own["calls"], row.calls),
        "failures": max(own["failures"], row.failures),
        "failing": float(row.failures_lately),
        "p50": row.p50,
        "p99": row.p99,
        "queued": row.queued,
        "busy": row.busy,
        "processes": row.processes,
        "breaker": row.open,
        "restarts": row.restarts,
        "error": row.start_error,
        "rss_bytes": row.rss_bytes,
        "versions": row.versions,
    }


def describe(node: str) -> dict[str, Any]:
    """Return the last errors of a node, and the end of its processes' stderr, of all hosts here."""
    errors, stderr = [], []
    for pid, answer in status.ask_all({"node": node}):
        if isinstance(answer, Exception) or "errors" not in answer:
            continue
        errors += [{**error, "host": pid} for error in answer["errors"]]
        stderr += [{**each, "host": pid} for each in answer["stderr"]]
    return {
        "errors": sorted(errors, key=lambda error: error["at"], reverse=True),
        "stderr": stderr,
        "pid": os.getpid(),
    }
