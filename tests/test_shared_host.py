"""One host for several processes: who shares what, and whatever is killed, nothing is lost."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import context
from emit.context import Context
from emit.errors import (
    EncodeError,
    FrameTooLarge,
    HostError,
    HostLost,
    PoolClosed,
    PoolTimeout,
    ProcessDied,
    RemoteError,
    ResultError,
    StartError,
    Unavailable,
)
from emit.host.host import RemoteHost
from emit.host.place import socket_path
from emit.host.settings import Settings
from emit.host.shared import client as remote
from emit.host.shared import server
from emit.host.shared.data import Described, from_node
from emit.host.system.program import Program, environment
from emit.host.wire.codec import encode
from emit.host.wire.frames import Call, Calls, End, Ends, Err, Failure, Hello, Pong, Ready
from emit.host.wire.reader import Reader
from tests.faults.nodes import CHAOS, PATH, raw, sdk
from tests.hosts import lives, until
from tests.shared_hosts import (
    EMIT,
    client,
    host_of,
    listening,
    open_client,
    serving,
    start,
    status,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("leak_free")]

ECHO = sdk("def echo(msg): return [msg.n, os.getpid()]\nserve(echo)")

#: Says where it is by a file, and answers when there is another.
HELD = """
for id, msg in calls():
    open(msg["began"], "a").write(f"{os.getpid()}\\n")
    while not os.path.exists(msg["until"]):
        time.sleep(0.002)
    end(id, [msg["n"], os.getpid()])
"""


@pytest.fixture
def path(short_folder: Path) -> Path:
    return short_folder / "host.sock"


def held(tmp_path: Path, n: int = 1) -> dict[str, Any]:
    return {"n": n, "began": str(tmp_path / "began"), "until": str(tmp_path / "go")}


def outcome_of(work: Any) -> Any:
    try:
        return work()
    except Exception as error:
        return error


def in_thread(work: Any) -> tuple[threading.Thread, list[Any]]:
    """A thread that does *work*, and a list of what came of it."""
    found: list[Any] = []

    thread = threading.Thread(target=lambda: found.append(outcome_of(work)))
    thread.start()
    return thread, found


# Calls

CLIENT = f"""
import os, sys
from emit import Router, ShellNode
router = Router()

@router.node(("n", "pid"), name="echo")
class Echo(ShellNode):
    command = {ECHO!r}
    env = {{"PYTHONPATH": os.environ["PYTHONPATH"]}}
    mode = "persistent"
    size = 1

for line in sys.stdin:
    result = Echo(n=int(line))
    print(result[0]["n"], result[0]["pid"], flush=True)
"""


def test_two_processes_share_one_pool(path: Path) -> None:
    """The same node of two clients is served by the same process."""
    with listening(path), open_client(path, CLIENT) as one, open_client(path, CLIENT) as two:
        pids = set()
        for n in range(10):
            for each in (one, two):
                assert each.stdin is not None
                assert each.stdout is not None
                print(n, file=each.stdin, flush=True)
                number, pid = each.stdout.readline().split()
                assert int(number) == n
                pids.add(pid)
        assert len(pids) == 1
        figures = status(path)
        assert (figures["nodes"]["echo"]["starts"], figures["nodes"]["echo"]["calls"]) == (1, 20)
        assert figures["clients"] == 3  # with the one that asks


def test_other_programs_and_settings_are_other_nodes(path: Path) -> None:
    """Nodes share nothing if their environment or settings differ."""
    with listening(path), contextlib.ExitStack() as stack:
        pids = set()
        for settings in ({}, {"timeout": 7.0}, {"name": "other"}):
            node = stack.enter_context(client(path, ECHO, **settings))
            pids.add(node.call({"n": 1})[0][1])
        assert len(pids) == 3


def test_the_directory_is_the_clients(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program starts where its client is, not where the host is."""
    code = sdk("def where(msg): return os.getcwd()\nserve(where)")
    with listening(path), client(path, code) as node:
        monkeypatch.chdir(tmp_path)
        assert node.call({}) == [str(tmp_path)]


def test_many(path: Path) -> None:
    """Pipelined, in order, each with its own outcome."""
    code = sdk(
        """
        def odd(msg):
            if msg.n % 7 == 0:
                raise ValueError(msg.n)
            yield from [msg.n] * (msg.n % 3)
        serve(odd)
        """
    )
    with listening(path), client(path, code, size=2) as node:
        outcomes = list(node.call_many({"n": n} for n in range(3000)))
        for n, outcome in enumerate(outcomes):
            if n % 7 == 0:
                assert isinstance(outcome, RemoteError)
                assert outcome.message == str(n)
            else:
                assert outcome == [n] * (n % 3)
        assert node.snapshot()["calls"] == 3000
        assert node.snapshot()["failures"] == {"RemoteError": 429}


def test_a_batch_that_is_left(path: Path) -> None:
    """The link is closed; the next call has its own answer."""
    with listening(path), client(path, ECHO) as node:
        outcomes = node.call_many({"n": n} for n in range(10_000))
        assert next(outcomes)[0][0] == 0
        outcomes.close()
        assert [node.call({"n": n})[0][0] for n in range(50)] == list(range(50))


def test_stream(path: Path) -> None:
    """Each result as it comes: the first is here before the last is made."""
    code = sdk("def many(msg): yield from range(msg.n)\nserve(many)")
    with listening(path), client(path, code, timeout=60) as node:
        assert list(node.stream({"n": 30_000})) == list(range(30_000))
        stream = node.stream({"n": 10**9})
        assert [next(stream) for _ in range(1000)] == list(range(1000))
        stream.close()
        assert node.call({"n": 3}) == [0, 1, 2]


