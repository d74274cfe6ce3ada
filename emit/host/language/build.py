"""
Builds files in a cache: ``$XDG_CACHE_HOME/emit/<language>/``, or ``~/.cache/emit/<language>/``.
Emit runs the files there under names that anybody can work out, so the folder has to be private. If
it is not, or can't be made, builds go to ``/tmp/emit-<uid>/cache/``.

The name of a build is the digest of everything that goes into it, so a build that exists is up to
date. A build is made beside its name, and moved there when it is complete. All processes of the
machine build one at a time: the system releases the lock if its holder dies. Each build removes
those that were not started for `KEEP` seconds, and the oldest builds of one file beyond `MOST`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path

from emit import share
from emit.errors import CallTimeout, ProcessDied
from emit.host import oneshot
from emit.host.language.runtime import Source, fill
from emit.host.system.command import start_error
from emit.host.system.private import private
from emit.host.system.program import Parts, Program
from emit.host.system.version import digest_of, files_of

__all__ = ["KEEP", "MOST", "TIMEOUT", "build", "is_built", "output", "parts_of", "place"]

logger = logging.getLogger(__name__)

#: Reasons why builds are not in the usual cache that were logged already.
_told: set[str] = set()

#: Seconds for one build. Go's first build compiles the standard library: 20 s on a slow machine.
TIMEOUT = 600.0

#: Seconds that a build is kept without being started.
KEEP = 30 * 86400.0

#: Builds kept of one file. Its author makes one with each change, of some MB in Go.
MOST = 20

#: Seconds between two tries to take a lock that another process has.
_LOOK = 0.05


def output(program: Program, source: Source, values: Mapping[str, str], version: str) -> Path:
    """
    Return the path of a build, which need not exist. Its folder does.

    The path changes with the files of the node's folder, the files of the same language below its
    manifest, the launcher, the SDK, the version of the toolchain, and the variables that begin
    with the language's name, such as GOFLAGS.
    """
    runtime, parts = source.runtime, parts_of(program, source, values, version)
    which = hashlib.sha256(f"{source.path}:{source.function}".encode(errors="surrogateescape"))
    digest = which.copy()
    digest.update(parts.made_by.encode(errors="surrogateescape") + b"\0")
    for file in files_of(parts):
        digest.update(os.fsencode(file) + b"\0" + _digest(file, needed=file == source.path))
    name = f"{source.path.stem}-{which.hexdigest()[:8]}-{digest.hexdigest()[:16]}"
    return place(program, runtime.name) / name


def parts_of(
    program: Program, source: Source, values: Mapping[str, str], version: str = ""
) -> Parts:
    """
    Return the files that a program is made of, with what else goes into its build.

    Args:
        program: Has the environment.
        source: The node's file.
        values: The `places` of the file.
        version: That of the toolchain that builds it; empty if it is not known, or does not matter.
    """
    runtime, folders = source.runtime, [str(source.runtime.folder)]
    with contextlib.suppress(FileNotFoundError):  # a project's own language may have no SDK
        folders.append(str(share.find(f"sdks/{runtime.name}")))
    settings = sorted(i for i in program.env.items() if i[0].startswith(runtime.name.upper()))
    return Parts(
        file=str(source.path),
        function=source.function,
        manifest=values.get("manifest", ""),
        suffixes=runtime.suffixes,
        locks=tuple(runtime.managers),
        folders=tuple(folders),
        made_by=f"{version}\0{settings!r}" if runtime.build else "",
    )


def _digest(file: Path, *, needed: bool) -> bytes:
    """Return the digest of a file; nothing if it can't be read and is not *needed*."""
    try:
        return digest_of(file)
    except OSError:
        if needed:
            raise
        return b""


def is_built(path: Path) -> bool:
    """Return whether a build exists. If so, it counts as started now, and is kept."""
    with contextlib.suppress(OSError):  # it does not exist, or is another user's
        os.utime(path)
    return path.exists()


def build(program: Program, source: Source, values: Mapping[str, str], path: Path) -> None:
    """
    Build *path*, unless another process has done so in the meantime.

    Raises:
        StartError: It does not build; the compiler's own words are the error's note. Or the cache
            is not writable.
    """
    building = replace(program, argv=(str(path),))
    try:
        with _locked(path, building):
            if not path.exists():
                _prune(path)
                _build(building, source, values, path)
    except OSError as error:
        hint = "set XDG_CACHE_HOME to a folder that may be written"
        raise start_error(building, f"no place for its build: {error}", hint) from error


