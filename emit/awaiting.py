"""
Calls that are awaited: a thread for each call, so that the event loop goes on meanwhile.

1. The thread has a copy of the caller's context variables.
2. Asynchronous handlers run on the caller's loop, so they can use its clients.
3. If the caller is cancelled, programs are told (their calls end as those of any caller that hangs
   up), asynchronous handlers are cancelled, and no further message is delivered. The cancellation
   ends when the thread has ended: nothing of the call goes on behind the caller's back.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from emit import context


class Left(BaseException):
    """The caller was cancelled. Not an Exception: nothing must take it for a node's failure."""


class Caller:
    """
    A coroutine that awaits a call. One thread works for it.

    Attributes:
        has_left: The coroutine was cancelled.
        is_over: The call has ended. What it has left running has no caller any more.
    """

    def __init__(self) -> None:
        self.has_left = False
        self.is_over = False
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lock = threading.Lock()  # guards _ends against has_left
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._stream: str | None = None
        self._results: asyncio.Queue[Any] = asyncio.Queue()
        self._wanted = threading.Semaphore(0)

    def __del__(self) -> None:
        # Not earlier: a thread that the call has left running may still look at them.
        for end in self._ends or ():
            end.close()

    # -- in the loop -----------------------------------------------------------------------

    async def wait_for(self, work: Callable[[], Any]) -> Any:
        """Do the work in a thread, and return its outcome."""
        done = self._loop.create_future()
        told = contextvars.copy_context()
        told.run(context.caller.set, self)
        thread = threading.Thread(
            target=told.run, args=(self._work, work, done), name="emit acall", daemon=True
        )
        thread.start()
        try:
            outcome, error = await asyncio.shield(done)
        except asyncio.CancelledError as cancelled:
            self._leave()
            _, error = await asyncio.shield(done)
            if isinstance(error, Exception):  # it failed at the same time
                raise cancelled from error
            raise
        finally:
            self.is_over = True
        if error is None:
            return outcome
        try:
            raise error
        finally:
            del error, done  # its traceback holds this frame

    async def results_of(self, work: Callable[[], Any], node: str) -> AsyncGenerator[Any, None]:
        """Yield the results of a call of *node*. The next one is made when it is asked for."""
        self._stream = node
        task = asyncio.ensure_future(self.wait_for(work))
        task.add_done_callback(lambda _: self._results.put_nowait(_END))
        try:
            while (result := await self._results.get()) is not _END:
                yield result
                self._wanted.release()
            outcome = await task  # of a node that does not stream, these are all
            for result in (outcome,) if isinstance(outcome, dict) else outcome or ():
                yield result
        finally:
            task.cancel()
            await asyncio.wait((task,))
            del task  # the traceback of its exception holds this frame

    def _leave(self) -> None:
        with self._lock:
            self.has_left = True
            if self._ends is not None:
                self._ends[1].shutdown(socket.SHUT_RDWR)
        for task in self._tasks:
            task.cancel()
        self._wanted.release()

    # -- in the thread ---------------------------------------------------------------------

    def _work(self, work: Callable[[], Any], done: asyncio.Future[Any]) -> None:
        outcome: tuple[Any, BaseException | None]
        try:
            outcome = work(), None
        except BaseException as error:
            outcome = None, error
        try:
            self._loop.call_soon_threadsafe(done.set_result, outcome)
        except RuntimeError:  # the loop was closed, so nobody waits
            if not self._loop.is_closed():
                raise
        finally:
            del outcome, done  # the traceback of an exception holds this frame

    def check(self) -> None:
        """
        Raises:
            Left: The caller has left.
        """
        if self.has_left and not self.is_over:
            raise Left

    def fileno(self) -> int:
        """Return the descriptor of a socket whose other end hangs up if the caller leaves."""
        with self._lock:
            if self._ends is None:
                self._ends = socket.socketpair()
                if self.has_left:
                    self._ends[1].shutdown(socket.SHUT_RDWR)
            return self._ends[0].fileno()

    def run(self, coroutine: Coroutine[Any, Any, Any], *, to_close: bool = False) -> Any:
        """
        Run a handler's coroutine on the caller's loop, and wait for its end.

        Args:
            to_close: It closes a generator, which must be done though the caller has left.
        """
        ended, tasks = threading.Event(), list[asyncio.Task[Any]]()

        def begin() -> None:
            task = self._loop.create_task(coroutine)
            tasks.append(task)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: ended.set())
            if self.has_left and not to_close:
                task.cancel()

        try:
            self._loop.call_soon_threadsafe(begin)
        except RuntimeError:
            coroutine.close()
            raise
        ended.wait()
        try:
            return tasks[0].result()
        except asyncio.CancelledError:
            self.check()
            raise

    def take(self, node: str, results: Iterable[Any]) -> tuple[Any, ...]:
        """Return the results of a stream, or none if its caller takes them as they come."""
        if node != self._stream:
            return tuple(results)
        self._stream = None
        for result in results:
            self.check()
            self._loop.call_soon_threadsafe(self._results.put_nowait, result)
            self._wanted.acquire()
            self.check()
        return ()


#: Stands behind the results of a stream.
_END = object()


async def call(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call *function* in a thread, with a caller that may be cancelled."""
    return await Caller().wait_for(partial(function, *args, **kwargs))


def stream(
    function: Callable[..., Any], node: str, /, *args: Any, **kwargs: Any
) -> AsyncGenerator[Any, None]:
    """Yield the results of *node*, which *function* calls, as they come."""
    return Caller().results_of(partial(function, *args, **kwargs), node)
