"""Files of cases, and the comparison of results."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emit.cases.compare import differences
from emit.cases.format import Case, CaseError, Cases, Settings, is_cases, pruned, read, write
from emit.cases.record import recording
from emit.cases.suite import Finding, junit, summary, tap
from emit.router import Router

HEAD = '{"emit_cases": 1, "target": "app.router:words"}\n'

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values, max_size=3), st.lists(values, max_size=3))
def test_any_case_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, message: dict[str, Any], results: list[Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.ndjson"
    case = Case(message, tuple(results), line=2)
    settings = Settings(("at",), ordered=False, tolerance=1e-6)
    write(path, Cases("app.router:words", (case,), settings))
    found = read(path)
    assert repr(found.each) == repr((case,))  # NaN is not equal to itself
    assert (found.target, found.settings, is_cases(path)) == ("app.router:words", settings, True)
    assert differences(results, list(found.each[0].results)) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "x.ndjson:1: it is no JSON"),
        ('{"n": 1}\n', "x.ndjson:1: the first line"),
        ('{"emit_cases": 2, "target": "a"}\n', "a newer version"),
        ('{"emit_cases": 1, "target": "a", "ignore": "at"}\n', '"ignore" is a list'),
        ('{"emit_cases": 1, "target": "a", "tolerance": -1}\n', '"tolerance" is a number'),
        (f"{HEAD}nonsense\n", "x.ndjson:2: it is no JSON"),
        (f'{HEAD}\n{{"results": []}}\n', "x.ndjson:3: it has no readable message"),
        (f'{HEAD}{{"message": 7}}\n', "its message is no JSON object"),
        (f'{HEAD}{{"message": "msgpack:!"}}\n', "no readable message"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.ndjson"
    path.write_text(text, "utf-8")
    with pytest.raises(CaseError, match=said.replace("[", r"\[")):
        read(path)


def test_a_value_that_no_file_holds(tmp_path: Path) -> None:
    """The file stays as it was."""
    path = tmp_path / "x.ndjson"
    path.write_text(HEAD, "utf-8")
    with pytest.raises(CaseError, match=r"the message can't be recorded: it\.x: "):
        write(path, Cases("a", (Case({"it": {"x": object()}}),)))
    assert path.read_text("utf-8") == HEAD
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    ("expected", "actual", "told"),
    [
        ([{"n": 1}], [{"n": 1}], []),
        ([{"n": 1}], [{"n": 2}], ["result 1 .n: expected 1, got 2"]),
        ([{"n": 1}], [{"n": 1.0}], ["result 1 .n: expected 1, got 1.0"]),
        ([{"n": 1}], [{"n": True}], ["result 1 .n: expected 1, got true"]),
        ([{"a": [1, {"b": 2}]}], [{"a": [1, {"b": 3}]}], ["result 1 .a[1].b: expected 2, got 3"]),
        ([{"a": (1, 2)}], [{"a": [1, 2]}], []),
        ([{"a": 1}], [{"b": 1}], ["result 1 .a: missing: 1", "result 1 .b: not expected: 1"]),
        ([{"a": 1}, {"a": 2}], [{"a": 1}], ['result 2: missing: {"a": 2}']),
        ([], ["x"], ['result 1: not expected: "x"']),
        ([{"a": math.nan}], [{"a": math.nan}], []),
        ([{"a": "[hidden]"}], [{"a": "secret"}], []),
        ([{"a b": 1}], [{"a b": 2}], ["result 1['a b']: expected 1, got 2"]),
    ],
)
def test_differences(expected: Any, actual: Any, told: list[str]) -> None:
    assert [*map(str, differences(expected, actual))] == told


def test_how_results_are_compared() -> None:
    old = [{"n": 1.0, "at": {"at": 5}}, {"n": 2.0, "at": 6}]
    new = [{"n": 2.0000001, "at": 9}, {"n": 1}]
    settings = Settings(ignore=("at",), ordered=False, tolerance=1e-6)
    assert differences(old, new, settings) == []
    assert len(differences(old, new, Settings(ordered=False, tolerance=1e-6))) == 4
    assert len(differences(old, new, Settings(ignore=("at",), tolerance=1e-6))) == 2


def test_the_recorder() -> None:
    """Messages, results and errors; hidden fields; no more than asked for; repetitions once."""
    router = Router(redact=["password"])

    @router.node(("n",), entry_point=True, name="words")
    def words(msg: Any) -> Any:
        if msg.n == 2:
            raise ValueError("two")
        yield from range(msg.n)

    with recording(router, "words", redact=["key"], limit=3) as recorder:
        router(n=1, password="canary", key="canary")
        with pytest.raises(ValueError, match="two"):
            router(n=2)
        router(n=0)
        router(n=0)
    first, second, third = recorder.cases
    assert first == Case({"n": 1, "password": "[hidden]", "key": "[hidden]"}, ({"n": 0},))
    assert second == Case({"n": 2}, error="ValueError")
    assert third == Case({"n": 0})
    assert pruned([first, second, first]) == (first, second)


def test_reports() -> None:
    each = [
        Finding("a.ndjson", "line 2", "passed", 0.1),
        Finding("a.ndjson", "line 3", "failed", 0.2, ("result 1: \x1b <", "more")),
        Finding("b_test.rb", "", "skipped", 0.0, ("no ruby",)),
    ]
    assert summary(each, 1.0) == "1 failed, 1 passed, 1 skipped in 1.0 s"
    assert tap(each).splitlines()[1:5] == [
        "1..3",
        "ok 1 - a.ndjson: line 2",
        "not ok 2 - a.ndjson: line 3",
        "# result 1: \x1b <",
    ]
    assert tap(each).splitlines()[-1] == "ok 3 - b_test.rb # SKIP no ruby"
    report = junit(each)
    assert '<testsuite name="a.ndjson" tests="2" failures="1" skipped="0"' in report
    assert "result 1: \ufffd &lt;" in report
