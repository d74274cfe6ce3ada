"""Faults for workers and their Redis, and the checks of the messages afterwards."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from redis.exceptions import ConnectionError as Gone

from emit.dead import DeadLetters
from emit.letter import DeadLetter
from tests.faults.servers import Server
from tests.queues.proxy import Proxy
from tests.queues.worker import Worker

#: Causes for which a good message may be given up here: its processes are killed all the time.
KILLED = {"Undelivered", "ProcessDied", "CallTimeout"}


class Storm:
    """
    Faults of a Redis, of the connections to it and of its workers, one after the other. Their times
    are in step with nothing.

    Attributes:
        faults: How often each fault happened.
    """

    def __init__(self, server: Server, proxy: Proxy, *, denied: float) -> None:
        self.faults: collections.Counter[str] = collections.Counter()
        self._server, self._proxy, self._denied = server, proxy, denied
        self._kinds: dict[str, tuple[float, Callable[[], None]]] = {
            "denied": (0.03, self._deny),
            "dropped": (0.1, proxy.drop),
            "away": (0.01, self._take_away),
        }

    def strike(self, kill: Callable[[], Any]) -> None:
        """
        Cause one fault, or *kill* something. Each kind of fault comes early, because a fast machine
        has soon done all messages.
        """
        missing = [kind for kind in self._kinds if not self.faults[kind]]
        if missing and self.faults.total() % 2:
            kind = missing[0]
        else:
            others = {kind: chance for kind, (chance, _) in self._kinds.items()}
            weights = [*others.values(), 1.0 - sum(others.values())]
            (kind,) = random.choices([*others, "kill"], weights)
        if kind == "kill":
            self.faults[kill()] += 1
        else:
            self._kinds[kind][1]()
            self.faults[kind] += 1

    @property
    def has_struck(self) -> bool:
        """True if each kind has happened."""
        return all(self.faults[kind] for kind in self._kinds)

    def _deny(self) -> None:
        self._server.allow("~rq:*")
        time.sleep(self._denied)  # the fault itself: Emit may touch no key of its own meanwhile
        self._server.allow("~*")

    def _take_away(self) -> None:
        self._server.kill()
        time.sleep(5)  # the fault itself: Redis is away
        self._server.start()


def kill_something(worker: Worker) -> str:
    """Kill a process of the pool, or a node's process, and return which kind it was."""
    everything = worker.everything()[1:]
    children = set(worker.children())
    nodes = [p for p in everything if "program.py" in command(p)]
    pool = [p for p in everything if p.pid in children]
    for name, processes in random.sample([("child", pool), ("node", nodes)], 2):
        if processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                os.kill(random.choice(processes).pid, signal.SIGKILL)
                return name
    return "nothing"


def command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def is_ill(n: int) -> bool:
    """Return True if the program refuses this number."""
    return n % 100 == 13


def send(module: Any, name: str, count: int) -> None:
    """Send *count* numbers: most of them in batches, every fifth in a task of its own."""
    for start in range(0, count, 500):
        numbers = range(start, min(start + 500, count))
        module.router._carrier.carry("test", name, [{"n": n} for n in numbers if n % 5])
        for n in numbers[::5]:
            module.router.dispatch("test", name, {"n": n})


def task_of(n: int) -> tuple[int, ...]:
    """Return the key of the task that held a number: a task of its own, or a batch of 50."""
    block, place = divmod(n, 500)
    return (n,) if n % 5 == 0 else (block, (place - place // 5 - 1) // 50)


def all_letters(client: Any) -> list[DeadLetter]:
    letters = DeadLetters(client)
    return [letters.show(entry.id) for entry in letters.list(limit=1_000_000)]


def count_done(count: int, notes: Any, client: Any) -> int:
    """Return for how many of *count* messages the end is known."""
    with contextlib.suppress(Gone, OSError):
        done = int(notes.hlen("doubled")) + len(DeadLetters(client))
        if done < count:
            return done
        # A message that was killed too often after its end is counted in both.
        ends = {letter.message["n"] for letter in all_letters(client)}
        return len(ends | {int(n) for n in notes.hkeys("doubled")})
    return 0


def check(
    count: int, found: dict[str, str], letters: Iterable[DeadLetter], killed: Path, most: float
) -> set[int]:
    """
    Check that no result is wrong, that bad messages were given up because the program refused them,
    and that at *most* this many good ones were given up, because they were killed too often. Return
    the missing messages.
    """
    values = {int(n): int(value) for n, value in found.items()}
    causes = {letter.message["n"]: letter.causes[-1] for letter in letters}
    refused = {n for n, cause in causes.items() if ": Reject: ill" in cause.text}
    assert {n: value for n, value in values.items() if value != 2 * n or is_ill(n)} == {}
    assert set(filter(is_ill, causes)) == refused
    innocent = {n: cause.type for n, cause in causes.items() if not is_ill(n)}
    assert set(innocent.values()) <= KILLED, innocent
    assert len(innocent) <= most
    assert killed.exists(), "no start was killed"
    return set(range(count)) - values.keys() - causes.keys()


def told(
    count: int,
    faults: Mapping[str, int],
    killed: Path,
    letters: Sequence[DeadLetter],
    **more: Any,
) -> None:
    """Print the figures, for ``pytest -s``."""
    starts = len(killed.read_text()) if killed.exists() else 0
    ill = sum(map(is_ill, range(count)))
    print(
        f"{count} messages, {ill} of them ill, {dict(faults)}, {starts} starts killed, "
        f"{len(letters)} letters, {more}"
    )
