"""The tap in this process; over machines see test_taps.py."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from emit import CeleryRouter, Router, RQRouter, ShellNode
from emit.errors import GraphError
from emit.observe import Started, Tap, tap
from emit.observe.tap import HIDDEN, Passed, Point, hide, point, watch
from emit.router.core import ENTRY


def chain(**options: Any) -> Router:
    router = Router(**options)

    @router.node(("word",), entry_point=True, name="words")
    def words(msg: Any) -> Any:
        yield from msg.text.split()

    @router.node(("n",), "words", name="length")
    def length(msg: Any) -> int:
        if msg.word == "bad":
            raise ValueError(msg.word)
        return len(msg.word)

    @router.node((), "words", name="sink")
    def sink(msg: Any) -> None:
        msg.word = "changed"

    return router


def seen(router: Router, *points: str, call: dict[str, Any], **options: Any) -> list[Passed]:
    passed: list[Passed] = []
    with watch(router, passed.append, *points, **options):
        router(**call)
    router(**call)  # nobody hears this one
    return passed


def short(passed: list[Passed]) -> list[Any]:
    return [(each.way, each.node, each.fields) for each in passed]


def test_a_node_is_seen_with_its_results() -> None:
    """A message, its results and the end of its run, in this order and with one number."""
    passed = seen(chain(), "words", call={"text": "the rain"})
    assert short(passed) == [
        ("message", "words", {"text": "the rain"}),
        ("result", "words", {"word": "the"}),
        ("result", "words", {"word": "rain"}),
        ("end", "words", None),
    ]
    assert {(each.origin, each.attempt, each.id) for each in passed} == {(ENTRY, 1, "")}
    assert len({each.run for each in passed}) == 1
    assert [each.at for each in passed] == sorted(each.at for each in passed)


def test_an_edge_is_seen_with_its_messages() -> None:
    """Neither results nor messages of other edges are."""
    router = chain()
    router.functions["length"](word="by hand")
    passed = seen(router, "words -> length", call={"text": "the rain"})
    assert short(passed) == [
        ("message", "length", {"word": "the"}),
        ("message", "length", {"word": "rain"}),
    ]


def test_all_nodes() -> None:
    """Without a point all are seen, and a handler that changes its message changes no other."""
    passed = seen(chain(), call={"text": "rain"})
    assert {("message", "sink", "rain"), ("message", "length", "rain")} <= {
        (each.way, each.node, each.fields.get("word")) for each in passed if each.fields
    }
    assert sum(each.way == "end" for each in passed) == 3


def test_a_failure_is_an_end() -> None:
    """The class of the exception is told, and not its text, which may quote the message."""
    router, passed = chain(), list[Passed]()
    with watch(router, passed.append, "length"), pytest.raises(ValueError, match="bad"):
        router(text="bad")
    assert [(each.way, each.error) for each in passed] == [("message", ""), ("end", "ValueError")]


def test_a_stream_is_seen_as_it_flows() -> None:
    """A result is seen before the next one is made."""
    router, passed = Router(), list[Passed]()

    @router.node(("n",), entry_point=True, name="numbers", stream=True)
    def numbers(msg: Any) -> Any:
        for n in range(2):
            assert sum((each.way, each.node) == ("result", "numbers") for each in passed) == n
            yield n

    @router.node(("n",), "numbers", name="show")
    def show(msg: Any) -> int:
        return int(msg.n)

    with watch(router, passed.append):
        router(a=1)
    ways = [(each.way, each.node) for each in passed]
    assert ways.index(("end", "show")) < ways.index(("end", "numbers"))
    assert ways.count(("result", "numbers")) == 2


PROGRAM = """
def double(msg):
    if msg.n == 2:
        raise ValueError("two")
    yield msg.n * 2
