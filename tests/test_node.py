"""Values that can be a node, and the meaning of a handler's outcome."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import Message, NoResult, Router, ShellNode
from emit.errors import GraphError, ResultError


class Multiply:
    """Multiplies; by two unless told otherwise."""

    def __init__(self, by: int = 2) -> None:
        self.by = by

    def __call__(self, msg: Message) -> int:
        return int(msg.n * self.by)


class Named(Multiply):
    name = "the.multiplier"


class Needy:
    def __init__(self, thing: object) -> None: ...

    def __call__(self, msg: Message) -> None: ...


class Counting:
    made = 0

    def __init__(self) -> None:
        type(self).made += 1

    def __call__(self, msg: Message) -> int:
        return self.made


def double(msg: Message) -> int:
    """Twice n."""
    return int(msg.n * 2)


def scale(by: int, msg: Message) -> int:
    return int(msg.n * by)


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.mark.parametrize(
    ("func", "name"),
    [
        (double, f"{__name__}.double"),
        (Multiply, f"{__name__}.Multiply"),
        (Multiply(2), f"{__name__}.Multiply"),
        (Named, "the.multiplier"),
        (Named(), "the.multiplier"),
        (functools.partial(scale, 2), f"{__name__}.scale"),
        (functools.partial(functools.partial(scale), 2), f"{__name__}.scale"),
        (Multiply().__call__, f"{__name__}.__call__"),
        (lambda msg: msg.n * 2, f"{__name__}.<lambda>"),
    ],
)
def test_what_can_be_a_node(router: Router, func: Any, name: str) -> None:
    """Functions, classes, instances, partials, methods and lambdas are nodes, named in this way."""
    node = router.node(("n",))(func)
    assert router.names == {name}
    assert router.get_name(node) == router.get_name(func) == name
    assert node(n=3) == {"n": 6}


def test_a_given_name_wins(router: Router) -> None:
    """``name=`` is the node's name, whatever the function is called."""
    node = router.node(("n",), name="twice")(lambda msg: msg.n * 2)
    assert router.names == {"twice"}
    assert router.get_name(node) == "twice"


def test_looks_like_the_function(router: Router) -> None:
    """The decorated function keeps the name, module and documentation."""
    node = router.node(("n",))(double)
    assert (node.__name__, node.__module__, node.__doc__) == ("double", __name__, "Twice n.")
    made = router.node(("n",))(Multiply)
    assert made.__doc__ == Multiply.__doc__


def test_a_class_is_made_once(router: Router) -> None:
    """A class is made when it is declared, once, without arguments."""
    Counting.made = 0
    node = router.node(("n",))(Counting)
    assert Counting.made == 1
    assert node(a=1) == node(a=1) == {"n": 1}


def test_a_class_that_needs_arguments(router: Router) -> None:
    """Such a class is a GraphError that names it, and nothing is registered."""
    with pytest.raises(GraphError, match=r"Needy can't be made without arguments"):
        router.node(("n",))(Needy)
    assert router.names == set()


@pytest.mark.parametrize("func", [3, "words", None, object()])
def test_not_callable(router: Router, func: Any) -> None:
    """A value that can't be called is a GraphError."""
    with pytest.raises(GraphError, match="must be callable"):
        router.node(("n",), name="x")(func)
    assert router.names == set()


def test_returns_what_the_documentation_says(router: Router) -> None:
    """One value gives a dictionary, a generator a tuple of them, NoResult itself."""

    @router.node(["quotient", "remainder"], name="divide")
    def divide(msg: Message) -> tuple[int, int]:
        return msg.numer // msg.denom, msg.numer % msg.denom

    @router.node(["word"], name="parse")
    def parse(msg: Message) -> Iterator[str]:
        yield from msg.document.split(" ")

    @router.node(["word"], name="nothing")
    def nothing(msg: Message) -> type[NoResult]:
        return NoResult

    assert divide(numer=7, denom=3) == {"quotient": 2, "remainder": 1}
    assert parse({"document": "the rain"}) == ({"word": "the"}, {"word": "rain"})
    assert nothing(a=1) is NoResult


def test_no_result_among_others(router: Router) -> None:
    """A yielded NoResult is left out; a generator of nothing else gives an empty tuple."""

    @router.node(["n"], name="some")
    def some(msg: Message) -> Iterator[Any]:
        yield from (1, NoResult, 2, NoResult())

    @router.node(["n"], name="none")
    def none(msg: Message) -> Iterator[Any]:
        yield NoResult

    assert some(a=1) == ({"n": 1}, {"n": 2})
    assert none(a=1) == ()


