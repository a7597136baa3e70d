"""What a browser sends as a file: what it is, told by its first bytes alone, and whether it may be opened at all."""

import base64
import binascii
from typing import Any

from taming_jax.conditioning import Condition
from taming_jax.data.opening import opened
from taming_jax.page import folders

MOST_BYTES = 8 << 20  # of a file
MOST_PIXELS = 24_000_000  # of a picture that is opened, to be made smaller
_STARTS = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg", b"\x93NUMPY": ".npy"}


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


def kind_of(file: bytes) -> str:
    """The ending of the name that such a file has, "" for an unknown kind."""
    if file[:4] == b"RIFF" and file[8:12] == b"WEBP":
        return ".webp"
    return next((ending for start, ending in _STARTS.items() if file.startswith(start)), "")


def check_file(file: bytes, endings: tuple[str, ...]) -> str:
    """The ending of a file that may be opened: of one of these kinds, and with no more pixels than that. Nothing is
    decoded. Raises ValueError for others."""
    kind = kind_of(file)
    if kind not in endings:
        known = [ending for ending in endings if ending in (".webp", *_STARTS.values())]
        raise ValueError(
            f"this is {'no picture that is known' if not kind else f'a {kind} file'}; expected {', '.join(known)}"
        )
    if kind != ".npy":
        try:
            opened(file, lambda image, size: size, max_pixels=MOST_PIXELS)
        except ValueError as error:
            raise ValueError(f"this picture cannot be used: {str(error).split(';')[0]}") from None
    return kind


def read_upload(
    file: bytes, condition: Condition, factor: int, size: tuple[int, int], unlabelled: int = -1
) -> dict[str, Any]:
    """`Condition.read` of what was sent. Raises ValueError."""
    kind = check_file(file, condition.suffixes)
    with folders.folder() as folder:
        path = folder / f"file{kind}"
        path.write_bytes(file)
        try:
            return condition.read(path, factor, size, unlabelled)
        except (OSError, ValueError, MemoryError) as error:
            raise ValueError(str(error).replace(f"{folder}/", "") or type(error).__name__) from None
