"""Every node works under gevent as in a thread, and lets other greenlets run while it waits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared_hosts import listening

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent

BEGIN = """
from gevent import monkey
monkey.patch_all()
import asyncio, os, sys
import gevent
from emit import Router, ShellNode
router = Router()

def outcome(node, message):
    try:
        return repr(node(message))
    except Exception as error:
        return repr(error)

def all_at_once(node, messages):
    jobs = [gevent.spawn(outcome, node, message) for message in messages]
    gevent.joinall(jobs, raise_error=True)
    return [job.value for job in jobs]
"""

# The node answers only when the greenlets have written to its file: were the hub blocked by the
# first call, no second would start and none would end before its deadline.
MEETING = """
NODE = '''
import os, sys, time, emit_sdk
def meet(msg):
    open(os.path.join(msg.folder, str(msg.n)), "w").close()
    while len(os.listdir(msg.folder)) < 3:
        time.sleep(0.01)
    return msg.n
emit_sdk.serve(meet)
'''

@router.node(("n",), name="meet")
class Meet(ShellNode):
    command = [sys.executable, "-c", NODE]
    mode = "persistent"
    size = 3
    timeout = 60

with router:
    print(*all_at_once(Meet, [{"n": n, "folder": sys.argv[1]} for n in range(3)]))
"""


def run(program: str, *arguments: str, **env: str) -> str:
    """Return the output of a program that begins with patching."""
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program, *arguments],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{ROOT}/sdks/python", **env},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stderr == ""
    return done.stdout


def meet(folder: Path, host: str) -> None:
    folder.mkdir()
    printed = run(MEETING, str(folder), EMIT_HOST=host)
    assert printed == "({'n': 0},) ({'n': 1},) ({'n': 2},)\n"


def test_greenlets(tmp_path: Path) -> None:
    """Three greenlets are in three processes at the same time."""
    meet(tmp_path / "meeting", "private")


def test_greenlets_of_a_shared_host(tmp_path: Path, short_folder: Path) -> None:
    """The same, where the processes are those of a shared host."""
    with listening(short_folder / "host.sock"):
        meet(tmp_path / "meeting", str(short_folder / "host.sock"))


LATE = """
import emit
from gevent import event, monkey
monkey.patch_all()
import gevent
router, met, got = emit.Router(), event.Event(), []

def first(msg):
    if msg.waits:
        met.wait(60)
    else:
        met.set()
    return msg.waits

router.node(("waits",), entry_point=True, name="first")(first)
router.node((), "first", name="last")(lambda msg: got.append((msg.waits, gevent.getcurrent())))

def call(waits):
    router(waits=waits)
    return waits, gevent.getcurrent()

calls = [gevent.spawn(call, waits) for waits in (True, False)]
gevent.joinall(calls, raise_error=True)
print(sorted(one.value[0] for one in calls), all(one.value in got for one in calls))
"""


def test_patched_after_emit_was_imported() -> None:
    """Messages that follow from a greenlet's message run in that greenlet, not in a waiting one."""
    pytest.importorskip("gevent")
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LATE]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.stderr) == ("[False, True] True\n", "")


ONESHOT = '''
if sys.argv[1] == "loop":  # as on a kernel before 6.15
    import emit.host.system.child
    emit.host.system.child._KERNEL_TELLS = False

SHOT = """
import json, os, sys
message = json.load(sys.stdin)
print(message["n"], flush=True)
eval(message["end"])
"""

@router.node(("n",), name="shot")
class Shot(ShellNode):
    command = [sys.executable, "-c", SHOT]
    mode = "oneshot"
    timeout = 60

# gevent's loop reaps all children from now on, its own and those of others.
gevent.subprocess.run(["true"], check=True)
with router:
    ends = ["0", "sys.exit(3)", "os.kill(os.getpid(), 9)", "0"]
    for line in all_at_once(Shot, [{"n": n, "end": end} for n, end in enumerate(ends)]):
        print(line[:60])
'''


@pytest.mark.parametrize("told_by", ["kernel", "loop"])
def test_how_a_program_has_ended(told_by: str) -> None:
    """It is known, although gevent has taken the exit status before Emit asks for it."""
    from emit.host.system import child

    if told_by == "kernel" and not child._KERNEL_TELLS:
        pytest.skip("Linux tells it from 6.15 on")
    first, exited, killed, last = run(ONESHOT, told_by).splitlines()
    assert (first, last) == ("({'n': 0},)", "({'n': 3},)")
    assert exited.startswith('ProcessDied(\'"shot" ended with exit code 3 ')
    assert killed.startswith('ProcessDied(\'"shot" was killed by SIGKILL')


OTHERS = """
@router.node(("n",), name="lines")
class Lines(ShellNode):
    command = ["sed", "-u", r's/{"n":\\([0-9]*\\).*/\\1/']
    mode = "lines"

@router.node(("n",), name="file")
class File(ShellNode):
    file = sys.argv[1]

@router.node(("n",), name="coroutine")
async def coroutine(msg):
    met.append(msg.n)
    while len(met) < 3:
        await asyncio.sleep(0.01)  # between two looks
    return msg.n

@router.node(("n",), name="generator")
async def generator(msg):
    for n in range(2):
        await asyncio.sleep(0.01)  # the node's work
        yield msg.n + n

@router.node(("n",), name="nested")
async def nested(msg):
    return len(coroutine(n=1))

met = []
messages = [{"n": n} for n in range(3)]
with router:
    for node in (Lines, File, coroutine, generator):
        print(*all_at_once(node, messages))
    print(all_at_once(nested, messages[:1])[0][:70])

    @router.node(("n",), name="slow")
    async def slow(msg):
        try:
            await asyncio.sleep(60)  # never ends by itself
        finally:
            print("and so is its coroutine")

    with gevent.Timeout(0.2, False):
        slow(n=1)
        print("never")
    print("a greenlet is interrupted")
"""


def test_all_other_nodes(tmp_path: Path) -> None:
    """Lines, a file, and Python's own coroutines, of which three meet in one event loop."""
    (tmp_path / "plus.py").write_text("def plus(n):\n    return n + 1\n")
    single = "({'n': 0},) ({'n': 1},) ({'n': 2},)"
    lines = run(OTHERS, str(tmp_path / "plus.py"), HOME=str(tmp_path)).splitlines()
    assert lines[0] == single
    assert lines[1] == "({'n': 1},) ({'n': 2},) ({'n': 3},)"
    assert lines[2] == "{'n': 0} {'n': 1} {'n': 2}"
    assert lines[3] == "({'n': 0}, {'n': 1}) ({'n': 1}, {'n': 2}) ({'n': 2}, {'n': 3})"
    assert lines[4].startswith("RuntimeError('a graph with asynchronous nodes was called inside")
    assert lines[5:] == ["and so is its coroutine", "a greenlet is interrupted"]
