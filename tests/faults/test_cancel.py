"""Calls that are given up: the process is asked to end them, and kept if it does."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emit import Router, ShellNode
from emit.errors import CallTimeout
from emit.host.calls import Calls
from tests.conftest import require
from tests.faults.nodes import pool, raw, sdk, started
from tests.faults.test_interrupts import Interrupt, interrupt, interrupted, is_polling
from tests.hosts import lives, until
from tests.shared_hosts import client, listening, open_client

pytestmark = pytest.mark.usefixtures("leak_free")

#: Waits, in its first `slow` attempts, until it is cancelled (or for ever, if it is `deaf`). Notes
#: each message that it begins. Else returns its number and its process.
NODE = """
def work(msg):
    if "notes" in msg:
        with open(msg.notes, "a") as notes:
            print(msg.n, file=notes)
    if context().attempt <= msg.get("slow", 0):
        while msg.get("deaf") or not context().cancelled:
            time.sleep(0.002)  # between two looks
    return [msg.n, os.getpid()]
serve(work, concurrency=CONCURRENCY)
"""


def program(concurrency: int = 1) -> list[str]:
    return sdk(NODE.replace("CONCURRENCY", str(concurrency)))


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def begun(notes: Path) -> list[int]:
    """The messages that were begun, in order."""
    return [int(line) for line in notes.read_text().split()] if notes.exists() else []


# A timeout


def test_a_call_that_takes_too_long_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    """The message is charged as ever, and its second attempt is in the same process."""
    with pool(program(), timeout=1.0, cancel_grace=30.0) as node:
        started(node)
        pid = node.call({"n": 0})[0][1]
        assert node.call({"n": 1, "slow": 1}) == [[1, pid]]
        with pytest.raises(CallTimeout) as caught:
            node.call({"n": 2, "slow": 3})
        assert [cause.type for cause in caught.value.letter.causes] == ["CallTimeout"] * 3
        figures = node.snapshot()
        assert (figures["starts"], figures["ends"]) == (1, {})
        assert figures["failures"] == {"CallTimeout": 1}
    kept = [
        text for text in caplog.messages if text.endswith("the process ended the call and is kept")
    ]
    assert len(kept) == figures["retries"]["CallTimeout"] >= 4
    assert "gave no answer within timeout = 1 s" in kept[0]


@pytest.mark.parametrize("grace", [0.0, 0.05])
def test_a_call_that_does_not_end(grace: float, caplog: pytest.LogCaptureFixture) -> None:
    """Its process is killed, by the end of the grace; without a grace it is not even asked."""
    # The time of a message has to be enough for another start, too.
    with pool(program(), timeout=3.0, cancel_grace=grace) as node:
        started(node)
        first = node.call({"n": 0})[0][1]
        second = node.call({"n": 1, "slow": 1, "deaf": True})[0][1]
        assert first != second
        assert not lives(first)
        assert node.snapshot()["ends"] == {"failed": 1}
        all_is_well_here(node)
    assert "gave no answer within timeout = 3 s" in caplog.text
    assert "is kept" not in caplog.text


def all_is_well_here(node: Calls) -> None:
    """Each gets its own answer, and all slots are free."""
    for n in range(100):
        assert node.call({"n": -n})[0][0] == -n
    assert node.pool.busy == 0


def test_a_late_answer_reaches_nobody() -> None:
    """Neither the message that took too long has it, nor the next one."""
    late = raw(
        """
        ready(caps=["cancel"])
        call = read()
        read()  # its cancel
        frame(op="out", id=call["id"], msgs=["late"])
        end(call["id"], "late")
        while True:
            call = read()
            end(call["id"], call["meta"].get("attempt", 1))
        """
    )
    with pool(late, timeout=2.0, cancel_grace=30.0) as node:
        started(node)
        assert node.call({}) == [2]
        assert node.call({}) == [1]
        assert node.snapshot()["starts"] == 1


def test_a_stream_that_takes_too_long() -> None:
    """It has results, so it is not tried again; its process is kept for the next one."""
    code = """
    def work(msg):
        yield os.getpid()
        while msg.get("slow"):
            time.sleep(0.002)  # between two looks
            if context().cancelled:
                return
    serve(work)
    """
    with pool(sdk(code), timeout=1.0, cancel_grace=30.0) as node:
        started(node)
        stream = node.stream({"slow": True})
        pid = next(stream)
        with pytest.raises(CallTimeout):
            next(stream)
        assert node.call({}) == [pid]


def test_a_generator_is_closed_at_its_next_result(tmp_path: Path) -> None:
    """Its `finally` runs, though it never asks whether it is cancelled."""
    code = """
    def work(msg):
        yield os.getpid()
        try:
            while "ended" in msg:
                yield "more"
        finally:
            if "ended" in msg:
                open(msg.ended, "w").close()
    serve(work)
    """
    with pool(sdk(code), cancel_grace=30.0) as node:
        stream = node.stream({"ended": str(tmp_path / "ended")})
        pid = next(stream)
        stream.close()
        assert (tmp_path / "ended").exists()
        assert node.call({}) == [pid]


# Batches


@pytest.mark.parametrize("place", [0, 25, 49])
def test_one_of_a_batch_takes_too_long(tmp_path: Path, place: int) -> None:
    """It alone is charged. Those that were sent ahead stay with the process, and run once."""
    notes = tmp_path / "notes"
    messages = [{"n": n, "slow": int(n == place), "notes": str(notes)} for n in range(50)]
    with pool(program(), timeout=1.0, cancel_grace=30.0) as node:
        outcomes = list(node.call_many(messages))
        figures = node.snapshot()
    assert [outcome[0][0] for outcome in outcomes] == list(range(50))
    assert len({outcome[0][1] for outcome in outcomes}) == 1
    assert figures["starts"] == 1
    # Of those that a slow machine has charged each runs once more, too.
    assert len(begun(notes)) == 50 + figures["retries"]["CallTimeout"]
    assert begun(notes).count(place) >= 2


def test_one_of_a_batch_does_not_end(tmp_path: Path) -> None:
    """Its process is killed after the grace. Those that were sent ahead had not begun: each runs
    once, in another process, and is not charged."""
    notes = tmp_path / "notes"
    messages = [{"n": n, "slow": 2 * (n == 5), "notes": str(notes)} for n in range(50)]
    messages[5]["deaf"] = True
    with pool(program(), timeout=1.0, cancel_grace=0.05, size=1) as node:
        outcomes = list(node.call_many(messages))
        figures = node.snapshot()
    assert [outcome[0][0] for outcome in outcomes] == list(range(50))
    assert figures["starts"] >= 3
    assert len(begun(notes)) == 50 + figures["retries"]["CallTimeout"]
    assert begun(notes).count(5) == 3


def test_a_process_that_works_on_several_messages() -> None:
    """
    Nobody knows which of them hangs: each runs again alone, and the culprit is charged then. No
    process is killed for it.
    """
    messages = [{"n": n, "slow": 2 * (n == 11)} for n in range(40)]
    # Its first attempt is not charged, so it has the number 1 twice.
    messages[11]["slow"] = 1
    with pool(program(concurrency=8), timeout=1.0, cancel_grace=30.0) as node:
        outcomes = list(node.call_many(messages))
        figures = node.snapshot()
    assert [outcome[0][0] for outcome in outcomes] == list(range(40))
    assert figures["starts"] == 1
    assert figures["retries"]["CallTimeout"] >= 1


def test_a_batch_that_is_left(tmp_path: Path) -> None:
    """Calls sent ahead are cancelled before they begin, in all processes at the same time."""
    notes = tmp_path / "notes"
    with pool(program(), size=2, cancel_grace=30.0) as node:
        messages = [{"n": n, "notes": str(notes), "slow": int(n == 20)} for n in range(2000)]
        outcomes = node.call_many(messages)
        pids = {next(outcomes)[0][1]}
        until(lambda: 20 in begun(notes))
        outcomes.close()
        assert node.snapshot()["ends"] == {}
        assert len(begun(notes)) < 2000
        pids |= {node.call({"n": 0})[0][1] for _ in range(4)}
        assert len(pids) <= node.snapshot()["starts"] <= 2
        all_is_well_here(node)


def test_all_processes_of_a_batch_are_asked_at_once(tmp_path: Path) -> None:
    """They have the grace together: here neither ends before the other was asked, too."""
    code = """
    def work(msg):
        if "mine" in msg:
            open(msg.began, "w").close()
            while not context().cancelled:
                time.sleep(0.002)  # between two looks
            open(msg.mine, "w").close()
            while not os.path.exists(msg.other):
                time.sleep(0.002)  # between two looks
        return [msg.n, os.getpid()]
    serve(work)
    """
    began = [tmp_path / f"began{n}" for n in range(2)]
    paths = [str(tmp_path / f"asked{n}") for n in range(2)]
    messages = [
        {"n": n, "began": str(began[n]), "mine": paths[n], "other": paths[1 - n]} for n in range(2)
    ]
    # Another process is taken if something waits after an answer.
    messages = [{"n": 2}, *messages, {"n": 3}]
    with pool(sdk(code), size=2, window=1, cancel_grace=60.0) as node:
        for lease in [node.pool.acquire(time.monotonic() + 60.0) for _ in range(2)]:
            node.pool.release(lease)
        interrupted(
            lambda: list(node.call_many(messages)),
            lambda: all(path.exists() for path in began) and is_polling(),
        )
        all_is_well_here(node)
        assert (node.snapshot()["starts"], node.snapshot()["ends"]) == (2, {})


# Callers that give up


def test_an_interrupted_call(tmp_path: Path) -> None:
    """A soft time limit or Ctrl-C: the process ends the call and takes the next one."""
    notes = tmp_path / "notes"
    with pool(program(), cancel_grace=30.0) as node:
        pid = node.call({"n": 0})[0][1]
        message = {"n": 1, "slow": 1, "notes": str(notes)}
        interrupted(lambda: node.call(message), lambda: begun(notes) and is_polling())
        assert node.call({"n": 2}) == [[2, pid]]
        all_is_well_here(node)


def test_an_interrupt_during_the_grace(tmp_path: Path) -> None:
    """It ends the wait at once: the process is killed."""
    notes = tmp_path / "notes"
    with pool(program(), cancel_grace=3000.0) as node:
        message = {"n": 1, "slow": 1, "deaf": True, "notes": str(notes)}

        def give_up_twice() -> None:
            try:
                node.call(message)
            except Interrupt as first:
                raise AssertionError("the second one comes in the middle of the first") from first

        def strike() -> None:
            until(lambda: begun(notes))
            process = node.pool.processes[0]
            signal.pthread_kill(main, signal.SIGALRM)
            until(lambda: process.talk.is_cancelling)
            signal.pthread_kill(main, signal.SIGALRM)

        main = threading.main_thread().ident
        assert main is not None
        striker = threading.Thread(target=strike)
        striker.start()
        with pytest.raises(Interrupt):
            node.call(message)
        striker.join()
        all_is_well_here(node)
        assert node.snapshot()["starts"] == 2


def test_a_client_that_hangs_up(path: Path, tmp_path: Path) -> None:
    """A shared host cancels the call of a client that was killed, and keeps the process."""
    notes = tmp_path / "notes"
    code = f"""
