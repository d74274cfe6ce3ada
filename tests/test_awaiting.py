"""Calls that are awaited: `acall` and `astream`."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import Message, Reject, Router, ShellNode
from tests.queues.worker import are_gone, eventually

WAIT = """
import os, sys, time
from emit_sdk import context

def wait(folder, seconds=60):
    open(f"{folder}/{os.getpid()}", "w").close()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if context().cancelled:
            open(f"{folder}/cancelled", "w").close()
            raise RuntimeError("cancelled")
        time.sleep(0.01)
    return os.getpid()
"""


@pytest.fixture
def router() -> Iterator[Router]:
    with Router() as router:
        yield router
    # Cancellations and loops leave circles behind: their sockets must not close in another test.
    gc.collect()


def test_a_router_is_awaited(router: Router) -> None:
    """The loop goes on while a handler blocks; the message and its consequences are done after."""
    got: list[Any] = []
    there, go_on = threading.Event(), threading.Event()

    @router.node(("n",), entry_point=True, name="first")
    def first(msg: Message) -> int:
        there.set()
        go_on.wait()
        return int(msg.n) + 1

    router.node((), "first", name="end")(lambda msg: got.append(msg.n))

    async def main() -> None:
        call = asyncio.create_task(router.acall(n=1))
        while not there.is_set():
            await asyncio.sleep(0)
        go_on.set()
        assert await call is None

    asyncio.run(main())
    assert got == [2]


def test_a_node_is_awaited(router: Router) -> None:
    """It returns, or raises, what a call of the node does."""

    @router.node(("n",), name="node")
    def node(msg: Message) -> Any:
        if msg.n == 3:
            raise Reject("no three")
        return msg.n

    async def main() -> None:
        assert await node.acall(n=1) == {"n": 1}
        assert await node.acall({"n": 2}) == {"n": 2}
        with pytest.raises(Reject, match="no three"):
            await node.acall(n=3)

    asyncio.run(main())


def test_a_failure_leaves_no_garbage(router: Router) -> None:
    """The exception is freed with its last reference, not by the collector."""

    class Failed(Exception):
        pass

    @router.node((), name="node")
    def node(msg: Message) -> None:
        raise Failed

    async def main() -> None:
        for call in (node.acall(n=1), node.astream(n=1).__anext__()):
            try:
                await call
            except Failed as error:
                gone = weakref.ref(error)
            await asyncio.wait_for(until_gone(gone), 20)  # the thread is ending

    async def until_gone(reference: Any) -> None:
        while reference() is not None:
            await asyncio.sleep(0.01)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_context_variables_are_kept(router: Router) -> None:
    """Plain and asynchronous handlers see those of the caller, each call its own."""
    who = contextvars.ContextVar[str]("who")
    router.node(("who",), name="plain")(lambda msg: who.get())

    @router.node(("who",), name="later")
    async def later(msg: Message) -> str:
        await asyncio.sleep(0)
        return who.get()

    async def ask(name: str) -> Any:
        who.set(name)
        plain = router.functions["plain"]
        return await plain.acall(n=1), await later.acall(n=1)  # type: ignore[attr-defined]

    async def main() -> Any:
        return await asyncio.gather(ask("a"), ask("b"))

    assert asyncio.run(main()) == [({"who": "a"},) * 2, ({"who": "b"},) * 2]


def test_asynchronous_handlers_run_on_the_callers_loop(router: Router) -> None:
    """A client that the application holds can be used in them."""

    @router.node(("loop",), name="node")
    async def node(msg: Message) -> Any:
        return asyncio.get_running_loop()

    @router.node(("loop",), name="values")
    async def values(msg: Message) -> AsyncIterator[Any]:
        yield asyncio.get_running_loop()

    async def main() -> None:
        mine = asyncio.get_running_loop()
        assert await node.acall(n=1) == {"loop": mine}
        assert await values.acall(n=1) == ({"loop": mine},)

    asyncio.run(main())


def test_many_calls_at_a_time(router: Router) -> None:
    """More calls than the threads of asyncio's own pool wait at the same time."""
    count = 100
    barrier = threading.Barrier(count)
    router.node(("n",), name="node")(lambda msg: barrier.wait() * 0 + msg.n)
    node: Any = router.functions["node"]

    async def main() -> Any:
        return await asyncio.gather(*(node.acall(n=n) for n in range(count)))

    assert asyncio.run(main()) == [{"n": n} for n in range(count)]


