"""``emit dead``: what an operator sees, in text and in JSON."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emit.dead import DeadLetters
from emit.letter import Cause, DeadLetter
from tests.test_cli import EMIT

Run = Callable[..., "subprocess.CompletedProcess[str]"]

CAUSE = Cause("ProcessDied", "it died\x1b[31m\nof age", "bye\x07\n", None, "SIGABRT", 1000.0)

APP = """
import json
from emit import Router
router = Router()

@router.node(("n",), name="halve")
def halve(msg):
    if msg.n == 13:
        raise ConnectionRefusedError("no")
    print("halved", msg.n)
    return msg.n
"""


@pytest.fixture
def letters(redis: str) -> Iterator[DeadLetters]:
    with pytest.importorskip("redis").Redis.from_url(redis) as connection:
        letters = DeadLetters(connection)
        for n in (12, 13, 14):
            letters.add(DeadLetter("halve", {"n": n}, (CAUSE,), origin="words", id=f"m{n}"))
        yield letters


@pytest.fixture
def run(redis: str, tmp_path: Path) -> Run:
    (tmp_path / "app.py").write_text(APP)
    env = {**os.environ, "EMIT_REDIS": redis}

    def run(*argv: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [EMIT, "dead", *argv],
            cwd=tmp_path,
            env={**env, **more},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_the_usual_variable(letters: DeadLetters, run: Run, redis: str) -> None:
    """Emit's own variable comes first."""
    assert run("list", EMIT_REDIS="", REDIS_URL=redis).stdout == run("list", REDIS_URL="x").stdout


def test_list(letters: DeadLetters, run: Run) -> None:
    """A line for each, without control characters; in JSON whole."""
    done = run("list")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["m14", "m13", "m12"]
    assert "1970-01-01 00:16:40+00:00  halve from words  1x  ProcessDied: it died" in lines[0]
    assert "\x1b" not in done.stdout
    (line,) = run("list", "--json", "--limit", "1").stdout.splitlines()
    assert json.loads(line)["cause"]["signal"] == "SIGABRT"
    assert run("list", "--node", "other").stdout == ""


def test_show_hides_fields(letters: DeadLetters, run: Run) -> None:
    """Those that the command names, in any case, as text and as JSON."""
    letters.add(DeadLetter("halve", {"n": 1, "Password": "s3"}, (CAUSE,), id="hidden"))
    assert "'Password': '[hidden]'" in run("show", "hidden", "--redact", "password").stdout
    shown = run("show", "hidden", "--redact", "n,password", "--json").stdout
    assert json.loads(shown)["message"] == {"n": "[hidden]", "Password": "[hidden]"}


def test_show(letters: DeadLetters, run: Run) -> None:
    """The message and all causes."""
    done = run("show", "m13")
    assert "message   {'n': 13}" in done.stdout
    assert "stderr  bye" in done.stdout
    assert ", after 1 attempt\n" in done.stdout
    assert "route" not in done.stdout
    assert "\x07" not in done.stdout
    shown = json.loads(run("show", "m13", "--json").stdout)
    assert (shown["id"], shown["message"], shown["origin"]) == ("m13", {"n": 13}, "words")


def test_a_message_that_json_would_change(letters: DeadLetters, run: Run) -> None:
    """It is shown as the text that stands for it."""
    letters.add(DeadLetter("halve", {"raw": b"\xff"}, (), id="raw"))
    assert json.loads(run("show", "raw", "--json").stdout)["message"].startswith("msgpack:")
    assert r"{'raw': b'\xff'}" in run("show", "raw").stdout


def test_replay(letters: DeadLetters, run: Run) -> None:
    """Letters that can be sent are gone, the others stay, and the exit code says so."""
    done = run("replay", "--app", "app.router", "m12", "m13", "m99")
    assert done.stdout == "halved 12\nm12\n"
    assert "emit dead: m13: no" in done.stderr
    assert 'emit dead: m99: there is no dead letter "m99"' in done.stderr
    assert done.returncode == 1
    done = run("replay", "--app", "app.router", "--all", "--json")
    assert done.stdout == 'halved 14\n{"replay": "m14"}\n'
    assert (done.returncode, done.stderr) == (1, "emit dead: m13 stays: no\n")
    assert [entry.id for entry in letters.list()] == ["m13"]


