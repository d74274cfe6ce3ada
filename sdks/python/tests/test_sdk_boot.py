"""Files that a launcher serves, whether they know of Emit or not."""

from __future__ import annotations

import json

import pytest
from sdk_host import by_hand


def test_a_program_that_cannot_be_served_says_why(tmp_path):
    """A file that fails to load under boot is an err without an id, and exit status 1."""
    bad = tmp_path / "bad.py"
    bad.write_text("1 / 0\n")
    text = f"import emit_sdk\nemit_sdk.boot({str(bad)!r})\n"
    ran = by_hand(tmp_path, '{"op": "hello", "v": [1], "codecs": ["json"]}\n', text)
    err = json.loads(ran.stdout)
    assert (err["id"], err["type"], ran.returncode) == (None, "ZeroDivisionError", 1)
    assert "bad.py:1" in err["stack"][0]


@pytest.mark.parametrize(
    "body",
    [
        "def twice(msg):\n    return msg.n * 2\n",
        "from emit_sdk import serve\ndef twice(msg):\n    return msg.n * 2\nserve(twice)\n",
    ],
)
def test_boot_serves_a_file_with_or_without_emit(tmp_path, body):
    """A file of one function is a node; one that serves itself stays one."""
    (tmp_path / "one.py").write_text("print('loading')\n" + body)
    text = f"import emit_sdk\nemit_sdk.boot({str(tmp_path / 'one.py')!r})\n"
    ran = by_hand(tmp_path, '{"n": 2}', text)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("4\n", "loading\n", 0)


@pytest.mark.parametrize(
    ("body", "name", "result"),
    [
        ("def one(msg): return 1\ndef handler(msg): return 2\n", "", 1),
        ("def two(msg): return 1\ndef handler(msg): return 2\n", "", 2),
        ("def two(msg): return 1\ndef handler(msg): return 2\n", "two", 1),
        (
            "from os.path import join\nclass Word: pass\ndef _a(): pass\ndef b(msg): return 3\n",
            "",
            3,
        ),
        (
            "import functools\n@functools.lru_cache\ndef cached(n): return n\ndef _b(): pass\n",
            "",
            2,
        ),
        ("one = lambda msg: msg.n + 2\n", "", 4),
        ("def b(msg): return 5\nif __name__ == '__main__':\n    raise SystemExit(9)\n", "", 5),
    ],
)
def test_which_function_boot_serves(tmp_path, body, name, result):
    """The one that is named, else that of the file's name, else handler, else the only one."""
    (tmp_path / "one.py").write_text(body)
    text = f"import emit_sdk\nemit_sdk.boot({str(tmp_path / 'one.py')!r}, {name!r})\n"
    ran = by_hand(tmp_path, '{"n": 2}', text)
    assert (ran.stdout, ran.stderr, ran.returncode) == (f"{result}\n", "", 0)


@pytest.mark.parametrize(
    ("body", "name", "says"),
    [
        (
            "def a(m): pass\ndef b(m): pass\n",
            "",
            "one.py: which function is the node? Name it one, or say one.py:name (found: a, b)",
        ),
        ("def a(m): pass\n", "c", "one.py: there is no function c in it (found: a)"),
        ("from os.path import join\na = 1\n", "", "one.py: there is no function in it"),
        ("a = 1\n", "a", "one.py: there is no function in it"),
        (
            "from emit_sdk import node, serve\ndef b(m): pass\nnode(b, name='a')\nserve(b)\n",
            "b",
            "one.py: there is no node b in it (found: a)",
        ),
        (
            "from emit_sdk import node\n@node\ndef a(m): pass\n",
            "b",
            "one.py: there is no node b in it (found: a)",
        ),
    ],
)
def test_what_boot_says_where_no_function_is_the_node(tmp_path, body, name, says):
    """The err before ready lists the functions that the file has."""
    (tmp_path / "one.py").write_text(body)
    text = f"import emit_sdk\nemit_sdk.boot({str(tmp_path / 'one.py')!r}, {name!r})\n"
    ran = by_hand(tmp_path, '{"op": "hello", "v": [1], "codecs": ["json"]}\n', text)
    err = json.loads(ran.stdout)
    assert (err["id"], err["message"], ran.returncode) == (None, says, 1)


def test_a_file_that_does_not_compile_names_its_line(tmp_path):
    """Python has no frame for it, so its place is put on top of the stack."""
    (tmp_path / "one.py").write_text("a = 1\ndef one(:\n")
    text = f"import emit_sdk\nemit_sdk.boot({str(tmp_path / 'one.py')!r})\n"
    ran = by_hand(tmp_path, '{"op": "hello", "v": [1], "codecs": ["json"]}\n', text)
    err = json.loads(ran.stdout)
    assert (err["type"], ran.returncode) == ("SyntaxError", 1)
    assert err["stack"][0].endswith("one.py:2: def one(:")