from pathlib import Path
from tests.faults.test_cancel import program
from tests.shared_hosts import client
with client(Path({str(path)!r}), program(), cancel_grace=30.0) as node:
    node.call({{"n": 1, "slow": 1, "notes": {str(notes)!r}}})
"""
    with listening(path), client(path, program(), cancel_grace=30.0) as node:
        pid = node.call({"n": 0})[0][1]
        with open_client(path, code) as killed:
            until(lambda: begun(notes))
            killed.kill()
        assert node.call({"n": 2}) == [[2, pid]]


@pytest.fixture
def path(short_folder: Path) -> Path:
    return short_folder / "host.sock"


# Every language

#: Makes the file `began` and waits until it is cancelled; if that is "no", returns its process.
FILES = {
    "python": (
        ".py",
        """
import os, time
from emit_sdk import context
def wait(msg):
    if msg.began != "no":
        open(msg.began, "w").close()
        while not context().cancelled:
            time.sleep(0.01)  # between two looks
    return os.getpid()
""",
    ),
    "ruby": (
        ".rb",
        """
def wait(msg)
  if msg[:began] != "no"
    File.write(msg[:began], "")
    sleep
  end
  Process.pid
end
""",
    ),
    "node": (
        ".mjs",
        """
import fs from 'node:fs';
import { setTimeout } from 'node:timers/promises';
export async function wait(msg, { signal }) {
  if (msg.began !== 'no') {
    fs.writeFileSync(msg.began, '');
    await setTimeout(3_600_000, undefined, { signal });
  }
  return process.pid;
}
""",
    ),
    "go": (
        ".go",
        """
package main

import (
    "context"
    "os"
)

type In struct {
    Began string
}

func Wait(ctx context.Context, in In) (int, error) {
    if in.Began != "no" {
        if err := os.WriteFile(in.Began, nil, 0o600); err != nil {
            return 0, err
        }
        <-ctx.Done()
        return 0, ctx.Err()
    }
    return os.Getpid(), nil
}
""",
    ),
}


@pytest.mark.usefixtures("builds")
@pytest.mark.parametrize("language", FILES)
def test_a_handler_sees_that_it_is_cancelled(language: str, tmp_path: Path) -> None:
    """As its language says it: a flag, an exception, a signal, a context."""
    require(*[] if language == "python" else [language])
    suffix, text = FILES[language]
    (tmp_path / f"wait{suffix}").write_text(text)
    began = tmp_path / "began"
    with Router() as router:
        options = {"file": f"wait{suffix}", "cwd": str(tmp_path), "size": 1, "cancel_grace": 60.0}
        wait = router.node(("pid",), name="wait", **options)(ShellNode)
        pid = wait(began="no")[0]["pid"]
        interrupted(lambda: wait(began=str(began)), lambda: began.exists() and is_polling())
        assert wait(began="no") == ({"pid": pid},)
