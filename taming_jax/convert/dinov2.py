"""DINOv2's own state dict into the one file that `taming_jax.evaluate` reads."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from taming_jax.convert.conversion import Conversion, from_torch, read_weights, torch_shape
from taming_jax.files import write_npz
from taming_jax.models.dinov2 import PATCH, SIDE, SIZES, dinov2_shapes
from taming_jax.models.weights import differences
from taming_jax.outputs import check_outputs, is_npz

NAMES = {  # of a layer, in ours and theirs
    "norm1/scale": "norm1.weight",
    "norm1/bias": "norm1.bias",
    "qkv/kernel": "attn.qkv.weight",
    "qkv/bias": "attn.qkv.bias",
    "out/kernel": "attn.proj.weight",
    "out/bias": "attn.proj.bias",
    "scale1": "ls1.gamma",
    "norm2/scale": "norm2.weight",
    "norm2/bias": "norm2.bias",
    "up/kernel": "mlp.fc1.weight",
    "up/bias": "mlp.fc1.bias",
    "down/kernel": "mlp.fc2.weight",
    "down/bias": "mlp.fc2.bias",
    "scale2": "ls2.gamma",
}
AROUND = {
    "class": "cls_token",
    "position": "pos_embed",
    "patch/kernel": "patch_embed.proj.weight",
    "patch/bias": "patch_embed.proj.bias",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
}
SIGN = r"patch_embed\.proj\.weight"  # an array that it has
UNUSED = "mask_token"  # of its training
OFFSET = 0.1  # that DINOv2 adds to the number of places, so that it is not rounded down
CUBIC = -0.75  # PyTorch's coefficient


def their_name(name: str) -> str:
    """`layer_0/qkv/kernel` -> `blocks.0.attn.qkv.weight`."""
    if name in AROUND:
        return AROUND[name]
    layer, part = name.split("/", 1)
    return f"blocks.{layer.removeprefix('layer_')}.{NAMES[part]}"


def resampling(there: int, here: int) -> np.ndarray:
    """(here, there): cubic weights of places in a row of `there`, as DINOv2 takes them for one of `here`."""
    centres = (np.arange(here) + 0.5) * there / (here + OFFSET) - 0.5
    low, weights = np.floor(centres).astype(int), np.zeros((here, there))
    for step in range(-1, 3):
        t = np.abs(centres - (low + step))
        near = (CUBIC + 2) * t**3 - (CUBIC + 3) * t**2 + 1
        far = CUBIC * (t**3 - 5 * t**2 + 8 * t - 4)
        np.add.at(weights, (np.arange(here), (low + step).clip(0, there - 1)), np.where(t <= 1, near, far))
    return weights


def positions(table: np.ndarray, side: int) -> np.ndarray:
    """(1, 1 + n n, d) -> the table for pictures of `side` pixels, (1, 1 + m m, d)."""
    there, here, d = round(np.sqrt(table.shape[1] - 1)), side // PATCH, table.shape[2]
    if there == here:
        return table
    grid, rows = table[0, 1:].reshape(there, there, d), resampling(there, here)
    found = np.einsum("ai,bj,ijd->abd", rows, rows, grid).reshape(1, here * here, d)
    return np.concatenate([table[:, :1], found], axis=1)


def dinov2_arrays(source: Mapping[str, np.ndarray], where: str, side: int = SIDE) -> tuple[str, dict[str, np.ndarray]]:
    """(which of SIZES, arrays by our names); strict."""
    source = {name: array for name, array in source.items() if name != UNUSED}
    token = source.get("cls_token", np.zeros((1, 1, 0)))
    known = [name for name, size in SIZES.items() if size.width == token.shape[-1]]
    if not known:
        raise ValueError(f"{where} is no DINOv2 of a known size: its tokens have {token.shape[-1]} numbers; {_known()}")
    shapes = dinov2_shapes(SIZES[known[0]], side)
    expected = {their_name(name): torch_shape(shape) for name, shape in shapes.items()}
    table = source.get("pos_embed", np.zeros((1, 0, 0)))
    places = table.shape[1] - 1 if table.ndim == 3 else -1
    if places > 0 and round(np.sqrt(places)) ** 2 == places:  # a table of any square of places can be resampled
        expected["pos_embed"] = (1, places + 1, token.shape[-1])
    if wrong := differences({name: array.shape for name, array in source.items()}, expected):
        raise ValueError(f"{where} is no DINOv2; {_known()}. Missing, unknown or of a wrong shape: {wrong}")
    arrays = {name: from_torch(source[their_name(name)]) for name in shapes}
    arrays["position"] = np.asarray(positions(arrays["position"].astype(np.float64), side), np.float32)
    return known[0], arrays


def _known() -> str:
    return f"known are {', '.join(SIZES)}, without registers"


def convert_dinov2(path: str | Path, out: str | Path = "") -> Conversion:
    """Write the weight file `out`, by default weights/NAME.npz. Raises ValueError where the file is missing, damaged,
    or of another network."""
    state, digests, notes = read_weights(path, SIGN)
    name, arrays = dinov2_arrays(state, str(path))
    out = out or f"weights/{name}.npz"
    check_outputs(f"--out={out}", {out: lambda file: is_npz(file, *arrays)}, [path])
    write_npz(out, arrays)
    return Conversion(name, str(out), digests, notes)
