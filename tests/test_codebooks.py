"""Quantizers after the paper's: ids and codes by numpy, gradients by finite differences, entropies; tables of codes
that start from data and give idle codes new places, on one device as on eight."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import TINY

from taming_jax.data.config import DataConfig
from taming_jax.experiment import VQGANExperiment, saved_form
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.nn.codes import choice_entropy, rotated
from taming_jax.nn.lookup_free import (
    BinarySphericalQuantizer,
    FiniteScalarQuantizer,
    LookupFreeQuantizer,
    bit_entropy,
)
from taming_jax.nn.quantizers import (
    QUANTIZERS,
    IndexQuantizer,
    LinearQuantizer,
    NormalizedQuantizer,
    VectorQuantizer,
    ema_codebook,
)
from taming_jax.settings import from_dict, to_dict
from taming_jax.sharding import make_mesh, put_batch, replicated
from taming_jax.training import codebook
from taming_jax.training.vqgan import VQGANTraining
from taming_jax.training.vqgan_loss import VQGANLossConfig

LEVELS = (2, 3, 4, 16)


def fsq_codes():
    """(all digits in the order of ids, latents in the middle of each, codes), by numpy in float64."""
    digits = np.array([row[::-1] for row in itertools.product(*(range(n) for n in LEVELS[::-1]))])
    levels = np.array(LEVELS)
    half, offset = (levels - 1) * 1.001 / 2, np.where(levels % 2 == 0, 0.5, 0.0)
    z = np.arctanh((digits - levels // 2 + offset) / half) - np.arctanh(offset / half)
    return z, (digits - levels // 2) / (levels // 2)


def bit_codes(scale):
    bits = np.array([row[::-1] for row in itertools.product((0, 1), repeat=7)])
    return scale * (2 * bits - 1) * np.random.RandomState(0).uniform(0.1, 3, bits.shape), scale * (2 * bits - 1)


ROUNDING = {
    "fsq": (FiniteScalarQuantizer(384, 4, levels=LEVELS), *fsq_codes()),
    "lfq": (LookupFreeQuantizer(128, 7), *bit_codes(1.0)),
    "bsq": (BinarySphericalQuantizer(128, 7), *bit_codes(7**-0.5)),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ROUNDING)
def test_ids_and_codes_are_one_to_one_in_any_precision(name, dtype):
    quantizer, z, codes = ROUNDING[name]
    quantized = jax.jit(lambda z: quantizer.apply({}, z))(jnp.asarray(z, dtype))
    assert quantized.ids.dtype == jnp.int32 and quantized.z.dtype == jnp.float32
    np.testing.assert_array_equal(quantized.ids, np.arange(len(codes)))  # each code once, in order
    np.testing.assert_allclose(quantized.z, codes, atol=1e-6)
    found = quantizer.apply({}, jnp.arange(len(codes)).reshape(2, -1), method="lookup")
    np.testing.assert_allclose(found.reshape(codes.shape), codes, atol=1e-6)


def test_eighteen_bits_keep_all_ids():
    ids = jnp.asarray([0, 1, 2**17 + 5, 2**18 - 2, 2**18 - 1])
    quantizer = LookupFreeQuantizer(2**18, 18)
    codes = quantizer.apply({}, ids, method="lookup")
    np.testing.assert_array_equal(quantizer.apply({}, codes.astype(jnp.bfloat16)).ids, ids)


def test_the_gradient_of_finite_scalars_is_that_of_their_bound():
    z = np.linspace(-2, 2, 7, dtype=np.float32)[:, None]
    found = jax.jit(jax.grad(lambda z: FiniteScalarQuantizer(5, 1, levels=(5,)).apply({}, z).z.sum()))(z)
    np.testing.assert_allclose(found, 2 * 1.001 / np.cosh(z) ** 2 / 2, rtol=1e-5)


def test_the_entropy_of_bits_is_that_over_all_codes():
    z = np.random.RandomState(0).randn(30, 5).astype(np.float32) * 0.3
    codes = np.array(list(itertools.product((-0.5, 0.5), repeat=5)), np.float32)
    value, gradient = jax.jit(jax.value_and_grad(lambda z: bit_entropy(z, 0.5, 0.3)))(z)
    expected, its_gradient = jax.jit(jax.value_and_grad(lambda z: choice_entropy(z, codes, 0.3)))(z)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(gradient, its_gradient, rtol=1e-3, atol=1e-6)
    quantizer = LookupFreeQuantizer(32, 5, beta=0.25, entropy_weight=0.1, entropy_temperature=0.3)
    quantized = quantizer.apply({}, z)
    commitment = 0.25 * ((np.abs(z) - 1) ** 2).mean()
    np.testing.assert_allclose(quantized.loss, commitment + 0.1 * bit_entropy(z, 1.0, 0.3), rtol=1e-5)
    many = jax.random.normal(jax.random.key(0), (4096, 18))
    found = jax.jit(lambda z: bit_entropy(z, 1.0, 0.01))(many)
    assert -18 * np.log(2) < found < -17.5 * np.log(2)  # two groups of nine bits, evenly used, each latent sure


RNG = np.random.RandomState(1)
Z, CODES = RNG.randn(6, 3), RNG.randn(9, 3)
PROJ, PULL, BIAS = RNG.randn(3, 3), RNG.randn(6, 3), np.array([0.3, -0.2, 0.1])


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def simvq(z, proj):
    """What the gradients of SimVQ are those of: what is held in a term has its value at Z, PROJ; in float64."""
    held = CODES @ PROJ + BIAS
    ids = ((Z[:, None] - held) ** 2).sum(-1).argmin(-1)
    entries = (CODES @ proj + BIAS)[ids]
    loss = 0.25 * ((held[ids] - z) ** 2).mean() + ((entries - Z) ** 2).mean()
    return (PULL * z).sum() + loss


def ibq(z, codes):
    ids = (Z @ CODES.T).argmax(-1)
    entries, soft = codes[ids], softmax(z @ codes.T) @ CODES
    zq = entries + soft - softmax(Z @ CODES.T) @ CODES
    terms = ((CODES[ids] - z) ** 2).mean() + 0.25 * ((entries - Z) ** 2).mean()
    return (PULL * zq).sum() + ((zq - z) ** 2).mean() + terms


@pytest.mark.parametrize(
    ("quantizer", "params", "name", "by_numpy"),
    [
        (LinearQuantizer(9, 3, legacy=False), {"codebook": CODES, "proj": PROJ, "bias": BIAS}, "proj", simvq),
        (IndexQuantizer(9, 3), {"codebook": CODES}, "codebook", ibq),
    ],
)
def test_gradients_are_finite_differences(quantizer, params, name, by_numpy):
    single = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)

    def loss(z, params):
        quantized = quantizer.apply({"params": params}, z)
        return jnp.sum(single(PULL) * quantized.z) + quantized.loss

    to_z, to_params = jax.jit(jax.grad(loss, argnums=(0, 1)))(single(Z), single(params))
    points = [Z, params[name]]
    for i, found in enumerate((to_z, to_params[name])):
        for place in np.ndindex(found.shape):
            step = np.zeros(found.shape)
            step[place] = 1e-5
            above, below = (
                by_numpy(*(point + sign * step if j == i else point for j, point in enumerate(points)))
                for sign in (1, -1)
            )
            np.testing.assert_allclose(found[place], (above - below) / 2e-5, rtol=1e-3, atol=1e-4)
    if name == "proj":
        assert not np.any(to_params["codebook"])  # it never moves
    else:
        assert np.all(np.abs(found).sum(-1) > 0)  # every code moves, chosen or not


def test_the_gradient_gets_past_a_new_table_of_ibq():
    """By the codes' covariance under the soft choice, which is next to nothing where all codes are near zero."""
    quantizer, z = IndexQuantizer(512, 16), 0.1 * RNG.randn(64, 16).astype(np.float32)
    params = jax.jit(quantizer.init)(jax.random.key(0), z)
    pull = RNG.randn(64, 16).astype(np.float32)
    passed = jax.jit(jax.grad(lambda z: jnp.sum(pull * quantizer.apply(params, z).z)))(z)
    assert np.corrcoef(passed.ravel(), pull.ravel())[0, 1] > 0.9
    assert 0.5 < np.linalg.norm(passed) / np.linalg.norm(pull) < 2


