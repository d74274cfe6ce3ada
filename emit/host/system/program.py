"""What is started: a command, its environment, its limits. No I/O here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Limits", "Program", "Toolchain"]


@dataclass(frozen=True)
class Limits:
    """
    What a persistent process is bounded by. None leaves a limit as the host has it.

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
    What can be asked of the language of a file, to explain a start that has failed. Nothing of it
    is asked before: a program that would run is not stopped by a check.

    Attributes:
        name: The language.
        detect: The command that prints the toolchain's version.
        minimum: The least version that Emit is tested with; empty: any.
        install: What to do to have it, by the program of this machine that would do it; the one
            named ``see`` is an address, and the one without a name is all there is to say.
        manifest: The file that lists the packages of the project; empty: there is none.
        check: The command that tells if they are all there; empty: there is none.
        install_packages: What to run if they are not.
    """

    name: str
    detect: tuple[str, ...]
    minimum: str = ""
    install: Mapping[str, str] = field(default_factory=dict)
    manifest: str = ""
    check: tuple[str, ...] = ()
    install_packages: str = ""


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
        name: What it is called where it is no single node's: its file. Empty: see `name_of`.
        toolchain: Of that language; None for any other command.
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
