"""The loop around a network of one number: going on after damage, and what may have changed since."""

import contextlib
import copy
import dataclasses
import errno
import json
import logging
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from configs import demo_class, demo_vqgan
from taming_jax import checkpoint
from taming_jax.experiment import TransformerExperiment, VQGANExperiment, saved_form
from taming_jax.settings import from_dict
from taming_jax.sharding import MeshConfig, make_mesh
from taming_jax.stopping import NAMES
from taming_jax.training import loop
from taming_jax.training.changes import compare
from taming_jax.training.optim import OptimizerConfig, make_optimizer
from taming_jax.training.report import Report
from taming_jax.training.stop import Stop

FIRST = saved_form(from_dict(VQGANExperiment, demo_vqgan.get_config().to_dict()))
SECOND = saved_form(from_dict(TransformerExperiment, demo_class.get_config().to_dict()))


@struct.dataclass
class State:
    step: jax.Array
    params: dict


@dataclasses.dataclass(frozen=True)
class Training:
    """given: what `start` tells; diverges: after step 4."""

    given: dict = dataclasses.field(default_factory=dict)
    diverges: bool = False

    def init(self, key):
        return State(jnp.int32(0), {"weight": jax.random.normal(key, (64, 64))})

    def start(self):
        return self.given

    def step(self, state, frozen, batch):
        params = jax.tree.map(lambda x: 0.9 * x + batch["x"].mean(), state.params)
        loss = params["weight"].sum()
        if self.diverges:
            loss = jnp.where(state.step >= 4, jnp.nan, loss)
        return State(state.step + 1, params), {"loss": loss}


def batches(start):
    while True:
        start += 1
        yield {"x": np.full((2,), start, np.float32)}


def train(workdir, saved_config=FIRST, hooks=(), training=Training(), lease=None, **settings):
    settings = {"steps": 6, "log_every": 1, "save_every": 2} | settings
    return loop.train(
        training=training,
        frozen=None,
        config=loop.TrainConfig(**settings),
        batches=batches,
        hooks=hooks,
        saved_config=saved_config,
        workdir=str(workdir),
        mesh=make_mesh(MeshConfig(1)),
        report=Report(str(workdir), tensorboard=False),
        lease=lease,
    )


