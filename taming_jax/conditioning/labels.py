"""Conditions of a single token: none at all, and the class."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from taming_jax.conditioning.base import NotFromFiles
from taming_jax.data.names import containing, look_up

ANY = "any"  # instead of a class


@dataclasses.dataclass(frozen=True)
class NoCondition(NotFromFiles):
    """Unconditional: a single start token, id 0."""

    keys: ClassVar[tuple[str, ...]] = ()
    annotations: ClassVar[tuple[str, ...]] = ()
    length: ClassVar[int] = 1
    vocabulary: ClassVar[int] = 1
    grid: ClassVar[None] = None
    by_class: ClassVar[bool] = False

    def tokens(self, batch: Mapping[str, Any], size: int, stages: Mapping[str, Any]) -> Int[Array, "{size} ..."]:
        return jnp.zeros((size, 1), jnp.int32)

    def pixels(self, given: Mapping[str, Any]) -> None:
        return None

    def parse(self, given: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> dict[str, np.ndarray]:
        return {}

    def describe(self, batch: Mapping[str, Any], n: int) -> list[str]:
        return [""] * n

    def picture(self, batch: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class ClassLabel(NotFromFiles):
    """The number of the class, fed as one token id. One past the last, or ANY, is that of a hidden condition: images
    of whatever class, which a model trained with condition dropout knows."""

    vocabulary: int
    names: tuple[str, ...] = ()
    keys: ClassVar[tuple[str, ...]] = ("class_label",)
    annotations: ClassVar[tuple[str, ...]] = ("class_label",)
    length: ClassVar[int] = 1
    grid: ClassVar[None] = None
    by_class: ClassVar[bool] = True

    def tokens(self, batch: Mapping[str, Any], size: int, stages: Mapping[str, Any]) -> Int[Array, "{size} ..."]:
        return batch["class_label"].astype(jnp.int32).reshape(size, 1)

    def pixels(self, given: Mapping[str, Any]) -> None:
        return None

    def parse(self, given: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> dict[str, np.ndarray]:
        """One class for all or one an image, each by number or by name."""
        value = given.get("class_label")
        if value is None:
            raise ValueError(
                f"this model needs class_label: a class or {n} classes, by number 0..{self.vocabulary - 1}"
                + (f" or by name ({few(self.names)})." if self.names else ".")
            )
        values = [value] if isinstance(value, str) else list(np.atleast_1d(np.asarray(value, object)))
        labels = np.asarray([self._number(v) for v in values], np.int32)
        if len(labels) not in (1, n):
            raise ValueError(f"class_label has {len(labels)} entries for {n} images; give one for all or one each.")
        return {"class_label": np.broadcast_to(labels, (n,)).copy()}

    def _number(self, value: Any) -> int:
        hidden = isinstance(value, str) and value.strip() == ANY and ANY not in self.names
        return self.vocabulary if hidden else class_number(value, self.names, self.vocabulary)

    def describe(self, batch: Mapping[str, Any], n: int) -> list[str]:
        names = [*(self.names or map(str, range(self.vocabulary))), ANY]
        return [names[label] for label in np.asarray(batch["class_label"])]

    def picture(self, batch: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> None:
        return None


def class_number(value: Any, names: Sequence[str], n_classes: int) -> int:
    """A class by number or name. A text is a name first, since folders may be named by digits, then a number, and then
    words of one name alone, such as "corgi" of "Cardigan Welsh corgi".

    Raises ValueError for what is neither, and for a text that may be several names.
    """
    text = str(value).strip()
    if isinstance(value, str):
        try:
            place = look_up(text, names)
        except ValueError as error:
            raise ValueError(f"class {error}, or give its number.") from error
        if place is not None:
            return place
    try:
        number = int(text)
    except ValueError:
        near = containing(text, names)
        if len(whole := containing(text, names, words=True)) == 1:
            return names.index(whole[0])
        known = f"names with it: {few(near)}" if near else f"known: {few(names)}"
        known = known if names else "this model was saved without class names, use numbers"
        raise ValueError(f"class {text[:100]!r} is unknown; {known}.") from None
    if not 0 <= number < n_classes:
        raise ValueError(f"class {text[:100]} is out of range; this model knows 0..{n_classes - 1}.")
    return number


def few(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f", ... {len(names)} in all" if len(names) > most else "")
