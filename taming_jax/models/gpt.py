"""The decoder-only transformer over token ids (paper, section 3.2): the architecture of GPT-2, by settings LLaMA's."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from taming_jax.models.factors import FactoredHead, parts_of
from taming_jax.nn.attention import MLPS, NORMS, Block, Rate, make_norm, output_layer
from taming_jax.nn.cache import Cache, heads_in_row
from taming_jax.nn.layout import SequenceLayout, TokenLayout
from taming_jax.nn.masks import Causal, Mask, Position
from taming_jax.nn.rotary import Turns, rotary_turns
from taming_jax.settings import check, check_known
from taming_jax.sharding import split_by_image, split_by_row

# What of a block is kept for the backward pass; the rest is computed again.
REMAT = {
    "": None,
    "block": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
ATTENTION = ("xla", "cudnn")
MOST_LAYERS = 256  # a mistyped number would compile without end
POSITIONS = ("learned", "rotary")


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """Settings of the transformer; the width and depth of the paper's FacesHQ and D-RIN model (0.3 B parameters).

    vocab_size: ids of the condition and of the image share this one table, with no offset.
    block_size: longest input sequence, condition included, last image token excluded.
        Both 0: as many as the parts of a two-stage model need, see `two_stage.TwoStage`; `GPT` itself wants numbers.
    n_unmasked: this many leading positions see one another freely.
    dtype: "float32" or "bfloat16", of the layers; parameters, statistics and logits stay float32.
    residual_dtype: of the stream that the layers add to: "" for `dtype`, or "float32", in which nothing that a layer
    adds gets lost, for the memory of that stream.
    attention: "xla" anywhere; "cudnn" is the fused kernel of NVIDIA's GPUs, and needs bfloat16.
    remat: what training computes again instead of keeping it: "" nothing, "block" all within a block, "dots" all but
    the results of its linear layers.
    scan_layers: in training one block is compiled and looped over, with all layers' parameters in one array each; the
    program compiles faster. Loaded models have their layers apart.

    norm: "layer" or "rms". mlp: "gelu", or "swiglu", whose hidden layer is 2/3 of 4 n_embd wide, rounded up to a
    multiple of mlp_multiple. bias: whether linear layers and LayerNorms have biases; the output layer has none.
    positions: "learned", a table; or "rotary", by row and column, with the base rotary_base: see `nn.rotary`.
    target_positions: each position is told which one comes next, by a table, as sequences in orders of their own need
    (RAR: Yu et al. 2024, arXiv 2411.00776, section 3.2).
    qk_norm: queries and keys of each head are normed. kv_heads: heads of keys and values; 0: as many as n_head.
    condition_table: the condition's ids have a table of their own, of condition_size rows, the last for a hidden
    condition; size 0: as many as the condition needs.
    zero_head: the output layer starts at zero.
    mlp_dropout: of the MLP's output; None: residual_dropout. drop_path: share of sequences for which a branch of the
    last layer is left out in training, falling linearly to 0 at the first.
    factors: () or (first, second), whose product is vocab_size: ids are read and predicted in two parts, see
    `models.factors`, and no array is as large as the vocabulary. It goes with condition_table.
    grid: for a transformer alone with rotary positions or a condition's table, the (rows, columns) of the image's
    tokens; what comes before them is the condition's. Within a two-stage model () is right: it knows better.
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
    norm: str = "layer"
    mlp: str = "gelu"
    mlp_multiple: int = 256
    bias: bool = True
    positions: str = "learned"
    rotary_base: float = 10_000.0
    qk_norm: bool = False
    kv_heads: int = 0
    condition_table: bool = False
    condition_size: int = 0
    zero_head: bool = False
    mlp_dropout: float | None = None
    drop_path: float = 0.0
    grid: tuple[int, ...] = ()
    factors: tuple[int, ...] = ()
    residual_dtype: str = ""
    target_positions: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "block_size", "condition_size"):
            check(self, name, getattr(self, name) >= 0, "it must be at least 1, or 0 for what is needed")
        for name in ("n_layer", "n_head", "n_embd"):
            check(self, name, getattr(self, name) >= 1, "it must be at least 1")
        for name in ("vocab_size", "block_size", "condition_size", "n_embd"):
            check(self, name, getattr(self, name) < 1 << 31, "it must be below 2^31")
        check(self, "n_layer", self.n_layer <= MOST_LAYERS, f"it must be at most {MOST_LAYERS}")
        for name in ("embedding_dropout", "residual_dropout", "attention_dropout"):
            check(self, name, 0 <= getattr(self, name) < 1, "it is a share in [0, 1)")
        check(self, "n_unmasked", self.n_unmasked >= 0, "it must be 0 or more positions")
        check(self, "n_embd", self.n_embd % self.n_head == 0, f"it must be a multiple of n_head={self.n_head}")
        check_known(self, "dtype", ("float32", "bfloat16"))
        check_known(self, "residual_dtype", ("", "float32"))
        check_known(self, "attention", ATTENTION)
        fused = self.attention == "cudnn"
        check(self, "attention", not fused or self.dtype == "bfloat16", "it needs dtype='bfloat16'")
        check_known(self, "remat", REMAT)
        self._check_parts()

    def _check_parts(self) -> None:
        """Of the later parts."""
        for name, known in (("norm", NORMS), ("mlp", MLPS), ("positions", POSITIONS)):
            check_known(self, name, known)
        check(self, "mlp_multiple", self.mlp_multiple >= 1, "it must be at least 1")
        check(self, "rotary_base", self.rotary_base > 1, "it must be above 1")
        groups = self.kv_heads >= 0 and not (self.kv_heads and self.n_head % self.kv_heads)
        check(self, "kv_heads", groups, f"it must divide n_head={self.n_head}, or be 0 for as many")
        check(self, "mlp_dropout", self.mlp_dropout is None or 0 <= self.mlp_dropout < 1, "it is a share in [0, 1)")
        check(self, "drop_path", 0 <= self.drop_path < 1, "it is a share in [0, 1)")
        check(self, "drop_path", self.n_layer > 1 or not self.drop_path, "nothing is left out of the first layer")
        sized = self.condition_table or not self.condition_size
        check(self, "condition_size", sized, "it goes with condition_table=True")
        turns = self.positions != "rotary" or (self.n_embd // self.n_head) % 4 == 0
        check(self, "n_embd", turns, f"rotary positions need heads whose width 4 divides, and n_head={self.n_head}")
        whole = len(self.grid) in (0, 2) and min(self.grid, default=1) >= 1
        check(self, "grid", whole, "it must be (rows, columns) of codes, or ()")
        fits = not (self.grid and self.block_size) or self.conditions >= 1
        check(self, "grid", fits, f"block_size={self.block_size} has no room for a condition before these tokens")
        if self.factors:
            two = len(self.factors) == 2 and min(self.factors) >= 2
            check(self, "factors", two, "it must be how many ids each of two parts has, at least 2, or ()")
            ids, given = math.prod(self.factors), self.vocab_size
            check(self, "factors", given in (0, ids), f"they make {ids} ids, and vocab_size={given}")
            apart = "it goes with condition_table=True: a condition's ids have one part"
            check(self, "factors", self.condition_table, apart)

    @property
    def conditions(self) -> int:
        """Tokens before those of `grid` in the longest sequence. Raises ValueError where the grid is open."""
        if not self.grid:
            raise ValueError(
                "transformer.grid=() is open, but this network must know where tokens stand; set it to the rows and "
                "columns of the image's tokens."
            )
        return self.block_size + 1 - self.grid[0] * self.grid[1]


class GPT(nn.Module):
    """Token ids -> logits at each position: of the next id, or with another mask than that of `config` of what a prior
    trains it for."""

    config: GPTConfig
    mask: Mask | None = None

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
        skip: int = 0,
        layout: SequenceLayout | None = None,
        walk: Int[Array, "b _"] | None = None,
    ) -> Float[Array, "b _ n"] | tuple[Float[Array, "b _ n"], tuple[Cache, ...]]:
        """ids int32 (b, l) -> logits float32 (b, l, n); with `last_only`, or `at`, the place of one id, (b, 1, n);
        with `skip`, without those at the first so many ids, (b, l - skip, n), which no output layer then sees. With
        `factors` there are no logits of ids: n is the width, of what `head_of` reads.

        With a cache (one entry a layer, see `init_cache`) `ids` are the positions from `start` on, and the result is
        (logits, cache). layout: where each position of the whole sequence stands, for networks that ask; default by
        `config.grid`. walk: for sequences in an order of their own, int32 (b, l + 1), which position of the layout each
        of these ids has, and the one that comes after the last; default one after the other from `start` on.
        Raises ValueError when the sequence is longer than block_size, or when a size is left open.
        """
        config = self.config
        self._check_sizes(cache, ids.shape[1] if cache is None else cache[0].key.shape[2])
        if layout is None and (config.condition_table or config.positions == "rotary"):
            layout = self._layout(ids.shape[1])
        dtype = jnp.dtype(config.dtype)
        x = split_by_image(self._embed(ids, start, layout, walk)).astype(config.residual_dtype or dtype)  # (b, l, d)
        x = nn.Dropout(config.embedding_dropout, deterministic=not train)(x)
        turns = self._turns(layout, start, ids.shape[1], walk)
        written = []
        if cache is None:
            x = self._blocks(x, train, turns)
        else:
            for i, layer_cache in enumerate(cache):
                block = self._block(f"block_{i}")
                x, layer_cache = block(x, cache=layer_cache, start=start, train=train, turns=turns)
                written.append(layer_cache)
        if at is not None:
            x = jax.lax.dynamic_slice_in_dim(x, at, 1, axis=1)
        x = x[:, skip:]
        x = make_norm(config.norm, "norm_out", dtype, config.bias)(x[:, -1:] if last_only else x)
        if config.factors:
            if self.is_initializing():
                _factored_head(config, "head")(x, jnp.zeros(x.shape[:2], jnp.int32))
            return x if cache is None else (x, tuple(written))
        logits = output_layer(config.vocab_size, dtype, config.zero_head, "head")(x)
        return logits if cache is None else (logits, tuple(written))

    def _check_sizes(self, cache: tuple[Cache, ...] | None, length: int) -> None:
        config = self.config
        if not (config.vocab_size and config.block_size and (config.condition_size or not config.condition_table)):
            rows = f", condition_size={config.condition_size}" if config.condition_table else ""
            raise ValueError(
                f"transformer.vocab_size={config.vocab_size} and block_size={config.block_size}{rows}: 0 is what the "
                "parts of a two-stage model need, and a transformer alone has none; set both to at least 1."
            )
        if cache is not None and config.scan_layers:
            raise ValueError("a cache goes with layers apart: use with_layers_apart(model) and unstack_layers(params).")
        if length > config.block_size:
            raise ValueError(
                f"a sequence of {length} tokens does not fit transformer.block_size={config.block_size}; "
                "train with a larger block_size or use a smaller image."
            )

    def _layout(self, length: int) -> SequenceLayout:
        """By `config.grid`, where the caller knows no better."""
        config = self.config
        if self.is_initializing():  # only shapes matter
            return SequenceLayout(0, np.zeros((length, 2), np.float32))
        conditions = config.conditions  # refuses an open grid
        return TokenLayout(config.grid).after(conditions)

    def _embed(
        self, ids: Int[Array, "b l"], start: Position, layout: SequenceLayout | None, walk: Int[Array, "b _"] | None
    ) -> Float[Array, "b l d"]:
        """Rows of the tables of tokens, of positions where they are learned, and of targets where they are told."""
        config, init = self.config, nn.initializers.normal(0.02)
        table = lambda n, name: split_by_row(nn.Embed(n, config.n_embd, embedding_init=init, name=name).embedding)
        if not config.condition_table:
            rows = jnp.take(table(config.vocab_size, "token"), ids, axis=0)
        else:
            assert layout is not None
            take = lambda n, name, ids: jnp.take(table(n, name), ids, axis=0, mode="clip")
            before = start + jnp.arange(ids.shape[1]) < layout.conditions
            mine = take(config.condition_size, "condition_token", ids)
            if config.factors:
                named = zip(config.factors, ("first_token", "second_token"), parts_of(ids, config.factors), strict=True)
                first, second = (take(*part) for part in named)
                codes = first + second
            else:
                codes = take(config.vocab_size, "token", ids)
            rows = jnp.where(before[None, :, None], mine, codes)
        length = ids.shape[1]
        if config.positions == "learned":
            table = self.param("position", nn.initializers.zeros, (config.block_size, config.n_embd))
            rows = rows + _rows(table, start, length, None if walk is None else walk[:, :-1])
        if config.target_positions:
            table = self.param("target", nn.initializers.normal(0.02), (config.block_size + 1, config.n_embd))
            rows = rows + _rows(table, start + 1, length, None if walk is None else walk[:, 1:])
        return rows

    def _turns(
        self, layout: SequenceLayout | None, start: Position, length: int, walk: Int[Array, "b _"] | None
    ) -> Turns | None:
        """Of the positions from `start` on, or of those of a walk, where they are rotary."""
        config = self.config
        if config.positions != "rotary":
            return None
        assert layout is not None
        turns = rotary_turns(layout.places, config.n_embd // config.n_head, config.rotary_base)
        if walk is not None:
            return jnp.take(turns, walk[:, :-1], axis=1)
        return jax.lax.dynamic_slice_in_dim(jnp.asarray(turns), start, length, axis=1)

    def _block(self, name: str) -> Block:
        config = self.config
        return Block(
            n_head=config.n_head,
            mask=self.mask or Causal(config.n_unmasked),
            attention_dropout=config.attention_dropout,
            residual_dropout=config.residual_dropout,
            dtype=jnp.dtype(config.dtype),
            attention=config.attention,
            mlp_dropout=config.residual_dropout if config.mlp_dropout is None else config.mlp_dropout,
            kv_heads=config.kv_heads,
            use_bias=config.bias,
            qk_norm=config.qk_norm,
            norm=config.norm,
            mlp=config.mlp,
            mlp_multiple=config.mlp_multiple,
            name=name,
        )

    def _blocks(self, x: Float[Array, "b l d"], train: bool, turns: Turns | None) -> Float[Array, "b l d"]:
        """Through all blocks, without a cache."""
        config = self.config
        rates = np.linspace(0, config.drop_path, config.n_layer, dtype=np.float32) if config.drop_path else None

        def run(
            block: Block, x: Float[Array, "b l d"], turns: Turns | None, rate: Rate | None
        ) -> Float[Array, "b l d"]:
            return split_by_image(block(x, train=train, turns=turns, drop_path=rate)[0])

        if config.remat:
            run = nn.remat(run, policy=REMAT[config.remat], prevent_cse=not config.scan_layers)
        if not config.scan_layers:
            for i in range(config.n_layer):
                x = run(self._block(f"block_{i}"), x, turns, None if rates is None else rates[i])
            return x
        loop = nn.scan(
            lambda block, x, turns, rate: (run(block, x, turns, rate), None),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, 0),
            length=config.n_layer,
        )
        return loop(self._block("blocks"), x, turns, None if rates is None else jnp.asarray(rates))[0]

    def init_cache(self, batch: int, length: int, dtype: DTypeLike | None = None) -> tuple[Cache, ...]:
        """An empty cache for `batch` sequences of up to `length` tokens, in the compute type unless told otherwise."""
        config = self.config
        heads, width = config.kv_heads or config.n_head, config.n_embd // config.n_head
        rows = heads // heads_in_row(heads, width)
        shape = (batch, rows, length, heads * width // rows)
        zeros = jnp.zeros(shape, dtype or config.dtype)
        return tuple(Cache(zeros, zeros) for _ in range(config.n_layer))


def _rows(
    table: Float[Array, "n d"], start: Position, length: int, positions: Int[Array, "b l"] | None
) -> Float[Array, "_ l d"]:
    """Rows of a table: at the positions of each image, or `length` of them from `start` on for all."""
    if positions is not None:
        return jnp.take(table, positions, axis=0, mode="clip")
    return jax.lax.dynamic_slice_in_dim(table, start, length)[None]


def token_cross_entropy(logits: Float[Array, "b l n"], ids: Int[Array, "b l"]) -> Float[Array, "b l"]:
    """The negative log-likelihood of each token in nats, float32."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def head_of(model: GPT, params: Mapping[str, Any]) -> FactoredHead | None:
    """What reads the results of a network with `factors`, with its parameters; None where these are logits."""
    config = model.config
    if not config.factors:
        return None
    return _factored_head(config).bind({"params": cast_layers(params["head"], config.dtype)})


def _factored_head(config: GPTConfig, name: str | None = None) -> FactoredHead:
    return FactoredHead(
        factors=config.factors,
        width=config.n_embd,
        dtype=jnp.dtype(config.dtype),
        norm=config.norm,
        mlp=config.mlp,
        mlp_multiple=config.mlp_multiple,
        use_bias=config.bias,
        zero=config.zero_head,
        name=name,
    )


def predicted_parts(
    head: FactoredHead | None, prediction: Float[Array, "b l n"], ids: Int[Array, "b l"]
) -> list[tuple[Float[Array, "b l _"], Int[Array, "b l"]]]:
    """(logits, the ids that they should give) by the results of a network; with a head, of both parts of each token."""
    if head is None:
        return [(prediction, ids)]
    return list(zip(head(prediction, ids), parts_of(ids, head.factors), strict=True))


def prediction_nll(parts: Sequence[tuple[Float[Array, "b l _"], Int[Array, "b l"]]]) -> Float[Array, "b l"]:
    """The negative log-likelihood of each token in nats, float32: the sum of that of its parts."""
    first, *others = (token_cross_entropy(logits, ids) for logits, ids in parts)
    return sum(others, start=first)


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
