"""A graph for the tests of RQRouter. Each node does what its message asks for."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

import emit
from emit import NoResult, RQRouter, ShellNode, idempotent
from emit.context import current

if "EMIT_TEST_LOG" in os.environ:
    logging.basicConfig(format=os.environ["EMIT_TEST_LOG"], level="INFO")

URL = os.environ["EMIT_TEST_REDIS"]
#: The Redis of the jobs. Without redis-py's own retries, which take seconds.
connection = Redis.from_url(os.environ.get("EMIT_TEST_BROKER", URL), retry=Retry(NoBackoff(), 0))
redis = Redis.from_url(URL, decode_responses=True)
nowhere = Redis(port=1)
router = RQRouter(redis_connection=connection)


def note(msg: Any, **more: Any) -> None:
    """Record each arrival of a message."""
    told = current.get()
    fields = {key: value for key, value in vars(msg).items() if key != "_origin"}
    record = {"origin": msg._origin, "fields": fields, "pid": os.getpid(), **more}
    if told is not None:
        record |= {"id": told.id, "node": told.node, "attempt": told.attempt}
    redis.rpush("seen", json.dumps(record))


@router.node(("n",), entry_point=True)
def count(msg: Any) -> Any:
    yield from range(msg.count)


@router.node(("n",), "jobs.count", queue="words")
def single(msg: Any) -> Any:
    note(msg)
    return msg.n


@router.node((), "jobs.single")
def last(msg: Any) -> Any:
    note(msg)
    return NoResult


@router.node(())
def keep(msg: Any) -> Any:
    """Record every value with its Python type."""
    redis.rpush("kept", repr(vars(msg)))
    return NoResult


@router.node((), queue=Queue("json", connection=connection, serializer=JSONSerializer))
def keep_json(msg: Any) -> Any:
    return keep(msg)


@router.node((), max_retries=7, max_attempts=1)
def patient(msg: Any) -> Any:
    note(msg)
    raise emit.Retry("busy", after=0)


@router.node(("n", "attempt"), max_attempts=3, timeout=20)
def moody(msg: Any) -> Any:
    """Fail in the way that the message names, and record each attempt."""
    note(msg)
    how = msg.how
    if how == "retry":
        raise emit.Retry("again", after=0)
    if how == "once":
        if redis.incr("moody:once") == 1:
            raise emit.Retry("again", after=1)
        return 1, current.get().attempt  # type: ignore[union-attr]
    if how == "reject":
        raise emit.Reject("never")
    if how == "error":
        raise KeyError("canary-in-an-error")
    if how == "kill once" and redis.incr("moody:once") == 1:
        os.kill(os.getpid(), 9)
    if how == "error, kill, end":  # one after the other
        times = redis.incr("moody:once")
        if times == 1:
            raise KeyError("the first cause")
        if times == 2:
            os.kill(os.getpid(), 9)
    if how == "two errors":
        raise KeyError("the first cause" if redis.incr("moody:once") == 1 else "the second cause")
    if how == "unserializable":
        return sys._getframe(), 0
    return NoResult


@router.node((), "jobs.moody")
def after_moody(msg: Any) -> Any:
    note(msg)
    return NoResult


@router.node(("value",), return_results=True, result_ttl=60)
def returning(msg: Any) -> Any:
    yield from msg["values"]


@router.node(("n",), batch=50)
def spread(msg: Any) -> Any:
    yield from range(msg.count)


@router.node(("n",), "jobs.spread", batch=50, max_deliveries=3)
def batched(msg: Any) -> Any:
    if msg.n == 3 and redis.get("bad") == "fail":
        raise RuntimeError("three")
    if msg.n == 3 and redis.get("bad") == "kill":
        note(msg)
        os.kill(os.getpid(), 9)
    return msg.n


@router.node((), "jobs.batched", batch=50, many=True)
def collected(messages: Any) -> Any:
    redis.rpush("seen", json.dumps({"node": "collected", "ns": [m.n for m in messages]}))
    return NoResult


@router.node(("n",), batch=50)
def heap(msg: Any) -> Any:
    yield from range(msg.count)


@router.node((), "jobs.heap", batch=50, result_ttl=0)
def held(msg: Any) -> Any:
    """Wait until the test's own Redis says to go on."""
    with idempotent(nowhere if redis.get("bad") == "away" else redis, f"held:{msg.n}"):
        note(msg)
    return NoResult


@router.node((), timeout=1, max_attempts=2)
def slow(msg: Any) -> Any:
    note(msg)
    time.sleep(msg.seconds)


@router.node(("n", "tag"), batch=50)
def tagged(msg: Any) -> Any:
    yield from ((n, f"tag {n}") for n in range(msg.count))


@router.node(("double",), "jobs.tagged", batch=50, pass_through=True)
def carried(msg: Any) -> Any:
    return msg.n * 2


@router.node((), "jobs.carried")
def arrived(msg: Any) -> Any:
    note(msg)
    return NoResult


class Program(ShellNode):
    command = (sys.executable, str(Path(__file__).with_name("program.py")))
    mode = "persistent"
    pass_env = (*ShellNode.pass_env, "PYTHONPATH")
    size = 1


@router.node(("answer",), timeout=20, batch=50)
class Answer(Program):
    program_node = "answer"


@router.node((), "jobs.Answer")
def answered(msg: Any) -> Any:
    note(msg)
    return NoResult


@router.node(("pid",), timeout=50)
class Busy(Program):
    program_node = "busy"


@router.node(("pid",), timeout=50)
class Endure(Program):
    program_node = "endure"
    cancel_grace = 30.0


@router.node((), "jobs.Endure")
def endured(msg: Any) -> Any:
    note(msg)
    return NoResult


@router.node(("n", "doubled"), name="jobs.double", batch=50, timeout=3)
class Double(Program):
    program_node = "double"
    pass_env = (*Program.pass_env, "EMIT_TEST_KILLED_STARTS")


@router.node((), "jobs.double", batch=50)
def summed(msg: Any) -> Any:
    with idempotent(connection, f"summed:{msg.n}", lease=5) as first:
        if first:
            redis.hset("doubled", msg.n, msg.doubled)
    return NoResult
