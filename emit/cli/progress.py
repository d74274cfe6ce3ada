"""How far a run has come, as a bar on a terminal; elsewhere nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

#: Tells how much of the whole is done, and how many messages that was.
Advance = Callable[[int, int], None]


@contextmanager
def progress(whole: int | None) -> Iterator[Advance]:
    """
    Show a bar on stderr inside a ``with`` block, if that is a terminal and rich is installed.
    Whatever else is written there meanwhile comes above it, in whole lines.

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
        console=Console(stderr=True, soft_wrap=True),  # long lines are the terminal's to break
        transient=True,
        # What nodes print comes above the bar; where stdout is a file it has to get there.
        redirect_stdout=sys.stdout.isatty(),
    )
    before = sys.stdout, sys.stderr
    with bar, _moved_logs(dict(zip(before, (sys.stdout, sys.stderr), strict=True))):
        task = bar.add_task("", total=whole, messages=0, rate=0.0)

        def advance(done: int, messages: int) -> None:
            rate = messages / max(bar.tasks[0].elapsed or 0.0, 1e-3)
            bar.update(task, completed=done, messages=messages, rate=rate)

        yield advance


@contextmanager
def _moved_logs(streams: dict[TextIO, TextIO]) -> Iterator[None]:
    """Have all that is logged to one of these streams go to the one that stands for it."""
    loggers = [logging.root, *logging.Logger.manager.loggerDict.values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    moved = [
        (handler, handler.stream)
        for handler in handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in streams
    ]
    for handler, stream in moved:
        handler.setStream(streams[stream])
    try:
        yield
    finally:
        for handler, stream in moved:
            handler.setStream(stream)
        for stream in streams.values():
            stream.flush()  # a line without its end, while there is a bar to put it above


def _nothing(done: int, messages: int) -> None:
    pass
