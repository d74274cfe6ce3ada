"""A graph for the tests of CeleryRouter. Each node does what its message asks for."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from celery import Celery, signals
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import emit
from emit import CeleryRouter, NoResult, ShellNode, idempotent
from emit.celery import configure
from emit.context import current

URL = os.environ["EMIT_TEST_REDIS"]
app = Celery("flow", broker=os.environ.get("EMIT_TEST_BROKER", URL), backend=URL)
if os.environ.get("EMIT_TEST_QUEUE") == "quorum":
    app.conf.update(
        task_default_queue="quorum",
        task_default_queue_type="quorum",
        task_default_exchange="quorum.tasks",
        task_default_exchange_type="topic",
    )
if "EMIT_TEST_EMIT_REDIS" in os.environ:
    app.conf.emit_redis = os.environ["EMIT_TEST_EMIT_REDIS"]
if "EMIT_TEST_CONSUMER_TIMEOUT" in os.environ:
    app.conf.emit_consumer_timeout = float(os.environ["EMIT_TEST_CONSUMER_TIMEOUT"])
configure(app, time_limit=float(os.environ.get("EMIT_TEST_LIMIT", "60")))

# Not shared: Celery adds shared tasks to every app, and tests import this module several times.
task = partial(app.task, shared=False)

if "EMIT_TEST_ONLY_HARD" in os.environ:
    app.conf.task_soft_time_limit = None
if "EMIT_TEST_VISIBILITY" in os.environ:
    visible = {"visibility_timeout": float(os.environ["EMIT_TEST_VISIBILITY"])}
    interval = {"unacked_restore_interval": 1}
    options = app.conf.broker_transport_options
    app.conf.broker_transport_options = {**options, **visible, **interval}
router = CeleryRouter(celery_task=task())
redis = Redis.from_url(URL, decode_responses=True)
nowhere = Redis(port=1)
#: Emit's own Redis. Without redis-py's own retries, which take seconds.
keeper = Redis.from_url(os.environ.get("EMIT_TEST_EMIT_REDIS", URL), retry=Retry(NoBackoff(), 0))


def note(msg: Any, **more: Any) -> None:
    """Record each arrival of a message."""
    told = current.get()
    fields = {key: value for key, value in vars(msg).items() if key != "_origin"}
    record = {"origin": msg._origin, "fields": fields, "at": time.time(), **more}
    if told is not None:
        record |= {"id": told.id, "node": told.node, "attempt": told.attempt}
    redis.rpush("seen", json.dumps(record))


@signals.task_failure.connect
def failed(sender: Any, **told: Any) -> None:
    """Record the signal of a failure, which Sentry and similar tools receive."""
    names = ("task_id", "args", "kwargs")
    record = {"task": sender.name, "error": repr(told["exception"])}
    record |= {name: told[name] for name in names} | {"request": sender.request.id}
    redis.rpush("failed", json.dumps(record | {"traceback": told["traceback"] is not None}))


@app.task(shared=False, name="flow.plain")
def plain(value: Any) -> Any:
    """A plain Celery task, which returns its argument."""
    return value


@router.node(("n",), entry_point=True)
def count(msg: Any) -> Any:
    yield from range(msg.count)


@router.node(("n",), "flow.count")
def single(msg: Any) -> Any:
    note(msg, node="single")
    return msg.n


@router.node(("n",), "flow.single")
def last(msg: Any) -> Any:
    note(msg)
    return NoResult


@router.node(())
def keep(msg: Any) -> Any:
    """Record every value with its Python type."""
    redis.rpush("kept", repr(vars(msg)))
    return NoResult


@router.node((), max_retries=7, max_attempts=1)
def patient(msg: Any) -> Any:
    note(msg)
    raise emit.Retry("busy", after=0.01)


@router.node((), batch=50, celery_task=task(bind=True, max_retries=1))
def insistent(task: Any, msg: Any) -> Any:
    """Retry by Celery's own means, even within a batch."""
    request = task.request
    note(
        msg, shown=request.kwargs, args=len(request.args), task=request.id, retries=request.retries
    )
    if msg.n % 2 and request.retries < 1:
        raise task.retry(countdown=0)
    if msg.n == 3:
        task.retry(countdown=0)


@router.node(("n", "attempt"), max_attempts=3, max_deliveries=3)
def moody(msg: Any) -> Any:
    """Fail in the way that the message names, and record each attempt."""
    note(msg)
    how = msg.how
    if how == "retry":
        raise emit.Retry("again", after=0.05)
    if how == "reject":
        raise emit.Reject("never")
    if how == "error":
        raise KeyError("canary-in-an-error")
    if how == "once":
        if redis.incr("moody:once") == 1:
            after = getattr(msg, "after", 0.05)
            raise emit.Retry("again", after=after)
        return 1, current.get().attempt
    if how == "kill":
        os.kill(os.getpid(), 9)
    if how == "power" and redis.incr("moody:once") == 1:
        os.killpg(0, 9)  # the worker with all its processes, as in a power failure
    if how == "unserializable":
        return {1, 2}, 0
    return NoResult


@router.node(("result",), "flow.moody")
def after_moody(msg: Any) -> Any:
    note(msg)
    return NoResult


