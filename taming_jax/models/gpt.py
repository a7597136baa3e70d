"""The decoder-only transformer over token ids (paper, section 3.2; the architecture of GPT-2)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from taming_jax.nn.attention import Block, Position, layer_norm, linear
from taming_jax.nn.cache import Cache, heads_in_row
from taming_jax.settings import check, check_known
from taming_jax.sharding import split_by_image, split_by_row

# What of a block is kept for the backward pass; the rest is computed again.
REMAT = {
    "": None,
    "block": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
ATTENTION = ("xla", "cudnn")


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """Settings of the transformer; the width and depth of the paper's FacesHQ and D-RIN model (0.3 B parameters).

    vocab_size: ids of the condition and of the image share this one table, with no offset.
    block_size: longest input sequence, condition included, last image token excluded.
        Both 0: as many as the parts of a two-stage model need, see `two_stage.TwoStage`; `GPT` itself wants numbers.
    n_unmasked: this many leading positions see one another freely.
    dtype: "float32" or "bfloat16", of the layers; parameters, statistics and logits stay float32.
    attention: "xla" anywhere; "cudnn" is the fused kernel of NVIDIA's GPUs, and needs bfloat16.
    remat: what training computes again instead of keeping it: "" nothing, "block" all within a block, "dots" all but
    the results of its linear layers.
    scan_layers: in training one block is compiled and looped over, with all layers' parameters in one array each; the
    program compiles faster. Loaded models have their layers apart.
    """

    vocab_size: int = 0
    block_size: int = 0
    n_layer: int = 24
    n_head: int = 16
    n_embd: int = 1024
    embedding_dropout: float = 0.0
    residual_dropout: float = 0.0
    attention_dropout: float = 0.0
    n_unmasked: int = 0
    dtype: str = "float32"
    attention: str = "xla"
    remat: str = ""
    scan_layers: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "block_size"):
            check(self, name, getattr(self, name) >= 0, "it must be at least 1, or 0 for what is needed")
        for name in ("n_layer", "n_head", "n_embd"):
            check(self, name, getattr(self, name) >= 1, "it must be at least 1")
        for name in ("embedding_dropout", "residual_dropout", "attention_dropout"):
            check(self, name, 0 <= getattr(self, name) < 1, "it is a share in [0, 1)")
        check(self, "n_embd", self.n_embd % self.n_head == 0, f"it must be a multiple of n_head={self.n_head}")
        check_known(self, "dtype", ("float32", "bfloat16"))
        check_known(self, "attention", ATTENTION)
        fused = self.attention == "cudnn"
        check(self, "attention", not fused or self.dtype == "bfloat16", "it needs dtype='bfloat16'")
        check_known(self, "remat", REMAT)


class GPT(nn.Module):
    """Token ids -> logits of the next id at each position."""

    config: GPTConfig

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "b l"],
        *,
        cache: tuple[Cache, ...] | None = None,
        start: Position = 0,
        train: bool = False,
        last_only: bool = False,
        at: Position | None = None,
    ) -> Float[Array, "b _ n"] | tuple[Float[Array, "b _ n"], tuple[Cache, ...]]:
        """ids int32 (b, l) -> logits float32 (b, l, n); with `last_only`, or `at`, the place of one id, (b, 1, n).

        With a cache (one entry a layer, see `init_cache`) `ids` are the positions from `start` on, and the result is
        (logits, cache). Raises ValueError when the sequence is longer than block_size, or when that is left open.
        """
        config = self.config
        if not (config.vocab_size and config.block_size):
            raise ValueError(
                f"transformer.vocab_size={config.vocab_size} and block_size={config.block_size}: 0 is what the parts "
                "of a two-stage model need, and a transformer alone has none; set both to at least 1."
            )
        if cache is not None and config.scan_layers:
            raise ValueError("a cache goes with layers apart: use with_layers_apart(model) and unstack_layers(params).")
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
        rows = jnp.take(split_by_row(embed.embedding), ids, axis=0)
        x = split_by_image(rows + position[None]).astype(dtype)  # (b, l, d)
        x = nn.Dropout(config.embedding_dropout, deterministic=not train)(x)
        written = []
        if cache is None:
            x = self._blocks(x, train)
        else:
            for i, layer_cache in enumerate(cache):
                x, layer_cache = self._block(f"block_{i}")(x, cache=layer_cache, start=start, train=train)
                written.append(layer_cache)
        if at is not None:
            x = jax.lax.dynamic_slice_in_dim(x, at, 1, axis=1)
        x = layer_norm("norm_out", dtype)(x[:, -1:] if last_only else x)
        logits = linear(config.vocab_size, "head", dtype, use_bias=False)(x).astype(jnp.float32)
        return logits if cache is None else (logits, tuple(written))

    def _block(self, name: str) -> Block:
        config = self.config
        return Block(
            config.n_head,
            config.n_unmasked,
            config.attention_dropout,
            config.residual_dropout,
            jnp.dtype(config.dtype),
            config.attention,
            name=name,
        )

    def _blocks(self, x: Float[Array, "b l d"], train: bool) -> Float[Array, "b l d"]:
        """Through all blocks, without a cache."""
        config = self.config

        def run(block: Block, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
            return split_by_image(block(x, train=train)[0])

        if config.remat:
            run = nn.remat(run, policy=REMAT[config.remat], prevent_cse=not config.scan_layers)
        if not config.scan_layers:
            for i in range(config.n_layer):
                x = run(self._block(f"block_{i}"), x)
            return x
        loop = nn.scan(
            lambda block, x, _: (run(block, x), None),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=config.n_layer,
        )
        return loop(self._block("blocks"), x, None)[0]

    def init_cache(self, batch: int, length: int, dtype: DTypeLike | None = None) -> tuple[Cache, ...]:
        """An empty cache for `batch` sequences of up to `length` tokens, in the compute type unless told otherwise."""
        config = self.config
        rows = config.n_head // heads_in_row(config.n_head, config.n_embd // config.n_head)
        shape = (batch, rows, length, config.n_embd // rows)
        zeros = jnp.zeros(shape, dtype or config.dtype)
        return tuple(Cache(zeros, zeros) for _ in range(config.n_layer))


def token_cross_entropy(logits: Float[Array, "b l n"], ids: Int[Array, "b l"]) -> Float[Array, "b l"]:
    """The negative log-likelihood of each token in nats, float32."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def with_layers_apart(model: GPT) -> GPT:
    """The same network for parameters with the layers apart, as sampling reads them."""
    return GPT(dataclasses.replace(model.config, scan_layers=False))


