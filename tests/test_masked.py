"""The masked prior: what it is trained on, how it draws, and what it refuses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import TINY

from taming_jax.conditioning import ClassLabel, NoCondition
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.models.vqgan import VQGAN
from taming_jax.priors import TokenLossConfig
from taming_jax.priors.filters import draw
from taming_jax.priors.masked import CHOICE_TEMPERATURE, STEPS
from taming_jax.sharding import MeshConfig, make_mesh
from taming_jax.trained.first_stage import FirstStage
from taming_jax.trained.generator import Generator
from taming_jax.two_stage import TwoStage

FIRST = VQGAN(dataclasses.replace(TINY, n_embed=12))
GRID, CLASSES = (4, 4), 3
KINDS = {
    "learned": {},
    "own table": {"condition_table": True, "positions": "rotary", "norm": "rms", "mlp": "swiglu"},
}
kinds = pytest.mark.parametrize("kind", KINDS)
NOTHING = TokenLossConfig()


def model_of(kind="learned", condition=None, condition_dropout=0.1, **settings):
    gpt = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, **KINDS[kind], **settings))
    condition = condition or ClassLabel(CLASSES)
    dropout = condition_dropout if condition.keys else 0.0
    return TwoStage(FIRST, gpt, condition, GRID, condition_dropout=dropout, kind="masked")


@functools.cache
def params_of(kind):
    """Far from drawing uniformly."""
    params = model_of(kind).prior.init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(tree, [x + 0.4 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)])


@functools.cache
def generator_of(kind="learned", devices=1):
    return Generator(model_of(kind), params_of(kind), FirstStage(FIRST, {}, make_mesh(MeshConfig(data=devices))))


def some(n=4):
    ids = jax.random.randint(jax.random.key(2), (n, *GRID), 0, 12)
    return jnp.arange(n)[:, None] % CLASSES, ids


@kinds
def test_each_token_sees_all_others_and_the_condition(kind):
    prior, params = model_of(kind).prior, params_of(kind)
    condition, ids = some(1)
    sequence = ids.reshape(1, -1)
    before = prior.logits(params, condition, sequence)
    assert before.shape == (1, 16, 12)
    for place in (0, 15):
        other = sequence.at[0, place].set((sequence[0, place] + 1) % 12)
        assert (jnp.abs(prior.logits(params, condition, other) - before).max(axis=-1) > 1e-4).all()
    assert (jnp.abs(prior.logits(params, condition + 1, sequence) - before).max(axis=-1) > 1e-4).all()


def test_what_is_hidden_is_not_seen_and_what_is_seen_is_not_asked(monkeypatch):
    """The loss is the mean cross-entropy of hidden tokens, under inputs in which these have no ids."""
    prior, params, seen = model_of(condition_dropout=0.0).prior, params_of("learned"), []
    logits = type(prior).logits
    monkeypatch.setattr(type(prior), "logits", lambda self, *a, **o: seen.append(a[2]) or logits(self, *a))
    condition, ids = some(8)
    loss, metrics = prior.loss(params, condition, ids, NOTHING, key=jax.random.key(3), step=jnp.int32(0))
    (inputs,) = seen
    hidden, sequence = np.asarray(inputs == prior.mask_token), np.asarray(ids.reshape(8, -1))
    np.testing.assert_array_equal(np.asarray(inputs)[~hidden], sequence[~hidden])
    found = jax.nn.log_softmax(logits(prior, params, condition, inputs))
    each = -np.take_along_axis(np.asarray(found), sequence[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(loss, each[hidden].mean(), rtol=1e-5)
    assert metrics == {} and hidden.any(axis=1).all() and not hidden.all()


def test_the_share_of_hidden_tokens_is_a_cosine(monkeypatch):
    prior, params, seen = model_of(condition_dropout=0.0).prior, params_of("learned"), []
    blank = lambda self, *a, **o: seen.append(a[2]) or jnp.zeros((*a[2].shape, 12))
    monkeypatch.setattr(type(prior), "logits", blank)
    condition, ids = some(4000)
    loss, _ = prior.loss(params, condition, ids, NOTHING, key=jax.random.key(3), step=jnp.int32(0))
    np.testing.assert_allclose(loss, np.log(12), rtol=1e-5)
    shares = np.asarray(seen[0] == prior.mask_token).mean(axis=1)
    assert shares.min() >= 1 / 16 and shares.max() == 1
    expected = np.ceil(np.cos(np.pi / 2 * np.random.default_rng(0).random(100_000)) * 16) / 16
    for quantile in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(np.quantile(shares, quantile), np.quantile(expected, quantile), atol=0.07)
    places = np.asarray(seen[0] == prior.mask_token).mean(axis=0)
    assert np.ptp(places) < 0.06  # every place as often as others


def test_smoothing_and_z_loss_count_hidden_tokens_alone():
    prior, params = model_of(condition_dropout=0.0).prior, params_of("learned")
    condition, ids = some()
    at = {"key": jax.random.key(3), "step": jnp.int32(0)}
    plain, _ = prior.loss(params, condition, ids, NOTHING, **at)
    loss, metrics = prior.loss(params, condition, ids, TokenLossConfig(label_smoothing=0.1, z_loss=0.01), **at)
    np.testing.assert_allclose(metrics["masked_nll"], plain, rtol=1e-6)
    assert loss > 0.9 * plain + 0.01 * metrics["log_partition"]  # and what is spread evenly


def sampled(prior, params, condition, given, keep, seed, filters, guidance=None):
    """MaskGIT's drawing written out: token by token, with numpy where no key is needed."""
    steps = filters.get("steps", STEPS)
    ids = np.where(keep, given, prior.mask_token).reshape(len(given), -1)
    unknown = (ids == prior.mask_token).sum(axis=1)
    images = [jax.random.fold_in(jax.random.key(seed), i) for i in range(len(ids))]
    for t in range(steps):
        logits = np.asarray(prior.logits(params, condition, jnp.asarray(ids)))
        if guidance is not None:
            free = np.asarray(prior.logits(params, jnp.full_like(condition, CLASSES), jnp.asarray(ids)))
            logits = free + guidance[t] * (logits - free)
        for i, row in enumerate(ids):
            known, sure, drawn = row != prior.mask_token, np.full(16, np.inf), np.zeros(16, int)
            for place in range(16):
                key = jax.random.fold_in(jax.random.fold_in(images[i], place), t)
                told = jnp.asarray(logits[i, place])
                drawn[place] = draw(key[None], told[None], filters.get("temperature", 1.0), filters.get("top_k"))[0]
                noise = jax.random.gumbel(jax.random.fold_in(key, 1))
                noise *= filters.get("choice_temperature", CHOICE_TEMPERATURE) * (1 - (t + 1) / steps)
                if not known[place]:
                    sure[place] = jax.nn.log_softmax(told)[drawn[place]] + noise
            left = min(int(np.cos((t + 1) / steps * np.pi / 2) * unknown[i] + 1e-3), (~known).sum() - 1)
            again = np.argsort(sure)[: max(0, left) if t + 1 < steps else 0]
            row[~known] = drawn[~known]
            row[again] = prior.mask_token
    return ids.reshape(given.shape)


