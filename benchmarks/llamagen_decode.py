"""Drawing 16 x 16 codes with guidance from a transformer of LlamaGen's kind, next to the same one in plain PyTorch with
a static cache, as its own program draws.

    python benchmarks/llamagen_decode.py                           # 12 layers x 512 on a CPU, batch 1 and 8
    python benchmarks/llamagen_decode.py --layers 12 --heads 12 --width 768 --batch 8 --repeat 5

Weights are random and everything is greedy; `equal` is the share of tokens in which both agree. Runs of both take
turns, so that what else the machine does meets both; medians are printed, as a table and as JSON in the last line.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
import torch
from llamagen_peer import Transformer

sys.path.insert(0, str(Path(__file__).parent.parent))  # this project, installed or not

from taming_jax.conditioning import ClassLabel
from taming_jax.convert.engine import bring
from taming_jax.convert.formats import llamagen_transformer as llamagen
from taming_jax.convert.formats.memory import tree_of
from taming_jax.models.gpt import GPT
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.priors.base import Job
from taming_jax.priors.filters import Filters
from taming_jax.two_stage import TwoStage


def main() -> None:
    given = _options()
    torch.manual_seed(0)
    net = Transformer(given.layers, given.heads, given.width, given.codes, given.side, 1000).eval()
    for name, value in net.named_parameters():
        if value.ndim == 2:
            torch.nn.init.normal_(value, std=0.5 if "output" in name or "emb" in name else given.width**-0.5)
    state = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    config = llamagen.config_of(llamagen.sizes_of(state), {}, given.heads, given.side)
    params = tree_of(bring(llamagen.table_of(config), llamagen.split(state, config)))
    first = VQGAN(VQGANConfig(n_embed=given.codes))
    model = TwoStage(first, GPT(config), ClassLabel(1000), (given.side, given.side), condition_dropout=0.1)
    rows = [measure(model, jax.device_put(params), net, batch, given) for batch in given.batch]
    print("  ".join(f"{name:>12s}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{value:12.4g}" for value in row.values()))
    print(json.dumps({"device": jax.devices()[0].device_kind, "threads": torch.get_num_threads(), "rows": rows}))


def measure(model: TwoStage, params: dict, net: Transformer, batch: int, given: argparse.Namespace) -> dict:
    """Median seconds of both for one batch."""
    n, labels = given.side**2, np.arange(batch, dtype=np.int32)
    nothing = np.zeros((batch, given.side, given.side), np.int32)
    filters = Filters(temperature=0, guidance=given.guidance).traced(np.arange(n))
    job = Job(labels[:, None], nothing, nothing > 0, jax.random.key(0), labels, filters)
    started = time.perf_counter()
    program = jax.jit(model.prior.sample).lower(params, job).compile()
    compile_s = time.perf_counter() - started
    ours = lambda: np.asarray(program(params, job)).reshape(batch, n)
    theirs = lambda: net.draw(torch.from_numpy(labels).long(), given.guidance).numpy()
    equal = float(np.mean(ours() == theirs()))  # and both are warm
    times: dict = {ours: [], theirs: []}
    for _ in range(given.repeat):
        for run, taken in times.items():
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
    here, there = (float(np.median(taken)) for taken in times.values())
    row = {"batch": batch, "compile_s": compile_s, "s": here, "pytorch_s": there, "times": there / here}
    return row | {"tokens/s": batch * n / here, "equal": equal}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("layers", 12), ("heads", 8), ("width", 512), ("codes", 16384), ("side", 16), ("repeat", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--guidance", type=float, default=2.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
