"""The trace context of a run, from an observer to a program and to later attempts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from emit import Router, RQRouter, ShellNode, context
from emit.context import Run, Trace
from emit.host.fate import Job
from emit.host.shared.data import from_job, to_run
from emit.letter import Cause, DeadLetter
from emit.observe import Started
from emit.router.envelope import Past

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def traced(router: Router) -> Router:
    """Give each run a context that names its message."""
    numbers: Iterator[int] = iter(range(100))

    @router.observe
    def trace(fact: Any) -> Any:
        if isinstance(fact, Started):
            return {"traceparent": f"run-{next(numbers)}", "tracestate": "k=v"}
        return None

    return router


def told(**declared: Any) -> list[Any]:
    """Return what a program was told of two messages."""
    router, heard = Router(), list[Any]()
    router.node(("said",), entry_point=True, name="tells")(type("tells", (ShellNode,), declared))

    @router.node((), "tells", name="hear")
    def hear(msg: Any) -> None:
        heard.append(msg.said)

    with traced(router):
        router(n=1)
        router(n=2)
    return heard


SHELL = """read -r line; echo "\\"$TRACEPARENT $TRACESTATE\\"" """


def test_a_program_for_one_message() -> None:
    """It has the context of its own run in its environment."""
    assert told(command=["sh", "-c", SHELL], mode="oneshot") == ["run-0 k=v", "run-2 k=v"]


def test_a_program_that_reads_lines() -> None:
    """It is told nothing, as its environment can't change with each message."""
    lines = f"while true; do {SHELL}; done"
    assert told(command=["sh", "-c", lines], mode="lines") == [" ", " "]


def test_a_program_with_an_sdk(tmp_path: Path) -> None:
    """Each call has the context of its own run."""
    program = tmp_path / "tells.py"
    program.write_text(
        "from emit_sdk import context, serve\n"
        "serve(lambda msg: f'{context().traceparent} {context().tracestate}')\n"
    )
    assert told(file=str(program)) == ["run-0 k=v", "run-2 k=v"]


def test_a_shared_host_is_told() -> None:
    """A run's context crosses to a shared host, also if no queue brought the message."""
    run = Run(7)
    run.trace = Trace("run", "k=v")
    crossed = to_run(from_job(Job({}, run=run)))
    assert crossed is not None
    assert crossed.trace == run.trace
    assert to_run(from_job(Job({}))) is None
    assert to_run({"trace": 7}) is None


def test_the_context_that_counts() -> None:
    """A run's own context comes before that of the message."""
    run, known = Run(1), context.Context("1", "n", traceparent="sender", tracestate="s=1")
    assert context.trace_of(None, None) is None
    assert context.trace_of(known, run) == ("sender", "s=1")
    run.trace = Trace("run")
    assert context.trace_of(known, run) == ("run", "")


def test_the_first_attempt_is_remembered() -> None:
    """A later attempt knows the first one's context, whatever the second one's was."""
    cause = Cause("ValueError", "bad", "", None, None, 0.0)
    past = Past().failed(cause, asked=False, trace=Trace("one", "k=v"))
    past = past.failed(cause, asked=False, trace=Trace("two")).waited()
    assert Past.read(past.header()).first == "one"
    assert Past.read({"first": 7}).first == ""
    assert "first" not in Past().header()


@pytest.mark.requires("redis-server")
def test_a_dead_letter_that_is_sent_again(redis: str) -> None:
    """Its message has the sender's context as before, and knows its first attempt."""
    client = Redis.from_url(redis)
    router = RQRouter(redis_connection=client)
    sent: list[Any] = []
    router.send = lambda *args, past, **_: sent.append((args[2], past))  # type: ignore
    route = {"traceparent": PARENT, "tracestate": "k=v", "first": "one"}
    router.resend(DeadLetter("n", {"n": 1}, (), id="7", route=route))
    router.resend(DeadLetter("n", {"n": 1}, (), id="8"))
    (traced, past), (plain, other) = sent
    assert (traced.traces, past) == ([Trace(PARENT, "k=v")], Past(first="one"))
    assert (plain.traces, other) == ([], Past())
