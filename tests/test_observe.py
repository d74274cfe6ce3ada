"""Facts about messages and processes in this process; for queues see test_observe_queues.py."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode, context
from emit.errors import ProcessDied, RemoteError, StartError
from emit.observe import (
    Dead,
    Failed,
    Finished,
    ProcessEnded,
    ProcessReady,
    ProcessReplaced,
    ProcessStarted,
    Retried,
    Sent,
    Started,
)
from tests.hosts import until

ENTRY = "__entry_point"


def chain() -> Router:
    router = Router()

    @router.node(("word",), entry_point=True, name="words")
    def words(msg: Any) -> Any:
        yield from msg.text.split()

    @router.node(("n",), "words", name="length")
    def length(msg: Any) -> int:
        return len(msg.word)

    return router


def observed(router: Router) -> list[Any]:
    facts: list[Any] = []
    router.observe(facts.append)
    return facts


def kinds(facts: list[Any]) -> list[str]:
    return [type(fact).__name__ for fact in facts]


def test_the_facts_of_a_chain() -> None:
    """Each message is sent, started and finished; a run sends between its start and its end."""
    router = chain()
    facts = observed(router)
    router(text="the rain")
    assert kinds(facts) == [
        *("Sent", "Started", "Sent", "Sent", "Finished"),
        *("Started", "Finished", "Started", "Finished"),
    ]
    sent, started, first, _, finished, heard, *_ = facts
    assert sent[:5] == (ENTRY, "words", "", "process", 0)
    assert started[:8] == ("words", ENTRY, "", 1, "process", "", 1, None)
    assert first[:5] == ("words", "length", "", "process", started.run)
    assert finished[:6] == ("words", "", 1, "process", started.run, 2)
    assert heard.origin == "words"
    assert len({fact.run for fact in facts if isinstance(fact, Started)}) == 3
    assert 0 < finished.seconds < finished.at
    assert finished.waited is None


def test_a_call_of_a_node() -> None:
    """A call of a node is a run as well. No message was sent for it."""
    router = chain()
    facts = observed(router)
    assert router.functions["length"](word="rain") == {"n": 4}
    assert kinds(facts) == ["Started", "Finished"]
    assert facts[0].origin == ""


def test_no_fact_has_a_payload() -> None:
    """No field of any fact shows what a message says."""
    router = chain()
    facts = observed(router)
    router(text="secret secret")
    assert "secret" not in repr(facts)


def test_a_failure() -> None:
    """A run that raises has failed, with the exception; its results are not sent."""
    router = Router()
    facts = observed(router)

    @router.node(("x",), entry_point=True, name="bad")
    def bad(msg: Any) -> Any:
        yield 1
        raise KeyError("x")

    with pytest.raises(KeyError) as caught:
        router(n=1)
    assert kinds(facts) == ["Sent", "Started", "Failed"]
    assert facts[-1].kind == "KeyError"
    assert facts[-1].error is caught.value


def test_a_stream_ends_with_its_last_result() -> None:
    """The results of a stream are sent in its run, which ends after them."""
    router = Router()
    facts = observed(router)

    @router.node(("x",), entry_point=True, name="stream", stream=True)
    def stream(msg: Any) -> Any:
        yield 1
        yield 2

    @router.node((), "stream", name="sink")
    def sink(msg: Any) -> None:
        pass

    router(n=1)
    assert [(type(f).__name__, getattr(f, "run", None)) for f in facts if f.node != "sink"] == [
        ("Sent", 0),
        ("Started", facts[1].run),
        ("Finished", facts[1].run),
    ]
    assert [f.run for f in facts if isinstance(f, Sent)] == [0, facts[1].run, facts[1].run]
    assert (facts[-1].node, facts[-1].results) == ("stream", 2)
    assert context.run.get() is None


def test_a_stream_that_is_given_up() -> None:
    """The run of a stream fails with its subscriber, and is told once."""
    router = Router()
    facts = observed(router)

    @router.node(("x",), entry_point=True, name="stream", stream=True)
    def stream(msg: Any) -> Any:
        yield 1
        yield 2

    @router.node((), "stream", name="sink")
    def sink(msg: Any) -> None:
        raise ValueError("sink")

    with pytest.raises(ValueError, match="sink"):
        router(n=1)
    ends = [(f.node, f.kind) for f in facts if isinstance(f, Failed)]
    assert ends == [("sink", "ValueError"), ("stream", "GeneratorExit")]
    assert context.run.get() is None


def test_what_an_observer_returns_travels() -> None:
    """The context of a message comes with its start, and that of a run is its message's parent."""
    router = chain()
    seen: list[tuple[str, str | None, str | None]] = []

    @router.observe
    def trace(fact: Any) -> Any:
        if isinstance(fact, Sent):
            return {"traceparent": f"of-{fact.node}", "tracestate": "k=v"}
        if isinstance(fact, Started):
            seen.append((fact.node, fact.traceparent, fact.tracestate))
            return {"traceparent": f"run-{fact.node}"}
        return None

    runs: list[Any] = []

    @router.node((), "length", name="look")
    def look(msg: Any) -> None:
        run = context.run.get()
        assert run is not None
        runs.append(run.trace)

    router(text="rain")
    assert seen == [(name, f"of-{name}", "k=v") for name in ("words", "length", "look")]
    assert runs == [("run-look", "")]
    assert context.current.get() is None


