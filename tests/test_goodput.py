"""What a training's time goes into."""

import time

import pytest

from taming_jax.training.goodput import Goodput


def test_what_is_not_named_is_steps(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    clock = Goodput()
    with clock.other("start"):
        passes(2)
    passes(5)
    with clock.other("saving"):
        passes(1)
    with pytest.raises(OSError), clock.other("data"):
        passes(2)
        raise OSError
    assert clock.shares() == {"goodput": 0.5, "lost_data": 0.2, "lost_saving": 0.1, "lost_start": 0.2}
    assert str(clock) == "50.0% of the time went into steps; data 20.0%, saving 10.0%, start 20.0%"
