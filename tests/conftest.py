"""Strict settings for every test: eight virtual CPU devices, and no silent broadcasting between ranks."""

import functools
import gc
import importlib.metadata
import importlib.util
import os
import signal
import tempfile

# Read once, when jax is first imported: hence before any import below. Most of the suite's time is compilation, so that
# of small networks is quick rather than thorough, which makes it half to a quarter; what they compute is the same.
FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_opt_preset=FAST_COMPILE",
    "--xla_cpu_parallel_codegen_split_count=1",  # the other core has tests of its own
]
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):  # which ends at a flag it has not
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # these go by way of MLIR, the older ones straight to LLVM
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS]).strip()
os.environ["JAX_PLATFORMS"] = "cpu"

# Behind a `&` or nohup these are ignored, by the programs that the tests start, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

# Where shapes stand in the signatures, every call of a test is checked against them. Before anything of the package is
# imported.
CHECKED = ("nn", "models", "metrics", "conditioning", "two_stage", "training", "sampling", "trained")
install_import_hook([f"taming_jax.{name}" for name in CHECKED], "shapes.checked")

from original_weights import RECIPES

jax.config.update("jax_numpy_rank_promotion", "raise")

# What was compiled once in a run serves all of its tests, in whichever process: those that pytest-xdist starts find the
# folder in their environment. With a limit to its size, which is never reached, JAX writes to it under a lock.
_KEPT = "TAMING_JAX_TESTS_CACHE"
if _KEPT not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="taming_jax_tests_")
    os.environ[_KEPT] = _CACHE.name
jax.config.update("jax_compilation_cache_dir", os.environ[_KEPT])
jax.config.update("jax_compilation_cache_max_size", 1 << 36)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(scope="module", autouse=True)
def _memory_of_one_file() -> None:
    """What earlier files have compiled is forgotten, gigabytes of it; on disk it stays. And the garbage collector looks
    no more through what is left, which made tracing ten times as slow."""
    jax.clear_caches()
    gc.collect()
    gc.freeze()


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """For a function's own refusal of arrays that its signature does not allow."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


# What is compared with twins of other programs' networks in PyTorch, which is large and needed for nothing else.
WITH_TORCH = ("test_dinov2.py", "test_formats.py", "test_hub.py", "test_inception.py", "test_weight_files.py")
collect_ignore = [] if importlib.util.find_spec("torch") else [*WITH_TORCH]

# What trains, converts or compiles for many seconds; `-m "not slow"` leaves it out.
SLOW = (
    "test_codebooks_benchmark.py", "test_compile_for.py", "test_conditioning.py", "test_configs.py", "test_convert.py",
    "test_evaluate.py", "test_every_setting.py", "test_loop.py", "test_mesh.py", "test_programs.py",
    "test_rectangles.py", "test_window.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in SLOW:
            item.add_marker("slow")


def pytest_report_header() -> str:
    return f"without PyTorch, and so without {', '.join(collect_ignore)}: pip install torch" if collect_ignore else ""


GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """golden("name") -> the arrays of tests/goldens/name.npz, numbers computed by the PyTorch implementation.

    Beside them, as "weight/...", the weights with which it computed them.
    """

    @functools.cache
    def made(name: str) -> dict[str, np.ndarray]:
        return RECIPES[name].weights() if name in RECIPES else {}

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as arrays:
            return {**arrays, **{f"weight/{key}": value for key, value in made(name).items()}}

    return load
