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


APP = """
INSTALLED_APPS = ["emit.django", "shop"]
EMIT = {emit}
"""

MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
execute_from_command_line(sys.argv)
"""


def manage(project: Path, emit: str, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    with (project / "mysite" / "settings.py").open("a") as file:
        file.write(APP.replace("{emit}", emit))
    (project / "manage.py").write_text(MANAGE)
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    command = [sys.executable, "manage.py", *argv]
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)


ROUTERS = '{"ROUTERS": ["mysite.celery.router"]}'


def test_manage_runs_the_commands(project: Path) -> None:
    """manage.py emit hands on the words, the output and the exit code."""
    done = manage(
        project, ROUTERS, "emit", "call", "mysite.celery.router:shop.tasks.check", "word=a"
    )
    assert (done.returncode, done.stdout.strip()) == (0, '{"length": 1}'), done.stderr
    done = manage(project, ROUTERS, "emit", "graph", "mysite.celery.ruter")
    assert done.returncode == 2
    assert "has no ruter (its routers: router)" in done.stderr
    assert "manage.py emit" in manage(project, ROUTERS, "help", "emit").stdout
    code = "from django.core.management import call_command; "
    code += "call_command('emit', 'graph', 'own.router')"
    assert "own" in manage(project, ROUTERS, "shell", "-c", code).stdout


def test_manage_checks_the_routers(project: Path) -> None:
    """The findings of a router are those of the system check."""
    with (project / "shop" / "tasks.py").open("a") as file:
        file.write('\n@router.node((), "shop.tasks.werds")\ndef end(msg): pass\n')
    done = manage(project, ROUTERS, "check")
    assert done.returncode == 0
    assert "(emit.W001)" in done.stderr
    assert 'hears "shop.tasks.werds", which matches no node (nearest: ' in done.stderr
    done = manage(project, '{"ROUTERS": ["mysite.celery.ruter"]}', "check")
    assert done.returncode == 1
    assert "(emit.E001)" in done.stderr


def test_manage_checks_the_logging(project: Path) -> None:
    """A logger that would write each line twice in a worker is found."""
    logging = "{}\nLOGGING = {'version': 1, 'handlers': {'a': {'class': 'logging.StreamHandler'}}, "
    logging += "'loggers': {'emit': {'handlers': ['a'], 'propagate': True}}}"
    assert "(emit.W002)" in manage(project, logging, "check").stderr


def test_the_settings(project: Path) -> None:
    """They stand for the environment, which goes first; a wrong one is an error."""
    ask = ("shell", "-c", "import os; print(os.environ['EMIT_HOST'], os.environ['EMIT_REDIS'])")
    given = '{"HOST": "private", "REDIS": "redis://other"}'
    assert "private redis://mine" in manage(project, given, *ask, EMIT_REDIS="redis://mine").stdout
    for wrong, text in (
        ('{"ROUTER": []}', "EMIT has no key 'ROUTER' (nearest: ROUTERS)"),
        ('{"ROUTERS": "a.router"}', "must be a list, such as ['a.router']"),
        ("[]", "EMIT must be a dictionary, not list"),
    ):
        done = manage(project, wrong, "check")
        assert done.returncode == 1
        assert text in done.stderr
