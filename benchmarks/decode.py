"""Drawing images of 256 tokens with a key/value cache, next to the same model in PyTorch.

    python benchmarks/decode.py                                     # 12 layers x 512 on a CPU
    python benchmarks/decode.py --model 0.1B 0.3B 1.4B --batch 1 8 64 --dtype bfloat16 --compiled_peer --bandwidth 4800

Prints a table, and JSON as its last line. Weights are random and everything is greedy; `equal` is the share of tokens
in which the peer agrees. The floor: each step reads all weights once and the live part of the keys and values, over the
memory bandwidth (`--bandwidth`, GB/s; without it a copy of 1 GB is timed).
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

from taming_jax.conditioning import ClassLabel
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.priors.base import Job
from taming_jax.priors.filters import Filters
from taming_jax.two_stage import TwoStage

SIDE = 16


def main():
    options = _options()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    bandwidth = options.bandwidth or _measured_bandwidth()
    rows = [measure(name, batch, bandwidth, options) for name in options.model for batch in options.batch]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print("  ".join(f"{name:>14s}" for name in columns))
    for row in rows:
        cells = (f"{row[c]:.4g}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in columns)
        print("  ".join(f"{cell:>14s}" for cell in cells))
    print(json.dumps({"device": jax.devices()[0].device_kind, "jax": jax.__version__, **vars(options), "rows": rows}))


def measure(name: str, batch: int, bandwidth: float, options: argparse.Namespace) -> dict:
    """Times of one model and batch, ours and the peers'."""
    layers, heads, width, codes = MODELS[name]
    n = SIDE * SIDE
    config = GPTConfig(codes, n, layers, heads, width, dtype=options.dtype)
    first = VQGAN(VQGANConfig(n_embed=codes))
    model = TwoStage(first, GPT(config), ClassLabel(min(codes, 1000)), (SIDE, SIDE))
    params = jax.jit(model.gpt.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    params["position"] = jax.random.normal(jax.random.key(1), params["position"].shape) * 0.1  # starts as zero
    weights = jax.tree.map(lambda leaf: leaf.astype(options.dtype), params)
    labels = np.arange(batch, dtype=np.int32)[:, None]
    nothing = np.zeros((batch, SIDE, SIDE), np.int32)
    key, numbers = jax.random.key(0), np.arange(batch)
    job = Job(labels, nothing, nothing > 0, key, numbers, Filters(temperature=0).traced(np.arange(n)))
    started = time.perf_counter()
    program = jax.jit(model.prior.sample).lower(weights, job).compile()
    compile_s = time.perf_counter() - started
    times = []
    for _ in range(options.repeat):
        started = time.perf_counter()
        ids = np.asarray(program(weights, job))
        times.append(time.perf_counter() - started)
    taken, size = float(np.median(times)), jnp.dtype(options.dtype).itemsize
    matrices = 12 * layers * width**2 + codes * width
    cache = 2 * layers * width * batch * (n + 1) / 2  # live part, on average
    floor = n * size * (matrices + cache) / bandwidth
    row = {"model": name, "batch": batch, "compile_s": compile_s, "s": taken, "tokens/s": batch * n / taken}
    row |= {"share_of_floor": floor / taken}
    return row | peer(params, config, labels, ids.reshape(batch, n), row["tokens/s"], options)


def peer(params, config, labels, ids, speed: float, options: argparse.Namespace) -> dict:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch, n = ids.shape
    net = peers.GPT(config.vocab_size, config.block_size, config.n_layer, config.n_head, config.n_embd)
    net = peers.with_weights(net, jax.tree.map(np.asarray, params)).to(device, getattr(torch, options.dtype))
    start = torch.tensor(labels, dtype=torch.long, device=device)
    runs = {"plain": lambda: peers.continue_cached(net, start, n)}
    if options.compiled_peer:
        static = peers.StaticGPT(net, batch, n).to(device, getattr(torch, options.dtype))
        step = torch.compile(static, mode="max-autotune")
        runs["compiled"] = lambda: peers.continue_static(step, start, n)
    result = {}
    for name, run in runs.items():
        run()  # warm
        times = []
        for _ in range(options.repeat):
            started = time.perf_counter()
            drawn = run().cpu().numpy()
            times.append(time.perf_counter() - started)
        result[f"{name}_tok/s"] = batch * n / float(np.median(times))
        result[f"times_{name}"] = speed / result[f"{name}_tok/s"]
        result[f"{name}_equal"] = float(np.mean(drawn == ids))
    return result


def _measured_bandwidth() -> float:
    """Bytes a second that a copy reads and writes."""
    x = jnp.zeros(1 << 28, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    times = []
    for _ in range(5):  # the first ones also compile, and ask the system for memory
        started = time.perf_counter()
        copy(x).block_until_ready()
        times.append(time.perf_counter() - started)
    return 2 * x.nbytes / min(times)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["small"], choices=MODELS)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--bandwidth", type=lambda text: float(text) * 1e9, help="GB/s of the device's memory")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--compiled_peer", action="store_true", help="also a static cache and torch.compile")
    parser.add_argument("--threads", type=int, help="PyTorch's threads")
    return parser.parse_args()


if __name__ == "__main__":
    main()
