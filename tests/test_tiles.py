"""Decoding of large grids: the estimate of its memory, tiles, and how they meet."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY, untrained

from taming_jax.models.vqgan import VQGAN
from taming_jax.nn import conv
from taming_jax.sharding import MeshConfig, make_mesh
from taming_jax.trained import tiles
from taming_jax.trained.first_stage import FirstStage, pad_to_multiple

CONFIG = dataclasses.replace(TINY, ch_mult=(1, 1, 2))


@pytest.fixture(scope="module")
def first():
    model = VQGAN(CONFIG)
    params = untrained(model, jnp.zeros((1, 16, 16, 3)))
    return FirstStage(model, params, make_mesh(MeshConfig(data=1)))


@pytest.mark.parametrize(
    ("changes", "grid"),
    [
        ({}, (16, 24)),
        ({"ch": 32, "norm_groups": 32}, (12, 12)),
        ({"ch_mult": (1, 2, 2)}, (20, 20)),
        ({"ch_mult": (1,)}, (48, 48)),  # attention over 2304 places
        ({"attn_resolutions": (8,)}, (16, 16)),
        ({"dtype": "bfloat16"}, (16, 16)),
    ],
    ids=str,
)
def test_the_estimate_is_what_the_compiler_plans(changes, grid):
    config = dataclasses.replace(CONFIG, **changes)
    model = VQGAN(config)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    decode = jax.jit(lambda params, ids: model.apply({"params": params}, ids, method="decode_ids"))
    compiled = decode.lower(params, jax.ShapeDtypeStruct((1, *grid), jnp.int32)).compile()
    planned = compiled.memory_analysis().temp_size_in_bytes
    assert 0.5 * tiles.decode_bytes(config, grid) < planned < 1.1 * tiles.decode_bytes(config, grid)


def test_attention_over_some_queries_at_a_time_is_that_over_all(monkeypatch):
    attention, x = conv.SpatialAttention(4), jax.random.normal(jax.random.key(0), (2, 9, 11, 8))
    params = attention.init(jax.random.key(1), x)
    expected = attention.apply(params, x)
    for limit in (99 * 98, 99 * 7, 5):
        monkeypatch.setattr(conv, "ATTENDED", limit)
        np.testing.assert_allclose(attention.apply(params, x), expected, atol=1e-5)


def test_attention_takes_no_more_where_it_goes_by_parts():
    config = dataclasses.replace(CONFIG, ch_mult=(1,), ch=4)
    assert tiles.decode_bytes(config, (90, 90)) == 12 * 8100**2 <= tiles.decode_bytes(config, (300, 300))
    assert tiles.decode_bytes(config, (300, 300)) == 12 * conv.ATTENDED


def test_condition_maps_that_are_too_large_are_refused():
    needed = tiles.decode_bytes(CONFIG, (64, 64))
    tiles.check_reading(CONFIG, (64, 64), 2, 2 * needed)
    with pytest.raises(ValueError, match=r"reading 3 condition map\(s\) of 64 x 64 codes at once takes about \d+ MiB"):
        tiles.check_reading(CONFIG, (64, 64), 3, 2 * needed)


def test_a_tile_is_chosen_by_what_is_free():
    needed = tiles.decode_bytes(CONFIG, (20, 30))
    assert tiles.fitting_tile(CONFIG, (20, 30), needed) is None
    tile = tiles.fitting_tile(CONFIG, (20, 30), needed // 3)
    assert tile and tiles.decode_bytes(CONFIG, tile) <= needed // 3 and max(tile) < 30
    assert tiles.fitting_tile(CONFIG, (6, 300), needed)[0] == 6
    with pytest.raises(ValueError, match=r"20 x 30 codes takes about \d+ MiB, and even a tile of 4 x 4 more than"):
        tiles.fitting_tile(CONFIG, (20, 30), 1000)
    assert tiles.free_bytes(jax.devices()[0]) > 1 << 28


def test_corners_cover_the_grid_within_it():
    for grid in [(20, 33), (9, 8), (8, 8), (5, 40)]:
        for overlap in (0, 2, 5):
            tile = min(8, grid[0]), min(8, grid[1])
            seen = np.zeros(grid, int)
            for top, left in tiles.tile_corners(grid, tile, min(overlap, min(tile) - 1)):
                assert top + tile[0] <= grid[0] and left + tile[1] <= grid[1]
                seen[top : top + tile[0], left : left + tile[1]] += 1
            assert seen.min() == 1 or (seen.min() > 0 and overlap)


def test_tiles_of_a_local_decoder_make_the_whole_without_a_seam():
    ids = np.random.RandomState(0).randint(0, 9, (2, 13, 17))
    shapes = set()

    def decode(part):
        shapes.add(part.shape)
        return np.repeat(np.repeat(part, 2, axis=1), 2, axis=2)[..., None].astype(np.float32)

    images, seam = tiles.decode_tiles(decode, ids, 2, (6, 5), 2)
    np.testing.assert_allclose(images, decode(ids), atol=1e-5)
    assert seam < 1e-5 and shapes == {(2, 6, 5), ids.shape}
    shifted = tiles.decode_tiles(lambda part: decode(part) + part.mean(), ids, 2, (6, 5), 2)
    assert shifted[1] > 0.1
    with pytest.raises(ValueError, match="overlap=5, but tiles of 6 x 5 codes share 0 to 4"):
        tiles.decode_tiles(decode, ids, 2, (6, 5), 5)


def test_what_does_not_fit_is_decoded_in_parts(first, monkeypatch, caplog):
    ids = np.random.RandomState(1).randint(0, CONFIG.n_embed, (3, 12, 16)).astype(np.int32)
    whole = np.asarray(first.decode(ids))
    needed = tiles.decode_bytes(CONFIG, (12, 16))
    monkeypatch.setattr(tiles, "free_bytes", lambda device: needed)  # one image at a time
    np.testing.assert_allclose(first.decode(ids), whole, atol=1e-4)
    monkeypatch.setattr(tiles, "free_bytes", lambda device: needed // 2)
    with caplog.at_level("INFO"):
        tiled = np.asarray(first.decode(ids))
    assert "Decoded in tiles of" in caplog.text
    assert tiled.shape == whole.shape
    assert 0.5 < np.corrcoef(tiled.ravel(), whole.ravel())[0, 1] < 0.9999  # normalised by other means, and yet alike
    images, seam = first.decode_tiles(ids, (12, 16))
    np.testing.assert_allclose(images, whole, atol=1e-4)
    assert seam == 0


@pytest.mark.parametrize("sides", [(17, 30), (16, 16), (1, 3), (5, 1)])
def test_images_of_any_size_are_reconstructed(first, sides):
    images = np.random.default_rng(0).uniform(-1, 1, (2, *sides, 3)).astype(np.float32)
    whole = [-(-side // 4) * 4 for side in sides]
    found = first.reconstruct(images)
    assert found.shape == images.shape
    padded = images
    while padded.shape[1:3] != tuple(whole):  # reflections one after the other
        more = [min(max(n - 1, 1), side - n) for n, side in zip(padded.shape[1:3], whole)]
        parts = [(0, 0), (0, more[0]), (0, more[1]), (0, 0)]
        padded = np.pad(padded, parts, mode="edge" if 1 in padded.shape[1:3] else "reflect")
    if 1 not in sides:
        np.testing.assert_array_equal(pad_to_multiple(images, 4), padded)
    expected = first.decode(first.encode(pad_to_multiple(images, 4)))
    np.testing.assert_array_equal(found, expected[:, : sides[0], : sides[1]])


def test_encode_says_what_to_do_with_a_side_that_does_not_fit(first):
    with pytest.raises(
        ValueError, match=r"15 x 16 pixels .* multiples of 4, or continue it by reflection: .*\(images, 4\)"
    ):
        first.encode(np.zeros((1, 15, 16, 3), np.float32))
