"""emit.testing: seeing what is sent without running the subscribers."""

from __future__ import annotations

import threading
from typing import Any
from unittest import TestCase

import pytest

from emit import Message, Router
from emit.testing import Sent, capture


@pytest.fixture
def got() -> list[int]:
    return []


@pytest.fixture
def router(got: list[int]) -> Router:
    router = Router()
    router.node(("n",), entry_point=True, name="source")(lambda msg: (n for n in range(msg.n)))
    router.node(("n",), "source", name="end")(lambda msg: got.append(msg.n))
    return router


def test_records_and_runs_nothing(router: Router, got: list[int]) -> None:
    """Each message is recorded with its origin and destination, and no subscriber runs."""
    with capture(router) as sent:
        assert router.functions["source"](n=2) == ({"n": 0}, {"n": 1})
        router(n=3)
    assert sent == [
        ("source", "end", Message(n=0)),
        ("source", "end", Message(n=1)),
        ("__entry_point", "source", Message(n=3)),
    ]
    assert isinstance(sent[0], Sent)
    assert (sent[0].origin, sent[0].destination, sent[0].message.n) == ("source", "end", 0)
    assert got == []


def test_routing_is_restored(router: Router, got: list[int]) -> None:
    """Messages are delivered again after the block, even if it ends with an exception."""
    with pytest.raises(KeyError), capture(router):
        raise KeyError
    router(n=2)
    assert got == [0, 1]


def test_nested_captures(router: Router, got: list[int]) -> None:
    """The inner one records while it lasts, then the outer one again."""
    with capture(router) as outer:
        with capture(router) as inner:
            router(n=1)
        router(n=2)
    assert [sent.message.n for sent in inner] == [1]
    assert [sent.message.n for sent in outer] == [2]


def test_a_router_with_a_dispatch_of_its_own(got: list[int]) -> None:
    """A subclass's queue is not reached, and its message class is what is recorded."""

    class Queue(Router):
        def dispatch(self, origin: str, destination: str, message: Message) -> Any:
            got.append(1)

    class Mine(Message): ...

    router = Queue(message_class=Mine)
    router.node(("n",), entry_point=True, name="source")(lambda msg: msg.n)
    with capture(router) as sent:
        router(n=1)
    assert type(sent[0].message) is Mine
    assert got == []
    router(n=1)
    assert got == [1]


def test_other_threads_are_recorded(router: Router) -> None:
    """Calls from another thread are recorded in the same list."""
    with capture(router) as sent:
        thread = threading.Thread(target=router, kwargs={"n": 1})
        thread.start()
        thread.join()
    assert len(sent) == 1


def test_nothing_to_record_without_routing(router: Router) -> None:
    """Nothing is dispatched with routing disabled."""
    with router.routing_disabled(), capture(router) as sent:
        router(n=1)
    assert sent == []


def test_the_testing_chapter(router: Router, got: list[int]) -> None:
    """The documentation's TestCase, as printed, tests one node without its subscribers."""
    do_task = router.functions["source"]
    results = []

    class DoTaskTests(TestCase):
        def setUp(self) -> None:
            router.disable_routing()

        def tearDown(self) -> None:
            router.enable_routing()

        def test_blah(self) -> None:
            assert True
            results.append(do_task(n=1))

    outcome = DoTaskTests("test_blah").run()
    assert outcome is not None
    assert outcome.wasSuccessful()
    assert results == [({"n": 0},)]
    assert got == []
    assert router.routing_enabled
