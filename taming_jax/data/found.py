"""What was found below a folder or in a list file, what was passed over, and what names of files say."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from taming_jax.data.text import normal

# what systems and programs put beside people's files, in lower case; what begins with a dot is hidden anyhow
SERVICE = frozenset(
    ("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "__macosx", "$recycle.bin", "recycler")
    + ("system volume information", "lost+found", "network trash folder", "temporary items", "__pycache__")
    + ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
)

# reasons beside endings such as ".tif"
HIDDEN, SERVICES = "hidden", "service files or folders"
AGAIN = "links to what was there already"
TWICE = "entries named twice"
BROKEN, SPECIAL, CLOSED = "links to nothing", "not files", "folders that cannot be opened"
NO_SUFFIX = "without an ending"


class Found(NamedTuple):
    """names: of files, relative to `root`, in their order. passed_over: how many of what else was there, by reason:
    an ending (".tif"), or one of the reasons above."""

    root: Path
    names: list[str]
    passed_over: Counter[str]


def why_left_out(name: str) -> str:
    """Why a file or folder of this name is passed over everywhere: HIDDEN or SERVICES, "" where it is not."""
    if name.startswith("."):
        return HIDDEN
    return SERVICES if name.lower() in SERVICE or name.startswith("~$") else ""


def count(passed_over: Counter[str], most: int = 8) -> str:
    """As "20 .tif, 2 hidden", the most frequent first."""
    ordered = passed_over.most_common()
    rest = sum(n for _, n in ordered[most:])
    return ", ".join([f"{n} {what}" for what, n in ordered[:most]] + ([f"{rest} others"] if rest else []))


def inner_name(name: str) -> str:
    """The name that a file has below the folder to which leading ".." lead: "../a/./b.png" is "a/b.png" there."""
    return os.sep.join(part for part in os.path.normpath(name).split(os.sep) if part != "..")


def folders_of(name: str) -> tuple[str, ...]:
    """The folders of a relative name, outermost first, without those that only lead up to where it is."""
    return tuple(inner_name(name).split(os.sep)[:-1])


VALIDATION = ("validation", "val", "valid", "dev", "test", "testing")  # names of a split's folder, the usual ones first


def split_kind(folder: str) -> str:
    """Which part of a split a folder is called like: "train" or a name of VALIDATION; "" for other names."""
    kind = folder.lower().rstrip("0123456789_-")
    kind = "train" if kind == "training" else kind
    return kind if kind in ("train", *VALIDATION) else ""


MAP_WORD = r"(?:masks?|seg|segm|segmentations?|segmaps?|labels?|label_?maps?|labelids|annotations?|depths?|mattes?|gt)"
MAP_STEM = re.compile(rf"^(?:{MAP_WORD}[-_. ](?P<after>.+)|(?P<before>.+)[-_. ]{MAP_WORD})$", re.IGNORECASE)
MAP_FOLDER = re.compile(rf"^{MAP_WORD}$", re.IGNORECASE)


def doubtful(names: Iterable[str]) -> Counter[str]:
    """How many of the names look as if they were no photographs, by reason."""
    stems = Counter(normal(os.path.splitext(name)[0]) for name in names)
    doubts: Counter[str] = Counter()
    alone = 0  # named as maps, but of no image that is there
    for stem, n in stems.items():
        folder, own = os.path.split(stem)
        marked = MAP_STEM.match(own)
        partner = marked is not None and os.path.join(folder, marked["after"] or marked["before"]) in stems
        alone += n * (marked is not None and not partner)
        doubts["images that differ from another in their ending only"] += n - 1
        doubts["images named as the map of another"] += n * partner
        doubts["images in folders named as those of maps"] += n * any(MAP_FOLDER.match(f) for f in folders_of(stem))
    if alone >= max(3, len(stems) / 4):  # fewer may well be photographs of masks
        doubts["images named as maps (such as _mask, _depth, seg_)"] += alone
    return +doubts
