"""A handler that forks: the child is the author's, the calls and the wire are the parent's."""

from __future__ import annotations

import threading

import pytest
from sdk_host import hosted

FORKS = """
import atexit, logging, os, sys
from emit_sdk import node, serve

atexit.register(lambda: print("cleaned up by", os.getpid(), file=sys.stderr))

def fork(msg):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] >> 8
    logging.error("from the fork")
    if "status" in msg:
        sys.exit(msg.status)
    return {"within": print("the child returns")} if "text" not in msg else 1 / 0

@node
def plain(msg):
    return fork(msg)

@node
def stream(msg):
    yield fork(msg)

@node
def echo(msg):
    print("echo by", os.getpid(), file=sys.stderr)
    return msg.value
"""
TASK = """
@node
async def task(msg):
    return fork(msg)
"""
WAYS = [
    ("", "serve()", "plain"),
    ("", "serve()", "stream"),
    ("", "serve(concurrency=2)", "plain"),
    (TASK, "serve()", "task"),
]


@pytest.mark.parametrize(("more", "serve", "node"), WAYS)
@pytest.mark.parametrize(
    ("msg", "status", "says"),
    [
        ({}, 0, b"the child returns"),
        ({"status": 3}, 3, b""),
        ({"status": "why"}, 1, b"SystemExit: why"),
        ({"text": ""}, 1, b"ZeroDivisionError"),
    ],
)
def test_a_forked_child_that_comes_back_ends(tmp_path, more, serve, node, msg, status, says):
    """It answers nothing, runs no call that waits, cleans up nothing, and has its own status."""
    with hosted(tmp_path, FORKS + more + serve) as host:
        behind = host.pack(op="call", id=2, node="echo", msg={"value": 5})
        host.write(host.pack(op="call", id=1, node=node, msg=msg) + behind)
        answers = sorted([host.answer(), host.answer()], key=lambda answer: answer["id"])
        assert [answer["msgs"] for answer in answers] == [[status], [5]]
        assert host.end() == 0
        said = host.process.stderr.read()
        assert says in said
        assert said.count(b"echo by %d\n" % host.process.pid) == said.count(b"echo by") == 1
        assert said.count(b"cleaned up by") == 1


PRINTS = """
import os, signal, sys
from emit_sdk import context, node, serve

@node
def prints(msg):
    while not context().cancelled:
        print("out")
        print("err", file=sys.stderr)

@node
def forks(msg):
    for _ in range(100):
        child = os.fork()
        if not child:
            signal.alarm(20)  # the end of one that waits for ever
            print("the child prints")
            print("to both", file=sys.stderr)
            return
        os.waitpid(child, 0)

serve(concurrency=2)
"""


def test_a_child_prints_that_was_forked_in_another_threads_print(tmp_path):
    """The lock of the print is not there for ever."""
    with hosted(tmp_path, PRINTS) as host:
        said = []
        reader = threading.Thread(target=lambda: said.append(host.process.stderr.read()))
        reader.start()
        host.ask("prints", 1)
        assert host.call("forks", 2)["op"] == "end"
        host.send(op="cancel", id=1)
        assert host.answer()["id"] == 1
        assert host.end() == 0
        reader.join()
        assert said[0].count(b"the child prints") == said[0].count(b"to both") == 100
