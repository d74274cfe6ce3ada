"""`emit tap`: messages of other processes, by their sockets and by Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from emit import Router
from emit.host import status
from emit.observe import looks, observers
from emit.observe.facts import Finished, Retried, Started, Waiting
from emit.observe.looks import Outlet, Wish, brief
from emit.observe.tap import HIDDEN
from emit.observe.totals import Totals
from tests.queues.notes import graph, wait_for
from tests.queues.worker import celery_worker, eventually, rq_worker

ROOT = Path(__file__).parent.parent

#: What workers of these tests are given: they look at wishes soon.
SOON = {"EMIT_FLEET": "0.1"}


@contextmanager
def tapping(*words: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `emit tap` for as long as the block runs."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "sdks" / "python"), str(cwd)])
    env = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "emit.cli", "tap", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=cwd, env=env, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str], text: str) -> None:
    """Wait until it has said *text* on stderr."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return
    raise AssertionError("".join(lines))


@pytest.mark.requires("redis-server")
def test_two_machines_of_celery(redis: str, tmp_path: Path) -> None:
    """Messages of all processes of both workers are shown, with what the router hides hidden."""
    queues = ROOT / "tests" / "queues"
    with (
        graph("flow", redis) as flow,
        celery_worker(tmp_path / "1", "-n", "a@%h", EMIT_MACHINE="web1", **SOON),
        celery_worker(tmp_path / "2", "-n", "b@%h", EMIT_MACHINE="web2", **SOON),
        tapping(
            *("flow.router", "flow.count -> flow.single", "flow.last", "--json"),
            *("--redact", "n", "--rate", "1000"),
            cwd=queues,
        ) as tap,
    ):
        assert tap.stdout is not None
        for _ in range(2):
            said(tap, "is watched")
        flow.router(count=20)
        wait_for(flow, "flow.last", 20)
        seen = [json.loads(tap.stdout.readline()) for _ in range(20 + 2 * 20)]
        ways: dict[tuple[str, str], int] = {}
        for each in seen:
            ways[each["way"], each["node"]] = ways.get((each["way"], each["node"]), 0) + 1
        assert ways == {
            ("message", "flow.single"): 20,
            ("message", "flow.last"): 20,
            ("end", "flow.last"): 20,
        }
        fields = [each["fields"] for each in seen if each["way"] == "message"]
        assert fields == [{"n": HIDDEN}] * 40
        assert {each["machine"] for each in seen} == {"web1", "web2"}
        assert all(each["id"] for each in seen)
        assert flow.redis.exists("emit:fleet@looks")
        tap.send_signal(2)
        assert tap.wait(60) == 0
        assert not flow.redis.exists("emit:fleet@looks")


@pytest.mark.requires("redis-server")
def test_a_worker_of_rq(redis: str, tmp_path: Path) -> None:
    """Its own process handles the messages, and text is for people."""
    with (
        graph("jobs", redis) as jobs,
        rq_worker(tmp_path / "log", "emit.rq.EmitWorker", EMIT_MACHINE="job1", **SOON) as worker,
        tapping(
            *("jobs.router", "jobs.Answer", "--count", "1"), cwd=ROOT / "tests" / "queues"
        ) as tap,
    ):
        said(tap, "on job1 is watched")
        jobs.Answer.delay(n=7, _origin="test")
        out, _ = tap.communicate(timeout=60)
        assert tap.returncode == 0
        assert f' job1 {worker.pid}  test -> jobs.Answer  {{"n": 7}}' in out


APP = """
import sys, time
from emit import Router
from emit.observe import looks
router = Router(redact=["password"])

@router.node(("word",), entry_point=True, name="words")
def words(msg):
    if msg.text == "bad":
        raise ValueError(msg.text)
    yield from msg.text.split()

@router.node((), "words", name="show")
def show(msg):
    return None

if __name__ == "__main__":
    looks.open()
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            router(text=line.strip(), password="s3", odd=b"\\x00", nan=float("nan"))
        except ValueError:
            pass
        print("done", flush=True)
"""


