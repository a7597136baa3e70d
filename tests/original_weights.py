"""The random weights with which the original computed the goldens, from its seeds and the order in which it draws.

`torch.manual_seed(seed)`, then the model with its own starts, then noise on what these leave trivial: on every vector
of a model with a first stage, from a generator with the next seed, and on all of the transformer, from one with the
seed after that. Names and layouts are the original's: kernels (out, in, h, w), linear weights (out, in). Codebooks
were made of latents; those are kept in the golden files.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from torch_random import TorchRandom

State = dict[str, np.ndarray]


@dataclass(frozen=True)
class Layer:
    """A layer and the shape of its weight. That of a norm has one axis; a table is a table of codes or tokens."""

    name: str
    shape: tuple[int, ...]
    bias: bool = True
    table: bool = False


def started(rng: TorchRandom, layers: Iterable[Layer]) -> State:
    """PyTorch's own starts, layer by layer."""
    state: State = {}
    for layer in layers:
        if len(layer.shape) == 1:
            state[f"{layer.name}.weight"] = np.ones(layer.shape, np.float32)
            state[f"{layer.name}.bias"] = np.zeros(layer.shape, np.float32)
        elif layer.table:
            state[f"{layer.name}.weight"] = rng.normal(layer.shape)
        else:
            bound = float(np.prod(layer.shape[1:])) ** -0.5
            state[f"{layer.name}.weight"] = rng.uniform(layer.shape, bound)
            if layer.bias:
                state[f"{layer.name}.bias"] = rng.uniform(layer.shape[:1], bound)
    return state


def conv(name: str, inputs: int, outputs: int, side: int = 3, bias: bool = True) -> Layer:
    return Layer(name, (outputs, inputs, side, side), bias)


def block(name: str, inputs: int, outputs: int) -> Iterator[Layer]:
    yield Layer(f"{name}.norm1", (inputs,))
    yield conv(f"{name}.conv1", inputs, outputs)
    yield Layer(f"{name}.norm2", (outputs,))
    yield conv(f"{name}.conv2", outputs, outputs)
    if inputs != outputs:
        yield conv(f"{name}.nin_shortcut", inputs, outputs, 1)


def attention(name: str, width: int) -> Iterator[Layer]:
    yield Layer(f"{name}.norm", (width,))
    for part in ("q", "k", "v", "proj_out"):
        yield conv(f"{name}.{part}", width, width, 1)


def middle(name: str, width: int) -> Iterator[Layer]:
    yield from block(f"{name}.block_1", width, width)
    yield from attention(f"{name}.attn_1", width)
    yield from block(f"{name}.block_2", width, width)


@dataclass(frozen=True)
class Stage:
    """A first stage. All have 32 channels times `mult`, one block a level, and attention at the coarsest level."""

    mult: tuple[int, ...]
    z_channels: int
    embed_dim: int
    n_embed: int
    channels: int = 3
    kind: str = "VQModel"
    discriminator: bool = False


def encoder(stage: Stage) -> Iterator[Layer]:
    width, coarsest = 32, len(stage.mult) - 1
    yield conv("encoder.conv_in", stage.channels, width)
    for i, mult in enumerate(stage.mult):
        yield from block(f"encoder.down.{i}.block.0", width, width := 32 * mult)
        if i == coarsest:
            yield from attention(f"encoder.down.{i}.attn.0", width)
        else:
            yield conv(f"encoder.down.{i}.downsample.conv", width, width)
    yield from middle("encoder.mid", width)
    yield Layer("encoder.norm_out", (width,))
    yield conv("encoder.conv_out", width, stage.z_channels)


def decoder(stage: Stage) -> Iterator[Layer]:
    coarsest = len(stage.mult) - 1
    width = 32 * stage.mult[coarsest]
    yield conv("decoder.conv_in", stage.z_channels, width)
    yield from middle("decoder.mid", width)
    for i in reversed(range(coarsest + 1)):
        for j in range(2):
            yield from block(f"decoder.up.{i}.block.{j}", width, width := 32 * stage.mult[i])
            if i == coarsest:
                yield from attention(f"decoder.up.{i}.attn.{j}", width)
        if i:
            yield conv(f"decoder.up.{i}.upsample.conv", width, width)
    yield Layer("decoder.norm_out", (width,))
    yield conv("decoder.conv_out", width, stage.channels)


def in_levels(state: State) -> State:
    """In the order of a state dict: the finest level first, and in each the blocks before attention."""
    kinds = ("block", "attn", "upsample")

    def place(name: str) -> tuple[int, ...]:
        level = re.match(r"decoder\.up\.(\d+)\.(\w+)", name)
        after = name.startswith(("decoder.norm_out", "decoder.conv_out"))
        return (1, int(level[1]), kinds.index(level[2])) if level else (2 * after,)

    return {name: state[name] for name in sorted(state, key=place)}


def discriminator(rng: TorchRandom) -> State:
    """PatchGAN of 16 channels with two norms, and its own start. Its layers are numbered along one list."""
    name = "loss.discriminator.main"
    layers = [conv(f"{name}.0", 3, 16, 4)]
    for number, inputs in ((2, 16), (5, 32)):
        layers += [conv(f"{name}.{number}", inputs, 2 * inputs, 4, bias=False)]
        layers += [Layer(f"{name}.{number + 1}", (2 * inputs,))]
    state = started(rng, [*layers, conv(f"{name}.8", 64, 1, 4)])
    for key, value in state.items():
        if key.endswith("weight"):
            state[key] = np.float32(value.ndim == 1) + rng.normal(value.shape) * np.float32(0.02)
    for layer in layers:
        if len(layer.shape) == 1:
            state[f"{layer.name}.running_mean"] = np.zeros(layer.shape, np.float32)
            state[f"{layer.name}.running_var"] = np.ones(layer.shape, np.float32)
    return state


