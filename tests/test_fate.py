"""The fate of a message whose process failed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from emit.errors import CallTimeout, EncodeError, HostError, ProcessDied, ProtocolError
from emit.host.fate import FAILURES, Job, split
from emit.host.language.runtime import locate
from emit.letter import Cause, DeadLetter

DIED = ProcessDied(node="n", status=-9, stderr_tail="oh")
HUNG = CallTimeout(node="n", timeout=1.0)
BABBLED = ProtocolError(node="n", reason="nonsense")


def jobs(count: int) -> list[Job]:
    return [Job({"n": n}, n, node="n") for n in range(count)]


def test_nothing_was_open() -> None:
    """Nobody is charged."""
    assert split([], 1, DIED) == (None, [])


@pytest.mark.parametrize("error", [HUNG, BABBLED], ids=lambda error: type(error).__name__)
def test_a_process_that_lives_is_at_the_oldest(error: HostError) -> None:
    """The oldest message is charged; those behind it never started."""
    first, *others = jobs(5)
    assert split([first, *others], 1, error) == (first, others)
    assert not any(job.alone for job in others)


def test_a_process_that_died_may_have_taken_answers_with_it() -> None:
    """Each runs again alone, and nobody is charged yet."""
    suspects = jobs(5)
    assert split(suspects, 1, DIED) == (None, suspects)
    assert all(job.alone for job in suspects)


@pytest.mark.parametrize("error", [DIED, HUNG, BABBLED], ids=lambda error: type(error).__name__)
def test_a_process_with_several_at_a_time(error: HostError) -> None:
    """Any message that the process works on may be the culprit: each of them runs again alone."""
    suspects = jobs(5)
    assert split(suspects, 3, error) == (None, suspects)
    assert [job.alone for job in suspects] == [True, True, True, False, False]


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("error", [DIED, HUNG], ids=lambda error: type(error).__name__)
def test_who_fails_alone_is_charged(error: HostError, concurrency: int) -> None:
    """The only message is charged, as no other could have done it."""
    (job,) = jobs(1)
    assert split([job], concurrency, error) == (job, [])


def test_a_process_that_had_announced_its_end() -> None:
    """The only one left may be innocent: it is charged if it fails alone."""
    (job,) = jobs(1)
    assert split([job], 1, DIED, announced=True) == (None, [job])
    assert job.alone
    assert split([job], 1, DIED, announced=True) == (job, [])


def test_three_charges_make_a_dead_letter() -> None:
    """It has all the causes, the first one first, and the message unchanged."""
    job = Job({"n": 1}, node="count")
    assert job.attempt == 1
    assert job.charge(DIED, 3, 10.0)
    assert job.alone
    assert job.attempt == 2
    assert job.charge(HUNG, 3, 20.0)
    assert job.outcome is None
    last = ProtocolError(node="n", reason="nonsense")
    assert not job.charge(last, 3, 30.0)
    assert job.outcome is last
    assert last.letter == DeadLetter("count", {"n": 1}, job.causes)
    assert [(cause.type, cause.at) for cause in job.causes] == [
        ("ProcessDied", 10.0),
        ("CallTimeout", 20.0),
        ("ProtocolError", 30.0),
    ]


def test_a_charge_forgets_what_had_come() -> None:
    """Results of a failed attempt are not mixed with those of the next."""
    job = Job({}, results=[1, 2], size=9, overflow="max_results")
    job.charge(DIED, 3, 0.0)
    assert (job.results, job.size, job.overflow) == (None, 0, "")


def test_a_cause_says_all_that_is_known() -> None:
    """Exit code or signal and the last words on stderr, where the error has them."""
    cause = Cause.of(DIED, 5.0)
    assert (cause.signal, cause.exit_code, cause.stderr_tail) == ("SIGKILL", None, "oh")
    assert cause.text == str(DIED)
    other = Cause.of(ValueError("x"), 6.0)
    assert other == Cause("ValueError", "x", "", None, None, 6.0)


def test_a_cause_says_where() -> None:
    """The author's line, also where what he calls raised it; a library's if there is no other."""

    def price(text: str) -> None:
        json.loads(text)

    def cause(function: Callable[..., object], *args: object) -> str:
        try:
            function(*args)
        except Exception as error:
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            return Cause.of(error, 0.0).text
        raise AssertionError

    line = price.__code__.co_firstlineno + 1
    assert cause(price, "").endswith(f" (char 0) ({__file__}:{line} in price)")
    decoder = re.escape(json.decoder.__file__)
    assert re.search(rf"{decoder}:\d+ in \w+\)$", cause(json.loads, ""))
    assert "(" not in cause(locate, "price", "price.cobol:a b")


def test_a_dead_letter_does_not_show_its_message() -> None:
    """A repr ends in logs."""
    letter = DeadLetter("n", {"secret": "hunter2"}, (Cause.of(HUNG, 0.0),))
    assert repr(letter) == f"<DeadLetter n after 1 attempt: {HUNG}>"
    assert repr(DeadLetter("n", {}, ())) == "<DeadLetter n after 0 attempts: no cause>"


def test_only_failures_of_the_process_are_tried_again() -> None:
    """A message that can't be sent would fail on each of them."""
    assert issubclass(ProcessDied, FAILURES)
    assert not issubclass(EncodeError, FAILURES)
