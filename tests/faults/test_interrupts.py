"""An exception thrown into a call leaves nothing behind, and no answer goes astray."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pty
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from emit.errors import HostError
from emit.host.calls import Calls
from emit.host.keeper import Keeper
from emit.host.transport import Poll
from tests.faults.nodes import CHAOS, PATH, pool, raw, sdk
from tests.hosts import ROOT, lives, until

pytestmark = pytest.mark.usefixtures("leak_free")

ECHO = """
def echo(msg):
    time.sleep(msg.get("pause", 0))  # for an interrupt to fall into
    yield msg.n
    yield from range(msg.get("more", 0))
serve(echo)
"""


class Interrupt(BaseException):
    """An exception like that of a soft time limit, raised in any place."""


def interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupt


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def interrupted(work: Callable[[], Any], when: Callable[[], Any]) -> None:
    """Do what is to be interrupted in the middle, as soon as *when* holds."""

    def strike() -> None:
        until(when)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)  # type: ignore[arg-type]

    striker = threading.Thread(target=strike)
    striker.start()
    with pytest.raises(Interrupt):
        work()
    striker.join()


def is_polling() -> bool:
    """
    Return whether the main thread waits for a process. What it has sent is written then: an
    exception in the middle of a write costs the process, also if the program has read all of it.
    """
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code is Poll.step.__code__:
            return True
        frame = frame.f_back
    return False


def all_is_well(node: Calls) -> None:
    """Each gets its own answer, all slots are free, and as many processes as there are slots."""
    gc.collect()
    for n in range(100):
        assert node.call({"n": -n}) == [-n]
    assert node.pool.busy == 0
    assert len(node.pool.processes) <= node.settings.size


def test_in_the_middle_of_a_read() -> None:
    """The process that still owes an answer is killed; the next caller gets another one."""
    with pool(sdk(ECHO)) as node:
        node.call({"n": 0})
        (process,) = node.pool.processes
        pid = process.child.pid
        interrupted(lambda: node.call({"n": 1, "pause": 60}), lambda: process.talk.jobs)
        all_is_well(node)
        assert pid not in [process.child.pid for process in node.pool.processes]


BUSY = """
def busy(msg):
    if "after" in msg:
        raise Retry("busy", after=msg.after)
    return msg.n
serve(busy)
"""


def test_while_a_message_waits_for_its_next_attempt() -> None:
    """The wait is over, however long it was to be; the process had done nothing wrong."""
    with pool(sdk(BUSY), backoff_max=3600.0) as node:
        interrupted(lambda: node.call({"after": 1e9}), lambda: node.snapshot()["retries"])
        thrown = threading.Thread(target=quietly, args=(lambda: node.call({"after": 1e9}),))
        thrown.start()
        until(lambda: node.snapshot()["retries"]["RemoteError"] == 2)
        assert thrown.ident is not None
        throw(thrown.ident, Interrupt)
        thrown.join()
        all_is_well(node)
        assert node.snapshot()["starts"] == 1


def quietly(work: Callable[[], Any]) -> None:
    with contextlib.suppress(Interrupt):
        work()


def test_in_the_middle_of_a_write() -> None:
    """Half a frame is in the pipe: that process, too, is never used again."""
    deaf = raw(
        """
        for id, msg in calls():
            end(id, msg["n"])
            if msg.get("deaf"):
                hang()
        """
    )
    with pool(deaf) as node:
        node.call({"n": 0, "deaf": True})
        (process,) = node.pool.processes
        message = {"n": 1, "text": "x" * 10_000_000}
        interrupted(lambda: node.call(message), lambda: process.pipes.sending)
        all_is_well(node)


@pytest.mark.parametrize("at", ["start", "end"])
def test_while_a_process_starts_or_is_killed(at: str) -> None:
    """The slot is free again, though nobody was there to give it back."""
    slow = "time.sleep(0.2)\n" + ECHO  # for the interrupts to fall into
    with pool(sdk(slow), size=2) as node:
        for n in range(5):

            def when(pause: float = n * 0.05) -> bool:
                if at == "end":
                    return any(process.talk.jobs for process in node.pool.processes)
                if node.pool.busy:
                    time.sleep(pause)  # into the start
                return node.pool.busy > 0

            interrupted(lambda: node.call({"n": 1, "pause": 60}), when)
            for process in node.pool.processes:
                process.child.kill_group()
        all_is_well(node)


def storm(
    node: Calls, count: int, arm: Callable[[float], Any], disarm: Callable[[], Any]
) -> list[Any]:
    """Be interrupted so many times, anywhere; return the answers that were wrong."""
    chance = random.Random(4)
    wrong: list[Any] = []
    interrupts = n = 0
    while interrupts < count:
        try:
            n += 1
            arm(chance.random() ** 2 * 0.02)
            for _ in range(100):
                if (answer := node.call({"n": n, "more": n % 3})) != [n, *range(n % 3)]:
                    wrong.append((n, answer))
            disarm()
        except Interrupt:
            interrupts += 1
        except HostError as error:
            wrong.append(error)
    return wrong


def test_a_storm_of_signals() -> None:
    """
    Signals at any microsecond of calls, starts, kills and releases lose no slot, process or pipe.
    """
    with pool(sdk(ECHO), size=2) as node:
        node.call({"n": 0})
        wrong = storm(
            node,
            10_000 if CHAOS else 300,
            lambda seconds: signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6)),
            lambda: signal.setitimer(signal.ITIMER_REAL, 0),
        )
        assert wrong == []
        all_is_well(node)


def throw(thread: int, error: type[BaseException] | None) -> None:
    """Raise in a thread from another one, like the time limits of RQ and others."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(error) if error else None
    )


