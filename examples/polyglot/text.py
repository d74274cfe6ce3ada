"""Read text from a file, a folder or standard input, in pieces of about 100 KB."""

import os
import shutil
import string
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: Characters in a piece. It is small, so every language gets a turn even with a small text.
PIECE = 100_000

#: Folders to skip: packages that are not of the standard library, and files of tools.
PASSED_OVER = ("site-packages", "dist-packages", "__pycache__", "node_modules")


@dataclass
class Text:
    """Files to read, their size in bytes, and why others are left out."""

    name: str
    files: list[Path] = field(default_factory=list)
    size: int = 0
    left_out: list[str] = field(default_factory=list)


def find_text(source: str | None, scratch: Path) -> Text:
    """
    Find the text that *source* names: a file, a folder, ``-``, or None for the standard library.

    Raises:
        FileNotFoundError: The file or folder does not exist, or has no text.
    """
    if source == "-":
        path = scratch / "stdin"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        return _text("standard input", [path])
    path = Path(source or sysconfig.get_path("stdlib"))
    if not path.is_dir() and not path.is_file():
        raise FileNotFoundError(f"there is no file or folder {path}")
    text = _text(str(path), _walk(path) if path.is_dir() else [path])
    if not text.files:
        why = "; ".join(text.left_out) or "it is empty"
        raise FileNotFoundError(f"there is no text in {path}: {why}")
    return text


def read(path: Path) -> str:
    """Read a file. Bytes that are not UTF-8 become U+FFFD, as a message can't carry them."""
    return path.read_text(encoding="utf-8", errors="replace")


def pieces(text: Text) -> Iterator[str]:
    """Yield the whole text in pieces, cut only between words. Files stay apart."""
    held = ""
    for path in text.files:
        with path.open(encoding="utf-8", errors="replace") as file:
            while more := file.read(PIECE):
                held += more
                whole = held.rstrip(string.ascii_letters)
                if len(whole) >= PIECE:
                    yield whole
                    held = held[len(whole) :]
        held += "\n"
    yield held


def _walk(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in PASSED_OVER and f[0] != ".")
        yield from (path for name in sorted(names) if (path := Path(where, name)).is_file())


def _text(name: str, paths: Iterable[Path]) -> Text:
    text = Text(name)
    binary: list[Path] = []
    for path in paths:
        try:
            with path.open("rb") as file:
                is_text = b"\0" not in file.read(8192)
        except OSError as error:
            text.left_out.append(f"{path} ({error.strerror})")
            continue
        (text.files if is_text else binary).append(path)
    text.size = sum(path.stat().st_size for path in text.files)
    if binary:
        text.left_out.append(f"{len(binary)} binary files, such as {binary[0]}")
    return text
