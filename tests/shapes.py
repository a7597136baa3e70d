"""What jaxtyping checks with in the tests: that arrays have the shapes that stand in a signature.

Shapes alone: what is no array is mypy's matter, or stands in for one, as a sharding does in a state. An array of numpy,
or a number of its, is as good as one of JAX.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import AbstractArray

ARRAYS = (jax.Array, np.ndarray)


def checked(function: Callable) -> Callable:
    """A function that raises TypeError where an argument or the result has another shape than its annotation says."""
    signature = inspect.signature(function)
    hints = {name: hint for name, hint in typing.get_type_hints(function).items() if hint is not Any}

    @functools.wraps(function)
    def check(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        values = signature.bind(*args, **kwargs)
        for name, value in [*values.arguments.items(), ("return", result)]:
            if signature.parameters.get(name) and signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                continue
            if name in hints and not fits(value, hints[name]):
                raise TypeError(f"{name} is no {hints[name]}")
        return result

    return check


def fits(value: Any, hint: Any) -> bool:
    """Whether the arrays in a value have the shapes of a hint; within one call the same name is the same number."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        value = np.asarray(value) if isinstance(value, np.generic) else value
        return not isinstance(value, ARRAYS) or isinstance(value, _of_any_kind(hint))
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin in (tuple, list) and isinstance(value, origin):
        each = inner[:1] * len(value) if origin is list or inner[1:] == (...,) else inner
        return len(value) == len(each) and all(map(fits, value, each))
    if isinstance(value, tuple) and hasattr(hint, "_fields"):  # a NamedTuple
        return isinstance(value, hint) and all(map(fits, value, typing.get_type_hints(hint).values()))
    return not isinstance(value, ARRAYS) or hint in (Any, *ARRAYS) or isinstance(hint, typing.TypeVar)


@functools.cache
def _of_any_kind(hint: type[AbstractArray]) -> tuple[type[AbstractArray], ...]:
    return tuple(hint.dtype[kind, hint.dim_str] for kind in ARRAYS)
