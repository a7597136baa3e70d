"""LPIPS, a perceptual distance on features of VGG16 (Zhang et al. 2018, eq. 1; Simonyan & Zisserman 2015, table 1)."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float

from taming_jax.files import read_npz
from taming_jax.nn.conv import Conv

VGG16_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SMALLEST = 16  # pixels: four poolings
# Mean and deviation of ImageNet, for images in [-1, 1] rather than [0, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class VGG16(nn.Module):
    """Normalised images (b, H, W, 3) -> the five activations before each pooling (relu1_2 ... relu5_3)."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b H W 3"]) -> list[Float[Array, "b _ _ _"]]:
        outputs, layer = [], 0
        for stage, widths in enumerate(VGG16_WIDTHS):
            if stage > 0:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for width in widths:
                x = nn.relu(Conv(width, dtype=self.dtype, quick=True, name=f"conv_{layer}")(x))
                layer += 1
            outputs.append(x)
        return outputs


def unit_length(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """Each position's channels at length one, in float32.

    The small number stands under the root: the derivative of a root is infinite at zero, where bfloat16 features often
    lie. The gradient is at most 1e5 here, and features of any size that matters are unchanged.
    """
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-10)


class LPIPS(nn.Module):
    """Perceptual distance (b,) >= 0 in float32 between images x and y (b, H, W, 3 or 1) in [-1, 1]; no training mode.

    `dtype` is that of VGG16; distances are float32.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b H W c"], y: Float[Array, "b H W c"]) -> Float[Array, " b"]:
        if x.shape != y.shape or x.ndim != 4 or x.shape[-1] not in (1, 3):
            raise ValueError(f"LPIPS compares batches (b, H, W, 3 or 1) of equal shape, got {x.shape} and {y.shape}")
        if min(x.shape[1:3]) < SMALLEST:
            raise ValueError(f"LPIPS needs at least {SMALLEST} pixels a side, got {x.shape[1]} x {x.shape[2]}")
        vgg = VGG16(self.dtype, name="vgg")
        shift, scale = (jnp.array(v, jnp.float32).reshape(1, 1, 1, 3) for v in (SHIFT, SCALE))
        total = jnp.zeros(x.shape[:1], jnp.float32)
        # One pass each, not one over both: a gradient by one of the images then leaves the other's pass alone.
        for i, (fx, fy) in enumerate(zip(vgg((x - shift) / scale), vgg((y - shift) / scale), strict=True)):
            weight = self.param(f"lin_{i}", nn.initializers.ones, fx.shape[-1:])
            difference = (unit_length(fx) - unit_length(fy)) ** 2  # (b, h, w, c)
            total += jnp.einsum("bhwc,c->b", difference, weight) / (fx.shape[1] * fx.shape[2])
        return total


def lpips_shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array in a weight file, e.g. `vgg/conv_0/kernel` (3, 3, 3, 64)."""
    image = jax.ShapeDtypeStruct((1, SMALLEST, SMALLEST, 3), jnp.float32)
    variables = jax.eval_shape(LPIPS().init, jax.random.key(0), image, image)
    return {k: v.shape for k, v in flatten_dict(variables["params"], sep="/").items()}


def load_lpips(path: str | Path) -> dict:
    """Parameters of LPIPS from a file made by `python -m taming_jax.convert --vgg16 ... --lpips ...`, as numpy arrays.

    Raises ValueError where the file is missing, is something else, or lacks an array.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"the perceptual loss needs the weights of VGG16 and LPIPS, and there is no file {path}. Download "
            "https://download.pytorch.org/models/vgg16-397923af.pth and "
            "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth, then run\n"
            f"  python -m taming_jax.convert --vgg16 vgg16-397923af.pth --lpips vgg.pth --out {path}\n"
            "or train without it: perceptual_weight=0"
        )
    again = "make it again by python -m taming_jax.convert"
    try:
        arrays = read_npz(path)
    except ValueError as error:
        raise ValueError(f"{error}; {again}") from error
    shapes = lpips_shapes()
    found = {k: v.shape for k, v in arrays.items()}
    wrong = sorted(k for k in shapes.keys() | found.keys() if shapes.get(k) != found.get(k))
    if wrong:
        raise ValueError(
            f"{path} is not a file of LPIPS weights: missing, unknown or of a wrong shape: {', '.join(wrong[:8])}"
            f"{' ...' if len(wrong) > 8 else ''}; {again}"
        )
    return unflatten_dict({k: v.astype(np.float32) for k, v in arrays.items()}, sep="/")