def test_a_rotated_gradient_turns_with_the_latent():
    z, codes = Z.astype(np.float32), CODES[:6].astype(np.float32)
    codes[1], z[2], codes[3] = -2 * z[1], 0, 0  # no turn there
    value, pull_back = jax.vjp(lambda z: rotated(z, codes), z)
    np.testing.assert_allclose(value, codes, atol=1e-6)
    (found,) = pull_back(PULL.astype(np.float32))
    for row in (0, 4, 5):
        a, b = (x[row] / np.linalg.norm(x[row]) for x in (z, codes))
        r = (a + b) / np.linalg.norm(a + b)
        turn = np.eye(3) - 2 * np.outer(r, r) + 2 * np.outer(b, a)
        np.testing.assert_allclose(turn @ a, b, atol=1e-5)
        stretch = np.linalg.norm(codes[row]) / np.linalg.norm(z[row])
        np.testing.assert_allclose(found[row], stretch * turn.T @ PULL[row], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found[1:4], PULL[1:4], rtol=1e-5)


@pytest.mark.parametrize("quantizer", [VectorQuantizer, NormalizedQuantizer, LinearQuantizer])
def test_the_estimator_changes_gradients_alone(quantizer):
    z = Z.astype(np.float32)
    variables = quantizer(9, 3).init(jax.random.key(0), z)
    plain, turned = (quantizer(9, 3, estimator=name) for name in ("straight", "rotation"))
    np.testing.assert_array_equal(plain.apply(variables, z).ids, turned.apply(variables, z).ids)
    np.testing.assert_allclose(plain.apply(variables, z).z, turned.apply(variables, z).z, atol=1e-6)
    of = lambda kind: jax.grad(lambda z: jnp.sum(PULL * kind.apply(variables, z).z))(z)
    assert np.abs(of(plain) - of(turned)).max() > 1e-3


