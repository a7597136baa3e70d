"""Which host the others waited for."""

import socket
import time

import numpy as np
import pytest

from taming_jax.training.pace import Pace


@pytest.fixture
def passes(monkeypatch):
    """Lets time go by."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def hosts(others: list):
    """A gathering of this host's arrays and of three that are made of them by `others`."""

    def gather(array: np.ndarray) -> np.ndarray:
        if array.dtype == np.uint8:
            return np.stack([np.frombuffer(f"host-{i}".encode().ljust(64, b"\0"), np.uint8) for i in range(4)])
        return np.stack([array, *(other(array) for other in others)])

    return gather


def waits(array: np.ndarray) -> np.ndarray:
    """As long steps, and little work in each."""
    return np.stack([array[:, 0], np.full(len(array), 0.1, np.float32)], axis=1)


def works(array: np.ndarray) -> np.ndarray:
    return np.stack([array[:, 0], array[:, 0] - 0.5], axis=1)


def interval(pace: Pace, passes, seconds: list[float]) -> None:
    for each in seconds:
        with pace.step():
            passes(0.1)
            with pace.waiting():
                passes(each - 0.1)
        passes(7)  # what lies between steps, such as an evaluation, is none


def test_the_host_that_waited_least_is_named(passes):
    pace = Pace(hosts([waits, works, waits]))
    interval(pace, passes, [1.0, 1.0, 1.5, 1.0])
    assert pace.look(50) == ""
    interval(pace, passes, [1.0, 1.0, 9.0, 1.0, 1.0])
    said = pace.look(55)
    assert said.startswith("step 53 took 9.00 s, usually 1.00; ") and "process 2 on host-2" in said
    assert "for 9.50 s around it, the others for 0.30" in said
    interval(pace, passes, [1.0, 1.0])
    assert pace.look(57) == "" and pace.look(57) == ""  # told once


def test_a_whole_interval_that_is_slow_is_seen_by_those_before(passes):
    pace = Pace(hosts([works, waits, waits]))
    for _ in range(4):
        interval(pace, passes, [1.0, 1.0])
        assert pace.look(10) == ""
    interval(pace, passes, [4.0, 4.0])
    assert "process 1 on host-1" in pace.look(12)


def test_nobody_is_named_where_all_waited(passes):
    pace = Pace(hosts([waits, waits, waits]))
    interval(pace, passes, [1.0, 1.0, 9.0])
    assert pace.look(3).endswith("; all hosts waited, busy by themselves for 0.30 s at most around it")


def test_short_steps_and_single_hosts_are_not_told_of(passes):
    pace, alone = Pace(hosts([waits, works, waits])), Pace(lambda array: array[None])
    for one, seconds in ((pace, 0.9), (alone, 9.0)):
        interval(one, passes, [0.2, 0.2, 0.2, seconds])
        assert one.look(4) == ""


def test_gathering_with_no_other_process_is_this_one():
    from taming_jax.training.pace import _gather

    name = np.frombuffer(socket.gethostname().encode(), np.uint8)
    np.testing.assert_array_equal(_gather(name), name[None])
