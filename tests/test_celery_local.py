"""CeleryRouter without a worker process: declaring, sending, eager, in a test's own worker."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from types import MappingProxyType
from typing import Any

import pytest

from emit.errors import DispatchError, EncodeError, GraphError, ResultError
from emit.testing import capture
from tests.faults.nodes import PATH, raw
from tests.queues.worker import eventually, working

celery = pytest.importorskip("celery")

from kombu.transport.memory import Channel  # noqa: E402

from emit import CeleryRouter, NoResult, Router, ShellNode  # noqa: E402
from emit.celery import check_worker, configure, longest_wait, problems  # noqa: E402
from emit.celery_redis import address_of  # noqa: E402
from emit.router import CeleryRouter as FromRouter  # noqa: E402
from emit.router.celery import CeleryRouter as FromModule  # noqa: E402

#: A filter: the last letter of each message's word.
LAST_LETTERS = """
import json, sys
for line in sys.stdin:
    print(json.dumps(json.loads(line)["word"][-1]))
"""


@pytest.fixture
def app() -> Iterator[Any]:
    app = celery.Celery(
        "local", broker="memory://", backend="cache+memory://", set_as_current=False
    )
    app.conf.broker_transport_options = {"polling_interval": 0.05}  # 1 s unless one says so
    yield app
    app.close()
    # The broker in memory is one for the whole process: what is left would be another test's.
    Channel.queues.clear()


@pytest.fixture
def router(app: Any) -> CeleryRouter:
    # Not shared, as Celery otherwise gives the tasks of one test's app to all others.
    return CeleryRouter(celery_task=app.task(shared=False))


def words(router: CeleryRouter, **options: Any) -> tuple[Any, Any, list[Any]]:
    """Two nodes: a splitter, and a counter that notes what it gets."""
    got: list[Any] = []

    @router.node(("word",), entry_point=True, name="local.words")
    def split(msg: Any) -> Any:
        yield from msg.text.split()

    @router.node(("length",), "local.words", name="local.length", **options)
    def length(msg: Any) -> Any:
        got.append(msg)
        return len(msg.word)

    return split, length, got


def test_what_makes_no_tasks(app: Any, router: CeleryRouter) -> None:
    """An app, or a task, in place of app.task is refused where it is given, by its option."""
    for wrong in (app, app.task(shared=False)(working)):
        with pytest.raises(GraphError, match=r"^CeleryRouter: celery_task must be .* app\.task"):
            CeleryRouter(celery_task=wrong)
        with pytest.raises(GraphError, match=r'"local\.test": celery_task must be'):
            router.node(("n",), name="local.test", celery_task=wrong)(working)
    assert not router.names


def test_it_can_be_had_from_all_three_places() -> None:
    assert CeleryRouter is FromRouter is FromModule


def test_a_node_is_a_task(app: Any, router: CeleryRouter) -> None:
    """The task has the node's name and is still lazy: settings made later count."""
    split, *_ = words(router)
    app.conf.task_acks_late = True
    assert isinstance(split, celery.Task)
    assert (split.name, split.acks_late) == ("local.words", True)
    assert app.tasks["local.words"].name == split.name


def test_a_node_with_its_own_task(app: Any, router: CeleryRouter) -> None:
    """``celery_task=app.task(rate_limit=...)``, as documented."""
    task = app.task(shared=False, rate_limit="5/s", ignore_result=True)
    _, length, _ = words(router, celery_task=task)
    assert (length.rate_limit, length.ignore_result) == ("5/s", True)


def test_the_app_may_come_later(router: CeleryRouter) -> None:
    """A shared_task makes nodes for whatever app there is."""

    @router.node(("n",), name="local.shared", celery_task=celery.shared_task)
    def shared(msg: Any) -> Any:
        return 1

    assert "local.shared" in celery.Celery("another").tasks


def test_subscribing_to_a_task(router: CeleryRouter) -> None:
    """The decorated node itself works, as with any router, and does not finish the lazy task."""
    split, *_ = words(router)
    router.node((), split, name="local.sink")(lambda msg: NoResult)
    assert "local.sink" in router.routes["local.words"]


def test_two_nodes_of_one_name_for_celery(router: CeleryRouter) -> None:
    """Celery would silently give the second the first one's task."""
    router.node((), name="local.a-b")(lambda msg: None)
    with pytest.raises(GraphError, match=r'"local.a.b" .* "local.a-b"|would both be the Celery'):
        router.node((), name="local.a+b")(lambda msg: None)


