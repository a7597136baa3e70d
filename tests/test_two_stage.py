"""The two-stage model: the original's numbers from image to tokens and back, and sampling's properties."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import first_stage_params, gpt_params, weights
from tiny import TINY

from taming_jax.conditioning import ClassLabel, ConditionConfig, NoCondition, make_condition
from taming_jax.models.gpt import GPT, GPTConfig, cast_layers, token_cross_entropy
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.nn import orders
from taming_jax.priors.decode import cache_lengths, draw_sequence
from taming_jax.priors.filters import Filters, draw
from taming_jax.sharding import MeshConfig, make_mesh
from taming_jax.trained.first_stage import FirstStage
from taming_jax.trained.generator import Generator
from taming_jax.trained.sampler import Request
from taming_jax.two_stage import TwoStage

FIRST = VQGAN(
    VQGANConfig(resolution=32, ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=32, embed_dim=16, n_embed=64)
)
SECOND = GPT(GPTConfig(vocab_size=64, block_size=257, n_layer=2, n_head=4, n_embd=64))
SMALL = VQGAN(TINY)


@pytest.fixture(scope="module", params=["class_conditional", "unconditional"])
def case(request, golden):
    """(generator with the original's weights, its arrays, the condition as keywords)."""
    arrays = golden(request.param)
    state = weights(arrays)
    first = FirstStage(FIRST, first_stage_params(state), make_mesh(MeshConfig(data=1)))
    by_class = request.param == "class_conditional"
    model = TwoStage(FIRST, SECOND, ClassLabel(10) if by_class else NoCondition(), grid=(16, 16))
    given = {"class_label": arrays["class_label"]} if by_class else {}
    return Generator(model, gpt_params(state), first), arrays, given


def test_ids_logits_and_loss_are_the_originals(case):
    generator, arrays, given = case
    model = generator.model
    ids = generator.first_stage.encode(arrays["image"])
    np.testing.assert_array_equal(ids.reshape(2, -1), arrays["indices"])
    sequence = model.tokens.to_sequence(ids)
    logits = jax.jit(model.prior.logits)(generator.params, model.condition.tokens(given, 2, {}), sequence)
    np.testing.assert_allclose(logits, arrays["logits"], atol=1e-4 * np.abs(arrays["logits"]).max(), rtol=0)
    nll = token_cross_entropy(logits, sequence)
    np.testing.assert_allclose(nll.mean(), arrays["loss"], rtol=1e-4)
    np.testing.assert_allclose(generator.log_likelihood(ids, **given), -nll.sum(axis=1), rtol=1e-4)


def test_greedy_tokens_and_their_image_are_the_originals(case):
    generator, arrays, given = case
    ids = generator.sample_ids(2, temperature=0.0, **given)
    np.testing.assert_array_equal(ids.reshape(2, -1), arrays["greedy_tokens"])
    images = generator.decode(ids)
    scale = np.abs(arrays["greedy_image"]).max()
    np.testing.assert_allclose(images, arrays["greedy_image"], atol=1e-4 * scale, rtol=0)


def small(condition, order="row_major", grid=(4, 4), pkeep=1.0, condition_dropout=0.0):
    """A random model with a grid of few tokens."""
    gpt = GPT(GPTConfig(vocab_size=24, block_size=20, n_layer=2, n_head=2, n_embd=16))
    return TwoStage(SMALL, gpt, condition, grid, order, pkeep, condition_dropout)


@pytest.fixture(scope="module")
def small_params():
    params = jax.jit(small(NoCondition()).gpt.init)(jax.random.key(1), jnp.zeros((1, 2), jnp.int32))["params"]
    return jax.tree.map(lambda leaf: leaf * 8 if leaf.ndim == 2 else leaf, params)  # far from uniform


def generator_of(model, params, devices=1):
    return Generator(model, params, FirstStage(SMALL, {}, make_mesh(MeshConfig(data=devices))))


@pytest.mark.parametrize("order", ["row_major", "spiral_out", "z_curve"])
def test_sampling_with_the_cache_is_sampling_without(small_params, order):
    model = small(ClassLabel(10), order)
    labels = np.array([3, 7])
    ids = generator_of(model, small_params).sample_ids(2, class_label=labels, seed=5, top_k=9, temperature=0.8)

    walk, apply = model.tokens.walk, jax.jit(model.gpt.apply)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(5), jnp.arange(2))
    tokens = jnp.zeros((2, 20), jnp.int32).at[:, 0].set(labels)  # one size: one program
    for i, place in enumerate(walk):
        logits = apply({"params": small_params}, tokens)[:, i, : model.n_codes]
        place_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
        tokens = tokens.at[:, i + 1].set(draw(place_keys, logits, 0.8, 9))
    expected = np.asarray(tokens)[:, 1:17][:, orders.inverse(walk)].reshape(2, 4, 4)
    np.testing.assert_array_equal(ids, expected)
    assert len(np.unique(ids)) > 3


