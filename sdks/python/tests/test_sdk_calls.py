"""The Python SDK under a host: calls, their answers, and what else a host is told."""

from __future__ import annotations

import json
import time

import pytest
from sdk_host import CODECS, by_hand, hosted


@pytest.mark.parametrize("codec", CODECS)
def test_ready_says_what_this_program_is(tmp_path, codec):
    """Ready carries version, codec, concurrency, nodes, their inputs and caps."""
    with hosted(tmp_path, codec=codec) as host:
        assert host.ready["op"] == "ready"
        assert host.ready["v"] == 1
        assert host.ready["codec"] == codec
        assert host.ready["concurrency"] == 1
        assert "count" in host.ready["nodes"]
        assert host.ready["inputs"] == {
            "price": {"required": ["sku"], "optional": ["count"]},
            "rest": {"required": ["sku"], "optional": []},
            "fields": {"required": [], "optional": []},
            "all_of_it": {"required": [], "optional": []},
        }
        assert host.ready["caps"] == ["cancel", "end", "groups"]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("node", "msg", "results"),
    [
        ("count", {"count": 3}, [0, 1, 2]),
        ("count", {"count": 20}, list(range(20))),
        (
            "echo",
            {"value": {"a": [1, None, True, "ü\u2028\n"]}},
            [{"a": [1, None, True, "ü\u2028\n"]}],
        ),
        ("echo", {"value": 2**64 - 1}, [2**64 - 1]),
        ("echo", {"value": -(2**63)}, [-(2**63)]),
        ("emit_none", {}, [None]),
        ("nothing", {}, []),
        ("price", {"sku": "a", "other": 1}, [["a", 1]]),
        ("price", {"sku": "a", "count": 2}, [["a", 2]]),
        ("rest", {"sku": "a", "b": 1}, [{"b": 1}]),
        ("fields", {"sku": "a", "b": 1}, [{"sku": "a", "b": 1}]),
        ("all_of_it", {"sku": "a"}, [{"sku": "a"}]),
    ],
)
def test_results_ride_on_end(tmp_path, codec, node, msg, results):
    """A handler's results come in order, on the one frame that ends the call."""
    with hosted(tmp_path, codec=codec) as host:
        assert host.call(node, 7, **msg) == {"op": "end", "id": 7, "msgs": results}


def test_every_call_of_a_backlog_is_answered_in_order(tmp_path):
    """A thousand calls written at once get a thousand answers, in order of arrival."""
    with hosted(tmp_path) as host:
        host.write(
            b"".join(host.pack(op="call", id=n, node="echo", msg={"value": n}) for n in range(1000))
        )
        assert [host.read() for _ in range(1000)] == [
            {"op": "end", "id": n, "msgs": [n]} for n in range(1000)
        ]


@pytest.mark.parametrize("codec", CODECS)
def test_a_long_stream_comes_in_parts(tmp_path, codec):
    """Results do not pile up until the end: out frames carry them, all and in order."""
    with hosted(tmp_path, codec=codec) as host:
        host.ask("count", count=100_000)
        frame, results, outs = host.read(), [], 0
        while frame["op"] == "out":
            results, outs, frame = results + frame["msgs"], outs + 1, host.read()
        assert results + frame["msgs"] == list(range(100_000))
        assert outs > 2


def test_no_result_waits_for_a_slow_handler(tmp_path):
    """A finished call, and what a slow one has yielded, arrive while the slow one still runs."""
    with hosted(tmp_path) as host:
        go = tmp_path / "go"
        quick = host.pack(op="call", id=1, node="echo", msg={"value": 1})
        host.write(quick + host.pack(op="call", id=2, node="slow", msg={"go": str(go)}))
        assert host.read() == {"op": "end", "id": 1, "msgs": [1]}
        assert host.read() == {"op": "out", "id": 2, "msgs": ["first"]}
        go.touch()
        assert host.answer() == {"op": "end", "id": 2, "msgs": ["last"]}


@pytest.mark.parametrize("codec", CODECS)
def test_an_error_names_the_authors_line_and_its_cause(tmp_path, codec):
    """Err has type, text, the author's frames only and the chain of causes; the process goes on."""
    with hosted(tmp_path, codec=codec) as host:
        err = host.call("fail")
        assert (err["op"], err["id"], err["type"]) == ("err", 1, "ValueError")
        assert err["message"] == "as asked \\ud800"
        assert "program.py" in err["stack"][0]
        assert "emit_sdk" not in "".join(err["stack"])
        assert err["cause"]["type"] == "KeyError"
        assert "retry" not in err
        assert host.call("echo", 2, value=1)["msgs"] == [1]


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("later", {"type": "Retry", "message": "busy", "retry": True, "after": 1.5}),
        ("never", {"type": "Reject", "message": "bad message", "retry": False}),
        ("leave", {"message": "the handler ended the process: SystemExit(3)"}),
        ("interrupt", {"type": "KeyboardInterrupt"}),
        ("price", {"type": "TypeError", "message": 'price needs "sku"; the message has: '}),
        ("count", {"type": "AttributeError", "message": 'no field "count"; the message has: '}),
        ("unknown", {"type": "LookupError"}),
    ],
)
def test_whatever_a_handler_raises_answers_its_call(tmp_path, node, expected):
    """Exits and interrupts too are errors of one call, with what they say about a retry."""
    with hosted(tmp_path) as host:
        err = host.call(node)
        assert {**expected, "op": "err"} == {key: err[key] for key in [*expected, "op"]}
        assert host.call("echo", 2, value=1)["op"] == "end"


