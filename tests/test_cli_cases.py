"""Recorded cases on the command line and in pytest: emit replay, emit test, emit run --record."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from emit.dead import DeadLetters
from tests.queues.notes import graph
from tests.queues.worker import celery_worker, eventually
from tests.test_cli import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

APP = """
from emit import Router, ShellNode

router = Router(redact=["password"])


@router.node(("word",), entry_point=True, name="words")
def words(msg):
    yield from msg.text.split()


@router.node(("letters", "length"), "words", name="measure")
class Measure(ShellNode):
    file = "measure.rb"
"""

MEASURE = """
def measure(word:, **)
  raise ArgumentError, "too bad" if word == "bad"
  [word.chars.sort.join, word.length]
end
"""

MEASURE_TEST = """
require "minitest/autorun"
require_relative "measure"

class TestMeasure < Minitest::Test
  def test_measure
    assert_equal ["abc", 3], measure(word: "bca")
  end
end
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with a graph and a file of cases, recorded from it."""
    (tmp_path / "app.py").write_text(APP, "utf-8")
    (tmp_path / "measure.rb").write_text(MEASURE, "utf-8")
    arguments = ("text=the rain in the plain", "--quiet", "--record", "measure=measure.ndjson")
    done = run("run", "app.router", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def change(project: Path) -> None:
    text = MEASURE.replace("word.length", 'word.length + (word == "rain" ? 1 : 0)')
    (project / "measure.rb").write_text(text, "utf-8")


@pytest.mark.requires("ruby")
def test_record_and_replay(project: Path) -> None:
    """The field that an edit has changed, and no other, is told; --update takes it."""
    recorded = (project / "measure.ndjson").read_text("utf-8").splitlines()
    assert json.loads(recorded[0]) == {"emit_cases": 1, "target": "app.router:measure"}
    assert json.loads(recorded[2]) == {
        "message": {"word": "rain"},
        "results": [{"letters": "ainr", "length": 4}],
        "origin": "words",
    }
    assert len(recorded) == 5  # "the" came twice
    done = run("replay", "measure.ndjson", cwd=project)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("4 cases, in ")
    change(project)
    done = run("replay", "measure.ndjson", cwd=project)
    assert done.returncode == 1
    assert done.stdout == (
        "measure.ndjson:3  app.router:measure\n    result 1 .length: expected 4, got 5\n"
    )
    told = run("replay", "measure.ndjson", "--json", "--ignore", "length", cwd=project)
    assert told.returncode == 0
    assert [json.loads(line)["passed"] for line in told.stdout.splitlines()] == [True] * 4
    done = run("replay", "measure.ndjson", "--update", cwd=project)
    assert done.returncode == 0
    after = (project / "measure.ndjson").read_text("utf-8").splitlines()
    assert [line for line in after if line not in recorded] == [after[2]]
    assert run("replay", "measure.ndjson", cwd=project).returncode == 0


def test_where_the_cases_go(tmp_path: Path) -> None:
    """Folders are made, and a place that can't be is refused before anything runs."""
    (tmp_path / "app.py").write_text(APP.partition('@router.node(("letters"')[0], "utf-8")
    (tmp_path / "taken").write_text("", "utf-8")
    command = ("run", "app.router", "text=the rain", "--record")
    done = run(*command, "words=new/folder/words.ndjson", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "new/folder/words.ndjson").read_text("utf-8").splitlines()) == 2
    for place in ("taken/words.ndjson", "new"):
        done = run(*command, f"words={place}", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"emit run: {place} can't be written: ")
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.requires("ruby")
def test_errors_are_results_as_well(project: Path) -> None:
    """A message that fails is to fail again in the same way."""
    with (project / "measure.ndjson").open("a") as file:
        file.write('{"message": {"word": "bad"}, "error": "ArgumentError", "name": "bad word"}\n')
        file.write('{"message": {"word": "good"}, "error": "ArgumentError"}\n')
        file.write('{"message": {"word": "bad"}, "results": []}\n')
    done = run("replay", "measure.ndjson", cwd=project)
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "measure.ndjson:7  app.router:measure",
        '    outcome: expected "ArgumentError", got "1 results"',
    ]
    assert lines[2] == "measure.ndjson:8  app.router:measure"
    assert "too bad" in lines[3]
    assert "measure.rb:3" in lines[4]  # the author's line