def test_half_precision_weights_are_cast_once_and_not_for_every_token(small_params):
    gpt = GPT(dataclasses.replace(small(NoCondition()).gpt.config, dtype="bfloat16"))
    choose = lambda logits, place: jnp.argmax(logits, axis=-1).astype(jnp.int32)
    start, none = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 16), jnp.int32)
    run = lambda params: draw_sequence(gpt, params, start, jnp.arange(16), none, none > 0, choose)
    (loop,) = (op for op in jax.make_jaxpr(run)(small_params).eqns if op.primitive.name == "scan")
    matrices = [x.aval for x in loop.invars if x.aval.ndim == 2 and min(x.aval.shape) > 1]
    embeddings = {small_params["token"]["embedding"].shape, small_params["position"].shape}
    assert {x.shape for x in matrices if x.dtype == jnp.float32} == embeddings
    assert sum(x.dtype == jnp.bfloat16 for x in matrices) == 6 * gpt.config.n_layer + 1
    kernel = cast_layers(small_params, "bfloat16")["block_0"]["mlp"]["up"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    np.testing.assert_array_equal(run(cast_layers(small_params, "bfloat16")), run(small_params))


def test_a_program_serves_all_requests_of_one_shape(small_params):
    """Whatever the parameters, the condition, the seed, and the filters but top_k and whether they are greedy."""
    sampler = generator_of(small(ClassLabel(10), condition_dropout=0.1), small_params).sampler
    other = jax.tree.map(lambda leaf: leaf + 1, small_params)
    for pixels, programs in (((8, 8), (sampler._sample,)), ((12, 8), (sampler._start_walk, sampler._go_on))):
        request = Request({"class_label": np.array([3, 7])}, 2, pixels, Filters(0.9, 5, 0.9, 2.0))
        keep = np.arange(pixels[0] // 2 * pixels[1] // 2).reshape(pixels[0] // 2, -1) < 3
        before = [program._cache_size() for program in programs]  # one cache for all tests
        sampler.draw(small_params, request)
        for change in (
            {"filters": Filters(1.3, 5, 0.5, 3.0, "cosine")},
            {"batch": {"class_label": np.array([0, 1])}, "seed": 5, "first": 2},
            {"given": np.ones(keep.shape, np.int32), "keep": keep},
        ):
            sampler.draw(other, dataclasses.replace(request, **change))
        assert [program._cache_size() - size for program, size in zip(programs, before)] == [1] * len(programs)
        sampler.draw(other, dataclasses.replace(request, filters=Filters(0.9, 4, 0.9, 2.0)))
        assert programs[-1]._cache_size() == before[-1] + 2


def test_guidance_moves_logits_away_from_those_without_the_condition(small_params):
    model = small(ClassLabel(10), "spiral_out", condition_dropout=0.1)
    generator, labels = generator_of(model, small_params, devices=2), np.array([3, 7])
    options = {"class_label": labels, "temperature": 0.0}
    ids = np.asarray(generator.sample_ids(2, **options, guidance=3.0, guidance_schedule="linear"))
    walk, apply = model.tokens.walk, jax.jit(model.gpt.apply)
    asked = jnp.zeros((2, 20), jnp.int32).at[:, 0].set(labels)
    for i in range(16):
        free = asked.at[:, 0].set(10)
        with_it, without = (apply({"params": small_params}, x)[:, i, : model.n_codes] for x in (asked, free))
        scale = 1 + 2 * i / 15
        asked = asked.at[:, i + 1].set(jnp.argmax(without + scale * (with_it - without), axis=-1))
    np.testing.assert_array_equal(ids, np.asarray(asked)[:, 1:17][:, orders.inverse(walk)].reshape(2, 4, 4))
    plain = np.asarray(generator.sample_ids(2, **options))
    assert not np.array_equal(ids, plain)
    np.testing.assert_array_equal(plain, generator.sample_ids(2, **options, guidance=1.0))
    with pytest.raises(ValueError, match=r"guidance=2.0, but without config.condition_dropout in training"):
        generator_of(small(ClassLabel(10)), small_params).sample_ids(2, class_label=1, guidance=2.0)


def test_conditions_are_hidden_from_that_share_of_training_images():
    model = small(ClassLabel(10), condition_dropout=0.25)
    labels = jnp.arange(400).reshape(400, 1) % 10
    hidden = np.asarray(model.sequences.hide(jax.random.key(0), labels))
    assert 0.2 < (hidden == 10).mean() < 0.3
    np.testing.assert_array_equal(hidden[hidden != 10], np.asarray(labels)[hidden != 10])
    maps = np.asarray(model.sequences.hide(jax.random.key(0), jnp.zeros((400, 3, 2), jnp.int32)))
    np.testing.assert_array_equal(maps.min(axis=(1, 2)), maps.max(axis=(1, 2)))  # all of a condition or nothing
    np.testing.assert_array_equal(small(ClassLabel(10)).sequences.hide(jax.random.key(0), labels), labels)


def test_progress_tells_every_step(small_params):
    generator = generator_of(small(NoCondition()), small_params)
    for pixels in ((8, 8), (12, 18)):
        told = []
        drawn = generator.sample_ids(2, size=pixels, progress=told.append)
        np.testing.assert_array_equal(drawn, generator.sample_ids(2, size=pixels))
        assert sum(told) == generator.steps(pixels) == generator.drawing_steps(pixels).max() + 1
        assert len(told) > 1 or pixels == (8, 8)


@pytest.mark.parametrize(("prefix", "tokens"), [(1, 255), (256, 255), (3, 10), (1, 0)])
def test_the_cache_grows_to_all_tokens_in_few_lengths(prefix, tokens):
    lengths = cache_lengths(prefix, tokens)
    assert lengths[-1] == prefix + tokens and lengths == sorted(lengths)
    assert len(lengths) == (3 if tokens == 255 else 1)


def test_an_image_is_the_same_in_any_batch_and_on_any_number_of_devices(small_params):
    labels = np.arange(6)
    one = generator_of(small(ClassLabel(10)), small_params)
    together = np.asarray(one.sample_ids(6, class_label=labels, seed=2))
    apart = [np.asarray(one.sample_ids(2, class_label=labels[i : i + 2], seed=2, first=i)) for i in (0, 2, 4)]
    np.testing.assert_array_equal(together, np.concatenate(apart))
    eight = generator_of(small(ClassLabel(10)), small_params, devices=8)
    np.testing.assert_array_equal(together, eight.sample_ids(6, class_label=labels, seed=2))
    assert not np.array_equal(together, one.sample_ids(6, class_label=labels, seed=3))


def test_kept_ids_stay_and_condition_the_rest(small_params):
    generator = generator_of(small(NoCondition()), small_params)
    given, keep = np.arange(16).reshape(4, 4), np.zeros((4, 4), bool)
    keep[:2] = True
    ids = np.asarray(generator.sample_ids(3, given=given, keep=keep))
    np.testing.assert_array_equal(ids[:, :2], np.broadcast_to(given[:2], (3, 2, 4)))
    other = np.asarray(generator.sample_ids(3, given=given[::-1], keep=keep))
    assert not np.array_equal(ids[:, 2:], other[:, 2:])


def test_no_id_beyond_the_codes_is_drawn(small_params):
    bias = {**small_params, "head": {"kernel": small_params["head"]["kernel"].at[:, 20:].mul(100.0)}}
    ids = generator_of(small(NoCondition()), bias).sample_ids(8)
    assert int(ids.max()) < SMALL.config.n_embed


def test_sequence_and_grid_are_inverse():
    ids = jnp.arange(32).reshape(2, 4, 4)
    for order in orders.ORDERS:
        model = small(NoCondition(), order)
        np.testing.assert_array_equal(model.tokens.to_ids(model.tokens.to_sequence(ids)), ids)


def test_pkeep_replaces_that_share_of_inputs():
    model = small(NoCondition(), pkeep=0.75)
    sequence = jnp.full((64, 64), 22)  # no random id: it lies beyond the codes
    changed = np.asarray(model.prior.corrupt(jax.random.key(0), sequence) != sequence)
    assert 0.2 < changed.mean() < 0.3
    np.testing.assert_array_equal(small(NoCondition()).prior.corrupt(jax.random.key(0), sequence), sequence)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_label": 10}, r"class 10 is out of range; this model knows 0\.\.9"),
        ({"class_label": "cat"}, r"class 'cat' is unknown; known: dog, red fox"),
        ({}, r"needs class_label"),
        ({"class_label": [1, 2, 3]}, r"3 entries for 2 images"),
        ({"class_label": 1, "depth": 0}, r"unknown argument\(s\) depth; this model takes class_label"),
        ({"class_label": 1, "top_k": 0}, r"top_k=0"),
        ({"class_label": 1, "temperature": -1}, r"temperature=-1"),
        ({"class_label": 1, "top_p": 0.0}, r"top_p=0"),
        ({"class_label": 1, "guidance": -1}, r"guidance=-1"),
        ({"class_label": 1, "guidance_schedule": "up"}, r"schedule='up' is unknown; known: constant, linear, cosine"),
        ({"class_label": 1, "size": (12, 12), "stride": 3}, r"stride=3, but windows of 4 x 4 tokens move by 1 to 2"),
        ({"class_label": 1, "size": (12, 0)}, r"12 x 0 pixels is not divisible"),
        ({"class_label": 1, "size": "512"}, r"size='512'; expected height and width in pixels"),
        ({"class_label": 1, "size": (12, 12, 3)}, r"size=\(12, 12, 3\); expected height and width in pixels"),
        ({"class_label": 1, "given": np.zeros((4, 4), int)}, r"given and keep go together"),
        (
            {"class_label": 1, "given": np.zeros((3, 4), int), "keep": np.ones((4, 4), bool)},
            r"keep has shape \(4, 4\); expected \(3, 4\)",
        ),
        ({"class_label": 1, "given": np.full((4, 4), 20), "keep": np.ones((4, 4), bool)}, r"codes 0\.\.19"),
        ({"class_label": 1, "given": np.zeros((4, 4), int), "keep": np.ones((4, 4))}, r"keep is float64"),
    ],
)
def test_bad_requests_are_refused(small_params, options, message):
    names = ("dog", "red fox", *(f"class {i}" for i in range(8)))
    generator = generator_of(small(ClassLabel(10, names)), small_params)
    with pytest.raises(ValueError, match=message):
        generator.sample_ids(2, **options)


