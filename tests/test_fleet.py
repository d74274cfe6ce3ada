"""The reports of workers in Redis: two machines, all kinds of workers, a Redis that refuses."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import workers
from emit.cli import figures
from emit.cli import fleet as fleets
from emit.errors import LedgerError
from emit.observe import fleet
from emit.observe.fleet import Publisher, Report, join, snapshots
from emit.workers import Worker
from tests.conftest import serving_redis
from tests.queues.notes import graph, wait_for
from tests.queues.worker import celery_worker, eventually, rq_worker
from tests.test_cli_top import node, read_until, terminal, top

redis_py = pytest.importorskip("redis")

pytestmark = pytest.mark.requires("redis-server")

#: What workers of these tests are given: reports come soon.
SOON = {"EMIT_FLEET": "0.1"}


@pytest.fixture
def client(redis: str) -> Iterator[Any]:
    with redis_py.Redis.from_url(redis) as made:
        yield made


@pytest.fixture
def flow(redis: str) -> Iterator[Any]:
    with graph("flow", redis) as module:
        yield module


@pytest.fixture
def jobs(redis: str) -> Iterator[Any]:
    with graph("jobs", redis) as module:
        yield module


def of(url: str, name: str = "one", **more: Any) -> Worker:
    """A worker that uses the Redis of *url*."""
    return Worker(name, "celery", open_redis=lambda: redis_py.Redis.from_url(url), **more)


NEW: dict[str, Any] = {"processes": []}


def nodes_of(report: Report) -> dict[str, Any]:
    """The figures of each node, of the host that has done the most."""
    found: dict[str, Any] = {}
    for host in report.hosts:
        for told in host["nodes"].values():
            if told["calls"] >= found.get(told["node"], told)["calls"]:
                found[told["node"]] = told
    return found


def test_two_machines_of_celery(flow: Any, redis: str, client: Any, tmp_path: Path) -> None:
    """Each reports its name, its versions, and what the processes of its pool do."""
    machines = {"web1", "web2"}
    with (
        celery_worker(tmp_path / "1", "-n", "a@%h", EMIT_MACHINE="web1", **SOON) as one,
        celery_worker(tmp_path / "2", "-n", "b@%h", EMIT_MACHINE="web2", **SOON) as two,
    ):
        sent = 0

        def both_have_worked() -> list[Report] | None:
            nonlocal sent
            for n in range(7):  # of single ones, each worker would get the first or the second half
                flow.Answer.delay(n=n, _origin="test")
            sent += 7
            wait_for(flow, "flow.answered", sent)
            reports = snapshots(client)
            # A report may be made in the midst of a start.
            done = {r.machine for r in reports if nodes_of(r).get("flow.program", NEW)["processes"]}
            return reports if done == machines else None

        first, second = eventually(both_have_worked)
        assert [(r.machine, r.queue, r.app, r.pid) for r in (first, second)] == [
            ("web1", "celery", "flow", one.pid),
            ("web2", "celery", "flow", two.pid),
        ]
        assert first.worker.startswith("a@")
        assert first.emit
        assert first.python
        # The hosts are those of the pool's processes, and the master has none.
        pids = {host["pid"] for host in first.hosts}
        assert pids <= set(one.children())
        node = nodes_of(first)["flow.program"]
        assert node["version"] == node["processes"][0]["version"]
        assert node["version"] == nodes_of(second)["flow.program"]["version"]
        assert node["command"] == []
        watch(redis)
        scraped = metrics("--all", "--redis", redis).stdout
        assert f"emit_hosts {len(first.hosts) + len(second.hosts)}.0" in scraped
        assert 'emit_processes{node="program.py",state="idle"}' in scraped
        one.send(signal.SIGTERM)
        eventually(lambda: [r.machine for r in snapshots(client)] == ["web2"])
        two.kill()
        eventually(lambda: not snapshots(client))  # it expires
        assert 0 < client.ttl("emit:fleet") <= 3600


def watch(redis: str) -> None:
    """See both workers in a real terminal: all nodes, and one of them on each machine."""
    done = top("--once", "--all", "--redis", redis)
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split() == [*figures.HEAD]
    blank = lines.index("")
    assert [line.split()[:2] for line in lines[:blank]] == [
        ["flow.answered", "function"],
        ["flow.program", "python"],
    ]
    assert lines[blank + 1].split() == [*fleets.HEAD]
    assert [line.split()[0] for line in lines[blank + 2 :]] == ["web1", "web2"]
    data = json.loads(top("--json", "--all", "--redis", redis).stdout)
    assert [worker["machine"] for worker in data["workers"]] == ["web1", "web2"]
    assert {host["machine"] for host in data["hosts"]} == {"web1", "web2"}
    function, row = data["nodes"]
    assert (function["node"], function["is_function"]) == ("flow.answered", True)
    assert function["calls"] > 0
    assert {"web1", "web2"} >= {*function["machines"]} > set()
    assert (row["node"], row["machines"]) == ("flow.program", ["web1", "web2"])
    [named] = row["versions"].values()
    assert len(named) == row["processes"]
    with terminal("--all", "--redis", redis, "--interval", "0.05") as screen:
        read_until(screen, b"2 machines")
        read_until(screen, b"web2")
        os.write(screen, b"j\r")
        read_until(screen, b"web1 ")
        read_until(screen, b"web2 ")
        os.write(screen, b"\x1b")
        read_until(screen, b"worker")
        os.write(screen, b"q")
        read_until(screen, b"\x1b[?1049l")  # back from the alternate screen


def metrics(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emit.cli", "metrics", "--once", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=110)


@pytest.mark.parametrize("pool", ["solo", "threads", "gevent"])
def test_pools_of_celery(flow: Any, client: Any, tmp_path: Path, pool: str) -> None:
    """The host is in the worker's own process."""
    pytest.importorskip("gevent")
    with celery_worker(tmp_path / "log", "-P", pool, **SOON) as worker:
        flow.Answer.delay(n=1, _origin="test")
        wait_for(flow, "flow.answered", 1)
        eventually(lambda: any("flow.program" in nodes_of(r) for r in snapshots(client)))
        [report] = snapshots(client)
        assert [host["pid"] for host in report.hosts] == [worker.pid]


