"""Self-attention with a functional key/value cache, and the transformer block around it (paper, section 3.2).

Beside the paper's block there are the parts of later ones: RMSNorm (arXiv 1910.07467), SwiGLU (arXiv 2002.05202),
rotary positions, norms of queries and keys (arXiv 2302.05442), keys and values shared by groups of heads (arXiv
2305.13245), layers without biases, and whole branches dropped (arXiv 1603.09382).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from taming_jax.nn.cache import FEW, Cache, as_heads, as_heads_apart, as_queries_of_rows, as_rows, write
from taming_jax.nn.devices import on_tpu
from taming_jax.nn.masks import Causal, Mask, Position
from taming_jax.nn.products import product_in_float32
from taming_jax.nn.rotary import Turns, rotate

Rate = Float[Array, ""] | float
NORMS, MLPS = ("layer", "rms"), ("gelu", "swiglu")


class SelfAttention(nn.Module):
    """Multi-head attention over (b, l, d).

    mask: which positions see which.
    attention: the implementation for whole sequences, as `jax.nn.dot_product_attention` names it.
    kv_heads: heads of keys and values, each read by as many neighbouring heads of queries; 0: one for each.
    norm, qk_norm: the kind of norm, and whether queries and keys of each head go through one before they are turned.
    """

    n_head: int
    mask: Mask = Causal()
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    attention: str = "xla"
    kv_heads: int = 0
    use_bias: bool = True
    qk_norm: bool = False
    norm: str = "layer"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        *,
        cache: Cache | None = None,
        start: Position = 0,
        train: bool = False,
        turns: Turns | None = None,
    ) -> tuple[Float[Array, "b l d"], Cache | None]:
        """Without a cache: x is the whole sequence. With one: x holds the positions from `start` on, their keys and
        values are written into the cache, and the queries read what it then holds. turns: of the positions of x, where
        they are rotary. Returns (y, cache)."""
        b, length, d = x.shape
        width, kv_heads = d // self.n_head, self.kv_heads or self.n_head
        project = lambda name, heads: linear(heads * width, name, self.dtype, self.use_bias)(x)
        query, key, value = project("query", self.n_head), project("key", kv_heads), project("value", kv_heads)
        if cache is not None and on_tpu():  # else the kernels are split into heads, and copies kept that lie so
            key, value = map(jax.lax.optimization_barrier, (key, value))
        query, key, value = (y.reshape(b, length, -1, width) for y in (query, key, value))
        if self.qk_norm:
            query = make_norm(self.norm, "query_norm", self.dtype, self.use_bias)(query)
            key = make_norm(self.norm, "key_norm", self.dtype, self.use_bias)(key)
        if turns is not None:
            query, key = rotate(query, turns), rotate(key, turns)
        if cache is not None:
            y, cache = self._attend_to_cache(query, key, value, cache, start)
        elif train and self.attention_dropout:
            mask = self.mask.visible(start, length, length)
            y = self._attend_with_dropout(query, key, value, mask)
        else:
            y = self._attend_to_all(query, key, value, start)
        y = linear(d, "out", self.dtype, self.use_bias)(y.reshape(b, length, d))
        return nn.Dropout(self.residual_dropout, deterministic=not train)(y), cache

    def _attend_to_cache(
        self,
        query: Float[Array, "b l heads c"],
        key: Float[Array, "b l kv c"],
        value: Float[Array, "b l kv c"],
        cache: Cache,
        start: Position,
    ) -> tuple[Float[Array, "b l heads c"], Cache]:
        """Of the positions from `start` on -> (y, the cache with them)."""
        rows, heads, scale = cache.key.shape[1], key.shape[2], query.shape[-1] ** -0.5
        cache = Cache(*(write(kept, as_rows(new, rows), start) for kept, new in zip(cache, (key, value))))
        key, value = cache
        if query.shape[1] > FEW and rows < heads:
            rows, key, value = heads, as_heads_apart(key, heads), as_heads_apart(value, heads)
        mask = self.mask.visible(start, query.shape[1], key.shape[2])
        query, mask = as_queries_of_rows(*self._grouped(query, mask), rows)
        logits = jnp.einsum("bqhc,bhkc->bhqk", query, key, preferred_element_type=jnp.float32) * scale
        weights = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf)).astype(value.dtype)
        y = jnp.einsum("bhqk,bhkc->bqhc", weights, value).astype(self.dtype)
        return self._ungrouped(as_heads(y, heads)), cache

    def _attend_to_all(
        self,
        query: Float[Array, "b l heads c"],
        key: Float[Array, "b l kv c"],
        value: Float[Array, "b l kv c"],
        start: Position,
    ) -> Float[Array, "b l heads c"]:
        """By the implementation that was asked for. NVIDIA's kernel takes even lengths only, so that others get one
        position more at their end, which no other sees."""
        length = query.shape[1]
        # A fused kernel leaves out what a causal mask hides; one that it is handed it has to read.
        mask = None if self.mask.causal else self.mask.visible(start, length, length)
        if self.attention == "cudnn" and length % 2:
            query, key, value = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (query, key, value))
            if mask is not None:
                # The added query sees the first key: a row that sees none has no softmax.
                mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 1), (0, 1))).at[:, :, length, 0].set(True)
        y = jax.nn.dot_product_attention(  # type: ignore[call-overload]  # it is a name, which GPTConfig checks
            query, key, value, mask=mask, is_causal=self.mask.causal, implementation=self.attention
        )
        return y[:, :length]

    def _attend_with_dropout(
        self,
        query: Float[Array, "b l heads c"],
        key: Float[Array, "b l kv c"],
        value: Float[Array, "b l kv c"],
        mask: Bool[Array, "1 1 l l"],
    ) -> Float[Array, "b l heads c"]:
        """The fused attention has no dropout on its weights, so they are written out here."""
        query, mask = self._grouped(query, mask)
        logits = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=jnp.float32)
        logits = logits * query.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf))
        weights = nn.Dropout(self.attention_dropout, deterministic=False)(weights)
        return self._ungrouped(jnp.einsum("bhqk,bkhc->bqhc", weights.astype(self.dtype), value))

    def _grouped(
        self, query: Float[Array, "b l heads c"], mask: Bool[Array, "1 1 l k"]
    ) -> tuple[Float[Array, "b q kv c"], Bool[Array, "1 1 q k"]]:
        """The heads that share keys as further queries of one head, with their mask."""
        b, length, heads, c = query.shape
        kv_heads = self.kv_heads or heads
        if kv_heads == heads:
            return query, mask
        grouped = query.reshape(b, length, kv_heads, -1, c).swapaxes(2, 3)
        return grouped.reshape(b, -1, kv_heads, c), jnp.repeat(mask, heads // kv_heads, axis=2)

    def _ungrouped(self, y: Float[Array, "b q kv c"]) -> Float[Array, "b l heads c"]:
        """The way back."""
        b, _, kv_heads, c = y.shape
        if kv_heads == self.n_head:
            return y
        return y.reshape(b, -1, self.n_head // kv_heads, kv_heads, c).swapaxes(2, 3).reshape(b, -1, self.n_head, c)


class MLP(nn.Module):
    """d -> hidden -> d: with "gelu" (exact, erf) 4 d wide, with "swiglu" `swiglu_width` wide and with a third matrix,
    by which what goes through is gated."""

    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    kind: str = "gelu"
    multiple: int = 256
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], *, train: bool = False) -> Float[Array, "b l d"]:
        d = x.shape[-1]
        if self.kind == "swiglu":
            hidden = swiglu_width(d, self.multiple)
            gate = jax.nn.silu(linear(hidden, "gate", self.dtype, self.use_bias)(x))
            h = gate * linear(hidden, "up", self.dtype, self.use_bias)(x)
        else:
            h = gelu(linear(4 * d, "up", self.dtype, self.use_bias)(x))  # (b, l, 4 d)
        y = linear(d, "down", self.dtype, self.use_bias)(h)
        return nn.Dropout(self.dropout, deterministic=not train)(y)


def swiglu_width(d: int, multiple: int) -> int:
    """Two thirds of 4 d, so that three matrices hold as many numbers as two of 4 d, rounded up to a multiple."""
    return -(-(8 * d // 3) // multiple) * multiple


class Block(nn.Module):
    """Transformer block with its norms first: attention, then MLP, each added to the stream."""

    n_head: int
    mask: Mask = Causal()
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    attention: str = "xla"
    mlp_dropout: float = 0.0
    kv_heads: int = 0
    use_bias: bool = True
    qk_norm: bool = False
    norm: str = "layer"
    mlp: str = "gelu"
    mlp_multiple: int = 256

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        *,
        cache: Cache | None = None,
        start: Position = 0,
        train: bool = False,
        turns: Turns | None = None,
        drop_path: Rate | None = None,
    ) -> tuple[Float[Array, "b l d"], Cache | None]:
        """drop_path: in training, the share of sequences for which a branch is left out; None for none."""
        attend = SelfAttention(
            n_head=self.n_head,
            mask=self.mask,
            attention_dropout=self.attention_dropout,
            residual_dropout=self.residual_dropout,
            dtype=self.dtype,
            attention=self.attention,
            kv_heads=self.kv_heads,
            use_bias=self.use_bias,
            qk_norm=self.qk_norm,
            norm=self.norm,
            name="attention",
        )
        drop = drop_path if train else None
        before = lambda name: make_norm(self.norm, name, self.dtype, self.use_bias)
        y, cache = attend(before("norm_attention")(x), cache=cache, start=start, train=train, turns=turns)
        x = x + self._kept(y, drop)
        mlp = MLP(self.mlp_dropout, self.dtype, self.mlp, self.mlp_multiple, self.use_bias, name="mlp")
        return x + self._kept(mlp(before("norm_mlp")(x), train=train), drop), cache

    def _kept(self, y: Float[Array, "b l d"], rate: Rate | None) -> Float[Array, "b l d"]:
        """A branch, zero for a share of the sequences and larger for the others."""
        if rate is None:
            return y
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, (len(y), 1, 1))
        return jnp.where(keep, y / (1 - rate), 0).astype(y.dtype)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x times the share of a normal distribution below it, by erf as PyTorch has it: `jax.nn.gelu` takes erfc, which
    costs several times as much and is more exact only far below zero, where the product is nearly nothing."""
    return x * (0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5))