def cast_layers(params: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The linear layers' parameters in the type that they are computed in, so that drawing does not cast them for every
    token; the results are the same. Embeddings and norms are computed in float32, and stay."""
    if "kernel" in params:
        return {name: value.astype(dtype) for name, value in params.items()}
    return {name: cast_layers(value, dtype) if isinstance(value, Mapping) else value for name, value in params.items()}


def stack_layers(params: Mapping[str, Any], n_layer: int) -> dict[str, Any]:
    """Parameters with the layers apart (block_0, block_1, ...) -> as `scan_layers` has them, in one array each."""
    apart = [f"block_{i}" for i in range(n_layer)]
    stack = lambda *layers: (np if isinstance(layers[0], np.ndarray) else jnp).stack(layers)  # no device for a file's
    blocks = jax.tree.map(stack, *(params[name] for name in apart))
    return {"blocks": blocks, **{name: value for name, value in params.items() if name not in apart}}


def unstack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
    """The way back, bit for bit; parameters with the layers apart stay as they are."""
    if "blocks" not in params:
        return dict(params)
    rest = {name: value for name, value in params.items() if name != "blocks"}
    n_layer = len(jax.tree.leaves(params["blocks"])[0])
    return {f"block_{i}": jax.tree.map(lambda x, i=i: x[i], params["blocks"]) for i in range(n_layer)} | rest
