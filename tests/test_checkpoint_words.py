"""What checkpoints tell where reading or saving fails: one line that says what to do, and nothing around it."""

import asyncio
import gc
import resource
from pathlib import Path

import jax
import numpy as np
import pytest

from taming_jax import checkpoint

CONFIG = {"kind": "vqgan"}


def noise(seed, n):
    """Arrays of several sizes that do not compress; of the same sizes where n is the same."""
    rng, sides = np.random.default_rng(seed), np.random.default_rng(n).integers(8, 96, (n, 2))
    return {f"layer_{i}": jax.numpy.asarray(rng.normal(size=side), np.float32) for i, side in enumerate(sides)}


@pytest.fixture(autouse=True)
def as_in_the_programs():
    checkpoint.quiet_orbax()


def told_nothing(capfd, caplog):
    gc.collect()  # what a task has raised is told when the task goes
    out, err = capfd.readouterr()
    return out + err == "" and not [record for record in caplog.records if record.name == "asyncio"]


@pytest.mark.parametrize("in_a_loop", [False, True], ids=["program", "notebook"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_damaged_checkpoint_is_told_alone(tmp_path, capfd, caplog, seed, in_a_loop):
    """However many arrays fail, and however many are still being read when the first does."""
    checkpoint.save_model(str(tmp_path), params=noise(seed, 60), config=CONFIG, step=7)
    files = sorted(Path(checkpoint.find_step(str(tmp_path)), "params").rglob("d/*"))
    path = max(files, key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[: int(np.random.default_rng(seed).integers(path.stat().st_size))])

    async def in_notebook():
        checkpoint.load_params(str(tmp_path))

    capfd.readouterr()
    with pytest.raises(checkpoint.DamagedCheckpoint, match=r"step 7 in .* is damaged \(.+\); name another") as error:
        asyncio.run(in_notebook()) if in_a_loop else checkpoint.load_params(str(tmp_path))
    assert "\n" not in str(error.value) and error.value.__cause__ is None
    del error
    assert told_nothing(capfd, caplog)


def test_a_disk_that_is_full_is_told_once_and_alone(tmp_path, capfd, caplog):
    """In waiting, or in closing, where nobody has waited; not again by Orbax."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for waits in (True, False):
        workdir = str(tmp_path / str(waits))
        with checkpoint.Checkpoints(workdir) as checkpoints:
            checkpoints.save(1, params=noise(1, 60), train=noise(1, 60), config=CONFIG)  # compiles the sums, too
        capfd.readouterr()
        checkpoints = checkpoint.Checkpoints(workdir)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))  # no longer file can be written
        try:
            with pytest.raises(OSError, match=r"^The checkpoint of step 2 in .* The checkpoint of step 1 is intact"):
                checkpoints.save(2, params=noise(2, 60), train=noise(3, 60), config=CONFIG)
                checkpoints.wait() if waits else checkpoints.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            checkpoints.close()
        assert told_nothing(capfd, caplog)
        np.testing.assert_array_equal(checkpoint.load_params(workdir)["layer_3"], noise(1, 60)["layer_3"])
