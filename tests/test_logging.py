"""The events that are logged, their levels, and the values that never are."""

from __future__ import annotations

import logging
import logging.config
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import Message, Router

#: Stands in for a payload that must not get into a log.
CANARY = "canary-5f2e"

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="emit")


def levels(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def declare() -> Router:
    router = Router()

    @router.node(("word",), entry_point=True, name="words")
    def words(msg: Message) -> Iterator[str]:
        yield msg.text

    router.node(("word",), "words", name="count")(lambda msg: msg.word)
    return router


def test_the_documented_levels(caplog: pytest.LogCaptureFixture) -> None:
    """DEBUG: registration and calls. INFO: routes and receipts. All on the logger emit."""
    router = declare()
    router(text=CANARY)
    assert {record.name for record in caplog.records} == {"emit"}
    assert levels(caplog) == [
        ("DEBUG", "initialized Router"),
        ("DEBUG", 'registered "words"'),
        ("DEBUG", 'registered "count"'),
        ("INFO", "received a message for the entry points"),
        ("INFO", 'added route "__entry_point" -> "words"'),
        ("INFO", 'added route "words" -> "count"'),
        ("INFO", '"words" received a message from __entry_point'),
        ("DEBUG", 'calling "words" with text, _origin'),
        ("INFO", '"count" received a message from words'),
        ("DEBUG", 'calling "count" with word, _origin'),
    ]


def test_a_direct_call(caplog: pytest.LogCaptureFixture) -> None:
    """A node that is called directly has received its message from a call."""
    router = declare()
    caplog.clear()
    router.functions["count"](word=CANARY)
    assert ("INFO", '"count" received a message from a call') in levels(caplog)


def test_a_route_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Routes made again are logged only where they are new."""
    router = declare()
    router(text="a")
    caplog.clear()
    router.regenerate_routes()
    assert levels(caplog) == []
    router.node((), "count", name="end")(lambda msg: None)
    router.regenerate_routes()
    assert [text for level, text in levels(caplog) if level == "INFO"] == [
        'added route "count" -> "end"'
    ]


def test_a_payload_is_never_logged_above_debug(caplog: pytest.LogCaptureFixture) -> None:
    """Nor does a failure log anything: the exception tells it."""
    router = declare()
    router(text=CANARY)
    router.node(("a", "b"), "count", name="fails")(lambda msg: msg.word)
    with pytest.raises(ValueError, match="fails") as caught:
        router(text=CANARY)
    assert CANARY not in str(caught.value)
    with pytest.raises(TypeError):
        router.functions["count"](CANARY)
    for record in caplog.records:
        assert record.levelno <= logging.INFO
        assert record.levelno == logging.DEBUG or CANARY not in record.getMessage()


def test_silent_without_set_up(tmp_path: Path) -> None:
    """A program that sets up no logging sees nothing of it."""
    done = program("router(text='x')")
    assert (done.stdout, done.stderr) == ("", "")


def test_the_documented_basic_config() -> None:
    """logging.basicConfig as in the documentation's app.py shows every line with its level."""
    done = program(
        "import logging\n"
        "logging.basicConfig(format='%(levelname)s:%(message)s', level=logging.DEBUG)\n"
        "router(text='x')"
    )
    lines = done.stderr.splitlines()
    assert "INFO:received a message for the entry points" in lines
    assert 'DEBUG:calling "words" with text, _origin' in lines


def program(rest: str) -> subprocess.CompletedProcess[str]:
    source = (
        "from emit import Router\n"
        "router = Router()\n"
        "router.node(('word',), entry_point=True, name='words')(lambda msg: msg.text)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", source + rest], cwd=ROOT, capture_output=True, text=True, check=True
    )


def test_the_documented_django_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """A dictConfig with a logger "emit", as in Django's LOGGING, decides what is shown."""
    logger = logging.getLogger("emit")
    before = (logger.level, logger.handlers[:], logger.propagate)
    settings: dict[str, Any] = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(levelname)s %(name)s %(message)s"}},
        "handlers": {
            "console": {
                "level": "INFO",
                "class": "logging.StreamHandler",
                "formatter": "plain",
                "stream": "ext://sys.stdout",
            }
        },
        "loggers": {"emit": {"handlers": ["console"], "level": "DEBUG", "propagate": False}},
    }
    try:
        logging.config.dictConfig(settings)
        declare()(text=CANARY)
    finally:
        logger.setLevel(before[0])
        logger.handlers[:], logger.propagate = before[1], before[2]
    printed = capsys.readouterr().out
    assert "INFO emit received a message for the entry points\n" in printed
    assert "DEBUG" not in printed
    assert CANARY not in printed
