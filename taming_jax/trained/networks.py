"""The networks that make the tokens of a two-stage model, opened."""

import dataclasses
from typing import Any

import jax

from taming_jax.trained.first_stage import FirstStage
from taming_jax.two_stage import TwoStage


@dataclasses.dataclass(frozen=True)
class Stages:
    """A two-stage model with the trained networks that make its tokens; all of it but the transformer's parameters.

    condition_stage: what reads the condition where that is a map; it may be the first stage itself.
    """

    model: TwoStage
    first_stage: FirstStage
    condition_stage: FirstStage | None = None

    @property
    def mesh(self) -> jax.sharding.Mesh:
        return self.first_stage.mesh

    @property
    def params(self) -> dict[str, Any]:
        """Their parameters, as the functions of `model` take them."""
        found = {"first_stage": self.first_stage.params}
        if self.condition_stage not in (None, self.first_stage):
            found["condition_stage"] = self.condition_stage.params
        return found
