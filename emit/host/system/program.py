"""
A program to start: its command, its limits, and its environment, an allow-list of the host's. No
I/O here.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate

__all__ = ["DEFAULT", "Limits", "Parts", "Program", "Toolchain", "environment"]


@dataclass(frozen=True)
class Limits:
    """
    The limits of a persistent process. None leaves a limit as the host has it.

    A limit above the host's own hard limit becomes that hard limit.

    Attributes:
        core: Bytes of a core dump. 0: a dump of a node holds its messages, and a crash loop
            of them fills the disk.
        nofile: Open descriptors. 1024: enough for a node, and some programs loop over all
            descriptors up to the limit, which takes seconds where the host has a million.
        cpu: Seconds of processor time in its whole life, then SIGXCPU, one second later
            SIGKILL. None: a persistent process may rightly use hours.
        fsize: Bytes of any file it writes. None: a node may rightly write files.
        address_space: Bytes of address space. Never a default: Node hangs at its start under
            128 MiB and needs 768, since V8 and Go reserve far more than they use.
        oom_score_adj: Added to its badness when memory runs out, never lowered. 500: the
            kernel then kills the node and not the host. Linux only.
        no_new_privs: A program in it with a set-user-id bit, such as ``sudo``, gains
            nothing. Linux only.
    """

    core: int | None = 0
    nofile: int | None = 1024
    cpu: int | None = None
    fsize: int | None = None
    address_space: int | None = None
    oom_score_adj: int | None = 500
    no_new_privs: bool = True


@dataclass(frozen=True)
class Toolchain:
    """
    The commands and facts about a file's language that explain a failed start. Nothing of it runs
    before a start has failed: a check must not stop a program that would run.

    Attributes:
        name: The language.
        detect: The command that prints the toolchain's version.
        minimum: The least version that Emit is tested with; empty: any.
        install: What to do to have it, by the program of this machine that would do it; the one
            named ``see`` is an address, and the one without a name is all there is to say.
        manifest: The file that lists the packages of the project; empty: there is none.
        check: The command that tells if they are all there; empty: there is none.
        install_packages: What to run if they are not.
        explain: Takes a program whose start has failed, and whether to check its packages, which
            may take seconds. Returns known faults of the toolchain and the packages, or "".
    """

    name: str
    detect: tuple[str, ...]
    minimum: str = ""
    install: Mapping[str, str] = field(default_factory=dict)
    manifest: str = ""
    check: tuple[str, ...] = ()
    install_packages: str = ""
    explain: Callable[[Program, bool], str] = field(
        default=lambda program, packages: "", compare=False, repr=False
    )


@dataclass(frozen=True)
class Parts:
    """
    The files of which a program is made, for `emit.host.system.version`.

    Attributes:
        file: The node's file, or its folder. Absolute.
        function: The function of the file that is the node; empty: the launcher finds it.
        manifest: The file that lists the packages of the project; empty: there is none.
        suffixes: Of the files of its language.
        locks: The names of lock files, which are beside the manifest.
        folders: The folders of Emit's launcher and SDK.
        made_by: The version of the toolchain, and settings of the build; empty: nothing is built.
    """

    file: str
    function: str = ""
    manifest: str = ""
    suffixes: tuple[str, ...] = ()
    locks: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    made_by: str = ""


@dataclass(frozen=True)
class Program:
    """
    A program, ready to be started any number of times.

    Attributes:
        node: The node's name, for errors.
        argv: The command. No shell reads it. Its first item is looked up in the ``PATH`` of
            ``env``; one with a slash is relative to ``cwd``.
        env: The complete environment; the host's own is not added. See `environment`.
        cwd: The directory it starts in. None: the host's.
        limits: Starts it by way of the trampoline, which sets them and ties its life to the
            host's: 20 ms more. None: it is started directly, which suits a program that
            lives for one message.
        guard: Kill it, and what it started, when the host dies.
        language: That of the file which it serves; empty for any other command.
        name: What it is called where it is no single node's: its file. Empty: the host names it
            by its command.
        toolchain: Of that language; None for any other command.
        config: The node's configuration, a map in JSON; empty: there is none. It may hold secrets.
        parts: The files that it is made of; None for any other command.
        version: The version of a program that was built; empty: it is that of its files, at the
            time of each start. See `emit.host.system.version`.
    """

    node: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str | None = None
    limits: Limits | None = None
    guard: bool = True
    language: str = ""
    name: str = ""
    toolchain: Toolchain | None = None
    config: str = field(default="", repr=False)
    parts: Parts | None = None
    version: str = ""

    def explain(self, *, packages: bool = True) -> str:
        """Return what its toolchain knows of a failed start: see :attr:`Toolchain.explain`."""
        return self.toolchain.explain(self, packages) if self.toolchain else ""


# -- The environment of a node: an allow-list of the host's, so that no secret passes by chance ----

#: Names and patterns that pass. BUNDLE_* and GEM_* do not pass as a whole: Bundler keeps
#: passwords for gem sources in BUNDLE_<HOST>, and GEM_HOST_API_KEY publishes gems. Nor do
#: proxies, GOPROXY and package indexes, whose URLs may hold passwords.
#:
#: Those of languages are here and not in runtime.toml. Authors add to the list in the bodies of
#: their classes, so it is needed before any file is read. It holds for commands as well, which have
#: no runtime.toml. And a file of the current folder must not decide which secrets pass.
DEFAULT: tuple[str, ...] = (
    # Where things are. Without PATH no interpreter is found.
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "XDG_*_HOME", "XDG_RUNTIME_DIR"),
    # Text, time and terminal-free output.
    *("LANG", "LC_*", "TZ", "TZDIR", "NO_COLOR"),
    # Shared libraries and certificates of a system that keeps them elsewhere.
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    # Ruby.
    *("BUNDLE_GEMFILE", "BUNDLE_PATH", "BUNDLE_APP_CONFIG", "BUNDLE_USER_*", "BUNDLE_WITH*"),
    *("BUNDLE_DEPLOYMENT", "BUNDLE_FROZEN", "GEM_HOME", "GEM_PATH", "RUBYLIB", "RBENV_*"),
    # Node, Go, Python.
    *("NODE_PATH", "NODE_ENV", "NVM_DIR", "GOPATH", "GOROOT", "GOCACHE", "GOMODCACHE", "GOFLAGS"),
    *("PYTHONPATH", "VIRTUAL_ENV", "PYENV_ROOT", "PYENV_VERSION", "GOTOOLCHAIN"),
    # Version managers of several languages, which else have none to run.
    *("ASDF_DIR", "ASDF_DATA_DIR", "ASDF_*_VERSION", "MISE_DATA_DIR", "MISE_*_VERSION"),
    *("NODENV_ROOT", "NODENV_VERSION", "GOENV_ROOT", "GOENV_VERSION"),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"),
)

# macOS has no C.UTF-8.
_UTF8 = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"


def environment(extra: Mapping[str, str], passing: Sequence[str] = DEFAULT) -> dict[str, str]:
    """
    The complete environment of a node.

    Args:
        extra: Variables to add. They win over all others.
        passing: Names, or patterns as of a shell (``LC_*``), that pass from the host's
            environment; ``(*DEFAULT, "DATABASE_URL")`` lets one more pass.

    Returns:
        What passes, with ``PYTHONUNBUFFERED=1``, since a Python program would keep its
        answers in a buffer, and a UTF-8 locale, since Ruby would read US-ASCII without one.

    Raises:
        ValueError: A name or value that no environment can hold (the text never has values), or
            *passing* is no list of names.

    Example:
        >>> environment({"DEBUG": "1"}, passing=())["DEBUG"]
        '1'
    """
    _check(extra, passing)
    passes = _matcher(tuple(passing))
    passed = {name: value for name, value in os.environ.items() if passes(name)}
    return {**_utf8(passed), "PYTHONUNBUFFERED": "1", **extra}


@functools.lru_cache
def _matcher(passing: tuple[str, ...]) -> Callable[[str], object]:
    """All patterns as one: 40 us for an environment, where each by itself takes a millisecond."""
    return re.compile("|".join(map(translate, passing)) or r"(?!)").match


def _utf8(env: dict[str, str]) -> dict[str, str]:
    """LC_ALL wins over LC_CTYPE and that over LANG, so the first two go unless they are UTF-8."""
    kept = {n: v for n, v in env.items() if n not in ("LC_ALL", "LC_CTYPE") or _is_utf8(v)}
    return kept if _is_utf8(kept.get("LANG", "")) else {**kept, "LANG": _UTF8}


def _is_utf8(locale: str) -> bool:
    return locale.lower().replace("-", "").partition("@")[0].endswith("utf8")


def _check(extra: Mapping[str, str], passing: Sequence[str]) -> None:
    if not isinstance(extra, Mapping):
        raise ValueError("env must be a map of names to values")
    if isinstance(passing, str) or not all(isinstance(name, str) for name in passing):
        raise ValueError(f"pass_env must be a list of names, such as ('HOME',), not {passing!r}")
    for name, value in extra.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ValueError(f"{name!r} is no name for an environment variable")
        if not isinstance(value, str) or "\0" in value:
            raise ValueError(f"the environment variable {name} needs a str without NUL")
