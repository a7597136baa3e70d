"""Sliding-window sampling, next to PyTorch with a whole window for each token, the original's way.

    python benchmarks/sliding_window.py --grid 26x40                    # 12 layers x 512 on a CPU
    python benchmarks/sliding_window.py --grid 32x32 52x80 64x128 --model 0.3B --dtype bfloat16 --compiled_peer

Prints a table, and JSON as its last line. Weights are random, the condition is a map, everything is greedy. The peer
draws only `--peer_tokens` tokens, spread over the grid, each with the ids around it that ours drew: its time for a grid
is that many times longer, since every one of its tokens costs the same. `equal` is the share of them that agree.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import peers
import torch
from peers import MODELS

sys.path.insert(0, str(Path(__file__).parent.parent))  # this project, installed or not

from taming_jax.conditioning import NoCondition
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.priors.base import Job
from taming_jax.priors.filters import Filters
from taming_jax.priors.window import cache_bytes, sample_window, schedule_for
from taming_jax.two_stage import TwoStage

WINDOW = 16


def main():
    options = _options()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    rows = []
    for name in options.model:
        model, params = network(name, options.dtype)
        for grid in options.grid:
            rows += [{"model": name} | measure(model, params, tuple(map(int, grid.split("x"))), options)]
    for row in rows:
        print(
            "  ".join(
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
            )
        )
    print(json.dumps({"device": jax.devices()[0].device_kind, **vars(options), "rows": rows}))


def network(name: str, dtype: str):
    """A model of MODELS, and its random parameters."""
    layers, heads, width, codes = MODELS[name]
    config = GPTConfig(codes, 2 * WINDOW**2, layers, heads, width, dtype=dtype)
    model = TwoStage(VQGAN(VQGANConfig(n_embed=codes)), GPT(config), NoCondition(), (WINDOW, WINDOW))
    params = jax.jit(model.gpt.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    params["position"] = jax.random.normal(jax.random.key(1), params["position"].shape) * 0.1  # starts as zero
    return model, params


def measure(model, params, grid, options) -> dict:
    """Times of one grid, ours and the peer's."""
    config = model.gpt.config
    condition = np.random.RandomState(0).randint(0, config.vocab_size, (options.images, *grid)).astype(np.int32)
    given, keep = np.zeros_like(condition), np.zeros(condition.shape, bool)
    choices = {"stride": options.stride, "keep_columns": not options.forget_columns, "together": options.together}
    schedule = schedule_for(model.prior, condition.shape, given.shape, **choices)
    weights = jax.tree.map(lambda leaf: leaf.astype(options.dtype), params)
    greedy = Filters(temperature=0).traced(np.arange(grid[0] * grid[1]))
    job = Job(condition, given, keep, jax.random.key(0), np.arange(options.images), greedy)
    started = time.perf_counter()
    program = jax.jit(sample_window, static_argnums=0).lower(model.prior, weights, job, schedule).compile()
    compiled = time.perf_counter()
    ids = np.asarray(program(weights, job, schedule))
    taken = time.perf_counter() - compiled
    tokens = options.images * grid[0] * grid[1]
    reads = options.images * sum(int(p.bounds[-1]) * p.ops.row.shape[1] * p.size for p in schedule.passes)
    row = {
        "grid": f"{grid[0]}x{grid[1]}",
        "steps": schedule.steps,
        "compile_s": compiled - started,
        "s": taken,
        "tokens/s": tokens / taken,
        "positions/token": reads / tokens,
        "TFLOP/s": 24 * config.n_layer * config.n_embd**2 * reads / taken / 1e12,  # matrix products of the blocks
        "distinct_ids": len(np.unique(ids)),
        "cache_GiB": cache_bytes(config, schedule, options.images) / 2**30,
    }
    if options.peak:
        row["share_of_peak"] = row["TFLOP/s"] / options.peak
    return row | peer(model, params, condition, ids, row["tokens/s"], options) if options.peer_tokens else row


def peer(model, params, condition, ids, speed, options) -> dict:
    """The peer's speed, and whether it draws what was drawn."""
    config, grid = model.gpt.config, ids.shape[1:]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = peers.GPT(config.vocab_size, config.block_size, config.n_layer, config.n_head, config.n_embd)
    net = peers.with_weights(net, jax.tree.map(np.asarray, params)).to(device, getattr(torch, options.dtype))
    result = {}
    for name, network in {"plain": net, **({"compiled": torch.compile(net)} if options.compiled_peer else {})}.items():
        places = [
            tuple(map(int, divmod(place, grid[1])))
            for place in np.linspace(0, grid[0] * grid[1] - 1, options.peer_tokens).astype(int)
        ]
        before = torch.tensor(condition, dtype=torch.long).to(device)
        drawn = torch.tensor(ids, dtype=torch.long).to(device)
        peers.sliding_window(network, before, WINDOW, places[:2], drawn.clone())  # warm
        started = time.perf_counter()
        drawn = peers.sliding_window(network, before, WINDOW, places, drawn).cpu().numpy()
        taken = time.perf_counter() - started
        result[f"{name}_tokens/s"] = options.images * len(places) / taken
        result[f"times_{name}"] = speed / result[f"{name}_tokens/s"]
        result[f"{name}_equal"] = float(np.mean([drawn[:, i, j] == ids[:, i, j] for i, j in places]))
    return result


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", nargs="+", default=["26x40"], help="rows x columns of codes, at least 16 each")
    parser.add_argument("--model", nargs="+", default=["small"], choices=MODELS)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--forget_columns", action="store_true", help="less memory: keep only what is in use")
    parser.add_argument("--together", type=int, help="windows in one batch")
    parser.add_argument("--peak", type=float, help="TFLOP/s that the device can do, to print the share of it")
    parser.add_argument("--peer_tokens", type=int, default=16, help="0 for none of the peer")
    parser.add_argument("--compiled_peer", action="store_true", help="also PyTorch with torch.compile")
    parser.add_argument("--threads", type=int, help="PyTorch's threads")
    return parser.parse_args()


if __name__ == "__main__":
    main()