def test_a_result_of_a_stream_that_fits_no_frame(path: Path) -> None:
    """
    It ends the stream, in the host as well. Numbers take less in the program's JSON than between
    the host and its client.
    """
    code = sdk("""
    def many(msg):
        yield 1
        yield {"numbers": [1.5] * 900_000, "text": "x" * 9_000_000}
        while True:
            yield 2
    serve(many)
    """)
    with serving(path) as host, client(path, code, codec="json", timeout=60) as node:
        stream = node.stream({})
        assert next(stream) == 1
        with pytest.raises(FrameTooLarge):
            next(stream)
        until(lambda: host.pools[0].busy == 0)


def test_large(path: Path) -> None:
    """Messages and results of megabytes, one or thousands, both ways at once."""
    code = sdk("def echo(msg): yield from msg.parts\nserve(echo)")
    with listening(path), client(path, code) as node:
        for parts in (["x" * 10_000_000], ["y" * 1000] * 5000, [b"\xff" * 5_000_000] * 2, []):
            assert node.call({"parts": parts}) == parts
        several = [{"parts": ["z" * 2_000_000]}] * 8
        assert all(outcome == ["z" * 2_000_000] for outcome in node.call_many(several))


def test_deep(path: Path) -> None:
    """A value at the limit of depth passes, one over it is refused."""
    deep: list[Any] = []
    for _ in range(126):
        deep = [deep]
    code = sdk("def echo(msg): return [msg.value]\nserve(echo)")
    with listening(path), client(path, code) as node:
        assert node.call({"value": deep}) == [[deep]]
        assert list(node.call_many([{"value": deep}] * 20)) == [[[deep]]] * 20
        with pytest.raises(EncodeError):
            node.call({"value": [[[deep]]]})


# Errors


def test_errors_cross_with_their_attributes(path: Path) -> None:
    """The author's, the process's and the wire's."""
    code = sdk(
        """
        def bad(msg):
            if msg.do == "raise":
                raise KeyError("x")
            if msg.do == "many":
                yield from range(100)
            if msg.do == "die":
                sys.stderr.write("last words")
                os._exit(3)
        serve(bad)
        """
    )
    with listening(path), client(path, code, max_results=50, max_frame=100_000) as node:
        with pytest.raises(RemoteError) as remote:
            node.call({"do": "raise"})
        assert (remote.value.type, remote.value.node) == ("KeyError", "n")
        assert isinstance(remote.value.stack, tuple)
        with pytest.raises(ResultError, match="max_results = 50"):
            node.call({"do": "many"})
        with pytest.raises(EncodeError) as unfit:
            node.call({"do": {"it": [object()]}})
        assert unfit.value.path == "do.it[0]"
        with pytest.raises(FrameTooLarge) as large:
            node.call({"do": "x" * 200_000})
        assert (large.value.limit, large.value.may_have_run) == (100_000, False)
        with pytest.raises(ProcessDied) as died:
            node.call({"do": "die"})
        assert (died.value.exit_code, died.value.stderr_tail) == (3, "last words")
        letter = died.value.letter
        assert (letter.message, len(letter.causes)) == ({"do": "die"}, 3)
        assert letter.causes[0].exit_code == 3


def test_what_json_cannot_carry(path: Path) -> None:
    """A node that speaks JSON is refused what it can't be told, as without a shared host."""
    with listening(path), client(path, ECHO, codec="json") as node:
        with pytest.raises(EncodeError, match="bytes object has no form in JSON"):
            node.call({"n": b"x"})
        assert node.call({"n": 1})[0][0] == 1


def test_dead_letters_are_the_clients(path: Path) -> None:
    """Its handler gets them; the message has no results."""
    letters: list[Any] = []
    code = sdk("def die(msg): return os.abort() if msg.n == 13 else msg.n\nserve(die)")
    with listening(path), client(path, code, dead_letter=letters.append) as node:
        assert node.call({"n": 13}) == []
        assert list(node.call_many({"n": n} for n in (12, 13, 14))) == [[12], [], [14]]
    assert [letter.message for letter in letters] == [{"n": 13}] * 2
    assert [cause.signal for cause in letters[0].causes] == ["SIGABRT"] * 3


def test_retries(path: Path) -> None:
    """The host tries again, and tells the process which attempt it is."""
    code = sdk(
        """
        def often(msg):
            if context().attempt < 3:
                raise Retry("not yet", after=0.01)
            return context().attempt
        serve(often)
        """
    )
    with listening(path), client(path, code) as node:
        assert node.call({}) == [3]
        assert list(node.call_many([{}, {}])) == [[3], [3]]


def test_what_a_queue_knows(path: Path) -> None:
    """It crosses with each message; and where a queue tries again, the host does not."""
    code = sdk(
        """
        def tell(msg):
            if msg.n == 13:
                raise Retry("later")
            told = context()
            return [msg.n, told.origin, told.attempt, told.traceparent]
        serve(tell)
        """
    )

    def message(n: int) -> dict[str, Any]:
        context.current.set(Context(str(n), "n", f"from-{n}", n, f"trace-{n}") if n else None)
        return {"n": n}

    try:
        with listening(path), client(path, code) as node:
            assert node.call(message(5)) == [[5, "from-5", 5, "trace-5"]]
            assert node.call(message(0)) == [[0, None, 1, None]]
            outcomes = list(node.call_many(message(n) for n in range(1, 9)))
            assert outcomes == [[[n, f"from-{n}", n, f"trace-{n}"]] for n in range(1, 9)]
            with pytest.raises(RemoteError) as again:
                node.call(message(13))
            assert again.value.retry
            assert again.value.letter is None
    finally:
        context.current.set(None)


