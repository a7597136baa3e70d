"""What a browser sends as a file: what it is, told by its first bytes alone, and whether it may be opened at all."""

import base64
import binascii
from typing import Any

from taming_jax.conditioning import Condition
from taming_jax.data import kinds
from taming_jax.data.opening import opened
from taming_jax.page import folders

MOST_BYTES = 8 << 20  # of a file
MOST_PIXELS = 24_000_000  # of a picture that is opened, to be made smaller
ENDINGS = {**kinds.PICTURES, **{kind: ending for ending, kind in reversed(kinds.EXTRA_ENDINGS.items())}, "NPY": ".npy"}
SHOWN = (".png", ".jpg", ".webp", ".npy")  # of many, those that people are told of


def from_base64(text: Any, what: str, most: int = MOST_BYTES) -> bytes:
    """Raises ValueError for what is none, or longer."""
    if not isinstance(text, str):
        raise ValueError(f"{what} is missing")
    if len(text) > (most + 2) // 3 * 4:
        raise ValueError(f"{what} is larger than the {most >> 20} MiB that are taken")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{what} is not in base64") from None


def check_file(file: bytes, endings: tuple[str, ...]) -> tuple[str, tuple[int, int]]:
    """The ending of a file that may be opened, of one of these kinds and with no more pixels than that, and its width
    and height; of an array as many pixels as it has bytes. Nothing is decoded. Raises ValueError for others."""
    found = kinds.kind_of(file[: kinds.START])
    kind = ENDINGS.get(found, "")
    if kind not in (*endings, *(kinds.EXTRA_ENDINGS if kinds.ENDINGS[0] in endings else ())):
        known = [ending for ending in endings if ending in SHOWN]
        what = f"a {kind} file" if kind else "no picture that is known"
        more = f" ({kinds.in_words(found, file[: kinds.START])})" if found and not kind else ""
        raise ValueError(f"this is {what}; expected {', '.join(known)}{more}")
    if kind == ".npy":
        return kind, (len(file), 1)
    try:
        return kind, opened(file, lambda image, size: size, max_pixels=MOST_PIXELS)
    except ValueError as error:
        raise ValueError(f"this picture cannot be used: {str(error).split(';')[0]}") from None


def read_upload(
    file: bytes, condition: Condition, factor: int, size: tuple[int, int], unlabelled: int = -1
) -> dict[str, Any]:
    """`Condition.read` of what was sent. Raises ValueError."""
    kind, _ = check_file(file, condition.suffixes)
    with folders.folder() as folder:
        path = folder / f"file{kind}"
        path.write_bytes(file)
        try:
            return condition.read(path, factor, size, unlabelled)
        except (OSError, ValueError, MemoryError) as error:
            raise ValueError(str(error).replace(f"{folder}/", "") or type(error).__name__) from None
