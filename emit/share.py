"""Where the files of other languages are: the launchers in runtimes/, the SDKs in sdks/."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["find", "root"]


def find(part: str) -> Path:
    """
    The folder *part*, such as ``"runtimes"``, of this Emit.

    Looked for in ``$EMIT_SHARE``; without that in ``emit/_share``, where a wheel has it, and
    then in the folder above ``emit/``, where a checkout has it.

    Raises:
        FileNotFoundError: It is not there. The text says where, and what to set.
    """
    place = root() / part
    if not place.is_dir():
        raise FileNotFoundError(
            f"there is no folder {place}; install emit-graph anew, or set EMIT_SHARE to the "
            f"folder that has {part}/"
        )
    return place


def root() -> Path:
    """The folder that has runtimes/ and sdks/, whether they are there or not."""
    named = os.environ.get("EMIT_SHARE")
    if named:
        return Path(named).absolute()
    package = Path(__file__).resolve().parent
    packed = package / "_share"
    return packed if packed.is_dir() else package.parent
