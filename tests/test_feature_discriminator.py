"""The discriminator on features of a network that stays as it is: its logits and gradients, its weight beside that of
the discriminator on patches, whole trainings with it, and what is refused."""

import dataclasses
import re
import shutil
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import unflatten_dict
from golden import drawn_like
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from test_programs import experiment, history
from tiny import TINY

import train_vqgan
from taming_jax import checkpoint
from taming_jax.checkpoint.read import saved_tree
from taming_jax.checkpoint.sums import by_name
from taming_jax.compiling.programs import first_stage_program
from taming_jax.models import dinov2, feature_discriminator
from taming_jax.models.discriminator import Discriminator, DiscriminatorConfig
from taming_jax.models.feature_discriminator import FeatureDiscriminator, FeatureDiscriminatorConfig, load_network
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.sharding import make_mesh
from taming_jax.training.adversary import on_features
from taming_jax.training.vqgan import VQGANTraining
from taming_jax.training.vqgan_loss import VQGANLossConfig

SMALL, SIDE = dinov2.ViTSize(32, 2, 2), 28
IMAGES = np.random.RandomState(0).uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32)
PATCHES = Discriminator(DiscriminatorConfig(ndf=4, n_layers=1, norm="none", spectral=True))
BOTH = VQGANLossConfig(
    perceptual_weight=0.0, disc_weight=0.8, feature_weight=0.5, lecam_weight=0.1, lecam_decay=0.9, disc_learn_start=1,
    disc_start=2, disc_ramp=2,
)  # fmt: skip
RATE = 0.05
HEADS = {"network": "small", "layers": (0, 1), "width": 8}


@pytest.fixture(scope="module", autouse=True)
def _small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(feature_discriminator.NETWORKS, "small", (SMALL, SIDE))
        yield


@pytest.fixture(scope="module")
def features() -> FeatureDiscriminator:
    return FeatureDiscriminator(FeatureDiscriminatorConfig(**HEADS))


def arrays(side: int = SIDE) -> dict[str, np.ndarray]:
    """A weight file's."""
    rs, found = np.random.RandomState(1), {}
    for name, shape in dinov2.dinov2_shapes(SMALL, side).items():
        scale = np.prod(shape[:-1]) ** -0.5 if name.endswith("kernel") else 0.3
        found[name] = (rs.randn(*shape) * scale + name.endswith("scale")).astype(np.float32)
    return found


NETWORK = jax.tree.map(jnp.asarray, unflatten_dict(arrays(), sep="/"))
FROZEN = {"features": NETWORK}


def training_of(features, loss=BOTH, **options) -> VQGANTraining:
    tx, heads = optax.sgd(RATE), features if loss.feature_weight else None
    patches = PATCHES if loss.disc_weight else None
    return VQGANTraining(VQGAN(TINY), patches, loss, tx, tx, IMAGES.shape, feature_discriminator=heads, **options)


def test_layers_are_given_beside_the_class_token_which_stays_as_it_is():
    pixels = np.random.RandomState(2).randn(2, SIDE, SIDE, 3).astype(np.float32)
    plain = dinov2.DINOv2(SMALL).apply({"params": NETWORK}, pixels)
    found = dinov2.DINOv2(SMALL, (0, 1)).apply({"params": NETWORK}, pixels)
    assert set(plain) == {"32"} and set(found) == {"32", "layer_0", "layer_1"}
    np.testing.assert_array_equal(found["32"], plain["32"])
    # A network that ends with the first layer, by whose tokens the final norm does nothing else than norm.
    first = dinov2.DINOv2(dataclasses.replace(SMALL, depth=1), (0,))
    np.testing.assert_array_equal(found["layer_0"], first.apply({"params": NETWORK}, pixels)["layer_0"])
    assert found["layer_1"].shape == (2, 4, 32) and np.abs(found["layer_1"] - found["layer_0"]).min() > 0


