"""Programs that do not start, do not stay, or are to be replaced."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode
from emit.errors import HostError, ProcessDied, StartError, StartTimeout, Unavailable
from emit.host.calls import Calls
from emit.letter import DeadLetter
from tests import shared_hosts
from tests.faults.nodes import CHAOS, PATH, host_of, pool, raw, sdk, started
from tests.hosts import until

pytestmark = pytest.mark.usefixtures("leak_free")

ECHO = "serve(lambda msg: msg.n)"


def failures_until_open(node: Calls) -> list[HostError]:
    """Call until the breaker opens; return what was raised."""
    failures: list[HostError] = []
    while not failures or not isinstance(failures[-1], Unavailable):
        with pytest.raises(HostError) as caught:
            node.call({})
        failures.append(caught.value)
    return failures


def test_a_program_that_ends_at_once() -> None:
    """Five starts, each a little later; then calls fail at once, with the last cause."""
    with pool(raw("sys.exit('no database')"), backoff=0.01, breaker_window=300.0) as node:
        *failures, refused = failures_until_open(node)
        assert [type(failure) for failure in failures] == [StartError] * 5
        assert isinstance(refused, Unavailable)
        assert not refused.may_have_run
        assert isinstance(refused.last, StartError)
        assert "exit code 1" in str(refused)
        assert refused.last.stderr_tail == "no database\n"
        assert 0 < refused.retry_in <= 60
        assert len(failures_until_open(node)) == 1
        assert node.snapshot()["start_failures"] == 5
        assert repr(node.pool).endswith("| Breaker: open]>")


def dying(tmp_path: Path, end: str, times: int) -> list[str]:
    """A program whose first starts come to an *end*; each leaves a line in a file."""
    starts = str(tmp_path / "starts")
    return sdk(f"""
        print(os.getpid(), file=open({starts!r}, "a"), flush=True)
        if len(open({starts!r}).readlines()) <= {times}:
            {end}
        serve(lambda msg: msg.n)
        """)


def starts_of(tmp_path: Path) -> int:
    return len((tmp_path / "starts").read_text().splitlines())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
@pytest.mark.parametrize("kind", ["call", "call_many", "stream"])
def test_a_start_that_is_killed(
    tmp_path: Path, kind: str, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It is made again, and the message that waits for it is not charged; the log tells why."""
    program = dying(tmp_path, f"os.kill(os.getpid(), {int(number)})", 2)
    with pool(program, backoff=0.01) as node:
        if kind == "call":
            assert node.call({"n": 7}) == [7]
        elif kind == "stream":
            assert list(node.stream({"n": 7})) == [7]
        else:
            assert list(node.call_many([{"n": 7}, {"n": 8}])) == [[7], [8]]
        figures = node.snapshot()
    assert starts_of(tmp_path) == 3
    assert figures["retries"] == figures["failures"] == {}
    assert (figures["starts"], figures["start_failures"]) == (1, 2)
    said = [record.message for record in caplog.records if "tried again" in record.message]
    assert len(said) == 2
    assert all(signal.Signals(number).name in line for line in said)


@pytest.mark.parametrize("end", ["sys.exit(3)", "sys.exit(137)", "raise OSError", "os._exit(0)"])
def test_a_start_that_ends_by_itself(tmp_path: Path, end: str) -> None:
    """It fails its message at once, and the next message starts another."""
    with pool(dying(tmp_path, end, 1), backoff=0.01) as node:
        with pytest.raises(StartError) as caught:
            node.call({"n": 7})
        assert caught.value.signal is None
        assert starts_of(tmp_path) == 1
        assert node.call({"n": 7}) == [7]


def test_starts_that_are_killed_each_time(tmp_path: Path) -> None:
    """
    Starts are repeated up to max_attempts for a message, and up to the breaker's limit for all.
    """
    program = dying(tmp_path, "os.kill(os.getpid(), 9)", 1000)
    with pool(program, backoff=0.01, breaker_window=300.0, timeout=60) as node:
        with pytest.raises(StartError, match="before it was ready, it was killed by SIG") as caught:
            node.call({"n": 7})
        assert (caught.value.signal, caught.value.letter) == ("SIGKILL", None)
        assert starts_of(tmp_path) == 3
        with pytest.raises(Unavailable, match="killed by SIGKILL"):
            node.call({"n": 7})
        assert starts_of(tmp_path) == 5
    with pool(program, max_attempts=1) as node, pytest.raises(StartError):
        node.call({"n": 7})
    assert starts_of(tmp_path) == 6


