"""What befalls those who work on messages, and what must have become of the messages then."""

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

#: What a message that is well may be given up for, here: it was being killed all the time.
KILLED = {"Undelivered", "ProcessDied", "CallTimeout"}


class Storm:
    """
    What befalls a Redis, the connections to it, and who works with it: one after the other, at
    times that nobody is in step with.

    Attributes:
        faults: How often each happened.
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
        Do one of it, or *kill* something. Each kind happens early: a fast machine has done all
        before long.
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
        time.sleep(self._denied)  # the fault itself: so long Emit may touch no key of its own
        self._server.allow("~*")

    def _take_away(self) -> None:
        self._server.kill()
        time.sleep(5)  # the fault itself: so long Redis is away
        self._server.start()


def kill_something(worker: Worker) -> str:
    """A process of the pool, or one of a node."""
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
    """What the program refuses."""
    return n % 100 == 13


def send(module: Any, name: str, count: int) -> None:
    """Send so many numbers: most in batches, each fifth in a task of its own."""
    for start in range(0, count, 500):
        numbers = range(start, min(start + 500, count))
        module.router._carrier.carry("test", name, [{"n": n} for n in numbers if n % 5])
        for n in numbers[::5]:
            module.router.dispatch("test", name, {"n": n})


def task_of(n: int) -> tuple[int, ...]:
    """Which of the dispatched tasks a number was in: one of its own, or the batch of 50."""
    block, place = divmod(n, 500)
    return (n,) if n % 5 == 0 else (block, (place - place // 5 - 1) // 50)


def all_letters(client: Any) -> list[DeadLetter]:
    letters = DeadLetters(client)
    return [letters.show(entry.id) for entry in letters.list(limit=1_000_000)]


def count_done(count: int, notes: Any, client: Any) -> int:
    """Of so many messages those whose end is known."""
    with contextlib.suppress(Gone, OSError):
        done = int(notes.hlen("doubled")) + len(DeadLetters(client))
        if done < count:
            return done
        # One that was killed too often after its end is in both.
        ends = {letter.message["n"] for letter in all_letters(client)}
        return len(ends | {int(n) for n in notes.hkeys("doubled")})
    return 0


def check(
    count: int, found: dict[str, str], letters: Iterable[DeadLetter], killed: Path, most: float
) -> set[int]:
    """
    Check that none is wrong, that all that are ill were given up, and of the others only what
    may have been killed too often, at *most* so many. Returns those that are missing.
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
