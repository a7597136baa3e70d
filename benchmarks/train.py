"""Training steps of both stages, next to the same model in plain PyTorch in the same run.

    python benchmarks/train.py                                                  # small networks, for a CPU
    python benchmarks/train.py --count                                          # where the FLOPs and bytes are
    python benchmarks/train.py --stage transformer --model 1.4B --batch 32 --dtype bfloat16 --attention cudnn
    python benchmarks/train.py --stage vqgan --model f16 --batch 12 --dtype bfloat16 --data PHOTOS --profile TRACE
    python benchmarks/train.py --input PHOTOS --size 256 --batch 96             # the input pipeline alone

Prints a table, and JSON as its last line.
step_ms      a step on a batch that is there already: of images for the first stage, of codes for the second
pixels_ms    the same on images, so that the second stage's has the encoder in it; input_ms: each batch of the pipeline;
             input_lost: the share of the latter that is lost by waiting
TFLOP, mfu   model FLOPs of a step (conventions in flops.py), and their rate over what the devices can do at best in
             bfloat16: --peak TFLOPS each, or the table in flops.py
program_GB   what the compiled program needs on a device; peak_GB: in use at most so far, where the backend tells
times_peer   our images a second over PyTorch's; loss_gap: relative difference of the losses of both in the first step,
             from equal weights on an equal batch
Weights and images are random. One process; the peer uses one device.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # this project, installed or not

import flops

from taming_jax import sharding
from taming_jax.conditioning import NoCondition
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig
from taming_jax.models.discriminator import Discriminator, DiscriminatorConfig
from taming_jax.models.gpt import ATTENTION, GPT, GPTConfig, unstack_layers
from taming_jax.models.lpips import LPIPS
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.training import loop, optim
from taming_jax.training.transformer import TransformerTraining
from taming_jax.training.vqgan import VQGANTraining
from taming_jax.training.vqgan_loss import VQGANLossConfig
from taming_jax.two_stage import TwoStage

SMALL = VQGANConfig(
    resolution=32, ch=32, ch_mult=(1, 2, 2), num_res_blocks=1, attn_resolutions=(8,), z_channels=64, embed_dim=64
)
FIRST_STAGES = {  # network, discriminator, side of the images
    "small": (SMALL, DiscriminatorConfig(ndf=16, n_layers=2), 32),
    "f16": (VQGANConfig(), DiscriminatorConfig(), 256),
}
TRANSFORMERS = {  # layers, heads, width, codes, and the first stage that makes the codes of its images
    "small": (4, 4, 256, 1024, "small"),
    "0.3B": (24, 16, 1024, 1024, "f16"),
    "1.4B": (48, 24, 1536, 16384, "f16"),
}
MODELS = {"vqgan": FIRST_STAGES, "transformer": TRANSFORMERS}
STEPS_IN_ALL, RATE = 1_000_000, 1e-5


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the training loop is given, and what to measure it by.

    losses: those that a peer must share. model_flops: of a step. tokens: of an image. peer: (first state, batch,
    device) -> its trainer and batch.
    """

    training: loop.Training
    frozen: Any
    batch: Mapping[str, np.ndarray]
    size: int
    losses: tuple[str, ...]
    model_flops: float
    tokens: int
    peer: Callable | None = None


