from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from emit.errors import StartError
from emit.host.system.command import TRANSIENT, diagnose
from emit.host.system.program import environment
from emit.host.system.spawn import Limits, Program, is_transient, resolve, start
from tests.hosts import run_host

pytestmark = pytest.mark.usefixtures("leak_free")

# Directly, and by way of the trampoline, whose errors come back on a pipe.
WAYS = pytest.mark.parametrize("limits", [None, Limits()], ids=["direct", "trampoline"])


def program(*argv: str, path: str = os.defpath, **more: object) -> Program:
    return Program("n", argv, environment({"PATH": path}), **more)  # type: ignore[arg-type]


def refusal(wanted: Program) -> StartError:
    with pytest.raises(StartError) as caught:
        start(wanted).close()
    assert caught.value.node == "n"
    assert not is_transient(caught.value)
    return caught.value


def script(directory: Path, text: str, mode: int = 0o755) -> str:
    path = directory / "script"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@WAYS
def test_a_command_not_found_says_where_it_was_looked_for(limits: Limits | None) -> None:
    """The PATH of the error is the node's, not the host's."""
    error = refusal(program("no-such-command", path="/usr/bin:/no/such", limits=limits))
    hint = "looked for no-such-command in /usr/bin, /no/such"
    assert (error.reason, error.hint) == ("command not found", hint)


@WAYS
def test_a_current_directory_that_is_gone(limits: Limits | None, tmp_path: Path) -> None:
    """A path from there leads nowhere, and the error says so; what is elsewhere starts."""
    before = os.getcwd()
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    try:
        (tmp_path / "gone").rmdir()
        error = refusal(program("./prog", limits=limits))
        assert error.reason == "the current directory of this process has been removed"
        assert "set cwd" in error.hint
        start(program("true", path="/usr/bin:/bin", limits=limits)).close()
    finally:
        os.chdir(before)


@WAYS
def test_a_path_not_found(limits: Limits | None) -> None:
    """An absolute path that does not exist is named."""
    error = refusal(program("/no/such/program", limits=limits))
    assert error.reason == "command not found"
    assert "/no/such/program" in error.hint


@WAYS
def test_a_file_without_the_executable_bit(tmp_path: Path, limits: Limits | None) -> None:
    """The hint is the command that mends it."""
    path = script(tmp_path, "#!/bin/sh\n", mode=0o644)
    error = refusal(program(path, limits=limits))
    assert ("not executable", f"chmod +x {path}") == (error.reason, error.hint)


def test_a_file_in_path_without_the_executable_bit(tmp_path: Path) -> None:
    """It is found and named, not called missing."""
    path = script(tmp_path, "#!/bin/sh\n", mode=0o644)
    error = refusal(program("script", path=str(tmp_path)))
    assert ("not executable", f"chmod +x {path}") == (error.reason, error.hint)


@WAYS
def test_a_bad_interpreter(tmp_path: Path, limits: Limits | None) -> None:
    """The interpreter of the first line is named, as the system only says "not found"."""
    error = refusal(program(script(tmp_path, "#! /no/such/ruby -w\n"), limits=limits))
    assert error.reason == "bad interpreter /no/such/ruby"


@WAYS
def test_a_script_from_windows(tmp_path: Path, limits: Limits | None) -> None:
    """Its first line names an interpreter that ends with a carriage return."""
    error = refusal(program(script(tmp_path, "#!/bin/sh\r\n"), limits=limits))
    assert error.reason == "bad interpreter /bin/sh\\r"
    assert "sed -i 's/\\r$//'" in error.hint


@WAYS
def test_a_script_without_a_first_line(tmp_path: Path, limits: Limits | None) -> None:
    """No shell is tried instead."""
    error = refusal(program(script(tmp_path, "echo hi\n"), limits=limits))
    assert error.reason == "not a program of this system"
    assert "#!" in error.hint


@WAYS
def test_a_directory(tmp_path: Path, limits: Limits | None) -> None:
    """A directory is not a program."""
    assert refusal(program(str(tmp_path), limits=limits)).reason == "is a directory"


@WAYS
@pytest.mark.parametrize(("name", "says"), [("none", "does not exist"), ("file", "no directory")])
def test_a_bad_working_directory(
    tmp_path: Path, limits: Limits | None, name: str, says: str
) -> None:
    """A missing cwd is not taken for a missing program."""
    (tmp_path / "file").touch()
    error = refusal(program("true", cwd=str(tmp_path / name), limits=limits))
    assert says in error.reason
    assert name in error.reason


