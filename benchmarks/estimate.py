"""Memory of a device and time of a step on paper, for both stages of the paper's ImageNet models.

    python benchmarks/estimate.py            # prints the tables of docs/pods.md as Markdown
    python benchmarks/estimate.py --write    # puts them there

Nothing is run or measured. Networks, batch sizes and sharding rules are the project's own (configs/imagenet_vqgan.py
with 16384 codes, configs/imagenet_cond.py), as shapes only; FLOPs are counted as in flops.py; the rest is the
arithmetic that docs/pods.md states, with the assumptions below.
"""

import argparse
import dataclasses
import functools
import math
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

sys.path.insert(0, str(Path(__file__).parent.parent))  # this project, installed or not

import flops

from configs import imagenet_cond, imagenet_vqgan
from taming_jax import sharding
from taming_jax.experiment import TransformerExperiment, VQGANExperiment, saved_form
from taming_jax.models.lpips import LPIPS
from taming_jax.models.vqgan import VQGAN
from taming_jax.nn.attention import Block
from taming_jax.settings import from_dict
from taming_jax.trained.loading import two_stage

# name: device, how many
SLICES = {"v5e-16": ("v5e", 16), "v5p-64": ("v5p", 32), "8 x H200": ("H200", 8)}
# Assumed: share of the peak that the arithmetic reaches, and of the links' bandwidth that the collectives reach.
UTILISATION = {"vqgan": 0.30, "transformer": 0.45}
LINKS = 0.5
DOCUMENT = Path(__file__).parent.parent / "docs" / "pods.md"
MARKS = ("<!-- benchmarks/estimate.py: begin -->\n", "<!-- benchmarks/estimate.py: end -->\n")
GB = 1e9
EXAMPLES = 7  # no other dimension of the networks is that long


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of one stage on one slice. Bytes on each device and seconds a step."""

    stage: str
    slice: str
    mesh: str
    images: int  # on a device
    state: float  # parameters, optimizer, gradients
    gathered: tuple[float, float]  # parameters of other devices while they are used, and frozen networks; with remat
    kept: tuple[float, float]  # activations for the backward pass: by the formula, and at most
    kept_remat: tuple[float, float]  # the same where each block is computed again
    other: float  # logits, encoder
    compute: float
    compute_remat: float
    collectives: tuple[float, float]  # without and with remat
    batch: int

    def memory(self, remat: bool) -> tuple[float, float]:
        rest = self.state + self.gathered[remat] + self.other
        low, high = self.kept_remat if remat else self.kept
        return rest + low, rest + high


@functools.cache
def first_stage() -> tuple[VQGANExperiment, dict[str, Any]]:
    """The settings of the first stage, and what of it is counted, for one image."""
    settings = from_dict(VQGANExperiment, imagenet_vqgan.get_config("16384").to_dict())
    training, sides = settings.training(), settings.data.sides
    model = training.model
    image, images = (jax.ShapeDtypeStruct((b, *sides, 3), jnp.float32) for b in (1, EXAMPLES))
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(training.init, key)
    distance = LPIPS(jnp.dtype(settings.model.dtype))
    lpips = jax.eval_shape(distance.init, key, image, image)["params"]
    forward = flops.products(lambda p, x: model.apply({"params": p}, x)[0], state.params, image)
    encoder = flops.products(lambda p, x: model.apply({"params": p}, x, method="encode_ids"), state.params, image)
    judge = flops.products(lambda p, x, y: distance.apply({"params": p}, x, y), lpips, image, image)
    itemsize = jnp.dtype(settings.model.dtype).itemsize
    return settings, {
        "state": state,
        "lpips": lpips,
        "step": sum(p.flops for p in flops.products(training.step, state, {"lpips": lpips}, {"image": image})),
        "forward": sum(p.flops for p in forward),
        "encode": sum(p.flops for p in encoder),
        "maps": flops.kept_bytes(forward, 1, itemsize),
        "lpips_maps": flops.kept_bytes(judge, 1, itemsize),
        "most": most_kept(lambda p, x: model.apply({"params": p}, x)[0], state.params, images),
        "lpips_most": most_kept(lambda y, x, p: distance.apply({"params": p}, x, y), images, images, lpips),
    }


def most_kept(function: Any, *arguments: Any, fused: int = 0) -> float:
    """Bytes an example that differentiating by the first argument keeps, before any compiler finds that much of it is
    cheaper to compute again. The examples are EXAMPLES. fused: leave out attention weights, which have this side."""
    kept = jax.eval_shape(lambda first, *rest: jax.vjp(lambda x: function(x, *rest), first)[1], *arguments)
    leaves = [leaf for leaf in jax.tree.leaves(kept) if EXAMPLES in leaf.shape]
    leaves = [leaf for leaf in leaves if not fused or leaf.shape.count(fused) < 2]
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves) / EXAMPLES


def vqgan_on(name: str) -> Estimate:
    kind, n = SLICES[name]
    settings, counted = first_stage()
    state, mesh = counted["state"], (n, 1, 1)  # config.mesh.data=-1, the default
    images = settings.data.batch_size // n
    networks = {"params": state.params, "disc_params": state.disc_params}
    maps, largest = counted["maps"], max(counted["maps"])
    entries = size_of(networks) / 4
    device = flops.DEVICES[kind]
    compute = settings.data.batch_size * counted["step"] / (n * device.tflops * 1e12 * UTILISATION["vqgan"])
    generator, judge = 2 * sum(maps), sum(counted["lpips_maps"])
    more = counted["most"] / generator
    return Estimate(
        stage="VQGAN",
        slice=name,
        mesh="data",
        images=images,
        state=size_of(state, mesh) + size_of(networks, mesh),
        gathered=(size_of(counted["lpips"]),) * 2,
        kept=(images * (generator + judge), images * (counted["most"] + counted["lpips_most"])),
        kept_remat=(
            images * (generator / 4 + 4 * largest + judge),
            images * (generator / 4 + 4 * largest * more + counted["lpips_most"]),
        ),
        other=images * 4 * largest,
        compute=compute,
        compute_remat=compute * (1 + counted["forward"] / counted["step"]),
        collectives=(2 * 4 * entries * (n - 1) / n / (device.link * GB * LINKS),) * 2,
        batch=settings.data.batch_size,
    )


@functools.cache
def second_stage() -> tuple[TransformerExperiment, Any]:
    settings = from_dict(TransformerExperiment, imagenet_cond.get_config().to_dict())
    model = two_stage(saved_form(settings), VQGAN(first_stage()[0].model)).gpt
    key = jax.eval_shape(lambda: jax.random.key(0))
    settings = dataclasses.replace(settings, transformer=model.config)
    return settings, jax.eval_shape(model.init, key, jax.ShapeDtypeStruct((1, 1), jnp.int32))["params"]


def transformer_on(name: str) -> Estimate:
    kind, n = SLICES[name]
    settings, params = second_stage()
    first, counted = first_stage()
    gpt, batch, mesh = settings.transformer, settings.data.batch_size, (1, n, 1)  # mesh.data=1, mesh.fsdp=-1
    images, device = batch // n, flops.DEVICES[kind]
    d, length, layers = gpt.n_embd, gpt.block_size, gpt.n_layer
    tokens = images * length
    attention = 0 if kind == "H200" else 6 * gpt.n_head * length  # cuDNN's fused attention keeps no weights
    block = 32 * d + attention
    layer = Block(gpt.n_head, dtype=jnp.dtype(gpt.dtype))
    x = jax.ShapeDtypeStruct((EXAMPLES, length, d), gpt.dtype)
    weights = jax.eval_shape(layer.init, jax.eval_shape(lambda: jax.random.key(0)), x)
    most = most_kept(lambda p, x: layer.apply(p, x)[0], weights, x, fused=0 if attention else length) / length
    work = flops.transformer_flops(gpt, length, batch)
    rate, encode_rate = (n * device.tflops * 1e12 * UTILISATION[stage] for stage in ("transformer", "vqgan"))
    encode = batch * counted["encode"] / encode_rate
    compute = work / rate
    frozen = size_of(counted["state"].params)
    outputs = sum(gpt.factors) or gpt.vocab_size
    forward = (work - 6 * batch * length * d * outputs) / 3 / rate  # of the blocks, once more
    return Estimate(
        stage="transformer",
        slice=name,
        mesh="fsdp",
        images=images,
        state=4 * size_of(params, mesh),
        gathered=tuple(frozen + 4 * matrices for matrices in (flops.transformer_matrices(gpt), 2 * 12 * d**2)),
        kept=(tokens * layers * block, tokens * layers * most),
        kept_remat=(tokens * (layers * 2 * d + block), tokens * (layers * 2 * d + most)),
        other=tokens * 10 * outputs + images * 4 * max(counted["maps"]),
        compute=compute + encode,
        compute_remat=compute + forward + encode,
        collectives=tuple(times * size_of(params) * (n - 1) / n / (device.link * GB * LINKS) for times in (2, 3)),
        batch=batch,
    )


def size_of(tree: Any, mesh: tuple[int, int, int] = (1, 1, 1)) -> float:
    """Bytes on each device of a mesh (data, fsdp, tensor), by the project's rules."""
    placed = sharding.state_shardings(tree, AbstractMesh(mesh, sharding.AXES))
    leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(placed))
    return sum(math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, place in leaves)


