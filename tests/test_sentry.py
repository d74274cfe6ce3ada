"""Errors of programs in Sentry, by its own SDK and a transport to a file."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from emit.dead import DeadLetters
from tests.queues.worker import ROOT, celery_worker, eventually, rq_worker

# Sentry's SDK is not imported here: it imports eventlet, if there is one, and that warns of forks.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("sentry_sdk") is None, reason="no sentry-sdk"),
]

RUBY = """
def inner(text) = raise(ArgumentError, "bad: #{text}")

Emit.node(:check) do |msg|
  raise Emit::Reject, 'never' if msg[:how] == 'reject'

  msg[:how] == 'fail' ? inner('it') : nil
end
"""

NODE = """
import { node } from 'emit-graph-sdk';
function inner(x) { throw new RangeError('bad'); }
node('check', () => [1].map((v) => inner(v)));
"""

PYTHON = """
from emit_sdk import node

def inner():
    raise ValueError("bad")

@node
def check(msg):
    inner()
"""

SCRIPT = """
import json, sys
import sentry_sdk
from sentry_sdk.transport import Transport
from emit import Router, ShellNode
from emit.observe.sentry import EmitIntegration

class Printed(Transport):
    def capture_envelope(self, envelope):
        print(json.dumps(envelope.get_event(), default=str))

sentry_sdk.init("http://key@localhost/1", transport=Printed, integrations=[EmitIntegration()])
router = Router()
router.node((), entry_point=True, name="check")(type("check", (ShellNode,), {"file": sys.argv[1]}))
with router:
    try:
        router(n=1)
    except Exception as error:
        sentry_sdk.capture_exception(error)
sentry_sdk.flush()
"""


@pytest.mark.parametrize(
    ("name", "code", "kind", "function", "line"),
    [
        pytest.param(
            "a.rb",
            RUBY.replace("msg[:how] == 'fail'", "true"),
            "ArgumentError",
            "inner",
            2,
            marks=pytest.mark.requires("ruby"),
        ),
        pytest.param("a.mjs", NODE, "RangeError", "inner", 3, marks=pytest.mark.requires("node")),
        ("a.py", PYTHON, "ValueError", "inner", 5),
    ],
)
def test_the_stack_of_a_language(
    name: str, code: str, kind: str, function: str, line: int, tmp_path: Path
) -> None:
    """The event has the program's own error and frames, and is grouped by the author's."""
    program = tmp_path / name
    program.write_text(code)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    (event,) = map(json.loads, done.stdout.splitlines())
    (told,) = event["exception"]["values"]
    assert told["type"] == kind
    last = told["stacktrace"]["frames"][-1]
    assert (last["abs_path"], last["lineno"], last["function"]) == (str(program), line, function)
    assert last["in_app"]
    assert event["fingerprint"] == ["emit", "check", kind, f"{name}:{function}"]
    assert event["tags"]["emit.node"] == "check"


FRAMES = {
    "/app/a.go:7 in main.inner": ("a.go", 7, "main.inner", True),
    "/root/go/pkg/mod/x@v1/b.go:9 in x.F": ("b.go", 9, "x.F", False),
    "Socket.emit (node:events:524:28)": ("node:events", 524, "Socket.emit", False),
    "/app/a.mjs:4:42": ("a.mjs", 4, None, True),
    "/app/a.rb:7:in `block (2 levels) in <top (required)>'": (
        *("a.rb", 7, "block (2 levels) in <top (required)>", True),
    ),
    "/app/a.py:3 in inner: raise ValueError('a: b')": ("a.py", 3, "inner", True),
    "what no SDK writes": ("what no SDK writes", None, None, False),
}

READ = """
import json, sys
from emit.observe.sentry import _frame
print(json.dumps([_frame(line) for line in json.load(sys.stdin)]))
"""


def test_frames() -> None:
    """A line of any SDK's stack is read, and any other line is kept."""
    done = subprocess.run(
        [sys.executable, "-c", READ],
        cwd=ROOT,
        input=json.dumps(list(FRAMES)),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    names = ("filename", "lineno", "function", "in_app")
    for line, frame in zip(FRAMES, json.loads(done.stdout), strict=True):
        assert tuple(frame.get(name) for name in names) == FRAMES[line], line


@pytest.mark.requires("redis-server", "ruby")
@pytest.mark.parametrize("carrier", ["celery", "rq"])
def test_failures_in_a_worker(
    carrier: str, redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each failure is one event, alone and in a batch; a rejection is no error."""
    (tmp_path / "check.rb").write_text(RUBY)
    events = tmp_path / "events"
    env = {
        "EMIT_TEST_CARRIER": carrier,
        "EMIT_TEST_FOLDER": str(tmp_path),
        "EMIT_TEST_EVENTS": str(events),
    }
    send = (
        "import reported\n"
        "reported.router(hows=['ok'] * 3 + ['fail'] * 2 + ['reject'])\n"
        "reported.router.dispatch('test', 'reported.alone', {'how': 'fail'})\n"
        "reported.router.dispatch('test', 'reported.alone', {'how': 'reject'})\n"
    )
    worker: Any
    if carrier == "celery":
        worker = celery_worker(tmp_path / "log", app="reported", EMIT_TEST_REDIS=redis, **env)
    else:
        monkeypatch.setenv("EMIT_TEST_REDIS", redis)
        worker = rq_worker(tmp_path / "log", "emit.rq.EmitWorker", "default", **env)
    with worker as running:
        subprocess.run(
            [sys.executable, "-c", send],
            cwd=ROOT / "tests" / "queues",
            env={
                **os.environ,
                **env,
                "EMIT_TEST_REDIS": redis,
                "PYTHONPATH": str(ROOT),
            },
            check=True,
            timeout=60,
        )
        with Redis.from_url(redis, decode_responses=True) as store:
            eventually(lambda: len(DeadLetters(store).list()) == 5)
        running.stop()
    found = list(map(json.loads, events.read_text().splitlines()))
    counts = Counter((e["tags"].get("emit.node"), e["level"]) for e in found)
    expected = {("reported.check", "error"): 2, ("reported.alone", "error"): 1}
    if carrier == "rq":  # Sentry has no say in which failures of jobs it is told
        expected["reported.alone", "warning"] = 1
    assert counts == expected
    assert all(e["exception"]["values"][-1]["type"] != "RemoteError" for e in found)
