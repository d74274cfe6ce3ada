"""
Asynchronous handlers in a synchronous router: one event loop per thread, kept between calls,
so that clients which hold connections can be used from one message to the next.

The greenlets of gevent share a thread, which runs one event loop at a time. So those of a process
have one event loop together, in a thread of its own; a greenlet that waits lets the others run.
Those of eventlet take turns.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any


class _Loop:
    """A thread's event loop; closed with the thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()

    def __del__(self) -> None:
        if self.pid == os.getpid() and not self.loop.is_closed():
            self.loop.close()


_local = threading.local()

#: Loops of a parent process. Closing one here would unregister its pipe in the parent's epoll,
#: which a fork shares, so they are kept and never closed.
_inherited: list[_Loop] = []


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """
    Run a coroutine to its end in this thread.

    Raises:
        RuntimeError: This thread already runs an event loop, which would stand still.
    """
    if _is_patched("eventlet.patcher", "is_monkey_patched", "thread"):
        with _turn:
            return _run(coroutine)
    return _run(coroutine)


#: Held by the greenlet of eventlet that runs an event loop.
_turn = threading.RLock()


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    if _is_running():
        coroutine.close()
        raise RuntimeError(
            "a graph with asynchronous nodes was called inside a running event loop, which it "
            "would block; use: await asyncio.to_thread(router, ...)"
        )
    if _is_patched("gevent.monkey", "is_module_patched", "threading"):
        return _aside().run(coroutine)
    loop = _loop()
    task = loop.create_task(coroutine)
    try:
        return loop.run_until_complete(task)
    finally:
        # Ctrl-C or a soft time limit may break in; the next message must not run the rest of it.
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
    """The values of an asynchronous generator, each awaited in this thread as it is asked for."""
    try:
        while True:
            try:
                value = run(_step(generator))
            except StopAsyncIteration:
                return
            yield value
    finally:
        run(_close(generator))


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
    """An event loop in a thread of its own, of the system's, for all greenlets of this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._gevent = importlib.import_module("gevent")
        monkey = importlib.import_module("gevent.monkey")
        # The standard library's selector: gevent's would run a hub in that thread.
        selector = monkey.get_original("selectors", "DefaultSelector")
        self._loop = asyncio.SelectorEventLoop(selector())
        monkey.get_original("_thread", "start_new_thread")(self._loop.run_forever, ())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end. If this greenlet is interrupted, so is the coroutine."""
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
    """True if *patcher*, a module that may have been imported, has put greenlets for threads."""
    module = sys.modules.get(patcher)
    return module is not None and bool(getattr(module, ask)(what))
