"""Files that would like to fill the memory, to take for ever, or to crash, are refused in one line within limits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import READ, SECONDS

TESTS = Path(__file__).parent
READABLE = {"many arrays of a storage": "read: 2000"}


@pytest.fixture(scope="module")
def became(tmp_path_factory):
    """What -> (what became of it, seconds), of a process of 2 GiB beyond what it begins with."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    command = [sys.executable, str(TESTS / "hostile.py"), str(tmp_path_factory.mktemp("hostile"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("what", READ)
def test_it_is_refused_in_one_line_at_once(became, what):
    text, seconds = became[what]
    assert text.startswith(READABLE.get(what, ("ValueError: ", "DamagedCheckpoint: ", "BrokenImage: "))), text
    assert "\n" not in text and len(text) < 600
    assert seconds < SECONDS