def random_weights(network: Any, *inputs: np.ndarray) -> dict[str, Any]:
    """Of a frozen network, without compiling its own start: matrices that keep the scale, and ones."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    random = np.random.default_rng(0)

    def draw(x: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(x.shape) < 2:
            return np.ones(x.shape, x.dtype)
        return random.standard_normal(x.shape, np.float32) * (x.size / x.shape[-1]) ** -0.5

    return jax.tree.map(draw, shapes)


def first_stage(name: str, batch: int, options: argparse.Namespace) -> Measured:
    config, disc_config, size = FIRST_STAGES[name]
    config, disc_config = (dataclasses.replace(c, dtype=options.dtype) for c in (config, disc_config))
    config = dataclasses.replace(config, remat=bool(options.remat))
    settings = optim.OptimizerConfig(RATE, per_sample=False, b1=0.5, b2=0.9)
    adam = optim.make_optimizer(settings, batch_size=batch, steps=STEPS_IN_ALL)
    lpips = random_weights(LPIPS(), np.zeros((1, 32, 32, 3)), np.zeros((1, 32, 32, 3)))
    training = VQGANTraining(
        model=VQGAN(config),
        discriminator=Discriminator(disc_config),
        loss=VQGANLossConfig(),
        optimizer=adam,
        disc_optimizer=adam,
        batch_shape=(batch, size, size, config.in_channels),
        accumulate=options.accumulate,
    )
    plain = dataclasses.replace(training, model=VQGAN(dataclasses.replace(config, remat=False)), accumulate=1)

    def peer(state, images, device):
        import training_peers
        from torch import from_numpy

        weights = (config, disc_config, state.params, state.disc_params, jax.device_get(lpips))
        trainer = training_peers.VQGANTraining(*weights, learning_rate=RATE, device=device, dtype=options.dtype)
        return trainer, from_numpy(images["image"]).permute(0, 3, 1, 2).to(device)

    images = np.random.default_rng(0).uniform(-1, 1, training.batch_shape).astype(np.float32)
    state = jax.eval_shape(training.init, jax.random.key(0))
    whole = {"image": jax.ShapeDtypeStruct(images.shape, np.float32)}
    model_flops = sum(product.flops for product in flops.products(plain.step, state, {"lpips": lpips}, whole))
    losses = ("total_loss", "disc_loss")
    return Measured(training, {"lpips": lpips}, {"image": images}, size, losses, model_flops, 0, peer)


def second_stage(name: str, batch: int, options: argparse.Namespace, of_pixels: bool = False) -> Measured:
    layers, heads, width, codes, first = TRANSFORMERS[name]
    stage, _, size = FIRST_STAGES[first]
    stage = dataclasses.replace(stage, n_embed=codes, dtype=options.dtype)
    grid = stage.grid(size, size)
    length = math.prod(grid)
    how = {name: getattr(options, name) for name in ("dtype", "attention", "remat", "scan_layers")}
    config = GPTConfig(codes, length, layers, heads, width, **how)
    model = TwoStage(VQGAN(stage), GPT(config), NoCondition(), grid)
    settings = optim.OptimizerConfig(RATE, per_sample=False, weight_decay=0.01)
    adam = optim.make_optimizer(settings, batch_size=batch, steps=STEPS_IN_ALL)

    def peer(state, given, device):
        import training_peers
        from torch import from_numpy

        weights = unstack_layers(state.params)
        trainer = training_peers.GPTTraining(config, weights, learning_rate=RATE, device=device, dtype=options.dtype)
        sequences = given["codes"].reshape(batch, length).astype(np.int64)
        ids = np.pad(sequences, ((0, 0), (1, 0)))  # after the start token, 0
        return trainer, from_numpy(ids).to(device)

    frozen, random = {}, np.random.default_rng(0)
    given: dict[str, np.ndarray] = {"codes": random.integers(0, codes, (batch, *grid), np.int32)}
    if of_pixels:
        frozen = {"first_stage": random_weights(VQGAN(stage), np.zeros((1, size, size, 3)))}
        given = {"image": random.uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)}
    return Measured(
        training=TransformerTraining(model, adam, accumulate=options.accumulate),
        frozen=frozen,
        batch=given,
        size=size,
        losses=("loss",),
        model_flops=flops.transformer_flops(config, length, batch),
        tokens=length,
        peer=peer,
    )


def median(run: Callable[[], float], repeat: int) -> float:
    """Of several runs, since other programs may disturb one."""
    return float(np.median([run() for _ in range(repeat)]))


class Program:
    """A compiled step, as the training loop compiles it, and the state that it moves."""

    def __init__(self, measured: Measured, mesh: jax.sharding.Mesh):
        self.mesh, key, training = mesh, jax.random.key(0), measured.training
        shardings = sharding.state_shardings(jax.eval_shape(training.init, key), mesh)
        self.state = jax.jit(training.init, out_shardings=shardings)(key)
        self.frozen = jax.device_put(measured.frozen, sharding.replicated(mesh))
        self.batch = sharding.put_batch(measured.batch, mesh)
        update = jax.jit(training.step, donate_argnums=0, out_shardings=(shardings, None))
        started = time.perf_counter()
        with jax.set_mesh(mesh):
            self.compiled = update.lower(self.state, self.frozen, self.batch).compile()
        self.compile_s = time.perf_counter() - started

    def steps(self, n: int, batches: Iterable[Mapping[str, jax.Array]] | None = None) -> tuple[float, dict[str, float]]:
        """Seconds a step over `n` of them, and the metrics of the last."""
        metrics: Mapping[str, jax.Array] = {}
        started = time.perf_counter()
        for batch in itertools.islice(batches or itertools.repeat(self.batch), n):
            self.state, metrics = self.compiled(self.state, self.frozen, batch)
        metrics = jax.device_get(metrics)
        jax.block_until_ready(self.state)
        return (time.perf_counter() - started) / max(n, 1), {name: float(value) for name, value in metrics.items()}

    def time(self, options: argparse.Namespace, batches: Iterable[Mapping[str, jax.Array]] | None = None) -> float:
        """Seconds a step, the median of several runs."""
        return median(lambda: self.steps(options.steps, batches)[0], options.repeat)

    def memory(self) -> int:
        """Bytes on a device: arguments, results and what lies between."""
        m = self.compiled.memory_analysis()
        kept = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
        return kept + m.temp_size_in_bytes


def measure(stage: str, name: str, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row: ours, the input's share, and the peer."""
    mesh = sharding.make_mesh(sharding.MeshConfig(*options.mesh))
    sharding.check_batch(batch, mesh, options.accumulate)
    measured = (first_stage if stage == "vqgan" else second_stage)(name, batch, options)
    with_peer = options.peer and jax.default_backend() in ("cpu", "gpu")
    program = Program(measured, mesh)
    first_state = jax.device_get(program.state) if with_peer else None
    _, first = program.steps(1)
    row: dict[str, Any] = {"stage": stage, "model": name, "batch": batch, **speed(measured, program, options)}
    if options.profile:
        with jax.profiler.trace(os.path.join(options.profile, f"{stage}_{name}_{batch}")):
            program.steps(3)
    if options.count:
        row["count"] = count(measured, program, options)
    if measured.tokens:  # of codes; what the pipeline feeds starts from pixels
        del program
        program = Program(second_stage(name, batch, options, of_pixels=True), mesh)
        program.steps(1)
    row |= input_lost(program, measured.size, batch, options)
    del program
    if with_peer:
        row |= measure_peer(measured, first_state, [first[loss] for loss in measured.losses], row["images/s"], options)
    return row