def test_a_killed_start_whose_time_is_over(tmp_path: Path) -> None:
    """The error says how the first start ended if there is no time for another."""
    program = dying(tmp_path, "os.kill(os.getpid(), 9)", 1000)
    with pool(program, backoff=60, backoff_max=60, acquire_timeout=0.2) as node:
        with pytest.raises(StartError, match="killed by SIGKILL"):
            node.call({"n": 7})
        with pytest.raises(Unavailable, match=r"next start is in .*killed by SIGKILL"):
            node.call({"n": 7})
    assert starts_of(tmp_path) == 1


def test_a_killed_start_of_a_shared_host(tmp_path: Path, short_folder: Path) -> None:
    """The same holds there."""
    path = short_folder / "host.sock"
    program = dying(tmp_path, "os.kill(os.getpid(), 9)", 1)
    with shared_hosts.listening(path), shared_hosts.client(path, program, backoff=0.01) as node:
        assert node.call({"n": 7}) == [7]


def test_a_killed_first_run(tmp_path: Path) -> None:
    """
    A killed first run in mode auto may be a start: Emit repeats it if the program has written
    nothing. A program known to have no SDK is not started but run, so its kill is final.
    """
    router = Router()
    env = {"PYTHONPATH": PATH}
    program = dying(tmp_path, "os.kill(os.getpid(), 9)", 2)
    with router:
        node = router.node(("n",), name="n", command=program, env=env, backoff=0.01)(ShellNode)
        assert [node(n=n) for n in (7, 8)] == [({"n": 7},), ({"n": 8},)]
        assert starts_of(tmp_path) == 4

        script = 'read -r line; echo $line >>"$0"; test "$line" = "{}" || kill -9 $$; echo 1'
        argv = ["sh", "-c", script, str(tmp_path / "lines")]
        plain = router.node(("n",), name="plain", command=argv, backoff=0.01)(ShellNode)
        assert plain({}) == ({"n": 1},)
        with pytest.raises(ProcessDied):
            plain(n=7)
        assert (tmp_path / "lines").read_text() == '{}\n{"n":7}\n'

        talks = ["sh", "-c", f"echo 1; echo >>{tmp_path / 'talks'}; kill -9 $$"]
        talking = router.node(("n",), name="talking", command=talks, backoff=0.01)(ShellNode)
        with pytest.raises(ProcessDied):
            talking(n=7)
        assert (tmp_path / "talks").read_text() == "\n"


GIVEN_UP = "op='err', id=None, type='StoreGone', message='no store to write to'"

#: Programs that are ready, and then see that they can't go on: together with that, a moment later,
#: or with their first call; and whether they end then.
GIVING_UP = {
    "at once": f"read(); write(line(op='ready', v=1) + line({GIVEN_UP})); sys.exit(1)",
    "and lives on": f"read(); write(line(op='ready', v=1) + line({GIVEN_UP})); hang()",
    "later": f"ready(); time.sleep(0.05); frame({GIVEN_UP}); sys.exit(1)",
    "with a call": f"next(calls()); frame({GIVEN_UP}); hang()",
}


@pytest.mark.parametrize("code", GIVING_UP.values(), ids=GIVING_UP)
@pytest.mark.parametrize("kind", ["call", "call_many", "stream"])
def test_a_program_that_gives_up_when_it_is_ready(code: str, kind: str) -> None:
    """Its message fails as one whose process dies, with what it said; and as a start that fails, it
    is tried again later each time, and opens the breaker."""
    letters: list[DeadLetter] = []
    settings: dict[str, Any] = {"backoff": 0.01, "breaker_window": 300.0, "stop_grace": 0.05}
    with pool(raw(code), dead_letter=letters.append, timeout=60, **settings) as node:
        if kind == "call":
            assert node.call({"n": 1}) == []
        elif kind == "stream":
            assert list(node.stream({"n": 1})) == []
        else:
            assert list(node.call_many([{"n": 1}])) == [[]]
        (letter,) = letters
        assert letter.message == {"n": 1}
        assert [cause.type for cause in letter.causes] == ["ProcessDied"] * 3
        assert all("StoreGone: no store to write to" in cause.text for cause in letter.causes)
        with pytest.raises(Unavailable, match="no store to write to"):
            [node.call({"n": 2}) for _ in range(3)]
        figures = node.snapshot()
        assert figures["start_failures"] == figures["starts"] == 5
        assert "no store to write to" in figures["start_error"]["text"]


