"""What checkpoints tell where reading or saving fails: one line that says what to do, and nothing around it."""

import asyncio
import gc
import resource
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from taming_jax import checkpoint
from taming_jax.checkpoint import read
from taming_jax.training.report import check_workdir

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


PARTS = [*"[]*?{}()!%#&;|'`$~:@,+=^-. aB7", '"', "**", "%20", "\n", "\t", "\x1b", "ä", "水"]


def test_a_path_may_have_any_characters(tmp_path):
    """Of the folder, and of one above it: what is saved is read, listed, restored and set aside."""
    rng, weight = np.random.default_rng(), jax.ShapeDtypeStruct((3,), np.float32, sharding=single())
    names = ["run [a]", "[!x]*", "a?b", "-{a,b}", *("".join(rng.choice(PARTS, 12)) for _ in range(3))]
    for name in names:
        workdir = str(tmp_path / name.rstrip(".") / "in [it]")
        with checkpoint.Checkpoints(workdir) as checkpoints:
            for step in (1, 2):
                tree = {"weight": jax.numpy.full(3, step, np.float32)}
                checkpoints.save(step, params=tree, train=tree, config=CONFIG)
        with checkpoint.Checkpoints(workdir) as checkpoints:
            params, _ = checkpoints.restore(2, params={"weight": weight}, train={"weight": weight})
            assert params["weight"][0] == 2, ascii(name)
            checkpoints.set_aside(2)
        assert checkpoint.load_params(workdir)["weight"][0] == 1 and checkpoint.open_saved(workdir).step == 1
        checkpoint.save_model(f"{workdir}/first_stage", params={"weight": np.ones(3)}, config=CONFIG)
        assert checkpoint.load_params(f"{workdir}/first_stage")["weight"].sum() == 3


def single():
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("run\\a", "takes a backslash for a slash"),
        ("\\/run", "takes a backslash for a slash"),
        ("a.__lock/run", r"names that end in \.__lock"),
        ("gs:", "for a bucket"),
        ("caf\udce9", "only names that are UTF-8"),
        ("a\0b", "zero byte"),
        ("/s3/run", "folder /s3 would be taken for a bucket"),
        ("file:///run", "only those of buckets are known, gs://"),
        ("gs://bucket/run [a]", "would be taken as a pattern"),
    ],
)
def test_a_path_that_cannot_be_is_refused_before_anything_is_written(tmp_path, path, reason):
    path = path if "/" in path and not path.startswith("\\") else str(tmp_path / path)
    for write in (
        checkpoint.Checkpoints,
        check_workdir,
        lambda path: checkpoint.save_model(path, params={}, config={}),
    ):
        with pytest.raises(ValueError, match=reason) as error:
            write(path)
        assert str(error.value).isprintable() and not list(tmp_path.iterdir())


def test_a_checkpoint_that_is_removed_while_it_is_read_is_not_called_damaged(tmp_path, monkeypatch):
    """The newest is taken anew; one that was asked for by its number is said to be gone."""
    workdir = str(tmp_path)
    tree = lambda step: {"weight": jax.numpy.full(3, step, np.float32)}
    with checkpoint.Checkpoints(workdir, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, params=tree(step), config=CONFIG)
        checkpoints.wait()
        saved = checkpoint.open_saved(workdir)
        restore = read.restore_arrays

        def overtaken(*arguments):
            if 2 in checkpoints.steps():
                for step in (3, 4):
                    checkpoints.save(step, params=tree(step), config=CONFIG)
                checkpoints.wait()
            return restore(*arguments)

        monkeypatch.setattr(read, "restore_arrays", overtaken)
        with pytest.raises(
            checkpoint.MissingCheckpoint, match=r"step 2 in .* was removed meanwhile, as a training does"
        ):
            saved.load_params()
    with pytest.raises(checkpoint.MissingCheckpoint, match="no checkpoint of step 2; it has 3, 4"):
        saved.load_params()
    tried = [2, 3, None]  # what is read in turn; None: the newest
    steps = checkpoint.with_newest(None, lambda: checkpoint.load_params(workdir, tried.pop(0))["weight"][0])
    assert steps == 3 and tried == [None]
    with pytest.raises(checkpoint.MissingCheckpoint, match="no checkpoint of step 2"):
        checkpoint.with_newest("2", lambda: checkpoint.load_params(workdir, 2))


def test_a_training_that_has_saved_nothing_yet_is_told_from_another_folder(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"no complete checkpoint yet, but a training has begun there, .*save_every"):
        checkpoint.open_saved(str(tmp_path))


def test_a_checkpoint_that_is_passed_over_is_named(tmp_path, caplog):
    with checkpoint.Checkpoints(str(tmp_path)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, params={"weight": jax.numpy.ones(3)}, config=CONFIG)
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "config")
    assert checkpoint.open_saved(str(tmp_path)).step == 1 and checkpoint.load_params(str(tmp_path)) is not None
    (told,) = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
    assert "step 2 in" in told and told.endswith("that of step 1 is taken.")


def test_an_opened_checkpoint_says_what_it_is_in_a_line(tmp_path):
    checkpoint.save_model(
        str(tmp_path), params={"weight": np.ones(3)}, config={"kind": "vqgan", "long": [0] * 999}, step=7
    )
    assert repr(checkpoint.open_saved(str(tmp_path))) == f"Saved({str(tmp_path)!r}, step=7, kind='vqgan')"
