"""The router: its documented surface, and the way of a message through a graph."""

from __future__ import annotations

import copy
import functools
import importlib
import logging
import pickle
import re
import sys
import tracemalloc
from collections import UserList
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from emit import Message, NoResult, Router
from emit.errors import GraphError, ResultError

#: More hops than any stack would bear.
DEEP = 100_000


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.fixture
def seen(router: Router) -> list[Any]:
    """Record the messages of the node "seen", which hears "source": (origin, n)."""
    got: list[Any] = []

    @router.node((), "source", name="seen")
    def hear(msg: Message) -> None:
        got.append((msg._origin, msg.n))

    return got


def notes(error: BaseException) -> list[str]:
    """Return the notes below the traceback (an attribute from Python 3.11 on)."""
    return list(vars(error)["__notes__"])


def pass_on(msg: Message) -> Any:
    return msg.n


# -- the documented surface ------------------------------------------------------------------


def test_importable_as_documented() -> None:
    """The names are where the documentation says, and are the same thing everywhere."""
    import emit.message
    import emit.multilang
    import emit.router

    assert emit.Router is emit.router.Router
    assert emit.Message is emit.message.Message
    assert emit.NoResult is emit.message.NoResult
    assert emit.ShellNode is emit.multilang.ShellNode


def test_attributes_of_a_new_router() -> None:
    """A new router has every documented attribute, empty."""
    router = Router()
    empty: dict[str, Any] = {}
    assert [router.routes, router.fields, router.functions] == [empty] * 3
    assert [router.regexes, router.ignore_regexes] == [empty] * 2
    assert router.names == set()
    assert router.message_class is Message
    assert (router.node_modules, router.node_package) == ([], None)
    assert router.resolved_node_modules == []
    assert router.routing_enabled is True


def test_attributes_after_declaring(router: Router) -> None:
    """The attributes show what was declared."""
    words = router.node(("word",), entry_point=True, name="words")(pass_on)
    count = router.node(("word", "count"), "words", ignore=["x", "y"], name="count")(pass_on)
    assert router.names == {"words", "count"}
    assert router.fields == {"words": ("word",), "count": ("word", "count")}
    assert router.functions == {"words": words, "count": count}
    assert router.routes == {"__entry_point": {"words"}, "words": {"count"}}
    assert router.regexes == {"words": [], "count": [re.compile("words")]}
    assert router.ignore_regexes == {"count": [re.compile("x"), re.compile("y")]}


def test_register_by_hand(router: Router) -> None:
    """wrap_as_node, register, register_route, register_ignore and add_entry_point build a graph."""
    got: list[int] = []
    first = router.wrap_as_node(pass_on, name="first")
    second = router.wrap_as_node(lambda msg: got.append(msg.n), name="second")
    router.register("first", first, ("n",), None, False, None)
    router.register("second", second, ("n",), None, False, None)
    assert router.register_route(["first", "noise"], "second") == [
        re.compile("first"),
        re.compile("noise"),
    ]
    assert router.register_ignore("noise", "second") == [re.compile("noise")]
    assert router.add_entry_point("first") == {"first"}
    router.regenerate_routes()
    assert router.routes == {"__entry_point": {"first"}, "first": {"second"}}
    router(n=1)
    assert got == [1]


def test_register_route_adds(router: Router) -> None:
    """A route registered later is added to those of the declaration."""
    for name in ("a", "b"):
        router.node((), name=name)(pass_on)
    router.node((), "a", name="x")(pass_on)
    router.register_route("b", "x")
    assert router.routes == {"a": {"x"}, "b": {"x"}}


def test_register_a_plain_function(router: Router) -> None:
    """A function that is no node is called with keywords, the origin among them."""
    got: list[dict[str, Any]] = []
    router.register("plain", lambda **kwargs: got.append(kwargs), (), None, True, None)
    router(n=1)
    assert got == [{"n": 1, "_origin": "__entry_point"}]


def test_register_under_another_name(router: Router) -> None:
    """A node registered under a name that is not its own has no fields, and says so when called."""
    wrapped = router.wrap_as_node(pass_on, name="own")
    router.register("other", wrapped, ("n",), None, False, None)
    with pytest.raises(ValueError, match='"own" has no associated fields'):
        wrapped(n=1)


def test_get_message_from_call(router: Router) -> None:
    """One dictionary or keywords make a message; anything else is a TypeError."""
    assert router.get_message_from_call({"a": 1}) == Message(a=1)
    assert router.get_message_from_call({}) == Message()
    assert router.get_message_from_call(a=1, self=2) == Message(a=1, self=2)
    odd = Message(keys=1, self=2)
    assert router.get_message_from_call(odd) == odd
    for args, kwargs in (((), {}), (({}, {}), {}), (({},), {"a": 1}), (([],), {})):
        with pytest.raises(TypeError):
            router.get_message_from_call(*args, **kwargs)


