"""emit.testing.drive: whole graphs in the test's process, without a queue."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import emit
from emit import Router, ShellNode
from emit.errors import GraphError
from emit.observe import Started
from emit.testing import Died, Sent, Stuck, die, drive

ROOT = Path(__file__).resolve().parent.parent

_numbers = count()

HEAD = """
import sys
import emit
from emit import CeleryRouter, RQRouter, ShellNode, idempotent
from emit.context import current
from redis import Redis

done = []
nowhere = Redis(port=1)
"""

HEADS = {
    "celery": """
from celery import Celery
from emit.celery import configure

app = Celery(__name__, broker="redis://localhost:1", backend="redis://localhost:1")
configure(app, time_limit=60)
router = CeleryRouter(celery_task=lambda function: app.task(function, shared=False))
""",
    "rq": """
router = RQRouter(redis_connection=nowhere)
""",
}

GRAPH = """
@router.node(("n",), entry_point=True, name="source")
def source(msg):
    yield from range(msg.count)


@router.node(("n",), "source", name="moody", max_attempts=3, return_results=True)
def moody(msg):
    how = getattr(msg, "how", {2: "fail", 1: "ask"}.get(msg.n))
    if how == "fail":
        raise ValueError("two")
    if how == "ask" and current.get().attempt < 3:
        raise emit.Retry("not yet", after=3600)
    if how == "always":
        raise emit.Retry("never", after=10)
    if how == "reject":
        raise emit.Reject("no")
    return msg.n * 10


@router.node((), "moody", name="sink")
def sink(msg):
    with idempotent(nowhere, f"sink:{msg.n}") as first:
        if first:
            done.append(msg.n)


@router.node(("n",), name="spread", batch=3)
def spread(msg):
    yield from range(msg.count)


@router.node(("n",), "spread", name="batched", batch=3)
def batched(msg):
    if msg.n == 4:
        raise KeyError("four")
    return msg.n


@router.node(("total",), "batched", name="many", batch=3, many=True)
def many(messages):
    done.append([message.n for message in messages])
    return sum(message.n for message in messages)


@router.node(("n",), name="circle")
def circle(msg):
    return msg.n


router.register_route("circle", "circle")


@router.node((), name="absent")
class Absent(ShellNode):
    command = "/nowhere/to/be/found"
    mode = "persistent"
"""


@pytest.fixture(params=["celery", "rq"])
def module(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Import the graph above as a module, as RQ needs its functions."""
    yield from imported(tmp_path, HEAD + HEADS[request.param] + GRAPH)


