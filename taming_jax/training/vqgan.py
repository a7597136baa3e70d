"""Training of the first stage: the state of its two networks and the step that updates them in turn.

Esser, Rombach & Ommer 2021, equations 4 to 7. One step updates the generator, runs it again, and updates the
discriminator on the new reconstructions. Over a mesh a batch is one batch: statistics, means and the adaptive weight
are the global ones.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array
from jaxtyping import Float, Int, Key

from taming_jax import checkpoint
from taming_jax.metrics.codebook import perplexity, usage
from taming_jax.models.discriminator import Discriminator
from taming_jax.models.vqgan import VQGAN, network_input
from taming_jax.nn.quantizers import count_codes, ema_codebook
from taming_jax.settings import plain_size
from taming_jax.training.accumulate import mean_over_parts
from taming_jax.training.losses import D_LOSSES, g_loss
from taming_jax.training.optim import move_averages, start_averages
from taming_jax.training.vqgan_loss import VQGANLossConfig, generator_weight, reconstruction_loss

Batch = Mapping[str, Array]
Metrics = dict[str, Float[Array, ""]]
RandomKey = Key[Array, ""]


@struct.dataclass
class VQGANState:
    """Everything that training changes. Without a discriminator its fields are empty."""

    step: Int[Array, ""]  # steps done
    params: Any  # generator; all that encoding and decoding need
    ema: Any  # averages of a codebook that follows by them, else empty
    disc_params: Any
    batch_stats: Any  # the discriminator's running statistics
    opt_state: Any
    disc_opt_state: Any
    averages: Any = struct.field(default_factory=dict)  # of the parameters, where training keeps them


@dataclass(frozen=True)
class VQGANTraining:
    """The training of a first stage: its static parts, the start of its state, and the step.

    Nothing here needs data or weights, so that `init` and `step` can be compiled for their shapes alone.

    discriminator, disc_optimizer: None where the loss gives it no weight.
    batch_shape: (b, H, W, c) of what the networks read in a step, over all devices.
    accumulate: parts of the batch that go through the networks one after the other, first all for the generator and
        then all for the discriminator; batch normalisation, codebook averages and the adaptive weight are then those of
        each part.
    ema_decay: of the averages of the generator's parameters; 0 for none.
    seed: of the randomness in steps: its key folded with the number of the step, so a resumed run needs no saved key.
    init_from: the directory of a model to start from, with its discriminator; empty for a fresh one.
    Raises ValueError where the parts do not fit.
    """

    model: VQGAN
    discriminator: Discriminator | None
    loss: VQGANLossConfig
    optimizer: optax.GradientTransformation
    disc_optimizer: optax.GradientTransformation | None
    batch_shape: tuple[int, int, int, int]
    accumulate: int = 1
    ema_decay: float = 0.0
    seed: int = 0
    init_from: str = ""

    def __post_init__(self) -> None:
        loss, config = self.loss, self.model.config
        if not config.reads.image_losses and (self.adversarial or loss.perceptual_weight > 0):
            raise ValueError(
                f"config.loss.disc_weight={loss.disc_weight} and perceptual_weight={loss.perceptual_weight}, but a "
                f"first stage for {config.content} is trained without discriminator and LPIPS; set both to 0."
            )
        if loss.perceptual_weight > 0 and config.in_channels not in (1, 3):
            raise ValueError(
                f"LPIPS compares images of 3 channels or 1, and these have {config.in_channels}, but "
                f"config.loss.perceptual_weight is {loss.perceptual_weight}; set it to 0"
            )
        if self.adversarial and (self.discriminator is None or self.disc_optimizer is None):
            raise ValueError(
                f"config.loss.disc_weight={loss.disc_weight}, but there is no discriminator or no optimizer for it; 0 "
                "means none."
            )
        if self.discriminator and self.discriminator.config.in_channels != config.out_channels:
            raise ValueError(
                f"config.discriminator.in_channels={self.discriminator.config.in_channels}, but the images have "
                f"{config.out_channels} channels; set it to that."
            )
        _, h, w, _ = self.batch_shape
        try:
            config.grid(h, w)
        except ValueError as error:
            raise ValueError(f"config.data.size={plain_size((h, w))}: {error}") from error

    @property
    def adversarial(self) -> bool:
        """Whether a discriminator takes part."""
        return self.loss.disc_weight > 0

    def init(self, key: RandomKey) -> VQGANState:
        """A fresh state; pure, so that `jit(init, out_shardings=...)` makes every array where it belongs."""
        key, disc_key = jax.random.split(key)
        image = jnp.zeros((1, *self.batch_shape[1:]), jnp.float32)
        variables = self.model.init(key, image)
        params, ema = variables["params"], variables.get("ema", {})
        disc_params, batch_stats, disc_opt_state = {}, {}, ()
        if self.discriminator and self.disc_optimizer:
            variables = self.discriminator.init(disc_key, image)
            disc_params, batch_stats = variables["params"], variables["batch_stats"]
            disc_opt_state = self.disc_optimizer.init(disc_params)
        return VQGANState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema=ema,
            disc_params=disc_params,
            batch_stats=batch_stats,
            opt_state=self.optimizer.init(params),
            disc_opt_state=disc_opt_state,
            averages=start_averages(self.ema_decay, params),
        )

    def start(self) -> dict[str, Any]:
        """The fields of a fresh state that come from the model in `init_from`. Raises ValueError for another network
        where the shapes do not tell."""
        if not self.init_from:
            return {}
        saved, ours = checkpoint.open_saved(self.init_from), self.model.config
        if saved.kind != "vqgan":
            raise ValueError(f"config.init_from={self.init_from!r} holds no first stage.")
        groups = saved.config["model"]["norm_groups"]
        if groups != ours.norm_groups:
            raise ValueError(
                f"config.init_from holds another network: model.norm_groups is {groups} there, {ours.norm_groups} here."
            )
        params = saved.load_params()
        fields = {"params": params, "averages": start_averages(self.ema_decay, params)}
        if ours.quantizer == "ema":  # averages that say what the codebook is, each code used alike
            codebook, (b, h, w, _) = params["quantizer"]["codebook"], self.batch_shape
            latents = b * math.prod(ours.grid(h, w))
            count = np.full(len(codebook), latents / len(codebook), np.float32)
            fields["ema"] = {"quantizer": {"count": count, "total": count[:, None] * codebook}}
        found = saved.load_discriminator() if self.adversarial else None
        return fields | ({"disc_params": found["params"], "batch_stats": found["batch_stats"]} if found else {})

    def step(self, state: VQGANState, lpips_params: Any, batch: Batch) -> tuple[VQGANState, Metrics]:
        """One update of the generator and, where there is one, of the discriminator; to be jitted with the state
        donated.

        The batch holds what `models.vqgan.network_input` reads, images as (b, H, W, c) float32 in [-1, 1]. Metrics are
        float32 scalars: total_loss, nll_loss (= rec_loss), l1_loss (or l2_loss, bce_loss), quant_loss, those of the
        quantizer, and where they are computed p_loss, g_loss, d_weight, disc_factor, disc_loss, logits_real,
        logits_fake. Raises ValueError where the loss asks for LPIPS and its parameters are missing.
        """
        if self.loss.perceptual_weight > 0 and not lpips_params:
            raise ValueError(
                f"config.loss.perceptual_weight={self.loss.perceptual_weight}, but there are no LPIPS parameters; 0 "
                "means no LPIPS."
            )
        keys = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), state.step))
        state, metrics = self._update_generator(state, lpips_params, batch, keys[0])
        if self.adversarial:
            state, disc_metrics = self._update_discriminator(state, batch, keys[1])
            metrics |= disc_metrics
        averages = move_averages(self.ema_decay, state.averages, state.params, state.step)
        return replace(state, step=state.step + 1, averages=averages), metrics

    def _update_generator(
        self, state: VQGANState, lpips_params: Any, batch: Batch, key: RandomKey
    ) -> tuple[VQGANState, Metrics]:
        def gradients(statistics: dict[str, Any], part: Batch, key: RandomKey) -> tuple[dict, tuple[Any, Metrics]]:
            return self._generator_gradients(replace(state, **statistics), lpips_params, part, key)

        statistics = {"ema": state.ema, "batch_stats": state.batch_stats}
        statistics, (grads, metrics) = mean_over_parts(gradients, statistics, batch, key, self.accumulate)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = _with_followed_codebook(optax.apply_updates(state.params, updates), statistics["ema"])
        return replace(state, params=params, opt_state=opt_state, **statistics), metrics

    def _generator_gradients(
        self, state: VQGANState, lpips_params: Any, batch: Batch, key: RandomKey
    ) -> tuple[dict[str, Any], tuple[Any, Metrics]]:
        """(statistics that have moved, (gradients, metrics))."""
        loss, config = self.loss, self.model.config
        images, statistics = network_input(config, batch), {"ema": state.ema, "batch_stats": state.batch_stats}

        def forward(params: Any) -> tuple[tuple[Array, Array], tuple[Array, Metrics, Array, Any]]:
            reconstruction, features, quantized, ema = self._reconstruct(params, state.ema, images, key, state.step)
            counts = count_codes(quantized.ids, config.n_embed)
            return (reconstruction, quantized.loss), (features, quantized.metrics, counts, ema)

        (fake, quant_loss), backward, extras = jax.vjp(forward, state.params, has_aux=True)
        features, quant_metrics, counts, statistics["ema"] = extras
        nll_of = partial(reconstruction_loss, loss, config, lpips_params, images)
        (nll, parts), fake_grad = jax.value_and_grad(nll_of, has_aux=True)(fake)
        total = nll + loss.codebook_weight * quant_loss
        metrics = {"nll_loss": nll, "rec_loss": nll, "quant_loss": quant_loss, **parts, **quant_metrics}
        metrics |= {"perplexity": perplexity(counts), "usage": usage(counts)}
        if self.adversarial:

            def adversarial_loss(fake: Float[Array, "b H W c"]) -> tuple[Float[Array, ""], Any]:
                logits, batch_stats = self._judge(state.disc_params, state.batch_stats, fake)
                return g_loss(logits), batch_stats

            (g, statistics["batch_stats"]), g_grad = jax.value_and_grad(adversarial_loss, has_aux=True)(fake)
            weight = generator_weight(loss, state.params, features, fake_grad, g_grad)
            factor = loss.adversarial_factor(state.step)
            # The weight is no function of the parameters here, so one pull-back serves both terms.
            fake_grad = fake_grad + factor * weight * g_grad
            total = total + factor * weight * g
            metrics |= {"g_loss": g, "d_weight": weight, "disc_factor": factor}
        (grads,) = backward((fake_grad, jnp.asarray(loss.codebook_weight, jnp.float32)))
        return statistics, (grads, {"total_loss": total, **metrics})

    def _update_discriminator(self, state: VQGANState, batch: Batch, key: RandomKey) -> tuple[VQGANState, Metrics]:
        def gradients(batch_stats: Any, part: Batch, key: RandomKey) -> tuple[Any, tuple[Any, Metrics]]:
            return self._discriminator_gradients(replace(state, batch_stats=batch_stats), part, key)

        batch_stats, (grads, metrics) = mean_over_parts(gradients, state.batch_stats, batch, key, self.accumulate)
        assert self.disc_optimizer is not None  # see __post_init__
        updates, opt_state = self.disc_optimizer.update(grads, state.disc_opt_state, state.disc_params)
        disc_params = optax.apply_updates(state.disc_params, updates)
        return replace(state, disc_params=disc_params, batch_stats=batch_stats, disc_opt_state=opt_state), metrics

    def _discriminator_gradients(
        self, state: VQGANState, batch: Batch, key: RandomKey
    ) -> tuple[Any, tuple[Any, Metrics]]:
        """(running statistics that have moved, (gradients, metrics))."""
        images = network_input(self.model.config, batch)
        fake = self._reconstruct(state.params, state.ema, images, key, state.step)[0]
        learns = self.loss.learns(state.step)

        def disc_loss(params: Any) -> tuple[Float[Array, ""], tuple[Any, Metrics]]:
            # Reals first: each call moves the running statistics.
            real_logits, batch_stats = self._judge(params, state.batch_stats, images)
            fake_logits, batch_stats = self._judge(params, batch_stats, fake)
            metrics = {"logits_real": jnp.mean(real_logits), "logits_fake": jnp.mean(fake_logits)}
            # Before its start the gradients are zero, and Adam counts the step without moving anything.
            return learns * D_LOSSES[self.loss.disc_loss](real_logits, fake_logits), (batch_stats, metrics)

        (value, (batch_stats, metrics)), grads = jax.value_and_grad(disc_loss, has_aux=True)(state.disc_params)
        return batch_stats, (grads, {"disc_loss": value, **metrics})

    def _reconstruct(
        self, params: Any, ema: Any, images: Float[Array, "b H W c"], key: RandomKey, step: Int[Array, ""]
    ) -> tuple[Float[Array, "b H W c"], Float[Array, "b H W f"], Any, Any]:
        """(reconstruction, the features it comes from, what the quantizer gives, averages that have moved)."""
        names = ("dropout", "quantize")
        rngs = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        options = {"rngs": rngs, "mutable": ["ema"], "method": VQGAN.reconstruct}
        variables = {"params": params, "ema": ema}
        outputs, moved = self.model.apply(variables, images, True, self.loss.temperature(step), **options)
        return *outputs, moved.get("ema", {})

    def _judge(
        self, params: Any, batch_stats: Any, images: Float[Array, "b H W c"]
    ) -> tuple[Float[Array, "b h w 1"], Any]:
        """(the discriminator's logits, running statistics that have moved)."""
        variables = {"params": params, "batch_stats": batch_stats}
        assert self.discriminator is not None  # see __post_init__
        logits, moved = self.discriminator.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, moved["batch_stats"]


def _with_followed_codebook(params: Any, ema: Any) -> Any:
    """The parameters with the codebook that the averages name, where there are any."""
    if not ema:
        return params
    codebook = ema_codebook(ema["quantizer"])
    return {**params, "quantizer": {**params["quantizer"], "codebook": codebook}}
