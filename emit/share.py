"""The place of the files for other languages: the launchers in runtimes/, the SDKs in sdks/."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["find", "root"]


def find(part: str) -> Path:
    """
    Return the folder *part*, such as ``"runtimes"``, of this Emit.

    It is in ``$EMIT_SHARE`` if that is set. Otherwise it is in ``emit/_share``, as in a wheel, or
    in the folder above ``emit/``, as in a checkout.

    Raises:
        FileNotFoundError: The folder is not there. The text says where Emit looked, and what to
            set.
    """
    place = root() / part
    if not place.is_dir():
        raise FileNotFoundError(
            f"there is no folder {place}; install emit-graph anew, or set EMIT_SHARE to the "
            f"folder that has {part}/"
        )
    return place


def root() -> Path:
    """Return the folder of runtimes/ and sdks/, even if they are not there."""
    named = os.environ.get("EMIT_SHARE")
    if named:
        return Path(named).absolute()
    package = Path(__file__).resolve().parent
    packed = package / "_share"
    return packed if packed.is_dir() else package.parent
