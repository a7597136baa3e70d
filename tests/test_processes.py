"""Two processes of the real program, joined by the distributed runtime; `benchmarks/faults.py` has more, and kills."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tiny import untrained

from configs import demo_vqgan
from taming_jax import checkpoint, sharding
from taming_jax.experiment import VQGANExperiment, saved_form
from taming_jax.models.vqgan import VQGAN
from taming_jax.settings import from_dict

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import processes

SMALL = ["--config.transformer.n_layer=1", "--config.transformer.n_embd=32", "--config.train.steps=4"]


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    """A first stage of random numbers."""
    config = demo_vqgan.get_config("tiny").to_dict()
    config["model"] |= {"ch": 8, "ch_mult": (1, 1, 1), "attn_resolutions": (), "norm_groups": 4}
    experiment = from_dict(VQGANExperiment, config)
    params = untrained(VQGAN(experiment.model), np.zeros((1, 16, 16, 3), np.float32))
    workdir = str(tmp_path_factory.mktemp("first"))
    checkpoint.save_model(workdir, params=params, config=saved_form(experiment))
    return workdir


def history(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_two_processes_train_as_one(first_stage, tmp_path):
    flags = {"XLA_FLAGS": os.environ["XLA_FLAGS"]}  # those with which the tests compile faster
    groups = []
    for name, count in (("one", 1), ("two", 2)):
        paths = [f"--workdir={tmp_path / name}", f"--config.first_stage={first_stage}"]
        command = [*processes.SECOND, *SMALL, *paths]
        groups.append(processes.Group(command, tmp_path / f"{name}_logs", count=count, devices=2 // count, **flags))
    for group in groups:
        assert not any(group.wait(300)), group.output()
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    assert [line.keys() for line in one] == [line.keys() for line in two] and len(one) == 6
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5)
    saved = [checkpoint.load_params(str(tmp_path / name)) for name in ("one", "two")]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), *saved)
    first, second = (groups[1].output(i) for i in range(2))
    assert "Parameters:" in first and "Parameters:" not in second and "step/s" not in second
    drawn = [sorted(path.name for path in (tmp_path / name / "images").iterdir()) for name in ("one", "two")]
    assert drawn[0] == drawn[1] == ["completions_0000004.png", "samples_0000004.png"]


@pytest.mark.parametrize(
    ("shape", "per_process", "expected"),
    [
        ((4, 1, 1), 2, [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ((1, 4, 1), 1, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ((2, 1, 2), 2, [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ((1, 2, 2), 1, [(0, 2), (0, 2), (1, 2), (1, 2)]),  # two processes hold the same images
        ((1, 1, 4), 2, [(0, 1)] * 4),
        ((1, 2, 3), 2, None),
    ],
)
def test_which_part_of_a_batch_a_process_reads(monkeypatch, shape, per_process, expected):
    devices = [SimpleNamespace(process_index=i // per_process) for i in range(np.prod(shape))]
    sizes = dict(zip(sharding.AXES, shape, strict=True))
    mesh = SimpleNamespace(devices=np.array(devices).reshape(shape), shape=sizes, local_devices=devices[:per_process])
    if expected is None:
        with pytest.raises(ValueError, match=r"does not suit .* processes of 2 devices"):
            sharding.this_process(mesh)
        return
    for i, device in enumerate(devices):
        monkeypatch.setattr(jax, "process_index", lambda device=device: device.process_index)
        found = sharding.this_process(mesh)
        assert (found["process_index"], found["process_count"]) == expected[i]


ONE_READS_DAMAGE = """
import sys
import jax
import numpy as np
import orbax.checkpoint as ocp
from taming_jax import checkpoint, sharding

sharding.start_distributed()
mesh = sharding.make_mesh()
split = sharding.batch_sharding(mesh)
array = jax.make_array_from_callback((2, 8), split, lambda index: np.full((2, 8), 3.0, np.float32)[index])
target = {"x": jax.ShapeDtypeStruct((2, 8), np.float32, sharding=split)}
with checkpoint.Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, params={"x": array}, train={"x": array}, config={})
    checkpoints.wait()
    for owner, error in ((ocp.PyTreeCheckpointHandler, ValueError("DATA_LOSS: spoiled")),
                         (ocp.JsonCheckpointHandler, OSError("stale file"))):
        def fail(*_, **__):
            raise error
        restore = owner.restore
        if jax.process_index() == 1:
            owner.restore = fail
        try:
            checkpoint.load_config(sys.argv[1], everywhere=True)
            checkpoints.restore(1, params=target, train=target)
        except (checkpoint.DamagedCheckpoint, OSError) as found:
            print(f"{type(found).__name__}: {found}", flush=True)
        owner.restore = restore
    params, _ = checkpoints.restore(1, params=target, train=target)
    print("read", float(params["x"].sum()), flush=True)
"""


def test_what_one_process_cannot_read_all_refuse(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(ONE_READS_DAMAGE, encoding="utf-8")
    group = processes.Group([program, tmp_path / "run"], tmp_path / "logs", count=2)
    assert not any(group.wait(300)), group.output()
    for i, reasons in enumerate((["found by another process"] * 2, ["DATA_LOSS: spoiled", "OSError: stale file"])):
        damaged, unread, good = group.output(i).splitlines()[-3:]
        assert damaged.startswith("DamagedCheckpoint: ") and f"is damaged ({reasons[0]})" in damaged
        assert unread.startswith("OSError: ") and f"could not be read ({reasons[1]})" in unread
        assert good == "read 48.0"
