"""Why a program says nothing, from what the kernel knows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: read(2) by its number on the architectures of /proc/<pid>/syscall that we know.
_READ = {"x86_64": "0", "aarch64": "63"}

#: PF_EXITING among the flags of /proc/<pid>/stat.
_EXITING = 0x4


def describe_stall(pid: int) -> str:
    """
    A hint for a program that did not answer, or "".

    One that waits for its input although it was given a message has its answer in a buffer,
    or reads until the end of its input, as a one-shot program does.
    """
    if sys.platform != "linux":
        return ""
    try:
        call = Path(f"/proc/{pid}/syscall").read_text().split()
        state = _stat(pid)[0]
    except (OSError, IndexError):
        return ""
    if state == "T":
        return "it is stopped, as by SIGSTOP"
    if call[:2] == [_READ.get(os.uname().machine, ""), "0x0"]:
        return "it is waiting for input: a missing flush, or a program that reads to the end"
    return ""


def is_ending(pid: int) -> bool:
    """
    Whether a program is on its way out: the kernel has closed its descriptors, and tells its
    status when it has taken down the rest, which on a busy machine may be a while later.
    """
    try:
        return bool(int(_stat(pid)[6]) & _EXITING)
    except (OSError, IndexError):  # it is gone, or this is not Linux
        return False


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat behind the name, which may hold spaces: from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