LPIPS_WEIGHTS = 14_714_688 + 1_472  # VGG16's convolutions and five linear layers, which are loaded over later


def first_stage(rng: TorchRandom, stage: Stage) -> State:
    """All but the codebook, unless that belongs to a Gumbel quantizer."""
    state = started(rng, encoder(stage)) | in_levels(started(rng, decoder(stage)))
    if stage.discriminator:
        rng.words(LPIPS_WEIGHTS)
        state |= discriminator(rng)
    codebook = (stage.n_embed, stage.embed_dim)
    for draw in (rng.normal, lambda shape: rng.uniform(shape, 1)):  # it starts twice, and is replaced
        draw(codebook)
    convs = [conv("quant_conv", stage.z_channels, stage.embed_dim, 1)]
    convs += [conv("post_quant_conv", stage.embed_dim, stage.z_channels, 1)]
    around = started(rng, convs)
    if stage.kind == "GumbelVQ":
        layers = [conv("quantize.proj", stage.z_channels, stage.n_embed, 1)]
        state |= started(rng, [*layers, Layer("quantize.embed", codebook, table=True)])
    if stage.kind == "VQSegmentationModel":
        around["colorize"] = rng.normal((3, stage.channels, 1, 1))
    return state | around


@dataclass(frozen=True)
class Transformer:
    """A transformer of width 64."""

    vocab_size: int
    block_size: int
    n_layer: int


def transformer(rng: TorchRandom, sizes: Transformer) -> State:
    """With its own start over PyTorch's: small normal matrices, no biases."""
    layers, width = [Layer("tok_emb", (sizes.vocab_size, 64), table=True)], (64,)
    for i in range(sizes.n_layer):
        layers += [Layer(f"blocks.{i}.{norm}", width) for norm in ("ln1", "ln2")]
        layers += [Layer(f"blocks.{i}.attn.{part}", (64, 64)) for part in ("key", "query", "value", "proj")]
        layers += [Layer(f"blocks.{i}.mlp.0", (256, 64)), Layer(f"blocks.{i}.mlp.2", (64, 256))]
    layers += [Layer("ln_f", width), Layer("head", (sizes.vocab_size, 64), bias=False)]
    state = started(rng, layers)
    for name, value in state.items():
        if value.ndim == 2:
            state[name] = rng.normal(value.shape) * np.float32(0.02)
        elif name.endswith("bias"):
            state[name] = np.zeros_like(value)
    return {"pos_emb": np.zeros((1, sizes.block_size, 64), np.float32)} | state


def add_noise(rng: TorchRandom, state: State, scale_of: Callable[[str, int], float]) -> None:
    """Add normal noise to each parameter, in their order, of the scale that `scale_of(name, its axes)` says."""
    for name, value in state.items():
        scale = scale_of(name, value.ndim)
        if scale and not re.search(r"running_|colorize", name):
            state[name] = value + rng.normal(value.shape) * np.float32(scale)


@dataclass(frozen=True)
class Recipe:
    """A golden checkpoint: its seed, its first stages by the beginning of their names, its transformer."""

    seed: int
    stages: dict[str, Stage] = field(default_factory=dict)
    transformer: Transformer | None = None

    def weights(self) -> State:
        """The state dict but for codebooks, masks and counters."""
        rng, state = TorchRandom(self.seed), {}
        for prefix, stage in self.stages.items():
            state |= {f"{prefix}{name}": value for name, value in first_stage(rng, stage).items()}
        if self.transformer:
            state |= {f"transformer.{name}": value for name, value in transformer(rng, self.transformer).items()}
        seeds = iter((self.seed + 1, self.seed + 2))
        if self.stages:
            add_noise(TorchRandom(next(seeds)), state, lambda name, axes: 0.1 * (axes == 1))
        if self.transformer:
            second = {name: value for name, value in state.items() if name.startswith("transformer.")}
            scale_of = lambda name, axes: 0.1 if axes == 1 else 0.12 if "blocks" in name else 0.4
            add_noise(TorchRandom(next(seeds)), second, scale_of)
            state |= second
        return state


F4 = Stage((1, 2, 2), 64, 32, 128, discriminator=True)
F2 = {"first_stage_model.": Stage((1, 2), 32, 16, 64)}
SCENE = {
    "first_stage_model.": Stage((1, 1, 2), 32, 16, 64),
    "cond_stage_model.": Stage((1, 1, 2), 32, 16, 48, 12, "VQSegmentationModel"),
}
RECIPES = {
    "vqgan_f4": Recipe(11, {"": F4}),
    "vqgan_gumbel_f4": Recipe(12, {"": Stage((1, 1, 2), 96, 96, 128, kind="GumbelVQ")}),
    "vqgan_segmentation_f4": Recipe(13, {"": Stage((1, 1, 2), 32, 16, 64, 12, "VQSegmentationModel")}),
    "gpt": Recipe(21, transformer=Transformer(96, 65, 3)),
    "gpt_n_unmasked": Recipe(22, transformer=Transformer(96, 65, 2)),
    "class_conditional": Recipe(31, F2, Transformer(64, 257, 2)),
    "unconditional": Recipe(32, F2, Transformer(64, 257, 2)),
    "sliding_window": Recipe(41, transformer=Transformer(64, 512, 2)),
    "segmentation_conditional": Recipe(51, SCENE, Transformer(64, 512, 2)),
}
