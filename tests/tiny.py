"""The small first stage of all tests that need some first stage; those that need other sizes replace what they need."""

from typing import Any

import jax
import numpy as np

from taming_jax.models.vqgan import VQGANConfig

TINY = VQGANConfig(
    resolution=16, ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), z_channels=8, embed_dim=8, n_embed=20,
    norm_groups=4,
)  # fmt: skip


def untrained(network: Any, *inputs: Any, seed: int = 0) -> Any:
    """Parameters much as `network.init` would draw them, which takes as long to compile as a step of training does."""
    shapes, rng = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"], np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name, fan_in = path[-1].key, np.prod(leaf.shape[:-1])
        values = {"scale": 1.0, "bias": 0.0, "kernel": rng.normal(0, fan_in**-0.5, leaf.shape)}
        return np.broadcast_to(values.get(name, rng.normal(0, 1, leaf.shape)), leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)
