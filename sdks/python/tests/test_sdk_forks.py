"""A handler that forks: the child is the author's, the calls and the wire are the parent's."""

from __future__ import annotations

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