def test_centres_settle_where_latents_are():
    places = np.array([[0, 0], [5, 0], [0, 9]], np.float32)
    latents = np.repeat(places, 20, axis=0) + np.random.RandomState(0).randn(60, 2).astype(np.float32) * 0.1
    centres = np.asarray(codebook.kmeans(jnp.asarray(latents), 12, 5, jax.random.key(0)))
    nearest = np.linalg.norm(centres[:, None] - places, axis=-1)
    assert nearest.min(1).max() < 0.5 and set(nearest.argmin(1)) == {0, 1, 2}
    more = np.asarray(codebook.kmeans(jnp.asarray(latents), 200, 3, jax.random.key(0)))
    assert len(np.unique(more, axis=0)) == 200 and np.abs(more).max() < 12
    averages = codebook.evenly_used(dataclasses.replace(TINY, quantizer="ema"), more, 60)["quantizer"]
    np.testing.assert_allclose(ema_codebook(averages), more, rtol=1e-3)  # which the next step starts from


IMAGES = np.random.RandomState(0).uniform(-1, 1, (8, 16, 16, 3)).astype(np.float32)
LOSS = VQGANLossConfig(perceptual_weight=0.0, disc_weight=0.0)


def test_a_table_lives_and_is_the_same_on_eight_devices():
    config = dataclasses.replace(TINY, n_embed=600, ema_decay=0.5, restart_below=0.2, kmeans=3, estimator="rotation")
    optimizer = optax.sgd(0.02, momentum=0.5)
    training = VQGANTraining(VQGAN(config), None, LOSS, optimizer, None, IMAGES.shape, ema_decay=0.99)
    mesh = make_mesh()
    fresh = jax.jit(training.init)(jax.random.key(0))

    def run(state, batch):
        step, history = jax.jit(training.step), []
        for _ in range(4):
            state, metrics = step(state, None, batch)
            history.append((np.asarray(state.params["quantizer"]["codebook"]), float(metrics["usage"])))
        return state, history

    _, history = run(fresh, {"image": jnp.asarray(IMAGES)})
    with jax.set_mesh(mesh):
        eight, eights = run(jax.device_put(fresh, replicated(mesh)), put_batch({"image": IMAGES}, mesh))
    for leaf in jax.tree.leaves((eight.params["quantizer"], eight.ema, eight.averages["quantizer"], eight.opt_state)):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == 8 and all(np.array_equal(shards[0], shard) for shard in shards)
    for (one, _), (other, _) in zip(history, eights, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)
    # The start does not collapse: what the second step finds is in use as at first, near where it was.
    tables, uses = zip(*history, strict=True)
    assert uses[0] > 0.5 and uses[1] > 0.8 * uses[0]
    moves = [np.abs(after - before).max(1) for before, after in itertools.pairwise(tables)]
    assert moves[0].max() < 0.2 * tables[0].std()
    assert (moves[1] > 0.5 * tables[0].std()).any()  # by now some have been idle, and have new places


