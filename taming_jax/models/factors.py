"""Ids of a large vocabulary in two parts, the second of which is predicted knowing the first (Open-MAGVIT2: Luo et al.
2024, arXiv 2409.04410), so that no layer and no array is as large as the vocabulary.

factors: how many ids each part has, (first, second). id = first * factors[1] + second.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from taming_jax.nn.attention import MLP, make_norm, output_layer
from taming_jax.sharding import split_by_row

Factors = tuple[int, ...]


def parts_of(ids: Int[Array, "*b"], factors: Factors) -> tuple[Int[Array, "*b"], Int[Array, "*b"]]:
    """The first and the second part of ids."""
    return ids // factors[1], ids % factors[1]


class FactoredHead(nn.Module):
    """The output layers of both parts. Each reads what the transformer says of a token, of unit scale; the second knows
    the first part by its embedding, added to it, and an MLP."""

    factors: Factors
    width: int
    dtype: DTypeLike = jnp.float32
    norm: str = "layer"
    mlp: str = "gelu"
    mlp_multiple: int = 256
    use_bias: bool = True
    zero: bool = False

    def setup(self) -> None:
        layer = lambda n: output_layer(n, self.dtype, self.zero)
        norm = lambda: make_norm(self.norm, None, self.dtype, self.use_bias)
        self.first_head, self.second_head = layer(self.factors[0]), layer(self.factors[1])
        # As large as the normed x to which it is added: with smaller rows the second part heeds the first later.
        self.first_token = nn.Embed(self.factors[0], self.width, embedding_init=nn.initializers.normal(1.0))
        self.norm_mlp, self.norm_out = norm(), norm()
        self.refine = MLP(0.0, self.dtype, self.mlp, self.mlp_multiple, self.use_bias)

    def first(self, x: Float[Array, "b l d"]) -> Float[Array, "b l n"]:
        """Logits of the first part, float32."""
        return self.first_head(x)

    def second(self, x: Float[Array, "b l d"], first: Int[Array, "b l"]) -> Float[Array, "b l n"]:
        """Logits of the second part, float32, after the first."""
        rows = jnp.take(split_by_row(self.first_token.embedding), first, axis=0)
        x = x + rows.astype(x.dtype)
        x = x + self.refine(self.norm_mlp(x))
        return self.second_head(self.norm_out(x))

    def __call__(self, x: Float[Array, "b l d"], ids: Int[Array, "b l"]) -> tuple[Array, Array]:
        """Logits of both parts of each token, (b, l, factors[0]) and (b, l, factors[1]), the second's after the first
        part that `ids` have."""
        return self.first(x), self.second(x, parts_of(ids, self.factors)[0])