def test_programs_that_do_not_start(path: Path) -> None:
    """The error comes at once, and from the breaker, as with a private host."""
    exits = [sys.executable, "-c", "import sys; sys.exit('broken')"]
    with listening(path), client(path, ["/no/such"]) as missing, client(path, exits) as broken:
        with pytest.raises(StartError, match="command not found") as caught:
            missing.call({})
        assert caught.value.argv == ("/no/such",)
        with pytest.raises(StartError, match="before it was ready"):
            broken.call({})
        with pytest.raises(StartError):
            list(missing.call_many([{}, {}, {}]))
    quick = {"backoff": 0.0, "backoff_max": 0.0, "breaker_failures": 1}
    with listening(path), client(path, exits, **quick) as broken:
        with pytest.raises(StartError):
            broken.call({})
        with pytest.raises(Unavailable) as opened:
            broken.call({})
        assert isinstance(opened.value.last, StartError)


def test_all_processes_are_busy(path: Path, tmp_path: Path) -> None:
    """The wait for a process is bounded as without a shared host; others' messages too."""
    with listening(path), client(path, raw(HELD), acquire_timeout=0.2) as node:
        thread, found = in_thread(lambda: node.call(held(tmp_path)))
        until(lambda: _lines(tmp_path / "began"))
        with pytest.raises(PoolTimeout, match=r"acquire_timeout = 0\.2"):
            node.call(held(tmp_path))
        (tmp_path / "go").touch()
        thread.join()
        assert found[0][0][0] == 1


# The host ends


def test_the_host_is_killed_in_the_middle(path: Path, tmp_path: Path) -> None:
    """Its processes go with it; the message goes to the next host, and has its answer."""
    with client(path, raw(HELD)) as node:
        with listening(path) as host:
            thread, found = in_thread(lambda: node.call(held(tmp_path, 7)))
            until(lambda: _lines(tmp_path / "began"))
            first = int((tmp_path / "began").read_text())
            host.kill()
        until(lambda: not lives(first))
        with listening(path):
            until(lambda: len((tmp_path / "began").read_text().split()) == 2)
            (tmp_path / "go").touch()
            thread.join()
            (result,) = found
            assert result[0][0] == 7
            assert result[0][1] != first
            assert node.call({**held(tmp_path, 8)})[0][0] == 8


def test_the_host_is_killed_in_a_batch(path: Path) -> None:
    """Messages without an outcome go to the next host; each message has one, in order."""
    with client(path, ECHO) as node:
        with listening(path) as host:
            outcomes = node.call_many({"n": n} for n in range(5000))
            got = [next(outcomes) for _ in range(1000)]
            host.kill()
        with listening(path):
            got += list(outcomes)
    assert [outcome[0][0] for outcome in got] == list(range(5000))


