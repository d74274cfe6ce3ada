"""The check for leaks finds what the body leaves, and nothing of what came before it."""

from __future__ import annotations

import gc
import os
import threading

import pytest

from tests.leaks import no_leaks


class _Kept:
    """An end of a pipe in a cycle, so that only the garbage collector closes it."""

    def __init__(self) -> None:
        self.pipe = os.pipe()
        self.cycle = self

    def __del__(self) -> None:
        for end in self.pipe:
            os.close(end)


def test_garbage_of_others() -> None:
    _Kept()
    with no_leaks(within=0.0):
        gc.collect()


def test_a_descriptor_too_many() -> None:
    with pytest.raises(AssertionError, match=r"descriptors: more \['pipe', 'pipe'\]"):
        with no_leaks(within=0.0):
            kept = _Kept()
    del kept
    gc.collect()


def test_a_descriptor_of_another() -> None:
    """A test that closes a foreign descriptor fails like one that leaves a descriptor open."""
    ends = os.pipe()
    with pytest.raises(AssertionError, match=r"descriptors: more \[\], fewer \['pipe'\]"):
        with no_leaks(within=0.0):
            os.close(ends[0])
    os.close(ends[1])


def test_a_thread_too_many() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="kept", daemon=True)
    with pytest.raises(AssertionError, match=r"threads: more \['kept'\]"):
        with no_leaks(within=0.0):
            thread.start()
    done.set()
    thread.join()
