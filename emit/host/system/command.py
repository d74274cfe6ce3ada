"""Finding the program of a command, and saying why it could not be started."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path

from emit.errors import StartError
from emit.host.system.program import Program

__all__ = ["TRANSIENT", "diagnose", "is_transient", "resolve", "start_error"]

#: Errors of the moment: the same start may work later. ETXTBSY: the file is being written.
TRANSIENT = frozenset(
    {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ETXTBSY}
)

_HINTS = {
    errno.EAGAIN: "the limit of processes (ulimit -u) or of the container is reached; retry later",
    errno.EMFILE: "the host has too many open files; raise ulimit -n",
    errno.ENFILE: "the machine has too many open files; raise fs.file-max",
    errno.ENOMEM: "the machine has no memory left; retry later",
    errno.E2BIG: "the command or its environment is too long; send long values as messages",
    errno.ETXTBSY: "the file is being written; retry when it is complete",
    errno.ELOOP: "its symbolic links form a loop",
}


def resolve(program: Program) -> Program:
    """
    Make the first item of ``argv`` an absolute path, by the PATH the program itself will have.

    Empty and relative entries of PATH are skipped: with them, whoever writes to the working
    directory chooses what runs. A pool resolves once, so that later changes of PATH's
    directories change nothing.

    Raises:
        StartError: No such command; it says where it was looked for.
    """
    name = program.argv[0] if program.argv else ""
    if not name:
        raise start_error(program, "the command is empty", "give a program and its arguments")
    if os.path.isabs(name):
        return program
    path = _beside(program, name) if "/" in name else _in_path(program, name)
    return replace(program, argv=(path, *program.argv[1:]))


def diagnose(program: Program, cause: Exception) -> StartError:
    """Say why *program*, resolved, could not be started. The system's own word is its cause."""
    error = _of_moment(program, cause) or _of_cwd(program) or _of_file(program)
    error = error or _of_errno(program, cause)
    error.__cause__ = cause
    return error


def is_transient(error: StartError) -> bool:
    """
    Return True if the same start may work later: no free process, descriptor or memory just now.
    """
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in TRANSIENT


def directory_of(program: Program) -> str:
    """
    Return the absolute directory that a program starts in.

    Raises:
        StartError: It is the current one, which has been removed.
    """
    try:
        return os.path.abspath(program.cwd or os.getcwd())
    except FileNotFoundError as error:
        reason = "the current directory of this process has been removed"
        hint = "set cwd, or start it again in a directory that is there"
        raise start_error(program, reason, hint) from error


def _beside(program: Program, name: str) -> str:
    return os.path.abspath(os.path.join(directory_of(program), name))


def _in_path(program: Program, name: str) -> str:
    entries = program.env.get("PATH", os.defpath).split(os.pathsep)
    directories = [entry for entry in entries if os.path.isabs(entry)]
    found = [path for d in directories if os.path.isfile(path := os.path.join(d, name))]
    for path in found:
        if os.access(path, os.X_OK):
            return path
    if found:
        raise _not_executable(program, found[0])
    where = ", ".join(directories) or "nowhere, as PATH has no absolute directory"
    raise start_error(program, "command not found", f"looked for {name} in {where}")


def _of_moment(program: Program, cause: Exception) -> StartError | None:
    if isinstance(cause, OSError) and cause.errno in TRANSIENT:
        return start_error(
            program, os.strerror(cause.errno), _HINTS.get(cause.errno, "retry later")
        )
    return None


def _of_cwd(program: Program) -> StartError | None:
    cwd = program.cwd
    if cwd is None or (os.path.isdir(cwd) and os.access(cwd, os.X_OK)):
        return None
    if os.path.isdir(cwd):
        return start_error(program, "permission denied", f"its directory {cwd} may not be entered")
    what = "is no directory" if os.path.exists(cwd) else "does not exist"
    return start_error(program, f"its directory {cwd} {what}", "check cwd")


def _of_file(program: Program) -> StartError | None:
    path = program.argv[0]
    if "\0" in path or not os.path.exists(path):
        return None
    if os.path.isdir(path):
        return start_error(program, "is a directory", f"name the program inside {path}")
    if not os.access(path, os.X_OK):
        return _not_executable(program, path)
    interpreter = _interpreter(path)
    if interpreter.endswith("\r"):
        hint = f"its lines end as Windows's do; convert it: sed -i 's/\\r$//' {path}"
        return start_error(program, f"bad interpreter {interpreter[:-1]}\\r", hint)
    if interpreter and not os.access(interpreter, os.X_OK):
        reason = f"bad interpreter {interpreter}"
        return start_error(program, reason, f"change the first line of {path}, or install it")
    return None


def _of_errno(program: Program, cause: Exception) -> StartError:
    path = program.argv[0]
    match cause:
        case ValueError():
            return start_error(
                program, "its command or environment holds a NUL or a lone surrogate", ""
            )
        case OSError(errno=errno.ENOENT) if os.path.exists(path):
            return start_error(program, "its dynamic loader is missing", f"see: file {path}")
        case OSError(errno=errno.ENOENT | errno.ENOTDIR):
            return start_error(program, "command not found", f"{path} does not exist")
        case OSError(errno=errno.ENOEXEC):
            hint = f"a script needs a first line such as #!/usr/bin/env ruby; see: file {path}"
            return start_error(program, "not a program of this system", hint)
        case OSError(errno=errno.EACCES | errno.EPERM):
            hint = f"check its owner, its directories and a noexec mount: {path}"
            return start_error(program, "permission denied", hint)
        case OSError(errno=number):
            reason = os.strerror(number) if number else str(cause)
            return start_error(program, reason, _HINTS.get(number or 0, ""))
        case _:
            return start_error(program, f"{type(cause).__name__}: {cause}", "")


def _interpreter(path: str) -> str:
    """The program that the ``#!`` line names; empty for a binary or an unreadable file."""
    try:
        with open(path, "rb") as file:
            first = file.readline(256)
    except OSError:
        return ""
    words = re.findall(rb"[^ \t\n]+", first[2:]) if first.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else ""


def _not_executable(program: Program, path: str) -> StartError:
    if Path(path).is_file() and not os.stat(path).st_mode & 0o111:
        return start_error(program, "not executable", f"chmod +x {path}")
    return start_error(program, "permission denied", f"check the owner and mode of {path}")


def start_error(
    program: Program, reason: str, hint: str, said: str = "", signal: str | None = None
) -> StartError:
    """
    Return the error of a start of *program*: why it failed, what to do, the last words on its
    stderr, and the signal that killed its build.
    """
    return StartError(
        node=program.node,
        argv=program.argv,
        reason=reason,
        hint=hint,
        stderr_tail=said,
        signal=signal,
    )