def test_wrap_result(router: Router) -> None:
    """wrap_result fills a node's fields; a name without fields is a ValueError."""
    router.node(("word", "count"), name="count")(pass_on)
    assert router.wrap_result("count", ("rain", 2)) == {"word": "rain", "count": 2}
    with pytest.raises(ResultError):
        router.wrap_result("count", "rain")
    with pytest.raises(ValueError, match='"nobody" has no associated fields'):
        router.wrap_result("nobody", 1)


def test_route_and_dispatch(router: Router, seen: list[Any]) -> None:
    """route sends to the subscribers of an origin, dispatch to the node it names."""
    router.node(("n",), name="source")(pass_on)
    router.route("source", Message(n=1))
    router.route("source", {"n": 2})
    router.route("nobody", Message(n=3))
    router.dispatch("somewhere", "seen", Message(n=4))
    assert seen == [("source", 1), ("source", 2), ("somewhere", 4)]


def test_dispatch_to_nobody(router: Router) -> None:
    """A destination that is no node is a GraphError that names it."""
    with pytest.raises(GraphError, match='"nobody" is not the name of a node'):
        router.dispatch("source", "nobody", Message(n=1))


def test_a_call_takes_keywords_only(router: Router) -> None:
    """The router takes keyword arguments and no dictionary; any name is a field."""
    got: list[Any] = []
    router.node((), entry_point=True, name="first")(lambda msg: got.append(msg.as_dict()))
    with pytest.raises(TypeError):
        router({"n": 1})  # type: ignore[call-arg]
    assert router(self=1, message=2) is None  # type: ignore[func-returns-value]
    assert got == [{"self": 1, "message": 2, "_origin": "__entry_point"}]


def test_several_entry_points(router: Router) -> None:
    """A call of the router reaches every entry point, in order of declaration."""
    got: list[str] = []
    for name in ("b", "a"):
        router.node((), entry_point=True, name=name)(lambda msg, name=name: got.append(name))
    router(n=1)
    assert got == ["b", "a"]


def test_a_graph_without_entry_points(router: Router) -> None:
    """A call of such a router does nothing."""
    router(n=1)


# -- declaring ---------------------------------------------------------------------------------


def test_a_wrong_declaration_registers_nothing(router: Router) -> None:
    """The router is unchanged after a GraphError."""
    for fields, options in (
        ("word", {}),
        (("word",), {"subscribe_to": "("}),
        (("word",), {"ignore": "("}),
        (("word",), {"subscribe_to": 3}),
        (("word",), {"colour": "red"}),
    ):
        with pytest.raises(GraphError, match='"node"'):
            router.node(fields, name="node", **options)(pass_on)
    assert router.names == set()
    empty: dict[str, Any] = {}
    assert [router.functions, router.fields, router.regexes, router.routes] == [empty] * 4


@pytest.mark.parametrize("name", ["", 5, b"x", "__entry_point"])
def test_what_no_node_can_be_called(router: Router, name: Any) -> None:
    """A name is a string with something in it, and not the one of the entry point."""
    with pytest.raises(GraphError, match="a node can't be called") as caught:
        router.node(("n",), name=name)(pass_on)
    assert repr(name) in str(caught.value)
    assert router.names == set()


def test_a_class_of_messages_that_is_none() -> None:
    """It is refused when the router is made, not when a message is."""
    with pytest.raises(GraphError, match="message_class must be a subclass of Message"):
        Router(message_class=dict)  # type: ignore[arg-type]


def test_an_unknown_option_lists_the_known(router: Router) -> None:
    """A misspelt option is a GraphError that says what there is."""
    with pytest.raises(
        GraphError, match=r"no option 'strem' \(nearest: stream\); it takes: name, stream"
    ):
        router.node(("n",), name="node", strem=True)(pass_on)


def test_subscribe_to_a_node_itself(router: Router) -> None:
    """The decorated function stands for its node, as does what was decorated."""
    first = router.node(("n",), name="first")(pass_on)
    router.node(("n",))(pass_on)
    router.node((), [first, pass_on], name="second")(lambda msg: None)
    assert router.routes == {"first": {"second"}, f"{__name__}.pass_on": {"second"}}


def test_a_generator_of_names(router: Router) -> None:
    """subscribe_to and ignore may be iterators, which can be read only once."""
    for name in "abc":
        router.node((), name=name)(pass_on)
    router.node((), (n for n in "abc"), ignore=iter("b"), name="x")(pass_on)
    assert router.routes == {"a": {"x"}, "c": {"x"}}


