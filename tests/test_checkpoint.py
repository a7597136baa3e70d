"""Checkpoints: what is kept, what can be read knowing only the path, and what misfits and foreign folders are told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from taming_jax import checkpoint
from taming_jax.sharding import MeshConfig, make_mesh

CONFIG = {"kind": "vqgan", "train": {"monitor": "val/nll", "monitor_mode": "min"}}


def arrays(step, width=4):
    return {"layer": {"kernel": jnp.full((8, width), float(step))}}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Four saves with losses 3, 1, 2, 5, of which the newest and the best stay."""
    folder = str(tmp_path_factory.mktemp("run"))
    with checkpoint.Checkpoints(folder, keep=1, keep_best=1, monitor="val/nll") as checkpoints:
        for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 5.0)):
            train = {"step": jnp.int32(step), "moment": arrays(-step)}
            checkpoints.save(step, params=arrays(step), train=train, config=CONFIG, metrics={"val/nll": loss})
    return folder


def test_newest_and_best_are_kept(workdir):
    assert sorted(path.name for path in checkpoint.find_step(workdir).parent.iterdir()) == ["2", "4"]
    assert checkpoint.find_step(workdir).name == "4"
    assert checkpoint.find_step(workdir, "best").name == "2"
    assert checkpoint.has_checkpoint(workdir)


def test_parameters_alone_are_read_knowing_only_the_path(workdir):
    params = checkpoint.load_params(workdir)
    assert isinstance(params["layer"]["kernel"], np.ndarray)
    np.testing.assert_array_equal(params["layer"]["kernel"], arrays(4)["layer"]["kernel"])
    assert checkpoint.load_params(workdir, 2, jnp.bfloat16)["layer"]["kernel"].dtype == jnp.bfloat16
    assert checkpoint.load_config(workdir) == CONFIG


def test_state_is_restored_onto_another_mesh(workdir):
    sharding = NamedSharding(make_mesh(MeshConfig(1, 4, 2)), P("fsdp", "tensor"))
    kernel = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=sharding)
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(sharding.mesh, P()))
    target = {"layer": {"kernel": kernel}}
    with checkpoint.Checkpoints(workdir) as checkpoints:
        params, train = checkpoints.restore(4, params=target, train={"step": step, "moment": target})
    assert params["layer"]["kernel"].sharding == sharding and int(train["step"]) == 4
    np.testing.assert_array_equal(train["moment"]["layer"]["kernel"], -arrays(4)["layer"]["kernel"])


def test_another_model_is_refused_with_the_difference(workdir):
    target = jax.eval_shape(lambda: arrays(4, width=6))
    with (
        checkpoint.Checkpoints(workdir) as checkpoints,
        pytest.raises(ValueError, match=r"layer/kernel is \(8, 4\) there and \(8, 6\) here"),
    ):
        checkpoints.restore(4, params=target, train={})


@pytest.mark.parametrize("content", [None, "empty", "foreign", "half"])
def test_a_folder_without_a_checkpoint_is_refused(tmp_path, content):
    folder = tmp_path / "run"
    if content:
        folder.mkdir()
    if content == "foreign":
        (folder / "last.ckpt").write_text("")
    if content == "half":  # what a save that was killed leaves
        (folder / "checkpoints" / "4.orbax-checkpoint-tmp-0" / "config").mkdir(parents=True)
    with pytest.raises(ValueError, match="no checkpoint directory" if content is None else "no complete checkpoint"):
        checkpoint.load_config(str(folder))
    assert not checkpoint.has_checkpoint(str(folder))


def test_an_unknown_step_lists_the_known(workdir):
    with pytest.raises(ValueError, match=r"no checkpoint of step 3; it has 2, 4"):
        checkpoint.load_params(workdir, 3)


def test_a_model_alone_replaces_what_was_there(tmp_path):
    for step in (1, 2):
        checkpoint.save_model(str(tmp_path), params=arrays(step), config={"kind": "vqgan", "number": step})
    assert checkpoint.load_config(str(tmp_path))["number"] == 2
    np.testing.assert_array_equal(
        checkpoint.load_params(str(tmp_path))["layer"]["kernel"], arrays(2)["layer"]["kernel"]
    )