@router.node(("value",), return_results=True)
def returning(msg: Any) -> Any:
    yield from msg["values"]


@router.node(("value",), celery_task=task(bind=True, max_retries=2))
def bound(task: Any, msg: Any) -> Any:
    note(msg, task=task.name, retries=task.request.retries)
    if msg.retries > task.request.retries:
        raise task.retry(countdown=0)
    return task.request.retries


@router.node((), "flow.returning", celery_task=task(bind=True))
def family(task: Any, msg: Any) -> Any:
    request = task.request
    if request.retries == 0:
        raise task.retry(countdown=0)
    own = (request.headers or {}).get("x-own")
    note(msg, root=request.root_id, parent=request.parent_id, own=own)
    return NoResult


@router.node(("n",), batch=50)
def spread(msg: Any) -> Any:
    yield from range(msg.count)


@router.node(("n",), "flow.spread", batch=50, max_deliveries=2)
def batched(msg: Any) -> Any:
    if msg.n == 13 and redis.get("bad") == "fail":
        raise RuntimeError("thirteen")
    if msg.n == 13 and redis.get("bad") == "set":
        return {msg.n}
    if msg.n == 13 and redis.get("bad") == "kill":
        note(msg)
        os.kill(os.getpid(), 9)
    return msg.n


@router.node((), "flow.batched", batch=50, many=True)
def collected(messages: Any) -> Any:
    ids = [message.n for message in messages]
    redis.rpush("seen", json.dumps({"node": "collected", "ns": ids}))
    return NoResult


@router.node(("n",), batch=50)
def heap(msg: Any) -> Any:
    yield from range(msg.count)


@router.node((), "flow.heap", batch=50)
def held(msg: Any) -> Any:
    """Wait until the test's own Redis says to go on."""
    with idempotent(nowhere if redis.get("bad") == "away" else redis, f"held:{msg.n}"):
        note(msg)
    return NoResult


class Program(ShellNode):
    command = (sys.executable, str(Path(__file__).with_name("program.py")))
    mode = "persistent"
    pass_env = (*ShellNode.pass_env, "PYTHONPATH")
    size = 1


@router.node(("n", "how"), batch=50)
def ask(msg: Any) -> Any:
    yield from ((n, "reject" if n == msg.bad else "") for n in range(msg.count))


@router.node(("answer",), "flow.ask", name="flow.program", batch=50, timeout=20)
class Answer(Program):
    program_node = "answer"


@router.node(("n", "doubled"), name="flow.double", batch=50, timeout=3)
class Double(Program):
    program_node = "double"
    pass_env = (*Program.pass_env, "EMIT_TEST_KILLED_STARTS")


@router.node((), "flow.double", batch=50)
def summed(msg: Any) -> Any:
    with idempotent(keeper, f"summed:{msg.n}", lease=5) as first:
        if first:
            redis.hset("doubled", msg.n, msg.doubled)
    return NoResult


@router.node(("n",), name="flow.shot")
class Shot(ShellNode):
    command = (sys.executable, "-c", "import json, sys; print(json.load(sys.stdin)['n'])")
    mode = "oneshot"


@router.node(("n",))
async def later(msg: Any) -> Any:
    await asyncio.sleep(0.01)  # the node's work
    return msg.n


@router.node((), ("flow.shot", "flow.later"))
def last_of_all(msg: Any) -> Any:
    note(msg)
    return NoResult


@router.node((), "flow.program")
def answered(msg: Any) -> Any:
    note(msg)
    return NoResult


@router.node(("pid",), name="flow.busy", timeout=50, max_deliveries=2)
class Busy(Program):
    program_node = "busy"


@router.node((), name="flow.hanging", timeout=1, max_attempts=1)
class Hanging(Program):
    program_node = "busy"


@router.node((), "flow.busy")
def after_busy(msg: Any) -> Any:
    note(msg)
    return NoResult


class Relief(logging.Handler):
    """Let Redis take writes again. A second later, Celery would end at its own refused write."""

    def emit(self, record: logging.LogRecord) -> None:
        if "stays in the queue" in record.getMessage():
            redis.config_set("maxmemory", 0)


@router.node(("n",))
def choke(msg: Any) -> Any:
    """Yield five results. From the first attempt on, Redis refuses all writes."""
    note(msg)
    if redis.incr("choke") == 1:
        router.logger.addHandler(Relief())
        redis.config_set("maxmemory", 1)
    yield from range(5)


@router.node((), "flow.choke")
def choked(msg: Any) -> Any:
    note(msg)
    return NoResult


@router.node((), celery_task=task(soft_time_limit=1), max_attempts=2)
def slow(msg: Any) -> Any:
    note(msg)
    time.sleep(msg.seconds)
    return NoResult


@router.node(("pid",), celery_task=task(soft_time_limit=1), timeout=50)
class Endure(Program):
    program_node = "endure"
    cancel_grace = 30.0
    max_attempts = 20  # its first ones may strike the start


@router.node((), "flow.Endure")
def endured(msg: Any) -> Any:
    note(msg)
    return NoResult


if "EMIT_TEST_TOUCH" in os.environ:
    Answer(n=0)  # in the master, before any fork
