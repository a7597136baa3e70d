"""The transformer: equal to the original's numbers, with its cache and without, training included."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import gpt_params, weights
from jax._src.cudnn import fused_attention_stablehlo

from taming_jax.models.gpt import GPT, GPTConfig, token_cross_entropy
from taming_jax.training.optim import OptimizerConfig, make_optimizer

SETTINGS = GPTConfig(vocab_size=96, block_size=65, n_layer=3, n_head=4, n_embd=64)


@pytest.fixture(scope="module", params=["gpt", "gpt_n_unmasked"])
def case(request, golden):
    """(name, model, arrays, params)."""
    arrays = golden(request.param)
    n_layer = len({name.split(".")[2] for name in arrays if name.startswith("weight/transformer.blocks.")})
    n_unmasked = 0 if request.param == "gpt" else 17
    model = GPT(GPTConfig(vocab_size=96, block_size=65, n_layer=n_layer, n_head=4, n_embd=64, n_unmasked=n_unmasked))
    return request.param, model, arrays, gpt_params(weights(arrays))


def test_logits_and_loss_are_the_originals(case):
    _, model, arrays, params = case
    logits = jax.jit(model.apply)({"params": params}, arrays["tokens"])
    scale = np.abs(arrays["logits"]).max()
    np.testing.assert_allclose(logits, arrays["logits"], atol=1e-4 * scale, rtol=0)
    loss = token_cross_entropy(logits[:, :-1], arrays["tokens"][:, 1:]).mean()
    np.testing.assert_allclose(loss, arrays["loss"], rtol=1e-4)


def test_cache_gives_what_the_whole_sequence_gives(case):
    _, model, arrays, params = case
    tokens, prefix = jnp.asarray(arrays["tokens"]), 17
    whole = jax.jit(model.apply)({"params": params}, tokens)
    cache = model.init_cache(len(tokens), tokens.shape[1])
    feed = jax.jit(lambda ids, cache, start: model.apply({"params": params}, ids, cache=cache, start=start))
    logits, cache = feed(tokens[:, :prefix], cache, 0)
    parts = [logits]
    for position in range(prefix, tokens.shape[1]):
        logits, cache = feed(tokens[:, position : position + 1], cache, position)
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=2e-5)


def test_five_adamw_steps_are_the_originals(golden):
    arrays, model = golden("gpt"), GPT(SETTINGS)
    params = gpt_params(weights(arrays))
    settings = OptimizerConfig(learning_rate=float(arrays["lr"]), per_sample=False, weight_decay=0.01)
    optimizer = make_optimizer(settings, batch_size=3, steps=5)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, opt_state, tokens):
        def loss_of(params):
            logits = model.apply({"params": params}, tokens[:, :-1])
            return token_cross_entropy(logits, tokens[:, 1:]).mean()

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    for i in range(5):
        params, opt_state, loss = step(params, opt_state, arrays[f"step{i}_tokens"])
        np.testing.assert_allclose(loss, arrays["train_losses"][i], rtol=2e-4)
    # A key's bias moves no output, so its gradient is rounding noise, which Adam turns into steps of full length.
    wanted = jax.tree_util.tree_flatten_with_path(gpt_params(weights(arrays, "after/")))[0]
    for (path, value), got in zip(wanted, jax.tree.leaves(params), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not name.endswith("key/bias"):
            np.testing.assert_allclose(got, value, atol=2e-3 * max(np.abs(value).max(), 1e-2), err_msg=name)


def test_dropout_is_on_in_training_only():
    model = GPT(GPTConfig(vocab_size=8, block_size=4, n_layer=1, n_head=1, n_embd=8, attention_dropout=0.5))
    ids = jnp.array([[1, 2, 3, 4]])
    variables = model.init(jax.random.key(0), ids)
    still = model.apply(variables, ids)
    moving = [model.apply(variables, ids, train=True, rngs={"dropout": jax.random.key(i)}) for i in range(2)]
    assert not np.allclose(moving[0], moving[1])
    np.testing.assert_array_equal(still, model.apply(variables, ids))


def test_bfloat16_stays_close_and_keeps_float32_parameters(golden):
    arrays = golden("gpt")
    model = GPT(GPTConfig(vocab_size=96, block_size=65, n_layer=3, n_head=4, n_embd=64, dtype="bfloat16"))
    fresh = jax.eval_shape(model.init, jax.random.key(0), arrays["tokens"])
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    logits = jax.jit(model.apply)({"params": gpt_params(weights(arrays))}, arrays["tokens"])
    assert logits.dtype == jnp.float32
    loss = token_cross_entropy(logits[:, :-1], arrays["tokens"][:, 1:]).mean()
    np.testing.assert_allclose(loss, arrays["loss"], rtol=1e-2)


def test_bad_settings_and_long_sequences_are_refused():
    with pytest.raises(ValueError, match=r"n_embd=10, but it must be a multiple of n_head=4"):
        GPTConfig(n_embd=10, n_head=4)
    with pytest.raises(ValueError, match=r"vocab_size=-1"):
        GPTConfig(vocab_size=-1)
    with pytest.raises(ValueError, match=r"vocab_size=0 and block_size=4.*set both"):  # open, and nothing to fill it
        GPT(GPTConfig(block_size=4)).init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    with pytest.raises(ValueError, match=r"dtype='int8'"):
        GPTConfig(dtype="int8")
    model = GPT(GPTConfig(vocab_size=8, block_size=4, n_layer=1, n_head=1, n_embd=8))
    with pytest.raises(ValueError, match=r"5 tokens does not fit transformer.block_size=4"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 5), jnp.int32))


def test_skipped_places_are_those_of_all():
    model = GPT(GPTConfig(vocab_size=8, block_size=6, n_layer=1, n_head=1, n_embd=8))
    ids = jnp.arange(6)[None]
    params = model.init(jax.random.key(0), ids)
    np.testing.assert_array_equal(model.apply(params, ids, skip=2), model.apply(params, ids)[:, 2:])


@pytest.mark.parametrize("wrong", [{"weight_decay": -0.1}, {"b1": -3.0}, {"b2": 1.0}, {"decay_embeddings": True}])
def test_optimizers_that_nobody_can_mean_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OptimizerConfig(**wrong)


def test_token_cross_entropy():
    logits, ids = (
        np.random.RandomState(0).randn(2, 5, 7).astype(np.float32),
        np.random.RandomState(1).randint(0, 7, (2, 5)),
    )
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, ids[..., None], -1)[..., 0])
    found = token_cross_entropy(jnp.asarray(logits), jnp.asarray(ids))
    assert found.shape == (2, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert token_cross_entropy(jnp.asarray(logits, jnp.bfloat16), jnp.asarray(ids)).dtype == jnp.float32


@pytest.mark.parametrize("n_unmasked", [0, 4])
def test_cudnn_attention_lowers_at_odd_lengths(n_unmasked, monkeypatch):
    """Its kernel takes even ones only; nothing here can run it."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    model = GPT(GPTConfig(20, 16, 1, 2, 128, dtype="bfloat16", attention="cudnn", n_unmasked=n_unmasked))
    ids = {length: jax.ShapeDtypeStruct((2, length), jnp.int32) for length in (15, 16)}
    params = jax.eval_shape(model.init, jax.random.key(0), ids[16])
    loss = jax.jit(jax.grad(lambda params, ids: model.apply(params, ids).sum()))
    for length in ids:
        text = loss.trace(params, ids[length]).lower(lowering_platforms=("cuda",)).as_text()
        assert "custom_call" in text and "tensor<2x16x2x64xbf16>" in text
        assert re.search(r"fmha|CustomSPMDPartitioning", text) and ("tensor<2x15x2x64xbf16>" in text) is (length == 15)


def test_what_stands_behind_an_odd_sequence_is_not_seen(monkeypatch):
    """With XLA's attention in place of the kernel, which must be asked for even lengths."""
    model = GPT(GPTConfig(20, 16, 1, 2, 32, dtype="bfloat16", n_unmasked=4))
    ids = jax.random.randint(jax.random.key(1), (2, 15), 0, 20)
    params = model.init(jax.random.key(0), ids)
    expected = model.apply(params, ids)
    attend, asked = jax.nn.dot_product_attention, []

    def kernel(query: jax.Array, *arrays: jax.Array, implementation: str, **options: object) -> jax.Array:
        asked.append((query.shape[1], implementation))
        return attend(query, *arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    fused = GPT(dataclasses.replace(model.config, attention="cudnn"))
    np.testing.assert_allclose(fused.apply(params, ids), expected, atol=1e-2)
    assert asked == [(16, "cudnn")]
