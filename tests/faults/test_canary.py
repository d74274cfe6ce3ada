"""A message's content is in no log above DEBUG, no exception, no cause of a letter, no figures."""

from __future__ import annotations

import base64
import contextlib
import logging
import pickle
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from emit import Router, errors
from emit.dead import DeadLetters
from emit.errors import EmitError
from emit.host.host import Host, current
from emit.letter import DeadLetter
from emit.once import asking
from emit.router.envelope import unpack
from tests.queues.canary import CANARY, FAILURES, declare
from tests.queues.notes import graph
from tests.queues.worker import celery_worker, eventually, rq_worker
from tests.shared_hosts import listening, open_client

#: Errors that no failure above has, and why they can't tell of a message.
WITHOUT: dict[str, str] = {
    **dict.fromkeys(("EmitError", "NodeError", "HostError"), "never raised themselves"),
    **dict.fromkeys(("Reject", "Retry"), "its author's words"),
    "GraphError": "of a declaration",
    "DispatchError": "see test_a_queue_that_refuses",
    "LedgerError": "see test_a_queue_that_refuses",
    "Unreadable": "see test_what_no_worker_can_read",
    "InProgress": "its key is its author's",
    "LetterNotFound": "an id",
    "AmbiguousLetter": "ids",
    "UnreadableLetter": "see test_a_letter_that_can_not_be_read",
    "Undelivered": "a node and a number",
    "PoolTimeout": "a number and a time",
    "PoolClosed": "nothing but the node",
    "Unavailable": "the error of a start, of which there are some above",
    "HostLost": "a path, and what the system said",
}


def test_every_error_is_looked_at() -> None:
    """Each class of emit.errors is what a node above fails with, or is known to say nothing."""
    seen = {failure.error for failure in FAILURES.values()} - {""}
    assert seen | WITHOUT.keys() == set(errors.__all__)
    assert not seen & WITHOUT.keys()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Router]:
    router = Router()
    declare(router, {})
    with router:
        yield router


def told(error: BaseException) -> str:
    """All that is shown, logged or kept of an error, its letter's message aside."""
    letter = vars(error).pop("letter", None)
    parts = ["".join(traceback.format_exception(error)), repr(error), repr(letter)]
    parts += [repr(cause) for cause in (letter.causes if letter else ())]
    for each in _chain(error):
        parts.append(repr(pickle.dumps(each)))
    return "\n".join(parts)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        if isinstance(error, EmitError):
            yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def failure_of(node: Any, message: dict[str, Any]) -> EmitError | None:
    try:
        node(message)
    except EmitError as error:
        return error
    return None


