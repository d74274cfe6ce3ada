"""Dead letters in a real Redis: nothing lost, whoever is killed, and nothing sent twice."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from emit import dead
from emit.dead import DeadLetters
from emit.errors import (
    AmbiguousLetter,
    EncodeError,
    InProgress,
    LetterNotFound,
    ProcessDied,
    UnreadableLetter,
)
from emit.letter import Cause, DeadLetter
from tests.conftest import free_port, serving_redis
from tests.hosts import ROOT
from tests.test_once import until_gone

CAUSES = (
    Cause("ProcessDied", "it died", "last words\n", None, "SIGABRT", 1000.5),
    Cause("CallTimeout", "it hung", "", None, None, 1001.25),
)


def letter(n: int = 13, **more: Any) -> DeadLetter:
    return DeadLetter("halve", {"n": n}, CAUSES, **more)


@pytest.fixture
def client(redis: str) -> Iterator[Any]:
    with pytest.importorskip("redis").Redis.from_url(redis) as connection:
        yield connection


@pytest.fixture
def letters(client: Any) -> DeadLetters:
    return DeadLetters(client)


def ids(letters: DeadLetters, **options: Any) -> list[str]:
    return [entry.id for entry in letters.list(**options)]


# Adding and reading


def test_everything_comes_back(letters: DeadLetters) -> None:
    """A letter is read as it was added, values that JSON would change included."""
    message = {"at": datetime(2026, 1, 2), "raw": b"\xff", "pair": (1, 2), "n": 2**70}
    added = letter(id="7", origin="words", attempts=5, at=1002.0, route={"task": "t", "queue": "q"})
    added = replace(added, message=message)
    assert letters.add(added) == "7"
    assert letters.show("7") == added


def test_what_a_host_makes(letters: DeadLetters) -> None:
    """A letter that knows only node, message and causes gets an id, attempts and a time."""
    error = ProcessDied(node="halve", status=-6, stderr_tail="oh")
    id = letters.add(DeadLetter("halve", {"_origin": "words"}, (Cause.of(error, 1003.0),)))
    found = letters.show(id)
    assert (found.id, found.attempts, found.at, found.origin) == (id, 1, 1003.0, "words")
    assert (found.causes[0].signal, found.causes[0].stderr_tail) == ("SIGABRT", "oh")
    assert letters.show(letters.add(DeadLetter("x", {}, ()))).attempts == 0


def test_a_client_that_decodes(redis: str) -> None:
    """A client with ``decode_responses=True`` works the same."""
    with pytest.importorskip("redis").Redis.from_url(redis, decode_responses=True) as connection:
        letters = DeadLetters(connection, max=1)
        letters.add(letter(id="6"))
        letters.add(letter(id="7"))
        assert ids(letters) == ["7"]
        assert letters.replay("7", lambda letter: None).message == {"n": 13}
        assert len(letters) == 0


def test_list(letters: DeadLetters) -> None:
    """The latest first, of one node or all, as many as asked for, and with the last cause."""
    for n in range(5):
        letters.add(replace(letter(n, id=str(n)), node="even" if n % 2 == 0 else "odd"))
    assert ids(letters) == ["4", "3", "2", "1", "0"]
    assert ids(letters, node="even", limit=2) == ["4", "2"]
    assert ids(letters, limit=0) == []
    assert letters.list(limit=1)[0].cause == CAUSES[-1]


def caused(text: str, node: str = "halve", **more: Any) -> DeadLetter:
    return DeadLetter(node, {}, (Cause("KeyError", text, "", None, None, 1000.0),), **more)


def test_groups(letters: DeadLetters, client: Any) -> None:
    """Letters of a node with one cause, numbers apart, are a group; the largest is first."""
    refused = ("no answer from 10.0.0.1:5432", "no answer from 10.0.0.2:6543")
    for n, text in enumerate((*refused, "row 17 is empty")):
        letters.add(caused(text, id=f"a{n}", at=1000.0 + n))
    letters.add(caused(refused[0], node="other", id="b"))
    client.hset("emit:dead:c", mapping={"node": "halve"})
    client.zadd("emit:dead", {"c": 1.0})
    groups = letters.groups()
    assert [(g.node, g.type, g.text, g.size) for g in groups] == [
        ("halve", "KeyError", "no answer from #:#", 2),
        ("other", "KeyError", "no answer from #:#", 1),
        ("halve", "KeyError", "row # is empty", 1),
        ("halve", "", "it has no 'causes'", 1),
    ]
    assert (groups[0].first, groups[0].last, groups[0].latest) == (1000.0, 1001.0, "a1")
    assert len({group.id for group in groups}) == 4
    assert ids(letters, group=groups[0].id) == ["a1", "a0"]
    assert [group.id for group in letters.groups("other")] == [groups[1].id]


def test_groups_are_kept_apart_by_application(client: Any) -> None:
    """Two applications may have nodes of one name."""
    for app in ("one", "two"):
        DeadLetters(client, app=app).add(caused("no"))
    assert {(group.app, group.size) for group in DeadLetters(client).groups()} == {
        ("one", 1),
        ("two", 1),
    }


def test_since(letters: DeadLetters, client: Any) -> None:
    """Letters from a time on, that time included."""
    for n in range(3):
        letters.add(letter(n, id=str(n)))
    client.zadd("emit:dead", {str(n): 1000.0 + n for n in range(3)})
    assert ids(letters, since=1001.0) == ["2", "1"]
    assert sum(group.size for group in letters.groups(since=1002.0)) == 1
    assert letters.drop_all(since=1001.5) == 1
    assert letters.replay_all(lambda letter: None, since=1001.0).sent == ["1"]
    assert ids(letters) == ["0"]


def test_a_group_is_sent_or_dropped(letters: DeadLetters) -> None:
    """Only the letters of that group."""
    for n, text in enumerate(("no", "maybe", "no", "later")):
        letters.add(caused(text, id=str(n)))
    chosen = {group.text: group.id for group in letters.groups()}
    assert letters.replay_all(lambda letter: None, group=chosen["no"]).sent == ["0", "2"]
    assert letters.drop_all(group=chosen["maybe"]) == 1
    assert ids(letters) == ["3"]


def test_the_same_id_again(letters: DeadLetters) -> None:
    """A message that is given up twice is one letter: the later."""
    letters.add(letter(1, id="7"))
    letters.add(letter(2, id="7"))
    assert ids(letters) == ["7"]
    assert letters.show("7").message == {"n": 2}


def test_a_value_that_cannot_be_kept(letters: DeadLetters, client: Any) -> None:
    """The error says so, and nothing is stored: neither half a letter nor a changed one."""
    bad = replace(letter(), message={"n": object()})
    with pytest.raises(EncodeError, match=r'"halve": the message: .*nothing was stored.*object'):
        letters.add(bad)
    with pytest.raises(EncodeError, match="the route"):
        letters.add(letter(route={"f": print}))
    assert client.keys() == []


def test_no_payload_in_logs(letters: DeadLetters, caplog: pytest.LogCaptureFixture) -> None:
    """Ids and names are logged; messages and errors' texts never."""
    caplog.set_level(logging.DEBUG)
    canary = replace(letter(id="7"), message={"n": "canary"})
    letters.add(canary)
    letters.replay("7", lambda letter: None)
    assert "7" in caplog.text
    assert "canary" not in caplog.text + repr(canary) + repr(letters)


