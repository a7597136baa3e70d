"""Training of the first stage: the state of its two networks and the step that updates them in turn.

Esser, Rombach & Ommer 2021, equations 4 to 7. One step updates the generator, runs it again, and updates the
discriminator on the new reconstructions. Over a mesh a batch is one batch: statistics, means and the adaptive weight
are the global ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from taming_jax.metrics.codebook import perplexity, usage
from taming_jax.metrics.image import MEASURES
from taming_jax.models.discriminator import Discriminator
from taming_jax.models.lpips import LPIPS
from taming_jax.models.vqgan import VQGAN, network_input
from taming_jax.nn.conv import SAME3, conv2d
from taming_jax.nn.quantizers import count_codes, ema_codebook
from taming_jax.training.accumulate import mean_over_parts
from taming_jax.training.losses import D_LOSSES, adaptive_weight, g_loss
from taming_jax.training.optim import move_averages, start_averages


@dataclass(frozen=True)
class VQGANLossConfig:
    """Weights and schedule of the loss. The defaults are the published training's, with the discriminator from step 0.

    pixel_weight, perceptual_weight: of the mean absolute difference and of LPIPS, which together are the "nll". Without
        a perceptual weight no LPIPS is computed and no weight file needed.
    codebook_weight: of the quantizer's loss.
    disc_weight: of the adversarial term, times the adaptive weight; 0 means no discriminator at all.
    disc_loss: "hinge" or "vanilla".
    disc_start: the step from which the generator hears the discriminator.
    disc_learn_start: the step from which the discriminator learns, at most disc_start; None: disc_start. One that
        learned for some thousand steps before it is heard does not wreck the reconstructions when it is.
    disc_ramp: steps over which the generator hears it ever louder, from disc_start; 0: at once.
    adaptive_cap: largest adaptive weight (before disc_weight).
    fixed_weight: disc_weight alone, with no adaptive weight.
    lpips_path: the converted weights, needed where perceptual_weight > 0.
    temperature_start, _max, _min, _warmup, _steps: of the Gumbel quantizer: from start linearly to max in `warmup`
        steps, then along half a cosine to min at step `steps`.

    For label maps the "nll" is `pixel_weight` times the binary cross-entropy of their channels, and there is neither
    LPIPS nor a discriminator: both weights must be 0. For edges and pose the difference is squared.
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
    lpips_path: str = "weights/lpips_vgg16.npz"
    temperature_start: float = 1.0
    temperature_max: float = 1.0
    temperature_min: float = 1e-6
    temperature_warmup: int = 5000
    temperature_steps: int = 1_000_001

    def __post_init__(self):
        for name in ("perceptual_weight", "pixel_weight", "codebook_weight", "disc_weight", "disc_start", "disc_ramp"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.adaptive_cap <= 0:
            raise ValueError(f"adaptive_cap must be above 0, got {self.adaptive_cap}")
        if self.disc_loss not in D_LOSSES:
            raise ValueError(f"unknown disc_loss {self.disc_loss!r}; known: {', '.join(sorted(D_LOSSES))}")
        if not 0 < self.temperature_min <= self.temperature_max or self.temperature_start <= 0:
            raise ValueError("the Gumbel temperatures must be above 0, and temperature_min at most temperature_max")
        if not 0 <= self.temperature_warmup < self.temperature_steps:
            raise ValueError(
                f"temperature_warmup {self.temperature_warmup} must be below temperature_steps {self.temperature_steps}"
            )
        if self.disc_learn_start is not None and not 0 <= self.disc_learn_start <= self.disc_start:
            raise ValueError(
                f"disc_learn_start {self.disc_learn_start} must lie in 0 .. disc_start {self.disc_start}: "
                "the generator would hear an untrained discriminator"
            )

    def heard(self, step: Array) -> Array:
        """How loud the generator hears the discriminator at a step, in [0, 1]."""
        ramp = max(self.disc_ramp, 1)
        return jnp.clip((step - self.disc_start + 1) / ramp, 0.0, 1.0).astype(jnp.float32)

    def temperature(self, step: Array) -> Array:
        """Of the Gumbel quantizer at a step."""
        schedule = optax.warmup_cosine_decay_schedule(
            init_value=self.temperature_start,
            peak_value=self.temperature_max,
            warmup_steps=self.temperature_warmup,
            decay_steps=self.temperature_steps,
            end_value=self.temperature_min,
        )
        return jnp.asarray(schedule(step), jnp.float32)

    def learns(self, step: Array) -> Array:
        """1 where the discriminator learns at a step, else 0."""
        start = self.disc_start if self.disc_learn_start is None else self.disc_learn_start
        return (step >= start).astype(jnp.float32)


@struct.dataclass
class VQGANState:
    """Everything that training changes. Without a discriminator its fields are empty."""

    step: Array  # () int32, steps done
    params: Any  # generator; all that encoding and decoding need
    ema: Any  # averages of a codebook that follows by them, else empty
    disc_params: Any
    batch_stats: Any  # the discriminator's running statistics
    opt_state: Any
    disc_opt_state: Any
    averages: Any = struct.field(default_factory=dict)  # of the parameters, where training keeps them


def make_state(
    key: Array, model: VQGAN, disc: Discriminator | None, optimizers, image_shape, ema_decay: float = 0.0
) -> VQGANState:
    """A fresh state; pure, so that `jit(make_state, out_shardings=...)` makes every array where it belongs.

    `optimizers` is (generator's, discriminator's); `image_shape` (H, W, c), with or without leading batch.
    """
    tx, disc_tx = optimizers
    key, disc_key = jax.random.split(key)
    image = jnp.zeros((1, *image_shape[-3:]), jnp.float32)
    variables = model.init(key, image)
    params, ema = variables["params"], variables.get("ema", {})
    disc_params, batch_stats, disc_opt_state = {}, {}, ()
    if disc is not None:
        variables = disc.init(disc_key, image)
        disc_params, batch_stats = variables["params"], variables["batch_stats"]
        disc_opt_state = disc_tx.init(disc_params)
    step = jnp.zeros((), jnp.int32)
    averages = start_averages(ema_decay, params)
    return VQGANState(step, params, ema, disc_params, batch_stats, tx.init(params), disc_opt_state, averages)


def make_train_step(
    model: VQGAN,
    disc: Discriminator | None,
    loss: VQGANLossConfig,
    tx: optax.GradientTransformation,
    disc_tx: optax.GradientTransformation | None = None,
    *,
    accumulate: int = 1,
    ema_decay: float = 0.0,
) -> Callable[..., tuple[VQGANState, dict[str, Array]]]:
    """The function `step(state, batch, key, lpips_params=None) -> (state, metrics)`, to be jitted with the state
    donated.

    The batch holds what `models.vqgan.network_input` reads, images as (b, H, W, c) float32 in [-1, 1]; `key` is this
    step's own. Metrics are float32 scalars: total_loss, nll_loss (= rec_loss), l1_loss (or l2_loss, bce_loss),
    quant_loss, those of the quantizer, and where they are computed p_loss, g_loss, d_weight, disc_factor, disc_loss,
    logits_real, logits_fake. Raises ValueError where a network is missing that the weights ask for.

    accumulate: parts of the batch that go through the networks one after the other, first all for the generator and
    then all for the discriminator; batch normalisation, codebook averages and the adaptive weight are then those of
    each part. ema_decay: of the averages of the generator's parameters.
    """
    adversarial = loss.disc_weight > 0
    if not model.config.reads.image_losses and (adversarial or loss.perceptual_weight > 0):
        raise ValueError(
            f"a first stage for {model.config.content} is trained without discriminator and LPIPS, but disc_weight is "
            f"{loss.disc_weight} and perceptual_weight {loss.perceptual_weight}; set both to 0"
        )
    if adversarial and (disc is None or disc_tx is None):
        raise ValueError(f"disc_weight {loss.disc_weight} needs a discriminator and its optimizer; 0 means none")

    def step(state, batch, key, lpips_params=None):
        if loss.perceptual_weight > 0 and lpips_params is None:
            raise ValueError(f"perceptual_weight {loss.perceptual_weight} needs LPIPS parameters; 0 means no LPIPS")
        keys = jax.random.split(key)
        state, metrics = update_generator(state, batch, keys[0], lpips_params)
        if adversarial:
            state, disc_metrics = update_discriminator(state, batch, keys[1])
            metrics |= disc_metrics
        averages = move_averages(ema_decay, state.averages, state.params, state.step)
        return state.replace(step=state.step + 1, averages=averages), metrics

    def reconstruct(params, ema, images, key, step):
        names = ("dropout", "quantize")
        rngs = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        variables = {"params": params, "ema": ema}
        options = {"rngs": rngs, "mutable": ["ema"], "method": VQGAN.reconstruct}
        outputs, moved = model.apply(variables, images, True, loss.temperature(step), **options)
        return *outputs, moved.get("ema", {})

    def run_disc(params, batch_stats, images):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, moved = disc.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, moved["batch_stats"]

    def update_generator(state, batch, key, lpips_params):
        def gradients(statistics, part, key):
            return generator_gradients(state.replace(**statistics), part, key, lpips_params)

        statistics = {"ema": state.ema, "batch_stats": state.batch_stats}
        statistics, (grads, metrics) = mean_over_parts(gradients, statistics, batch, key, accumulate)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = _with_followed_codebook(optax.apply_updates(state.params, updates), statistics["ema"])
        return state.replace(params=params, opt_state=opt_state, **statistics), metrics

    def generator_gradients(state, batch, key, lpips_params):
        images, statistics = network_input(model.config, batch), {"ema": state.ema, "batch_stats": state.batch_stats}

        def forward(params):
            reconstruction, features, quantized, ema = reconstruct(params, state.ema, images, key, state.step)
            counts = count_codes(quantized.ids, model.config.n_embed)
            return (reconstruction, quantized.loss), (features, quantized.metrics, counts, ema)

        (fake, quant_loss), backward, extras = jax.vjp(forward, state.params, has_aux=True)
        features, quant_metrics, counts, statistics["ema"] = extras
        nll_of = partial(_nll, loss, model.config, lpips_params, images)
        (nll, parts), fake_grad = jax.value_and_grad(nll_of, has_aux=True)(fake)
        total = nll + loss.codebook_weight * quant_loss
        metrics = {"nll_loss": nll, "rec_loss": nll, "quant_loss": quant_loss, **parts, **quant_metrics}
        metrics |= {"perplexity": perplexity(counts), "usage": usage(counts)}
        if adversarial:

            def adversarial_loss(fake):
                logits, batch_stats = run_disc(state.disc_params, state.batch_stats, fake)
                return g_loss(logits), batch_stats

            (g, statistics["batch_stats"]), g_grad = jax.value_and_grad(adversarial_loss, has_aux=True)(fake)
            weight = _generator_weight(loss, state.params, features, fake_grad, g_grad)
            factor = loss.heard(state.step)
            # The weight is no function of the parameters here, so one pull-back serves both terms.
            fake_grad = fake_grad + factor * weight * g_grad
            total = total + factor * weight * g
            metrics |= {"g_loss": g, "d_weight": weight, "disc_factor": factor}
        (grads,) = backward((fake_grad, jnp.asarray(loss.codebook_weight, jnp.float32)))
        return statistics, (grads, {"total_loss": total, **metrics})

    def update_discriminator(state, batch, key):
        def gradients(batch_stats, part, key):
            return discriminator_gradients(state.replace(batch_stats=batch_stats), part, key)

        batch_stats, (grads, metrics) = mean_over_parts(gradients, state.batch_stats, batch, key, accumulate)
        updates, opt_state = disc_tx.update(grads, state.disc_opt_state, state.disc_params)
        disc_params = optax.apply_updates(state.disc_params, updates)
        return state.replace(disc_params=disc_params, batch_stats=batch_stats, disc_opt_state=opt_state), metrics

    def discriminator_gradients(state, batch, key):
        images = network_input(model.config, batch)
        fake = reconstruct(state.params, state.ema, images, key, state.step)[0]
        learns = loss.learns(state.step)

        def disc_loss(params):
            # Reals first: each call moves the running statistics.
            real_logits, batch_stats = run_disc(params, state.batch_stats, images)
            fake_logits, batch_stats = run_disc(params, batch_stats, fake)
            metrics = {"logits_real": jnp.mean(real_logits), "logits_fake": jnp.mean(fake_logits)}
            # Before its start the gradients are zero, and Adam counts the step without moving anything.
            return learns * D_LOSSES[loss.disc_loss](real_logits, fake_logits), (batch_stats, metrics)

        (value, (batch_stats, metrics)), grads = jax.value_and_grad(disc_loss, has_aux=True)(state.disc_params)
        return batch_stats, (grads, {"disc_loss": value, **metrics})

    return step


def make_eval_step(model: VQGAN) -> Callable[..., dict[str, Array]]:
    """The function `evaluate(params, batch, lpips_params=None) -> dict`, to be jitted.

    Sums over the images of a batch, to be added up and divided by "n": "l1_sum", "psnr_sum" and "ssim_sum" (of
    reconstructions clipped to [-1, 1]), with LPIPS parameters "lpips_sum"; for label maps instead "accuracy_sum", the
    share of pixels of the right label; "code_counts" (n_embed,); and the "reconstruction" (b, H, W, c) itself. Images
    where `batch["valid"]` (b,) is False count nowhere; without it all do.
    """

    def evaluate(params, batch, lpips_params=None):
        images = network_input(model.config, batch)
        fake, quantized = model.apply({"params": params}, images)
        valid = batch.get("valid", jnp.ones(images.shape[:1], jnp.bool_)).astype(jnp.float32)
        total = lambda per_image: jnp.sum(jnp.where(valid > 0, per_image, 0.0))
        counted = jnp.broadcast_to(valid[:, None, None], quantized.ids.shape)
        sums = {
            "n": valid.sum(),
            "code_counts": count_codes(quantized.ids, model.config.n_embed, counted),
            "reconstruction": fake,
        }
        content = model.config.reads
        sums |= {f"{name}_sum": total(MEASURES[name](images, fake)) for name in content.measures}
        if lpips_params is not None and content.image_losses:
            sums["lpips_sum"] = total(_distance(model.config, lpips_params, images, fake))
        return sums

    return evaluate


def _with_followed_codebook(params, ema):
    """The parameters with the codebook that the averages name, where there are any."""
    if not ema:
        return params
    codebook = ema_codebook(ema["quantizer"])
    return {**params, "quantizer": {**params["quantizer"], "codebook": codebook}}


def _distance(config, lpips_params, images, fake):
    """LPIPS (b,); maps of one channel as grey images."""
    distance = LPIPS(jnp.dtype(config.dtype))
    images, fake = (jnp.broadcast_to(x, (*x.shape[:3], 3)) if x.shape[-1] == 1 else x for x in (images, fake))
    return distance.apply({"params": lpips_params}, images, fake)


def _nll(loss, config, lpips_params, images, fake):
    """The reconstruction part of the loss and what it consists of."""
    parts = config.reads.reconstruction_loss(images, fake)
    value = loss.pixel_weight * sum(parts.values())
    if loss.perceptual_weight > 0:
        parts["p_loss"] = jnp.mean(_distance(config, lpips_params, images, fake))
        value = value + loss.perceptual_weight * parts["p_loss"]
    return value, parts


def _generator_weight(loss, params, features, nll_grad, g_grad):
    """disc_weight times the adaptive weight. Gradients at the last kernel need that convolution's pull-back alone."""
    if loss.fixed_weight:
        return jnp.asarray(loss.disc_weight, jnp.float32)
    features = features.astype(jnp.float32)
    kernel = params["decoder"]["conv_out"]["kernel"]
    _, at_kernel = jax.vjp(lambda kernel: conv2d(features, kernel, padding=SAME3), kernel)
    return loss.disc_weight * adaptive_weight(at_kernel(nll_grad)[0], at_kernel(g_grad)[0], loss.adaptive_cap)
