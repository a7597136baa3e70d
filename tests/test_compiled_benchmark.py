"""The table of docs/pods.md is that of the committed runs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import compiled

from taming_jax.compiling import gpus


def test_the_document_has_the_table_of_what_is_kept():
    _, table, _ = compiled.split(compiled.DOCUMENT.read_text(encoding="utf-8"))
    assert table == compiled.table(), "run python benchmarks/compiled.py --write"


def test_what_is_kept_says_with_what_it_was_compiled():
    kept = compiled.kept()
    assert kept and kept.keys() <= compiled.RUNS.keys()
    for name, states in kept.items():
        for found in states.values():
            compiler = "jax-cuda12-pjrt" if gpus.known(found["slice"]) else "libtpu"
            assert found["versions"].keys() == {"jax", "jaxlib", compiler} and "flags" in found
            assert f"--slice={found['slice']}" in compiled.RUNS[name]


def test_the_flags_are_those_of_the_launch_scripts():
    script = (compiled.ROOT / "scripts" / "tpu_worker.sh").read_text(encoding="utf-8")
    assert all(flag in script for flag in compiled.FLAGS.split())
