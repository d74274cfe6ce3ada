"""The files of ``emit new --project``: a small Celery project with a node in each language."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from emit.cli.templates import node_files
from emit.host.language.runtime import Runtime

_APP = '''\
"""The Celery app, and the router that makes its nodes tasks."""

import os

from celery import Celery
from emit import CeleryRouter
from emit.celery import configure

REDIS = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery("NAME", broker=REDIS)
configure(app)  # so that no message is lost, and none runs for ever
# Celery's own format, and the logger: of what a program prints it is the only mark whose it is.
app.conf.worker_log_format = "[%(asctime)s: %(levelname)s/%(processName)s] %(name)s: %(message)s"

router = CeleryRouter(celery_task=app.task, node_modules=["tasks"])
'''

_TASKS = '''\
"""The nodes: lines -> words in LANGUAGES -> tell."""

import logging
from pathlib import Path

from emit import ShellNode

from app import router

NODES = Path(__file__).parent / "nodes"


@router.node(("text",), entry_point=True, name="tasks.lines")
def lines(msg):
    """Emit each line of the text that holds something."""
    yield from filter(str.strip, msg.text.splitlines())

'''

_NODE = """
@router.node(("word", "length"), "tasks.lines", name="tasks.words_LANGUAGE")
class WordsCLASS(ShellNode):
    file = NODES / "FILE"

"""

_TELL = '''
@router.node((), "^tasks.words_", name="tasks.tell")
def tell(msg):
    """The end: say in the worker's log what has come, and from which node."""
    logging.getLogger("NAME").warning("%s: %s has %d letters", msg._origin, msg.word, msg.length)
'''

_TEST = '''\
"""Each node by itself, and the way of a message. They need neither Redis nor a worker."""

import pytest
from emit.testing import capture

from app import router

router.resolve_node_modules()


@pytest.mark.parametrize("language", LANGUAGES)
def test_words(language):
    with router.routing_disabled():
        words = router.functions[f"tasks.words_{language}"](text="the rain")
    assert words == ({"word": "the", "length": 3}, {"word": "rain", "length": 4})


def test_lines():
    with capture(router) as sent:
        router.functions["tasks.lines"](text="the rain\\n\\nin spain")
    assert {(one.destination, one.message.text) for one in sent} == {
        (f"tasks.words_{language}", text)
        for language in LANGUAGES
        for text in ("the rain", "in spain")
    }
'''

_README = """\
# NAME

A graph of [Emit](https://github.com/emit-graph/emit) on Celery: each line of a text goes to a
node in each language (LANGUAGES), and what they emit goes to the log.

    pip install -r requirements.txt
    python -m pytest                                # needs no Redis and no worker
    emit check app.router                           # is the graph sound?

    redis-server &                                  # or REDIS_URL=redis://...
    celery -A app worker --loglevel INFO            # in one terminal
    emit run app.router text='the rain in spain'    # in another

`emit graph app.router` shows the graph, and `emit top` what the worker's nodes are doing.

A node sees only some of the worker's environment variables: `pass_env = (*ShellNode.pass_env,
"DATABASE_URL")` in its class lets one more pass.
"""


def project_files(name: str, folder: Path, languages: Iterable[Runtime]) -> dict[Path, str]:
    """What to write where."""
    texts = {"app.py": _APP, "requirements.txt": "emit-graph[celery,cli]\npytest\n"}
    nodes: dict[Path, str] = {}
    declared = ""
    names = []
    for language in languages:
        names.append(language.name)
        node = f"words_{language.name}"
        files = node_files(language, node, folder / "nodes", sdk=False, test=False)
        [(path, text)] = files
        nodes[path] = text
        target = path.parent if language.folders else path
        declared += _fill(
            _NODE,
            LANGUAGE=language.name,
            CLASS=language.name.title(),
            FILE=target.relative_to(folder / "nodes").as_posix(),
        )
    texts["tasks.py"] = _fill(_TASKS, LANGUAGES=", ".join(names)) + declared + _TELL
    texts["test_tasks.py"] = _fill(_TEST, LANGUAGES=repr(names).replace("'", '"'))
    texts["README.md"] = _fill(_README, LANGUAGES=", ".join(names))
    return {folder / file: _fill(text, NAME=name) for file, text in texts.items()} | nodes


def _fill(text: str, **words: str) -> str:
    for place, word in words.items():
        text = text.replace(place, word)
    return text
