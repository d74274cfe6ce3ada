"""Records what passes a node as cases, by the tap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from emit.cases.format import Case, Cases, Settings, pruned, write
from emit.graph import ENTRY
from emit.observe.tap import Passed, watch

if TYPE_CHECKING:
    from emit.router import Router


class Recorder:
    """
    Makes cases of what a tap has seen. A run without an end is no case: its worker was killed.

    Args:
        limit: The most cases to keep; None: all.

    Attributes:
        cases: The cases so far.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.cases: list[Case] = []
        self._limit = limit
        self._open: dict[tuple[object, int], tuple[Passed, list[dict[str, object]]]] = {}

    @property
    def is_full(self) -> bool:
        return self._limit is not None and len(self.cases) >= self._limit

    def __call__(self, passed: Passed, source: object = None) -> None:
        """Take note of what has passed; *source*: the process, if there are several."""
        key = (source, passed.run)
        if passed.way == "message":
            self._open[key] = (passed, [])
        elif key not in self._open:
            return
        elif passed.way == "result":
            self._open[key][1].append(dict(passed.fields or {}))
        else:
            self._close(*self._open.pop(key), passed.error)

    def drop(self, passed: Passed, source: object = None) -> None:
        """Forget a message, with all that comes of it."""
        self._open.pop((source, passed.run), None)

    def _close(self, first: Passed, results: list[dict[str, object]], error: str) -> None:
        if self.is_full:
            return
        origin = "" if first.origin == ENTRY else first.origin
        message = dict(first.fields or {})
        self.cases.append(Case(message, () if error else tuple(results), error, "", origin))


@contextmanager
def recording(
    router: Router, node: str, *, redact: Iterable[str] = (), limit: int | None = None
) -> Iterator[Recorder]:
    """
    Record the messages that *node* handles in this process, inside a ``with`` block.

    Args:
        router: The router.
        node: The node's name.
        redact: Names of fields to hide, beside the router's own.
        limit: The most cases to keep; None: all.

    Raises:
        GraphError: There is no such node.
    """
    recorder = Recorder(limit)
    with watch(router, recorder, node, redact=redact):
        yield recorder


def save(
    path: Path,
    target: str,
    recorder: Recorder,
    settings: Settings = Settings(),  # noqa: B008
) -> int:
    """
    Write the cases of a recorder to a file, without repetitions. Return their number.

    Raises:
        CaseError: A value can't be represented, or the file can't be written.
    """
    cases = pruned(recorder.cases)
    write(path, Cases(target, cases, settings))
    return len(cases)