def tables() -> str:
    """Both tables and the counts behind them, as Markdown."""
    found = [on(name) for on in (vqgan_on, transformer_on) for name in SLICES]
    settings, counted = first_stage()
    gpt, params = second_stage()[0].transformer, second_stage()[1]
    network, disc = (size_of(tree) / 4e6 for tree in (counted["state"].params, counted["state"].disc_params))
    work = flops.transformer_flops(gpt, gpt.block_size, 1)
    entries = f"{network:.1f} M, discriminator {disc:.1f} M, LPIPS {size_of(counted['lpips']) / 4e6:.1f} M"
    encoder = f"{work / 1e12:.2f}, of the encoder {counted['encode'] / 1e12:.2f}"
    rows = [("parameters", entries, f"{size_of(params) / 4e9:.3f} B")]
    rows += [("global batch", settings.data.batch_size, second_stage()[0].data.batch_size)]
    rows += [("TFLOP an image", f"{counted['step'] / 1e12:.2f}", encoder)]
    counts = _table("counted, VQGAN f16 with 16384 codes, transformer", rows)

    rows, times = [], []
    for e in found:
        there = flops.DEVICES[SLICES[e.slice][0]].memory
        rows += [
            (e.stage, e.slice, e.mesh, e.images, f"{e.state / GB:.1f}", f"{e.other / GB:.1f}")
            + (f"{e.gathered[0] / GB:.1f}", _range(e.kept), _range(e.memory(False)))
            + (f"{e.gathered[1] / GB:.1f}", _range(e.kept_remat), _range(e.memory(True)), f"{there:g}")
        ]
        remat = e.memory(False)[0] > GB * there
        compute, collectives = e.compute_remat if remat else e.compute, e.collectives[remat]
        low, high = max(compute, collectives), compute + collectives
        step = f"{1e3 * low:.0f} to {1e3 * high:.0f}{', with remat' if remat else ''}"
        milliseconds = (
            f"{1e3 * seconds:.0f}" for seconds in (e.compute, *e.collectives[:1], e.compute_remat, e.collectives[1])
        )
        times += [(e.stage, e.slice, *milliseconds, step, f"{e.batch / high:.0f} to {e.batch / low:.0f}")]
    heads = "stage, slice, mesh, images, state, other, gathered, activations, **sum**, "
    heads += "gathered with remat, activations, **sum**, has"
    memory = _table(heads, rows)
    time = _table(
        "stage, slice, arithmetic, collectives, arithmetic with remat, collectives, **step**, images/s", times
    )
    return f"{counts}\nMemory of a device in GB:\n\n{memory}\nTime of a step in ms:\n\n{time}"


def _table(heads: str, rows: list[tuple[Any, ...]]) -> str:
    lines = [tuple(heads.split(", ")), ("---",) * (heads.count(", ") + 1), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _range(low_high: tuple[float, float]) -> str:
    low, high = (f"{value / GB:.1f}" for value in low_high)
    return low if low == high else f"{low} to {high}"


def split(document: str) -> tuple[str, str, str]:
    """(before the tables, the tables, behind them)."""
    before, rest = document.split(MARKS[0])
    middle, after = rest.split(MARKS[1])
    return before + MARKS[0], middle, MARKS[1] + after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/pods.md")
    options = parser.parse_args()
    text = tables()
    if options.write:
        before, _, after = split(DOCUMENT.read_text(encoding="utf-8"))
        DOCUMENT.write_text(f"{before}{text}{after}", encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
