"""Checkpoints: what is kept, what can be read knowing only the path, and what misfits and foreign folders are told."""

import errno
import gc
import logging
import resource
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from taming_jax import checkpoint
from taming_jax.sharding import MeshConfig, make_mesh
from taming_jax.training.changes import compare

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


@pytest.mark.parametrize(
    ("data", "read"), [({"source": "folder"}, False), ({"source": "demo"}, None), ({"size": 32}, None)]
)
def test_an_old_training_reads_its_pictures_as_it_did(tmp_path, data, read):
    checkpoint.save_model(str(tmp_path), params={"w": np.ones(3)}, config={"kind": "vqgan", "data": data})
    assert checkpoint.open_saved(str(tmp_path)).config["data"].get("color_profiles") == read
    now = {"kind": "vqgan", "data": {**data, "color_profiles": True}}
    changed = compare(checkpoint.load_config(str(tmp_path)), now)["training"]
    assert changed == (["config.data.color_profiles: saved False, given True"] if read is False else [])
    checkpoint.save_model(str(tmp_path), params={"w": np.ones(3)}, config=now, step=9)
    assert checkpoint.load_config(str(tmp_path)) == now


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
        pytest.raises(ValueError, match=r"params: layer/kernel: \(8, 4\) there, \(8, 6\) here\)"),
    ):
        checkpoints.restore(4, params=target, train={})


@pytest.mark.parametrize("content", [None, "empty", "foreign", "half"])
def test_a_folder_without_a_checkpoint_is_refused(tmp_path, content):
    folder = tmp_path / "run"
    if content:
        folder.mkdir()
    if content == "foreign":
        (folder / "last.ckpt").write_text("", encoding="utf-8")
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


def damage(workdir, step, item="params", how="flip"):
    """Spoil the largest file of one item of a checkpoint."""
    files = [path for path in Path(checkpoint.find_step(workdir, step), item).rglob("*") if path.is_file()]
    files = [path for path in files if path.name != "commit_success.txt"]  # a mark, of which only the name counts
    path = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[: len(data) // 2] if how == "cut" else data)


def fail(error):
    """A function that raises it."""

    def function(*_, **__):
        raise error

    return function


@pytest.fixture
def three(tmp_path):
    """A run with two checkpoints of arrays that do not compress, so that nearly all bytes on disk are theirs."""
    workdir = str(tmp_path / "run")
    with checkpoint.Checkpoints(workdir) as checkpoints:
        for step in (1, 2, 3):
            noise = {"noise": jax.random.normal(jax.random.key(step), (64, 64))}
            checkpoints.save(step, params=noise, train={"moment": noise}, config=CONFIG)
    return workdir


@pytest.mark.parametrize(("item", "how"), [("params", "flip"), ("params", "cut"), ("train", "flip"), ("config", "cut")])
def test_a_damaged_checkpoint_is_told_from_a_good_one(three, item, how):
    damage(three, 3, item, how)
    sharding = NamedSharding(make_mesh(MeshConfig(1)), P())  # one read: Orbax abandons others when one fails
    target = {"noise": jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=sharding)}
    with checkpoint.Checkpoints(three) as checkpoints:
        assert checkpoints.steps() == [3, 2]
        with pytest.raises(checkpoint.DamagedCheckpoint, match=r"step 3 in .* is damaged \(.+\); name another"):
            checkpoint.load_config(three) and checkpoints.restore(3, params=target, train={"moment": target})
        good, _ = checkpoints.restore(2, params=target, train={"moment": target})
        np.testing.assert_array_equal(good["noise"], checkpoint.load_params(three, 2)["noise"])
        aside = checkpoints.set_aside(3)
        assert aside.name == "3" and aside.exists() and checkpoints.steps() == [2]
        checkpoints.save(3, params=good, train={"moment": good}, config=CONFIG)
    assert checkpoint.find_step(three).name == "3"
    np.testing.assert_array_equal(checkpoint.load_params(three)["noise"], good["noise"])
    gc.collect()  # a coroutine or task that a failed read had left behind would warn here


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), TypeError("an Orbax of another day")])
def test_what_only_hinders_reading_is_no_damage(three, error, monkeypatch):
    target = {"noise": jax.ShapeDtypeStruct((64, 64), jnp.float32)}
    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", fail(error))
    with (
        checkpoint.Checkpoints(three) as checkpoints,
        pytest.raises(OSError, match=rf"step 3 in .* could not be read \({type(error).__name__}: .*{error.args[-1]}"),
    ):
        checkpoints.restore(3, params=target, train={"moment": target})
    with pytest.raises(OSError, match=r"step 3 in .* could not be read"):
        checkpoint.load_params(three)


