"""Debian's packages without a question ever: as root, or by a sudo that wants no password."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

from scripts import tools


def allowed() -> bool:
    """Whether apt-get is here and may be used."""
    return shutil.which("apt-get") is not None and apt_get("--version").returncode == 0


def candidate(package: str) -> tuple[int, ...] | None:
    """The version that apt-get would install, or None when it knows of none."""
    answer = tools.run("apt-cache", "policy", package).stdout
    found = [line for line in answer.splitlines() if "Candidate:" in line]
    # "2:1.19~1": what stands before the colon orders Debian's versions and is not Go's.
    return tools.numbers(found[0].rpartition(":")[2]) if found else None


def install(packages: list[str]) -> str:
    """Install *packages*; returns why that failed, and nothing when it did not."""
    command = ("install", "-y", "--no-install-recommends", *packages)
    result = apt_get(*command)
    if result.returncode:
        # The lists may be so old that they name files which are gone.
        update()
        result = apt_get(*command)
    return last_line(result.stdout) if result.returncode else ""


@functools.cache
def update() -> None:
    """Fetch the lists of packages, once in a run. A failure shows in what is asked next."""
    apt_get("update")


def apt_get(*arguments: str) -> subprocess.CompletedProcess[str]:
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    command = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    # Another apt-get, a machine's own upgrades say, holds the lock for a minute or two.
    return tools.run(*command, "-o", "DPkg::Lock::Timeout=120", *arguments)


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]
