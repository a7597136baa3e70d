"""First stages for other than images, and with other quantizers: the original's numbers, and a step of training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import close, vqgan_params, weights
from tiny import TINY

from taming_jax.models.content import binary_cross_entropy
from taming_jax.models.vqgan import VQGAN, VQGANConfig, network_input
from taming_jax.nn.quantizers import VectorQuantizer
from taming_jax.sharding import MeshConfig, make_mesh
from taming_jax.trained.evaluation import make_image_eval
from taming_jax.trained.first_stage import FirstStage
from taming_jax.training.vqgan import VQGANTraining
from taming_jax.training.vqgan_loss import VQGANLossConfig

SHAPE = {"resolution": 32, "ch": 32, "ch_mult": (1, 1, 2), "num_res_blocks": 1, "attn_resolutions": (8,)}
GUMBEL = VQGAN(VQGANConfig(quantizer="gumbel", z_channels=96, embed_dim=96, n_embed=128, kl_weight=1e-3, **SHAPE))
LABELS = {"content": "segmentation", "in_channels": 12, "out_channels": 12}
SEGMENTATION = VQGAN(VQGANConfig(z_channels=32, embed_dim=16, n_embed=64, **LABELS, **SHAPE))


def test_the_gumbel_stage_is_the_originals(golden):
    arrays = golden("vqgan_gumbel_f4")
    params = vqgan_params(weights(arrays))

    def everything(params, x):
        apply = lambda *args, **options: GUMBEL.apply({"params": params}, *args, **options)
        reconstruction, quantized = apply(x)
        logits = apply(x, method=lambda model, x: model.quantizer.proj(model.pre_quant(x)))
        return reconstruction, quantized, logits

    reconstruction, quantized, logits = jax.jit(everything)(params, arrays["image"])
    close(logits, arrays["gumbel_logits"], 1e-4)
    np.testing.assert_array_equal(quantized.ids, arrays["indices"])
    close(quantized.z, arrays["quant"], 1e-4)
    close(reconstruction, arrays["reconstruction"], 1e-4)
    np.testing.assert_allclose(quantized.metrics["kl"] * 1e-3, arrays["kl"], rtol=1e-4)
    np.testing.assert_allclose(quantized.loss, arrays["kl"], rtol=1e-4)


def test_gumbel_chooses_among_the_used_codes_only(golden):
    arrays = golden("vqgan_gumbel_f4")
    used = tuple(int(code) for code in np.unique(arrays["indices"])[::2])
    model = VQGAN(dataclasses.replace(GUMBEL.config, remap=used))
    stage = FirstStage(model, vqgan_params(weights(arrays)), make_mesh(MeshConfig(data=1)))
    np.testing.assert_array_equal(stage.encode(arrays["image"]), arrays["gumbel_logits"][..., used].argmax(-1))


def test_the_stage_for_label_maps_is_the_originals(golden):
    arrays = golden("vqgan_segmentation_f4")
    params = vqgan_params(weights(arrays))
    images = network_input(SEGMENTATION.config, {"segmentation": arrays["labels"]})
    reconstruction, quantized = jax.jit(SEGMENTATION.apply)({"params": params}, images)
    np.testing.assert_array_equal(quantized.ids, arrays["indices"])
    close(reconstruction, arrays["reconstruction"], 1e-4)
    loss = binary_cross_entropy(reconstruction, images)
    np.testing.assert_allclose(loss, arrays["bce_loss"], rtol=1e-4)
    np.testing.assert_allclose(loss + quantized.loss, arrays["total_loss"], rtol=1e-4)
    np.testing.assert_allclose(quantized.loss, arrays["quant_loss"], rtol=1e-4)
    z = np.asarray(SEGMENTATION.apply({"params": params}, images, method="pre_quant"))
    other = VectorQuantizer(64, 16, legacy=False).apply({"params": params["quantizer"]}, z)
    np.testing.assert_allclose(other.loss, arrays["quant_loss_nonlegacy"], rtol=1e-4)

    stage = FirstStage(SEGMENTATION, params, make_mesh(MeshConfig(data=1)))
    np.testing.assert_array_equal(stage.encode(arrays["labels"]), arrays["indices"])
    close(stage.reconstruct(arrays["labels"]), arrays["reconstruction"], 1e-4)
    with pytest.raises(ValueError, match=r"segmentation has labels 12\.\.12; this model knows 0\.\.11"):
        stage.encode(np.full((1, 32, 32), 12))
    with pytest.raises(ValueError, match=r"expected integers \(b, H, W\)"):
        stage.encode(np.zeros((1, 32, 32), np.float32))


def test_remapped_ids_are_places_among_the_used_codes(golden):
    arrays = golden("vqgan_segmentation_f4")
    params = vqgan_params(weights(arrays))
    used = tuple(int(code) for code in np.unique(arrays["indices"]))
    config = dataclasses.replace(SEGMENTATION.config, remap=used)
    assert config.n_codes == len(used) < 64
    stage = FirstStage(VQGAN(config), params, make_mesh(MeshConfig(data=1)))
    ids = np.asarray(stage.encode(arrays["labels"]))
    np.testing.assert_array_equal(np.asarray(used)[ids], arrays["indices"])
    close(stage.decode(ids), arrays["reconstruction"], 1e-4)
    with pytest.raises(ValueError, match=r"this first stage has codes 0\.\."):
        stage.decode(np.full((1, 2, 2), len(used)))
    with pytest.raises(ValueError, match=r"n_embed=64, but remap names code 64"):
        dataclasses.replace(SEGMENTATION.config, remap=(64,))


RAMP = np.linspace(-1, 1, 16, dtype=np.float32)
SHADES = np.stack([RAMP[:, None] * RAMP, -RAMP[:, None] * RAMP])  # (2, 16, 16)
KINDS = {
    "segmentation": (
        {"content": "segmentation", "in_channels": 3, "out_channels": 3},
        {"segmentation": np.arange(512).reshape(2, 16, 16) // 16 % 3},
    ),
    "depth": (
        {"content": "depth", "in_channels": 1, "out_channels": 1},
        {"depth": SHADES},
    ),
    "edges": (
        {"content": "edges", "in_channels": 1, "out_channels": 1},
        {"edges": np.where(np.arange(512).reshape(2, 16, 16) % 16 == 5, 1, -1).astype(np.float32)},
    ),
    "gumbel": ({"quantizer": "gumbel"}, {"image": np.stack([SHADES] * 3, axis=-1)}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(kind):
    settings, batch = KINDS[kind]
    model, tx = VQGAN(dataclasses.replace(TINY, **settings)), optax.adam(3e-3)
    loss = VQGANLossConfig(perceptual_weight=0.0, disc_weight=0.0, temperature_warmup=0, temperature_steps=60)
    training = VQGANTraining(model, None, loss, tx, None, (2, 16, 16, model.config.in_channels))
    state = jax.jit(training.init)(jax.random.key(0))
    step = jax.jit(training.step)
    history = []
    for _ in range(60):
        state, metrics = step(state, None, batch)
        history.append({name: float(value) for name, value in metrics.items()})
    assert history[-1]["nll_loss"] < 0.8 * history[0]["nll_loss"]
    assert ("l2_loss" in history[0]) == (kind == "edges")  # whose median is a blank map
    if kind == "gumbel":
        assert history[0]["temperature"] > 0.99 and history[-1]["temperature"] < 0.01
    measured, _ = jax.jit(make_image_eval(model))(state.params, batch)
    assert float(measured.n) == 2
    assert ("accuracy" in measured.sums) == (kind == "segmentation")


def test_the_temperature_warms_up_and_falls_along_a_cosine():
    loss = VQGANLossConfig(
        temperature_start=0.5, temperature_max=1.0, temperature_min=0.2, temperature_warmup=10, temperature_steps=110
    )
    found = [float(loss.temperature(step)) for step in (0, 5, 10, 60, 110, 500)]
    np.testing.assert_allclose(found, [0.5, 0.75, 1.0, 0.6, 0.2, 0.2], rtol=1e-5)
    with pytest.raises(ValueError, match="temperature"):
        VQGANLossConfig(temperature_min=0.0)


def test_label_maps_take_no_discriminator():
    with pytest.raises(ValueError, match=r"disc_weight=0.8 .*without discriminator and LPIPS"):
        VQGANTraining(SEGMENTATION, None, VQGANLossConfig(), optax.sgd(1.0), None, (1, 32, 32, 12))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"content": "sound"}, r"content='sound' is unknown; known: image, segmentation, depth"),
        ({"content": "depth"}, r"in_channels=3, but content 'depth' has 1 channel\(s\)"),
        ({"in_channels": 1}, r"out_channels=3, but it must be in_channels=1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VQGANConfig(**settings)


def test_what_a_network_reads():
    with pytest.raises(ValueError, match=r"reads depth, but the batch holds only image"):
        network_input(VQGANConfig(content="depth", in_channels=1, out_channels=1), {"image": jnp.zeros((1, 8, 8, 3))})
