"""Every process that is lost by its own fault is a warning in its node's log, and no other is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.nodes import pool, raw
from tests.hosts import until
from tests.shared_hosts import client, listening

pytestmark = pytest.mark.usefixtures("leak_free")

#: Stands in for a payload that must not get into a log.
CANARY = "canary-91b4"

#: What a program does with its first message, and how the log tells of it.
FAULTS = {
    "died": ("os._exit(3)", "ended with exit code 3"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL: out of memory?"),
    "hangs": ("hang()", "gave no answer within timeout = 2 s"),
    "grows": ("held = b'x' * 90_000_000; hang()", "over max_rss = 80000000"),
    "deaf": ("os.close(1); hang()", "it closed its stdout and lives on"),
    "nonsense": ("frame(op='end', id=[msg['text']])", "the id of 'end' is list, not int"),
    "impostor": ("end(id + 100, msg['text']); hang()", "it answered what nobody had asked"),
}

WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "call": lambda node, message: node.call(message),
    "call_many": lambda node, message: next(iter(node.call_many([message]))),
    "stream": lambda node, message: list(node.stream(message)),
}


def failing_once(fault: str) -> list[str]:
    return raw(f"""
        for id, msg in calls():
            if msg["attempt"] == 1:
                {fault}
            end(id, "right")
    """)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", FAULTS)
def test_at_work(fault: str, way: str, caplog: pytest.LogCaptureFixture) -> None:
    """The retry succeeds, so that nobody else would hear of it."""
    code, cause = FAULTS[fault]
    limits = {
        "hangs": {"timeout": 2.0},
        "impostor": {"timeout": 2.0},
        "grows": {"max_rss": 80_000_000},
    }
    with pool(failing_once(code), **limits.get(fault, {})) as node:
        assert WAYS[way](node, {"text": CANARY}) == ["right"]
        assert sum(node.snapshot()["retries"].values()) == 1
    (record,) = (r for r in caplog.records if r.levelno >= logging.WARNING)
    assert (record.name, record.levelname) == ("emit.node.n", "WARNING")
    assert cause in record.getMessage()
    assert CANARY not in caplog.text


@pytest.mark.parametrize("way", WAYS)
def test_at_a_shared_host(way: str, short_folder: Path) -> None:
    """The loss is in the shared host's log."""
    path = short_folder / "host.sock"
    with listening(path) as host:
        with client(path, failing_once("os._exit(3)")) as node:
            assert WAYS[way](node, {"text": CANARY}) == ["right"]
        host.terminate()
        _, said = host.communicate()
    (line,) = (line for line in said.splitlines() if " WARNING emit.node.n " in line)
    assert "is discarded" in line
    assert "ended with exit code 3" in line
    assert CANARY not in said


def test_each_that_dies_idle(caplog: pytest.LogCaptureFixture) -> None:
    """The death is logged once, when the next message finds the process dead."""
    with pool(raw("for id, msg in calls(): end(id, os.getpid())")) as node:
        node.call({})
        (process,) = node.pool.processes
        process.child.kill_tree()
        until(process.child.poll)
        node.call({})
    (record,) = caplog.records
    assert "was killed by SIGKILL" in record.getMessage()


def test_one_that_nobody_needed_again(caplog: pytest.LogCaptureFixture) -> None:
    """The death is logged at the latest when the process would be stopped."""
    with pool(raw("for id, msg in calls(): end(id, os.getpid())")) as node:
        node.call({})
        (process,) = node.pool.processes
        process.child.kill_tree()
        until(process.child.poll)
    (record,) = caplog.records
    assert "was killed by SIGKILL" in record.getMessage()


def test_none_that_is_left_in_the_middle(caplog: pytest.LogCaptureFixture) -> None:
    """A caller who takes no more results has a process killed that did nothing wrong."""
    program = raw("for id, msg in calls(): frame(op='out', id=id, msgs=[1]); hang()")
    with pool(program) as node:
        results = node.stream({})
        next(results)
        results.close()
        assert node.snapshot()["ends"] == {"failed": 1}
    assert caplog.records == []


def test_none_that_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    """It has done its work."""
    with pool(raw("for id, msg in calls(): end(id, os.getpid())"), max_calls=1) as node:
        first = node.call({})
        until(lambda: node.call({}) != first)
    assert caplog.records == []
