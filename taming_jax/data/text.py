"""Text files and names as people have them: which encoding, and which form of letters with accents."""

import codecs
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

from taming_jax.limits import DATA, read_bytes

REFUSED = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32"}
READ = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def normal(name: str) -> str:
    """The form in which names are compared (NFC): some systems store a letter and its accent as two."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def read_text(path: str | Path, most: int = DATA) -> str:
    """A text in UTF-8, with or without a byte order mark, or in UTF-16 with one. Raises ValueError for any other,
    and for more than `most` bytes."""
    try:
        data = read_bytes(path, most)
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    advice = "save it as UTF-8"
    for mark, kind in REFUSED.items():  # before UTF-16, whose mark is the beginning of one of these
        if data.startswith(mark):
            raise ValueError(f"{str(path)!r} is {kind} text, not UTF-8: {advice}")
    encoding = next((kind for mark, kind in READ.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise ValueError(f"{str(path)!r} is damaged UTF-16 text, and not UTF-8: {advice}") from error
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{str(path)!r} is not UTF-8 text (the byte 0x{data[error.start]:02x} in line {line}; perhaps Latin-1 or "
            f"another encoding of one country): {advice}"
        ) from error
    if "\0" in text:
        raise ValueError(f"{str(path)!r} is not UTF-8 text (zero bytes; perhaps UTF-16 without a mark): {advice}")
    return text


def read_lines(path: str | Path, known: Callable[[str], bool] = lambda line: False) -> list[str]:
    """The stripped lines of a text but blank ones and comments, which begin with "#" unless they are `known` entries.

    Raises ValueError as `read_text`.
    """
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", read_text(path))]
    return [line for line in lines if line and (not line.startswith("#") or known(line))]
