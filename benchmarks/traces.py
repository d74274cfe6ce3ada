"""Measure what traces and metrics cost a hop in one process, and a message through Celery.

The hop is that of hops.py. The Celery messages are single tasks, of graphs in the same worker that
differ only in who observes them. What counts is the processor time of the worker's child, as the
wall time of a message has more noise than the difference.

Two of the observers make the same spans by OpenTelemetry's SDK and nothing else. So they show what
the SDK alone costs: no instrumentation with that SDK can cost less.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from hops import emit_graph, timed
from measure import ROOT, ratio, rounds, table, verdict
from workers import DOCUMENT, HERE, redis_server

from emit import Router

#: Share of a Celery message's time that observers may take.
TARGET = 0.05

#: Rounds of each observer.
ROUNDS = 9

#: Messages of one round: a document.
MESSAGES = len(DOCUMENT.split())


def main() -> None:
    with redis_server() as url, tempfile.TemporaryDirectory() as folder:
        done = Path(folder, "done")
        os.environ.update(BENCH_REDIS=url, BENCH_DONE=str(done))
        sys.path[:0] = [str(HERE)]
        import watched
        from redis import Redis

        hops(watched)
        redis = Redis.from_url(url)
        with worker() as process:
            for router in watched.routers.values():
                send(redis, router, done, "x")
            (child,) = psutil.Process(process.pid).children()
            contestants = {
                name: through(redis, router, done, child)
                for name, router in watched.routers.items()
            }
            taken = rounds(contestants, ROUNDS)
    rows = []
    for name, times in taken.items():
        share = ratio(times, taken["nobody"]) - 1
        reached = verdict(share <= TARGET) if name == "all" else ""
        rows.append((NAMES[name], f"{statistics.median(times):.0f}", f"{share:+.1%}", reached))
    table(("a Celery message, observed by", "us of CPU", "more", f"target {TARGET:.0%}"), rows)


NAMES = {
    "nobody": "nobody",
    "metrics": "emit.observe.metrics",
    "bare_out": "the SDK alone, sampled out",
    "out": "emit.observe.otel, sampled out",
    "bare_in": "the SDK alone, each message sampled",
    "in": "emit.observe.otel, each message sampled",
    "all": "metrics and otel, each message sampled",
}


def hops(watched: Any) -> None:
    def graph(observers: list[Any]) -> Callable[[str], Counter[str]]:
        class Observed(Router):
            def __init__(self) -> None:
                super().__init__()
                for observer in observers:
                    self.observe(observer)

        return emit_graph(Observed)

    contestants = {name: timed(graph(each)) for name, each in watched.OBSERVERS.items()}
    taken = rounds(contestants, 5)
    rows = [(NAMES[name], f"{statistics.median(times):.1f}") for name, times in taken.items()]
    table(("a hop, observed by", "us"), rows)


def send(redis: Any, router: Any, done: Path, document: str) -> None:
    """
    Send a document, and wait until all of its words are done: *done* has a byte for each. A message
    that is just being taken is neither in the queue nor in the list of those not acknowledged.
    """
    name = next(name for name in router.functions if name.endswith(".words"))
    whole = done.stat().st_size + len(document.split())
    router.dispatch("", name, {"document": document})
    while done.stat().st_size < whole or redis.llen("celery") or redis.hlen("unacked"):
        time.sleep(0.01)


def through(redis: Any, router: Any, done: Path, child: psutil.Process) -> Callable[[], float]:
    """Measure *child*'s microseconds of processor time for a message, of a document of 500."""

    def once() -> float:
        before = used(child)
        send(redis, router, done, DOCUMENT)
        return (used(child) - before) / MESSAGES * 1e6

    return once


def used(process: psutil.Process) -> float:
    """Return the seconds of processor time that a process has used; on Linux to the nanosecond."""
    exact = Path(f"/proc/{process.pid}/schedstat")
    if exact.exists():
        return (
            sum(
                int(task.read_text().split()[0])
                for task in Path(f"/proc/{process.pid}/task").glob("*/schedstat")
            )
            / 1e9
        )
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def worker() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "celery", "-A", "watched", "worker", "-c", "1"]
    # The fleet is an observer, too.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]), "EMIT_FLEET": "off"}
    silent = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=HERE, env=env, stdout=silent, stderr=silent) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
