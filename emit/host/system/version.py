"""
The version of a program: a digest of what it is made of, so that two processes with one version run
the same code.

A node's file counts with the files of its language below its manifest (or, without a manifest,
beside it), the manifest, the lock file, Emit's launcher and its SDK. A command counts with its
words, and the content of each word that is a file. Paths do not count, so two machines have the
same version in different folders. Installed packages count only by the lock file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from emit.errors import StartError
from emit.host.system.command import directory_of, resolve
from emit.host.system.program import Parts, Program

__all__ = ["digest_of", "files_of", "version_of"]

#: Hexadecimal digits of a version.
_LENGTH = 12

#: Bytes of a file that is read as a whole. Of a larger one, an interpreter or a binary, only the
#: beginning and the end count, with its size: the beginning of a binary has the id of its build.
_WHOLE = 4 * 1024 * 1024
_SAMPLE = 256 * 1024

#: Folders that hold no code of the project itself, and a file that marks others of them.
_PASSED_OVER = frozenset({"node_modules", "__pycache__", "site-packages"})
_VIRTUAL = "pyvenv.cfg"

#: Locks, copies and swap files of Emacs, Vim and other editors.
_OF_AN_EDITOR = re.compile(r"\.?#.*|.*~|\..*\.sw.|4913")

#: Digests by the path of a file, each with the state of the file that was read.
_read: dict[Path, tuple[tuple[int, ...], bytes]] = {}

#: The most digests that are kept.
_MOST = 20_000


def version_of(program: Program) -> str:
    """
    Return the present version of a program, as 12 hexadecimal digits. A file that can't be read
    counts as empty.

    It takes 1 ms for a file with a few others beside it. A file is read again only after a change.

    Example:
        >>> version_of(program)  # doctest: +SKIP
        '6b1f0a7c93de'
    """
    if program.version:
        return program.version
    digest = hashlib.sha256()
    found = _of_command(program) if program.parts is None else _of_files(program.parts)
    for word in found:
        digest.update(word + b"\0")
    return digest.hexdigest()[:_LENGTH]


def _of_files(parts: Parts) -> Iterator[bytes]:
    """Yield the name and the digest of each file, whose paths begin at a folder of the project."""
    folders = (_home(parts), *map(Path, parts.folders))
    yield parts.function.encode()
    yield parts.made_by.encode(errors="surrogateescape")
    for path in files_of(parts):
        inside = next((folder for folder in folders if path.is_relative_to(folder)), path.parent)
        yield os.fsencode(path.relative_to(inside)) + b"\0" + _digest(path)


def _of_command(program: Program) -> Iterator[bytes]:
    words = list(program.argv)
    with suppress(StartError):  # the start itself tells what is wrong with the command
        words[0] = os.path.realpath(resolve(program).argv[0])
    with suppress(StartError):
        folder = directory_of(program)
        for number, word in enumerate(words):
            path = Path(folder, word)
            is_file = number == 0 or _is_file(path)
            yield os.fsencode(path.name) + b"\0" + _digest(path) if is_file else os.fsencode(word)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a word that is no path, such as a text with a NUL
        return False


def _home(parts: Parts) -> Path:
    return Path(parts.manifest or parts.file).parent


def files_of(parts: Parts) -> Iterator[Path]:
    """Yield all files that a program is made of, each once, in a fixed order."""
    here = Path(parts.file)
    found = set(_walk(here)) if here.is_dir() else {here}
    if parts.manifest:
        manifest = Path(parts.manifest)
        found |= {f for f in _walk(manifest.parent) if f.name.endswith(parts.suffixes)}
        beside = manifest.parent.glob(f"{manifest.stem}.*")  # go.mod, go.sum
        locks = (manifest.with_name(name) for name in parts.locks)
        found |= {manifest, *(f for f in (*beside, *locks) if f.is_file())}
    elif not here.is_dir():
        found |= {f for f in here.parent.iterdir() if _reads(parts, f)}
    for folder in parts.folders:
        found |= set(_walk(Path(folder)))
    yield from sorted(found)


def _reads(parts: Parts, path: Path) -> bool:
    return path.name.endswith(parts.suffixes) and path.name[0] != "." and path.is_file()


def _walk(folder: Path) -> Iterator[Path]:
    """Yield every file in a folder and below it, except editors' temporary files."""
    for where, folders, names in os.walk(folder):
        if _VIRTUAL in names:
            folders.clear()
            continue
        folders[:] = [f for f in folders if f not in _PASSED_OVER and f[0] != "."]
        kept = (Path(where, name) for name in names if not _OF_AN_EDITOR.fullmatch(name))
        yield from (path for path in kept if path.is_file())


def digest_of(path: Path) -> bytes:
    """
    Return the digest of a file's content. It is read again only after a change.

    Raises:
        OSError: It can't be read.
    """
    told = path.stat()
    state = (told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns)
    known = _read.get(path)
    if known is not None and known[0] == state:
        return known[1]
    with path.open("rb") as file:
        if told.st_size <= _WHOLE:
            made = hashlib.sha256(file.read()).digest()
        else:
            parts = [file.read(_SAMPLE), str(told.st_size).encode()]
            file.seek(-_SAMPLE, os.SEEK_END)
            made = hashlib.sha256(b"".join((*parts, file.read(_SAMPLE)))).digest()
    if len(_read) >= _MOST:
        _read.clear()
    _read[path] = (state, made)
    return made


def _digest(path: Path) -> bytes:
    with suppress(OSError, ValueError):
        return digest_of(path)
    return b""