@pytest.mark.requires("ruby")
def test_emit_test(project: Path) -> None:
    """Cases and the tests of each language, with one summary; TAP, JUnit and JSON."""
    (project / "measure_test.rb").write_text(MEASURE_TEST, "utf-8")
    (project / "test_app.py").write_text(
        "import app\n\ndef test_words(emit_drive):\n"
        "    graph = emit_drive(app.router)\n    graph(text='a b')\n"
        "    assert len(graph.results('measure')) == 2\n",
        "utf-8",
    )
    done = run("test", "--junit", "report.xml", cwd=project)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines() == [
        *(f"✔ measure.ndjson: line {number}" for number in (2, 3, 4, 5)),
        "✔ test_app.py: test_words",
        "✔ measure_test.rb",
    ]
    assert done.stderr.startswith("6 passed in ")
    suites = ElementTree.parse(project / "report.xml").getroot()
    assert [suite.get("tests") for suite in suites] == ["4", "1", "1"]
    change(project)
    (project / "measure_test.rb").write_text(MEASURE_TEST.replace("3]", "4]"), "utf-8")
    done = run("test", "--format", "tap", cwd=project)
    assert done.returncode == 1
    assert (
        "not ok 2 - measure.ndjson: line 3\n# result 1 .length: expected 4, got 5\n" in done.stdout
    )
    assert "not ok 6 - measure_test.rb\n" in done.stdout
    done = run("test", "measure.ndjson", "--format", "json", cwd=project)
    assert [json.loads(line)["verdict"] for line in done.stdout.splitlines()].count("failed") == 1


@pytest.mark.requires("go")
def test_a_node_that_is_a_folder(tmp_path: Path) -> None:
    """The test of a Go node is found, run, and fails if it should."""
    assert run("new", "words", "--lang", "go", "--test", cwd=tmp_path).returncode == 0
    done = run("test", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "✔ nodes/words\n"), done.stdout
    test = tmp_path / "nodes" / "words" / "words_test.go"
    test.write_text(test.read_text("utf-8").replace("rain", "snow", 1), "utf-8")
    done = run("test", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("✘ nodes/words\n")


def test_a_language_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words_test.rb").write_text("", "utf-8")
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run("test", cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "- words_test.rb")
    assert run("test", "--strict", cwd=tmp_path).returncode == 1


def test_commands_that_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP, "utf-8")
    (tmp_path / "measure.rb").write_text(MEASURE, "utf-8")
    (tmp_path / "x.ndjson").write_text("{}\n", "utf-8")
    cases = [
        (("test",), 2, "there are no tests here"),
        (("test", "nowhere"), 64, "nowhere: there is no such file"),
        (("replay", "x.ndjson"), 2, "x.ndjson:1: the first line"),
        (("replay", "none.ndjson"), 2, "none.ndjson can't be read"),
        (("run", "app.router", "a=b", "--record", "words"), 64, "write NODE=FILE"),
        (("run", "app.router", "a=b", "--record", "word=x"), 64, "there is no node word"),
    ]
    for arguments, code, said in cases:
        done = run(*arguments, cwd=tmp_path)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.requires("ruby")
def test_the_plugin_of_pytest(project: Path) -> None:
    """Files of cases are collected; differences are told by field; no process is left behind."""
    (project / "other.ndjson").write_text('{"n": 1}\n', "utf-8")
    (project / "test_app.py").write_text(
        "from app import router\n\n"
        "def test_graph(emit_drive):\n"
        "    graph = emit_drive(router)\n    graph(text='ab c')\n"
        "    assert graph.results('measure') == [{'letters': 'ab', 'length': 2},\n"
        "                                        {'letters': 'c', 'length': 7}]\n"
        "def test_node(emit_node):\n"
        "    assert emit_node('measure.rb')(word='ba') == [['ab', 2]]\n"
        "    assert emit_node('app.router:words')(text='a b') == [{'word': 'a'}, {'word': 'b'}]\n",
        "utf-8",
    )
    change(project)
    (project / "conftest.py").write_text(
        "import psutil\n\n"
        "def pytest_unconfigure():\n"
        "    children = psutil.Process().children(recursive=True)\n"
        "    print('\\nleft:', [(each.pid, each.name()) for each in children])\n",
        "utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v"]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=project, env=env, capture_output=True, text=True, timeout=100
    )
    said = done.stdout
    assert done.returncode == 1, said
    assert "measure.ndjson::line 2 PASSED" in said
    assert "measure.ndjson:3: the results differ\nresult 1 .length: expected 4, got 5\n" in said
    assert "2 results, and 2 expected" in said
    assert "result 2 .length: expected 7, got 1" in said
    assert "test_app.py::test_node PASSED" in said
    assert "2 failed, 4 passed" in said
    assert "other.ndjson" not in said
    left = dict(ast.literal_eval(said.rpartition("left: ")[2].splitlines()[0]))
    assert "ruby" not in left.values()  # what is left watches over pytest itself
    eventually(lambda: not any(map(psutil.pid_exists, left)))


