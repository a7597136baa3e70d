"""The loss of the first stage's training: its settings and schedule, its parts, the weight of the adversarial one."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int

from taming_jax.models.lpips import LPIPS
from taming_jax.models.vqgan import VQGANConfig
from taming_jax.nn.codes import Quantized
from taming_jax.nn.conv import SAME3, conv2d
from taming_jax.settings import PathText, check, check_known
from taming_jax.training.augmentation import KINDS
from taming_jax.training.losses import D_LOSSES, adaptive_weight


@dataclass(frozen=True)
class VQGANLossConfig:
    """Weights and schedule of the loss. The defaults are the published training's, with the discriminator from step 0.

    pixel_weight, perceptual_weight: of `pixel_loss` and of LPIPS, which together are the "nll". Without
        a perceptual weight no LPIPS is computed and no weight file needed.
    codebook_weight: of the quantizer's loss.
    entropy_start, entropy_steps: its entropy term counts so many times as much at step 0, falling linearly to once at
        step `entropy_steps`; 0 steps: once from the start.
    disc_weight: of the adversarial term, times the adaptive weight; 0 means no discriminator on patches.
    feature_weight: the same of a discriminator on features, beside that on patches or alone, times an adaptive weight
        of its own; 0 means none. All other settings of the adversarial loss are for both alike, and each has its own
        averages and penalties.
    disc_loss: "hinge", "vanilla", or "non_saturating", the vanilla one with the generator's -log D.
    lecam_weight, lecam_decay: of LeCAM's penalty of the discriminator, and of the averages of logits that it compares
        with; 0: none.
    r1_weight: half of it times the squared gradient of the discriminator at real images (R1: Mescheder et al. 2018,
        arXiv 1801.04406) is added to its loss; 0: none.
    guard: decibels that the validation's PSNR may fall below its best after disc_start: while it is lower the growth of
        the adversarial loss over disc_ramp waits; 0: no guard.
    disc_start: the step from which the adversarial loss trains the generator.
    disc_learn_start: the step from which the discriminator learns, at most disc_start; None: disc_start. One that
        learned for some thousand steps before does not wreck the reconstructions when its loss sets in.
    disc_ramp: adversarial warm-up: steps from disc_start over which the adversarial loss grows to its full weight; 0:
        at once.
    adaptive_cap: largest adaptive weight (before disc_weight).
    fixed_weight: disc_weight and feature_weight alone, with no adaptive weights.
    pixel_loss: "l1" or "l2", the mean absolute or squared difference; "": that of what is read, of images l1.
    augment: names of `augmentation.KINDS` with commas between them, which reals and fakes go through in turn on their
        way to a discriminator; "": none.
    lpips_path, feature_path: the converted weights, needed where perceptual_weight or feature_weight is above 0.
    temperature_start, _max, _min, _warmup, _steps: of the Gumbel quantizer: from start linearly to max in `warmup`
        steps, then along half a cosine to min at step `steps`.

    For label maps the "nll" is `pixel_weight` times the binary cross-entropy of their channels, and there is neither
    LPIPS nor a discriminator: their weights must be 0. For edges and pose the difference is squared by default.
    """

    perceptual_weight: float = 1.0
    pixel_weight: float = 1.0
    codebook_weight: float = 1.0
    disc_weight: float = 0.8
    disc_loss: str = "hinge"
    disc_start: int = 0
    disc_learn_start: int | None = None
    disc_ramp: int = 0
    adaptive_cap: float = 1e4
    fixed_weight: bool = False
    lpips_path: PathText = "weights/lpips_vgg16.npz"
    temperature_start: float = 1.0
    temperature_max: float = 1.0
    temperature_min: float = 1e-6
    temperature_warmup: int = 5000
    temperature_steps: int = 1_000_001
    entropy_start: float = 1.0
    entropy_steps: int = 0
    lecam_weight: float = 0.0
    lecam_decay: float = 0.999
    r1_weight: float = 0.0
    guard: float = 0.0
    feature_weight: float = 0.0
    feature_path: PathText = "weights/dinov2_vits14.npz"
    pixel_loss: str = ""
    augment: str = ""

    def __post_init__(self) -> None:
        weights = ("perceptual_weight", "pixel_weight", "codebook_weight", "disc_weight", "feature_weight")
        steps = ("disc_start", "disc_ramp", "entropy_steps")
        for name in (*weights, *steps, "entropy_start", "lecam_weight", "r1_weight", "guard"):
            check(self, name, getattr(self, name) >= 0, "it must not be negative")
        begins = "without entropy_steps it has no effect"
        check(self, "entropy_start", bool(self.entropy_steps) or self.entropy_start == 1.0, begins)
        check(self, "adaptive_cap", self.adaptive_cap > 0, "it must be above 0")
        check_known(self, "disc_loss", D_LOSSES)
        check_known(self, "pixel_loss", ("", "l1", "l2"))
        kinds = self.augmentation
        known = len(set(kinds)) == len(kinds) and set(kinds) <= set(KINDS)
        check(self, "augment", known, f"it must be of {', '.join(KINDS)}, each at most once, with commas between them")
        check(self, "lecam_decay", 0 < self.lecam_decay < 1, "it must be in (0, 1)")
        check(
            self, "guard", bool(self.disc_ramp) or not self.guard, "without disc_ramp there is nothing that could wait"
        )
        needed = "it needs a discriminator, and disc_weight is 0, and feature_weight too"
        for name in ("lecam_weight", "r1_weight", "guard", "augment"):
            check(self, name, self.adversarial or not getattr(self, name), needed)
        for name in ("temperature_start", "temperature_min"):
            check(self, name, getattr(self, name) > 0, "it must be above 0")
        highest = f"it must be at least temperature_min={self.temperature_min}"
        check(self, "temperature_max", self.temperature_max >= self.temperature_min, highest)
        warms_up = 0 <= self.temperature_warmup < self.temperature_steps
        expected = f"it must be from 0 to below temperature_steps={self.temperature_steps}"
        check(self, "temperature_warmup", warms_up, expected)
        learns_first = self.disc_learn_start is None or 0 <= self.disc_learn_start <= self.disc_start
        check(
            self,
            "disc_learn_start",
            learns_first,
            f"it must be from 0 to disc_start={self.disc_start}: the generator would be trained by an untrained "
            "discriminator",
        )

    @property
    def augmentation(self) -> tuple[str, ...]:
        """The kinds of `augment`."""
        return tuple(name.strip() for name in self.augment.split(",")) if self.augment else ()

    @property
    def adversarial(self) -> bool:
        """Whether a discriminator takes part."""
        return self.disc_weight > 0 or self.feature_weight > 0

    def adversarial_factor(self, step: Int[Array, "*s"]) -> Float[Array, "*s"]:
        """What the adversarial loss is multiplied by at a step, in [0, 1]: 0 before disc_start, then warming up."""
        ramp = max(self.disc_ramp, 1)
        return jnp.clip((step - self.disc_start + 1) / ramp, 0.0, 1.0).astype(jnp.float32)

    def temperature(self, step: Int[Array, "*s"] | int) -> Float[Array, "*s"]:
        """Of the Gumbel quantizer at a step."""
        schedule = optax.warmup_cosine_decay_schedule(
            init_value=self.temperature_start,
            peak_value=self.temperature_max,
            warmup_steps=self.temperature_warmup,
            decay_steps=self.temperature_steps,
            end_value=self.temperature_min,
        )
        return jnp.asarray(schedule(step), jnp.float32)

    def annealed(self, quantized: Quantized, step: Int[Array, ""]) -> Float[Array, ""]:
        """The quantizer's loss at a step."""
        if not self.entropy_steps or "entropy_loss" not in quantized.metrics:
            return quantized.loss
        more = (self.entropy_start - 1) * jnp.clip(1 - step / self.entropy_steps, 0.0, 1.0)
        return quantized.loss + more * quantized.metrics["entropy_loss"]

    def learns(self, step: Int[Array, "*s"]) -> Float[Array, "*s"]:
        """1 where the discriminator learns at a step, else 0."""
        start = self.disc_start if self.disc_learn_start is None else self.disc_learn_start
        return (step >= start).astype(jnp.float32)


