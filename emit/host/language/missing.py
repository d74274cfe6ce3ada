"""Tell what to install, from the words of a program that could not load something."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emit.errors import GraphError

if TYPE_CHECKING:
    from emit.host.language.runtime import Runtime

__all__ = ["GRAPHVIZ", "describe_install", "describe_missing"]

#: How graphviz is installed, for `describe_install`.
GRAPHVIZ = {
    "apt-get": "apt-get install graphviz",
    "apk": "apk add graphviz",
    "dnf": "dnf install graphviz",
    "pacman": "pacman -S graphviz",
    "brew": "brew install graphviz",
    "see": "https://graphviz.org/download",
}


def describe_missing(said: str, argv: Sequence[str], cwd: str | None = None) -> str:
    """
    Return a hint for a program that could not load a library, or "".

    Args:
        said: What it told of its failure, or wrote to stderr.
        argv: Its command: a file in it tells the project, and a Python the pip that has to install.
        cwd: Its directory.

    Example:
        >>> describe_missing("ModuleNotFoundError: No module named 'attrs'", ["python3", "a.py"])
        'install it, as by: python3 -m pip install attrs'
    """
    # Late, for a program that has failed: tomllib takes longer than all of this module.
    from emit.host.language.runtime import runtimes

    try:
        known = runtimes().values()
    except GraphError as error:  # the program's own error is told first
        return f"if a package is missing, its installer is not known: {error}"
    program = argv[0] if argv else ""
    python = program if os.path.basename(program).startswith("python") else "python"
    for runtime in known:
        for pattern in runtime.missing:
            if found := re.search(pattern, said):
                name = next(filter(None, found.groups()), "")
                return _describe(runtime, name, _project(runtime, argv, cwd), python)
    return ""


def _describe(runtime: Runtime, name: str, project: Path | None, python: str) -> str:
    if name in runtime.sdk:
        command = runtime.alone.partition(",")[0]
        how = _filled(command, runtime.sdk[name], python)
        return (
            f"{_lack(runtime, command)}install the SDK, as by: {how}; or say file =, which lends it"
        )
    if project is None:
        how = _filled(runtime.alone, name, python)
        return f"{_lack(runtime, runtime.alone)}install it, as by: {how}"
    all_of_it, one_more = _manager(runtime, project)
    if _is_listed(runtime, name, project):
        return f"{_lack(runtime, all_of_it)}run: {_filled(all_of_it, name, python)}, in {project}"
    how = _filled(one_more, name, python)
    return f"{_lack(runtime, one_more)}install it, as by: {how}, in {project}"


def _filled(command: str, package: str, python: str) -> str:
    return command.replace("{package}", package).replace("{python}", python)


def _is_listed(runtime: Runtime, name: str, project: Path) -> bool:
    pattern = runtime.listed.replace("{package}", re.escape(name))
    manifest = (project / runtime.manifest).read_text("utf-8", "replace")
    return bool(pattern and re.search(pattern, manifest))


def _lack(runtime: Runtime, command: str) -> str:
    """Say that the program of *command* is not here, if so: Node comes without npm on Alpine."""
    program = command.partition(" ")[0]
    if program == "{python}" or shutil.which(program):
        return ""
    usual = program == runtime.alone.partition(" ")[0]
    ways = describe_install(runtime.installer if usual else {})
    return f"{program} was not found{ways and f' (install it: {ways})'}; "


def _project(runtime: Runtime, argv: Sequence[str], cwd: str | None) -> Path | None:
    """Return the nearest folder with a manifest, from the last file of a command up."""
    if not runtime.managers:
        return None
    try:
        files = [path for word in argv[1:] if (path := Path(cwd or "", word).absolute()).is_file()]
    except OSError:  # the current directory has been removed; or a word is no path
        return None
    above = files[-1].parents if files else ()
    return next((folder for folder in above if (folder / runtime.manifest).is_file()), None)


def _manager(runtime: Runtime, project: Path) -> tuple[str, str]:
    """Return how a project's packages are installed, by the nearest lock file."""
    for folder in (project, *project.parents):
        for lock, commands in runtime.managers.items():
            if (folder / lock).exists():
                return commands
    return next(iter(runtime.managers.values()))


def describe_install(
    install: Mapping[str, str], program: str = "", folder: str | None = None
) -> str:
    """
    Return how something is installed on this machine.

    Args:
        install: The commands, by the program that each needs to be here; ``see`` is an address,
            and what has no name is all there is to say.
        program: The one that is here and does not do: a version manager's has to be told.
        folder: Where it was started.

    Example:
        >>> describe_install({"no-such": "no-such install ruby", "see": "https://ruby-lang.org"})
        'see https://ruby-lang.org'
    """
    if manager := _manager_of(program, install):
        where = f" in {folder}" if folder else ""
        return f"{program} is {manager}'s and has no version to run{where}: {install[manager]}"
    return ", or ".join(_ways(install))


def _manager_of(program: str, install: Mapping[str, str]) -> str:
    """
    Return the version manager that has put *program* into its folder ``shims``, as in
    ``~/.rbenv/shims/ruby``; "" if *install* has none.
    """
    folders = [name.removeprefix(".") for name in program.split("/")[:-1]]
    above = folders[: folders.index("shims")] if "shims" in folders else []
    return next((name for name in reversed(above) if name and name in install), "")


def _ways(install: Mapping[str, str]) -> Iterator[str]:
    if "" in install:
        yield install[""]
    names = (tool for tool in install if tool not in ("", "see"))
    yield from (install[tool] for tool in [next(filter(shutil.which, names), "")] if tool)
    if "see" in install:
        yield f"see {install['see']}"