def test_an_unknown_option(router: CeleryRouter) -> None:
    """The text lists what there is."""
    with pytest.raises(GraphError, match=r"takes no option 'quue'; .*batch.*celery_task"):
        router.node((), name="local.x", quue="words")(lambda msg: None)


def test_options_of_rq(router: CeleryRouter, caplog: pytest.LogCaptureFixture) -> None:
    """Nodes that were written for RQRouter work: the options are left out, and that is told."""
    caplog.set_level(logging.WARNING)  # a worker in the process of another test has set its own
    for name in ("local.x", "local.y"):
        options = {"queue": "words", "timeout": 5, "result_ttl": 60, "connection": None}
        node = router.node(("n",), name=name, **options)(lambda msg: msg.n)
        assert node(n=1) == {"n": 1}
    assert sorted(record.getMessage() for record in caplog.records) == [
        f'"local.x": CeleryRouter leaves out the option {option}'
        for option in ("connection", "queue", "result_ttl", "timeout")
    ]


@pytest.mark.parametrize("many", [False, True])
def test_a_bound_task_without_celery(app: Any, many: bool) -> None:
    """A handler under a plain Router gets the task that it asks for, before the message."""
    router = Router()
    got: list[Any] = []

    @router.node(
        ("n",),
        entry_point=True,
        name="local.bound",
        many=many,
        celery_task=app.task(bind=True, shared=False, max_retries=7),
    )
    def bound(task: Any, msg: Any) -> Any:
        got.append((task.max_retries, task.request.called_directly))
        yield len(msg) if many else msg.n

    @router.node((), "local.bound", name="local.seen", celery_task=app.task(shared=False))
    def seen(msg: Any) -> None:
        got.append(msg.n)

    router(n=1)
    assert got == [(7, True), 1]
    assert bound(n=1) == ({"n": 1},)


def test_a_program_without_celery(app: Any) -> None:
    """A program keeps its own options and ignores those of the task."""
    router = Router()

    @router.node(
        ("letter",),
        name="local.letters",
        timeout=20,
        max_attempts=2,
        batch=10,
        celery_task=app.task(bind=True, shared=False),
    )
    class Letters(ShellNode):
        command = ("python", "-c", LAST_LETTERS)

    handler = Letters.node.handler
    assert Letters(word="rain") == ({"letter": "n"},)
    assert (handler.timeout, handler.max_attempts) == (20, 2)


CELL = """
@router.node(("n",), entry_point=True, name="local.cell")
def cell(msg):
    return msg.n * {}
"""


def test_a_cell_is_run_again(app: Any, router: CeleryRouter) -> None:
    """The newer handler runs, though Celery keeps the first of two tasks with one name."""
    app.conf.task_always_eager = True
    place = {"router": router, "__name__": "__main__"}
    got: list[int] = []
    router.node((), "local.cell", name="local.hear")(lambda msg: got.append(msg.n))
    for times in (1, 10):
        exec(CELL.format(times), place)
        assert place["cell"](n=2) == {"n": 2 * times}
        router(n=1)
    assert got == [2, 1, 20, 10]


def test_many_is_not_for_programs(router: CeleryRouter) -> None:
    class Program(ShellNode):
        command = "true"

    with pytest.raises(GraphError, match="many=True is for Python functions"):
        router.node((), name="local.x", many=True)(Program)


def test_many_has_nothing_to_pass_through(router: CeleryRouter) -> None:
    """A result of a list of messages belongs to none of them."""
    with pytest.raises(GraphError, match="pass_through=True needs one message"):
        router.node((), name="local.x", many=True, pass_through=True)(lambda messages: None)
    assert router.names == set()


@pytest.mark.parametrize("batch", [1, 3])
def test_fields_that_pass_through(app: Any, router: CeleryRouter, batch: int) -> None:
    """A Python node and a program, each message of a batch with its own fields."""
    got: list[Any] = []
    declared = {"batch": batch, "pass_through": True}
    words(router)

    @router.node(("size",), "local.words", name="local.size", **declared)
    def size(msg: Any) -> Any:
        yield len(msg.word)

    @router.node(("last",), "local.size", name="local.last", **declared)
    class Last(ShellNode):
        command = (sys.executable, "-uc", LAST_LETTERS)
        mode = "lines"

    @router.node((), "local.last", name="local.end")
    def end(msg: Any) -> Any:
        got.append((msg.word, msg.size, msg.last))

    with router, working(app):
        router(text="the rain in")
        eventually(lambda: len(got) == 3)
    assert sorted(got) == [("in", 2, "n"), ("rain", 4, "n"), ("the", 3, "e")]


