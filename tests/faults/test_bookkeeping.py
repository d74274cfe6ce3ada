"""
A failing command to Emit's own Redis decides nothing about a message.

A worker handles messages of every kind, and all commands that Emit makes meanwhile are noted. Then
each of them fails in turn while such messages come, until somebody has noticed; and in the end each
message is where it belongs. ``pytest -s`` prints what failed and what happened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from redis import Redis

from emit.dead import DeadLetters
from tests.faults.nodes import CHAOS
from tests.faults.servers import Server
from tests.queues.faulty import KINDS
from tests.queues.notes import graph
from tests.queues.worker import Worker, celery_worker, eventually, rq_worker

pytestmark = pytest.mark.requires("redis-server")

#: Tests that share the commands, to run at the same time.
PARTS = 4

#: How each message ends: as done, or as a dead letter with a cause of this type.
ENDS = {
    "well": "done",
    "well_after_a_death": "done",
    "once": "done",
    "ill": "ValueError",
    "ill_after_a_death": "ValueError",
    "deadly": "Undelivered",
}


class Bench:
    """A worker whose commands can be made to fail, and the messages that were sent to it."""

    def __init__(self, queue: str, module: Any, folder: Path, worker: Worker) -> None:
        self.queue = queue
        self.worker = worker
        self._module = module
        self._redis = module.redis
        self._folder = folder
        self._count = 0

    def send(self) -> int:
        """Send a message of each kind. Returns their number."""
        self._count += 5
        for kind in (*ENDS, "five"):
            self._module.send("test", f"kept.{kind}", {"n": self._count})
        return self._count

    def wait_for_the_end(self, n: int) -> None:
        """Wait until each message of :meth:`send` has ended as it should, and nothing else has."""
        try:
            eventually(lambda: not self._unended(n))
            eventually(self._is_quiet, what="the queue is never empty")
        except AssertionError:
            pytest.fail(f"{self._unended(n)} have not ended\n{self.worker.text}")
        assert not self._wrong(n), self.worker.text
        runs = self._redis.smembers(f"deadly:{n}")
        assert len(runs) == 2, f"not run max_deliveries times: {runs}\n{self.worker.text}"

    def _expected(self, n: int) -> tuple[dict[str, set[str]], set[tuple[str, str, int]]]:
        done = {kind: {str(n)} for kind, end in ENDS.items() if end == "done"}
        done["one_of_five"] = {str(m) for m in range(n, n + 5) if m % 5 != 3}
        dead = {(f"kept.{kind}", end, n) for kind, end in ENDS.items() if end != "done"}
        return done, dead | {("kept.one_of_five", "ValueError", n + 3)}

    def _unended(self, n: int) -> list[Any]:
        done, dead = self._expected(n)
        come = {kind: self._redis.smembers(f"done:{kind}") for kind in done}
        here = [(kind, ns - come[kind]) for kind, ns in done.items() if ns - come[kind]]
        return [*here, *(dead - set(self._letters()))]

    def _wrong(self, n: int) -> list[Any]:
        _, dead = self._expected(n)
        letters = [letter for letter in self._letters() if n <= letter[2] < n + 5]
        return sorted(set(letters) - dead)

    def _letters(self) -> list[tuple[str, str, int]]:
        letters = DeadLetters(self._redis)
        found = [letters.show(entry.id) for entry in letters.list(limit=10_000)]
        return [(each.node, each.causes[-1].type, each.message["n"]) for each in found]

    def _is_quiet(self) -> bool:
        if self.queue == "celery":
            return not self._redis.llen("celery") and not self._redis.hlen("unacked")
        return not self._redis.llen("rq:queue:default") and not self._redis.zcard("rq:wip:default")

    def made(self) -> list[str]:
        """The commands of Emit's so far."""
        return sorted(set(self._lines("made")))

    def fail(self, command: str, kind: str) -> int:
        """
        Make a command fail while messages come, until it has four times or all have ended.

        Returns:
            How often it did.
        """
        (self._folder / "hit").unlink(missing_ok=True)
        (self._folder / "fault").write_text(json.dumps({"command": command, "kind": kind}))
        n = self.send()

        def is_noticed() -> bool:
            hits = len(self._lines("hit"))
            return hits > 3 or (hits > 0 and not self._unended(n))

        eventually(is_noticed, what=f"{command} is not made")
        (self._folder / "fault").unlink()
        self.wait_for_the_end(n)
        return len(self._lines("hit"))

    def _lines(self, name: str) -> list[str]:
        file = self._folder / name
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture(params=["celery", "rq"])
def bench(
    request: Any, redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    monkeypatch.setenv("EMIT_TEST_QUEUE", request.param)
    folder = tmp_path / "faults"
    folder.mkdir()
    with ExitStack() as stack:
        module = stack.enter_context(graph("kept", redis))
        stack.callback(module.router.close)
        env = {"EMIT_TEST_FAULTS": str(folder)}
        log = tmp_path / "log"
        if request.param == "celery":
            worker = stack.enter_context(celery_worker(log, app="kept", **env))
        else:
            worker = stack.enter_context(rq_worker(log, "rq.Worker", "default", **env))
        (folder / "made").unlink(missing_ok=True)  # what it has tried at its start
        yield Bench(request.param, module, folder, worker)


@pytest.mark.parametrize("part", range(PARTS))
def test_each_command_fails(bench: Bench, part: int) -> None:
    """None lost, none dead that is not ill, none ill that is not dead, and the worker goes on."""
    bench.wait_for_the_end(bench.send())
    # By its name alone: then each command is of one part, whatever else is made in that run.
    commands = [name for name in bench.made() if crc32(name.encode()) % PARTS == part]
    assert commands
    print()
    for command in commands:
        chosen = crc32(command.encode()) // PARTS % len(KINDS)
        kinds = list(KINDS) if CHAOS else [list(KINDS)[chosen]]
        for kind in kinds:
            hits = bench.fail(command, kind)
            print(f"{bench.queue:<8}{command:<28}{kind:<8}{hits:>3} times  none lost, none wrong")
    assert bench.worker.is_alive


# -- a Redis that really goes away, and a user who really may not --------------------------------


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "keeper").mkdir()
    server = Server(tmp_path / "keeper")
    yield server
    server.kill()