def test_a_worker_of_rq(jobs: Any, client: Any, tmp_path: Path) -> None:
    """It reports as well, and takes its report back at its end."""
    log = tmp_path / "log"
    with rq_worker(log, "emit.rq.EmitWorker", EMIT_MACHINE="job1", **SOON) as worker:
        jobs.Answer.delay(n=1, _origin="test")
        wait_for(jobs, "jobs.answered", 1)
        eventually(lambda: any("jobs.Answer" in nodes_of(r) for r in snapshots(client)))
        eventually(lambda: "jobs.answered" in snapshots(client)[0].functions["nodes"])
        [report] = snapshots(client)
        assert report.functions["nodes"]["jobs.answered"]["calls"] == 1
        assert (report.machine, report.queue, report.pid) == ("job1", "rq", worker.pid)
        assert worker.stop() == 0
        assert snapshots(client) == []


def test_off(flow: Any, client: Any, tmp_path: Path) -> None:
    """Nothing is published, and no thread runs."""
    with celery_worker(tmp_path / "log", EMIT_FLEET="off"):
        flow.Answer.delay(n=1, _origin="test")
        wait_for(flow, "flow.answered", 1)
        assert client.keys("emit:fleet*") == []


def test_children_that_come_and_go(flow: Any, client: Any, tmp_path: Path) -> None:
    """
    A pool that forks for each message, while its master publishes all the time. The counts of
    functions are exact, although no process counts more than one message.
    """
    options = ("--max-tasks-per-child", "1", "-c", "4")

    def counted() -> dict[str, tuple[Any, ...]]:
        [report] = snapshots(client)
        nodes = report.functions["nodes"].values()
        return {n["node"]: (n["calls"], n["failures"], n["retries"]) for n in nodes}

    with celery_worker(tmp_path / "log", *options, EMIT_FLEET="0.05"):
        for n in range(12):
            flow.Answer.delay(n=n, _origin="test")
        for how in ("reject", "once"):
            flow.moody.delay(how=how)
        answers = [r["fields"]["answer"] for r in wait_for(flow, "flow.answered", 12)]
        assert sorted(n for _, n in answers) == list(range(12))
        handled = {
            "flow.answered": (12, {}, {}),
            "flow.moody": (2, {"failed": 1}, {"retried": 1}),
            "flow.after_moody": (1, {}, {}),
        }
        eventually(lambda: counted() == handled, what=f"{counted()}")