@kinds
@pytest.mark.parametrize("filters", [{}, {"steps": 3, "top_k": 5, "temperature": 0.8, "choice_temperature": 1.5}])
def test_it_draws_as_the_paper_says(kind, filters):
    generator = generator_of(kind)
    labels = np.array([0, 2])
    given, keep = np.asarray(some(2)[1]), np.random.RandomState(0).rand(2, *GRID) < 0.25
    found = generator.sample_ids(2, class_label=labels, seed=5, given=given, keep=keep, **filters)
    prior, params = generator.model.prior, params_of(kind)
    expected = sampled(prior, params, jnp.asarray(labels)[:, None], given, keep, 5, filters)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.asarray(found)[keep], given[keep])
    assert len(np.unique(found)) > 3


def test_guidance_is_by_step():
    generator, labels = generator_of(), np.array([1, 0])
    options = {"guidance": 3.0, "guidance_schedule": "linear", "steps": 4}
    found = generator.sample_ids(2, class_label=labels, seed=1, **options)
    nothing = np.zeros((2, *GRID), int)
    scales = 1 + 2 * np.arange(4) / 3
    prior, params = generator.model.prior, params_of("learned")
    condition = jnp.asarray(labels)[:, None]
    expected = sampled(prior, params, condition, nothing, nothing > 0, 1, {"steps": 4}, scales)
    np.testing.assert_array_equal(found, expected)
    assert (np.asarray(generator.sample_ids(2, class_label=labels, seed=1, steps=4)) != expected).any()


def test_an_image_is_the_same_in_any_batch_and_on_any_devices():
    together = generator_of().sample_ids(5, class_label=1, seed=2)
    np.testing.assert_array_equal(together[3:], generator_of().sample_ids(2, class_label=1, seed=2, first=3))
    np.testing.assert_array_equal(together, generator_of(devices=8).sample_ids(5, class_label=1, seed=2))