async def cancelled(call: Any) -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


def test_a_cancelled_program_is_told(router: Router, tmp_path: Path) -> None:
    """The process ends the call and serves the next one."""
    (tmp_path / "wait.py").write_text(WAIT)
    wait: Any = router.node(("pid",), name="wait", file=str(tmp_path / "wait.py"))(ShellNode)

    async def main() -> None:
        call = asyncio.create_task(wait.acall(folder=str(tmp_path)))
        while not (started := [name for name in os.listdir(tmp_path) if name.isdigit()]):
            assert not call.done(), call
            await asyncio.sleep(0.01)
        await cancelled(call)
        assert (tmp_path / "cancelled").exists()
        assert await wait.acall(folder=str(tmp_path), seconds=0) == ({"pid": int(started[0])},)

    asyncio.run(main())


def test_a_cancelled_one_shot_program_is_killed(router: Router, tmp_path: Path) -> None:
    """Its process is gone when the cancellation has ended."""
    command = [
        "sh",
        "-c",
        f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; sleep 60",
    ]
    node: Any = router.node((), name="sleep", command=command, mode="oneshot")(ShellNode)

    async def main() -> None:
        call = asyncio.create_task(node.acall(n=1))
        while not (tmp_path / "pid").exists():
            await asyncio.sleep(0.01)
        await cancelled(call)

    asyncio.run(main())
    pid = int((tmp_path / "pid").read_text())
    eventually(lambda: are_gone([pid]))


def test_a_cancelled_asynchronous_handler(router: Router) -> None:
    """It is cancelled too, and has ended when the caller goes on."""
    seen: list[str] = []

    @router.node((), name="node")
    async def node(msg: Message) -> None:
        seen.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            seen.append("ended")

    async def main() -> None:
        call = asyncio.create_task(node.acall(n=1))
        while not seen:
            await asyncio.sleep(0)
        await cancelled(call)
        assert seen == ["began", "ended"]

    asyncio.run(main())


def test_nothing_is_delivered_after_a_cancellation(router: Router) -> None:
    """The handler at work ends; its results go nowhere."""
    got: list[Any] = []
    there, go_on = threading.Event(), threading.Event()

    @router.node(("n",), entry_point=True, name="first")
    def first(msg: Message) -> int:
        there.set()
        go_on.wait()
        return 1

    router.node((), "first", name="end")(lambda msg: got.append(msg.n))

    async def main() -> None:
        call = asyncio.create_task(router.acall(n=1))
        while not there.is_set():
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(main())
    assert got == []


def test_a_timeout_of_asyncio(router: Router) -> None:
    """It is a TimeoutError for the caller, as with any coroutine."""

    @router.node((), name="node")
    async def node(msg: Message) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(node.acall(n=1), 0.01)

    asyncio.run(main())


def stream(router: Router) -> tuple[Any, list[Any]]:
    seen: list[Any] = []

    @router.node(("n",), name="node", stream=True)
    def node(msg: Message) -> Iterator[int]:
        try:
            for n in range(msg.n):
                seen.append(n)
                yield n
        finally:
            seen.append("closed")

    router.node((), "node", name="end")(lambda msg: seen.append(f"heard {msg.n}"))
    return node, seen


