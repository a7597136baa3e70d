"""Maps that conditions are drawn as, computed on the device: coordinates, edges, low resolution, pose."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int


def coordinates(crop: Int[Array, "b 4"], height: int, width: int) -> Float[Array, "b {height} {width}"]:
    """Where the pixels of a crop lie in the whole image, as shares of it in reading order.

    crop int32 (b, 4): top, left, and height and width of the whole image, in pixels -> float32 (b, height, width) in
    [0, 1): the number of the pixel in the whole image over the number of pixels.
    """
    top, left, full_height, full_width = (crop[:, i, None, None].astype(jnp.float32) for i in range(4))
    rows = top + jnp.arange(height, dtype=jnp.float32)[None, :, None]
    columns = left + jnp.arange(width, dtype=jnp.float32)[None, None, :]
    return (
        rows + columns / full_width
    ) / full_height  # (row * width + column) / (height * width), kept exact in float32


def low_resolution(images: Float[Array, "b H W c"], scale: int) -> Float[Array, "b H W c"]:
    """The same size, with only the detail that is left at 1/scale of it (bicubic down and up)."""
    b, h, w, c = images.shape
    if h % scale or w % scale:
        raise ValueError(f"an image of {h} x {w} pixels cannot be made {scale} times smaller; crop it to a multiple")
    return resize(jax.image.resize(images, (b, h // scale, w // scale, c), "cubic", antialias=True), h, w)


def resize(images: Float[Array, "b H W c"], height: int, width: int) -> Float[Array, "b {height} {width} c"]:
    """Images in [-1, 1] at another size, bicubic, smoothed where it gets smaller."""
    b, _, _, c = images.shape
    return jnp.clip(jax.image.resize(images, (b, height, width, c), "cubic", antialias=True), -1, 1)


def pose(keypoints: Float[Array, "b p k 3"], height: int, width: int) -> Float[Array, "b {height} {width} k"]:
    """Key points, x and y as shares of the image and whether it is visible, of p bodies of k
    points -> maps in [-1, 1]: a soft dot at each visible point, one channel a kind of point."""
    x, y, visible = (keypoints[:, :, None, None, :, i] for i in range(3))  # (b, p, 1, 1, k)
    radius = max(1.0, min(height, width) / 32)
    rows = (jnp.arange(height) + 0.5).reshape(1, 1, -1, 1, 1)
    columns = (jnp.arange(width) + 0.5).reshape(1, 1, 1, -1, 1)
    distance = (rows - y * height) ** 2 + (columns - x * width) ** 2
    dots = jnp.where(visible > 0, jnp.exp(-distance / (2 * radius**2)), 0.0)  # (b, p, h, w, k)
    return 2 * dots.max(axis=1) - 1


def edges(
    images: Float[Array, "b H W c"], sigma: float = 2.0, low: float = 0.1, high: float = 0.2
) -> Float[Array, "b H W 1"]:
    """Edges after Canny (1986) of images in [-1, 1]: 1 on an edge and -1 elsewhere.

    The image's luminance in [0, 1], of the first three channels or where there are fewer the first, is smoothed by a
    Gaussian of `sigma` pixels. Where Sobel's gradient is at its maximum across the edge it counts if it is above
    `high`, or above `low` and connected to one that counts.
    """
    images = images[..., :3] if images.shape[-1] >= 3 else jnp.repeat(images[..., :1], 3, axis=-1)
    luminance = jnp.einsum("bhwc,c->bhw", (images + 1) / 2, jnp.asarray([0.2125, 0.7154, 0.0721]))
    smooth = _gaussian(luminance, sigma)
    dy, dx = _sobel(smooth, axis=1), _sobel(smooth, axis=2)
    strength = jnp.hypot(dy, dx)
    ridge = _is_ridge(strength, dy, dx)
    weak, strong = ridge & (strength >= low), ridge & (strength >= high)

    def grow(state: tuple[Bool[Array, "b H W"], Bool[Array, ""]]) -> tuple[Bool[Array, "b H W"], Bool[Array, ""]]:
        edge, _ = state
        reached = lax.reduce_window(edge, False, lax.bitwise_or, (1, 3, 3), (1, 1, 1), "SAME") & weak
        return reached, jnp.any(reached != edge)

    edge, _ = lax.while_loop(lambda state: state[1], grow, (strong, jnp.any(strong)))
    return jnp.where(edge, 1.0, -1.0)[..., None]


def _gaussian(x: Float[Array, "b h w"], sigma: float) -> Float[Array, "b h w"]:
    """Smoothed; outside the image there is nothing, which a division by the smoothed inside makes up for."""
    radius = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = jnp.asarray(kernel / kernel.sum(), jnp.float32)

    def blur(x: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
        x = lax.conv_general_dilated(x[..., None], kernel.reshape(-1, 1, 1, 1), (1, 1), "SAME", dimension_numbers=NHWC)
        x = lax.conv_general_dilated(x, kernel.reshape(1, -1, 1, 1), (1, 1), "SAME", dimension_numbers=NHWC)
        return x[..., 0]

    return blur(x) / blur(jnp.ones((1, *x.shape[1:]), x.dtype))


NHWC = ("NHWC", "HWIO", "NHWC")


def _sobel(x: Float[Array, "b h w"], axis: int) -> Float[Array, "b h w"]:
    """The derivative along an axis, smoothed along the other one: weights 1 2 1."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)), mode="symmetric")
    difference = lax.slice_in_dim(padded, 2, None, axis=axis) - lax.slice_in_dim(padded, 0, -2, axis=axis)
    other = 3 - axis
    parts = [lax.slice_in_dim(difference, i, difference.shape[other] - 2 + i, axis=other) for i in range(3)]
    return parts[0] + 2 * parts[1] + parts[2]


def _is_ridge(
    strength: Float[Array, "b h w"], dy: Float[Array, "b h w"], dx: Float[Array, "b h w"]
) -> Bool[Array, "b h w"]:
    """Where the strength is at least what it is one pixel on and back along the gradient, inside the border."""
    b, h, w = strength.shape
    padded = jnp.pad(strength, ((0, 0), (1, 1), (1, 1)))
    at = lambda y, x: padded[:, 1 + y : 1 + y + h, 1 + x : 1 + x + w]
    steep = jnp.abs(dy) >= jnp.abs(dx)  # the gradient points up or down more than sideways
    share = jnp.where(
        steep, jnp.abs(dx) / jnp.maximum(jnp.abs(dy), 1e-12), jnp.abs(dy) / jnp.maximum(jnp.abs(dx), 1e-12)
    )
    same = dy * dx >= 0  # down and right, or up and left

    def beyond(sign: int) -> Float[Array, "b h w"]:
        """The strength one pixel along the gradient, interpolated between the straight and the diagonal neighbour."""
        diagonal = jnp.where(same, at(sign, sign), jnp.where(steep, at(sign, -sign), at(-sign, sign)))
        straight = jnp.where(steep, at(sign, 0), at(0, sign))
        return diagonal * share + straight * (1 - share)

    inside = jnp.zeros((h, w), bool).at[1:-1, 1:-1].set(True)[None]
    return inside & (strength >= beyond(1)) & (strength >= beyond(-1)) & (strength > 0)