@pytest.mark.parametrize("batch", [1, 4])
def test_a_handler_that_gives_up_at_its_deadline(
    app: Any, router: CeleryRouter, batch: int
) -> None:
    """Its message has timed out: the host tries it again, and no other of a batch is touched."""
    got: list[Any] = []

    @router.node(("n", "late"), entry_point=True, name="local.start")
    def start(msg: Any) -> Any:
        yield from enumerate(msg.late)

    @router.node(("n", "attempt"), "local.start", name="local.late", batch=batch)
    class Late(ShellNode):
        command = raw("""
            for id, msg in calls():
                if msg["attempt"] > msg["late"]:
                    end(id, [msg["n"], msg["attempt"]])
                else:
                    frame(op="err", id=id, type="AbortError", message="late", timeout=True)
        """)
        env = MappingProxyType({"PYTHONPATH": PATH})
        mode = "persistent"
        timeout = 60

    @router.node((), "local.late", name="local.end")
    def end(msg: Any) -> Any:
        got.append((msg.n, msg.attempt))

    with router, working(app):
        router(late=[0, 2, 0, 1])
        eventually(lambda: len(got) == 4)
    assert sorted(got) == [(0, 1), (1, 3), (2, 1), (3, 2)]


def test_a_call_in_the_process(router: CeleryRouter) -> None:
    """It runs here and returns its results, which go to the queue; as with 0.3."""
    split, length, _ = words(router)
    with capture(router) as sent:
        assert split(text="the rain") == ({"word": "the"}, {"word": "rain"})
        assert split({"text": "in"}) == ({"word": "in"},)
    assert [item.message.word for item in sent] == ["the", "rain", "in"]
    assert length(word="spain") == {"length": 5}
    with pytest.raises(TypeError):
        split("text")


def test_capture_sees_batches_as_messages(router: CeleryRouter) -> None:
    """Nothing reaches the queue, in whatever form."""
    split, *_ = words(router, batch=100)
    with capture(router) as sent:
        split(text="the rain in spain")
    assert {(item.origin, item.destination) for item in sent} == {("local.words", "local.length")}
    assert [item.message.word for item in sent] == ["the", "rain", "in", "spain"]


def test_routing_can_be_disabled(app: Any, router: CeleryRouter) -> None:
    """The documentation's chapter on testing disables routing this way."""
    app.conf.task_always_eager = True
    split, _, got = words(router)
    router.disable_routing()
    assert split(text="a b") == ({"word": "a"}, {"word": "b"})
    assert got == []


@pytest.mark.parametrize("batch", [1, 100])
def test_eager(app: Any, router: CeleryRouter, batch: int) -> None:
    """task_always_eager runs the whole graph where it is called."""
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    _, _, got = words(router, batch=batch)
    router(text="the rain")
    assert [(msg.word, msg._origin) for msg in got] == [
        ("the", "local.words"),
        ("rain", "local.words"),
    ]


def test_the_config_of_a_program(app: Any, router: CeleryRouter) -> None:
    """A node with a program has its config over a queue, too."""
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    got: list[Any] = []
    command = ["sh", "-c", 'echo "$EMIT_CONFIG"']
    options = {"command": command, "mode": "oneshot", "config": {"a": [1]}, "entry_point": True}
    router.node(("n",), name="local.configured", **options)(ShellNode)
    router.node((), "local.configured", name="local.hear")(lambda msg: got.append(msg.n))
    router(x=1)
    assert got == [{"a": [1]}]


@pytest.mark.parametrize("batch", [1, 100])
def test_eager_failures(app: Any, router: CeleryRouter, batch: int) -> None:
    """An exception of a node comes out unchanged: no retry, no dead letter, no wait."""
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    words(router)

    @router.node(("n",), "local.words", name="local.fails", batch=batch)
    def fails(msg: Any) -> Any:
        raise KeyError("x") if msg.word == "rain" else ResultError("y")

    with pytest.raises((KeyError, ResultError)):
        router(text="rain the")


def test_a_worker_in_the_test(app: Any, router: CeleryRouter) -> None:
    """celery.contrib.testing: a real worker, in a thread."""
    split, _, got = words(router, batch=2)
    with working(app):
        assert split.delay(text="the rain in").get(timeout=60) == 3
        eventually(lambda: len(got) == 3)
    assert sorted(msg.word for msg in got) == ["in", "rain", "the"]