def test_no_host(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A call waits for one as long as it may take, and says so; nothing has run."""
    with client(path, ECHO, timeout=0.3) as node:
        with pytest.raises(
            HostLost, match=r"no shared host at .*: No such file.*emit host"
        ) as lost:
            node.call({"n": 1})
        assert (lost.value.may_have_run, lost.value.path) == (False, str(path))
        assert isinstance(lost.value, Unavailable)
        assert "waits for a shared host" in caplog.text
        with pytest.raises(HostLost):
            list(node.call_many([{"n": 1}]))
        with pytest.raises(HostLost):
            list(node.stream({"n": 1}))


def test_a_host_that_comes_late(path: Path) -> None:
    """A call that waits for it is served."""
    with client(path, ECHO) as node:
        thread, found = in_thread(lambda: node.call({"n": 1}))
        with listening(path):
            thread.join()
        assert found[0][0][0] == 1


def test_hosts_that_are_lost_again_and_again(path: Path, tmp_path: Path) -> None:
    """The message is given back after max_attempts, and it may have run."""
    with client(path, raw(HELD), max_attempts=2) as node:
        thread, found = in_thread(lambda: node.call(held(tmp_path)))
        with listening(path):
            until(lambda: _lines(tmp_path / "began") == 1)
        with listening(path):
            until(lambda: _lines(tmp_path / "began") == 2)
        thread.join()
    assert isinstance(found[0], HostLost)
    assert found[0].may_have_run


def _lines(file: Path) -> int:
    return len(file.read_text().split()) if file.exists() else 0


def test_a_stream_is_not_repeated(path: Path) -> None:
    """The loss of the host is an error after the stream's first result has gone on."""
    code = sdk("def many(msg): yield from range(msg.n)\nserve(many)")
    with client(path, code) as node:
        with listening(path) as host:
            stream = node.stream({"n": 10**9})
            next(stream)
            host.kill()
            with pytest.raises(HostLost) as lost:
                list(stream)
        assert lost.value.may_have_run


def test_a_host_that_hangs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is stopped is told from a slow node: it says nothing."""
    with (
        listening(path) as host,
        client(path, ECHO, max_attempts=1) as node,
        client(path, ECHO, timeout=0.5) as late,
    ):
        assert node.call({"n": 1})
        monkeypatch.setattr(remote, "SILENCE", 0.3)
        host.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, host.pid, os.WSTOPPED | os.WNOWAIT)  # one of its threads may run on
        for each, may_have_run in ((node, True), (late, False)):
            with pytest.raises(HostLost, match=r"said nothing for 0\.3 s") as lost:
                each.call({"n": 2})
            assert lost.value.may_have_run is may_have_run
        host.send_signal(signal.SIGCONT)
        monkeypatch.undo()
        assert node.call({"n": 3})[0][0] == 3


def test_a_slow_node_is_no_dead_host(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host reports the work while the node is slow, and its client hears each report."""
    monkeypatch.setattr(server, "BEAT", 0.05)
    monkeypatch.setattr(server, "_TICK", 0.05)
    with serving(path), client(path, raw(HELD)) as node:
        thread, found = in_thread(lambda: node.call(held(tmp_path)))
        until(lambda: _lines(tmp_path / "began"))
        (used,) = node.pool.processes
        for _ in range(5):
            before = used.talk.transport.until
            until(lambda before=before: used.talk.transport.until > before)
        assert thread.is_alive()
        (tmp_path / "go").touch()
        thread.join()
        assert found[0][0][0] == 1


def test_the_first_answer_of_a_batch_waits_for_no_other(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor for a sign of life: it is here while the second message runs."""
    monkeypatch.setattr(server, "BEAT", 1e9)
    with serving(path), client(path, raw(HELD), max_attempts=1) as node:
        for turn in range(3):
            go = tmp_path / f"go{turn}"
            mine = {"n": turn, "began": str(tmp_path / f"began{turn}")}
            outcomes = node.call_many({**mine, "until": str(each)} for each in (tmp_path, go))
            assert next(outcomes)[0][0] == turn
            go.touch()
            assert [outcome[0][0] for outcome in outcomes] == [turn]


def test_a_slow_message_behind_quick_ones(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that were kept, to be sent together, do not wait for it, nor for a sign of life."""
    monkeypatch.setattr(server, "BEAT", 1e9)
    with serving(path), client(path, raw(HELD), max_attempts=1) as node:
        began, go = tmp_path / "began", tmp_path / "go"
        quick = {"began": str(began), "until": str(tmp_path)}
        slow = {"began": str(began), "until": str(go)}
        outcomes = node.call_many({"n": n, **(quick if n < 9 else slow)} for n in range(10))
        assert [next(outcomes)[0][0] for _ in range(9)] == list(range(9))
        go.touch()
        assert [outcome[0][0] for outcome in outcomes] == [9]
        assert _lines(began) == 10


def test_a_slow_reader_of_a_stream_has_no_dead_host(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signs of life that came while it worked are taken before the host counts as dead."""
    monkeypatch.setattr(server, "BEAT", 0.05)
    monkeypatch.setattr(server, "_TICK", 0.05)
    code = """
    for id, msg in calls():
        frame(op="out", id=id, msgs=[1])
        while not os.path.exists(msg["until"]):
            time.sleep(0.002)
        end(id, 2)
    """
    go = tmp_path / "go"
    with serving(path), client(path, raw(code), max_attempts=1) as node:
        stream = node.stream({"until": str(go)})
        assert next(stream) == 1
        (used,) = node.pool.processes
        poller = select.poll()
        for fd, _ in used.talk.transport.watched():
            poller.register(fd, select.POLLIN)
        until(lambda: poller.poll(0))
        used.talk.transport.until = 0.0
        go.touch()
        assert list(stream) == [2]


def test_stopped_politely(path: Path, tmp_path: Path) -> None:
    """Open calls are answered; then the processes end, and the socket is gone."""
    with listening(path) as host, client(path, raw(HELD)) as node, client(path, ECHO) as idle:
        assert idle.call({"n": 1})
        thread, found = in_thread(lambda: node.call(held(tmp_path)))
        until(lambda: _lines(tmp_path / "began"))
        host.terminate()
        until(lambda: not path.exists())
        (tmp_path / "go").touch()
        thread.join()
        assert found[0][0][0] == 1
        assert host.wait(30) == 0
        assert not lives(found[0][0][1])


# The client ends


def test_the_client_is_killed_in_the_middle(path: Path, tmp_path: Path) -> None:
    """The client's call ends, its process too, and nobody gets its answer."""
    code = f"""
from pathlib import Path
from tests.shared_hosts import client
from tests.test_shared_host import HELD, held, raw
with client(Path({str(path)!r}), raw(HELD)) as node:
    node.call(held(Path({str(tmp_path)!r}), 1))
"""
    with listening(path), client(path, raw(HELD)) as node:
        with open_client(path, code) as killed:
            until(lambda: _lines(tmp_path / "began"))
            first = int((tmp_path / "began").read_text())
            killed.kill()
        until(lambda: not lives(first))
        (tmp_path / "go").touch()
        assert [node.call(held(tmp_path, n))[0][0] for n in range(2, 50)] == list(range(2, 50))


def test_the_client_is_killed_while_it_waits(path: Path, tmp_path: Path) -> None:
    """Its message is not run when its turn comes: nobody wants it any more."""
    code = f"""
from pathlib import Path
from tests.shared_hosts import client
from tests.test_shared_host import HELD, held, raw
with client(Path({str(path)!r}), raw(HELD)) as node:
    print(flush=True)
    node.call(held(Path({str(tmp_path)!r}), 2))
"""
    with listening(path), client(path, raw(HELD)) as node:
        thread, found = in_thread(lambda: node.call(held(tmp_path)))
        until(lambda: _lines(tmp_path / "began") == 1)
        with open_client(path, code) as killed:
            until(lambda: status(path)["nodes"]["n"]["queued"] == 1)
            killed.kill()
        (tmp_path / "go").touch()
        thread.join()
        assert found[0][0][0] == 1
        assert node.call(held(tmp_path, 3))[0][0] == 3
        assert _lines(tmp_path / "began") == 2


def test_closed_in_the_middle(path: Path, tmp_path: Path) -> None:
    """A call of another thread ends with PoolClosed, as it does without a shared host."""
    with listening(path), client(path, raw(HELD)) as node:
        thread, found = in_thread(lambda: node.call(held(tmp_path)))
        until(lambda: _lines(tmp_path / "began"))
        host_of(node).close()
        thread.join()
        assert isinstance(found[0], PoolClosed)
        assert found[0].may_have_run
        with pytest.raises(PoolClosed):
            node.call(held(tmp_path))


def test_one_client_keeps_no_other_waiting(path: Path) -> None:
    """A client that sends without end lets the other have its turn at the one process."""
    with listening(path), client(path, ECHO) as greedy, client(path, ECHO) as modest:
        done = threading.Event()

        def flood() -> int:
            numbers = iter(lambda: None if done.is_set() else {"n": 0}, None)
            return sum(1 for _ in greedy.call_many(numbers))

        thread, found = in_thread(flood)
        until(lambda: greedy.snapshot()["calls"] > 1000)
        assert [modest.call({"n": n})[0][0] for n in range(20)] == list(range(20))
        done.set()
        thread.join()
        assert found[0] > 1000


def test_an_interrupt_in_the_middle(path: Path, tmp_path: Path) -> None:
    """The next call has its own answer after an interrupt, as by a soft time limit."""

    class Limit(BaseException):
        pass

    def interrupt(*_: Any) -> None:
        raise Limit

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with listening(path), client(path, raw(HELD)) as node:

            def strike() -> None:
                until(lambda: _lines(tmp_path / "began"))
                os.kill(os.getpid(), signal.SIGALRM)

            striker = threading.Thread(target=strike)
            striker.start()
            with pytest.raises(Limit):
                node.call(held(tmp_path, 1))
            striker.join()
            (tmp_path / "go").touch()
            assert [node.call(held(tmp_path, n))[0][0] for n in range(2, 50)] == list(range(2, 50))
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_client_that_does_not_read(path: Path) -> None:
    """It stops itself and nobody else: the one process serves the others."""
    code = f"""
import os, signal
from pathlib import Path
from tests.shared_hosts import client
from tests.faults.nodes import sdk
code = sdk("def big(msg): return ['x' * 100_000]\\nserve(big)")
with client(Path({str(path)!r}), code) as node:
    outcomes = node.call_many({{}} for _ in range(1000))
    next(outcomes)
    print(flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""
    big = sdk("def big(msg): return ['x' * 100_000]\nserve(big)")
    with listening(path), client(path, big) as node:
        with open_client(path, code) as stopped:
            assert stopped.stdout is not None
            stopped.stdout.readline()
            for _ in range(20):
                assert node.call({}) == [["x" * 100_000]]
            stopped.kill()


# Forks, threads, processes


def test_a_fork_after_the_first_use(path: Path) -> None:
    """Parent and child have links of their own, and the host sees the parent's end."""
    code = f"""
import os, sys
from emit.host.host import current
from emit.host.system.program import environment
from emit.host.system.program import Program
from emit.host.settings import Settings
program = Program("n", {tuple(ECHO)!r}, environment({{"PYTHONPATH": os.environ["PYTHONPATH"]}}))

def check(first):
    node = current().calls("n", lambda: program, Settings(mode="persistent", size=1))
    return sum(node.call({{"n": n}})[0][0] != n for n in range(first, first + 500))

wrong = check(0)
pid = os.fork()
if not pid:
    os._exit(min(255, check(1000)))
wrong += check(5000)
print(wrong, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    with listening(path), open_client(path, code) as forking:
        out, _ = forking.communicate(timeout=100)
        assert out == "0 0\n"
        assert status(path)["nodes"]["n"]["starts"] == 1


def test_a_link_that_a_forked_child_inherits(path: Path, tmp_path: Path) -> None:
    """The parent is killed in the middle while its child lives on: the host sees it."""
    code = f"""
import os, sys
from pathlib import Path
from emit.host.host import current
from emit.host.system.program import environment
from emit.host.system.program import Program
from emit.host.settings import Settings
from tests.test_shared_host import HELD, _lines, held, in_thread, raw, until
program = Program("n", tuple(raw(HELD)), environment({{"PYTHONPATH": os.environ["PYTHONPATH"]}}))
node = current().calls("n", lambda: program, Settings(mode="persistent", size=1))
in_thread(lambda: node.call(held(Path({str(tmp_path)!r}))))
until(lambda: _lines(Path({str(tmp_path / "began")!r})))
pid = os.fork()
if not pid:
    sys.stdin.read()
    os._exit(0)
print(pid, flush=True)
os.kill(os.getpid(), 9)
"""
    with listening(path), open_client(path, code) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        first = int((tmp_path / "began").read_text())
        until(lambda: not lives(first))
        assert lives(child)
        assert parent.stdin is not None
        parent.stdin.close()


WORK = f"""
import os, sys, threading
from emit.host.host import current
from emit.host.system.program import environment
from emit.host.system.program import Program
from emit.host.settings import Settings
program = Program("n", {tuple(ECHO)!r}, environment({{"PYTHONPATH": os.environ["PYTHONPATH"]}}))
node = current().calls("n", lambda: program, Settings(mode="persistent", size=2))
me, count = map(int, sys.stdin.read().split())
wrong = []

def work(first):
    for n in range(first, first + count):
        if node.call({{"n": [me, n]}})[0][0] != [me, n]:
            wrong.append(n)
    numbers = range(first, first + 2 * count)
    for n, outcome in zip(numbers, node.call_many({{"n": [me, n]}} for n in numbers)):
        if outcome[0][0] != [me, n]:
            wrong.append(n)

threads = [threading.Thread(target=work, args=[10**6 * k]) for k in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(wrong))
"""


def test_eight_processes(path: Path) -> None:
    """Ten thousand calls from two threads of each, one by one and in batches: none is wrong."""
    count = 2000 if CHAOS else 210
    with listening(path), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(open_client(path, WORK)) for _ in range(8)]
        for me, each in enumerate(clients):
            assert each.stdin is not None
            each.stdin.write(f"{me} {count}")
            each.stdin.close()
        assert [each.stdout.read() for each in clients if each.stdout] == ["0\n"] * 8
        figures = status(path)["nodes"]["n"]
        assert figures["calls"] == 8 * 2 * 3 * count
        assert figures["starts"] <= 2


# Who may, and where


def test_the_second_says_who_runs(path: Path) -> None:
    """It ends with code 2 and the first one's pid; the first goes on."""
    with listening(path) as host, client(path, ECHO) as node:
        command = [EMIT, "host", "--socket", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (2, "")
        expected = f"emit host: a shared host already listens at {path}: process {host.pid}\n"
        assert done.stderr == expected
        assert node.call({"n": 1})


def test_one_stands_by(path: Path) -> None:
    """It takes over when the first is killed, and a waiting call is served."""
    with listening(path) as first, start(path, "--standby") as second:
        with client(path, ECHO) as node:
            assert node.call({"n": 1})
            first.kill()
            assert node.call({"n": 2})[0][0] == 2
        second.terminate()
        assert second.wait(30) == 0


def test_a_stale_socket(path: Path) -> None:
    """The socket that a killed host has left is no obstacle."""
    with listening(path) as host:
        host.kill()
    assert path.exists()
    with listening(path), client(path, ECHO) as node:
        assert node.call({"n": 1})
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_parent_ends(path: Path) -> None:
    """The host with --parent ends when the process that started it does, however."""
    code = f"""
import os, subprocess, sys
command = [{EMIT!r}, "host", "--socket", {str(path)!r}, "--parent", str(os.getpid())]
print(subprocess.Popen(command, stderr=subprocess.DEVNULL).pid, flush=True)
sys.stdin.read()
"""
    with open_client(path, code) as parent:
        assert parent.stdout is not None
        host = int(parent.stdout.readline())
        until(path.exists)
        parent.kill()
    until(lambda: not lives(host))
    assert not path.exists()


def test_a_folder_that_others_may_write_to(tmp_path: Path) -> None:
    """Anyone who can write there could take the host's place, so the folder is refused."""
    (tmp_path / "open").mkdir(mode=0o700)
    (tmp_path / "open").chmod(0o770)
    command = [EMIT, "host", "--socket", str(tmp_path / "open" / "host.sock")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert re.search(
        r"open can be written to by its group, \d+, not by user \d+ alone", done.stderr
    )


REFUSED = ["b''\n", "ConnectionResetError\n", "BrokenPipeError\n"]
CONNECT = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
connection = socket.socket(socket.AF_UNIX)
try:
    connection.connect(sys.argv[1])
    connection.sendall(b'\\n{"op":"hello","v":[1],"codecs":["msgpack"],"node":"n","max_frame":9999}\\n')
    print(connection.recv(100))
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user() -> None:
    """Neither the folder nor the socket lets one in; and if they did, the host would not."""
    # Not in tmp_path, which is in folders that are closed to others.
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        listening(path := Path(folder, "host.sock")) as host,
    ):
        connect = [sys.executable, "-c", CONNECT, str(path)]
        for expected in (["PermissionError\n"], REFUSED):
            done = subprocess.run(connect, capture_output=True, text=True, timeout=60)
            assert done.stdout in expected, done.stderr
            path.chmod(0o777)
            path.parent.chmod(0o711)
        wait_for(host, "a client of user 65534 is refused")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_host_of_another_user(path: Path) -> None:
    """A client does not tell its messages to whoever has taken the place."""
    code = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.setuid(65534)
listener.listen()
print(flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as impostor:
        assert impostor.stdout is not None
        impostor.stdout.readline()
        with client(path, ECHO) as node, pytest.raises(HostLost, match="of user 65534, not 0"):
            node.call({"n": 1})
        impostor.communicate()


def test_a_call_in_pieces(path: Path) -> None:
    """Frames are put together from any pieces."""
    with listening(path), socket.socket(socket.AF_UNIX) as slow:
        slow.connect(str(path))
        hello = Hello([1], ["msgpack"], "status", 2**24 - 1, {"asked": "snapshot"})
        for frame in (encode(hello), encode(Call(1, {}), "msgpack")):
            for byte in frame:
                slow.sendall(bytes([byte]))
        reader, events = Reader(), []
        while len(events) < 2:
            events += reader.feed(slow.recv(65536))
        assert [type(event) for event in events] == [Ready, End]


def test_garbage(path: Path) -> None:
    """A client that talks nonsense is hung up on, and the others go on."""
    with listening(path), client(path, ECHO) as node:
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x02\xc1\xc1", os.urandom(100_000)):
            with socket.socket(socket.AF_UNIX) as garbage:
                garbage.connect(str(path))
                with contextlib.suppress(OSError):
                    garbage.sendall(data)
                    garbage.shutdown(socket.SHUT_WR)
                    while garbage.recv(1000):
                        pass
            assert node.call({"n": 1})[0][0] == 1


@contextlib.contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        yield connection


def heard(connection: socket.socket, count: int) -> list[Any]:
    """The next frames, so many of them, or those that come before the end."""
    reader, events = Reader(), []
    while len(events) < count and (data := connection.recv(65536)):
        events += reader.feed(data)
    return events


def config(name: str = "n", **changes: Any) -> dict[str, Any]:
    """Return a client's description of a node, with changes to its program."""
    env = environment({"PYTHONPATH": PATH})
    data = from_node(Described(Program(name, tuple(ECHO), env), Settings(mode="persistent")))
    data["program"] |= changes
    return data


def test_clients_of_another_version(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each is told that it is one, as it describes a node or as it calls it; the others go on."""
    hello = Hello([1], ["msgpack"], "n", 2**24 - 1, config(env=["A=1"]))
    with serving(path), client(path, ECHO) as node:
        with connected(path) as odd:
            odd.sendall(encode(hello))
            (refused,) = heard(odd, 2)
        assert isinstance(refused, Failure)
        assert "different versions of Emit" in refused.message
        with connected(path) as odd:
            odd.sendall(encode(hello._replace(config=config())))
            for number, told in enumerate(
                [{"of": "later"}, None, {"id": "7", "node": "n", "x": 1}]
            ):
                meta = {} if told is None else {"context": told}
                odd.sendall(encode(Call(number, {"n": number}, meta=meta), "msgpack"))
            ready, err, *ends = heard(odd, 4)
        assert (type(ready), type(err), err.id) == (Ready, Err, 0)
        assert [(type(end), end.id, end.msgs[0][0]) for end in ends] == [(End, 1, 1), (End, 2, 2)]
        assert node.call({"n": 1})[0][0] == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_group_of_calls(path: Path) -> None:
    """Its calls are answered together, but for one that the host can't understand."""
    hello = Hello([1], ["msgpack"], "n", 2**24 - 1, config())
    metas: Any = [None, {"context": {"of": "later"}}, {}, {}]
    group = Calls(1, [{"n": n} for n in range(4)], metas=metas)
    with listening(path), connected(path) as one:
        one.sendall(encode(hello) + encode(group, "msgpack"))
        reader, ended = Reader(), dict[int, Any]()
        while len(ended) < 4:
            for frame in reader.feed(one.recv(65536)):
                if isinstance(frame, Ready):
                    assert frame.caps == ["groups"]
                elif isinstance(frame, Err):
                    ended[frame.id] = "err"
                elif not isinstance(frame, Pong):  # a sign of life, if the start takes long
                    assert isinstance(frame, Ends)
                    found = (results[0][0] for results in frame.msgs)
                    ended.update(enumerate(found, frame.id))
        assert ended == {1: 0, 2: "err", 3: 2, 4: 3}


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (
            {
                "op": "hello",
                "v": [1],
                "codecs": ["json"],
                "node": "n",
                "max_frame": 1,
                "config": [],
            },
            "config",
        ),
        ({"op": "hello", "v": 1}, "v of 'hello'"),
        ({"op": "call", "id": "1", "msg": {}}, "id of 'call'"),
        ({"op": "end", "id": 1, "msgs": []}, "End"),
    ],
)
def test_frames_of_another_version(path: Path, frame: dict[str, Any], reason: str) -> None:
    """The client is told what is wrong, before the host hangs up."""
    with listening(path), connected(path) as odd:
        odd.sendall(json.dumps(frame).encode() + b"\n")
        (refused,) = heard(odd, 2)
    assert isinstance(refused, Failure)
    assert "speak differently" in refused.message
    assert reason in refused.message


def test_a_failure_of_the_host_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told to the client, and logged with its traceback; no thread dies of it."""

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    with serving(path), client(path, ECHO) as node:
        with monkeypatch.context() as patch:
            patch.setattr(server.Server, "node", fail)
            with pytest.raises(HostError, match="the shared host has failed: ZeroDivisionError"):
                node.call({"n": 1})
        assert node.call({"n": 1})[0][0] == 1
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None


def test_more_clients_than_there_is_room_for(path: Path) -> None:
    """They are told so, by a type that says to try again; a node waits for room."""
    with listening(path, "--max-clients", "4"), contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(connected(path)) for _ in range(40)]
        refused = [heard(each, 1) for each in crowd[4:]]
        assert {(frame.type, frame.message) for (frame,) in refused} == {
            ("HostLost", "it has 4 clients, its max_clients")
        }
        with client(path, ECHO, timeout=0.2) as node:
            with pytest.raises(HostLost, match=r"it has 4 clients.*raise --max-clients"):
                node.call({"n": 1})
        with client(path, ECHO, timeout=60) as node:
            waiting, found = in_thread(lambda: node.call({"n": 2}))
            until(lambda: waiting.is_alive())
            for each in crowd:
                each.close()
            waiting.join()
            assert found[0][0][0] == 2


def test_clients_that_say_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are let go after a while, so that a storm of them is over by itself."""
    monkeypatch.setattr(server, "_HELLO", 0.2)
    monkeypatch.setattr(server, "_most_clients", lambda: 4)
    with serving(path), contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(connected(path)) for _ in range(4)]
        crowd[0].sendall(b"\0\0\0\x20")  # the beginning of a frame
        with client(path, ECHO, timeout=60) as node:
            assert node.call({"n": 1})[0][0] == 1
        assert [heard(each, 1) for each in crowd] == [[], [], [], []]


def test_room_for_clients() -> None:
    """The default leaves room for programs, whatever the limit of open files is."""
    assert 1 <= server._most_clients() <= server.MOST_CLIENTS


@pytest.mark.parametrize("value", ["sharred", "relative/host.sock"])
def test_a_wrong_setting(value: str) -> None:
    """It is an error that says what there is, at once, and not a private host."""
    with client(Path(value), ECHO) as node:
        with pytest.raises(HostLost, match="must be private, shared, or the absolute path"):
            node.call({"n": 1})
    env = {**os.environ, "EMIT_HOST": value}
    done = subprocess.run([EMIT, "host"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "must be private, shared, or the absolute path" in done.stderr


@pytest.mark.parametrize("option", ["--max-processes", "--max-rss", "--max-clients"])
def test_limits_of_the_host(path: Path, option: str) -> None:
    """Nothing could run with less than one."""
    command = [EMIT, "host", "--socket", str(path), option, "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 64
    assert option in done.stderr


def test_the_default_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is shared without the setting; shared has a place for each user."""
    for value in ("", "private"):
        monkeypatch.setenv("EMIT_HOST", value)
        assert socket_path() is None
    monkeypatch.setenv("EMIT_HOST", "shared")
    assert socket_path() == f"/tmp/emit-shared-{os.geteuid()}/host.sock"


# Housekeeping


def test_nodes_that_nobody_uses_are_stopped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes are stopped after a while without a client; a client that idles keeps them."""
    monkeypatch.setattr(server, "LINGER", 0.0)
    monkeypatch.setattr(server, "BEAT", 0.05)
    monkeypatch.setattr(server, "_TICK", 0.05)
    with serving(path) as host:
        with client(path, ECHO, name="a") as kept:
            pid = kept.call({"n": 1})[0][1]
            with client(path, ECHO, name="b") as left:
                gone = left.call({"n": 1})[0][1]
            until(lambda: not lives(gone))
            assert kept.call({"n": 2})[0] == [2, pid]
            until(lambda: list(host.snapshot()["nodes"]) == ["a"])


def test_a_client_that_leaves_while_its_message_waits(path: Path) -> None:
    """Nobody waits for its next attempt in its place."""
    busy = sdk("def busy(msg): raise Retry('busy', after=1e9)\nserve(busy)")
    with serving(path) as host:
        with client(path, busy, backoff_max=3600.0, timeout=60) as node:
            waiting, found = in_thread(lambda: node.call({}))
            until(lambda: any(n["retries"] for n in host.snapshot()["nodes"].values()))
        waiting.join()
        assert isinstance(found[0], PoolClosed)
        until(lambda: "emit-client" not in [thread.name for thread in threading.enumerate()])


def test_threads_end_with_their_clients(path: Path) -> None:
    """A hundred clients that come and go leave nothing; that no_leaks sees."""
    with serving(path):
        for n in range(100):
            with client(path, ECHO) as node:
                if n % 10 == 0:
                    assert node.call({"n": n})[0][0] == n
        until(lambda: not [t for t in threading.enumerate() if t.name == "emit-client"])


def test_a_remote_host_says_what_it_is(path: Path) -> None:
    """Its repr and snapshot, for logs and figures."""
    host = RemoteHost(str(path))
    assert repr(host) == f"<RemoteHost {path} [0 nodes]>"
    assert host.snapshot() == {"pid": os.getpid(), "shared": str(path), "nodes": {}}


def test_a_file(path: Path, tmp_path: Path) -> None:
    """A file runs at a shared host, too. What is known of a failed start is told."""
    (tmp_path / "up.rb").write_text("def up(word:) = word.upcase\n")
    ruby = tmp_path / "bin" / "ruby"
    ruby.parent.mkdir()
    ruby.write_text('#!/bin/sh\necho ruby 2.5.0\n[ "$1" = --version ]\n')
    ruby.chmod(0o755)
    code = f"""
from emit import Router, ShellNode
router = Router()

@router.node(("word",), entry_point=True, name="good")
class Good(ShellNode):
    file = {str(tmp_path / "up.rb")!r}

@router.node(("word",), entry_point=True, name="bad")
class Bad(ShellNode):
    file = {str(tmp_path / "up.rb")!r}
    env = {{"PATH": {f"{ruby.parent}:{os.environ['PATH']}"!r}}}
    max_attempts = 1

for node in (Good, Bad):
    try:
        print(list(node(router.message_class({{"word": "a"}}))))
    except Exception as error:
        print(type(error).__name__, " ".join(str(error).split()))
"""
    with listening(path), open_client(path, code) as client:
        said, _ = client.communicate(timeout=120)
    good, bad = said.splitlines()
    assert good == "[{'word': 'A'}]"
    assert bad.startswith('StartError "bad" cannot be started')
    assert "ruby 2.5.0 is older than 3.0" in bad
