"""Heads that share a row of the cache, as on TPUs: the same numbers and the same drawn ids as one head a row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY

from taming_jax.conditioning import ClassLabel, NoCondition
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.models.vqgan import VQGAN
from taming_jax.nn import cache
from taming_jax.nn.cache import as_heads, as_queries_of_rows, as_rows
from taming_jax.priors.base import Job
from taming_jax.priors.filters import Filters, draw
from taming_jax.priors.window import sample_window
from taming_jax.two_stage import TwoStage


def test_rows_hold_as_many_heads_as_fill_the_lanes(monkeypatch):
    assert cache.heads_in_row(24, 64) == 1  # this is a CPU
    monkeypatch.setattr(cache, "on_tpu", lambda: True)
    assert [cache.heads_in_row(24, 64), cache.heads_in_row(16, 128), cache.heads_in_row(5, 64)] == [2, 1, 1]
    assert [cache.heads_in_row(12, 32), cache.heads_in_row(6, 32), cache.heads_in_row(4, 256)] == [4, 3, 1]


def test_queries_of_rows_read_their_own_heads():
    rng = np.random.RandomState(0)
    query, key = (rng.randn(2, 3, 6, 4).astype(np.float32) for _ in range(2))
    mask = jnp.ones((1, 1, 3, 3), bool)
    expected = np.einsum("bqhc,bkhc->bhqk", query, key)
    packed, seen = as_queries_of_rows(jnp.asarray(query), mask, 2)
    found = jnp.einsum("bqrc,brkc->brqk", packed, as_rows(jnp.asarray(key), 2))  # (b, 2, 3 x 3, 3)
    assert seen.shape == (1, 1, 9, 3)
    found = np.asarray(found).reshape(2, 2, 3, 3, 3).swapaxes(2, 3).reshape(2, 6, 3, 3)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(as_heads(jnp.where(packed == 0, 9, packed), 6), query)


def model_of(condition, dtype: str) -> tuple[TwoStage, dict]:
    gpt = GPT(GPTConfig(vocab_size=20, block_size=31, n_layer=2, n_head=4, n_embd=32, dtype=dtype))
    params = gpt.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    params["position"] = 0.1 * jax.random.normal(jax.random.key(1), params["position"].shape)
    return TwoStage(VQGAN(TINY), gpt, condition, (4, 4)), params


def job_of(condition: np.ndarray, grid: tuple[int, int], filters: Filters) -> Job:
    given = np.zeros((len(condition), *grid), np.int32)
    traced = filters.traced(np.arange(grid[0] * grid[1]))
    return Job(condition, given, given > 0, jax.random.key(3), np.arange(len(condition)), traced)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ids_are_those_of_one_head_a_row(dtype, monkeypatch):
    model, params = model_of(ClassLabel(5), dtype)
    job = job_of(np.arange(3, dtype=np.int32)[:, None], (4, 4), Filters(top_k=10))
    drawn = []
    for packed in (False, True):
        monkeypatch.setattr(cache, "on_tpu", lambda packed=packed: packed)
        drawn.append(np.asarray(jax.jit(lambda params, job: model.prior.sample(params, job))(params, job)))
    np.testing.assert_array_equal(*drawn)
    assert len(np.unique(drawn[0])) > 5


def test_a_sliding_window_draws_the_ids_of_one_head_a_row(monkeypatch):
    model, params = model_of(NoCondition(), "float32")
    condition = np.random.RandomState(0).randint(0, 20, (1, 6, 7)).astype(np.int32)
    job, drawn = job_of(condition, (6, 7), Filters()), []
    for packed in (False, True):
        monkeypatch.setattr(cache, "on_tpu", lambda packed=packed: packed)
        drawn.append(np.asarray(jax.jit(lambda params, job: sample_window(model, params, job))(params, job)))
    np.testing.assert_array_equal(*drawn)


def test_draws_are_those_of_categorical():
    keys, logits = jax.random.split(jax.random.key(0), 50), jax.random.normal(jax.random.key(1), (50, 300)) * 2
    shifted = logits - logits.max(axis=-1, keepdims=True)
    np.testing.assert_array_equal(draw(keys, logits), jax.vmap(jax.random.categorical)(keys, shifted))
