"""``emit check``, as it is installed, on graphs in several languages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.test_cli import run

pytestmark = pytest.mark.slow

SDK = Path(__file__).parent.parent / "sdks" / "python"

APP = f"""
import sys
from emit import Router, ShellNode

router = Router()

@router.node(("word",), entry_point=True, name="words")
def words(msg):
    yield from msg.text.split()

@router.node(("word", "score"), "words", name="score", mode="persistent")
class Score(ShellNode):
    command = (sys.executable, "score.py")
    env = {{"PYTHONPATH": {str(SDK)!r}}}
"""

SCORE = """
from emit_sdk import serve

def score(word, weight=1):
    return word, len(word) * weight

serve(score)
"""

RANK = """
@router.node(("rank",), ["words", "score"], name="rank")
def rank(msg):
    return msg.score * 2
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "score.py").write_text(SCORE)
    return tmp_path


def add(project: Path, code: str) -> None:
    with open(project / "app.py", "a") as file:
        file.write(code)


def test_nothing_found(project: Path) -> None:
    """A sound graph ends with code 0 and a line."""
    done = run("check", "app.router", cwd=project)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "2 nodes, 2 edges: nothing found\n"


def test_every_edge(project: Path) -> None:
    """--all tells of each edge what it carries and what its reader needs."""
    done = run("check", "app.router", "--all", cwd=project)
    assert "– __entry_point -> words: what the caller gives; needs text\n" in done.stdout
    assert "✔ words -> score: (word); needs word\n" in done.stdout


def test_fields_of_a_python_node(project: Path) -> None:
    """A field that a Python handler reads, and that one of its origins lacks, is found."""
    add(project, RANK)
    done = run("check", "app.router", cwd=project)
    assert done.returncode == 1
    assert "✘ fields        words -> rank: needs score; words gives only word\n" in done.stdout
    assert "score -> rank" not in done.stdout


def test_fields_of_a_program(project: Path) -> None:
    """A field that a program says it needs, and that its origin lacks, is found."""
    (project / "score.py").write_text(SCORE.replace("weight=1", "weight"))
    data = run("check", "app.router", "--json", cwd=project)
    assert data.returncode == 1
    [finding] = json.loads(data.stdout)["findings"]
    assert finding == {
        "kind": "fields",
        "node": "score",
        "text": "words -> score: needs weight; words gives only word",
    }


def test_a_program_that_does_not_start(project: Path) -> None:
    """A program that cannot load is found, with its reason."""
    (project / "score.py").write_text("import not_there_at_all")
    done = run("check", "app.router", cwd=project)
    assert done.returncode == 1
    assert '✘ program       "score" cannot be started' in done.stdout


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("notthere x", "command not found"),
        (f"{sys.executable} gone.py", "its command names gone.py, which is not in "),
    ],
)
def test_what_is_missing(project: Path, command: str, text: str) -> None:
    """A command or a file that is missing is found, whatever the node's mode."""
    code = f'router.node((), "words", name="m", command="{command}")(ShellNode)\n'
    add(project, code)
    done = run("check", "app.router", cwd=project)
    assert done.returncode == 1
    assert text in done.stdout


def test_a_wrong_declaration(project: Path) -> None:
    """A fault that keeps the module from being imported is a finding, too."""
    add(project, 'router.node((), name="m", command="x", size=1, min_idle=2)(ShellNode)\n')
    done = run("check", "app.router", cwd=project)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == '✘ declaration   "m": min_idle must not be over size\n'


def test_a_setting_that_is_misspelt(project: Path) -> None:
    """It would do nothing. What the class itself reads, or nothing is near to, is the author's."""
    add(
        project,
        """
class Typo(ShellNode):
    command = "cat"
    mode = "oneshot"
    timout = 1
    limit = 5
    colour = "red"

    def get_cwd(self):
        return "/" * min(self.limit, 1)

router.node((), "words", name="typo")(Typo)
""",
    )
    done = run("check", "app.router", cwd=project)
    said = 'declaration   "typo": timout is no setting and does nothing; is timeout meant?'
    assert (done.returncode, done.stderr) == (1, "")
    assert said in done.stdout
    assert "limit " not in done.stdout
    assert "colour" not in done.stdout


def test_kinds_can_be_left_out(project: Path) -> None:
    """--ignore leaves a kind out; --called tells what your code calls itself."""
    add(project, 'router.node((), ["lost", "mine"], name="mine")(lambda msg: None)\n')
    done = run("check", "app.router", cwd=project)
    assert [line.split()[1] for line in done.stdout.splitlines()[:-1]] == [
        "subscription",
        "unreached",
        "cycle",
    ]
    ignored = ("--ignore", "subscription", "--ignore", "cycle")
    done = run("check", "app.router", "--called", "mine", *ignored, cwd=project)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        "3 nodes, 3 edges: nothing found; not known what they need: 1 node (see --all)",
    )


def test_a_called_node_that_is_not_there(project: Path) -> None:
    """A misspelt --called is a usage error, not a silent nothing."""
    done = run("check", "app.router", "--called", "wrods", cwd=project)
    assert (done.returncode, done.stdout) == (64, "")
    assert "there is no node wrods (nearest: words)" in done.stderr


