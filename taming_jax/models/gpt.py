"""The decoder-only transformer over token ids (paper, section 3.2; the architecture of GPT-2)."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from taming_jax.nn.attention import Block, Cache, layer_norm, linear


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """Settings of the transformer; the defaults are the paper's FacesHQ and D-RIN model (0.3 B parameters).

    vocab_size: ids of the condition and of the image share this one table, with no offset.
    block_size: longest input sequence, condition included, last image token excluded.
    n_unmasked: this many leading positions see one another freely.
    """

    vocab_size: int = 1024
    block_size: int = 512
    n_layer: int = 24
    n_head: int = 16
    n_embd: int = 1024
    embedding_dropout: float = 0.0
    residual_dropout: float = 0.0
    attention_dropout: float = 0.0
    n_unmasked: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise ValueError(f"transformer.{name}={getattr(self, name)}, but it must be at least 1.")
        for name in ("embedding_dropout", "residual_dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"transformer.{name}={getattr(self, name)}, but it is a share in [0, 1).")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"transformer.n_embd={self.n_embd} is not divisible by n_head={self.n_head}; choose a multiple."
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"transformer.dtype={self.dtype!r}; known: float32, bfloat16.")


class GPT(nn.Module):
    """Token ids -> logits of the next id at each position."""

    config: GPTConfig

    @nn.compact
    def __call__(self, ids, *, cache: tuple[Cache, ...] | None = None, start=0, train=False, last_only=False, at=None):
        """ids int32 (b, l) -> logits float32 (b, l, n); with `last_only`, or `at`, the place of one id, (b, 1, n).

        With a cache (one entry a layer, see `init_cache`) `ids` are the positions from `start` on, and the result is
        (logits, cache). Raises ValueError when the sequence is longer than block_size.
        """
        config = self.config
        dtype = jnp.dtype(config.dtype)
        length = ids.shape[1] if cache is None else cache[0].key.shape[2]
        if length > config.block_size:
            raise ValueError(
                f"a sequence of {length} tokens does not fit transformer.block_size={config.block_size}; "
                "train with a larger block_size or use a smaller image."
            )
        embed = nn.Embed(config.vocab_size, config.n_embd, embedding_init=nn.initializers.normal(0.02), name="token")
        table = self.param("position", nn.initializers.zeros, (config.block_size, config.n_embd))
        position = jax.lax.dynamic_slice_in_dim(table, start, ids.shape[1])  # (l, d)
        x = (embed(ids) + position[None]).astype(dtype)  # (b, l, d)
        x = nn.Dropout(config.embedding_dropout, deterministic=not train)(x)
        written = []
        for i in range(config.n_layer):
            block = Block(
                config.n_head,
                config.n_unmasked,
                config.attention_dropout,
                config.residual_dropout,
                dtype,
                name=f"block_{i}",
            )
            x, layer_cache = block(x, cache=None if cache is None else cache[i], start=start, train=train)
            written.append(layer_cache)
        if at is not None:
            x = jax.lax.dynamic_slice_in_dim(x, at, 1, axis=1)
        x = layer_norm("norm_out", dtype)(x[:, -1:] if last_only else x)
        logits = linear(config.vocab_size, "head", dtype, use_bias=False)(x).astype(jnp.float32)
        return logits if cache is None else (logits, tuple(written))

    def init_cache(self, batch: int, length: int, dtype=None) -> tuple[Cache, ...]:
        """An empty cache for `batch` sequences of up to `length` tokens, in the compute type unless told otherwise."""
        config = self.config
        shape = (batch, config.n_head, length, config.n_embd // config.n_head)
        zeros = jnp.zeros(shape, dtype or config.dtype)
        return tuple(Cache(zeros, zeros) for _ in range(config.n_layer))
