"""What to install: told from the words of a program that could not load something, and for here."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GRAPHVIZ", "describe_install", "describe_missing"]

#: How each package manager installs a package of the same name everywhere.
_INSTALLERS = {
    "apt-get": "apt-get install",
    "apk": "apk add",
    "dnf": "dnf install",
    "pacman": "pacman -S",
    "brew": "brew install",
}
GRAPHVIZ = {tool: f"{command} graphviz" for tool, command in _INSTALLERS.items()}
GRAPHVIZ["see"] = "https://graphviz.org/download"
_NPM = {tool: f"{command} npm" for tool, command in _INSTALLERS.items()}

#: Folders in which a version manager keeps programs that choose a version, by the manager's name.
_SHIMS = re.compile(r"/\.?(asdf|mise|rbenv|pyenv|nodenv|goenv)/(?:[^/]+/)*shims/")


@dataclass(frozen=True)
class _Packages:
    """
    The packages of a language.

    Attributes:
        missing: Finds the name of a library in what is said when there is none. One that was named
            by its path, as by ``require_relative``, is not matched: nobody installs that.
        sdk: The name of our SDK there.
        manifest: The file that lists a project's packages.
        listed: Finds the line of a package in it; ``NAME`` stands for the package.
        managers: Files that tell which program installs a project's packages; how it installs all,
            and one more. The first is for a project with none of those files.
        alone: How one is installed for a file without a project.
    """

    missing: re.Pattern[str]
    sdk: str
    manifest: str
    listed: str
    managers: Mapping[str, tuple[str, str]]
    alone: str


_LANGUAGES = (
    _Packages(
        missing=re.compile(r"\bcannot load such file -- ([\w-]+)"),
        sdk="emit",
        manifest="Gemfile",
        listed=r"""gem\W+NAME["']""",
        managers={"Gemfile.lock": ("bundle install", "bundle add {}")},
        alone="gem install {}, or list it in a Gemfile beside the file and run bundle install",
    ),
    _Packages(
        missing=re.compile(r"\bModuleNotFoundError: No module named '(\w+)"),
        sdk="emit_sdk",
        manifest="pyproject.toml",
        listed=r"""["']NAME\b""",
        managers={
            "requirements.txt": ("{python} -m pip install -e .", "{python} -m pip install {}"),
            "uv.lock": ("uv sync", "uv add {}"),
            "poetry.lock": ("poetry install", "poetry add {}"),
            "pdm.lock": ("pdm install", "pdm add {}"),
        },
        alone="{python} -m pip install {}",
    ),
    _Packages(
        missing=re.compile(
            r"\bCannot find (?:package|module) '((?:@[\w.-]+/)?[\w-][\w.-]*)"
            r"|\btried to access ((?:@[\w.-]+/)?[\w-][\w.-]*), but it isn't declared"
            r"|\bRequired package missing from disk[^/]+/cache/(\w[\w.-]*)-npm-"
        ),
        sdk="emit-graph-sdk",
        manifest="package.json",
        listed=r'"NAME"',
        managers={
            "package-lock.json": ("npm install", "npm install {}"),
            "pnpm-lock.yaml": ("pnpm install", "pnpm add {}"),
            "pnpm-workspace.yaml": ("pnpm install", "pnpm add {}"),
            # Without node_modules: `import` finds a package only with the loader that this makes.
            ".pnp.cjs": (
                "yarn install, with pnpEnableEsmLoader: true in .yarnrc.yml",
                "yarn add {}",
            ),
            "yarn.lock": ("yarn install", "yarn add {}"),
            "bun.lock": ("bun install", "bun add {}"),
            "bun.lockb": ("bun install", "bun add {}"),
        },
        alone="npm install {}, in the folder of the file",
    ),
)


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
    program = argv[0] if argv else ""
    python = program if os.path.basename(program).startswith("python") else "python"
    for packages in _LANGUAGES:
        if found := packages.missing.search(said):
            name = next(filter(None, found.groups()))
            hint = _describe(packages, name, _project(packages, argv, cwd))
            return hint.replace("{python}", python)
    return ""


def _describe(packages: _Packages, name: str, project: Path | None) -> str:
    if name == packages.sdk:
        command = packages.alone.format("emit-graph-sdk", python="{python}").partition(",")[0]
        return f"{_lack(command)}install the SDK, as by: {command}; or say file =, which lends it"
    if project is None:
        command = packages.alone.format(name, python="{python}")
        return f"{_lack(command)}install it, as by: {command}"
    all_of_it, one_more = _manager(packages, project)
    pattern = packages.listed.replace("NAME", re.escape(name))
    if re.search(pattern, (project / packages.manifest).read_text("utf-8", "replace")):
        return f"{_lack(all_of_it)}run: {all_of_it}, in {project}"
    command = one_more.format(name, python="{python}")
    return f"{_lack(command)}install it, as by: {command}, in {project}"


def _lack(command: str) -> str:
    """Say that the program of *command* is not here, if so: Node comes without npm on Alpine."""
    program = command.partition(" ")[0]
    if program == "{python}" or shutil.which(program):
        return ""
    ways = describe_install(_NPM if program == "npm" else {})
    return f"{program} was not found{ways and f' (install it: {ways})'}; "


def _project(packages: _Packages, argv: Sequence[str], cwd: str | None) -> Path | None:
    """Return the nearest folder with a manifest, from the last file of a command up."""
    try:
        files = [path for word in argv[1:] if (path := Path(cwd or "", word).absolute()).is_file()]
    except OSError:  # the current directory has been removed; or a word is no path
        return None
    above = files[-1].parents if files else ()
    return next((folder for folder in above if (folder / packages.manifest).is_file()), None)


def _manager(packages: _Packages, project: Path) -> tuple[str, str]:
    """Return how a project's packages are installed, by the nearest lock file."""
    for folder in (project, *project.parents):
        for lock, commands in packages.managers.items():
            if (folder / lock).exists():
                return commands
    return next(iter(packages.managers.values()))


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
    shim = _SHIMS.search(program)
    if shim and (choose := install.get(shim[1])):
        where = f" in {folder}" if folder else ""
        return f"{program} is {shim[1]}'s and has no version to run{where}: {choose}"
    return ", or ".join(_ways(install))


def _ways(install: Mapping[str, str]) -> Iterator[str]:
    if "" in install:
        yield install[""]
    names = (tool for tool in install if tool not in ("", "see"))
    yield from (install[tool] for tool in [next(filter(shutil.which, names), "")] if tool)
    if "see" in install:
        yield f"see {install['see']}"