def test_a_program_that_gives_up_between_two_calls() -> None:
    """The message that comes next is not charged; another process has it."""
    code = f"""
        for id, msg in calls():
            write(line(op="end", id=id, msgs=[os.getpid()]) + line({GIVEN_UP}))
            hang()
        """
    with pool(raw(code), backoff=60.0, backoff_max=60.0) as node:
        pids = {node.call({})[0] for _ in range(3)}
        pids |= {pid for (pid,) in node.call_many([{}] * 3)}
        assert len(pids) == 6
        assert node.snapshot()["retries"] == {}
        assert node.snapshot()["start_failures"] == 0


def test_a_program_that_gives_up_while_it_idles(tmp_path: Path) -> None:
    """An end before the first call charges no message, and delays the next start."""
    gate = tmp_path / "gate"
    code = f"""
        ready()
        while not os.path.exists({str(gate)!r}):
            time.sleep(0.005)  # between two looks
        frame({GIVEN_UP})
        hang()
        """

    def is_gone() -> bool:
        lease = node.pool.try_acquire()
        if lease is not None:
            node.pool.release(lease)
        return lease is None

    with pool(raw(code), backoff=60.0, backoff_max=60.0) as node:
        started(node)
        gate.touch()
        until(is_gone)
        figures = node.snapshot()
        assert figures["start_error"]["retry_in"] > 0
        assert "no store to write to" in figures["start_error"]["text"]
        assert figures["retries"] == {}


def test_a_replacement_that_gives_up(tmp_path: Path) -> None:
    """The old process is kept for the time being."""
    first = str(tmp_path / "first")
    code = f"""
        if os.path.exists({first!r}):
            read()
            write(line(op="ready", v=1) + line({GIVEN_UP}))
            hang()
        open({first!r}, "w").close()
        for id, msg in calls():
            end(id, os.getpid())
        """
    with pool(raw(code), max_calls=1, jitter=0, backoff=0.01) as node:
        pids = {node.call({})[0]}
        while node.snapshot()["start_failures"] < 2:
            pids |= set(node.call({}))
        assert len(pids) == 1


def test_giving_up_in_a_shared_host(short_folder: Path) -> None:
    """The error is the program's, and not that the host is lost."""
    path, program = short_folder / "host.sock", raw(GIVING_UP["at once"])
    with shared_hosts.listening(path), shared_hosts.client(path, program, backoff=0.01) as node:
        with pytest.raises(ProcessDied, match="StoreGone: no store to write to") as caught:
            node.call({"n": 1})
        assert len(caught.value.letter.causes) == 3


def test_a_program_that_hangs_at_its_start() -> None:
    """It is killed at start_timeout, and counts for the breaker."""
    hangs = raw("hang()")
    with pool(hangs, start_timeout=0.2, backoff=0.01, breaker_failures=2) as node:
        *failures, refused = failures_until_open(node)
        assert [type(failure) for failure in failures] == [StartTimeout] * 2
        assert isinstance(refused, Unavailable)


def test_a_command_that_cannot_work(tmp_path: Path) -> None:
    """Each call says so at once; there is nothing to wait for, so the breaker stays closed."""
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    for mode in (0o755, 0o644):
        script.chmod(mode)
        with pool([str(script)]) as node:
            for _ in range(8):
                with pytest.raises(StartError) as caught:
                    node.call({})
                assert not caught.value.started
            assert node.snapshot()["breaker"] == "closed"


def test_a_program_that_is_mended(tmp_path: Path) -> None:
    """One start is tried when the breaker has been open long enough, and its success closes it."""
    flag = tmp_path / "database"
    code = f"if not os.path.exists({str(flag)!r}): sys.exit(1)\n{ECHO}"
    settings: dict[str, Any] = {"backoff": 0.01, "breaker_failures": 2, "breaker_open": 600.0}
    with pool(sdk(code), size=2, breaker_window=300.0, **settings) as node:
        failures_until_open(node)
        failed = node.snapshot()["start_error"]
        assert "exit code 1" in failed["text"]
        assert 0 < failed["retry_in"] <= 600.0
        flag.touch()
        with pytest.raises(Unavailable):
            node.call({"n": 1})
        starts = node.pool._starts
        starts.open_until = starts.not_before = time.monotonic()  # as after ten minutes
        assert node.call({"n": 1}) == [1]
        figures = node.snapshot()
        assert (figures["starts"], figures["start_failures"]) == (1, 2)
        assert figures["breaker"] == "closed"
        assert figures["start_error"] is None