def speed(measured: Measured, program: Program, options: argparse.Namespace) -> dict[str, Any]:
    """Our step on a batch that is there, and what it needs."""
    program.steps(options.warm)
    taken = program.time(options)
    batch, work, devices = len(next(iter(measured.batch.values()))), measured.model_flops, program.mesh.size
    row: dict[str, Any] = {"compile_s": program.compile_s, "step_ms": 1e3 * taken, "images/s": batch / taken}
    row |= {"tokens/s": batch * measured.tokens / taken} if measured.tokens else {}
    row |= {"TFLOP": work / 1e12, "TFLOP/s": work / taken / 1e12}
    if peak := _peak(options):
        row["mfu"] = work / taken / (devices * peak)
    row["program_GB"] = program.memory() / 1e9
    if stats := jax.local_devices()[0].memory_stats():
        row["peak_GB"] = stats["peak_bytes_in_use"] / 1e9
    return row


def input_lost(program: Program, size: int, batch: int, options: argparse.Namespace) -> dict[str, float]:
    """The share of the time that is lost when batches come from the pipeline."""
    program.steps(options.warm)
    there = program.time(options)
    stream = pipeline.make_batches(_data(options.data, size, batch), "train")
    streamed = (sharding.put_batch({"image": given["image"]}, program.mesh) for given in stream)
    program.steps(max(4, options.warm), streamed)  # what was fetched ahead meanwhile
    flowing = program.time(options, streamed)
    stream.close()
    return {"pixels_ms": 1e3 * there, "input_ms": 1e3 * flowing, "input_lost": max(0.0, 1 - there / flowing)}


