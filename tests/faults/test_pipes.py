"""Full pipes, closed pipes, and what a program leaves in them."""

from __future__ import annotations

import logging
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from emit import Message
from emit.errors import ProcessDied, ProtocolError
from emit.host.lines import LINE, TAIL
from emit.multilang import ShellNode
from tests.faults.nodes import pool, raw
from tests.hosts import run_host

pytestmark = pytest.mark.usefixtures("leak_free")

MB = 1 << 20

#: In a host: what `pool` gives, the growth of its memory in MiB, and a full message.
HOST = """
import psutil
from tests.faults.nodes import pool, raw, sdk, started

def rss():
    return psutil.Process().memory_info().rss >> 20
"""


def measure(code: str) -> str:
    """Run *code* in a host of its own, whose memory is not that of a whole test run."""
    return run_host(HOST + textwrap.dedent(code))


# Full


def test_both_pipes_full() -> None:
    """A program that writes 50 MB before it reads a 10 MB message gets all of it."""
    program = raw("""
        ready()
        while os.read(0, 1) == b"\\n":
            pass
        for _ in range(50):
            frame(op="out", id=1, msgs=["x" * (1 << 20)])
        end(1, len(sys.stdin.buffer.readline()))
    """)
    with pool(program) as node:
        results = list(node.stream({"text": "y" * 10 * MB}))
    assert results[:-1] == ["x" * MB] * 50
    assert results[-1] > 10 * MB


def test_both_pipes_full_in_one_shot() -> None:
    """The same with a program that knows nothing of Emit."""

    class Loud(ShellNode):
        command = (
            sys.executable,
            "-c",
            "import sys; [print('\"' + 'x' * (1 << 20) + '\"') for _ in range(50)];"
            "print(len(sys.stdin.read()))",
        )
        mode = "oneshot"

    results = list(Loud()(Message(text="y" * 10 * MB)))
    assert results[:-1] == ["x" * MB] * 50
    assert results[-1] > 10 * MB


def test_much_stderr_during_a_call() -> None:
    """1 MB of it blocks nobody; what an error keeps of it is bounded."""
    program = raw("""
        for id, msg in calls():
            for n in range(1 << 14):
                os.write(2, b"%063d\\n" % n)
            if msg["die"]:
                sys.exit(3)
            end(id, "done")
    """)
    with pool(program, max_attempts=1) as node:
        assert node.call({"die": False}) == ["done"]
        with pytest.raises(ProcessDied) as caught:
            node.call({"die": True})
    assert caught.value.exit_code == 3
    assert len(caught.value.stderr_tail) <= TAIL
    assert caught.value.stderr_tail.endswith(f"{(1 << 14) - 1:063d}\n")


def test_much_stderr_while_idle() -> None:
    """A program that is blocked on its stderr between two calls goes on with the next."""
    program = raw("""
        for id, msg in calls():
            end(id, "done")
            os.write(2, b"x" * (1 << 20) + b"\\n")
    """)
    with pool(program) as node:
        assert [node.call({}) for _ in range(3)] == [["done"]] * 3
        assert node.snapshot()["starts"] == 1


def test_a_program_that_is_blocked_on_its_stderr_can_stop() -> None:
    """Its last words are read while it is stopped, so that it needs no signal."""
    program = raw("""
        for id, msg in calls():
            end(id, os.getpid())
            os.write(2, b"x" * (1 << 20) + b"\\n")
    """)
    with pool(program, stop_grace=60.0) as node:
        (pid,) = node.call({})
        before = time.monotonic()
    assert not psutil.pid_exists(pid)
    assert time.monotonic() - before < 30.0


def test_a_program_that_never_reads() -> None:
    """A 10 MB message ends at its deadline, and nothing of it stays in memory."""
    # By what Python has allocated: the C library keeps some of what was freed, or not.
    said = measure("""
        import tracemalloc

        def send(node):
            try:
                node.call({"text": "x" * (10 << 20)})
            except CallTimeout as error:
                return error.timeout

        with pool(raw("ready(); hang()"), timeout=0.2, max_attempts=1) as node:
            send(node)
            tracemalloc.start()
            timeouts = [send(node) for _ in range(5)]
            kept, _ = tracemalloc.get_traced_memory()
            print(timeouts, node.snapshot()["ends"], kept < 1 << 20)
    """)
    assert said == "[0.2, 0.2, 0.2, 0.2, 0.2] {'failed': 6} True\n"


# Closed


@pytest.mark.parametrize(
    ("closes", "reason"), [("0", "closed its stdin"), ("1", "closed its stdout")]
)
def test_a_pipe_is_closed_and_the_program_lives(closes: str, reason: str) -> None:
    """An error at once, not at the deadline; the program is killed."""
    program = raw(f"ready(); os.close({closes}); open(sys.argv[1], 'w').close(); hang()")
    with pool([*program, "/dev/null"], timeout=100.0, max_attempts=1) as node:
        before = time.monotonic()
        with pytest.raises(ProtocolError, match=reason):
            node.call({"text": "x" * MB})
        assert time.monotonic() - before < 50.0
        assert node.snapshot()["ends"] == {"failed": 1}


