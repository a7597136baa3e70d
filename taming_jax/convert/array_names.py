"""Names in foreign files: which of several sets of arrays is meant, the plain ones or their averages (EMA)."""

import re
from collections.abc import Iterable


def is_average(name: str) -> bool:
    """Whether a name is that of averages, as `ema`, `model_ema`, `params_ema.` or `teacher_ema`."""
    return "ema" in re.split(r"[^a-z]+", name.lower())


def one_of(names: Iterable[str], ema: bool) -> str | None:
    """The one name of plain parameters, or with `ema` of averages; None where there is none, or are several."""
    names = list(names)
    wanted = names if len(names) == 1 else [name for name in names if is_average(name) == ema]
    return wanted[0] if len(wanted) == 1 else None


def in_line(name: str) -> str:
    """A name of an array, as a file likes to call it, in one line."""
    return " ".join(name[:200].split())