def test_images_of_any_sides_are_judged_and_have_a_gradient(features):
    variables = features.init(jax.random.key(0))
    logits = lambda images: features.apply(variables, NETWORK, images)[0]
    judge = jax.jit(lambda images: (logits(images), jax.grad(lambda images: jnp.sum(logits(images)))(images)))
    wide = IMAGES[:, :12]
    found, slope = judge(wide)
    assert found.shape == (4, 2, 2, 2) and found.dtype == jnp.float32
    assert (np.abs(slope) > 0).mean() > 0.99 and np.isfinite(slope).all()
    others, _ = judge(np.concatenate([wide[:1], -wide[1:]]))
    np.testing.assert_allclose(others[0], found[0], atol=1e-5)  # each by itself
    assert np.abs(others[1:] - found[1:]).max() > 1e-2
    grey = wide[..., :1]
    np.testing.assert_allclose(jax.jit(logits)(grey), judge(np.repeat(grey, 3, axis=-1))[0], atol=1e-5)
    # What the network sees of images that have its own sides.
    whole = np.random.RandomState(3).uniform(-1, 1, (2, SIDE, SIDE, 3)).astype(np.float32)
    scaled = ((whole + 1) / 2 - np.array(dinov2.MEAN)) / np.array(dinov2.STD)
    expected = dinov2.DINOv2(SMALL, (1,)).apply({"params": NETWORK}, scaled.astype(np.float32))["layer_1"]
    np.testing.assert_allclose(features.tokens(NETWORK, whole)["layer_1"], expected, atol=1e-5)


def test_the_heads_learn_to_tell_noise_from_pictures(features):
    rs = np.random.RandomState(4)

    def batch():
        """Waves of random direction and phase, and noise."""
        y, x = np.mgrid[:16, :16, :1][:2] / 16
        turn, phase = rs.uniform(0, 3, (2, 16, 1, 1, 1))
        wave = np.sin(6 * (x * np.cos(turn) + y * np.sin(turn)) + phase + np.arange(3))
        return wave.astype(np.float32), rs.uniform(-1, 1, wave.shape).astype(np.float32)

    variables, tx = features.init(jax.random.key(0)), optax.adam(1e-2)
    adversary, loss = on_features(features, 1.0), VQGANLossConfig(disc_weight=0.0, feature_weight=1.0, r1_weight=1e-3)

    @jax.jit
    def learn(params, stats, opt_state, pictures, noise):
        state = SimpleNamespace(step=jnp.int32(0), feature_stats=stats, feature_logits={})
        loss_of = partial(adversary.own_loss, loss, state, FROZEN, pictures, noise)
        (value, (moved, metrics)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), moved["feature_stats"], opt_state, value, metrics

    state, values = (variables["params"], variables["batch_stats"], tx.init(variables["params"])), []
    for number in range(25):
        pictures, noise = batch()  # each is seen for the first time
        *state, value, metrics = learn(*state, pictures, noise)
        values.append(float(value))
        if number == 0:
            of_image = lambda x: features.apply(variables, NETWORK, x[None], train=True)[0].mean()
            slopes = jax.jit(jax.vmap(jax.grad(of_image)))(pictures)
            np.testing.assert_allclose(metrics["r1"], (slopes**2).sum((1, 2, 3)).mean(), rtol=1e-4)
    assert values[0] > 0.9 and values[-1] < 0.4
    assert metrics["logits_real"] > 0.5 and metrics["logits_fake"] < -0.5


@pytest.fixture(scope="module")
def both(features):
    """(the step with both discriminators, its states before each of five steps and after them, their metrics)."""
    training = training_of(features)
    shapes, step = jax.eval_shape(training.init, jax.random.key(0)), jax.jit(training.step)
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    for seed, name in enumerate(("params", "disc_params", "feature_params", "batch_stats", "feature_stats")):
        drawn = drawn_like(getattr(shapes, name), seed)  # sooner than `init` is compiled
        state = state.replace(**{name: jax.tree.map(jnp.asarray, drawn)})
    states, metrics = [state], []
    for _ in range(5):
        state, found = step(state, FROZEN, {"image": IMAGES})
        states.append(state)
        metrics.append(jax.tree.map(float, found))
    return step, states, metrics