def test_a_shared_host(flow: Any, client: Any, tmp_path: Path, short_folder: Path) -> None:
    """The worker reports the host that it uses."""
    from tests.shared_hosts import listening

    path = short_folder / "host.sock"
    with listening(path), celery_worker(tmp_path / "log", EMIT_HOST=str(path), **SOON) as worker:
        flow.Answer.delay(n=1, _origin="test")
        wait_for(flow, "flow.answered", 1)
        eventually(lambda: any("flow.program" in nodes_of(r) for r in snapshots(client)))
        [report] = snapshots(client)
        owner = int(Path(f"{path}.lock").read_text())
        assert [host["pid"] for host in report.hosts] == [owner]
        assert owner not in (worker.pid, *worker.children())


def test_fifty_workers(client: Any, redis: str) -> None:
    """They cost Redis under 100 commands a second."""
    publishers = [Publisher(of(redis, f"{n}"), fleet.EVERY) for n in range(50)]

    def commands() -> int:
        """The commands so far, but for those of this function."""
        stats = client.info("commandstats")
        return sum(told["calls"] for name, told in stats.items() if name != "cmdstat_info")

    def reports() -> int:
        return int(client.info("commandstats").get("cmdstat_set", {"calls": 0})["calls"])

    before = reports()
    try:
        for publisher in publishers:
            publisher.start()
        eventually(lambda: reports() >= before + 50)
        assert len(snapshots(client)) == 50
        began, first, last = time.monotonic(), commands(), reports()
        eventually(lambda: reports() >= last + 100)
        rate = (commands() - first) / (time.monotonic() - began)
        assert 0 < rate < 100
    finally:
        for publisher in publishers:
            publisher._stopped.set()
        for publisher in publishers:
            publisher.stop()
    eventually(lambda: snapshots(client) == [])
    eventually(lambda: not client.exists("emit:fleet"))


# -- A Redis that is away, or refuses --------------------------------------------------------------