"""


def test_messages_that_a_program_gets_together(tmp_path: Path) -> None:
    """Each message of a pipeline has its own results, and the failed one its end."""
    (tmp_path / "double.py").write_text(PROGRAM)
    router, passed = Router(), list[Passed]()

    @router.node(("n",), entry_point=True, name="numbers")
    def numbers(msg: Any) -> Any:
        yield from range(msg.count)

    @router.node(("n",), "numbers", name="double")
    class Double(ShellNode):
        file = str(tmp_path / "double.py")
        size = 2

    with router, watch(router, passed.append, "double"):
        router(count=2)
        with pytest.raises(Exception, match="two"):
            router(count=3)
    told: dict[int, list[Any]] = {}
    for each in passed:
        told.setdefault(each.run, []).append((each.way, each.fields, each.error))
    whole = [
        [("message", {"n": n}, ""), ("result", {"n": 2 * n}, ""), ("end", None, "")]
        for n in (0, 1, 0, 1)
    ]
    assert [*told.values()] == [
        *whole,
        [("message", {"n": 2}, ""), ("end", None, "RemoteError")],
    ]


def test_fields_are_hidden() -> None:
    """Those that the router names, and those that the caller does, at any depth and in any case."""
    call = {"text": "rain", "Password": "s3", "user": {"mail": "m", "more": [{"PASSWORD": 1}]}}
    router = chain(redact=["password"])
    [message, *_] = seen(router, "words", call=call, redact=["Mail"])
    assert message.fields == {
        "text": "rain",
        "Password": HIDDEN,
        "user": {"mail": HIDDEN, "more": [{"PASSWORD": HIDDEN}]},
    }
    assert call["user"] == {"mail": "m", "more": [{"PASSWORD": 1}]}


def test_what_is_too_deep_is_hidden() -> None:
    """Nobody can hide a field by its depth, and no depth ends the tap."""
    value: Any = {"password": "s3"}
    for _ in range(100_000):
        value = [value]
    assert "s3" not in str(hide(value, frozenset({"password"})))
    same = {"a": [1, {"b": 2}]}
    assert hide(same, frozenset({"c"})) is same


def test_a_rate() -> None:
    """What is too much is passed over, whole runs at a time, and counted."""
    router, passed = chain(), list[Passed]()
    with watch(router, passed.append, "words", rate=3) as valve:
        for _ in range(50):
            router(text="rain")
    messages = sum(each.way == "message" for each in passed)
    assert 3 <= messages < 50
    assert sum(each.way == "end" for each in passed) == messages
    assert valve.passed_over == 50 - messages


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("wrods", 'no node "wrods" (nearest: words)'),
        ("length -> sink", '"sink" does not hear "length"; it hears words'),
        ("-> sink", '"sink" does not hear "__entry_point"; it hears words'),
        ("", 'no node ""'),
    ],
)
def test_no_such_point(told: str, says: str) -> None:
    with pytest.raises(GraphError) as caught:
        point(told, chain())
    assert says in str(caught.value)


def test_points() -> None:
    """Names with spaces around them, and the edge from calls of the router."""
    assert point(" words -> length ", chain()) == Point("length", "words")
    assert str(point("words->length")) == "words -> length"
    assert point("-> words", chain()) == Point("words", ENTRY)
    assert point("words", chain()) == Point("words")


def test_routers_of_queues_hide_fields() -> None:
    """They take the same names."""
    celery, redis = pytest.importorskip("celery"), pytest.importorskip("redis")
    queue = CeleryRouter(celery_task=celery.Celery("a").task, redact=["password"])
    assert queue.redact == {"password"}
    assert RQRouter(redis.Redis(port=1), redact=["password"]).redact == {"password"}


def test_redact_takes_a_list() -> None:
    with pytest.raises(GraphError, match=r"redact must be a list of names, such as \['secret'\]"):
        Router(redact="secret")


def test_a_tap_that_fails_is_off(caplog: pytest.LogCaptureFixture) -> None:
    """The messages go on, and the log says it once."""
    router = chain()

    def hear(passed: Passed) -> None:
        raise OSError("no space left")

    with watch(router, hear):
        router(text="the rain")
        router(text="the rain")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "emit.observe.tap.Valve" in caplog.text


def test_a_tap_of_ones_own() -> None:
    """A subclass gets facts, messages and results, until it is taken off."""
    told: list[Any] = []

    class Own(Tap):
        def message(self, fact: Started, fields: Any) -> None:
            told.append((fact.node, fields.get("text")))

    router, own = chain(), Own()
    router.observe(own)
    router(text="rain")
    router.unobserve(own)
    router.unobserve(own)
    router(text="rain")
    assert told == [("words", "rain"), ("length", None), ("sink", None)]


def test_threads() -> None:
    """Runs of several threads are told apart."""
    router, passed = chain(), list[Passed]()

    def feed(name: str) -> None:
        for n in range(50):
            router(text=f"{name}{n}")

    with watch(router, passed.append, "words"):
        threads = [threading.Thread(target=feed, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    runs: dict[int, set[str]] = {}
    for each in passed:
        if each.fields is not None:
            runs.setdefault(each.run, set()).update(each.fields.values())
    assert len(runs) == 150
    assert all(len(values) == 1 for values in runs.values())


def test_a_run_without_an_end_is_forgotten() -> None:
    """A valve keeps a limited number of runs."""
    valve = tap.Valve([], [].append)
    for run in range(tap._RUNS + 5):
        fact = Started("a", "b", "", 1, "process", "", 1, None, run, 0.0, None, None)
        valve.message(fact, {})
    assert len(valve._runs) == tap._RUNS
