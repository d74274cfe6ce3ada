"""
What a language builds of a file, in a cache: ``$XDG_CACHE_HOME/emit/<language>/``, or
``~/.cache/emit/<language>/``.

The name of a build is the digest of all that goes into it, so one that is there is right. It is
made beside its name and moved there when it is whole, one at a time over all processes of the
machine: a lock of the system's is let go when its holder dies. With each build go those that
nobody has started for `KEEP` seconds, and the oldest of one file beyond `MOST`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from emit import share
from emit.errors import CallTimeout, ProcessDied
from emit.host import oneshot
from emit.host.language.runtime import Source, fill
from emit.host.system.command import start_error
from emit.host.system.program import Program

__all__ = ["KEEP", "MOST", "TIMEOUT", "build", "is_built", "output"]

#: Seconds for one build. A first one of Go compiles the standard library: 20 s on a slow machine.
TIMEOUT = 600.0

#: Seconds that a build stays without being started.
KEEP = 30 * 86400.0

#: Builds of one file that stay: who works on it makes one with each change, of some MB in Go.
MOST = 20

#: Seconds between two looks at a lock that somebody else has.
_LOOK = 0.05

#: Folders that no compiler reads.
_PASSED_OVER = frozenset({"node_modules", "__pycache__"})


def output(program: Program, source: Source, values: Mapping[str, str], version: str) -> Path:
    """
    The path of a build, whether it is there or not.

    It changes with the files of the node's folder, those of the same language below its
    manifest, the launcher, the SDK, the version of the toolchain, and the variables that begin
    with the language's name, such as GOFLAGS.
    """
    runtime = source.runtime
    place = hashlib.sha256(f"{source.path}:{source.function}".encode(errors="surrogateescape"))
    digest = place.copy()
    settings = sorted(i for i in program.env.items() if i[0].startswith(runtime.name.upper()))
    for word in (version, repr(settings)):
        digest.update(word.encode(errors="surrogateescape") + b"\0")
    for file in _files(source, values):
        digest.update(os.fsencode(file) + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    name = f"{source.path.stem}-{place.hexdigest()[:8]}-{digest.hexdigest()[:16]}"
    return _cache() / runtime.name / name


def is_built(path: Path) -> bool:
    """Whether it is there. Then it counts as started now, and is not removed."""
    with contextlib.suppress(OSError):  # not there, or another user's to keep
        os.utime(path)
    return path.exists()


def build(program: Program, source: Source, values: Mapping[str, str], path: Path) -> None:
    """
    Build *path*, unless another process has done so in the meantime.

    Raises:
        StartError: It does not build, and the compiler's own words are its note; or the cache
            may not be written.
    """
    building = replace(program, argv=(str(path),))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path, building):
            if not path.exists():
                _prune(path)
                _build(building, source, values, path)
    except OSError as error:
        hint = "set XDG_CACHE_HOME to a folder that may be written"
        raise start_error(building, f"no place for its build: {error.strerror}", hint) from error


def _build(program: Program, source: Source, values: Mapping[str, str], path: Path) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    argv = fill(source.runtime.build, {**values, "output": str(part)})
    building = replace(program, argv=argv)
    try:
        for _ in oneshot.run(building, b"", timeout=TIMEOUT):
            pass  # a compiler that is content has nothing to say
        os.replace(part, path)
    except CallTimeout as error:
        reason = f"its build did not end within {TIMEOUT:g} s"
        raise start_error(building, reason, "", error.stderr_tail) from error
    except ProcessDied as error:
        said = error.stderr_tail
        raise start_error(building, "it does not build", _first_line(said), said) from error
    finally:
        _remove(part)


def _first_line(said: str) -> str:
    """Where the mistake is; Go says first in which package, behind a #."""
    return next((line for line in said.splitlines() if line and line[0] != "#"), "")


def _files(source: Source, values: Mapping[str, str]) -> Iterator[Path]:
    """All that goes into a build, each once, in an order that does not change."""
    runtime, here = source.runtime, source.path
    found = set(_walk(here)) if here.is_dir() else {here}
    if "manifest" in values:
        manifest = Path(values["manifest"])
        found |= {f for f in _walk(manifest.parent) if f.name.endswith(runtime.suffixes)}
        found |= set(manifest.parent.glob(f"{manifest.stem}.*")) | {manifest}  # go.mod, go.sum
    elif not here.is_dir():
        found |= {f for f in here.parent.iterdir() if f.name.endswith(runtime.suffixes)}
    found |= set(_walk(runtime.folder))
    with contextlib.suppress(FileNotFoundError):  # a project's own language may have no SDK
        found |= set(_walk(share.find(f"sdks/{runtime.name}")))
    yield from sorted(found)


def _walk(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if f not in _PASSED_OVER and f[0] != "."]
        yield from (path for name in names if (path := Path(where, name)).is_file())


def _cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named if os.path.isabs(named) else os.path.expanduser("~/.cache"), "emit")


@contextlib.contextmanager
def _locked(path: Path, program: Program) -> Generator[None, None, None]:
    end = time.monotonic() + TIMEOUT
    with open(f"{path}.lock", "a") as file:
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
    """Make room for a build: what has not been started for long goes, and what died half-made."""
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
