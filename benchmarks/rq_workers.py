"""Measure messages per second through RQ's SimpleWorker on a Redis of its own.

The graph is word count: split a document into words, and count each word in Redis. The worker runs
plain RQ jobs, the graph with a job for each message, and the graph with batches of 100. The counts
are compared at the end.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import ratio, rounds, table, verdict
from workers import redis_server

WORDS = ("the rain in spain falls mainly on the plain and " * 20).split()
ROUNDS = 5
#: Number of documents of 200 words in a round.
DOCUMENTS = {"plain": 1, "single": 1, "batch": 40}


def main() -> None:
    with redis_server() as url:
        os.environ["BENCH_REDIS"] = url
        sys.path[:0] = [str(Path(__file__).parent / "queues")]
        import rq_words
        from rq import SimpleWorker

        worker = SimpleWorker([rq_words.queue], connection=rq_words.redis)
        starts = {
            "plain": lambda document: rq_words.queue.enqueue(rq_words.plain_words, document),
            "single": lambda document: rq_words.single_words.delay(document=document),
            "batch": lambda document: rq_words.batch_words.delay(document=document),
        }
        taken = rounds({n: timed(worker, start, n) for n, start in starts.items()}, ROUNDS)
        check(rq_words.redis.hgetall("counts"))
    report(taken)


def timed(worker: Any, start: Any, name: str) -> Callable[[], float]:
    """Measure messages per second of the worker, without the sending of the documents."""

    def once() -> float:
        for _ in range(DOCUMENTS[name]):
            start(" ".join(WORDS))
        began = time.perf_counter()
        worker.work(burst=True, logging_level="ERROR")
        return DOCUMENTS[name] * len(WORDS) / (time.perf_counter() - began)

    return once


def check(found: dict[bytes, bytes]) -> None:
    """Check that no word was lost or counted twice."""
    for form, documents in DOCUMENTS.items():
        for word, count in Counter(WORDS).items():
            assert int(found[f"{form} {word}".encode()]) == count * documents * (ROUNDS + 1)


def report(taken: dict[str, list[float]]) -> None:
    rate = {name: f"{statistics.median(rates):,.0f}" for name, rates in taken.items()}
    single, batch = (ratio(taken[name], taken["plain"]) for name in ("single", "batch"))
    rows = [
        ("plain RQ jobs", rate["plain"], "1", "", ""),
        ("graph, a job each", rate["single"], f"{single:.2f}", "0.9", verdict(single >= 0.9)),
        ("graph, batch=100", rate["batch"], f"{batch:.0f}", "40", verdict(batch >= 40)),
    ]
    table(("", "messages/s", "ratio", "target", ""), rows)


if __name__ == "__main__":
    main()
