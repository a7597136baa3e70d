"""Updates of both stages: discriminators that do not learn yet, schedules and rates by themselves, gradients that jump,
what is logged of them; and the terms beside the second stage's cross-entropy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import TINY

from taming_jax.conditioning.labels import ClassLabel
from taming_jax.data.config import DataConfig
from taming_jax.experiment import TransformerExperiment, VQGANExperiment
from taming_jax.models.content import CONTENTS
from taming_jax.models.discriminator import Discriminator, DiscriminatorConfig
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.models.vqgan import VQGAN
from taming_jax.priors.base import TokenLossConfig
from taming_jax.training.optim import (
    SEEN,
    DiscOptimizerConfig,
    OptimizerConfig,
    learning_rate,
    make_optimizer,
    start_norms,
    updated,
)
from taming_jax.training.transformer import TransformerTraining
from taming_jax.training.vqgan import VQGANTraining
from taming_jax.training.vqgan_loss import VQGANLossConfig
from taming_jax.two_stage import TwoStage

IMAGES = np.random.RandomState(0).uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32)
DISC = Discriminator(DiscriminatorConfig(ndf=4, n_layers=1, norm="none"))
LEARNS, WILD = 3, SEEN + 4
RECIPE = OptimizerConfig(1e-3, per_sample=False, schedule="cosine", floor=0.2, weight_decay=0.5, skip_above=3.0)


def equal(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.fixture(scope="module")
def first_stage():
    """(training, its compiled step): every part of an update that there is."""
    loss = VQGANLossConfig(
        perceptual_weight=0.0,
        pixel_loss="l2",
        disc_learn_start=LEARNS,
        disc_start=5,
        lecam_weight=0.01,
        augment="cutout",
    )
    own = DiscOptimizerConfig(learning_rate=2e-3).beside(RECIPE)
    make = lambda config: make_optimizer(config, batch_size=4, steps=100)
    model = VQGAN(dataclasses.replace(TINY, quantizer="ema"))
    training = VQGANTraining(model, DISC, loss, make(RECIPE), make(own), IMAGES.shape, ema_decay=0.9)
    return training, jax.jit(training.step)


@pytest.fixture(scope="module")
def history(first_stage):
    """The states before each step and after the last, and the metrics of each; at step WILD the images are."""
    training, step = first_stage
    states, metrics = [jax.jit(training.init)(jax.random.key(0))], []
    for number in range(WILD + 3):
        images = 200 * IMAGES if number == WILD else IMAGES
        state, found = step(states[-1], None, {"image": images})
        states.append(jax.device_get(state))
        metrics.append(jax.tree.map(float, found))
    return states, metrics


def test_a_discriminator_that_does_not_learn_yet_stays_to_the_bit(history):
    states, metrics = history
    for state in states[1:4]:
        assert equal(state.disc_params, states[0].disc_params)
        assert equal(state.logits, states[0].logits) and int(state.norms["disc_params"]["seen"]) == 0
        moments = [leaf for leaf in jax.tree.leaves(state.disc_opt_state) if leaf.dtype == np.float32]
        assert moments and not any(map(np.any, moments))
    assert not equal(states[4].disc_params, states[3].disc_params)  # it learns, and decays, from step 3
    assert [found["disc_grad_norm"] > 0 for found in metrics[:5]] == [False, False, False, True, True]
    assert [int(state.disc_opt_state[1].count) for state in states[:5]] == [0, 1, 2, 3, 4]


def test_an_update_is_skipped_where_the_gradient_jumps(first_stage, history):
    training, step = first_stage
    states, metrics = history
    wild = WILD
    before, after = states[wild], states[wild + 1]
    assert metrics[wild]["grad_norm"] > 3 * metrics[wild - 1]["grad_norm"]
    for name in ("params", "ema", "disc_params"):
        assert equal(getattr(after, name), getattr(before, name)), name
    floats = lambda tree: [leaf for leaf in jax.tree.leaves(tree) if leaf.dtype == np.float32]
    for name in ("opt_state", "disc_opt_state"):
        assert equal(floats(getattr(after, name)), floats(getattr(before, name))), name
        assert int(getattr(after, name)[1].count) == wild + 1  # the schedule is that of the steps
    assert [found["skipped_updates"] for found in metrics] == [0.0] * wild + [1.0] * 3
    assert [found["disc_skipped_updates"] for found in metrics[wild - 1 : wild + 1]] == [0, 1]
    assert not equal(states[wild + 2].params, after.params) and int(after.step) == wild + 1
    assert np.isfinite(jax.tree.leaves(jax.tree.map(np.sum, states[-1]))).all()
    again, found = step(jax.tree.map(jnp.asarray, after), None, {"image": IMAGES})  # as a resumed one goes on
    assert equal(again, states[wild + 2]) and float(found["skipped_updates"]) == 1


def test_rates_and_norms_are_in_the_log_of_the_first_stage(history):
    _, metrics = history
    schedule = learning_rate(RECIPE, batch_size=4, steps=100)
    for number in (0, 10):
        assert metrics[number]["learning_rate"] == pytest.approx(float(schedule(number)))
        assert metrics[number]["disc_learning_rate"] == pytest.approx(2 * float(schedule(number)))
    assert all(found["grad_norm"] > 0 and "l2_loss" in found and "l1_loss" not in found for found in metrics)
    np.testing.assert_allclose(metrics[0]["rec_loss"], metrics[0]["l2_loss"])


def test_without_the_setting_nothing_is_kept_and_nothing_skipped():
    tx = make_optimizer(OptimizerConfig(), batch_size=1, steps=9)
    params = {"kernel": jnp.ones(3)}
    assert start_norms(tx) == start_norms(optax.sgd(1.0)) == start_norms(None) == {}
    found = updated(tx, params, tx.init(params), params, {}, jnp.zeros((), jnp.int32))
    assert found.taken is None and found.norms == {} and set(found.metrics) == {"grad_norm", "learning_rate"}
    by_hand, _ = tx.update(params, tx.init(params), params)
    assert equal(found.params, optax.apply_updates(params, by_hand))


def test_a_lasting_rise_is_a_jump_for_some_steps_only():
    tx = make_optimizer(OptimizerConfig(skip_above=4.0), batch_size=1, steps=9)
    params = {"kernel": jnp.ones(3)}

    @jax.jit
    def step(norms, size):
        return updated(tx, {"kernel": size * params["kernel"]}, tx.init(params), params, norms, jnp.int32(0)).norms

    def after(norms, sizes):
        for size in sizes:
            norms = step(norms, size)
        return norms

    calm = after(start_norms(tx), [1.0, *[0.0] * 5, *[1.0] * 29])
    assert (int(calm["seen"]), int(calm["skipped"])) == (30, 0)
    assert float(calm["average"]) == pytest.approx(3**0.5)
    assert int(after(calm, [3.0] * 10)["skipped"]) == 0
    for size in (50.0, np.inf, np.nan):
        once = after(calm, [size])
        assert int(once["skipped"]) == 1 and np.isfinite(float(once["average"]))
        assert int(after(once, [1.0] * 3)["skipped"]) == 1
    risen = after(calm, [50.0] * 300)
    assert 10 < int(risen["skipped"]) < 150 and int(after(risen, [50.0] * 9)["skipped"]) == int(risen["skipped"])
    assert int(after(start_norms(tx), [50.0, *[1.0] * (SEEN - 1)])["skipped"]) == 0  # of the first ones none is one


def test_the_cosine_ends_at_its_floor():
    rates = learning_rate(OptimizerConfig(2.0, False, "cosine", warmup=5, floor=0.25), batch_size=4, steps=25)
    found = [float(rates(step)) for step in (0, 5, 15, 25, 40)]
    np.testing.assert_allclose(found, [0.0, 2.0, 0.5 + 1.5 / 2, 0.5, 0.5], rtol=1e-6)
    plain = OptimizerConfig(2.0, False, "cosine")
    assert float(learning_rate(plain, batch_size=4, steps=25)(25)) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"floor": 0.1}, r"floor=0.1, but it goes with schedule='cosine'"),
        ({"floor": 1.0, "schedule": "cosine"}, r"floor=1.0, but it is a share of the peak"),
        ({"skip_above": 1.0}, r"skip_above=1.0, but it must be above 1"),
        ({"skip_above": -2.0}, r"skip_above=-2.0"),
    ],
)
def test_settings_of_updates_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**settings)


def test_the_discriminators_optimizer_has_its_own_settings():
    of = lambda **own: VQGANExperiment("", DataConfig(size=32), disc_optimizer=DiscOptimizerConfig(**own))
    plain, own = of().training(), of(learning_rate=1e-3, b1=0.0, b2=0.99).training()
    assert float(plain.disc_optimizer.rate(0)) == float(plain.optimizer.rate(0)) == float(own.optimizer.rate(0))
    assert float(own.disc_optimizer.rate(0)) == pytest.approx(8e-3)
    params, gradient = {"kernel": jnp.ones(1)}, {"kernel": jnp.full(1, 2.0)}
    moments = lambda tx: tx.update(gradient, tx.init(params), params)[1][1]
    assert float(moments(own.disc_optimizer).mu["kernel"][0]) == 2.0  # b1 is 0
    assert float(moments(own.disc_optimizer).nu["kernel"][0]) == pytest.approx(0.04)
    assert float(moments(own.optimizer).mu["kernel"][0]) == 1.0
    with pytest.raises(ValueError, match=r"disc_optimizer\.b1=1\.5, but it must be in"):
        of(b1=1.5)


SECOND = TwoStage(VQGAN(dataclasses.replace(TINY, n_embed=20)), GPT(GPTConfig(30, 0, 1, 2, 16)), ClassLabel(7), (2, 2))
BATCH = {"codes": np.arange(8).reshape(2, 2, 2).astype(np.int32), "class_label": np.array([1, 5], np.int32)}


@pytest.fixture(scope="module")
def second_stage():
    """(settings of the loss) -> (state before a step, state after it, its metrics)."""

    def run(**loss):
        optimizer = make_optimizer(OptimizerConfig(1e-2, False, skip_above=5.0), batch_size=2, steps=9)
        training = TransformerTraining(SECOND, optimizer, loss=TokenLossConfig(**loss))
        state = jax.jit(training.init)(jax.random.key(0))
        return state, *jax.jit(training.step)(state, {}, BATCH)

    return run


def test_smoothing_and_z_loss_are_their_formulas(second_stage):
    smoothing, weight = 0.1, 0.01
    state, _, found = second_stage(label_smoothing=smoothing, z_loss=weight)
    codes = BATCH["codes"].reshape(2, 4)
    logits = np.asarray(SECOND.prior.logits(state.params, BATCH["class_label"][:, None], codes), np.float64)
    partition = np.log(np.exp(logits).sum(-1, keepdims=True))
    target = np.zeros_like(logits)
    target[..., :20] = smoothing / 20  # the vocabulary of 30 has 10 ids that are no codes
    np.put_along_axis(target, codes[..., None], 1 - smoothing + smoothing / 20, axis=-1)
    expected = -(target * (logits - partition)).sum(-1).mean()
    square = (partition**2).mean()
    assert float(found["log_partition"]) == pytest.approx(square, rel=1e-5)
    assert float(found["loss"]) == pytest.approx(expected + weight * square, rel=1e-5)
    nll = -np.take_along_axis(logits - partition, codes[..., None], axis=-1).mean()
    assert float(found["nll"]) == pytest.approx(nll, rel=1e-5)


def test_without_them_the_loss_is_the_cross_entropy_and_rates_are_logged(second_stage):
    state, after, found = second_stage()
    assert set(found) == {"loss", "grad_norm", "learning_rate", "skipped_updates"}
    nll = SECOND.prior.token_nll(state.params, *SECOND.read({}, BATCH), jax.random.key(0)).mean()
    assert float(found["loss"]) == pytest.approx(float(nll), rel=1e-6)
    assert float(found["learning_rate"]) == pytest.approx(1e-2) and int(after.norms["seen"]) == 1


def test_settings_of_the_token_loss_that_cannot_be_are_refused():
    assert TransformerExperiment("", "", DataConfig()).token_loss == TokenLossConfig(0.0, 0.0)
    for wrong in ({"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"z_loss": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TokenLossConfig(**wrong)


def test_the_pixel_loss_of_numbers_can_be_chosen_and_label_maps_have_none():
    x, y = np.random.RandomState(7).randn(2, 1, 4, 4, 3).astype(np.float32)
    for name, expected in (("", np.abs(x - y).mean()), ("l1", np.abs(x - y).mean()), ("l2", ((x - y) ** 2).mean())):
        ((metric, value),) = CONTENTS["image"].reconstruction_loss(x, y, name).items()
        assert metric == f"{name or 'l1'}_loss" and float(value) == pytest.approx(expected, rel=1e-6)
    labels = VQGAN(dataclasses.replace(TINY, content="segmentation", in_channels=5, out_channels=5))
    loss = VQGANLossConfig(perceptual_weight=0.0, disc_weight=0.0, pixel_loss="l2")
    with pytest.raises(ValueError, match=r"pixel_loss='l2', but segmentation has labels, no numbers"):
        VQGANTraining(labels, None, loss, optax.sgd(1.0), None, (1, 16, 16, 5))
