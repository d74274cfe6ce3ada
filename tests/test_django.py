"""Emit in a Django project with Celery, laid out as Celery's own documentation has it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts import ROOT
from tests.queues.worker import celery_worker, eventually
from tests.test_cli import EMIT

pytestmark = pytest.mark.slow

pytest.importorskip("django")

CELERY = """
import os
from celery import Celery
from emit import CeleryRouter
from emit.celery import configure

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
app = Celery("mysite")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
configure(app)
router = CeleryRouter(celery_task=app.task, node_modules=["shop.tasks"])
"""

SETTINGS = """
import os
SECRET_KEY = "a test"
INSTALLED_APPS = ["shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CELERY_BROKER_URL = os.environ.get("EMIT_TEST_REDIS", "memory://")
"""

MODELS = """
from django.db import models

class Word(models.Model):
    word = models.CharField(max_length=5)
"""

TASKS = """
import logging
from mysite.celery import router
from .models import Word

@router.node(("word",), entry_point=True)
def words(msg):
    yield from msg.text.split()

@router.node(("length",), "shop.tasks.words")
def check(msg):
    Word(word=msg.word).full_clean()
    logging.getLogger("emit").warning("a line of Emit's")
    return len(msg.word)
"""

#: A router in a module that has models itself, and gets the settings from that of the app.
OWN = """
from emit import Router
from mysite.celery import app
from shop.models import Word

router = Router()

@router.node(("word",), entry_point=True, name="own")
def own(msg):
    return Word(word=msg.text).word
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    files = {
        "mysite/__init__.py": "from .celery import app as celery_app\n__all__ = ('celery_app',)",
        "mysite/celery.py": CELERY,
        "mysite/settings.py": SETTINGS,
        "shop/__init__.py": "",
        "shop/models.py": MODELS,
        "shop/tasks.py": TASKS,
        "own.py": OWN,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def run(project: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EMIT, *argv], cwd=project, env={**os.environ, **env}, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("graph", "mysite.celery.router"), "shop.tasks.check"),
        (("check", "mysite.celery.router", "--ignore", "queue"), "2 nodes"),
        (("call", "mysite.celery.router:shop.tasks.check", "word=rain"), '"length": 4'),
        (("digraph", "mysite.celery.router"), '"shop.tasks.words" -> "shop.tasks.check"'),
        (("graph", "own.router"), "own"),
    ],
    ids=lambda argv: argv[0] if isinstance(argv, tuple) else "",
)
@pytest.mark.parametrize("given", [{}, {"DJANGO_SETTINGS_MODULE": "mysite.settings"}])
def test_commands(
    project: Path, argv: tuple[str, ...], expected: str, given: dict[str, str]
) -> None:
    """Django is set up before nodes are imported that have models, whoever names its settings."""
    done = run(project, *argv, **given)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_nodes_that_only_celery_finds(project: Path) -> None:
    """Celery's autodiscover_tasks finds the nodes if the router has no node_modules."""
    module = project / "mysite" / "celery.py"
    module.write_text(CELERY.replace(', node_modules=["shop.tasks"]', ""))
    done = run(project, "graph", "mysite.celery.router")
    assert "shop.tasks.check" in done.stdout, done.stderr


def test_run_and_dead(project: Path, redis: str) -> None:
    """Commands that send and commands that look at a Redis work, too."""
    own = run(project, "run", "own.router", "text=rain")
    assert own.returncode == 0, own.stderr
    dead = run(project, "dead", "list", "--app", "mysite.celery.router", EMIT_TEST_REDIS=redis)
    assert dead.returncode == 0, dead.stderr


def test_settings_that_are_wrong(project: Path) -> None:
    """The error says which variable names them, and what is wrong."""
    done = run(project, "graph", "own.router", DJANGO_SETTINGS_MODULE="mysite.setings")
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == []
    assert "DJANGO_SETTINGS_MODULE is mysite.setings, and there is no module" in done.stderr
    assert "(nearest: settings)" in done.stderr
    with (project / "mysite" / "settings.py").open("a") as file:
        file.write("\nimport not_here\n")
    done = run(project, "graph", "own.router", DJANGO_SETTINGS_MODULE="mysite.settings")
    assert done.returncode == 2
    assert "DJANGO_SETTINGS_MODULE is mysite.settings, but Django can't be set up: " in done.stderr
    assert "No module named 'not_here'" in done.stderr


def test_a_router_that_needs_no_django(project: Path) -> None:
    """A router without settings imports nothing of Django."""
    plain = "import sys\nfrom emit import Router\nrouter = Router()\n"
    plain += "router.node((), entry_point=True, name=str('django' in sys.modules))(print)\n"
    (project / "plain.py").write_text(plain)
    assert "False" in run(project, "graph", "plain.router").stdout


def test_the_documented_logging(project: Path, redis: str) -> None:
    """Each line of Emit's is once in the log of a worker, as in that of Django itself."""
    page = (ROOT / "docs" / "getting-started.md").read_text("utf-8")
    found = re.search(r"^```python\n(LOGGING = .*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    with (project / "mysite" / "settings.py").open("a") as file:
        file.write(found[1])
    log = project / "log"
    with celery_worker(log, "-P", "solo", app="mysite", cwd=project, EMIT_TEST_REDIS=redis) as w:
        send = "from mysite.celery import router; router(text='rain')"
        sent = run_python(project, send, EMIT_TEST_REDIS=redis)
        assert sent.returncode == 0, sent.stderr
        w.said("a line of Emit's")
        eventually(lambda: "succeeded in" in w.text)
        assert w.text.count("a line of Emit's") == 1


def run_python(project: Path, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    begin = "import django, mysite.celery; django.setup(); "
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(project)]), **env}
    command = [sys.executable, "-c", begin + code]
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)