@pytest.mark.parametrize("serializer", ["json", "yaml", "msgpack", "pickle"])
def test_every_serializer_of_celery(app: Any, router: CeleryRouter, serializer: str) -> None:
    """Each value arrives as it was sent, since a message is one text to every serializer."""
    app.conf.update(task_serializer=serializer, accept_content=[serializer])
    got: list[Any] = []
    router.node((), name="local.keep", batch=10)(lambda msg: got.append(msg.v))
    values = [
        [(1, b"x")],
        {1: {"é": None}},
        2**70,
        "\ud800\x00\u2028",
        {"__type__": 1, "__value__": 2},
    ]

    @router.node(("v",), name="local.give")
    def give(msg: Any) -> Any:
        yield from values

    router.register_route("local.give", "local.keep")
    with working(app):
        give.delay(n=(1, 2))
        eventually(lambda: len(got) >= len(values))
    assert got == values


def test_a_task_of_the_users_own_class(app: Any) -> None:
    """Its apply_async is called with the text, and may add to the options; so may delay."""
    sent: list[Any] = []

    class Base(celery.Task):  # type: ignore[misc]
        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            sent.append((args, kwargs))
            return super().apply_async(args, kwargs, **options)

        def delay(self, *args: Any, **kwargs: Any) -> Any:
            return super().delay(*args, **kwargs, tenant=7)

    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    router = CeleryRouter(celery_task=app.task(shared=False, base=Base))
    _, length, got = words(router)
    router(text="rain")
    length.delay(word="sun")
    assert [(msg.word, getattr(msg, "tenant", None)) for msg in got] == [("rain", None), ("sun", 7)]
    assert [(len(args), kwargs) for args, kwargs in sent] == [(1, {})] * 3


def test_a_shared_task_is_adapted_for_each_app(router: CeleryRouter) -> None:
    """Celery makes a class of it for every app there is, and what is sent is the same."""

    @router.node((), name="local.everywhere", celery_task=celery.shared_task)
    def everywhere(msg: Any) -> Any:
        """The words of its author."""

    for number in range(2):
        app = celery.Celery(f"app{number}", broker="memory://", set_as_current=False)
        app.conf.update(task_always_eager=True, task_eager_propagates=True)
        task = app.tasks["local.everywhere"]
        assert task.__doc__ == "The words of its author."
        with pytest.raises(EncodeError, match=r"n: builtins\.set"):
            task.delay(n={1})
        app.close()


def test_a_list_of_messages_whose_result_no_queue_carries(app: Any, router: CeleryRouter) -> None:
    """Each runs again alone, and only the one at fault is given up."""
    calls: list[int] = []
    ends: list[Any] = []
    split, *_ = words(router)

    @router.node(("v",), "local.words", name="local.many", batch=10, many=True)
    def many(messages: Any) -> Any:
        calls.append(len(messages))
        found = [msg.word for msg in messages]
        return set(found) if "bad" in found else found

    router.node((), "local.many", name="local.end", batch=10)(lambda msg: ends.append(msg.v))
    with working(app):
        split.delay(text="a bad b")
        eventually(lambda: len(ends) == 2 and len(calls) == 4)
    assert (calls[0], sorted(ends)) == (3, [["a"], ["b"]])


