"""Tests of how a program of the Python SDK ends."""

from __future__ import annotations

import signal

import pytest
from sdk_host import HANG, NODES, hosted


@pytest.mark.parametrize("how", ["close", "bye", "term"])
def test_accepted_calls_are_finished_before_the_exit(tmp_path, how):
    """End of input, bye and SIGTERM let the open call finish; atexit runs; the status is 0."""
    text = NODES + "\nimport atexit\natexit.register(lambda: print('cleaned'))\nserve()\n"
    go = tmp_path / "go"
    with hosted(tmp_path, text) as host:
        host.ask("slow", go=str(go))
        assert host.read()["op"] == "out"
        if how == "close":
            host.process.stdin.close()
        elif how == "bye":
            host.send(op="bye")
        else:
            host.process.send_signal(signal.SIGTERM)
        go.touch()
        assert host.answer() == {"op": "end", "id": 1, "msgs": ["last"]}
        assert host.process.wait(HANG) == 0
        assert b"cleaned" in host.process.stderr.read()


def test_sigterm_ends_an_idle_process(tmp_path):
    """A process that waits for calls exits 0 at SIGTERM."""
    with hosted(tmp_path) as host:
        assert host.call("echo", value=1)["op"] == "end"
        host.process.send_signal(signal.SIGTERM)
        assert host.process.wait(HANG) == 0


def test_sigint_is_left_to_the_host(tmp_path):
    """Ctrl-C on the terminal does not end a hosted process."""
    with hosted(tmp_path) as host:
        host.process.send_signal(signal.SIGINT)
        assert host.call("echo", value=1)["op"] == "end"


def test_a_handler_that_never_ends_does_not_outlive_its_host_for_long(tmp_path):
    """A busy handler gets its grace once the input has ended, and then the process exits."""
    text = NODES.replace(
        "import asyncio", "import emit_sdk; emit_sdk.GRACE = 0.1\nimport asyncio", 1
    )
    with hosted(tmp_path, text + "\nserve()\n") as host:
        host.send(op="call", id=1, node="wait", msg={})
        assert host.end() == 1
