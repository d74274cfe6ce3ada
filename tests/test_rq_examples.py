"""The documentation's chapter on RQ, typed in, and the examples that need Redis."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.requires("redis-server")

#: As the documentation of 2013 prints it, but for the order of zincrby's arguments.
CHAPTER = {
    "app.py": """\
'simple rq app'
from redis import Redis
from emit import RQRouter

import logging

router = RQRouter(redis_connection=Redis(), node_modules=['tasks'])

logging.basicConfig(format='%(levelname)s:%(message)s', level=logging.DEBUG)
""",
    "tasks.py": """\
from app import router
from redis import Redis

@router.node(('word',), entry_point=True)
def emit_words(msg):
    for word in msg.document.strip().split(' '):
        yield word

@router.node(('word', 'count'), subscribe_to='tasks.emit_words', queue='words')
def tally_word(msg):
    redis = Redis()
    return msg.word, redis.zincrby('celery_emit_example', 1, msg.word)
""",
    "kickoff.py": """\
from app import router
import random

words = 'the rain in spain falls mainly on the plain'.split(' ')
router(document=' '.join(random.choice(words) for i in range(50)))
""",
    # rq.Connection is gone since RQ 2.0: a worker is told its connection.
    "worker.py": """\
#!/usr/bin/env python
import sys
import rq

# Preload libraries
from app import router
router.resolve_node_modules()

# Provide queue names to listen to as arguments to this script,
# similar to rqworker
connection = router.redis_connection
qs = [rq.Queue(name, connection=connection) for name in sys.argv[1:]]

w = rq.Worker(qs, connection=connection)
w.work(burst=True)
""",
}

PUBLISHED = {
    *(f'graph.parse_querystring {{"key": "{k}", "value": "{v}"' for k, v in ("a1", "b2", "c3")),
    *(f'graph.count_keyval {{"key": "{k}", "value": "{v}"' for k, v in ("a1", "b2", "c3")),
    '__entry_point {"querystring": "?a=1&b=2&c=3"',
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


@pytest.mark.parametrize(
    "worker",
    [
        ["rq", "worker", "--burst", "default", "words"],
        ["rqworker", "--burst", "default", "words"],
        ["python", "worker.py", "default", "words"],
    ],
    ids=lambda command: command[0],
)
def test_the_chapter_as_printed(worker: list[str], usual_redis: str, tmp_path: Path) -> None:
    """Fifty random words are counted, by each of the workers that the chapter knows."""
    for name, text in CHAPTER.items():
        (tmp_path / name).write_text(text)
    run(["python", "kickoff.py"], tmp_path)
    run(worker, tmp_path)
    totals = Redis.from_url(usual_redis).zrange("celery_emit_example", 0, -1, withscores=True)
    assert sum(count for _, count in totals) == 50


def test_the_example(redis: str) -> None:
    """Two documents of fifty words, through two kinds of worker."""
    printed = run(["./run"], ROOT / "examples" / "rq", REDIS_URL=redis)
    assert sum(int(line.split()[1]) for line in printed.splitlines()) == 100


def test_the_regex_example(redis: str) -> None:
    """Seven messages are published, as the documentation says."""
    printed = run(["./run"], ROOT / "examples" / "regex", REDIS_URL=redis).splitlines()
    found = {line.removeprefix("notify_on_emit.") for line in printed}
    assert len(printed) == 7
    assert {next(p for p in PUBLISHED if line.startswith(p)) for line in found} == PUBLISHED
