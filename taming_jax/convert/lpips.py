"""torchvision's VGG16 and the linear layers of LPIPS, into the one file that `models.lpips.load_lpips` reads."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from taming_jax.convert.reader import read_state
from taming_jax.models.lpips import VGG16_WIDTHS, lpips_shapes

# torchvision's VGG16 also holds the classifier, which LPIPS does not use.
CLASSIFIER = {f"classifier.{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")}


def convert_lpips(vgg16: str | Path, lpips: str | Path, out: str | Path) -> dict[str, str]:
    """Write the weight file `out`; returns the SHA-256 of each file read, by its path.

    Raises ValueError where a file is missing, damaged or foreign, or does not hold exactly the expected arrays.
    """
    digests = {str(path): checked_sha256(path) for path in (vgg16, lpips)}
    arrays = vgg16_arrays(read_arrays(vgg16), str(vgg16)) | linear_arrays(read_arrays(lpips), str(lpips))
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")  # an interrupted run leaves no half file behind
    with open(partial, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    os.replace(partial, out)
    return digests


def checked_sha256(path: str | Path) -> str:
    """SHA-256 of a file, compared with the first digits in a name like `vgg16-397923af.pth` where it has them."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    named = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    if named and not digest.startswith(named[1]):
        raise ValueError(f"{path} is damaged: its SHA-256 {digest} does not begin as its name says; download it again")
    return digest


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file or of a PyTorch state dict (any other ending), running no code from the file."""
    path = Path(path)
    if path.suffix != ".npz":
        return read_state(path)[0]
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {k: file[k] for k in file.files}
    except Exception as error:  # zipfile, zlib and numpy each have their own for a truncated or foreign file
        reason = str(error).split("\n")[0][:200] or type(error).__name__
        raise ValueError(f"{path} is truncated, or not a file of arrays alone: {reason}") from error


def vgg16_arrays(source: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """torchvision's names and layout (out, in, 3, 3) to ours; strict."""
    names: dict[str, str] = {}
    for i, (_, _, position) in enumerate(vgg16_layers()):
        names[f"features.{position}.weight"] = f"vgg/conv_{i}/kernel"
        names[f"features.{position}.bias"] = f"vgg/conv_{i}/bias"
    kernels = {k: v.transpose(2, 3, 1, 0) if v.ndim == 4 else v for k, v in source.items() if k not in CLASSIFIER}
    return _rename(kernels, names, where)


def linear_arrays(source: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """LPIPS's names and layout (1, c, 1, 1) to ours, (c,); strict."""
    names = {f"lin{i}.model.1.weight": f"lin_{i}" for i in range(len(VGG16_WIDTHS))}
    vectors = {k: v.reshape(-1) if v.size == max(v.shape, default=0) else v for k, v in source.items()}
    return _rename(vectors, names, where)


def vgg16_layers() -> list[tuple[str, int, int]]:
    """(name in the original's LPIPS, width, position in torchvision's list) of each convolution of VGG16."""
    layers, position = [], 0
    for block, widths in enumerate(VGG16_WIDTHS):
        for width in widths:
            layers.append((f"net.slice{block + 1}.{position}", width, position))
            position += 2  # a convolution and its ReLU
        position += 1  # a pooling
    return layers


def _rename(source: Mapping[str, np.ndarray], names: Mapping[str, str], where: str) -> dict[str, np.ndarray]:
    missing, unknown = sorted(set(names) - set(source)), sorted(set(source) - set(names))
    if missing or unknown:
        found = f"missing {missing or 'nothing'}, unknown {unknown or 'nothing'}"
        raise ValueError(f"{where} does not hold the expected arrays: {found}")
    shapes = lpips_shapes()
    wrong = [f"{k} {source[k].shape} for {shapes[v]}" for k, v in names.items() if source[k].shape != shapes[v]]
    if wrong:
        raise ValueError(f"{where} holds arrays of a wrong shape (height, width, in, out): {', '.join(wrong)}")
    return {ours: np.ascontiguousarray(source[theirs], np.float32) for theirs, ours in names.items()}
