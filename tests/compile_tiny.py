"""What tests/test_compile_for.py runs by itself, since the compiler's settings are read once in a process: the smallest
networks of both stages, compiled for four v5e chips. Writes each program's text, and prints what is known as JSON."""

import dataclasses
import json
import sys
from pathlib import Path

import jax

from taming_jax import sharding
from taming_jax.compiling import programs, report, slices
from taming_jax.conditioning import ConditionConfig
from taming_jax.data.config import DataConfig
from taming_jax.experiment import SampleConfig, TransformerExperiment, VQGANExperiment
from taming_jax.models.discriminator import DiscriminatorConfig
from taming_jax.models.gpt import GPTConfig
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.sharding import MeshConfig
from taming_jax.training.vqgan_loss import VQGANLossConfig

WIDTH, CODES, BATCH = 128, 256, 8
NETWORK = VQGANConfig(
    resolution=32, ch=8, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), z_channels=8, embed_dim=8,
    n_embed=CODES, norm_groups=4, dtype="bfloat16",
)  # fmt: skip
FIRST = VQGANExperiment(
    workdir="",
    data=DataConfig(size=16, batch_size=BATCH),  # of half the size compile in half the time
    model=NETWORK,
    discriminator=DiscriminatorConfig(ndf=8, n_layers=1, dtype="bfloat16"),
    loss=VQGANLossConfig(perceptual_weight=0.0),
)
SECOND = TransformerExperiment(
    workdir="",
    first_stage="",
    data=DataConfig(size=32, batch_size=BATCH),
    condition=ConditionConfig("class_label", n_classes=10),
    transformer=GPTConfig(n_layer=2, n_head=2, n_embd=WIDTH, dtype="bfloat16"),
    mesh=MeshConfig(data=1, fsdp=-1),
    sample=SampleConfig(batch_size=BATCH, top_k=10),
)
# 18 x 24 codes. The width is two rows of lanes: with a single one, the compiler has no choice of layouts.
SLIDING = dataclasses.replace(
    SECOND,
    transformer=GPTConfig(n_layer=1, n_head=4, n_embd=2 * WIDTH, dtype="bfloat16"),
    sample=SampleConfig(batch_size=1, size=(36, 48), top_k=10),
)


def main(folder: Path) -> None:
    for level in ("jax_optimization_level", "jax_memory_fitting_level"):
        jax.config.update(level, "O0")  # quick rather than thorough
    target = slices.target("v5e:2x2")
    devices = target.devices
    by_data, by_fsdp = (sharding.make_mesh(mesh, devices) for mesh in (FIRST.mesh, SECOND.mesh))
    made = {f"first {name}": programs.first_stage_program(FIRST, by_data, name) for name in ("train", "eval")}
    for name in ("train", "eval", "sample"):
        made[f"second {name}"] = programs.second_stage_program(SECOND, VQGAN(NETWORK), None, by_fsdp, name)
    alone = sharding.make_mesh(MeshConfig(data=1), devices)
    made["second window"] = programs.second_stage_program(SLIDING, VQGAN(NETWORK), None, alone, "window")
    two = sharding.make_mesh(MeshConfig(data=1, fsdp=-1, dcn=-1), slices.devices(slices.slice_of("2xv5e:2x2")))
    made["two slices"] = programs.second_stage_program(SECOND, VQGAN(NETWORK), None, two, "train")
    found = {}
    for name, program in made.items():
        found[name], text = report.measure(program, target)
        (folder / f"{name}.hlo").write_text(text, encoding="utf-8")
    of_devices = [device.slice_index for device in two.devices.flat]
    print(json.dumps({**found, "slices": of_devices, "hops": hops(sharding.MeshConfig(data=1, fsdp=-1), "v5e:4x4")}))


def hops(config: MeshConfig, name: str) -> int:
    """The longest way between neighbours of a ring over all devices of a slice."""
    mesh = sharding.make_mesh(config, slices.devices(slices.slice_of(name)))
    places = [device.coords for device in mesh.devices.flat]
    return max(sum(abs(a - b) for a, b in zip(*pair)) for pair in zip(places, places[1:] + places[:1]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
