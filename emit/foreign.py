"""
The handlers behind :class:`emit.multilang.ShellNode`, which declares the program to run.

:class:`OneShot` starts a process for each message. :class:`Pooled` keeps processes alive.
:class:`Probing` finds out with the first message which of the two its program needs.

This module and the host take longer to import than the whole graph. So they are imported with the
first message, or before a fork. A process that only declares nodes, to show them or to send
messages to a queue, needs neither.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import Any

from emit import context
from emit.errors import EmitError, FrameTooLarge, ProcessDied, ProtocolError
from emit.host import host, oneshot
from emit.host.calls import Calls
from emit.host.fate import too_much
from emit.host.host import AnyHost
from emit.host.settings import Settings
from emit.host.system.program import Program
from emit.host.wire import plain
from emit.letter import backoff
from emit.node import Handler
from emit.observe.observers import Observers

__all__ = ["Declared", "OneShot", "Pooled", "Probing", "make_handler"]


_BLOCKS = (
    '"%s" was called inside a running event loop, which stands still meanwhile; use: '
    "await router.acall(...), or acall of the node"
)


def _is_in_a_loop() -> bool:
    """Return True if an event loop runs in this thread. The kernel of a notebook always has one."""
    is_running = sys.modules["asyncio"]._get_running_loop() is not None
    return is_running and "ipykernel" not in sys.modules


@dataclass(frozen=True)
class Declared:
    """
    The facts that a handler needs about its node.

    Attributes:
        name: The node's name.
        settings: How its program is run.
        stream: Yield each result as it comes.
        is_file: The program is a file that one of Emit's launchers serves.
        logger: The node's logger.
        program: Makes the program that is started for one message.
        calls: Makes the node's calls on a host.
        deserialize: Reads one line of the program's output; None: the output is JSON or msgpack.
        observers: Those of its router.
    """

    name: str
    settings: Settings
    stream: bool
    is_file: bool
    logger: logging.Logger
    program: Callable[[], Program]
    calls: Callable[[AnyHost], Calls]
    deserialize: Callable[[str], Any] | None
    observers: Sequence[Observers] = ()


def make_handler(of: Declared) -> Handler:
    """Return the handler for a node's mode."""
    mode = of.settings.mode
    if mode == "oneshot":
        return OneShot(of)
    return Probing(of) if mode == "auto" and not of.is_file else Pooled(of)


class Pooled(Handler):
    """Gives messages to long-lived processes on this process's host."""

    def __init__(self, of: Declared) -> None:
        self._of = of
        self._has_warned = False
        self._calls: tuple[AnyHost, Calls] | None = None
        # Of several threads with a first message, the first to register the node: one has a pool.
        self._first: dict[AnyHost, Calls] = {}

    def __call__(self, msg: Any) -> Generator[Any, None, None]:
        """Give the program one message. Yield its results."""
        calls, fields = self._current(), _fields(msg)
        yield from calls.stream(fields) if self._of.stream else calls.call(fields)

    def call_many(self, messages: Iterable[Any]) -> Generator[Any, None, None]:
        """Give the program many messages, without waiting for the answer to each."""
        yield from self._current().call_many(map(_fields, messages))

    def _current(self) -> Calls:
        """
        Return the calls on the current host. A fork makes another host. If a coroutine awaits the
        call, they end with its cancellation.
        """
        calls = self._calls
        if calls is None or calls[0] is not host.running:
            current = host.current()
            made = self._of.calls(current)
            first = self._first.setdefault(current, made)
            if first is not made:  # another thread was quicker
                current.close(made)
            self._calls = calls = (current, first)
        if "asyncio" in sys.modules and not self._has_warned and _is_in_a_loop():
            self._has_warned = True
            self._of.logger.warning(_BLOCKS, self._of.name)
        caller = context.caller.get()
        if caller is None or caller.is_over:
            return calls[1]
        return calls[1].asked_by(caller.fileno())

    def running(self) -> tuple[AnyHost, Calls] | None:
        """Return its host and its calls on it, if it has had a message."""
        calls = self._calls
        return calls if calls is not None and calls[0] is host.running else None

    def open(self) -> None:
        """
        Begin to start the processes that are to be ready, if any.

        Raises:
            StartError: The node's file can't be served.
        """
        if self._of.settings.min_idle:
            self._current().prepare()

    def begin_close(self) -> None:
        """Begin to stop the processes, at the same time as those of the node that closes next."""
        calls = self._calls
        if calls is not None:
            calls[0].begin_close(calls[1])

    def close(self) -> None:
        """Stop the processes. A later message starts others."""
        calls, self._calls = self._calls, None
        self._first.clear()
        if calls is not None:
            calls[0].close(calls[1])


