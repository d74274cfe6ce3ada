"""One effect for each key: in threads, in processes, after failures and after SIGKILL."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import idempotent
from emit.errors import InProgress, LedgerError
from tests.conftest import serving_redis
from tests.hosts import ROOT


@pytest.fixture
def client(redis: str) -> Iterator[Any]:
    with pytest.importorskip("redis").Redis.from_url(redis) as connection:
        yield connection


def until_gone(client: Any, key: str) -> None:
    end = time.monotonic() + 30
    while client.exists(key):
        assert time.monotonic() < end
        time.sleep(0.002)


def test_the_second_time(client: Any) -> None:
    """Only the first delivery does it."""
    seen = []
    for _ in range(3):
        with idempotent(client, "mail:7") as first:
            seen.append(first)
    assert seen == [True, False, False]


def test_a_client_that_decodes(redis: str) -> None:
    """A client with ``decode_responses=True`` works the same."""
    with pytest.importorskip("redis").Redis.from_url(redis, decode_responses=True) as connection:
        for expected in (True, False):
            with idempotent(connection, "a") as first:
                assert first is expected


def test_an_effect_that_fails(client: Any) -> None:
    """Its exception goes on, and the next delivery does it at once."""
    with pytest.raises(ZeroDivisionError), idempotent(client, "a"):
        raise ZeroDivisionError
    with idempotent(client, "a") as first:
        assert first


def test_two_at_a_time(client: Any) -> None:
    """The second is told to come again; it is not told that it is done."""
    with idempotent(client, "a") as first:
        assert first
        with pytest.raises(InProgress, match='"a": another process'):
            with idempotent(client, "a"):
                pytest.fail("it has begun twice")
    with idempotent(client, "a") as again:
        assert not again


def test_threads(client: Any) -> None:
    """Twenty threads, a hundred keys: one effect for each."""
    effects: list[int] = []

    def work() -> None:
        for key in range(100):
            while True:
                try:
                    with idempotent(client, str(key)) as first:
                        if first:
                            effects.append(key)
                    break
                except InProgress:
                    continue

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(effects) == list(range(100))


KILLED = """
import os, signal, sys, redis
from emit import idempotent
client = redis.Redis.from_url(sys.argv[1])
with idempotent(client, "a", lease=float(sys.argv[2])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_in_the_middle(url: str, lease: float) -> None:
    command = [sys.executable, "-c", KILLED, url, str(lease)]
    assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == -9


def test_killed_in_the_middle(redis: str, client: Any) -> None:
    """It is not taken for done: another may do it when the lease is over, and not before."""
    kill_in_the_middle(redis, 600)
    with pytest.raises(InProgress):
        with idempotent(client, "a"):
            pytest.fail("the lease was not over")
    client.pexpire("emit:once:a", 1)
    until_gone(client, "emit:once:a")
    with idempotent(client, "a") as first:
        assert first


def test_an_effect_longer_than_its_lease(client: Any) -> None:
    """A late caller takes no other's claim away; and in the end the effect is done."""
    with idempotent(client, "a", lease=600):
        client.set("emit:once:a", "another")
    assert client.get("emit:once:a") == b"done"
    failing = idempotent(client, "b", lease=600)
    assert failing.__enter__()
    client.set("emit:once:b", "another")
    assert not failing.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert client.get("emit:once:b") == b"another"


def test_marks_expire(client: Any) -> None:
    """The claim with its lease, the mark with its time to live."""
    with idempotent(client, "a", lease=50, ttl=500):
        assert 0 < client.pttl("emit:once:a") <= 50_000
    assert 50_000 < client.pttl("emit:once:a") <= 500_000


def test_no_redis(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The effect does not begin without Redis; a later loss is logged with its consequence."""
    redis = pytest.importorskip("redis")
    with serving_redis(tmp_path) as url:
        client = redis.Redis.from_url(url, retry=None)
    with client, pytest.raises(LedgerError, match=r"Redis at 127.*could not say whether"):
        with idempotent(client, "a"):
            pytest.fail("begun without a claim")
    with contextlib.ExitStack() as server:
        client = redis.Redis.from_url(server.enter_context(serving_redis(tmp_path)), retry=None)
        with client, idempotent(client, "a", lease=7):
            server.close()  # the effect, during which Redis is killed
    assert "emit:once:a is done and not marked: if its message comes again after 7 s" in caplog.text
