"""How far a run has come, as a bar on a terminal; elsewhere nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Tells how much of the whole is done, and how many messages that was.
Advance = Callable[[int, int], None]


@contextmanager
def progress(whole: int | None) -> Iterator[Advance]:
    """
    Show a bar on stderr inside a ``with`` block, if that is a terminal and rich is installed.

    Args:
        whole: What there is to do, in any unit; None: not known.

    Returns:
        A function to be called with how much of it is done and the number of messages.
    """
    if not sys.stderr.isatty():
        yield _nothing
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield _nothing
        return
    bar = Progress(
        BarColumn(),
        TextColumn("{task.fields[messages]:,} messages"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        # What nodes print comes above the bar; where stdout is a file it has to get there.
        redirect_stdout=sys.stdout.isatty(),
    )
    with bar:
        task = bar.add_task("", total=whole, messages=0, rate=0.0)

        def advance(done: int, messages: int) -> None:
            rate = messages / max(bar.tasks[0].elapsed or 0.0, 1e-3)
            bar.update(task, completed=done, messages=messages, rate=rate)

        yield advance


def _nothing(done: int, messages: int) -> None:
    pass