def test_a_stream_is_read_one_by_one(router: Router) -> None:
    """The next result is made when it is asked for; each was routed before."""
    node, seen = stream(router)

    async def main() -> None:
        results = node.astream(n=2)
        assert await anext_(results) == {"n": 0}
        assert seen == [0, "heard 0"]
        assert await anext_(results) == {"n": 1}
        assert [result async for result in results] == []
        assert seen == [0, "heard 0", 1, "heard 1", "closed"]

    asyncio.run(main())


def test_a_stream_that_is_left(router: Router) -> None:
    """Its generator is closed when the caller's is."""
    node, seen = stream(router)

    async def main() -> None:
        results = node.astream(n=5)
        assert await anext_(results) == {"n": 0}
        await results.aclose()
        assert seen == [0, "heard 0", "closed"]

    asyncio.run(main())


def test_a_node_that_does_not_stream(router: Router) -> None:
    """All of its results come once it has ended; a failure is raised."""

    @router.node(("n",), name="node")
    def node(msg: Message) -> Iterator[int]:
        yield 1
        yield 2
        if msg.fails:
            raise KeyError("x")

    one: Any = router.node(("n",), name="one")(lambda msg: 7)
    none: Any = router.node((), name="none")(lambda msg: None)

    async def read(results: Any) -> list[Any]:
        return [result async for result in results]

    async def main() -> None:
        assert await read(node.astream(fails=False)) == [{"n": 1}, {"n": 2}]
        assert await read(one.astream(n=1)) == [{"n": 7}]
        assert await read(none.astream(n=1)) == [{}]
        with pytest.raises(KeyError):
            await read(node.astream(fails=True))

    asyncio.run(main())


async def anext_(results: Any) -> Any:
    return await results.__anext__()


def test_a_program_that_blocks_a_loop_says_so_once(
    router: Router, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that is not awaited works, and the log says what to do."""
    (tmp_path / "up.py").write_text("def up(text):\n    return text.upper()\n")
    up: Any = router.node(("text",), name="up", file=str(tmp_path / "up.py"))(ShellNode)

    async def main() -> None:
        assert up(text="a") == up(text="a") == ({"text": "A"},)

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
        assert [("running event loop" in text, "acall" in text) for text in caplog.messages] == [
            (True, True)
        ]
        caplog.clear()
        assert up(text="a") == ({"text": "A"},)
    assert caplog.messages == []


def test_a_task_that_a_call_leaves_running(router: Router, tmp_path: Path) -> None:
    """It may call nodes after the call has ended: it has no caller to wait for."""
    (tmp_path / "up.py").write_text("def up(text):\n    return text.upper()\n")
    up: Any = router.node(("text",), name="up", file=str(tmp_path / "up.py"))(ShellNode)
    tasks: list[Any] = []

    async def later(go_on: asyncio.Event) -> Any:
        await go_on.wait()
        return await asyncio.to_thread(up, text="a")

    @router.node((), name="node")
    async def node(msg: Message) -> None:
        tasks.append(asyncio.create_task(later(msg.event)))

    async def main() -> None:
        event = asyncio.Event()
        await node.acall(event=event)
        event.set()
        assert await tasks[0] == ({"text": "A"},)

    asyncio.run(main())


def test_the_loop_is_not_blocked_by_a_program(router: Router, tmp_path: Path) -> None:
    """Calls of two processes overlap: together they take less than one after the other."""
    (tmp_path / "meet.py").write_text(
        "import os, time\n"
        "def meet(folder, name, other):\n"
        "    open(f'{folder}/{name}', 'w').close()\n"
        "    while not os.path.exists(f'{folder}/{other}'): time.sleep(0.01)\n"
        "    return name\n"
    )
    meet: Any = router.node(("name",), name="meet", file=str(tmp_path / "meet.py"), size=2)(
        ShellNode
    )

    async def main() -> Any:
        folder = str(tmp_path)
        return await asyncio.gather(
            meet.acall(folder=folder, name="a", other="b"),
            meet.acall(folder=folder, name="b", other="a"),
        )

    assert asyncio.run(main()) == [({"name": "a"},), ({"name": "b"},)]
