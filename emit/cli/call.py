"""``emit call TARGET ...``: one message for one node."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from emit.cli import message
from emit.cli.failure import report_failure, show_logs
from emit.cli.message import read_message, show
from emit.cli.nodes import TARGET, load_node, make_node, split_node
from emit.cli.screen import paint, plural
from emit.message import NoResult
from emit.router import Router

HELP = "Give one message to one node, and print each of its results as a line of JSON."

EXAMPLES = """
  emit call nodes/words.rb text='the rain'
  emit call 'ruby words.rb' '{"text": "the rain", "count": 2}'
  emit call app.router:words text=@page.txt count:=2
  emit call 'jq -c .items[]' - < page.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", help=TARGET)
    parser.add_argument("message", nargs="*", help=message.HELP)
    parser.add_argument("--timeout", type=float, help="seconds for the call (default: 30)")
    parser.add_argument(
        "--codec", choices=("json", "msgpack"), help="what the program is spoken to in"
    )
    parser.add_argument(
        "--mode",
        choices=("auto", "oneshot", "persistent", "lines"),
        help="how the program is run, as a setting of a node (default: auto)",
    )


def run(arguments: argparse.Namespace) -> int:
    fields = read_message(arguments.message)
    results = _caller(arguments)
    show_logs()
    began = time.monotonic()
    count = 0
    try:
        for result in results(fields):
            count += 1
            print(show(result), flush=True)
    except Exception as error:
        return report_failure(error)
    took = f"{plural(count, 'result')} in {(time.monotonic() - began) * 1000:.0f} ms"
    print(paint(took, "dim", sys.stderr), file=sys.stderr)
    return 0


def _caller(arguments: argparse.Namespace) -> Callable[[dict[str, Any]], Iterator[Any]]:
    options = {
        name: value
        for name in ("timeout", "codec", "mode")
        if (value := getattr(arguments, name)) is not None
    }
    if split_node(arguments.target) is None:
        return make_node(arguments.target, **options)
    router, name = load_node(arguments.target, options)
    return lambda fields: _results(router, name, fields)


def _results(router: Router, name: str, fields: dict[str, Any]) -> Iterator[Any]:
    """What one node of a router emits; nothing is sent on."""
    with router, router.routing_disabled():
        outcome = router.functions[name](fields)
    if outcome is not NoResult:
        yield from outcome if isinstance(outcome, tuple) else (outcome,)
