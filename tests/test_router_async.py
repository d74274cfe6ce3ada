"""Asynchronous handlers in the synchronous router."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from emit import Message, NoResult, Router
from emit.errors import ResultError


@pytest.fixture
def router() -> Router:
    return Router()


class Slow:
    async def __call__(self, msg: Message) -> int:
        await asyncio.sleep(0)
        return int(msg.n + 1)


def test_an_async_function_is_a_node(router: Router) -> None:
    """The returned value is the result; NoResult and misfits mean what they always do."""

    @router.node(("n",), entry_point=True, name="node")
    async def node(msg: Message) -> Any:
        await asyncio.sleep(0)
        return {1: 2, 2: NoResult, 3: (3, 3)}[msg.n]

    got: list[int] = []
    router.node((), "node", name="end")(lambda msg: got.append(msg.n))
    assert node(n=1) == {"n": 2}
    assert node(n=2) is NoResult
    with pytest.raises(ResultError):
        node(n=3)
    router(n=1)
    assert got == [2, 2]


def test_an_async_generator_is_a_node(router: Router) -> None:
    """Its values are collected, then routed, like those of any generator."""
    got: list[int] = []

    @router.node(("n",), name="node")
    async def node(msg: Message) -> AsyncIterator[Any]:
        for n in range(msg.n):
            await asyncio.sleep(0)
            yield n if n != 1 else NoResult
        if msg.n > 3:
            raise KeyError("half-way")

    router.node((), "node", name="end")(lambda msg: got.append(msg.n))
    assert node(n=3) == ({"n": 0}, {"n": 2})
    assert got == [0, 2]
    with pytest.raises(KeyError):
        node(n=4)
    assert got == [0, 2]


@pytest.mark.parametrize("func", [Slow, Slow()])
def test_an_object_with_an_async_call_is_a_node(router: Router, func: Any) -> None:
    """Classes and instances may be asynchronous, too."""
    assert router.node(("n",), name="node")(func)(n=1) == {"n": 2}


def test_an_async_stream(router: Router) -> None:
    """Each value is routed before the next is awaited; a failure closes the stream."""
    order: list[Any] = []

    @router.node(("n",), entry_point=True, stream=True, name="node")
    async def node(msg: Message) -> AsyncIterator[int]:
        try:
            for n in range(3):
                order.append(f"made {n}")
                yield n
        finally:
            await asyncio.sleep(0)
            order.append("closed")

    @router.node((), "node", name="end")
    def end(msg: Message) -> None:
        order.append(msg.n)
        if msg.n == 1 and router.node_package == "fail":
            raise KeyError

    router(a=1)
    assert order == ["made 0", 0, "made 1", 1, "made 2", 2, "closed"]
    order.clear()
    router.node_package = "fail"
    with pytest.raises(KeyError):
        router(a=1)
    assert order == ["made 0", 0, "made 1", 1, "closed"]


def test_one_loop_for_all_messages(router: Router) -> None:
    """Every message of a thread meets the same event loop, so a client can be kept in it."""

    @router.node(("loop",), name="node")
    async def node(msg: Message) -> Any:
        return asyncio.get_running_loop()

    assert node(n=1) == node(n=2)


def test_each_thread_has_its_own_loop(router: Router) -> None:
    """Threads do not share a loop, and a thread's loop is closed with it."""
    loops: list[Any] = []

    @router.node((), name="node")
    async def node(msg: Message) -> None:
        loops.append(asyncio.get_running_loop())

    node(n=1)
    thread = threading.Thread(target=node, kwargs={"n": 2})
    thread.start()
    thread.join()
    del thread
    gc.collect()
    mine, other = loops
    assert mine is not other
    assert not mine.is_closed()
    assert other.is_closed()


def test_inside_a_running_loop(router: Router) -> None:
    """An asynchronous node would stand still in the loop: the error says how to call it."""
    node = router.node(("n",), name="node")(Slow)
    plain = router.node(("n",), name="plain")(lambda msg: msg.n)

    async def main() -> Any:
        with pytest.raises(RuntimeError, match=r"await router.acall\(...\)"):
            node(n=1)
        return plain(n=1), await node.acall(n=1)

    assert asyncio.run(main()) == ({"n": 1}, {"n": 2})


def test_an_async_generator_inside_a_running_loop(router: Router) -> None:
    """It is refused in the same words."""

    @router.node(("n",), name="node")
    async def node(msg: Message) -> AsyncIterator[int]:
        yield 1

    async def main() -> None:
        with pytest.raises(RuntimeError, match="inside a running event loop"):
            node(n=1)

    asyncio.run(main())


class SoftLimit(Exception):
    """An exception like a queue's soft time limit: raised by a signal, anywhere."""


@pytest.fixture
def soft_limit() -> Iterator[None]:
    def raise_it(*_: Any) -> None:
        raise SoftLimit

    before = signal.signal(signal.SIGALRM, raise_it)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_an_interrupted_handler_does_not_go_on_later(router: Router, soft_limit: None) -> None:
    """A handler cut off while it waits is cancelled; the next message does not run its rest."""
    done: list[Any] = []

    @router.node(("n",), name="node")
    async def node(msg: Message) -> Any:
        if msg.wait:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                await asyncio.Event().wait()
            finally:
                done.append("cancelled")
        return 1

    with pytest.raises(SoftLimit):
        node(wait=True)
    assert done == ["cancelled"]
    assert node(wait=False) == {"n": 1}


def notes(error: BaseException) -> list[str]:
    """Return the notes below the traceback (an attribute from Python 3.11 on)."""
    return list(vars(error)["__notes__"])


def test_exceptions_are_noted(router: Router) -> None:
    """An exception of an asynchronous handler names its node like any other."""

    @router.node(("n",), name="node")
    async def node(msg: Message) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError) as caught:
        node(n=1)
    assert notes(caught.value) == ['in node "node", with a message from "a call"']


def test_a_long_chain_of_async_nodes(router: Router) -> None:
    """Asynchronous hops need no more stack than others."""
    got = [0]

    @router.node(("n",), ["__entry_point", "down"], name="down")
    async def down(msg: Message) -> Any:
        got[0] += 1
        return msg.n - 1 if msg.n > 1 else NoResult

    router(n=3000)
    assert got == [3000]
