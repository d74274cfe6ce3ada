"""The deadline of a call: what the process is told of it, and a handler that gives up at it."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from emit.cli.output import describe_failure
from emit.errors import CallTimeout, RemoteError
from emit.host.calls import Calls
from tests.faults.nodes import pool, raw, started
from tests.hosts import until
from tests.shared_hosts import client, listening

pytestmark = pytest.mark.usefixtures("leak_free")

#: Gives up at the deadline of its first `late` attempts; then emits the attempt and its pid.
LATE = """
for id, msg in calls():
    if msg["attempt"] > msg["late"]:
        end(id, [msg["attempt"], os.getpid()])
    else:
        cause = {"type": "AbortError", "message": "aborted"}
        failed = {"type": "Error", "message": "no answer", "stack": ["a.mjs:3"], "cause": cause}
        frame(op="err", id=id, **failed, timeout=True, **msg.get("more", {}))
"""

#: Emits what it is told of the time it has; the message `busy` waits for a file.
TOLD = """
ready()
while True:
    call = read()
    if call["op"] == "call":
        while "until" in call["msg"] and not os.path.exists(call["msg"]["until"]):
            time.sleep(0.002)  # between two looks
        end(call["id"], call["meta"]["deadline_ms"])
"""


def one(calls: Calls, message: dict[str, Any]) -> list[Any]:
    return calls.call(message)


def of_a_batch(calls: Calls, message: dict[str, Any]) -> list[Any]:
    """The outcome of the second of three messages; the others are answered at once."""
    first, outcome, last = calls.call_many([{"late": 0}, message, {"late": 0}])
    assert (first[0][0], last[0][0]) == (1, 1)
    if isinstance(outcome, Exception):
        raise outcome
    assert isinstance(outcome, list)
    return outcome


def streamed(calls: Calls, message: dict[str, Any]) -> list[Any]:
    return list(calls.stream(message))


ways = pytest.mark.parametrize("way", [one, of_a_batch, streamed], ids=lambda way: way.__name__)
Way = Callable[[Calls, dict[str, Any]], list[Any]]


@contextlib.contextmanager
def shared(folder: Path) -> Iterator[Calls]:
    with (
        listening(folder / "host.sock"),
        client(folder / "host.sock", raw(LATE), timeout=60) as calls,
    ):
        yield calls


@ways
def test_it_is_tried_again(way: Way) -> None:
    """The call is tried again as after any timeout; the process has answered and is kept."""
    with pool(raw(LATE), timeout=60) as node:
        [[attempt, pid]] = way(node, {"late": 2})
        assert attempt == 3
        assert node.call({"late": 0}) == [[1, pid]]
        assert node.snapshot()["starts"] == 1
        assert node.snapshot()["retries"] == {"CallTimeout": 2}
        assert node.snapshot()["failures"] == {}


@ways
def test_after_max_attempts_it_is_a_timeout(way: Way) -> None:
    """The timeout has the author's error as its cause, and a dead letter with all attempts."""
    with pool(raw(LATE), timeout=60, max_attempts=2) as node:
        with pytest.raises(CallTimeout) as caught:
            way(node, {"late": 2})
        error = caught.value
        text = '"n" gave up at its deadline, timeout = 60 s: Error: no answer (a.mjs:3)'
        assert str(error) == text
        assert isinstance(error.remote, RemoteError)
        assert error.remote is error.__cause__
        assert (error.remote.type, error.remote.message) == ("Error", "no answer")
        assert [cause.text for cause in error.letter.causes] == [text, text]
        assert describe_failure(error)[:2] == [text, "    a.mjs:3"]
        assert str(pickle.loads(pickle.dumps(error)).remote) == str(error.remote)
        assert node.snapshot()["failures"] == {"CallTimeout": 1}


@pytest.mark.parametrize("way", [one, of_a_batch], ids=lambda way: way.__name__)
def test_through_a_shared_host(way: Way, short_folder: Path) -> None:
    """The same attempts, and the same error."""
    with shared(short_folder) as calls:
        assert way(calls, {"late": 2})[0][0] == 3
        with pytest.raises(CallTimeout) as caught:
            way(calls, {"late": 3})
        assert isinstance(caught.value.remote, RemoteError)
        assert len(caught.value.letter.causes) == 3


@pytest.mark.parametrize("retry", [True, False])
def test_what_the_author_says_counts_more(retry: bool) -> None:
    """An author's wish for another attempt, or for none, counts before the time that it took."""
    with pool(raw(LATE), timeout=60) as node:
        more = {"retry": retry, **({"after": 0.0} if retry else {})}
        if retry:
            assert node.call({"late": 1, "more": more})[0][0] == 2
            assert node.snapshot()["retries"] == {"RemoteError": 1}
        else:
            with pytest.raises(RemoteError, match="no answer"):
                node.call({"late": 1, "more": more})
            assert node.snapshot()["retries"] == {}


def test_the_process_is_told_a_little_less() -> None:
    """The program's deadline is earlier, so that its error is heard before it is killed."""
    for timeout, told in ((1.0, 950), (4.0, 3800), (60.0, 59_750)):
        with pool(raw(TOLD), timeout=timeout) as node:
            started(node)
            assert node.call({}) == [told]
            assert list(node.call_many([{}] * 3)) == [[told]] * 3
            assert list(node.stream({})) == [told]


def test_what_was_waited_for_a_process_is_gone(tmp_path: Path) -> None:
    """A message that had to wait for a process is told of the rest of its time."""
    with pool(raw(TOLD), timeout=60, size=1) as node:
        started(node)
        with ThreadPoolExecutor() as threads:
            threads.submit(node.call, {"until": str(tmp_path / "go")})
            until(lambda: node.pool.snapshot()["busy"] == 1)
            waiting = threads.submit(node.call, {})
            until(lambda: node.pool.snapshot()["queued"] == 1)
            time.sleep(0.1)  # which it waits at least
            (tmp_path / "go").touch()
            [told] = waiting.result()
        assert told <= 59_650