def classes_of(condition, value, n):
    return condition.parse({"class_label": value}, n, (32, 32))["class_label"]


def test_classes_go_by_number_and_by_any_of_their_names():
    condition = ClassLabel(3, ("tench, Tinca tinca", "goldfish", "shark"))
    np.testing.assert_array_equal(classes_of(condition, ["Tinca tinca", "2", 1, "Goldfish"], 4), [0, 2, 1, 1])
    np.testing.assert_array_equal(classes_of(condition, "shark", 2), [2, 2])
    digits = ClassLabel(4, ("0", "1", "10", "2"))  # folders named by digits: a text is a name first
    np.testing.assert_array_equal(classes_of(digits, ["2", 2, "10", "3"], 4), [3, 2, 2, 3])


def test_open_sizes_become_what_the_parts_need():
    fitted = lambda condition, **options: TwoStage(SMALL, GPT(GPTConfig()), condition, (4, 4), **options).gpt.config
    assert fitted(NoCondition()) == GPTConfig(vocab_size=20, block_size=16)
    assert fitted(ClassLabel(24)) == GPTConfig(vocab_size=24, block_size=16)
    assert fitted(ClassLabel(24), condition_dropout=0.1) == GPTConfig(vocab_size=25, block_size=16)
    half = TwoStage(SMALL, GPT(GPTConfig(vocab_size=30)), NoCondition(), (4, 4))
    assert half.gpt.config == GPTConfig(vocab_size=30, block_size=16)
    assert dataclasses.replace(half, order="spiral_in").gpt == half.gpt and hash(half) == hash(half)