def test_only_generators_are_several_results(router: Router) -> None:
    """A returned generator is taken apart; a list or other iterator is one value."""
    made = router.node(("n",), name="made")(lambda msg: (n for n in (1, 2)))
    whole = router.node(("n",), name="whole")(lambda msg: [1, 2])
    lazy = router.node(("n",), name="lazy")(lambda msg: map(str, [1, 2]))
    assert made(a=1) == ({"n": 1}, {"n": 2})
    assert whole(a=1) == {"n": [1, 2]}
    assert isinstance(lazy(a=1)["n"], map)


def test_a_misfit_closes_the_generator(router: Router) -> None:
    """A result that does not fit ends the generator there and then, not when it is collected."""
    done = []

    @router.node(("n",), name="node")
    def node(msg: Message) -> Iterator[Any]:
        try:
            yield 1
            yield 1, 2
        finally:
            done.append("closed")

    with pytest.raises(ResultError):
        node(a=1)
    assert done == ["closed"]


def test_one_dictionary_or_keywords(router: Router) -> None:
    """A node takes one dictionary, a message, or keywords, and nothing else."""
    node = router.node(("n",), name="node")(lambda msg: msg.n)
    assert node({"n": 1}) == node(n=1) == node(Message(n=1)) == {"n": 1}
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {}),
        ((1,), {}),
        (({}, {}), {}),
        (({},), {"n": 1}),
    ]
    for args, kwargs in calls:
        with pytest.raises(TypeError, match="either keyword arguments or a dictionary"):
            node(*args, **kwargs)


def test_the_callers_dictionary_is_not_changed(router: Router) -> None:
    """A handler that changes its message changes neither the caller's dictionary nor its copy."""

    @router.node((), name="node")
    def node(msg: Message) -> None:
        msg.n = 2

    given = {"n": 1}
    node(given)
    assert given == {"n": 1}


#: Functions that mean the same as a handler in this process and as a node of their own file.
ALIKE = {
    "a bare return": ("('word',)", "def f(msg):\n    if msg.n: return\n    return 1", ()),
    "no return": ("('a', 'b')", "def f(msg): msg.n", ()),
    "None, yielded": ("('word',)", "def f(msg): yield None", ({"word": None},)),
    "None, by name": ("('word',)", "def f(msg): return {'word': None}", ({"word": None},)),
    "async": ("('word',)", "async def f(msg): return None", ()),
    "fields": ("('word',)", "def f(**fields): return fields['n']", ({"word": 1},)),
    "fields called msg": ("('word',)", "def f(**msg): yield msg['n']", ({"word": 1},)),
    "an optional field": ("('word',)", "def f(msg): return msg.get('m', 7)", ({"word": 7},)),
    "an optional one": ("('word',)", "def f(msg): return getattr(msg, 'm', 7)", ({"word": 7},)),
}


@pytest.mark.parametrize("what", ALIKE)
def test_in_process_as_in_a_file(router: Router, tmp_path: Path, what: str) -> None:
    """The same function, declared with the same fields, has the same results and subscribers."""
    fields, code, results = ALIKE[what]
    (tmp_path / "f.py").write_text(code)
    place: dict[str, Any] = {}
    exec(code, place)
    seen: list[Any] = []

    class File(ShellNode):
        file = tmp_path / "f.py"

    for name, handler in (("here", place["f"]), ("file", File)):
        node = router.node(eval(fields), name=name)(handler)
        hear = router.node((), name, name=f"after {name}")
        hear(lambda msg: seen.append({k: v for k, v in vars(msg).items() if k != "_origin"}))
        outcome = node(n=1)
        outcome = () if outcome is NoResult else outcome
        assert (outcome if isinstance(outcome, tuple) else (outcome,)) == results
        assert tuple(seen) == results
        seen.clear()
    router.close()


def test_nothing_returned_without_fields(router: Router) -> None:
    """A node without fields has something to tell its subscribers all the same: that it ran."""
    ran: list[str] = []
    first = router.node((), name="first")(lambda msg: None)
    router.node((), "first", name="second")(lambda msg: ran.append("second"))
    assert first(n=1) == {}
    assert ran == ["second"]


def test_a_handler_that_takes_only_fields(router: Router) -> None:
    """It is told where the message comes from as one that takes a message."""
    router.node(("n",), entry_point=True, name="start")(double)
    got: list[Any] = []
    router.node((), "start", name="end")(lambda **fields: got.append(fields))
    router(n=1)
    assert got == [{"n": 2, "_origin": "start"}]
