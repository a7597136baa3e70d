"""What keeps an adversarial training from wrecking: spectral norm, LeCAM, R1, the guard; decoders trained alone; the
use of codes over the last ids."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_loop import Training, batches, history, train
from tiny import TINY, untrained

from taming_jax import checkpoint
from taming_jax.models.discriminator import Discriminator, DiscriminatorConfig
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.nn.conv import SpectralConv
from taming_jax.settings import to_dict
from taming_jax.training import loop, losses
from taming_jax.training.vqgan import VQGANTraining
from taming_jax.training.vqgan_loss import VQGANLossConfig

IMAGES = np.random.RandomState(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
DISC = Discriminator(DiscriminatorConfig(ndf=4, n_layers=1, norm="none", spectral=True))
LOSS = VQGANLossConfig(
    perceptual_weight=0.0, disc_loss="non_saturating", lecam_weight=0.1, lecam_decay=0.9, r1_weight=2.0,
    disc_learn_start=1, disc_start=2, disc_ramp=4, guard=0.5,
)  # fmt: skip


def test_a_spectral_kernel_has_the_largest_singular_value_one():
    layer, eye = SpectralConv(5, kernel_size=1, padding=((0, 0), (0, 0)), use_bias=False), jnp.eye(8)[:, None, None]
    variables = layer.init(jax.random.key(0), eye)
    call = jax.jit(lambda variables: layer.apply(variables, eye, train=True, mutable=["batch_stats"]))
    for _ in range(200):
        matrix, moved = call(variables)
        variables = {**variables, **moved}
    np.testing.assert_allclose(np.linalg.svd(matrix[:, 0, 0], compute_uv=False)[0], 1, rtol=1e-3)
    still = layer.apply(variables, eye)
    np.testing.assert_allclose(still, matrix, atol=1e-4)
    assert set(variables["params"]) == {"kernel"} and variables["batch_stats"]["u"].shape == (5,)


def test_the_losses_are_their_formulas():
    real, fake = np.random.RandomState(0).randn(2, 7).astype(np.float32)
    expected = np.log1p(np.exp(-fake)).mean()
    np.testing.assert_allclose(losses.non_saturating_g_loss(fake), expected, rtol=1e-5)
    expected = (np.maximum(real + 0.2, 0) ** 2).mean() + (np.maximum(0.3 - fake, 0) ** 2).mean()
    np.testing.assert_allclose(losses.lecam_penalty(real, fake, 0.3, -0.2), expected, rtol=1e-5)


def test_r1_is_refused_where_images_are_judged_together():
    together = Discriminator(DiscriminatorConfig(ndf=4, n_layers=1))
    with pytest.raises(ValueError, match=r"r1_weight=2.0, but by config.discriminator.norm='batch' .*'none'"):
        VQGANTraining(VQGAN(TINY), together, LOSS, optax.sgd(0.01), optax.sgd(0.01), IMAGES.shape)


@pytest.fixture(scope="module")
def guarded():
    """(training, its states before each of ten steps, their metrics); the guard is told of a fall and of its end."""
    training = VQGANTraining(VQGAN(TINY), DISC, LOSS, optax.sgd(0.01), optax.sgd(0.01), IMAGES.shape, usage_window=300)
    state, step = jax.jit(training.init)(jax.random.key(0)), jax.jit(training.step)
    states, metrics = [], []
    told = {1: 20.0, 2: 22.0, 4: 21.4, 7: 21.6}  # PSNR after so many steps
    for number in range(10):
        if number in told:
            state = training.heed(state, {"val/psnr": told[number]})
        states.append(state)
        state, found = step(state, None, {"image": IMAGES})
        metrics.append(jax.tree.map(float, found))
    return training, states, metrics


def test_the_ramp_waits_while_quality_is_down(guarded):
    _, states, metrics = guarded
    # At 21.4, 0.6 below the best, it stays where it is; at 21.6 it goes on.
    assert [found["disc_factor"] for found in metrics] == [0, 0, 0.25, 0.5, 0.75, 0.75, 0.75, 0.75, 1, 1]
    assert [found["guard_waits"] for found in metrics] == [0, 0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert float(states[-1].guard["best"]) == 22.0 and int(states[-1].guard["waited"]) == 3


def test_the_penalties_are_those_of_the_discriminator_in_its_state(guarded):
    _, states, metrics = guarded
    logits = lambda variables, images: DISC.apply(variables, images, train=True, mutable=["batch_stats"])[0]
    # R1, image by image: without batch normalisation each is judged by itself.
    state = states[0]
    variables = {"params": state.disc_params, "batch_stats": state.batch_stats}

    @jax.jit
    def slopes(variables):
        # The generator's own look at the discriminator has moved its power iteration once before.
        _, moved = DISC.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
        variables = {**variables, **moved}
        of_image = lambda image: jax.grad(lambda x: logits(variables, x[None]).mean())(image)
        return jax.vmap(of_image)(IMAGES)

    np.testing.assert_allclose(metrics[0]["r1"], (slopes(variables) ** 2).sum((1, 2, 3)).mean(), rtol=1e-4)
    for name in ("real", "fake"):  # the averages move from the step on from which it learns
        assert float(states[1].logits[name]) == 0
        average = 0.0
        for found in metrics[1:9]:
            average = 0.9 * average + 0.1 * found[f"logits_{name}"]
        np.testing.assert_allclose(states[9].logits[name], average, rtol=1e-4, atol=1e-7)
    assert all(found["lecam"] >= 0 for found in metrics)


def test_use_is_measured_over_the_last_ids(guarded):
    training, states, metrics = guarded
    assert metrics[0]["usage_recent"] == metrics[0]["usage"]  # no others yet
    seen = []
    encode = jax.jit(lambda params: training.model.apply({"params": params}, IMAGES, method="encode").ids)
    for state in states[:4]:
        seen = np.concatenate([seen, np.asarray(encode(state.params)).ravel()])[-300:].astype(int)
    assert metrics[3]["usage_recent"] == pytest.approx(len(np.unique(seen)) / 20)
    np.testing.assert_array_equal(states[4].recent["ids"], seen)
    share = np.bincount(seen) / 300
    share = share[share > 0]
    assert metrics[3]["perplexity_recent"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)


@dataclasses.dataclass(frozen=True)
class Heeding(Training):
    """Its weights depend on what was measured."""

    heeds = True

    def heed(self, state, measured):
        bonus = measured.get("val/x", 0.0)
        return state.replace(params=jax.tree.map(lambda x: x + np.float32(bonus), state.params))


def test_what_a_training_heeds_is_in_its_checkpoints_also_where_a_signal_stops_it(tmp_path, monkeypatch):
    hook = loop.Hook("val", 3, lambda state, number: {"x": number / 7}, ("x",))
    whole, _ = train(tmp_path / "whole", training=Heeding(), hooks=(hook,), save_every=6)

    def stopping(start):
        for number, batch in enumerate(batches(start), start + 1):
            if number == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setitem(train.__globals__, "batches", stopping)
    _, finished = train(tmp_path / "part", training=Heeding(), hooks=(hook,), save_every=6)
    assert not finished
    monkeypatch.setitem(train.__globals__, "batches", batches)
    part, _ = train(tmp_path / "part", training=Heeding(), hooks=(hook,), save_every=6)
    np.testing.assert_array_equal(part.params["weight"], whole.params["weight"])
    assert history(tmp_path / "part") == history(tmp_path / "whole")


def test_a_frozen_encoder_stays_bit_for_bit(tmp_path):
    config = dataclasses.replace(TINY, dropout=0.5, quantizer="ema")
    larger = dataclasses.replace(config, decoder_ch=12, decoder_blocks=2, decoder_attention="none")
    params = untrained(VQGAN(config), IMAGES, seed=3)
    checkpoint.save_model(str(tmp_path), params=params, config={"kind": "vqgan", "model": to_dict(config)})
    loss = VQGANLossConfig(perceptual_weight=0.0, disc_weight=0.0)
    options = {"init_from": str(tmp_path), "freeze": "encoder", "ema_decay": 0.9}
    training = VQGANTraining(VQGAN(larger), None, loss, optax.sgd(1e-2), None, IMAGES.shape, **options)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(training.init, jax.random.key(0)))
    start = zeros.replace(**jax.tree.map(jnp.asarray, training.start()))
    assert start.params["decoder"]["conv_in"]["kernel"].shape[-1] == 24 and start.params["decoder"]["up_1_block_2"]
    assert "mid_attn" not in start.params["decoder"] and "mid_attn" in start.params["encoder"]
    jax.tree.map(np.testing.assert_array_equal, start.params["post_quant_conv"], params["post_quant_conv"])  # fits
    state, step = start, jax.jit(training.step)
    for _ in range(3):
        state, metrics = step(state, None, {"image": IMAGES})
    assert np.isfinite(metrics["quant_loss"])
    stays = ("encoder", "quant_conv", "quantizer")
    encode = jax.jit(lambda params: VQGAN(config).apply({"params": params}, IMAGES, method="encode").ids)
    before = encode({name: params[name] for name in stays})
    for kept in (state.params, state.averages):
        for name in stays:
            jax.tree.map(np.testing.assert_array_equal, kept[name], params[name])
        np.testing.assert_array_equal(encode({name: kept[name] for name in stays}), before)
        moves = jax.tree.map(lambda a, b: np.abs(a - b).max(), kept["decoder"], start.params["decoder"])
        assert moves["conv_in"]["kernel"] > 0 and moves["conv_out"]["kernel"] > 0
    other = dataclasses.replace(training, model=VQGAN(dataclasses.replace(larger, quantizer="vq")))
    with pytest.raises(ValueError, match=r"other codes, .* model\.quantizer is ema there, vq here"):
        other.start()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guard": 0.5}, r"guard=0.5, .*disc_ramp"),
        ({"guard": 0.5, "disc_ramp": 5, "disc_weight": 0.0}, r"guard=0.5, .*disc_weight is 0"),
        ({"r1_weight": -1.0}, r"r1_weight=-1"),
        ({"lecam_decay": 1.0}, r"lecam_decay=1.0"),
    ],
)
def test_loss_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VQGANLossConfig(**settings)


def test_trainings_that_cannot_work_are_refused():
    loss, shape = VQGANLossConfig(perceptual_weight=0.0, disc_weight=0.0), IMAGES.shape
    for options, message in (
        ({"freeze": "decoder"}, r"freeze='decoder' is unknown; known: , encoder"),
        ({"freeze": "encoder"}, r"freeze='encoder', .*without init_from"),
        ({"usage_window": -1}, r"usage_window=-1"),
    ):
        with pytest.raises(ValueError, match=message):
            VQGANTraining(VQGAN(TINY), None, loss, optax.sgd(1.0), None, shape, **options)
    with pytest.raises(ValueError, match=r"decoder_ch=-1"):
        VQGANConfig(decoder_ch=-1)