def test_parts_that_do_not_fit_are_refused():
    gpt = GPT(GPTConfig(vocab_size=10, block_size=20, n_layer=1, n_head=1, n_embd=8))
    with pytest.raises(ValueError, match=r"vocab_size=10, but the first stage has 20 codes and the condition 1 ids"):
        TwoStage(SMALL, gpt, NoCondition(), (4, 4))
    with pytest.raises(ValueError, match=r"block_size=20, but 1 condition and 64 image tokens \(8 x 8\) need 64"):
        TwoStage(SMALL, small(NoCondition()).gpt, NoCondition(), (8, 8))
    with pytest.raises(ValueError, match=r"spiral"):
        small(NoCondition(), order="zigzag")
    with pytest.raises(ValueError, match=r"pkeep=0"):
        small(NoCondition(), pkeep=0.0)
    with pytest.raises(ValueError, match=r"condition_dropout=1.0, but it is a share"):
        small(ClassLabel(10), condition_dropout=1.0)
    with pytest.raises(ValueError, match=r"there is no condition to hide"):
        small(NoCondition(), condition_dropout=0.1)
    with pytest.raises(ValueError, match=r"vocab_size=24, .* 24 ids, one more for a hidden condition; .* at least 25"):
        small(ClassLabel(24), condition_dropout=0.1)
    seeing = GPT(GPTConfig(vocab_size=20, block_size=16, n_layer=1, n_head=1, n_embd=8, n_unmasked=2))
    with pytest.raises(ValueError, match=r"n_unmasked=2, but the condition has 1 token.*image tokens would see"):
        TwoStage(SMALL, seeing, NoCondition(), (4, 4))
    for wrong in ({"scale": 0}, {"factor": -16}, {"n_codes": 0}, {"n_classes": -1}, {"max_objects": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
            ConditionConfig(**wrong)
    with pytest.raises(ValueError, match=r"scale=3 does not divide the images' 8 pixels"):
        make_condition(ConditionConfig(kind="low_res", stage="first_stage", scale=3), SMALL, 8)
    with pytest.raises(ValueError, match=r"kind='smell' is unknown; known: none, class_label"):
        make_condition(ConditionConfig(kind="smell"), SMALL, 8)
    with pytest.raises(ValueError, match=r"n_classes=0"):
        make_condition(ConditionConfig(kind="class_label"), SMALL, 8)


def test_images_of_another_range_or_shape_are_refused(case):
    first = case[0].first_stage
    with pytest.raises(ValueError, match=r"use images / 127.5 - 1"):
        first.encode(np.full((1, 32, 32, 3), 200, np.uint8))
    with pytest.raises(ValueError, match=r"expected \(b, H, W, 3\)"):
        first.encode(np.zeros((32, 32, 3), np.float32))
    with pytest.raises(ValueError, match=r"33"):
        first.encode(np.zeros((1, 33, 32, 3), np.float32))
    with pytest.raises(ValueError, match=r"codes 0\.\.63"):
        first.decode(np.full((1, 2, 2), 64))