def damage(workdir, number):
    path = max(Path(workdir, "checkpoints", str(number), "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def history(workdir):
    return [json.loads(line) for line in Path(workdir, "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_newest_checkpoint_that_can_be_read_is_taken(tmp_path, caplog):
    undisturbed, _ = train(tmp_path / "a", steps=8)
    train(tmp_path / "b")
    damage(tmp_path / "b", 6)
    with caplog.at_level(logging.WARNING):
        state, finished = train(tmp_path / "b", steps=8)
    (warning,) = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert "checkpoint of step 6 in" in warning and "weight is not what was saved" in warning
    assert (tmp_path / "b" / checkpoint.DAMAGED / "6").exists() and "damaged_checkpoints/6" in warning
    assert finished and history(tmp_path / "a") == history(tmp_path / "b")
    np.testing.assert_array_equal(state.params["weight"], undisturbed.params["weight"])
    assert [path.name for path in sorted((tmp_path / "b" / "checkpoints").iterdir())] == ["6", "8"]


def test_where_all_are_damaged_nothing_starts_anew_unasked(tmp_path):
    train(tmp_path)
    for number in (4, 6):
        damage(tmp_path, number)
    for _ in range(2):  # however often it is started, and nothing is moved
        with pytest.raises(
            ValueError, match=r"no checkpoint in .* can be read: .*step 6.*step 4.* To start anew, remove"
        ):
            train(tmp_path)
    assert checkpoint.has_checkpoint(str(tmp_path)) and not (tmp_path / checkpoint.DAMAGED).exists()


def test_a_failure_in_drawing_costs_only_the_picture(tmp_path):
    def draw(state, number):
        assert checkpoint.find_step(str(tmp_path)).name == str(number)  # it is not only under way
        raise RuntimeError("no memory for pictures")

    hooks = (
        loop.Hook("val", 2, lambda state, number: {"loss": float(number)}, ("loss",)),
        loop.Hook("images", 2, draw),
    )
    with pytest.raises(RuntimeError, match="no memory"):
        train(tmp_path, hooks=hooks, monitor="val/loss")
    assert checkpoint.find_step(str(tmp_path)).name == "2"
    state, finished = train(tmp_path, hooks=hooks[:1], monitor="val/loss")
    undisturbed, _ = train(tmp_path / "undisturbed", hooks=hooks[:1], monitor="val/loss")
    assert finished and history(tmp_path) == history(tmp_path / "undisturbed")
    np.testing.assert_array_equal(state.params["weight"], undisturbed.params["weight"])


def test_a_loss_that_is_not_finite_names_the_checkpoint_that_was_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(FloatingPointError, match=r"step 5: loss is nan. The checkpoint of step 4 is intact. Try"):
        train(tmp_path / "a", training=Training(diverges=True))
    save = checkpoint.Checkpoints.save

    def fail_at_4(self, number, **items):
        save(self, number, **items)
        if number == 4:  # in the background
            self.wait()
            shutil.rmtree(Path(tmp_path, "b", "checkpoints", "4"))
            monkeypatch.setattr(self._manager, "wait_until_finished", full)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", fail_at_4)
    message = (
        r"step 5: loss is nan. The checkpoint of step 4 .* not be saved \(.*No space.*\). The checkpoint of step 2 is"
    )
    with pytest.raises(FloatingPointError, match=message):
        train(tmp_path / "b", training=Training(diverges=True))


def test_a_fresh_state_starts_from_given_arrays_and_a_resumed_one_does_not(tmp_path):
    zeros, other = ({"params": {"weight": np.zeros((n, n), np.float32)}} for n in (64, 2))
    state, _ = train(tmp_path / "a", training=Training(given=zeros), steps=1)
    np.testing.assert_allclose(state.params["weight"], 1)  # 0.9 * 0 + 1
    state, _ = train(tmp_path / "a", training=Training(given=other), steps=2)
    np.testing.assert_allclose(state.params["weight"], 2.9)
    with pytest.raises(ValueError, match=r"config.init_from holds another network \(params: .*weight"):
        train(tmp_path / "b", training=Training(given=other))


def test_the_report_is_left_open_for_who_opened_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Report, "close", lambda self: pytest.fail("closed"))
    train(tmp_path, steps=1)


def test_a_signal_before_the_first_step_of_a_resumed_training_ends_it(tmp_path, monkeypatch):
    train(tmp_path)
    asked = []
    monkeypatch.setattr(Stop, "requested", lambda self, number: asked.append(number) or number == 1)
    state, finished = train(tmp_path, steps=8)
    assert not finished and int(state.step) == 6 and asked == [1]
    monkeypatch.setattr(Stop, "requested", lambda self, number: asked.append(number) or number == 7)
    state, finished = train(tmp_path, steps=8)  # while the step was compiled
    assert not finished and int(state.step) == 7 and asked == [1, 1, 6, 7]


def stop_here(name="INT"):
    os.kill(os.getpid(), getattr(signal, f"SIG{name}"))
    time.sleep(0.01)  # Python comes to the handler


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
@pytest.mark.parametrize("moment", ["data", "evaluation", "pictures", "saving", "last evaluation"])
def test_a_signal_at_any_moment_costs_nothing(moment, name, tmp_path, monkeypatch):
    """Several times, as by an impatient person; what goes on then is as if nothing had been."""
    rng = random.Random(f"{moment} {name}")
    at = {"data": rng.randint(2, 5), "last evaluation": 6, "saving": rng.choice((2, 4))}.get(moment, 3)
    armed, save = [True], checkpoint.Checkpoints.save

    def when(this, number):
        if armed and this in moment and number == at:
            armed.clear()
            for _ in range(rng.randint(1, 3)):
                with contextlib.suppress(KeyboardInterrupt) if this == "saving" else contextlib.nullcontext():
                    stop_here(name)

    undisturbed = batches

    def signalled(start):
        for number, batch in enumerate(undisturbed(start), start + 1):
            when("data", number)
            yield batch

    def measure(state, number):
        when("evaluation", number)
        return {"loss": float(state.params["weight"].sum())}

    def draw(state, number):
        when("pictures", number)
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / f"drawn_{number:07d}.png").write_bytes(str(state.params["weight"].sum()).encode())

    def saves(self, number, **items):
        when("saving", number)
        save(self, number, **items)
        when("saving", number)

    hooks = (loop.Hook("val", 3, measure, ("loss",)), loop.Hook("images", 3, draw))
    monkeypatch.setattr(checkpoint.Checkpoints, "save", saves)
    before = [signal.getsignal(number) for number in NAMES]
    monkeypatch.setattr(sys.modules[__name__], "batches", signalled) if moment == "data" else None
    folder = tmp_path / "stopped"
    state, finished = train(folder, hooks=hooks)
    assert not finished and not armed and int(checkpoint.find_step(str(folder)).name) == int(state.step)
    assert [signal.getsignal(number) for number in NAMES] == before
    _, finished = train(folder, hooks=hooks)
    assert finished
    folder = tmp_path / "undisturbed"
    state, _ = train(folder, hooks=hooks)
    assert history(tmp_path / "stopped") == history(folder)
    saved = checkpoint.load_params(str(tmp_path / "stopped"))
    np.testing.assert_array_equal(saved["weight"], state.params["weight"])
    pictures = [{p.name: p.read_bytes() for p in (tmp_path / x / "images").iterdir()} for x in ("stopped", folder.name)]
    assert pictures[0] == pictures[1] and len(pictures[0]) == 2


@pytest.mark.parametrize("step", [1, 4])
def test_a_signal_while_no_data_comes_does_not_wait_for_it(step, tmp_path, monkeypatch, caplog):
    """As from a network file system that does not answer."""
    undisturbed = batches

    def stuck(start):
        for number, batch in enumerate(undisturbed(start), start + 1):
            if number == step:
                stop_here()
                time.sleep(60)
            yield batch

    monkeypatch.setattr(sys.modules[__name__], "batches", stuck)
    monkeypatch.setattr(loop, "GRACE", 0.1)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        _, finished = train(tmp_path, save_every=6)
    assert not finished and time.monotonic() - began < 50
    if step == 1:
        assert "before the first step" in caplog.text and not checkpoint.has_checkpoint(str(tmp_path))
    else:
        assert checkpoint.find_step(str(tmp_path)).name == "3"


def test_a_training_may_run_in_any_thread(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(train(tmp_path)[1]))
    thread.start(), thread.join()
    assert found == [True]


def test_a_training_whose_folder_was_taken_over_saves_nothing_more(tmp_path):
    class Lost:
        def check(self):
            raise ValueError("taken over")

    with pytest.raises(ValueError, match="taken over"):
        train(tmp_path, lease=Lost())
    assert not checkpoint.has_checkpoint(str(tmp_path))


def changed(config, path, value):
    config, (*sections, key) = copy.deepcopy(dict(config)), path.split(".")
    section = config
    for name in sections:
        section = section[name]
    assert key in section and section[key] != value
    section[key] = value
    return config


@pytest.mark.parametrize(
    ("config", "path", "value", "meaning"),
    [
        (FIRST, "train.steps", 7, "training"),  # its schedule is a cosine, which ends with them
        (SECOND, "train.steps", 7, "training"),
        (changed(FIRST, "optimizer.schedule", "constant"), "train.steps", 7, "harmless"),
        (FIRST, "train.log_every", 7, "harmless"),
        (FIRST, "train.eval_every", 7, "harmless"),
        (changed(FIRST, "loss.guard", 0.5), "train.eval_every", 7, "training"),
        (changed(FIRST, "loss.guard", 0.5), "data.n_val", 7, "training"),
        (FIRST, "disc_optimizer.learning_rate", 1e-3, "training"),
        (FIRST, "loss.pixel_loss", "l2", "training"),
        (SECOND, "token_loss.z_loss", 1e-4, "training"),
        (SECOND, "transformer.residual_dtype", "float32", "training"),
        (SECOND, "optimizer.skip_above", 4.0, "model"),
        (changed(SECOND, "optimizer.skip_above", 3.0), "optimizer.skip_above", 4.0, "training"),
        (FIRST, "mesh.fsdp", 4, "harmless"),
        (FIRST, "workdir", "elsewhere", "harmless"),
        (FIRST, "data.workers", 3, "harmless"),
        (FIRST, "model.remat", True, "harmless"),
        (SECOND, "sample.top_p", 0.5, "harmless"),
        (SECOND, "first_stage", "elsewhere", "harmless"),
        (FIRST, "data.path", "/new", "training"),  # there was none
        (changed(FIRST, "data.path", "/old"), "data.path", "/new", "harmless"),
        (changed(SECOND, "condition.stage", "/old"), "condition.stage", "/new", "harmless"),
        (changed(SECOND, "condition.stage", "/old"), "condition.stage", "first_stage", "model"),
        (FIRST, "train.seed", 5, "training"),
        (FIRST, "data.seed", 5, "training"),
        (FIRST, "data.batch_size", 16, "training"),
        (FIRST, "data.source", "folder", "training"),
        (FIRST, "data.size", 64, "training"),
        (FIRST, "loss.disc_start", 5, "training"),
        (FIRST, "optimizer.learning_rate", 1.0, "training"),
        (FIRST, "model.dtype", "bfloat16", "training"),
        (FIRST, "model.beta", 1.0, "training"),
        (changed(FIRST, "loss.disc_weight", 0.5), "loss.disc_weight", 0.8, "training"),
        (changed(FIRST, "loss.disc_weight", 0.0), "loss.disc_weight", 0.8, "model"),
        (changed(FIRST, "loss.feature_weight", 0.5), "loss.feature_weight", 0.8, "training"),
        (FIRST, "loss.feature_weight", 0.5, "model"),
        (FIRST, "loss.feature_path", "/new", "harmless"),
        (SECOND, "optimizer.clip_norm", 1.0, "training"),
        (SECOND, "optimizer.ema_decay", 0.99, "model"),
        (SECOND, "pkeep", 0.5, "training"),
        (FIRST, "model.n_embed", 5, "model"),
        (FIRST, "discriminator.ndf", 5, "model"),
        (FIRST, "feature_discriminator.layers", (11,), "model"),
        (SECOND, "transformer.n_head", 2, "model"),
        (SECOND, "condition.kind", "none", "model"),
        (SECOND, "order", "z_curve", "model"),
        (SECOND, "data.size", 64, "model"),
    ],
)
def test_what_a_change_means(config, path, value, meaning):
    found = compare(config, changed(config, path, value))
    assert [len(found[name]) for name in found] == [int(name == meaning) for name in found]
    assert found[meaning][0].startswith(f"config.{path}: saved ") and found[meaning][0].endswith(f"given {value!r}")


def test_an_optimizer_goes_on_with_any_settings():
    def names(**settings):
        optimizer = make_optimizer(OptimizerConfig(**settings), batch_size=2, steps=5)
        state = optimizer.init({"layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}})
        return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]

    cosine = {"schedule": "cosine", "warmup": 2, "floor": 0.1}
    for settings in ({"clip_norm": 1.0}, {"weight_decay": 0.1}, {"skip_above": 4.0}, cosine):
        assert names(**settings) == names()


def test_a_setting_that_is_new_is_no_change():
    older = copy.deepcopy(dict(FIRST))
    del older["model"]["remat"]
    assert not any(compare(older, FIRST).values()) and not any(compare(FIRST, older).values())


def test_changes_are_told_or_refused(tmp_path, caplog):
    train(tmp_path)
    with pytest.raises(ValueError, match=r"another model \(config\.model\.ch: saved 16, given 5\)"):
        train(tmp_path, changed(FIRST, "model.ch", 5), allow_changes=True)
    other = changed(changed(FIRST, "data.batch_size", 16), "train.log_every", 7)
    with pytest.raises(ValueError, match=r"another training \(config\.data\.batch_size: saved 8, given 16\); .*allow"):
        train(tmp_path, other)
    with caplog.at_level(logging.INFO):
        train(tmp_path, other, steps=7, allow_changes=True)
    told = [record.getMessage() for record in caplog.records if "Changed since" in record.getMessage()]
    assert len(told) == 1 and "data.batch_size: saved 8, given 16; config.train.log_every: saved 20, given 7" in told[0]
