"""``emit``: its help, its errors and its exit codes."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

import pytest

import emit
from emit.cli import COMMANDS
from emit.cli.output import paint

pytestmark = pytest.mark.slow

#: The installed program, beside the interpreter that runs the tests.
EMIT = str(Path(sys.executable).parent / "emit")


def run(*argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([EMIT, *argv], cwd=cwd, capture_output=True, text=True, timeout=110)


def test_help_fits_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The help names every command, in 34 lines of 80 characters."""
    monkeypatch.setenv("COLUMNS", "80")
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) <= 34
    assert max(map(len, lines)) <= 80
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


def test_version() -> None:
    """The version is that of the package."""
    assert run("--version").stdout == f"emit {emit.__version__}\n"


@pytest.mark.parametrize("argv", [(), ("nothing",), ("--nothing",), ("digraph",)])
def test_a_wrong_command_line(argv: tuple[str, ...]) -> None:
    """It ends with code 64, says how it is used on stderr, and nothing on stdout."""
    done = run(*argv)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith("usage: emit ")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_examples(name: str) -> None:
    """The help of a command says what it does and shows examples that call it."""
    done = run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    command = import_module(f"emit.cli.{name}")
    assert command.HELP in " ".join(done.stdout.split())
    assert f"emit {name} " in command.EXAMPLES


def test_a_wrong_router(tmp_path: Path) -> None:
    """A router that is not there ends with code 2 and one line."""
    done = run("digraph", "app.router", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith('emit digraph: "app.router": there is no module app here')


def test_a_router_that_fails_to_import(tmp_path: Path) -> None:
    """It ends with code 2, the module, the exception, and the author's own lines of the way."""
    (tmp_path / "bad.py").write_text("import nothere\n")
    (tmp_path / "way.py").write_text("\nimport bad\n")
    done = run("check", "way.router", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        'emit check: "way.router": the module way can\'t be imported: '
        "ModuleNotFoundError: No module named 'nothere'",
        f"    {tmp_path}/bad.py:1 in <module>",
        f"    {tmp_path}/way.py:2 in <module>",
    ]


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("CeleryRouter", "celery", "celery"), ("RQRouter", "rq", "rq")]
)
@pytest.mark.parametrize("where", ["emit", "emit.router"])
def test_a_router_whose_package_is_not_installed(
    name: str, package: str, extra: str, where: str, tmp_path: Path
) -> None:
    """The error names the extra of Emit's that brings it."""
    (tmp_path / "app.py").write_text(
        f"import sys\nsys.modules[{package!r}] = None\nfrom {where} import {name}\n"
    )
    done = run("graph", "app.router", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        'emit graph: "app.router": the module app can\'t be imported: ModuleNotFoundError: '
        f"{name} needs {package}, which is not installed: pip install 'emit-graph[{extra}]'",
        f"    {tmp_path}/app.py:3 in <module>",
    ]


def test_node_modules_that_fail_to_import(tmp_path: Path) -> None:
    """It ends with code 2 and says that one of the router's node_modules is meant."""
    code = "from emit import Router\nrouter = Router(node_modules=['tsks'])\n"
    (tmp_path / "app.py").write_text(code)
    done = run("graph", "app.router", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        'emit graph: "app.router": one of its node_modules can\'t be imported: '
        "ModuleNotFoundError: No module named 'tsks'\n"
    )


