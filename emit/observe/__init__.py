"""Facts about messages and processes, for observers: see :meth:`emit.router.Router.observe`."""

from emit.observe.facts import (
    Dead,
    Fact,
    Failed,
    Finished,
    Observer,
    ProcessEnded,
    ProcessReady,
    ProcessReplaced,
    ProcessStarted,
    Retried,
    Sent,
    Started,
    Waiting,
)
from emit.observe.observers import Tap

__all__ = [
    "Dead",
    "Fact",
    "Failed",
    "Finished",
    "Observer",
    "ProcessEnded",
    "ProcessReady",
    "ProcessReplaced",
    "ProcessStarted",
    "Retried",
    "Sent",
    "Started",
    "Tap",
    "Waiting",
]
