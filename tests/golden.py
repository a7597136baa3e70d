"""Weights for the tests of the networks: the goldens' under this project's names, and random ones."""

import re

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from taming_jax.models.vqgan import VQGANConfig

VQGAN_F4 = VQGANConfig(
    resolution=64, ch=32, ch_mult=(1, 2, 2), num_res_blocks=1, z_channels=64, embed_dim=32, n_embed=128
)

# First match wins for each rule; applied in order.
RULES = [
    (r"\.(down|up)\.(\d+)\.(block|attn)\.(\d+)\.", r".\1_\2_\3_\4."),
    (r"\.(down|up)\.(\d+)\.(downsample|upsample)\.conv\.", r".\1_\2_\3."),
    (r"\.mid\.block_1\.", ".mid_block_0."),
    (r"\.mid\.attn_1\.", ".mid_attn."),
    (r"\.mid\.block_2\.", ".mid_block_1."),
    (r"\.nin_shortcut\.", ".shortcut."),
    (r"^quantize\.embed(ding)?\.weight$", "quantizer.codebook"),
    (r"^quantize\.proj", "quantizer.proj"),
]


def rename(name: str) -> str:
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"(norm\w*)\.weight$", r"\1.scale", name).replace(".weight", ".kernel")


def layout(array: np.ndarray) -> np.ndarray:
    """A kernel (out, in, h, w) as (h, w, in, out); anything else as it is."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def vqgan_params(state_dict: dict[str, np.ndarray]) -> dict:
    """Generator's parameters."""
    unused = ("loss.", "colorize")
    flat = {rename(k): layout(v) for k, v in state_dict.items() if not k.startswith(unused)}
    return unflatten_dict(flat, sep=".")


def discriminator_variables(state_dict: dict[str, np.ndarray]) -> dict:
    """The discriminator's `params` and `batch_stats`. In the source, layers are numbered along one list."""
    prefix = "loss.discriminator.main."
    params: dict = {}
    stats: dict = {}
    found = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    for name, value in found.items():
        number, kind = name.split(".")
        index = (int(number) + 1) // 3
        is_norm = int(number) % 3 == 0 and int(number) > 0
        layer = f"norm_{index}" if is_norm else f"conv_{index}"
        if kind.startswith("running_"):
            stats.setdefault(layer, {})[kind.removeprefix("running_")] = value
        else:
            ours = kind if kind == "bias" else "scale" if is_norm else "kernel"
            params.setdefault(layer, {})[ours] = layout(value)
    return {"params": params, "batch_stats": stats}


def random_vgg16() -> dict[str, np.ndarray]:
    """The random VGG16 that stood in for the trained one when the goldens were made, under torchvision's names."""
    rs, channels, position, arrays = np.random.RandomState(1234), 3, 0, {}
    for widths in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
        for width in widths:
            kernel = rs.randn(width, channels, 3, 3) * np.sqrt(2 / (channels * 9))
            arrays[f"features.{position}.weight"] = kernel.astype(np.float32)
            arrays[f"features.{position}.bias"] = (rs.randn(width) * 0.05).astype(np.float32)
            channels, position = width, position + 2  # each convolution is followed by its ReLU
        position += 1  # pooling
    return arrays


def lpips_params(linears: dict[str, np.ndarray]) -> dict:
    """Parameters of LPIPS from the random VGG16 and the published linear layers."""
    convolutions: dict = {}
    for name, value in random_vgg16().items():
        _, number, kind = name.split(".")
        key = f"conv_{len(convolutions) - (kind == 'bias')}"
        convolutions.setdefault(key, {})["kernel" if kind == "weight" else "bias"] = layout(value)
    return {"vgg": convolutions} | {f"lin_{i}": linears[f"lin{i}.model.1.weight"].reshape(-1) for i in range(5)}


def close(found, expected, tolerance: float) -> None:
    """Equal up to `tolerance` times the largest magnitude expected."""
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * float(np.abs(expected).max()))


GPT_NAMES = {
    "ln1": "norm_attention",
    "ln2": "norm_mlp",
    "attn.proj": "attention.out",
    "attn": "attention",
    "mlp.0": "mlp.up",
    "mlp.2": "mlp.down",
}


def gpt_params(state_dict: dict[str, np.ndarray], prefix: str = "transformer.") -> dict:
    """Parameters of the transformer; its linear weights (out, in) become (in, out)."""
    flat = {}
    for name, value in state_dict.items():
        if not name.startswith(prefix):
            continue
        name = name.removeprefix(prefix)
        name = (
            name.replace("pos_emb", "position").replace("tok_emb.weight", "token.embedding").replace("ln_f", "norm_out")
        )
        name = re.sub(r"^blocks\.(\d+)\.", r"block_\1.", name)
        for theirs, ours in GPT_NAMES.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
        if re.search(r"norm\w*\.weight$", name):
            name = name.replace("weight", "scale")
        elif name.endswith(".weight"):
            name, value = name.replace("weight", "kernel"), value.T
        flat[name] = value[0] if name == "position" else value
    return unflatten_dict(flat, sep=".")


def weights(arrays: dict[str, np.ndarray], group: str = "weight/") -> dict[str, np.ndarray]:
    """One group of arrays of a golden: its state dict, or that "after/" training, or the "history/" of a training."""
    return {name.removeprefix(group): value for name, value in arrays.items() if name.startswith(group)}


def first_stage_params(state_dict: dict[str, np.ndarray], prefix: str = "first_stage_model.") -> dict:
    """Parameters of the first stage, or of the condition's, inside a two-stage state dict."""
    return vqgan_params({k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)})


def drawn_like(shapes, seed: int = 0):
    """Numpy parameters for a tree of shapes: compiling a network's own start takes longer than any test of it."""
    rs = np.random.RandomState(seed)

    def draw(path, leaf):
        if path[-1].key == "scale":
            return np.ones(leaf.shape, np.float32)
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100
        return (rs.uniform(-1, 1, leaf.shape) * fan_in**-0.5).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)
