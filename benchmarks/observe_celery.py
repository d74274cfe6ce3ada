"""Measure what observers add to the processor time of a message in a Celery worker.

The worker has one process, and the same graph once for each observer: a document is split into
words, and a node that does nothing takes each word. The time is the worker's own, of all its
processes, so it says little about what else runs on the machine.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from measure import ROOT, ratio, rounds, table, verdict
from workers import redis_server

HERE = Path(__file__).parent / "queues"

#: Messages in a round, and rounds.
WORDS, ROUNDS = 400, 7

#: The processor time of a message, in terms of that of one that nobody observes.
TARGET = 1.05


def main() -> None:
    with redis_server() as url, tempfile.TemporaryDirectory() as folder:
        os.environ["BENCH_REDIS"] = url
        os.environ["EMIT_METRICS_DIR"] = f"{folder}/metrics"
        os.environ["BENCH_DONE"] = f"{folder}/done"
        sys.path[:0] = [str(HERE)]
        import seen
        from redis import Redis

        redis = Redis.from_url(url)
        with worker() as process:
            done = Path(folder, "done")
            begun = {n: timed(redis, process, done, start) for n, start in seen.STARTS.items()}
            taken = rounds(begun, ROUNDS)
    rows = []
    for name, times in taken.items():
        share = ratio(times, taken["nobody"])
        reached = "" if name == "nobody" else f"{share:.3f}, {verdict(share <= TARGET)}"
        rows.append((name, f"{statistics.median(times):.0f}", reached))
    table(("observed by", "us per message", f"ratio (target {TARGET})"), rows)


def timed(redis: Any, process: psutil.Process, done: Path, start: Any) -> Callable[[], float]:
    """
    Measure the worker's microseconds of processor time for a message.

    Args:
        done: Has a byte for each message that is done. A message may be between the queue and the
            list of those that are not acknowledged, so an empty queue does not say that all are.
    """
    document = " ".join(["word"] * (WORDS - 1))

    def once() -> float:
        before, whole = used(process), done.stat().st_size + WORDS - 1
        start.delay(document=document)
        while done.stat().st_size < whole or redis.llen("celery") or redis.hlen("unacked"):
            time.sleep(0.01)
        return (used(process) - before) / WORDS * 1e6

    return once


def used(process: psutil.Process) -> float:
    """Return the processor time of a process and its children."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


@contextmanager
def worker() -> Iterator[psutil.Process]:
    command = [sys.executable, "-m", "celery", "-A", "seen", "worker", "-c", "1", "-l", "WARNING"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}
    silent = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=HERE, env=env, stdout=silent, stderr=silent) as process:
        try:
            found = psutil.Process(process.pid)
            while not found.children():
                time.sleep(0.1)
            yield found
        finally:
            process.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
