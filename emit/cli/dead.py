"""``emit dead list | show | replay | drop``: look after the dead letters in a Redis."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import Any

from emit.cases.format import Case, Cases, head_of, line_of
from emit.cli.output import CommandError, UsageError, plural
from emit.cli.target import load_router
from emit.dead import DeadLetters, Entry, Group
from emit.errors import EmitError, UnreadableLetter
from emit.exact import to_text
from emit.letter import Cause, DeadLetter, counted
from emit.observe.tap import hide
from emit.router import Router
from emit.router.receiver import RAW
from emit.text import clean, one_line

HELP = "List, show, replay or drop dead letters: the messages that were given up."

EXAMPLES = """
  export EMIT_REDIS=redis://localhost:6379/0
  emit dead list --node app.words --since 2h
  emit dead list --by-cause
  emit dead show ID --json
  emit dead replay --app app.router ID
  emit dead replay --app app.router --all
  emit dead replay --app app.router --all --cause 3f9a01c2
  emit dead drop --all --node app.words
"""


def configure(parser: argparse.ArgumentParser) -> None:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--redis",
        metavar="URL",
        help="the Redis with the letters (default: the router's, $EMIT_REDIS, $REDIS_URL)",
    )
    common.add_argument("--prefix", help="prefix of the keys (default: the router's, or emit:dead)")
    common.add_argument(
        "--app", metavar="MODULE.ROUTER", help="only the letters of a router, such as app.router"
    )
    common.add_argument("--json", action="store_true", help="print JSON, one letter per line")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    some = argparse.ArgumentParser(add_help=False)
    some.add_argument("--node", help="only letters of this node")
    some.add_argument(
        "--since",
        type=_since,
        metavar="WHEN",
        help="only letters stored since then: 30m, 2h or 7d ago, or 2026-01-31T12:00",
    )
    some.add_argument(
        "--cause", metavar="GROUP", help="only letters of a group that list --by-cause shows"
    )
    listing = actions.add_parser(
        "list", parents=[common, some], help="list letters, the latest first"
    )
    listing.add_argument(
        "--by-cause", action="store_true", help="one line for all letters of a node with one cause"
    )
    listing.add_argument("--limit", type=int, default=100, help="at most this many (%(default)s)")
    show = actions.add_parser("show", parents=[common], help="show a letter with its message")
    show.add_argument(
        "--as-test",
        action="store_true",
        help="print its message as a file of cases, for emit replay and emit test; needs --app",
    )
    show.add_argument("id", help="the letter's id, or at least its first four characters")
    show.add_argument(
        "--redact",
        default="",
        metavar="FIELDS",
        help="fields of the message to hide, with commas between, beside those of the router",
    )
    for action, what in (("replay", "send letters again"), ("drop", "delete letters")):
        chosen = actions.add_parser(action, parents=[common, some], help=what)
        which = chosen.add_mutually_exclusive_group(required=True)
        which.add_argument("id", nargs="*", default=[], help="letters, as for emit dead show")
        which.add_argument(
            "--all",
            action="store_true",
            help="all letters, or those that --node, --since and --cause choose",
        )


def run(arguments: argparse.Namespace) -> int:
    if getattr(arguments, "id", None) and arguments.action != "show" and _choice(arguments):
        raise UsageError("--node, --since and --cause choose among all letters: give --all, no ID")
    router = load_router(arguments.app) if arguments.app else None
    with _store(arguments, router) as letters:
        code: int = _ACTIONS[arguments.action](letters, arguments, router)
    return code


def _list(letters: DeadLetters, arguments: argparse.Namespace, router: Router | None) -> int:
    if arguments.by_cause:
        return _list_groups(letters, arguments)
    entries = letters.list(limit=arguments.limit + 1, **_choice(arguments))
    shown = entries[: arguments.limit]
    if arguments.json:
        for entry in shown:
            cause = entry.cause and asdict(entry.cause)
            print(json.dumps({**entry._asdict(), "cause": cause}))
    else:
        _print_table(shown)
    if len(entries) > len(shown):
        _say(f"these are the latest {len(shown)}, and there are more: see --limit")
    return 0


def _list_groups(letters: DeadLetters, arguments: argparse.Namespace) -> int:
    choice = _choice(arguments)
    chosen = choice.pop("group", None)
    found = [group for group in letters.groups(**choice) if chosen in (None, group.id)]
    shown = found[: arguments.limit]
    for group in shown:
        print(json.dumps(group._asdict()) if arguments.json else _group_line(group))
    if len(found) > len(shown):
        _say(f"these are the largest {len(shown)}, and there are more: see --limit")
    return 0


def _choice(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that choose letters, as the methods of `DeadLetters` take them."""
    given = {"node": arguments.node, "since": arguments.since, "group": arguments.cause}
    return {name: value for name, value in given.items() if value is not None}


