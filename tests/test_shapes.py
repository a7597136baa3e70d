"""Shapes in signatures: they are checked in every test, and what they say together must fit."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Int, TypeCheckError, jaxtyped
from shapes import checked, fits

from taming_jax.metrics.image import psnr
from taming_jax.nn.conv import Conv, double
from taming_jax.nn.quantizers import Quantized


def test_calls_of_the_package_are_checked_compiled_or_not():
    with pytest.raises(TypeCheckError, match="double"):
        double(jnp.zeros((2, 4, 4)))
    with pytest.raises(TypeCheckError, match="double"):
        jax.eval_shape(double, jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.int32))
    with pytest.raises(TypeCheckError, match="psnr"):
        psnr(jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 4, 5, 3)))
    with pytest.raises(TypeCheckError, match="Conv"):
        Conv(8).init(jax.random.key(0), jnp.zeros((4, 4, 3)))
    assert isinstance(Conv(8), nn.Module) and double(np.zeros((1, 2, 2, 1), np.float32)).shape == (1, 4, 4, 1)


def test_a_result_of_another_shape_is_told():
    @jaxtyped(typechecker=checked)
    def wrong(x: Float[Array, "b c"]) -> Float[Array, "c b"]:
        return x

    assert wrong(jnp.zeros((2, 2))).shape == (2, 2)
    with pytest.raises(TypeCheckError, match="return value"):
        wrong(jnp.zeros((2, 3)))


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (np.zeros(3), Float[Array, " n"], True),
        (np.zeros(3, int), Float[Array, " n"], False),
        (None, Float[Array, " n"] | None, True),
        (0.5, Float[Array, ""] | float, True),
        (np.zeros(3), Float[Array, ""] | float, False),
        ((np.zeros(3), 1), tuple[Float[Array, " n"], int], True),
        ((np.zeros(3),), tuple[Float[Array, " n"], int], False),
        ([np.zeros(3), np.zeros((3, 1))], list[Float[Array, " n"]], False),
        (np.zeros(3), str, False),
        (3, str, True),  # no array: mypy's matter
        ("x", Float[Array, " n"], True),
        (Quantized(np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 2), int), np.zeros(()), {}), Quantized, True),
        (Quantized(np.zeros((1, 2, 2, 3)), np.zeros((1, 2), int), np.zeros(()), {}), Quantized, False),
        ((), Quantized, False),
    ],
)
def test_fits(value, hint, expected):
    @jaxtyped(typechecker=None)
    def within_one_call():
        return fits(value, hint)

    assert within_one_call() == expected


def test_one_name_is_one_number():
    @jaxtyped(typechecker=checked)
    def both(x: Float[Array, " n"], y: Int[Array, " n"] | None) -> None: ...

    both(jnp.zeros(3), jnp.zeros(3, int))
    with pytest.raises(TypeCheckError, match="y"):
        both(jnp.zeros(3), jnp.zeros(2, int))
