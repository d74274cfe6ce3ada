"""``emit new`` and ``emit doctor``, as they are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emit.cli.checkup import installed
from emit.cli.project import forms
from emit.host.language.runtime import runtimes
from tests.conftest import require
from tests.queues.worker import eventually
from tests.test_cli import EMIT, run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent

LANGUAGES = list(forms(runtimes()))

MODULES = ROOT / "sdks" / "node" / "node_modules"

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
    if language == "typescript":
        require("node")


def install(folder: Path) -> None:
    """Install the packages for TypeScript: the types, and tsx for a Node before 22.18."""
    (folder / "node_modules").mkdir()
    for name in ("tsx", "@types"):
        (folder / "node_modules" / name).symlink_to(MODULES / name)
    (folder / "node_modules" / "emit-graph-sdk").symlink_to(ROOT / "sdks" / "node")


@pytest.mark.parametrize("sdk", [False, True], ids=["plain", "sdk"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_new_node_works(language: str, sdk: bool, tmp_path: Path) -> None:
    """The two commands that it names do what they say: the node answers, its test passes."""
    need(language)
    options = ["--sdk"] if sdk else []
    done = run("new", "words", "--lang", language, "--test", *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    if language == "typescript":
        install(tmp_path)
        types = [str(MODULES / ".bin" / "tsc"), "-p", "nodes"]
        checked = subprocess.run(types, cwd=tmp_path, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["created", "created"]
    # What it prints can be committed: it holds no path of this machine.
    assert str(ROOT) not in done.stdout
    assert str(tmp_path) not in done.stdout
    call, test = (line.partition(":")[2].strip() for line in lines[-2:])
    called = shell(call, tmp_path)
    assert called.returncode == 0, called.stderr
    assert [json.loads(line) for line in called.stdout.splitlines()] == [
        {"word": "the", "length": 3},
        {"word": "rain", "length": 4},
    ]
    tested = shell(test, tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    if (language, sdk) == ("python", True):
        # Without what is installed here: the SDK comes with Emit.
        env, _, _ = test.partition(" python ")
        lent = f"{env} python -S -c 'import emit_sdk'"
        assert shell(lent, tmp_path).returncode == 0, lent


#: A language of a project's own, with the least that a runtime.toml needs.
SHELL = (
    'name = "shell"\nsuffixes = [".sh"]\n[detect]\ncommand = ["sh", "-c", "echo 1.0"]\n'
    '[launch]\ncommand = ["sh", "{file}"]\n'
)


def own(folder: Path, toml: str = SHELL, **templates: str) -> Path:
    """Add a language to a project, with its templates."""
    runtime = folder / "emit_runtimes" / "shell"
    (runtime / "template").mkdir(parents=True)
    (runtime / "runtime.toml").write_text(toml)
    for kind, text in templates.items():
        (runtime / "template" / f"{kind}.sh").write_text(text)
    return runtime


def test_a_language_without_tests(tmp_path: Path) -> None:
    """A node is written where none is asked for; with --test nothing is, and it says what lacks."""
    own(tmp_path, plain="# {{name}}\n")
    done = run("new", "words", "--lang", "shell", "--test", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        "emit_runtimes/shell/runtime.toml has no test.command or no test.test_file" in done.stderr
    )
    assert not (tmp_path / "nodes").exists()
    done = run("new", "words", "--lang", "shell", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "nodes" / "words.sh").read_text() == "# words\n"
    done = run("new", "others", "--lang", "shell", "--sdk", cwd=tmp_path)
    assert "emit_runtimes/shell/template; write one" in done.stderr


def test_a_test_in_a_language_of_ones_own(tmp_path: Path) -> None:
    """It is written and run by what the language says, with paths from the project's folder."""
    test = '[test]\ncommand = ["sh", "{file}", "{runtime}"]\ntest_file = "{name}_test.sh"\n'
    own(tmp_path, SHELL + test, plain="# {{name}}\n", test="test -d $1\n")
    done = run("new", "words", "--lang", "shell", "--test", cwd=tmp_path)
    line = done.stdout.splitlines()[-1].partition(":")[2].strip()
    assert line == "sh nodes/words_test.sh emit_runtimes/shell"
    assert shell(line, tmp_path).returncode == 0


def test_settings_that_are_there_stay(tmp_path: Path) -> None:
    """The second node in TypeScript leaves the tsconfig.json of the first as it is by now."""
    assert run("new", "one", "--lang", "typescript", cwd=tmp_path).returncode == 0
    settings = tmp_path / "nodes" / "tsconfig.json"
    settings.write_text("{}")
    done = run("new", "two", "--lang", "typescript", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "tsconfig" not in done.stdout
    assert settings.read_text() == "{}"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """No file is written if one of them exists already."""
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
    tested = run("test", cwd=project)
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


def strangers(folder: Path, mark: Path) -> None:
    """A folder whose Python and whose language leave a mark when they are run."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho python >>"{mark}"\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    detect = f'["sh", "-c", "echo shell >>{mark}; echo 1.0"]'
    own(folder, SHELL.replace('["sh", "-c", "echo 1.0"]', detect))


@pytest.mark.parametrize("command", [["doctor"], ["new", "--project", "tweets"]])
def test_no_code_of_the_folder_is_run(command: list[str], tmp_path: Path) -> None:
    """It may be a stranger's, who looks at it with a command that names nothing of it."""
    strangers(tmp_path / "theirs", tmp_path / "mark")
    done = run(*command, cwd=tmp_path / "theirs")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("option", ["--here", "--app=app.router"])
def test_code_of_the_folder_is_run(option: str, tmp_path: Path) -> None:
    """The folder's code runs only with an option, or for a router of the folder."""
    strangers(tmp_path / "mine", tmp_path / "mark")
    (tmp_path / "mine" / "app.py").write_text("from emit import Router\nrouter = Router()\n")
    run("doctor", option, cwd=tmp_path / "mine")
    assert set((tmp_path / "mark").read_text().split()) == {"python", "shell"}


def test_doctor_names_extras(tmp_path: Path) -> None:
    """The advice is to install Emit with its extra, and not a package of any version."""
    hide = (
        "import importlib.metadata as m\nreal = m.version\n"
        "def version(name):\n"
        "    if name in ('celery', 'rq', 'rich'): raise m.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "m.version = version\nimport sys; from emit.cli import main; sys.exit(main(['doctor']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hide], cwd=tmp_path, capture_output=True, text=True
    )
    for name, extra in (("celery", "celery"), ("rq", "rq"), ("rich", "cli")):
        lines = done.stdout.splitlines()
        [at] = [at for at, line in enumerate(lines) if f" {name} " in line]
        assert f"pip install 'emit-graph[{extra}]'" in lines[at + 1]


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
    """Report a Celery router whose broker cannot be reached, and how to go on."""
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
    """The command names the router's module, whatever the app calls itself."""
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