def test_an_observer_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once with its name and switched off; the others and the message go on."""
    router = chain()
    calls: list[Any] = []

    @router.observe
    def broken(fact: Any) -> None:
        calls.append(fact)
        raise RuntimeError("mine")

    facts = observed(router)
    with caplog.at_level(logging.ERROR, "emit"):
        router(text="the rain")
    assert len(calls) == 1
    assert len(facts) == 9
    (record,) = caplog.records
    assert "broken" in record.getMessage()
    assert "Sent" in record.getMessage()


def test_an_observer_that_returns_nonsense(caplog: pytest.LogCaptureFixture) -> None:
    """A value that is not a mapping of texts switches its observer off as well."""
    router = chain()
    router.observe(lambda fact: 7)  # type: ignore[arg-type,return-value]
    with caplog.at_level(logging.ERROR, "emit"):
        router(text="the rain")
    assert len(caplog.records) == 1


def test_observers_are_called_once_each() -> None:
    """Observing twice with the same function changes nothing, and what can't be called raises."""
    router = chain()
    facts: list[Any] = []
    assert router.observe(facts.append) is not None
    append = facts.append
    router.observe(append)
    router.observe(append)
    router.functions["length"](word="x")
    assert len(facts) == 2
    with pytest.raises(TypeError, match="callable"):
        router.observe("no")  # type: ignore[arg-type]


def test_a_subclass_that_wraps_its_nodes() -> None:
    """A node that wrap_node has put a function around is told of once for each message."""

    class Wrapping(Router):
        def wrap_node(self, node: Any, options: Any) -> Any:
            def around(*args: Any, **kwargs: Any) -> Any:
                return node(*args, **kwargs)

            return around

    router = Wrapping()
    facts: list[Any] = []

    @router.observe
    def trace(fact: Any) -> Any:
        facts.append(fact)
        return {"traceparent": fact.node} if isinstance(fact, Sent) else None

    @router.node(("n",), entry_point=True, name="one")
    def one(msg: Any) -> int:
        return 1

    router(x=1)
    assert kinds(facts) == ["Sent", "Started", "Finished"]
    assert facts[1].traceparent == "one"


PROGRAM = """
import os

from emit_sdk import Retry, context


def up(text):
    if text == "die":
        os._exit(3)
    if text == "again" and context().attempt == 1:
        raise Retry(after=0)
    if text == "bad":
        raise ValueError("no")
    return [text.upper(), context().traceparent, context().attempt]
"""