def test_a_storm_of_exceptions_thrown_into_a_thread() -> None:
    """PyThreadState_SetAsyncExc interrupts even threads that get no signals."""
    timers: list[threading.Timer] = []

    def disarm() -> None:
        for timer in timers:
            timer.cancel()

    def arm(seconds: float) -> None:
        disarm()
        timers[:] = [threading.Timer(seconds, throw, (caller.ident, Interrupt))]
        timers[0].start()

    outcome: list[Any] = []

    def run() -> None:
        while True:
            with contextlib.suppress(Interrupt):  # one may come just before or after
                outcome[:] = [storm(node, 1_000 if CHAOS else 50, arm, disarm)]
                return

    with pool(sdk(ECHO), size=2) as node:
        node.call({"n": 0})
        caller = threading.Thread(target=run)
        caller.start()
        caller.join()
        timers[0].cancel()
        timers[0].join()
        assert outcome == [[]]
        all_is_well(node)


@pytest.mark.parametrize("grace", [0.0, 30.0])
def test_an_abandoned_stream(grace: float) -> None:
    """
    Closed, thrown into or forgotten: its process is discarded, with all that it still sends. With
    a grace it is kept, and nothing that it still sends reaches the next caller.
    """
    with pool(sdk(ECHO), size=3, cancel_grace=grace) as node:
        closed, thrown, forgotten = (node.stream({"n": n, "more": 50_000}) for n in range(3))
        assert [next(closed), next(thrown), next(forgotten)] == [0, 1, 2]
        closed.close()
        with pytest.raises(Interrupt):
            thrown.throw(Interrupt())
        del forgotten
        assert node.snapshot()["ends"] == ({} if grace else {"failed": 3})
        all_is_well(node)


def test_an_abandoned_batch() -> None:
    """A later caller gets none of the answers that were under way."""
    with pool(sdk(ECHO), size=2) as node:
        for _ in range(5):
            outcomes = node.call_many({"n": n} for n in range(100_000))
            assert next(outcomes) == [0]
            outcomes.close()
        all_is_well(node)


@pytest.mark.parametrize("grace", [0.0, 30.0])
def test_streams_that_the_collector_finds(grace: float) -> None:
    """It may run at any allocation, even inside the pool; that is no deadlock."""
    before = gc.get_threshold()
    with pool(sdk(ECHO), size=2, cancel_grace=grace) as node:
        for allocations in range(1, 9):
            abandoned: list[Any] = [node.stream({"n": 0, "more": 50_000})]
            next(abandoned[0])
            gc.collect()
            gc.disable()
            cycle: list[Any] = abandoned.copy()  # young, so that the next collection finds it
            cycle.append(cycle)
            abandoned.clear()
            del cycle
            gc.set_threshold(allocations)
            gc.enable()
            try:
                assert node.call({"n": 7}) == [7]
            finally:
                gc.set_threshold(*before)
            gc.collect()
            assert node.snapshot()["ends"].get("failed", 0) == (0 if grace else allocations)
        all_is_well(node)


HOST = f"""
import os, signal, sys, threading
sys.path[:0] = {[str(ROOT), *PATH.split(":")]!r}
from tests.faults.nodes import *
from tests.faults.test_interrupts import ECHO

if __name__ == "__main__":
    # A shell has what it runs in the background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pool(sdk(ECHO), size=2, stop_grace=5.0) as node:
        node.call({{"n": 0}})
        try:
            print("ready", *(p.child.pid for p in node.pool.processes), flush=True)
            node.call({{"n": 1, "pause": 60}})
        except KeyboardInterrupt:
            if len(sys.argv) > 1:
                raise
            print("again", node.call({{"n": 2}}), flush=True)
"""


def test_ctrl_c_twice() -> None:
    """The second one falls into the cleaning up after the first: the node is gone all the same."""
    command = [sys.executable, "-c", HOST, "raise"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True) as host:
        assert host.stdout is not None
        pids = [int(word) for word in host.stdout.readline().split()[1:]]
        for _ in range(2):
            host.send_signal(signal.SIGINT)
            time.sleep(0.01)  # two at once would be one
        host.wait()
    assert pids
    until(lambda: not any(lives(pid) for pid in pids))


def test_ctrl_c_at_a_terminal() -> None:
    """It reaches the host alone, which decides; the nodes are in sessions of their own."""
    near, far = pty.openpty()
    try:
        host = subprocess.Popen(
            [sys.executable, "-c", HOST],
            stdin=far,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )
        with host:
            assert host.stdout is not None
            (pid,) = (int(word) for word in host.stdout.readline().split()[1:])
            os.write(near, b"\x03")
            assert host.stdout.readline().split() == ["again", "[2]"]
            assert host.wait() == 0
        until(lambda: not lives(pid))
    finally:
        os.close(near)
        os.close(far)


def test_the_collector_has_something_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives an abandoned process back while the keeper's thread is made, which asks for that."""
    before = threading.enumerate()
    keeper = Keeper(lambda: False)
    done: queue.SimpleQueue[str] = queue.SimpleQueue()
    make = threading.Thread

    def collect(*args: Any, **options: Any) -> threading.Thread:
        monkeypatch.setattr(threading, "Thread", make)
        keeper.do(lambda: done.put("the collector's"))
        return make(*args, **options)

    monkeypatch.setattr(threading, "Thread", collect)
    caller = make(target=keeper.do, args=(lambda: done.put("the caller's"),), daemon=True)
    caller.start()
    assert {done.get(timeout=60.0), done.get(timeout=60.0)} == {"the collector's", "the caller's"}
    keeper.stop(60.0)
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert "emit-keeper" not in {thread.name for thread in left}
