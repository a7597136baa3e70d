"""NVIDIA GPUs by name, and their devices, described without being there.

XLA's compiler for them needs neither a GPU nor NVIDIA's libraries. What these would choose when they are there is left
out: the fastest kernel of each product and convolution, and the working memory of cuDNN.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import re
from typing import Any

from taming_jax.compiling.target import Target

NODE = 8  # GPUs
CUDNN = (9, 8, 0)  # the oldest that jax[cuda12] installs
MEMORY_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # of a GPU's memory, what JAX takes at its start
PACKAGES = ("jax-cuda12-plugin", "jax-cuda12-pjrt")
# Without a GPU there is nothing to try kernels on.
OPTIONS = {"xla_gpu_autotune_level": 0}
NOTE = (
    "no cycles: this compiler estimates none. Kernels are not tried out, as on a GPU; the working memory of cuDNN and "
    "NCCL is not counted"
)


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU by NVIDIA's data sheets and papers: its name as JAX shows it, compute capability, multiprocessors, clock in
    GHz, memory in GB and its bandwidth in GB/s, level 2 cache in MB; shared memory of a multiprocessor in KB."""

    name: str
    capability: tuple[int, int]
    cores: int
    clock: float
    memory: float
    bandwidth: float
    cache: int
    shared: int


GPUS = {
    "A100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 1.41, 80, 2039, 40, 164),
    "H100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 1.98, 80, 3350, 50, 228),
    "H200": Gpu("NVIDIA H200", (9, 0), 132, 1.98, 141, 4800, 50, 228),
}


def known(name: str) -> bool:
    """Whether a name, such as "8xH100", ends like one of GPUs."""
    return name.rsplit("x", 1)[-1] in GPUS


def parts_of(name: str) -> tuple[int, Gpu]:
    """(how many, which) of `8xH100`: up to `NODE` of one node, or whole nodes. Raises ValueError for other names."""
    found = re.fullmatch(r"([1-9]\d*)x(\w+)", name)
    if not found or found[2] not in GPUS:
        raise ValueError(f"--slice={name!r} is no number of {', '.join(GPUS)}; expected a name such as 8xH100.")
    n = int(found[1])
    if n > NODE and n % NODE:
        raise ValueError(f"--slice={name!r}: more than {NODE} GPUs are whole nodes of {NODE}; give a multiple of it.")
    return n, GPUS[found[2]]


def target(name: str) -> Target:
    """Raises ValueError for an unknown name, or where the compiler is not there."""
    from jax.experimental import topologies

    n, gpu = parts_of(name)
    _check_compiler()
    _let_cudnn_be_called()
    of_node = min(n, NODE)
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name="", target_config=description(gpu), topology=f"1x{n // of_node}x{of_node}"
    )
    share = float(os.environ.get(MEMORY_SHARE, 0.75))
    note = f"{share:.0%} of {gpu.memory:g} GB are a program's, as JAX takes them at its start ({MEMORY_SHARE}); {NOTE}"
    packages = ("jax", "jaxlib", PACKAGES[1])
    return Target(name, list(topology.devices), 0, "XLA_FLAGS", packages, share * gpu.memory * 1e9, OPTIONS, note)


def description(gpu: Gpu) -> str:
    """As XLA's compiler reads it: a GpuTargetConfigProto as text."""
    numbers = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
        "shared_memory_per_core": gpu.shared * 2**10,
        "shared_memory_per_block": 48 * 2**10,
        "shared_memory_per_block_optin": (gpu.shared - 1) * 2**10,
        "core_count": gpu.cores,
        "fpus_per_core": 128 if gpu.capability >= (9, 0) else 64,
        "clock_rate_ghz": gpu.clock,
        "memory_bandwidth": round(gpu.bandwidth * 1e9),
        "l2_cache_size": gpu.cache * 2**20,
        "device_memory_size": round(gpu.memory * 1e9),
    }
    major, minor = gpu.capability
    return "\n".join(
        [
            "gpu_device_info {",
            *(f"  {key}: {value}" for key, value in numbers.items()),
            f"  cuda_compute_capability {{ major: {major} minor: {minor} }}",
            "}",
            'platform_name: "CUDA"',
            "dnn_version_info {{ major: {} minor: {} patch: {} }}".format(*CUDNN),
            f'device_description_str: "{gpu.name}"',
        ]
    )


def installed() -> bool:
    """Whether the compiler is there."""
    # The folder of plugins is there only with one of them.
    return bool(importlib.util.find_spec("jax_plugins") and importlib.util.find_spec("jax_plugins.xla_cuda12"))


def wanted() -> str:
    """What pip has to install, of the same version as JAX."""
    version = importlib.metadata.version("jax")
    return " ".join(f"{package}=={version}" for package in PACKAGES)


def _check_compiler() -> None:
    if not installed():
        raise ValueError(
            f"the compiler for GPUs is not there: pip install --no-deps --target FOLDER {wanted()}, and give this "
            "command PYTHONPATH=FOLDER; in a folder of its own, since JAX looks for GPUs wherever it finds it."
        )


def _let_cudnn_be_called() -> None:
    """JAX asks cuDNN for its version before it writes a call of its attention into a program, and here it is not there.
    The call itself is only written; the version is that of the description."""
    from jax._src.cudnn import fused_attention_stablehlo as attention

    major, minor, patch = CUDNN
    checked: Any = attention
    checked.check_cudnn_version = lambda: 10000 * major + 100 * minor + patch