def test_what_can_be_neither_read_nor_kept(
    app: Any, router: CeleryRouter, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes again and again, a second apart, and the worker goes on with others."""
    app.conf.update(emit_redis="redis://127.0.0.1:1/0")
    _, length, got = words(router)
    headers = {"task": "local.length", "id": "7", "lang": "py"}
    with app.producer_or_acquire() as producer:
        length.apply_async(kwargs={"word": "rain"}, producer=producer)  # declares the queue
        kind = {"content_type": "application/json", "content_encoding": "utf-8"}
        producer.publish(b"no JSON", headers=headers, routing_key="celery", **kind)

    def said() -> list[str]:
        return [text for text in caplog.messages if "7 stays in the queue" in text]

    log = logging.getLogger("emit.celery")
    log.addHandler(caplog.handler)
    try:
        with working(app, loglevel="WARNING"):
            eventually(lambda: len(said()) > 1)
            length.delay(word="sun")
            eventually(lambda: len(got) > 1)
    finally:
        log.removeHandler(caplog.handler)
    assert [msg.word for msg in got] == ["rain", "sun"]


@pytest.mark.parametrize("batch", [1, 10])
def test_a_program_that_can_not_be_started(
    app: Any,
    router: CeleryRouter,
    batch: int,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    """
    Its messages wait, for days perhaps; so the log says why, at Celery's usual level: once a
    minute, as thousands may wait.
    """
    split, _, _ = words(router)
    router.node((), "local.words", name="local.none", batch=batch, command="no-such-program")(
        ShellNode
    )
    log = logging.getLogger("emit")
    log.addHandler(caplog.handler)  # Celery takes it from the root logger
    request.addfinalizer(lambda: log.removeHandler(caplog.handler))

    def said() -> list[logging.LogRecord]:
        return [record for record in caplog.records if "no-such" in record.getMessage()]

    caplog.set_level(logging.INFO, "emit")  # the worker's own would be that of all later tests
    with working(app, loglevel="WARNING"):
        split.delay(text="the rain")
        split.delay(text="in Spain")
        eventually(lambda: len(said()) > 1)
    first, *others = said()
    assert first.getMessage().startswith('"local.none": ')
    assert " waits for " in first.getMessage()
    assert first.levelno == logging.WARNING
    assert {record.levelno for record in others} == {logging.INFO}


@pytest.mark.slow
def test_the_broker_is_not_there(app: Any, router: CeleryRouter) -> None:
    """One clear error of Emit's, with Celery's own as its cause."""
    app.conf.broker_url = "redis://127.0.0.1:1/0"
    app.conf.task_publish_retry = False
    words(router)
    with pytest.raises(DispatchError, match=r'"local.words": Celery could not send') as caught:
        router(text="the rain")
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("batch", [1, 100])
def test_a_result_that_no_queue_carries(router: CeleryRouter, batch: int) -> None:
    """The error names the node that emitted it and the path, and no part of the value."""
    words(router, batch=batch)

    @router.node(("word",), name="local.odd")
    def odd(msg: Any) -> Any:
        yield "fine"
        yield [1, {"tags": {"canary"}}]

    router.register_route("local.odd", "local.length")
    with pytest.raises(EncodeError) as caught:
        odd(x=1)
    assert str(caught.value).startswith('"local.odd": word[1].tags: builtins.set has no')
    assert (caught.value.node, caught.value.path) == ("local.odd", "word[1].tags")


class Shouting(CeleryRouter):
    """A router as the documentation's chapter on extending would have it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dispatched: list[Any] = []
        self.wrapped: list[Any] = []

    def dispatch(self, origin: str, destination: str, message: Any) -> Any:
        self.dispatched.append((origin, destination, dict(message)))
        return super().dispatch(origin, destination, message)

    def wrap_node(self, node: Callable[..., Any], options: dict[str, Any]) -> Any:
        self.wrapped.append((node.node.name, options.pop("loud", False)))  # type: ignore[attr-defined]
        return super().wrap_node(node, options)


def test_extending(app: Any) -> None:
    """dispatch and wrap_node see everything; every message passes dispatch, batches or not."""
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    router = Shouting(celery_task=app.task(shared=False))
    _, _, got = words(router, loud=True, batch=100)
    router(text="the rain")
    assert router.wrapped == [("local.words", False), ("local.length", True)]
    assert ("local.words", "local.length", {"word": "rain"}) in router.dispatched
    assert len(got) == 2


def test_dispatch_as_the_documentation_writes_it(app: Any) -> None:
    """``func.delay(_origin=origin, **message)``."""

    class Documented(CeleryRouter):
        def dispatch(self, origin: str, destination: str, message: Any) -> Any:
            return self.functions[destination].delay(_origin=origin, **message)

    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    router = Documented(app.task(shared=False))
    _, _, got = words(router)
    router(text="the rain")
    assert [msg._origin for msg in got] == ["local.words"] * 2


def test_a_broker_refuses_what_a_dispatch_sends(
    app: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The message of the results stays in its queue, as without a dispatch of a subclass. When it is
    handled again, its results have the same ids.
    """

    class Documented(CeleryRouter):
        def dispatch(self, origin: str, destination: str, message: Any) -> Any:
            return self.functions[destination].delay(_origin=origin, **message)

    router = Documented(app.task(shared=False))
    _, _, got = words(router)
    refused: list[str] = []
    put = Channel._put

    def refuse_twice(self: Any, queue: str, message: Any, **more: Any) -> None:
        if message["headers"].get("task") == "local.length" and len(refused) < 2:
            refused.append(message["headers"]["id"])
            raise ConnectionRefusedError("no broker")
        put(self, queue, message, **more)

    monkeypatch.setattr(Channel, "_put", refuse_twice)
    app.conf.update(task_publish_retry=False)
    with working(app):
        router(text="the rain")
        eventually(lambda: len(got) >= 2)
    assert refused == [refused[0]] * 2
    assert sorted(msg.word for msg in got) == ["rain", "the"]
    assert "is given up" not in caplog.text


class Around(CeleryRouter):
    """Puts a function around each node, as the chapter on extending allows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: list[Any] = []

    def wrap_node(self, node: Callable[..., Any], options: dict[str, Any]) -> Any:
        @wraps(node)
        def around(**fields: Any) -> Any:
            self.calls.append(fields)
            return node(**fields)

        return super().wrap_node(around, options)


@pytest.mark.parametrize("bind", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"stream": True}, {"batch": 9}, {"batch": 9, "many": True}]
)
def test_a_function_around_a_node(app: Any, options: dict[str, Any], bind: bool) -> None:
    """A worker and a call run it once for each message; the results are sent once."""
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    router = Around(app.task(shared=False))
    got: list[Any] = []

    @router.node(("word",), entry_point=True, name="local.words")
    def words(msg: Any) -> Any:
        yield from msg.text.split()

    def length(*args: Any) -> Any:
        *task, given = args
        assert len(task) == bind
        msg = given[0] if options.get("many") else given
        yield msg.word, len(msg.word)

    own = app.task(bind=bind, shared=False)
    both = ("word", "length")
    router.node(both, "local.words", name="local.length", celery_task=own, **options)(length)
    router.node((), "local.length", name="local.got")(got.append)
    router(text="the rain")
    rain = {"word": "rain", "_origin": "local.words"}
    assert [fields for fields in router.calls if fields == rain] == [rain]
    assert [(msg.word, msg.length) for msg in got] == [("the", 3), ("rain", 4)]
    if not bind:
        assert router.functions["local.length"](word="in")
        assert (router.calls[-2], got[-1].word) == ({"word": "in"}, "in")


