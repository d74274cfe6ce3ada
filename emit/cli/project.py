"""
The files that ``emit new`` writes: a node in each language, and a small Celery project with a node
in each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from emit.cli.output import CommandError
from emit.host.language.runtime import Runtime

# -- A Celery project ------------------------------------------------------------------------------

# In these texts NAME, LANGUAGE, LANGUAGES, CLASS and FILE are replaced.

_APP = '''\
"""The Celery app, and the router that makes its nodes tasks."""

import os

from celery import Celery
from emit import CeleryRouter
from emit.celery import configure

REDIS = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery("NAME", broker=REDIS)
configure(app)  # so that no message is lost, and none runs for ever
# Celery's own format with the logger's name, which says which node's program printed a line.
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
    """Emit each line of the text that is not blank."""
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
    """Write each word to the worker's log, with the node that sent it."""
    logging.getLogger("NAME").warning("%s: %s has %d letters", msg._origin, msg.word, msg.length)
'''

_TEST = '''\
"""Test the whole graph, with the real programs. This needs no Redis and no worker."""

import pytest

from app import router

router.resolve_node_modules()


def test_lines(emit_drive):
    graph = emit_drive(router)
    graph.give("tasks.lines", text="the rain\\n\\nin spain")
    assert graph.results("tasks.lines") == [{"text": "the rain"}, {"text": "in spain"}]


@pytest.mark.parametrize("language", LANGUAGES)
def test_words(emit_drive, language):
    graph = emit_drive(router)
    graph(text="the rain")
    words = [{"word": "the", "length": 3}, {"word": "rain", "length": 4}]
    assert graph.results(f"tasks.words_{language}") == words
    passed = graph.passed(f"tasks.words_{language}", "tasks.tell")
    assert passed == words
'''

_README = """\
# NAME

A graph of [Emit](https://github.com/emit-graph/emit) on Celery: each line of a text goes to a
node in each language (LANGUAGES), and what they emit goes to the log.

    pip install -r requirements.txt
    emit test                                       # needs no Redis and no worker
    emit check app.router                           # is the graph sound?

    redis-server &                                  # or REDIS_URL=redis://...
    celery -A app worker --loglevel INFO            # in one terminal
    emit run app.router text='the rain in spain'    # in another

`emit graph app.router` shows the graph, and `emit top` what the worker's nodes are doing.

A node sees only some of the worker's environment variables: `pass_env = (*ShellNode.pass_env,
"DATABASE_URL")` in its class lets one more pass.
"""


def project_files(name: str, folder: Path, languages: Iterable[Runtime]) -> dict[Path, str]:
    """Return the texts of a project's files, by path."""
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


# -- A node in each language, from its ``template/`` -----------------------------------------------


def forms(languages: dict[str, Runtime]) -> dict[str, tuple[Runtime, str]]:
    """Return languages and dialects by name, each with its suffix; "" for a language's own."""
    found = {name: (language, "") for name, language in languages.items()}
    for language in languages.values():
        for name, suffix in language.dialects.items():
            found.setdefault(name, (language, suffix))
    return found


def node_files(
    language: Runtime, name: str, folder: Path, *, sdk: bool, test: bool, suffix: str = ""
) -> Iterator[tuple[Path, str]]:
    """
    Yield the paths and texts of a new node's files: first the node, then its test.

    Args:
        language: The node's language, which has the templates.
        name: The node's name.
        folder: The folder for the files.
        sdk: True to use the SDK.
        test: True to add a test.
        suffix: Suffix of a dialect of the language; "" for the language itself.

    Raises:
        CommandError: The language has no such template, or does not say how tests run.
    """
    template = language.folder / "template"
    folder = folder / name if language.folders else folder
    node = _find(template, "sdk" if sdk else "plain", language, suffix)
    yield folder / f"{name}{node.suffix}", _filled(node, name)
    if test:
        if not (language.test_file and language.test):
            raise CommandError(
                f"no test can be written, as {language.folder / 'runtime.toml'} has no "
                f"test.command or no test.test_file; add both, or leave --test out"
            )
        source = _find(template, "test", language, suffix)
        path = Path(language.test_file.replace("{name}", name))
        yield folder / (path.with_suffix(suffix) if suffix else path), _filled(source, name)


def other_files(language: Runtime, dialect: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files that a dialect needs once per folder: the settings of its tools."""
    template = language.folder / "template" / dialect
    if dialect in language.dialects and template.is_dir():
        for source in sorted(template.iterdir()):
            yield folder / source.name, source.read_text("utf-8")


def _find(template: Path, kind: str, language: Runtime, suffix: str) -> Path:
    others = () if suffix else tuple(language.dialects.values())
    found = [x for x in sorted(template.glob(f"{kind}{suffix or '.*'}")) if x.suffix not in others]
    if not found:
        raise CommandError(
            f"there is no template {kind}{suffix or '.*'} in {template}; write one, with "
            f"{{{{name}}}} for the node's name"
        )
    return found[0]


def _filled(source: Path, name: str) -> str:
    return source.read_text("utf-8").replace("{{name}}", name)
