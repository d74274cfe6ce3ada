"""
Starting programs.

1. One thread that never ends, ``emit-spawner``, starts every program. PR_SET_PDEATHSIG kills a
   child when the *thread* that started it ends. And exceptions from signal handlers only hit the
   main thread; in the middle of a start they leaked 19 children in 1432 interrupts.
2. A started program is owned by its `Child` alone. If the `Child` is dropped, at any moment, a
   second thread, ``emit-closer``, kills the program.
3. The host does not fork during a start, so a forked child knows each pipe that it inherits. It
   closes them. It gets a spawner, a sentinel and a cookie of its own at its first start.
4. A program with limits begins as `trampoline`, whose 20 ms pass in the caller's time, not in the
   spawner's. The spawner runs one Popen at a time, under 1 ms each, so an exec that hangs blocks
   it.

Orphans are ended in three ways: by the end of stdin, by PR_SET_PDEATHSIG if they have limits, and
by the `sentinel`. macOS has no PR_SET_PDEATHSIG, no pidfd, no /proc, no oom_score_adj and no
no_new_privs. There the sentinel kills only process groups, and death is noticed by polling.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import logging
import os
import queue
import select
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from emit.errors import StartError, StartTimeout
from emit.forks import at_fork
from emit.host.system import greenlets, sentinel, trampoline
from emit.host.system.child import Child
from emit.host.system.command import diagnose, is_transient, resolve
from emit.host.system.lifeline import Lifeline, boot_clock, interpreter
from emit.host.system.program import Limits, Program, environment
from emit.host.system.tree import Table

__all__ = ["Child", "Limits", "Program", "environment", "is_transient", "resolve", "start"]

logger = logging.getLogger(__name__)

#: Seconds between two checks of a start.
_SLICE = 0.05


def start(program: Program, *, timeout: float = 30.0) -> Child:
    """
    Start *program* in a session of its own, and wait until its exec has worked.

    Args:
        program: The program; see `Program`.
        timeout: Seconds for the whole start. A start takes about 1 ms, with limits 25.

    Returns:
        The running program. The caller must close it.

    Raises:
        StartError: It can't be started; `is_transient` says whether it may work later.
        StartTimeout: The system did not start it in time. It has been killed.

    Example:
        >>> child = start(Program("hello", ("echo", "hello"), environment({})))
        >>> child.wait(5.0), child.status, os.read(child.stdout, 100)
        (True, 0, b'hello\\n')
        >>> child.close()
    """
    if not hasattr(select, "poll"):
        raise _no_poll(program)
    end = time.monotonic() + timeout
    request = _Request(resolve(program))
    spawner = _spawner(program)
    try:
        spawner.starts.put(functools.partial(spawner.launch, request))
        child = request.wait(timeout)
        _confirm(request.program, child, timeout, end)
    except BaseException:
        # Queued after the launch, so it finds the child even if we were interrupted early.
        spawner.starts.put(functools.partial(spawner.abandon, request))
        raise
    return child


@dataclass
class _Request:
    program: Program
    child: Child | None = None
    reply: queue.SimpleQueue[Child | StartError] = field(default_factory=queue.SimpleQueue)

    def wait(self, timeout: float) -> Child:
        try:
            reply = self.reply.get(timeout=timeout)
        except queue.Empty:
            raise _too_slow(self.program, timeout) from None
        if isinstance(reply, StartError):
            raise reply
        return reply


def _confirm(program: Program, child: Child, timeout: float, end: float) -> None:
    """Wait for the trampoline's report. If its exec works, it closes the pipe unwritten."""
    if child.confirmation < 0:
        return
    poller = select.poll()
    poller.register(child.confirmation, select.POLLIN)
    # In slices, since gevent's poll can miss the end of a pipe whose number was just reused.
    while not poller.poll(_SLICE * 1000):
        if time.monotonic() >= end:
            raise _too_slow(program, timeout)
    words = os.read(child.confirmation, 100).decode().split()
    child.close_confirmation()
    if words:
        child.wait(1.0)
        child.close()
        raise _refused(program, words[0], int(words[1]))


def _refused(program: Program, stage: str, number: int) -> StartError:
    cause = OSError(number, os.strerror(number))
    if stage == "exec":
        return diagnose(program, cause)
    reason = f"{stage} could not be set: {cause.strerror}"
    hint = f"change {stage} in its limits"
    error = StartError(node=program.node, argv=program.argv, reason=reason, hint=hint)
    error.__cause__ = cause
    return error


def _no_poll(program: Program) -> StartError:
    return StartError(
        node=program.node,
        argv=program.argv,
        reason="select.poll is not there",
        hint="eventlet takes it away: call nodes that are programs in a process that it has not "
        "patched, or use gevent",
    )


def _too_slow(program: Program, timeout: float) -> StartTimeout:
    hint = "an exec hangs: this one's, or one's before it; a network file system?"
    return StartTimeout(node=program.node, timeout=timeout, hint=hint)


