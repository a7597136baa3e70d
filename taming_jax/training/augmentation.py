"""Augmentation between images and a discriminator, through which gradients pass (DiffAugment: Zhao et al. 2020, arXiv
2006.10738, section 3): what the discriminator sees of reals and fakes differs each time, and it cannot learn few images
by heart.

Each kind takes images (b, H, W, c) in [-1, 1] and a key, and draws for each image apart. Ranges are the authors'.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

Images = Float[Array, "b H W c"]
SHIFT, HOLE = 0.125, 0.5  # of a side


def color(images: Images, key: Key[Array, ""]) -> Images:
    """Brightness, by up to a quarter of the range; saturation, 0 to 2 times; contrast, 0.5 to 1.5 times."""
    keys = jax.random.split(key, 3)
    brightness, saturation, contrast = (jax.random.uniform(key, (len(images), 1, 1, 1)) for key in keys)
    images = images + (brightness - 0.5)
    grey = jnp.mean(images, axis=3, keepdims=True)
    images = (images - grey) * (2 * saturation) + grey
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    return (images - mean) * (contrast + 0.5) + mean


def translation(images: Images, key: Key[Array, ""]) -> Images:
    """By up to an eighth of a side each way, with zeros where nothing is."""
    b, h, w, c = images.shape
    down, right = (round(side * SHIFT) for side in (h, w))
    row_key, column_key = jax.random.split(key)
    rows = jax.random.randint(row_key, (b,), 0, 2 * down + 1)
    columns = jax.random.randint(column_key, (b,), 0, 2 * right + 1)
    around = jnp.pad(images, ((0, 0), (down, down), (right, right), (0, 0)))
    cut = lambda image, row, column: jax.lax.dynamic_slice(image, (row, column, 0), (h, w, c))
    return jax.vmap(cut)(around, rows, columns)


def cutout(images: Images, key: Key[Array, ""]) -> Images:
    """Zeros in a rectangle of half the sides, whose middle lies anywhere in the image."""
    b, h, w, _ = images.shape
    inside = []
    for side, its_key in zip((h, w), jax.random.split(key)):
        hole = round(side * HOLE)
        first = jax.random.randint(its_key, (b, 1), 0, side + 1) - hole // 2
        places = jnp.arange(side)[None]
        inside.append((places >= first) & (places < first + hole))
    rows, columns = inside
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], 0.0, images)


KINDS: dict[str, Callable[[Images, Key[Array, ""]], Images]] = {
    "color": color,
    "translation": translation,
    "cutout": cutout,
}


def augmented(kinds: Sequence[str], images: Images, key: Key[Array, ""]) -> Images:
    """Images after each of these kinds in turn."""
    for i, kind in enumerate(kinds):
        images = KINDS[kind](images, jax.random.fold_in(key, i))
    return images
