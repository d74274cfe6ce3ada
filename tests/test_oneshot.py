"""A process for one message, as the host runs it: bytes in, bytes out, and how it ended."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from emit.errors import CallTimeout, ProcessDied, StartError
from emit.host.oneshot import run
from emit.host.system.program import Program, environment
from tests.hosts import count

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("leak_free")]

#: Seconds after which a test has hung. No test waits for it to pass.
GUARD = 60.0


def shell(script: str, *args: str) -> Program:
    return Program("n", ("sh", "-c", script, *args), environment({}))


def python(script: str) -> Program:
    return Program("n", (sys.executable, "-S", "-c", script), environment({}))


def output(program: Program, data: bytes = b"", *, timeout: float = GUARD) -> bytes:
    return b"".join(run(program, data, timeout=timeout))


def test_input_ends_and_output_comes() -> None:
    """The program gets its whole input, then its end; its output is complete."""
    assert output(shell("cat; echo end"), b"one\ntwo\n") == b"one\ntwo\nend\n"


def test_no_input_and_no_output() -> None:
    """A program may write nothing."""
    assert output(shell("cat")) == b""


def test_output_comes_as_it_is_written(tmp_path: Path) -> None:
    """The first chunk is there while the program waits for what its reader does with it."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    chunks = run(shell('echo first; read -r _ <"$0"; echo second', str(gate)), b"", timeout=GUARD)
    assert next(chunks) == b"first\n"
    gate.write_text("\n")
    assert b"".join(chunks) == b"second\n"


def test_much_out_while_much_goes_in() -> None:
    """50 MB of output before the 10 MB of input are read is no deadlock."""
    script = """
        import os, sys
        first = os.read(0, 1)
        for _ in range(50):
            sys.stdout.buffer.write(b"x" * 1_000_000)
        rest = sys.stdin.buffer.read()
        print(len(first + rest))
    """
    size, end = 0, b""
    for chunk in run(python("if True:" + script), b"y" * 10_000_000, timeout=GUARD):
        size, end = size + len(chunk), (end + chunk)[-10:]
    assert (size, end) == (50_000_009, b"x10000000\n")


def test_input_that_is_never_read() -> None:
    """A program need not read its input, whether it closes it or ends."""
    assert output(shell("echo 1"), b"x" * 10_000_000) == b"1\n"
    assert output(shell("exec <&-; echo 1"), b"x" * 10_000_000) == b"1\n"


def test_what_it_wrote_last_is_not_lost() -> None:
    """A pipe full of output that stands there when the program has ended is read."""
    script = "import os; os.write(1, b'x' * 60_000)"
    for _ in range(5):
        assert len(output(python(script))) == 60_000


def test_output_closed_early() -> None:
    """The end of output is not the end of the program: its exit status counts."""
    with pytest.raises(ProcessDied) as caught:
        output(shell("echo 1; exec >&-; exit 3"))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("status", [1, 77, 255])
def test_exit_status(status: int) -> None:
    """Any exit code but 0 is a failure that carries it, and the end of stderr."""
    with pytest.raises(ProcessDied, match=f"exit code {status}") as caught:
        output(shell(f"echo 1; echo because >&2; exit {status}"))
    error = caught.value
    assert (error.exit_code, error.signal, error.stderr_tail) == (status, None, "because\n")
    assert (error.node, error.calls, error.may_have_run) == ("n", 0, True)
    assert 0 < error.uptime < GUARD


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM", "SIGABRT"])
def test_signals_have_names(name: str) -> None:
    """A program that a signal killed is reported by the signal's name."""
    with pytest.raises(ProcessDied, match=f"killed by {name}") as caught:
        output(shell(f"ulimit -c 0; kill -{name[3:]} $$"))
    assert (caught.value.signal, caught.value.exit_code) == (name, None)


def test_the_end_of_stderr_is_kept() -> None:
    """The error has the last 8 KiB of a megabyte on stderr."""
    script = "import sys; sys.stderr.write('x' * 1_000_000 + 'the end'); sys.exit(1)"
    with pytest.raises(ProcessDied) as caught:
        output(python(script))
    assert caught.value.stderr_tail.endswith("xthe end")
    assert len(caught.value.stderr_tail) == 8192


def test_stderr_is_logged_line_by_line(caplog: pytest.LogCaptureFixture) -> None:
    """Each line has the level that it announces, and the last needs no end."""
    caplog.set_level(logging.DEBUG, "emit.node.n")
    assert output(shell("printf 'E! a\\n[WARN] b\\nc\\nDEBUG: d' >&2; echo 1")) == b"1\n"
    records = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "emit.node.n"]
    assert records == [("ERROR", "a"), ("WARNING", "b"), ("INFO", "c"), ("DEBUG", "d")]


