"""Reloads: the new version takes over under load; whatever fails, nothing is lost or changed."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode
from emit.errors import GraphError, HostLost, StartError
from emit.host import host
from emit.host.host import Host, RemoteHost
from tests.hosts import ROOT, lives, until
from tests.queues.notes import graph, seen, wait_for
from tests.queues.worker import celery_worker
from tests.reloaded import CODES, load, router_of
from tests.shared_hosts import EMIT

PYTHON = CODES["python"]
requires = pytest.mark.requires


@pytest.mark.slow
@pytest.mark.usefixtures("builds")
@pytest.mark.parametrize(
    "language",
    [pytest.param(name, marks=[] if name == "python" else requires(name)) for name in CODES],
)
def test_an_edit_under_load(tmp_path: Path, language: str) -> None:
    """
    A thousand messages a second: the new version takes over, a broken edit changes nothing, and
    every message is handled once, by one version.
    """
    code = CODES[language]
    router, node = router_of(code.write(tmp_path, 1), size=2)
    with router, load(node, tmp_path / "log") as under:
        under.more(100)
        code.write(tmp_path, 2)
        [swapped] = router.reload("node")
        reloaded = time.monotonic()
        under.more(200)
        code.spoil(tmp_path)
        with pytest.raises(StartError, match=code.file):
            router.reload()
        failed = time.monotonic()
        under.more(100)
    assert (swapped.nodes, swapped.is_new, swapped.error) == (("node",), True, None)
    under.check()
    later = {answer["v"] for began, answer in under.answers if began > reloaded}
    assert later == {102}
    assert {answer["v"] for _, answer in under.answers} == {11, 102}
    assert any(began > failed for began, _ in under.answers)


def seam(router: Router) -> Any:
    return router._nodes["node"].seam


def pids(router: Router) -> list[int]:
    """Return the processes that get messages."""
    _, calls = seam(router).running()
    return [p.child.pid for p in calls.pool.processes if p.replaced is None]


def call(node: Any, folder: Path, n: int = 0) -> Any:
    [answer] = node(n=n, log=str(folder / "log"))
    return answer


def test_a_version_that_runs_already(tmp_path: Path) -> None:
    """Its processes stay, unless a reload is forced; and a node without messages has none."""
    router, node = router_of(PYTHON.write(tmp_path, 1), size=1)
    with router:
        assert router.reload() == []
        first = call(node, tmp_path)
        [same] = router.reload()
        assert not same.is_new
        assert same.before == (same.version,)
        assert call(node, tmp_path) == first
        [forced] = router.reload("node", force=True)
        assert (forced.processes, forced.before) == (1, same.before)
        assert call(node, tmp_path)["pid"] not in (first["pid"], None)
        assert len(pids(router)) == 1
        until(lambda: not lives(first["pid"]))


def test_a_node_that_does_not_exist() -> None:
    """The error names the nearest one."""
    router = Router()
    router.node(("n",), name="words", entry_point=True)(lambda msg: 1)
    with pytest.raises(GraphError, match=r'no node "wrods".*words'):
        router.reload("wrods")
    assert router.reload("words") == []


def test_a_message_is_finished_by_the_version_that_has_it(tmp_path: Path) -> None:
    """A long message does not hold up a reload, and its process ends after it."""
    file = tmp_path / "node.py"
    waits = "import os, time\n\n\ndef node(msg):\n    while not os.path.exists(msg.until):\n"
    waits += (
        '        time.sleep(0.002)\n    return {"n": msg.n, "pid": os.getpid(), "v": VERSION}\n'
    )
    file.write_text(waits.replace("VERSION", "1"))
    router, node = router_of(file, size=1)
    answers: list[Any] = []
    with router:
        thread = threading.Thread(
            target=lambda: answers.extend(node(n=1, until=str(tmp_path / "go")))
        )
        thread.start()
        until(lambda: seam(router).running() and pids(router))
        [old] = pids(router)
        file.write_text(waits.replace("VERSION", "22"))
        [swapped] = router.reload()
        assert swapped.processes == 1
        [answer] = node(n=2, until=str(file))
        assert answer["v"] == 22
        assert lives(old)
        assert not answers
        (tmp_path / "go").touch()
        thread.join()
        assert answers == [{"n": 1, "pid": old, "v": 1}]
        until(lambda: not lives(old))
        assert pids(router) == [answer["pid"]]


def test_a_stream_is_finished_by_the_version_that_has_it(tmp_path: Path) -> None:
    """Its results come from one process, though a reload happens between them."""
    file = tmp_path / "node.py"
    code = "import os\n\n\ndef node(msg):\n    for n in range(msg.n):\n"
    code += '        yield {"n": n, "pid": os.getpid(), "v": VERSION}\n'
    file.write_text(code.replace("VERSION", "1"))
    router, _ = router_of(file, size=1, stream=True)
    with router:
        results = seam(router)({"n": 1000})
        first = next(results)
        file.write_text(code.replace("VERSION", "22"))
        router.reload()
        [other] = seam(router)({"n": 1})
        rest = list(results)
    assert {(each["pid"], each["v"]) for each in (first, *rest)} == {(first["pid"], 1)}
    assert len(rest) == 999
    assert other["v"] == 22


def test_a_retry_goes_to_the_new_version(tmp_path: Path) -> None:
    """The old version asks for another attempt after the reload, which the new one gets."""
    file, gate = tmp_path / "node.py", tmp_path / "gate"
    file.write_text(
        "import os, time\nfrom emit_sdk import Retry\n\n\ndef node(msg):\n"
        "    open(msg.began, 'w').close()\n"
        "    while not os.path.exists(msg.gate):\n        time.sleep(0.002)\n"
        "    raise Retry('not yet')\n"
    )
    router, node = router_of(file, size=1)
    answers: list[Any] = []
    with router:
        began = tmp_path / "began"
        fields = {"n": 1, "began": str(began), "gate": str(gate)}
        thread = threading.Thread(target=lambda: answers.extend(node(**fields)))
        thread.start()
        until(began.exists)
        file.write_text("def node(msg):\n    return {'n': msg.n, 'pid': 0, 'v': 2}\n")
        router.reload()
        gate.touch()
        thread.join()
    assert answers == [{"n": 1, "pid": 0, "v": 2}]


def test_a_batch_goes_over_to_the_new_version(tmp_path: Path) -> None:
    """A batch that takes long finishes its open messages with the old version, and no other."""
    router, _ = router_of(PYTHON.write(tmp_path, 1), size=2, window=16)
    log, edited = str(tmp_path / "log"), threading.Event()

    def messages() -> Iterator[dict[str, Any]]:
        for n in range(3000):
            if n == 1000:
                PYTHON.write(tmp_path, 2)
                router.reload()
                edited.set()
            yield {"n": n, "log": log}

    with router:
        many = seam(router).call_many(messages())
        answers = [answer for results in many for answer in results]
    assert edited.is_set()
    assert [answer["n"] for answer in answers] == list(range(3000))
    versions = [answer["v"] for answer in answers]
    assert (versions[0], versions[-1]) == (11, 102)
    assert sorted(map(int, Path(log).read_text().split())) == list(range(3000))


def test_two_reloads_at_once(tmp_path: Path) -> None:
    """One of them replaces the process, and the other finds the new version."""
    router, node = router_of(PYTHON.write(tmp_path, 1), size=1)
    with router:
        call(node, tmp_path)
        PYTHON.write(tmp_path, 2)
        done: list[Any] = []
        both = [threading.Thread(target=lambda: done.extend(router.reload())) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        assert sorted(each.processes for each in done) == [0, 1]
        assert call(node, tmp_path)["v"] == 102
        assert len(pids(router)) == 1


BROKEN = {
    "a signal": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "SIGKILL"),
    "its own end": ("raise SystemExit(3)\n", "exited with 3|exit code 3|SystemExit"),
    "an error": ("1 / 0\n", "ZeroDivisionError.*node.py:1"),
    "a fault": ("def node(msg):\n    return {\n", "node.py"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_new_version_that_can_t_start(tmp_path: Path, what: str) -> None:
    """The old process stays, the error has the author's words, and a mended file is taken."""
    file = PYTHON.write(tmp_path, 1)
    router, node = router_of(file, size=1)
    with router:
        first = call(node, tmp_path)
        code, words = BROKEN[what]
        file.write_text(code)
        with pytest.raises(StartError, match=words):
            router.reload()
        assert call(node, tmp_path) == first
        PYTHON.write(tmp_path, 2)
        router.reload()
        assert call(node, tmp_path)["v"] == 102


