"""Devices: the start of the distributed runtime, the mesh, and where batches, parameters and activations live on it."""

import dataclasses
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from taming_jax import joining
from taming_jax.settings import check

AXES = ("data", "fsdp", "tensor")
TPU_TILE = 8  # rows

# Which mesh axis splits which dimension, by the end of the parameter's path; the first match counts, and what matches
# nothing is replicated. Optimizer states hold the same paths below their own, so they follow their parameters.
RULES: tuple[tuple[str, P], ...] = (
    (r"token/embedding$", P("tensor", "fsdp")),
    (r"position$", P(None, "fsdp")),
    (r"(query|key|value|up|gate)/kernel$", P("fsdp", "tensor")),
    (r"(query|key|value|up|gate)/bias$", P("tensor")),
    (r"attention/out/kernel$", P("tensor", "fsdp")),
    (r"down/kernel$", P("tensor", "fsdp")),
    (r"head/kernel$", P("fsdp", "tensor")),
    (r"kernel$", P(None, None, None, "fsdp")),  # of convolutions; codebooks are small and looked up in whole
)
STACKED = re.compile(r"(^|/)blocks/")  # parameters of all layers in one array, the layer first


def start_distributed(heartbeat_timeout: int = 100) -> None:
    """Join the other processes where the environment says that there are any; a single process does nothing.

    heartbeat_timeout: seconds after which one that does not answer counts as dead, and the others end.
    Looks for JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, a TPU pod slice or several, srun with more
    than one task, and what mpirun, mpiexec and torchrun set. To be called before any other use of JAX. Raises
    ValueError where the environment does not say enough; ends the program where the others do not come.
    """
    joining.join(os.environ, heartbeat_timeout)
    if jax.process_index() > 0:
        logging.disable(logging.INFO)  # the first process tells what happens; warnings are each one's own


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; one of them may be -1 and takes what is left.

    data: copies of the model; slices of TPUs, where there are several, follow one another along it. fsdp: the batch and
    the parameters are split. tensor: layers are split.
    dcn: groups of devices with only a slower network between them, such as slices; -1: as many as there are slices.
    The other axes are those within a group. Groups split the batch, as `data` does, whose axis they prolong.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    dcn: int = 1

    def __post_init__(self) -> None:
        for name in AXES:
            size, others = getattr(self, name), [getattr(self, other) for other in AXES if other != name]
            check(self, name, size >= 1 or size == -1, "it must be at least 1, or -1 for the devices that are left")
            check(self, name, size != -1 or -1 not in others, "only one axis may take the devices that are left")
        check(self, "dcn", self.dcn >= 1 or self.dcn == -1, "it must be at least 1, or -1 for as many as there are")