def program(router: Router, tmp_path: Path, **options: Any) -> Any:
    (tmp_path / "up.py").write_text(PROGRAM, "utf-8")

    class Up(ShellNode):
        file = str(tmp_path / "up.py")

    return router.node(("x",), entry_point=True, name="up", **options)(Up)


def of_processes(facts: list[Any]) -> list[Any]:
    return [fact for fact in facts if type(fact).__name__.startswith("Process")]


def test_the_life_of_a_process(tmp_path: Path) -> None:
    """A process is started, ready, and ended with its cause."""
    with Router() as router:
        up = program(router, tmp_path)
        facts = observed(router)
        assert up(text="a") == ({"x": ["A", None, 1]},)
    started, ready, ended = of_processes(facts)
    assert started == ProcessStarted("up", started.pid, started.version)
    assert isinstance(ready, ProcessReady)
    assert started.version == ready.version != ""
    assert (ready.pid, ready.sdk.split("/")[0]) == (started.pid, "python")
    assert isinstance(ended, ProcessEnded)
    assert ended[:4] == ("up", started.pid, "stopped", 1)
    assert ended.seconds >= ready.seconds > 0
    (finished,) = [fact for fact in facts if isinstance(fact, Finished)]
    assert finished.seconds > finished.waited > 0


def test_a_process_that_is_replaced(tmp_path: Path) -> None:
    """The successor is ready before its predecessor is told to be replaced, and then ended."""
    with Router() as router:
        up = program(router, tmp_path, max_calls=1, jitter=0.0)
        facts = observed(router)
        up(text="a")
        until(lambda: any(isinstance(fact, ProcessEnded) for fact in facts))
    told = of_processes(facts)
    assert kinds(told)[:6] == [
        *("ProcessStarted", "ProcessReady", "ProcessStarted", "ProcessReady"),
        *("ProcessReplaced", "ProcessEnded"),
    ]
    assert told[4] == ProcessReplaced("up", told[0].pid, "max_calls")
    assert told[5][:3] == ("up", told[0].pid, "max_calls")


def test_a_process_that_never_was_ready(tmp_path: Path) -> None:
    """Its end has the cause "start"."""
    with Router() as router:
        facts = observed(router)

        @router.node(("x",), entry_point=True, name="none")
        class Nothing(ShellNode):
            command = (sys.executable, "-c", "")
            mode = "persistent"

        with pytest.raises(StartError):
            router(n=1)
    started, ended = of_processes(facts)
    assert (type(ended), ended.pid, ended.cause) == (ProcessEnded, started.pid, "start")


def test_a_program_of_one_message() -> None:
    """A process for one message starts and ends with it."""
    with Router() as router:
        facts = observed(router)

        @router.node(("x",), entry_point=True, name="cat")
        class Cat(ShellNode):
            command = "cat"
            mode = "oneshot"

        router(x=1)
    started, ended = of_processes(facts)
    assert ended[:4] == ("cat", started.pid, "finished", 1)
    order = kinds(facts)
    assert order.index("Started") < order.index("ProcessStarted") < order.index("Finished")


def test_a_program_is_given_its_runs_context(tmp_path: Path) -> None:
    """The value that an observer returns to Started is the context of the call."""
    with Router() as router:
        up = program(router, tmp_path)
        router.observe(lambda fact: {"traceparent": "00-1"} if isinstance(fact, Started) else None)
        assert up(text="a") == ({"x": ["A", "00-1", 1]},)


def test_attempts_within_a_run(tmp_path: Path) -> None:
    """An attempt that the host repeats is told with its run; the message starts once."""
    with Router() as router:
        up = program(router, tmp_path)
        facts = observed(router)
        assert up(text="again") == ({"x": ["AGAIN", None, 2]},)
        with pytest.raises(ProcessDied):
            up(text="die")
    retried = [fact for fact in facts if isinstance(fact, Retried)]
    first, second = (fact for fact in facts if isinstance(fact, Started))
    assert [(fact.kind, fact.attempt, fact.run, fact.carrier) for fact in retried] == [
        ("RemoteError", 1, first.run, "host"),
        ("ProcessDied", 1, second.run, "host"),
        ("ProcessDied", 2, second.run, "host"),
    ]
    (dead,) = [fact for fact in facts if isinstance(fact, Dead)]
    assert dead == Dead("up", "", 3, "process", second.run, "ProcessDied")


