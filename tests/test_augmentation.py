"""Augmentation before the discriminators: what it does to images, that gradients pass, that steps draw their own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import TINY

from taming_jax.models.discriminator import Discriminator, DiscriminatorConfig
from taming_jax.models.vqgan import VQGAN
from taming_jax.training.adversary import on_patches
from taming_jax.training.augmentation import KINDS, augmented
from taming_jax.training.vqgan import VQGANTraining
from taming_jax.training.vqgan_loss import VQGANLossConfig

IMAGES = np.random.RandomState(0).uniform(-1, 1, (64, 16, 24, 3)).astype(np.float32)
KEY = jax.random.key(0)


def test_colors_are_brighter_more_or_less_saturated_and_contrasted():
    found = np.asarray(jax.jit(KINDS["color"])(IMAGES, KEY))
    spread = found.std(axis=(1, 2)).mean(axis=-1) / IMAGES.std(axis=(1, 2)).mean(axis=-1)
    assert 0.1 < spread.min() < 0.7 and 1.3 < spread.max() < 3
    brighter = found.mean(axis=(1, 2, 3)) - IMAGES.mean(axis=(1, 2, 3))
    assert -0.5 <= brighter.min() < -0.3 and 0.3 < brighter.max() <= 0.5
    grey = IMAGES[..., :1].repeat(3, axis=-1)
    still = np.asarray(KINDS["color"](grey, KEY))
    np.testing.assert_allclose(still[..., 0], still[..., 1], atol=1e-6)


def test_translations_are_by_whole_pixels_with_zeros_beside():
    found, seen = np.asarray(jax.jit(KINDS["translation"])(IMAGES, KEY)), set()
    around = np.pad(IMAGES, ((0, 0), (2, 2), (3, 3), (0, 0)))
    for image, wide in zip(found, around):
        fits = [(y, x) for y in range(5) for x in range(7) if np.array_equal(image, wide[y : y + 16, x : x + 24])]
        assert len(fits) == 1
        seen.add(fits[0])
    assert {y for y, _ in seen} == set(range(5)) and {x for _, x in seen} == set(range(7))


def test_a_cutout_is_one_rectangle_of_at_most_half_the_sides():
    found, middles = np.asarray(jax.jit(KINDS["cutout"])(IMAGES, KEY)), set()
    for image, before in zip(found, IMAGES):
        gone = (image == 0).all(axis=-1)
        np.testing.assert_array_equal(image[~gone], before[~gone])
        rows, columns = np.nonzero(gone.any(axis=1))[0], np.nonzero(gone.any(axis=0))[0]
        assert 4 <= len(rows) <= 8 and 6 <= len(columns) <= 12 and gone.sum() == len(rows) * len(columns)
        middles.add((rows[0], columns[0]))
    assert len(middles) > 40


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_gradients_pass_and_keys_decide(channels):
    images = np.random.RandomState(1).uniform(-1, 1, (4, 16, 16, channels)).astype(np.float32)
    apply = jax.jit(lambda images, key: augmented(tuple(KINDS), images, key))
    slope = jax.grad(lambda images: jnp.sum(apply(images, KEY) ** 2))(images)
    assert np.isfinite(slope).all() and (np.abs(slope).max(axis=(1, 2, 3)) > 0).all()
    np.testing.assert_array_equal(apply(images, KEY), apply(images, KEY))
    assert np.abs(apply(images, KEY) - apply(images, jax.random.key(1))).max() > 0.1
    assert augmented((), images, KEY) is images


@pytest.fixture(scope="module")
def one_step():
    """(settings of the loss) -> metrics of the first step, and of the same at another number."""
    disc, images = Discriminator(DiscriminatorConfig(ndf=4, n_layers=1, norm="none")), IMAGES[:4, :, :16]

    def run(**settings):
        loss = VQGANLossConfig(perceptual_weight=0.0, **settings)
        training = VQGANTraining(VQGAN(TINY), disc, loss, optax.sgd(0.0), optax.sgd(0.0), images.shape)
        state, step = jax.jit(training.init)(KEY), jax.jit(training.step)
        found = [step(dataclasses.replace(state, step=jnp.int32(number)), None, {"image": images}) for number in (0, 1)]
        return state, [jax.tree.map(float, metrics) for _, metrics in found]

    return run


def test_each_step_sees_other_views_and_r1_is_of_the_images_themselves(one_step):
    _, plain = one_step(r1_weight=1.0)
    state, views = one_step(r1_weight=1.0, augment="color,translation,cutout")
    assert plain[0] == plain[1]  # neither network moves here
    for name in ("logits_real", "logits_fake", "g_loss", "r1"):
        assert len({plain[0][name], views[0][name], views[1][name]}) == 3, name
    for name in ("nll_loss", "quant_loss", "l1_loss"):
        assert plain[0][name] == views[0][name] == views[1][name], name
    assert views == one_step(r1_weight=1.0, augment="color,translation,cutout")[1]


def test_discriminators_draw_apart():
    disc = Discriminator(DiscriminatorConfig(ndf=4, n_layers=1, norm="none"))
    params = disc.init(KEY, IMAGES[:2, :, :16])["params"]
    patches = on_patches(disc, 1.0)
    state = type("State", (), {"disc_params": params, "batch_stats": {}})
    loss = VQGANLossConfig(augment="translation")
    cost = lambda adversary: float(adversary.generator_loss(loss, state, {}, IMAGES[:2, :, :16], KEY)[0])
    assert cost(patches) != cost(dataclasses.replace(patches, stream=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"augment": "color,blur"},
            r"augment='color,blur', but it must be of color, translation, cutout, each at most once",
        ),
        ({"augment": "color,color"}, "augment="),
        ({"augment": "color", "disc_weight": 0.0}, r"augment=.*needs a discriminator"),
        ({"pixel_loss": "l3"}, "pixel_loss='l3' is unknown"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VQGANLossConfig(**settings)
