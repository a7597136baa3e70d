"""Waiting for what another thread does."""

import time
from collections.abc import Callable
from typing import Any


def until(happens: Callable[[], Any], seconds: float = 300) -> None:
    """Patient, for a busy machine; what never happens still ends the test."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, f"it does not happen within {seconds} s"
        time.sleep(0.01)
