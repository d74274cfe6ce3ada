"""Poison, and processes that are killed in the middle of everything."""

from __future__ import annotations

import collections
import itertools
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from emit.errors import CallTimeout, HostError, ProcessDied, ProtocolError
from emit.host.calls import Calls
from emit.letter import DeadLetter
from tests.faults.nodes import CHAOS, pool, raw, sdk

pytestmark = pytest.mark.usefixtures("leak_free")


#: What a message may do to its process, and how the host is to see that.
WAYS: dict[str, tuple[str, type[HostError]]] = {
    "exit": ("sys.exit(3)", ProcessDied),
    "segfault": ("os.kill(os.getpid(), signal.SIGSEGV)", ProcessDied),
    "kill": ("os.kill(os.getpid(), signal.SIGKILL)", ProcessDied),
    "memory": ("a = bytearray(1 << 50)", ProcessDied),
    "hang": ("hang()", CallTimeout),
    "close": ("os.close(1); hang()", ProtocolError),
    "wrong op": ("frame(op='call', id=1, msg={})", ProtocolError),
    "id of the wrong type": ("frame(op='end', id='x', msgs=[])", ProtocolError),
    "half a frame": ("write(line(op='end', id=id, msgs=[1])[:-3]); sys.exit()", ProcessDied),
}

#: Answers each message with its number, and does what the message says first.
NODE = """
for id, msg in calls():
    if msg["poison"]:
        {way}
    end(id, msg["n"])
"""


@pytest.mark.parametrize("place", [0, 25, 49], ids=["first", "middle", "last"])
@pytest.mark.parametrize("way", WAYS)
def test_poison_is_given_up_and_its_mates_are_not(way: str, place: int) -> None:
    """It is tried three times, then a dead letter; the other 49 are delivered once."""
    code, error = WAYS[way]
    messages = [{"n": n, "poison": n == place} for n in range(50)]
    # A hang is seen by its deadline alone, which a loaded machine must not break for the mates.
    timeout = 2.0 if way == "hang" else 30.0
    with pool(raw(NODE.format(way=code)), timeout=timeout) as node:
        outcomes = list(node.call_many(messages))
    failure = outcomes.pop(place)
    assert isinstance(failure, error)
    assert failure.letter.message == messages[place]
    assert [cause.type for cause in failure.letter.causes] == [error.__name__] * 3
    assert outcomes == [[n] for n in range(50) if n != place]


def test_the_same_poison_again_and_again() -> None:
    """It wears out attempts, not the breaker: the others are answered after it."""
    poison = {"n": 0, "poison": True}
    letters: list[DeadLetter] = []
    with pool(raw(NODE.format(way="sys.exit(3)")), dead_letter=letters.append) as node:
        for n in range(6):
            assert node.call(poison) == []
            assert node.call({"n": n, "poison": False}) == [n]
    assert [len(letter.causes) for letter in letters] == [3] * 6


CONCURRENT = """
lock = threading.Lock()
def work(msg):
    if msg.poison:
        os._exit(3)
    time.sleep(0.005)  # so that others are at work when one dies
    return msg.n
serve(work, concurrency=8)
"""


def test_a_process_with_many_messages_dies() -> None:
    """
    Nobody is charged if eight run at a time: each runs again alone, and the culprit dies alone.
    """
    messages = [{"n": n, "poison": n == 11} for n in range(40)]
    with pool(sdk(CONCURRENT)) as node:
        outcomes = list(node.call_many(messages))
        retries = node.snapshot()["retries"]
    assert [outcome for outcome in outcomes if isinstance(outcome, list)] == [
        [n] for n in range(40) if n != 11
    ]
    assert isinstance(outcomes[11], ProcessDied)
    assert retries == {"ProcessDied": 3}


POISONED = """
def work(msg):
    if msg.poison:
        os.kill(os.getpid(), signal.SIGKILL)
    return msg.n
serve(work)
"""


class Killer:
    """
    Kills a process of the pool, each time that so many more messages were answered.

    By progress and not by the clock, so that a slow machine kills no more of them than it
    gets done.
    """

    def __init__(self, node: Calls, every: int, chance: random.Random) -> None:
        self._node = node
        self._every = every
        self._chance = chance
        self.kills = 0

    def watch(self, outcomes: Iterator[Any]) -> Iterator[Any]:
        for number, outcome in enumerate(outcomes):
            if number >= self.kills * self._every:
                self._kill()
            yield outcome

    def _kill(self) -> None:
        processes = self._node.pool.processes
        if processes:
            self._chance.choice(processes).child.kill_group()
            self.kills += 1


