"""pytorch-fid's Inception-v3 into the one file that `taming_jax.evaluate` reads."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from taming_jax.convert.conversion import Conversion, from_torch, read_weights, torch_shape
from taming_jax.files import write_npz
from taming_jax.models.inception import inception_shapes
from taming_jax.models.weights import differences
from taming_jax.outputs import check_outputs, is_npz

SIGN = r"Conv2d_1a_3x3\.conv\.weight"  # an array that it has
COUNTER = "num_batches_tracked"  # of each normalisation's training, which nothing here reads
PARTS = {  # of a convolution with its normalisation
    "kernel": "conv.weight",
    "scale": "bn.weight",
    "bias": "bn.bias",
    "mean": "bn.running_mean",
    "var": "bn.running_var",
}
HEAD = {"fc_kernel": "fc.weight", "fc_bias": "fc.bias"}


def their_name(name: str) -> str:
    """`Mixed_5b/branch1x1/kernel` -> `Mixed_5b.branch1x1.conv.weight`."""
    if name in HEAD:
        return HEAD[name]
    *layer, part = name.split("/")
    return ".".join([*layer, PARTS[part]])


def inception_arrays(source: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """pytorch-fid's names and layout to ours; strict."""
    shapes = inception_shapes()
    expected = {their_name(name): torch_shape(shape) for name, shape in shapes.items()}
    arrays = {name: array for name, array in source.items() if not name.endswith(COUNTER)}
    if wrong := differences({name: array.shape for name, array in arrays.items()}, expected):
        raise ValueError(
            f"{where} is not pytorch-fid's Inception (pt_inception-2015-12-05-6726825d.pth, of 1008 classes; "
            f"torchvision's own is another network): missing, unknown or of a wrong shape: {wrong}"
        )
    return {name: from_torch(arrays[their_name(name)]) for name in shapes}


def convert_inception(path: str | Path, out: str | Path) -> Conversion:
    """Write the weight file `out`. Raises ValueError where the file is missing, damaged, or of another network."""
    check_outputs(f"--out={out}", {out: lambda path: is_npz(path, *inception_shapes())}, [path])
    state, digests, notes = read_weights(path, SIGN)
    write_npz(out, inception_arrays(state, str(path)))
    return Conversion("Inception-v3 of the FID", str(out), digests, notes)