def test_greedy_heeds_no_seed_and_one_step_is_enough():
    draw_one = lambda seed, **options: generator_of().sample_ids(1, class_label=1, seed=seed, temperature=0, **options)
    np.testing.assert_array_equal(draw_one(1), draw_one(2))
    prior, params = generator_of().model.prior, params_of("learned")
    at_once = prior.logits(params, jnp.array([[1]]), jnp.full((1, 16), prior.mask_token)).argmax(axis=-1)
    np.testing.assert_array_equal(draw_one(1, steps=1).reshape(1, -1), at_once)


def test_what_is_given_anywhere_is_heeded_everywhere():
    keep = np.zeros(GRID, bool)
    keep[-1, -1] = True
    draws = [
        generator_of().sample_ids(8, class_label=0, seed=3, given=np.full(GRID, code), keep=keep)[:, 0, 0]
        for code in range(4)
    ]
    assert len({tuple(np.asarray(x)) for x in draws}) > 1 and generator_of().model.prior.completes == "anywhere"


def test_it_learns_what_a_class_looks_like():
    """Two patterns by class, told exactly in the end, and drawn."""
    model = model_of(condition=ClassLabel(2), condition_dropout=0.0)
    prior = model.prior
    patterns = jax.random.randint(jax.random.key(5), (2, *GRID), 0, 12)
    params, tx = prior.init(jax.random.key(0)), optax.adam(1e-2)
    condition = jnp.arange(8)[:, None] % 2

    @jax.jit
    def step(params, state, i):
        loss = lambda params: prior.loss(
            params, condition, patterns[condition[:, 0]], NOTHING, key=jax.random.fold_in(jax.random.key(1), i), step=i
        )[0]
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    evaluate = jax.jit(lambda params: prior.evaluate(params, condition[:2], patterns)["masked_nll"])
    first, state = evaluate(params), tx.init(params)
    for i in range(200):
        params, state = step(params, state, jnp.int32(i))
    assert first.shape == (2,) and (first > 2).all() and (evaluate(params) < 0.05).all()
    generator = Generator(model, params, FirstStage(FIRST, {}, make_mesh(MeshConfig(data=1))))
    np.testing.assert_array_equal(generator.sample_ids(2, class_label=[0, 1]), patterns)


def test_progress_tells_the_steps():
    for steps in (None, 3):
        told = []
        generator_of().sample_ids(1, class_label=0, steps=steps, progress=told.append)
        assert sum(told) == (steps or STEPS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (16, 8)}, r"prior='masked' draws those of its training, 8 x 8"),
        ({"steps": 0}, r"steps=0, but it must be a whole number from 1"),
        ({"choice_temperature": -1}, r"choice_temperature=-1, but it must be finite and at least 0"),
    ],
)
def test_what_it_cannot_draw_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        generator_of().sample_ids(1, class_label=0, **options)


def test_it_has_no_likelihood():
    with pytest.raises(ValueError, match="masked' has no likelihood"):
        generator_of().log_likelihood(np.zeros((1, *GRID), int), class_label=0)


def test_one_token_at_a_time_takes_no_steps():
    model = dataclasses.replace(model_of(), kind="autoregressive", gpt=GPT(GPTConfig(n_layer=1, n_head=2, n_embd=8)))
    generator = Generator(
        model, model.prior.init(jax.random.key(0)), FirstStage(FIRST, {}, make_mesh(MeshConfig(data=1)))
    )
    for options in ({"steps": 8}, {"choice_temperature": 1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}=.* says nothing to config.prior='autoregressive'"):
            generator.sample_ids(1, class_label=0, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": "spiral_in"}, "config.order='spiral_in' says nothing"),
        ({"pkeep": 0.5}, "config.pkeep=0.5 says nothing"),
        ({"kind": "scales"}, "config.prior='scales' is unknown; known: autoregressive, masked"),
        ({"gpt": GPT(GPTConfig(n_unmasked=1, n_layer=1, n_head=2, n_embd=8))}, "n_unmasked=1 says nothing"),
        ({"gpt": GPT(GPTConfig(vocab_size=12, n_layer=1, n_head=2, n_embd=8))}, "vocab_size=12.* at least 13"),
        ({"gpt": GPT(GPTConfig(block_size=16, n_layer=1, n_head=2, n_embd=8))}, "block_size=16.* need 17"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(model_of(), **changes)


def test_the_hidden_token_is_none_of_the_conditions():
    many = model_of(condition=ClassLabel(40))
    assert many.prior.mask_token == 41 and many.gpt.config.vocab_size == 42  # 40 stands for a hidden class
    assert model_of("own table", condition=ClassLabel(40)).prior.mask_token == 12
    assert model_of(condition=NoCondition()).prior.mask_token == 12
