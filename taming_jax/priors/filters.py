"""From logits to one drawn token: guidance (classifier-free, arXiv 2207.12598), temperature, top-k, top-p (nucleus
sampling, arXiv 1904.09751) and greedy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float, Int, Key

from taming_jax.nn.extremes import argmax
from taming_jax.settings import check_known, to_dict

Number = Float[Array, ""] | float
MOST_STEPS = 1 << 16  # tokens of the largest images

# How strong guidance is along the drawing of an image: (number of each token, n, power) -> share of the way from 1 to
# the full scale. The last one's is 1, but with "power-cosine" (RAR, arXiv 2411.00776), which divides by n.
SCHEDULES = {
    "constant": lambda step, n, power: np.ones(n),
    "linear": lambda step, n, power: step / max(1, n - 1),
    "cosine": lambda step, n, power: (1 - np.cos(np.pi * (step / max(1, n - 1)))) / 2,
    "power-cosine": lambda step, n, power: (1 - np.cos(np.pi * (step / n) ** power)) / 2,
}


@struct.dataclass
class TracedFilters:
    """`Filters` as a compiled program takes them. `top_k` and `greedy` are static, since they shape the program; the
    rest may differ from call to call.

    temperature: above 0, unused where greedy. guidance: the scale at each place of the grid, or at each step. steps,
    choice_temperature: of priors that draw many tokens at once. None where a filter is off.
    """

    temperature: Float[Array, ""]
    top_p: Float[Array, ""] | None = None
    guidance: Float[Array, " l"] | Float[np.ndarray, " l"] | None = None
    top_k: int | None = struct.field(pytree_node=False, default=None)
    greedy: bool = struct.field(pytree_node=False, default=False)
    choice_temperature: Float[Array, ""] | None = None
    steps: int | None = struct.field(pytree_node=False, default=None)


@dataclass(frozen=True)
class Filters:
    """How tokens are drawn. Applied in this order; each works alone or together with the others.

    guidance: 1 is the model as it is; above, logits are moved on from those without the condition, so that images obey
    more and vary less. For models trained with condition dropout. guidance_schedule: a name of SCHEDULES; "constant"
    from the first token on, "linear", "cosine" and "power-cosine" rising from 1 to `guidance`, the last the later the
    larger guidance_power. guidance_interval: (first, end), which tokens of an image are guided, in the order in which
    they are drawn, as in a slice; () for all. LlamaGen's `cfg_interval` of n is (0, n + 2).
    temperature: logits are divided by it; below 1 bolder, above 1 more varied; 0 is greedy (always the likeliest).
    top_k: only the k likeliest tokens can be drawn; None or a k of at least the vocabulary keeps all.
    top_p: of these, only the likeliest that together just exceed the probability p; None or 1 keeps all.
    steps: in how many an image is drawn, and choice_temperature: how much chance there is in which tokens stay after a
    step; 0 keeps those that the network is surest of. For priors that draw many tokens at once; None is what is usual
    for the prior.

    Raises ValueError for a value outside these ranges.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 1.0
    guidance_schedule: str = "constant"
    guidance_power: float = 1.0
    guidance_interval: tuple[int, ...] = ()
    steps: int | None = None
    choice_temperature: float | None = None

    def __post_init__(self) -> None:
        t, k, p, g = self.temperature, self.top_k, self.top_p, self.guidance
        if not _is(t, Real) or not math.isfinite(t) or t < 0:
            raise ValueError(f"temperature={t!r}, but it must be finite and at least 0; 0 is greedy, 1 the default.")
        if k is not None and (not _is(k, Integral) or k < 1):
            raise ValueError(f"top_k={k!r}, but it must be an integer of at least 1; None switches the filter off.")
        if p is not None and (not _is(p, Real) or not 0 < p <= 1):
            raise ValueError(f"top_p={p!r}, but it must be above 0 and at most 1; None (or 1) switches the filter off.")
        if not _is(g, Real) or not math.isfinite(g) or g < 0:
            raise ValueError(f"guidance={g!r}, but it must be finite and at least 0; 1 switches it off.")
        check_known(self, "guidance_schedule", SCHEDULES)
        power, interval = self.guidance_power, self.guidance_interval
        if not _is(power, Real) or not math.isfinite(power) or power <= 0:
            raise ValueError(f"guidance_power={power!r}, but it must be finite and above 0.")
        whole = isinstance(interval, (tuple, list)) and all(_is(place, Integral) for place in interval)
        if not whole or (interval and (len(interval) != 2 or not 0 <= interval[0] < interval[1])):
            raise ValueError(f"guidance_interval={interval!r}, but it must be (first, end) of the tokens, or ().")
        object.__setattr__(self, "guidance_interval", tuple(interval))  # frozen for everybody else
        steps, choice = self.steps, self.choice_temperature
        if steps is not None and (not _is(steps, Integral) or not 1 <= steps <= MOST_STEPS):
            raise ValueError(f"steps={steps!r}, but it must be a whole number from 1 to {MOST_STEPS}, or None.")
        if choice is not None and (not _is(choice, Real) or not math.isfinite(choice) or choice < 0):
            raise ValueError(f"choice_temperature={choice!r}, but it must be finite and at least 0, or None.")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def idle(self) -> dict[str, str]:
        """The fields that change nothing, whatever their values, each with the setting that makes it so."""
        found = {}
        if self.guidance_schedule != "power-cosine":
            found["guidance_power"] = f"guidance_schedule={self.guidance_schedule!r}"
        if self.guidance == 1:
            names = ("guidance_schedule", "guidance_power", "guidance_interval")
            found |= dict.fromkeys(names, f"guidance={self.guidance}")
        if self.greedy:
            names = ("top_k", "top_p", "choice_temperature")
            found |= dict.fromkeys(names, f"temperature={self.temperature}")
        return found

    def guidance_scales(self, order: Int[np.ndarray, " l"]) -> Float[np.ndarray, " l"] | None:
        """The scale of guidance at each place of the grid, float32, when the places are drawn in `order`, the
        indices 0..l-1; None where there is no guidance."""
        if self.guidance == 1:
            return None
        n, scales = len(order), np.empty(len(order), np.float32)
        steps = np.arange(n)
        share = SCHEDULES[self.guidance_schedule](steps, n, self.guidance_power)
        first, end = self.guidance_interval or (0, n)
        scales[order] = 1 + (self.guidance - 1) * np.where((steps >= first) & (steps < end), share, 0.0)
        return scales

    def traced(self, order: Int[np.ndarray, " l"]) -> TracedFilters:
        """For places drawn in `order`, as of `guidance_scales`."""
        return TracedFilters(
            temperature=jnp.float32(self.temperature or 1.0),
            top_p=None if self.top_p is None else jnp.float32(self.top_p),
            guidance=self.guidance_scales(order),
            top_k=self.top_k,
            greedy=self.greedy,
        )


