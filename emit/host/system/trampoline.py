"""
Sets limits, ties this process's life to the host's, then becomes the node's program.

The host runs it as ``python -IS trampoline.py SETTINGS LC_CTYPE PATH ARGV...``; it imports nothing
of Emit. A ``preexec_fn`` in its place would make Popen fork instead of vfork (82 ms at 2 GB of host
memory against 0.3), and is unsafe with threads. A failure is written to the ``status`` descriptor
as ``stage errno``. If the program runs, the descriptor closes unwritten.
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

#: The exit code of a failed start. Nobody reads it, as the status descriptor has said more.
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
    """Restore the defaults. Python ignores SIGPIPE and SIGXFSZ, hosts may block or ignore more."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):  # glibc reserves two signals
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def environment(lc_ctype: str) -> dict[str, str]:
    """Return the original environment: Python changes LC_CTYPE in the C locale (PEP 538)."""
    given = {name: value for name, value in os.environ.items() if name != "LC_CTYPE"}
    return {**given, "LC_CTYPE": lc_ctype[1:]} if lc_ctype else given


def die_with_host(host: int) -> None:
    """Die with the host. If it died before the first line took effect, there is no signal."""
    if sys.platform == "linux":
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != host:
        os._exit(FAILED)


def no_new_privs(wanted: int) -> None:
    if wanted and sys.platform == "linux":
        prctl(PR_SET_NO_NEW_PRIVS, 1)


def prctl(option: int, value: int) -> None:
    # Imported here: the host imports this file for its name, and does not need it.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def oom_score_adj(wanted: int) -> None:
    """Set a preference; a read-only /proc is not a reason to stop the start."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) < wanted:
            file.seek(0)
            file.write(str(wanted))


def limit(name: str, wanted: int) -> None:
    """Set the soft and the hard limit. For processor time: first SIGXCPU, then SIGKILL."""
    _, most = resource.getrlimit(LIMITS[name])
    hard = wanted + 1 if name == "cpu" else wanted
    if most != resource.RLIM_INFINITY:
        wanted, hard = min(wanted, most), min(hard, most)
    resource.setrlimit(LIMITS[name], (wanted, hard))


# In this order: the host's death first; address_space last, as Python itself may need memory.
STEPS: dict[str, Callable[[int], None]] = {
    "host": die_with_host,
    "no_new_privs": no_new_privs,
    "oom_score_adj": oom_score_adj,
    **{name: functools.partial(limit, name) for name in LIMITS},
}

if __name__ == "__main__":
    main(*sys.argv[1:])