# Time and number


def test_letters_expire(client: Any) -> None:
    """Nothing is left of the letters and of the index after their time."""
    letters = DeadLetters(client, ttl=0.05)
    for n in range(5):
        letters.add(letter(n, id=str(n)))
    until_gone(client, "emit:dead:4")
    assert letters.list() == []
    assert client.keys() == []
    with pytest.raises(LetterNotFound, match='no dead letter "4"'):
        letters.show("4")


def test_the_index_is_swept_by_adding(client: Any) -> None:
    """Letters that nobody looks at leave no trace either."""
    letters = DeadLetters(client, ttl=0.05)
    letters.add(letter(id="old"))
    until_gone(client, "emit:dead:old")
    DeadLetters(client, ttl=0.01).add(letter(id="new"))
    assert client.zrange("emit:dead", 0, -1) == [b"new"]


def test_the_oldest_makes_room(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Above max, and the log says which."""
    letters = DeadLetters(client, max=3)
    for n in range(5):
        letters.add(letter(n, id=str(n)))
    assert ids(letters) == ["4", "3", "2"]
    assert client.exists("emit:dead:0", "emit:dead:1") == 0
    assert "over max = 3, the oldest dropped: 1" in caplog.text


def test_many(letters: DeadLetters) -> None:
    """Thousands are listed, replayed and dropped in pages."""
    for n in range(2000):
        letters.add(replace(letter(n, id=str(n)), node=f"n{n % 2}"))
    assert len(letters.list(limit=5000)) == 2000
    assert letters.drop_all(node="n0") == 1000
    sent: list[int] = []
    done = letters.replay_all(lambda letter: sent.append(letter.message["n"]))
    assert sent == list(range(1, 2000, 2))
    assert (len(done.sent), done.failed, len(letters)) == (1000, {}, 0)


# Sending again


def test_replay(letters: DeadLetters) -> None:
    """The letter is sent with its id, and gone."""
    letters.add(letter(id="7", route={"task": "t"}))
    sent: list[DeadLetter] = []
    assert letters.replay("7", sent.append).id == "7"
    assert [(each.id, each.route) for each in sent] == [("7", {"task": "t"})]
    with pytest.raises(LetterNotFound):
        letters.replay("7", sent.append)


def refuse(letter: DeadLetter) -> None:
    raise ConnectionRefusedError(letter.id)


def test_a_replay_that_fails(letters: DeadLetters) -> None:
    """The letter stays, and can be replayed at once."""
    letters.add(letter(id="7"))
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            letters.replay("7", refuse)
    assert letters.replay("7", lambda letter: None)


def test_a_replay_of_all_with_a_bad_one(letters: DeadLetters) -> None:
    """One that can't be sent keeps no other from it; three in a row are the queue's fault."""
    for n in range(10):
        letters.add(letter(n, id=str(n)))

    def send(letter: DeadLetter) -> None:
        if letter.id == "4":
            refuse(letter)

    done = letters.replay_all(send)
    assert (len(done.sent), list(done.failed), ids(letters)) == (9, ["4"], ["4"])
    for n in range(10):
        letters.add(letter(n, id=str(n)))
    assert list(letters.replay_all(refuse).failed) == ["0", "1", "2"]
    assert len(letters) == 10


def test_it_comes_back_before_the_replay_is_over(letters: DeadLetters) -> None:
    """The new letter of the same id stays."""
    letters.add(letter(1, id="7"))
    letters.replay("7", lambda old: letters.add(letter(2, id="7")))
    assert letters.show("7").message == {"n": 2}
    assert ids(letters) == ["7"]


def test_two_replays_at_a_time(letters: DeadLetters) -> None:
    """The second is refused, and sends nothing."""
    letters.add(letter(id="7"))

    def send(_: DeadLetter) -> None:
        with pytest.raises(InProgress):
            letters.replay("7", refuse)

    letters.replay("7", send)
    assert len(letters) == 0


WORK = """
import sys, redis
from emit.dead import DeadLetters
from emit.letter import DeadLetter
client = redis.Redis.from_url(sys.argv[1])
letters, me = DeadLetters(client), sys.argv[2]
for n in range(100):
    letters.add(DeadLetter("n", {"n": n}, (), id=f"{me}-{n}"))
letters.replay_all(lambda letter: client.rpush("sent", letter.id))
"""


def test_processes(redis: str, client: Any, letters: DeadLetters) -> None:
    """Four add and replay at the same time: each letter is sent once."""
    processes = [
        subprocess.Popen([sys.executable, "-c", WORK, redis, str(me)], cwd=ROOT) for me in range(4)
    ]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    letters.replay_all(lambda letter: client.rpush("sent", letter.id))
    sent = [id.decode() for id in client.lrange("sent", 0, -1)]
    assert sorted(sent) == sorted(f"{me}-{n}" for me in range(4) for n in range(100))


# Applications


def test_applications_are_kept_apart(client: Any) -> None:
    """Each sees its own letters, counts its own to max, and drops its own; ids may be the same."""
    shop, mail = DeadLetters(client, app="shop", max=2), DeadLetters(client, app="mail/eu:1")
    for n in range(3):
        shop.add(letter(n, id=str(n)))
    mail.add(letter(9, id="2"))
    assert (ids(shop), ids(mail), len(shop), len(mail)) == (["2", "1"], ["2"], 2, 1)
    assert (shop.show("2").message, mail.show("2").message) == ({"n": 2}, {"n": 9})
    with pytest.raises(LetterNotFound):
        mail.show("1")
    assert shop.drop_all() == 2
    assert ids(mail) == ["2"]


def test_letters_of_no_application(client: Any, letters: DeadLetters) -> None:
    """
    Letters from before applications had names are seen by all, and dropped and sent by whoever has
    their node.
    """
    for n, node in enumerate(("shop.charge", "mail.send")):
        letters.add(replace(letter(n, id=f"old-{n}"), node=node))
    shop = DeadLetters(client, app="shop", nodes={"shop.charge"})
    shop.add(replace(letter(id="new"), node="shop.gone"))
    assert ids(shop) == ["new", "old-1", "old-0"]
    assert shop.show("old-1").node == "mail.send"
    done = shop.replay_all(lambda letter: None)
    assert (done.sent, done.left) == (["old-0"], {"old-1": "mail.send", "new": "shop.gone"})
    assert shop.drop_all() == 1
    assert ids(shop) == ["old-1"]


def test_one_that_sees_all(client: Any, letters: DeadLetters) -> None:
    """A store without a name lists the letters of all applications, and says whose they are."""
    letters.add(letter(id="1"))
    for app in ("shop", "mail"):
        DeadLetters(client, app=app).add(letter(id=f"{app}-1"))
        DeadLetters(client, app=app).add(letter(id="both"))
    assert {(entry.app, entry.id) for entry in letters.list()} == {
        *(("", "1"), ("shop", "shop-1"), ("mail", "mail-1")),
        *(("shop", "both"), ("mail", "both")),
    }
    assert len(letters) == 5
    assert letters.show("shop-1").message == {"n": 13}
    with pytest.raises(AmbiguousLetter, match="emit:dead:@mail:both, emit:dead:@shop:both"):
        letters.show("both")
    assert letters.replay("mail-1", lambda letter: None).id == "mail-1"
    assert [entry.app for entry in DeadLetters(client, app="").list()] == [""]
    assert letters.drop_all() == 4


def test_a_replay_leaves_other_nodes(letters: DeadLetters, client: Any) -> None:
    """Their letters are counted, and are no failures, however many there are in a row."""
    for n in range(6):
        letters.add(replace(letter(n, id=str(n)), node="gone" if n < 4 else "halve"))
    done = DeadLetters(client, nodes=["halve"]).replay_all(lambda letter: None)
    assert (done.sent, done.failed) == (["4", "5"], {})
    assert done.left == dict.fromkeys("0123", "gone")
    assert ids(letters) == ["3", "2", "1", "0"]


def test_an_id_by_its_beginning(letters: DeadLetters) -> None:
    """Four characters at least, and no other letter's."""
    for id in ("abcd-1", "abcd-2", "abxy", "ab"):
        letters.add(letter(id=id))
    assert letters.find("abxy") == "abxy"
    assert letters.find("ab") == "ab"
    assert letters.find("abcd-2") == "abcd-2"
    with pytest.raises(AmbiguousLetter, match='"abcd" may be 2 dead letters: abcd-1, abcd-2'):
        letters.find("abcd")
    for start in ("abx", "zzzz", "abcd-3"):
        with pytest.raises(LetterNotFound):
            letters.find(start)


# Letters that can't be read


def cause(**more: Any) -> str:
    return json.dumps([{"type": "T", "text": "t", "at": 1.0, **more}])


@pytest.mark.parametrize(
    "change",
    [
        {"causes": cause(of_a_later_version=1)},
        {"causes": cause()},
        {"more": "of a later version"},
        {"version": "0"},
    ],
)
def test_what_another_version_adds_or_lacks(
    letters: DeadLetters, client: Any, change: dict[str, str]
) -> None:
    """Fields that are not known are ignored, and fields of a cause that are missing are empty."""
    letters.add(letter(id="7"))
    client.hset("emit:dead:7", mapping=change)
    assert letters.show("7").message == {"n": 13}
    (entry,) = letters.list()
    assert (entry.fault, entry.cause and entry.cause.exit_code) == ("", None)


DAMAGE: dict[str, Any] = {
    "no node": lambda client, key: client.hdel(key, "node"),
    "no message": lambda client, key: client.hdel(key, "message"),
    "no stamp": lambda client, key: client.hdel(key, "stamp"),
    "half a message": lambda client, key: client.hset(key, "message", "{"),
    "a message that is no map": lambda client, key: client.hset(key, "message", "[1]"),
    "an unknown extension": lambda client, key: client.hset(key, "message", "msgpack:1HsA"),
    "causes that are none": lambda client, key: client.hset(key, "causes", '{"a": 1}'),
    "attempts that are none": lambda client, key: client.hset(key, "attempts", "many"),
    "no UTF-8": lambda client, key: client.hset(key, "node", b"\xff"),
    "a newer version": lambda client, key: client.hset(key, "version", "2"),
    "another type": lambda client, key: (client.delete(key), client.rpush(key, "x")),
    "an empty hash": lambda client, key: (client.delete(key), client.hset(key, "a", "b")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_letter_that_can_not_be_read(letters: DeadLetters, client: Any, damage: str) -> None:
    """It is listed, shown as it is stored, and dropped; it is in nobody's way."""
    for n in range(3):
        letters.add(letter(n, id=str(n)))
    DAMAGE[damage](client, "emit:dead:1")
    assert ids(letters) == ["2", "1", "0"]
    with pytest.raises(UnreadableLetter, match='"1" can\'t be read: ') as raised:
        letters.show("1")
    assert letters.find("1") == "1"
    assert letters.raw("1")
    done = letters.replay_all(lambda letter: None)
    assert (done.sent, list(done.failed), ids(letters)) == (["0", "2"], ["1"], ["1"])
    assert str(done.failed["1"]) == str(raised.value)
    letters.drop("1")
    assert client.keys("emit:dead*") == []
    with pytest.raises(LetterNotFound):
        letters.drop("1")


def test_all_of_them_are_dropped(letters: DeadLetters, client: Any) -> None:
    """Unreadable letters are dropped with the others, after any number that could not be sent."""
    for number, damage in enumerate(DAMAGE.values()):
        letters.add(letter(id=str(number)))
        damage(client, f"emit:dead:{number}")
    letters.add(letter(id="well"))
    assert letters.replay_all(lambda letter: None).sent == ["well"]
    letters.add(letter(id="well"))
    assert letters.drop_all() == len(DAMAGE) + 1
    assert client.keys("emit:dead*") == []


def test_why_it_can_not_be_read(letters: DeadLetters, client: Any) -> None:
    """The reason is a line of the list, with what could be read; and what is stored is shown."""
    letters.add(letter(id="7"))
    client.hset("emit:dead:7", mapping={"version": "2", "new": b"\xff"})
    (entry,) = letters.list()
    assert entry.fault == "a newer version of Emit stored it, in form 2; this one reads form 1"
    assert entry.node == "halve"
    assert letters.raw("7")["new"] == r"\xff"
    client.delete("emit:dead:7")
    client.set("emit:dead:7", "x")
    assert letters.raw("7") == {"type": "string"}


def test_trying_out(client: Any) -> None:
    """All that letters take is done with their keys, and nothing is left of it."""
    letters = DeadLetters(client, app="shop", max=1)
    letters.add(letter(id="7"))
    before = {key: client.dump(key) for key in client.scan_iter()}
    letters.try_out()
    assert {key: client.dump(key) for key in client.scan_iter()} == before
    called = {name: set(re.findall(r"call\('(\w+)'", text)) for name, text in scripts()}
    tried = called.pop("_TRY")
    assert all(calls <= tried for calls in called.values())


def scripts() -> list[tuple[str, str]]:
    return [(k, v) for k, v in vars(dead).items() if isinstance(v, str) and "redis.call" in v]


def test_threads(letters: DeadLetters) -> None:
    """One client, many threads: each letter is sent once."""
    for n in range(200):
        letters.add(letter(n, id=str(n)))
    sent: list[str] = []
    threads = [
        threading.Thread(target=lambda: letters.replay_all(lambda each: sent.append(each.id)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sent, key=int) == [str(n) for n in range(200)]


KILLED = """
import os, signal, sys, redis
from emit.dead import DeadLetters
client = redis.Redis.from_url(sys.argv[1])
def send(letter):
    client.rpush("sent", letter.id)
    os.kill(os.getpid(), signal.SIGKILL)
DeadLetters(client).replay("7", send)
"""


def test_killed_in_a_replay(redis: str, client: Any, letters: DeadLetters) -> None:
    """The letter stays, claimed until the lease is over; sent again, it has the same id."""
    letters.add(letter(id="7"))
    command = [sys.executable, "-c", KILLED, redis]
    assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == -9
    with pytest.raises(InProgress):
        letters.replay("7", refuse)
    client.delete("emit:dead:7:replay")  # as if the lease were over
    letters.replay("7", lambda letter: client.rpush("sent", letter.id))
    assert client.lrange("sent", 0, -1) == [b"7", b"7"]


def test_redis_killed_in_the_middle(tmp_path: Path) -> None:
    """A letter that was not stored has raised; all others survive in an append-only file."""
    module = pytest.importorskip("redis")
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    port = free_port()
    stored: list[str] = []
    refused = threading.Event()
    hundred = threading.Event()

    def add(letters: DeadLetters) -> None:
        with contextlib.suppress(module.ConnectionError):
            for n in range(100_000):
                stored.append(letters.add(letter(n, id=str(n))))
                if n == 100:
                    hundred.set()
        refused.set()

    with serving_redis(tmp_path, *durable, port=port) as url:
        client = module.Redis.from_url(url, retry=None)
        thread = threading.Thread(target=add, args=[DeadLetters(client)])
        thread.start()
        assert hundred.wait(60)
    thread.join()
    assert refused.is_set()
    with client, serving_redis(tmp_path, *durable, port=port):
        there = set(ids(DeadLetters(client), limit=100_000))
        assert set(stored) <= there
        assert len(there) <= len(stored) + 1  # the one that was under way


# Dropping


def test_drop(letters: DeadLetters, client: Any) -> None:
    """One, or all of a node, or all; what is gone is an error."""
    for n in range(4):
        letters.add(replace(letter(n, id=str(n)), node="even" if n % 2 == 0 else "odd"))
    letters.drop("0")
    with pytest.raises(LetterNotFound):
        letters.drop("0")
    assert letters.drop_all("odd") == 2
    assert letters.drop_all() == 1
    assert client.keys() == []