def make_mesh(config: MeshConfig = MeshConfig(), devices: list | None = None) -> Mesh:
    """The (data, fsdp, tensor) mesh over `devices` (default: all). Raises ValueError where the product does not fit."""
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    groups = _slices(devices) if config.dcn == -1 else config.dcn
    fixed = groups * int(np.prod([size for size in sizes if size != -1]))
    if -1 not in sizes and fixed < len(devices) and jax.process_count() == 1:
        devices = devices[:fixed]  # the rest is left to other programs
    if len(devices) % fixed or (-1 not in sizes and fixed != len(devices)):
        among = f" in {groups} groups (dcn)" if groups > 1 else ""
        raise ValueError(
            f"config.mesh {dict(zip(AXES, sizes, strict=True))} does not fit {len(devices)} device(s){among}; "
            "choose sizes whose product is their number, or -1 for one axis."
        )
    sizes = [len(devices) // fixed if size == -1 else size for size in sizes]
    sizes[0] *= groups
    return Mesh(_laid_out(devices, sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _laid_out(devices: list, sizes: list[int]) -> np.ndarray:
    """Devices as an array of these sizes: in their order, but on TPUs such that neighbours along an axis are neighbours
    in the network, and slices follow one another along the first axis."""
    if not devices[0].device_kind.startswith("TPU") or len(devices) == 1:
        return np.asarray(devices).reshape(sizes)
    slices = _slices(devices)
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    if sizes[0] % slices:
        raise ValueError(
            f"config.mesh {dict(zip(AXES, sizes, strict=True))} does not suit {slices} slices, between which only the "
            f"batch can be split: choose dcn={slices}, or `data` to be a multiple of {slices}."
        )
    within = [sizes[0] // slices, *sizes[1:]]
    across = [slices, *[1] * (len(sizes) - 1)]
    return mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)


def _slices(devices: list) -> int:
    return len({getattr(device, "slice_index", 0) for device in devices})


def replicated(mesh: Mesh) -> NamedSharding:
    """The same whole array on each device of the mesh."""
    return NamedSharding(mesh, P())


def batch_shares(mesh: Mesh) -> int:
    """How many devices, or groups of them along `tensor`, share a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch(batch_size: int, mesh: Mesh, parts: int = 1, name: str = "config.data.batch_size") -> None:
    """Raise ValueError when the global batch does not split evenly over the devices that share each of its parts.
    name: what the user calls its size."""
    shares = batch_shares(mesh)
    if batch_size % (shares * parts):
        one_after_another = f" and config.optimizer.accumulate={parts} parts" if parts > 1 else ""
        raise ValueError(
            f"{name}={batch_size} (the global batch) is not divisible by the {shares} devices that "
            f"share it (mesh data={mesh.shape['data']} x fsdp={mesh.shape['fsdp']}){one_after_another}; choose a "
            f"multiple of {shares * parts}."
        )
    each = batch_size // (shares * parts)
    if each % TPU_TILE and mesh.devices.flat[0].device_kind.startswith("TPU"):
        logging.getLogger(__name__).warning(
            "%s=%d are %d images on each of %d devices, and TPUs compute in rows of %d: convolutions take up to four "
            "times as long unless LIBTPU_INIT_ARGS is set as in scripts/tpu_worker.sh; better a multiple of %d.",
            *(name, batch_size, each, shares, TPU_TILE, TPU_TILE * shares * parts),
        )


def this_process(mesh: Mesh) -> dict[str, int]:
    """Which part of each batch this process reads, and of how many, as keywords of `pipeline.make_batches`.

    Processes whose devices hold the same images, since `tensor` reaches over them, read the same part.
    Raises ValueError for a mesh on which the images of two processes overlap otherwise.
    """
    rows: dict[int, list[int]] = {}
    for row, devices in enumerate(mesh.devices.reshape(batch_shares(mesh), -1)):
        for process in sorted({device.process_index for device in devices.flat}):
            rows.setdefault(process, []).append(row)
    parts = sorted(set(map(tuple, rows.values())))
    if sum(map(len, parts)) != batch_shares(mesh) or len(set(map(len, parts))) > 1:
        raise ValueError(
            f"config.mesh {dict(mesh.shape)} does not suit {jax.process_count()} processes of "
            f"{len(mesh.local_devices)} devices: each must hold whole shares of the batch, or share one with whole "
            "other processes; choose `tensor` to divide the devices of a process, or to be a multiple of them."
        )
    return {"process_index": parts.index(tuple(rows[jax.process_index()])), "process_count": len(parts)}


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The dimension of the images split over data and fsdp, the rest whole."""
    return NamedSharding(mesh, P(*[None] * axis, ("data", "fsdp")))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of the batch, numpy (b, ...) by name -> global arrays split over the mesh."""
    sharding = batch_sharding(mesh)
    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


def filled_up(batch_size: int, mesh: Mesh, least: int = 1) -> int:
    """A multiple of the devices that share a batch, such that each has at least so many of it."""
    shares = batch_shares(mesh)
    return shares * max(least, -(-batch_size // shares))


def put_whole(batch: Mapping[str, np.ndarray], mesh: Mesh, least: int = 1) -> dict[str, jax.Array]:
    """The whole batch, numpy (b, ...) by name, the same in every process -> global arrays split over the mesh.

    Repeated as `filled_up` says; what is computed of the surplus is to be cut off.
    """
    sharding = batch_sharding(mesh)

    def put(array: np.ndarray) -> jax.Array:
        padded = np.resize(array, (filled_up(len(array), mesh, least), *array.shape[1:]))
        return jax.make_array_from_callback(padded.shape, sharding, padded.__getitem__)

    return {key: put(array) for key, array in batch.items()}


def in_shares(
    function: Callable[..., jax.Array], params: Any, batch: Mapping[str, np.ndarray], mesh: Mesh
) -> jax.Array:
    """function(params, batch) -> (b, ...), with the batch split over the devices; the result without what pads it."""
    with jax.set_mesh(mesh):  # else the compiler may let every device compute the whole batch
        return function(params, put_whole(batch, mesh))[: len(next(iter(batch.values())))]


def state_shardings(abstract_state: Any, mesh: Mesh, rules: tuple[tuple[str, P], ...] = RULES) -> Any:
    """For each array of the state (as `jax.eval_shape` gives it) the sharding that the rules name.

    An axis that does not divide its dimension is left out, so that small networks need no rules of their own.
    """

    def sharding_of(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, spec in rules:
            spec = P(None, *spec) if STACKED.search(name) else spec
            if re.search(pattern, name) and len(spec) <= leaf.ndim:
                fitting = (
                    axis if axis is not None and leaf.shape[i] % mesh.shape[axis] == 0 else None
                    for i, axis in enumerate(spec)
                )
                return NamedSharding(mesh, P(*fitting))
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding_of, abstract_state)


def place(params: Any, mesh: Mesh) -> Any:
    """Parameters on the devices of the mesh, each array where `state_shardings` wants it."""
    return jax.device_put(params, state_shardings(params, mesh))


def bytes_held(state: Any) -> tuple[int, int]:
    """(bytes of the arrays on one device, bytes of the arrays), of arrays or their shapes with shardings."""
    arrays = jax.tree.leaves(state)
    held = sum(x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in arrays)
    return held, sum(x.dtype.itemsize * x.size for x in arrays)


def _constrained(x: jax.Array, spec: P) -> jax.Array:
    return x if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(x, spec)


def split_by_image(x: jax.Array) -> jax.Array:
    """Activations (b, ...), to be split over the devices as the batch is: so the partitioner brings parameters to the
    activations, and not the other way round. Only under `jax.set_mesh`; elsewhere nothing is said."""
    return _constrained(x, P(("data", "fsdp")))


def split_by_row(table: jax.Array) -> jax.Array:
    """An embedding (n, d) about to be looked up in: whole along d, since a row is needed on one device."""
    return _constrained(table, P("tensor"))
