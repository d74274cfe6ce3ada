"""The socket on which a host answers: private, fork-safe, and gone when its process is."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from emit.host import status

ROOT = Path(__file__).parent.parent

#: A host with one node, which says when it has answered, and works until its input ends.
HOST = """
import os, sys
from emit.host import status
from emit.host.host import current
from emit.multilang import ShellNode

status.PATIENCE = 60.0  # a loaded machine is slow

def make(name, program, **settings):
    node = ShellNode()
    command = [sys.executable, "-c", program]
    node.configure(name, {"command": command, "mode": "lines", **settings}, stream=False)
    return node

ANSWER = '''import sys
print('trouble', file=sys.stderr, flush=True)
for line in sys.stdin: print(1, flush=True)
'''

node = make("count", ANSWER)
list(node({}))
print("ready", flush=True)
"""


@pytest.fixture
def runtime(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the sockets, for this test and the hosts that it starts."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    monkeypatch.delenv("EMIT_STATUS", raising=False)
    monkeypatch.setattr(status, "PATIENCE", 60.0)
    return short_folder / "emit"


@contextmanager
def hosting(
    code: str = "sys.stdin.read()", first: str = "", **env: str
) -> Iterator[subprocess.Popen[str]]:
    """A host in a process of its own, when it has answered its first message."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", first + HOST + code],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(60)
        asking.connect(str(path))
        yield asking


def only_answer(question: dict[str, Any]) -> dict[str, Any]:
    [(_, answer)] = status.ask_all(question)
    assert isinstance(answer, dict), answer
    return answer


def test_a_host_answers(runtime: Path) -> None:
    """The answer has the host's snapshot, and the fault of one node."""
    with hosting() as process:
        [path] = status.sockets()
        assert path.name.startswith(f"{process.pid}-")
        snapshot = only_answer({})
        assert (snapshot["pid"], snapshot["nodes"]["count"]["calls"]) == (process.pid, 1)
        details = only_answer({"node": "count"})
        assert details["errors"] == []
        [stderr] = details["stderr"]
        assert stderr == {
            "pid": snapshot["nodes"]["count"]["processes"][0]["pid"],
            "tail": stderr["tail"],
        }
        assert only_answer({"node": "other"}) == {"errors": [], "stderr": []}


def test_what_went_wrong(runtime: Path) -> None:
    """The last errors are kept as text, one for each failure, with the program's last words."""
    code = """
program = "import sys; sys.stdin.readline(); print('oh no', file=sys.stderr); sys.exit(3)"
try:
    list(make("dies", program, max_attempts=2)({}))
except Exception:
    print("failed", flush=True)
sys.stdin.read()
"""
    with hosting(code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "failed\n"
        errors = only_answer({"node": "dies"})["errors"]
        assert {error["type"] for error in errors} == {"ProcessDied"}
        assert all("ended with exit code 3" in error["text"] for error in errors)
        assert all(error["stderr_tail"] == "oh no\n" for error in errors)


@pytest.mark.parametrize("end", ["sys.stdin.read()", "sys.stdin.read(); sys.exit(3)"])
def test_it_is_gone_at_exit(runtime: Path, end: str) -> None:
    """Neither the thread nor a visitor who says nothing keeps a process from ending."""
    with hosting(end) as process:
        [path] = status.sockets()
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(path))
            _, errors = process.communicate("", timeout=60)
        assert process.returncode == (3 if "exit" in end else 0)
        assert errors == ""
    assert status.sockets() == []


def test_of_a_killed_process_it_is_removed_by_the_reader(runtime: Path) -> None:
    """The socket stays until somebody asks, who gets no answer and no error."""
    with hosting() as process:
        process.kill()
        process.wait(60)
    assert len(status.sockets()) == 1
    assert list(status.ask_all({})) == []
    assert status.sockets() == []


@pytest.mark.parametrize("read", [True, False])
def test_of_a_process_that_ends_while_it_is_asked(runtime: Path, read: bool) -> None:
    """The end of the connection, or its reset, is no trouble, as if it had ended before."""
    with hosting(), socket.socket(socket.AF_UNIX) as odd:
        odd.bind(str(runtime / "77-a.sock"))
        odd.listen()

        def serve() -> None:
            with odd.accept()[0] as peer:
                peer.recv(100, 0 if read else socket.MSG_PEEK)
                odd.shutdown(socket.SHUT_RDWR)
                odd.close()

        thread = threading.Thread(target=serve)
        thread.start()
        answers = dict(status.ask_all({}))
        thread.join()
        assert len(status.sockets()) == len(answers) == 1
    assert 77 not in answers


def test_it_can_be_switched_off(runtime: Path) -> None:
    """EMIT_STATUS=off leaves not even a directory."""
    with hosting(EMIT_STATUS="off"):
        assert not runtime.exists()


FORK = """
pid = os.fork()
if pid == 0:
    if MAKE:
        list(node({}))
    print(os.getpid(), flush=True)
    sys.stdin.read()
    os._exit(0)
sys.stdin.read()
os.waitpid(pid, 0)
"""


def test_a_forked_child_has_its_own(runtime: Path) -> None:
    """A forked child answers for itself once it has used a node, and so does its parent."""
    with hosting(FORK.replace("MAKE", "True")) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        answers = dict(status.ask_all({}))
        assert set(answers) == {process.pid, child}
        for pid, answer in answers.items():
            assert isinstance(answer, dict)
            assert answer["pid"] == pid


