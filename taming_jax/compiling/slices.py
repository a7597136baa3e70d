"""Slices of Cloud TPU by the names that their makers use, and their devices, described without being there.

The number in `v4-32` and `v5p-64` counts cores, of which a chip has two; both work as one device (megacore), so JAX
shows 16 and 32. In `v5litepod-16` and `v6e-16` it counts chips, each of one core.
"""

import dataclasses
import math
import os
import re
from typing import Any

import jax

from taming_jax.compiling.target import Target

WITHOUT = {
    # The compiler is asked alone: no machine's metadata, and no device that another program may hold.
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A generation of TPU: cores of a chip that Cloud TPU counts, axes of its network, clock in MHz, and per chip the
    memory in GB and the dense bfloat16 peak in TFLOP/s (Google's data sheets)."""

    cores: int
    axes: int
    clock: float
    memory: float
    tflops: float


KINDS = {
    "v4": Kind(2, 3, 1050, 32, 275),
    "v5e": Kind(1, 2, 1500, 16, 197),
    "v5p": Kind(2, 3, 1750, 95, 459),
    "v6e": Kind(1, 2, 1750, 32, 918),
}
NAMES = {"v5litepod": "v5e"}  # as Cloud TPU calls it
FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}


@dataclasses.dataclass(frozen=True)
class Slice:
    """name: as given. kind: of `KINDS`. topology: the chips along each axis, "4x4". copies: slices of that shape."""

    name: str
    kind: str
    topology: str
    copies: int = 1

    @property
    def chips(self) -> int:
        """Of all slices together; JAX shows as many devices."""
        return self.copies * math.prod(map(int, self.topology.split("x")))


def slice_of(name: str) -> Slice:
    """The slice of a name: `v5litepod-16`, `v4-32`, `v6e-8`, `2xv5p-64` for two of them, or chips as `v5e:4x4`.

    Raises ValueError for an unknown one, with those that there are.
    """
    found = re.fullmatch(r"(?:(\d+)x)?(\w+?)([-:])(\d+(?:x\d+)*)", name)
    kind = NAMES.get(found[2], found[2]) if found else ""
    if not found or kind not in KINDS or (found[3] == "-" and "x" in found[4]):
        raise ValueError(
            f"--slice={name!r} is no slice of {', '.join([*KINDS, *NAMES])}; expected a name such as v5litepod-16, "
            "v4-32, 2xv6e-16, chips such as v5e:4x4, or GPUs such as 8xH100."
        )
    copies, topologies = int(found[1] or 1), FLAT if KINDS[kind].axes == 2 else CUBES
    if found[3] == ":":
        return Slice(name, kind, found[4], copies)
    chips, rest = divmod(int(found[4]), KINDS[kind].cores)
    if rest or chips not in topologies:
        known = ", ".join(f"{found[2]}-{n * KINDS[kind].cores}" for n in topologies)
        raise ValueError(f"--slice={name!r} is no size of {found[2]}; known: {known}.")
    return Slice(name, kind, topologies[chips], copies)


def target(name: str) -> Target:
    """Raises ValueError for an unknown name, or where the compiler is not there."""
    where = slice_of(name)
    packages = ("jax", "jaxlib", "libtpu")
    return Target(name, devices(where), KINDS[where.kind].clock, "LIBTPU_INIT_ARGS", packages)


def devices(slice: Slice) -> list[Any]:
    """Its devices, for a mesh; they compile, and cannot compute. Raises ValueError where the compiler is not there."""
    from jax.experimental import topologies

    for name, value in WITHOUT.items():  # read while the library is loaded
        os.environ.setdefault(name, value)
    try:
        import libtpu  # noqa: F401  # only to say in one line that it is not there
    except ImportError as error:
        raise ValueError("the TPU's compiler is not there: pip install 'taming-jax[pods]', or libtpu alone.") from error
    options: dict[str, Any] = {}
    if slice.kind == "v4":
        options["chip_config_name"] = "megacore"
    if slice.topology in ("1x1", "1x1x1"):
        options["chips_per_host_bounds"] = (1, 1, 1)
    if slice.copies > 1:
        options["num_slices"] = slice.copies
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=f"{slice.kind}:{slice.topology}", **options)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"--slice={slice.name!r}: {str(error).splitlines()[0]}") from error
    return list(found.devices)