def test_two_nodes_with_one_name(router: Router) -> None:
    """The second is a GraphError that names both places, and the first stays."""
    line = sys._getframe().f_lineno
    first = router.node(("n",), name="twin")(pass_on)
    with pytest.raises(GraphError, match='two nodes are called "twin"') as caught:
        router.node(("m",), name="twin")(pass_on)
    for number in (line + 1, line + 3):
        assert f"{__file__}:{number}" in str(caught.value)
    assert router.functions == {"twin": first}
    assert router.fields == {"twin": ("n",)}


def test_two_nodes_with_one_name_in_classes(router: Router) -> None:
    """The body of a class is no module of its own."""

    class First:
        @router.node(("n",), name="twin")
        def one(msg: Any) -> Any: ...

    with pytest.raises(GraphError, match='two nodes are called "twin"'):

        class Second:
            @router.node(("n",), name="twin")
            def two(msg: Any) -> Any: ...


def test_two_nodes_made_by_one_line(router: Router) -> None:
    """A loop that gives two nodes one name is found out, too."""
    with pytest.raises(GraphError, match="two nodes"):
        [router.node(("n",), name="twin")(pass_on) for _ in range(2)]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, whose modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


APP = "from emit import Router\nrouter = Router(node_modules=['tasks'])\nseen = []\n"
TASKS = """
from app import router, seen

@router.node(("word",), entry_point=True)
def words(msg):
    yield from msg.text.split()

@router.node((), "tasks.words")
def keep(msg):
    seen.append(msg.word)
"""


def test_importing_again_is_no_error(project: Path) -> None:
    """A module imported twice or reloaded declares its nodes anew, edited lines and all."""
    (project / "app.py").write_text(APP)
    (project / "tasks.py").write_text(TASKS)
    app, tasks = importlib.import_module("app"), importlib.import_module("tasks")
    importlib.import_module("tasks")
    (project / "tasks.py").write_text("# a line more, so every node has moved\n" + TASKS)
    importlib.reload(tasks)
    del sys.modules["tasks"]
    importlib.import_module("tasks")
    app.router(text="the rain")
    assert app.seen == ["the", "rain"]


def test_node_modules_are_imported_when_first_needed(project: Path) -> None:
    """The modules may import the router; they are imported once, by the first message."""
    (project / "app.py").write_text(APP)
    (project / "tasks.py").write_text(TASKS)
    app = importlib.import_module("app")
    assert app.router.names == set()
    app.router(text="the rain")
    assert app.seen == ["the", "rain"]
    assert app.router.resolved_node_modules == [sys.modules["tasks"]]
    assert app.router.resolve_node_modules() is app.router.resolved_node_modules


def test_relative_node_modules(project: Path) -> None:
    """A relative name starts from node_package."""
    package = project / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tasks.py").write_text("there = True\n")
    router = Router(node_modules=[".tasks"], node_package="shop")
    assert [module.__name__ for module in router.resolve_node_modules()] == ["shop.tasks"]


def test_a_module_that_is_not_there(project: Path) -> None:
    """The import's own error reaches the caller, and the next message tries again."""
    router = Router(node_modules=["later"])
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="later"):
            router(n=1)
        assert router.resolved_node_modules == []
    (project / "later.py").write_text("")
    importlib.invalidate_caches()
    router(n=1)
    assert len(router.resolved_node_modules) == 1


# -- the way of a message ----------------------------------------------------------------------


def test_order_of_results(router: Router, seen: list[Any]) -> None:
    """The results of one message reach a subscriber in the order they were emitted."""
    source = router.node(("n",), name="source")(lambda msg: (n for n in range(100)))
    source(start=True)
    assert seen == [("source", n) for n in range(100)]


def test_nothing_is_sent_on_by_a_generator_that_fails(router: Router, seen: list[Any]) -> None:
    """A handler that fails half-way sends nothing, be it an exception or a misfit."""

    @router.node(("n",), entry_point=True, name="source")
    def source(msg: Message) -> Iterator[Any]:
        yield 1
        if msg.how == "raise":
            raise KeyError("half-way")
        yield 1, 2

    for how, error in (("raise", KeyError), ("misfit", ResultError)):
        for call in (source, router):
            with pytest.raises(error):
                call(how=how)
    assert seen == []


def test_a_stream_sends_on_as_it_comes(router: Router) -> None:
    """Each result is worked off before the next is made with stream=True."""
    order: list[Any] = []

    @router.node(("n",), entry_point=True, stream=True, name="source")
    def source(msg: Message) -> Iterator[int]:
        for n in range(3):
            order.append(f"made {n}")
            yield n

    @router.node(("n",), "source", name="middle")
    def middle(msg: Message) -> int:
        return int(msg.n)

    router.node((), "middle", name="end")(lambda msg: order.append(msg.n))
    expected = ["made 0", 0, "made 1", 1, "made 2", 2]
    assert source(a=1) == ({"n": 0}, {"n": 1}, {"n": 2})
    assert order == expected
    order.clear()
    router(a=1)
    assert order == expected