def test_a_reload_where_no_process_can_be_started(tmp_path: Path) -> None:
    """A reload mends a node whose starts have failed: its calls need not wait for the breaker."""
    file = PYTHON.write(tmp_path, 1)
    file.write_text("1 / 0\n")
    router, node = router_of(file, size=1, breaker_failures=1, breaker_open=600.0)
    with router:
        with pytest.raises(StartError):
            call(node, tmp_path)
        PYTHON.write(tmp_path, 2)
        [swapped] = router.reload()
        assert (swapped.before, swapped.processes) == ((), 1)
        assert call(node, tmp_path)["v"] == 102


def test_a_full_host(tmp_path: Path) -> None:
    """A swap takes one process more than the host allows, and no more after it."""
    router, node = router_of(PYTHON.write(tmp_path, 1), size=4)
    own = Host(max_processes=1)
    before, host.running = host.running, own
    try:
        first = call(node, tmp_path)
        PYTHON.write(tmp_path, 2)
        [swapped] = router.reload()
        assert swapped.processes == 1
        assert call(node, tmp_path)["v"] == 102
        until(lambda: not lives(first["pid"]))
        assert len(pids(router)) == 1
    finally:
        own.close()
        host.running = before


def test_a_process_that_is_being_started(tmp_path: Path) -> None:
    """A start that began before the reload is of the former version, and is replaced as well."""
    file, gate = tmp_path / "node.py", tmp_path / "gate"
    slow = f"import os, time\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.002)\n"
    file.write_text(slow + "def node(msg):\n    return {'n': 1, 'pid': os.getpid(), 'v': 1}\n")
    router, node = router_of(file, size=2)
    with router:
        thread = threading.Thread(target=lambda: node(n=1))
        thread.start()
        until(seam(router).running)
        _, calls = seam(router).running()
        until(lambda: calls.pool.starting)
        file.write_text(
            "import os\ndef node(msg):\n    return {'n': 1, 'pid': os.getpid(), 'v': 22}\n"
        )
        done: list[Any] = []
        reloading = threading.Thread(target=lambda: done.extend(router.reload()))
        reloading.start()
        until(lambda: calls.pool.source._version)
        gate.touch()
        reloading.join()
        thread.join()
        assert {answer["v"] for _ in range(5) for answer in node(n=1)} == {22}
        assert {p.version for p in calls.pool.processes if p.replaced is None} == {done[0].version}


