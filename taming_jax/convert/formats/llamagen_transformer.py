"""The class-conditional transformer of LlamaGen (arXiv 2406.06525, section 2.2): LLaMA's blocks over codes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from taming_jax.convert.engine import Passive, Table, check_layers, entries_of
from taming_jax.convert.formats.llamagen_sizes import HEADS
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.nn.attention import swiglu_width
from taming_jax.settings import from_dict, to_dict

SIGN, CLASSES = "tok_embeddings.weight", "cls_embedding.embedding_table.weight"
TEXT = ("cls_embedding.cap_proj", "cls_embedding.uncond_embedding")  # arrays of those conditioned on text alone
MOST_MULTIPLE = 1 << 14
RECIPE = {"embedding_dropout": 0.1, "residual_dropout": 0.1, "mlp_dropout": 0.1}  # as published
PARTS = {
    "token": "tok_embeddings",
    "condition_token": "cls_embedding.embedding_table",
    r"block_(\d+)": r"layers.\1",
    "norm_attention": "attention_norm",
    "norm_mlp": "ffn_norm",
    "norm_out": "norm",
    "attention": r"\g<0>",
    "query": "wq",
    "key": "wk",
    "value": "wv",
    "out": "wo",
    "mlp": "feed_forward",
    "gate": "w1",
    "up": "w3",
    "down": "w2",
    "head": "output",
    "kernel|scale|embedding": "weight",
}


def sizes_of(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the arrays say of a transformer, under LlamaGen's names. Raises ValueError where they make none, or one that
    reads texts."""
    if any(name.startswith(TEXT) for name in state):
        raise ValueError(
            "this is a text-conditional transformer of LlamaGen: it reads the features of a T5 text encoder, which "
            "this project does not have; only class-conditional ones (c2i) are supported"
        )
    try:
        codes, dim = state[SIGN].shape
        rows = state[CLASSES].shape[0]
        layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
        check_layers(layers, state)
        hidden = state["layers.0.feed_forward.w1.weight"].shape[0]
        fused = state["layers.0.attention.wqkv.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(
            f"the arrays make no transformer of LlamaGen: {error} is missing or of another form"
        ) from error
    return {
        "n_layer": layers,
        "dim": dim,
        "vocab_size": codes,
        "num_classes": rows - 1,
        "hidden": hidden,
        "fused": fused,
    }


