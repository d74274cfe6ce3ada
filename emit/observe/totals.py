"""
Messages counted by node and by edge, as the page of ``emit ui`` shows them. Totals of several
processes can be added, and travel as data that JSON can carry. No I/O here.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

from emit.host.accounting import Times
from emit.observe.facts import Failed, Finished, Retried, Started, Waiting

__all__ = ["Durations", "Node", "Totals"]


class Durations(Times):
    """Durations that can be added, and told to others."""

    def told(self) -> list[Any]:
        """Return them as data."""
        buckets = [each for pair in self._buckets.items() for each in pair]
        return [self.count, self.total, self.longest, self._instant, buckets]

    def add_told(self, told: list[Any]) -> None:
        """Add the durations that :meth:`told` has returned."""
        count, total, longest, instant, buckets = told
        self.count += count
        self.total += total
        self.longest = max(self.longest, longest)
        self._instant += instant
        for bucket, times in zip(buckets[::2], buckets[1::2], strict=True):
            self._buckets[bucket] = self._buckets.get(bucket, 0) + times


class Node:
    """
    Attributes:
        done: Number of messages that have ended, well or not.
        failed: Number of those that have not ended well.
        times: The durations of their handler.
    """

    __slots__ = ("done", "failed", "times")

    def __init__(self) -> None:
        self.done = 0
        self.failed = 0
        self.times = Durations()


class Totals:
    """
    Counts facts, and adds what others have counted. Each method may be called from any thread.

    Attributes:
        nodes: The counts of each node that has had a message.
        edges: Number of messages that have come along each edge, by its two ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.nodes: dict[str, Node] = {}
        self.edges: Counter[tuple[str, str]] = Counter()

    def __call__(self, fact: Any) -> None:
        """Count a fact: this is an observer."""
        kind = type(fact)
        with self._lock:
            if kind is Started:
                # Not where it is sent: the sender may be a process that nobody can look at.
                self.edges[fact.origin, fact.node] += fact.attempt == 1
            elif kind is Finished or kind is Failed:
                node = self._node(fact.node)
                node.done += 1
                node.times.add(fact.seconds)
                node.failed += kind is Failed
            elif (kind is Retried or kind is Waiting) and fact.run and fact.carrier != "host":
                # Not the end of the message. What a program's host repeats is within one run.
                node = self._node(fact.node)
                node.done -= 1
                node.failed -= 1

    def _node(self, name: str) -> Node:
        node = self.nodes.get(name)
        if node is None:
            node = self.nodes[name] = Node()
        return node

    def told(self) -> dict[str, Any]:
        """Return all counts as data."""
        with self._lock:
            nodes = {n: [c.done, c.failed, c.times.told()] for n, c in self.nodes.items()}
            return {"nodes": nodes, "edges": [[*edge, n] for edge, n in self.edges.items()]}

    def add(self, told: Mapping[str, Any]) -> None:
        """
        Add the counts that :meth:`told` has returned.

        Raises:
            ValueError: It is something else.
        """
        try:
            with self._lock:
                for name, (done, failed, times) in told["nodes"].items():
                    node = self._node(name)
                    node.done += done
                    node.failed += failed
                    node.times.add_told(times)
                for origin, name, count in told["edges"]:
                    self.edges[origin, name] += count
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"these are no counts: {type(error).__name__}") from error
