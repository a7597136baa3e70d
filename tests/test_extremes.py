"""The places of extremes, as on TPUs, where the extreme itself must be used."""

import jax.numpy as jnp
import numpy as np

from taming_jax.nn import extremes


def test_places_are_those_of_numpy_on_every_device(monkeypatch):
    x = np.random.RandomState(0).randn(4, 5, 50).astype(np.float32)
    x[0, 0, 7] = x[0, 0, 9] = -9
    x[0, 1, 7] = x[0, 1, 9] = 9
    x[0, 2] = -np.inf
    x[0, 2, 3] = 1.0
    for on_tpu in (False, True):
        monkeypatch.setattr(extremes, "on_tpu", lambda on_tpu=on_tpu: on_tpu)
        np.testing.assert_array_equal(extremes.argmax(jnp.asarray(x)), x.argmax(axis=-1))
        np.testing.assert_array_equal(extremes.argmin(jnp.asarray(x)), x.argmin(axis=-1))
        assert extremes.argmin(jnp.asarray(x)).dtype == jnp.int32


def test_places_in_long_rows_are_those_of_numpy(monkeypatch):
    x = np.random.RandomState(0).randn(3, 2, 4096).astype(np.float32)
    x[0, 0, [130, 200, 3000]] = -9  # equals in one part and in another
    x[0, 1] = np.inf
    x[1, 0] = -np.inf
    x[1, 1, [700, 4000]] = -np.inf
    x[2, 0, 4095] = -9
    x[2, 1, 0] = -9
    for on_cpu in (False, True):
        monkeypatch.setattr(extremes, "on_cpu", lambda on_cpu=on_cpu: on_cpu)
        np.testing.assert_array_equal(extremes.argmin(jnp.asarray(x)), x.argmin(axis=-1))
        np.testing.assert_array_equal(extremes.argmax(jnp.asarray(-x)), x.argmin(axis=-1))