def config_of(sizes: Mapping[str, Any], told: Mapping[str, Any], n_head: int, side: int) -> GPTConfig:
    """The network of these sizes, for side x side codes. n_head: 0 where the user does not say.

    Raises ValueError where the heads are unknown or the sizes impossible.
    """
    dim, layers = sizes["dim"], sizes["n_layer"]
    heads = n_head or int(told.get("n_head", 0)) or HEADS.get((layers, dim), 0)
    if not heads:
        raise ValueError(
            f"how many heads {layers} layers of width {dim} have does not stand in the file, and it is no published "
            "size; give --n-head N"
        )
    if heads < 1 or dim % heads:
        raise ValueError(f"--n-head {heads} does not divide the width {dim}")
    width, others = dim // heads, sizes["fused"] - dim
    if others <= 0 or others % (2 * width) or heads % (others // (2 * width)):
        raise ValueError(f"--n-head {heads}: wqkv of {sizes['fused']} rows makes no heads of keys and values")
    kv_heads = others // (2 * width)
    if float(told.get("norm_eps", 1e-5)) != 1e-5:
        raise ValueError(f"norm_eps={told['norm_eps']} is not supported, only 1e-05")
    values = {
        "vocab_size": sizes["vocab_size"],
        "block_size": side * side,
        "n_layer": layers,
        "n_head": heads,
        "n_embd": dim,
        "norm": "rms",
        "mlp": "swiglu",
        "mlp_multiple": _multiple(dim, sizes["hidden"]),
        "bias": False,
        "positions": "rotary",
        "rotary_base": float(told.get("rope_base", 10_000)),
        "kv_heads": 0 if kv_heads == heads else kv_heads,
        "condition_table": True,
        "condition_size": sizes["num_classes"] + 1,
        "zero_head": True,
        "grid": [side, side],
        **RECIPE,
    }
    return from_dict(GPTConfig, values, "the transformer")


def _multiple(dim: int, hidden: int) -> int:
    """The multiple to which the width of the MLP is rounded up: 256 as published, or whatever makes it `hidden`."""
    for multiple in (256, *range(1, min(hidden, MOST_MULTIPLE) + 1)):
        if swiglu_width(dim, multiple) == hidden:
            return multiple
    raise ValueError(f"an MLP of {hidden} for a width of {dim} is narrower than two thirds of four times that")


def table_of(config: GPTConfig) -> Table:
    """Every array, with those for queries, keys and values apart, as `split` makes them."""
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = flatten_dict(jax.eval_shape(GPT(config).init, jax.random.key(0), ids)["params"], sep="/")
    layout = lambda target, ndim: "linear" if target.endswith("/kernel") else "same"
    table = Table(entries_of(shapes, PARTS, layout, "", "params/"))
    turns = np.broadcast_to(np.float32(0), (config.block_size + 1, config.n_embd // config.n_head // 2, 2))
    table.passive.append(Passive("freqs_cis", turns, "dropped"))
    return table


def split(state: Mapping[str, np.ndarray], config: GPTConfig) -> dict[str, np.ndarray]:
    """`wqkv` of each layer as `wq`, `wk` and `wv`."""
    kv = config.n_embd * (config.kv_heads or config.n_head) // config.n_head
    bounds, apart = [config.n_embd, config.n_embd + kv], {}
    for name, array in state.items():
        if name.endswith(".attention.wqkv.weight") and array.shape[0] == config.n_embd + 2 * kv:
            for part, rows in zip(("wq", "wk", "wv"), np.split(array, bounds)):
                apart[name.replace("wqkv", part)] = rows
        else:
            apart[name] = array
    return apart


def joined(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The way back."""
    whole: dict[str, np.ndarray] = {}
    for name, array in state.items():
        if name.endswith((".wk.weight", ".wv.weight")):
            continue
        if name.endswith(".wq.weight"):
            parts = [array, *(state[name.replace("wq.", f"{part}.")] for part in ("wk", "wv"))]
            whole[name.replace("wq.", "wqkv.")] = np.concatenate(parts)
        else:
            whole[name] = array
    return whole


def check(config: GPTConfig, condition: Mapping[str, Any]) -> None:
    """Raise ValueError for what LlamaGen cannot load."""
    wanted = {"norm": "rms", "mlp": "swiglu", "bias": False, "positions": "rotary", "qk_norm": False}
    wanted |= {"condition_table": True, "n_unmasked": 0, "factors": ()}
    wrong = [f"{k}={getattr(config, k)!r} (it has {v!r})" for k, v in wanted.items() if getattr(config, k) != v]
    if condition.get("kind", "class_label") != "class_label":
        wrong.append(f"condition.kind={condition['kind']!r} (it has classes)")
    if wrong:
        raise ValueError(f"LlamaGen's transformer cannot be this: {', '.join(wrong)}")


def saved_config(config: GPTConfig, classes: int, size: int, two_stage: bool) -> dict[str, Any]:
    """The configuration of the directory to write, with LlamaGen's recipe for a fine-tuning."""
    transformer = to_dict(config)
    if not two_stage:
        return {"kind": "transformer", "transformer": transformer}
    return {
        "kind": "two_stage",
        "transformer": transformer,
        "condition": {"kind": "class_label", "n_classes": classes},
        "condition_dropout": 0.1,
        "order": "row_major",
        "pkeep": 1.0,
        "data": {"size": size, "zoom": (1.05, 1.1), "crop_from": "center", "resampling": "adm"},
        "optimizer": {
            **{"learning_rate": 1e-4, "per_sample": False, "b1": 0.9, "b2": 0.95, "weight_decay": 0.05},
            **{"decay_embeddings": True, "clip_norm": 1.0},
        },
    }
