"""A model in a checkpoint directory, by what the directory says of itself."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from taming_jax import checkpoint


@dataclasses.dataclass(frozen=True)
class Saved:
    """One checkpoint: the directory, its step, and the configuration saved with it. Nothing else is read at once."""

    path: str
    step: int
    config: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """ "vqgan" for a first stage, "two_stage", "transformer" for one alone; "" where it does not say."""
        return self.config.get("kind", "")

    @property
    def trained_here(self) -> bool:
        """Whether it names the data that it was trained on; a converted model does not."""
        return "source" in self.config.get("data", {})

    def load_params(self, dtype: Any = None) -> Any:
        """Its parameters, see `checkpoint.load_params`."""
        return checkpoint.load_params(self.path, self.step, dtype)


def open_saved(path: str, step: int | str | None = None) -> Saved:
    """The checkpoint `step` of a directory, default the newest, "best" for the best by its monitored metric.

    Raises ValueError and OSError as `checkpoint.load_config`.
    """
    number = int(checkpoint.find_step(path, step).name)
    return Saved(path, number, checkpoint.load_config(path, number))