def test_a_dead_letter_that_a_function_takes(tmp_path: Path) -> None:
    """A message whose letter is taken is told to be dead; the run then ends well, empty."""
    letters: list[Any] = []
    with Router() as router:
        up = program(router, tmp_path, dead_letter=letters.append, max_attempts=1)
        facts = observed(router)
        up(text="die")
    (dead,) = [fact for fact in facts if isinstance(fact, Dead)]
    assert (dead.kind, dead.attempts, dead.carrier) == ("ProcessDied", 1, "host")
    assert [fact.results for fact in facts if isinstance(fact, Finished)] == [0]


def test_a_batch_has_a_run_for_each_message(tmp_path: Path) -> None:
    """Messages that a program gets together have runs, contexts and parents of their own."""
    with Router() as router:
        facts: list[Any] = []

        @router.observe
        def trace(fact: Any) -> Any:
            facts.append(fact)
            if isinstance(fact, Started):
                return {"traceparent": f"{fact.node}-{fact.run}"}
            return None

        @router.node(("text",), entry_point=True, name="words")
        def words(msg: Any) -> Any:
            yield from msg.text.split()

        (tmp_path / "up.py").write_text(PROGRAM, "utf-8")

        @router.node(("x",), "words", name="up")
        class Up(ShellNode):
            file = str(tmp_path / "up.py")

        seen: list[Any] = []

        @router.node((), "up", name="sink")
        def sink(msg: Any) -> None:
            seen.append(msg.x)

        router(text=" ".join(f"w{n}" for n in range(100)))
    runs = [fact.run for fact in facts if isinstance(fact, Started) and fact.node == "up"]
    assert seen == [[f"W{n}", f"up-{run}", 1] for n, run in enumerate(runs)]
    assert [fact.run for fact in facts if isinstance(fact, Sent) and fact.node == "sink"] == runs
    ended = [fact for fact in facts if isinstance(fact, Finished) and fact.node == "up"]
    assert [fact.run for fact in ended] == runs
    whole = max(fact.at for fact in ended) - min(f.at for f in facts if isinstance(f, Started))
    assert sum(fact.seconds for fact in ended) <= whole + 0.1
    assert context.run.get() is None


def test_a_batch_that_fails(tmp_path: Path) -> None:
    """The message at fault has failed with its error; those that had begun are given up."""
    with Router() as router:
        facts = observed(router)

        @router.node(("text",), entry_point=True, name="words")
        def words(msg: Any) -> Any:
            yield from msg.text.split()

        (tmp_path / "up.py").write_text(PROGRAM, "utf-8")

        @router.node(("x",), "words", name="up")
        class Up(ShellNode):
            file = str(tmp_path / "up.py")

        with pytest.raises(RemoteError):
            router(text="a bad b c")
    runs = {fact.run for fact in facts if isinstance(fact, Started) and fact.node == "up"}
    ends = [fact for fact in facts if isinstance(fact, (Finished, Failed)) and fact.node == "up"]
    assert sorted(fact.run for fact in ends) == sorted(runs)
    assert kinds(ends) == ["Finished", "Failed", "Failed", "Failed"]


def test_an_observer_survives_a_fork() -> None:
    """A child tells the observers that its parent had added, as a worker's pool does."""
    router = chain()
    reader, writer = os.pipe()
    router.observe(lambda fact: os.write(writer, type(fact).__name__[:1].encode()) and None)
    child = os.fork()
    if not child:
        router.functions["length"](word="x")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.read(reader, 10) == b"SF"
    os.close(reader)
    os.close(writer)