def test_idle_codes_begin_anew():
    config = dataclasses.replace(TINY, restart_below=0.5)
    optimizer = optax.adam(1e-3)
    training = VQGANTraining(VQGAN(config), None, LOSS, optimizer, None, IMAGES.shape, ema_decay=0.99)
    state = jax.eval_shape(training.init, jax.random.key(0))
    state = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), state)
    idle, candidates = np.arange(20) < 5, RNG.randn(20, 8).astype(np.float32)
    average = training.latents / 20
    kept = {"count": jnp.where(idle, 0.4, 0.6) * average, "candidates": candidates}
    after = codebook.followed(config, state.replace(ema={"quantizer": kept}), training.latents)
    for tree, expected in (
        (after.params, candidates),
        (after.averages, candidates),
        (after.opt_state[0].mu, np.zeros_like(candidates)),
        (after.opt_state[0].nu, np.zeros_like(candidates)),
    ):
        table = tree["quantizer"]["codebook"]
        np.testing.assert_array_equal(table[:5], expected[:5])
        np.testing.assert_array_equal(table[5:], np.ones((15, 8)))
    np.testing.assert_allclose(after.ema["quantizer"]["count"], np.where(idle, 1, 0.6) * average, rtol=1e-6)
    assert not any(np.any(leaf != 1) for leaf in jax.tree.leaves(after.params["encoder"]))


def test_a_table_of_averages_moves_in_the_averages_of_weights_too():
    config = dataclasses.replace(TINY, quantizer="ema")
    training = VQGANTraining(VQGAN(config), None, LOSS, optax.adam(1e-3), None, IMAGES.shape, ema_decay=0.9999)
    state = jax.eval_shape(training.init, jax.random.key(0))
    state = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), state)
    kept = {"count": jnp.full(20, 2.0), "total": jnp.full((20, 8), -8.0)}
    after = codebook.followed(config, state.replace(ema={"quantizer": kept}), training.latents)
    for tree in (after.params, after.averages):
        np.testing.assert_allclose(tree["quantizer"]["codebook"], np.full((20, 8), -4.0), rtol=1e-4)


def test_what_has_no_effect_in_a_training_is_refused():
    with pytest.raises(ValueError, match=r"entropy_start=3.0, but without entropy_steps"):
        VQGANLossConfig(entropy_start=3.0)
    heavier = dataclasses.replace(LOSS, entropy_start=3.0, entropy_steps=10)
    with pytest.raises(ValueError, match=r"entropy_steps=10, but config.model.entropy_weight is 0"):
        VQGANTraining(VQGAN(TINY), None, heavier, optax.adam(1e-3), None, IMAGES.shape)


def test_the_entropy_term_counts_more_at_first():
    loss = VQGANLossConfig(entropy_start=3.0, entropy_steps=10)
    z = jnp.asarray(Z, jnp.float32)
    quantized = LookupFreeQuantizer(8, 3, entropy_weight=0.5).apply({}, z)
    entropy = float(quantized.metrics["entropy_loss"])
    for step, more in ((0, 2.0), (5, 1.0), (10, 0.0), (99, 0.0)):
        np.testing.assert_allclose(
            loss.annealed(quantized, jnp.asarray(step)), quantized.loss + more * entropy, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantizer": "fsq"}, r"levels=\(\), but each channel needs at least 3"),
        ({"quantizer": "fsq", "levels": (2, 4)}, r"levels=\(2, 4\), but each channel needs .* 3; 2 are signs: 'lfq'"),
        ({"quantizer": "fsq", "levels": (4, 4)}, r"embed_dim=256, but levels=\(4, 4\) are 2 channels"),
        ({"quantizer": "fsq", "levels": (4, 4), "embed_dim": 2}, r"n_embed=1024, but levels=\(4, 4\) make 16 codes"),
        ({"quantizer": "bsq", "embed_dim": 18}, r"n_embed=1024, but it must be 2\^embed_dim, of embed_dim=18"),
        ({"entropy_weight": 0.1}, r"entropy_weight=0.1, .*='vq' it has no effect; known are .*'lfq'"),
        ({"quantizer": "fsq", "estimator": "rotation"}, r"estimator='rotation', .*no effect"),
        ({"estimator": "turn"}, r"estimator='turn' is unknown; known: straight, rotation"),
        ({"quantizer": "simvq", "kmeans": 5}, r"kmeans=5"),
        ({"restart_below": 1.0}, r"restart_below=1.0"),
        ({"quantizer": "normalized", "legacy_beta": False}, r"legacy_beta=False, .*no effect"),
        ({"kl_weight": 1e-3}, r"kl_weight=0.001, .*no effect; known are \('gumbel',\)"),
        ({"entropy_temperature": 1.0}, r"entropy_temperature=1.0, .*no effect"),
        ({"beta": -0.1}, r"beta=-0.1"),
        ({"entropy_sample": 2.0}, r"entropy_sample=2.0, but without entropy_weight"),
        ({"quantizer": "lfq", "embed_dim": 10, "entropy_batch": 0.5}, r"entropy_batch=0.5, but without entropy_weight"),
        ({"quantizer": "normalized", "entropy_weight": 0.1, "entropy_batch": -1.0}, r"entropy_batch=-1.0"),
        ({"quantizer": "vq", "entropy_temperature": 0.02}, r"entropy_temperature=0.02, .*no effect"),
    ],
)
def test_quantizer_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VQGANConfig(**settings)


