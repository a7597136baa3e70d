"""Causal self-attention with a functional key/value cache, and the transformer block around it (paper, section 3.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from taming_jax.nn.cache import Cache, as_heads, as_queries_of_rows, as_rows

Position = Int[Array, ""] | int


def attention_mask(
    start: Position, queries: int, keys: int, n_unmasked: int = 0
) -> Bool[Array, "1 1 {queries} {keys}"]:
    """(1, 1, queries, keys): query i stands at position start + i and sees the positions up to its own.

    The first `n_unmasked` positions also see one another.
    """
    query = start + jnp.arange(queries)[:, None]
    key = jnp.arange(keys)[None, :]
    mask = key <= query
    if n_unmasked:
        mask |= (query < n_unmasked) & (key < n_unmasked)
    return mask[None, None]


class CausalSelfAttention(nn.Module):
    """Multi-head attention over (b, l, d), each position seeing itself and those before it.

    attention: the implementation for whole sequences, as `jax.nn.dot_product_attention` names it.
    """

    n_head: int
    n_unmasked: int = 0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    attention: str = "xla"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], *, cache: Cache | None = None, start: Position = 0, train: bool = False
    ) -> tuple[Float[Array, "b l d"], Cache | None]:
        """Without a cache: x is the whole sequence. With one: x holds the positions from `start` on, their keys and
        values are written into the cache, and the queries read what it then holds. Returns (y, cache)."""
        b, length, d = x.shape
        heads = (b, length, self.n_head, d // self.n_head)
        query = linear(d, "query", self.dtype)(x).reshape(heads)
        key = linear(d, "key", self.dtype)(x).reshape(heads)
        value = linear(d, "value", self.dtype)(x).reshape(heads)
        if cache is not None:
            y, cache = self._attend_to_cache(query, key, value, cache, start)
        elif train and self.attention_dropout:
            mask = attention_mask(start, length, length, self.n_unmasked)
            y = self._attend_with_dropout(query, key, value, mask)
        else:
            y = self._attend_to_all(query, key, value, start)
        y = linear(d, "out", self.dtype)(y.reshape(b, length, d))
        return nn.Dropout(self.residual_dropout, deterministic=not train)(y), cache

    def _attend_to_cache(
        self,
        query: Float[Array, "b l heads c"],
        key: Float[Array, "b l heads c"],
        value: Float[Array, "b l heads c"],
        cache: Cache,
        start: Position,
    ) -> tuple[Float[Array, "b l heads c"], Cache]:
        """Of the positions from `start` on -> (y, the cache with them)."""
        rows, heads, scale = cache.key.shape[1], query.shape[2], query.shape[-1] ** -0.5
        written = [
            jax.lax.dynamic_update_slice_in_dim(kept, as_rows(new, rows).astype(kept.dtype), start, axis=2)
            for kept, new in zip(cache, (key, value))
        ]
        key, value = written
        mask = attention_mask(start, query.shape[1], key.shape[2], self.n_unmasked)
        query, mask = as_queries_of_rows(query, mask, rows)
        logits = jnp.einsum("bqhc,bhkc->bhqk", query, key).astype(jnp.float32) * scale
        weights = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf)).astype(value.dtype)
        y = jnp.einsum("bhqk,bhkc->bqhc", weights, value).astype(self.dtype)
        return as_heads(y, heads), Cache(key, value)

    def _attend_to_all(
        self,
        query: Float[Array, "b l heads c"],
        key: Float[Array, "b l heads c"],
        value: Float[Array, "b l heads c"],
        start: Position,
    ) -> Float[Array, "b l heads c"]:
        """By the implementation that was asked for. NVIDIA's kernel takes even lengths only, so that others get one
        position more at their end, which no other sees."""
        length = query.shape[1]
        if self.attention == "cudnn" and length % 2:
            query, key, value = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (query, key, value))
        # A fused kernel leaves out what a causal mask hides; one that it is handed it has to read.
        free = self.n_unmasked > 0
        mask = attention_mask(start, query.shape[1], key.shape[1], self.n_unmasked) if free else None
        y = jax.nn.dot_product_attention(  # type: ignore[call-overload]  # it is a name, which GPTConfig checks
            query, key, value, mask=mask, is_causal=not free, implementation=self.attention
        )
        return y[:, :length]

    def _attend_with_dropout(
        self,
        query: Float[Array, "b l heads c"],
        key: Float[Array, "b l heads c"],
        value: Float[Array, "b l heads c"],
        mask: Bool[Array, "1 1 l l"],
    ) -> Float[Array, "b l heads c"]:
        """The fused attention has no dropout on its weights, so they are written out here."""
        logits = jnp.einsum("bqhc,bkhc->bhqk", query, key).astype(jnp.float32) * query.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf))
        weights = nn.Dropout(self.attention_dropout, deterministic=False)(weights)
        return jnp.einsum("bhqk,bkhc->bqhc", weights.astype(self.dtype), value)


class MLP(nn.Module):
    """d -> 4 d -> d with the exact (erf) GELU."""

    residual_dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], *, train: bool = False) -> Float[Array, "b l d"]:
        d = x.shape[-1]
        hidden = jax.nn.gelu(linear(4 * d, "up", self.dtype)(x), approximate=False)  # (b, l, 4 d)
        y = linear(d, "down", self.dtype)(hidden)
        return nn.Dropout(self.residual_dropout, deterministic=not train)(y)


class Block(nn.Module):
    """Pre-LayerNorm transformer block: attention, then MLP, each added to the stream."""

    n_head: int
    n_unmasked: int = 0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    attention: str = "xla"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], *, cache: Cache | None = None, start: Position = 0, train: bool = False
    ) -> tuple[Float[Array, "b l d"], Cache | None]:
        attend = CausalSelfAttention(
            self.n_head,
            self.n_unmasked,
            self.attention_dropout,
            self.residual_dropout,
            self.dtype,
            self.attention,
            name="attention",
        )
        y, cache = attend(layer_norm("norm_attention", self.dtype)(x), cache=cache, start=start, train=train)
        x = x + y
        mlp = MLP(self.residual_dropout, self.dtype, name="mlp")
        return x + mlp(layer_norm("norm_mlp", self.dtype)(x), train=train), cache


def linear(features: int, name: str, dtype: DTypeLike, use_bias: bool = True) -> nn.Dense:
    """A dense layer as GPT starts it: weights N(0, 0.02), bias zero."""
    return nn.Dense(features, use_bias=use_bias, kernel_init=nn.initializers.normal(0.02), dtype=dtype, name=name)


def layer_norm(name: str, dtype: DTypeLike) -> nn.LayerNorm:
    """LayerNorm with PyTorch's epsilon; its statistics are float32 whatever the compute type."""
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, use_fast_variance=False, name=name)