def test_a_grandchild_keeps_the_pipe() -> None:
    """The death of the program is seen though its stdout stays open."""
    program = raw("""
        import subprocess
        for id, msg in calls():
            subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL)
            sys.exit(4)
    """)
    with pool(program, timeout=100.0, max_attempts=1) as node:
        before = time.monotonic()
        with pytest.raises(ProcessDied, match="exit code 4"):
            node.call({})
        assert time.monotonic() - before < 50.0


@pytest.mark.parametrize("pipe", ["", ">&2"], ids=["stdout", "stderr"])
def test_a_grandchild_fills_the_pipe(pipe: str) -> None:
    """A background process that writes and writes does not hide the program's death."""
    program = raw(f"""
        import subprocess
        for id, msg in calls():
            subprocess.Popen("exec yes {pipe}", shell=True, stdin=subprocess.DEVNULL)
            time.sleep(0.1)  # until the pipe is full
            os._exit(4)
    """)
    with pool(program, timeout=20.0, max_attempts=1) as node:
        with pytest.raises(ProcessDied, match="exit code 4"):
            node.call({})


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells only on Linux")
def test_a_death_that_takes_its_time() -> None:
    """A busy machine may do something else between the end of stdout and the status."""
    # The main thread is at its end, and the other one closes what is left and lingers.
    program = raw("""
        import ctypes

        def linger():
            while open(f"/proc/{os.getpid()}/stat").read().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.002)
            os.close(1)
            time.sleep(1.0)
            os._exit(4)

        for id, msg in calls():
            threading.Thread(target=linger).start()
            ctypes.CDLL(None).pthread_exit(None)
    """)
    with pool(program, max_attempts=1) as node:
        with pytest.raises(ProcessDied, match="exit code 4"):
            node.call({})


def test_death_in_the_middle_of_a_message() -> None:
    """The host survives the broken pipe, and knows how the program ended."""
    program = raw("ready(); os.read(0, 1 << 20); sys.exit(7)")
    with pool(program, max_attempts=2) as node:
        with pytest.raises(ProcessDied, match="exit code 7") as caught:
            node.call({"text": "x" * 10 * MB})
    assert [cause.exit_code for cause in caught.value.letter.causes] == [7, 7]


def test_answers_before_a_death_count(tmp_path: Path) -> None:
    """Messages answered before the program died in the middle of another do not run again."""
    program = raw(
        """
        for id, msg in calls():
            with open(sys.argv[1], "a") as file:
                file.write(f"{msg['n']} ")
            end(id, msg["n"])
            if msg["n"] == 2:
                os.read(0, 1 << 16)
                os._exit(7)
        """,
        str(tmp_path / "ran"),
    )
    messages = [{"n": n, "text": "x" * (n > 2) * MB} for n in range(5)]
    with pool(program) as node:
        assert list(node.call_many(messages)) == [[n] for n in range(5)]
    assert (tmp_path / "ran").read_text() == "0 1 2 3 4 "


def test_a_slow_reader_of_a_stream() -> None:
    """The program waits for whoever takes its results, and the host does not keep them."""
    said = measure("""
        program = sdk('''
            def many(msg):
                for n in range(200_000):
                    yield "x" * 1000

            serve(many)
        ''')
        with pool(program, timeout=4.0) as node:
            started(node)
            stream = node.stream({})
            next(stream)
            before = rss()
            time.sleep(4.1)  # longer than the timeout, which is the program's and not the reader's
            print({next(stream) == "x" * 1000 for _ in range(1000)}, rss() - before < 20)
            stream.close()
    """)
    assert said == "{True} True\n"


# stderr


def test_stderr_that_is_no_text(caplog: pytest.LogCaptureFixture) -> None:
    """It can't drive a terminal or forge a record, and is cut: one record for each line."""
    caplog.set_level(logging.DEBUG)
    lines = [
        b"\x1b[31mred\x1b[0m",
        b"[WARN] carriage\rreturn",
        b"nul \x00 and \xff invalid",
        b"y" * 10 * MB,
        b"E! the end",
    ]
    program = raw("""
        write(b"".join(bytes.fromhex(w) + b"\\n" if len(w) > 4 else
              bytes.fromhex(w) * (10 << 20) + b"\\n" for w in sys.argv[1:]), fd=2)
        for id, msg in calls():
            end(id)
    """)
    words = [line.hex() if len(line) < 1000 else line[:1].hex() for line in lines]
    with pool([*program, *words], name="noisy") as node:
        assert node.call({}) == []
    records = [r for r in caplog.records if r.name == "emit.node.noisy"]
    records = [r for r in records if " is ready after " not in r.getMessage()]
    texts = [record.getMessage() for record in records]
    assert texts[:3] == [
        "\\x1b[31mred\\x1b[0m",
        "carriage\\x0dreturn",
        "nul \\x00 and \ufffd invalid",
    ]
    assert texts[3].startswith("yyyy")
    assert texts[3].endswith(f"(cut at {LINE} bytes)")
    assert len(texts[3]) < LINE + 100
    assert texts[4:] == ["the end"]
    assert [record.levelname for record in records] == ["INFO", "WARNING", "INFO", "INFO", "ERROR"]
