"""``emit run app.router ...``: feed messages to the entry points of a router."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emit.cases.format import CaseError, make_room
from emit.cases.record import recording, save
from emit.cli.input import FORMATS, MESSAGE, Fed, Feed, read_message, show
from emit.cli.output import (
    INTERRUPTED,
    CommandError,
    UsageError,
    plural,
    progress,
    report_failure,
    show_logs,
)
from emit.cli.target import load_router
from emit.drawing.outline import Outline, outline
from emit.graph import Edge, exactly
from emit.message import Message, NoResult
from emit.router import Router
from emit.text import nearest

HELP = "Feed messages to a router's entry points, and print the results that no node hears."

EXAMPLES = """
  emit run app.router text='the rain in spain'
  emit run app.router @pages.ndjson --keep-going
  emit run app.router @people.csv | jq -r .name
  tail -f requests.log | emit run app.router - --follow --ui
"""

#: Name of the node that prints the results.
_PRINTER = "emit.run"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("router", help="dotted path of the router, such as app.router")
    add("message", nargs="+", help=f"{MESSAGE}; @file and - may hold many messages: see --input")
    add(
        "--input",
        choices=FORMATS,
        help="format of @file or - (default: by the file's suffix, else ndjson: one per line)",
    )
    add("--keep-going", action="store_true", help="go on after a failed message")
    add(
        "--follow",
        action="store_true",
        help="for an endless input: like --keep-going, and Ctrl-C is the normal end",
    )
    add(
        "--results",
        action="append",
        metavar="NODE",
        help="print the results of this node (default: of the nodes that nobody hears)",
    )
    add("--origin", action="store_true", help="add each result's node, as _origin")
    add("--quiet", action="store_true", help="print no results")
    add(
        "--record",
        action="append",
        default=[],
        metavar="NODE=FILE",
        help="write the messages and results of a node to a file, for emit replay",
    )
    add("--json", action="store_true", help="print the counts as JSON, on stderr")
    add(
        "--ui",
        nargs="?",
        const="127.0.0.1:8088",
        metavar="HOST:PORT",
        help="show the running graph in a browser meanwhile (%(const)s), as emit ui does",
    )


def run(arguments: argparse.Namespace) -> int:
    feed = _feed(arguments)
    router = load_router(arguments.router)
    seen = outline(router)
    if not any(node.entry for node in seen.nodes.values()):
        raise CommandError(f'"{arguments.router}" has no entry point, so nothing would be run')
    is_here = router.sends_here()  # otherwise the results stay in a queue's workers
    if not arguments.quiet:
        whose = _known(arguments.results, seen) or ends(seen)
        if is_here:
            print_results(router, whose, with_origin=arguments.origin)
    show_logs()
    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(_page(router, arguments))
        counts = stack.enter_context(counting(router))
        stack.enter_context(router)
        stack.enter_context(_recording(router, seen, arguments))
        done = _run(router, feed, arguments)
    # For a queue's router, only the messages that this process sent are known.
    rows = [(edge, counts[edge.origin, edge.destination]) for edge in seen.edges]
    rows = [(edge, count) for edge, count in rows if count or is_here]
    _show_counts(rows, done, time.monotonic() - began, arguments.json)
    return done.code


@contextmanager
def _recording(router: Router, seen: Outline, arguments: argparse.Namespace) -> Iterator[None]:
    """Record the nodes of ``--record`` while the block lasts, and write their files at its end."""
    with ExitStack() as stack:
        for told in arguments.record:
            node, sign, file = told.rpartition("=")
            if not sign or not node or not file:
                raise UsageError(f'--record {told}: write NODE=FILE, such as "words=words.ndjson"')
            _known([node], seen)
            _or_refuse(make_room, Path(file))
            recorder = stack.enter_context(recording(router, node))
            target = f"{arguments.router}:{node}"
            stack.callback(_or_refuse, save, Path(file), target, recorder)
        yield


def _or_refuse(action: Callable[..., object], *args: Any) -> None:
    try:
        action(*args)
    except CaseError as error:
        raise CommandError(str(error)) from error


@contextmanager
def _page(router: Router, arguments: argparse.Namespace) -> Iterator[None]:
    """Serve the page of ``--ui``."""
    with ExitStack() as stack:
        if arguments.ui:
            from emit.cli import ui

            server = stack.enter_context(ui.serving(router, arguments, arguments.ui))
            stack.enter_context(server.beside())
        yield


def _feed(arguments: argparse.Namespace) -> Feed | list[Fed]:
    words = arguments.message
    if len(words) == 1 and (words[0] == "-" or words[0].startswith("@")):
        return Feed(words[0].removeprefix("@"), arguments.input)
    if arguments.input or arguments.follow:
        raise UsageError("--input and --follow are for messages from @file or -")
    return [Fed("the message", read_message(words))]


def _known(names: Sequence[str] | None, seen: Outline) -> Sequence[str]:
    for name in names or ():
        if name not in seen.nodes:
            raise UsageError(f"there is no node {name}{nearest(name, seen.nodes)}")
    return names or ()


@dataclass
class Done:
    """The outcome of a run: its exit code, and the number of messages routed and failed."""

    code: int = 0
    messages: int = 0
    failed: int = 0

    def count(self, code: int) -> None:
        self.code = max(self.code, code)
        self.messages += not code
        self.failed += bool(code)


def _run(router: Router, feed: Feed | list[Fed], arguments: argparse.Namespace) -> Done:
    done = Done()
    goes_on = arguments.keep_going or arguments.follow
    whole = feed.size if isinstance(feed, Feed) else None
    try:
        with progress(whole) as advance:
            for fed in feed:
                done.count(_route(router, fed))
                if done.code and not goes_on:
                    break
                advance(feed.taken if isinstance(feed, Feed) else 0, done.messages)
                if arguments.follow:
                    sys.stdout.flush()
    except KeyboardInterrupt:
        done.code = done.code if arguments.follow else INTERRUPTED
    return done


def _route(router: Router, fed: Fed) -> int:
    """Route one message, and return its exit code."""
    try:
        if fed.error is not None:
            raise fed.error
        router(**fed.message)
    except Exception as error:
        return report_failure(error, f"{fed.place}: ")
    return 0


@contextmanager
def counting(router: Router) -> Iterator[Counter[tuple[str, str]]]:
    """Count the messages that are dispatched inside the block, by origin and destination."""
    counts: Counter[tuple[str, str]] = Counter()
    dispatch = router.dispatch

    def counted(origin: str, destination: str, message: Any) -> Any:
        counts[origin, destination] += 1
        return dispatch(origin, destination, message)

    with router.dispatching(counted):
        yield counts


def ends(seen: Outline) -> list[str]:
    """
    Return the nodes whose results go nowhere: no node hears them, except for nodes that only watch,
    which emit no fields and hear by a regular expression.
    """

    def is_watched(edge: Edge) -> bool:
        return edge.pattern is not None and not seen.nodes[edge.destination].shown

    emitting = (name for name, node in seen.nodes.items() if node.shown)
    return [name for name in emitting if all(map(is_watched, seen.heard(name)))]


def print_results(router: Router, whose: Sequence[str], *, with_origin: bool) -> None:
    """Print the results of some nodes from now on, as they are routed."""
    if not whose:
        return

    def printer(msg: Message) -> type[NoResult]:
        fields = dict(vars(msg))
        origin = fields.pop("_origin")
        print(show({"_origin": origin, **fields} if with_origin else fields))
        return NoResult

    origins: list[Any] = [exactly(name) for name in whose]
    router.node((), origins, name=_PRINTER)(printer)


def _show_counts(
    rows: Sequence[tuple[Edge, int]], done: Done, seconds: float, as_json: bool
) -> None:
    if as_json:
        edges = [{"origin": e.origin, "destination": e.destination, "count": n} for e, n in rows]
        summary = asdict(done) | {"seconds": round(seconds, 3), "edges": edges}
        print(json.dumps(summary, ensure_ascii=False), file=sys.stderr)
        return
    failed = f", {done.failed:,} failed" if done.failed else ""
    along = "; sent along each edge, done or still queued:" if rows else ""
    head = f"{plural(done.messages, 'message')}{failed} in {seconds:.1f} s{along}"
    lines = [head, *_table(rows)]
    print("\n".join(lines), file=sys.stderr)


def _table(rows: Iterable[tuple[Edge, int]]) -> Iterator[str]:
    ways = [(f"{edge.origin} -> {edge.destination}", f"{count:,}") for edge, count in rows]
    left = max((len(way) for way, _ in ways), default=0)
    right = max((len(count) for _, count in ways), default=0)
    for way, count in ways:
        yield f"  {way:<{left}}  {count:>{right}}"