def imported(folder: Path, text: str) -> Iterator[ModuleType]:
    name = f"driven_{next(_numbers)}"
    (folder / f"{name}.py").write_text(text, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        module = importlib.import_module(name)
        yield module
        module.router.close()
        del sys.modules[name]


def test_a_plain_router() -> None:
    """Messages, results and edges of a router without a queue."""
    router = Router()
    router.node(("n",), entry_point=True, name="source")(lambda msg: (n for n in range(msg.n)))
    router.node(("n",), "source", name="twice")(lambda msg: msg.n * 2)
    router.node((), "twice", name="end")(lambda msg: None)
    with drive(router) as graph:
        graph(n=2)
    assert graph.results("source") == [{"n": 0}, {"n": 1}]
    assert graph.passed("source", "twice") == [{"n": 0}, {"n": 1}]
    assert graph.passed("twice") == [{"n": 0}, {"n": 2}]
    assert graph.passed(destination="source") == [{"n": 2}]
    assert graph.sent[0] == Sent("", "source", router.message_class(n=2))
    assert [fact.node for fact in graph.facts if isinstance(fact, Started)].count("end") == 2
    before = list(graph.sent)
    router(n=5)
    assert graph.sent == before
    assert not {"send_on", "sends_here"} & vars(router).keys()


def test_an_error_of_a_plain_router_is_the_callers() -> None:
    router = Router()

    @router.node(("n",), entry_point=True, name="source")
    def source(msg: Any) -> Any:
        raise ValueError(msg.n)

    with drive(router) as graph, pytest.raises(ValueError, match="1"):
        graph(n=1)
    with drive(router) as graph, pytest.raises(GraphError, match="no workers"):
        graph.kill("source")


def test_waits_of_a_program_take_no_time() -> None:
    """A program asks for another attempt in some seconds: they pass by the virtual clock."""
    router = Router()
    code = (
        "from emit_sdk import Retry, context, node, serve\n"
        "@node\n"
        "def again(msg):\n"
        "    if context().attempt < 3:\n"
        "        raise Retry('busy', after=20)\n"
        "    return context().attempt\n"
        "serve()\n"
    )
    command, env = (sys.executable, "-c", code), (*ShellNode.pass_env, "PYTHONPATH")
    node = router.node(
        ("attempt",),
        entry_point=True,
        name="again",
        backoff_max=60,
        pass_env=env,
        mode="persistent",
    )
    node(type("Again", (ShellNode,), {"command": command}))
    with pytest.MonkeyPatch.context() as patch, router, drive(router) as graph:
        patch.setenv("PYTHONPATH", str(ROOT / "sdks/python"))
        graph(n=1)
    assert graph.results("again") == [{"attempt": 3}]
    assert (graph.now, [wait.seconds for wait in graph.waits]) == (40, [20, 20])


def test_attempts_waits_and_dead_letters(module: Any) -> None:
    """The code of the queue's workers decides, and two hours pass in no time."""
    with drive(module.router) as graph:
        graph(count=4)
    assert module.done == [0, 30, 10]
    assert [(wait.node, wait.seconds) for wait in graph.waits] == [("moody", 3600)] * 2
    assert graph.now == 7200
    (letter,) = graph.dead
    assert (letter.node, letter.message, letter.causes[0].type) == ("moody", {"n": 2}, "ValueError")
    assert sorted(map(str, graph.returned("moody"))) == ["{'n': 0}", "{'n': 10}", "{'n': 30}"]
    assert graph.passed("moody", "sink") == [{"n": 0}, {"n": 30}, {"n": 10}]


def test_the_last_attempt(module: Any) -> None:
    with drive(module.router) as graph:
        graph.give("moody", n=7, how="always")
        graph.give("moody", n=8, how="reject")
    assert [(letter.message["n"], letter.attempts) for letter in graph.dead] == [(7, 3), (8, 1)]
    assert module.done == []


def test_batches(module: Any) -> None:
    """Messages travel together; one that fails has a fate of its own."""
    with drive(module.router) as graph:
        graph.give("spread", count=6)
    assert [letter.message for letter in graph.dead] == [{"n": 4}]
    assert module.done == [[0, 1, 2], [3, 5]]
    assert graph.results("many") == [{"total": 3}, {"total": 8}]


@pytest.mark.parametrize("at", ["start", "results", "end"])
def test_a_killed_worker(module: Any, at: Any) -> None:
    """The message is delivered again, and an idempotent sink does its effect once."""
    with drive(module.router) as graph:
        graph.kill("moody", at, when=lambda msg: msg.n == 3)
        graph(count=4)
    assert sorted(module.done) == [0, 10, 30]
    runs = graph.results("moody").count({"n": 30})
    assert runs == (2 if at == "end" else 1)
    assert len(graph.dead) == 1


def test_killed_too_often(module: Any) -> None:
    with drive(module.router) as graph:
        graph.kill("moody", times=9)
        graph.give("moody", n=5)
    (letter,) = graph.dead
    assert letter.causes[-1].type == "Undelivered"
    assert module.done == []


def test_killed_in_the_midst_of_an_effect(module: Any) -> None:
    """A killed worker takes no claim back: the next one waits until the lease is over."""
    deaths = iter([True])

    def sink(msg: Any) -> None:
        with emit.idempotent(module.nowhere, "effect") as first:
            if next(deaths, False):
                die()
            if first:
                module.done.append(msg.n)

    with drive(module.router) as graph:
        graph.stub("sink", sink)
        graph.give("sink", n=1)
    assert module.done == [1]
    assert 60 <= graph.now < 200


def test_a_killed_batch_runs_apart(module: Any) -> None:
    with drive(module.router) as graph:
        graph.kill("batched", at="results")
        graph.give("spread", count=3)
    assert sorted(n for ns in module.done for n in ns) == [0, 1, 2]
    assert len(module.done) > 1
    assert not graph.dead


def test_die_ends_the_caller_of_a_plain_router() -> None:
    router = Router()
    router.node((), entry_point=True, name="end")(lambda msg: die())
    with drive(router) as graph, pytest.raises(Died):
        graph(n=1)


def test_stubs(module: Any) -> None:
    """A function in place of a node: fields and routes stay, and the handler is back at the end."""
    with drive(module.router) as graph:
        graph.stub("moody", lambda msg: msg.n + 1)
        graph.stub("many", lambda messages: len(messages))
        graph(count=3)
        graph.give("spread", count=2)
    assert graph.results("moody") == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert graph.results("many") == [{"total": 2}]
    module.done.clear()
    with drive(module.router) as graph:
        graph.give("spread", count=1)
    assert module.done == [[0]]
    with drive(module.router) as graph, pytest.raises(GraphError, match="nearest: moody"):
        graph.stub("moddy", print)


def test_a_stub_of_a_program() -> None:
    router = Router()
    absent = type("Absent", (ShellNode,), {"command": "/nowhere/to/be/found"})
    router.node(("n",), entry_point=True, name="absent")(absent)
    with drive(router) as graph:
        graph.stub("absent", lambda msg: msg.n + 1)
        graph(n=1)
    assert graph.results("absent") == [{"n": 2}]


def test_a_dead_letter_is_sent_again(module: Any) -> None:
    with drive(module.router) as graph:
        graph.give("moody", n=2)
        (letter,) = graph.dead
        graph.stub("moody", lambda msg: msg.n)
        graph.resend(letter)
        assert graph.dead == []
    assert module.done == [2]


def test_step_by_step(module: Any) -> None:
    """Time passes as far as it is told to."""
    with drive(module.router) as graph:
        graph.send(count=2)
        assert graph.waiting == ["source"]
        graph.run(seconds=3599)
        assert (graph.now, graph.waiting) == (3599, ["moody"])
        graph.run(seconds=1)
        assert (graph.now, graph.waiting) == (3600, ["moody"])
        graph.run()
    assert module.done == [0, 10]


def test_no_end(module: Any) -> None:
    with drive(module.router, limit=50) as graph:
        with pytest.raises(Stuck, match=r'50 deliveries, and 1 messages .* next one for "circle"'):
            graph.give("circle", n=1)
    with drive(module.router) as graph:
        with pytest.raises(Stuck, match=r'"absent": a message was put back 21 times'):
            graph.give("absent", n=1)


def test_what_a_user_sends_by_hand(module: Any) -> None:
    """``delay`` reaches the line, not the broker."""
    with drive(module.router) as graph:
        module.moody.delay(n=4)
        graph.run()
    assert module.done == [40]


def test_unseen_dead_letters(module: Any) -> None:
    with drive(module.router) as graph:
        graph.give("moody", n=2)
        with pytest.raises(AssertionError, match="not looked at"):
            graph.check()
        assert graph.dead
        graph.check()


def test_one_drive_at_a_time(module: Any) -> None:
    with drive(module.router) as graph:
        with pytest.raises(GraphError, match="driven already"), drive(module.router):
            pass
        graph(count=1)
    with pytest.raises(TypeError, match="takes a router"):
        drive(print)  # type: ignore[arg-type]


BOUND = """
@router.node(("n",), name="bound", celery_task=lambda f: app.task(f, bind=True, max_retries=2,
                                                                  shared=False))
def bound(task, msg):
    if task.request.retries < 2:
        raise task.retry(countdown=60)
    return task.request.retries


@router.node(("n",), name="auto", celery_task=lambda f: app.task(
    f, autoretry_for=(KeyError,), retry_backoff=False, default_retry_delay=9, max_retries=1,
    shared=False))
def auto(msg):
    done.append("auto")
    raise KeyError("canary")


@router.node((), "bound", name="last")
def last(msg):
    other.delay(msg.n)


@app.task(name="other")
def other(n):
    done.append(n)
"""


def test_celerys_own_retries(tmp_path: Path) -> None:
    """``task.retry()``, ``autoretry_for`` and plain tasks run as Celery has them."""
    text = HEAD + HEADS["celery"] + BOUND
    for module in imported(tmp_path, text):
        with drive(module.router) as graph:
            graph.give("bound", n=1)
            assert (module.done, graph.now) == ([2], 120)
            graph.give("auto", n=1)
            assert (module.done, graph.now) == ([2, "auto", "auto"], 129)
            assert [letter.node for letter in graph.dead] == ["auto"]
            result = module.other.delay(7)
            graph.run()
            assert (module.done[-1], result.get(timeout=1)) == (7, None)
