"""The discriminators of a training, one by one: each has a weight, arrays of the state and metrics of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from taming_jax.models.discriminator import Discriminator
from taming_jax.models.feature_discriminator import FeatureDiscriminator
from taming_jax.training.augmentation import augmented
from taming_jax.training.losses import D_LOSSES, G_LOSSES, lecam_penalty
from taming_jax.training.vqgan_loss import VQGANLossConfig

Frozen = Mapping[str, Any]  # parameters that training only reads: "lpips", "features"
Images = Float[Array, "b H W c"]
Scalar = Float[Array, ""]
RandomKey = Key[Array, ""]


@dataclass(frozen=True)
class Adversary:
    """A discriminator that takes part.

    judge: (its variables, frozen parameters, images) -> (logits (b, h, w, n), statistics that have moved), in training.
    weight: of its term in the generator's loss, before the adaptive weight. ending: of the names of its metrics.
    params, stats, opt_state, logits: the fields of the state that are its own. stream: folded into the key of an
    update, so that each draws its own augmentation; without augmentation no key is needed.
    """

    judge: Callable[[Mapping[str, Any], Frozen, Images], tuple[Float[Array, "b h w n"], Any]]
    weight: float
    ending: str
    params: str
    stats: str
    opt_state: str
    logits: str
    stream: int

    def named(self, metrics: Mapping[str, Array]) -> dict[str, Array]:
        """Its metrics by the names of the log."""
        return {name + self.ending: value for name, value in metrics.items()}

    def generator_loss(
        self, loss: VQGANLossConfig, state: Any, frozen: Frozen, fake: Images, key: RandomKey | None = None
    ) -> tuple[Scalar, Any]:
        """(what it costs the generator, without a weight; its statistics after that)."""
        variables = {"params": getattr(state, self.params), "batch_stats": getattr(state, self.stats)}
        logits, stats = self.judge(variables, frozen, self._view(loss, fake, key, 0))
        return G_LOSSES[loss.disc_loss](logits), stats

    def own_loss(
        self,
        loss: VQGANLossConfig,
        state: Any,
        frozen: Frozen,
        images: Images,
        fake: Images,
        params: Any,
        key: RandomKey | None = None,
    ) -> tuple[Scalar, tuple[dict[str, Any], dict[str, Scalar]]]:
        """(its own loss with these parameters, (fields of the state that have moved, metrics))."""
        learns = loss.learns(state.step)
        before, logits = getattr(state, self.stats), getattr(state, self.logits)

        def judge_real(images: Images) -> tuple[Float[Array, "b h w n"], Any]:
            variables = {"params": params, "batch_stats": before}
            return self.judge(variables, frozen, self._view(loss, images, key, 0))

        # Reals first: each call moves the running statistics.
        real_logits, stats = judge_real(images)
        variables = {"params": params, "batch_stats": stats}
        fake_logits, stats = self.judge(variables, frozen, self._view(loss, fake, key, 1))
        metrics = {"logits_real": jnp.mean(real_logits), "logits_fake": jnp.mean(fake_logits)}
        value = D_LOSSES[loss.disc_loss](real_logits, fake_logits)
        if loss.lecam_weight:
            metrics["lecam"] = lecam_penalty(real_logits, fake_logits, logits["real"], logits["fake"])
            value = value + loss.lecam_weight * metrics["lecam"]
            keep = jnp.where(learns > 0, loss.lecam_decay, 1.0)
            logits = {name: keep * logits[name] + (1 - keep) * metrics[f"logits_{name}"] for name in logits}
        if loss.r1_weight:
            metrics["r1"] = squared_slope(lambda images: judge_real(images)[0], images)
            value = value + loss.r1_weight / 2 * metrics["r1"]
        # Before its start the gradients are zero too, so that nothing of it reaches Adam's moments.
        return learns * value, ({self.stats: stats, self.logits: logits}, metrics)

    def _view(self, loss: VQGANLossConfig, images: Images, key: RandomKey | None, number: int) -> Images:
        """Images as it gets to see them; number: of the view in this update."""
        if not loss.augment:
            return images
        assert key is not None  # see `stream`
        return augmented(loss.augmentation, images, jax.random.fold_in(jax.random.fold_in(key, self.stream), number))


def on_patches(discriminator: Discriminator, weight: float) -> Adversary:
    """The discriminator that sees the images themselves."""

    def judge(variables: Mapping[str, Any], frozen: Frozen, images: Images) -> tuple[Float[Array, "b h w 1"], Any]:
        logits, moved = discriminator.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, moved.get("batch_stats", {})

    return Adversary(judge, weight, "", "disc_params", "batch_stats", "disc_opt_state", "logits", stream=2)


def on_features(discriminator: FeatureDiscriminator, weight: float) -> Adversary:
    """The discriminator that sees them through a network that stays as it is."""

    def judge(variables: Mapping[str, Any], frozen: Frozen, images: Images) -> tuple[Float[Array, "b h w n"], Any]:
        return discriminator.apply(variables, frozen["features"], images, train=True)

    fields = ("feature_params", "feature_stats", "feature_opt_state", "feature_logits")
    return Adversary(judge, weight, "_features", *fields, stream=3)


def squared_slope(judge: Callable[[Images], Float[Array, "b h w n"]], images: Images) -> Scalar:
    """Squared length of the gradient of an image's mean logit at its pixels, averaged over the images."""
    mean_logits = lambda images: jnp.sum(jnp.mean(judge(images), axis=(1, 2, 3)))
    return jnp.mean(jnp.sum(jax.grad(mean_logits)(images) ** 2, axis=(1, 2, 3)))
