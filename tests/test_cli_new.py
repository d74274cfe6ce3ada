"""``emit new`` and ``emit doctor``, as they are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emit.cli.toolchains import installed
from emit.host.language.runtime import runtimes
from tests.conftest import require
from tests.queues.worker import eventually
from tests.test_cli import EMIT, run

ROOT = Path(__file__).parent.parent

LANGUAGES = list(runtimes())

#: As an author has it who has installed the SDK of Python.
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "sdks" / "python"), "PYTHONDONTWRITEBYTECODE": "1"}


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), ENV["PATH"]])
    env = {**ENV, "PATH": path}
    return subprocess.run(
        line, shell=True, cwd=cwd, env=env, capture_output=True, text=True, timeout=110
    )


def need(language: str) -> None:
    if language in ("ruby", "node", "go"):
        require(language)


@pytest.mark.parametrize("sdk", [False, True], ids=["plain", "sdk"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_new_node_works(language: str, sdk: bool, tmp_path: Path) -> None:
    """The two commands that it names do what they say: the node answers, its test passes."""
    need(language)
    options = ["--sdk"] if sdk else []
    done = run("new", "words", "--lang", language, "--test", *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["created", "created"]
    call, test = (line.partition(":")[2].strip() for line in lines[-2:])
    called = shell(call, tmp_path)
    assert called.returncode == 0, called.stderr
    assert [json.loads(line) for line in called.stdout.splitlines()] == [
        {"word": "the", "length": 3},
        {"word": "rain", "length": 4},
    ]
    tested = shell(test, tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """Where one file is there already, none is written."""
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "test_words.py").write_text("mine")
    done = run("new", "words", "--lang", "python", "--test", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nodes/test_words.py is there already; nothing was written" in done.stderr
    assert not (tmp_path / "nodes" / "words.py").exists()
    assert run("new", "words", "--lang", "python", "--dir", "x/y", cwd=tmp_path).returncode == 0
    assert (tmp_path / "x" / "y" / "words.py").exists()


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["words"], "say which language: --lang "),
        (["Words", "--lang", "python"], "can't be a name"),
        (["../words", "--lang", "python"], "can't be a name"),
        (["words", "--lang", "cobol"], "invalid choice: 'cobol'"),
    ],
)
def test_wrong_names(argv: list[str], why: str, tmp_path: Path) -> None:
    """A usage error says what would do."""
    done = run("new", *argv, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (64, "")
    assert why in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_new_project(tmp_path: Path, redis: str) -> None:
    """Its tests pass, the graph is sound, and with a worker messages come to the end of it."""
    done = run("new", "--project", "tweets", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    project = tmp_path / "tweets"
    tested = shell("python -m pytest -q -p no:cacheprovider", project)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    checked = run("check", "app.router", cwd=project)
    assert checked.returncode == 0, checked.stdout
    log = tmp_path / "worker.log"
    env = {**ENV, "REDIS_URL": redis}
    command = [sys.executable, "-m", "celery", "-A", "app", "worker", "-c", "1", "-f", str(log)]
    with subprocess.Popen(
        command, cwd=project, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as worker:
        try:
            sent = subprocess.run(
                [EMIT, "run", "app.router", "text=the rain"],
                cwd=project,
                env=env,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert (sent.returncode, sent.stdout) == (0, ""), sent.stderr
            # What the worker sends on is not known here, and not shown as nothing.
            assert "  __entry_point -> tasks.lines  1\n" in sent.stderr
            assert "tasks.tell" not in sent.stderr
            for language in installed():
                wanted = f"] tweets: tasks.words_{language.name}: rain has 4 letters"
                eventually(lambda wanted=wanted: log.exists() and wanted in log.read_text())
        finally:
            worker.terminate()
            worker.wait(60)


def test_a_project_is_not_overwritten(tmp_path: Path) -> None:
    """A folder that is there is left alone."""
    (tmp_path / "tweets").mkdir()
    done = run("new", "--project", "tweets", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert list((tmp_path / "tweets").iterdir()) == []


# -- doctor --------------------------------------------------------------------------------


def checked(*argv: str, **env: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = subprocess.run(
        [EMIT, "doctor", "--json", *argv],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=110,
    )
    return done.returncode, {one["name"]: one for one in json.loads(done.stdout)}


def test_doctor(redis: str) -> None:
    """A node in each language that is here has answered; packages, Redis and kernel are told."""
    code, found = checked("--redis", redis)
    assert code == 0, found
    assert "a node answers in" in found["python"]["text"]
    for language in installed():
        assert found[language.name]["state"] == "ok", found[language.name]
    assert (found["msgpack"]["state"], found["redis"]["state"]) == ("ok", "ok")
    assert found["status socket"]["group"] == "system"


def test_doctor_finds_what_is_broken(tmp_path: Path) -> None:
    """A language whose toolchain does not run, and a Redis that was asked for, are broken; what
    is not there at all is absent."""
    fake = tmp_path / "bin" / "ruby"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho no version is chosen >&2\nexit 1\n")
    fake.chmod(0o755)
    own = tmp_path / "own" / "ruby"
    own.mkdir(parents=True)
    (own / "runtime.toml").write_text(
        'name = "ruby"\nsuffixes = [".rb"]\n[detect]\ncommand = ["ruby", "--version"]\n'
        '[launch]\ncommand = ["ruby", "{file}"]\n'
    )
    lost = own.parent / "cobol"
    lost.mkdir()
    (lost / "runtime.toml").write_text(
        'name = "cobol"\nsuffixes = [".cob"]\n[detect]\ncommand = ["cobc-nowhere"]\n'
        '[launch]\ncommand = ["cobc", "{file}"]\n'
    )
    code, found = checked(
        "--redis",
        "redis://127.0.0.1:1/0",
        PATH=os.pathsep.join([str(fake.parent), os.environ["PATH"]]),
        EMIT_RUNTIMES=str(own.parent),
    )
    assert code == 1
    assert found["ruby"]["state"] == "broken"
    assert found["cobol"]["state"] == "absent"
    broken = [one for one in found.values() if one["state"] == "broken"]
    assert sorted(one["name"] for one in broken) == ["redis", "ruby"]


def test_doctor_asks_the_workers(tmp_path: Path) -> None:
    """Of a router on Celery whose broker cannot be reached it says so, and how to go on."""
    (tmp_path / "app.py").write_text(
        "from celery import Celery\nfrom emit import CeleryRouter\n"
        "app = Celery('app', broker='redis://127.0.0.1:1/0')\n"
        "router = CeleryRouter(celery_task=app.task)\n"
        "router.node((), entry_point=True, name='a')(lambda msg: None)\n"
    )
    done = run("doctor", "--app", "app.router", cwd=tmp_path)
    assert done.returncode == 1
    [line] = [line for line in done.stdout.splitlines() if " celery " in line and "queue" in line]
    assert line.startswith("✘ queue     celery")
    assert "127.0.0.1:1/0" in line


def test_doctor_says_how_a_worker_is_started(redis: str, tmp_path: Path) -> None:
    """By the router's module, whatever the app calls itself."""
    (tmp_path / "app.py").write_text(
        "from celery import Celery\nfrom emit import CeleryRouter\n"
        f"app = Celery('shop', broker={redis!r})\n"
        "router = CeleryRouter(celery_task=app.task)\n"
        "router.node((), entry_point=True, name='a')(lambda msg: None)\n"
    )
    done = run("doctor", "--app", "app.router", cwd=tmp_path)
    assert "celery -A app worker" in done.stdout


def test_doctor_of_a_router_that_is_not_there(tmp_path: Path) -> None:
    """It is said at once, and nothing else is looked at."""
    (tmp_path / "app.py").write_text("")
    done = run("doctor", "--app", "app.router", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no router" in done.stderr