def _build(program: Program, source: Source, values: Mapping[str, str], path: Path) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    argv = fill(source.runtime.build, {**values, "output": str(part)})
    building = replace(program, argv=argv)
    if path.parent.parent == _elsewhere():  # the compiler's own cache has to be private, too
        building = replace(building, env={**program.env, "XDG_CACHE_HOME": str(_elsewhere())})
    try:
        for _ in oneshot.run(building, b"", timeout=TIMEOUT):
            pass  # a compiler prints nothing if it succeeds
        _close(part)
        os.replace(part, path)
    except CallTimeout as error:
        reason = f"its build did not end within {TIMEOUT:g} s"
        raise start_error(building, reason, "", error.stderr_tail) from error
    except ProcessDied as error:
        said, signal = error.stderr_tail, error.signal or _killed_in(error.stderr_tail)
        reason = f"its build was killed by {signal}" if signal else "it does not build"
        raise start_error(building, reason, _first_line(said), said, signal) from error
    finally:
        _remove(part)


def _close(part: Path) -> None:
    """Take write permission on a build from other users, whatever the umask was."""
    for path in (part, *part.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o022)


def _killed_in(said: str) -> str | None:
    """Return the signal that killed a part of a compiler, as Go reports it."""
    found = re.search(r"\bsignal: (killed|terminated)$", said, re.MULTILINE)
    return {"killed": "SIGKILL", "terminated": "SIGTERM"}[found[1]] if found else None


def _first_line(said: str) -> str:
    """Return the line with the mistake; Go prints the package first, behind a #."""
    return next((line for line in said.splitlines() if line and line[0] != "#"), "")


def place(program: Program, name: str) -> Path:
    """
    Return a private folder for the builds of the language *name*, or for other files that are run.

    Raises:
        StartError: There is no such folder. The text says why, and what to set.
    """
    reasons: list[str] = []
    for cache in (_cache(), _elsewhere()):
        try:
            if cache is None:
                raise FileNotFoundError("there is no HOME, and no XDG_CACHE_HOME")
            folder = private(private(cache, own=True) / name, own=True)
        except OSError as error:
            reasons.append(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            continue
        if reasons and not _told.issuperset(reasons):
            _told.update(reasons)
            advice = "make it this user's alone, or set XDG_CACHE_HOME to a folder that is"
            logger.warning("builds go to %s: %s; %s", folder, "; ".join(reasons), advice)
        return folder
    hint = "set XDG_CACHE_HOME to a folder that this user alone may write to"
    raise start_error(program, f"no place for its build: {'; '.join(reasons)}", hint)


def _cache() -> Path | None:
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):
        return Path(named, "emit")
    # An empty HOME would mean the root, and a relative one the current directory.
    home = os.environ["HOME"] if "HOME" in os.environ else os.path.expanduser("~")
    return Path(home, ".cache", "emit") if os.path.isabs(home) else None


def _elsewhere() -> Path:
    return Path(f"/tmp/emit-{os.geteuid()}", "cache")


@contextlib.contextmanager
def _locked(path: Path, program: Program) -> Generator[None, None, None]:
    end = time.monotonic() + TIMEOUT
    with os.fdopen(os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    hint = f"see who has {path}.lock open"
                    raise start_error(program, "another process builds it still", hint) from None
                time.sleep(_LOOK)
        yield


def _prune(path: Path) -> None:
    """Remove builds that were not started for long, the oldest of a file, and unfinished ones."""
    ages: dict[Path, float] = {}
    for old in path.parent.iterdir():
        with contextlib.suppress(OSError):  # another process prunes as well
            ages[old] = time.time() - old.stat().st_mtime
    same = path.name.rpartition("-")[0]
    mine = [old for old in ages if old.name.rpartition("-")[0] == same and old.suffix != ".lock"]
    mine.sort(key=ages.__getitem__)
    for old, age in ages.items():
        if age > KEEP or old in mine[MOST - 1 :]:
            _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
