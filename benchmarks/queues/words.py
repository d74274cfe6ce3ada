"""
Word count through Celery, for workers.py: plain tasks, and a graph with and without batches. Each
form has a file, and appends a byte for each word that it has counted.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery, signals
from redis import Redis

from emit import CeleryRouter, ShellNode
from emit.celery import configure

URL = os.environ["BENCH_REDIS"]
HERE = Path(__file__).parent
DONE = os.environ["BENCH_DONE"]
app = Celery("words", broker=URL)
configure(app)
app.conf.task_ignore_result = True
router = CeleryRouter(celery_task=app.task)
counts: Counter[str] = Counter()
RUBY = shutil.which("ruby")
ROOT = HERE.parent.parent
SDKS = {"PYTHONPATH": str(ROOT / "sdks" / "python"), "RUBYLIB": str(ROOT / "sdks" / "ruby" / "lib")}


@signals.worker_process_shutdown.connect
def report(**_: Any) -> None:
    """Write the counts of this process at its end."""
    redis = Redis.from_url(URL)
    for key, count in counts.items():
        redis.hincrby("counts", key, count)


def done(form: str) -> None:
    """Tell that a word is counted."""
    if form not in files:
        files[form] = os.open(f"{DONE}/{form}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(files[form], b".")


files: dict[str, int] = {}


# The plain form: one task for each message.


@app.task
def plain_words(document: str) -> int:
    words = document.split()
    for word in words:
        plain_count.delay(word=word)
    return len(words)


@app.task
def plain_count(word: str) -> int:
    counts[f"plain {word}"] += 1
    done("plain")
    return counts[f"plain {word}"]


# The same as a graph, one task for each message, and in batches of 100.


@router.node(("word",))
def single_words(msg: Any) -> Any:
    yield from msg.document.split()


@router.node(("word", "count"), "words.single_words")
def single_count(msg: Any) -> Any:
    counts[f"single {msg.word}"] += 1
    done("single")
    return msg.word, counts[f"single {msg.word}"]


@router.node(("word",))
def batch_words(msg: Any) -> Any:
    yield from msg.document.split()


@router.node(("word", "count"), "words.batch_words", batch=100)
def batch_count(msg: Any) -> Any:
    counts[f"batch {msg.word}"] += 1
    done("batch")
    return msg.word, counts[f"batch {msg.word}"]


# A program as a node, with groups of calls and without, and a process for each message.


@router.node(("word",))
def node_words(msg: Any) -> Any:
    yield from msg.document.split()


@router.node(("word",))
def alone_words(msg: Any) -> Any:
    yield from msg.document.split()


class Echo(ShellNode):
    command = (RUBY or sys.executable, str(HERE / ("echo.rb" if RUBY else "echo.py")), "node")
    mode = "persistent"
    env: Mapping[str, str] = {**SDKS, "BENCH_DONE": DONE}
    size = 1


class Alone(Echo):
    command = (*Echo.command[:-1], "alone")


router.node(("word",), "words.node_words", batch=100)(Echo)
router.node(("word",), "words.alone_words", batch=100)(Alone)


@app.task
def spawn_words(document: str) -> None:
    for word in document.split():
        spawn_echo.delay(word=word)


@app.task
def spawn_echo(word: str) -> None:
    command = [RUBY or sys.executable, str(HERE / ("once.rb" if RUBY else "once.py"))]
    message = json.dumps({"word": word}).encode()
    run = subprocess.run(command, input=message, stdout=subprocess.PIPE, check=True)
    assert json.loads(run.stdout) == word
    done("spawn")