def test_prints_and_reads_cannot_touch_the_wire(tmp_path):
    """Output of the handler, a library or a child goes to stderr; reads find the end of input."""
    with hosted(tmp_path) as host:
        assert host.call("noisy") == {"op": "end", "id": 1, "msgs": [""]}
        assert host.end() == 0
        assert {b"printed", b"written", b"from a child"} <= set(
            host.process.stderr.read().split(b"\n")
        )


def test_logging_reaches_the_host_with_the_call(tmp_path):
    """A record of the standard library's logging is a log frame with level, text and id."""
    with hosted(tmp_path) as host:
        host.ask("log", 5)
        log = host.read()
        assert log == {
            "op": "log",
            "level": "warning",
            "text": "stock is 3",
            "id": 5,
            "fields": {"logger": "shop"},
        }
        assert host.read() == {"op": "end", "id": 5, "msgs": []}


def test_context_tells_about_the_call(tmp_path):
    """The meta of a call is what context() gives."""
    meta = {"origin": "shop", "attempt": 2, "deadline_ms": 5000, "traceparent": "00-1-2-01"}
    meta["tracestate"] = "v=1"
    with hosted(tmp_path) as host:
        assert host.call("about", meta=meta)["msgs"] == [
            ["about", "shop", 2, True, "00-1-2-01", "v=1"]
        ]


def test_a_deadline_counts_from_the_turn(tmp_path):
    """A call that has waited for those before it has all of its time."""
    meta = {"deadline_ms": 60_000}
    with hosted(tmp_path) as host:
        slow = host.pack(op="call", id=1, node="slow", msg={"go": str(tmp_path / "go")}, meta=meta)
        host.write(slow + host.pack(op="call", id=2, node="left", msg={}, meta=meta))
        assert host.read() == {"op": "out", "id": 1, "msgs": ["first"]}
        time.sleep(1)  # which the second call has to wait at least
        (tmp_path / "go").touch()
        assert host.answer()["id"] == 1
        [left] = host.answer()["msgs"]
        assert 59.1 < left <= 60


@pytest.mark.parametrize("how", ["timeout", "subprocess", "cause"])
def test_a_failure_of_the_deadline_is_a_timeout(tmp_path, how):
    """A timeout of any library, or what it has caused, once the deadline has passed."""
    with hosted(tmp_path) as host:
        assert host.call("late", 1, {"deadline_ms": 30}, how=how)["timeout"] is True
        assert "timeout" not in host.call("late", 2, {"deadline_ms": 30}, how="other")
        assert "timeout" not in host.call("late", 3, {"deadline_ms": 30}, how="reject")
        assert "timeout" not in host.call("late", 4, {"deadline_ms": 60_000}, how="early")
        assert "timeout" not in host.call("late", 5, how="early")


def test_one_node_has_any_name(tmp_path):
    """A program with one node serves it, however it is called."""
    text = "from emit_sdk import context, serve\nserve(lambda msg: context().node)\n"
    with hosted(tmp_path, text) as host:
        host.send(op="call", id=1, msg={})
        assert host.answer()["msgs"] == ["<lambda>"]
        assert host.call("another", 2)["msgs"] == ["<lambda>"]


def test_a_call_for_no_node_lists_those_there_are(tmp_path):
    """An unknown name runs no other node, if it comes with the call or with hello."""
    with hosted(tmp_path) as host:
        host.send(op="call", id=1, msg={})
        for err in (host.answer(), host.call("x", 2)):
            assert err["message"].startswith('there is no node "x" in this program; it has: count,')


def test_ready_leaves_out_what_has_no_room(tmp_path):
    """First the inputs; where that is not enough, the program says so and ends."""
    parameters = ", ".join(f"parameter_{n}" for n in range(30))
    text = f"from emit_sdk import serve\ndef one({parameters}): pass\nserve(one)\n"
    hello = '{"op": "hello", "v": [1], "codecs": ["json"], "node": "one", "max_frame": %d}\n'
    ready = json.loads(by_hand(tmp_path, hello % 500, text).stdout)
    assert (ready["nodes"], ready["inputs"]) == (["one"], {})
    ran = by_hand(tmp_path, hello % 100, text.replace("one", "a_name" * 20))
    err = json.loads(ran.stdout)
    assert (err["op"], err["id"], err["type"]) == ("err", None, "FrameTooLarge")
    assert ran.returncode != 0


def test_cancel_reaches_a_busy_handler(tmp_path):
    """A handler that asks sees the cancel, though one thread reads and runs."""
    with hosted(tmp_path) as host:
        waiting = host.pack(op="call", id=1, node="wait", msg={})
        behind = host.pack(op="call", id=2, node="echo", msg={"value": 1})
        host.write(waiting + behind)
        assert host.read() == {"op": "out", "id": 1, "msgs": ["began"]}
        host.send(op="cancel", id=2)
        host.send(op="cancel", id=1)
        assert host.answer() == {"op": "end", "id": 1, "msgs": ["noticed"]}
        assert host.read()["type"] == "Cancelled"


def test_ping_unknown_frames_and_fields(tmp_path):
    """Ping is answered; what is not known is ignored."""
    with hosted(tmp_path) as host:
        host.send(op="from the future", id=1)
        host.send(op="ping", n=3, more=True)
        assert host.read() == {"op": "pong", "n": 3}


def test_another_version_is_refused_in_words(tmp_path):
    """A hello without version 1 is answered by an err that says so, and exit status 1."""
    hello = '{"op": "hello", "v": [2], "codecs": ["json"]}\n'
    ran = by_hand(tmp_path, hello)
    err = json.loads(ran.stdout)
    assert (err["op"], err["id"], ran.returncode) == ("err", None, 1)
    assert "version 1" in err["message"]
