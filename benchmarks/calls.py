"""
Measure calls to a long-lived process: one at a time, and pipelined.

Calls one at a time are compared with the raw round trip: the same child and the same bytes, written
and read with nothing around them. Pipelined calls are compared with `concurrent.futures` with one
process. A message has 100 bytes. With the C child, the host takes nearly all the time; it runs with
groups of calls and without. The other child is our Python SDK, which takes groups.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import ROOT, ratio, rounds, table, verdict

from emit.host.calls import Calls
from emit.host.host import Host
from emit.host.settings import Settings
from emit.host.system.program import Limits, Program, environment

HERE = Path(__file__).resolve().parent
ALL_CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
SINGLE, MANY = 500, 20_000
GROUPS = "C child, groups"
#: Times the calls of `ProcessPoolExecutor.submit`.
TARGETS = {"Python SDK": 25, GROUPS: 25}
MESSAGE = {"word": "rain" * 5, "count": 12, "_origin": "graph.words", "text": "the rain in spa"}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1) as executor:
        host = Host()
        pools = {"Python SDK": python_pool(host)}
        if compiler := shutil.which("cc"):
            pools["C child"] = c_pool(host, compiler, folder)
            pools[GROUPS] = c_pool(host, compiler, folder, "groups")
        alone = {name: pool for name, pool in pools.items() if name != GROUPS}
        try:
            for cores in placements():
                place(pools, cores)
                one_at_a_time(
                    alone, f"one at a time, {'two cores' if len(cores) > 1 else 'one core'}"
                )
            release(pools)
            pipelined(pools, executor)
        finally:
            host.close()


def placements() -> list[list[int]]:
    """
    Return the cores to measure with: host and child on two cores, where most of the time goes into
    waking the other core, and both on one. A free scheduler chooses differently from run to run.
    """
    if len(ALL_CORES) < 2:
        return [sorted(ALL_CORES)]
    return [sorted(ALL_CORES)[:2], sorted(ALL_CORES)[:1]]


def place(pools: dict[str, Calls], cores: list[int]) -> None:
    """Place the host on the first core and the children on the last."""
    move(pools, {cores[0]}, {cores[-1]})


def release(pools: dict[str, Calls]) -> None:
    """Let the scheduler place host and children."""
    move(pools, ALL_CORES, ALL_CORES)


def move(pools: dict[str, Calls], host: set[int], children: set[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, host)
        for calls in pools.values():
            for process in calls.pool.processes:
                os.sched_setaffinity(process.child.pid, children)


def python_pool(host: Host) -> Calls:
    code = "import emit_sdk; emit_sdk.serve(lambda msg: msg)"
    env = environment({"PYTHONPATH": str(ROOT / "sdks" / "python")})
    return make_pool(host, "python", (sys.executable, "-c", code), env, None)


def c_pool(host: Host, compiler: str, folder: str, *argv: str) -> Calls:
    program = str(Path(folder, "-".join(["echo", *argv])))
    subprocess.run([compiler, "-O2", "-o", program, str(HERE / "echo.c")], check=True)
    return make_pool(host, "-".join(["c", *argv]), (program, *argv), environment({}), "json")


def make_pool(host: Host, node: str, argv: Any, env: dict[str, str], codec: str | None) -> Calls:
    program = Program(node=node, argv=argv, env=env, limits=Limits())
    settings = Settings(mode="persistent", codec=codec, size=1)
    pool = host.calls(node, lambda: program, settings)
    assert pool.call(MESSAGE) == [MESSAGE]
    return pool


def one_at_a_time(pools: dict[str, Calls], title: str) -> None:
    contestants: dict[str, Callable[[], float]] = {}
    for name, pool in pools.items():
        contestants[f"{name}, raw pipe"] = lambda pool=pool: raw_p50(pool)
        contestants[f"{name}, Calls.call"] = lambda pool=pool: call_p50(pool)
    taken = rounds(contestants, 15)
    rows = []
    for name in pools:
        raw, call = taken[f"{name}, raw pipe"], taken[f"{name}, Calls.call"]
        mine = ratio(call, raw)
        rows.append((f"{name}, raw pipe", f"{statistics.median(raw):.1f}", ""))
        reached = f"{mine:.2f}, {verdict(mine <= 1.3)}" if "two" in title else f"{mine:.2f}"
        rows.append((f"{name}, Calls.call", f"{statistics.median(call):.1f}", reached))
    table((title, "p50 us", "x raw (target 1.3 on two cores)"), rows)


def call_p50(pool: Calls) -> float:
    return median_us(lambda: pool.call(MESSAGE))


def raw_p50(pool: Calls) -> float:
    """Return the median of a bare write and read, with the same child and the same bytes."""
    with raw(pool) as exchange:
        return median_us(exchange)


@contextmanager
def raw(pool: Calls) -> Iterator[Callable[[], None]]:
    with pool.pool.lease(time.monotonic() + 10) as process:
        child = process.child
        os.set_blocking(child.stdin, True)
        os.set_blocking(child.stdout, True)
        _, data = process.talk.session.call(MESSAGE, meta={"deadline_ms": 30000})
        del process.talk.session._open[next(iter(process.talk.session.open))]

        def exchange() -> None:
            os.write(child.stdin, data)
            os.read(child.stdout, 65536)

        yield exchange
        os.set_blocking(child.stdin, False)
        os.set_blocking(child.stdout, False)


def median_us(exchange: Callable[[], Any]) -> float:
    times = []
    for _ in range(SINGLE):
        began = time.perf_counter()
        exchange()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def pipelined(pools: dict[str, Calls], executor: ProcessPoolExecutor) -> None:
    processor: dict[str, list[float]] = {name: [] for name in pools}
    contestants = {
        name: (lambda pool=pool, name=name: many(pool, processor[name]))
        for name, pool in pools.items()
    }
    contestants["submit"] = lambda: submitted(executor)
    contestants["map, chunks of 256"] = lambda: mapped(executor)
    taken = rounds(contestants, 5)
    rows = []
    for name in pools:
        to_submit = 1 / ratio(taken[name], taken["submit"])
        to_map = 1 / ratio(taken[name], taken["map, chunks of 256"])
        target = TARGETS.get(name)
        reached = f"{to_submit:.1f}"
        if target is not None:
            reached += f", target {target}: {verdict(to_submit >= target)}"
        host = f"{statistics.median(processor[name][1:]) * 1e6:.1f}"
        rows.append((f"{name}, call_many", rate(taken[name]), reached, f"{to_map:.2f}", host))
    for name in ("submit", "map, chunks of 256"):
        rows.append((f"ProcessPoolExecutor.{name}", rate(taken[name]), "", "", ""))
    table(("pipelined", "calls/s", "x submit", "x map", "us of the host's processor"), rows)
    if GROUPS in pools:
        gain = 1 / ratio(taken[GROUPS], taken["C child"])
        print(f"C child, with groups beside without: {gain:.1f}, target 2: {verdict(gain >= 2)}")


def rate(times: list[float]) -> str:
    return f"{1 / statistics.median(times):,.0f}"


def many(pool: Calls, processor: list[float]) -> float:
    """Return seconds per message. Append those of the host's processor time to *processor*."""
    began, used = time.perf_counter(), time.process_time()
    count = sum(1 for outcome in pool.call_many(MESSAGE for _ in range(MANY)) if outcome)
    assert count == MANY
    processor.append((time.process_time() - used) / MANY)
    return (time.perf_counter() - began) / MANY


def submitted(executor: ProcessPoolExecutor) -> float:
    began = time.perf_counter()
    futures = [executor.submit(echo, dict(MESSAGE)) for _ in range(MANY // 10)]
    assert all(future.result() == MESSAGE for future in futures)
    return (time.perf_counter() - began) / (MANY // 10)


def mapped(executor: ProcessPoolExecutor) -> float:
    # Distinct messages, because pickle writes a repeated message as a reference.
    messages = [{**MESSAGE, "word": f"rain{n}"} for n in range(MANY)]
    began = time.perf_counter()
    assert sum(1 for _ in executor.map(echo, messages, chunksize=256)) == MANY
    return (time.perf_counter() - began) / MANY


def echo(message: dict[str, Any]) -> dict[str, Any]:
    return message


if __name__ == "__main__":
    main()
