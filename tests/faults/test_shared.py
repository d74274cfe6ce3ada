"""Shared hosts that are killed again and again, with clients at work."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.faults.nodes import CHAOS
from tests.hosts import until
from tests.shared_hosts import listening, open_client
from tests.test_shared_host import ECHO

KILLS = 60 if CHAOS else 4

#: Calls one by one and in batches until it is told to stop, and says how many were wrong.
CLIENT = f"""
import os, sys, threading
from emit.errors import HostLost
from emit.host.host import current
from emit.host.system.program import environment
from emit.host.system.program import Program
from emit.host.settings import Settings
program = Program("n", {tuple(ECHO)!r}, environment({{"PYTHONPATH": os.environ["PYTHONPATH"]}}))
settings = Settings(mode="persistent", size=2, max_attempts=100)
node = current().calls("n", lambda: program, settings)
told = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), told.set()), daemon=True).start()
me, wrong, done = os.getpid(), 0, 0
while not told.is_set():
    wrong += node.call({{"n": [me, done]}})[0][0] != [me, done]
    batch = range(done, done + 300)
    answers = [each[0][0] for each in node.call_many({{"n": [me, n]}} for n in batch)]
    wrong += answers != [[me, n] for n in batch]
    done += 300
    print(done, flush=True)
print("wrong", wrong, flush=True)
"""


def test_killed_again_and_again(short_folder: Path) -> None:
    """No message of three clients is lost or answered with another's answer."""
    path = short_folder / "host.sock"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(open_client(path, CLIENT)) for _ in range(3)]
        for _ in range(KILLS):
            with listening(path) as host:
                for each in clients:  # all have come further since the last kill
                    assert each.stdout is not None
                    assert int(each.stdout.readline()) > 0
                host.kill()
        with listening(path):
            for each in clients:
                assert each.stdin is not None
                assert each.stdout is not None
                each.stdin.close()
                assert each.stdout.read().splitlines()[-1] == "wrong 0"
            until(lambda: all(each.wait() == 0 for each in clients))