#: Commands that print something, and need nothing to run.
PRINTING = [
    "--version",
    "--help",
    "call --help",
    "completion bash",
    "graph app.router",
    "graph app.router --format json",
    "check app.router",
    "run app.router text=rain",
    "call app.router:words text=rain",
    "call up.py word=rain",
    "inspect up.py",
    "top --once --interval 0",
    "new other --lang python",
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a router, and with a file that is a node."""
    (tmp_path / "app.py").write_text(
        "from emit import Router\nrouter = Router()\n"
        "@router.node(('word',), entry_point=True, name='words')\n"
        "def words(msg):\n    yield from msg.text.split()\n"
    )
    (tmp_path / "up.py").write_text("def up(word):\n    return word.upper()\n")
    (tmp_path / "run").mkdir(mode=0o700)  # the sockets of hosts: of none but these
    return tmp_path


def in_a_shell(line: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        line.replace("emit ", f"{shlex.quote(EMIT)} ", 1),
        shell=True,
        cwd=cwd,
        env={**os.environ, "XDG_RUNTIME_DIR": str(cwd / "run"), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


FULL = pytest.param(
    ">/dev/full",
    "No space left on device",
    marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="it is Linux's"),
)


@pytest.mark.parametrize(("output", "why"), [FULL, (">&-", "it is closed")])
@pytest.mark.parametrize("command", PRINTING)
def test_an_output_that_takes_nothing(project: Path, command: str, output: str, why: str) -> None:
    """A command whose output cannot be written says so in one line and ends with code 1."""
    done = in_a_shell(f"emit {command} {output}", project)
    assert done.returncode == 1
    name = "" if command[0] == "-" else f" {command.split()[0]}"
    assert f"emit{name}: standard output can't be written to: {why}\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert "emit.run" not in done.stderr


@pytest.mark.parametrize("output", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize("command", PRINTING)
def test_an_error_output_that_takes_nothing(project: Path, command: str, output: str) -> None:
    """Nobody can be told of that; what is printed is printed, and no complaint is between it."""
    done = in_a_shell(f"emit {command} {output}", project)
    beside = in_a_shell(f"emit {command} 2>/dev/null", project)
    assert done.returncode == 0 or "new" in command
    if command not in ("inspect up.py", "new other --lang python"):  # it takes its own time
        assert (done.returncode, done.stdout) == (beside.returncode, beside.stdout)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["call app.router:count n:=9999", "run app.router n:=9999"])
def test_a_reader_that_leaves(project: Path, command: str, unbuffered: str) -> None:
    """A reader that leaves early (``| head``) gets no complaint; the code is SIGPIPE's."""
    (project / "app.py").write_text(
        "from emit import Router\nrouter = Router()\n"
        "@router.node(('n',), entry_point=True, name='count')\n"
        "def count(msg):\n    for n in range(msg.n):\n        print('*' * 99)\n        yield n\n"
    )
    line = f"(emit {command}; echo code $? >&2) | head -n 1"
    done = in_a_shell(line, project, PYTHONUNBUFFERED=unbuffered)
    assert done.stderr == "code 141\n"


def test_an_output_that_takes_a_little_at_a_time(project: Path) -> None:
    """A pipe that somebody has made not to wait, as Node does: nothing is lost."""
    argv = [EMIT, "run", "app.router", "-"]
    lines = [f'{{"text": "{number:0900}"}}' for number in range(1000)]
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with subprocess.Popen(argv, cwd=project, stdin=subprocess.PIPE, stdout=writing) as process:
        os.close(writing)
        assert process.stdin is not None
        feeding = threading.Thread(target=process.communicate, args=("\n".join(lines).encode(),))
        feeding.start()
        with open(reading) as file:
            words = [json.loads(line)["word"] for line in file]
        feeding.join()
    assert words == [f"{number:0900}" for number in range(1000)]


@pytest.mark.parametrize("command", ["call up.py -", "run app.router -"])
def test_an_input_that_is_closed(project: Path, command: str) -> None:
    """It is said that there is nothing to read."""
    done = in_a_shell(f"emit {command} <&-", project)
    assert (done.returncode, done.stdout) == (64, "")
    assert "standard input is closed" in done.stderr
    (project / "words.txt").write_text("rain")  # nor is the next file that is opened taken for it
    assert in_a_shell("emit call up.py word=@words.txt <&-", project).stdout == '"RAIN"\n'


def test_a_handlers_own_broken_pipe(project: Path) -> None:
    """It is a failure of the handler, and not an output that nobody reads."""
    (project / "app.py").write_text(
        "from emit import Router\nrouter = Router()\n"
        "@router.node(('n',), entry_point=True, name='a')\n"
        "def a(msg):\n    raise BrokenPipeError(32, 'the shop has hung up')\n"
    )
    for command in ("run app.router", "call app.router:a"):
        done = in_a_shell(f"emit {command} n=1", project)
        assert (done.returncode, "the shop has hung up" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("chek app.router", 64, 'there is no command "chek" (nearest: check)'),
        (
            "run app:router text=a",
            2,
            '"app:router" is not of the form module.router: write app.router',
        ),
        ("run app.router:words a=b", 2, "say the router alone, app.router"),
        ("run ap.router text=a", 2, "there is no module ap here"),
        ("run ap.router text=a", 2, "(nearest: app"),
        ("call app.router", 2, "is a router: say a node of it, app.router:words (it has: words)"),
        ("call app.ruter", 2, "the module app has no ruter (its routers: router)"),
        ("call ap.router", 2, '"ap.router" is no command, and there is no module ap here'),
        ("call app:words text=a", 2, "a node of a router is written as app.router:words"),
        ("call app.router:wrds text=a", 2, '"app.router" has no node "wrds" (nearest: words)'),
        ("call upp.py word=a", 2, "upp.py (nearest: up.py, app.py); give a path"),
        ("call nodes/ word=a", 2, '"nodes/" is a folder: name a file in it, such as nodes/up.py'),
        ("call page.php a=b", 2, '"page.php": no language has files such as .php (known: .cjs'),
        ("call page.php a=b", 2, "emit_runtimes/<language> with a runtime.toml adds one"),
    ],
)
def test_what_was_meant(project: Path, command: str, code: int, says: str) -> None:
    """A name that is none gets those that are near, and how it is written."""
    (project / "nodes").mkdir()
    (project / "nodes" / "up.py").write_text("def up(word):\n    return word.upper()\n")
    (project / "page.php").write_text("<?php")
    done = in_a_shell(f"emit {command}", project)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr


def test_the_page_has_every_command() -> None:
    """docs/command-line.md lists all of them, each with a section."""
    page = (Path(__file__).parent.parent / "docs" / "command-line.md").read_text("utf-8")
    for name in COMMANDS:
        assert f"\n| [`emit {name}`](#" in page
        assert f"\n## {name}\n" in page or name == "digraph"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only on a terminal, and neither with NO_COLOR nor on a dumb one."""
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert paint("x", "red", Terminal()) == "\033[31mx\033[0m"
    assert paint("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("TERM", "dumb")
    assert paint("x", "red", Terminal()) == "x"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red", Terminal()) == "x"
