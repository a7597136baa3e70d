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
from pathlib import Path
from typing import Any

import flops
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from configs import imagenet_cond, imagenet_vqgan
from taming_jax import sharding
from taming_jax.experiment import TransformerExperiment, VQGANExperiment
from taming_jax.models.discriminator import Discriminator
from taming_jax.models.gpt import GPT
from taming_jax.models.lpips import LPIPS
from taming_jax.models.vqgan import VQGAN
from taming_jax.settings import from_dict
from taming_jax.training import optim, vqgan

# name: device, how many
SLICES = {"v5e-16": ("v5e", 16), "v5p-64": ("v5p", 32), "8 x H200": ("H200", 8)}
# Assumed: share of the peak that the arithmetic reaches, and of the links' bandwidth that the collectives reach.
UTILISATION = {"vqgan": 0.30, "transformer": 0.45}
LINKS = 0.5
DOCUMENT = Path(__file__).parent.parent / "docs" / "pods.md"
MARKS = ("<!-- benchmarks/estimate.py: begin -->\n", "<!-- benchmarks/estimate.py: end -->\n")
GB = 1e9


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of one stage on one slice. Bytes on each device and seconds a step."""

    stage: str
    slice: str
    mesh: str
    images: int  # on a device
    state: float  # parameters, optimizer, gradients
    gathered: float  # parameters of other devices while they are used, and frozen networks
    kept: float  # activations for the backward pass
    kept_remat: float  # the same where each block is computed again
    other: float  # logits, encoder
    compute: float
    compute_remat: float
    collectives: float
    batch: int

    def memory(self, remat: bool) -> float:
        return self.state + self.gathered + (self.kept_remat if remat else self.kept) + self.other


@functools.cache
def first_stage() -> tuple[VQGANExperiment, dict[str, Any]]:
    """The settings of the first stage, and what of it is counted, for one image."""
    settings = from_dict(VQGANExperiment, imagenet_vqgan.get_config("16384").to_dict())
    model, disc, size = VQGAN(settings.model), Discriminator(settings.discriminator), settings.data.size
    adam, disc_adam = (optim.make_optimizer(settings.optimizer, batch_size=1, steps=1) for _ in range(2))
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: vqgan.make_state(key, model, disc, (adam, disc_adam), image.shape), key)
    distance = LPIPS(jnp.dtype(settings.model.dtype))
    lpips = jax.eval_shape(distance.init, key, image, image)["params"]
    step = vqgan.make_train_step(model, disc, settings.loss, adam, disc_adam, lpips)
    forward = flops.products(lambda p, x: model.apply({"params": p}, x)[0], state.params, image)
    encoder = flops.products(lambda p, x: model.apply({"params": p}, x, method="encode_ids"), state.params, image)
    judge = flops.products(lambda p, x, y: distance.apply({"params": p}, x, y), lpips, image, image)
    itemsize = jnp.dtype(settings.model.dtype).itemsize
    return settings, {
        "state": state,
        "lpips": lpips,
        "step": sum(p.flops for p in flops.products(step, state, {"image": image}, key, lpips)),
        "encode": sum(p.flops for p in encoder),
        "maps": flops.kept_bytes(forward, 1, itemsize),
        "lpips_maps": flops.kept_bytes(judge, 1, itemsize),
    }


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
    generator = 2 * sum(maps)
    return Estimate(
        stage="VQGAN",
        slice=name,
        mesh="data",
        images=images,
        state=size_of(state, mesh) + size_of(networks, mesh),
        gathered=size_of(counted["lpips"]),
        kept=images * (generator + sum(counted["lpips_maps"])),
        kept_remat=images * (generator / 4 + 4 * largest + sum(counted["lpips_maps"])),
        other=images * 4 * largest,
        compute=compute,
        compute_remat=compute * (1 + _generator_share(counted)),
        collectives=2 * 4 * entries * (n - 1) / n / (device.link * GB * LINKS),
        batch=settings.data.batch_size,
    )


def _generator_share(counted: dict[str, Any]) -> float:
    """FLOPs of one more forward pass through the generator, as a share of the step."""
    settings, _ = first_stage()
    size = settings.data.size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    model = VQGAN(settings.model)
    forward = flops.products(lambda p, x: model.apply({"params": p}, x)[0], counted["state"].params, image)
    return sum(product.flops for product in forward) / counted["step"]


@functools.cache
def second_stage() -> tuple[TransformerExperiment, Any]:
    settings = from_dict(TransformerExperiment, imagenet_cond.get_config().to_dict())
    model, key = GPT(settings.transformer), jax.eval_shape(lambda: jax.random.key(0))
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
    work = flops.transformer_flops(gpt, length, batch)
    rate, encode_rate = (n * device.tflops * 1e12 * UTILISATION[stage] for stage in ("transformer", "vqgan"))
    encode = batch * counted["encode"] / encode_rate
    compute = work / rate
    forward = (work - 6 * batch * length * d * gpt.vocab_size) / 3 / rate  # of the blocks, once more
    return Estimate(
        stage="transformer",
        slice=name,
        mesh="fsdp",
        images=images,
        state=4 * size_of(params, mesh),
        gathered=2 * 4 * (2 * 12 * d**2 + d * gpt.vocab_size) + size_of(counted["state"].params),
        kept=tokens * layers * block,
        kept_remat=tokens * (layers * 2 * d + block),
        other=tokens * 10 * gpt.vocab_size + images * 4 * max(counted["maps"]),
        compute=compute + encode,
        compute_remat=compute + forward + encode,
        collectives=3 * 4 * (size_of(params) / 4) * (n - 1) / n / (device.link * GB * LINKS),
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
    lines = ["| counted | VQGAN f16, 16384 codes | transformer |", "|---|---|---|"]
    network, disc = (size_of(tree) / 4e6 for tree in (counted["state"].params, counted["state"].disc_params))
    entries = f"{network:.1f} M, discriminator {disc:.1f} M, LPIPS {size_of(counted['lpips']) / 4e6:.1f} M"
    work = flops.transformer_flops(gpt, gpt.block_size, 1)
    lines += [f"| parameters | {entries} | {size_of(params) / 4e9:.3f} B |"]
    lines += [f"| global batch | {settings.data.batch_size} | {second_stage()[0].data.batch_size} |"]
    lines += [f"| TFLOP an image | {counted['step'] / 1e12:.2f} | {work / 1e12:.2f}, encoder {counted['encode'] / 1e12:.2f} |"]
    lines += ["", "Memory of a device, GB:", ""]
    lines += ["| stage | slice | mesh | images | state | gathered, frozen | activations (remat) | other | sum (remat) | there is |"]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    for e in found:
        numbers = [f"{e.state / GB:.1f}", f"{e.gathered / GB:.1f}", f"{e.kept / GB:.1f} ({e.kept_remat / GB:.1f})"]
        numbers += [f"{e.other / GB:.1f}", f"{e.memory(False) / GB:.1f} ({e.memory(True) / GB:.1f})"]
        there = flops.DEVICES[SLICES[e.slice][0]].memory
        lines += [f"| {e.stage} | {e.slice} | {e.mesh} | {e.images} | {' | '.join(numbers)} | {there:g} |"]
    lines += ["", "Time of a step, ms; the sum where nothing overlaps, the longer of the two where all does:", ""]
    lines += ["| stage | slice | arithmetic (remat) | collectives | step | images/s |", "|---|---|---|---|---|---|"]
    for e in found:
        remat = e.memory(False) > 0.9 * GB * flops.DEVICES[SLICES[e.slice][0]].memory
        compute = e.compute_remat if remat else e.compute
        low, high = max(compute, e.collectives), compute + e.collectives
        step = f"{1e3 * low:.0f} to {1e3 * high:.0f}{', with remat' if remat else ''}"
        cells = [f"{1e3 * e.compute:.0f} ({1e3 * e.compute_remat:.0f})", f"{1e3 * e.collectives:.0f}", step]
        lines += [f"| {e.stage} | {e.slice} | {' | '.join(cells)} | {e.batch / high:.0f} to {e.batch / low:.0f} |"]
    return "\n".join(lines) + "\n"


def split(document: str) -> tuple[str, str, str]:
    """(before the tables, the tables, behind them)."""
    before, rest = document.split(MARKS[0])
    middle, after = rest.split(MARKS[1])
    return before + MARKS[0], middle, MARKS[1] + after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/pods.md")
    text = tables()
    if parser.parse_args().write:
        before, _, after = split(DOCUMENT.read_text())
        DOCUMENT.write_text(f"{before}{text}{after}")
    print(text, end="")


if __name__ == "__main__":
    main()
