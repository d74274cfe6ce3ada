"""
How messages get to the program of a :class:`emit.multilang.ShellNode`: with a process for each, or
to pooled ones.

This and the host below it take longer to import than all of the graph, so they are imported with
the first message, or before a fork: who only declares nodes, to look at them or to send messages
to a queue, needs neither.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from emit.errors import FrameTooLarge, ProcessDied, ProtocolError
from emit.host import host, oneshot
from emit.host.calls import Calls
from emit.host.fate import too_much
from emit.host.host import AnyHost
from emit.host.supervisor import backoff
from emit.host.wire import plain

if TYPE_CHECKING:
    from emit.multilang import ShellNode

__all__ = ["Foreign"]


class Foreign:
    """
    Args:
        node: Whose program it is; what its subclass overrides is asked of it each time.
    """

    def __init__(self, node: ShellNode) -> None:
        self._node = node
        self._calls: tuple[AnyHost, Calls] | None = None

    def call(self, fields: Mapping[str, Any]) -> Generator[Any, None, None]:
        """Give the program one message. Yields its results."""
        if self._node._is_oneshot:
            run = self._run_first if self._may_be_a_start else self._run_once
            yield from run(fields)
        elif self._node.stream:
            yield from self.processes().stream(fields)
        else:
            yield from self.processes().call(fields)

    # -- one process for each message ------------------------------------------------------

    @property
    def _may_be_a_start(self) -> bool:
        """True if it is the first run in mode auto: that of a program with an SDK is a start."""
        return self._node.mode == "auto" and self._node._probed is None

    def _run_first(self, fields: Mapping[str, Any]) -> Generator[Any, None, None]:
        """As `_run_once`; again if it is killed before it has said anything, as a start is."""
        node = self._node
        for attempt in count(1):
            has_said = False
            try:
                with closing(self._run_once(fields)) as results:
                    for result in results:
                        has_said = True
                        yield result
                return
            except ProcessDied as error:
                again = error.signal is not None and not has_said and self._may_be_a_start
                if not again or attempt >= node.max_attempts:
                    raise
                node.logger.warning("a first run is tried again: %s", error)
            time.sleep(backoff(node.backoff, node.backoff_max, attempt, random.random()))

    def _run_once(self, fields: Mapping[str, Any]) -> Generator[Any, None, None]:
        node = self._node
        codec = node.codec or "json"
        data = plain.encode_message(fields, node=node.name, codec=codec, max_frame=node.max_frame)
        program = node._program_of_one()
        probe = Probe() if self._may_probe(program.argv) else None
        if probe is not None:
            program = replace(program, env={**program.env, "EMIT_PROBE": "1"})
        finished = probe.has_finished if probe else lambda: True
        number = size = 0
        run = oneshot.run(program, data, timeout=node.timeout, has_finished=finished)
        # Closed here: after a failure, who keeps the exception would keep the process, too.
        try:
            with closing(run) as chunks:
                results = self._read(chunks, codec, probed=probe is not None)
                for result, length in probe.results_in(results) if probe else results:
                    number += 1
                    size += length
                    self._check(number, size)
                    yield result
        finally:
            if probe and probe.has_sdk and node.mode == "auto":
                node._probed = "persistent"
        if node._probed is None and node.mode == "auto":
            node._probed = "oneshot"

    def _may_probe(self, argv: Sequence[str]) -> bool:
        """
        True if the program may say whether it has an SDK, and whether it has finished. One that is
        spoken to in its own format can't have one. All programs that a shell starts would hear the
        question, and answer it to each other.
        """
        node = self._node
        if node._reads_its_own:
            return False
        if node.mode == "auto":
            return node._probed is None
        is_shell = _SHELLS.intersection(map(os.path.basename, argv[:1]))
        return node.file is not None or not is_shell

    def _read(
        self, chunks: Iterable[bytes], codec: str, *, probed: bool
    ) -> Generator[tuple[Any, int], None, None]:
        """The results, each with the bytes that it took."""
        if self._node._reads_its_own:
            yield from self._read_own(chunks)
            return
        name, limit = self._node.name, self._node.max_frame
        reader = plain.results(node=name, codec=codec, max_frame=limit, probed=probed)
        for chunk in chunks:
            yield from zip(reader.feed(chunk), reader.sizes, strict=True)
        yield from zip(reader.end(), reader.sizes, strict=True)

    def _read_own(self, chunks: Iterable[bytes]) -> Generator[tuple[Any, int], None, None]:
        """Line by line, through an overridden ``deserialize``."""
        name, limit = self._node.name, self._node.max_frame
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
                        yield self._node.deserialize(self._text(line)), len(line)

    def _text(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            reason = f"a line of {len(line)} bytes is no UTF-8, from its byte {error.start} on"
            raise ProtocolError(node=self._node.name, reason=reason, sample=line) from None

    def _check(self, count: int, size: int) -> None:
        """
        Raises:
            ResultError: So many results, or bytes of them, are too much.
        """
        node = self._node
        if count > node.max_results and not node.stream:
            raise too_much(node.name, "max_results", node.max_results)
        if size > node.max_result_bytes and not node.stream:
            raise too_much(node.name, "max_result_bytes", node.max_result_bytes)

    # -- pooled processes ------------------------------------------------------------------

    def processes(self) -> Calls:
        """
        Its calls on this process's host.

        Raises:
            StartError: Its file can't be served.
        """
        current = host.current()
        calls = self._calls
        if calls is None or calls[0] is not current:
            self._calls = calls = (current, self._node.calls_on(current))
        if self._node.file is not None:
            calls[1].prepare()
        return calls[1]

    def begin_close(self) -> None:
        """Have its processes stopped with those of the next node that is closed."""
        calls = self._calls
        if calls is not None:
            calls[0].begin_close(calls[1])

    def close(self) -> None:
        """Stop its processes. A later message starts others."""
        calls, self._calls = self._calls, None
        if calls is not None:
            calls[0].close(calls[1])


class Probe:
    """
    What a one-shot program says of itself when it is asked (``EMIT_PROBE=1``): first that it has
    an SDK, and last that it has finished. Without the last, a handler has ended the process.

    Attributes:
        has_sdk: Whether it has said that it has one.
    """

    def __init__(self) -> None:
        self.has_sdk = False
        self._says_end = False
        self._last: tuple[Any, int] = _NOTHING

    def results_in(
        self, values: Iterator[tuple[Any, int]]
    ) -> Generator[tuple[Any, int], None, None]:
        """The results among the values of its output, each with the bytes that it took."""
        first = next(values, _NOTHING)
        if _is_ready(first[0]):
            self.has_sdk = True
            self._says_end = "end" in (first[0].get("caps") or ())
            first = next(values, _NOTHING)
        if not self._says_end:
            yield from chain([first] if first is not _NOTHING else [], values)
            return
        # Only what comes last is the end; before that, it would be a result.
        self._last = first
        for value in values:
            yield self._last
            self._last = value

    def has_finished(self) -> bool:
        return not self._says_end or self._last[0] == {"op": "end", "id": None}


#: Programs that start others, by pipes between them.
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish", "busybox"})

#: In place of a value, if there is none.
_NOTHING: tuple[Any, int] = (None, 0)


def _is_ready(value: Any) -> bool:
    return isinstance(value, dict) and value.get("op") == "ready" and type(value.get("v")) is int
