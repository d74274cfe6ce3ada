"""Where what Emit and its programs say goes in an RQ worker: to the log of the worker itself."""

from __future__ import annotations

import logging
from copy import copy

__all__ = ["log_with_worker"]

#: RQ sets up handlers and the level of its own loggers only.
_worker = logging.getLogger("rq.worker")
_emit = logging.getLogger("emit")


class _WithWorker(logging.Handler):
    """Gives a record to the worker's log, unless its user has set up handlers for it."""

    def emit(self, record: logging.LogRecord) -> None:
        if _emit.handlers == [self] and not (_emit.propagate and logging.root.handlers):
            named = copy(record)
            named.msg, named.args = f"{record.name}: {record.getMessage()}", ()
            _worker.handle(named)


def log_with_worker() -> None:
    """
    Log what goes to the logger ``emit`` as the worker does its own: same handlers, form and level.

    Of no effect where there is a handler for it already, or no worker's log in this process.
    """
    if _emit.hasHandlers() or not _worker.hasHandlers():
        return
    _emit.addHandler(_WithWorker())
    if _emit.level == logging.NOTSET:
        _emit.setLevel(_worker.getEffectiveLevel())
