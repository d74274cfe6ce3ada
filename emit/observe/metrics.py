"""
Metrics for Prometheus, exact for workers that fork and whose processes are killed.

Needs ``pip install 'emit-graph[metrics]'``. In the module of the router::

    from emit.observe import metrics

    metrics.instrument(router)

Each process then counts in files, see :mod:`emit.observe.counts`. One process answers for the
machine, with the sum over all files, and with the present state of all hosts of this user:
``emit metrics``, or an application that calls :func:`register`.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from emit.host import status
from emit.observe import waiting
from emit.observe.counts import VARIABLE, Counts, files, folder_of
from emit.observe.observers import Observers
from emit.observe.series import CPU, Tally

if TYPE_CHECKING:
    from emit.router import Router

__all__ = ["VARIABLE", "Collector", "instrument", "register"]

#: The state of hosts: for each host of the machine the result of its snapshot.
Snapshots = Callable[[], Iterable[tuple[int, Mapping[str, Any]]]]

_log = logging.getLogger("emit")


def instrument(router: Router, folder: str | os.PathLike[str] | None = None) -> None:
    """
    Count the messages of *router*, and the processes of its programs, from now on.

    A second call for the same router changes nothing.

    Args:
        router: Any router.
        folder: The folder of the counts; by default ``$EMIT_METRICS_DIR``, else a folder beside
            the sockets of this user's hosts. It must be this user's alone, and the same for the
            process that answers.
    """
    counts = Counts.at(folder_of(folder))
    if counts.tally is None:
        counts.tally = Tally(counts)
    router.observe(counts.tally)


def of_a_shared_host() -> Observers:
    """
    Return what counts the processes of a shared host, of which the routers of its clients know
    nothing. It counts once there is a folder of counts, as when a client's router counts.
    """
    counts = Counts.at(folder_of())
    tally = Tally(counts)

    def count(fact: Any) -> None:
        if counts.folder.is_dir():
            tally(fact)

    observers = Observers()
    observers.add(count)
    return observers


def register(
    registry: CollectorRegistry = REGISTRY,
    folder: str | os.PathLike[str] | None = None,
    router: Router | None = None,
) -> Collector:
    """
    Have a registry of prometheus_client answer with Emit's metrics of this machine as well.

    Only one process of a machine should do so: each would tell the same sums.

    Args:
        registry: The application's registry.
        folder: As for :func:`instrument`.
        router: Also tell the messages in its queues, and its dead letters. The broker is asked at
            each scrape.

    Returns:
        The collector, for ``registry.unregister``.

    Example:
        >>> from prometheus_client import CollectorRegistry, generate_latest
        >>> registry = CollectorRegistry()
        >>> collector = register(registry)
        >>> b"emit_hosts" in generate_latest(registry)
        True
    """
    collector = Collector(folder, router=router)
    registry.register(collector)
    return collector


def _of_this_machine() -> Iterator[tuple[int, Mapping[str, Any]]]:
    for pid, answer in status.ask_all({}):
        if not isinstance(answer, Exception) and "nodes" in answer:
            yield pid, answer


class Collector:
    """
    Collects Emit's metrics of this machine for a registry of prometheus_client.

    Args:
        folder: The folder of the counts, as for :func:`instrument`.
        snapshots: Returns the state of the hosts; by default it asks each host of this user.
        router: As for :func:`register`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        snapshots: Snapshots = _of_this_machine,
        router: Router | None = None,
    ) -> None:
        self._folder = folder_of(folder)
        self._snapshots = snapshots
        self._router = router
        self._cpu: dict[str, float] = {}

    def describe(self) -> list[Metric]:
        """Return nothing: to register a collector should ask no host."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        pools = [*_pools(self._snapshots())]
        merged = MultiProcessCollector.merge(files(self._folder), accumulate=True)
        counted = {metric.name: metric for metric in merged}
        self._add_living(counted, pools)
        yield from counted.values()
        yield from _states(pools)
        if self._router is not None:
            yield from _of_queues(self._router)

    def _add_living(self, counted: dict[str, Metric], pools: list[Mapping[str, Any]]) -> None:
        """
        Add the processor time of living processes to that of processes that have ended. A sum never
        falls: the time of a process that was killed together with its host is kept.
        """
        ended = counted.pop(CPU.name, None)
        found: dict[str, float] = defaultdict(float)
        for sample in ended.samples if ended is not None else ():
            found[sample.labels["node"]] += sample.value
        for pool in (pool for pool in pools if pool["pool"] is not None):
            found[pool["pool"]] += sum(process["cpu_seconds"] for process in pool["processes"])
        metric = Metric(CPU.name, CPU.help, "counter")
        for node, seconds in found.items():
            self._cpu[node] = max(seconds, self._cpu.get(node, 0.0))
            metric.add_sample(f"{CPU.name}_total", {"node": node}, self._cpu[node])
        counted[CPU.name] = metric


def _pools(snapshots: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[Mapping[str, Any]]:
    """Yield the figures of each pool, and an empty one for a host without pools."""
    for host, snapshot in snapshots:
        try:
            pools = {_key(node): {**node, "host": host} for node in snapshot["nodes"].values()}
        except (KeyError, TypeError) as error:
            _log.info("host %s is left out: it is of another version of Emit: %r", host, error)
        else:
            yield from pools.values() or ({"host": host, "pool": None, "processes": ()},)


def _key(node: Mapping[str, Any]) -> Any:
    """
    Return a key that nodes with one pool share.

    Raises:
        KeyError: The node lacks a figure.
    """
    for figure in _FIGURES:
        node[figure]
    return node["pool"], *node["command"], *(process["pid"] for process in node["processes"])


def _of_queues(router: Router) -> Iterator[Metric]:
    """Yield the gauges of a router's queues. One that can't be asked is left out, and logged."""
    try:
        queues = GaugeMetricFamily(
            "emit_queue_messages", "Tasks or jobs that wait in a queue.", labels=["queue"]
        )
        for queue, size in sorted(waiting.messages(router).items()):
            queues.add_metric([queue], size)
        yield queues
        kept = waiting.dead_letters(router)
        if kept is not None:
            yield GaugeMetricFamily("emit_dead_letters", "Dead letters that are kept.", kept)
    except Exception as error:
        _log.warning("the queues can't be asked how many messages wait: %s", error)


def _states(pools: list[Mapping[str, Any]]) -> Iterator[Metric]:
    hosts = GaugeMetricFamily("emit_hosts", "Processes of this user that have a host.")
    hosts.add_metric([], len({pool["host"] for pool in pools}))
    yield hosts
    by_node: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for pool in pools:
        if pool["pool"] is not None:
            by_node[pool["pool"]].append(pool)
    states = GaugeMetricFamily(
        "emit_processes", "Processes of nodes, by state.", labels=["node", "state"]
    )
    for node, mine in by_node.items():
        for state in ("busy", "idle"):
            states.add_metric([node, state], sum(pool[state] for pool in mine))
    yield states
    for name, text, value in _GAUGES:
        family = GaugeMetricFamily(name, text, labels=["node"])
        for node, mine in by_node.items():
            family.add_metric([node], sum(map(value, mine)))
        yield family


#: The figures of a pool that gauges are made of.
_FIGURES = ("size", "busy", "idle", "queued", "breaker", "rss_bytes")

#: The gauges of a node: name, help, and the value of one pool.
_GAUGES: tuple[tuple[str, str, Callable[[Mapping[str, Any]], float]], ...] = (
    (
        "emit_processes_limit",
        "The most processes that a node may have, over all hosts.",
        lambda pool: pool["size"],
    ),
    (
        "emit_process_resident_memory_bytes",
        "Memory of the processes and all that they have started.",
        lambda pool: pool["rss_bytes"],
    ),
    (
        "emit_calls_queued",
        "Messages that wait for a process.",
        lambda pool: pool["queued"],
    ),
    (
        "emit_breaker_open",
        "Hosts that start no process at present, since several starts have failed.",
        lambda pool: pool["breaker"] == "open",
    ),
)
