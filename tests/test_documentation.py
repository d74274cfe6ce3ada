"""The documentation's chapters, typed in as printed, give what it says they give."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import Message, Router
from tests.hosts import ROOT

QUICKSTART = """
from __future__ import print_function
from collections import Counter
from emit import Router
import sys

router = Router()


def prefix(name):
    return '%s.%s' % (__name__, name)


@router.node(('word',), entry_point=True)
def words(msg):
    print('got document')
    for word in msg.document.strip().split(' '):
        yield word


WORDS = Counter()


@router.node(('word', 'count'), prefix('words'))
def count_word(msg):
    print('got word (%s)' % msg.word)

    global WORDS
    WORDS.update([msg.word])

    return msg.word, WORDS[msg.word]


if __name__ == '__main__':
    router(document=sys.stdin.read())

    print()
    print('Top 5 words:')
    for word, count in WORDS.most_common(5):
        print('    %s: %s' % (word, count))
"""

PRINTED = """\
got document
got word (the)
got word (rain)
got word (in)
got word (spain)
got word (falls)
got word (mainly)
got word (on)
got word (the)
got word (plain)

Top 5 words:
    the: 2
    rain: 1
    in: 1
    spain: 1
    falls: 1
"""

REGEX = """
import os
from emit import NoResult, Router
from redis import Redis

router = Router()
redis = Redis.from_url(os.environ['REDIS_URL'])


def prefix(name):
    return '%s.%s' % (__name__, name)


@router.node(('key', 'value'), entry_point=True)
def parse_querystring(msg):
    'parse a querystring into keys and values'
    for part in msg.querystring.strip().lstrip('?').split('&'):
        key, value = part.split('=')
        yield key, value


@router.node(('key', 'value', 'count'), prefix('parse_querystring'))
def count_keyval(msg):
    # redis-py 3.0 has put the amount before the value.
    count = redis.zincrby('querystring_count.%s' % msg.key, 1, msg.value)
    return msg.key, msg.value, count


@router.node(tuple(), '.+')
def notify_on_emit(msg):
    redis.publish('notify_on_emit.%s' % msg._origin, msg.as_json())
    return NoResult
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that can be imported from; what was, is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)  # None of a namespace package
        if file is not None and file.startswith(str(tmp_path)):
            del sys.modules[name]


def test_the_quickstart(tmp_path: Path) -> None:
    """Chapter 1: graph.py counts the words of a document on its standard input."""
    (tmp_path / "graph.py").write_text(QUICKSTART)
    done = subprocess.run(
        f'echo "the rain in spain falls mainly on the plain" | {sys.executable} graph.py',
        shell=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr, done.returncode) == (PRINTED, "", 0)


def test_the_quickstarts_functions_can_be_called(project: Path) -> None:
    """Chapter 1: any function, and the router, can be called with keywords or a dictionary."""
    (project / "graph.py").write_text(QUICKSTART)
    graph = importlib.import_module("graph")
    assert graph.words(document="the rain") == ({"word": "the"}, {"word": "rain"})
    assert graph.count_word({"word": "the"}) == {"word": "the", "count": 2}
    assert graph.router.routes == {
        "__entry_point": {"graph.words"},
        "graph.words": {"graph.count_word"},
    }


