"""``emit bench TARGET ...``: measure the program of one node."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from emit.cli.input import MESSAGE, read_message
from emit.cli.nodes import NODE, TARGET, load_program
from emit.cli.output import paint, report_failure, show_logs
from emit.errors import EmitError
from emit.host.calls import Calls
from emit.host.host import Host
from emit.multilang import ShellNode

HELP = "Measure the latency and throughput of one process of a node's program, in each codec."

EXAMPLES = """
  emit bench nodes/words.rb text='the rain in spain'
  emit bench app.router:words '{"text": "the rain"}' --seconds 5
  emit bench 'jq -c .n' n:=1 --mode oneshot --json
"""


@dataclass
class Row:
    """
    The figures of one codec. Times are seconds.

    Attributes:
        codec: ``json`` or ``msgpack``.
        start: Time from the start of the process until it was ready; None if each message has a
            process of its own.
        p50: Median duration of a message, with one message at a time.
        p99: Duration that 99 of 100 messages do not exceed.
        calls_per_second: Messages per second, written ahead as far as the node's ``window`` allows.
        results_per_second: Results per second of the same messages.
        rss_bytes: Memory of the process at the end; None if each message has a process of its own.
    """

    codec: str
    start: float | None
    p50: float
    p99: float
    calls_per_second: float
    results_per_second: float
    rss_bytes: int | None


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("target", help=TARGET)
    add("message", nargs="*", help=MESSAGE)
    add("--seconds", type=float, default=1.0, help="time for each measurement (%(default)g)")
    add(
        "--mode",
        choices=("oneshot", "persistent", "lines"),
        default="persistent",
        help="how to run a file or a command (%(default)s)",
    )
    add("--node", dest="program_node", metavar="NAME", help=NODE)
    add("--json", action="store_true", help="print the figures as JSON")


def run(arguments: argparse.Namespace) -> int:
    fields = read_message(arguments.message)
    chosen = {"program_node": arguments.program_node} if arguments.program_node else {}
    node = load_program(arguments.target, mode=arguments.mode, **chosen)
    node.dead_letter = None  # a failing message must end the measurement
    show_logs()
    try:
        rows = list(measure(node, fields, arguments.seconds))
    except EmitError as error:
        return report_failure(error)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print("\n".join(_table(rows)))
    return 0


def measure(node: ShellNode, fields: dict[str, Any], seconds: float) -> Iterator[Row]:
    """
    Measure a node's program in each codec that it supports, with one process at a time.

    Raises:
        EmitError: The program can't be started, or a message fails.
    """
    if node.mode == "oneshot":
        yield _measure_oneshot(node, fields, seconds)
        return
    for codec in ("json", "msgpack") if node.mode != "lines" else ("json",):
        row = _measure_pooled(node, fields, codec, seconds)
        if row is not None:
            yield row


def _measure_oneshot(node: ShellNode, fields: dict[str, Any], seconds: float) -> Row:
    results = 0

    def call() -> None:
        nonlocal results
        results += sum(1 for _ in node(fields))

    times = _repeat(call, seconds)
    speed = len(times) / sum(times), results / sum(times)
    return Row(node.codec or "json", None, *_percentiles(times), *speed, None)


def _measure_pooled(
    node: ShellNode, fields: dict[str, Any], codec: str, seconds: float
) -> Row | None:
    """Measure one codec. Return None if the program does not support it."""
    with closing(Host()) as host:
        calls = node.calls_on(host, codec=codec, size=1, min_idle=0)
        calls.prepare()
        calls.call(fields)
        [process] = calls.pool.processes
        if process.talk.session.codec != codec:
            return None
        times = _repeat(lambda: calls.call(fields), seconds)
        speed = _throughput(calls, fields, seconds)
        return Row(codec, process.start_seconds, *_percentiles(times), *speed, process.rss())


def _repeat(call: Callable[[], object], seconds: float) -> list[float]:
    """Return the duration of each call, making as many as fit in *seconds* (at least one)."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def _throughput(calls: Calls, fields: dict[str, Any], seconds: float) -> tuple[float, float]:
    """Return messages and results per second, pipelined. At least one message is sent."""
    began = time.perf_counter()
    messages = itertools.takewhile(
        lambda sent: not sent or time.perf_counter() < began + seconds, itertools.count()
    )
    done = results = 0
    for outcome in calls.call_many(fields for _ in messages):
        if isinstance(outcome, Exception):
            raise outcome
        done += 1
        results += len(outcome)
    took = time.perf_counter() - began
    return done / took, results / took


def _percentiles(times: list[float]) -> tuple[float, float]:
    ordered = sorted(times)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


_HEAD = ("codec", "start", "p50", "p99", "calls/s", "results/s", "memory")


def _table(rows: list[Row]) -> Iterator[str]:
    yield paint(f"{_HEAD[0]:<8}" + "".join(f"{name:>11}" for name in _HEAD[1:]), "dim")
    for row in rows:
        cells = (
            _milliseconds(row.start),
            _milliseconds(row.p50),
            _milliseconds(row.p99),
            f"{row.calls_per_second:,.0f}",
            f"{row.results_per_second:,.0f}",
            "" if row.rss_bytes is None else f"{row.rss_bytes / 1e6:.0f} MB",
        )
        yield f"{row.codec:<8}" + "".join(f"{cell:>11}" for cell in cells)


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.3f} ms"
