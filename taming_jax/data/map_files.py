"""Label maps and depth maps as files: what is read and what is refused, and writing them."""

from pathlib import Path

import numpy as np
from PIL import Image

from taming_jax.data.pixels import BrokenImage, stored_values

LABEL_SUFFIXES = (".png",)
DEPTH_SUFFIXES = (".png", ".npy")


def read_label_map(path: str, n_labels: int, unlabelled: int = -1) -> np.ndarray:
    """The labels of a PNG, uint8 (H, W) in [0, n_labels).

    The file has 8 bits a pixel: grey values, or indices of a palette, which are taken as they are whatever the colours.
    unlabelled: a value of the file that becomes label 0, while all others become one more (255 for COCO-Stuff, which
        has 0..181 and so 183 labels); -1: the values are the labels.
    Raises ValueError naming the file for any other kind of image and for a label that is not below n_labels, and
    BrokenImage for a damaged file.
    """
    mode, values = stored_values(path)
    if mode not in ("L", "P"):
        raise ValueError(
            f"the label map {path!r} has pixels of the kind {mode!r}; expected a PNG with 8 bits a pixel, grey or "
            "palette, whose values are the labels (not their colours, not 16 bit, and no JPEG)"
        )
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


def read_depth(path: str) -> np.ndarray:
    """The depth of a file, float32 (H, W), scaled so that the map's own smallest value is -1 and its largest 1.

    The file is a PNG with RGBA, whose four bytes a pixel are one little-endian float32; a grey PNG of 8 or 16 bits; or
    a .npy file with (H, W), one more axis of length 1 allowed. A map of one value alone becomes -1 everywhere.
    Raises ValueError naming the file for another kind of file, and BrokenImage for a damaged one and for values that
    are not finite.
    """
    if Path(path).suffix == ".npy":
        try:
            depth = np.load(path, allow_pickle=False)
        except Exception as error:
            raise BrokenImage(f"its map {path!r}: {type(error).__name__}: {error}") from error
        depth = np.squeeze(depth, tuple(i for i in (0, depth.ndim - 1) if depth.ndim == 3 and depth.shape[i] == 1)[:1])
        if depth.ndim != 2 or depth.dtype.kind not in "fiu":
            raise ValueError(f"the depth map {path!r} holds {depth.dtype} {depth.shape}; expected numbers (H, W)")
    else:
        mode, values = stored_values(path)
        if mode == "RGBA":
            depth = np.ascontiguousarray(values).view("<f4")[..., 0]
        elif mode in ("L", "I", "I;16"):
            depth = values
        else:
            raise ValueError(
                f"the depth map {path!r} has pixels of the kind {mode!r}; expected a PNG with RGBA (one float32 a "
                "pixel) or with grey of 8 or 16 bits, or a .npy file"
            )
    if not np.isfinite(depth).all():
        raise BrokenImage(f"its map {path!r} has {np.count_nonzero(~np.isfinite(depth))} values that are not finite")
    depth = depth.astype(np.float64)  # float32 may overflow in the difference
    low, high = depth.min(), depth.max()
    return (2 * (depth - low) / max(high - low, 1e-8) - 1).astype(np.float32)


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