def measure_peer(
    measured: Measured, first_state: Any, expected: list[float], speed: float, options: argparse.Namespace
) -> dict[str, float]:
    import torch
    import training_peers

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: JAX has a GPU but PyTorch has none; install a CUDA build of it, or give --no-peer")
    torch.set_num_threads(options.threads or torch.get_num_threads())
    torch.set_float32_matmul_precision("high")  # XLA's default on GPUs as well
    trainer, batch = measured.peer(first_state, measured.batch, device)
    if options.compiled_peer:
        trainer.compile()
    found = training_peers.total(trainer.step(batch))
    for _ in range(options.warm):
        training_peers.total(trainer.step(batch))

    def steps() -> float:
        started = time.perf_counter()
        for _ in range(options.steps):
            losses = trainer.step(batch)
        training_peers.total(losses)
        return (time.perf_counter() - started) / options.steps

    taken = median(steps, options.repeat)
    row = {"peer_images/s": len(batch) / taken, "times_peer": speed * taken / len(batch)}
    if device == "cuda":
        row["peer_GB"] = torch.cuda.max_memory_allocated() / 1e9
        del trainer
        torch.cuda.empty_cache()
    return row | {"loss_gap": max(abs(a - b) / abs(b) for a, b in zip(found, expected))}


def count(measured: Measured, program: Program, options: argparse.Namespace) -> dict[str, Any]:
    """FLOPs and bytes of one step on all devices: by the convention, by the jaxpr (with what is computed again), and by
    XLA's analysis of its program, in which a loop counts once and a library's kernel perhaps not at all."""
    arguments = (program.state, program.frozen, program.batch)
    counted = flops.products(measured.training.step, *jax.eval_shape(lambda *x: x, *arguments))
    found = program.compiled.cost_analysis() or {}
    devices = program.mesh.size
    row: dict[str, Any] = {"model_TFLOP": measured.model_flops / 1e12}
    row["jaxpr_TFLOP"] = sum(product.flops for product in counted) / 1e12
    row["xla_TFLOP"] = devices * found.get("flops", 0) / 1e12
    row["xla_GB"] = devices * found.get("bytes accessed", 0) / 1e9
    row["shares"] = {part: value / 1e12 / row["jaxpr_TFLOP"] for part, value in flops.by_part(counted).items()}
    if peak := _peak(options):
        row["ms_at_peak"] = 1e3 * measured.model_flops / (devices * peak)
    known = flops.known_device(jax.devices()[0].device_kind)
    if bandwidth := options.bandwidth or (known and known.bandwidth * 1e9):
        row["ms_of_bytes"] = row["xla_GB"] * 1e12 / (devices * bandwidth)
    return row


def pipeline_speed(path: str, size: int, batch: int, seconds: float) -> dict[str, Any]:
    """Images a second of the folder source alone, as training asks for them, with a thread for every core."""
    config = _data(path, size, batch)
    stream = pipeline.make_batches(config, "train")
    next(stream)
    batches, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        next(stream)
        batches += 1
    taken = time.perf_counter() - started
    stream.close()
    row = {"images": pipeline.num_examples(config, "train"), "size": size, "batch": batch, "threads": config.threads}
    return row | {"images/s": batches * batch / taken}


def _data(path: str, size: int, batch: int) -> DataConfig:
    if path:
        return DataConfig("folder", size=size, batch_size=batch, path=path, val_share=0)
    return DataConfig("demo", size=size, batch_size=batch, n_train=min(256, 4 * batch))  # each is drawn once, then kept


