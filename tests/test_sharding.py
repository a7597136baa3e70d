"""Meshes, where arrays go on them, and the sizes that are refused."""

import random
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from taming_jax import joining, sharding
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.settings import from_dict
from taming_jax.sharding import AXES, MeshConfig, check_batch, make_mesh, put_batch, state_shardings


def test_one_axis_takes_what_is_left():
    assert dict(make_mesh(MeshConfig(-1, 2, 2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert make_mesh().devices.size == 8
    assert make_mesh(MeshConfig(data=3)).devices.size == 3  # leaves the others alone


@pytest.mark.parametrize("sizes", [(-1, 3, 1), (-1, -1, 1), (0, 1, 1), (16, 1, 1)])
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ValueError, match=r"config\.mesh"):
        make_mesh(from_dict(MeshConfig, dict(zip(AXES, sizes)), "config.mesh"))


def test_a_batch_that_does_not_split_is_refused_with_both_numbers():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    check_batch(8, mesh)
    with pytest.raises(ValueError, match=r"batch_size=6 .* 4 devices"):
        check_batch(6, mesh)


def test_a_batch_is_split_over_data_and_fsdp():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    array = put_batch({"image": np.arange(8.0)}, mesh)["image"]
    assert {shard.data.shape for shard in array.addressable_shards} == {(2,)}
    np.testing.assert_array_equal(array, np.arange(8.0))


def test_transformer_parameters_and_their_optimizer_state_are_split():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    model = GPT(GPTConfig(vocab_size=64, block_size=8, n_layer=1, n_head=2, n_embd=16))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8), jnp.int32))["params"]
    placed = state_shardings({"params": params, "opt_state": ({"mu": params},)}, mesh)
    for tree in (placed["params"], placed["opt_state"][0]["mu"]):
        assert tree["block_0"]["mlp"]["up"]["kernel"].spec == P("fsdp", "tensor")
        assert tree["block_0"]["mlp"]["down"]["kernel"].spec == P("tensor", "fsdp")
        assert tree["token"]["embedding"].spec == P("tensor", "fsdp")
        assert tree["block_0"]["norm_mlp"]["scale"].spec == P()


def test_an_axis_that_does_not_divide_is_left_out():
    mesh = make_mesh(MeshConfig(1, 4, 2))
    placed = state_shardings({"head": {"kernel": jax.ShapeDtypeStruct((6, 8), jnp.float32)}}, mesh)
    assert placed["head"]["kernel"].spec == P(None, "tensor")


STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "a[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}
STEP |= {"SLURM_LOCALID": "0"}
HOSTS = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


@pytest.mark.parametrize(
    ("environment", "joins"),
    [
        ({}, False),
        (HOSTS, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "1"}, False),
        (STEP, True),
        (STEP | {"SLURM_STEP_NUM_TASKS": "2"}, True),
        (STEP | {"SLURM_NTASKS": "1"}, False),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1"}, False),  # the shell of salloc, as a step
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, False),  # the same where it is none
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, False),  # a batch file
    ],
)
def test_other_processes_are_joined_only_where_there_are_any(environment, joins, monkeypatch):
    joined = []
    monkeypatch.setattr(sharding.os, "environ", environment)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *address, **options: joined.append((address, options)))
    sharding.start_distributed(7)
    heartbeat = {"heartbeat_timeout_seconds": 7}
    given = (("a:1",), heartbeat | {"num_processes": 2, "process_id": 1}) if environment is HOSTS else ((), heartbeat)
    assert joined == ([given] if joins else [])


@pytest.mark.parametrize("missing", HOSTS)
def test_an_address_that_is_not_whole_is_refused(missing, monkeypatch):
    monkeypatch.setattr(sharding.os, "environ", {name: value for name, value in HOSTS.items() if name != missing})
    with pytest.raises(ValueError, match=f"given, but not {missing}: set all three"):
        sharding.start_distributed()


SIZES = {
    "OMPI": (
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
    ),
    "torchrun": ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK"),
    "PMI": ("PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"),
    "MVAPICH": tuple(f"MV2_COMM_WORLD_{name}" for name in ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK")),
}
MASTER = {"MASTER_ADDR": "node7", "MASTER_PORT": "29500"}
ELASTIC = {**MASTER, "TORCHELASTIC_RUN_ID": "x"}


def joined(environment, monkeypatch):
    """What `jax.distributed.initialize` is called with; () where it is not."""
    calls = []
    monkeypatch.setattr(sharding.os, "environ", environment)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *address, **options: calls.append((*address, options)))
    sharding.start_distributed(7)
    return calls[0] if calls else ()