def test_nodes_of_one_program_are_reloaded_together(tmp_path: Path) -> None:
    """They share its processes."""
    file = tmp_path / "both.py"
    code = "import os\nimport emit_sdk\n"
    for name in ("one", "two"):
        code += f"@emit_sdk.node\ndef {name}(msg):\n    return os.getpid(), VERSION\n"
    code += "emit_sdk.serve()\n"
    file.write_text(code.replace("VERSION", "1"))
    router = Router()
    nodes, path = [], {"PYTHONPATH": str(ROOT / "sdks" / "python")}
    for chosen in ("one", "two"):

        class Both(ShellNode):
            program_node = chosen
            mode = "persistent"
            size = 1

        options: dict[str, Any] = {"command": [sys.executable, str(file)], "env": path}
        nodes.append(router.node(("pid", "v"), name=chosen, entry_point=True, **options)(Both))
    with router:
        assert {node(n=1)[0]["v"] for node in nodes} == {1}
        file.write_text(code.replace("VERSION", "22"))
        [swapped] = router.reload("one")
        assert swapped.nodes == ("one", "two")
        assert {node(n=1)[0]["v"] for node in nodes} == {22}
        [same] = router.reload("two")
        assert not same.is_new


APP = """
import sys
from emit import Router, ShellNode
router = Router()

@router.node(("n", "pid", "v"), name="node", entry_point=True)
class Node(ShellNode):
    file = "node.py"
    size = 1

@router.node(("n",), name="plain")
def plain(msg):
    return msg.n

if __name__ == "__main__":
    for line in sys.stdin:
        [answer] = Node(n=int(line), log="log")
        print(answer["v"], flush=True)
"""


