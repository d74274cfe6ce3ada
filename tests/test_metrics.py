"""Metrics: what the series count, and that they are exact for workers that fork and are killed."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from emit import Router, ShellNode
from emit.errors import RemoteError
from emit.observe import metrics
from emit.observe.counts import VARIABLE, Counts, files
from emit.observe.series import ALL, SENT, Tally
from tests.queues.notes import graph
from tests.queues.worker import celery_worker, eventually, rq_worker
from tests.shared_hosts import listening


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of counts for this test, and for the processes that it starts."""
    chosen = tmp_path / "metrics"
    monkeypatch.setenv(VARIABLE, str(chosen))
    return chosen


def read(text: str) -> dict[str, list[Any]]:
    """Return the samples in an exposition, by name."""
    found: dict[str, list[Any]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def scrape() -> dict[str, list[Any]]:
    registry = CollectorRegistry()
    metrics.register(registry)
    return read(generate_latest(registry).decode())


def total(found: dict[str, list[Any]], name: str, **labels: str) -> float:
    """Return the sum of the samples with these labels."""
    return sum(
        sample.value for sample in found.get(name, []) if labels.items() <= sample.labels.items()
    )


def test_messages_in_a_process(folder: Path) -> None:
    """Messages are counted by node, carrier and outcome; the histograms have all runs."""
    router = Router()
    metrics.instrument(router)
    metrics.instrument(router)

    @router.node(("word",), entry_point=True, name="words")
    def words(msg: Any) -> Any:
        yield from msg.text.split()

    @router.node(("n",), "words", name="length")
    def length(msg: Any) -> int:
        if msg.word == "bad":
            raise KeyError(msg.word)
        if msg.word == "again":
            raise RemoteError(node="length", type="Busy", message="later", retry=True)
        return len(msg.word)

    router(text="the rain")
    with pytest.raises(KeyError):
        router(text="a bad b")
    with pytest.raises(RemoteError):
        router(text="again")
    found = scrape()
    handled = "emit_messages_handled_total"
    assert total(found, "emit_messages_sent_total", node="length", carrier="process") == 6
    assert total(found, handled, node="words", outcome="finished", error="") == 3
    assert total(found, handled, node="length", outcome="finished") == 3
    assert total(found, handled, node="length", outcome="failed", error="KeyError") == 1
    assert total(found, handled, node="length", outcome="failed") == 1
    assert total(found, handled, node="length", outcome="retry", error="RemoteError") == 1
    assert total(found, "emit_run_duration_seconds_count", node="length") == 5
    assert total(found, "emit_run_duration_seconds_bucket", node="length", le="+Inf") == 5
    assert 0 < total(found, "emit_run_duration_seconds_sum", node="length") < 1
    assert "emit_process_wait_seconds_count" not in found


def test_processes_of_programs(folder: Path, tmp_path: Path) -> None:
    """Starts, ends, memory and processor time of a node's processes; a stopped one's time stays."""
    (tmp_path / "up.py").write_text("def up(text):\n    return text.upper()\n", "utf-8")
    name = f"up-{os.getpid()}"
    with Router() as router:
        metrics.instrument(router)

        @router.node(("x",), entry_point=True, name=name)
        class Up(ShellNode):
            file = str(tmp_path / "up.py")
            size = 3

        router(text="a")
        found = scrape()
        assert total(found, "emit_processes", node=name, state="idle") == 1
        assert total(found, "emit_processes_limit", node=name) == 3
        assert total(found, "emit_process_resident_memory_bytes", node=name) > 1e6
        assert total(found, "emit_breaker_open", node=name) == 0
        assert total(found, "emit_calls_queued", node=name) == 0
        assert total(found, "emit_hosts") >= 1
        used = total(found, "emit_process_cpu_seconds_total", node=name)
        assert used > 0
    found = scrape()
    assert total(found, "emit_processes", node=name) == 0
    assert total(found, "emit_process_starts_total", node=name) == 1
    assert total(found, "emit_process_ends_total", node=name, cause="stopped") == 1
    assert total(found, "emit_process_start_seconds_count", node=name) == 1
    assert total(found, "emit_process_wait_seconds_count", node=name) == 1
    assert total(found, "emit_process_cpu_seconds_total", node=name) >= used


def test_processes_of_a_shared_host(
    folder: Path, tmp_path: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host counts their starts and ends, of which its clients' routers know nothing."""
    (tmp_path / "up.py").write_text("def up(text):\n    return text.upper()\n", "utf-8")
    path, name = short_folder / "host.sock", f"up-{os.getpid()}"
    monkeypatch.setenv("EMIT_HOST", str(path))
    router = Router()
    metrics.instrument(router)

    @router.node(("x",), entry_point=True, name=name)
    class Up(ShellNode):
        file = str(tmp_path / "up.py")
        max_calls = 1
        size = 1

    def ends(cause: str) -> float:
        return total(scrape(), "emit_process_ends_total", node=name, cause=cause)

    with listening(path) as host:
        with router:
            for _ in range(3):
                router(text="a")
            eventually(lambda: ends("max_calls") >= 1)
        found = scrape()
        assert total(found, "emit_process_starts_total", node=name) >= 2
        assert total(found, "emit_process_start_seconds_count", node=name) >= 2
        assert total(found, "emit_messages_handled_total", node=name) == 3
        host.terminate()
        host.wait(60)
    found = scrape()
    starts, ended = (total(found, f"emit_process_{x}_total", node=name) for x in ("starts", "ends"))
    assert starts == ended


def test_each_series_is_told(folder: Path) -> None:
    """Each series has a fact that fills it, under the labels that it declares."""
    seen: dict[str, tuple[str, ...]] = {}

    class Noting:
        def add(self, series: Any, labels: tuple[str, ...], amount: float = 1.0) -> None:
            assert not series.is_histogram
            seen[series.name] = labels

        def record(self, series: Any, labels: tuple[str, ...], seconds: float) -> None:
            assert series.is_histogram
            seen[series.name] = labels

    tally = Tally(Noting())
    for fact in (every_fact(kind) for kind in tally._tellers):
        tally(fact)
    assert {series.name: len(series.labels) for series in ALL} == {
        name: len(labels) for name, labels in seen.items()
    }


def every_fact(kind: Any) -> Any:
    """Return a fact of some kind with a value in each field."""
    values = {str: "x", int: 1, float: 0.5, bool: True, BaseException: ValueError()}
    hints = get_type_hints(kind).values()
    return kind(*(values[(get_args(hint) or (hint,))[0]] for hint in hints))


def test_a_slot_is_taken_over(folder: Path) -> None:
    """A process that follows another one counts on in its files, one beside it has its own."""
    program = (
        "import sys; from pathlib import Path; from emit.observe.counts import Counts\n"
        "from emit.observe.series import SENT\n"
        f"counts = Counts.at(Path({str(folder)!r}))\n"
        "counts.add(SENT, ('a', 'process'))\n"
        "print('counted', flush=True); sys.stdin.read()"
    )

    def begin() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        child = subprocess.Popen(
            [sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "counted\n"
        return child

    first, second = begin(), begin()
    assert len(files(folder)) == 4
    for child in (first, second):
        child.send_signal(signal.SIGKILL)
        child.communicate()
    third = begin()
    third.communicate()
    assert len(files(folder)) == 4
    assert total(scrape(), "emit_messages_sent_total", node="a") == 3


def test_files_grow(folder: Path) -> None:
    """Many nodes need more than the first size of a file, and none of their numbers is lost."""
    counts = Counts.at(folder)
    for number in range(2000):
        counts.add(SENT, (f"node {number} {'x' * 200}", "process"))
    sent = [sample for sample in scrape()["emit_messages_sent_total"] if sample.value == 1]
    assert len(sent) == 2000


def test_a_full_disk(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The message goes on if there is no room for the counts, and the log says why."""
    router = Router()
    metrics.instrument(router)

    @router.node(("n",), entry_point=True, name="one")
    def one(msg: Any) -> int:
        return 1

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        router(n=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "is switched off" in record.getMessage()


def test_a_forked_child_has_a_slot_of_its_own(folder: Path) -> None:
    """Both count on; neither's number is lost."""
    counts = Counts.at(folder)
    counts.add(SENT, ("a", "process"))
    child = os.fork()
    if not child:
        counts.add(SENT, ("a", "process"), 2.0)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    counts.add(SENT, ("a", "process"), 4.0)
    assert total(scrape(), "emit_messages_sent_total", node="a") == 7
    assert len(files(folder)) == 4


@pytest.fixture(params=["celery", "rq"])
def counted(
    request: pytest.FixtureRequest, redis: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    monkeypatch.setenv("EMIT_TEST_CARRIER", request.param)
    with graph("counted", redis) as module:
        module.carrier = request.param
        yield module


@pytest.mark.requires("redis-server")
def test_exact_under_kills(counted: Any, folder: Path, tmp_path: Path) -> None:
    """
    With a process for each message, and some of them killed, the sum is the number of messages
    handled, but for those in a child when it was killed. And there are as many files as processes.
    """
    log, count, kills = tmp_path / "log", 120, 0
    if counted.carrier == "rq":
        worker_of = rq_worker(log, "rq.Worker")
        count = 40
    else:
        worker_of = celery_worker(log, "-c", "16", "--max-tasks-per-child=1", app="counted")
    with worker_of as worker:
        counted.router(count=count)
        for part in range(1, 5):
            eventually(lambda part=part: counted.redis.scard("done") >= count * part // 6)
            if counted.carrier == "celery":
                os.kill(random.choice(eventually(worker.children)), signal.SIGKILL)
                kills += 1
        eventually(lambda: counted.redis.scard("done") == count)

        def ended() -> float:
            return total(scrape(), "emit_messages_handled_total", node="counted.work")

        handled = eventually(
            lambda: (n := int(counted.redis.get("handled"))) and ended() >= n - kills and n
        )
        assert abs(handled - ended()) <= kills
        assert handled >= count
    found = scrape()
    failed = total(found, "emit_messages_handled_total", node="counted.work", error="ValueError")
    assert 1 <= failed <= 1 + kills
    assert 1 <= total(found, "emit_messages_dead_total", node="counted.work") <= failed
    assert total(found, "emit_messages_sent_total", node="counted.work") >= count
    assert total(found, "emit_queue_wait_seconds_count", node="counted.work") >= count
    assert len(files(folder)) < count  # two for each process that lived at a time


@pytest.mark.requires("redis-server")
def test_the_command(counted: Any, tmp_path: Path) -> None:
    """``emit metrics`` answers with the counts, the messages that wait, and the dead letters."""
    for n in (1, 13, 3):
        counted.work.delay(n=n)
    command = [sys.executable, "-m", "emit.cli", "metrics", "--bind", "127.0.0.1:0"]
    paths = os.pathsep.join([str(Path(counted.__file__).parent), str(Path.cwd())])
    with subprocess.Popen(
        [*command, "--app", "counted.router"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    ) as serving:
        assert serving.stderr is not None
        address = serving.stderr.readline().split()[-1]

        def ask() -> dict[str, list[Any]]:
            with urllib.request.urlopen(address) as answer:
                return read(answer.read().decode())

        queue = "default" if counted.carrier == "rq" else "celery"
        assert total(ask(), "emit_queue_messages", queue=queue) == 3
        working = (
            rq_worker(tmp_path / "log", "emit.rq.EmitWorker")
            if counted.carrier == "rq"
            else celery_worker(tmp_path / "log", app="counted")
        )
        with working:
            eventually(lambda: total(ask(), "emit_messages_handled_total") == 3)
            eventually(lambda: total(ask(), "emit_dead_letters") == 1)
        assert total(ask(), "emit_queue_messages", queue=queue) == 0
        serving.send_signal(signal.SIGTERM)
        assert serving.wait() == 0


def test_the_command_line(folder: Path) -> None:
    """``--once`` prints the metrics, and a wrong address is a usage error."""
    command = [sys.executable, "-m", "emit.cli", "metrics"]
    done = subprocess.run([*command, "--once"], capture_output=True, text=True, check=True)
    assert "emit_hosts" in read(done.stdout)
    wrong = subprocess.run([*command, "--bind", "9464"], capture_output=True, text=True)
    assert wrong.returncode == 64
    assert "host:port" in wrong.stderr