@pytest.mark.parametrize("by", ["itself", "a misfit", "a subscriber"])
@pytest.mark.parametrize("how", ["direct", "router"])
def test_a_stream_that_fails(router: Router, by: str, how: str) -> None:
    """Earlier results are sent on; the generator is closed before the error reaches the caller."""
    got, closed = [], []

    @router.node(("n",), entry_point=True, stream=True, name="source")
    def source(msg: Message) -> Iterator[Any]:
        try:
            yield 1
            if by == "itself":
                raise KeyError(by)
            yield (2, 3) if by == "a misfit" else 2
            yield 3
        finally:
            closed.append(True)

    @router.node((), "source", name="end")
    def end(msg: Message) -> None:
        if msg.n == 2:
            raise KeyError(by)
        got.append(msg.n)

    with pytest.raises((KeyError, ResultError)) as caught:
        (source if how == "direct" else router)(a=1)
    assert (got, closed) == ([1], [True])
    failed = "end" if by == "a subscriber" else "source"
    assert f'in node "{failed}"' in notes(caught.value)[0]


def test_an_endless_stream_can_be_ended_by_a_subscriber(router: Router) -> None:
    """A stream is never gathered, so one without an end works until somebody stops it."""

    @router.node(("n",), entry_point=True, stream=True, name="source")
    def source(msg: Message) -> Iterator[int]:
        n = 0
        while True:
            yield n
            n += 1

    @router.node((), "source", name="end")
    def end(msg: Message) -> None:
        if msg.n == 1000:
            raise StopAsyncIteration

    with pytest.raises(StopAsyncIteration):
        router(a=1)


def test_no_result_stops_there(router: Router, seen: list[Any]) -> None:
    """NoResult, returned or yielded, sends nothing on."""
    router.node(("n",), entry_point=True, name="source")(
        lambda msg: (n if n % 2 else NoResult for n in range(4)) if msg.many else NoResult
    )
    router(many=False)
    assert seen == []
    router(many=True)
    assert seen == [("source", 1), ("source", 3)]


def test_a_message_has_its_fields_and_origin_only(router: Router) -> None:
    """A node gets the fields of what was sent to it, not those from further up."""
    got: list[Any] = []
    router.node(("b",), entry_point=True, name="first")(lambda msg: msg.a)
    router.node((), "first", name="second")(lambda msg: got.append(msg.as_dict()))
    router(a=1, more=2)
    assert got == [{"b": 1, "_origin": "first"}]


def test_a_node_may_pass_on_the_fields_that_it_does_not_name(router: Router) -> None:
    """All ways to give results work: values, mappings, generators, coroutines, streams."""
    got: list[Any] = []

    async def later(msg: Message) -> Any:
        return msg.n + 1

    def many(msg: Message) -> Any:
        msg.n = "changed"
        yield from (1, {**msg, "m": 2}, NoResult)

    router.node(("n",), entry_point=True, name="start")(lambda msg: msg.n)
    router.node(("m",), "start", name="value", pass_through=True)(lambda msg: msg.n + 1)
    router.node(("m",), "start", name="later", pass_through=True)(later)
    router.node(("m",), "start", name="many", pass_through=True)(many)
    router.node(("m",), "start", name="stream", pass_through=True, stream=True)(many)
    router.node((), "value", name="filter", pass_through=True)(lambda msg: None)
    none = router.node(("m",), "start", name="none", pass_through=True)(lambda msg: NoResult)
    names = ["value", "later", "many", "stream", "filter", "none"]
    router.node((), names, name="end")(lambda msg: got.append(msg.as_dict()))
    router(n=1, unknown=2)
    found: dict[str, list[Any]] = {name: [] for name in names}
    for fields in got:
        found[fields.pop("_origin")].append(fields)
    assert found["value"] == found["later"] == found["filter"] == [{"n": 1, "m": 2}]
    assert found["many"] == found["stream"] == [{"n": 1, "m": 1}, {"n": "changed", "m": 2}]
    assert none(n=1) is NoResult
    assert router.functions["value"](n=1, more=3) == {"n": 1, "more": 3, "m": 2}


def test_each_subscriber_has_a_message_of_its_own(router: Router) -> None:
    """A field that one subscriber sets is not seen by the next, nor by the caller."""
    got: list[Any] = []

    @router.node((), "source", name="a")
    def change(msg: Message) -> None:
        got.append(msg.n)
        msg.n = "changed"

    router.node((), "source", name="b")(change.__wrapped__)  # type: ignore[attr-defined]
    source = router.node(("n",), name="source")(lambda msg: 1)
    assert source(a=1) == {"n": 1}
    assert got == [1, 1]


