"""What an image can be conditioned on: how long each kind is, its vocabulary, and how a batch becomes tokens.

Condition tokens stand before the image's in the transformer's sequence and share its embedding table with no offset
(paper, section 3.2). To add a kind: write a class with the members of `Condition`, and name it in `CONDITIONS` and
`make_condition`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class ConditionConfig:
    """kind: a name of `CONDITIONS`. n_classes and class_names: for `class_label`; names may be left empty."""

    kind: str = "none"
    n_classes: int = 0
    class_names: tuple[str, ...] = ()


class Condition(Protocol):
    """One kind of condition. All members are static, so that a condition can live inside a compiled function."""

    key: ClassVar[str]  # the entry of the batch, and the keyword of `Generator.sample`, it is made of; "" for nothing

    @property
    def length(self) -> int:
        """Tokens in the sequence."""

    @property
    def vocabulary(self) -> int:
        """Ids it uses: all of its tokens are below this."""

    def tokens(self, batch: Mapping[str, Any], size: int) -> jax.Array:
        """The batch of `size` images -> int32 (size, length). Runs inside compiled functions."""

    def parse(self, value: Any, size: int) -> np.ndarray | None:
        """What a user gave for `size` images, checked, as the batch entry `key`. Raises ValueError."""

    def describe(self, value: np.ndarray | None, size: int) -> list[str]:
        """A short label for each image, for grids and file names."""


@dataclasses.dataclass(frozen=True)
class NoCondition:
    """Unconditional: a single start token, id 0."""

    key: ClassVar[str] = ""
    length: int = 1
    vocabulary: int = 1

    def tokens(self, batch: Mapping[str, Any], size: int) -> jax.Array:
        return jnp.zeros((size, 1), jnp.int32)

    def parse(self, value: Any, size: int) -> None:
        return None

    def describe(self, value: np.ndarray | None, size: int) -> list[str]:
        return [""] * size


@dataclasses.dataclass(frozen=True)
class ClassLabel:
    """The number of the class, fed as one token id."""

    vocabulary: int
    names: tuple[str, ...] = ()
    key: ClassVar[str] = "class_label"
    length: int = 1

    def tokens(self, batch: Mapping[str, Any], size: int) -> jax.Array:
        return batch["class_label"].astype(jnp.int32).reshape(size, 1)

    def parse(self, value: Any, size: int) -> np.ndarray:
        """One class for all or one an image, each by number or by name."""
        if value is None:
            raise ValueError(
                f"this model needs class_label: a class or {size} classes, by number 0..{self.vocabulary - 1}"
                + (f" or by name ({_few(self.names)})." if self.names else ".")
            )
        values = [value] if isinstance(value, str) else list(np.atleast_1d(np.asarray(value, object)))
        labels = np.asarray([self._number(v) for v in values], np.int32)
        if len(labels) not in (1, size):
            raise ValueError(f"class_label has {len(labels)} entries for {size} images; give one for all or one each.")
        return np.broadcast_to(labels, (size,)).copy()

    def describe(self, value: np.ndarray | None, size: int) -> list[str]:
        if value is None:
            return [""] * size
        return [self.names[label] if self.names else str(label) for label in value]

    def _number(self, value: Any) -> int:
        """A text is a name first, since folders may be named by digits, and then a number."""
        text = str(value).strip()
        if isinstance(value, str):
            wanted = text.lower()
            for i, name in enumerate(self.names):
                if wanted == name.lower() or wanted in (part.strip().lower() for part in name.split(",")):
                    return i
        try:
            number = int(text)
        except ValueError:
            known = (
                f"known: {_few(self.names)}" if self.names else "this model was saved without class names, use numbers"
            )
            raise ValueError(f"class {text!r} is unknown; {known}.") from None
        if not 0 <= number < self.vocabulary:
            raise ValueError(f"class {number} is out of range; this model knows 0..{self.vocabulary - 1}.")
        return number


def _few(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f", ... {len(names)} in all" if len(names) > most else "")


CONDITIONS = ("none", "class_label")


def make_condition(config: ConditionConfig) -> Condition:
    """The condition that the settings name. Raises ValueError for an unknown kind or a missing setting."""
    if config.kind == "none":
        return NoCondition()
    if config.kind == "class_label":
        if config.n_classes < 1:
            raise ValueError(
                f"config.condition.n_classes={config.n_classes}; class_label needs at least 1: set it to the number of "
                "classes of the data."
            )
        if config.class_names and len(config.class_names) != config.n_classes:
            raise ValueError(
                f"config.condition has {len(config.class_names)} class_names for n_classes={config.n_classes}."
            )
        return ClassLabel(config.n_classes, config.class_names)
    raise ValueError(f"config.condition.kind={config.kind!r} is unknown; known: {', '.join(CONDITIONS)}.")
