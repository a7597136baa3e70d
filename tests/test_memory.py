"""Full memory in one line, in the programs and on the page."""

import resource
import subprocess
import sys
import time

import jax
import pytest

from taming_jax import cli
from taming_jax.memory import out_of_memory
from taming_jax.page.queue import Queue

ERROR = jax.errors.JaxRuntimeError
GPU = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 33554432000 bytes."


@pytest.mark.parametrize(
    ("error", "backend", "words"),
    [
        (ERROR(GPU), "gpu", ("GPU's memory is full (33554432000 bytes", "MEM_FRACTION", "PREALLOCATE=false", "remat")),
        (
            ERROR("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
            "cpu",
            ("GPU's", "XLA_PYTHON_CLIENT_MEM_FRACTION"),
        ),
        (ERROR("FAILED_PRECONDITION: DNN library initialization failed."), "gpu", ("GPU's memory is full. Where",)),
        (RuntimeError("Unable to initialize backend 'cuda': RESOURCE_EXHAUSTED: "), "cpu", ("the GPU's memory",)),
        (ERROR("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm."), "tpu", ("TPU's", "fsdp", "compile_for")),
        (
            ERROR("RESOURCE_EXHAUSTED: Out of memory allocating 137438953472 bytes."),
            "cpu",
            ("this machine's memory is",),
        ),
        (MemoryError("Unable to allocate 7.45 GiB for an array"), "gpu", ("machine's memory is full (7.45 GiB",)),
    ],
)
def test_full_memory_says_what_to_do(error, backend, words, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    text = out_of_memory(error)
    assert all(word in text for word in words) and "\n" not in text and "config.data.batch_size" in text
    assert ("XLA_" in text) == ("GPU" in text)


@pytest.mark.parametrize(
    "error", [ValueError(GPU), ERROR("INTERNAL: no such thing"), RuntimeError("dictionary"), KeyError()]
)
def test_other_errors_are_none_of_it(error):
    assert out_of_memory(error) == ""


def test_the_page_tells_it_in_place_of_the_exceptions_name(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    def draw(asked, progress, show):
        raise ERROR(GPU if asked else "INTERNAL: else")

    queue = Queue(draw)
    full, other = queue.add(True, 1), queue.add(False, 1)
    for _ in range(500):
        if other.over:
            break
        time.sleep(0.01)
    assert full.error.startswith("the GPU's memory is full") and other.error.startswith("JaxRuntimeError; the server's")


PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from taming_jax import cli
jnp.zeros(3).block_until_ready()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.RLIM_INFINITY))
def main(config):
    jnp.ones((1 << 14, 1 << 16), jnp.float32).block_until_ready()
cli.run(main, "x.py", has_workdir=False)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_a_program_ends_in_one_line(tmp_path):
    """4 GiB where 256 MiB are left."""
    assert resource.RLIMIT_AS and cli
    (tmp_path / "x.py").write_text(
        "from ml_collections import ConfigDict\nget_config = lambda arg='': ConfigDict({'workdir': ''})\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-c", PROGRAM, f"--config={tmp_path / 'x.py'}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, encoding="utf-8")
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 1 and last.startswith("error: this machine's memory is full"), result.stderr
    assert "Traceback" not in result.stderr
