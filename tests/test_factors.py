"""Ids in two parts: they are groups of channels, their likelihoods are those of one distribution over all codes, from
which is drawn, and nothing is as large as the vocabulary."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import drawn_like
from jax.sharding import PartitionSpec as P
from tiny import TINY

from taming_jax.conditioning import ClassLabel
from taming_jax.convert.formats import llamagen_transformer as llamagen
from taming_jax.convert.original import project
from taming_jax.models.gpt import GPT, GPTConfig, head_of, stack_layers
from taming_jax.models.vqgan import VQGAN
from taming_jax.nn import orders
from taming_jax.nn.lookup_free import FiniteScalarQuantizer, LookupFreeQuantizer, splits
from taming_jax.priors.base import Job
from taming_jax.priors.decode import token_chooser
from taming_jax.priors.filters import TracedFilters, draw
from taming_jax.sharding import MeshConfig, make_mesh, place
from taming_jax.trained.first_stage import FirstStage
from taming_jax.trained.generator import Generator
from taming_jax.trained.token_model import TokenModel
from taming_jax.two_stage import TwoStage

LEVELS = dataclasses.replace(TINY, quantizer="fsq", levels=(3, 5), embed_dim=2, n_embed=15)
BITS = dataclasses.replace(TINY, quantizer="lfq", embed_dim=4, n_embed=16)
MODERN = {"norm": "rms", "mlp": "swiglu", "mlp_multiple": 8, "bias": False, "positions": "rotary"}
GRID = (2, 3)


def model_of(factors=(2, 8), first=BITS, condition_dropout=0.0, order="row_major", **settings):
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "condition_table": True}
    gpt = GPT(GPTConfig(**sizes | settings, factors=factors))
    return TwoStage(VQGAN(first), gpt, ClassLabel(3), GRID, order, condition_dropout=condition_dropout)


def params_of(model, seed=0):
    """Random, and far from predicting all codes alike."""
    shapes = jax.eval_shape(model.gpt.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return jax.tree.map(lambda leaf: leaf * 3 if leaf.ndim == 2 else leaf, drawn_like(shapes, seed))


@pytest.mark.parametrize(
    ("quantizer", "levels"),
    [(LookupFreeQuantizer(32, 5), (2,) * 5), (FiniteScalarQuantizer(120, 4, levels=(2, 3, 4, 5)), (2, 3, 4, 5))],
)
def test_each_part_is_a_group_of_channels(quantizer, levels):
    n = math.prod(levels)
    codes = np.asarray(quantizer.apply({}, jnp.arange(n), method="lookup"))
    assert len(splits(levels)) == len(levels) - 1
    for channels, (first, second) in enumerate(splits(levels), 1):
        table = codes.reshape(first, second, -1)  # by the two parts of the id
        assert first * second == n
        assert (table[..., :channels] == table[:1, :, :channels]).all()  # the second part's alone
        assert (table[..., channels:] == table[:, :1, channels:]).all()
        assert len(np.unique(table[0, :, :channels], axis=0)) == second


@pytest.mark.parametrize("settings", [{}, MODERN], ids=["gpt", "modern"])
def test_likelihoods_are_of_one_distribution_over_all_codes(settings):
    model = model_of(**settings)
    params, condition = params_of(model), jnp.full((16, 1), 2, jnp.int32)
    before = np.random.RandomState(0).randint(0, 16, (1, 6))
    shares, nll = [], jax.jit(model.prior.token_nll)
    for i in range(6):
        ids = np.repeat(before, 16, axis=0)
        ids[:, i] = np.arange(16)
        found = np.asarray(nll(params, condition, ids.reshape(16, *GRID)))
        assert (found[:, :i] == found[:1, :i]).all()
        shares.append(np.exp(-found[:, i]))
    np.testing.assert_allclose(np.sum(shares, axis=1), 1, rtol=1e-5)
    table = np.reshape(shares[-1], (2, 8))
    after_first = table / table.sum(axis=1, keepdims=True)
    assert np.abs(after_first[0] - after_first[1]).max() > 0.05  # the second part knows the first
    generator = Generator(model, params, FirstStage(VQGAN(BITS), {}, make_mesh(MeshConfig(data=1))))
    whole = generator.log_likelihood(ids.reshape(16, *GRID), class_label=2)
    np.testing.assert_allclose(whole, -found.sum(axis=1), rtol=1e-5)


def test_codes_are_drawn_as_often_as_they_are_likely():
    model, n = model_of(), 20_000
    params, condition = params_of(model), jnp.zeros((16, 1), jnp.int32)
    ids = np.broadcast_to(np.arange(16)[:, None], (16, 6))
    expected = np.exp(-np.asarray(model.prior.token_nll(params, condition, ids.reshape(16, *GRID))[:, 0]))
    prediction = model.prior.logits(params, condition, ids)[:1, 0]
    nothing = jnp.zeros((n, 1), jnp.int32)
    job = Job(nothing, nothing, nothing > 0, jax.random.key(1), jnp.arange(n), TracedFilters(jnp.float32(1.0)))
    choose = jax.jit(token_chooser(job, 16, head_of(model.gpt, params)))
    found = np.bincount(choose(jnp.repeat(prediction, n, axis=0), jnp.int32(3)), minlength=16) / n
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(expected.max() / n))


@pytest.mark.parametrize(
    "filters", [{"greedy": True}, {"top_k": 2, "top_p": jnp.float32(0.9)}], ids=["greedy", "drawn"]
)
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_sampling_with_the_cache_is_sampling_without(scale, filters):
    """Guidance, filters and noise are each part's own; greedy is the likeliest one, and then the likeliest after it."""
    model = model_of((4, 4), condition_dropout=0.1, order="spiral_out", **MODERN)
    params, labels = params_of(model, 1), np.array([[0], [2]], np.int32)
    walk, head = model.tokens.walk, head_of(model.gpt, params)
    scales = None if scale == 1 else jnp.full(6, scale)
    traced = TracedFilters(jnp.float32(0.8), guidance=scales, **{"top_p": None} | filters)
    nothing = np.zeros((2, *GRID), np.int32)
    job = Job(jnp.asarray(labels), nothing, nothing > 0, jax.random.key(5), jnp.arange(2), traced)
    found = jax.jit(model.prior.sample)(params, job)

    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(5), jnp.arange(2))
    says = jax.jit(lambda labels, ids: model.prior.logits(params, labels, ids))
    tokens = np.zeros((2, 6), np.int32)
    for i, spot in enumerate(walk):
        asked, free = (says(before, tokens)[:, i : i + 1] for before in (labels, np.full_like(labels, 3)))

        def part(number, logits, spot=spot, asked=asked, free=free):
            guided = logits(free) + scale * (logits(asked) - logits(free))
            own = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, spot), number))(keys)
            limits = (filters.get("top_k"), filters.get("top_p"))
            return jnp.argmax(guided[:, 0], -1) if "greedy" in filters else draw(own, guided[:, 0], 0.8, *limits)

        first = part(0, head.first)
        tokens[:, i] = 4 * first + part(1, lambda x, first=first: head.second(x, first[:, None]))
    np.testing.assert_array_equal(found, tokens[:, orders.inverse(walk)].reshape(2, *GRID))
    assert len(np.unique(found)) > 2