def test_a_probe_whose_caller_is_thrown_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It decides nothing: the next caller may try."""
    settings: dict[str, Any] = {"backoff": 0.01, "breaker_failures": 1, "breaker_open": 0.2}
    with pool(raw("sys.exit(1)"), **settings) as node:
        failures_until_open(node)
        while node.snapshot()["breaker"] == "open":
            threading.Event().wait(0.01)
        with monkeypatch.context() as patch:
            patch.setattr(host_of(node).admission, "may_start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                node.call({})
        with pytest.raises(StartError):
            node.call({})


def interrupted(*args: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("life", [1, 2, 10])
def test_a_program_that_dies_after_so_many_messages(life: int) -> None:
    """It makes progress: each death costs a start, no message and never the breaker."""
    code = f"""
        for count, (id, msg) in enumerate(calls(), 1):
            end(id, msg["n"])
            if count == {life}:
                os._exit(7)
    """
    with pool(raw(code)) as node:
        assert [node.call({"n": n}) for n in range(20)] == [[n] for n in range(20)]
        outcomes = list(node.call_many({"n": n} for n in range(20)))
        assert outcomes == [[n] for n in range(20)]
        assert node.snapshot()["breaker"] == "closed"


def test_many_processes_die_together(tmp_path: Path) -> None:
    """Two start at a time, whatever the size; in the end all are back."""
    size = 40 if CHAOS else 8
    # Each leaves a file while it starts, long enough for others to begin, and counts those that it
    # finds; a call takes long enough for all to be needed.
    code = f"""
        here = os.path.join({str(tmp_path)!r}, str(os.getpid()))
        open(here, "w").close()
        time.sleep(0.05)
        starting = len(os.listdir({str(tmp_path)!r}))
        os.unlink(here)
        for id, msg in calls():
            time.sleep(0.2)
            end(id, starting)
    """
    with pool(raw(code), size=size) as node:
        seen: list[Any] = []

        def call() -> None:
            seen.extend(node.call({}))

        for _ in range(2):
            threads = [threading.Thread(target=call) for _ in range(size * 2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert node.snapshot()["idle"] > 1
            for process in node.pool.processes:
                process.child.kill_group()
    assert len(seen) == size * 4
    assert max(seen) <= 2


def test_recycling_under_load() -> None:
    """Processes are replaced after so many calls; no caller sees an error or a gap."""
    wrong: list[Any] = []

    def call_until_replaced(node: Calls, first: int) -> None:
        # A replacement starts while the worn process serves on, for as long as that takes.
        for n in itertools.count(first, 4):
            if node.call({"n": n}) != [n]:
                wrong.append(n)
            if wrong or node.snapshot()["starts"] > 8:
                return

    with pool(sdk(ECHO), size=4, max_calls=50) as node:
        threads = [threading.Thread(target=call_until_replaced, args=(node, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        figures = node.snapshot()
        assert figures["failures"] == figures["retries"] == {}


def test_recycling_within_a_batch() -> None:
    """A batch without an end does not keep a process for ever."""
    with pool(sdk(ECHO), max_calls=100, window=16) as node:
        # The worn process serves on while its replacement starts, for as long as that takes.
        endless = ({"n": n} for n in itertools.count())
        for n, outcome in enumerate(node.call_many(endless)):
            assert outcome == [n]
            if n % 100 == 0 and node.snapshot()["starts"] > 1:
                break
        assert node.snapshot()["retries"] == {}


def test_a_replacement_that_does_not_start(tmp_path: Path) -> None:
    """The worn process serves on, and a later one replaces it."""
    flag = tmp_path / "broken"
    code = f"if os.path.exists({str(flag)!r}): sys.exit(1)\n{ECHO}"
    with pool(sdk(code), max_calls=3, jitter=0, backoff=0.05) as node:
        assert node.call({"n": 0}) == [0]
        first = node.pool.processes[0].child.pid
        flag.touch()
        while not node.snapshot()["start_failures"]:
            assert node.call({"n": 1}) == [1]
        assert [process.child.pid for process in node.pool.processes if process.talk.count] == [
            first
        ]
        flag.unlink()
        while node.snapshot()["starts"] < 2:
            assert node.call({"n": 1}) == [1]


def test_closing_under_load() -> None:
    """Each call that was under way ends with its answer or says that it was closed."""
    outcomes: list[Any] = []
    with pool(sdk(ECHO), size=2) as node:

        def call() -> None:
            for n in range(10_000_000):
                try:
                    outcomes.append(node.call({"n": n}) == [n])
                except HostError as error:
                    outcomes.append(type(error).__name__)
                    return

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(outcomes) < 100:
            threads[0].join(0.005)
        host_of(node).close()
        for thread in threads:
            thread.join()
    assert set(outcomes) == {True, "PoolClosed"}
    assert outcomes.count("PoolClosed") == 4
