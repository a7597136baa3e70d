"""How much of a training's time goes into its steps, and into what else."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator


class Goodput:
    """Time since it was made, by what it went into. What is not named is steps: the devices work, or are waited for."""

    def __init__(self) -> None:
        self._begun, self._other = time.perf_counter(), defaultdict[str, float](float)

    @contextlib.contextmanager
    def other(self, name: str) -> Iterator[None]:
        """What happens within is no step but `name`, such as "start", "data", "saving"."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._other[name] += time.perf_counter() - begun

    def shares(self) -> dict[str, float]:
        """goodput, the share of steps in the time so far, and `lost_NAME` of everything else; their sum is 1."""
        elapsed = max(time.perf_counter() - self._begun, 1e-9)
        lost = {f"lost_{name}": seconds / elapsed for name, seconds in sorted(self._other.items())}
        return {"goodput": max(0.0, 1 - sum(lost.values())), **lost}

    def __str__(self) -> str:
        found = self.shares()
        lost = ", ".join(f"{name.removeprefix('lost_')} {share:.1%}" for name, share in list(found.items())[1:])
        return f"{found['goodput']:.1%} of the time went into steps; {lost}"
