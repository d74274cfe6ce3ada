"""``emit record app.router:measure``: write what passes a running node to a file of cases."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from emit.cases.format import CaseError, Settings, make_room
from emit.cases.record import Recorder, save
from emit.cli.nodes import load_node
from emit.cli.output import CommandError, UsageError, plural
from emit.cli.tap import source, until_interrupted
from emit.exact import from_text
from emit.observe.looks import Seen, Wish

HELP = "Write messages and results of a node to a file, as they pass in its running processes."

EXAMPLES = """
  emit record app.router:measure -n 100 -o measure.ndjson
  emit record app.router:measure --redact email,address --ignore at
  emit run app.router text='the rain' --record measure=measure.ndjson
"""

#: The most messages a second that each process shows, and seconds between two looks.
_RATE, _TICK = 1000.0, 0.25


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("target", help="a node of a router, such as app.router:measure")
    add("-n", "--count", type=int, default=100, help="end after so many messages (%(default)d)")
    add("-o", "--output", type=Path, metavar="FILE", help="the file (default: NODE.ndjson)")
    add("--redact", default="", metavar="FIELDS", help="fields to hide, with commas between")
    add("--ignore", default="", metavar="FIELDS", help="fields that may differ in a replay")
    add("--seconds", type=float, default=600.0, help="end after so many seconds (%(default)g)")
    add("--local", action="store_true", help="only processes of this user on this machine")
    add("--redis", metavar="URL", help="the Redis of the workers (default: the router's)")
    add("--prefix", help="prefix of Emit's keys, as global_keyprefix (default: the router's)")


def run(arguments: argparse.Namespace) -> int:
    if arguments.count < 1 or arguments.seconds <= 0:
        raise UsageError("--count must be 1 or more, and --seconds above 0")
    router, node = load_node(arguments.target)
    path = arguments.output or Path(f"{node}.ndjson")
    if path.exists():
        raise CommandError(f"{path} is there already; nothing was recorded")
    try:
        make_room(path)
    except CaseError as error:
        raise CommandError(str(error)) from error
    redact = sorted({*router.redact, *_words(arguments.redact)})
    wish = Wish(f"tap-{uuid4().hex}", points=[[node, None]], redact=redact, rate=_RATE, whole=True)
    recorder, left_out = Recorder(arguments.count), set[str]()
    with source(wish, router, arguments) as (where, take):
        end, is_over = time.monotonic() + arguments.seconds, until_interrupted()
        print(f"emit record: watching {where}; Ctrl-C ends it", file=sys.stderr, flush=True)
        while not is_over.wait(_TICK) and time.monotonic() < end and not recorder.is_full:
            left_out |= {*_note(take(False), recorder)}
        left_out |= {*_note(take(True), recorder)}
    try:
        count = save(path, arguments.target, recorder, Settings(tuple(_words(arguments.ignore))))
    except CaseError as error:
        raise CommandError(str(error)) from error
    seen = plural(len(recorder.cases), "message")
    print(f"emit record: {seen}, {plural(count, 'case')} in {path}", file=sys.stderr)
    for why in sorted(left_out):
        print(f"emit record: left out a message: {why}", file=sys.stderr)
    return 0 if count else 1


def _words(told: str) -> list[str]:
    return [word for word in told.split(",") if word]


def _note(seen: list[Seen], recorder: Recorder) -> Iterator[str]:
    """Record what has come: of each process it is in order. Yield why messages are left out."""
    for each in seen:
        passed, told = each.passed, each.passed.fields
        if passed.way == "begin":
            print(f"emit record: {each.worker} on {each.machine} is watched", file=sys.stderr)
            continue
        process = (each.machine, each.pid)
        if isinstance(told, str):
            recorder(passed._replace(fields=from_text(told)), process)
        elif told is None:
            recorder(passed, process)
        else:
            recorder.drop(passed, process)
            yield str(told.get("not", "it came from another version of Emit"))