def chain(router: Router, got: list[int]) -> None:
    @router.node(("n",), ["__entry_point", "down"], name="down")
    def down(msg: Message) -> Any:
        got[0] += 1
        return msg.n - 1 if msg.n > 1 else NoResult


def test_a_cycle_that_ends(router: Router) -> None:
    """A hundred thousand hops around a cycle need no more stack than one."""
    got = [0]
    chain(router, got)
    router(n=DEEP)
    assert got == [DEEP]


def test_a_long_chain_of_nodes(router: Router) -> None:
    """A chain of a thousand different nodes, each hearing the one before, works."""
    count, got = 1000, []
    for number in range(count):
        router.node(("n",), f"node-{number - 1:04}", name=f"node-{number:04}")(lambda m: m.n + 1)
    router.add_entry_point("node-0000")
    router.node((), f"node-{count - 1:04}", name="end")(lambda msg: got.append(msg.n))
    router(n=0)
    assert got == [count]


@pytest.mark.parametrize("stream", [True, False])
def test_memory_does_not_grow_with_messages_done(router: Router, stream: bool) -> None:
    """Working off many messages holds no more memory than a few do."""

    @router.node(("n",), entry_point=True, stream=stream, name="source")
    def source(msg: Message) -> Iterator[int]:
        if stream:
            yield from range(msg.count)

    @router.node(("n",), ["source", "cycle"], name="cycle")
    def cycle(msg: Message) -> Any:
        return msg.n - 1 if msg.n > 0 and not stream else NoResult

    def peak(count: int) -> int:
        tracemalloc.reset_peak()
        router(count=count) if stream else cycle(n=count)
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        few = peak(200)
        # The least of three: other threads of this process, such as a host's, take memory as well.
        many = min(peak(20_000) for _ in range(3))
    finally:
        tracemalloc.stop()
    assert many < few + 20_000


def test_a_direct_call_inside_a_handler(router: Router, seen: list[Any]) -> None:
    """A node called by another's handler returns its results, already routed."""
    inner = router.node(("n",), name="source")(lambda msg: msg.n * 2)

    @router.node(("n",), entry_point=True, name="outer")
    def outer(msg: Message) -> int:
        result = inner(n=msg.n)
        assert seen[-1] == ("source", msg.n * 2)
        return int(result["n"] + 1)

    router(n=1)
    assert outer(n=2) == {"n": 5}
    assert seen == [("source", 2), ("source", 4)]


def test_the_router_called_inside_a_handler(router: Router) -> None:
    """Its message waits for the handler's end, and goes before the handler's results."""
    order: list[Any] = []

    @router.node(("n",), entry_point=True, name="source")
    def source(msg: Message) -> int:
        if msg.n > 0:
            router(n=msg.n - 1)
        order.append(f"end of {msg.n}")
        return int(msg.n)

    router.node((), "source", name="seen")(lambda msg: order.append(msg.n))
    router(n=2)
    assert order == ["end of 2", "end of 1", "end of 0", 0, 1, 2]