def test_a_message_class_that_may_add_fields(project: Path) -> None:
    """The needs of a Python node are unknown with such a class, so nothing is found against it."""
    code = """
class Base(Message):
    def __getattr__(self, name): return 1

class Mine(Base):
    size = 3

"""
    (project / "app.py").write_text(
        APP.replace("router = Router()", code + "router = Router(Mine)").replace(
            "import Router", "import Message, Router"
        )
        + RANK
    )
    done = run("check", "app.router", "--all", cwd=project)
    assert done.returncode == 0
    assert "words -> rank: (word); not known what it needs: Base.__getattr__ may add" in done.stdout


CELERY = """
from celery import Celery
from emit import CeleryRouter
from emit.celery import configure

app = Celery("app", broker="redis://127.0.0.1:1/0")
configure(app)
router = CeleryRouter(celery_task=app.task)

@router.node(("word",), entry_point=True, name="words")
def words(msg):
    yield from msg.text.split()
"""


def test_settings_of_celery(project: Path) -> None:
    """Settings that lose messages are found, without a broker; those of configure are fine."""
    (project / "app.py").write_text(CELERY)
    done = run("check", "app.router", cwd=project)
    assert (done.returncode, done.stdout) == (0, "1 node, 1 edge: nothing found\n")
    (project / "app.py").write_text(CELERY + "app.conf.task_acks_late = False\n")
    done = run("check", "app.router", cwd=project)
    assert done.returncode == 1
    assert "✘ queue         task_acks_late is off: a message is lost if" in done.stdout


def test_settings_of_rq(project: Path) -> None:
    """The same for RQ, without Redis."""
    (project / "app.py").write_text("""
from emit import RQRouter
from redis import Redis

router = RQRouter(redis_connection=Redis(port=1))

@router.node(("word",), entry_point=True, timeout=-1, name="words")
def words(msg):
    yield from msg.text.split()
""")
    done = run("check", "app.router", cwd=project)
    assert done.returncode == 1
    assert '✘ queue         "words": its jobs have no time limit' in done.stdout


def test_a_node_of_celery_is_called_here(project: Path) -> None:
    """emit call runs the task in this process, and sends nothing on."""
    (project / "app.py").write_text(CELERY)
    done = run("call", "app.router:words", "text=a b", cwd=project)
    assert (done.returncode, done.stdout) == (0, '{"word": "a"}\n{"word": "b"}\n')


FILES = {
    "app.py": """
from emit import Router, ShellNode

router = Router()
add = router.node

@add(("word",), entry_point=True, name="words")
def words(msg):
    yield from msg.text.split()

add(("word", "score"), "words", name="in_ruby", file="score.rb")(ShellNode)
add(("word", "score"), "words", name="in_node", file="score.mjs")(ShellNode)
add(("rank",), "^in_", name="in_go", file="rank")(ShellNode)
""",
    "score.rb": "def score(word:, weight:, scale: 1) = [word, weight * scale]\n",
    "score.mjs": "export function score({ word, lang = 'en' }) { return [word, lang.length]; }\n",
    "rank/rank.go": """package rank

type In struct {
	Score int `json:"score"`
	Total int `json:"total"`
}

func Rank(in In) (int, error) { return in.Score, nil }
""",
}


@pytest.mark.requires("ruby", "node", "go")
def test_fields_across_languages(tmp_path: Path) -> None:
    """Ruby's keywords, JavaScript's destructuring and Go's structs are held against the fields of
    their origins, in whatever language these are."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    done = run("check", "app.router", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        "✘ fields        words -> in_ruby: needs weight; words gives only word",
        "✘ fields        in_ruby -> in_go: needs total; in_ruby gives only word, score",
        "✘ fields        in_node -> in_go: needs total; in_node gives only word, score",
        "4 nodes, 5 edges: 3 findings",
    ]


NODES = """
from emit_sdk import node, serve

@node
def delete(sku): return sku

@node
def price(sku, count=1): return count

serve()
"""


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ('name="price"', ""),
        ('name="cost", program_node="price"', ""),
        (
            'name="cost", program_node="prise"',
            '"cost": its program has no node "prise", only: delete, price (nearest: price)',
        ),
        (
            'name="cost"',
            '"cost": its program has no node "cost", only: delete, price; '
            "program_node says which it is",
        ),
    ],
)
def test_a_node_that_the_program_has_not(project: Path, options: str, found: str) -> None:
    """The names of a program's nodes are compared before a message runs."""
    (project / "shop.py").write_text(NODES)
    add(
        project,
        "class Shop(ShellNode):\n"
        "    command = (sys.executable, 'shop.py')\n"
        f"    env = {{'PYTHONPATH': {str(SDK)!r}}}\n"
        "    mode = 'persistent'\n"
        f"router.node(('x',), entry_point=True, {options})(Shop)\n",
    )
    done = run("check", "app.router", cwd=project)
    if found:
        assert (done.returncode, f"✘ program       {found}\n" in done.stdout) == (1, True)
    else:
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("program_node", ["", ', program_node="another"'])
def test_a_program_with_one_node(project: Path, program_node: str) -> None:
    """The node's own name does not matter; a program_node that it has not is a misspelt one."""
    app = APP.replace('name="score"', f'name="other"{program_node}')
    (project / "app.py").write_text(app)
    done = run("check", "app.router", cwd=project)
    assert (done.returncode, '"other": its program has no node' in done.stdout) == (
        bool(program_node),
        bool(program_node),
    )