def test_loading_a_damaged_checkpoint_is_refused_in_words(three):
    damage(three, 3)
    with pytest.raises(ValueError, match=r"step 3 .* damaged .*noise is not what was saved"):
        checkpoint.load_params(three)
    assert checkpoint.load_config(three) == CONFIG


def test_a_save_that_fails_leaves_what_was_saved(three, monkeypatch):
    before = {step: checkpoint.load_params(three, step)["noise"] for step in (2, 3)}
    noise = {"noise": jax.random.normal(jax.random.key(4), (64, 64))}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    message = (
        r"step 4 in .* could not be saved \(.+File too large.*\). The checkpoint of step 3 is intact. When the cause"
    )
    with checkpoint.Checkpoints(three) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))  # no longer file can be written
        try:
            with pytest.raises(OSError, match=message):
                checkpoints.save(4, params=noise, config=CONFIG)
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        with (
            monkeypatch.context() as patch,
            pytest.raises(OSError, match=r"step 3 is intact\. When there is room to write"),
        ):
            patch.setattr(checkpoints._manager, "save", fail(OSError(errno.ENOSPC, "No space left on device")))
            checkpoints.save(4, params=noise, config=CONFIG)
        checkpoints.save(5, params=noise, config=CONFIG)
    assert checkpoint.find_step(three).name == "5"
    with checkpoint.Checkpoints(three) as checkpoints:
        assert checkpoints.steps()[:2] == [5, 3]
    np.testing.assert_array_equal(checkpoint.load_params(three, 3)["noise"], before[3])


KILLED_WHILE_SAVING = """
import os, signal, sys, threading
import jax
from taming_jax import checkpoint
with checkpoint.Checkpoints(sys.argv[1]) as checkpoints:
    rename = os.rename
    def kill(source, target, **options):  # the last thing that a save does
        if target.endswith("/4"):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target, **options)
    os.rename = os.replace = kill
    noise = {"noise": jax.random.normal(jax.random.key(4), (64, 64))}
    checkpoints.save(4, params=noise, train={"moment": noise}, config={})
"""


def test_a_save_that_is_killed_leaves_the_older_ones_and_is_made_again(three):
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, three]
    result = subprocess.run(command, cwd=Path(__file__).parent.parent, timeout=300)
    assert result.returncode == -signal.SIGKILL
    folder = Path(three, "checkpoints")
    assert any(path.name.startswith("4.") for path in folder.iterdir())  # it was written, but for its name
    assert checkpoint.find_step(three).name == "3"
    noise = {"noise": jnp.zeros((64, 64))}
    with checkpoint.Checkpoints(three) as checkpoints:
        assert checkpoints.steps() == [3, 2]
        checkpoints.save(4, params=noise, config=CONFIG)
    assert sorted(path.name for path in folder.iterdir()) == ["3", "4"]
    assert not checkpoint.load_params(three)["noise"].any()


def test_a_directory_says_what_it_holds(tmp_path):
    """A converted model, which does not name its data, and one trained here; of the step that was opened."""
    config = {"kind": "vqgan", "data": {"size": 16}}
    checkpoint.save_model(str(tmp_path), params={"w": np.ones(3, np.float32)}, config=config, step=4)
    saved = checkpoint.open_saved(str(tmp_path))
    assert (saved.kind, saved.step, saved.trained_here, saved.config) == ("vqgan", 4, False, config)
    assert saved.load_discriminator() is None and saved.load_params(jnp.bfloat16)["w"].dtype == jnp.bfloat16
    checkpoint.save_model(str(tmp_path), params={"w": np.ones(3)}, config={"data": {"source": "demo"}}, step=5)
    with pytest.raises(ValueError, match="no checkpoint of step 4; it has 5"):
        saved.load_params()
    assert checkpoint.open_saved(str(tmp_path), "5").trained_here and not checkpoint.open_saved(str(tmp_path)).kind


def test_orbax_narrates_nothing_once_it_is_told():
    logger = logging.getLogger("absl")
    for _ in range(2):
        checkpoint.quiet_orbax()
    assert len([told for told in logger.filters if getattr(told, "__module__", "").startswith("taming_jax")]) == 1

    def told(level, path, failure=None):
        record = logging.LogRecord("absl", level, path, 1, "message", (), failure)
        return bool(logger.filter(record))

    orbax, failure = "site-packages/orbax/checkpoint/handler.py", (ValueError, ValueError("raised too"), None)
    assert not any(told(level, orbax) for level in (logging.INFO, logging.WARNING))
    assert not told(logging.ERROR, orbax, failure) and told(logging.ERROR, orbax)
    assert told(logging.INFO, "taming_jax/training/loop.py")
