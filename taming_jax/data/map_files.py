"""Label maps and depth maps as files: what is read and what is refused, and writing them."""

import numpy as np
from PIL import Image

from taming_jax.data.depth import filled, holes
from taming_jax.data.opening import BrokenImage, read_array
from taming_jax.data.pixels import is_array, stored_values

LABEL_SUFFIXES = (".png", ".npy", ".tif", ".tiff", ".bmp", ".gif")
DEPTH_SUFFIXES = (".png", ".npy", ".tif", ".tiff")
SIZES = (1e-12, 1e12)  # of numbers that are depth
SMOOTH = 12  # of 255: by how much colours of neighbours differ, in the median


def read_label_map(path: str, n_labels: int, unlabelled: int = -1, max_pixels: int = 0) -> np.ndarray:
    """The labels of a file, uint8 (H, W) in [0, n_labels).

    The file has at most 8 bits a pixel, stored without loss (PNG, TIFF, BMP, GIF): grey values, or indices of a
    palette, which are taken as they are stored, whatever the colours. Colours that are grey everywhere, and alpha that
    is opaque everywhere, are as good: many programs save nothing else. Or it is a .npy file with whole numbers (H, W).
    unlabelled: a value of the file that becomes label 0, while all others become one more (255 for COCO-Stuff, which
        has 0..181 and so 183 labels); -1: the values are the labels.
    Raises ValueError naming the file for any other kind of image and for a label that is not below n_labels, and
    BrokenImage for a damaged file.
    """
    values = _label_array(path) if is_array(path) else _label_picture(path, max_pixels)
    label_of = np.arange(256) + (unlabelled >= 0)
    if unlabelled >= 0:
        label_of[unlabelled] = 0
    found = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    if (wrong := found[label_of[found] >= n_labels]).size:
        raise ValueError(
            f"the label map {path!r} has the value {wrong[-1]}, but there are {n_labels} labels"
            + (f" and {unlabelled} for unlabelled" if unlabelled >= 0 else "")
            + f", so values must be below {n_labels - (unlabelled >= 0)}; set `n_labels` (at most 256), or "
            "`unlabelled` where a value means that there is no label"
        )
    return label_of.astype(np.uint8)[values]


def _label_picture(path: str, max_pixels: int) -> np.ndarray:
    mode, values = stored_values(path, max_pixels)
    if mode in ("L", "P"):
        return values
    why = ""
    if mode in ("LA", "RGB", "RGBA"):
        alpha = values[..., -1] if mode.endswith("A") else np.uint8(255)
        colours = values[..., :-1] if mode.endswith("A") else values
        if np.all(alpha == 255) and (colours == colours[..., :1]).all():
            return np.ascontiguousarray(colours[..., 0])
        why = " that is not opaque everywhere" if np.any(alpha < 255) else " whose colours are not grey"
    raise ValueError(
        f"the label map {path!r} has pixels of the kind {mode!r}{why}; expected a PNG with 8 bits a pixel, grey or "
        "palette, whose values are the labels (not their colours, not 16 bit, and no JPEG)"
    )


def _label_array(path: str) -> np.ndarray:
    expected = "whole numbers (H, W) from 0 to 255"
    try:
        values = read_array(path, expected)
    except BrokenImage as error:
        raise BrokenImage(f"its map {path!r}: {error}") from error
    values = np.squeeze(values, tuple(i for i in (0, values.ndim - 1) if values.ndim == 3 and values.shape[i] == 1)[:1])
    if values.ndim != 2 or values.dtype.kind not in "biu" or values.min() < 0 or values.max() > 255:
        what = f" from {values.min():g} to {values.max():g}" if values.dtype.kind != "b" else ""
        raise ValueError(f"the label map {path!r} holds {values.dtype} {values.shape}{what}; expected {expected}")
    return values.astype(np.uint8)


def read_depth(path: str, max_pixels: int = 0, missing: tuple[float, ...] = ()) -> np.ndarray:
    """The depth of a file, float32 (H, W), scaled so that the map's own smallest value is -1 and its largest 1.

    What is not finite or one of the values `missing` was not measured: it counts for neither, and is filled as
    `depth.filled` has it. Raises what `measured_depth` does.
    """
    depth, unmeasured = measured_depth(path, max_pixels, missing)
    depth = filled(depth, unmeasured)
    low, high = depth.min(), depth.max()
    return (2 * (depth - low) / max(high - low, 1e-8) - 1).astype(np.float32)


