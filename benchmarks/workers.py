"""Measure messages per second through Celery workers on a Redis of their own.

The graph is word count: split a document into words, and count each word. The same worker (two
processes) runs plain Celery tasks, the graph with a task for each message, and the graph with
batches of 100. The counts are compared at the end. Then a program as a node is compared with the
way of 2013: a process for each message.
"""

from __future__ import annotations

import os
import signal
import socket
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

from measure import ROOT, ratio, rounds, table, verdict

HERE = Path(__file__).parent / "queues"
WORDS = ("the rain in spain falls mainly on the plain and " * 50).split()
DOCUMENT = " ".join(WORDS)
ROUNDS = 5
#: Number of documents of 500 words in a round, for about a second of work in each form.
DOCUMENTS = {"plain": 2, "single": 2, "batch": 60, "node": 60, "spawn": 0.1}


def main() -> None:
    with redis_server() as url:
        os.environ["BENCH_REDIS"] = url
        sys.path[:0] = [str(HERE)]
        import words
        from redis import Redis

        redis = Redis.from_url(url)
        starts = {
            "plain": words.plain_words,
            "single": words.single_words,
            "batch": words.batch_words,
            "node": words.node_words,
            "spawn": words.spawn_words,
        }
        with worker():
            for start in starts.values():
                start.delay(document="x")
            drain(redis)
            taken = rounds(
                {name: timed(redis, start, name) for name, start in starts.items()}, ROUNDS
            )
        check(redis)
    report(taken)


def timed(redis: Any, start: Any, name: str) -> Callable[[], float]:
    """Measure messages per second, from the sending of the documents until nothing is left."""
    count, document = DOCUMENTS[name], DOCUMENT
    if count < 1:
        count, document = 1, " ".join(WORDS[: int(len(WORDS) * count)])

    def once() -> float:
        began = time.perf_counter()
        for _ in range(int(count)):
            start.delay(document=document)
        drain(redis)
        return int(count) * len(document.split()) / (time.perf_counter() - began)

    return once


def drain(redis: Any) -> None:
    while redis.llen("celery") or redis.hlen("unacked"):
        time.sleep(0.002)


def check(redis: Any) -> None:
    """Check that no word was lost or counted twice."""
    found = {key.decode(): int(count) for key, count in redis.hgetall("counts").items()}
    for form in ("plain", "single", "batch"):
        documents = DOCUMENTS[form] * (ROUNDS + 1)
        expected = {f"{form} {word}": n * documents for word, n in Counter(WORDS).items()}
        got = {key: n for key, n in found.items() if key.startswith(form) and key != f"{form} x"}
        assert got == expected, (form, got, expected)


def report(taken: dict[str, list[float]]) -> None:
    rate = {name: f"{statistics.median(rates):,.0f}" for name, rates in taken.items()}
    single = ratio(taken["single"], taken["plain"])
    batch = ratio(taken["batch"], taken["plain"])
    node = ratio(taken["node"], taken["spawn"])
    rows = [
        ("plain Celery tasks", rate["plain"], "1", "", ""),
        ("graph, a task each", rate["single"], f"{single:.2f}", "0.9", verdict(single >= 0.9)),
        ("graph, batch=100", rate["batch"], f"{batch:.0f}", "40", verdict(batch >= 40)),
        ("a process for each", rate["spawn"], "1", "", ""),
        ("a node, batch=100", rate["node"], f"{node:.0f}", "200", verdict(node >= 200)),
    ]
    table(("", "messages/s", "ratio", "target", ""), rows)


@contextmanager
def worker() -> Iterator[None]:
    command = [sys.executable, "-m", "celery", "-A", "words", "worker", "-c", "2"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}
    silent = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=HERE, env=env, stdout=silent, stderr=silent) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def redis_server() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--save", "", "--dir", folder, "--bind", "127.0.0.1"]
        with subprocess.Popen(
            ["redis-server", *options], stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            next(line for line in server.stdout if "Ready to accept connections" in line)
            try:
                yield f"redis://127.0.0.1:{port}/0"
            finally:
                server.kill()


if __name__ == "__main__":
    main()
