import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taming_jax.priors.filters import Filters, draw, filter_logits

SETTINGS = {
    "top_k_1": {"top_k": 1},
    "top_k_5": {"top_k": 5},
    "top_k_50": {"top_k": 50},
    "top_p_0.1": {"top_p": 0.1},
    "top_p_0.5": {"top_p": 0.5},
    "top_p_0.92": {"top_p": 0.92},
    "top_k_20_top_p_0.1": {"top_k": 20, "top_p": 0.1},
    "top_k_20_top_p_0.5": {"top_k": 20, "top_p": 0.5},
    "top_k_20_top_p_0.92": {"top_k": 20, "top_p": 0.92},
}
PROBABILITIES = np.array([0.1, 0.4, 0.05, 0.25, 0.2], np.float32)


@pytest.mark.parametrize("name", SETTINGS)
def test_equal_to_the_published_filters(golden, name):
    arrays = golden("filtering")
    np.testing.assert_array_equal(filter_logits(arrays["logits"], **SETTINGS[name]), arrays[name])


def test_no_filter_and_filters_that_keep_all_change_nothing(golden):
    logits = golden("filtering")["logits"]
    for settings in ({}, {"top_k": 1000}, {"top_p": 1.0}, {"top_k": 1000, "top_p": 1.0}):
        np.testing.assert_array_equal(filter_logits(logits, **settings), logits)


def test_top_p_1_keeps_all_of_a_large_vocabulary():
    logits = jax.random.normal(jax.random.key(0), (2, 16384)) * 3
    assert jnp.isfinite(filter_logits(logits, top_p=1.0)).all()


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_k": 2}, [1, 3]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.41}, [1, 3]),
        ({"top_p": 0.7}, [1, 3, 4]),
        ({"top_k": 3, "top_p": 0.7}, [1, 3]),  # renormalised over three: 0.47, 0.29, 0.24
        ({"top_k": 1, "top_p": 1e-9}, [1]),
    ],
)
def test_each_filter_alone_and_together(settings, kept):
    out = filter_logits(jnp.log(PROBABILITIES), **settings)
    assert np.flatnonzero(np.isfinite(out)).tolist() == kept


def test_at_least_one_token_stays_and_ties_stay_together():
    logits = jnp.concatenate([jnp.zeros((1, 7)), jnp.full((1, 7), -1e30).at[0, 4].set(1e30)])  # (2, 7)
    for settings in ({"top_k": 1}, {"top_p": 1e-30}, {"top_k": 3, "top_p": 1e-30}):
        np.testing.assert_array_equal(jnp.isfinite(filter_logits(logits, **settings)).sum(axis=-1), [7, 1])


def test_traced_top_p_and_half_precision_logits():
    logits = jax.random.normal(jax.random.key(0), (3, 40)).astype(jnp.bfloat16)
    traced = jax.jit(lambda x, p: filter_logits(x, 10, p))(logits, 0.6)
    assert traced.dtype == jnp.float32
    np.testing.assert_array_equal(traced, filter_logits(logits.astype(jnp.float32), 10, 0.6))


@pytest.mark.parametrize("batch_shape", [(), (2,), (2, 3)])
def test_any_leading_shape(batch_shape):
    logits = jax.random.normal(jax.random.key(1), (*batch_shape, 9))
    out = filter_logits(logits, 4, 0.8)
    row = filter_logits(logits.reshape(-1, 9)[:1], 4, 0.8)
    assert out.shape == logits.shape
    np.testing.assert_array_equal(out.reshape(-1, 9)[:1], row)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, PROBABILITIES),
        ({"top_k": 3}, np.array([0, 0.4, 0, 0.25, 0.2]) / 0.85),
        ({"top_p": 0.5}, np.array([0, 0.4, 0, 0.25, 0]) / 0.65),
        ({"temperature": 0.5}, PROBABILITIES**2 / (PROBABILITIES**2).sum()),
        # squared and normalised the best has 0.58: with top-p applied before the temperature, three would stay
        ({"temperature": 0.5, "top_p": 0.66}, np.array([0, 16, 0, 6.25, 0]) / 22.25),
    ],
)
def test_distribution_of_draws(settings, expected):
    n = 20_000
    keys = jax.random.split(jax.random.key(7), n)
    logits = jnp.tile(jnp.log(PROBABILITIES)[None] + 3, (n, 1))
    ids = draw(keys, logits, **settings)
    assert ids.dtype == jnp.int32
    share = np.bincount(ids, minlength=5) / n
    np.testing.assert_allclose(share, expected, atol=5 * np.sqrt(0.25 / n))
    assert (share[np.asarray(expected) == 0] == 0).all()


def test_a_row_does_not_depend_on_the_batch():
    keys = jax.random.split(jax.random.key(3), 8)
    logits = jax.random.normal(jax.random.key(4), (8, 100))
    together = draw(keys, logits, 1.3, 50, 0.9)
    alone = [int(draw(keys[i : i + 1], logits[i : i + 1], 1.3, 50, 0.9)[0]) for i in range(8)]
    assert together.tolist() == alone
    assert len(set(alone)) > 1


def test_greedy_is_argmax_and_tiny_temperatures_approach_it():
    keys = jax.random.split(jax.random.key(3), 16)
    logits = jax.random.normal(jax.random.key(4), (16, 100)) * 100
    best = np.argmax(logits, axis=-1)
    np.testing.assert_array_equal(draw(keys, logits, 0.0, greedy=True), best)
    for settings in ({}, {"top_k": 10}, {"top_p": 0.5}):
        np.testing.assert_array_equal(draw(keys, logits, 1e-37, **settings), best)


def test_draw_in_a_jitted_program_with_traced_temperature():
    keys = jax.random.split(jax.random.key(3), 4)
    logits = jax.random.normal(jax.random.key(4), (4, 30))
    jitted = jax.jit(draw, static_argnames=("top_k", "greedy"))
    np.testing.assert_array_equal(jitted(keys, logits, 0.7, top_k=5, top_p=0.9), draw(keys, logits, 0.7, 5, 0.9))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature=-0.1.*at least 0.*greedy"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"temperature": None}, "temperature=None"),
        ({"top_k": 0}, "top_k=0.*at least 1.*None"),
        ({"top_k": -3}, "top_k=-3"),
        ({"top_k": 2.5}, "top_k=2.5"),
        ({"top_k": True}, "top_k=True"),
        ({"top_p": 0.0}, "top_p=0.0.*above 0 and at most 1"),
        ({"top_p": 1.01}, "top_p=1.01"),
        ({"top_p": float("nan")}, "top_p=nan"),
        ({"top_p": "0.9"}, "top_p='0.9'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Filters(**settings)


def test_good_settings():
    assert not Filters().greedy
    assert Filters(temperature=0, top_k=np.int64(5), top_p=1).greedy