@contextmanager
def feeding(folder: Path) -> Iterator[Any]:
    """Provide a function that has another process route a text, and waits for it."""
    (folder / "app.py").write_text(APP)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "app.py"], cwd=folder, env=env, stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

        def feed(text: str) -> None:
            process.stdin.write(f"{text}\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            assert process.stdout.readline() == "done\n"  # type: ignore[union-attr]

        feed.pid = process.pid  # type: ignore[attr-defined]
        try:
            yield feed
        finally:
            process.kill()


@pytest.fixture
def own_sockets(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no process of another test answer, and end what looks at this one."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    status.close()
    yield
    status.close()
    for look in list(looks._looks.values()):
        look.close()


@pytest.mark.slow
@pytest.mark.usefixtures("own_sockets")
def test_one_machine_without_redis(tmp_path: Path) -> None:
    """The process is asked on its socket. What no line can show is named."""
    with feeding(tmp_path) as feed, tapping("app.router", "words", cwd=tmp_path) as tap:
        said(tap, "on this machine, 1 so far")
        feed("the \x1b[31mrain")
        feed("bad")
        tap.send_signal(2)
        out, err = tap.communicate(timeout=60)
    lines = [line.partition(f" {feed.pid}  ")[2] for line in out.splitlines()]
    fields = '{"text": "the \\u001b[31mrain", "password": "[hidden]"'
    assert lines == [
        f'calls -> words  {fields}, "odd": "... 1 bytes", "nan": "nan"}}',
        'words gives  {"word": "the"}',
        'words gives  {"word": "\\u001b[31mrain"}',
        "words ended",
        lines[4],
        "words failed: ValueError",
    ]
    assert "2 messages" in err


@pytest.mark.slow
@pytest.mark.usefixtures("own_sockets")
def test_only_nodes_of_the_router(tmp_path: Path) -> None:
    """Another graph on the machine is not shown. Without any process, what helps is told."""
    other = "from emit import Router\nrouter = Router()\nrouter.node(())(print)\n"
    (tmp_path / "other.py").write_text(other)
    with tapping("other.router", cwd=tmp_path) as tap:
        said(tap, "0 so far (one of Python functions alone first calls emit.observe.looks.open())")
        tap.kill()
    with feeding(tmp_path) as feed, tapping("other.router", cwd=tmp_path) as tap:
        said(tap, "1 so far")
        feed("the rain")
        tap.send_signal(2)
        out, err = tap.communicate(timeout=60)
    assert out == ""
    assert "0 messages" in err


@pytest.mark.usefixtures("own_sockets")
def test_answers() -> None:
    """A process answers with its counts so far, and with what has passed meanwhile."""
    router = Router()
    router.node((), entry_point=True, name="show")(lambda msg: None)
    looks.open()
    [path] = status.sockets(idle=True)
    assert status.sockets() == []
    with Outlet(Wish("one", counts=True, points=[])) as outlet:
        question = {"look": outlet.wish, "outlet": "elsewhere"}
        assert status.ask(path, question) is not None
        router(n=1)
        told = status.ask(path, question)
        assert told is not None
        assert told["counts"]["edges"] == [["__entry_point", "show", 1]]
        assert [json.loads(each)[0] for each in told["passed"]] == ["message", "result", "end"]
        router(n=1)
        told = status.ask(path, question)
        assert told is not None
        assert told["counts"]["edges"] == [["__entry_point", "show", 2]]
        assert len(told["passed"]) == 3


@pytest.mark.usefixtures("own_sockets")
def test_forked_children() -> None:
    """They are looked at from their beginning, and tell what they have seen at their end."""
    router = Router()
    router.node((), entry_point=True, name="show")(lambda msg: None)
    with Outlet(Wish("one", counts=True, points=[["show", None]])) as outlet:
        outlet.ask([], here=True)
        router(n=0)
        for n in range(1, 4):
            child = os.fork()
            if not child:
                router(n=n)
                router.close()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        eventually(lambda: outlet.ask([], here=True) or outlet.totals().nodes["show"].done == 4)
        messages = [seen for seen in outlet.take() if seen.passed.way == "message"]
        assert sorted(seen.passed.fields["n"] for seen in messages) == [0, 1, 2, 3]  # type: ignore[index]
        assert len({seen.pid for seen in messages}) == 4


@pytest.mark.usefixtures("own_sockets")
def test_a_look_that_nobody_renews(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends by itself."""
    router = Router()
    router.node((), entry_point=True, name="show")(lambda msg: None)
    monkeypatch.setattr(looks, "KEPT", 0.05)
    with Outlet(Wish("one", counts=True, points=[])) as outlet:
        outlet.ask([], here=True)
        assert len(router._observers.each) == 2
        eventually(lambda: router(n=1) or not router._observers.each)
        outlet.ask([], here=True)  # it can begin again, and counts on
        assert len(router._observers.each) == 2


@pytest.mark.usefixtures("own_sockets")
def test_outlets_of_killed_processes_are_removed() -> None:
    """By the next one. Those of living processes stay."""
    with Outlet(Wish("one")) as one:
        child = os.fork()
        if not child:
            Outlet(Wish("left"))
            os.kill(os.getpid(), 9)
        os.waitpid(child, 0)
        assert len([*status.folder().glob("*.out")]) == 2
        with Outlet(Wish("two")) as two:
            assert {*status.folder().glob("*.out")} == {one._path, two._path}
    one.close()
    assert [*status.folder().glob("*.out")] == []


@pytest.mark.usefixtures("own_sockets")
def test_a_full_outlet_blocks_nobody() -> None:
    """Messages that nobody takes are dropped, and counted."""
    router = Router()
    router.node((), entry_point=True, name="show")(lambda msg: None)
    with Outlet(Wish("one", points=[], rate=1e9)) as outlet:
        outlet.ask([], here=True)
        [look] = looks._looks.values()
        began = time.monotonic()
        while not look.dropped:
            router(text="x" * 1000)
            assert time.monotonic() - began < 60
        outlet.ask([], here=True)
        assert len(outlet.take()) == looks._WAITING


@pytest.mark.usefixtures("own_sockets")
def test_routers_that_are_made_meanwhile() -> None:
    """They are looked at as well, from their first message on."""
    with Outlet(Wish("one", points=[])) as outlet:
        outlet.ask([], here=True)
        router = Router(redact=["n"])
        router.node((), entry_point=True, name="show")(lambda msg: None)
        router(n=1, m=2)
        outlet.ask([], here=True)
        assert outlet.take()[0].passed.fields == {"n": HIDDEN, "m": 2}
    assert router._observers in observers.here


@pytest.mark.usefixtures("own_sockets")
@pytest.mark.parametrize(
    "wish", [None, {}, [], ["a", True, [[None, None]]], ["a", True, [[1, 2]]], ["a", 1, [], [1]]]
)
def test_a_wrong_question(wish: Any) -> None:
    """It is refused, and begins nothing."""
    with pytest.raises(ValueError, match="this is no look"):
        looks.answer({"look": wish, "outlet": "/nowhere"})
    assert looks._looks == {}


def test_a_message_is_shown_briefly() -> None:
    """Whatever it has, and however much, there are a few thousand characters of JSON."""
    deep: Any = "end"
    for _ in range(100_000):
        deep = [deep]
    shown = brief(
        {
            "s": "\ud800",
            "large": 10**100,
            "text": "x" * 10**6,
            "list": list(range(10**6)),
            "map": dict.fromkeys(map(str, range(10**5)), "y" * 500),
            "deep": deep,
            "bytes": b"123",
            5: object(),
            "secret": {"a": 1},
        },
        frozenset({"secret"}),
    )
    assert len(json.dumps(shown)) < 60_000
    assert shown["text"][1000:] == "... 999000 more characters"
    assert shown["list"][-1] == "... 999900 more"
    assert shown["secret"] == HIDDEN
    assert (shown["bytes"], shown["int 5"], shown["s"], shown["large"]) == (
        *("... 3 bytes", "... of type object", "?", "... a large number"),
    )


def test_totals() -> None:
    """They count what facts tell, and add what other processes have counted."""
    totals = Totals()
    started = Started("b", "a", "1", 1, "celery", "", 1, None, 7, 0.0, None, None)
    for fact in (
        started,
        started._replace(attempt=2),
        Finished("b", "1", 1, "celery", 7, 0, 0.25, None, 0.0),
    ):
        totals(fact)
    whole = Totals()
    for _ in range(3):
        whole.add(json.loads(json.dumps(totals.told())))
    assert (whole.nodes["b"].done, whole.edges["a", "b"]) == (3, 3)
    assert 0.2 < whole.nodes["b"].times.percentile(0.5) <= 0.3125
    for again in (Retried, Waiting):
        whole(again("b", "1", 1, "celery", 7, "E", 0.0))
    assert (whole.nodes["b"].done, whole.nodes["b"].failed) == (1, -2)
    with pytest.raises(ValueError, match="these are no counts"):
        whole.add({"nodes": {"a": []}})
