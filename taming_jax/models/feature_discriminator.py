"""A discriminator on the features of a network that stays as it is (Sauer et al. 2021, arXiv 2111.01007, and 2023,
2301.09515): small heads on the tokens of some layers of DINOv2.

After StyleGAN-T's. Other than there: DINOv2 in place of DINO, no head on the network's input, convolutions in two
dimensions, tokens normed each by itself in place of batch normalisation, so that images are judged one by one, and
neither augmentation nor crops.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key

from taming_jax.models.dinov2 import PATCH, SIDE, SIZES, DINOv2, ViTSize, dinov2_shapes, normalised
from taming_jax.models.weights import load_weights
from taming_jax.nn.conv import NONE, SpectralConv
from taming_jax.settings import check, check_known

# The networks, and the side in pixels of the pictures that their tables of positions are for.
NETWORKS: dict[str, tuple[ViTSize, int]] = {name: (size, SIDE) for name, size in SIZES.items()}
URL = "https://dl.fbaipublicfiles.com/dinov2/{name}/{name}_pretrain.pth"

Tokens = Mapping[str, Float[Array, "b l d"]]


@dataclass(frozen=True)
class FeatureDiscriminatorConfig:
    """Settings of a discriminator on features. The defaults are those of StyleGAN-T.

    network: a name of NETWORKS. layers: of it, counted from 0, with a head each. width: of the heads' convolutions.
    """

    network: str = "dinov2_vits14"
    layers: tuple[int, ...] = (2, 5, 8, 11)
    width: int = 384

    def __post_init__(self) -> None:
        check_known(self, "network", NETWORKS)
        depth = NETWORKS[self.network][0].depth
        known = bool(self.layers) and all(0 <= layer < depth for layer in self.layers)
        check(self, "layers", known, f"{self.network} has the layers 0 to {depth - 1}, and one at least is needed")
        ascending = all(a < b for a, b in zip(self.layers, self.layers[1:]))
        check(self, "layers", ascending, "they must ascend, each but once")
        check(self, "width", self.width >= 1, "it must be at least 1")


class Head(nn.Module):
    """Tokens in their places (b, h, w, d) -> logits (b, h, w, 1)."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"], *, train: bool) -> Float[Array, "b h w 1"]:
        # The layers' tokens are of very different length, and spectral norm keeps whatever length comes in.
        x = nn.LayerNorm(use_scale=False, use_bias=False)(x)
        x = nn.leaky_relu(SpectralConv(self.width, 1, padding=NONE, name="conv_0")(x, train=train), 0.2)
        y = nn.leaky_relu(SpectralConv(self.width, 3, name="conv_1")(x, train=train), 0.2)
        return SpectralConv(1, 1, padding=NONE, name="conv_2")((x + y) * 0.5**0.5, train=train)


class FeatureHeads(nn.Module):
    """Tokens of the layers, (b, l, d) each -> logits (b, h, w, layers) float32, high where a patch looks real.

    Collection `batch_stats` holds the power iterations of spectral norm; training calls move it.
    """

    config: FeatureDiscriminatorConfig

    @nn.compact
    def __call__(self, tokens: Tokens, train: bool = False) -> Float[Array, "b h w n"]:
        logits = []
        for layer in self.config.layers:
            x = tokens[f"layer_{layer}"]
            side = NETWORKS[self.config.network][1] // PATCH
            x = x.reshape(len(x), side, side, -1)
            logits.append(Head(self.config.width, name=f"on_layer_{layer}")(x, train=train))
        return jnp.concatenate(logits, axis=-1)


@dataclass(frozen=True)
class FeatureDiscriminator:
    """The heads, which are trained, behind the network, which is not: its parameters are always given from outside."""

    config: FeatureDiscriminatorConfig

    @property
    def size(self) -> ViTSize:
        return NETWORKS[self.config.network][0]

    @property
    def side(self) -> int:
        """Pixels to which images are resized."""
        return NETWORKS[self.config.network][1]

    def init(self, key: Key[Array, ""]) -> dict[str, Any]:
        """Variables of the heads: {"params", "batch_stats"}."""
        tokens = jnp.zeros((1, (self.side // PATCH) ** 2, self.size.width), jnp.float32)
        return FeatureHeads(self.config).init(key, {f"layer_{layer}": tokens for layer in self.config.layers})

    def tokens(self, network_params: Any, images: Float[Array, "b H W c"]) -> Tokens:
        """Of images (b, H, W, 3 or 1) in [-1, 1], those of one channel as grey ones; of whatever sides, resized to the
        network's square. Differentiable by the images."""
        x = jax.image.resize(images, (len(images), self.side, self.side, images.shape[-1]), "linear")
        found = DINOv2(self.size, self.config.layers).apply({"params": network_params}, normalised((x + 1) / 2))
        return {name: found[name] for name in (f"layer_{layer}" for layer in self.config.layers)}

    def apply(
        self, variables: Any, network_params: Any, images: Float[Array, "b H W c"], train: bool = False
    ) -> tuple[Float[Array, "b h w n"], Any]:
        """(logits of images, `batch_stats` after them)."""
        tokens = self.tokens(network_params, images)
        logits, moved = FeatureHeads(self.config).apply(variables, tokens, train=train, mutable=["batch_stats"])
        return logits, moved["batch_stats"]

    def network_shapes(self) -> Any:
        """The network's parameters as shapes."""
        image = jax.ShapeDtypeStruct((1, self.side, self.side, 3), jnp.float32)
        return jax.eval_shape(DINOv2(self.size).init, jax.random.key(0), image)["params"]


def load_network(config: FeatureDiscriminatorConfig, path: str | Path) -> dict[str, np.ndarray]:
    """The network's parameters from a file made by `python -m taming_jax.convert --dino ...`.

    Raises ValueError where the file is missing, is something else, or of another network.
    """
    name = config.network
    if not Path(path).is_file():
        raise ValueError(
            f"the discriminator on features needs the weights of {name}, and there is no file {path}. Download "
            f"{URL.format(name=name)}, then run\n"
            f"  python -m taming_jax.convert --dino {name}_pretrain.pth --out {path}\n"
            "or train without it: feature_weight=0"
        )
    found, params = load_weights(path, {name: dinov2_shapes(*network) for name, network in NETWORKS.items()})
    if found != name:
        raise ValueError(f"{path} holds {found}, but config.feature_discriminator.network is {name}; make them agree.")
    return params
