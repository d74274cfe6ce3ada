"""The documentation's chapter on Celery, typed in, and the example with its demo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from tests.queues.worker import celery_worker, eventually

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent

#: As the documentation of 2013 prints it, but for the order of zincrby's arguments.
CHAPTER = {
    "app.py": """\
'simple celery app'
from celery import Celery
from emit import CeleryRouter
import logging

app = Celery(
    'celery_emit_example',
    broker='redis://'
)

app.conf.update(
    CELERY_IMPORTS=('tasks',)
)

router = CeleryRouter(celery_task=app.task, node_modules=['tasks'])

logging.basicConfig(format='%(levelname)s:%(message)s', level=logging.DEBUG)
""",
    "tasks.py": """\
from app import app, router
from redis import Redis

@router.node(('word',), entry_point=True)
def emit_words(msg):
    for word in msg.document.strip().split(' '):
        yield word

@router.node(('word', 'count'), subscribe_to='tasks.emit_words',
             celery_task=app.task(rate_limit='5/s'))
def tally_word(msg):
    redis = Redis()
    return msg.word, redis.zincrby('celery_emit_example', 1, msg.word)
""",
    "kickoff.py": """\
from app import router
import random

words = 'the rain in spain falls mainly on the plain'.split(' ')
router(document=' '.join(random.choice(words) for i in range(20)))
""",
}


def run(command: list[str], cwd: Path, **env: str) -> str:
    """Return the output of *command*, which must end well."""
    beside = str(Path(sys.executable).parent)
    path = {"PATH": os.pathsep.join([beside, os.environ["PATH"]]), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **path, **env}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.requires("redis-server")
def test_the_chapter_as_printed(usual_redis: str, tmp_path: Path) -> None:
    """Twenty words are counted, five a second; the worker names what could lose them."""
    for name, text in CHAPTER.items():
        (tmp_path / name).write_text(text)
    log = tmp_path / "log"
    with (
        celery_worker(log, "-E", app="app.app", cwd=tmp_path),
        Redis.from_url(usual_redis) as redis,
    ):
        run(["python", "kickoff.py"], tmp_path)

        def total() -> float:
            counted = redis.zrange("celery_emit_example", 0, -1, withscores=True)
            return sum(count for _, count in counted)

        eventually(lambda: total() == 20)
    assert "tasks.emit_words" in log.read_text()
    assert "task_acks_late is off: a message is lost" in log.read_text()


@pytest.mark.requires("redis-server")
def test_the_example(redis: str) -> None:
    """It starts a worker, sends a document, and prints the totals."""
    printed = run(["./run"], ROOT / "examples" / "celery", REDIS_URL=redis)
    assert sum(int(line.split()[1]) for line in printed.splitlines()) == 20


def test_the_demo_without_a_server() -> None:
    """A real worker whose broker is a folder; every word is checked, and nothing is left."""
    folder = ROOT / "examples" / "celery"
    printed = run([sys.executable, "demo.py"], folder, PYTHONDONTWRITEBYTECODE="1")
    assert not (folder / "control").exists(), "kombu keeps notes beside its messages"
    assert "by files" in printed
    assert "every word is there" in printed