def test_replay_of_what_could_not_be_read(letters: DeadLetters, run: Run) -> None:
    """It is no message: a router without a queue runs no node with it."""
    raw = DeadLetter("halve", {"raw": '{"args":["{"]}'}, (CAUSE,), id="r", route={"raw": True})
    letters.add(raw)
    done = run("replay", "--app", "app.router", "r")
    assert (done.returncode, done.stdout) == (1, "")
    assert "emit dead: r: only the router of the queue that it came from" in done.stderr
    assert letters.show("r").message == raw.message


def test_drop(letters: DeadLetters, run: Run) -> None:
    """Drop the letters that are named, or all of a node."""
    assert run("drop", "m12").stdout == "m12\n"
    assert run("drop", "--all", "--node", "other").stdout == "0 dropped\n"
    assert run("drop", "--all", "--json").stdout == '{"dropped": 2}\n'
    assert run("list").stdout == ""


def test_by_cause(letters: DeadLetters, run: Run) -> None:
    """A line for each cause; its group can be listed, sent and dropped."""
    letters.add(DeadLetter("halve", {}, (Cause("KeyError", "'n'", "", None, None, 0.0),), id="k1"))
    first, second = run("list", "--by-cause").stdout.splitlines()
    assert "  3 letters  halve  ProcessDied: it died" in first
    assert "\x1b" not in first
    assert "  1 letter  halve  KeyError: 'n'  (the last: 1970-01-01 00:00:00+00:00, k1)" in second
    one = run("list", "--by-cause", "--limit", "1")
    assert one.stdout.splitlines() == [first]
    assert one.stderr == "emit dead: these are the largest 1, and there are more: see --limit\n"
    group = second.split()[0]
    (told,) = run("list", "--by-cause", "--cause", group, "--json").stdout.splitlines()
    assert (json.loads(told)["id"], json.loads(told)["size"]) == (group, 1)
    assert run("list", "--cause", group).stdout.split()[0] == "k1"
    assert run("drop", "--all", "--cause", group).stdout == "1 dropped\n"
    assert len(letters) == 3


def test_since(letters: DeadLetters, run: Run) -> None:
    """The letters of the last minutes, or from a date on; anything else is told."""
    letters.redis.zadd("emit:dead", {"m12": 1000.0})
    assert [line.split()[0] for line in run("list", "--since", "1h").stdout.splitlines()] == [
        "m14",
        "m13",
    ]
    assert len(run("list", "--since", "1970-01-01T00:16Z").stdout.splitlines()) == 3
    done = run("list", "--since", "yesterday")
    assert (done.returncode, done.stdout) == (64, "")
    assert "'yesterday' is no time: give 30m, 2h or 7d, or a date" in done.stderr


@pytest.mark.parametrize(
    "argv",
    [("replay",), ("drop",), ("drop", "--all", "m12"), ("drop", "m12", "--cause", "0badf00d"), ()],
)
def test_neither_ids_nor_all(letters: DeadLetters, run: Run, argv: Any) -> None:
    """A command that does not say which letters changes nothing."""
    done = run(*argv)
    assert (done.returncode, done.stdout) == (64, "")
    assert len(letters) == 3


def test_what_is_missing(letters: DeadLetters, run: Run) -> None:
    """No Redis named, none there, no router: one line each."""
    for code, argv, env, text in (
        (
            64,
            ["list"],
            {"EMIT_REDIS": "", "REDIS_URL": ""},
            "which Redis? Give --redis URL, or the",
        ),
        (2, ["list", "--redis", "redis://127.0.0.1:1/0"], {}, "127.0.0.1:1"),
        (2, ["list", "--redis", "nonsense"], {}, "Redis URL"),
        (64, ["replay", "m12"], {}, "replay needs --app"),
    ):
        done = run(*argv, **env)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith("emit dead: ")
        assert text in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_router_knows_its_store(letters: DeadLetters, run: Run, tmp_path: Path) -> None:
    """The app's own store is used without --redis; a router that can resend gets the letter."""
    own = """
import redis, os
from emit.dead import DeadLetters
class Own(Router):
    dead_letters = DeadLetters(redis.Redis.from_url(os.environ["STORE"]))
    def resend(self, letter):
        print("resent", letter.id)
router = Own()
"""
    (tmp_path / "own.py").write_text("from emit import Router\n" + own)
    connection = letters.redis.connection_pool.connection_kwargs
    store = f"redis://{connection['host']}:{connection['port']}/0"
    done = run(
        "replay", "--app", "own.router", "m12", EMIT_REDIS="redis://127.0.0.1:1/0", STORE=store
    )
    assert (done.stdout, done.stderr) == ("resent m12\nm12\n", "")