def reconstruction_loss(
    loss: VQGANLossConfig,
    config: VQGANConfig,
    lpips_params: Any,
    images: Float[Array, "b H W c"],
    fake: Float[Array, "b H W c"],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """(the "nll", what it consists of), of what went in and what came out."""
    parts = config.reads.reconstruction_loss(images, fake, loss.pixel_loss)
    value: Any = loss.pixel_weight * sum(parts.values())
    if loss.perceptual_weight > 0:
        parts["p_loss"] = jnp.mean(lpips_distance(lpips_params, images, fake, config.dtype))
        value = value + loss.perceptual_weight * parts["p_loss"]
    return value, parts


def lpips_distance(
    lpips_params: Any, images: Float[Array, "b H W c"], fake: Float[Array, "b H W c"], dtype: str = "float32"
) -> Float[Array, " b"]:
    """LPIPS, computed in `dtype`; maps of one channel as grey images."""
    distance = LPIPS(jnp.dtype(dtype))
    images, fake = (jnp.broadcast_to(x, (*x.shape[:3], 3)) if x.shape[-1] == 1 else x for x in (images, fake))
    return distance.apply({"params": lpips_params}, images, fake)


def generator_weight(
    loss: VQGANLossConfig,
    weight: float,
    params: Any,
    features: Float[Array, "b H W f"],
    nll_grad: Float[Array, "b H W c"],
    g_grad: Float[Array, "b H W c"],
) -> Float[Array, ""]:
    """A discriminator's weight times its adaptive weight.

    features: what the decoder's last convolution sees. nll_grad, g_grad: gradients at the reconstruction; those at the
    last kernel need that convolution's pull-back alone.
    """
    if loss.fixed_weight:
        return jnp.asarray(weight, jnp.float32)
    features = features.astype(jnp.float32)
    kernel = params["decoder"]["conv_out"]["kernel"]
    _, at_kernel = jax.vjp(lambda kernel: conv2d(features, kernel, padding=SAME3), kernel)
    return weight * adaptive_weight(at_kernel(nll_grad)[0], at_kernel(g_grad)[0], loss.adaptive_cap)
