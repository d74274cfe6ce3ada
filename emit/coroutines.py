"""
Asynchronous handlers in a synchronous router: one event loop per thread.

The loop is kept between calls, so a client that holds connections can be used from one message to
the next.

The greenlets of gevent share a thread, which runs one event loop at a time. So all greenlets of a
process share one event loop in a thread of its own. A greenlet that waits lets the others run.
The greenlets of eventlet take turns.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any

from emit import context


class _Loop:
    """A thread's event loop, closed with the thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()

    def __del__(self) -> None:
        if self.pid == os.getpid() and not self.loop.is_closed():
            self.loop.close()


_local = threading.local()

#: Loops of a parent process. They are kept and never closed: a fork shares the parent's epoll, so
#: closing a loop here would unregister its pipe there.
_inherited: list[_Loop] = []


def run(coroutine: Coroutine[Any, Any, Any], *, to_close: bool = False) -> Any:
    """
    Run a coroutine to its end in this thread. If another coroutine awaits the call, run it on the
    loop of that one.

    Args:
        to_close: It closes a generator, which must be done though nobody may be waiting any more.

    Raises:
        RuntimeError: This thread already runs an event loop, which would stand still.
    """
    caller = context.caller.get()
    if caller is not None and not caller.is_over and not _is_running():
        return caller.run(coroutine, to_close=to_close)
    if _is_patched("eventlet.patcher", "is_monkey_patched", "thread"):
        with _turn:
            return _run(coroutine)
    return _run(coroutine)


#: Held by the eventlet greenlet that runs an event loop.
_turn = threading.RLock()


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    if _is_running():
        coroutine.close()
        raise RuntimeError(
            "a graph with asynchronous nodes was called inside a running event loop, which it "
            "would block; use: await router.acall(...), or acall of the node"
        )
    if _is_patched("gevent.monkey", "is_module_patched", "threading"):
        return _aside().run(coroutine)
    loop = _loop()
    task = loop.create_task(coroutine)
    try:
        return loop.run_until_complete(task)
    finally:
        # Ctrl-C or a soft time limit may interrupt it; the next message must not run the rest.
        if not task.done():
            task.cancel()
            loop.run_until_complete(asyncio.wait((task,)))


def _is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def iterate(generator: AsyncGenerator[Any, None]) -> Generator[Any, None, None]:
    """
    Yield the values of an asynchronous generator. Each is awaited in this thread when asked for.
    """
    try:
        while True:
            try:
                value = run(_step(generator))
            except StopAsyncIteration:
                return
            yield value
    finally:
        run(_close(generator), to_close=True)


async def _step(generator: AsyncGenerator[Any, None]) -> Any:
    return await generator.__anext__()


async def _close(generator: AsyncGenerator[Any, None]) -> None:
    await generator.aclose()


def _loop() -> asyncio.AbstractEventLoop:
    holder: _Loop | None = getattr(_local, "holder", None)
    if holder is not None and holder.pid != os.getpid():
        _inherited.append(holder)
        holder = None
    if holder is None or holder.loop.is_closed():
        holder = _local.holder = _Loop()
    return holder.loop


# Under gevent


class _Aside:
    """An event loop in a real thread of its own, shared by all greenlets of this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._gevent = importlib.import_module("gevent")
        monkey = importlib.import_module("gevent.monkey")
        # The standard library's selector: gevent's would run a hub in that thread.
        selector = monkey.get_original("selectors", "DefaultSelector")
        self._loop = asyncio.SelectorEventLoop(selector())
        monkey.get_original("_thread", "start_new_thread")(self._loop.run_forever, ())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """
        Run a coroutine to its end. An interrupt of this greenlet interrupts the coroutine, too.
        """
        done = self._gevent.event.Event()
        awake = self._gevent.get_hub().loop.async_()
        awake.start(done.set)
        tasks: list[asyncio.Task[Any]] = []

        def begin() -> None:
            tasks.append(self._loop.create_task(coroutine))
            tasks[0].add_done_callback(lambda _: awake.send())

        try:
            self._loop.call_soon_threadsafe(begin)  # in a copy of this greenlet's context
            try:
                done.wait()
            except BaseException:
                self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
                done.wait()
                raise
        finally:
            awake.stop()
            awake.close()
        return tasks[0].result()


_shared: _Aside | None = None


def _aside() -> _Aside:
    global _shared
    if _shared is None or _shared.pid != os.getpid():
        _shared = _Aside()  # a thread does not survive a fork
    return _shared


def _is_patched(patcher: str, ask: str, what: str) -> bool:
    """True if *patcher* is imported and has replaced threads by greenlets."""
    module = sys.modules.get(patcher)
    return module is not None and bool(getattr(module, ask)(what))