class Plainly(CeleryRouter):
    def wrap_node(self, node: Callable[..., Any], options: dict[str, Any]) -> Any:
        return super().wrap_node(lambda **fields: node(**fields), options)


def test_a_function_around_a_node_that_does_not_carry_it(app: Any) -> None:
    router = Plainly(app.task(shared=False))
    with pytest.raises(GraphError, match=r"^Plainly: wrap_node got .*; make .* functools\.wraps$"):
        words(router)


# The settings


def test_configure_leaves_nothing_to_say() -> None:
    app = celery.Celery("c", broker="redis://")
    configure(app)
    assert problems(app) == []
    check_worker(app, [], {})


def test_configure_keeps_what_else_was_set() -> None:
    """Keep other transport options, such as the author's visibility timeout."""
    app = celery.Celery("c", broker="redis://")
    app.conf.broker_transport_options = {"visibility_timeout": 7200, "global_keyprefix": "x"}
    configure(app, time_limit=600)
    options = app.conf.broker_transport_options
    assert (options["visibility_timeout"], options["global_keyprefix"]) == (7200, "x")
    assert (app.conf.task_soft_time_limit, app.conf.task_time_limit) == (540, 600)


def test_what_mends_many_settings_is_said() -> None:
    """An app that nobody has configured is not to be mended line by line; one that is, is not to
    be configured."""
    app = celery.Celery("c", broker="redis://")
    assert "emit.celery.configure(app)" in problems(app)[-1]
    configure(app, time_limit=20)
    assert len(problems(app, {"first": 30, "second": 30})) == 2
    app.conf.update(task_acks_late=False, task_reject_on_worker_lost=False)
    assert len(problems(app)) == 2