def linear(features: int, name: str, dtype: DTypeLike, use_bias: bool = True) -> nn.Dense:
    """A dense layer as GPT starts it: weights N(0, 0.02), bias zero."""
    start = nn.initializers.normal(0.02)
    return nn.Dense(features, use_bias, dtype, kernel_init=start, dot_general=product_of_rows, name=name)


def output_layer(features: int, dtype: DTypeLike, zero: bool = False, name: str | None = None) -> nn.Dense:
    """The layer of logits, which are float32 whatever the type of the arithmetic; it starts as GPT's, or at zero."""
    start = nn.initializers.zeros if zero else nn.initializers.normal(0.02)
    product = lambda x, kernel, dims, **_: product_in_float32(x, kernel, dims)
    return nn.Dense(features, use_bias=False, dtype=dtype, kernel_init=start, dot_general=product, name=name)


def product_of_rows(x: Float[Array, "*b d"], kernel: Float[Array, "d e"], dims: Any, **options: Any) -> Array:
    """`jax.lax.dot_general` of a dense layer, with all positions of all sequences as rows of one matrix: else XLA for
    CPUs copies x for the gradient of the kernel, which takes a fifth of a step."""
    assert dims == (((x.ndim - 1,), (0,)), ((), ())), "a dense layer contracts the last dimension"
    rows = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **options)
    return rows.reshape(*x.shape[:-1], kernel.shape[1])


def make_norm(kind: str, name: str | None, dtype: DTypeLike, use_bias: bool = True) -> nn.Module:
    """LayerNorm or RMSNorm with PyTorch's epsilon; statistics are float32 whatever the compute type."""
    if kind == "rms":
        return nn.RMSNorm(epsilon=1e-5, dtype=dtype, name=name)
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, use_bias=use_bias, use_fast_variance=False, name=name)
