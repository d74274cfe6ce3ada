"""``emit call TARGET ...``: give one message to one node."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from emit.cli.input import MESSAGE, read_message, show
from emit.cli.nodes import NODE, TARGET, load_node, make_node, split_node
from emit.cli.output import UsageError, paint, plural, report_failure, show_logs
from emit.message import NoResult
from emit.router import Router

HELP = "Give one message to one node, and print each of its results as a line of JSON."

EXAMPLES = """
  emit call nodes/words.rb text='the rain'
  emit call 'ruby words.rb' '{"text": "the rain", "count": 2}'
  emit call --node price 'ruby shop.rb' sku=tea
  emit call app.router:words text=@page.txt count:=2
  emit call 'jq -c .items[]' - < page.json
"""


#: Seconds by which the whole call may exceed one attempt: an attempt that ends first says why.
_GRACE = 0.5

#: Largest --timeout, in seconds.
_LONGEST = 1e7


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("target", help=TARGET)
    add("message", nargs="*", help=MESSAGE)
    add(
        "--timeout",
        type=float,
        help="seconds for the whole call with all attempts (default: 30 for each attempt)",
    )
    add("--codec", choices=("json", "msgpack"), help="the codec of the messages to the program")
    add(
        "--mode",
        choices=("auto", "oneshot", "persistent", "lines"),
        help="how to run the program, like a node's setting (default: auto)",
    )
    add("--node", dest="program_node", metavar="NAME", help=NODE)


def run(arguments: argparse.Namespace) -> int:
    fields = read_message(arguments.message)
    name, results = _caller(arguments)
    show_logs()
    began = time.monotonic()
    count = 0
    try:
        with _deadline(arguments.timeout):
            for result in results(fields):
                count += 1
                print(show(result), flush=True)
    except Exception as error:
        return report_failure(error)
    except _Late:
        return _report_late(arguments.timeout, name)
    took = f"{plural(count, 'result')} in {(time.monotonic() - began) * 1000:.0f} ms"
    print(paint(took, "dim", sys.stderr), file=sys.stderr)
    return 0


def _caller(arguments: argparse.Namespace) -> tuple[str, Callable[[dict[str, Any]], Iterator[Any]]]:
    """
    Return the node's name and a function that calls the node. A file that needs a build is built
    here, before the call's time begins.
    """
    options = {
        name: value
        for name in ("timeout", "codec", "mode", "program_node")
        if (value := getattr(arguments, name)) is not None
    }
    if split_node(arguments.target) is None:
        node = make_node(arguments.target, **options)
        return node.name, node
    seconds = options.pop("timeout", None)  # for the whole call; the node's is for each attempt
    if seconds is not None and not 0 < seconds <= _LONGEST:
        raise UsageError(f"--timeout {seconds:g}: it must be above 0, and at most {_LONGEST:g}")
    router, name = load_node(arguments.target, options)
    return name, lambda fields: _results(router, name, fields)


class _Late(BaseException):
    """The call has taken too long. It interrupts the call anywhere, as Ctrl-C does."""


@contextmanager
def _deadline(seconds: float | None) -> Iterator[None]:
    """End a ``with`` block after *seconds*. An attempt of the same length ends first."""
    if seconds is None:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, min(seconds, _LONGEST) + _GRACE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _report_late(seconds: float, name: str) -> int:
    """Say that the time is over, how many attempts there were and why the last one failed."""
    from emit.host.host import Host, current

    host = current()
    node = host.snapshot()["nodes"].get(name, {})
    tries = sum(node.get("retries", {}).values())
    text = f"no result within --timeout = {seconds:g} s"
    text += f", in {plural(tries + 1, 'attempt')}" if tries else ""
    print(paint(text, "red", sys.stderr), file=sys.stderr)
    if tries and isinstance(host, Host):
        print(f"    {host.describe(name)['errors'][-1]['text']}", file=sys.stderr)
    return 1


def _results(router: Router, name: str, fields: dict[str, Any]) -> Iterator[Any]:
    """Yield the results of one node of a router, without sending them on."""
    with router, router.routing_disabled():
        outcome = router.functions[name](fields)
    if outcome is not NoResult:
        yield from outcome if isinstance(outcome, tuple) else (outcome,)
