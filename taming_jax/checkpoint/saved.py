"""A model in a checkpoint directory, by what the directory says of itself."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from taming_jax.checkpoint.failures import MissingCheckpoint
from taming_jax.checkpoint.portable import fetched, is_portable, read_config, read_params
from taming_jax.checkpoint.read import (
    find_step,
    has_checkpoint,
    load_config,
    load_discriminator,
    load_metrics,
    load_params,
)
from taming_jax.file_kinds import kind_of
from taming_jax.limits import told

T = TypeVar("T")
TRIES = 4
# What a directory can hold, by the kind that it says, in words.
KINDS = {"vqgan": "first stage", "two_stage": "second stage", "transformer": "transformer alone"}


@dataclasses.dataclass(frozen=True)
class Saved:
    """One checkpoint: the directory, its step, and the configuration saved with it. Nothing else is read at once."""

    path: str
    step: int
    config: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Of a first stage "vqgan", of a transformer alone "transformer", of both together "two_stage"; "" where it
        does not say."""
        kind = self.config.get("kind", "")
        return kind if isinstance(kind, str) else told(kind)

    def require(self, kind: str, setting: str) -> None:
        """Raises ValueError, which names the setting that gave the directory, where it holds another kind of model."""
        if self.kind != kind:
            held = KINDS.get(self.kind, f"checkpoint of kind {self.kind!r}")
            raise ValueError(
                f"{setting} {self.path!r} holds no {KINDS[kind]}, but a {held}; name the directory of one."
            )

    @property
    def trained_here(self) -> bool:
        """Whether it names the data that it was trained on; a converted model does not."""
        return "source" in self.config.get("data", {})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r}, step={self.step}, kind={self.kind!r})"

    def load_params(self, dtype: Any = None) -> Any:
        """Its parameters, see `checkpoint.load_params`."""
        return load_params(self.path, self.step, dtype)

    def load_discriminator(self, params: str = "disc_params", stats: str = "batch_stats") -> dict[str, Any] | None:
        """One of a first stage's, see `checkpoint.load_discriminator`."""
        return load_discriminator(self.path, self.step, params, stats)

    def metrics(self) -> dict[str, float]:
        """The figures that it was saved with."""
        return load_metrics(self.path, self.step)


class Portable(Saved):
    """A model as hubs keep it: config.json and model.safetensors. It has one step, and no discriminator."""

    def load_params(self, dtype: Any = None) -> Any:
        return read_params(self.path, dtype)

    def load_discriminator(self, params: str = "disc_params", stats: str = "batch_stats") -> None:
        return None

    def metrics(self) -> dict[str, float]:
        return {}


def has_model(path: str) -> bool:
    """Whether `open_saved` finds something by this name: a directory, a model of the package, one of a hub."""
    path = fetched(os.path.expanduser(path))
    return has_checkpoint(path) or is_portable(path)


def with_newest(step: int | str | None, read: Callable[[], T]) -> T:
    """What `read` returns, which is called again where a training has removed the newest or best checkpoint meanwhile.

    step: the one that is asked for; there is no other one than a number.
    """
    for _ in range(0 if str(step).isdigit() else TRIES):
        with contextlib.suppress(MissingCheckpoint):
            return read()
    return read()


def open_saved(path: str, step: int | str | None = None) -> Saved:
    """The checkpoint `step` of a directory, default the newest, "best" for the best by its monitored metric; or a model
    as hubs keep it, in a directory or at hf://OWNER/NAME.

    Raises ValueError and OSError as `checkpoint.load_config`.
    """
    path = fetched(os.path.expanduser(path))
    if os.path.isfile(path):
        raise ValueError(
            f"{path!r} is a file, and no directory of a model ({kind_of(path)}); python -m taming_jax.convert makes "
            "one of checkpoints of other programs"
        )
    if is_portable(path) and not has_checkpoint(path):
        if step is not None:
            raise ValueError(f"{path!r} holds one model as hubs keep it, with no step {step!r}; leave the step out.")
        return Portable(path, 0, read_config(path))

    def opened() -> Saved:
        number = int(find_step(path, step).name)
        return Saved(path, number, load_config(path, number))

    return with_newest(step, opened)
