"""The sliding window: the original's tokens, and those of a sampler that reads a whole window for each token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import drawn_like, gpt_params, weights
from tiny import TINY

from taming_jax.conditioning import ClassLabel, Coordinate, NoCondition, ObjectsCondition, StageCondition
from taming_jax.models.gpt import GPT, GPTConfig, head_of
from taming_jax.models.vqgan import VQGAN
from taming_jax.priors.base import Job
from taming_jax.priors.decode import token_chooser
from taming_jax.priors.filters import TracedFilters
from taming_jax.priors.wavefront import corner, make_schedule
from taming_jax.priors.window import cache_bytes, check_window, sample_window, schedule_for
from taming_jax.sharding import MeshConfig, make_mesh, put_whole
from taming_jax.trained.first_stage import FirstStage
from taming_jax.trained.generator import Generator
from taming_jax.two_stage import TwoStage

CODES = 20
FIRST = dataclasses.replace(TINY, ch_mult=(1,))
ORIGINAL = GPT(GPTConfig(vocab_size=64, block_size=512, n_layer=2, n_head=4, n_embd=64))

window = jax.jit(lambda model, *arguments: sample_window(model.prior, *arguments), static_argnums=0)

whole = jax.jit(lambda model, params, job: model.prior.sample(params, job), static_argnums=0)


class SixteenPlaces(NoCondition):
    """What stands before the image's tokens where the first 16 see one another."""

    length = 16


def model_of(grid=(4, 4), order="row_major", gpt=None, codes=CODES, stage=None, **settings):
    settings = {"vocab_size": 24, "block_size": 62, "n_layer": 2, "n_head": 2, "n_embd": 32} | settings
    first = VQGAN(dataclasses.replace(FIRST, n_embed=codes, **stage or {}))
    condition = SixteenPlaces() if settings.get("n_unmasked") else NoCondition()
    return TwoStage(first, gpt or GPT(GPTConfig(**settings)), condition, grid, order)