def test_the_deadline_kills_all_that_it_started(tag: str) -> None:
    """A child, a grandchild and one in a session of its own are gone when the error comes."""
    script = 'sleep 1000 & setsid sh -c "sleep 1000; :" "$0" & sh -c "sleep 1000; :" "$0"; wait'
    with pytest.raises(CallTimeout, match=r"timeout = 0\.3 s") as caught:
        output(shell(script, tag), timeout=0.3)
    assert caught.value.timeout == 0.3
    assert count(tag, 0) == 0


def test_a_deadline_is_also_for_one_that_writes_forever() -> None:
    """Output does not put the deadline off; what came before is not held back."""
    chunks = run(shell("while :; do echo 1; done"), b"", timeout=4.0)
    assert next(chunks).startswith(b"1\n")
    with pytest.raises(CallTimeout):
        for _ in chunks:
            pass


def test_the_deadline_error_has_the_last_of_stderr() -> None:
    """The program's output before it hung tells why."""
    with pytest.raises(CallTimeout) as caught:
        output(shell("echo waiting for the lock >&2; sleep 1000"), timeout=4.0)
    assert caught.value.stderr_tail == "waiting for the lock\n"


def test_a_slow_reader_is_not_the_programs_fault() -> None:
    """Time that is spent on the results between two chunks does not count."""
    chunks = run(shell("echo 1; cat"), b"2\n" * 100_000, timeout=4.0)
    first = next(chunks)
    time.sleep(4.1)  # longer than the timeout
    assert len(first + b"".join(chunks)) == 200_002


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells only on Linux")
def test_a_stopped_program_is_said_to_be_stopped() -> None:
    """SIGSTOP looks like a hang, and has a hint of its own."""
    with pytest.raises(CallTimeout, match="stopped, as by SIGSTOP"):
        output(shell("kill -STOP $$"), timeout=4.0)


def test_a_grandchild_that_keeps_stdout_open(tag: str) -> None:
    """The program's own end counts, and what is left of its group is killed."""
    script = 'sh -c "sleep 1000; :" "$0" & echo 1'
    assert output(shell(script, tag)) == b"1\n"
    assert count(tag, 0) == 0


def test_closing_early_kills(tag: str) -> None:
    """A caller that wants no more output leaves no process behind."""
    chunks = run(shell("echo 1; sleep 1000; :", tag), b"", timeout=GUARD)
    assert next(chunks) == b"1\n"
    assert count(tag, 1) == 1
    chunks.close()
    assert count(tag, 0) == 0


def test_a_failing_reader_kills(tag: str) -> None:
    """An exception thrown into the exchange, as by a soft time limit, ends the process."""
    chunks = run(shell("echo 1; sleep 1000; :", tag), b"", timeout=GUARD)
    next(chunks)
    with pytest.raises(KeyboardInterrupt):
        chunks.throw(KeyboardInterrupt())
    assert count(tag, 0) == 0


def test_dropped_before_it_began() -> None:
    """A run that nobody has taken anything from has started nothing."""
    before = psutil.Process().children(recursive=True)
    run(shell("sleep 1000"), b"", timeout=GUARD).close()
    assert psutil.Process().children(recursive=True) == before


def test_a_program_that_cannot_be_started() -> None:
    """The error is that of the start, and says that nothing has run."""
    with pytest.raises(StartError, match="command not found") as caught:
        output(Program("n", ("no-such-command",), environment({})))
    assert not caught.value.may_have_run


def test_it_is_started_without_signal_settings_of_the_host() -> None:
    """SIGPIPE, which Python ignores, ends a writer whose reader is gone, as its author expects."""
    handler = signal.getsignal(signal.SIGPIPE)
    assert handler == signal.SIG_IGN
    # yes(1) complains and fails where SIGPIPE is ignored.
    assert output(shell("yes | head -n 1")) == b"y\n"


def test_threads_do_not_meet() -> None:
    """Runs in several threads at a time each get their own output."""
    found: dict[int, bytes] = {}

    def echo(number: int) -> None:
        found[number] = output(shell("cat"), b"%d" % number * 50_000)

    threads = [threading.Thread(target=echo, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD)
    assert found == {number: b"%d" % number * 50_000 for number in range(8)}


def test_no_descriptor_is_inherited(tmp_path: Path) -> None:
    """A program has three descriptors, whatever the host holds open."""
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        said = output(python("import os; print(len(os.listdir('/dev/fd')))"))
    assert said == b"4\n"  # with the one of the listing


def test_its_session_is_its_own() -> None:
    """It leads its own session, so that Ctrl-C at the host's terminal is the host's to handle."""
    script = "import os; print(os.getsid(0) == os.getpid() == os.getpgid(0))"
    assert output(python(script)) == b"True\n"
