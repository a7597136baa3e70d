"""The first stage: equality with the PyTorch implementation, published sizes, sizes of images, precision, settings."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDENS
from golden import VQGAN_F4, close, drawn_like, vqgan_params, weights
from tiny import TINY

from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.nn.conv import Conv, double, downsample

ATTENTIVE = replace(TINY, attn_resolutions=(8,))
DEPTH = {"in_channels": 1, "out_channels": 1}
PUBLISHED = {
    "imagenet_f16_1024": VQGANConfig(),
    "imagenet_f16_16384": VQGANConfig(n_embed=16384),
    "imagenet_depth": VQGANConfig(**DEPTH),
    "sflckr_segmentation": VQGANConfig(in_channels=182, out_channels=182),
    "coco_segmentation": VQGANConfig(in_channels=183, out_channels=183),
}


def size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def tiny():
    model = VQGAN(ATTENTIVE)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    return model, drawn_like(shapes["params"])


@pytest.fixture(scope="module")
def outputs(golden):
    """Everything about the golden images, in one compilation."""
    model, params = VQGAN(VQGAN_F4), vqgan_params(weights(golden("vqgan_f4")))

    def everything(params, x):
        apply = lambda *args, method=None: model.apply({"params": params}, *args, method=method)
        reconstruction, quantized = apply(x)
        return {
            "encoder": apply(x, method=lambda model, x: model.encoder(x)),
            "pre_quant": apply(x, method="pre_quant"),
            "quantized": quantized,
            "encode": apply(x, method="encode"),
            "reconstruction": reconstruction,
            "decode": apply(quantized.z, method="decode"),
            "decode_ids": apply(quantized.ids, method="decode_ids"),
            "features": apply(quantized.z, method="features"),
        }

    return jax.jit(everything)(params, golden("vqgan_f4")["image"])


def test_golden_parameters_are_all_that_the_network_has(golden):
    expected = jax.eval_shape(VQGAN(VQGAN_F4).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
    assert shapes(vqgan_params(weights(golden("vqgan_f4")))) == shapes(expected)


def test_forward_values_equal_the_goldens(golden, outputs):
    expected = golden("vqgan_f4")
    close(outputs["encoder"], expected["encoder"], 1e-4)
    close(outputs["pre_quant"], expected["pre_quant"], 1e-4)
    np.testing.assert_array_equal(outputs["quantized"].ids, expected["indices"])
    close(outputs["quantized"].z, expected["quant"], 1e-4)
    close(outputs["quantized"].loss, expected["quant_loss"], 1e-4)
    close(outputs["reconstruction"], expected["reconstruction"], 1e-4)


def test_the_papers_placement_of_beta_equals_the_golden(golden, outputs):
    params = vqgan_params(weights(golden("vqgan_f4")))
    paper = VQGAN(replace(VQGAN_F4, legacy_beta=False))
    quantize = lambda model, z: model.quantizer(z)
    loss = paper.apply({"params": params}, outputs["pre_quant"], method=quantize).loss
    close(loss, golden("vqgan_f4")["quant_loss_nonlegacy"], 1e-4)


def test_the_ways_in_and_out_agree(outputs, golden):
    np.testing.assert_array_equal(outputs["encode"].ids, outputs["quantized"].ids)
    close(outputs["decode"], outputs["reconstruction"], 1e-5)
    close(outputs["decode_ids"], outputs["reconstruction"], 1e-5)
    last = vqgan_params(weights(golden("vqgan_f4")))["decoder"]["conv_out"]
    assert outputs["features"].shape == (2, 64, 64, 32)
    close(Conv(3).apply({"params": last}, outputs["features"]), outputs["reconstruction"], 1e-5)


def test_parameter_counts_of_the_published_configurations():
    published = json.loads((GOLDENS / "parameter_counts.json").read_text(encoding="utf-8"))
    for name, config in PUBLISHED.items():
        image = jax.ShapeDtypeStruct((1, 256, 256, config.in_channels), jnp.float32)
        params = jax.eval_shape(VQGAN(config).init, jax.random.key(0), image)["params"]
        counts = {part: size(tree) for part, tree in params.items()}
        counts["codebook"] = counts.pop("quantizer")
        assert counts == published[name], name


@pytest.mark.parametrize("side", [(16, 16), (24, 8), (2, 34)])
def test_images_of_any_size_that_the_factor_divides_go_in(tiny, side):
    model, params = tiny
    image = jax.ShapeDtypeStruct((3, *side, 3), jnp.float32)
    reconstruction, quantized = jax.eval_shape(model.apply, {"params": params}, image)
    assert reconstruction.shape == (3, *side, 3)
    assert quantized.ids.shape == (3, *ATTENTIVE.grid(*side)) == (3, side[0] // 2, side[1] // 2)


def test_a_size_that_the_factor_does_not_divide_is_refused(tiny):
    model, params = tiny
    with pytest.raises(ValueError, match=r"16 x 15 .* factor 2"):
        model.apply({"params": params}, jnp.zeros((1, 16, 15, 3)), method="encode")
    with pytest.raises(ValueError, match=r"250 x 256 .* factor 16"):
        VQGANConfig().grid(250, 256)


def test_other_channels_are_refused(tiny):
    model, params = tiny
    with pytest.raises(ValueError, match=r"\(b, H, W, 3\).*\(1, 16, 16, 4\)"):
        model.apply({"params": params}, jnp.zeros((1, 16, 16, 4)))


def test_attention_stands_where_the_configured_resolution_says_so(tiny):
    _, params = tiny
    attention = lambda tree: {name for name in tree if "attn" in name}
    assert attention(params["encoder"]) == {"mid_attn", "down_1_attn_0"}
    assert attention(params["decoder"]) == {"mid_attn", "up_1_attn_0", "up_1_attn_1"}


def test_half_precision_computes_in_it_but_keeps_parameters_and_results_in_float32(tiny):
    _, params = tiny
    half = VQGAN(replace(ATTENTIVE, dtype="bfloat16"))
    x = jnp.asarray(np.random.RandomState(0).uniform(-1, 1, (2, 16, 16, 3)), jnp.float32)
    fresh = jax.eval_shape(half.init, jax.random.key(0), x)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}

    def run(model):
        return jax.jit(lambda x: model.apply({"params": params}, x, method="reconstruct"))(x)

    (reconstruction, features, quantized), (exact, _, exact_quantized) = run(half), run(VQGAN(ATTENTIVE))
    assert features.dtype == jnp.bfloat16
    assert reconstruction.dtype == quantized.z.dtype == quantized.loss.dtype == jnp.float32
    same = np.asarray(quantized.ids == exact_quantized.ids)
    assert same.mean() > 0.8
    assert 0 < jnp.abs(reconstruction - exact).mean() < 0.1


def test_dropout_works_in_training_alone(tiny):
    _, params = tiny
    model = VQGAN(replace(ATTENTIVE, dropout=0.5))
    x = jnp.asarray(np.random.RandomState(0).uniform(-1, 1, (1, 16, 16, 3)), jnp.float32)

    @jax.jit
    def run(key):
        train = model.apply({"params": params}, x, True, rngs={"dropout": key}, method="pre_quant")
        return train, model.apply({"params": params}, x, method="pre_quant")

    (train, evaluation), (other, again) = run(jax.random.key(0)), run(jax.random.key(1))
    assert (train != other).any()
    np.testing.assert_array_equal(evaluation, again)


def test_halving_pads_at_the_bottom_and_the_right_and_doubling_repeats():
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[0, 0] = 1  # the top left of each window
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    halved = downsample(1, jnp.float32, None).apply({"params": {"kernel": kernel, "bias": np.zeros(1)}}, x)
    np.testing.assert_array_equal(halved[0, :, :, 0], [[0, 2], [8, 10]])
    np.testing.assert_array_equal(double(halved)[0, :, :, 0], np.kron([[0, 2], [8, 10]], np.ones((2, 2))))


def test_convolutions_start_uniform_by_their_fan_in():
    params = Conv(64).init(jax.random.key(0), jnp.zeros((1, 4, 4, 16)))["params"]
    bound = (9 * 16) ** -0.5
    assert 0.99 * bound < jnp.abs(params["kernel"]).max() <= bound
    np.testing.assert_allclose(params["kernel"].std(), bound / 3**0.5, rtol=0.02)
    assert 0.8 * bound < jnp.abs(params["bias"]).max() <= bound


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ch": 100}, "norm_groups=32, .* widths .*100"),
        ({"resolution": 250}, "resolution=250, .* factor 16"),
        ({"quantizer": "round"}, "quantizer='round' is unknown; known: .*vq"),
        ({"dtype": "float8"}, "'float8'"),
        ({"dropout": 1.0}, r"\[0, 1\)"),
        ({"n_embed": 0}, "n_embed=0"),
        ({"ch_mult": ()}, "ch_mult"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VQGANConfig(**settings)
