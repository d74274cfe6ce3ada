"""Measure what the page of ``emit ui`` costs, and what it takes to draw 200 nodes.

1. The processor time of a message in a Celery worker with one process, while a page looks, in terms
   of that without a page. A page has the worker count messages by edge, and report more often. The
   graph is that of observe_celery.py.
2. A hop in this process with no tap, in terms of one before taps were ever imported: the same code
   runs, so the ratio is 1 but for noise. And with a tap on another node, and on this one.
3. The time until a browser has drawn 200 nodes, from the request on, in terms of a second.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hops import emit_graph, timed
from measure import ratio, rounds, table, verdict
from observe_celery import HERE, used, worker
from workers import redis_server

from emit import Router
from emit.observe.tap import Point, Valve

#: Messages of a round, and rounds.
WORDS, ROUNDS = 2000, 7

#: The processor time of a message while a page looks, and a hop without a tap.
LOOKED_AT, UNTAPPED = 1.01, 1.01


def main() -> None:
    a_worker()
    hops()
    a_browser()


# -- A worker --------------------------------------------------------------------------------------


def a_worker() -> None:
    with redis_server() as url, tempfile.TemporaryDirectory() as folder:
        os.environ["BENCH_REDIS"] = url
        os.environ["EMIT_METRICS_DIR"] = f"{folder}/metrics"
        os.environ["BENCH_DONE"] = f"{folder}/done"
        sys.path[:0] = [str(HERE)]
        import seen
        from redis import Redis

        redis = Redis.from_url(url)
        with worker() as process:
            done, start = Path(folder, "done"), seen.STARTS["nobody"]
            contestants = {
                "no page": lambda: cost(redis, process, done, start),
                "a page": lambda: looked_at(seen.router, lambda: cost(redis, process, done, start)),
            }
            taken = rounds(contestants, ROUNDS)
    share = ratio(taken["a page"], taken["no page"])
    rows = [
        (name, f"{statistics.median(times):.0f}", "" if name == "no page" else told(share))
        for name, times in taken.items()
    ]
    table(("a worker, with", "us per message", f"ratio (target {LOOKED_AT})"), rows)


def told(share: float) -> str:
    return f"{share:.3f}, {verdict(share <= LOOKED_AT)}"


def cost(redis: Any, process: Any, done: Path, start: Any) -> float:
    """Return the worker's microseconds of processor time for a message."""
    before, whole = used(process), done.stat().st_size + WORDS - 1
    start.delay(document=" ".join(["word"] * (WORDS - 1)))
    while done.stat().st_size < whole or redis.llen("celery") or redis.hlen("unacked"):
        time.sleep(0.01)
    return (used(process) - before) / WORDS * 1e6


def looked_at(router: Any, measure: Callable[[], float]) -> float:
    """Measure while a page looks, from the time on at which the worker knows it."""
    from emit.web.watch import Watch

    watch, ended = Watch(router), threading.Event()

    def look() -> None:
        while not ended.wait(1.0):
            watch.look()

    while not any(report.counts is not None for _, report in workers_of(watch)):
        watch.look()
        time.sleep(0.2)
    looking = threading.Thread(target=look)
    looking.start()
    try:
        return measure()
    finally:
        ended.set()
        looking.join()
        watch.close()
        time.sleep(8.0)  # until the worker looks no more


def workers_of(watch: Any) -> Any:
    return watch._workers.values()


# -- Hops ------------------------------------------------------------------------------------------


def hops() -> None:
    contestants = {
        "no tap": timed(graph(None)),
        "no tap, once more": timed(graph(None)),
        "a tap that was taken off": timed(graph([Point("elsewhere")], off=True)),
        "a tap of another node": timed(graph([Point("elsewhere")])),
        "a tap of all nodes": timed(graph([])),
    }
    taken = rounds(contestants, 15)
    rows = []
    for name, times in taken.items():
        share = ratio(times, taken["no tap"])
        reached = f"{share:.2f}"
        if name == "a tap that was taken off":
            reached += f", {verdict(share <= UNTAPPED)}"
        rows.append((name, f"{statistics.median(times):.2f}", reached))
    table(("a hop, with", "us", f"ratio (target {UNTAPPED})"), rows)


def graph(points: list[Point] | None, *, off: bool = False) -> Callable[[str], Counter[str]]:
    class Tapped(Router):
        def __init__(self) -> None:
            super().__init__()
            if points is not None:
                valve = Valve(points, nothing)
                self.observe(valve)
                if off:
                    self.unobserve(valve)

    return emit_graph(Tapped)


def nothing(passed: object) -> None:
    pass


# -- A browser -------------------------------------------------------------------------------------


def a_browser() -> None:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("left out: no playwright")
        return
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        print("left out: no chromium")
        return
    with serving(200) as url, sync_playwright() as playwright:
        options: Any = {"executable_path": found, "args": ["--no-sandbox", "--disable-gpu"]}
        browser = playwright.chromium.launch(**options)
        taken = []
        for _ in range(6):
            page = browser.new_page()
            began = time.monotonic()
            page.goto(url)
            page.wait_for_function("() => document.querySelectorAll('.node').length === 200")
            taken.append(time.monotonic() - began)
            page.close()
        browser.close()
    middle = statistics.median(taken[1:])
    table(
        ("nodes", "seconds until drawn", "target 1 s"),
        [("200", f"{middle:.2f}", verdict(middle < 1.0))],
    )


@contextmanager
def serving(count: int) -> Iterator[str]:
    import uvicorn

    from emit.web import app

    router = Router()
    for number in range(count):
        heard = [f"node{number // 3}"] if number else []
        router.node(("n",), heard or None, not number, name=f"node{number}")(nothing)
    config = uvicorn.Config(app(router), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