def _since(text: str) -> float:
    """
    Return a time in seconds since the epoch. Without a zone it is one of this machine's.

    Example:
        >>> _since("1970-01-01T00:01Z")
        60.0
    """
    if found := re.fullmatch(r"(\d+)([smhd])", text):
        return time.time() - int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
    try:
        # Python 3.10 knows no Z.
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: give 30m, 2h or 7d, or a date such as 2026-01-31T12:00"
        ) from None


def _print_case(letter: DeadLetter, app: str | None) -> None:
    """Print a letter's message as a case that fails as the message did."""
    if not app:
        raise UsageError("--as-test needs --app, so that the case can name the node")
    if RAW in letter.route:
        raise CommandError(f"{letter.id} could not be read, so its message has no fields to test")
    error = letter.causes[-1].type if letter.causes else "Exception"
    case = Case(dict(letter.message), error=error, name=letter.id, origin=letter.origin)
    print(head_of(Cases(f"{app}:{letter.node}")))
    print(line_of(case))


def _show(letters: DeadLetters, arguments: argparse.Namespace, router: Router | None) -> int:
    try:
        id = letters.find(arguments.id)
        letter = letters.show(id)
    except UnreadableLetter as error:
        _say(str(error))
        _print_raw(error.id, letters.raw(error.id), arguments.json)
        return 0
    except LookupError as error:
        _say(str(error))
        return 1
    letter = _without(letter, {*arguments.redact.split(","), *getattr(router, "redact", ())})
    if arguments.as_test:
        _print_case(letter, arguments.app)
    elif arguments.json:
        message, route = (_plain(dict(value)) for value in (letter.message, letter.route))
        print(json.dumps({**asdict(letter), "message": message, "route": route}))
    else:
        _print_letter(letter)
    return 0


def _without(letter: DeadLetter, fields: Iterable[str]) -> DeadLetter:
    """Return a letter whose message lacks the values of some fields."""
    names = frozenset(name.lower() for name in fields)
    return replace(letter, message=hide(dict(letter.message), names)) if any(names) else letter


def _replay(letters: DeadLetters, arguments: argparse.Namespace, router: Router | None) -> int:
    if router is None:
        raise UsageError("replay needs --app, such as --app app.router: it does the sending")
    if not arguments.all:
        return _each(letters, arguments, lambda id: letters.replay(id, _sender(router)))
    done = letters.replay_all(_sender(router), **_choice(arguments))
    _report(arguments, done.sent)
    for id, error in done.failed.items():
        _say(f"{id} stays: {error}")
    if done.left:
        others = ", ".join(sorted({one_line(node) for node in done.left.values()}))
        count = len(done.left)
        are = "letter is" if count == 1 else "letters are"
        _say(f"{count} {are} left, of nodes that {arguments.app} lacks: {others}")
    return 1 if done.failed else 0


def _drop(letters: DeadLetters, arguments: argparse.Namespace, router: Router | None) -> int:
    if not arguments.all:
        return _each(letters, arguments, letters.drop)
    count = letters.drop_all(**_choice(arguments))
    print(json.dumps({"dropped": count}) if arguments.json else f"{count} dropped")
    return 0


_ACTIONS: dict[str, Callable[[DeadLetters, argparse.Namespace, Router | None], int]] = {
    "list": _list,
    "show": _show,
    "replay": _replay,
    "drop": _drop,
}


def _each(letters: DeadLetters, arguments: argparse.Namespace, work: Callable[[str], Any]) -> int:
    """Call *work* with each letter's id. After a failure, go on with the next letter."""
    done = []
    for start in arguments.id:
        try:
            id = letters.find(start)
            work(id)
            done.append(id)
        except Exception as error:
            _say(f"{start}: {error}")
    _report(arguments, done)
    return 0 if len(done) == len(arguments.id) else 1


def _say(text: str) -> None:
    print(f"emit dead: {text}", file=sys.stderr)


def _report(arguments: argparse.Namespace, done: list[str]) -> None:
    for id in done:
        print(json.dumps({arguments.action: id}) if arguments.json else id)


