"""Measure messages per second through Celery workers on a Redis of their own.

The graph is word count: split a document into words, and count each word. The same worker (two
processes) runs plain Celery tasks, the graph with a task for each message, and the graph with
batches of 100. The counts are compared at the end. Then a program as a node is compared with the
way of 2013, a process for each message, and with the same program without groups of calls.

A round ends when each word is counted and nothing is left in Redis. A look at Redis alone is not
enough: between the queue and the list of what is not acknowledged, a message is in neither.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import ROOT, ratio, rounds, table, verdict

HERE = Path(__file__).parent / "queues"
WORDS = ("the rain in spain falls mainly on the plain and " * 50).split()
DOCUMENT = " ".join(WORDS)
ROUNDS = 5
#: Number of documents of 500 words in a round, for about a second of work in each form.
DOCUMENTS = {"plain": 2, "single": 2, "batch": 60, "node": 60, "alone": 60, "spawn": 0.1}


def main() -> None:
    with redis_server() as url, tempfile.TemporaryDirectory() as folder:
        os.environ.update(BENCH_REDIS=url, BENCH_DONE=folder)
        sys.path[:0] = [str(HERE)]
        import words
        from redis import Redis

        redis = Redis.from_url(url)
        starts = {
            "plain": words.plain_words,
            "single": words.single_words,
            "batch": words.batch_words,
            "node": words.node_words,
            "alone": words.alone_words,
            "spawn": words.spawn_words,
        }
        with worker():
            forms = {name: Form(redis, name, start) for name, start in starts.items()}
            for form in forms.values():
                form.count("x", 1)
            taken = rounds({name: form.measure for name, form in forms.items()}, ROUNDS)
        check(redis)
    report(taken)


class Form:
    """One way to count the words: the task that takes a document."""

    def __init__(self, redis: Any, name: str, start: Any) -> None:
        self._redis = redis
        self._start = start
        self._done = Path(os.environ["BENCH_DONE"], name)
        self._counted = 0
        documents = DOCUMENTS[name]
        self._documents = max(1, int(documents))
        self._document = (
            DOCUMENT if documents >= 1 else " ".join(WORDS[: int(len(WORDS) * documents)])
        )

    def measure(self) -> float:
        """Return words per second, from the sending of the documents until nothing is left."""
        began = time.perf_counter()
        words = self.count(self._document, self._documents)
        return words / (time.perf_counter() - began)

    def count(self, document: str, times: int) -> int:
        """Count the words of some documents, and return how many there were."""
        for _ in range(times):
            self._start.delay(document=document)
        words = times * len(document.split())
        self._counted += words
        while (
            self._found() < self._counted
            or self._redis.llen("celery")
            or self._redis.hlen("unacked")
        ):
            time.sleep(0.002)
        assert self._found() == self._counted, f"{self._found()} words, not {self._counted}"
        return words

    def _found(self) -> int:
        return self._done.stat().st_size if self._done.exists() else 0


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
    groups = ratio(taken["node"], taken["alone"])
    rows = [
        ("plain Celery tasks", rate["plain"], "1", "", ""),
        ("graph, a task each", rate["single"], f"{single:.2f}", "0.9", verdict(single >= 0.9)),
        ("graph, batch=100", rate["batch"], f"{batch:.0f}", "40", verdict(batch >= 40)),
        ("a process for each", rate["spawn"], "1", "", ""),
        ("a node, batch=100", rate["node"], f"{node:.0f}", "200", verdict(node >= 200)),
        ("the same without groups", rate["alone"], "1", "", ""),
        ("the same with groups", rate["node"], f"{groups:.2f}", "1.3", verdict(groups >= 1.3)),
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