def test_a_command_that_is_no_command() -> None:
    """An empty command and one with a NUL are refused with an error of the same kind."""
    assert refusal(program()).reason == "the command is empty"
    assert "NUL" in refusal(program("true", "a\0b")).reason


def test_a_program_that_is_no_program() -> None:
    """A program that the system cannot even try fails at once; nobody waits for the start."""
    wanted = Program("n", ("/bin/true",), {"A": 1})  # type: ignore[dict-item]
    assert refusal(wanted).reason.startswith("TypeError: ")


def test_a_command_too_long() -> None:
    """The system's own reason, and what to do instead."""
    error = refusal(program("true", "x" * 4_000_000))
    assert os.strerror(errno.E2BIG) == error.reason
    assert "messages" in error.hint


@pytest.mark.parametrize("number", sorted(TRANSIENT))
def test_what_may_pass_is_told_apart(number: int) -> None:
    """A start that failed for want of a descriptor or a process may be tried again."""
    error = diagnose(program("/bin/true"), OSError(number, os.strerror(number)))
    assert is_transient(error)
    assert os.strerror(number) == error.reason
    assert error.hint


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    """Shell syntax is one plain argument."""
    nasty = f"x; touch {tmp_path}/PWN $(touch {tmp_path}/PWN) `touch {tmp_path}/PWN`"
    child = start(program("echo", nasty, cwd=str(tmp_path)))
    assert child.wait(60.0)
    assert f"{nasty}\n".encode() == os.read(child.stdout, 1000)
    child.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("entry", [".", "", "bin", "./bin"])
def test_relative_entries_of_path_are_skipped(tmp_path: Path, entry: str) -> None:
    """A program in the working directory is never chosen through a relative entry."""
    for directory in (tmp_path, tmp_path / "bin"):
        directory.mkdir(exist_ok=True)
        script(directory, "#!/bin/sh\necho hijacked\n")
        (directory / "script").rename(directory / "true")
    child = start(program("true", path=f"{entry}:/usr/bin:/bin", cwd=str(tmp_path)))
    assert child.wait(60.0)
    assert os.read(child.stdout, 100) == b""
    assert child.argv[0] in ("/usr/bin/true", "/bin/true")
    child.close()
    assert "absolute" in refusal(program("true", path=entry, cwd=str(tmp_path))).hint


def test_a_relative_command_is_beside_its_directory(tmp_path: Path) -> None:
    """A command with a slash is relative to cwd, and is absolute from then on."""
    path = script(tmp_path, "#!/bin/sh\necho mine\n")
    wanted = resolve(program("./script", cwd=str(tmp_path)))
    assert (path,) == wanted.argv
    assert wanted == resolve(wanted)
    child = start(wanted)
    assert child.wait(60.0)
    assert os.read(child.stdout, 100) == b"mine\n"
    child.close()


def test_path_is_searched_in_order(tmp_path: Path) -> None:
    """The first executable of that name wins; files that are none are passed over."""
    names = [tmp_path / name for name in ("a", "b", "c")]
    for directory, mode in zip(names, (0o644, 0o755, 0o755), strict=True):
        directory.mkdir()
        script(directory, "#!/bin/sh\n", mode=mode)
    found = resolve(program("script", path=os.pathsep.join(map(str, names))))
    assert (str(tmp_path / "b" / "script"),) == found.argv


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
def test_permission_denied_by_a_directory(tmp_path: Path) -> None:
    """A program that the host's user may not reach is not called missing."""
    path = script(tmp_path, "#!/bin/sh\n")
    tmp_path.chmod(0o700)
    said = run_host(f"""
        os.setgid(65534); os.setuid(65534)
        for limits in (None, Limits()):
            try:
                start(Program("n", ({path!r},), environment({{}}), limits=limits))
            except StartError as error:
                print(error.reason)
    """)
    assert said == "permission denied\n" * 2


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
def test_no_process_left_is_transient() -> None:
    """A fork refused by RLIMIT_NPROC is an error that may pass, and leaves nothing open."""
    said = run_host("""
        program = Program("n", ("/bin/sleep", "60"), environment({}))
        start(program).close()
        os.setgid(65534); os.setuid(65533)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        before = os.listdir("/proc/self/fd")
        try:
            start(program)
        except StartError as error:
            print(is_transient(error), error.reason, os.listdir("/proc/self/fd") == before)
    """)
    assert f"True {os.strerror(errno.EAGAIN)} True\n" == said
