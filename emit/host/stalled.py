"""Why a program says nothing: a hint for the error of a deadline, from what the kernel knows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: read(2) by its number on the architectures of /proc/<pid>/syscall that we know.
_READ = {"x86_64": "0", "aarch64": "63"}


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
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
    if state == "T":
        return "it is stopped, as by SIGSTOP"
    if call[:2] == [_READ.get(os.uname().machine, ""), "0x0"]:
        return "it is waiting for input: a missing flush, or a program that reads to the end"
    return ""
