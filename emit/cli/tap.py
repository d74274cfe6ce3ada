"""``emit tap app.router "measure -> count"``: watch messages as they pass, on all machines."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

from emit.cli import fleet
from emit.cli.output import CommandError, UsageError, paint, plural
from emit.cli.target import load_router
from emit.errors import EmitError
from emit.graph import ENTRY
from emit.host import status
from emit.host.place import project
from emit.observe.looks import Outlet, Seen, Wish
from emit.observe.tap import point
from emit.observe.taps import Looking
from emit.router import Router
from emit.text import one_line

HELP = "Watch the messages that pass a node or an edge, and the results, as they pass."

EXAMPLES = """
  emit tap app.router measure
  emit tap app.router "measure -> count" --redact password,email
  emit tap app.router --seconds 10 --json | jq .fields
"""

#: Seconds between two requests that workers go on, and between two looks at what has come.
_RENEW, _TICK = 1.0, 0.25

#: Takes the messages that have come, at most every second unless it is told to do so now.
Take = Callable[[bool], list[Seen]]


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("router", help="dotted path of the router, such as app.router")
    add(
        "points",
        nargs="*",
        metavar="NODE|EDGE",
        help="a node, with its results; or an edge as 'measure -> count', '-> count' from calls of "
        "the router (default: all nodes of the router)",
    )
    add("--redact", default="", metavar="FIELDS", help="fields to hide, with commas between")
    add("--rate", type=float, default=10.0, help="show at most so many messages/s (%(default)g)")
    add("--seconds", type=float, default=60.0, help="end after so many seconds (%(default)g)")
    add("--count", type=int, help="end after so many messages")
    add("--json", action="store_true", help="print an object for each line")
    add("--local", action="store_true", help="only processes of this user on this machine")
    add("--redis", metavar="URL", help="the Redis of the workers (default: the router's)")
    add("--prefix", help="prefix of Emit's keys, as global_keyprefix (default: the router's)")


def run(arguments: argparse.Namespace) -> int:
    if arguments.rate <= 0 or arguments.seconds <= 0:
        raise UsageError("--rate and --seconds must be above 0")
    router = load_router(arguments.router)
    points = [
        [each.node, each.origin]
        for told in arguments.points or sorted(router.names)
        for each in [point(told, router)]
    ]
    redact = sorted({*router.redact, *filter(None, arguments.redact.split(","))})
    wish = Wish(f"tap-{uuid4().hex}", points=points, redact=redact, rate=arguments.rate)
    shown = Shown(arguments.rate, arguments.json)
    with source(wish, router, arguments) as (where, take):
        end, is_over = time.monotonic() + arguments.seconds, until_interrupted()
        print(f"emit tap: watching {where}; Ctrl-C ends it", file=sys.stderr, flush=True)
        while not is_over.wait(_TICK) and time.monotonic() < end and not shown.has(arguments.count):
            shown.show_all(take(False), arguments.count)
        shown.show_all(take(True), arguments.count)
    over = f", and {shown.left_out} more than --rate shows" if shown.left_out else ""
    print(f"emit tap: {plural(shown.messages, 'message')}{over}", file=sys.stderr)
    return 0


def until_interrupted() -> threading.Event:
    """Return an event that the first Ctrl-C sets. What has come by then is shown."""
    interrupted = threading.Event()

    def stop(*_: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, stop)
    return interrupted


@contextmanager
def source(wish: Wish, router: Router, arguments: argparse.Namespace) -> Iterator[tuple[str, Take]]:
    """
    Provide a text that says what is watched, and a function that returns what has come.

    Raises:
        CommandError: Redis can't be reached, or refuses.
    """
    with ExitStack() as stack:
        # The messages of a plain router pass in this machine's processes, whatever Redis there is.
        is_local = arguments.local or not (arguments.redis or hasattr(router, "ledgers"))
        sources = [] if is_local else fleet.redis_of(arguments, router, stack)
        if not sources:
            outlet = stack.enter_context(Outlet(wish._replace(project=project())))
            outlet.ask(status.sockets(idle=True))
            where = f"the processes of this user on this machine, {outlet.asked} so far"
            if not outlet.asked:
                where += " (one of Python functions alone first calls emit.observe.looks.open())"
            yield where, _often(lambda: outlet.ask(status.sockets(idle=True)), outlet.take)
            return
        lookings = [stack.enter_context(Looking(*each, wish)) for each in sources]

        def renew() -> None:
            for looking in lookings:
                looking.renew()

        def take() -> list[Seen]:
            return [seen for looking in lookings for seen in looking.take()]

        yield "the workers of all machines", _often(renew, take)


def _often(renew: Callable[[], object], take: Callable[[], list[Seen]]) -> Take:
    due = 0.0

    def taking(now: bool) -> list[Seen]:
        nonlocal due
        try:
            if now or time.monotonic() >= due:
                renew()
                due = time.monotonic() + _RENEW
            return take()
        except EmitError as error:
            raise CommandError(str(error)) from error

    return taking


class Shown:
    """
    Prints what has come, at most so many messages a second.

    Attributes:
        messages: Number of messages that were printed.
        left_out: Number of those that were not.
    """

    def __init__(self, rate: float, as_json: bool) -> None:
        self.messages = 0
        self.left_out = 0
        self._rate = rate
        self._as_json = as_json
        self._tokens = max(1.0, rate)
        self._filled = time.monotonic()
        self._left: set[tuple[str, int, int]] = set()

    def show_all(self, seen: list[Seen], count: int | None) -> None:
        """Print what has come, in order, and end after *count* messages."""
        for each in sorted(seen, key=lambda each: each.passed.at):
            if not self.has(count):
                self.show(each)
        sys.stdout.flush()

    def has(self, count: int | None) -> bool:
        return count is not None and self.messages >= count

    def show(self, seen: Seen) -> None:
        passed, run = seen.passed, (seen.machine, seen.pid, seen.passed.run)
        if passed.way == "begin":
            where = one_line(f"{seen.worker} on {seen.machine}")
            print(f"emit tap: {where} is watched", file=sys.stderr, flush=True)
            return
        if passed.way == "message":
            if not self._may_pass():
                self._left.add(run)
                self.left_out += 1
                return
            self._left.discard(run)
            self.messages += 1
        elif run in self._left:
            return
        print(json.dumps(as_data(seen), ensure_ascii=False) if self._as_json else as_text(seen))

    def _may_pass(self) -> bool:
        now = time.monotonic()
        most = max(1.0, self._rate)
        self._tokens = min(most, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def as_data(seen: Seen) -> dict[str, Any]:
    """Return what was seen as JSON has it."""
    where = {"machine": seen.machine, "worker": seen.worker, "pid": seen.pid}
    return {**seen.passed._asdict(), **where}


def as_text(seen: Seen) -> str:
    """Return what was seen as a line."""
    passed = seen.passed
    clock = time.strftime("%H:%M:%S", time.localtime(passed.at))
    place = " ".join(filter(None, (one_line(seen.machine), str(seen.pid))))
    node = one_line(passed.node)
    fields = one_line(json.dumps(passed.fields, ensure_ascii=False))
    if passed.way == "message":
        origin = "calls" if passed.origin in ("", ENTRY) else one_line(passed.origin)
        again = f" (attempt {passed.attempt})" if passed.attempt > 1 else ""
        told = f"{origin} -> {node}{again}  {fields}"
    elif passed.way == "result":
        told = f"{node} gives  {fields}"
    elif passed.error:
        told = paint(f"{node} failed: {one_line(passed.error)}", "red")
    else:
        told = f"{node} ended"
    return f"{paint(f'{clock}.{int(passed.at * 1000) % 1000:03} {place}', 'dim')}  {told}"