def measured_depth(path: str, max_pixels: int = 0, missing: tuple[float, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """(the numbers of a file, float64 (H, W); where they are missing, bool (H, W), not everywhere).

    The file is a PNG with RGBA, whose four bytes a pixel are one little-endian float32; a grey PNG of at most 16 bits;
    a grey TIFF of numbers; or a .npy file with (H, W), one more axis of length 1 allowed. A map of one value alone
    becomes -1 everywhere.
    Raises ValueError naming the file for another kind of file, such as depth in colours, and BrokenImage for a damaged
    one and for one in which nothing was measured.
    """
    if is_array(path):
        try:
            depth = read_array(path, "numbers (H, W)")
        except BrokenImage as error:
            raise BrokenImage(f"its map {path!r}: {error}") from error
        depth = np.squeeze(depth, tuple(i for i in (0, depth.ndim - 1) if depth.ndim == 3 and depth.shape[i] == 1)[:1])
        if depth.ndim != 2 or depth.dtype.kind not in "fiu":
            raise ValueError(f"the depth map {path!r} holds {depth.dtype} {depth.shape}; expected numbers (H, W)")
    else:
        mode, depth = stored_values(path, max_pixels)
        if mode == "RGBA":
            if _is_picture(depth):
                raise ValueError(
                    f"the depth map {path!r} is a picture in colours or grey with alpha (RGBA), as plotting libraries "
                    "save it, not the float32 form; give the depth itself: a grey PNG of 8 or 16 bits, a .npy file "
                    "(H, W), or RGBA by taming_jax.data.map_files.write_depth"
                )
            depth = np.ascontiguousarray(depth).view("<f4")[..., 0]
        elif mode not in ("L", "I", "I;16", "F"):
            raise ValueError(
                f"the depth map {path!r} has pixels of the kind {mode!r}; expected a PNG with RGBA (one float32 a "
                "pixel) or with grey of 8 or 16 bits, a grey TIFF, or a .npy file"
            )
    depth = depth.astype(np.float64)  # float32 may overflow in the difference
    unmeasured = holes(depth, missing)
    if unmeasured.all():
        which = f" or of those that are `missing`, {missing}" if missing else ""
        raise BrokenImage(f"its map {path!r} has no depth: all {depth.size} are values that are not finite{which}")
    return depth, unmeasured


def _is_picture(rgba: np.ndarray) -> bool:
    """Whether uint8 (H, W, 4) are colours rather than one little-endian float32 a pixel.

    The last byte, alpha in a picture, is sign and magnitude of a number: opaque and clear pixels would be of magnitudes
    that no depth has. Where alpha is another one everywhere, the first two bytes tell, which are a number's last bits:
    between neighbours that differ they jump or are all alike, while colours change little. (They change as little in
    whole numbers over 255 or 65535, whose bits however repeat themselves.)
    """
    depth = np.ascontiguousarray(rgba).view("<f4")[..., 0]
    missing = ~np.isfinite(depth) & (rgba[..., :2] == 0).all(-1) & np.isin(rgba[..., 2], (0x80, 0xC0))  # as inf and NaN
    there = ~missing & (depth != 0)
    size = np.where(np.isfinite(depth), np.abs(depth), np.float32(np.inf))
    if np.count_nonzero(there & ~((size >= SIZES[0]) & (size <= SIZES[1]))) > np.count_nonzero(there) / 2:
        return True
    alphas = np.unique(rgba[..., 3][rgba[..., 3] > 0])
    if len(alphas) != 1:
        return False
    colours = rgba[..., :3].astype(np.int16)
    steps = np.concatenate([np.diff(colours, axis=axis).reshape(-1, 3) for axis in (0, 1)])
    steps = np.abs(steps[steps.any(axis=-1)])
    if not steps.any(axis=0).all():  # one value everywhere, or numbers with few bits
        return False
    red, green, blue = (colours[..., i] for i in range(3))
    if ((red == green) & (green == blue)).all():
        return True
    repeats = min(np.median(np.abs(red - green)), np.median(np.abs(red % 128 - blue % 128))) <= 1
    return not repeats and bool((np.median(steps[:, :2], axis=0) <= SMOOTH).all())


def write_label_map(path: str, labels: np.ndarray) -> None:
    """Writes labels (H, W) in [0, 255] as an 8-bit PNG. Raises ValueError for others."""
    if labels.ndim != 2 or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > 255:
        given = f"{labels.dtype} {labels.shape}"
        raise ValueError(f"labels for {path!r} must be integers (H, W) in [0, 255]; given {given}")
    Image.fromarray(labels.astype(np.uint8)).save(path)


def write_depth(path: str, depth: np.ndarray) -> None:
    """Writes finite depth (H, W) as an RGBA PNG, one little-endian float32 a pixel. Raises ValueError for others."""
    if depth.ndim != 2 or not np.isfinite(depth).all():
        raise ValueError(f"depth for {path!r} must be finite numbers (H, W); given {depth.dtype} {depth.shape}")
    Image.fromarray(np.ascontiguousarray(depth, "<f4").view(np.uint8).reshape(*depth.shape, 4)).save(path)