def letters_at(url: str, app: str | None = None) -> list[tuple[str, str]]:
    with Redis.from_url(url) as client:
        return [
            (entry.node, entry.cause.type if entry.cause else "")
            for entry in DeadLetters(client, app=app).list()
        ]


def test_the_redis_of_letters_goes_away(
    redis: str, keeper: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Messages that are well go on. One that is ill waits, and so does one whose worker was killed,
    without being run; the log says so. When Redis is back, all end as they should.
    """
    monkeypatch.setenv("EMIT_TEST_QUEUE", "celery")
    monkeypatch.setenv("EMIT_TEST_KEEPER", keeper.url)
    with graph("kept", redis) as kept, celery_worker(tmp_path / "log", app="kept") as worker:
        keeper.kill()
        for kind in ("ill", "well_after_a_death", "well"):
            kept.send("test", f"kept.{kind}", {"n": 1})
        eventually(lambda: kept.redis.smembers("done:well") == {"1"})
        for kind in ("ill", "well_after_a_death"):
            eventually(lambda k=kind: len(waits(worker.text, k)) > 5)
            loud = [who for level, who in waits(worker.text, kind) if level == "WARNING"]
            assert len(loud) == len(set(loud)), "a process of the worker warns once a minute"
        assert not kept.redis.exists("done:well_after_a_death")
        assert "is given up" not in worker.text
        keeper.start()
        eventually(lambda: kept.redis.smembers("done:well_after_a_death") == {"1"})
        eventually(lambda: letters_at(keeper.url) == [("kept.ill", "ValueError")])
        worker.said("is given up")
        assert worker.text.count("is given up") == 1


def waits(text: str, kind: str) -> list[tuple[str, str]]:
    """The level of each line which says that a message of a node waits, and the process."""
    return re.findall(rf'(\w+)/(\S+)\] "kept\.{kind}": \S+ waits for ', text)


def test_the_only_redis_goes_away(
    keeper: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The broker is gone with it, in the middle of a task that is about to fail: its message comes
    again. kombu may end the worker then, as docs/celery.md tells, and a supervisor starts another.
    """
    monkeypatch.setenv("EMIT_TEST_QUEUE", "celery")
    go = {"EMIT_TEST_GO": str(tmp_path / "go"), "EMIT_TEST_LIMIT": "5"}
    with graph("kept", keeper.url) as kept:
        with celery_worker(tmp_path / "first", app="kept", **go) as worker:
            kept.send("test", "kept.held", {"n": 1})
            eventually(lambda: kept.redis.smembers("held") == {"1"})
            keeper.kill()
            (tmp_path / "go").touch()
            worker.said("stays in the queue")
            keeper.start()
        with celery_worker(tmp_path / "second", app="kept", **go):
            eventually(lambda: letters_at(keeper.url) == [("kept.held", "ValueError")])


def allowed(client: Any, *keys: str) -> None:
    client.execute_command(
        "ACL", "SETUSER", "keeper", "on", ">x", "resetkeys", "&*", "+@all", *keys
    )


@pytest.mark.parametrize("queue", ["celery", "rq"])
def test_its_user_may_not_and_then_may(
    redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queue: str
) -> None:
    """Refused commands wait while a worker runs, and go on when they are allowed."""
    monkeypatch.setenv("EMIT_TEST_QUEUE", queue)
    monkeypatch.setenv("EMIT_TEST_KEEPER", redis.replace("//", "//keeper:x@"))
    log = tmp_path / "log"
    with Redis.from_url(redis) as client, ExitStack() as stack:
        allowed(client, "~*")
        kept = stack.enter_context(graph("kept", redis))
        if queue == "celery":
            worker = stack.enter_context(celery_worker(log, app="kept"))
        else:
            worker = stack.enter_context(rq_worker(log, "emit.rq.EmitWorker", "default"))
        assert "could not" not in worker.text
        allowed(client, "~rq:*")
        for kind in ("ill", "well"):
            kept.send("test", f"kept.{kind}", {"n": 1})
        eventually(lambda: kept.redis.smembers("done:well") == {"1"})
        eventually(lambda: "could not" in worker.text and "permission" in worker.text)
        eventually(lambda: queue == "rq" or len(waits(worker.text, "ill")) > 2)
        assert letters_at(redis) == []
        allowed(client, "~*")
        eventually(lambda: letters_at(redis) == [("kept.ill", "ValueError")])


def test_the_result_backend_refuses(
    redis: str, keeper: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery is to note there what begins: no message depends on that."""
    monkeypatch.setenv("EMIT_TEST_QUEUE", "celery")
    monkeypatch.setenv("EMIT_TEST_BACKEND", keeper.url.replace("//", "//emit:secret@"))
    go = {"EMIT_TEST_GO": str(tmp_path / "go")}
    keeper.allow()
    with graph("kept", redis) as kept, celery_worker(tmp_path / "log", app="kept", **go) as worker:
        for kind in ("ill", "well"):
            kept.send("test", f"kept.{kind}", {"n": 1})
        eventually(lambda: kept.redis.smembers("done:well") == {"1"})
        eventually(lambda: letters_at(redis) == [("kept.ill", "ValueError")])
        worker.said("the result backend could not be told that it has begun")
        keeper.allow("~*")
        begun = kept.held.delay(n=2)
        eventually(lambda: begun.state == "STARTED")
        (tmp_path / "go").touch()
        eventually(lambda: begun.state == "FAILURE")
        kept.app.close()
