"""The scenarios, the vectors and the pure parts of the kit, without a process."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from emit.conformance import report, runner, scenario, steps
from emit.conformance.runner import Outcome, Verdict, expected_failures, judge
from emit.conformance.scenario import Scenario, build, difference, shorten, unequal
from emit.conformance.steps import STEPS
from emit.conformance.talk import Fault, Listener
from emit.host.wire.codec import encode
from emit.host.wire.frames import Call, End, Err, Frame, Ready
from emit.host.wire.values import from_json, from_msgpack
from tests.hosts import ROOT
from tests.tiny import PAGE

SCENARIOS = runner.all_scenarios()
README = (ROOT / "tests" / "conformance" / "README.md").read_text("utf-8")
VALUES = json.loads((ROOT / "tests" / "conformance" / "values.json").read_text("utf-8"))


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


# The data


def test_names_are_unique() -> None:
    """A title is one scenario, so a list of expected failures is clear."""
    titles = [one.title for one in SCENARIOS]
    assert len(titles) == len(set(titles)) > 100


def test_every_rule_is_on_the_page() -> None:
    """The rule that a scenario names stands in the protocol, word for word."""
    page = flat(PAGE)
    assert not [rule for one in SCENARIOS for rule in one.rules if flat(rule) not in page]


def test_every_must_has_a_scenario() -> None:
    """Each MUST of the protocol is tested, and so is each duty of an SDK."""
    page = flat(PAGE.partition("## Conventions")[0] + PAGE.partition("## Modes")[2])
    rules = {flat(rule) for one in SCENARIOS for rule in one.rules}
    covered = {
        place
        for rule in rules
        for start in [page.find(rule)]
        for place in range(start, start + len(rule))
        if start >= 0
    }
    missing = [m.start() for m in re.finditer("MUST", page) if m.start() not in covered]
    assert [page[at - 60 : at + 60] for at in missing] == []
    duties = PAGE.partition("## What an SDK must do")[2].partition("\n## ")[0]
    for duty in re.split(r"\n\d\. ", duties)[1:]:
        assert any(rule in flat(duty) for rule in rules), duty


def test_the_features_are_in_order_and_described() -> None:
    """Each has scenarios, and the page that lists them has them all."""
    assert list(dict.fromkeys(one.feature for one in SCENARIOS)) == list(runner.FEATURES)
    section = README.partition("## Features")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([a-z]+)` \|", section, re.MULTILINE)
    assert listed == list(runner.FEATURES)


def test_the_nodes_are_those_of_the_readme() -> None:
    """No scenario needs a node that is not on the list, and none on the list is unused."""
    listed = set(re.findall(r"^\| `([a-z]+)` \{", README, re.MULTILINE))
    assert {name for one in SCENARIOS for name in one.needs} == listed


def test_core_needs_only_its_nodes() -> None:
    """The nodes listed as core are the nodes that the core scenarios need."""
    core = README.partition("### core")[2].partition("### ")[0]
    listed = set(re.findall(r"^\| `([a-z]+)` \{", core, re.MULTILINE))
    assert {name for one in SCENARIOS if one.feature == "core" for name in one.needs} == listed


def test_the_steps_are_those_of_the_readme() -> None:
    """Every kind of step and every word of a template is described."""
    assert set(STEPS) == scenario.VERBS
    steps = README.partition("## Steps")[2].partition("\n## ")[0]
    assert set(re.findall(r'^\| `\{"([a-z]+)":', steps, re.MULTILINE)) == scenario.VERBS


@pytest.mark.parametrize("vector", [v for group in VALUES["groups"] for v in group["vectors"]])
def test_each_vector_is_one_value(vector: dict[str, Any]) -> None:
    """All ways to write it say the same, in JSON and in msgpack."""
    values = [from_json(text.encode()) for text in vector.get("json", [])]
    values += [from_msgpack(bytes.fromhex(packed)) for packed in vector.get("msgpack", [])]
    values += [build(vector["value"])] if "value" in vector else []
    assert values
    spread = vector["name"] in ("before 1970", "an escaped slash")
    assert spread or not any(unequal(values[0], value) for value in values)


def test_what_the_files_may_not_hold() -> None:
    """A mistake in a file is an error that names the file and the scenario."""
    good = {"name": "n", "doc": "d", "steps": [{"close": "stdin"}]}
    for bad, said in (
        ({**good, "stepz": []}, "a.json: n: unknown: stepz"),
        ({**good, "steps": [{"clothes": 1}]}, "a.json: n: not one thing to do in"),
        ({**good, "steps": [{"end": 1, "err": 1}]}, "a.json: n: not one thing to do in"),
        ({"name": "n"}, "a.json: n: .*missing"),
    ):
        with pytest.raises(ValueError, match=said):
            list(scenario.read({"feature": "f", "scenarios": [bad]}, "a.json"))


def test_what_a_scenario_needs() -> None:
    """The nodes that it calls, and those it names; not the one that is meant to be missing."""
    steps = (
        {"send": {"op": "call", "id": 1, "node": "echo", "msg": {}}},
        {"send": [{"$each": [1, 2, {"op": "call", "id": "$n", "node": "count"}]}]},
        {"send": {"op": "call", "id": 3, "node": "nowhere"}},
    )
    given = {"name": "n", "doc": "d", "steps": list(steps), "needs": ["kind"], "caps": ["cancel"]}
    [one] = scenario.read({"feature": "f", "scenarios": [given]}, "a.json")
    assert one.needs == ("kind", "echo", "count")
    assert scenario.lacks(one, ["kind", "echo"], ["cancel"]) == "it has no node count"
    assert scenario.lacks(one, [], ["cancel"]) == "its ready lists no nodes"
    assert scenario.lacks(one, one.needs, []) == "its caps lack cancel"
    assert scenario.lacks(one, one.needs, ["cancel"]) == ""


def test_split() -> None:
    """Scenarios are split by codec, and run only in the codecs that they have."""
    both = Scenario("f", "both", "", ())
    text = Scenario("f", "text", "", (), codecs=("json",))
    found = [(s.name, s.codecs) for s in runner.split([both, text], ("json", "msgpack"))]
    assert found == [("both", ("json",)), ("text", ("json",)), ("both", ("msgpack",))]


# Templates


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ({"$repeat": ["ab", 2]}, "abab"),
        ({"$list": [0, 3]}, [0, 0, 0]),
        ({"$range": [1, 3]}, [1, 2, 3]),
        ({"$nest": 3}, [[[]]]),
        ({"$float": "inf"}, float("inf")),
        ({"$bytes": "00ff"}, b"\x00\xff"),
        ({"a": [{"$nest": 1}], "$b": 1}, {"a": [[]], "$b": 1}),
        ({"$any": True}, {"$any": True}),
    ],
)
def test_build(template: Any, value: Any) -> None:
    """A template is replaced by its value; words that match are left as they are."""
    assert build(template) == value


def test_an_unknown_word() -> None:
    """It is a mistake in a file."""
    with pytest.raises(ValueError, match=r"\$wrong"):
        build([{"$wrong": 1}])


@pytest.mark.parametrize(
    ("want", "got"),
    [
        (3.0, 3),
        (float("nan"), float("nan")),
        (-0.0, -0.0),
        ([1, "a", None], [1, "a", None]),
        ([1], (1,)),
        ({"a": {"$any": True}}, {"a": 0}),
        ({"$contains": "b"}, "abc"),
        ({"$between": [1, 2]}, 1.5),
        ({"$starts": [1]}, [1, 2]),
        ({"$has": {"a": 1, "b": None}}, {"a": 1, "c": 2}),
        ({"$or": [1, 2]}, 2),
        ({"$exactly": {"$any": True}}, {"$any": True}),
        ({"$list": [0, 1000]}, [0] * 1000),
        ({"$time": "2026-01-01T00:00:00+00:00"}, build({"$time": "2026-01-01T00:00:00+00:00"})),
    ],
)
def test_what_is_as_expected(want: Any, got: Any) -> None:
    """No difference."""
    assert difference(want, got) == ""


@pytest.mark.parametrize(
    ("want", "got"),
    [
        (3, 3.0),
        (1, True),
        (True, 1),
        (0, False),
        (-0.0, 0),
        (-0.0, 0.0),
        (0.0, -0.0),
        (0.5, 0),
        (2**53 + 1, 2**53),
        (float("nan"), None),
        ("1", 1),
        ("a", b"a"),
        (None, 0),
        ([], {}),
        ([0], [0, 0]),
        ([0, 0], [0, False]),
        ({"a": None}, {}),
        ({}, {"a": None}),
        ({"a": {"$any": True}}, {"a": None}),
        ({"$contains": "b"}, "a"),
        ({"$contains": "b"}, None),
        ({"$between": [1, 2]}, 3),
        ({"$between": [1, 2]}, "1"),
        ({"$starts": [1, 2]}, [1]),
        ({"$starts": [1]}, "1"),
        ({"$has": {"a": 1}}, {"a": 2}),
        ({"$has": {"a": 1}}, []),
        ({"$or": [1, 2]}, 3),
        ({"$exactly": {"$any": True}}, 1),
        ({"$list": [0, 1000]}, [0] * 999),
    ],
)
def test_what_is_not_as_expected(want: Any, got: Any) -> None:
    """A difference, which says what was expected and what came."""
    assert re.search("expected .* got", difference(want, got))


def test_where_it_differs() -> None:
    """The path leads to it."""
    said = difference({"a": [{"b": 1}]}, {"a": [{"b": 2}]})
    assert said == ".a[0].b: expected 1, got 2"
    assert difference(0.1, "0.1") == 'it: expected 0.1, got "0.1"'
    assert difference({"$any": True}, None) == "it: expected something, got null"


def test_shorten() -> None:
    """Long values are cut, quickly, and nothing drives the terminal."""
    assert shorten([0] * 1_000_000).endswith("characters)")
    assert shorten("a\x1b[31m\n\u2028") == r"a\x1b[31m\n\u2028"
    assert shorten({"a": b"\x00"}) == '{"a": "b\'\\\\x00\'"}'


# The listener


def heard(*frames: Frame | bytes, codec: str = "json", calls: tuple[int, ...] = (1,)) -> Listener:
    listener = Listener(codec, 1000)
    listener.feed(encode(Ready(1)))
    listener.open.update(calls)
    for frame in frames:
        listener.feed(frame if isinstance(frame, bytes) else encode(frame, codec))
    return listener


def test_what_a_listener_hears() -> None:
    """Results by call, answers, and their order."""
    listener = heard(End(2, [1]), Err(1, "E", "m"), calls=(1, 2))
    assert (listener.results[2], listener.order, listener.open) == ([1], [2, 1], set())


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([End(2)], "call 2, which was never made"),
        ([End(1), End(1)], "call 1, which was answered already"),
        ([Err(7, "E", "m")], "got err of call 7"),
        ([b"print\n"], "only frames on standard output, got the text print"),
        ([b'{"op":"end","id":"1"}\n'], "what is no frame: the id of 'end' is str"),
        ([b'{"op":"end","id":1,"msgs":[NaN]}\n'], "what is no frame"),
        ([End(1, ["x" * 1000])], "got the frame 'end' over the 1000 bytes of max_frame"),
        ([b"{" + b" " * 1000 + b"}\n"], "got a frame over the 1000 bytes of max_frame"),
        ([Ready(1)], "expected one ready, got a second"),
        ([Call(1, {})], "a frame that only a host sends"),
    ],
)
def test_what_a_listener_refuses(frames: list[Any], said: str) -> None:
    """A listener refuses a breach of the protocol at once."""
    with pytest.raises(Fault, match=said):
        heard(*frames)


def test_text_before_ready() -> None:
    """It is only text."""
    listener = Listener("json", 1000)
    listener.feed(b"loading\n" + encode(Ready(1)))
    assert listener.ready == Ready(1)


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_framing(codec: str) -> None:
    """Newline, object, newline; or ready in JSON and then lengths."""
    assert heard(End(1, [1]), codec=codec).misframed() == ""


@pytest.mark.parametrize(
    "data",
    [b'{"op":"end","id":1}\n', b'\n\n{"op":"end","id":1}\n', b'\n{"op":"end","id":1}\r\n'],
)
def test_another_framing(data: bytes) -> None:
    """A host reads these frames all the same, although the page frames them otherwise."""
    assert "newline, object, newline" in heard(data).misframed()


def test_json_where_msgpack_was_taken() -> None:
    """The frames after ready are in the codec that was taken."""
    listener = heard(End(1), codec="msgpack", calls=(1, 2))
    assert listener.misframed() == ""
    listener.feed(encode(End(2)))
    assert "expected the length of a frame" in listener.misframed()


# The verdict


def outcome(result: str, feature: str = "core", name: str = "n", codec: str = "json") -> Outcome:
    return Outcome(codec, feature, name, "doc", result, "why" if result != "passed" else "")


PASSED, FAILED, SKIPPED = (outcome(result) for result in ("passed", "failed", "skipped"))
OTHER = outcome("failed", "log")


@pytest.mark.parametrize(
    ("outcomes", "required", "expected", "code"),
    [
        ([PASSED], ["core"], [], 0),
        ([FAILED], ["core"], [], 1),
        ([SKIPPED], ["core"], [], 1),
        ([PASSED, OTHER], ["core"], [], 0),
        ([PASSED, OTHER], ["all"], [], 1),
        ([PASSED, OTHER], ["core", "log"], [], 1),
        ([PASSED, OTHER], ["all"], ["json/log/n"], 0),
        ([PASSED], ["all"], ["json/core/n"], 1),
        ([PASSED], ["core"], ["json/core/no such"], 1),
        ([PASSED], ["core"], ["json/log/known"], 0),
        ([SKIPPED], ["core"], ["json/core/n"], 0),
    ],
)
def test_the_exit_code(
    outcomes: list[Outcome], required: list[str], expected: list[str], code: int
) -> None:
    """The code follows the required features; a stale expectation always counts."""
    assert judge(outcomes, required, expected, ["json/log/known"]).exit_code == code


def test_what_holds() -> None:
    """A feature holds when all of it was played and passed, in every codec."""
    verdict = judge([PASSED, outcome("failed", codec="msgpack"), outcome("passed", "log")], [])
    assert verdict.held == ["log"]
    assert judge([PASSED, replace(SKIPPED, name="m")], []).held == []


def test_a_list_of_expected_failures() -> None:
    """One a line, with remarks."""
    text = "# known\njson/busy/spin   # no threads\n\nmsgpack/log/levels\n"
    assert expected_failures(text) == ["json/busy/spin", "msgpack/log/levels"]


# Reports

SUBJECT = runner.Subject(("ruby", "my app.rb"), Ready(1, sdk="ruby/1", nodes=["echo"]), 0.1)


def verdict(*outcomes: Outcome, expected: tuple[str, ...] = ()) -> Verdict:
    return judge(outcomes, ["core"], expected)


SOME = verdict(
    PASSED,
    replace(outcome("failed", name="m"), sent='{"op":"call"}', stderr="Traceback\nat line 3\n"),
    outcome("failed", "log"),
    replace(outcome("skipped", "log", "m"), reason="it has no node log"),
    expected=("json/log/n", "json/core/gone"),
)


def test_pretty() -> None:
    """The report is readable for a person."""
    assert report.pretty(SUBJECT, SOME, False).splitlines() == [
        "ruby 'my app.rb': ruby/1, 1 nodes",
        "",
        "✘ core         json 1/2",
        "  ✘ json: m",
        "      why",
        '      last sent: {"op":"call"}',
        "      stderr ends: Traceback",
        "        at line 3",
        "✘ log          json 0/2",
        "  ✘ json: n (expected to fail)",
        "      why",
        "  - 1 left out: it has no node log",
        "",
        "1 passed, 2 failed, 1 of them expected, 1 left out",
        "not failing, take it off the expected failures: json/core/gone",
        "Does not conform: core required",
    ]
    assert report.pretty(SUBJECT, verdict(PASSED), False).endswith("emit-node/1: core")
    assert "\x1b[32m✔\x1b[0m core" in report.pretty(SUBJECT, verdict(PASSED), True)


def test_tap() -> None:
    """The report is readable for a TAP harness."""
    assert report.tap(SUBJECT, SOME, False).splitlines() == [
        "TAP version 13",
        "1..4",
        "ok 1 - json/core/n",
        "not ok 2 - json/core/m",
        "# why",
        '# last sent: {"op":"call"}',
        "# stderr ends: Traceback",
        "#   at line 3",
        "not ok 3 - json/log/n # TODO expected to fail",
        "# why",
        "ok 4 - json/log/m # SKIP it has no node log",
        "# not failing, take it off the expected failures: json/core/gone",
    ]


def test_junit() -> None:
    """The report is readable for a CI, whatever is in the texts."""
    strange = replace(outcome("failed", name="m"), reason="<&\x00\x1b\ud800", stderr="\x00")
    root = ElementTree.fromstring(report.junit(SUBJECT, verdict(*strange_and(strange)), False))
    suites = {suite.get("name"): suite.attrib for suite in root}
    assert suites["core"] == {"name": "core", "tests": "2", "failures": "1", "skipped": "0"}
    [case] = root.iterfind("./testsuite/testcase/failure")
    assert "<&" in str(case.get("message"))


def strange_and(strange: Outcome) -> list[Outcome]:
    return [PASSED, strange, outcome("skipped", "log")]


def test_json() -> None:
    """The report is readable for a script."""
    document = json.loads(report.as_json(SUBJECT, SOME, False))
    assert document["failed"] == ["json/core/m"]
    assert document["stale"] == ["json/core/gone"]
    assert [o["result"] for o in document["outcomes"]] == ["passed", "failed", "failed", "skipped"]


def test_vectors_become_scenarios() -> None:
    """One for each group, in the codecs that can write some of it, and one for what is seen."""
    group = {"name": "g", "doc": "d", "vectors": [{"name": "v", "msgpack": ["c0"], "kind": "null"}]}
    values, kinds = steps.scenarios({"groups": [group]})
    assert (values.feature, values.needs, values.codecs) == ("values", ("echo",), ("msgpack",))
    assert (kinds.feature, kinds.needs) == ("kinds", ("kind",))
