"""
Asynchronous handlers in a synchronous router: one event loop per thread, kept between calls,
so that clients which hold connections can be used from one message to the next.
"""

from __future__ import annotations

import asyncio
import os
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
    if _is_running():
        coroutine.close()
        raise RuntimeError(
            "a graph with asynchronous nodes was called inside a running event loop, which it "
            "would block; use: await asyncio.to_thread(router, ...)"
        )
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