def test_redis_is_away(redis: str, client: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The log says so once, and the report is there once Redis is."""
    caplog.set_level(logging.INFO, "emit.observe.fleet")
    worker, tries = of(redis), threading.Semaphore(0)
    is_away = True

    def open_redis() -> Any:
        assert worker.open_redis is not None
        tries.release()
        return redis_py.Redis(port=1) if is_away else worker.open_redis()

    publisher = Publisher(worker._replace(open_redis=open_redis), 0.01)
    publisher.start()
    for _ in range(3):
        assert tries.acquire(timeout=60)
    assert snapshots(client) == []
    is_away = False
    eventually(lambda: snapshots(client))
    publisher.stop()
    assert snapshots(client) == []
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("`emit top --all` does not show this worker: ")
    assert "EMIT_FLEET=off switches it off" in said[0]
    assert said[1] == "`emit top --all` shows this worker again"


@pytest.mark.parametrize("prefix", ["", "shop:"])
def test_a_user_with_few_rights(
    redis: str, client: Any, caplog: pytest.LogCaptureFixture, prefix: str
) -> None:
    """The permissions for Emit's other keys are enough; with less, the log says what to give."""

    def open_redis() -> Any:
        return redis_py.Redis.from_url(redis, username="few", password="x")

    def allow(*rules: str) -> None:
        client.execute_command("ACL", "SETUSER", "few", "reset", "on", ">x", *rules)

    allow("~other:*", "+@all")
    publisher = Publisher(Worker("w", "rq", open_redis=open_redis, prefix=prefix), 0.01)
    try:
        publisher.start()
        eventually(lambda: caplog.records)
        assert f"~{prefix}emit:fleet* +@read +@write" in caplog.records[0].getMessage()
        allow(f"~{prefix}emit:*", "+@read", "+@write", "+@connection")
        eventually(lambda: snapshots(client, prefix))
        with open_redis() as few:
            assert [r.worker for r in snapshots(few, prefix)] == ["w"]
        assert not snapshots(client, "" if prefix else "shop:")
    finally:
        publisher.stop()
        client.execute_command("ACL", "DELUSER", "few")


def test_reading_a_redis_that_is_away() -> None:
    with pytest.raises(LedgerError, match="read the reports of workers"):
        snapshots(redis_py.Redis(port=1))


def test_reports_that_cannot_be_read(
    redis: str, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Another version's, damaged ones and bombs are left out; the others are read."""
    caplog.set_level(logging.INFO, "emit.observe.fleet")
    report = Publisher(of(redis, "good"), 600.0)._report()
    good = fleet._write(report)
    data = {"version": 1, **report._asdict()}
    odd = {
        "later": {**data, "version": 2},
        "other": {"version": 1},
        "list": [],
        "types": {**data, "pid": "7"},
        "hosts": {**data, "hosts": [1]},
        "functions": {**data, "functions": []},
        "bomb": {**data, "worker": "x" * fleet._MOST},
    }
    packed = {name: fleet.zlib.compress(json.dumps(told).encode()) for name, told in odd.items()}
    texts = {name: fleet.base64.b64encode(data) for name, data in packed.items()}
    for name, text in {**texts, "text": b"?", "good": good}.items():
        client.set(f"emit:fleet:{name}", text)
        client.zadd("emit:fleet", {name: 0})
    client.zadd("emit:fleet", {"gone": 0})
    assert snapshots(client) == [report]
    assert len(caplog.records) == 8
    decoding = redis_py.Redis.from_url(redis, decode_responses=True)
    with decoding:
        assert snapshots(decoding) == [report]


# -- The command -----------------------------------------------------------------------------------


def published(url: str, machine: str, project: str, version: str, **more: Any) -> Publisher:
    """Publish one report of a worker with a host that has one node."""
    publisher = Publisher(of(url, f"worker@{machine}"), 600.0)
    processes = [{"pid": 7, "version": version}]
    figures = node(5, name="words", project=project, processes=processes, idle=1, **more)
    host = {"pid": 1, "project": project, "began": 1.0, "nodes": {"words": figures}}
    report = publisher._report()._replace(machine=machine, project=project, hosts=[host])
    publisher._publish(fleet._write(report))
    return publisher


def test_versions_and_projects_of_the_fleet(redis: str) -> None:
    """A machine with another version is named; another project has a row of its own."""
    for machine, project, version in (
        ("web1", "/srv/app", "aaaaaaaaaaaa"),
        ("web2", "/srv/app", "aaaaaaaaaaaa"),
        ("web3", "/srv/app", "bbbbbbbbbbbb"),
        ("web4", "/srv/shop", "aaaaaaaaaaaa"),
    ):
        published(redis, machine, project, version)
    done = top("--once", "--all", "--redis", redis)
    _, app, shop, said, *_ = done.stdout.splitlines()
    assert (app.split()[:2], app.split()[-2:]) == (["words", "(app)"], ["aaaaaaa", "+1"])
    assert (shop.split()[:2], shop.split()[-1]) == (["words", "(shop)"], "aaaaaaa")
    assert said == (
        "words (app): 2 versions of its program at a time: aaaaaaaaaaaa in 2 of its processes, "
        "bbbbbbbbbbbb in web3 7"
    )
    with terminal("--all", "--redis", redis) as screen:
        read_until(screen, b"bbbbbbbbbbbb in web3 7")


def test_a_host_of_another_version(redis: str) -> None:
    """It is named on stderr, and the others are shown."""
    published(redis, "web1", "/srv/app", "aaaaaaaaaaaa")
    published(redis, "web2", "/srv/app", "aaaaaaaaaaaa", recent=None)
    done = top("--once", "--all", "--redis", redis)
    assert done.returncode == 0
    assert "worker@web2 on web2: its Emit is of another version" in done.stderr
    assert done.stdout.count("words") == 1


def test_the_same_shared_host_of_two_workers(redis: str) -> None:
    """It is counted once."""
    for _ in range(2):
        published(redis, "web1", "/srv/app", "aaaaaaaaaaaa")
    data = json.loads(top("--json", "--all", "--redis", redis).stdout)
    assert (len(data["workers"]), len(data["hosts"])) == (2, 1)
    assert data["nodes"][0]["calls"] == 5


def test_metrics_without_their_redis() -> None:
    """A scrape goes on without the processes, and stderr says why."""
    done = metrics("--all", "--redis", "redis://localhost:1")
    assert "emit_hosts 0.0" in done.stdout
    assert "could not read the reports of workers" in done.stderr
    assert done.returncode == 0


def test_which_redis(redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is named, with a prefix; without any, the command says how to name it."""
    for name in ("EMIT_REDIS", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    assert "which Redis?" in top("--once", "--all").stderr
    done = top("--once", "--all", "--redis", redis)
    assert done.stdout.splitlines()[-1] == "no worker has reported"
    publisher = Publisher(of(redis, "w", prefix="shop:"), 600.0)
    publisher._publish(fleet._write(publisher._report()))
    monkeypatch.setenv("EMIT_REDIS", redis)
    assert "no worker has reported" in top("--once", "--all").stdout
    assert "no worker has reported" not in top("--once", "--all", "--prefix", "shop:").stdout
    away = top("--once", "--all", "--redis", "redis://localhost:1")
    assert (away.returncode, "could not read the reports of workers" in away.stderr) == (2, True)


def test_the_redis_of_an_app(redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--app` takes the Redis and the prefix of a router's app."""
    (tmp_path / "shop.py").write_text(f"""
from celery import Celery
from emit import CeleryRouter
app = Celery("shop", broker={redis!r})
app.conf.broker_transport_options = {{"global_keyprefix": "shop:"}}
router = CeleryRouter(celery_task=app.task)

@router.node(())
def end(msg):
    pass
""")
    monkeypatch.chdir(tmp_path)
    publisher = Publisher(of(redis, "w", prefix="shop:"), 600.0)
    publisher._publish(fleet._write(publisher._report()))
    done = top("--once", "--all", "--app", "shop.router")
    assert (done.stderr, "no worker" in done.stdout) == ("", False)


def test_redis_goes_away(tmp_path: Path) -> None:
    """The view keeps the last figures, and says why they are old."""
    with serving_redis(tmp_path) as url:
        published(url, "web1", "/srv/app", "aaaaaaaaaaaa")
        with terminal("--all", "--redis", url, "--interval", "0.05") as screen:
            read_until(screen, b"web1")
            with redis_py.Redis.from_url(url) as client:
                client.shutdown(nosave=True)
            read_until(screen, b"these are old figures")
            read_until(screen, b"web1")


# -- The interface ---------------------------------------------------------------------------------


def test_without_a_redis(monkeypatch: pytest.MonkeyPatch, redis: str) -> None:
    """There is nothing to do, nor if it is switched off."""
    assert join(Worker("w", "celery")) is None
    monkeypatch.setenv("EMIT_FLEET", "off")
    assert join(of(redis)) is None


@pytest.mark.parametrize("value", ["on", "0", "-1", "nan", "1e9"])
def test_a_setting_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    """It is a warning, as a worker should not end for it."""
    monkeypatch.setenv("EMIT_FLEET", value)
    assert fleet._every() == fleet.EVERY
    assert f"EMIT_FLEET={value} must be off" in caplog.text


def test_a_companion_that_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the others begin and end."""
    here, told = __name__, []
    monkeypatch.setattr(workers, "COMPANIONS", [f"{here}:no_such", f"{here}:_good", f"{here}:_bad"])
    monkeypatch.setattr(fleet, "told", told, raising=False)
    worker = Worker("w", "celery")
    workers.begin(worker)
    workers.end()
    workers.end()
    assert told == [worker, "end"]
    assert f"{here}:no_such could not begin" in caplog.text
    assert "did not end well: no" in caplog.text


def _good(worker: Worker) -> Callable[[], None]:
    fleet.told.append(worker)  # type: ignore[attr-defined]
    return lambda: fleet.told.append("end")  # type: ignore[attr-defined]


def _bad(worker: Worker) -> Callable[[], None]:
    def end() -> None:
        raise ValueError("no")

    return end


def test_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMIT_MACHINE", raising=False)
    assert fleet.machine() == os.uname().nodename
    monkeypatch.setenv("EMIT_MACHINE", "web1")
    assert fleet.machine() == "web1"