@pytest.mark.requires("ruby")
def test_an_edited_node_of_the_polyglot_demo(tmp_path: Path) -> None:
    """Recorded traffic of the demo finds the one field that an edit of its Ruby node changes."""
    (tmp_path / "some.txt").write_text("the rain in Spain stays mainly in the plain\n" * 3, "utf-8")
    for file in (EXAMPLES / "polyglot").iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    record = (
        "import graph, text\n"
        "from pathlib import Path\n"
        "from emit.cases.record import recording, save\n"
        "with graph.router, recording(graph.router, 'letters_ruby') as seen:\n"
        "    graph.router(text=text.find_text('some.txt', Path('.')), languages=['ruby'])\n"
        "assert save(Path('ruby.ndjson'), 'graph.router:letters_ruby', seen) == 6\n"
    )
    subprocess.run([sys.executable, "-c", record], cwd=tmp_path, check=True, timeout=100)
    assert run("replay", "ruby.ndjson", cwd=tmp_path).returncode == 0
    node = tmp_path / "words.rb"
    text = node.read_text("utf-8")
    assert "sort" in text
    node.write_text(text.replace(".sort", ".sort.reverse"), "utf-8")
    done = run("replay", "ruby.ndjson", cwd=tmp_path)
    assert done.returncode == 1
    told = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    assert 'result 1 .letters: expected "ainr", got "rnia"' in told
    assert {line.partition(":")[0] for line in told} == {"result 1 .letters"}


def recording(*words: str, cwd: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(cwd)])}
    command = [sys.executable, "-u", "-m", "emit.cli", "record", *words]
    return subprocess.Popen(command, cwd=cwd, env=env, stderr=subprocess.PIPE, text=True)


def wait_until_watched(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError("it ended")


FEED = """
import sys, time
import app

with app.router:
    for number in range(10_000):
        app.router(text=f"word{number} rain " + "x" * 70_000 * (number % 5 == 0), password="canary")
        time.sleep(0.01)
"""


@pytest.mark.requires("ruby")
def test_record_a_process_of_this_machine(project: Path) -> None:
    """Values come whole or not at all, and what is redacted does not come."""
    (project / "feed.py").write_text(FEED, "utf-8")
    with subprocess.Popen([sys.executable, "feed.py"], cwd=project) as feed:
        try:
            target = ("app.router:words", "-n", "20", "-o", "words.ndjson", "--redact", "word")
            with recording(*target, cwd=project) as recorder:
                _, said = recorder.communicate(timeout=100)
        finally:
            feed.kill()
    assert recorder.returncode == 0, said
    assert "20 messages, 20 cases in words.ndjson" in said
    assert "left out a message: it has 70" in said
    text = (project / "words.ndjson").read_text("utf-8")
    assert "canary" not in text
    cases = [json.loads(line) for line in text.splitlines()[1:]]
    assert {case["message"]["password"] for case in cases} == {"[hidden]"}
    assert [result["word"] for case in cases for result in case["results"]] == ["[hidden]"] * 40
    assert run("replay", "words.ndjson", cwd=project).returncode == 0
    done = run("record", "app.router:words", "-o", "words.ndjson", cwd=project)
    assert (done.returncode, "is there already" in done.stderr) == (2, True)


@pytest.mark.requires("redis-server")
def test_record_workers_and_a_dead_letter(redis: str, tmp_path: Path) -> None:
    """Messages of a worker somewhere else, and one that was given up, become cases."""
    with (
        graph("flow", redis) as flow,
        celery_worker(tmp_path / "log", "-c", "1", EMIT_FLEET="0.1"),
    ):
        path = tmp_path / "single.ndjson"
        words = ("flow.router:flow.single", "-n", "3", "-o", str(path))
        with recording(*words, cwd=ROOT / "tests" / "queues") as recorder:
            wait_until_watched(recorder, "is watched")
            flow.router.functions["flow.count"].delay(count=3)
            flow.moody.delay(n=1, how="error")
            assert recorder.wait(100) == 0
        (entry,) = eventually(lambda: DeadLetters(flow.redis).list())
        assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == [
            {"emit_cases": 1, "target": "flow.router:flow.single"},
            *(
                {"message": {"n": n}, "results": [{"n": n}], "origin": "flow.count"}
                for n in range(3)
            ),
        ]
        there = ROOT / "tests" / "queues"
        show = ("dead", "show", entry.id, "--as-test")
        done = run(*show, "--app", "flow.router", cwd=there)
        assert [json.loads(line) for line in done.stdout.splitlines()] == [
            {"emit_cases": 1, "target": "flow.router:flow.moody"},
            {"message": {"n": 1, "how": "error"}, "error": "KeyError", "name": entry.id},
        ]
        (tmp_path / "dead.ndjson").write_text(done.stdout, "utf-8")
        assert run("replay", str(tmp_path / "dead.ndjson"), cwd=there).returncode == 0
        assert "needs --app" in run(*show, "--redis", redis, cwd=there).stderr
