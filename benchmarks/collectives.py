"""What moves between devices in a training step, and what each device holds: read from the compiled program.

    python benchmarks/collectives.py --stage transformer --mesh 2,4,1 --layers 2 --width 512

Compiles the step of either stage for a mesh of simulated devices, without running it. For each kind of collective:
how often it occurs, and the MiB of its results on one device; `weights`: the MiB of the parameters. On a CPU gradients
are summed by an all-reduce and cut afterwards, where TPU and GPU compilers make a reduce-scatter of the two.
"""

import argparse
import collections
import json
import math
import os
import re
import sys

SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "f64": 8}
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


def collectives(program: str) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """(type, shape) of everything that a compiled program moves, by the kind of the collective."""
    found = collections.defaultdict(list)
    for moved, kind in re.findall(rf"= (.*?) ({KINDS})(?:-start)?\(", program):
        for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", moved):
            found[kind].append((dtype, tuple(map(int, sizes.split(","))) if sizes else ()))
    return dict(found)


def mebibytes(arrays: list[tuple[str, tuple[int, ...]]]) -> float:
    return sum(SIZES[dtype] * math.prod(shape) for dtype, shape in arrays) / 2**20


def main() -> None:
    options = parse()
    devices = math.prod(options.mesh)
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    import jax

    from taming_jax import sharding

    mesh = sharding.make_mesh(sharding.MeshConfig(*options.mesh))
    training, frozen, batch = (transformer if options.stage == "transformer" else vqgan)(options)
    key = jax.random.key(0)
    state = jax.eval_shape(training.init, key)
    placed = sharding.state_shardings(state, mesh)
    here = lambda tree, where: jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, where
    )
    everywhere = lambda tree, where: here(tree, jax.tree.map(lambda _: where, tree))
    inputs = here(state, placed), everywhere(frozen, sharding.replicated(mesh))
    with jax.set_mesh(mesh):
        update = jax.jit(training.step, donate_argnums=0, out_shardings=(placed, None))
        program = update.lower(*inputs, everywhere(batch, sharding.batch_sharding(mesh))).compile()
    found = collectives(program.as_text())
    held, total = sharding.bytes_held(inputs[0])
    weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.params)) / 2**20
    print(f"mesh data={options.mesh[0]} fsdp={options.mesh[1]} tensor={options.mesh[2]}, weights {weights:.1f} MiB")
    print(f"each device holds {held / 2**20:.1f} of the state's {total / 2**20:.1f} MiB: {held / total:.3f}")
    rows = {kind: {"count": len(arrays), "MiB": round(mebibytes(arrays), 2)} for kind, arrays in sorted(found.items())}
    for kind, row in rows.items():
        print(f"{kind:20s} {row['count']:5d} arrays {row['MiB']:9.2f} MiB")
    print(json.dumps({**vars(options), "weights_MiB": weights, "held": held / total, "collectives": rows}))


def transformer(options):
    """(training, frozen, batch), the arrays as shapes."""
    import jax
    import jax.numpy as jnp

    from taming_jax.conditioning import ClassLabel
    from taming_jax.models.gpt import GPT, GPTConfig
    from taming_jax.models.vqgan import VQGAN, VQGANConfig
    from taming_jax.training.optim import OptimizerConfig, make_optimizer
    from taming_jax.training.transformer import TransformerTraining
    from taming_jax.two_stage import TwoStage

    first = VQGAN(VQGANConfig(resolution=32, ch=32, ch_mult=(1, 1), num_res_blocks=1, z_channels=32, embed_dim=32))
    size = {"n_layer": options.layers, "n_head": options.heads, "n_embd": options.width, "dtype": options.dtype}
    gpt = GPT(GPTConfig(vocab_size=1024, block_size=256, remat=options.remat, scan_layers=options.scan_layers, **size))
    model = TwoStage(first, gpt, ClassLabel(1000), (16, 16))
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.01), batch_size=options.batch, steps=100)
    stages = {"first_stage": jax.eval_shape(first.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]}
    batch = {
        "image": jax.ShapeDtypeStruct((options.batch, 32, 32, 3), jnp.float32),
        "class_label": jax.ShapeDtypeStruct((options.batch,), jnp.int32),
    }
    return TransformerTraining(model, optimizer, options.accumulate), stages, batch


def vqgan(options):
    """The same of the first stage: four levels of `width` / 2 to `width` channels at 64 pixels."""
    import jax
    import jax.numpy as jnp

    from taming_jax.models.discriminator import Discriminator, DiscriminatorConfig
    from taming_jax.models.vqgan import VQGAN, VQGANConfig
    from taming_jax.training.optim import OptimizerConfig, make_optimizer
    from taming_jax.training.vqgan import VQGANTraining
    from taming_jax.training.vqgan_loss import VQGANLossConfig

    size = {"ch": options.width // 2, "ch_mult": (1, 1, 2, 2), "num_res_blocks": 1, "attn_resolutions": (8,)}
    model = VQGAN(VQGANConfig(resolution=64, remat=bool(options.remat), dtype=options.dtype, **size))
    disc = Discriminator(DiscriminatorConfig(ndf=32, n_layers=2, dtype=options.dtype))
    adam = make_optimizer(OptimizerConfig(b1=0.5), batch_size=options.batch, steps=100)
    loss, shape = VQGANLossConfig(perceptual_weight=0.0), (options.batch, 64, 64, 3)
    training = VQGANTraining(model, disc, loss, adam, adam, shape, options.accumulate)
    return training, None, {"image": jax.ShapeDtypeStruct(shape, jnp.float32)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", default="transformer", choices=("transformer", "vqgan"))
    parser.add_argument("--mesh", default=(2, 4, 1), type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--remat", default="", choices=("", "block", "dots"))
    parser.add_argument("--scan_layers", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