def test_the_router_calling_itself_for_ever_needs_no_stack(router: Router) -> None:
    """A handler that calls the router makes a cycle, not a recursion."""
    got = [0]

    @router.node((), entry_point=True, name="source")
    def source(msg: Message) -> None:
        got[0] += 1
        if msg.n > 1:
            router(n=msg.n - 1)

    router(n=DEEP // 10)
    assert got == [DEEP // 10]


def test_one_router_inside_another(router: Router) -> None:
    """A node of one router can be declared as a node of a second; both route its results."""
    other, got = Router(), []
    inner = other.node(("n",), name="inner")(lambda msg: (n for n in range(msg.n)))
    other.node((), "inner", name="here")(lambda msg: got.append(("other", msg.n)))

    @router.node(("total",), entry_point=True, name="outer")
    def outer(msg: Message) -> int:
        return sum(result["n"] for result in inner(n=msg.n))

    router.node((), "outer", name="there")(lambda msg: got.append(("router", msg.total)))
    router(n=3)
    assert got == [("other", 0), ("other", 1), ("other", 2), ("router", 3)]


# -- exceptions --------------------------------------------------------------------------------


class Odd(Exception):
    """A message class with a constructor that a copy of it would not survive."""

    def __init__(self, *, number: int) -> None:
        super().__init__(f"{number} is odd")
        self.number = number


def test_an_exception_keeps_its_type_and_says_where(router: Router) -> None:
    """The very exception reaches the caller, with the node and the origin as a note."""
    error = Odd(number=3)

    @router.node((), "source", name="picky")
    def picky(msg: Message) -> None:
        raise error

    router.node(("n",), entry_point=True, name="source")(pass_on)
    with pytest.raises(Odd) as caught:
        router(n=3)
    assert caught.value is error
    assert notes(error) == ['in node "picky", with a message from "source"']
    assert str(error) == "3 is odd"
    with pytest.raises(Odd) as caught:
        picky(n=3)
    assert notes(caught.value)[-1] == 'in node "picky", with a message from "a call"'


def test_the_note_survives_pickling(router: Router) -> None:
    """A queue that pickles the exception keeps the note."""
    node = router.node(("a", "b"), name="node")(pass_on)
    with pytest.raises(ResultError) as caught:
        node(n=3)
    again = pickle.loads(pickle.dumps(caught.value))
    assert notes(again) == ['in node "node", with a message from "a call"']


def test_messages_not_delivered_are_dropped(router: Router, seen: list[Any]) -> None:
    """Nothing more is delivered after a failure, then or by the next call."""

    @router.node((), "source", name="fragile")
    def fragile(msg: Message) -> None:
        if msg.n == 0:
            raise Odd(number=0)

    # Declared after "seen", so its first message comes when seen has had all of its own.
    router.node(("n",), "source", name="before")(pass_on)
    source = router.node(("n",), name="source")(lambda msg: (n for n in msg.ns))
    with pytest.raises(Odd):
        source(ns=[0, 1])
    assert seen == [("source", 0), ("source", 1)]
    source(ns=[2])
    assert seen[2:] == [("source", 2)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_the_router_usable(router: Router, error: type[BaseException]) -> None:
    """Ctrl-C in a handler comes through as it is, and the next call starts afresh."""
    got: list[int] = []

    @router.node((), entry_point=True, name="node")
    def node(msg: Message) -> None:
        if msg.n == 0:
            raise error
        got.append(msg.n)

    with pytest.raises(error):
        router(n=0)
    router(n=1)
    assert got == [1]


# -- routing switched off ----------------------------------------------------------------------


def test_disable_and_enable_routing(router: Router, seen: list[Any]) -> None:
    """A node runs and returns as ever without routing, and nothing is sent on."""
    source = router.node(("n",), entry_point=True, name="source")(pass_on)
    router.disable_routing()
    assert source(n=1) == {"n": 1}
    router(n=1)
    router.route("source", Message(n=1))
    assert seen == []
    router.enable_routing()
    source(n=2)
    assert seen == [("source", 2)]


def test_routing_disabled_restores_what_was(router: Router) -> None:
    """The block puts the switch back as it was, also when nested and after an exception."""
    with router.routing_disabled():
        assert not router.routing_enabled
        with router.routing_disabled():
            pass
        assert not router.routing_enabled
    assert router.routing_enabled
    with pytest.raises(KeyError), router.routing_disabled():
        raise KeyError
    assert router.routing_enabled
    router.disable_routing()
    with router.routing_disabled():
        pass
    assert not router.routing_enabled


def test_a_stream_without_routing(router: Router, seen: list[Any]) -> None:
    """A streaming node still returns its results with routing disabled."""
    source = router.node(("n",), stream=True, name="source")(lambda msg: (n for n in (1, 2)))
    with router.routing_disabled():
        assert source(a=1) == ({"n": 1}, {"n": 2})
    assert seen == []


# -- extending ---------------------------------------------------------------------------------


class Recording(Router):
    """Writes every dispatch down and leaves the rest to its base."""

    def __init__(self, log: list[Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log = log

    def dispatch(self, origin: str, destination: str, message: Message) -> Any:
        self.log.append((origin, destination, message.as_dict()))
        return super().dispatch(origin, destination, message)


class Calling(Recording):
    """Calls the destination at once, as the documentation describes dispatch."""

    def dispatch(self, origin: str, destination: str, message: Message) -> Any:
        self.log.append((origin, destination, message.as_dict()))
        return self.functions[destination](_origin=origin, **message)


class Wrapping(Router):
    """Puts a function around every node; the option ``tries`` is its own."""

    def wrap_node(self, node: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
        tries = options.pop("tries", 1)
        super().wrap_node(node, options)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            for left in reversed(range(tries)):
                try:
                    return node(*args, **kwargs)
                except ConnectionError:
                    if not left:
                        raise
            return None

        return functools.wraps(node)(wrapped)


@pytest.mark.parametrize("router_class", [Recording, Calling])
def test_a_subclass_that_overrides_dispatch(router_class: type[Recording]) -> None:
    """Every message passes the subclass's dispatch, and arrives with its origin."""
    log: list[Any] = []
    router, got = router_class(log), []
    router.node(("n",), entry_point=True, name="source")(lambda msg: (n for n in (1, 2)))
    router.node((), "source", name="end")(lambda msg: got.append((msg._origin, msg.n)))
    router(a=0)
    assert log == [
        ("__entry_point", "source", {"a": 0}),
        ("source", "end", {"n": 1}),
        ("source", "end", {"n": 2}),
    ]
    assert got == [("source", 1), ("source", 2)]


def test_a_dispatch_on_the_instance(router: Router) -> None:
    """A dispatch that a test puts on the router gets every message, and none is delivered."""
    seen: list[int] = []
    source = router.node(("n",), entry_point=True, name="source")(lambda msg: msg.n)
    router.node((), "source", name="end")(lambda msg: seen.append(msg.n))
    sent = mock.Mock()
    router.dispatch = sent  # type: ignore[method-assign]
    assert source(n=1) == {"n": 1}
    assert sent.call_args_list == [mock.call("source", "end", Message(n=1))]
    del router.dispatch
    router(n=2)
    assert seen == [2]


def test_dispatching(router: Router) -> None:
    """A function takes the place of dispatch inside the block, also of one on the instance."""
    seen: list[int] = []
    source = router.node(("n",), name="source")(lambda msg: msg.n)
    router.node((), "source", name="end")(lambda msg: seen.append(msg.n))
    outer, inner = mock.Mock(), mock.Mock()
    with router.dispatching(outer):
        with router.dispatching(inner):
            source(n=1)
        source(n=2)
    source(n=3)
    assert [args[2].n for sent in (inner, outer) for args, _ in sent.call_args_list] == [1, 2]
    assert seen == [3]


def test_overriding_dispatch_keeps_the_loop() -> None:
    """A dispatch that ends in super().dispatch needs no more stack for a longer chain."""
    log: list[Any] = []
    router, got = Recording(log), [0]
    chain(router, got)
    router(n=DEEP // 10)
    assert got == [DEEP // 10] == [len(log)]


def test_wrap_node_keeps_the_loop() -> None:
    """Wrapped nodes need no more stack for a longer chain, either."""
    router, got = Wrapping(), [0]
    chain(router, got)
    router(n=DEEP // 10)
    assert got == [DEEP // 10]


def test_options_reach_wrap_node() -> None:
    """Options that node does not know are wrap_node's; its wrapper decides what a call does."""
    router, calls, got = Wrapping(), [0], []

    @router.node(("n",), entry_point=True, tries=3, name="flaky")
    def flaky(msg: Message) -> int:
        calls[0] += 1
        if calls[0] < 3:
            raise ConnectionError
        return int(msg.n)

    router.node((), flaky, name="end")(lambda msg: got.append(msg.n))
    router(n=1)
    assert (calls, got) == ([3], [1])
    with pytest.raises(GraphError, match="'trys'"):
        router.node((), trys=3, name="typo")(pass_on)


def test_a_wrapper_that_calls_nothing() -> None:
    """A wrapper may drop a message; a later direct call of the node is not taken for it."""

    class Dropping(Router):
        def wrap_node(self, node: Any, options: dict[str, Any]) -> Any:
            return functools.partial(self.drop, node) if options else node

        def drop(self, node: Any, **kwargs: Any) -> None:
            self.dropped = node

    router, got = Dropping(), []
    router.node(("n",), entry_point=True, drop=True, name="source")(pass_on)
    router.node((), "source", name="end")(lambda msg: got.append(msg.n))

    @router.node((), entry_point=True, name="caller")
    def caller(msg: Message) -> None:
        router.dropped(n=5)
        assert got == [5], "the call has returned, so its results are routed"

    router(n=1)
    assert got == [5]


def test_overriding_wrap_result_and_get_name() -> None:
    """These two documented methods are used where they are overridden."""

    class Mine(Router):
        def get_name(self, func: Any) -> str:
            return "mine." + str(getattr(func, "__name__", func)).rpartition(".")[2]

        def wrap_result(self, name: str, result: Any) -> dict[str, Any]:
            return {**super().wrap_result(name, result), "by": name}

    router = Mine()
    node = router.node(("n",))(pass_on)
    assert node(n=1) == {"n": 1, "by": "mine.pass_on"}
    router.node((), node, name="next")(lambda msg: None)
    assert router.routes == {"mine.pass_on": {"next"}}


@pytest.mark.parametrize("level", [logging.INFO, logging.CRITICAL], ids=["logged", "quick"])
def test_a_handler_may_change_the_graph(level: int) -> None:
    """A node that a handler registers hears its result, unless it has disabled routing."""
    router = Router()
    router.logger.setLevel(level)
    heard: list[Any] = []

    @router.node(("n",), entry_point=True, name="first")
    def first(msg: Message) -> int:
        if msg.n == 1:
            router.node((), "first", name="late")(lambda msg: heard.append((msg._origin, msg.n)))
        if msg.n == 2:
            router.disable_routing()
        return int(msg.n)

    try:
        for n in range(3):
            router(n=n)
    finally:
        router.logger.setLevel(logging.NOTSET)
    assert heard == [("first", 1)]


def test_options_of_a_queue(router: Router, seen: list[Any]) -> None:
    """Nodes written for a queue work without one: what is about the queue does nothing."""
    node = router.node(
        ("n",),
        name="source",
        entry_point=True,
        batch=10,
        batch_bytes=1000,
        return_results=True,
        max_attempts=5,
        max_deliveries=2,
        celery_task=None,
        queue="words",
        connection=object(),
        timeout=20,
        result_ttl=60,
    )(pass_on)
    assert node(n=1) == {"n": 1}
    router(n=2)
    assert seen == [("source", 1), ("source", 2)]


def test_many_without_a_queue(router: Router) -> None:
    """The handler gets a list, of one message."""
    got: list[Any] = []

    @router.node(("n",), entry_point=True, name="all", many=True)
    def take(messages: list[Message]) -> int:
        got.append([message.n for message in messages])
        return len(messages)

    assert take(n=3) == {"n": 1}
    router(n=4)
    assert got == [[3], [4]]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bacth": 10}, r"takes no option 'bacth' \(nearest: batch"),
        ({"quue": "words"}, r"takes no option 'quue' \(nearest: queue"),
        ({"batch": 0}, "batch must be a whole number of 1 or more, not 0"),
        ({"many": "yes"}, "many must be True or False, not 'yes'"),
        ({"celery_task": "app"}, "celery_task must be what makes a function a task"),
        ({"many": True, "pass_through": True}, "pass_through=True needs one message"),
    ],
)
def test_wrong_options_of_a_queue(router: Router, options: dict[str, Any], text: str) -> None:
    """A misspelt one, or a value that no queue takes, is an error here as well."""
    with pytest.raises(GraphError, match=text):
        router.node((), name="words", **options)(lambda msg: None)
    assert router.names == set()


@pytest.mark.parametrize("fields", [["a", "b"], ("a", "b"), UserList(["a", "b"])])
def test_fields_are_as_given(router: Router, fields: Any) -> None:
    """They compare equal to what was given, and are no longer that very list."""
    given = copy.copy(fields)
    node = router.node(fields, name="x")(lambda msg: (1, 2))
    assert router.fields == {"x": given}
    if not isinstance(fields, tuple):
        fields.append("c")
    assert router.fields == {"x": given}
    assert node(n=1) == router.wrap_result("x", (1, 2)) == {"a": 1, "b": 2}


def test_what_is_subscribed_to_is_passed_on_as_given() -> None:
    """A subclass may override register_route, register_ignore and add_entry_point."""
    calls: list[Any] = []

    class Watching(Router):
        def register_route(self, origins: Any, destination: str) -> Any:
            calls.append((origins, destination))
            return super().register_route(origins, destination)

        def register_ignore(self, origins: Any, destination: str) -> Any:
            calls.append((origins, destination))
            return super().register_ignore(origins, destination)

        def add_entry_point(self, destination: str) -> Any:
            calls.append(destination)
            return super().add_entry_point(destination)

    router = Watching()
    router.node((), ["x", "y"], name="a")(pass_on)
    router.node((), "x", ignore="z.*", entry_point=True, name="b")(pass_on)
    router.node((), iter(("x", "y")), name="c")(pass_on)
    assert calls == [
        (["x", "y"], "a"),
        *[("x", "b"), ("z.*", "b"), "b"],
        (["x", "y"], "c"),
    ]
    with pytest.raises(GraphError, match="no valid regular expression"):
        router.node((), "x", ignore="(", name="d")(pass_on)
    assert router.names == {"a", "b", "c"}


def test_a_router_without_an_entry_point(router: Router, caplog: pytest.LogCaptureFixture) -> None:
    """Its call leads nowhere: that is told, once."""
    router.node((), name="lonely")(pass_on)
    for _ in range(2):
        router(n=1)
    assert [record.getMessage() for record in caplog.records] == [
        "this router has no entry point, so the message went nowhere; "
        "mark a node with entry_point=True"
    ]


def test_a_router_whose_calls_are_heard(router: Router, caplog: pytest.LogCaptureFixture) -> None:
    """The call is heard by an entry point or a regular expression, or routing is off."""
    with router.routing_disabled():
        router(n=1)
    router.node((), ".+", name="all")(lambda msg: None)
    router(n=1)
    assert caplog.records == []


@pytest.mark.parametrize("option", ["stream", "pass_through"])
def test_stream_is_yes_or_no(router: Router, option: str) -> None:
    """A text would be taken for yes, "no" as well."""
    with pytest.raises(GraphError, match=f"\"words\": {option} must be True or False, not 'no'"):
        router.node((), name="words", **{option: "no"})(lambda msg: None)
    assert router.names == set()
