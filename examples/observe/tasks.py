"""A graph with metrics: words are counted in Python, and reversed by a program in Ruby."""

import os
import random
import time
from collections.abc import Iterator

from celery import Celery

from emit import CeleryRouter, Message, ShellNode
from emit.celery import configure
from emit.observe import metrics

app = Celery("observe", broker=os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
app.conf.task_default_queue = "words"
configure(app, time_limit=60)

router = CeleryRouter(celery_task=app.task, node_modules=["tasks"])
metrics.instrument(router)


@router.node(("word",), entry_point=True, name="tasks.split")
def split(msg: Message) -> Iterator[str]:
    yield from msg.text.split()


@router.node(("word", "length"), "tasks.split", name="tasks.measure")
def measure(msg: Message) -> tuple[str, int]:
    if msg.word == "bad":
        raise ValueError("not a word")  # becomes a dead letter
    time.sleep(random.uniform(0.001, 0.02))
    return msg.word, len(msg.word)


@router.node(("word",), "tasks.measure", name="tasks.reverse")
class Reverse(ShellNode):
    file = "reverse.rb"
    size = 2
