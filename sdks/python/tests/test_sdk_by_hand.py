"""A program of the Python SDK at a shell: messages in, lines out."""

from __future__ import annotations

import json

import pytest
from sdk_host import ASYNC, by_hand


@pytest.mark.parametrize(
    "stdin",
    ['{"value": 1}\n{"value": 2}\n', '{"value": 1}\n\n{"value": 2}'],
)
def test_one_message_per_line(tmp_path, stdin):
    """Lines of JSON in, a line of JSON per result out."""
    ran = by_hand(tmp_path, stdin, EMIT_NODE="echo")
    assert (ran.stdout, ran.returncode) == ("1\n2\n", 0)


def test_one_document_over_several_lines(tmp_path):
    """A pretty-printed message is one message."""
    ran = by_hand(tmp_path, json.dumps({"value": [1]}, indent=2), EMIT_NODE="echo")
    assert (ran.stdout, ran.returncode) == ("[1]\n", 0)


def test_a_message_in_the_environment_leaves_the_input_alone(tmp_path):
    """Stdin stays untouched for a debugger if EMIT_MSG has the message."""
    text = """
    import sys
    from emit_sdk import serve

    def read(msg):
        return sys.stdin.read()

    serve(read)
    """
    ran = by_hand(tmp_path, "typed", text, EMIT_MSG='{"a": 1}')
    assert (ran.stdout, ran.returncode) == ('"typed"\n', 0)


READS = """
import os, threading
from emit_sdk import context, serve

def read(msg):
    seen = [context().config, os.environ.get("EMIT_CONFIG")]
    thread = threading.Thread(target=lambda: seen.append(context().config))
    thread.start()
    thread.join()
    return seen

serve(read)
"""


def test_the_config_in_the_environment(tmp_path):
    """EMIT_CONFIG has it; a program that a handler starts does not get the variable."""
    config = {"colour": "blue", "sizes": [1, 2**63]}
    ran = by_hand(tmp_path, "{}", READS, EMIT_CONFIG=json.dumps(config))
    assert json.loads(ran.stdout) == [config, None, config]
    assert json.loads(by_hand(tmp_path, "{}", READS).stdout) == [{}, None, {}]


@pytest.mark.parametrize("config", ["secret", "[1, 2]", '{"secret": 1', '"secret"'])
def test_a_config_that_is_no_map(tmp_path, config):
    """It ends the run; the text does not quote what may be a secret."""
    ran = by_hand(tmp_path, "{}", READS, EMIT_CONFIG=config)
    assert (ran.stdout, ran.returncode) == ("", 1)
    assert "EMIT_CONFIG must be a map in JSON" in ran.stderr
    assert "secret" not in ran.stderr


def test_an_error_by_hand_is_text_and_status_1(tmp_path):
    """The traceback shows the author's frames, and later messages still run."""
    ran = by_hand(tmp_path, '{}\n{"count": 1}\n', EMIT_NODE="count")
    assert (ran.stdout, ran.returncode) == ("0\n", 1)
    assert 'no field "count"' in ran.stderr
    assert "emit_sdk.py" not in ran.stderr.split("yield from")[0]


def test_a_probe_gets_ready_before_the_results(tmp_path):
    """EMIT_PROBE=1 puts the very ready frame in front, and an end behind the results."""
    ran = by_hand(tmp_path, '{"count": 2}', EMIT_PROBE="1", EMIT_NODE="count")
    ready, *results = ran.stdout.split("\n")[1:-1]
    assert json.loads(ready)["op"] == "ready"
    assert results == ["0", "1", '{"op":"end","id":null}']


@pytest.mark.parametrize("probe", ["0", "1"])
@pytest.mark.parametrize("how", ["sys.exit()", "sys.exit(0)", "exit()", "sys.exit('no')"])
def test_a_handler_that_ends_the_process_has_failed(tmp_path, how, probe):
    """The exit code is 1, there is no end, and a text says why."""
    text = f"import sys\nfrom emit_sdk import serve\ndef quits(msg):\n    {how}\nserve(quits)\n"
    ran = by_hand(tmp_path, "{}\n{}\n", text, EMIT_PROBE=probe)
    assert (ran.returncode, "end" in ran.stdout.splitlines()[-1:]) == (1, False)
    assert ran.stderr.startswith("the handler ended the process: SystemExit(")
    assert ran.stderr.count("\n") == 1  # what comes after it is not begun


def test_a_process_that_is_ended_without_a_word(tmp_path):
    """Nothing can be said any more, but that there is no end tells a host."""
    text = "import os\nfrom emit_sdk import serve\nserve(lambda msg: os._exit(0))\n"
    ran = by_hand(tmp_path, "{}", text, EMIT_PROBE="1")
    [ready] = ran.stdout.split()
    assert "end" in json.loads(ready)["caps"]
    assert ran.returncode == 0


def test_several_nodes_by_hand_need_a_name(tmp_path):
    """A run without EMIT_NODE guesses no node; nor does one with an unknown name."""
    ran = by_hand(tmp_path, "{}")
    assert ran.returncode == 1
    assert "set EMIT_NODE to one of the program's nodes: count, echo" in ran.stderr
    ran = by_hand(tmp_path, "{}", EMIT_NODE="ecko")
    assert ran.returncode == 1
    assert 'there is no node "ecko" in this program; it has: count, echo' in ran.stderr


@pytest.mark.parametrize("name", ["", "another"])
def test_one_node_by_hand_needs_no_name(tmp_path, name):
    """A single node is served without a name and under any name."""
    text = "from emit_sdk import serve\nserve(lambda msg: 1)\n"
    assert by_hand(tmp_path, "{}", text, EMIT_NODE=name).stdout == "1\n"


def test_async_by_hand(tmp_path):
    """Async handlers need no host either."""
    ran = by_hand(tmp_path, '{"count": 2}', ASYNC, EMIT_NODE="stream")
    assert (ran.stdout, ran.returncode) == ("0\n1\n", 0)
