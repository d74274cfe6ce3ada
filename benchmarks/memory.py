"""
Measure the cost of idle processes and long streams for the host.

Memory is the resident size of this process, without the memory of its children. Processor time is
the time of this process and its threads, while a hundred processes idle.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable

import psutil
from measure import ROOT, table, verdict

from emit.host.calls import Calls
from emit.host.host import Host
from emit.host.settings import Settings
from emit.host.system.program import Limits, Program, environment

ENV = {"PYTHONPATH": str(ROOT / "sdks" / "python")}
RANGE = "import emit_sdk; emit_sdk.serve(lambda msg: (n for n in range(msg.n)))"
FILTER = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
PROCESSES, IDLE_SECONDS, RESULTS = 100, 10.0, 1_000_000


def main() -> None:
    host = Host()
    try:
        rows = [*idle(host), stream(host)]
    finally:
        host.close()
    table(("", "measured", "target"), rows)


def idle(host: Host) -> list[tuple[str, str, str]]:
    """Measure a hundred small filters, which start quickly, each with its pipes and figures."""
    calls = make(host, FILTER, "lines", PROCESSES)
    calls.call({})
    before, leases = rss(), []
    for _ in range(PROCESSES):
        leases.append(calls.pool.acquire(time.monotonic() + 30))
    for lease in leases:
        calls.pool.release(lease)
    each = (rss() - before) / PROCESSES / 1024
    busy = cpu_seconds(lambda: time.sleep(IDLE_SECONDS)) / IDLE_SECONDS * 100
    host.close(calls)
    return [
        ("host memory per idle process", f"{each:.1f} KB", f"< 100 KB, {verdict(each < 100)}"),
        (f"processor, {PROCESSES} idle", f"{busy:.2f} %", f"< 0.1 %, {verdict(busy < 0.1)}"),
    ]


def stream(host: Host) -> tuple[str, str, str]:
    """Measure a million results of one message, without keeping any."""
    calls = make(host, RANGE, "persistent", 1)
    assert sum(1 for _ in calls.stream({"n": 1000})) == 1000
    before = rss()
    largest = 0.0
    for number, _ in enumerate(calls.stream({"n": RESULTS})):
        if number % 100_000 == 0:
            largest = max(largest, rss() - before)
    grown = largest / 2**20
    return (
        f"host growth, {RESULTS:,} results",
        f"{grown:.1f} MiB",
        f"< 20 MiB, {verdict(grown < 20)}",
    )


def make(host: Host, code: str, mode: str, size: int) -> Calls:
    argv = (sys.executable, "-c", code)
    program = Program(node=mode, argv=argv, env=environment(ENV), limits=Limits())
    return host.calls(mode, lambda: program, Settings(mode=mode, size=size))


def rss() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def cpu_seconds(work: Callable[[], None]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


if __name__ == "__main__":
    main()