@pytest.mark.parametrize(
    ("launcher", "more", "address"),
    [
        ("OMPI", MASTER, "node7:29500"),
        ("OMPI", {"JAX_COORDINATOR_ADDRESS": "a:9"}, "a:9"),
        ("torchrun", MASTER, "node7:29500"),
        ("torchrun", {"MASTER_ADDR": "fd00::7", "MASTER_PORT": "29500"}, "[fd00::7]:29500"),
        ("torchrun", ELASTIC | {"TORCHELASTIC_USE_AGENT_STORE": "False"}, "node7:29500"),
        ("torchrun", ELASTIC | {"TORCHELASTIC_USE_AGENT_STORE": "True"}, "node7:29501"),  # torchrun has the other
        ("torchrun", ELASTIC | STEP, "node7:29500"),  # which srun has started, once a node
        ("OMPI", STEP | {"JAX_COORDINATOR_ADDRESS": "a:9"}, "a:9"),  # mpirun starts its own helpers by srun
        ("PMI", {"JAX_COORDINATOR_ADDRESS": "a:9"}, "a:9"),
        ("MVAPICH", {"JAX_COORDINATOR_ADDRESS": "a:9"}, "a:9"),
    ],
)
def test_what_other_launchers_start_is_joined(launcher, more, address, monkeypatch):
    rng = random.Random(f"{launcher} {more}")
    size, here = rng.randint(2, 64), rng.randint(1, 8)
    rank, local = rng.randrange(size), rng.randrange(here)
    environment = dict(zip(SIZES[launcher], map(str, (size, rank, here, local)), strict=True)) | more
    found, options = joined(environment, monkeypatch)
    assert (found, options["num_processes"], options["process_id"]) == (address, size, rank)
    assert options.get("local_device_ids") == ([local] if here > 1 else None)


def test_processes_of_one_host_and_of_an_older_mpirun_find_one_another(monkeypatch):
    of = lambda **more: dict(zip(SIZES["OMPI"], ("2", "1", "2", "1"), strict=True)) | more
    one, other = (joined(of(PMIX_NAMESPACE=f"prterun-node-{i}@1"), monkeypatch)[0] for i in (5, 6))
    assert one.startswith("127.0.0.1:") and one != other and 1024 < int(one.split(":")[1]) < 65536
    (options,) = joined(of(OMPI_MCA_orte_hnp_uri="4.0;tcp://10.0.0.1:5"), monkeypatch)  # JAX finds it
    assert options == {"heartbeat_timeout_seconds": 7}


@pytest.mark.parametrize("launcher", SIZES)
@pytest.mark.parametrize("left", [1, 2, 3])
def test_what_is_left_in_a_shell_starts_no_wait(launcher, left, monkeypatch):
    """A single process of a launcher, or variables of which some are missing."""
    single = dict(zip(SIZES[launcher], ("1", "0", "1", "0"), strict=True))
    size, rank, *_ = SIZES[launcher]
    environment = {1: single, 2: {size: "8"}, 3: {rank: "3"}}[left]
    assert joined(environment | MASTER, monkeypatch) == ()


@pytest.mark.parametrize("launcher", SIZES)
def test_a_launcher_that_does_not_say_where_the_first_is_gets_the_right_command(launcher, monkeypatch):
    size, rank, *_ = SIZES[launcher]
    message = rf"{size}=3 and {rank}=1 say .* set JAX_COORDINATOR_ADDRESS=HOST:PORT .* a single process unset {size}"
    with pytest.raises(ValueError, match=message):
        joined({size: "3", rank: "1"}, monkeypatch)
    with pytest.raises(ValueError, match=f"{size}='three' in the environment; expected a whole number"):
        joined({size: "three", rank: "1"}, monkeypatch)


def test_a_wait_for_processes_that_do_not_come_has_an_end(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(joining, "STARTED_TOGETHER", 0.05)
    monkeypatch.setattr(joining.stopping, "leave", lambda code, line: ended.set() if "WORLD_SIZE" in line else None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: ended.wait(60))
    monkeypatch.setattr(sharding.os, "environ", {"WORLD_SIZE": "2", "RANK": "0", **MASTER})
    sharding.start_distributed()
    assert ended.is_set()


@pytest.mark.parametrize(
    ("config", "shape"),
    [(MeshConfig(dcn=2), (8, 1, 1)), (MeshConfig(1, -1, dcn=2), (2, 4, 1)), (MeshConfig(2, 2, dcn=2), (4, 2, 1))],
)
def test_groups_of_devices_split_the_batch(config, shape):
    mesh = make_mesh(config)
    assert mesh.devices.shape == shape
    assert [device.id for device in mesh.devices.flat] == list(range(8))  # a group's devices follow one another
    assert make_mesh(MeshConfig(1, -1, dcn=-1)).devices.shape == (1, 8, 1)  # CPUs are no slices


@pytest.mark.parametrize(
    ("config", "message"), [({"dcn": 3}, r"8 device\(s\) in 3 groups"), ({"dcn": 0}, "config.mesh.dcn=0")]
)
def test_groups_that_do_not_fit_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(from_dict(MeshConfig, config, "config.mesh"))


def devices_like(kind: str, n: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(device_kind=kind, platform=kind.split()[0].lower(), process_index=0) for _ in range(n)]


@pytest.mark.parametrize(
    ("kind", "batch", "warns"), [("TPU v5 lite", 96, True), ("TPU v5 lite", 128, False), ("cpu", 96, False)]
)
def test_batches_that_are_no_rows_of_a_tpu_are_told(kind, batch, warns, caplog):
    devices = np.asarray(devices_like(kind, 16)).reshape(16, 1, 1)
    mesh = SimpleNamespace(shape={"data": 16, "fsdp": 1, "tensor": 1}, devices=devices)
    sharding.check_batch(batch, mesh)
    assert ("better a multiple of 128" in caplog.text) is warns


def test_batches_are_filled_up():
    mesh = SimpleNamespace(shape={"data": 2, "fsdp": 2, "tensor": 1})
    assert [sharding.filled_up(n, mesh) for n in (1, 4, 5)] == [4, 4, 8]
    assert [sharding.filled_up(n, mesh, 8) for n in (1, 32, 33)] == [32, 32, 36]
