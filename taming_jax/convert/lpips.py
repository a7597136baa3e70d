"""torchvision's VGG16 and the linear layers of LPIPS, into the one file that `models.lpips.load_lpips` reads."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from taming_jax.convert.conversion import Conversion, read_weights
from taming_jax.files import write_npz
from taming_jax.models.lpips import VGG16_WIDTHS, lpips_shapes
from taming_jax.outputs import check_outputs, is_npz

# torchvision's VGG16 also holds the classifier, which LPIPS does not use.
CLASSIFIER = {f"classifier.{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")}


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


def convert_lpips(vgg16: str | Path, lpips: str | Path, out: str | Path) -> Conversion:
    """Write the weight file `out`.

    Raises ValueError where a file is missing, damaged or foreign, or does not hold exactly the expected arrays.
    """
    check_outputs(f"--out={out}", {out: lambda path: is_npz(path, *lpips_shapes())}, [vgg16, lpips])
    network, digests, notes = read_weights(vgg16, r"features\.0\.weight")
    layers, more, others = read_weights(lpips, r"lin0\.model\.1\.weight")
    write_npz(out, vgg16_arrays(network, str(vgg16)) | linear_arrays(layers, str(lpips)))
    return Conversion("LPIPS", str(out), digests | more, notes + others)