def _peak(options: argparse.Namespace) -> float | None:
    """FLOP/s that a device can do at best, where it is known."""
    known = flops.known_device(jax.devices()[0].device_kind)
    return options.peak or (known.tflops * 1e12 if known else None)


def show(rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "count"))
    widths = [max(len(name), 11) for name in columns]
    print("  ".join(f"{name:>{width}s}" for name, width in zip(columns, widths)))
    for row in rows:
        cells = (f"{row[c]:.4g}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in columns)
        print("  ".join(f"{cell:>{width}s}" for cell, width in zip(cells, widths)))
    for row in rows:
        if found := row.get("count"):
            print(f"\n{row['stage']} {row['model']}, batch {row['batch']}, one step:")
            for name, value in found.items():
                shares = ", ".join(f"{k} {v:.1%}" for k, v in value.items()) if name == "shares" else f"{value:.4g}"
                print(f"  {name:12s} {shares}")


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    options = parse(arguments)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves the peer its memory
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow only reads files here
    if options.input:
        rows = [pipeline_speed(options.input, options.size, b, options.seconds) for b in options.batch]
    else:
        asked = itertools.product(options.stage, options.model, options.batch)
        rows = [measure(stage, model, b, options) for stage, model, b in asked if model in MODELS[stage]]
    show(rows)
    about = {"device": jax.devices()[0].device_kind, "devices": jax.device_count(), "jax": jax.__version__}
    print(json.dumps({**about, **vars(options), "rows": rows}))
    return rows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", nargs="+", default=list(MODELS), choices=MODELS)
    names = dict.fromkeys([*FIRST_STAGES, *TRANSFORMERS])
    parser.add_argument("--model", nargs="+", default=["small"], choices=names)
    parser.add_argument("--batch", nargs="+", type=int, default=[8], help="images a step, over all devices")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--mesh", nargs=3, type=int, default=[-1, 1, 1], metavar=("DATA", "FSDP", "TENSOR"))
    parser.add_argument("--attention", default="xla", choices=ATTENTION, help="of the transformer")
    parser.add_argument("--remat", default="", choices=("", "block", "dots"), help="any for the first stage")
    parser.add_argument("--scan_layers", action="store_true", help="of the transformer")
    parser.add_argument("--accumulate", type=int, default=1, help="parts of a batch")
    parser.add_argument("--steps", type=int, default=2, help="steps that are timed together")
    parser.add_argument("--repeat", type=int, default=3, help="times; the median counts")
    parser.add_argument("--warm", type=int, default=1, help="steps before")
    parser.add_argument("--data", default="", metavar="PATH", help="images for the pipeline (else the demo's)")
    parser.add_argument("--peak", type=lambda text: float(text) * 1e12, metavar="TFLOPS", help="of a device, bfloat16")
    parser.add_argument("--bandwidth", type=lambda text: float(text) * 1e9, metavar="GB/S", help="of a device's memory")
    parser.add_argument("--count", action="store_true", help="FLOPs and bytes of a step, and where they are")
    parser.add_argument("--profile", metavar="DIR", help="write a trace of three steps for TensorBoard or Perfetto")
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True, help="measure PyTorch too")
    parser.add_argument("--compiled_peer", action="store_true", help="with torch.compile")
    parser.add_argument("--threads", type=int, help="PyTorch's threads")
    parser.add_argument("--input", metavar="PATH", help="only the speed of the pipeline over a folder of images")
    parser.add_argument("--size", type=int, default=256, help="with --input: side of the images in pixels")
    parser.add_argument("--seconds", type=float, default=10, help="with --input: how long")
    options = parser.parse_args(arguments)
    if not any(model in MODELS[stage] for stage in options.stage for model in options.model):
        known = "; ".join(f"{stage}: {', '.join(MODELS[stage])}" for stage in options.stage)
        parser.error(f"no such model for this stage; known: {known}")
    return options


if __name__ == "__main__":
    main()
