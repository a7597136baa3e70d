"""Spoiled files of every kind: one line that says what is wrong, or what is left; `benchmarks/fuzz.py` tries more."""

import logging
import signal
import time

import pytest
from fuzzing import CASES, Fuzz, Hang, judged, watchdog

SEED, N = 14, 2000


@pytest.fixture
def fuzz(tmp_path):
    logging.disable(logging.WARNING)  # what is left out is said in the log, thousands of times here
    yield Fuzz(tmp_path)
    logging.disable(logging.NOTSET)


def test_spoiled_files_are_refused_in_one_line_or_read(fuzz):
    wrong = [text for i in range(N) if (text := fuzz.run(SEED, i))]
    assert not wrong, "\n".join(wrong)
    assert {*fuzz.refused, *fuzz.read} == set(CASES)
    assert min(fuzz.refused.total(), fuzz.read.total()) > N / 4  # neither spoiled beyond all reading nor hardly at all


def test_what_is_wrong_is_found(fuzz, monkeypatch):
    def spoil(what, limit=10):
        def read(*_):
            what()

        monkeypatch.setattr("fuzzing.LIMIT", limit)  # six times as long by the clock
        for name in CASES:
            monkeypatch.setattr(fuzz, name, read)
        return fuzz.run(0, 0)

    def compute():
        while True:
            pass

    def wait():
        time.sleep(9)

    def linger():
        start = time.process_time()
        while time.process_time() - start < 0.25:
            pass

    assert all("longer than 0.2 s" in spoil(what, 0.2) for what in (compute, wait, linger))
    assert "KeyError: 'x' at " in spoil(lambda: {}["x"])
    assert "another's words" in spoil(lambda: int("x"))
    assert spoil(lambda: None) == ""
    assert "more than one line" in judged_of(OSError("a\nb"))


def judged_of(error):
    try:
        raise error
    except type(error) as caught:
        return judged(caught)


def test_the_watchdog_leaves_nothing_behind():
    with pytest.raises(Hang), watchdog(0.05):
        while True:
            pass
    with watchdog(60):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
