"""From an encoded image to an RGB square. Pillow decodes, because it reads what TensorFlow's decoders do not."""

import io

import numpy as np
from PIL import Image

MAX_PIXELS = 100_000_000  # an image that decodes to more is taken for a decompression bomb

_UPRIGHT = {  # the EXIF orientation tag, and what puts such an image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenImage(ValueError):
    """An image that cannot be used: corrupt, truncated, no image at all, or far too large."""


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # damaged metadata is no reason to lose the picture
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bit greyscale, which Pillow's own conversion would clip instead of scale
        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:  # transparent becomes white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def load_image(
    source: str | bytes,
    size: int,
    rng: np.random.Generator | None = None,
    *,
    random_crop: bool = True,
    flip: bool = True,
) -> np.ndarray:
    """Decodes an image, scales its smaller side to `size` (antialiased, bicubic) and cuts out a square.

    source: a path, or the encoded bytes (JPEG, PNG, WebP). Greyscale, palette, CMYK, 16 bit, transparency (put on
        white) and the EXIF orientation are handled; of an animation the first frame is taken.
    rng: draws the place of the square and the horizontal flip, each where asked for. Without it the central square is
        cut out, unflipped.
    Returns uint8 (size, size, 3). Raises BrokenImage, saying why.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.draft(None, (2 * size, 2 * size))  # a large JPEG decodes faster at 1/2, 1/4 or 1/8 of its size
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BrokenImage(f"{width} x {height} pixels, more than the {MAX_PIXELS} that are allowed")
            orientation = _orientation(image)
            rgb = _to_rgb(image)
    except BrokenImage:
        raise
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        raise BrokenImage(f"{type(error).__name__}: {error}") from error
    width, height = rgb.size
    side = min(width, height)
    x, y = rng.random(2) if rng is not None and random_crop else (0.5, 0.5)
    left, top = x * (width - side), y * (height - side)
    square = rgb.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    if orientation in _UPRIGHT:
        square = square.transpose(_UPRIGHT[orientation])
    if rng is not None and flip and rng.random() < 0.5:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(square)


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1