class OneShot(Handler):
    """
    Starts a process for each message.

    Args:
        asks: Ask the program whether it has finished, if Emit may ask it.
    """

    def __init__(self, of: Declared, *, asks: bool = True) -> None:
        self._of = of
        self._asks = asks

    def __call__(self, msg: Any) -> Generator[Any, None, None]:
        """Give the program one message. Yield its results."""
        yield from self.run(msg, Probe() if self._asks else None)

    def call_many(self, messages: Iterable[Any]) -> Generator[Any, None, None]:
        """Give the program one message after the other."""
        return each(self, messages)

    def run(self, msg: Any, probe: Probe | None) -> Generator[Any, None, None]:
        """
        Give the program one message. Yield its results.

        Args:
            probe: Reads what the program reports about itself; None: the program is not asked.
        """
        of, settings = self._of, self._of.settings
        codec, limit = settings.codec or "json", settings.max_frame
        data = plain.encode_message(_fields(msg), node=of.name, codec=codec, max_frame=limit)
        program = _traced(of.program())
        if probe is not None and self._may_ask(program):
            program = replace(program, env={**program.env, "EMIT_PROBE": "1"})
        else:
            probe = None
        finished = probe.has_finished if probe else lambda: True
        caller = context.caller.get()
        number = size = 0
        run = oneshot.run(
            *(program, data),
            timeout=settings.timeout,
            has_finished=finished,
            explain=_explain,
            caller=None if caller is None or caller.is_over else caller.fileno(),
            observers=of.observers,
        )
        # Closed here: after a failure, anything that keeps the exception would also keep the
        # process.
        with closing(run) as chunks:
            results = self._read(chunks, codec, probed=probe is not None)
            for result, length in probe.results_in(results) if probe else results:
                number += 1
                size += length
                self._check(number, size)
                yield result

    def _may_ask(self, program: Program) -> bool:
        """
        True if Emit may ask the program about itself.

        A program with its own format can't have an SDK. If a shell starts several programs, all of
        them would hear the question and answer it to each other. Mode auto asks all the same, since
        it has to find out whether the program has an SDK.
        """
        if self._of.deserialize is not None:
            return False
        is_shell = _SHELLS.intersection(map(os.path.basename, program.argv[:1]))
        return self._of.is_file or not is_shell or self._of.settings.mode == "auto"

    def _read(
        self, chunks: Iterable[bytes], codec: str, *, probed: bool
    ) -> Generator[tuple[Any, int], None, None]:
        """Yield each result and the number of bytes it took."""
        name, limit, own = self._of.name, self._of.settings.max_frame, self._of.deserialize
        if own is not None:
            yield from self._read_own(chunks, own)
            return
        reader = plain.results(node=name, codec=codec, max_frame=limit, probed=probed)
        for chunk in chunks:
            yield from zip(reader.feed(chunk), reader.sizes, strict=True)
        yield from zip(reader.end(), reader.sizes, strict=True)

    def _read_own(
        self, chunks: Iterable[bytes], deserialize: Callable[[str], Any]
    ) -> Generator[tuple[Any, int], None, None]:
        """Read line by line, by the node's own function."""
        name, limit = self._of.name, self._of.settings.max_frame
        held: list[bytes] = []
        for chunk in chain(chunks, [b"\n"]):
            first, *more = chunk.split(b"\n")
            held.append(first)
            if sum(map(len, held)) > limit:
                raise FrameTooLarge(node=name, size=None, limit=limit, outgoing=False)
            if more:
                lines, held = [b"".join(held), *more[:-1]], more[-1:]
                for line in lines:
                    if line.strip():
                        yield deserialize(self._text(line)), len(line)

    def _text(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            reason = f"a line of {len(line)} bytes is no UTF-8, from its byte {error.start} on"
            raise ProtocolError(node=self._of.name, reason=reason, sample=line) from None

    def _check(self, count: int, size: int) -> None:
        """
        Raises:
            ResultError: There are too many results, or bytes of results.
        """
        settings = self._of.settings
        if count > settings.max_results and not self._of.stream:
            raise too_much(self._of.name, "max_results", settings.max_results)
        if size > settings.max_result_bytes and not self._of.stream:
            raise too_much(self._of.name, "max_result_bytes", settings.max_result_bytes)


class Probing(Handler):
    """
    Finds out with the first message that its program answers whether the program has an SDK. The
    program is started as for one message, and asked.
    """

    def __init__(self, of: Declared) -> None:
        self._of = of
        self._pooled = Pooled(of)
        self._once = OneShot(of, asks=False)
        self._found: Pooled | OneShot | None = None  # the kind of handler that the program needs

    def __call__(self, msg: Any) -> Generator[Any, None, None]:
        """Give the program one message. Yield its results."""
        return self._first(msg) if self._found is None else self._found(msg)

    def call_many(self, messages: Iterable[Any]) -> Generator[Any, None, None]:
        """Give the program messages one after the other, until its kind is known."""
        rest = iter(messages)
        for msg in rest:
            yield from each(self, [msg])
            if self._found is not None:
                yield from self._found.call_many(rest)

    def _first(self, msg: Any) -> Generator[Any, None, None]:
        """
        Ask the program. Ask again if it is killed before it has answered, as a start is repeated.
        """
        settings = self._of.settings
        for attempt in count(1):
            has_said = False
            try:
                with closing(self._ask(msg)) as results:
                    for result in results:
                        has_said = True
                        yield result
                return
            except ProcessDied as error:
                again = error.signal is not None and not has_said and self._found is None
                if not again or attempt >= settings.max_attempts:
                    raise
                self._of.logger.warning("a first run is tried again: %s", error)
            time.sleep(backoff(settings.backoff, settings.backoff_max, attempt, random.random()))

    def _ask(self, msg: Any) -> Generator[Any, None, None]:
        probe = Probe()
        try:
            yield from self._once.run(msg, probe)
        finally:
            if probe.has_sdk:
                self._found = self._pooled
        if self._found is None:
            self._found = self._once

    def running(self) -> tuple[AnyHost, Calls] | None:
        """Return its host and its calls on it, if its processes are long-lived and have begun."""
        return self._pooled.running()

    def open(self) -> None:
        """
        Begin to start the processes that are to be ready, once the program is known to be
        long-lived.
        """
        if self._found is not None:
            self._found.open()

    def begin_close(self) -> None:
        """Begin to stop the processes, at the same time as those of the node that closes next."""
        self._pooled.begin_close()

    def close(self) -> None:
        """Stop the processes. A later message starts others, and does not ask again."""
        self._pooled.close()


def each(handler: Handler, messages: Iterable[Any]) -> Generator[Any, None, None]:
    """Call a handler with one message after the other. Yield as :meth:`Handler.call_many`."""
    for msg in messages:
        try:
            yield list(handler(msg))
        except EmitError as error:
            yield error


def _traced(program: Program) -> Program:
    """
    Add the trace context of this run, if there is one, to the environment of a program for one
    message. OpenTelemetry's SDKs and command-line tools know these variables.
    """
    trace = context.trace_of(context.current.get(), context.run.get())
    if trace is None:
        return program
    told = {name.upper(): value for name, value in trace.headers.items()}
    return replace(program, env={**program.env, **told})


def _fields(msg: Any) -> Mapping[str, Any]:
    return msg if isinstance(msg, dict) else dict(vars(msg))


class Probe:
    """
    The reports of a one-shot program about itself, if it is asked (``EMIT_PROBE=1``).

    The program first says that it has an SDK, and last that it has finished. If the last report is
    missing, a handler has ended the process.

    Attributes:
        has_sdk: True if the program has said that it has an SDK.
    """

    def __init__(self) -> None:
        self.has_sdk = False
        self._says_end = False
        self._last: tuple[Any, int] = _NOTHING

    def results_in(
        self, values: Iterator[tuple[Any, int]]
    ) -> Generator[tuple[Any, int], None, None]:
        """Yield the results among its output's values, each with the number of bytes it took."""
        first = next(values, _NOTHING)
        if _is_ready(first[0]):
            self.has_sdk = True
            self._says_end = "end" in (first[0].get("caps") or ())
            first = next(values, _NOTHING)
        if not self._says_end:
            yield from chain([first] if first is not _NOTHING else [], values)
            return
        # Only the last value is the end report; earlier the same value is a result.
        self._last = first
        for value in values:
            yield self._last
            self._last = value

    def has_finished(self) -> bool:
        return not self._says_end or self._last[0] == {"op": "end", "id": None}


#: Programs that start others, with pipes between them.
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish", "busybox"})

#: Stands for a missing value.
_NOTHING: tuple[Any, int] = (None, 0)


def _is_ready(value: Any) -> bool:
    return isinstance(value, dict) and value.get("op") == "ready" and type(value.get("v")) is int


def _explain(program: Program) -> str:
    """
    Return the fault in the language of a program. Its packages are not checked: that takes too
    long.
    """
    return program.explain(packages=False)
