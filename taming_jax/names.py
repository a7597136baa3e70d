"""Names that people give, in what programs write: of any bytes, and of any length."""

import io
import os
import re
import sys
import zlib

LONGEST = 255  # bytes of a file's name that file systems take
NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that stand for no byte of a name


def written(text: str) -> str:
    r"""The text as UTF-8 can hold it.

    Python reads a byte of a name that its encoding lacks as a surrogate. Such bytes are read as UTF-8 here, and what is
    no UTF-8 is shown as `\xfc`.
    """
    if text.isascii():
        return text
    plain = NO_BYTE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return plain.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def fitting(stem: str, ending: str = "", most: int = LONGEST) -> str:
    """A file's name of at most `most` bytes: the stem is cut where a letter ends, and a sum tells it from others that
    begin alike."""
    data, room = stem.encode("utf-8", "surrogateescape"), most - len(ending.encode("utf-8", "surrogateescape"))
    if len(data) <= room:
        return stem + ending
    sum_of_all = f"-{zlib.crc32(data):08x}"
    return data[: room - len(sum_of_all)].decode("utf-8", "ignore") + sum_of_all + ending


def on_disk(name: str) -> str:
    """A file's name of any letters, as Python must have it to write it in UTF-8, where its own encoding has few."""
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


def forgive_output() -> None:
    r"""Print and log letters that the terminal's encoding lacks as `\xfc`, where Python would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