def _sender(router: Router) -> Callable[[DeadLetter], Any]:
    """
    Return a function that sends a letter again. A queue's router has ``resend``, which keeps the
    id; for any other router the node runs in this process.
    """
    resend: Callable[[DeadLetter], Any] | None = getattr(router, "resend", None)
    if resend is not None:
        return resend

    def run_here(letter: DeadLetter) -> None:
        if letter.route:
            raise CommandError("only the router of the queue that it came from can send it again")
        message = router.message_class(letter.message)
        router.dispatch(letter.origin, letter.node, message)

    return run_here


@contextmanager
def _store(arguments: argparse.Namespace, router: Router | None) -> Iterator[DeadLetters]:
    redis = _redis()
    try:
        with _letters(arguments, router, redis) as letters:
            yield letters
    except CommandError:
        raise
    except (redis.RedisError, EmitError, ValueError) as error:
        raise CommandError(str(error)) from error


@contextmanager
def _letters(
    arguments: argparse.Namespace, router: Router | None, redis: Any
) -> Iterator[DeadLetters]:
    """Open the letters in the Redis of ``--redis``; else the router's; else the environment's."""
    own: DeadLetters | None = getattr(router, "dead_letters", None)
    nodes = router.names if router is not None else None
    url = arguments.redis or os.environ.get("EMIT_REDIS") or os.environ.get("REDIS_URL")
    if own is not None and not arguments.redis:
        prefix = arguments.prefix
        yield own if prefix is None else DeadLetters(own.redis, prefix=prefix, nodes=nodes)
    elif url:
        with redis.Redis.from_url(url) as client:
            if own is not None and arguments.prefix is None:
                yield own.at(client)
            else:
                yield DeadLetters(client, prefix=arguments.prefix or "emit:dead", nodes=nodes)
    else:
        raise UsageError(
            "which Redis? Give --redis URL, or the router as --app, or set EMIT_REDIS or REDIS_URL"
        )


def _redis() -> Any:
    try:
        import redis
    except ModuleNotFoundError as error:
        extras = "'emit-graph[celery]' or 'emit-graph[rq]'"
        raise CommandError(f"it needs redis-py: pip install {extras}") from error
    return redis


def _plain(value: dict[str, Any]) -> Any:
    """Return a map as it is in JSON, or as a text of emit.exact if JSON would change a value."""
    text = to_text(value)
    return json.loads(text) if text.startswith("{") else text


def _print_table(entries: list[Entry]) -> None:
    for entry in entries:
        node = one_line(f"{entry.app}: {entry.node}" if entry.app else entry.node)
        if entry.fault:
            print(f"{one_line(entry.id)}  can't be read  {node or '?'}  {one_line(entry.fault)}")
            continue
        origin = f" from {one_line(entry.origin)}" if entry.origin else ""
        cause = _line(entry.cause) if entry.cause else "no cause is known"
        print(f"{entry.id}  {_when(entry.at)}  {node}{origin}  {entry.attempts}x  {cause}")


def _group_line(group: Group) -> str:
    node = one_line(f"{group.app}: {group.node}" if group.app else group.node)
    cause = f"{group.type}: {group.text}" if group.type else group.text or "no cause is known"
    latest = f"{_when(group.last)}, {one_line(group.latest)}"
    return f"{group.id}  {plural(group.size, 'letter')}  {node}  {cause}  (the last: {latest})"


def _print_letter(letter: DeadLetter) -> None:
    print(f"id        {letter.id}")
    print(f"node      {one_line(letter.node)}")
    print(f"origin    {one_line(letter.origin)}")
    print(f"given up  {_when(letter.at or 0.0)}, after {counted(letter.attempts or 0)}")
    for cause in letter.causes:
        print(f"cause     {_when(cause.at)}  {_line(cause)}")
        for line in cause.stderr_tail.splitlines():
            print(f"  stderr  {clean(line)}")
    if letter.route:
        print(f"route     {dict(letter.route)!r}")
    print(f"message   {dict(letter.message)!r}")


def _print_raw(id: str, raw: dict[str, str], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"id": id, "raw": raw}))
        return
    for name, text in {"id": id, **raw}.items():
        print(f"{one_line(name):<10}{one_line(text)}")


def _line(cause: Cause) -> str:
    return clean(f"{cause.type}: {cause.text}").replace("\n", " ")


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).isoformat(" ", "seconds")