def test_a_forked_child_does_not_answer_for_its_parent(runtime: Path) -> None:
    """It holds no copy of the socket: when the parent is killed, nobody answers on it."""
    with hosting(FORK.replace("MAKE", "False")) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            process.kill()
            process.wait(60)
            assert list(status.ask_all({})) == []
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["open", "link", "file", "far"])
def test_no_private_directory(runtime: Path, tmp_path: Path, kind: str) -> None:
    """
    No socket is made if others could look into the folder, or if it can't hold a socket; the host
    works, and says so in its log.
    """
    if kind == "open":
        runtime.mkdir()
        runtime.chmod(0o755)
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        runtime.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        runtime.touch()
    log = "import logging; logging.basicConfig(level=logging.INFO)\n"
    long = tmp_path / ("x" * 100)  # a socket's path has 108 characters at most
    long.mkdir()
    far = {"XDG_RUNTIME_DIR": str(long)} if kind == "far" else {}
    code = log + HOST + "sys.stdin.read()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **far},
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "ready\n")
    assert "no socket for `emit top`" in done.stderr
    assert status.sockets() == []


WRONG = [b"nonsense\n", b"[1]\n", b"[]\n", b"5\n", b"null\n", b'"text"\n', b"\n", b"\xff\n", b""]
WRONG += [b"[" * 60_000 + b"\n", b'{"node":' * 8_000 + b"\n", b"1" * 60_000 + b"\n", b" " * 70_000]


def test_wrong_questions(runtime: Path) -> None:
    """Each gets no answer, and the next one does. The host's log has a line at INFO for each, and
    nothing of what was asked."""
    log = "import logging; logging.basicConfig(level=logging.INFO)\n"
    with hosting(first=log) as process:
        [path] = status.sockets()
        for question in WRONG:
            with connected(path) as asking:
                with contextlib.suppress(BrokenPipeError):  # it has heard enough
                    asking.sendall(question)
                    asking.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    assert asking.recv(100) == b""
        assert only_answer({})["nodes"]
        _, said = process.communicate("", timeout=60)
    lines = [line for line in said.splitlines() if "status:" in line]
    assert len(lines) == len(WRONG), said
    assert all(line.startswith("INFO:") and len(line) < 300 for line in lines), said
    assert "Traceback" not in said


def test_others_who_ask_nothing(runtime: Path) -> None:
    """A client that says nothing, or little, holds up nobody, however many there are."""
    with hosting(), contextlib.ExitStack() as stack:
        [path] = status.sockets()
        for number in range(300):
            silent = stack.enter_context(connected(path))
            with contextlib.suppress(OSError):  # at the limit the first ones are let go
                silent.send(b" ")
            if number % 100 == 0:
                assert only_answer({})["nodes"]
        assert only_answer({})["nodes"]


def test_the_time_for_a_question(runtime: Path) -> None:
    """It is for all of it, and not for each byte."""
    hasty = "status.PATIENCE = 0.3; print('hasty', flush=True); sys.stdin.read()"
    with hosting(hasty) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hasty\n"
        [path] = status.sockets()
        with connected(path) as dripping, contextlib.suppress(BrokenPipeError, ConnectionError):
            end = time.monotonic() + 60
            while time.monotonic() < end:
                dripping.send(b" ")
                time.sleep(0.05)  # the pace of the drip
        assert time.monotonic() < end


def test_an_answer_that_is_not_taken(runtime: Path) -> None:
    """It holds up nobody, and its asker is let go in the end."""
    huge = status.Status(lambda question: {"text": "x" * 10_000_000})
    try:
        with connected(huge.path) as lazy:
            lazy.sendall(b"{}\n")
            answer = status.ask(huge.path, {})
            assert answer is not None
            assert len(answer["text"]) == 10_000_000
    finally:
        huge.close()


@pytest.mark.parametrize("answer", [b"[]\n", b"5\n", b"nonsense\n", b""])
def test_an_odd_host(runtime: Path, answer: bytes) -> None:
    """The odd answer is named, and the others answer."""
    with hosting() as process, socket.socket(socket.AF_UNIX) as odd:
        odd.bind(str(runtime / "77-a.sock"))
        odd.listen()

        def serve() -> None:
            with odd.accept()[0] as peer:
                peer.recv(100)
                peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        answers = dict(status.ask_all({}))
        thread.join()
    assert isinstance(answers[77], ValueError)
    assert isinstance(answers[process.pid], dict)


def test_other_files_beside_the_sockets(runtime: Path) -> None:
    """They are left alone, whatever their names are."""
    names = ("backup-of-yesterday.sock", "12-ab.sock", "-.sock", "x", "12-ab.sock.old")
    with hosting():
        for name in names:
            (runtime / name).touch()
        assert only_answer({})["nodes"]
        assert all((runtime / name).exists() for name in names)


def test_a_host_that_does_not_answer(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process is told, and its socket is left alone."""
    monkeypatch.setattr(status, "PATIENCE", 0.2)
    with hosting() as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)  # it has stopped
        [(pid, answer)] = status.ask_all({})
        assert (pid, type(answer)) == (process.pid, TimeoutError)
        assert len(status.sockets()) == 1
        os.kill(process.pid, signal.SIGCONT)


def test_the_user_of_the_other_end(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user gets no answer."""
    mine = status.Status(lambda question: {"answer": 1})
    try:
        assert status.ask(mine.path, {}) == {"answer": 1}
        monkeypatch.setattr(os, "geteuid", lambda: 12345678)
        with pytest.raises((ConnectionError, ValueError)):  # by when it hangs up
            status.ask(mine.path, {})
    finally:
        mine.close()


def test_answers_are_json(runtime: Path) -> None:
    """One line, whatever a node's figures hold."""
    with hosting():
        [path] = status.sockets()
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(60)
            asking.connect(str(path))
            asking.sendall(b"{}\n")
            data = b"".join(iter(lambda: asking.recv(65536), b""))
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1
    json.loads(data)