def test_each_has_the_adaptive_weight_of_its_own_gradient_and_both_train_the_generator(both, features):
    """The weights as the paper writes them, by gradients of the whole network, and the step's gradient by them."""
    _, states, metrics = both
    state, after, found = states[3], states[4], metrics[3]

    @jax.jit
    def gradients(params):
        def terms(params):
            fake, quantized = VQGAN(TINY).apply({"params": params}, IMAGES)
            variables = {"params": state.disc_params, "batch_stats": state.batch_stats}
            patches, _ = PATCHES.apply(variables, fake, train=True, mutable=["batch_stats"])
            variables = {"params": state.feature_params, "batch_stats": state.feature_stats}
            heads, _ = features.apply(variables, NETWORK, fake, train=True)
            nll = jnp.mean(jnp.abs(fake - IMAGES))
            return jnp.stack([nll, quantized.loss, -jnp.mean(patches), -jnp.mean(heads)])

        return jax.jacrev(terms)(params)

    rows = gradients(state.params)
    length = lambda i: np.linalg.norm(rows["decoder"]["conv_out"]["kernel"][i])
    weights = [1.0, 1.0, *(w * length(0) / (length(i) + 1e-4) for i, w in ((2, 0.8), (3, 0.5)))]
    np.testing.assert_allclose([found["d_weight"], found["d_weight_features"]], weights[2:], rtol=1e-3)
    total = sum(w * found[name] for w, name in zip(weights, ("nll_loss", "quant_loss", "g_loss", "g_loss_features")))
    np.testing.assert_allclose(found["total_loss"], total, rtol=1e-3)
    jax.tree.map(
        lambda a, b, g: np.testing.assert_allclose(b - a, RATE * np.tensordot(weights, g, 1), rtol=1e-3, atol=1e-6),
        *(after.params, state.params, rows),
    )


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_schedule_and_averages_of_logits_are_those_of_each(both):
    _, states, metrics = both
    assert [found["disc_factor"] for found in metrics] == [0, 0, 0.5, 1, 1]
    for params, logits, ending in (("disc_params", "logits", ""), ("feature_params", "feature_logits", "_features")):
        learned = [not same(getattr(a, params), getattr(b, params)) for a, b in pairwise(states)]
        assert learned == [False, True, True, True, True]
        for name in ("real", "fake"):
            average = 0.0
            for found in metrics[1:]:
                average = 0.9 * average + 0.1 * found[f"logits_{name}{ending}"]
            np.testing.assert_allclose(getattr(states[-1], logits)[name], average, rtol=1e-4, atol=1e-7)
    names = {name.removesuffix("_features") for name in metrics[0] if name.endswith("_features")}
    assert names == {"g_loss", "d_weight", "disc_loss", "logits_real", "logits_fake", "lecam", "disc_grad_norm"}


def test_two_devices_compute_what_one_does(both):
    step, states, metrics = both
    late = jax.tree.map(np.array, states[3])
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    inputs = jax.device_put(late, whole), jax.device_put(FROZEN, whole), {"image": jax.device_put(IMAGES, split)}
    two, found = step(*inputs)
    for name, value in metrics[3].items():
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=1e-6, err_msg=name)
    for name in ("params", "disc_params", "feature_params", "feature_stats"):
        close_to = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close_to, getattr(two, name), getattr(states[4], name))


