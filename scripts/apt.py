"""Install Debian packages without any question: as root, or by a sudo without a password."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

from scripts import tools


def allowed() -> bool:
    """Return True if apt-get exists and may be used."""
    return shutil.which("apt-get") is not None and apt_get("--version").returncode == 0


def candidate(package: str) -> tuple[int, ...] | None:
    """Return the version that apt-get would install; None if it knows no version."""
    answer = tools.run("apt-cache", "policy", package).stdout
    found = [line for line in answer.splitlines() if "Candidate:" in line]
    # "2:1.19~1": the part before the colon is Debian's own order, and not Go's version.
    return tools.numbers(found[0].rpartition(":")[2]) if found else None


def install(packages: list[str]) -> str:
    """Install *packages*. Return the reason of a failure; empty if there is none."""
    command = ("install", "-y", "--no-install-recommends", *packages)
    result = apt_get(*command)
    if result.returncode:
        # Old lists name files that the server no longer has.
        update()
        result = apt_get(*command)
    return last_line(result.stdout) if result.returncode else ""


@functools.cache
def update() -> None:
    """Fetch the lists of packages, once in a run. The next command shows a failure."""
    apt_get("update")


def apt_get(*arguments: str) -> subprocess.CompletedProcess[str]:
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    command = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    # Another apt-get, such as the machine's own upgrades, holds the lock for a minute or two.
    return tools.run(*command, "-o", "DPkg::Lock::Timeout=120", *arguments)


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]