class _Spawner:
    """The threads of one host process that start programs and close dropped ones."""

    def __init__(self) -> None:
        self.starts: _Jobs = queue.SimpleQueue()
        self.ends: _Jobs = queue.SimpleQueue()
        self.children: weakref.WeakSet[Child] = weakref.WeakSet()
        self.lifeline = Lifeline()
        self._numbers = itertools.count(1)
        self._cookies = {True: self.lifeline.cookie, False: f"unguarded-{self.lifeline.cookie}"}
        self.table = Table(*self._cookies.values())
        # Two threads, since an end takes 10 ms to 2 s.
        _work("emit-spawner", self.starts)
        _work("emit-closer", self.ends)

    def launch(self, request: _Request) -> None:
        try:
            with _starting:
                request.child = self._launch(request.program)
        except Exception as error:  # of any type: the caller waits for a reply
            request.reply.put(diagnose(request.program, error))
        else:
            request.reply.put(request.child)

    def abandon(self, request: _Request) -> None:
        if request.child is not None:
            self.adopt(request.child)

    def adopt(self, child: Child) -> None:
        """Close a child that was dropped. Called by its destructor, in any thread."""
        child.kill_group()  # now, as the queue may be long; its close finds the rest
        self.ends.put(child.close)

    def forget(self, child: Child) -> None:
        self.children.discard(child)
        self.table.ended(child.pid)
        self.lifeline.ended(child.pid)

    def disown(self) -> None:
        """Give up everything that is the parent's. Called in a forked child."""
        self.lifeline.disconnect()
        for child in list(self.children):
            child.disown()

    def _launch(self, program: Program) -> Child:
        if program.guard:
            self.lifeline.ensure()
        token = f"{self._cookies[program.guard]}.{next(self._numbers)}"
        since = boot_clock()
        pipes = _Pipes(4 if program.limits else 3)
        try:
            pid = _popen(program, pipes, token)
        except BaseException:
            pipes.close(pipes.near)
            raise
        finally:
            pipes.close(pipes.far)
        self.table.began(pid)
        child = Child(
            node=program.node,
            argv=program.argv,
            pid=pid,
            pipes=pipes.near,
            cookie=token,
            table=self.table,
            adopt=self.adopt,
            forget=self.forget,
        )
        self.children.add(child)
        child.watch()
        if program.guard:
            self.lifeline.began(pid, since)
        return child


_Jobs = queue.SimpleQueue[Callable[[], None]]


def _work(name: str, jobs: _Jobs) -> None:
    threading.Thread(target=_do, args=(jobs,), name=name, daemon=True).start()


def _do(jobs: _Jobs) -> None:
    while True:
        job = jobs.get()
        try:
            job()
        except Exception:
            logger.exception("spawner.failed")
        del job  # else it holds the last child, which then can't be dropped


class _Pipes:
    """stdin, stdout, stderr and perhaps the status pipe: the host's ends and the child's."""

    def __init__(self, count: int) -> None:
        self.near: list[int] = []
        self.far: list[int] = []
        try:
            for number in range(count):
                reading, writing = _pipe()
                self.near.append(reading if number else writing)
                self.far.append(writing if number else reading)
                os.set_blocking(self.near[-1], False)
        except OSError:
            self.close(self.near)
            self.close(self.far)
            raise

    @staticmethod
    def close(fds: list[int]) -> None:
        while fds:
            os.close(fds.pop())


def _pipe() -> tuple[int, int]:
    """Make a pipe above the standard descriptors, which a daemon may have closed."""
    ends = os.pipe()
    if min(ends) > 2:
        return ends
    try:
        reading, writing = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in ends)
    finally:
        for fd in ends:
            os.close(fd)
    return reading, writing


def _popen(program: Program, pipes: _Pipes, token: str) -> int:
    stdin, stdout, stderr, *status = pipes.far
    above = os.environ.get(sentinel.COOKIE)
    cookie = f"{above}/{token}" if above else token
    popen = greenlets.popen()(
        [*_trampoline(program, *status), *program.argv],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=program.cwd,
        env={**program.env, sentinel.COOKIE: cookie},
        start_new_session=True,
        pass_fds=status,
    )
    popen.returncode = 0  # the Child reaps; else __del__ warns, and a later Popen reaps
    return popen.pid


def _trampoline(program: Program, status: int = -1) -> list[str]:
    if program.limits is None:
        return []
    wanted = {name: value for name, value in asdict(program.limits).items() if value is not None}
    settings = {"status": status, **wanted}
    if program.guard:
        settings["host"] = os.getpid()
    words = (f"{name}={int(value)}" for name, value in settings.items())
    lc_ctype = f"={program.env['LC_CTYPE']}" if "LC_CTYPE" in program.env else ""
    script = [interpreter(), "-IS", trampoline.__file__]
    return [*script, " ".join(words), lc_ctype, program.argv[0]]


_current: _Spawner | None = None

# Held while the spawner is made.
_making = threading.Lock()

# Held during a start, and by a thread that forks. Only its owner can release it.
_starting = threading.RLock()


def _spawner(program: Program) -> _Spawner:
    global _current
    with _making:
        if _current is None:
            try:
                _current = _Spawner()
            except RuntimeError as error:
                raise _no_thread(program) from error
        return _current


def _no_thread(program: Program) -> StartError:
    return StartError(
        node=program.node,
        argv=program.argv,
        reason="the host cannot start a thread",
        hint="its interpreter is ending, or the limit of processes (ulimit -u) is reached",
    )


def _before_fork() -> None:
    _starting.acquire()
    Child.closing.acquire()


def _after_fork() -> None:
    for lock in (Child.closing, _starting):
        with contextlib.suppress(RuntimeError):  # an interrupt may have prevented its acquisition
            lock.release()


def _in_forked_child() -> None:
    global _current, _making, _starting
    inherited, _current = _current, None
    _making, _starting, Child.closing = threading.Lock(), threading.RLock(), threading.RLock()
    if inherited is not None:
        inherited.disown()


at_fork("starts", before=_before_fork, in_parent=_after_fork, in_child=_in_forked_child)