@pytest.mark.parametrize("slug", FAILURES)
def test_in_this_process(slug: str, nodes: Router, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is there anything of it in what `emit top` shows."""
    failure = FAILURES[slug]
    caplog.set_level(logging.INFO)
    node = nodes.functions[f"canary.{slug}"]
    for _ in range(2):  # what comes unasked is noticed with the next message
        error = failure_of(node, failure.message)
        assert type(error).__name__ == (failure.error or "NoneType"), error
        if error is not None:
            assert CANARY not in told(error)
            assert len(str(error)) < 1000
    assert CANARY not in caplog.text
    assert CANARY not in repr(caplog.records)
    host = current()
    assert isinstance(host, Host)
    assert CANARY not in repr(host.describe(f"canary.{slug}"))
    assert CANARY not in repr(host.snapshot())


def test_at_debug(nodes: Router, caplog: pytest.LogCaptureFixture) -> None:
    """Lines on stdout that are no frames are shown there."""
    caplog.set_level(logging.DEBUG, "emit.node")
    nodes.functions["canary.prints"](FAILURES["prints"].message)
    shown = [record.levelname for record in caplog.records if CANARY in record.getMessage()]
    assert set(shown) == {"DEBUG"}


#: Gives each node its message, twice, and prints what is told of each error.
CLIENT = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
from emit import Router
from tests.faults.test_canary import failure_of, told
from tests.queues.canary import FAILURES, declare
router = Router()
declare(router, {})
with router:
    for slug, failure in FAILURES.items():
        for _ in range(2):
            error = failure_of(router.functions[f"canary.{slug}"], failure.message)
            print("came", slug, type(error).__name__, "as", failure.error or "NoneType")
            print(told(error) if error else "")
"""


def test_through_a_shared_host(short_folder: Path) -> None:
    """Nor in the log of the host."""
    path = short_folder / "host.sock"
    with listening(path) as shared:
        with open_client(path, CLIENT) as client:
            said, _ = client.communicate(timeout=200)
        shared.terminate()
        assert shared.stderr is not None
        log = shared.stderr.read()
    came = [line.split() for line in said.splitlines() if line.startswith("came ")]
    assert [(slug, found) for _, slug, found, _, expected in came if found != expected] == []
    assert len(came) == 2 * len(FAILURES)
    assert CANARY not in said
    assert "is discarded" in log
    assert CANARY not in log


@pytest.mark.requires("redis-server")
@pytest.mark.parametrize("queue", ["celery", "rq"])
def test_in_a_worker(queue: str, redis: str, tmp_path: Path, monkeypatch: Any) -> None:
    """The content is missing from a worker's log at INFO, letters' causes and `emit dead list`."""
    monkeypatch.setenv("EMIT_TEST_QUEUE", queue)
    dead = {slug for slug, failure in FAILURES.items() if failure.error and not failure.waits}
    with graph("canary", redis) as module, contextlib.ExitStack() as stack:
        log = tmp_path / "log"
        if queue == "celery":
            worker = stack.enter_context(celery_worker(log, app="canary"))
        else:
            worker = stack.enter_context(rq_worker(log, "emit.rq.EmitWorker", "default"))
        for slug, failure in FAILURES.items():
            module.router.dispatch("test", f"canary.{slug}", failure.message)
        letters = DeadLetters(module.redis)
        eventually(lambda: len(letters.list(limit=1000)) >= len(dead), 200.0, "too few letters")
        for slug in FAILURES.keys() - dead - {"prints"}:
            worker.said(f'"canary.{slug}": ')
        found = letters.list(limit=1000)
        assert {entry.node.removeprefix("canary.") for entry in found} == dead
        assert CANARY not in repr(found)
        for entry in found:
            assert FAILURES[entry.node.removeprefix("canary.")].error == entry.cause.type
            assert CANARY not in repr(letters.show(entry.id).causes)
        command = [str(Path(sys.executable).parent / "emit"), "dead", "list", "--redis", redis]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert len(listed.splitlines()) == len(dead)
        assert CANARY not in listed
        assert CANARY not in worker.text


@pytest.mark.requires("redis-server")
@pytest.mark.parametrize("queue", ["celery", "rq"])
def test_a_queue_that_refuses(queue: str, redis: str, monkeypatch: Any) -> None:
    """redis-py quotes the command that was refused, and with it a message."""
    monkeypatch.setenv("EMIT_TEST_QUEUE", queue)
    message = {CANARY[:6]: CANARY}  # not far into the command, which redis-py cuts
    with graph("canary", redis) as module:
        module.redis.acl_setuser("default", enabled=True, commands=["-hset", "-lpush", "-llen"])
        try:
            with pytest.raises(errors.DispatchError, match=r"NOPERM|no permissions") as caught:
                module.router.dispatch("test", "canary.dies", message)
        finally:
            module.redis.acl_setuser("default", enabled=True, commands=["+@all"])
    assert CANARY not in told(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"v":1,"origin":"a","messages":[{{"card":"{CANARY}"',
        f'{{"v":1,"origin":"a","messages":["msgpack:{CANARY}"]}}',
        f'{{"v":1,"origin":"a","messages":["{CANARY}"]}}',
        f'{{"v":1,"origin":["{CANARY}"],"messages":[{{}}]}}',
        f'{{"v":1,"origin":"a","ids":["{CANARY}"],"messages":[{{}},{{}}]}}',
        f'{{"v":"{CANARY}"}}',
        f'{{"v":1,"{CANARY}":1}}',
        [CANARY],
    ],
)
def test_what_no_worker_can_read(text: Any) -> None:
    """Its letter has it as it came; the error says what is wrong."""
    with pytest.raises(errors.Unreadable) as caught:
        unpack("n", "7", text)
    assert CANARY not in told(caught.value)


@pytest.mark.requires("redis-server")
@pytest.mark.parametrize("code", [*range(1, 9), 77])
def test_a_letter_that_can_not_be_read(code: int, redis: str) -> None:
    """A damaged value in it is told by its kind, where Python would quote it."""
    packed = msgpack.packb({"card": msgpack.ExtType(code, 2 * CANARY.encode())})
    with pytest.importorskip("redis").Redis.from_url(redis) as client:
        letters = DeadLetters(client)
        id = letters.add(DeadLetter("n", {"card": CANARY}, ()))
        text = "msgpack:" + base64.b64encode(packed).decode()
        (key,) = [key for key in client.scan_iter() if client.type(key) == b"hash"]
        client.hset(key, "message", text)
        with pytest.raises(errors.UnreadableLetter) as caught:
            letters.show(id)
        (entry,) = letters.list()
    assert CANARY not in told(caught.value)
    assert CANARY not in entry.fault


@pytest.mark.requires("redis-server")
def test_a_command_that_is_refused(redis: str) -> None:
    """Its arguments are hidden in all that led to the error, and what Redis said is told."""
    client = pytest.importorskip("redis").Redis.from_url(redis)
    client.set("taken", 1)
    with client, client.pipeline() as pipeline:
        pipeline.hset("taken", "card", CANARY)
        with pytest.raises(errors.LedgerError) as caught, asking(client, "keep it"):
            pipeline.execute()
    assert CANARY not in told(caught.value)
    assert "Command # 1 (HSET ...) of pipeline caused error: WRONGTYPE" in str(caught.value)