SIZES = {"lfq": {"embed_dim": 10}, "bsq": {"embed_dim": 10}, "fsq": {"embed_dim": 2, "n_embed": 16, "levels": (4, 4)}}


@pytest.mark.parametrize(
    ("quantizer", "own"),
    [
        ("vq", (0.25, True, 0.01)),
        ("ema", (0.25, True, 0.01)),
        ("normalized", (0.25, True, 0.01)),
        ("gumbel", (0.25, True, 0.01)),
        ("simvq", (0.25, False, 0.01)),
        ("ibq", (0.25, True, 0.01)),
        ("fsq", (0.25, True, 0.01)),
        ("lfq", (0.25, True, 0.01)),
        ("bsq", (0.0, True, 1.0)),
    ],
)
def test_quantizers_have_their_authors_defaults_and_saved_settings_stay(quantizer, own):
    config = VQGANConfig(quantizer=quantizer, **SIZES.get(quantizer, {}))
    names = ("beta", "legacy_beta", "entropy_temperature")
    assert {getattr(config, name) for name in names} == {None}
    assert tuple(getattr(config.settled, name) for name in names) == own
    assert config.settled.settled == config.settled and from_dict(VQGANConfig, to_dict(config)) == config
    # What checkpoints from before hold: one default for all, which they keep.
    older = {**to_dict(config), "beta": 0.25, "legacy_beta": True, "entropy_temperature": 0.01}
    older = {name: value for name, value in older.items() if name not in ("entropy_sample", "entropy_batch")}
    settled = from_dict(VQGANConfig, older).settled
    assert tuple(getattr(settled, name) for name in names) == (0.25, True, 0.01)


def test_the_network_has_the_quantizer_of_its_settings():
    small = {"embed_dim": 5, "n_embed": 32, "z_channels": 8}
    of = lambda **settings: VQGAN(dataclasses.replace(TINY, **small, **settings)).bind({}).quantizer
    authors, before = of(quantizer="bsq"), of(quantizer="bsq", beta=0.25, entropy_temperature=0.01)
    assert (authors.beta, authors.entropy_temperature) == (0.0, 1.0)
    assert (before.beta, before.entropy_temperature) == (0.25, 0.01)
    assert not of(quantizer="simvq").legacy and of(quantizer="simvq", legacy_beta=True).legacy
    apart = of(quantizer="lfq", entropy_weight=0.1, entropy_sample=0.5, entropy_batch=2.0)
    assert (apart.entropy_sample, apart.entropy_batch) == (0.5, 2.0)


def test_a_checkpoint_holds_what_none_stood_for():
    experiment = VQGANExperiment("", DataConfig(), model=VQGANConfig(quantizer="bsq", embed_dim=10))
    saved = saved_form(experiment)["model"]
    assert (saved["beta"], saved["legacy_beta"], saved["entropy_temperature"]) == (0.0, True, 1.0)


@pytest.mark.parametrize(("kind", "c"), [("normalized", 3), ("lfq", 5), ("bsq", 5), ("ibq", 3)])
def test_the_two_entropies_are_weighted_apart(kind, c):
    z = np.random.RandomState(5).randn(20, c).astype(np.float32)
    make = lambda **weights: QUANTIZERS[kind](32, c, entropy_weight=1.0, entropy_temperature=0.5, **weights)
    variables = make().init(jax.random.key(0), z)
    term = lambda **weights: float(make(**weights).apply(variables, z).metrics["entropy_loss"])
    sample, batch = term(entropy_batch=0.0), term(entropy_sample=0.0)
    assert sample > 0 > batch
    assert term() == pytest.approx(sample + batch, rel=1e-5)
    assert term(entropy_sample=0.5, entropy_batch=2.0) == pytest.approx(0.5 * sample + 2 * batch, rel=1e-5)
