"""``emit doctor``: test everything that Emit can use on this machine."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from emit.cli.output import paint, plural
from emit.cli.target import load_router

if TYPE_CHECKING:
    from emit.cli.checkup import Checked

HELP = "Test what Emit can use on this machine: a node in each language, packages, queues, kernel."

EXAMPLES = """
  emit doctor
  emit doctor --app app.router --redis redis://queue.local/0
  emit doctor --json | jq '.[] | select(.state == "broken")'
"""

_MARKS = {"ok": ("✔", "green"), "absent": ("–", "yellow"), "broken": ("✘", "red")}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--app", metavar="MODULE.ROUTER", help="test a router's queue, too")
    parser.add_argument(
        "--here",
        action="store_true",
        help="test the languages and the Python of this folder, too; this runs code of the folder",
    )
    parser.add_argument(
        "--redis",
        metavar="URL",
        help="the Redis to test (default: the router's, $EMIT_REDIS, $REDIS_URL, localhost)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    checked = []
    for one in _check(arguments):
        checked.append(one)
        if not arguments.json:
            print("\n".join(_lines(one)), flush=True)
    broken = [one for one in checked if one.state == "broken"]
    if arguments.json:
        print(json.dumps([asdict(one) for one in checked], ensure_ascii=False, indent=2))
    else:
        found = f"{plural(len(broken), 'thing')} broken" if broken else "all that is here works"
        print(paint(f"{found}; {time.monotonic() - began:.1f} s", "dim"))
    return 1 if broken else 0


def _check(arguments: argparse.Namespace) -> Iterator[Checked]:
    from emit.cli.checkup import aside, check_languages, check_packages, check_system
    from emit.cli.queues import check_ledgers, check_redis, check_workers

    app = arguments.app
    router = load_router(app) if app else None
    with aside(stay=bool(app or arguments.here)) as scratch:
        yield from check_languages(scratch)
        yield from check_packages()
        yield from check_redis(arguments.redis, router, app)
        if router is not None:
            yield from check_ledgers(router)
            yield from check_workers(router, app)
        yield from check_system()


def _lines(one: Checked) -> Iterator[str]:
    """Yield the lines of a finding, with its hint if the thing does not work."""
    mark, colour = _MARKS[one.state]
    yield f"{paint(mark, colour)} {one.group:<9} {one.name:<16} {one.text}".rstrip()
    if one.state != "ok" and one.hint:
        yield paint(f"  {'':<9} {'':<16} {one.hint}", "dim")