FILTER_NAMES = tuple(field.name for field in fields(Filters))


def with_filters(said: Mapping[str, Any]) -> dict[str, Any]:
    """What files say of a drawing, with every filter. A file that does not name a filter was written before that filter
    existed, so that it was off, as it is by default."""
    return {**to_dict(Filters()), **said}


def check_guidance(guidance: float, condition_dropout: float) -> None:
    """Raises ValueError where a model trained with this share of hidden conditions cannot be guided."""
    if guidance != 1 and not condition_dropout:
        raise ValueError(
            f"guidance={guidance}, but without config.condition_dropout in training a model does not know what images "
            "look like without a condition; use guidance=1, or train with config.condition_dropout=0.1."
        )


def guide(logits: Float[Array, "two_b n"], scale: Number) -> Float[Array, "b n"]:
    """Logits with the condition and without it, in turns -> float32: moved from the latter by `scale`
    times the difference (arXiv 2207.12598, equation 6, where w is scale - 1)."""
    asked, free = jnp.unstack(logits.astype(jnp.float32).reshape(-1, 2, logits.shape[-1]), axis=1)
    return free + scale * (asked - free)


def filter_logits(
    logits: Float[Array, "*b n"], top_k: int | None = None, top_p: Number | None = None
) -> Float[Array, "*b n"]:
    """The logits in float32, with -inf for the tokens that the filters exclude; at least one a row stays.

    Top-k comes first, then top-p on the renormalised rest; the token with which the sum of probabilities passes top_p
    still stays, and so do tokens that tie with the last one kept. `top_k` is a Python int (it gives the program its
    shape), `top_p` may be traced. Ranges as in Filters, which checks them.
    """
    logits = logits.astype(jnp.float32)
    n = logits.shape[-1]
    if top_k is not None and top_k < n:
        best = jax.lax.top_k(logits, top_k)[0]  # (..., k), descending: no need to sort all n
    elif top_p is not None:
        best = jnp.sort(logits, axis=-1, descending=True)
    else:
        return logits
    lowest = best[..., -1:]  # (..., 1), the smallest logit to keep
    if top_p is not None:
        probabilities = jax.nn.softmax(best, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities  # exactly 0 at the first, which therefore stays
        # A sum can pass 1 by rounding, and top_p = 1 must keep everything.
        keep = (before <= top_p) | (jnp.asarray(top_p) >= 1)
        lowest = jnp.min(jnp.where(keep, best, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= lowest, logits, -jnp.inf)


def draw(
    keys: Key[Array, " b"],
    logits: Float[Array, "b n"],
    temperature: Number = 1.0,
    top_k: int | None = None,
    top_p: Number | None = None,
    greedy: bool = False,
) -> Int[Array, " b"]:
    """One token a row, int32.

    Every row has its own key, so its token does not depend on the rest of the batch. `temperature` (above 0) and
    `top_p` may be traced; `top_k` and `greedy` are static. Greedy ignores keys and filters. Everything in float32.
    """
    logits = logits.astype(jnp.float32)
    if greedy:
        return argmax(logits)
    # Shifted first, so that dividing by a tiny temperature overflows towards -inf only.
    logits = (logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)  # as jax.random.categorical draws it
    return argmax(noise + filter_logits(logits, top_k, top_p))


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