def test_the_end_of_a_list(letters: DeadLetters, run: Run) -> None:
    """The list says if it stops at a limit, and only then."""
    done = run("list", "--limit", "2")
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == "emit dead: these are the latest 2, and there are more: see --limit\n"
    assert run("list", "--limit", "2", "--json").stderr == done.stderr
    assert run("list", "--limit", "3").stderr == ""


def test_an_id_by_its_beginning(letters: DeadLetters, run: Run) -> None:
    """Four characters are enough, unless several letters begin so."""
    for id in ("c0ffee-1", "c0ffee-2", "decafbad"):
        letters.add(DeadLetter("halve", {"n": 8}, (), id=id))
    assert "id        decafbad\n" in run("show", "deca").stdout
    assert run("drop", "decaf").stdout == "decafbad\n"
    done = run("drop", "c0ff")
    assert (done.returncode, done.stdout) == (1, "")
    assert '"c0ff" may be 2 dead letters: c0ffee-1, c0ffee-2' in done.stderr


@pytest.mark.parametrize(
    "argv", [("show", "m9"), ("drop", "m9"), ("replay", "--app", "app.router", "m9")]
)
def test_an_id_that_there_is_not(letters: DeadLetters, run: Run, argv: Any) -> None:
    """The same words and exit code, whatever was to be done with it."""
    done = run(*argv)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'there is no dead letter "m9"' in done.stderr


def test_what_can_not_be_read(letters: DeadLetters, run: Run) -> None:
    """It is a line of the list, is shown as it is stored, and can be dropped."""
    letters.redis.hset("emit:dead:m13", mapping={"version": "99", "new": "a\x1b[31m\nb"})
    listed = run("list")
    assert (listed.returncode, len(listed.stdout.splitlines())) == (0, 3)
    assert "m13  can't be read  halve  a newer version of Emit stored it" in listed.stdout
    faults = [json.loads(line)["fault"] for line in run("list", "--json").stdout.splitlines()]
    assert [bool(fault) for fault in faults] == [False, True, False]
    shown = run("show", "m13")
    assert (shown.returncode, shown.stderr.count("\n")) == (0, 1)
    assert "a newer version of Emit" in shown.stderr
    assert "node      halve\n" in shown.stdout
    assert "new       a\\x1b[31m\\nb\n" in shown.stdout
    raw = json.loads(run("show", "m13", "--json").stdout)
    assert (raw["id"], raw["raw"]["version"]) == ("m13", "99")
    done = run("replay", "--app", "app.router", "m13")
    assert (done.returncode, done.stdout) == (1, "")
    done = run("replay", "--app", "app.router", "--all")
    assert "m12" in done.stdout
    assert "m13 stays: " in done.stderr
    assert run("drop", "m13").stdout == "m13\n"


def test_letters_of_other_nodes(letters: DeadLetters, run: Run) -> None:
    """A router sends those of its own nodes, leaves the others, and says so."""
    for n in range(4):
        letters.add(DeadLetter("mail.send", {"n": n}, (), id=f"mail-{n}"))
    letters.drop("m13")
    done = run("replay", "--app", "app.router", "--all")
    assert done.returncode == 0
    assert "m12" in done.stdout
    assert "m14" in done.stdout
    text = "4 letters are left, of nodes that app.router lacks: mail.send"
    assert done.stderr == f"emit dead: {text}\n"
    assert len(letters) == 4


def test_letters_of_an_application(
    letters: DeadLetters, run: Run, redis: str, tmp_path: Path
) -> None:
    """Its name is in the list of all; its router sees its own, in whichever Redis."""
    shop = DeadLetters(letters.redis, app="shop")
    shop.add(DeadLetter("shop.charge", {"n": 1}, (CAUSE,), id="shop-1"))
    assert "shop-1  1970-01-01 00:16:40+00:00  shop: shop.charge  1x" in run("list").stdout
    own = """
from celery import Celery
from emit import CeleryRouter
app = Celery("shop", broker="redis://127.0.0.1:1")
router = CeleryRouter(app.task)
@router.node((), name="shop.charge")
def charge(msg): ...
"""
    (tmp_path / "shop.py").write_text(own)
    other = DeadLetters(letters.redis, app="mail")
    other.add(DeadLetter("mail.send", {"n": 1}, (CAUSE,), id="mail-1"))
    done = run("list", "--app", "shop.router", "--redis", redis)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["shop-1", "m14", "m13", "m12"]
    done = run("drop", "--all", "--app", "shop.router", "--redis", redis)
    assert done.stdout == "1 dropped\n"
    assert {entry.id for entry in letters.list()} == {"m12", "m13", "m14", "mail-1"}
