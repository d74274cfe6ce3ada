"""Handlers in an author's own test, with no host and no process."""

from __future__ import annotations

import importlib.util

import pytest
from sdk_host import program

import emit_sdk


def test_importing_a_node_file_serves_nothing(tmp_path):
    """The file is a module as any other, and its functions are what was written."""
    path = program(
        tmp_path, "from emit_sdk import serve\ndef one(msg):\n    return msg.n\nserve(one)\n"
    )
    spec = importlib.util.spec_from_file_location("a_node", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.one(emit_sdk.Message(n=1)) == 1


def test_call_runs_each_kind_of_handler():
    """Values, generators, async functions and async generators, all give a list."""

    async def later(msg):
        return msg.n

    async def stream(msg):
        yield msg.n
        yield None

    assert emit_sdk.call(lambda msg: msg.n, n=1) == [1]
    assert emit_sdk.call(lambda msg: iter((msg.n, 2)), n=1) == [1, 2]
    assert emit_sdk.call(lambda msg: None) == []
    assert emit_sdk.call(later, n=1) == [1]
    assert emit_sdk.call(stream, n=1) == [1, None]
    assert emit_sdk.call(lambda n, k=2: (n, k), n=1) == [[1, 2]]
    assert emit_sdk.call(lambda _: emit_sdk.context().cancelled) == [False]


def test_a_test_has_a_config(monkeypatch):
    """A test gives its handlers a config as a shell does."""
    assert emit_sdk.call(lambda _: emit_sdk.context().config) == [{}]
    monkeypatch.setenv("EMIT_CONFIG", '{"a": 1}')
    assert emit_sdk.call(lambda _: emit_sdk.context().config) == [{"a": 1}]


def test_call_refuses_what_no_codec_carries():
    """A test fails where a host would."""
    with pytest.raises(emit_sdk.EncodeError, match="result is a set"):
        emit_sdk.call(lambda msg: {1})


def test_a_generator_is_closed_when_its_result_is_refused():
    """The handler's own finally runs before the error is reported."""
    seen = []

    def handler(msg):
        try:
            yield {1}
        finally:
            seen.append("closed")

    with pytest.raises(emit_sdk.EncodeError):
        emit_sdk.call(handler)
    assert seen == ["closed"]


def test_a_positional_handler_is_refused():
    """Parameters that no field can name are an error at once."""
    with pytest.raises(TypeError, match="or the fields it needs by name"):
        emit_sdk.call(lambda *args: args)


def test_a_retry_is_told_when():
    """An `after` that no clock can count is an error where it is written."""
    with pytest.raises(ValueError, match="seconds from 0 up"):
        emit_sdk.Retry("busy", after=-1)
