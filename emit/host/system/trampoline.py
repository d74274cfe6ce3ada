"""
Take on limits, tie this process's life to the host's, then become the node's program.

Run as ``python -IS trampoline.py SETTINGS LC_CTYPE PATH ARGV...`` by the host; imports nothing
of Emit. It exists because a ``preexec_fn`` makes Popen fork instead of vfork (82 ms at 2 GB of host
memory against 0.3) and is unsafe with threads. A failure comes back on the ``status``
descriptor as ``stage errno``; a program that runs closes it unwritten.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38

#: The exit code that nobody sees, as the status descriptor has said more.
FAILED = 96

LIMITS = {
    "core": resource.RLIMIT_CORE,
    "nofile": resource.RLIMIT_NOFILE,
    "cpu": resource.RLIMIT_CPU,
    "fsize": resource.RLIMIT_FSIZE,
    "address_space": resource.RLIMIT_AS,
}


def main(settings: str, lc_ctype: str, path: str, *argv: str) -> None:
    values = {name: int(value) for name, _, value in (s.partition("=") for s in settings.split())}
    status = values["status"]
    os.set_inheritable(status, False)
    stage = "signals"
    try:
        reset_signals()
        for stage, step in STEPS.items():
            if stage in values:
                step(values[stage])
        stage = "exec"
        os.execve(path, argv, environment(lc_ctype))
    except BaseException as error:
        number = getattr(error, "errno", None) or 0
        os.write(status, f"{stage} {number}".encode())
    os._exit(FAILED)


def reset_signals() -> None:
    """Python ignores SIGPIPE and SIGXFSZ; a host may block or ignore more. Exec keeps both."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):  # glibc keeps two for itself
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def environment(lc_ctype: str) -> dict[str, str]:
    """The environment as given: Python changes LC_CTYPE in one of the C locale (PEP 538)."""
    given = {name: value for name, value in os.environ.items() if name != "LC_CTYPE"}
    return {**given, "LC_CTYPE": lc_ctype[1:]} if lc_ctype else given


def die_with_host(host: int) -> None:
    """The host may have died before the first line took effect: then there is no signal."""
    if sys.platform == "linux":
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != host:
        os._exit(FAILED)


def no_new_privs(wanted: int) -> None:
    if wanted and sys.platform == "linux":
        prctl(PR_SET_NO_NEW_PRIVS, 1)


def prctl(option: int, value: int) -> None:
    # Imported here: the host, which imports this file for its name, has no need of it.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def oom_score_adj(wanted: int) -> None:
    """A preference, so a read-only /proc is no reason not to start."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) < wanted:
            file.seek(0)
            file.write(str(wanted))


def limit(name: str, wanted: int) -> None:
    """Soft and hard; of processor time the first is SIGXCPU, the second SIGKILL."""
    _, most = resource.getrlimit(LIMITS[name])
    hard = wanted + 1 if name == "cpu" else wanted
    if most != resource.RLIM_INFINITY:
        wanted, hard = min(wanted, most), min(hard, most)
    resource.setrlimit(LIMITS[name], (wanted, hard))


# In this order: the host's death first; address_space last, as Python itself may need some.
STEPS: dict[str, Callable[[int], None]] = {
    "host": die_with_host,
    "no_new_privs": no_new_privs,
    "oom_score_adj": oom_score_adj,
    **{name: functools.partial(limit, name) for name in LIMITS},
}

if __name__ == "__main__":
    main(*sys.argv[1:])
