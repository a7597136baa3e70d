"""Finding the files that a user named as conditions; how each kind is read is the condition's own matter."""

from pathlib import Path
from typing import Any

from taming_jax.conditioning import Condition
from taming_jax.data.found import why_left_out
from taming_jax.data.kinds import is_named


def find_files(path: str, condition: Condition) -> list[Path]:
    """The file named, or those of a folder, in order. Raises ValueError where there is none that can be read."""
    name = condition.keys[0] if condition.keys else "no condition"
    if not condition.suffixes:
        raise ValueError(
            f"config.sample.condition={path!r}, but this model takes {name}, which is not read from files."
        )
    place = Path(path)
    inside = [file for file in sorted(place.iterdir()) if not why_left_out(file.name)] if place.is_dir() else []
    wanted = lambda file: file.is_file() and is_named(file.name, str(file), condition.suffixes)
    files = [file for file in inside or [place] if wanted(file)]
    if not files:
        raise ValueError(
            f"config.sample.condition={path!r} names no file for {name}; expected a file or folder with "
            f"{', '.join(condition.suffixes)}."
        )
    return files


def read_condition(
    file: Path, condition: Condition, factor: int, size: tuple[int, int] | None, unlabelled: int = -1
) -> dict[str, Any]:
    """`Condition.read`, but that every error is a ValueError that names the file."""
    try:
        return condition.read(file, factor, size, unlabelled)
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and str(file) in str(error):
            raise
        raise ValueError(f"{file}: {error}") from error