@pytest.mark.parametrize(("disc_weight", "feature_weight", "accumulate"), [(0.8, 0.0, 1), (0.0, 0.5, 1), (0.8, 0.5, 2)])
def test_by_its_weight_there_is_either_or_both(features, disc_weight, feature_weight, accumulate):
    loss = VQGANLossConfig(perceptual_weight=0.0, disc_weight=disc_weight, feature_weight=feature_weight)
    training = training_of(features, loss, accumulate=accumulate)
    state = jax.eval_shape(training.init, jax.random.key(0))
    fields = {name for name in vars(state) if jax.tree.leaves(getattr(state, name))}
    assert ("disc_params" in fields) == (disc_weight > 0)
    found = {name for name in fields if name.startswith("feature_")}
    assert found == ({"feature_params", "feature_stats"} if feature_weight else set())  # SGD has no state
    frozen = FROZEN if feature_weight else None
    text, shapes = jax.make_jaxpr(training.step, return_shape=True)(state, frozen, {"image": IMAGES})
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(state)
    for name, kernel, weight in (("", r"f32\[4,4,\d+,", disc_weight), ("_features", r"f32\[14,14,3,", feature_weight)):
        assert (f"g_loss{name}" in shapes[1]) == bool(re.search(kernel, str(text))) == (weight > 0)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Of a training by the features alone."""
    path = tmp_path_factory.mktemp("weights") / "small.npz"
    np.savez(path, **arrays())
    loss = {"disc_weight": 0.0, "feature_weight": 0.5, "feature_path": str(path), "lecam_weight": 0.01}
    loss |= {"disc_learn_start": 0, "disc_start": 1, "disc_ramp": 2}
    model = {"ch": 8, "ch_mult": (1, 2), "attn_resolutions": (), "z_channels": 8, "embed_dim": 8, "norm_groups": 4}
    train = {"steps": 4, "log_every": 1, "eval_every": 4, "image_every": 4, "save_every": 2}
    return experiment("demo_vqgan", loss=loss, model=model, train=train, feature_discriminator=HEADS | {"layers": (1,)})


def test_a_training_that_goes_on_equals_one_without_a_break(settings, tmp_path):
    whole, part = str(tmp_path / "whole"), tmp_path / "part"
    assert train_vqgan.train_and_evaluate(settings, whole)
    shutil.copytree(whole, part)
    shutil.rmtree(part / "checkpoints" / "4")
    assert train_vqgan.train_and_evaluate(settings, str(part))
    assert history(part) == history(whole) and checkpoint.find_step(str(part)).name == "4"
    load = partial(checkpoint.load_discriminator, params="feature_params", stats="feature_stats")
    jax.tree.map(np.testing.assert_array_equal, load(whole), load(str(part)))
    assert not same(load(whole), load(whole, 2))
    # The network is in no checkpoint, and the discriminator on patches neither.
    folder = checkpoint.find_step(whole)
    names = [name for item in ("params", "train") for name in by_name(saved_tree(folder / item))]
    assert any("feature_params" in name for name in names)
    assert not any("qkv" in name or "disc_params" in name for name in names)
    # Another training starts from the heads too.
    start = dataclasses.replace(settings, init_from=whole).training().start()
    jax.tree.map(np.testing.assert_array_equal, start["feature_params"], load(whole)["params"])
    jax.tree.map(np.testing.assert_array_equal, start["feature_stats"], load(whole)["batch_stats"])
    assert "disc_params" not in start


def test_the_program_to_compile_has_the_network_as_shapes(settings):
    frozen = first_stage_program(settings, make_mesh(settings.mesh), "train").arguments[1]
    shapes = jax.tree.map(lambda x: x.shape, frozen["features"])
    assert shapes == unflatten_dict(dinov2.dinov2_shapes(SMALL, SIDE), sep="/") and frozen["lpips"] is None


def test_weight_files_that_do_not_fit_are_refused(settings, tmp_path):
    def refused(message, **values):
        loss = dataclasses.replace(settings.loss, **values)
        with pytest.raises(ValueError, match=message):
            train_vqgan.train_and_evaluate(dataclasses.replace(settings, loss=loss), str(tmp_path / "workdir"))

    refused(
        r"no file nowhere\.npz.*small_pretrain\.pth.*(?s:.*)--dino .* --out nowhere\.npz", feature_path="nowhere.npz"
    )
    np.savez(tmp_path / "wide.npz", **arrays(42))
    refused(r"wide\.npz is no weight file of .*: position$", feature_path=str(tmp_path / "wide.npz"))
    config = FeatureDiscriminatorConfig("dinov2_vits14")
    with pytest.raises(ValueError, match=r"small\.npz holds small, but .*network is dinov2_vits14"):
        load_network(config, settings.loss.feature_path)


def test_settings_that_do_not_fit_are_refused(features):
    for values, message in (
        ({"network": "dinov3"}, r"network='dinov3' is unknown; known: dinov2_vits14"),
        ({"layers": (2, 12)}, r"layers=\(2, 12\), but dinov2_vits14 has the layers 0 to 11"),
        ({"layers": ()}, r"layers=\(\)"),
        ({"layers": (5, 5)}, r"layers=\(5, 5\), but they must ascend"),
        ({"width": 0}, r"width=0"),
    ):
        with pytest.raises(ValueError, match=message):
            FeatureDiscriminatorConfig(**values)
    with pytest.raises(ValueError, match=r"feature_weight=-1"):
        VQGANLossConfig(feature_weight=-1.0)
    with pytest.raises(ValueError, match=r"r1_weight=1.0, .*disc_weight is 0, and feature_weight too"):
        VQGANLossConfig(disc_weight=0.0, r1_weight=1.0)
    loss = VQGANLossConfig(perceptual_weight=0.0, disc_weight=0.0, feature_weight=0.5)
    with pytest.raises(ValueError, match=r"feature_weight=0.5, but there is no discriminator"):
        training_of(None, loss)
    with pytest.raises(ValueError, match=r"feature_weight=0.5, but there are no DINOv2 parameters"):
        training = training_of(features, loss)
        jax.eval_shape(training.step, jax.eval_shape(training.init, jax.random.key(0)), None, {"image": IMAGES})
    maps = VQGANConfig(content="segmentation", in_channels=5, out_channels=5)
    four = VQGANConfig(in_channels=4, out_channels=4)
    for config, message in ((maps, r"feature_weight=0.5, .*without discriminator"), (four, r"these have 4")):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(training_of(features, loss), model=VQGAN(config))