def test_regex_routing(project: Path, redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chapter 4: the call publishes seven messages: one, three and three by their origins."""
    monkeypatch.setenv("REDIS_URL", redis)
    (project / "graph.py").write_text(REGEX)
    graph = importlib.import_module("graph")
    with graph.redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.psubscribe("notify_on_emit.*")
        assert listener.get_message(timeout=60) is None, "the subscription's own confirmation"
        graph.router(querystring="?a=1&b=2&c=3")
        graph.redis.publish("notify_on_emit.end", "{}")
        heard = []
        while (message := listener.get_message(timeout=60))["channel"] != b"notify_on_emit.end":
            origin = message["channel"].decode().removeprefix("notify_on_emit.")
            heard.append((origin, json.loads(message["data"])))
    graph.redis.close()
    expected: list[tuple[str, dict[str, Any]]] = [
        ("__entry_point", {"querystring": "?a=1&b=2&c=3"})
    ]
    for key, value in (("a", "1"), ("b", "2"), ("c", "3")):
        expected.append(("graph.parse_querystring", {"key": key, "value": value}))
        expected.append(("graph.count_keyval", {"key": key, "value": value, "count": 1.0}))
    assert len(heard) == 7
    for origin, message in expected:
        assert (origin, {**message, "_origin": origin}) in heard


def test_an_ignore_cuts_fat_out_of_an_expression() -> None:
    """Chapter 4: an ignore keeps an otherwise greedy expression from hearing some."""
    router, heard = Router(), []
    router.node(("n",), entry_point=True, name="app.first")(lambda msg: msg.n)
    router.node(("n",), "app.first", name="app.second")(lambda msg: msg.n)
    router.node((), ".+", ignore="first$", name="all")(lambda msg: heard.append(msg._origin))
    router(n=1)
    assert sorted(heard) == ["__entry_point", "app.second"]


# -- chapter 2, "Extending Router": the listing, with a queue in this process for rq's ---------

Job = tuple[str, Callable[..., Any], dict[str, Any]]


def job(queue: str, connection: deque[Job], **options: Any) -> Callable[[Any], Any]:
    """Give a function a ``delay`` that puts a call of it in the queue, like rq.decorators.job."""

    def decorate(function: Any) -> Any:
        def delay(**kwargs: Any) -> None:
            connection.append((queue, function, kwargs))

        function.delay = delay
        function.options = options
        return function

    return decorate


class RQRouter(Router):
    "Router specifically for RQ routing"

    def __init__(self, redis_connection: deque[Job], *args: Any, **kwargs: Any) -> None:
        super(RQRouter, self).__init__(*args, **kwargs)  # noqa: UP008  # as printed
        self.redis_connection = redis_connection
        self.logger.debug("Initialized RQ Router")

    def dispatch(self, origin: str, destination: str, message: Message) -> Any:
        "dispatch through RQ"
        func: Any = self.functions[destination]
        self.logger.debug("enqueueing %r", func)
        return func.delay(_origin=origin, **message)

    def wrap_node(self, node: Callable[..., Any], options: dict[str, Any]) -> Any:
        job_kwargs = {
            "queue": options.get("queue", "default"),
            "connection": options.get("connection", self.redis_connection),
            "timeout": options.get("timeout", None),  # noqa: SIM910  # as printed
            "result_ttl": options.get("result_ttl", 500),
        }
        return job(**job_kwargs)(node)


def test_extending_router() -> None:
    """Chapter 2: the listed subclass sends every message through its queue, with its origin."""
    jobs: deque[Job] = deque()
    router, tallied = RQRouter(jobs), []

    @router.node(("word",), entry_point=True)
    def emit_words(msg: Message) -> Iterator[str]:
        yield from msg.document.strip().split(" ")

    @router.node(
        ("word", "count"), f"{__name__}.emit_words", queue="words", timeout=5, name="tally_word"
    )
    def tally_word(msg: Message) -> tuple[str, int]:
        tallied.append((msg.word, msg._origin))
        return msg.word, 1

    router(document="the rain")
    assert tallied == []
    order = []
    while jobs:
        queue, function, kwargs = jobs.popleft()
        order.append((queue, kwargs["_origin"]))
        function(**kwargs)
    source = f"{__name__}.emit_words"
    assert order == [("default", "__entry_point"), ("words", source), ("words", source)]
    assert tallied == [("the", source), ("rain", source)]
    assert tally_word.options == {  # type: ignore[attr-defined]
        "timeout": 5,
        "result_ttl": 500,
    }
