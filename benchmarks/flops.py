"""What a training step must compute and move, counted without running it; and what devices can do at best.

Conventions. A multiply and an add are two FLOPs. Model FLOPs of the transformer: 6 x N x tokens, N the entries of all
matrices that multiply (embedding tables, norms and biases left out), plus the attention, whose two products are counted
for the pairs that the causal mask leaves, each once, three times for forward and backward. Model FLOPs of the first
stage: all convolutions and matrix products of the step as it is written (its jaxpr, before any compiler): both
networks, both passes through the generator, LPIPS; border padding included. Recomputed activations count in neither.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from taming_jax.models.gpt import GPTConfig


class Device(NamedTuple):
    """Best figures of one device: dense bfloat16 TFLOPS, memory in GB (1e9 bytes), its bandwidth in GB/s, and GB/s to
    all neighbours together in one direction."""

    tflops: float
    memory: float
    bandwidth: float
    link: float


# Makers' figures. TPU: the pages "TPU v4", "TPU v5e", "TPU v5p" of cloud.google.com/tpu/docs (the link there is given
# for both directions together, or in Gbit/s for one). GPU: NVIDIA's data sheets of A100 80 GB SXM, H100 SXM and H200
# SXM, where bfloat16 without sparsity is half of the printed figure, and NVLink is given for both directions.
DEVICES = {
    "v4": Device(275, 32, 1200, 300),
    "v5e": Device(197, 16, 819, 200),
    "v5p": Device(459, 95, 2765, 600),
    "A100": Device(312, 80, 2039, 300),
    "H100": Device(989, 80, 3350, 450),
    "H200": Device(989, 141, 4800, 450),
}
# How JAX names them; the first that occurs in `device_kind` counts.
KINDS = {"v5 lite": "v5e", "v5e": "v5e", "v5p": "v5p", "v5": "v5p", "v4": "v4"}
KINDS |= {"A100": "A100", "H100": "H100", "H200": "H200"}


def known_device(kind: str) -> Device | None:
    """The figures for a `device_kind` of JAX, where it is in the table."""
    return next((DEVICES[name] for part, name in KINDS.items() if part in kind), None)


def transformer_matrices(config: GPTConfig) -> int:
    """Entries of all matrices that multiply: those of the blocks and of the head."""
    d = config.n_embd
    head = d * sum(config.factors) + 8 * d**2 if config.factors else d * config.vocab_size
    return 12 * config.n_layer * d**2 + head


def transformer_flops(config: GPTConfig, length: int, images: int) -> float:
    """Model FLOPs of one update on `images` sequences of `length` input tokens (condition included)."""
    pairs = length * (length + 1) / 2
    attention = 4 * config.n_embd * pairs * config.n_layer  # query x key, weights x value
    return 3 * images * (2 * transformer_matrices(config) * length + attention)


class Product(NamedTuple):
    """A convolution or matrix product in a traced function; scope: the modules it belongs to."""

    flops: float
    scope: str
    operands: tuple[Any, ...]
    times: int


def products(function: Callable, *arguments: Any) -> list[Product]:
    """All of those that `function` holds, traced with arrays or jax.ShapeDtypeStruct. Kernels called by a primitive of
    their own, such as cuDNN's attention, are not seen."""
    return list(_products(jax.make_jaxpr(function)(*arguments).jaxpr, "", 1))


def _products(jaxpr: Any, scope: str, times: int) -> Iterator[Product]:
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        here = f"{scope}/{equation.source_info.name_stack}"
        if name in ("dot_general", "conv_general_dilated"):
            count = _dot(equation) if name == "dot_general" else _convolution(equation)
            yield Product(times * count, here, tuple(equation.invars), times)
            continue
        inner = times * parameters["length"] if name == "scan" else times
        branches = [list(_products(branch.jaxpr, here, inner)) for branch in parameters.get("branches", ())]
        if branches:  # one of them runs: count the dearest
            yield from max(branches, key=lambda found: sum(product.flops for product in found))
        for value in parameters.values():
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                yield from _products(getattr(value, "jaxpr", value), here, inner)


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shared = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
    return 2.0 * shared * math.prod(equation.outvars[0].aval.shape)


def _convolution(equation: Any) -> float:
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    taps = math.prod(kernel) / kernel[numbers.rhs_spec[0]]
    zeros = math.prod(equation.params["lhs_dilation"])  # a strided convolution's gradient meets zeros in between
    return 2.0 * taps * math.prod(equation.outvars[0].aval.shape) / zeros


PARTS = ("LPIPS", "Discriminator", "encoder", "decoder", "quantizer", "attention", "mlp", "head")


def by_part(counted: list[Product]) -> dict[str, float]:
    """FLOPs by the innermost part of PARTS that a product belongs to, largest first."""
    sums: Counter[str] = Counter()
    for product in counted:
        scope = product.scope
        sums[max(PARTS, key=scope.rfind) if any(part in scope for part in PARTS) else "other"] += product.flops
    return dict(sums.most_common())


def kept_bytes(counted: list[Product], batch: int, itemsize: int) -> list[int]:
    """Bytes of each array with a batch dimension that a forward pass multiplies, each array once: what the backward
    pass needs of it."""
    arrays = {id(x): (x.aval.shape, p.times) for p in counted for x in p.operands if not hasattr(x, "val")}
    return [math.prod(shape) * itemsize * times for shape, times in arrays.values() if shape[:1] == (batch,)]