def reload(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [EMIT, "reload", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """It has the hosts of the project on this machine reload, and tells what came of it."""
    PYTHON.write(tmp_path, 1)
    (tmp_path / "app.py").write_text(APP)
    pipe = subprocess.PIPE
    command = [sys.executable, "app.py"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=tmp_path, text=True) as app:
        assert app.stdin is not None
        assert app.stdout is not None

        def version() -> str:
            print(1, file=app.stdin, flush=True)
            return app.stdout.readline().strip()  # type: ignore[union-attr]

        assert version() == "11"
        PYTHON.write(tmp_path, 2)
        done = reload(tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("node: ")
        assert done.stdout.endswith(", 1 process in 1 host\n")
        assert version() == "102"
        done = reload(tmp_path, "app.router:node")
        assert (done.returncode, done.stdout.endswith(" already\n")) == (0, True)
        PYTHON.spoil(tmp_path)
        done = reload(tmp_path, "app.router")
        assert (done.returncode, done.stdout) == (1, "")
        assert "node: stays at " in done.stderr
        assert "node.py" in done.stderr
        assert version() == "102"
        PYTHON.write(tmp_path, 3)
        done = reload(tmp_path, "--json")
        [row] = json.loads(done.stdout)
        assert (row["pid"], row["nodes"], row["processes"]) == (app.pid, ["node"], 1)
        assert version() == "1003"
        wrong = reload(tmp_path, "app.router:noed")
        assert (wrong.returncode, "nearest: node" in wrong.stderr) == (64, True)
        none = reload(tmp_path, "app.router:plain")
        assert (none.returncode, "EMIT_PROJECT" in none.stderr) == (2, True)
        app.stdin.close()
    assert reload(tmp_path).returncode == 2


# A shared host


@pytest.fixture
def shared(short_folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Provide a shared host in a process of its own, for all nodes of this process, and its log."""
    path, log = short_folder / "host.sock", short_folder / "log"
    with log.open("w") as output:
        command = [EMIT, "host", "--socket", str(path)]
        running = subprocess.Popen(command, stderr=output)
    until(lambda: "listening at" in log.read_text())
    before, host.running = host.running, RemoteHost(str(path))
    try:
        yield running, log
    finally:
        host.running.close()
        host.running = before
        running.terminate()
        running.wait()


@pytest.mark.slow
@pytest.mark.usefixtures("builds")
@pytest.mark.parametrize("language", ["python", pytest.param("go", marks=requires("go"))])
def test_a_shared_host(tmp_path: Path, shared: Any, language: str) -> None:
    """It swaps for its clients, builds what is built, and tells them why a file can't be loaded."""
    code, (process, log) = CODES[language], shared
    router, node = router_of(code.write(tmp_path, 1), size=2)
    with router, load(node, tmp_path / "log") as under:
        under.more(50)
        code.write(tmp_path, 2)
        [swapped] = router.reload("node")
        assert (swapped.nodes, swapped.is_new, swapped.error) == (("node",), True, None)
        under.more(50)
        assert under.answers[-1][1]["v"] == 102
        code.spoil(tmp_path)
        with pytest.raises(StartError, match=code.file):
            router.reload()
        code.write(tmp_path, 3)
        process.send_signal(signal.SIGUSR1)
        until(lambda: under.answers[-1][1]["v"] == 1003 or under.errors)
        assert swapped.version in log.read_text()
    under.check()


@pytest.mark.slow
def test_a_shared_host_that_is_gone(tmp_path: Path, shared: Any) -> None:
    """The error names its socket."""
    router, node = router_of(PYTHON.write(tmp_path, 1), size=1)
    with router:
        call(node, tmp_path)
        shared[0].kill()
        shared[0].wait()
        with pytest.raises(HostLost, match=r"host\.sock"):
            router.reload()


@requires("redis-server")
def test_a_celery_worker(
    redis: str, tmp_path: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All children of its pool go over without a restart, and every message is handled once."""
    log = str(tmp_path / "log")
    monkeypatch.setenv("EMIT_TEST_FOLDER", str(tmp_path))
    monkeypatch.setenv("EMIT_PROJECT", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    PYTHON.write(tmp_path, 1)
    with (
        graph("edited", redis) as edited,
        celery_worker(tmp_path / "worker.log", "-c", "3", app="edited") as worker,
    ):
        numbers = itertools.count()
        stopped = threading.Event()

        def send() -> None:
            while not stopped.wait(0.005):
                edited.router(n=next(numbers), log=log)

        sending = threading.Thread(target=send)
        sending.start()
        try:
            wait_for(edited, "edited.last", 100)
            PYTHON.write(tmp_path, 2)
            done = reload(tmp_path, "--json")
            assert done.returncode == 0, done.stderr
            rows = json.loads(done.stdout)
            assert {row["pid"] for row in rows} <= set(worker.children())
            assert any(row["processes"] for row in rows)
            reloaded = next(numbers)
            wait_for(edited, "edited.last", len(seen(edited, "edited.last")) + 100)
            PYTHON.spoil(tmp_path)
            assert reload(tmp_path).returncode == 1
        finally:
            stopped.set()
            sending.join()
        edited.router(n=reloaded, log=log)
        count = next(numbers)
        answers = wait_for(edited, "edited.last", count)
        assert sorted(answer["n"] for answer in answers) == list(range(count))
        assert sorted(map(int, Path(log).read_text().split())) == list(range(count))
        assert {a["v"] for a in answers if a["n"] >= reloaded} == {102}
        assert {a["v"] for a in answers} == {11, 102}
