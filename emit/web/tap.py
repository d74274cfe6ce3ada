"""The messages that a page watches: of all machines by Redis, else of this machine by sockets."""

from __future__ import annotations

import time

from emit.errors import EmitError
from emit.host import status
from emit.host.place import project
from emit.observe.looks import Outlet, Seen, Wish
from emit.observe.taps import Looking
from emit.router import Router
from emit.web.watch import Watch

__all__ = ["Tapping"]

#: Seconds between two requests that processes go on.
_RENEW = 1.0


class Tapping:
    """
    A tap of one page. All methods but :meth:`close` are for one thread at a time.

    Args:
        wish: What it is to see.
        router: The router.
        watch: Knows where its workers are.

    Attributes:
        watched: A text that says how many workers, or processes, show what passes.
    """

    def __init__(self, wish: Wish, router: Router, watch: Watch) -> None:
        self._wish = wish
        self._watch = watch
        self._outlet = Outlet(wish._replace(project=project()))
        self._lookings: list[Looking] = []
        self._is_open = True
        self._begun: set[tuple[str, str, int]] = set()
        self._due = 0.0
        self.watched = "nobody yet"

    def take(self) -> list[Seen]:
        """
        Return what has passed since the last time, in order.

        Raises:
            EmitError: Redis can't be reached, or refuses.
        """
        if not self._lookings:
            self._lookings = [Looking(*place, self._wish) for place in self._watch.places()]
        is_due = time.monotonic() >= self._due
        if is_due:
            self._due = time.monotonic() + _RENEW
            for looking in self._lookings:
                looking.renew()
            paths = [] if self._lookings else status.sockets(idle=True)
            self._outlet.ask(paths, here=True)
        seen = [each for looking in self._lookings for each in looking.take()]
        self._begun |= {
            (each.machine, each.worker, each.pid) for each in seen if each.passed.way == "begin"
        }
        count = len(self._begun) if self._lookings else self._outlet.asked
        noun = "worker" if self._lookings else "process"
        many = f"{noun}s" if self._lookings else "processes"
        self.watched = f"{count} {noun if count == 1 else many}"
        passed = [each for each in (*seen, *self._outlet.take()) if each.passed.way != "begin"]
        return sorted(passed, key=lambda each: each.passed.at)

    def close(self) -> None:
        """End the tap."""
        self._outlet.close()
        for looking in self._lookings:
            try:
                looking.close()
            except EmitError:  # it expires
                return