def test_scan_a_mesh_and_half_precision_give_the_same():
    model, rs = model_of((4, 4), n_layer=2, n_embd=32, **MODERN), np.random.RandomState(0)
    params, stages = params_of(model), {}
    batch = {"codes": rs.randint(0, 16, (8, *GRID)).astype(np.int32), "class_label": rs.randint(0, 3, 8)}

    def run(model, params):
        loss = lambda params: model.evaluate(params, stages, batch)["nll"].mean()
        return jax.jit(jax.value_and_grad(loss))(params)

    loss, gradients = run(model, params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))
    other = lambda **settings: dataclasses.replace(model, gpt=GPT(dataclasses.replace(model.gpt.config, **settings)))
    np.testing.assert_allclose(run(other(scan_layers=True, remat="block"), stack_layers(params, 2))[0], loss, rtol=1e-5)
    np.testing.assert_allclose(run(other(dtype="bfloat16"), params)[0], loss, rtol=2e-2)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        placed = place(params, mesh)
        assert placed["head"]["second_head"]["kernel"].sharding.spec == P("fsdp", "tensor")
        np.testing.assert_allclose(run(model, placed)[0], loss, rtol=1e-5)


def test_nothing_is_as_large_as_the_vocabulary():
    first = dataclasses.replace(BITS, embed_dim=18, n_embed=2**18)
    model = model_of((512, 512), first, condition_dropout=0.1)
    params = jax.eval_shape(model.gpt.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    grid = jnp.zeros((2, *GRID), jnp.int32)
    batch = {"codes": grid, "class_label": jnp.zeros(2, jnp.int32)}
    loss = lambda params: model.prior.token_nll(params, *model.read({}, batch), jax.random.key(0)).mean()
    filters = TracedFilters(jnp.float32(1.0), jnp.float32(0.9), jnp.ones(6), top_k=10)
    job = Job(jnp.zeros((2, 1), jnp.int32), grid, grid > 0, jax.random.key(0), jnp.arange(2), filters)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    for program in (jax.grad(loss), lambda params: model.prior.sample(params, job)):
        sizes += [aval.size for aval in arrays_of(jax.make_jaxpr(program)(params).jaxpr)]
    assert len(sizes) > 300 and 512 * 16 <= max(sizes) < 2**18


def arrays_of(jaxpr):
    """The shapes of all that a program computes, loops included."""
    for equation in jaxpr.eqns:
        yield from (var.aval for var in equation.outvars if hasattr(var.aval, "size"))
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from arrays_of(inner)


def test_a_transformer_alone_draws_but_has_no_logits():
    config = GPTConfig(16, 6, 1, 2, 16, condition_table=True, condition_size=4, grid=GRID, factors=(4, 4))
    model = TokenModel(GPT(config), params_of(model_of((4, 4))), make_mesh(MeshConfig(data=1)))
    drawn = np.asarray(model.extend([[0], [2]], 6, top_k=3))
    np.testing.assert_array_equal(drawn, model.extend([[0], [2]], 6, top_k=3))
    assert drawn.shape == (2, 6) and 0 <= drawn.min() < drawn.max() < 16
    with pytest.raises(ValueError, match=r"factors=\(4, 4\): ids are predicted in two parts"):
        model.logits([[0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factors": (16,)}, r"factors=\(16,\), but it must be how many ids each of two parts has"),
        ({"factors": (1, 16)}, r"factors=\(1, 16\), but it must be"),
        ({"factors": (4, 4), "vocab_size": 20}, r"factors=\(4, 4\), but they make 16 ids, and vocab_size=20"),
        ({"condition_table": False}, r"factors=\(2, 8\), but it goes with condition_table=True"),
        ({"factors": (4, 8)}, r"factors=\(4, 8\), but the first stage's 16 codes.*: \(8, 2\), \(4, 4\), \(2, 8\), or"),
        ({"factors": (3, 5), "first": LEVELS}, r"channels have \(3, 5\) values, can only be .* channels: \(5, 3\), or"),
        ({"first": dataclasses.replace(TINY, n_embed=16)}, r"codes of quantizer='vq' are not all combinations"),
        ({"first": dataclasses.replace(BITS, remap=tuple(range(8)))}, r"its list of used ones, remap, are not all"),
    ],
)
def test_only_groups_of_whole_channels_can_be_parts(changes, message):
    with pytest.raises(ValueError, match=message):
        model_of(**changes)
    assert model_of((5, 3), LEVELS).gpt.config.vocab_size == 15


def test_other_programs_do_not_know_parts():
    config = GPTConfig(**MODERN, condition_table=True, factors=(4, 4))
    with pytest.raises(ValueError, match=r"cannot be this: factors=\(4, 4\)"):
        llamagen.check(config, {})
    with pytest.raises(ValueError, match=r"factors=\(4, 4\) is unknown to the original"):
        project._gpt(config)
