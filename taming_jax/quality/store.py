"""Drawn images on disk, part by part, so that drawing that was killed goes on where it was."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from taming_jax.files import whole, write_whole
from taming_jax.limits import read_json, told
from taming_jax.priors.filters import with_filters
from taming_jax.quality.images import ImageSet, of_array

SETTINGS = "settings.json"


@dataclasses.dataclass(frozen=True)
class Store:
    """A folder of parts `NUMBER.npy`, uint8 (b, H, W, 3), named by the number of their first image."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, settings: Mapping[str, Any], writes: bool = True) -> "Store":
        """The folder for images that were drawn with these settings. Raises ValueError where it has those of others;
        writes: whether this process is the one that writes."""
        path = folder / SETTINGS
        if path.exists():
            try:
                found = with_filters(read_json(path))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path} is damaged; remove the folder to draw anew") from error
            different = sorted(k for k in found.keys() | settings.keys() if found.get(k) != settings.get(k))
            if different:
                said = "; ".join(f"{k}: there {told(found.get(k))}, now {told(settings.get(k))}" for k in different)
                raise ValueError(
                    f"{folder} holds images drawn with other settings ({said}); remove it, or choose another --out"
                )
        elif writes and folder.is_dir() and any(folder.iterdir()):
            raise ValueError(
                f"{folder} holds no drawn images, but something else; move it away, or choose another --out"
            )
        elif writes:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(settings, indent=2))
        return cls(folder)

    def has(self, first: int, n: int) -> bool:
        """Whether the images from number `first` on are there, n of them or more."""
        try:
            return len(np.load(self._part(first), mmap_mode="r")) >= n
        except (OSError, ValueError):
            return False

    def write(self, first: int, pixels: np.ndarray) -> None:
        """uint8 (b, H, W, 3), from number `first` on."""
        with whole(self._part(first)) as unfinished, unfinished.open("wb") as file:
            np.save(file, pixels)

    def images(self, counts: Mapping[int, int], source: str, labels: np.ndarray | None = None) -> ImageSet:
        """All images; counts: of the parts by their first numbers. Raises ValueError where a part is not there."""
        missing = [first for first, n in counts.items() if not self.has(first, n)]
        if missing:
            raise ValueError(f"{self.folder} lacks the images from number {missing[0]} on")
        parts = [np.load(self._part(first), mmap_mode="r")[:n] for first, n in sorted(counts.items())]
        return of_array(_Joined(parts), source, labels)  # type: ignore[arg-type]

    def _part(self, first: int) -> Path:
        return self.folder / f"{first:07d}.npy"


class _Joined:
    """Arrays (b, ...) one after the other as one, of which slices are read."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        self.parts, self.ends = parts, np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, here: slice) -> np.ndarray:
        start, stop, _ = here.indices(len(self))
        first = int(np.searchsorted(self.ends, start, side="right"))
        found = []
        while start < stop:
            begin = int(self.ends[first]) - len(self.parts[first])
            found.append(self.parts[first][start - begin : stop - begin])
            start, first = int(self.ends[first]), first + 1
        return np.concatenate(found) if found else self.parts[0][:0]
