"""Under gevent a call to a foreign node lets other greenlets run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared_hosts import listening

ROOT = Path(__file__).resolve().parent.parent

# The node answers only when the greenlets have written to its file: were the hub blocked by the
# first call, no second would start and none would end before its deadline.
PROGRAM = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from emit import Router, ShellNode

NODE = '''
import os, sys, time, emit_sdk
def meet(msg):
    open(os.path.join(msg.folder, str(msg.n)), "w").close()
    while len(os.listdir(msg.folder)) < 3:
        time.sleep(0.01)
    return msg.n
emit_sdk.serve(meet)
'''
router = Router()

@router.node(("n",), name="meet")
class Meet(ShellNode):
    command = [sys.executable, "-c", NODE]
    mode = "persistent"
    size = 3
    timeout = 60

with router:
    jobs = [gevent.spawn(Meet, n=n, folder=sys.argv[1]) for n in range(3)]
    gevent.joinall(jobs, raise_error=True)
    print([job.value for job in jobs])
"""


def meet(folder: Path, host: str) -> None:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT}:{ROOT}/sdks/python",
            "EMIT_HOST": host,
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stderr == ""
    assert done.stdout == "[({'n': 0},), ({'n': 1},), ({'n': 2},)]\n"


def test_greenlets(tmp_path: Path) -> None:
    """Three greenlets are in three processes at the same time."""
    pytest.importorskip("gevent")
    meet(tmp_path / "meeting", "private")


def test_greenlets_of_a_shared_host(tmp_path: Path, short_folder: Path) -> None:
    """The same, where the processes are those of a shared host."""
    pytest.importorskip("gevent")
    with listening(short_folder / "host.sock"):
        meet(tmp_path / "meeting", str(short_folder / "host.sock"))