@pytest.mark.parametrize(
    ("own", "options", "limits"),
    [
        ({}, {}, (270, 300, 720)),
        ({}, {"time_limit": 20}, (18, 20, 48)),
        ({"task_time_limit": 60}, {}, (54, 60, 144)),
        ({"task_soft_time_limit": 45}, {}, (45, 300, 720)),
        ({"task_soft_time_limit": 540}, {}, (540, 600, 1440)),
        ({"task_soft_time_limit": 45, "task_time_limit": 60}, {}, (45, 60, 144)),
        ({"task_soft_time_limit": 45}, {"time_limit": 50}, (45, 50, 120)),
        ({"task_time_limit": 60}, {"time_limit": 60}, (54, 60, 144)),
    ],
)
@pytest.mark.parametrize("how", ["update", "an object", "old names", "the constructor"])
def test_limits_of_the_apps_own(
    own: dict[str, Any],
    options: dict[str, Any],
    limits: tuple[float, ...],
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They stay, however they were set; the others are put in order around them."""
    own = {**own, "broker_url": "redis://"}
    app = celery.Celery("c", **(own if how == "the constructor" else {}))
    if how == "update":
        app.conf.update(own)
    elif how == "an object":
        named = {f"CELERY_{name.upper()}": value for name, value in own.items()}
        app.config_from_object(named, namespace="CELERY")
    elif how == "old names":
        old = {f"CELERYD_{name.upper()}": value for name, value in own.items()}
        app.config_from_object({"BROKER_URL": old.pop("CELERYD_BROKER_URL"), **old})
    with caplog.at_level(logging.WARNING, "emit.celery"):
        configure(app, **options)
    conf = app.conf
    visible = conf.broker_transport_options["visibility_timeout"]
    assert (conf.task_soft_time_limit, conf.task_time_limit, visible) == pytest.approx(limits)
    assert problems(app) == []
    assert caplog.messages == []


def test_two_limits_that_contradict_each_other() -> None:
    """One in the settings and another in the call: nobody can tell which is meant."""
    app = celery.Celery("c")
    app.conf.task_time_limit = 60
    with pytest.raises(GraphError, match=r"time_limit=20\), but the app sets task_time_limit = 60"):
        configure(app, time_limit=20)
    assert app.conf.task_time_limit == 60


def test_configured_twice() -> None:
    """Keep the app's own settings at a second call, and replace those of the first call."""
    app = celery.Celery("c", broker="redis://")
    configure(app)
    configure(app, time_limit=20)
    options = app.conf.broker_transport_options
    assert (app.conf.task_time_limit, options["visibility_timeout"]) == (20, 48)
    app.conf.task_time_limit = 30
    configure(app)
    assert (app.conf.task_time_limit, app.conf.task_soft_time_limit) == (30, 27)


@pytest.mark.parametrize(
    ("own", "text"),
    [
        ({"task_acks_late": False}, "task_acks_late is off"),
        ({"task_reject_on_worker_lost": False}, "task_reject_on_worker_lost is off"),
        ({"task_acks_on_failure_or_timeout": True}, "task_acks_on_failure_or_timeout is on"),
        ({"task_serializer": "pickle"}, "task_serializer or result_serializer is pickle"),
        ({"accept_content": ["json", "pickle"]}, "accept_content has pickle"),
        (
            {"task_serializer": "yaml", "accept_content": ["json"]},
            "accept_content lacks the task_serializer",
        ),
        ({"task_soft_time_limit": 60, "task_time_limit": 60}, "task_soft_time_limit = 60 is not"),
        ({"broker_transport_options": {"visibility_timeout": 60}}, "not below half of visib"),
    ],
)
def test_what_the_app_should_not_have_set(
    own: dict[str, Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays, and the log says what it does, where the app is made."""
    app = celery.Celery("c", broker="redis://")
    app.conf.update(own)
    with caplog.at_level(logging.WARNING, "emit.celery"):
        configure(app)
    assert {name: app.conf[name] for name in own if name != "broker_transport_options"} == {
        name: value for name, value in own.items() if name != "broker_transport_options"
    }
    assert text in caplog.text
    assert any(text in problem for problem in problems(app))


@pytest.mark.parametrize("serializer", ["json", "yaml", "msgpack"])
def test_a_serializer_of_the_apps_own(serializer: str, caplog: pytest.LogCaptureFixture) -> None:
    """A safe one stays, and is accepted."""
    app = celery.Celery("c", broker="redis://")
    app.conf.update(task_serializer=serializer, result_serializer=serializer)
    with caplog.at_level(logging.WARNING, "emit.celery"):
        configure(app)
    assert app.conf.task_serializer == serializer
    assert set(app.conf.accept_content) == {"json", serializer}
    assert caplog.messages == []
    assert problems(app) == []


def test_configure_with_settings_of_the_old_kind() -> None:
    """The documentation's app has CELERY_IMPORTS."""
    app = celery.Celery("c", broker="redis://")
    app.conf.update(CELERY_IMPORTS=("json",))
    configure(app)
    assert problems(app) == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("task_acks_late", False),
        ("task_reject_on_worker_lost", False),
        ("task_acks_on_failure_or_timeout", True),
        ("worker_prefetch_multiplier", 4),
        ("accept_content", ["json", "pickle"]),
        ("task_serializer", "yaml"),
        ("result_serializer", "pickle"),
        ("task_time_limit", None),
        ("task_soft_time_limit", None),
        ("task_soft_time_limit", 300),
    ],
)
def test_each_setting_is_named(setting: str, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each that loses messages, or keeps them for ever."""
    app = celery.Celery("c", broker="redis://")
    configure(app)
    app.conf.update({setting: value})
    with caplog.at_level(logging.WARNING, "emit.celery"):
        check_worker(app, [], {})
    assert len(caplog.messages) == 1
    assert setting in caplog.text


def test_the_order_of_limits() -> None:
    """A call's timeout, the soft limit, the hard limit, half of the visibility timeout."""
    app = celery.Celery("c", broker="redis://")
    configure(app, time_limit=20)
    assert problems(app, {"n": 17.9}) == []
    assert "timeout = 18 s is not below" in problems(app, {"n": 18.0})[0]
    app.conf.broker_transport_options = {
        **app.conf.broker_transport_options,
        "visibility_timeout": 40,
    }
    assert "not below half of visibility_timeout" in problems(app)[0]


def test_kombus_own_throttle() -> None:
    """100 s more than a dead worker's messages have to wait."""
    app = celery.Celery("c", broker="redis://")
    configure(app)
    app.conf.broker_transport_options = {"visibility_timeout": 720}
    assert "unacked_restore_throttle is 100 s" in problems(app)[0]


@pytest.fixture
def rabbit() -> Iterator[Any]:
    """An app with nothing wrong, whose broker would be RabbitMQ."""
    app = celery.Celery("c", broker="amqp://", set_as_current=False)
    app.conf.emit_redis = "redis://"
    configure(app)
    assert problems(app) == []
    yield app
    app.close()


def test_confirmations_that_are_not_asked_for(rabbit: Any) -> None:
    """Report RabbitMQ without confirmations; other brokers do not have them."""
    rabbit.conf.broker_transport_options = {}
    assert "has no confirm_publish" in problems(rabbit)[0]
    rabbit.conf.broker_url = "memory://"
    assert problems(rabbit) == []


@pytest.mark.parametrize("url", [None, "amqp://a;amqp://b", "pyamqp://", "amqps://a"])
def test_every_name_of_rabbitmq(rabbit: Any, url: str | None) -> None:
    """A missing URL means RabbitMQ, too: it is Celery's default."""
    rabbit.conf.update(broker_url=url, broker_transport_options={})
    assert "has no confirm_publish" in problems(rabbit)[0]


def test_a_limit_over_the_consumer_timeout(rabbit: Any) -> None:
    """RabbitMQ would end the worker; what is set there can be told."""
    rabbit.conf.update(task_time_limit=900, task_soft_time_limit=800)
    assert "not below half of RabbitMQ's consumer_timeout, 1800 s" in problems(rabbit)[0]
    rabbit.conf.emit_consumer_timeout = 3600
    assert problems(rabbit) == []
    assert longest_wait(rabbit) == 1800


def test_a_consumer_timeout_of_a_queue(rabbit: Any) -> None:
    """RabbitMQ takes the shortest; of a queue's own the app knows."""
    (queue,) = rabbit.amqp.queues.values()
    queue.queue_arguments = {"x-consumer-timeout": 500_000}
    assert longest_wait(rabbit) == 250
    assert "consumer_timeout, 500 s" in problems(rabbit)[0]


@pytest.mark.parametrize("exchange", ["direct", "topic"])
def test_quorum_queues(exchange: str) -> None:
    """Report a direct exchange, Celery's default: waiting messages would fill a worker."""
    app = celery.Celery("c", broker="amqp://", set_as_current=False)
    app.conf.update(emit_redis="redis://", task_default_queue="many")
    app.conf.update(task_default_queue_type="quorum", task_default_exchange_type=exchange)
    configure(app)
    found = problems(app)
    assert len(found) == (exchange == "direct")
    assert all('the quorum queue "many" has a direct exchange' in text for text in found)


def test_a_limit_over_the_visibility_timeout_is_refused() -> None:
    app = celery.Celery("c", broker="redis://")
    configure(app)

    @app.task(time_limit=720, name="c.long")
    def long() -> None: ...

    with pytest.raises(SystemExit, match=r"c.long may run for time_limit = 720 s"):
        check_worker(app, [long], {})


@pytest.mark.parametrize(
    ("broker", "backend", "own", "said_by"),
    [
        ("redis://a/1", None, None, "broker_url"),
        ("amqp://", "redis://b", None, "result_backend"),
        ("amqp://", None, "redis://c", "emit_redis"),
        ("redis://a", "redis://b", "redis://c", "emit_redis"),
        ("amqp://", "rpc://", None, None),
    ],
)
def test_where_redis_is(
    broker: str, backend: str | None, own: str | None, said_by: str | None
) -> None:
    """The setting, the broker, the result backend; without any the worker says what that means."""
    app = celery.Celery("c", broker=broker, backend=backend)
    if own:
        app.conf.emit_redis = own
    place = address_of(app)
    assert (place.said_by if place else None) == said_by
    assert any("no Redis is known" in problem for problem in problems(app)) == (place is None)
