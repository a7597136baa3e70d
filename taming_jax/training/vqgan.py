"""Training of the first stage: the state of its networks and the step that updates them in turn.

Esser, Rombach & Ommer 2021, equations 4 to 7. One step updates the generator, runs it again, and updates the
discriminators on the new reconstructions. Over a mesh a batch is one batch: statistics, means and the adaptive weights
are the global ones.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jaxtyping import Float, Int, Key

from taming_jax import checkpoint
from taming_jax.checkpoint import shape_difference
from taming_jax.metrics.codebook import perplexity, usage
from taming_jax.models.discriminator import Discriminator
from taming_jax.models.feature_discriminator import FeatureDiscriminator
from taming_jax.models.vqgan import VQGAN, network_input
from taming_jax.nn.codes import count_codes
from taming_jax.settings import check, check_known, plain_size
from taming_jax.training import codebook
from taming_jax.training.accumulate import mean_over_parts
from taming_jax.training.adversary import Adversary, Frozen, on_features, on_patches
from taming_jax.training.optim import AnyOptimizer, move_averages, start_averages, start_norms, updated
from taming_jax.training.vqgan_loss import VQGANLossConfig, generator_weight, reconstruction_loss

Batch = Mapping[str, Array]
Metrics = dict[str, Float[Array, ""]]
RandomKey = Key[Array, ""]

# What keeps its parameters bit for bit, by what a training is told to freeze.
FROZEN: dict[str, tuple[str, ...]] = {"": (), "encoder": ("encoder", "quant_conv", "quantizer")}
WATCHED = "val/psnr"  # what the guard looks at
# The fields of the state that a pass through the networks moves: the generator's, and the discriminators'.
MOVED = ("ema", "recent", "batch_stats", "feature_stats")
DISC_MOVED = ("batch_stats", "logits", "feature_stats", "feature_logits")


@struct.dataclass
class VQGANState:
    """Everything that training changes. Where there is no discriminator, or none on features, its fields are empty."""

    step: Int[Array, ""]  # steps done
    params: Any  # generator; all that encoding and decoding need
    ema: Any  # averages of a codebook that follows by them, else empty
    disc_params: Any
    batch_stats: Any  # the discriminator's running statistics
    opt_state: Any
    disc_opt_state: Any
    averages: Any = struct.field(default_factory=dict)  # of the parameters, where training keeps them
    logits: Any = struct.field(default_factory=dict)  # LeCAM's averages of those of reals and fakes
    recent: Any = struct.field(default_factory=dict)  # the last ids, -1 before there were so many
    guard: Any = struct.field(default_factory=dict)  # the best PSNR, whether the ramp waits, and steps it has waited
    feature_params: Any = struct.field(default_factory=dict)  # of the heads; the network below them is not trained
    feature_stats: Any = struct.field(default_factory=dict)
    feature_opt_state: Any = struct.field(default_factory=dict)
    feature_logits: Any = struct.field(default_factory=dict)
    norms: Any = struct.field(default_factory=dict)  # of gradients by the parameters' field, where updates are skipped


@dataclass(frozen=True)
class VQGANTraining:
    """The training of a first stage: its static parts, the start of its state, and the step.

    Nothing here needs data or weights, so that `init` and `step` can be compiled for their shapes alone.

    discriminator, feature_discriminator: None where the loss gives it no weight. disc_optimizer: of either, each by
        itself; None where there is neither.
    batch_shape: (b, H, W, c) of what the networks read in a step, over all devices. sizes: sides of squares that the
        steps take in turn in place of H and W; the step is compiled for each.
    accumulate: parts of the batch that go through the networks one after the other, first all for the generator and
        then all for the discriminators; batch normalisation, codebook averages, the entropy of codes, LeCAM's averages,
        the measured use of codes and the adaptive weights are then those of each part.
    ema_decay: of the averages of the generator's parameters; 0 for none.
    seed: of the randomness in steps: its key folded with the number of the step, so a resumed run needs no saved key.
    init_from: the directory of a model to start from, with its discriminators; empty for a fresh one.
    freeze: "encoder": encoder, quantizer and codes stay as they are, and the decoder alone is trained.
    usage_window: how many of the last ids are kept, to measure the use of codes over them; 0: none.
    Raises ValueError where the parts do not fit.
    """

    model: VQGAN
    discriminator: Discriminator | None
    loss: VQGANLossConfig
    optimizer: AnyOptimizer
    disc_optimizer: AnyOptimizer | None
    batch_shape: tuple[int, int, int, int]
    accumulate: int = 1
    ema_decay: float = 0.0
    seed: int = 0
    init_from: str = ""
    freeze: str = ""
    usage_window: int = 0
    sizes: tuple[int, ...] = ()
    feature_discriminator: FeatureDiscriminator | None = None

    def __post_init__(self) -> None:
        loss, config = self.loss, self.model.config
        check_known(self, "freeze", FROZEN)
        check(self, "usage_window", self.usage_window >= 0, "it must be 0 or more ids")
        check(self, "freeze", bool(self.init_from) or not self.freeze, "there is nothing to keep without init_from")
        if loss.guard and "psnr" not in config.reads.measures:
            raise ValueError(f"loss.guard={loss.guard}, but of {config.content} no PSNR is measured; set it to 0.")
        if not config.reads.image_losses and (loss.adversarial or loss.perceptual_weight > 0):
            raise ValueError(
                f"config.loss.feature_weight={loss.feature_weight}, disc_weight={loss.disc_weight} and "
                f"perceptual_weight={loss.perceptual_weight}, but a first stage for {config.content} is trained "
                "without discriminator and LPIPS; set all to 0."
            )
        if loss.perceptual_weight > 0 and config.in_channels not in (1, 3):
            raise ValueError(
                f"LPIPS compares images of 3 channels or 1, and these have {config.in_channels}, but "
                f"config.loss.perceptual_weight is {loss.perceptual_weight}; set it to 0"
            )
        if loss.pixel_loss and config.reads.loss == "bce":
            raise ValueError(
                f"config.loss.pixel_loss={loss.pixel_loss!r}, but {config.content} has labels, no numbers, and is "
                "trained by cross-entropy; set it to ''."
            )
        given = {"disc_weight": self.discriminator, "feature_weight": self.feature_discriminator}
        for name, discriminator in given.items():
            if getattr(loss, name) > 0 and (discriminator is None or self.disc_optimizer is None):
                raise ValueError(
                    f"config.loss.{name}={getattr(loss, name)}, but there is no discriminator or no optimizer for it; "
                    "0 means none."
                )
        if loss.entropy_steps and not config.entropy_weight:
            raise ValueError(
                f"config.loss.entropy_steps={loss.entropy_steps}, but config.model.entropy_weight is 0: there is no "
                "term that could begin heavier; set it to 0."
            )
        if loss.r1_weight and self.discriminator and self.discriminator.config.norm == "batch":
            raise ValueError(
                f"config.loss.r1_weight={loss.r1_weight}, but by config.discriminator.norm='batch' an image's logits "
                "hang on the other images, and R1 asks for the slope of each by itself; set norm to 'none'."
            )
        if loss.feature_weight > 0 and config.out_channels not in (1, 3):
            raise ValueError(
                f"DINOv2 sees images of 3 channels or 1, and these have {config.out_channels}, but "
                f"config.loss.feature_weight is {loss.feature_weight}; set it to 0."
            )
        if self.discriminator and self.discriminator.config.in_channels != config.out_channels:
            raise ValueError(
                f"config.discriminator.in_channels={self.discriminator.config.in_channels}, but the images have "
                f"{config.out_channels} channels; set it to that."
            )
        _, h, w, _ = self.batch_shape
        for sides in ((h, w), *((side, side) for side in self.sizes)):
            try:
                config.grid(*sides)
                if self.discriminator:
                    self.discriminator.config.check_sides(*sides)
            except ValueError as error:
                raise ValueError(f"config.data.size={plain_size(sides)}: {error}") from error

    @property
    def adversaries(self) -> tuple[Adversary, ...]:
        """The discriminators that take part."""
        loss, found = self.loss, []
        if self.discriminator and loss.disc_weight > 0:
            found.append(on_patches(self.discriminator, loss.disc_weight))
        if self.feature_discriminator and loss.feature_weight > 0:
            found.append(on_features(self.feature_discriminator, loss.feature_weight))
        return tuple(found)

    @property
    def latents(self) -> int:
        """Of a batch; where sizes take turns, their mean, rounded."""
        b, h, w, _ = self.batch_shape
        sides = [(side, side) for side in self.sizes] or [(h, w)]
        return b * sum(math.prod(self.model.config.grid(*each)) for each in sides) // len(sides)

    def init(self, key: RandomKey) -> VQGANState:
        """A fresh state; pure, so that `jit(init, out_shardings=...)` makes every array where it belongs."""
        key, disc_key = jax.random.split(key)
        image = jnp.zeros((1, *self.batch_shape[1:]), jnp.float32)
        variables = self.model.init(key, image)
        params, ema = variables["params"], variables.get("ema", {})
        disc_params, batch_stats, disc_opt_state = {}, {}, ()
        if self.discriminator and self.disc_optimizer:
            variables = self.discriminator.init(disc_key, image)
            disc_params, batch_stats = variables["params"], variables.get("batch_stats", {})
            disc_opt_state = self.disc_optimizer.init(disc_params)
        norms = {"params": start_norms(self.optimizer)}
        norms |= {adversary.params: start_norms(self.disc_optimizer) for adversary in self.adversaries}
        averaged = ("real", "fake") if self.loss.lecam_weight else ()
        heads: dict[str, Any] = {}
        if self.feature_discriminator and self.disc_optimizer:
            variables = self.feature_discriminator.init(jax.random.fold_in(disc_key, 1))
            heads = {"feature_params": variables["params"], "feature_stats": variables["batch_stats"]}
            heads["feature_opt_state"] = self.disc_optimizer.init(variables["params"])
            heads["feature_logits"] = {name: jnp.zeros(()) for name in averaged}
        return VQGANState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema=ema,
            disc_params=disc_params,
            batch_stats=batch_stats,
            opt_state=self.optimizer.init(params),
            disc_opt_state=disc_opt_state,
            averages=start_averages(self.ema_decay, params),
            logits={name: jnp.zeros(()) for name in averaged} if disc_params else {},
            recent={"ids": jnp.full(self.usage_window, -1, jnp.int32)} if self.usage_window else {},
            guard={"best": jnp.zeros(()), "waits": jnp.zeros((), jnp.int32), "waited": jnp.zeros((), jnp.int32)}
            if self.loss.guard
            else {},
            norms={name: started for name, started in norms.items() if started},
            **heads,
        )

    def start(self) -> dict[str, Any]:
        """The fields of a fresh state that come from the model in `init_from`. Raises ValueError for another network
        where the shapes do not tell."""
        if not self.init_from:
            return {}
        saved, ours = checkpoint.open_saved(self.init_from), self.model.config
        saved.require("vqgan", "config.init_from:")
        groups = saved.config["model"]["norm_groups"]
        if groups != ours.norm_groups:
            raise ValueError(
                f"config.init_from holds another network: model.norm_groups is {groups} there, {ours.norm_groups} here."
            )
        for name in ("quantizer", "n_embed", "levels") if self.freeze else ():  # where shapes do not tell
            there, here = saved.config["model"].get(name, ()), getattr(ours, name)
            if (tuple(there) if isinstance(there, list) else there) != here:
                raise ValueError(
                    f"config.init_from has other codes, which were to stay: model.{name} is {there} there, {here} here."
                )
        params = self._with_own_decoder(saved.load_params())
        fields = {"params": params, "averages": start_averages(self.ema_decay, params)}
        if ours.quantizer == "ema" or ours.restart_below:
            fields["ema"] = codebook.evenly_used(ours, params["quantizer"]["codebook"], self.latents // self.accumulate)
        for adversary in self.adversaries:
            if found := saved.load_discriminator(adversary.params, adversary.stats):
                fields |= {adversary.params: found["params"], adversary.stats: found["batch_stats"]}
        return fields

    def _with_own_decoder(self, params: Any) -> Any:
        """Where the decoder alone is trained, it may be another than the loaded model's: then what has the same place
        and shape in both starts as loaded, and the rest afresh."""
        if not self.freeze:
            return params
        key = jax.random.key(self.seed)
        parts = {name for name in params if name not in FROZEN[self.freeze]}
        wanted = jax.eval_shape(self.init, key).params
        if not any(shape_difference(params[name], wanted[name]) for name in parts):
            return params
        fresh = jax.device_get(jax.jit(lambda key: {name: self.init(key).params[name] for name in parts})(key))
        loaded = flatten_dict({name: params[name] for name in parts})

        def start(path: tuple[str, ...], leaf: Any) -> Any:
            return loaded[path] if path in loaded and loaded[path].shape == leaf.shape else leaf

        return {**params, **unflatten_dict({path: start(path, leaf) for path, leaf in flatten_dict(fresh).items()})}

    def step(self, state: VQGANState, frozen: Frozen | None, batch: Batch) -> tuple[VQGANState, Metrics]:
        """One update of the generator and of the discriminators that there are; to be jitted with the state donated.

        frozen: parameters that it only reads, where the loss asks for them: "lpips"; "features", of the network below
        the discriminator on features. The batch holds what `models.vqgan.network_input` reads, images as (b, H, W, c)
        float32 in [-1, 1]. Metrics are float32 scalars: total_loss, nll_loss (= rec_loss), l1_loss (or l2_loss,
        bce_loss), quant_loss, those of the quantizer, and where they are computed p_loss, g_loss, d_weight,
        disc_factor, disc_loss, logits_real, logits_fake, lecam, r1; grad_norm, learning_rate, skipped_updates (see
        `optim.updated`), and disc_grad_norm and so on; of the discriminator on features g_loss_features,
        d_weight_features and so on. Raises ValueError where frozen parameters are asked for and missing.
        """
        loss, frozen = self.loss, frozen or {}
        for weight, name, which in (("perceptual_weight", "lpips", "LPIPS"), ("feature_weight", "features", "DINOv2")):
            if getattr(loss, weight) > 0 and not frozen.get(name):
                raise ValueError(
                    f"config.loss.{weight}={getattr(loss, weight)}, but there are no {which} parameters; 0 means no "
                    f"{which}."
                )
        # In this JAX split(key)[i] is fold_in(key, i): steps 0 and 1 begin with the two keys of `init`.
        # Flax folds names into these before it draws, so that no draw is repeated; a constant between them would be
        # cleaner, and would change how every training that was saved goes on.
        keys = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), state.step))
        if self.model.config.kmeans and not self.init_from:
            state = self._start_table(state, batch, jax.random.fold_in(keys[1], 1))
        state, metrics = self._update_generator(state, frozen, batch, keys[0])
        if self.adversaries:
            state, disc_metrics = self._update_discriminators(state, frozen, batch, keys[1])
            metrics |= disc_metrics
        averages = move_averages(self.ema_decay, state.averages, state.params, state.step)
        averages = _kept(FROZEN[self.freeze], state.averages, averages)
        if guard := state.guard:
            state = replace(state, guard={**guard, "waited": guard["waited"] + guard["waits"]})
            metrics["guard_waits"] = guard["waits"].astype(jnp.float32)
        return replace(state, step=state.step + 1, averages=averages), metrics

    @property
    def heeds(self) -> bool:
        """Whether it is to be told what evaluations find, by `heed`."""
        return self.loss.guard > 0

    def heed(self, state: VQGANState, measured: Mapping[str, float]) -> VQGANState:
        """The state after the figures of an evaluation, on the host: where PSNR is more than `loss.guard` below its
        best, the growth of the adversarial loss waits until an evaluation finds it back."""
        if WATCHED not in measured:
            return state
        psnr, best, waits = measured[WATCHED], float(state.guard["best"]), int(state.guard["waits"])
        begun = int(state.step) - int(state.guard["waited"]) > self.loss.disc_start
        fallen = begun and psnr < best - self.loss.guard
        if fallen:
            logging.warning(
                "Step %d: PSNR %.2f is more than config.loss.guard=%g below %.2f: the adversarial loss waits.",
                *(int(state.step), psnr, self.loss.guard, best),
            )
        elif waits:
            logging.warning("Step %d: PSNR is back at %.2f: the adversarial loss grows again.", int(state.step), psnr)
        told = {"best": np.float32(max(best, psnr)), "waits": np.int32(fallen)}
        placed = {name: jax.device_put(value, state.guard[name].sharding) for name, value in told.items()}
        return replace(state, guard={**state.guard, **placed})

    def _start_table(self, state: VQGANState, batch: Batch, key: RandomKey) -> VQGANState:
        """Before the first step, the table of codes from the latents of its batch, or of one of its parts."""
        config = self.model.config
        images = network_input(config, batch)[:: self.accumulate]

        def start(state: VQGANState) -> VQGANState:
            latents = self.model.apply({"params": state.params}, images, method=VQGAN.latents)
            return codebook.started(config, state, latents.reshape(-1, config.embed_dim), key)

        return jax.lax.cond(state.step == 0, start, lambda state: state, state)

    def _update_generator(
        self, state: VQGANState, frozen: Frozen, batch: Batch, key: RandomKey
    ) -> tuple[VQGANState, Metrics]:
        def gradients(statistics: dict[str, Any], part: Batch, key: RandomKey) -> tuple[dict, tuple[Any, Metrics]]:
            return self._generator_gradients(replace(state, **statistics), frozen, part, key)

        statistics = {name: getattr(state, name) for name in MOVED}
        statistics, (grads, metrics) = mean_over_parts(gradients, statistics, batch, key, self.accumulate)
        optimizer, norms = self.optimizer, state.norms.get("params", {})
        update = updated(optimizer, grads, state.opt_state, state.params, norms, state.step)
        metrics |= update.metrics
        statistics["ema"] = update.chosen(state.ema, statistics["ema"])
        params = _kept(FROZEN[self.freeze], state.params, update.params)
        norms = {**state.norms, "params": update.norms} if norms else state.norms
        state = replace(state, params=params, opt_state=update.opt_state, norms=norms, **statistics)
        if self.freeze:
            return state, metrics
        return codebook.followed(self.model.config, state, self.latents // self.accumulate), metrics

    def _generator_gradients(
        self, state: VQGANState, frozen: Frozen, batch: Batch, key: RandomKey
    ) -> tuple[dict[str, Any], tuple[Any, Metrics]]:
        """(statistics that have moved, (gradients, metrics))."""
        loss, config = self.loss, self.model.config
        images = network_input(config, batch)
        statistics = {name: getattr(state, name) for name in MOVED}

        def forward(params: Any) -> tuple[tuple[Array, Array], tuple[Array, Metrics, Array, Any, Array]]:
            if self.freeze:  # of that there is no gradient, and so none to compute
                params = _kept(FROZEN[self.freeze], jax.lax.stop_gradient(params), params)
            reconstruction, features, quantized, ema = self._reconstruct(params, state.ema, images, key, state.step)
            counts = count_codes(quantized.ids, config.n_embed)
            return (reconstruction, loss.annealed(quantized, state.step)), (
                features,
                quantized.metrics,
                counts,
                ema,
                quantized.ids,
            )

        (fake, quant_loss), backward, extras = jax.vjp(forward, state.params, has_aux=True)
        features, quant_metrics, counts, statistics["ema"], ids = extras
        nll_of = partial(reconstruction_loss, loss, config, frozen.get("lpips"), images)
        (nll, parts), nll_grad = jax.value_and_grad(nll_of, has_aux=True)(fake)
        fake_grad = nll_grad
        total = nll + loss.codebook_weight * quant_loss
        metrics = {"nll_loss": nll, "rec_loss": nll, "quant_loss": quant_loss, **parts, **quant_metrics}
        metrics |= {"perplexity": perplexity(counts), "usage": usage(counts)}
        if state.recent:
            last = jnp.concatenate([state.recent["ids"], ids.reshape(-1)])[-self.usage_window :]
            recent = count_codes(jnp.maximum(last, 0), config.n_embed, last >= 0)
            statistics["recent"] = {"ids": last}
            metrics |= {"perplexity_recent": perplexity(recent), "usage_recent": usage(recent)}
        factor = loss.adversarial_factor(state.step - state.guard["waited"] if state.guard else state.step)
        for adversary in self.adversaries:
            judged = partial(adversary.generator_loss, loss, state, frozen, key=key)
            (g, statistics[adversary.stats]), g_grad = jax.value_and_grad(judged, has_aux=True)(fake)
            weight = generator_weight(loss, adversary.weight, state.params, features, nll_grad, g_grad)
            # The weights are no functions of the parameters here, so one pull-back serves all terms.
            fake_grad = fake_grad + factor * weight * g_grad
            total = total + factor * weight * g
            metrics |= {"disc_factor": factor, **adversary.named({"g_loss": g, "d_weight": weight})}
        (grads,) = backward((fake_grad, jnp.asarray(loss.codebook_weight, jnp.float32)))
        return statistics, (grads, {"total_loss": total, **metrics})

    def _update_discriminators(
        self, state: VQGANState, frozen: Frozen, batch: Batch, key: RandomKey
    ) -> tuple[VQGANState, Metrics]:
        def gradients(statistics: dict[str, Any], part: Batch, key: RandomKey) -> tuple[dict, tuple[Any, Metrics]]:
            return self._discriminator_gradients(replace(state, **statistics), frozen, part, key)

        statistics = {name: getattr(state, name) for name in DISC_MOVED}
        statistics, (grads, metrics) = mean_over_parts(gradients, statistics, batch, key, self.accumulate)
        assert self.disc_optimizer is not None  # see __post_init__
        for adversary in self.adversaries:
            name, learns = adversary.params, self.loss.learns(state.step) > 0
            before, norms = (getattr(state, adversary.opt_state), getattr(state, name)), state.norms.get(name, {})
            update = updated(self.disc_optimizer, grads[name], *before, norms, state.step, learns)
            metrics |= adversary.named({f"disc_{metric}": value for metric, value in update.metrics.items()})
            norms = {**state.norms, name: update.norms} if norms else state.norms
            fields = {name: update.params, adversary.opt_state: update.opt_state, "norms": norms}
            state = replace(state, **fields)
        return replace(state, **statistics), metrics

    def _discriminator_gradients(
        self, state: VQGANState, frozen: Frozen, batch: Batch, key: RandomKey
    ) -> tuple[dict[str, Any], tuple[dict[str, Any], Metrics]]:
        """(statistics that have moved, (gradients by field, metrics))."""
        images = network_input(self.model.config, batch)
        fake = self._reconstruct(state.params, state.ema, images, key, state.step)[0]
        statistics = {name: getattr(state, name) for name in DISC_MOVED}
        grads: dict[str, Any] = {}
        metrics: Metrics = {}
        for adversary in self.adversaries:
            loss_of = partial(adversary.own_loss, self.loss, state, frozen, images, fake, key=key)
            params = getattr(state, adversary.params)
            (value, (moved, found)), grads[adversary.params] = jax.value_and_grad(loss_of, has_aux=True)(params)
            statistics |= moved
            metrics |= adversary.named({"disc_loss": value, **found})
        return statistics, (grads, metrics)

    def _reconstruct(
        self, params: Any, ema: Any, images: Float[Array, "b H W c"], key: RandomKey, step: Int[Array, ""]
    ) -> tuple[Float[Array, "b H W c"], Float[Array, "b H W f"], Any, Any]:
        """(reconstruction, the features it comes from, what the quantizer gives, averages that have moved)."""
        names = ("dropout", "quantize")
        rngs = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        options = {"rngs": rngs, "mutable": ["ema"], "method": VQGAN.reconstruct}
        variables, temperature = {"params": params, "ema": ema}, self.loss.temperature(step)
        outputs, moved = self.model.apply(variables, images, True, temperature, not self.freeze, **options)
        return *outputs, moved.get("ema", {})


def _kept(names: tuple[str, ...], before: Any, after: Any) -> Any:
    """Parameters, or averages of them, of which those of these names are as before."""
    return {**after, **{name: before[name] for name in names if name in before}}