@pytest.mark.parametrize("seed", range(3 if CHAOS else 1))
def test_processes_are_killed_all_the_time(seed: int) -> None:
    """None is lost, none delivered twice, and exactly the poison is in the dead letters."""
    count, size = (100_000, 4) if CHAOS else (10_000, 2)
    chance = random.Random(seed)
    poison = set(chance.sample(range(count), 14))
    messages = ({"n": n, "poison": n in poison} for n in range(count))
    letters: list[DeadLetter] = []
    with pool(sdk(POISONED), size=size, dead_letter=letters.append) as node:
        killer = Killer(node, 500, chance)
        outcomes = list(killer.watch(node.call_many(messages)))
        figures = node.snapshot()
    assert outcomes == [[] if n in poison else [n] for n in range(count)]
    assert {letter.message["n"] for letter in letters} == poison
    assert len(letters) == 14
    assert killer.kills >= count / 500 - 1
    assert figures["starts"] >= 14 * 3


CANCELLED = """
def work(msg):
    if msg.poison:
        os.kill(os.getpid(), signal.SIGKILL)
    while msg.slow and context().attempt == 1 and not context().cancelled:
        time.sleep(0.002)  # between two looks
    return msg.n
serve(work, concurrency=CONCURRENCY)
"""


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("seed", range(3 if CHAOS else 1))
def test_calls_are_cancelled_all_the_time(seed: int, concurrency: int) -> None:
    """
    Batches are left at any place, messages take too long, and processes are killed meanwhile: each
    message that was not delivered is sent again, and each outcome is that of its own message.
    """
    count, size, poisonous = (100_000, 4, 14) if CHAOS else (4_000, 2, 2)
    chance = random.Random(seed)
    poison, slow = (set(chance.sample(range(count), poisonous)) for _ in range(2))
    letters: list[DeadLetter] = []
    code = sdk(CANCELLED.replace("CONCURRENCY", str(concurrency)))
    # A loaded machine must not bury a message that it kept waiting.
    limits = {"timeout": 1.0, "max_attempts": 5, "cancel_grace": 0.2}
    with pool(code, size=size, dead_letter=letters.append, **limits) as node:
        killer = Killer(node, 500, chance)
        delivered: list[Any] = []
        while len(delivered) < count:
            rest = range(len(delivered), count)
            messages = ({"n": n, "poison": n in poison, "slow": n in slow} for n in rest)
            batch = node.call_many(messages)
            delivered += killer.watch(itertools.islice(batch, chance.randrange(1, 800)))
            batch.close()
        figures = node.snapshot()
    assert delivered == [[] if n in poison else [n] for n in range(count)]
    assert sorted(letter.message["n"] for letter in letters) == sorted(poison)
    assert figures["starts"] >= poisonous * 5


def test_processes_are_killed_under_many_threads() -> None:
    """Calls one by one from eight threads: each gets the answer to its own message."""
    wrong: list[Any] = []
    failures: collections.Counter[str] = collections.Counter()
    rounds = 2_000 if CHAOS else 200
    killed: list[int] = []

    def call(node: Calls, thread: int) -> None:
        for n in range(thread * rounds, (thread + 1) * rounds):
            if n % 50 == 0 and (processes := node.pool.processes):
                process = random.choice(processes)
                process.child.kill_group()
                killed.append(process.child.pid)
            try:
                answer = node.call({"n": n, "poison": False})
            except HostError as error:  # three kills in a row, or a kill before it was ready
                failures[type(error).__name__] += 1
            else:
                if answer != [n]:
                    wrong.append((n, answer))

    with pool(sdk(POISONED), size=4) as node:
        threads = [threading.Thread(target=call, args=(node, n)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len(killed) > 10
    assert sum(failures.values()) < len(killed)


@pytest.mark.skipif(not CHAOS, reason="the clock decides; only with EMIT_CHAOS=1")
@pytest.mark.parametrize("cancelling", [False, True], ids=["", "cancellations"])
def test_a_kill_every_fifty_milliseconds(cancelling: bool) -> None:
    """
    Kills at any moment lose no message, deliver none twice and bury no innocent one; also if
    batches are left at any place, and messages take too long.
    """
    count = 100_000
    chance = random.Random(2)
    poison = set(chance.sample(range(count), 14))
    slow = set(chance.sample(range(count), 14 if cancelling else 0)) - poison
    letters: list[DeadLetter] = []
    done = threading.Event()
    code = CANCELLED.replace("CONCURRENCY", "1") if cancelling else POISONED
    limits = {"timeout": 1.0, "max_attempts": 5, "cancel_grace": 0.2} if cancelling else {}
    with pool(sdk(code), size=4, dead_letter=letters.append, **limits) as node:

        def kill() -> None:
            while not done.wait(0.05):
                for process in node.pool.processes[:1]:
                    process.child.kill_group()

        killer = threading.Thread(target=kill)
        killer.start()
        outcomes: list[Any] = []
        try:
            while len(outcomes) < count:
                rest = range(len(outcomes), count)
                messages = ({"n": n, "poison": n in poison, "slow": n in slow} for n in rest)
                batch = node.call_many(messages)
                most = chance.randrange(1, 20_000) if cancelling else count
                outcomes += itertools.islice(batch, most)
                batch.close()
        finally:
            done.set()
            killer.join()
    buried = {letter.message["n"] for letter in letters}
    assert buried == poison
    assert outcomes == [[] if n in buried else [n] for n in range(count)]