@pytest.fixture(scope="module")
def params():
    """Random, and far from drawing uniformly."""
    shapes = jax.eval_shape(model_of().gpt.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    return jax.tree.map(lambda leaf: leaf * 3 if leaf.ndim == 2 else leaf, drawn_like(shapes, 3))


def condition_of(kind, grid, images=2):
    """kind "map": one token for each of the image's; a number: so many tokens, the same for every window."""
    shape = (images, *grid) if kind == "map" else (images, kind)
    return np.random.RandomState(5).randint(0, 24, shape).astype(np.int32)


def completion_of(grid, images=2, share=0.3):
    rs = np.random.RandomState(6)
    return rs.randint(0, CODES, (images, *grid)).astype(np.int32), rs.rand(images, *grid) < share


def nothing(grid, images=2):
    return np.zeros((images, *grid), np.int32), np.zeros((images, *grid), bool)


def job_of(condition, given, keep, numbers=None, **filters):
    numbers = np.arange(len(given)) if numbers is None else numbers
    return Job(condition, given, keep, jax.random.key(1), numbers, TracedFilters(jnp.float32(0.9), **filters))


def draw(model, params, condition, given, keep, schedule=None, *, numbers=None, **filters):
    return np.asarray(window(model, params, job_of(condition, given, keep, numbers, **filters), schedule))


def one_by_one(model, params, condition, given, keep, *, stride=1, scale=1, **filters):
    """The plain sampler: row by row, for each token the whole window through the network, nothing kept."""
    (rows, columns), (h, w) = given.shape[1:], model.grid
    h, w = min(h, rows), min(w, columns)
    spatial = condition.ndim == 3
    layout = model.sequences.window_layout(h * w if spatial else condition.shape[1], spatial, (h, w))
    forward = jax.jit(lambda ids: model.gpt.apply({"params": params}, ids, layout=layout))
    job, head = job_of(condition, given, keep, **filters), head_of(model.gpt, params)
    choose = jax.jit(token_chooser(job, model.n_codes, head))

    def first(place, size, length):
        centred = (place - length // 2) // stride * stride
        return min(max(centred, 0), size - length)

    ids = np.where(keep, given, 0)
    for i, j in np.ndindex(rows, columns):
        top, left = first(i, rows, h), first(j, columns, w)
        cut = lambda grid, top=top, left=left: grid[:, top : top + h, left : left + w].reshape(len(grid), -1)
        before = cut(condition) if condition.ndim == 3 else condition
        place = before.shape[1] - 1 + (i - top) * w + j - left
        logits = forward(np.concatenate([before, cut(ids)], axis=1)[:, :-1])[:, place]
        if scale != 1:
            hidden = np.full_like(before, model.condition.vocabulary)
            free = forward(np.concatenate([hidden, cut(ids)], axis=1)[:, :-1])[:, place]
            logits = free + scale * (logits - free)
        token = np.asarray(choose(logits, i * columns + j))
        ids[:, i, j] = np.where(keep[:, i, j], given[:, i, j], token)
    return ids


def keep_of(name, given):
    return np.arange(given.shape[1])[None, :, None] < np.full(given.shape, int(name.partition("start")[2]))


@pytest.mark.parametrize("name", ["h16_w16_start0", "h20_w28_start0", "h16_w40_start0", "h24_w24_start12"])
def test_tokens_are_the_originals(golden, name):
    arrays = golden("sliding_window")
    model, params = model_of((16, 16), gpt=ORIGINAL, codes=64), gpt_params(weights(arrays))
    condition, given = arrays[f"{name}_cond"], arrays[f"{name}_given"]
    keep = keep_of(name, given)
    schedule = schedule_for(model.prior, condition.shape, given.shape, keep=keep)
    ids = draw(model, params, condition, given, keep, schedule, greedy=True)
    np.testing.assert_array_equal(ids, arrays[f"{name}_tokens"])


def test_tokens_given_a_segmentation_are_the_originals(golden):
    arrays = golden("segmentation_conditional")
    model, params = model_of((16, 16), gpt=ORIGINAL, codes=64), gpt_params(weights(arrays))
    ids = draw(model, params, arrays["cond_indices"].reshape(1, 20, 24), *nothing((20, 24), 1), greedy=True)
    np.testing.assert_array_equal(ids, arrays["window_tokens"])


MODERN = {"norm": "rms", "mlp": "swiglu", "mlp_multiple": 16, "bias": False, "positions": "rotary", "kv_heads": 1}
MODERN |= {"condition_table": True, "condition_size": 24, "qk_norm": True}


@pytest.mark.parametrize(("grid", "kind"), [((7, 10), 1), ((6, 9), "map"), ((3, 4), 1)])
def test_a_rotary_model_draws_what_the_sequential_sampler_draws(grid, kind):
    """Positions are those in the window; also on a grid smaller than the training's."""
    model = model_of(**MODERN)
    shapes = jax.eval_shape(model.gpt.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: leaf * 3 if leaf.ndim == 2 else leaf, drawn_like(shapes, 3))
    condition, (given, keep) = condition_of(kind, grid), completion_of(grid)
    ids = draw(model, params, condition, given, keep)
    np.testing.assert_array_equal(ids, one_by_one(model, params, condition, given, keep))
    assert len(np.unique(ids)) > 5


def test_ids_in_two_parts_are_those_of_the_sequential_sampler():
    """Parts of the ids of the codes of a window: kept ones, condition maps and guidance as with one part."""
    stage = {"quantizer": "fsq", "levels": (4, 5), "embed_dim": 2}
    model = model_of(stage=stage, factors=(5, 4), **MODERN | {"vocab_size": 20})
    shapes = jax.eval_shape(model.gpt.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: leaf * 3 if leaf.ndim == 2 else leaf, drawn_like(shapes, 3))
    condition, (given, keep) = condition_of("map", (5, 9)), completion_of((5, 9))
    ids = draw(model, params, condition, given, keep, top_k=3)
    np.testing.assert_array_equal(ids, one_by_one(model, params, condition, given, keep, top_k=3))
    assert len(np.unique(ids)) > 5
    small = condition_of(1, (4, 4)) % 23, *completion_of((4, 4))
    guided = {"guidance": jnp.full(16, 2.5)}
    model = dataclasses.replace(model, condition=ClassLabel(23), condition_dropout=0.1)
    plain = whole(model, params, job_of(*small, **guided))
    np.testing.assert_array_equal(draw(model, params, *small, **guided), plain)


def test_guidance_reads_every_window_with_and_without_its_condition(params):
    grid, model = (5, 9), model_of()
    condition, (given, keep) = condition_of("map", grid) % 23, completion_of(grid)
    model = dataclasses.replace(model, condition=ClassLabel(23), condition_dropout=0.1)
    scales = jnp.full(grid[0] * grid[1], 2.5)
    ids = draw(model, params, condition, given, keep, guidance=scales)
    np.testing.assert_array_equal(ids, one_by_one(model, params, condition, given, keep, scale=2.5))
    assert not np.array_equal(ids, draw(model, params, condition, given, keep))


CASES = {
    "square": ((7, 7), "map", {}),
    "wide": ((5, 13), "map", {"top_k": 9}),
    "tall": ((11, 6), 1, {}),
    "odd": ((9, 5), 3, {"greedy": True}),
    "narrow": ((7, 3), "map", {}),
    "low": ((2, 9), "map", {"top_k": 5}),
    "one column": ((6, 1), 1, {}),
    "as trained": ((4, 4), "map", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_wavefront_draws_what_whole_windows_draw(params, case):
    grid, kind, filters = CASES[case]
    condition, (given, keep) = condition_of(kind, grid), nothing(grid)
    ids = draw(model_of(), params, condition, given, keep, **filters)
    np.testing.assert_array_equal(ids, one_by_one(model_of(), params, condition, given, keep, **filters))
    assert len(np.unique(ids)) > 3 and ids.max() < CODES


def test_windows_need_not_be_square_or_even(params):
    grid, model = (7, 9), model_of((5, 6))
    condition = condition_of("map", grid)
    ids = draw(model, params, condition, *nothing(grid))
    np.testing.assert_array_equal(ids, one_by_one(model, params, condition, *nothing(grid)))


def test_condition_tokens_may_see_one_another(params):
    condition, free = condition_of("map", (7, 7)), model_of(n_unmasked=16)
    ids = draw(free, params, condition, *nothing((7, 7)))
    np.testing.assert_array_equal(ids, one_by_one(free, params, condition, *nothing((7, 7))))
    assert not np.array_equal(ids, draw(model_of(), params, condition, *nothing((7, 7))))
    smaller = draw(free, params, condition[:, :3], *nothing((3, 7)))  # windows of 12 condition tokens
    expected = one_by_one(model_of(n_unmasked=12), params, condition[:, :3], *nothing((3, 7)))
    np.testing.assert_array_equal(smaller, expected)


@pytest.mark.parametrize("options", [{"together": 9}, {"keep_columns": False, "together": 2}], ids=str)
def test_the_schedule_changes_nothing_but_the_work(params, options):
    grid = (5, 13)
    condition, (given, keep) = condition_of("map", grid), completion_of(grid)
    schedule = schedule_for(model_of().prior, condition.shape, given.shape, **options)
    ids = draw(model_of(), params, condition, given, keep, schedule, top_k=9)
    np.testing.assert_array_equal(ids, draw(model_of(), params, condition, given, keep, top_k=9))


def test_a_grid_as_trained_is_drawn_as_by_the_plain_decoder(params):
    model, condition = model_of(), condition_of(1, (4, 4), 3)
    given, keep = completion_of((4, 4), 3)
    plain = whole
    job = job_of(condition, given, keep, top_k=7)
    np.testing.assert_array_equal(draw(model, params, condition, given, keep, top_k=7), plain(model, params, job))


@pytest.mark.parametrize("grid", [(20, 28), (18, 40)], ids=str)
@pytest.mark.parametrize("filters", [{"greedy": True}, {"top_k": 9}], ids=str)
def test_part_of_a_large_grid_is_there_already(params, grid, filters):
    condition, (given, keep) = condition_of("map", grid), completion_of(grid, share=0.1)
    keep[:, : grid[0] // 3] = True  # the top, and bits of the rest
    schedule = schedule_for(model_of().prior, condition.shape, given.shape, keep=keep)
    ids = draw(model_of(), params, condition, given, keep, schedule, **filters)
    np.testing.assert_array_equal(ids, one_by_one(model_of(), params, condition, given, keep, **filters))


def labels_of(h, w):
    return np.random.RandomState(8).randint(0, 3, (2, h, w))


SEGMENTATION = VQGAN(dataclasses.replace(FIRST, n_embed=22, content="segmentation", in_channels=3, out_channels=3))
KINDS = {
    "none": (NoCondition(), {}),
    "class_label": (ClassLabel(9), {"class_label": [3, 8]}),
    "coordinate": (Coordinate(22, factor=1, grid=(4, 4)), {}),
    "segmentation": (StageCondition("segmentation", SEGMENTATION, True, 4), {"segmentation": labels_of(5, 9)}),
    "boxes": (
        ObjectsCondition(False, 6, (), 16, 2, encode_crop=True, group_flag=False, more_flags=False),
        {"boxes": [{"category": 4, "box": [0.1, 0.2, 0.5, 0.5]}]},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_slides_under_every_kind_of_condition(params, kind):
    condition, given = KINDS[kind]
    model = dataclasses.replace(model_of(), condition=condition)
    init = lambda stage, channels: stage.init(jax.random.key(7), jnp.zeros((1, 4, 4, channels)))["params"]
    first = FirstStage(model.first_stage, {}, make_mesh(MeshConfig(data=1)))
    second = FirstStage(SEGMENTATION, jax.jit(init, static_argnums=(0, 1))(SEGMENTATION, 3), first.mesh)
    generator = Generator(model, params, first, second if kind == "segmentation" else None)
    ids = np.asarray(generator.sample_ids(2, size=(5, 9), seed=1, temperature=0.9, **given))
    batch = {"number": np.arange(2), **generator.parse_condition(2, (5, 9), **given)}
    tokens = np.asarray(model.condition.tokens(batch, 2, generator.stages))
    assert tokens.shape == ((2, 5, 9) if kind in ("coordinate", "segmentation") else (2, condition.length))
    np.testing.assert_array_equal(ids, one_by_one(model, params, tokens, *nothing((5, 9))))
    if kind == "segmentation":
        with pytest.raises(ValueError, match="segmentation is 5 x 9 pixels; expected 6 x 9"):
            generator.sample_ids(2, size=(6, 9), **given)


def test_kept_ids_stay_are_context_and_cost_nothing(params):
    grid, model = (7, 7), model_of()
    condition, (given, keep) = condition_of("map", grid), completion_of(grid)
    keep[:] = keep[:1]
    keep[:, :4, :5] = True
    expected = one_by_one(model, params, condition, given, keep)
    np.testing.assert_array_equal(expected[keep], given[keep])
    np.testing.assert_array_equal(draw(model, params, condition, given, keep), expected)
    everything = schedule_for(model.prior, condition.shape, given.shape)
    needed = schedule_for(model.prior, condition.shape, given.shape, keep=keep)
    programs = window._cache_size()
    np.testing.assert_array_equal(draw(model, params, condition, given, keep, needed), expected)
    np.testing.assert_array_equal(draw(model, params, condition, given, keep, everything), expected)
    assert window._cache_size() == programs + 1  # a schedule given or not are two programs, whatever is kept one
    drawn = lambda schedule: sum(int((p.ops.row[: p.bounds[-1]] < grid[0]).sum()) for p in schedule.passes)
    assert (drawn(everything), drawn(needed)) == (keep[0].size, (~keep[0]).sum())


def test_an_image_is_the_same_in_any_batch_and_on_any_number_of_devices(params):
    grid, model = (7, 7), model_of()
    condition, (given, keep) = condition_of("map", grid, 8), completion_of(grid, 8)
    together = draw(model, params, condition, given, keep)
    apart = [
        draw(model, params, condition[i : i + 2], given[i : i + 2], keep[i : i + 2], numbers=np.arange(i, i + 2))
        for i in (0, 2, 4, 6)
    ]
    np.testing.assert_array_equal(together, np.concatenate(apart))
    arrays = {"condition": condition, "given": given, "keep": keep, "numbers": np.arange(8)}
    sharded = put_whole(arrays, make_mesh(MeshConfig(data=8)))
    assert len(sharded["given"].sharding.device_set) == 8
    np.testing.assert_array_equal(together, draw(model, params, **sharded))


def test_windows_that_move_in_blocks(params):
    grid, model, condition = (7, 7), model_of(), condition_of("map", (7, 7))
    schedule = schedule_for(model.prior, condition.shape, (2, *grid), stride=2)
    exact = schedule_for(model.prior, condition.shape, (2, *grid))
    ids = draw(model, params, condition, *nothing(grid), schedule)
    np.testing.assert_array_equal(ids, one_by_one(model, params, condition, *nothing(grid), stride=2))
    whole = lambda schedule: schedule.passes[0].bounds[-1]  # windows read from their first position on
    assert (whole(exact), whole(schedule)) == (4 * 4, 3 * 3)
    assert cache_bytes(model.gpt.config, schedule, 1) < cache_bytes(model.gpt.config, exact, 1)


def test_the_window_lies_as_the_original_lays_it():
    for size in range(16, 60):
        for i in range(size):
            within = i if i <= 8 else 16 - (size - i) if size - i < 8 else 8
            assert corner(i, size, 16) == i - within


def read_in_order(schedule, keep):
    """Walk a schedule as the sampler does, and check that all it reads is there. Returns where tokens were drawn."""
    rows, (h, w), k = schedule.grid[0], schedule.window, schedule.condition
    drawn = keep.copy()
    held = {}  # entry -> (corner, positions held)
    for t in range(schedule.steps):
        for number, passes in enumerate(schedule.passes):
            for chunk in range(passes.bounds[t], passes.bounds[t + 1]):
                ops = [op for op in zip(*(field[chunk] for field in passes.ops)) if op[2] < schedule.entries - 1]
                assert len({op[2] for op in ops}) == len(ops) > 0
                for top, left, entry, start, at, row, column in ops:
                    place, positions = (top, left), held.get(entry, ((), 0))
                    assert start == 0 or (positions[0] == place and positions[1] >= start)
                    assert number or start == 0
                    assert start + passes.size <= schedule.length and 0 <= at < passes.size
                    seen = np.zeros(h * w, bool)
                    seen[: max(0, start + at + 1 - k)] = True
                    assert drawn[top : top + h, left : left + w].reshape(-1)[seen].all()
                    held[entry] = (place, start + at + 1)
                    if row < rows:
                        assert start + at + 1 == k + (row - top) * w + column - left
                for *_, row, column in ops:
                    if row < rows:
                        assert not drawn[row, column]
                        drawn[row, column] = True
    return drawn


@pytest.mark.parametrize("options", [{}, {"keep_columns": False}, {"stride": 3}, {"together": 1}], ids=str)
def test_schedules_read_only_what_is_there(options):
    for grid in [(16, 16), (26, 40), (20, 28), (18, 40), (9, 50), (40, 7), (5, 5), (3, 1)]:
        size = min(grid[0], 10), min(grid[1], 8)
        for k in (1, size[0] * size[1]):
            stride = min(options.get("stride", 1), max(1, min(size) // 2))
            for share in (0, 0.5, 0.95):
                keep = np.random.RandomState(2).rand(*grid) < share
                schedule = make_schedule(grid, size, k, keep=keep, **options | {"stride": stride})
                assert schedule.steps == size[1] * (grid[0] - 1) + grid[1]
                assert read_in_order(schedule, keep).all()


def test_a_megapixel_fits_a_small_accelerator():
    config = GPTConfig(vocab_size=1024, block_size=512, n_layer=24, n_head=16, n_embd=1024, dtype="bfloat16")
    schedule = make_schedule((52, 80), (16, 16), 256)
    assert schedule.steps == 896
    assert cache_bytes(config, schedule, 1) < 4 * 2**30
    assert cache_bytes(config, make_schedule((52, 80), (16, 16), 256, keep_columns=False), 1) < 2**30 / 2


@pytest.mark.parametrize(
    ("model", "condition", "given", "options", "message"),
    [
        (model_of(order="spiral_in"), (2, 6, 6), (2, 6, 6), {}, "'spiral_in', but only 'row_major'"),
        (model_of(), (2, 6, 5), (2, 6, 6), {}, "map of 6 x 5 tokens, but the image one of 6 x 6"),
        (model_of(), (3, 6, 6), (2, 6, 6), {}, "conditions for 3 images, but ids of 2"),
        (model_of(), (2, 6, 6), (2, 6, 6), {"stride": 3}, "stride=3, but windows of 4 x 4 tokens move by 1 to 2"),
        (model_of(), (2, 6, 6), (2, 6, 6), {"keep": np.zeros((6, 5), bool)}, r"keep has shape \(6, 5\)"),
        (model_of(n_unmasked=5), (2, 1), (2, 6, 6), {}, "n_unmasked=5 .* only the 1 of the condition"),
        (model_of(block_size=20), (2, 6, 6), (2, 6, 6), {}, "31 tokens does not fit transformer.block_size=20"),
        (model_of(), (2, 0), (2, 6, 6), {}, "at least one condition token"),
        (model_of(), (2, 1), (2, 0, 6), {}, r"\(0, 6\); expected"),
    ],
)
def test_errors_before_compiling(model, condition, given, options, message):
    with pytest.raises(ValueError, match=message):
        schedule_for(model.prior, condition, given, **options)


def test_a_schedule_for_another_grid_is_refused(params):
    schedule = schedule_for(model_of().prior, (2, 1), (2, 6, 7))
    with pytest.raises(ValueError, match=r"shape \(2, 6, 6\); this schedule is for grids of 6 x 7"):
        draw(model_of(), params, condition_of(1, (6, 6)), *nothing((6, 6)), schedule)
    with pytest.raises(ValueError, match="'z_curve'"):
        check_window(model_of(order="z_curve").prior, (6, 6))
